"""A hook that runs a command for each event, as the daemon's user and outside of the sandbox.

The command has no shell, so nothing in a name or a message can become a part of it. It gets the
marker on its standard input, and few variables: neither the daemon's settings nor its sockets.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from wasmdrop.hooks.cloud_event import read_end
from wasmdrop.hooks.hook import HookFailedError, Sent
from wasmdrop.jobs.journal.events import Event
from wasmdrop.protocol.text import escaped, one_line
from wasmdrop.system.signals import name_of as signal_name

_AT_ONCE: Final = 4

#: How long a command may take, in seconds.
TIMEOUT_SECONDS: Final = 60.0

#: How long a killed command may take to end, in seconds. One that hangs on a mount never ends.
_KILL_SECONDS: Final = 5.0

#: Variables of the daemon that a command gets if they are set.
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")

#: The part of standard error that is read, and the part that is in the log.
_READ_BYTES: Final = 4096
_MAX_SHOWN_CHARACTERS: Final = 200


class CommandHook:
    """Runs ``words`` for each event: the absolute path of a program, and its arguments."""

    at_once = _AT_ONCE
    most_events = 1

    def __init__(self, words: tuple[str, ...], timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._words = words
        self._timeout_seconds = timeout_seconds
        self._inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}

    async def send(self, events: Sequence[Event], may_go_on: Callable[[], bool]) -> Sent:
        """Run the command for the first event; exit status 0 means that it has taken it."""
        del may_go_on
        try:
            await self._run(events[0])
        except HookFailedError as error:
            return Sent(0, error)
        return Sent(1)

    async def _run(self, event: Event) -> None:
        end = read_end(event.marker)
        variables = self._inherited | {
            "WASMDROP_JOB": event.job_id,
            "WASMDROP_SLOT": event.slot,
            "WASMDROP_CODE": end.code,
            "WASMDROP_STATUS": end.status,
            "WASMDROP_MARKER": event.path,
        }
        program = escaped(self._words[0])
        try:
            async with _standard_error() as (stderr, written):
                process = self._start(event.marker, variables, stderr)
                has_ended = await _end_of(process, self._timeout_seconds)
        except OSError as error:
            raise HookFailedError(f"{program}: can't be run: {error.strerror}") from None
        status = process.poll()
        if not has_ended:
            raise HookFailedError(
                f"{program}: did not end in {self._timeout_seconds:g} s, and was killed"
            )
        if status != 0:
            raise HookFailedError(f"{program}: {_describe(status, bytes(written))}")

    def _start(
        self, marker: bytes, variables: dict[str, str], stderr: int
    ) -> "subprocess.Popen[bytes]":
        # A file in memory, unlike a pipe, needs no reader.
        stdin = os.memfd_create("marker")
        try:
            with open(stdin, "wb", closefd=False) as file:
                file.write(marker)
            os.lseek(stdin, 0, os.SEEK_SET)
            return subprocess.Popen(
                self._words,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd="/",
                env=variables,
                start_new_session=True,
            )
        finally:
            os.close(stdin)


@contextlib.asynccontextmanager
async def _standard_error() -> AsyncIterator[tuple[int, bytearray]]:
    """Give a pipe to write to, and its first bytes as they arrive; the rest is discarded."""
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writer, True)
    first = bytearray()

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(reader, _READ_BYTES)
            first.extend(data[: _READ_BYTES - len(first)])
            if not data:
                loop.remove_reader(reader)

    loop.add_reader(reader, read)
    try:
        yield writer, first
        read()  # the end of the process may have been noticed first
    finally:
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)


async def _end_of(process: "subprocess.Popen[bytes]", timeout_seconds: float) -> bool:
    """Wait for the end of a process; after a while kill its group. Return whether it ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        raise

    def note_end() -> None:
        loop.remove_reader(pidfd)
        ended.set()

    loop.add_reader(pidfd, note_end)
    try:
        async with asyncio.timeout(timeout_seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        if not ended.is_set():
            # The process is not reaped yet, so its id still names its group.
            with contextlib.suppress(PermissionError):  # it runs as another user now, as by sudo
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_SECONDS):
                    await ended.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.poll()  # reaps it
    return True


def _describe(status: int | None, written: bytes) -> str:
    """Return how a command failed, with the last line that was read of its standard error."""
    if status is not None and status < 0:
        how = f"was killed by signal {signal_name(-status)}"
    else:
        how = f"exited with {status}"
    lines = written.decode("utf-8", "backslashreplace").strip().splitlines()
    return f"{how}: {one_line(lines[-1], _MAX_SHOWN_CHARACTERS)}" if lines else how
