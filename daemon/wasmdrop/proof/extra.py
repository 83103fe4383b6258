"""The extra that keys need: says how to install it where it is missing."""

import contextlib
from collections.abc import Iterator
from typing import Final

from wasmdrop.protocol.errors import SettingsError

INSTALL_EXTRA: Final = "pip install 'wasmdrop[receipts]'"


def is_extra_missing(error: ModuleNotFoundError) -> bool:
    """Whether an import failed because the extra is not installed."""
    return error.name is not None and error.name.partition(".")[0] == "cryptography"


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Import :mod:`wasmdrop.proof.keys` in this block.

    Raises ``SettingsError``, which says that ``what`` needs the extra, if cryptography is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not is_extra_missing(error):
            raise
        raise SettingsError(
            f"{what}: needs the package cryptography; install it with {INSTALL_EXTRA}"
        ) from None
