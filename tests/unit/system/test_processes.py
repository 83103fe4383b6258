"""Helper processes: their command line, and their end with the daemon."""

import os
import subprocess
from pathlib import Path

import pytest

from wasmdrop.system.processes import python_command

PROGRAM = """
import sys
from wasmdrop.system.processes import die_with_parent

def main(parent, *words):
    die_with_parent(parent)
    print(words, "site" in sys.modules, flush=True)
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module that prints its arguments."""
    (tmp_path / "helper.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)


def output_of(parent: int, *words: object) -> str:
    """Return the output of the program, which must succeed."""
    command = python_command("helper", parent, *words)
    return subprocess.run(command, env={}, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_python_command_passes_arguments_and_loads_no_site() -> None:
    """Text, bytes and negative numbers."""
    assert output_of(os.getpid(), "a b", b"\xff", -1) == "('a b', b'\\xff', -1) False\n"


def test_die_with_parent_of_dead_parent_exits() -> None:
    """Before the process does anything else."""
    assert output_of(0) == ""
