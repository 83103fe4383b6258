"""Attempts to cancel the jobs of another user, and to disturb the daemon, with cancel files."""

import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.require import require_users
from tests.support.users import ALICE, BOB, DAEMON, as_user, shared_base

LOOP = '(module (func (export "run") (loop br 0)))'


@pytest.fixture(params=[0, DAEMON], ids=["root", "user"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Give a running daemon, as root and as an ordinary user, with a module that never ends."""
    require_users()
    with shared_base() as base:
        it = Daemon(base, WASMDROP_SETTLE_SEC="0.05", WASMDROP_DRAIN_SEC="0", TIMEOUT_SEC="3600")
        it.prefix = as_user(request.param)
        drop(it.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
        drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
        it.state.mkdir(mode=0o700)
        for directory in (it.shared, it.state):
            os.chown(directory, request.param, request.param)
        it.shared.chmod(0o755)
        with it.running():
            yield it


def owned(path: Path, owner: int, mode: int) -> Path:
    """Create a directory of a user."""
    path.mkdir()
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def touch(path: Path, owner: int) -> None:
    """Drop an empty file of a user."""
    temporary = path.with_name(f".{path.name}")
    temporary.touch()
    os.chown(temporary, owner, owner)
    temporary.replace(path)


def start_job(daemon: Daemon, name: str, owner: int) -> None:
    """Drop a job of a user that never ends, and wait until it runs."""
    path = daemon.shared / name
    drop(path, '{"module":"loop","entry":"run"}')
    os.chown(path, owner, owner)
    wait_for_state(daemon, name, "running")


def until_ignored(daemon: Daemon, path: Path, reason: str) -> None:
    """Wait until the daemon logs that it ignores a file, for this reason."""
    wait_until(
        lambda: any(
            event["path"] == str(path) and reason in event["reason"]
            for event in daemon.events("name-ignored")
        ),
        f"{path} to be ignored",
    )


def test_cancel_file_of_another_user_in_a_sticky_directory_cancels_nothing(
    daemon: Daemon,
) -> None:
    """Bob's own file, and a hard link to a file of Alice. Hers counts.

    So does root's if root is not the daemon's user, whose results Bob could rename.
    """
    shared = owned(daemon.shared / "all", 0, 0o1777)
    for name in ("a", "b"):
        start_job(daemon, f"all/input-{name}.json", ALICE)
    touch(shared / "input-a.json.cancel", BOB)
    until_ignored(daemon, shared / "input-a.json.cancel", f"found one of user {BOB}")
    other = owned(daemon.shared / "alice", ALICE, 0o755) / "file"
    touch(other, ALICE)
    os.link(other, shared / "input-b.json.cancel")
    until_ignored(daemon, shared / "input-b.json.cancel", f"found one of user {ALICE}")
    assert [job["state"] for job in listed(daemon)] == ["running", "running"]
    touch(shared / "input-a.json.cancel", ALICE)
    touch(shared / "input-b.json.cancel", 0 if daemon.state.stat().st_uid else ALICE)
    for name in ("all/input-a.json", "all/input-b.json"):
        marker = wait_until(lambda name=name: daemon.marker(name), "the end")  # type: ignore[misc]
        assert marker["code"] == "cancelled"


def test_cancel_file_that_is_a_result_of_the_daemon_cancels_nothing(daemon: Daemon) -> None:
    """Bob renames a file that the daemon wrote for him; it belongs to the daemon's user."""
    shared = owned(daemon.shared / "all", 0, 0o1777)
    bobs = owned(daemon.shared / "bob", BOB, 0o777)
    start_job(daemon, "all/input-a.json", ALICE)
    good = '{"module":"fib","entry":"fib","args":[12]}'
    assert daemon.submit("bob/input.json", good)["code"] == "ok"
    cancel = shared / "input-a.json.cancel"
    result = next(path for path in bobs.iterdir() if path.name.startswith("result"))
    run(["mv", str(result), str(cancel)], check=True, user=BOB, group=BOB, extra_groups=())
    until_ignored(daemon, cancel, f"found one of user {cancel.stat().st_uid}")
    assert [job["state"] for job in listed(daemon, "--slot", "all/input-a.json")] == ["running"]


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_cancel_file_of_another_kind_cancels_nothing_and_blocks_nothing(
    daemon: Daemon, kind: str
) -> None:
    """A link to a file of another user tells nothing about it, either."""
    bobs = owned(daemon.shared / "bob", BOB, 0o777)
    secret = owned(daemon.shared / "alice", ALICE, 0o700) / "secret"
    secret.touch()
    os.chown(secret, ALICE, ALICE)
    start_job(daemon, "bob/input.json", BOB)
    cancel = bobs / "input.json.cancel"
    if kind == "FIFO":
        os.mkfifo(cancel)
        until_ignored(daemon, cancel, "found a FIFO")
    else:
        link = bobs / ".link"
        link.symlink_to("../alice/secret")
        os.chown(link, BOB, BOB, follow_symlinks=False)
        link.rename(cancel)  # the daemon never sees it as a link of root
        until_ignored(daemon, cancel, "a link that leads out, to nothing, or")
    assert daemon.submit("input-x.json", '{"module":"fib","entry":"fib","args":[12]}')["code"]
    assert [job["state"] for job in listed(daemon, "--slot", "bob/input.json")] == ["running"]
    touch(cancel, BOB)
    wait_until(lambda: daemon.marker("bob/input.json"), "the end of Bob's job")


def test_cancel_files_by_the_hundred_delay_no_other_slot(daemon: Daemon) -> None:
    """Of inputs that are there and of inputs that are not; each is logged at most once."""
    bobs = owned(daemon.shared / "bob", BOB, 0o1777)
    for number in range(500):
        touch(bobs / f"input-{number}.json.cancel", BOB if number % 2 else ALICE)
    good = '{"module":"fib","entry":"fib","args":[12]}'
    assert daemon.submit("input-x.json", good)["code"] == "ok"
    ignored = daemon.events("name-ignored")
    assert len(ignored) <= 64
    assert len({event["path"] for event in ignored}) == len(ignored)
