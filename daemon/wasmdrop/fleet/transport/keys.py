"""Nkeys: the keys by which servers know users. A seed is the private key, and is text."""

import os
from typing import Final

import nkeys

from wasmdrop.fleet.errors import FleetSettingsError

#: What a seed of a user begins with. Accounts, servers and operators have others.
_USER_SEED: Final = "SU"


def new_seed() -> str:
    """Return a new seed of a user."""
    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def public_key(seed: str) -> str:
    """Return the public key of a user's seed.

    Raises ``FleetSettingsError``, whose text does not have the seed.
    """
    try:
        if not seed.startswith(_USER_SEED):
            raise ValueError
        return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())
    except (nkeys.NkeysError, ValueError):
        raise FleetSettingsError(
            f"it is no seed of a user's nkey; expected one line that begins with {_USER_SEED}"
        ) from None


def inbox_prefix(key: str) -> str:
    """Return the prefix of the subjects of answers to the owner of a public key, or to no key.

    Only that user may subscribe to them.
    """
    return f"_I.{key}" if key else "_INBOX"
