"""Drops without events: a queue that overflows, watches that run out, mounts that raise none."""

import contextlib
import errno
import json
import platform
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.doctor import LAUNCHER, NUMBERS
from tests.support.fib import FIB, with_fib
from tests.support.inotify import kernel_setting
from tests.support.require import require_fuse, require_root


def test_inotify_queue_that_overflows_loses_no_drop(tmp_path: Path) -> None:
    """The next regular scan would come in an hour."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_RESCAN_SEC="3600")
    names = [f"input-{number}.json" for number in range(100)]
    with kernel_setting("max_queued_events", 16):
        daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    for name in names:
        drop(daemon.shared / name, {"entry": "fib", "args": [12]})
    daemon.process.send_signal(signal.SIGCONT)
    for name in names:
        wait_until(lambda name=name: daemon.marker(name), name)  # type: ignore[misc]
    daemon.until_logged("events-lost")
    assert daemon.stop() == 0
    assert len(daemon.lines()) == len(names)
    # watchdog reports it, too, as an event in the daemon's log.
    assert all(json.loads(line)["event"] for line in daemon.log_text().splitlines())
    (told,) = daemon.events("library-logged")[:1]
    assert (told["logger"], told["level"]) == ("watchdog.observers.inotify_c", "warning")
    assert told["message"] == "Inotify queue overflowed; filesystem events were lost"


def test_inotify_watches_that_run_out_lead_to_polling_and_a_warning(tmp_path: Path) -> None:
    """The warning names the setting that is too low."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_POLL_SEC="0.1", WASMDROP_RESCAN_SEC="3600")
    with kernel_setting("max_user_watches", 1):
        daemon.start()
    assert "fs.inotify.max_user_watches" in daemon.events("polling-started")[0]["reason"]
    assert daemon.submit("input.json", '{"entry":"fib","args":[12]}')["code"] == "ok"
    assert daemon.stop() == 0


class LimitedUser:
    """A user namespace of the daemon's own, with its own limits of inotify."""

    def __init__(self, daemon: Daemon, instances: int) -> None:
        self._daemon = daemon
        script = f'echo {instances} > {self._SETTING} && exec "$@"'
        daemon.prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
        # Its only user is root: there is none to run jobs as.
        daemon.environment["WASMDROP_SANDBOX"] = "best-effort"

    _SETTING = "/proc/sys/user/max_inotify_instances"

    def allow(self, instances: int) -> None:
        """Change the limit."""
        assert self._daemon.process is not None
        inside = ("nsenter", f"--target={self._daemon.process.pid}", "--user")
        script = f"echo {instances} > {self._SETTING}"
        subprocess.run([*inside, "--preserve-credentials", "sh", "-c", script], check=True)

    def instances(self) -> int:
        """Return the number of instances that the daemon has open."""
        return len(self._watches())

    def watches(self) -> int:
        """Return the number of directories that the daemon watches."""
        return sum(self._watches())

    def _watches(self) -> list[int]:
        """Return the number of watches of each instance."""
        assert self._daemon.process is not None
        found = []
        for link in Path(f"/proc/{self._daemon.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if str(link.readlink()) == "anon_inode:inotify":
                    info = link.parent.with_name("fdinfo") / link.name
                    found.append(info.read_text().count("inotify wd:"))
        return found


def test_inotify_instances_that_run_out_lead_to_polling_until_one_is_free(
    tmp_path: Path,
) -> None:
    """In existing directories and in new ones."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_POLL_SEC="0.1", WASMDROP_RESCAN_SEC="0.5")
    (daemon.shared / "before").mkdir()
    user = LimitedUser(daemon, instances=0)
    with daemon.running():
        assert user.instances() == 0
        (polling,) = daemon.events("polling-started")
        assert polling["level"] == "warning"
        assert "fs.inotify.max_user_instances" in polling["reason"]
        assert daemon.submit("input.json", {"entry": "fib", "args": [12]})["code"] == "ok"
        assert daemon.submit("new/input.json", {"entry": "fib", "args": [3]})["code"] == "ok"
        user.allow(1)
        wait_until(lambda: daemon.events("polling-stopped"), "the end of polling")
        assert user.instances() == 1
        for name in ("input.json", "before/input.json", "new/input.json", "newer/input.json"):
            assert daemon.submit(name, {"entry": "fib", "args": [7]})["code"] == "ok"
        wait_until(lambda: user.watches() == 5, "a watch of each directory")
        assert len(daemon.events("polling-started")) == 1


def test_directory_that_is_replaced_while_no_instance_is_free_is_polled(tmp_path: Path) -> None:
    """It is watched, too, when one is free."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_POLL_SEC="0.1", WASMDROP_RESCAN_SEC="0.5")
    user = LimitedUser(daemon, instances=0)
    with daemon.running():
        daemon.shared.rename(tmp_path / "old")
        daemon.shared.mkdir()
        wait_until(lambda: daemon.events("directory-replaced"), "the new directory to be seen")
        assert daemon.submit("input.json", {"entry": "fib", "args": [12]})["code"] == "ok"
        user.allow(1)
        wait_until(lambda: daemon.events("polling-stopped"), "the end of polling")
        assert daemon.submit("input-2.json", {"entry": "fib", "args": [12]})["code"] == "ok"


def test_polling_opens_no_inotify_instance(tmp_path: Path) -> None:
    """So that it works if none is free, and takes none from others."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_WATCH="poll", WASMDROP_POLL_SEC="0.1")
    user = LimitedUser(daemon, instances=0)
    with daemon.running():
        user.allow(1)
        assert daemon.submit("input.json", {"entry": "fib", "args": [12]})["code"] == "ok"
        assert user.instances() == 0
        assert not daemon.events("polling-started")


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSYS, "this kernel has no inotify"), (errno.EPERM, "a filter of system calls")],
)
def test_kernel_without_inotify_leads_to_polling(tmp_path: Path, number: int, word: str) -> None:
    """Or a container that filters the call."""
    daemon = with_fib(tmp_path, WASMDROP_POLL_SEC="0.1", WASMDROP_RESCAN_SEC="3600")
    column = 0 if platform.machine() == "x86_64" else 1
    calls = [(NUMBERS[name][column], number) for name in ("inotify_init", "inotify_init1")]
    command = [sys.executable, "-m", "wasmdrop", "serve"]
    daemon.prefix = (sys.executable, "-c", LAUNCHER, json.dumps([calls, [], 0, command]))
    with daemon.running():
        assert word in daemon.events("polling-started")[0]["reason"]
        assert daemon.submit("input.json", {"entry": "fib", "args": [12]})["code"] == "ok"


def test_mount_that_raises_no_events_is_polled(tmp_path: Path) -> None:
    """Changes below a FUSE mount raise none above it."""
    require_fuse()
    daemon = with_fib(tmp_path, WASMDROP_POLL_SEC="0.1", WASMDROP_RESCAN_SEC="3600")
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["bindfs", str(volume), str(daemon.shared)], check=True)
    try:
        with daemon.running():
            assert "fuse" in daemon.events("polling-started")[0]["reason"]
            drop(volume / "input.json", '{"entry":"fib","args":[12]}')
            daemon.wait_for("input.json", b'{"entry":"fib","args":[12]}')
            assert daemon.result("input.json")["results"] == [144]
    finally:
        subprocess.run(["umount", "--lazy", str(daemon.shared)], check=True)


def open_jobs(daemon: Daemon) -> list[str]:
    """Return the slots of open jobs."""
    journal = f"file:{daemon.state / 'journal.sqlite'}?mode=ro"
    with contextlib.closing(sqlite3.connect(journal, uri=True)) as connection:
        rows = connection.execute("SELECT slot FROM jobs WHERE state = 'waiting'")
        return [str(slot) for (slot,) in rows]


def test_mount_that_hangs_delays_no_other_slot(tmp_path: Path) -> None:
    """Neither drops, nor a refusal after the settling time, nor scans; its own come afterwards."""
    require_fuse()
    daemon = with_fib(tmp_path, WASMDROP_RESCAN_SEC="0.2", WASMDROP_SETTLE_SEC="0.05")
    volume, mount = tmp_path / "volume", daemon.shared / "mount"
    for directory in (volume, mount):
        directory.mkdir()
    with subprocess.Popen(["bindfs", "-f", str(volume), str(mount)]) as server:
        wait_until(mount.is_mount, "the mount")
        try:
            with daemon.running():
                daemon.submit("mount/input.json", {"entry": "fib", "args": [3]})
                for number in range(20):  # more than there are threads of any kind
                    drop(volume / f"input-{number}.json", '{"module":"missing"}')
                waiting = "the jobs to wait for their module"
                wait_until(lambda: len(open_jobs(daemon)) == 20, waiting)
                server.send_signal(signal.SIGSTOP)
                drop(daemon.wasm / "missing.wasm", bytes(wat2wasm(FIB)))
                for number in range(10):
                    good = daemon.submit("input.json", {"entry": "fib", "args": [number]})
                    assert good["code"] == "ok"
                    broken = daemon.submit(f"input-{number}.json", "{")
                    assert broken["code"] == "invalid-input"
                    drop(daemon.wasm / "new.wasm", bytes(wat2wasm(FIB)))
                    text = {"module": "new", "entry": "fib", "args": [number]}
                    assert daemon.submit("input-new.json", text)["code"] == "ok"
                server.send_signal(signal.SIGCONT)
                drop(volume / "input.json", '{"entry":"fib","args":[12]}')
                daemon.wait_for("mount/input.json", b'{"entry":"fib","args":[12]}')
        finally:
            server.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_kernel_without_openat2_reads_inputs(tmp_path: Path, number: int) -> None:
    """An old one, or a container that filters the call; links included."""
    daemon = with_fib(tmp_path)
    command = [sys.executable, "-m", "wasmdrop", "serve"]
    openat2 = 437  # on every architecture
    taken_away = json.dumps([[[openat2, number]], [], 0, command])
    daemon.prefix = (sys.executable, "-c", LAUNCHER, taken_away)
    with daemon.running():
        assert daemon.submit("new/input.json", {"entry": "fib", "args": [12]})["code"] == "ok"
        (daemon.shared / "new" / "..data").symlink_to(".")
        drop(daemon.shared / "new" / "content", '{"entry":"fib","args":[7]}')
        (daemon.shared / "new" / "input-link.json").symlink_to("..data/content")
        wait_until(lambda: daemon.marker("new/input-link.json"), "the marker")
        assert daemon.result("new/input-link.json")["results"] == [13]
