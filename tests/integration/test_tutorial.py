"""Run the tutorials in docs: every command, and its output, as they stand there."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import JOB_USER, environment
from tests.support.examples import EXAMPLES
from tests.support.require import require_tools

DOCS: Final = EXAMPLES.parent / "docs"

#: Pages, and the port on each. Another test may use it, so the test takes a free one.
PAGES: Final = (("verify.md", "8089"), ("fleet.md", "4222"), ("hooks.md", "8765"))

#: A block of commands, and the output that the page shows for it.
STEP: Final = re.compile(r"(?ms)^```sh\n(.*?)^```(?:\n\n```(?:text|json)\n(.*?)^```)?")

TIMEOUT_SECONDS: Final = 300


def free_port() -> str:
    """Return a port of loopback that no process uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def script(steps: list[tuple[str, str]]) -> str:
    """Return the commands of all steps; the output of step N goes to ``N.out``."""
    return "\n".join(
        f"{{\n{commands}}} > {number}.out || exit {number + 1}"
        for number, (commands, _) in enumerate(steps)
    )


def unaligned(text: str) -> str:
    """Return a text whose columns are as wide as their content, which may differ here."""
    return re.sub("(?m) +$", "", re.sub("(?<=\\S) {2,}", " ", text)).rstrip()


@pytest.mark.parametrize(("page", "port"), PAGES)
def test_tutorial_commands_print_what_the_page_shows(tmp_path: Path, page: str, port: str) -> None:
    """In one shell, from the first process to the last directory that is removed."""
    require_tools("bash", "openssl")
    text = (DOCS / page).read_text().replace(port, free_port())
    steps: list[tuple[str, str]] = STEP.findall(text)
    assert len(steps) == text.count("```sh\n")
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("build"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script(steps)],
            cwd=tmp_path,
            env=environment(PATH=path, WASMDROP_JOB_USER=str(JOB_USER)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = shell.wait(TIMEOUT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the last step stopped all
                os.killpg(shell.pid, signal.SIGKILL)
    assert status == 0, (tmp_path / "log").read_text()
    for number, (commands, shown) in enumerate(steps):
        expected = re.escape(unaligned(shown)).replace("…", ".+")
        printed = unaligned((tmp_path / f"{number}.out").read_text())
        assert re.fullmatch(expected, printed), f"{commands}printed {printed}"
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix != ".out") == ["", ""]
