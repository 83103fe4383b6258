"""The extra that keys need: says how to install it where it is missing."""

import contextlib
from collections.abc import Iterator

from wasmdrop.protocol.errors import SettingsError


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Import :mod:`wasmdrop.proof.keys` in this block.

    Raises ``SettingsError``, which says that ``what`` needs the extra, if cryptography is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "cryptography":
            raise
        raise SettingsError(
            f"{what}: needs the package cryptography; install it with"
            " pip install 'wasmdrop[receipts]'"
        ) from None
