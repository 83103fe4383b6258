"""Tickets: only the receiver of a job can answer it.

A ticket is a function of the job and of a secret in the state directory. So it needs no storage,
and a daemon that was restarted knows the tickets of the one before it.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from wasmdrop.protocol.errors import StorageError
from wasmdrop.system.durable_files import replace_file
from wasmdrop.system.openat2 import open_directory
from wasmdrop.system.private_files import NotPrivateError, open_private

_NAME: Final = "fleet-secret"
_TEMPORARY: Final = ".fleet-secret"
_SECRET_BYTES: Final = 32
_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH
_TICKET_CHARACTERS: Final = 32


class Tickets:
    """The tickets of one daemon."""

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def ticket(self, job_id: str, attempt: int, generation: int) -> str:
        """Return the ticket of one publication of a job: 128 bits, in hexadecimal digits."""
        keyed = self._keyed.copy()
        keyed.update(f"{job_id}|{attempt}|{generation}".encode())
        return keyed.hexdigest()[:_TICKET_CHARACTERS]

    def is_valid(self, ticket: str, job_id: str, attempt: int, generation: int) -> bool:
        """Whether a ticket is that of this publication."""
        expected = self.ticket(job_id, attempt, generation)
        return hmac.compare_digest(expected.encode(), ticket.encode())


def load_tickets(state_dir: Path) -> Tickets:
    """Return the tickets of the secret in ``state_dir``, which is created if there is none.

    Raises ``StorageError`` if the secret can't be read or created, or if others can change it.
    """
    path = state_dir / _NAME
    try:
        try:
            with os.fdopen(open_private(path), "rb") as file:
                if os.fstat(file.fileno()).st_mode & _OTHERS_READ:
                    raise NotPrivateError("other users can read it")
                secret = file.read(_SECRET_BYTES + 1)
        except FileNotFoundError:
            secret = _create(state_dir)
    except NotPrivateError as error:
        raise StorageError(f"{path}: {error}; remove it, and the daemon makes a new one") from None
    except OSError as error:
        raise StorageError(
            f"{path}: the secret of the fleet can't be read or created: {error}"
        ) from error
    if len(secret) != _SECRET_BYTES:
        raise StorageError(
            f"{path}: expected {_SECRET_BYTES} bytes, found another number; remove the file, and"
            " the daemon makes a new one"
        )
    return Tickets(secret)


def _create(state_dir: Path) -> bytes:
    """Create the secret durably: a job that was published under a lost one can't be answered."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    directory = open_directory(str(state_dir), "")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_TEMPORARY, dir_fd=directory)  # of a daemon that was killed here
        with replace_file(directory, _NAME, _TEMPORARY, mode=0o600) as file:
            file.write(secret)
        os.fsync(directory)
    finally:
        os.close(directory)
    return secret
