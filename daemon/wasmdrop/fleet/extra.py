"""The extra that a fleet needs: says how to install it where it is missing."""

import contextlib
from collections.abc import Iterator
from typing import Final

from wasmdrop.protocol.errors import SettingsError

INSTALL_EXTRA: Final = "pip install 'wasmdrop[fleet]'"

_PACKAGES: Final = frozenset({"nats", "nkeys"})


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Import modules of :mod:`wasmdrop.fleet` in this block.

    Raises ``SettingsError``, which says that ``what`` needs the extra, if it is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _PACKAGES:
            raise
        raise SettingsError(
            f"{what}: needs the packages nats-py and nkeys; install them with {INSTALL_EXTRA}"
        ) from None
