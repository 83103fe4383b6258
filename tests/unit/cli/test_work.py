"""The settings that a worker has."""

import argparse

import pytest

from wasmdrop.cli import work
from wasmdrop.settings import SETTINGS


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    work.add_arguments(parser)
    return parser.parse_args(words)


def test_work_has_flags_of_a_worker_only() -> None:
    """It finds no drops, and does not set the limits of jobs."""
    assert _parse("--fleet", "nats://127.0.0.1:4222").fleet == "nats://127.0.0.1:4222"
    for flag in ("--shared-dir", "--timeout-sec", "--signing-key", "--fleet-window"):
        with pytest.raises(SystemExit):
            _parse(flag, "1")


def test_work_settings_exist() -> None:
    """A renamed setting keeps its flag."""
    assert set(work.WORKER_SETTINGS) <= {setting.name for setting in SETTINGS}
