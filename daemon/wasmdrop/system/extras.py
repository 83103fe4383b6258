"""The extras of the package: the modules that each installs, and how to install a missing one."""

import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec

from wasmdrop.protocol.errors import SettingsError


class Extra(msgspec.Struct, frozen=True):
    """An extra of ``pyproject.toml``."""

    name: str
    modules: frozenset[str]
    """The top-level modules that it installs."""
    needs: str
    """Its packages, for messages."""

    @property
    def install_command(self) -> str:
        """The command that installs it."""
        return f"pip install 'wasmdrop[{self.name}]'"

    def is_missing(self, error: ModuleNotFoundError) -> bool:
        """Return whether an import failed because the extra is not installed."""
        return error.name is not None and error.name.partition(".")[0] in self.modules

    @contextlib.contextmanager
    def required(self, what: str) -> Iterator[None]:
        """Import modules that need the extra in this block.

        Raises ``SettingsError``, which says that ``what`` needs the extra, if it is missing.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            if not self.is_missing(error):
                raise
            raise SettingsError(
                f"{what}: needs {self.needs}; install it with {self.install_command}"
            ) from None


RECEIPTS: Final = Extra("receipts", frozenset({"cryptography"}), "the package cryptography")
FLEET: Final = Extra(
    "fleet", frozenset({"nats", "nkeys"}), "the package nats-py with its extra nkeys"
)
