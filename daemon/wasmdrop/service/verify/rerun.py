"""Run the job of a claim again, in the same sandbox as the daemon.

The state directory is a temporary one, removed at the end, also if a signal ends the run. There is
no journal, no delivery, and no access to the slot.
"""

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from wasmdrop.jobs.call_building import build_call, check_files
from wasmdrop.jobs.entrypoint import plan
from wasmdrop.jobs.result_files import encode_result_files
from wasmdrop.protocol.errors import RefusedError, SandboxError
from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS, Outcome
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.verify.artifacts import Artifact
from wasmdrop.service.verify.derivation import Derived, asked_limits
from wasmdrop.service.verify.verdict import DocumentError
from wasmdrop.settings import Settings

_PREFIX = "wasmdrop-verify-"


class Rerun(msgspec.Struct, frozen=True):
    """How the job came out."""

    entry: str | None
    args: tuple[Any, ...]
    """Entry and arguments as the results echo them."""
    outcome: Outcome
    files: dict[str, bytes]
    """The result files by suffix, such as ``.json``."""


async def run_again(settings: Settings, module: Artifact, sha256: str, derived: Derived) -> Rerun:
    """Run the job with the module, which must have this digest.

    Raises ``SandboxError`` if the sandbox fails or a signal stops the run, ``SettingsError`` if
    jobs can't be confined here, ``KeyboardInterrupt`` for SIGINT.
    """
    shutdown = Shutdown()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as state_dir:
        # It signs nothing, so it needs none of the safety of a key.
        own = msgspec.structs.replace(settings, state_dir=Path(state_dir), signing_key=None)
        running = asyncio.create_task(_run(own, module, sha256, derived))
        asked = asyncio.create_task(shutdown.asked.wait())
        await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
            if shutdown.reason == signal.SIGINT.name:
                raise KeyboardInterrupt
            raise SandboxError(f"stopped by {shutdown.reason} before the job was finished")
        return running.result()


async def _run(settings: Settings, module: Artifact, sha256: str, derived: Derived) -> Rerun:
    async with open_local_sandbox(settings, idle=1) as (executor, cache):
        # Copied and hashed in one step: the file may change after it was found.
        if cache.ingest(module.fd) != sha256:
            raise DocumentError(f"{module.path}: it changed while it was read")
        return await _call(settings, executor, sha256, derived)


async def _call(
    settings: Settings, executor: LocalExecutor, sha256: str, derived: Derived
) -> Rerun:
    spec, limits = derived.spec, derived.limits
    # Until there is a plan, the results echo the input.
    entry, args = spec.entry, spec.args or ()
    try:
        asked_limits(spec, limits)
        options = EngineOptions(limits.fuel is not None, spec.deterministic)
        compiled = await executor.compile(sha256, options)
        check_files(spec, compiled.summary, limits)
        chosen = plan(compiled.summary, derived.entry, derived.args, settings)
        entry, args = chosen.entry, chosen.args
        outcome = await executor.run(compiled, build_call(chosen, spec, {}), limits)
    except RefusedError as refusal:
        outcome = Outcome(code=refusal.code, message=bounded_text(refusal.message))
    files = encode_result_files(entry, list(args), outcome, DETERMINISTIC_CLOCK_NS)
    return Rerun(entry, args, outcome, files)
