"""Attacks of a local user who owns a slot, against a daemon that runs as root or as another user.

Each attack succeeded against an earlier version of the code. Races go on until they were tried two
hundred times.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.require import require_fuse, require_tools, require_users
from tests.support.users import ALICE, BOB, DAEMON, as_user, shared_base
from wasmdrop import settings
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.scanner import Scanner

ROUNDS: Final = 200

#: How long a race may take before a test fails, in seconds; slow machines need long for a round.
RACE_SECONDS: Final = 600.0

#: A command that leaves its input files as its output.
KEEPS_FILES: Final = """
(module
  (import "wasi_snapshot_preview1" "path_open" (func
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")))
"""

GOOD: Final = b'{"entry":"fib","args":[12]}'

SECRET: Final = "nobody's but alice's"  # noqa: S105 - what it is is the point


@pytest.fixture(params=[0, DAEMON], ids=["root", "user"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Give a daemon, not started, as root and as an ordinary user."""
    require_users()
    with shared_base() as base:
        it = Daemon(base, WASMDROP_SETTLE_SEC="0.05", WASMDROP_RESCAN_SEC="1")
        it.prefix = as_user(request.param)
        drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
        drop(it.wasm / "keep.wasm", bytes(wat2wasm(KEEPS_FILES)))
        it.state.mkdir(mode=0o700)
        for directory in (it.shared, it.state):
            os.chown(directory, request.param, request.param)
        yield it


def owned(path: Path, owner: int, mode: int = 0o777) -> Path:
    """Create a directory of a user, to which all users may write."""
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


@contextlib.contextmanager
def attack(user: int, name: str, *arguments: object) -> Iterator[Callable[[], int]]:
    """Run an attack as a user during a block; give a function that counts the moves so far."""
    module = [
        sys.executable,
        "-m",
        "tests.support.security.slot_attacks",
        name,
        *map(str, arguments),
    ]
    with subprocess.Popen([*as_user(user), *module], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        count = 0

        def moves() -> int:
            nonlocal count
            with contextlib.suppress(BlockingIOError):
                while data := os.read(output, 1 << 16):
                    count += data.count(b".")
            assert process.poll() is None, "the attack ended"
            return count

        try:
            yield moves
        finally:
            process.kill()


def others_run(daemon: Daemon) -> None:
    """Check that another user's slot is served."""
    name = f"input-{os.urandom(8).hex()}.json"
    assert daemon.submit(name, GOOD)["code"] == "ok"


def content(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file below a directory, with owner and mode."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(directory))] = status.st_uid, status.st_mode, data
    return found


# Writing, changing, removing


def test_output_staged_in_a_hostile_directory_stays_inside(daemon: Daemon) -> None:
    """Bob exchanges the directory that an output is staged in, and puts a link into it."""
    slot = owned(daemon.shared / "bob", BOB)
    victim = daemon.shared.parent / "victim"
    victim.mkdir(mode=0o700)
    os.chown(victim, daemon.state.stat().st_uid, -1)
    files = {f"sub/{number}": "planted" for number in range(50)}
    number = 0
    with daemon.running():
        with attack(BOB, "exchange_staging", slot, victim) as moves:

            def drop_more() -> bool:
                nonlocal number
                for _ in range(4):
                    number += 1
                    text = {"module": "keep", "files": files, "id": str(number)}
                    drop(slot / f"input-{number % 20}.json", text)
                others_run(daemon)
                assert content(victim) == {}
                return moves() >= ROUNDS

            wait_until(drop_more, f"{ROUNDS} moves", RACE_SECONDS)
        others_run(daemon)
    assert content(victim) == {}


def test_retention_archives_nothing_outside(daemon: Daemon) -> None:
    """Bob exchanges his archive with a link to a directory of the daemon's user."""
    slot = owned(daemon.shared / "bob", BOB)
    archive = owned(slot / "done", BOB)
    victim = daemon.shared.parent / "victim"
    victim.mkdir(mode=0o700)
    os.chown(victim, daemon.state.stat().st_uid, -1)
    daemon.environment["WASMDROP_AFTER"] = "archive"
    number = 0
    with daemon.running():
        with attack(BOB, "flip", archive, victim) as moves:

            def drop_more() -> bool:
                nonlocal number
                for _ in range(4):
                    number += 1
                    drop(slot / f"input-{number % 20}.json", GOOD)
                others_run(daemon)
                assert content(victim) == {}
                return moves() >= ROUNDS

            wait_until(drop_more, f"{ROUNDS} moves", RACE_SECONDS)
        others_run(daemon)
    assert content(victim) == {}


def test_retention_in_a_sticky_directory_keeps_what_the_daemon_may_not_remove(
    daemon: Daemon,
) -> None:
    """The slot stays whole. Root may, and alice gets the archive of her directory."""
    slot = owned(daemon.shared / "all", ALICE, 0o1777)
    is_root = daemon.shared.stat().st_uid == 0
    daemon.environment["WASMDROP_AFTER"] = "archive"
    path = slot / "input-bob.json"
    with daemon.running():
        path.write_bytes(GOOD)
        os.chown(path, BOB, BOB)
        daemon.wait_for("all/input-bob.json", GOOD)
        if is_root:
            wait_until(lambda: not path.exists(), "the input to move")
            status = (slot / "done").stat()
            assert (status.st_uid, status.st_mode & 0o7777) == (ALICE, 0o1777)
            return
        (line,) = daemon.until_logged("input-withdrawal-failed")
        assert line["directory"] == str(slot)
    assert not (slot / "done").exists()
    before = content(slot)
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = "0.00001"
    with daemon.running():
        daemon.until_logged("slot-removal-failed")
        others_run(daemon)
    assert content(slot) == before


def test_retention_removes_no_slot_outside(daemon: Daemon) -> None:
    """Bob exchanges his finished slots with a link to a copy of them, which has true markers."""
    owned(daemon.shared / "bob", BOB)
    slot = owned(daemon.shared / "bob" / "x", BOB)
    with daemon.running():
        for number in range(20):
            daemon.submit(f"bob/x/input-{number}.json", GOOD)
    victim = daemon.shared.parent / "victim"
    subprocess.run(["cp", "-a", str(slot), str(victim)], check=True)
    before = content(victim)
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = "0.00001"
    with attack(BOB, "flip", slot, victim) as moves, daemon.running():
        wait_until(lambda: moves() >= ROUNDS, f"{ROUNDS} moves", RACE_SECONDS)
        others_run(daemon)
        assert content(victim) == before
    if slot.is_symlink():  # the attack ended between two exchanges
        slot.unlink()
        next(slot.parent.glob(".link-*")).rename(slot)
    with daemon.running():
        wait_until(lambda: not list(slot.glob("result*")), "bob's results to go")
    assert content(victim) == before


def test_directory_of_another_user_at_an_output_name_is_kept(daemon: Daemon) -> None:
    """In a directory where all may write, bob creates what he could not remove himself."""
    slot = owned(daemon.shared / "all", ALICE)
    precious = owned(slot / "precious", ALICE, 0o755)
    (precious / "file").write_text(SECRET)
    rename = ["mv", str(precious), str(slot / "result-bob.output")]
    subprocess.run([*as_user(BOB), *rename], check=True)
    with daemon.running():
        for number in range(2):
            text = {"module": "keep", "files": {"new": "content"}, "id": str(number)}
            assert daemon.submit("all/input-bob.json", text)["code"] == "ok"
    assert [path.read_text() for path in slot.glob("*/file")] == [SECRET]
    assert [path.name for path in (slot / "result-bob.output").iterdir()] == ["new"]
    assert len(list(slot.iterdir())) == 1 + 5 + 2  # the input, five result files, two directories


def test_mode_of_files_of_the_daemons_user_is_not_changed(daemon: Daemon) -> None:
    """Bob exchanges a directory that can't be opened with a link, while his output is replaced."""
    slot = owned(daemon.shared / "bob", BOB)
    victim = daemon.shared.parent / "victim"
    victim.write_text(SECRET)
    victim.chmod(0o644)
    os.chown(victim, daemon.state.stat().st_uid, -1)
    mode = victim.stat().st_mode
    number = 0
    with daemon.running():
        with attack(BOB, "close_output", slot, victim) as moves:

            def run_more() -> bool:
                nonlocal number
                number += 1
                text = {"module": "keep", "files": {"new": "content"}, "id": str(number)}
                drop(slot / "input.json", text)
                others_run(daemon)
                return moves() >= ROUNDS

            wait_until(run_more, f"{ROUNDS} moves", RACE_SECONDS)
        others_run(daemon)
    assert (victim.stat().st_mode, victim.read_text()) == (mode, SECRET)


def test_sweep_at_start_removes_nothing_outside(daemon: Daemon) -> None:
    """Bob swaps a directory with a link to one that holds files of such a name."""
    require_users()
    slot = owned(daemon.shared / "bob", BOB)
    victim = daemon.shared.parent / "victim"
    victim.mkdir()
    for number in range(20):
        (victim / f".wasmdrop-0000000000-{number}").write_text(SECRET)
    swept = slot / "swept"
    owned(swept, BOB)
    before = content(victim)
    with attack(BOB, "flip", swept, victim) as moves:
        wait_until(lambda: moves() > 0, "the first move")
        for _ in range(ROUNDS):
            scan_once(daemon.shared)
        wait_until(lambda: moves() >= ROUNDS, f"{ROUNDS} moves", RACE_SECONDS)
    assert content(victim) == before


def scan_once(shared: Path) -> list[str]:
    """Scan a shared directory as a daemon does when it starts; return the reported paths."""
    wasm = shared.parent / "wasm"
    loaded = settings.load(
        {
            "WASMDROP_WASM_DIR": str(wasm),
            "WASMDROP_SHARED_DIR": str(shared),
            "WASMDROP_STATE_DIR": str(shared.parent / "state"),
        },
        {},
    ).settings
    reported: list[str] = []
    scanner = Scanner(
        Layout(loaded),
        reported.append,
        lambda found: [path for path, _status in found],
        lambda path, _fd: reported.append(path),
        3600.0,
        loaded.max_depth,
    )
    scanner.start()
    scanner.stop()
    return reported


def test_tree_behind_a_link_is_neither_watched_nor_run(daemon: Daemon) -> None:
    """Bob swaps a directory with a link to a tree that holds inputs."""
    slot = owned(daemon.shared / "bob", BOB)
    outside = daemon.shared.parent / "outside"
    for number in range(50):
        (outside / str(number)).mkdir(parents=True)
        (outside / str(number) / "input.json").write_bytes(GOOD)
    inside = owned(slot / "inside", BOB)
    with daemon.running():
        before = watches(daemon)
        with attack(BOB, "flip", inside, outside) as moves:

            def look_more() -> bool:
                others_run(daemon)
                return moves() >= ROUNDS

            wait_until(look_more, f"{ROUNDS} moves", RACE_SECONDS)
        others_run(daemon)
        assert watches(daemon) <= before + 2
    assert not list(outside.glob("*/result*"))
    assert all("inside/" not in event.get("slot", "") for event in daemon.events())


def watches(daemon: Daemon) -> int:
    """Return the number of inotify watches of a daemon (proc_pid_fdinfo(5))."""
    assert daemon.process is not None
    found = 0
    for path in Path(f"/proc/{daemon.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text().count("inotify wd:")
    return found


# Reading


def alices(daemon: Daemon) -> Path:
    """Create a slot of alice's with a secret in it, which only she and the daemon can enter."""
    slot = owned(daemon.shared / "alice", ALICE, 0o700)
    secret = {"module": "keep", "env": {"KEY": SECRET, "PAD": "x" * 61_837}, "files": {"a": SECRET}}
    (slot / "input.json").write_text(json.dumps(secret))
    (slot / "module.wasm").write_bytes(bytes(wat2wasm(FIB)))
    for path in slot.iterdir():
        os.chown(path, ALICE, ALICE)
        path.chmod(0o600)
    return slot


def link(slot: Path, name: str, target: str) -> None:
    """Create a link as bob."""
    subprocess.run([*as_user(BOB), "ln", "-s", target, str(slot / name)], check=True)


@pytest.mark.parametrize("way", ["file", "directory", "chain"])
def test_input_of_another_user_behind_a_link_is_not_read(daemon: Daemon, way: str) -> None:
    """Neither its content, size or digest is revealed, nor whether it exists."""
    alice = alices(daemon)
    slot = owned(daemon.shared / "bob", BOB)
    if way == "file":
        link(slot, "input.json", "../alice/input.json")
    elif way == "directory":
        link(slot, "there", "../alice")
        link(slot, "input.json", "there/input.json")
    else:
        link(slot, "input-1.json", "../alice/input.json")
        link(slot, "input.json", "input-1.json")
    link(slot, "input-nothing.json", "../alice/nothing.json")
    data = (alice / "input.json").read_bytes()
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("bob/input.json"), "the refusal")
        nothing = wait_until(lambda: daemon.marker("bob/input-nothing.json"), "the refusal")
    assert marker["code"] == "invalid-input"
    assert marker["message"].partition(": ")[2] == nothing["message"].partition(": ")[2]
    told = b"".join(path.read_bytes() for path in slot.glob("result.*"))
    for secret in (SECRET, hashlib.sha256(data).hexdigest(), str(len(data))):
        assert secret.encode() not in told


def test_module_of_another_user_behind_a_link_is_not_run(daemon: Daemon) -> None:
    """Beside the input of the one who made the link."""
    alices(daemon)
    slot = owned(daemon.shared / "bob", BOB)
    link(slot, "module.wasm", "../alice/module.wasm")
    with daemon.running():
        marker = daemon.submit("bob/input.json", GOOD)
        assert marker["code"] == "invalid-module"
        assert marker["module"] is None


def test_links_to_files_of_their_owner_are_followed(daemon: Daemon) -> None:
    """Kubernetes volumes have such links."""
    slot = owned(daemon.shared / "bob", BOB)
    commands = (
        f"cd {slot} && mkdir ..1 && printf '%s' '{GOOD.decode()}' > ..1/input.json"
        " && ln -s ..1 ..data && ln -s ..data/input.json input.json"
    )
    subprocess.run([*as_user(BOB), "sh", "-c", commands], check=True)
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("bob/input.json"), "the marker")
        assert marker["code"] == "ok"


def test_link_that_changes_while_it_is_read_shows_nothing(daemon: Daemon) -> None:
    """Bob swaps a file of his own with a link to alice's."""
    alices(daemon)
    slot = owned(daemon.shared / "bob", BOB)
    mine = slot / "input.json"
    mine.write_bytes(GOOD)
    os.chown(mine, BOB, BOB)
    # Slowly enough for the daemon to read many of them.
    flips = attack(BOB, "flip", mine, "../alice/input.json", 0.005)
    with daemon.running(), flips as moves:

        def run_more() -> bool:
            others_run(daemon)
            assert SECRET.encode() not in b"".join(results_in(slot))
            return moves() >= 5 * ROUNDS

        wait_until(run_more, f"{ROUNDS} moves", RACE_SECONDS)
    assert SECRET.encode() not in b"".join(results_in(slot))


def results_in(slot: Path) -> Iterator[bytes]:
    """Return the content of all result files, output files included."""
    for path in [*slot.glob("result*"), *slot.glob("result*/**/*")]:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            yield path.read_bytes()


# Denial of service


def test_lock_of_another_user_does_not_keep_the_daemon_from_starting(daemon: Daemon) -> None:
    """Neither one that he made, also if it can't be moved away, nor one of the daemon's own."""
    lock = daemon.shared / ".wasmdrop.lock"
    for mode in (0o777, 0o1777):
        daemon.shared.chmod(mode)
        hold = ["flock", "--no-fork", "--exclusive", "--nonblock", str(lock), "sleep", "1000"]
        with subprocess.Popen([*as_user(BOB), *hold]) as holder:
            try:
                wait_until(lambda: is_locked(lock), "the lock")
                with daemon.running():
                    others_run(daemon)
                    if lock.stat().st_uid != BOB:
                        again = ["flock", "--shared", "--nonblock", str(lock), "true"]
                        tried = subprocess.run(
                            [*as_user(BOB), *again], check=False, capture_output=True
                        )
                        assert tried.returncode != 0
            finally:
                holder.kill()
        lock.unlink()


def is_locked(path: Path) -> bool:
    """Return whether another process has locked a file."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_locked_result_of_the_daemon_is_no_instance_lock(daemon: Daemon) -> None:
    """Bob locks a result, which is the daemon's own file, and moves it to the name of the lock."""
    slot = owned(daemon.shared / "bob", BOB)
    lock = daemon.shared / ".wasmdrop.lock"
    with daemon.running():
        assert daemon.submit("bob/input.json", GOOD)["code"] == "ok"
    result = slot / "result.json"
    again = ["flock", "--shared", "--nonblock", str(lock), "true"]
    for mode in (0o777, 0o1777):
        daemon.shared.chmod(mode)
        lock.unlink()
        commands = f"mv {result} {lock} && exec flock --no-fork --exclusive {lock} sleep 1000"
        with subprocess.Popen([*as_user(BOB), "sh", "-c", commands]) as holder:
            # Only if it exists: flock(1) would create it.
            wait_until(lock.exists, "the file")
            wait_until(lambda: subprocess.run(again, check=False).returncode == 1, "the lock")
            with daemon.running():
                others_run(daemon)
                assert daemon.submit("bob/input.json", GOOD + b" " * mode)["code"] == "ok"
            holder.kill()


def test_directory_that_may_not_be_searched_does_not_end_the_scan(daemon: Daemon) -> None:
    """Others may list it, but not stat its entries: neither at the start nor later."""
    slots = [owned(daemon.shared / name, BOB) for name in ("bob", "bob2")]
    for slot in slots:
        (slot / "input.json").write_bytes(GOOD)
    slots[0].chmod(0o744)
    with daemon.running():
        others_run(daemon)
        slots[1].chmod(0o744)
        late = daemon.shared / "late"
        late.mkdir()
        drop(late / "input.json", GOOD)
        os.chown(late, daemon.state.stat().st_uid, -1)
        wait_until(lambda: daemon.marker("late/input.json"), "the marker")
        others_run(daemon)
    assert not daemon.events("scan-failed")


def test_events_of_a_large_directory_take_no_descriptors(daemon: Daemon) -> None:
    """Bob changes a directory with many entries faster than it can be scanned."""
    slot = owned(daemon.shared / "bob", BOB)
    for number in range(20_000):
        (slot / f"input-{number}.wasm").touch()
    with daemon.running():
        assert daemon.process is not None
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        with attack(BOB, "swap_volume", slot) as moves:

            def look_more() -> bool:
                others_run(daemon)
                assert len(list(descriptors.iterdir())) < before + 100
                return moves() >= 20 * ROUNDS

            wait_until(look_more, "many moves", RACE_SECONDS)
        others_run(daemon)


@pytest.fixture
def hung(daemon: Daemon) -> Iterator[Path]:
    """Give a directory of bob's with a mount in it whose server is stopped."""
    require_fuse()
    slot = owned(daemon.shared / "bob", BOB)
    above = owned(slot / "above", BOB)
    mount = owned(above / "mount", BOB)
    volume = owned(daemon.shared.parent / "volume", BOB)
    for name, content in (("input.json", GOOD), ("module.wasm", bytes(wat2wasm(FIB)))):
        (volume / name).write_bytes(content)
        os.chown(volume / name, BOB, BOB)
    command = ["bindfs", "-f", "-o", "allow_other", str(volume), str(mount)]
    with subprocess.Popen(command) as server:
        try:
            wait_until((mount / "input.json").exists, "the mount")
            with daemon.running():
                others_run(daemon)
                wait_until(lambda: daemon.marker("bob/above/mount/input.json"), "its marker")
                server.send_signal(signal.SIGSTOP)
                yield slot
        finally:
            server.kill()
            for moved in filter(Path.is_dir, (above, slot / "there")):
                subprocess.run(["umount", "--lazy", str(moved / "mount")], check=True)


@pytest.mark.parametrize("name", ["input.json", "module.wasm"])
def test_link_to_a_mount_that_hangs_delays_no_other_slot(
    daemon: Daemon, hung: Path, name: str
) -> None:
    """Bob puts it on the shared directory's own file system."""
    link(hung, name, f"above/mount/{name}")
    drop(hung / "input-1.json", GOOD)
    wait_until(lambda: daemon.marker("bob/input-1.json"), "the marker")
    if name == "input.json":
        wait_until(lambda: daemon.marker("bob/input.json"), "the refusal")
    for number in range(3):
        owned(daemon.shared / f"new-{number}", ALICE)
        assert daemon.submit(f"new-{number}/input.json", GOOD)["code"] == "ok"


def test_mount_that_hangs_and_is_moved_delays_no_other_slot(daemon: Daemon, hung: Path) -> None:
    """The kernel's mount table changes then, but the kernel does not report it."""
    subprocess.run([*as_user(BOB), "mv", str(hung / "above"), str(hung / "there")], check=True)
    others_run(daemon)
    for number in range(3):
        owned(daemon.shared / f"new-{number}", ALICE)
        assert daemon.submit(f"new-{number}/input.json", GOOD)["code"] == "ok"


def test_directory_that_all_may_write_to_is_not_removed_as_an_output(daemon: Daemon) -> None:
    """The daemon's user made it, sticky, for all; bob, who can't remove its content, moves it."""
    slot = owned(daemon.shared / "bob", BOB)
    common = owned(slot / "common", daemon.state.stat().st_uid, 0o1777)
    (common / "file").write_text(SECRET)
    os.chown(common / "file", ALICE, ALICE)
    move = ["mv", str(common), str(slot / "result.output")]
    subprocess.run([*as_user(BOB), *move], check=True)
    with daemon.running():
        for number in range(2):
            text = {"module": "keep", "files": {"new": "content"}, "id": str(number)}
            assert daemon.submit("bob/input.json", text)["code"] == "ok"
            others_run(daemon)
    assert [path.read_text() for path in slot.glob("*/file")] == [SECRET]


def test_output_is_writable_by_no_other_user(daemon: Daemon) -> None:
    """Whatever default access bob's slot has: the daemon would remove files that he puts there."""
    require_tools("setfacl")
    slot = owned(daemon.shared / "bob", BOB)
    acl = f"default:user:{BOB}:rwx,default:other:rwx"
    subprocess.run(["setfacl", "--modify", acl, str(slot)], check=True)
    with daemon.running():
        text = {"module": "keep", "files": {"sub/below/new": "content"}}
        assert daemon.submit("bob/input.json", text)["code"] == "ok"
    for place in ("", "sub", "sub/below"):
        make = ["mkdir", str(slot / "result.output" / place / "bobs")]
        done = subprocess.run([*as_user(BOB), *make], check=False, capture_output=True)
        assert done.returncode != 0, place


def test_result_is_delivered_to_no_other_users_directory(daemon: Daemon) -> None:
    """In a directory where all may rename, bob replaces alice's directory with his own.

    He could cancel her job, too; it begins before that is noticed.
    """
    daemon.environment["WASMDROP_SETTLE_SEC"] = "3600"
    daemon.shared.chmod(0o777)
    slot = owned(daemon.shared / "alice", ALICE)
    mine = owned(daemon.shared / "bob", BOB)
    data = json.dumps({"module": "late", "env": {"KEY": SECRET}, "files": {"a": SECRET}})
    with daemon.running():
        drop(slot / "input.json", data)
        wait_until(lambda: open_states(daemon) == ["waiting"], "the job to wait")
        away = daemon.shared / "away"
        moves = f"mv {slot} {away} && mv {mine} {slot}"
        subprocess.run([*as_user(BOB), "sh", "-c", moves], check=True)
        drop(daemon.wasm / "late.wasm", bytes(wat2wasm(KEEPS_FILES)))
        wait_until(lambda: daemon.events("delivery-postponed"), "the refusal")
        others_run(daemon)
        assert list(slot.iterdir()) == []
        back = f"mv {slot} {mine} && mv {away} {slot}"
        subprocess.run([*as_user(BOB), "sh", "-c", back], check=True)
        wait_until(lambda: daemon.marker("alice/input.json"), "the marker")
        assert daemon.result("alice/input.json")["exit_code"] == 0
    assert list(mine.iterdir()) == []


def open_states(daemon: Daemon) -> list[str]:
    """Return the states of open jobs."""
    journal = f"file:{daemon.state / 'journal.sqlite'}?mode=ro"
    with contextlib.closing(sqlite3.connect(journal, uri=True)) as connection:
        query = "SELECT state FROM jobs WHERE state NOT IN ('delivered', 'discarded')"
        return [state for (state,) in connection.execute(query)]
