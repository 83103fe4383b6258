"""The log, as those who collect it read it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import structlog
from wasmdrop import log
from wasmdrop.settings import LogFormat
log.configure(LogFormat(FORM))
structlog.get_logger().info("first", path="a")
structlog.get_logger().warning("second")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("third")
"""


def said(path: Path, form: str, journal: str | None) -> list[str]:
    """Return the lines of a process whose standard error is a file."""
    variables = {} if journal is None else {"JOURNAL_STREAM": journal}
    with path.open("wb") as stream:
        code = SAY.replace("FORM", repr(form))
        subprocess.run([sys.executable, "-c", code], stderr=stream, env=variables, check=True)
    return path.read_text().splitlines()


def test_json_is_one_object_a_line_tracebacks_included(tmp_path: Path) -> None:
    """For collectors that cut at newlines; also where an outer program has a journal."""
    for journal in (None, "1:2"):
        lines = [json.loads(line) for line in said(tmp_path / "log", "json", journal)]
        assert [line["level"] for line in lines] == ["info", "warning", "error"]
        assert [line["event"] for line in lines] == ["first", "second", "third"]
        assert "ZeroDivisionError" in lines[2]["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_journal_is_told_priorities(tmp_path: Path, form: str) -> None:
    """Before the line, where it takes them from."""
    path = tmp_path / "log"
    path.touch()
    status = path.stat()
    lines = said(path, form, f"{status.st_dev}:{status.st_ino}")
    found = {priority: line for priority in "643" for line in lines if line[:3] == f"<{priority}>"}
    assert list(found) == ["6", "4", "3"]
    for line, event in zip(found.values(), ("first", "second", "third"), strict=True):
        assert event in line
        if form == "json":
            assert json.loads(line[3:])["event"] == event
