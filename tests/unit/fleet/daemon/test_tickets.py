"""Tickets: the same after a restart, and of no use for another job."""

import stat
from pathlib import Path

import pytest

from wasmdrop.fleet.daemon.tickets import Tickets, load_tickets
from wasmdrop.protocol.errors import StorageError

NAME = "fleet-secret"


def test_ticket_is_one_of_job_attempt_and_generation() -> None:
    """And of the secret."""
    tickets = Tickets(b"secret")
    ticket = tickets.ticket("job", 1, 2)
    assert len(ticket) == 32
    assert tickets.is_valid(ticket, "job", 1, 2)
    for other in (("jobs", 1, 2), ("job", 2, 2), ("job", 1, 1), ("job", 12, 2)):
        assert not tickets.is_valid(ticket, *other)
    assert not Tickets(b"another").is_valid(ticket, "job", 1, 2)
    assert not tickets.is_valid("\xe9" * 32, "job", 1, 2)


def test_tickets_are_the_same_after_a_restart(tmp_path: Path) -> None:
    """Answers to jobs of the daemon before must be taken."""
    tmp_path.chmod(0o700)
    ticket = load_tickets(tmp_path).ticket("job", 1, 0)
    assert load_tickets(tmp_path).is_valid(ticket, "job", 1, 0)
    (path,) = tmp_path.iterdir()
    assert path.name == NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32


def test_tickets_of_two_daemons_differ(tmp_path: Path) -> None:
    """Each has a random secret."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0o700)
    ticket = load_tickets(tmp_path / "a").ticket("job", 1, 0)
    assert not load_tickets(tmp_path / "b").is_valid(ticket, "job", 1, 0)


def test_tickets_secret_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    """It died before the file had its name."""
    (tmp_path / f".{NAME}").write_bytes(b"half")
    load_tickets(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_tickets_secret_of_another_size_is_refused(tmp_path: Path, content: bytes) -> None:
    """A known secret would be none."""
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / NAME).chmod(0o600)
    with pytest.raises(StorageError, match="remove the file"):
        load_tickets(tmp_path)


@pytest.mark.parametrize("mode", [0o622, 0o640, 0o604])
def test_tickets_secret_that_others_can_change_or_read_is_refused(
    tmp_path: Path, mode: int
) -> None:
    """They could forge answers."""
    (tmp_path / NAME).write_bytes(bytes(32))
    (tmp_path / NAME).chmod(mode)
    with pytest.raises(StorageError, match=NAME):
        load_tickets(tmp_path)
