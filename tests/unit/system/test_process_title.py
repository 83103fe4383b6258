"""Process titles, as other processes see them in ``/proc``."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

from wasmdrop.system.processes import python_command

PROGRAM = """
import os, sys
from wasmdrop.system.process_title import set_process_name, set_process_title

def main(times, *titles):
    for title in titles:
        set_process_title(title * times)
    if not titles:
        set_process_name(b"named")
    if os.fork():
        os.wait()
    for name in ("cmdline", "comm", "environ"):
        print(repr(open(f"/proc/{os.getpid()}/{name}", "rb").read()), flush=True)
"""


def seen(path: Path, *titles: str, times: int = 1) -> list[list[bytes]]:
    """Return command line, name and environment of a process with titles, of its child first."""
    (path / "titled.py").write_text(PROGRAM)
    command = python_command("titled", times, *titles)
    done = subprocess.run(command, env={"A": "b"}, stdout=subprocess.PIPE, text=True, check=True)
    found = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    return [found[:3], found[3:]]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a process import the program."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("titles", [["short"], ["a title of many words", "x"], ["über \udcff"]])
def test_title_is_command_line_and_name(path: Path, titles: list[str]) -> None:
    """The last one, also of a child; the environment, which lies behind it, stays."""
    text = os.fsencode(titles[-1])
    assert seen(path, *titles) == [[text + b"\0", text[:15] + b"\n", b"A=b\0"]] * 2


def test_title_of_any_length_stays_in_the_command_line(path: Path) -> None:
    """It is cut, and the environment is not overwritten."""
    for line, name, environment in seen(path, "t", times=100_000):
        assert set(line) == {ord("t"), 0}
        assert (name, environment) == (b"t" * 15 + b"\n", b"A=b\0")


def test_name_alone_keeps_the_command_line(path: Path) -> None:
    """As the daemon has it, whose command line tells how it was started."""
    for line, name, _environment in seen(path):
        assert b"titled" in line
        assert name == b"named\n"
