"""A fork server whose children lie: they are confined as usual, but report anything.

They stand for children that their guests have taken over. The entry that a child is to call, or the
bytes of the module that it is to compile, selects the lie.
"""

import os
import struct
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

from wasmdrop.sandbox.guest import fork_server
from wasmdrop.sandbox.guest.compiler import compile_module
from wasmdrop.sandbox.guest.core_module import ModuleRun, run_module
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.wire import (
    CompileReport,
    CompileRequest,
    Invocation,
    RunReport,
)

#: In a module: the compiler lies. The name of the lie follows.
COMPILE_MARK: Final = b"lie:"

_LINK_FD: Final = 3
_FRAME: Final = struct.Struct("<II")


def main(control_fd: int, uid: int, gid: int) -> NoReturn:
    """Serve like the real one, with children that lie if they are asked to."""
    vars(fork_server).update(run_module=_run, compile_module=_compile)
    fork_server.main(control_fd, uid, gid)


def _run(run: ModuleRun, invocation: Invocation, *rest: Any) -> RunReport:
    if invocation.entry in LIES:
        LIES[invocation.entry]()
        os._exit(0)
    return run_module(run, invocation, *rest)


def _compile(
    request: CompileRequest, engine: Engine, module_fd: int, code_fd: int
) -> CompileReport:
    _before, mark, name = os.pread(module_fd, 4096, 0).partition(COMPILE_MARK)
    if mark:
        LIES[name.decode()]()
        os._exit(0)
    return compile_module(request, engine, module_fd, code_fd)


def _send(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_LINK_FD, view) :]


def _frame(header: bytes) -> bytes:
    return _FRAME.pack(len(header), 0) + header


def _says(header: bytes) -> Callable[[], None]:
    return lambda: _send(_frame(header))


def _live_on() -> None:
    threading.Event().wait()


def _report_and_live_on() -> None:
    _send(_frame(b'{"code":"trap","message":"told"}'))
    _live_on()


def _hang_up_and_live_on() -> None:
    os.close(_LINK_FD)
    _live_on()


def _half_and_live_on() -> None:
    _send(_frame(b'{"code":"trap"}')[:12])
    _live_on()


def _send_without_end() -> None:
    _send(_FRAME.pack(1 << 24, 0))
    while True:
        _send(b" " * (1 << 20))


def _two_reports() -> None:
    _send(_frame(b'{"code":"trap","message":"first"}') + _frame(b'{"code":"ok","results":[1]}'))


def _byte_by_byte() -> None:
    for byte in _frame(b'{"code":"trap","message":"slow"}'):
        _send(bytes([byte]))


def _overwrite_streams() -> None:
    for fd in (4, 5, 6):
        try:
            os.pwrite(fd, b"overwritten", 0)
        except OSError:
            continue
    _send(_frame(b'{"code":"trap","message":"wrote"}'))


_TEN_MILLION_DIGITS: Final = b'{"code":"ok","results":[' + b"1," * 4_000_000 + b"1]}"

LIES: Final[dict[str, Callable[[], None]]] = {
    "frame-of-four-gibibytes": lambda: _send(_FRAME.pack(0xFFFFFFFF, 0)),
    "frame-just-too-large": lambda: _send(_FRAME.pack((1 << 24) + 1, 0)),
    "frame-with-raw-bytes": lambda: _send(_FRAME.pack(2, 2) + b"{}xx"),
    "frame-without-end": _send_without_end,
    "half-a-frame": lambda: _send(_frame(b'{"code":"ok"}')[:10]),
    "half-a-frame-and-lives-on": _half_and_live_on,
    "nothing-and-exits": lambda: None,
    "hangs-up-and-lives-on": _hang_up_and_live_on,
    "reports-and-lives-on": _report_and_live_on,
    "two-reports": _two_reports,
    "byte-by-byte": _byte_by_byte,
    "empty-header": _says(b""),
    "garbage": _says(bytes(range(128, 256))),
    "no-utf-8": _says(b'{"code":"trap","message":"\xff\xfe"}'),
    "no-utf-8-in-a-code": _says(b'{"code":"\xff"}'),
    "half-a-surrogate": _says(b'{"code":"trap","message":"\\ud800"}'),
    "nested": _says(b'{"code":"ok","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "wrong-type": _says(b'{"code":7}'),
    "a-list": _says(b"[]"),
    "nothing-said": _says(b"{}"),
    "unknown-code": _says(b'{"code":"splendid"}'),
    "the-daemons-code": _says(b'{"code":"timeout"}'),
    "a-producers-code": _says(b'{"code":"module-missing"}'),
    "results-of-another": _says(b'{"code":"ok","results":[1,2,3]}'),
    "results-too-wide": _says(b'{"code":"ok","results":[18446744073709551616]}'),
    "results-below-nothing": _says(b'{"code":"ok","results":[-1]}'),
    "results-of-a-thousand-digits": _says(b'{"code":"ok","results":[' + b"9" * 1000 + b"]}"),
    "results-by-the-million": _says(_TEN_MILLION_DIGITS),
    "exit-code-below-nothing": _says(b'{"code":"exit","exit_code":-1}'),
    "exit-code-too-wide": _says(b'{"code":"exit","exit_code":4294967296}'),
    "exit-code-of-a-function": _says(b'{"code":"ok","results":[1],"exit_code":0}'),
    "memory-below-nothing": _says(b'{"code":"trap","memory_bytes":-1}'),
    "memory-beyond-measure": _says(b'{"code":"trap","memory_bytes":' + b"9" * 30 + b"}"),
    "time-beyond-measure": _says(b'{"code":"trap","run_seconds":1e300}'),
    "time-below-nothing": _says(b'{"code":"trap","run_seconds":-5}'),
    "message-of-megabytes": _says(
        b'{"code":"trap","message":"' + b"\\u001b[2J\\n" * 1_000_000 + b'"}'
    ),
    "machine-code-stale": _says(b'{"code":"internal","stale_code":true}'),
    "compiled-by-another-report": _says(b'{"code":"ok","results":[1]}'),
    "compiled-nothing": _says(
        b'{"summary":{"kind":"library","functions":{"seven":{"params":[],"results":["i32"]}},'
        b'"other_exports":{},"imports":[],"memory_min_bytes":0}}'
    ),
    "overwrites-what-it-was-given": _overwrite_streams,
}
