"""Fixtures: one container engine for the tests of a file; `make test` distributes whole files."""

from collections.abc import Iterator

import pytest

from tests.support.deploy.engine import Engine, engine


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give an engine with the image built from the present sources."""
    with engine(tmp_path_factory.mktemp("engine")) as it:
        yield it
