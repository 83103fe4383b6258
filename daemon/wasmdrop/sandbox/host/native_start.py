"""Have a child of the fork server execute the native program."""

import os
from collections.abc import Sequence
from typing import Final

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.native_reports import is_ready
from wasmdrop.sandbox.wire import ZygoteRequest, encode_frame

_TRIAL: Final = ZygoteRequest(None)


async def execute_native(
    process: ChildProcess,
    request: ZygoteRequest = _TRIAL,
    descriptors: Sequence[int] = (),
) -> bool:
    """Have ``process`` execute the native program, by default only to try it.

    Return False if the module cannot be prepared. Raise ``SandboxError`` or ``OSError`` if the
    program does not work. ``descriptors``: those of the request.
    """
    await process.send(encode_frame(request), descriptors)
    process.is_native = True
    report = await process.receive()
    if report is None:
        status = os.waitstatus_to_exitcode(await process.exit_status)
        raise SandboxError(f"it ended before it was ready, with status {status}")
    return is_ready(report)


async def why_unusable(fork_server: ForkServer) -> str:
    """Return why the native program does not work on this host; nothing if it does."""
    process: ChildProcess | None = None
    try:
        process = await fork_server.take()
        await execute_native(process)
    except (OSError, SandboxError) as error:
        return str(error)
    finally:
        if process is not None:
            process.close()
    return ""
