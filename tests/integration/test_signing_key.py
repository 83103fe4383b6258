"""Starts with a signing key: refused with one line and exit status 2, or receipts are signed."""

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.commands import command, run
from tests.support.daemon import Daemon
from tests.support.doctor import LAUNCHER, NUMBERS
from tests.support.fib import GOOD, with_fib
from tests.support.keys import key_bytes, new_key
from tests.support.require import require_users
from tests.support.users import ALICE, DAEMON, as_user, shared_base


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Give a daemon that is not running and has a good key, as root or as an ordinary user."""
    require_users()
    user = getattr(request, "param", DAEMON)
    with shared_base() as base:
        it = with_fib(base)
        it.prefix = as_user(user)
        it.state.mkdir(mode=0o700)
        key = new_key(base / "keys" / "key.pem")
        for path in (it.shared, it.wasm, it.state, key.parent, key):
            os.chown(path, user, user)
        it.environment["WASMDROP_SIGNING_KEY"] = str(key)
        yield it


def key_of(daemon: Daemon) -> Path:
    """Return the path of the daemon's key."""
    return Path(daemon.environment["WASMDROP_SIGNING_KEY"])


def missing(key: Path) -> None:
    """Remove the key."""
    key.unlink()


def directory(key: Path) -> None:
    """Put a directory in its place."""
    key.unlink()
    key.mkdir()


def fifo(key: Path) -> None:
    """Put a FIFO in its place, which blocks a process that opens it."""
    owner = key.stat().st_uid
    key.unlink()
    os.mkfifo(key, 0o600)
    os.chown(key, owner, owner)


def readable(key: Path) -> None:
    """Let any user read it."""
    key.chmod(0o644)


def replaceable(key: Path) -> None:
    """Let any user write to its directory."""
    key.parent.chmod(0o777)


def foreign(key: Path) -> None:
    """Give it to a third user."""
    os.chown(key, ALICE, ALICE)


def linked(key: Path) -> None:
    """Give it a second name."""
    key.with_name("other").hardlink_to(key)


def empty(key: Path) -> None:
    """Truncate it."""
    key.write_bytes(b"")


def garbage(key: Path) -> None:
    """Write something else."""
    key.write_bytes(b"no key at all\n")


def encrypted(key: Path) -> None:
    """Encrypt it."""
    new_key(key, "ed25519", "-aes256", "-pass", "pass:secret")


def public(key: Path) -> None:
    """Keep only the public half."""
    key.write_bytes(key_bytes(key, "PEM", "-pubout"))


def rsa(key: Path) -> None:
    """Make a key of another kind."""
    new_key(key, "RSA")


def large(key: Path) -> None:
    """Append to it."""
    with key.open("ab") as file:
        file.write(b"#" * 20_000)


_WRONG: Final[dict[Callable[[Path], None], str]] = {
    missing: "no such file",
    directory: "it is a directory",
    fifo: "it is a FIFO",
    readable: "any user can read it",
    replaceable: "other users can write to the directory",
    foreign: f"belongs to user {ALICE}",
    linked: "2 names",
    empty: "it is empty",
    garbage: "PEM",
    encrypted: "encrypted",
    public: "public key",
    rsa: "another kind",
    large: "larger than 16384 bytes",
}


def refusal(daemon: Daemon, *words: str, **variables: str) -> str:
    """Return the only line of a start that is refused; it names the variable and the file."""
    done = run(daemon, *(words or ("serve",)), **variables)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, ""), line
    named = variables.get("WASMDROP_SIGNING_KEY", str(key_of(daemon)))
    assert line.startswith(f"wasmdrop: WASMDROP_SIGNING_KEY: {named}")
    return line


@pytest.mark.parametrize(
    ("daemon", "spoil"),
    [*((DAEMON, spoil) for spoil in _WRONG), (0, missing), (0, readable), (0, foreign)],
    indirect=["daemon"],
)
def test_serve_with_unsafe_signing_key_ends_with_one_line(
    daemon: Daemon, spoil: Callable[[Path], None]
) -> None:
    """And exit status 2, which systemd does not restart. The line says what to do."""
    spoil(key_of(daemon))
    line = refusal(daemon)
    assert _WRONG[spoil] in line
    assert "expected an unencrypted private key in PEM" in line


def test_serve_with_signing_key_that_the_user_cannot_read_ends_with_one_line(
    daemon: Daemon,
) -> None:
    """The file, or its directory, is root's alone."""
    key = key_of(daemon)
    os.chown(key, 0, 0)
    assert "can't read it: Permission denied; expected" in refusal(daemon)
    os.chown(key, DAEMON, DAEMON)
    os.chown(key.parent, 0, 0)
    assert f"can't read it: Permission denied ({key}); expected" in refusal(daemon)


def test_serve_with_signing_key_below_a_directory_of_others_ends_with_one_line(
    daemon: Daemon,
) -> None:
    """The shared directory, by a link, and a grant."""
    key = key_of(daemon)
    grant = f"keys={key.parent}"
    assert "reached through grant keys" in refusal(daemon, WASMDROP_GRANTS=grant)
    inside = daemon.shared / "slot" / "key.pem"
    inside.parent.mkdir()
    shutil.copy2(key, inside)
    os.chown(inside, key.stat().st_uid, key.stat().st_gid)
    link = key.with_name("link")
    link.symlink_to(inside)
    assert "reached through the shared directory" in refusal(daemon, WASMDROP_SIGNING_KEY=str(link))


def test_serve_with_signing_key_and_incomplete_confinement_ends_with_one_line(
    daemon: Daemon,
) -> None:
    """Although ``best-effort`` goes on without a key."""
    column = 0 if platform.machine() == "x86_64" else 1
    calls = [(NUMBERS["landlock_create_ruleset"][column], errno.ENOSYS)]
    launched = json.dumps([calls, [], 0, command("serve")])
    daemon.prefix = (*daemon.prefix, sys.executable, "-c", LAUNCHER, launched)
    done = subprocess.run(
        daemon.prefix,
        env=daemon.environment | {"WASMDROP_SANDBOX": "best-effort"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"wasmdrop: WASMDROP_SIGNING_KEY: {key_of(daemon)}")
    assert "missing: Landlock" in line


def test_serve_with_signing_key_in_a_secret_volume_of_kubernetes_starts(daemon: Daemon) -> None:
    """As the kubelet makes one: root's, behind links, readable for the group of the pod."""
    key = key_of(daemon)
    volume = key.parent.with_name("volume")
    (volume / "..1").mkdir(parents=True, mode=0o755)
    (volume / "..data").symlink_to("..1")
    (volume / "key.pem").symlink_to("..data/key.pem")
    volume.chmod(0o3777)
    os.chown(volume, 0, DAEMON)
    mounted = Path(shutil.copy(key, volume / "..1" / "key.pem"))
    os.chown(mounted, 0, DAEMON)
    daemon.environment["WASMDROP_SIGNING_KEY"] = str(volume / "key.pem")
    mounted.chmod(0o444)
    assert "any user can read it" in refusal(daemon)
    mounted.chmod(0o440)
    with daemon.running():
        assert daemon.events("signing-key-loaded")


def test_run_with_unsafe_signing_key_ends_with_one_line(daemon: Daemon) -> None:
    """The same rules."""
    readable(key_of(daemon))
    assert "any user can read it" in refusal(daemon, "run")


def test_config_shows_only_the_path_of_the_signing_key(daemon: Daemon) -> None:
    """In both forms."""
    body = key_bytes(key_of(daemon), "PEM").splitlines()[1].decode()
    for words in (("config",), ("config", "--json")):
        done = run(daemon, *words)
        assert str(key_of(daemon)) in done.stdout
        assert body not in done.stdout + done.stderr


@pytest.mark.parametrize("daemon", [0, DAEMON], ids=["root", "user"], indirect=True)
def test_job_of_a_daemon_with_a_signing_key_has_a_receipt(daemon: Daemon) -> None:
    """By the public half of the key. Nothing of the private key is in the log."""
    key_id = hashlib.sha256(key_bytes(key_of(daemon), "DER", "-pubout")).hexdigest()
    with daemon.running():
        marker = daemon.submit("input.json", {**json.loads(GOOD), "deterministic": True})
        assert marker["code"] == "ok"
        envelope = json.loads(daemon.result_path("input.json", ".receipt").read_bytes())
    assert [one["keyid"] for one in envelope["signatures"]] == [key_id]
    (event,) = daemon.events("signing-key-loaded")
    assert (event["key_id"], event["kind"]) == (key_id, "ed25519")
    body = key_bytes(key_of(daemon), "PEM").splitlines()[1].decode()
    assert body not in daemon.log_text()
