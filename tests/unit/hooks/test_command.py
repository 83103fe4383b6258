"""The command: its input, its environment, its end."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from tests.support.daemon import wait_until
from tests.support.events import an_event
from wasmdrop.hooks.command import CommandHook
from wasmdrop.hooks.hook import Sent
from wasmdrop.jobs.journal.events import Event

HOSTILE = os.fsdecode(b'$(touch x)\n-rf " \xff/input-`a`.json')


def sh(script: str, timeout_seconds: float = 60) -> CommandHook:
    """Return a hook that runs a script of sh."""
    return CommandHook(("/bin/sh", "-c", script), timeout_seconds)


def failure_of(hook: CommandHook, event: Event | None = None) -> str:
    """Return the error of one attempt."""
    sent = send(hook, event)
    assert sent.taken == 0
    assert str(sent.failure).isprintable()
    return str(sent.failure)


def send(hook: CommandHook, event: Event | None = None) -> Sent:
    """Run the command for an event."""
    return asyncio.run(hook.send([event or an_event()], lambda: True))


def test_command_gets_the_marker_and_few_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with quotes, line breaks and bytes that are no UTF-8 arrives as it is."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/secret")
    monkeypatch.setenv("WASMDROP_ON_FINISHED", "/bin/sh")
    monkeypatch.setenv("TZ", "UTC")
    event = an_event(slot=HOSTILE)
    hook = sh(f"cat > {tmp_path}/in; env -0 > {tmp_path}/env; pwd > {tmp_path}/pwd")
    assert send(hook, event) == Sent(1)
    assert (tmp_path / "in").read_bytes() == event.marker
    pairs = (tmp_path / "env").read_bytes().rstrip(b"\0").split(b"\0")
    found = dict(pair.split(b"=", 1) for pair in pairs)
    assert found[b"WASMDROP_SLOT"] == os.fsencode(HOSTILE)
    assert found[b"WASMDROP_MARKER"] == os.fsencode(event.path)
    assert found[b"WASMDROP_JOB"] == b"job-1"
    assert (found[b"WASMDROP_STATUS"], found[b"WASMDROP_CODE"]) == (b"succeeded", b"ok")
    assert found[b"TZ"] == b"UTC"
    assert b"NOTIFY_SOCKET" not in found
    assert b"WASMDROP_ON_FINISHED" not in found
    assert (tmp_path / "pwd").read_text() == "/\n"
    assert not Path("/x").exists()


def test_command_that_does_not_read_a_large_marker_is_done() -> None:
    """The marker is larger than a pipe."""
    event = an_event()
    event = msgspec.structs.replace(event, marker=event.marker + b" " * (4 << 20))
    assert send(sh("exit 0"), event) == Sent(1)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "/bin/sh: exited with 3"),
        ("printf 'one\\ntwo\\033[2J\\377\\n' >&2; exit 3", r"exited with 3: two\x1b[2J\xff"),
        ("kill -9 $$", "was killed by signal SIGKILL"),
        ("head -c 10000000 /dev/zero >&2; exit 1", "exited with 1: "),
    ],
)
def test_command_that_fails_is_a_failure_with_its_last_line(script: str, reason: str) -> None:
    """However much it writes on standard error."""
    assert reason in failure_of(sh(script))


def test_command_that_is_missing_is_a_failure() -> None:
    """It may be installed later."""
    hook = CommandHook(("/nowhere/it",))
    assert failure_of(hook) == "/nowhere/it: can't be run: No such file or directory"


def test_command_at_its_timeout_is_killed_with_its_children(tmp_path: Path) -> None:
    """By the group, so that none goes on."""
    script = f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/own; wait"
    assert "did not end in 1 s, and was killed" in failure_of(sh(script, timeout_seconds=1))
    pids = [int((tmp_path / name).read_text()) for name in ("child", "own")]
    wait_until(lambda: not any(map(is_running, pids)), "the end of both")


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_command_is_done_when_it_ends_though_a_child_holds_its_streams(tmp_path: Path) -> None:
    """The child goes on: the operator may want that."""
    assert send(sh(f"sleep 1000 2>&1 & echo $! > {tmp_path}/child; exit 0")) == Sent(1)
    pid = int((tmp_path / "child").read_text())
    assert is_running(pid)
    os.kill(pid, 9)


def test_command_of_a_daemon_that_stops_is_killed(tmp_path: Path) -> None:
    """The next daemon runs it again."""

    async def use() -> None:
        hook = sh(f"echo $$ > {tmp_path}/own; exec sleep 1000")
        sending = asyncio.create_task(hook.send([an_event()], lambda: True))
        path = tmp_path / "own"
        while not path.exists() or not path.read_text():  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert not is_running(int(path.read_text()))

    asyncio.run(use())
