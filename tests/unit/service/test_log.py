"""The log as log collectors read it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import DEADLINE_SECONDS

SAY = """
import structlog
from wasmdrop.service import log
from wasmdrop.settings import LogFormat
log.configure(LogFormat(FORM))
structlog.get_logger().info("first", path="a")
structlog.get_logger().warning("second")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("third")
"""


#: What a hostile name or message may hold: a terminal's escapes, a C1 control, what ends a line for
#: some reader, an override of the direction, a deletion, and a byte that is not UTF-8.
EVIL = "a\x1b]0;owned\x07\r\nb\x9b31m\u0085c\u2028d\u2029e\u202ef\x7fg\udcffh é"
SHOWN = r"a\x1b]0;owned\x07\r\nb\x9b31m\x85c\u2028d\u2029e\u202ef\x7fg\udcffh é"

SAY_EVIL = f"""
import logging, pathlib, structlog, threading, warnings
from wasmdrop.service import log
from wasmdrop.settings import LogFormat
evil = {EVIL!a}
log.configure(LogFormat(FORM))
say = structlog.get_logger()
say.info("text", path=evil)
raw = evil.encode("utf-8", "surrogateescape")
say.info("nested", found={{evil: [evil, (pathlib.Path(evil), raw)]}})
say.info("keys", **{{evil: 1}})
say.info("numbers", big=10**30, real=0.5, none=None, no=False)
try:
    try:
        raise OSError(5, evil, evil)
    except OSError as error:
        error.add_note(evil)
        raise ExceptionGroup(evil, [ValueError(evil)]) from error
except ExceptionGroup:
    say.exception("error")
logging.getLogger("a.library").error("about %s", evil)
logging.getLogger("a.library").warning("%d", evil)
logging.getLogger("a.library").info("not told")
warnings.warn(evil)
thread = threading.Thread(target=lambda: {{}}[evil], name=evil)
thread.start()
thread.join()
class Odd:
    def __del__(self):
        raise ValueError(evil)
Odd()
raise RuntimeError(evil)
"""

#: Logs an error in the middle of an event, as a finalizer may do.
SAY_WITHIN = """
import structlog
from wasmdrop.service import log
from wasmdrop.settings import LogFormat
write = log.LogStream.write
def interrupted(stream, data):
    log.LogStream.write = write
    structlog.get_logger().error("within")
    return write(stream, data)
log.LogStream.write = interrupted
log.configure(LogFormat(FORM))
structlog.get_logger().info("outer")
"""
EVENTS = [
    "text",
    "nested",
    "keys",
    "numbers",
    "error",
    "library-logged",
    "library-logged",
    "library-warned",
    "error-uncaught",
    "error-uncaught",
    "error-uncaught",
]


def said(path: Path, form: str, journal: str | None, code: str = SAY) -> list[str]:
    """Return the lines of a process whose standard error is a file."""
    variables = {} if journal is None else {"JOURNAL_STREAM": journal}
    with path.open("wb") as stream:
        code = code.replace("FORM", repr(form))
        ended = subprocess.run(
            [sys.executable, "-c", code],
            stderr=stream,
            env=variables,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert ended.returncode == (1 if code.endswith("raise RuntimeError(evil)\n") else 0)
    return path.read_bytes().decode().split("\n")[:-1]


def test_log_json_is_one_object_a_line_with_tracebacks(tmp_path: Path) -> None:
    """For collectors that split at newlines; also if an outer process has a journal."""
    for journal in (None, "1:2"):
        lines = [json.loads(line) for line in said(tmp_path / "log", "json", journal)]
        assert [line["level"] for line in lines] == ["info", "warning", "error"]
        assert [line["event"] for line in lines] == ["first", "second", "third"]
        assert "ZeroDivisionError" in lines[2]["exception"]


def test_log_takes_an_event_in_the_middle_of_another(tmp_path: Path) -> None:
    """No lock is held that it would wait for."""
    lines = said(tmp_path / "log", "json", None, SAY_WITHIN)
    assert [json.loads(line)["event"] for line in lines] == ["within", "outer"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_log_systemd_journal_gets_priorities(tmp_path: Path, form: str) -> None:
    """As a prefix of the line."""
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


def test_log_json_escapes_terminal_controls_without_loss(tmp_path: Path) -> None:
    """In events of the daemon, of libraries and of Python; other bytes than UTF-8 stay readable."""
    lines = said(tmp_path / "log", "json", None, SAY_EVIL)
    assert [line for line in lines if not line.isprintable()] == []
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == EVENTS
    text, nested, keys, numbers, error, logged, unfit, warned, thread, odd, main = events
    readable = EVIL.replace("\udcff", "\\udcff")
    assert text["path"] == readable
    assert nested["found"] == {readable: [readable, [readable, readable]]}
    assert keys[readable] == 1
    assert (numbers["big"], numbers["real"]) == (str(10**30), 0.5)
    assert (numbers["none"], numbers["no"]) == (None, False)
    assert f"OSError: [Errno 5] {SHOWN}: " in error["exception"]
    assert (logged["logger"], logged["level"]) == ("a.library", "error")
    assert logged["message"] == f"about {readable}"
    assert unfit["message"].startswith("%d (")
    assert (warned["category"], warned["message"]) == ("UserWarning", readable)
    assert (thread["where"], main["where"]) == (readable, "main")
    assert f"RuntimeError: {SHOWN}" in main["exception"].split("\n")
    assert "Odd.__del__" in odd["where"]


def test_log_console_event_is_one_line_without_terminal_controls(tmp_path: Path) -> None:
    """Lines of tracebacks are indented, and a message of an error can't begin one."""
    lines = said(tmp_path / "log", "console", None, SAY_EVIL)
    assert [line for line in lines if not line.isprintable()] == []
    starts = [line for line in lines if not line.startswith((" ", "Traceback "))]
    events = [line.partition("] ")[2].split()[0] for line in starts]
    assert events == EVENTS
    assert SHOWN.replace("\\", "\\\\") in starts[0]
    assert f"  RuntimeError: {SHOWN}" in lines
    assert sum(line.startswith("Traceback ") for line in lines) == 4
