"""Fixtures for the tests of the host's side of the sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.support.module_cache import Clock


@pytest.fixture(autouse=True)
def _fresh_loggers() -> Iterator[None]:
    """Undo the logging configuration of earlier tests."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return an empty state directory."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path
