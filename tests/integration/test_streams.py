"""Standard streams that are closed, full, or not read: of the daemon, and of every command."""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.disks import fill
from tests.support.fib import with_fib
from wasmdrop.cli.commands import COMMANDS

PAGE_BYTES = 4096

#: Redirections of a shell; ``{}`` is a FIFO whose reader has gone, or a full one.
BROKEN = {
    "closed": "{0}>&-",
    "full-device": "{0}>/dev/full",
    "reader-gone": "{0}>{1}/gone",
    "nobody-reads": "{0}>{1}/full",
}
NOTHING_IS_OPEN = "<&- >&- 2>&-"


@contextlib.contextmanager
def fifos(base: Path) -> Iterator[int]:
    """Make the two FIFOs; give the reading end of the full one."""
    for name in ("gone", "full"):
        os.mkfifo(base / name)
    # Each is open for writing here, so that a shell can open it, too.
    gone = os.open(base / "gone", os.O_RDWR)
    full = os.open(base / "full", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(full, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
    os.write(full, b"x" * PAGE_BYTES)
    writer = os.open(base / "gone", os.O_WRONLY)
    os.close(gone)
    try:
        yield full
    finally:
        os.close(writer)
        os.close(full)


def redirected(daemon: Daemon, base: Path, *redirections: str) -> None:
    """Start the daemon with these redirections."""
    words = " ".join(redirections).replace("{1}", str(base))
    if "/gone" in words:  # opening it for writing would wait for a reader
        words = f"3<>{base}/gone {words} 3<&-"
    daemon.prefix = ("sh", "-c", f'exec "$@" {words}', "sh")


@contextlib.contextmanager
def launched(daemon: Daemon) -> Iterator[None]:
    """Launch it for a block, and stop it; it may have no log that says it is ready."""
    daemon.launch()
    assert daemon.process is not None
    try:
        yield
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def works(daemon: Daemon, *names: str) -> None:
    """Let it run jobs, one after the other."""
    for number, name in enumerate(names, start=5):
        assert daemon.submit(name, json.dumps({"entry": "fib", "args": [number]}))["code"] == "ok"


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("streams", ["2", "1", "1 2"])
def test_daemon_with_a_broken_stream_runs_jobs_and_stops(
    tmp_path: Path, how: str, streams: str
) -> None:
    """Standard error, standard output, or both: neither its start nor its jobs need them."""
    daemon = with_fib(tmp_path / "daemon")
    with fifos(tmp_path):
        redirected(daemon, tmp_path, *(BROKEN[how].replace("{0}", it) for it in streams.split()))
        with launched(daemon):
            works(daemon, "input.json", "input-a.json", "input.json")
            if streams == "1" and how in {"full-device", "reader-gone"}:
                wait_until(lambda: daemon.events("result-lines-stopped"), "the warning")
    if streams == "1":
        assert len(daemon.events("result-lines-stopped")) == (how in {"full-device", "reader-gone"})


def test_daemon_without_streams_opens_no_file_at_their_numbers(tmp_path: Path) -> None:
    """Printed text would otherwise go into the journal, or a result."""
    daemon = with_fib(tmp_path / "daemon")
    redirected(daemon, tmp_path, NOTHING_IS_OPEN)
    with launched(daemon):
        works(daemon, "input.json", "input-a.json")
        assert daemon.process is not None
        for pid in (daemon.process.pid, *daemon.children()):
            files = {name: target for name, target in open_files(pid).items() if name in set("012")}
            # A child may have ended since it was listed.
            assert files in ({}, dict.fromkeys("012", "/dev/null"))


def open_files(pid: int) -> dict[str, str]:
    """Return the targets of a process's descriptors; none if it has ended."""
    directory = Path(f"/proc/{pid}/fd")
    try:
        return {path.name: str(path.readlink()) for path in directory.iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return {}


@pytest.mark.parametrize("stream", ["1", "2"])
def test_lines_that_are_not_read_wait_and_come_whole(tmp_path: Path, stream: str) -> None:
    """In their order, when they are read; nothing in the daemon waits for that."""
    daemon = with_fib(tmp_path / "daemon")
    names = [f"input-{number}.json" for number in range(8)]
    read = b""
    with fifos(tmp_path) as full:
        redirected(daemon, tmp_path, BROKEN["nobody-reads"].replace("{0}", stream))
        wanted = b'"results"' if stream == "1" else b'"job-finished"'

        def look() -> bool:
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += os.read(full, PAGE_BYTES)
            return read.count(wanted) == len(names)

        with launched(daemon):
            works(daemon, *names)
            wait_until(look, "all lines")
    lines = [json.loads(line) for line in read.lstrip(b"x").splitlines() if wanted in line]
    if stream == "1":
        assert [line["args"] for line in lines] == [[number] for number in range(5, 13)]
    else:
        assert [line["slot"] for line in lines] == names


@pytest.mark.parametrize("stream", ["1", "2"])
def test_lines_after_a_full_disk_go_on_when_there_is_room(
    tmp_path: Path, small: Path, stream: str
) -> None:
    """With the number of those that were dropped; a line that was torn is ended."""
    daemon = with_fib(tmp_path / "daemon")
    fill(small)
    redirected(daemon, tmp_path, f"{stream}>>{small}/lines")
    event = "result-lines-dropped" if stream == "1" else "log-lines-dropped"

    def told() -> list[dict[str, str]]:
        text = daemon.log_text() if stream == "1" else (small / "lines").read_text()
        lines = [line for line in text.splitlines() if event in line]
        return [json.loads(line) for line in lines]

    with launched(daemon):
        works(daemon, "input.json", "input-a.json")
        if stream == "1":
            wait_until(lambda: daemon.events("result-lines-stopped"), "the warning")
        (small / "filler").unlink()
        works(daemon, "input-b.json")
        total = wait_until(told, "the count")[-1]["total"]
    lines = [json.loads(line) for line in (small / "lines").read_text().splitlines() if line]
    if stream == "1":
        assert int(total) + len(lines) == 3
        assert lines[-1]["args"] == [5]
    else:
        assert int(total) > 0
        assert lines[-1]["event"] == "stopped"


@pytest.mark.parametrize("how", ["closed", "full-device"])
def test_daemon_that_can_not_print_has_its_exit_status(tmp_path: Path, how: str) -> None:
    """Wrong settings are status 2, whether the message can be printed or not."""
    daemon = with_fib(tmp_path / "daemon")
    daemon.environment["WASMDROP_WORKERS"] = "many"
    redirected(daemon, tmp_path, BROKEN[how].replace("{0}", "2"))
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(60) == 2


#: Calls of each command, and of the program without one (``""``), that print something.
CALLS = {
    "": ["--help", "-V"],
    "serve": ["serve --help"],
    "work": ["work --help"],
    "run": ["run"],
    "status": ["status", "status --json"],
    "submit": [
        "submit --entry fib --args [5]",
        "submit --entry fib --args [5] --wait",
        "submit --entry fib --args [5] --wait --json",
        "submit --entry nothing --wait",
    ],
    "jobs": ["jobs", "jobs --json", "jobs --follow"],
    "show": ["show {job}", "show --json {job}"],
    "cancel": ["cancel --help"],
    "retry": ["retry {job}"],
    "inspect": ["inspect {module}", "inspect --json {module}", "inspect --template {module}"],
    "fetch": ["fetch --help"],
    "cid": ["cid {module}"],
    "schema": ["schema", "schema marker"],
    "verify": ["verify --help"],
    "key": ["key new {new}", "key --help"],
    "receipt": ["receipt merge --help"],
    "fleet": ["fleet config --help"],
    "init": ["init {new}"],
    "config": ["config", "config --json"],
    "doctor": ["doctor", "doctor --json"],
    "completion": ["completion fish"],
    "help": ["help", "help key new"],
}
every_call = pytest.mark.parametrize(
    "command", [call for calls in CALLS.values() for call in calls]
)


def test_calls_are_those_of_every_command() -> None:
    """A new command gets its calls here."""
    assert set(CALLS) - {""} == set(COMMANDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """Give a daemon that has run a job, and that job's id."""
    daemon = with_fib(tmp_path_factory.mktemp("served"))
    with daemon.running():
        marker = daemon.submit("input.json", '{"entry":"fib","args":[7]}')
        yield daemon, marker["job"]


def called(
    served: tuple[Daemon, str], base: Path, command: str, redirection: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection."""
    daemon, job = served
    names = {"job": job, "module": daemon.wasm / "module.wasm", "new": base / secrets.token_hex(8)}
    words = [word.format(**names) for word in command.split()]
    variables = {}
    if command == "run":
        (base / "out").mkdir(exist_ok=True)
        variables = {
            "OUTPUT_PATH": str(base / "out" / "result.txt"),
            "INPUT_PATH": str(base / "input.json"),
            "WASMDROP_SHARED_DIR": str(base / "out"),
            "WASMDROP_STATE_DIR": str(base / "state"),
            "ENTRY": "fib",
            "ARG_0": "5",
        }
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "wasmdrop", *words],
        env=daemon.environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@every_call
def test_command_without_an_output_says_so_and_ends_with_4(
    served: tuple[Daemon, str], tmp_path: Path, command: str
) -> None:
    """One line, no traceback, and no status that says that the job failed."""
    for redirection, reason in (
        (">&-", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
        *[("1</dev/null", "Bad file descriptor")] * (command == "jobs"),
    ):
        done = called(served, tmp_path, command, redirection)
        expected = f"wasmdrop: standard output can't be written: {reason}\n"
        assert (done.returncode, done.stderr) == (4, expected)
    assert called(served, tmp_path, command, NOTHING_IS_OPEN).returncode == 4


@every_call
def test_command_whose_reader_has_gone_is_quiet_and_ends_with_141(
    served: tuple[Daemon, str], tmp_path: Path, command: str
) -> None:
    """As a shell reports a program that SIGPIPE ended."""
    with fifos(tmp_path):
        done = called(served, tmp_path, command, f"3<>{tmp_path}/gone >{tmp_path}/gone 3<&-")
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("config --workers many", 2),
        ("show no-such-job", 2),
        ("inspect /dev/null", 1),
        ("submit --args {{", 2),
        ("submit -", 2),
        ("nothing", 2),
        ("", 2),
        ("key", 2),
        ("jobs --stat open", 2),
        ("cid /none", 1),
    ],
)
def test_command_that_can_not_print_has_its_exit_status(
    served: tuple[Daemon, str], tmp_path: Path, command: str, status: int
) -> None:
    """Standard error closed, full, or without a reader changes nothing; nor does closed input."""
    with fifos(tmp_path):
        for redirection in (
            "2>&-",
            "2>/dev/full",
            f"3<>{tmp_path}/gone 2>{tmp_path}/gone 3<&-",
            NOTHING_IS_OPEN,
        ):
            assert called(served, tmp_path, command, f"<&- {redirection}").returncode == status


def test_command_on_a_non_blocking_pipe_waits_for_its_reader(served: tuple[Daemon, str]) -> None:
    """Some programs make the pipes that they share non-blocking."""
    daemon, _job = served
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
    command = [sys.executable, "-m", "wasmdrop", "schema", "marker"]
    with subprocess.Popen(
        command, env=daemon.environment, stdout=writing, stderr=subprocess.PIPE
    ) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert json.loads(pipe.read())
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
