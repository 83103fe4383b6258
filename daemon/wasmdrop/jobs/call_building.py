"""Fit an input to a compiled module: check its files, and build the call for the sandbox.

Pure. The runner uses it for each job, ``wasmdrop verify`` to run a job again.
"""

from wasmdrop.jobs.entrypoint import Plan
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.input_values import content_bytes
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import PROGRAM_NAME


def check_files(spec: InputSpec, summary: ModuleSummary, limits: Limits) -> None:
    """Refuse files that the module can't open, and files beyond its disk quota.

    Raises ``RefusedError`` (``invalid-input``).
    """
    for key, items in (("files", spec.files), ("grants", spec.grants)):
        if items and not summary.wants_files:
            raise RefusedError(
                Code.INVALID_INPUT,
                f"$.{key}: the module imports no function of WASI that could open them",
            )
    size_bytes = sum(len(content_bytes(content)) for content in spec.files.values())
    if size_bytes > limits.disk_bytes:
        raise RefusedError(
            Code.INVALID_INPUT,
            f"$.files: {size_bytes} bytes are more than the job's directory may hold"
            f" ({limits.disk_bytes})",
        )


def build_call(chosen: Plan, spec: InputSpec, grants: dict[str, str]) -> Call:
    """Return the call of an input; ``grants`` are paths of directories by name."""
    return Call(
        entry=chosen.entry,
        signature=chosen.signature,
        args=chosen.bits,
        argv=(PROGRAM_NAME, *(chosen.argv or ())),
        is_command=chosen.argv is not None,
        component=chosen.component,
        env=dict(spec.env or {}),
        stdin=b"" if spec.stdin is None else content_bytes(spec.stdin),
        files={path: content_bytes(content) for path, content in spec.files.items()},
        grants=grants,
    )
