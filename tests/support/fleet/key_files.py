"""Keys of the members of a fleet, in files as ``wasmdrop fleet config`` makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wasmdrop.fleet.admin.server_config import PublicKeys
from wasmdrop.fleet.transport.keys import new_seed, public_key

ADMIN: Final = "admin"


class KeyFiles:
    """A key for each user: ``admin``, ``daemon-NAME`` and ``pool-NAME``."""

    def __init__(self, base: Path, daemons: Sequence[str], pools: Sequence[str]) -> None:
        self._base = base
        base.mkdir(parents=True, exist_ok=True)
        self.public = PublicKeys(
            self._make(ADMIN),
            {name: self._make(f"daemon-{name}") for name in daemons},
            {name: self._make(f"pool-{name}") for name in pools},
        )

    def path(self, user: str) -> Path:
        """Return the file of a user's seed."""
        return self._base / f"{user}.nk"

    def _make(self, user: str) -> str:
        seed = new_seed()
        path = self.path(user)
        path.touch(mode=0o600)
        path.write_text(seed + "\n")
        return public_key(seed)
