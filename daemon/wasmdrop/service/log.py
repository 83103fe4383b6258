"""Logging: one event name for each thing that happens, on standard error.

Logging never fails and never waits: lines that can't be written, because nobody reads a full pipe
or the disk is full, are dropped and counted (``log-lines-dropped``).

Promises that nothing else stands there between the events, whichever library speaks: records of
``logging``, warnings, and errors that nobody caught become events too. Names of files and texts of
errors are written by others: whatever is in them, an event is one line and acts on no terminal. In
console form the lines of a traceback follow it, all but the first of them indented.

Result lines are not logs: they go to standard output, see :mod:`wasmdrop.delivery`.

Where standard error is systemd's journal, each line begins with its priority, which the journal
takes away again (sd-daemon(3)): ``journalctl --priority=warning`` then shows what it should.
"""

import atexit
import io
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from wasmdrop.protocol.text import escaped, indented, json_escaped, one_line
from wasmdrop.settings import LogFormat
from wasmdrop.system.output_thread import OutputThread

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["configure"]

_log = structlog.get_logger()

#: syslog(3)'s numbers, as the journal knows them.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_STDERR: Final = 2

#: How long the end of the process waits for a reader of the last lines, in seconds.
_FLUSH_SECONDS: Final = 2.0

#: How one entry of a traceback's stack begins, also inside a group.
_FRAME: Final = re.compile(r'[ |+]*  File "')

#: Integers that every reader of JSON can hold.
_INTEGERS: Final = range(-(1 << 63), 1 << 64)


def configure(form: LogFormat, level: str = "info") -> None:
    """Send all events of ``level`` and above to standard error in ``form``.

    Those are structlog's, and as ``library-logged``, ``library-warned``, ``error-uncaught``: what
    others say through ``logging`` (warnings and above) and ``warnings``, and the errors that end a
    thread or the process. Whatever else is written to ``sys.stderr`` takes the same way.
    """
    encoding = sys.stderr.encoding
    sys.stderr = io.TextIOWrapper(LogStream(), encoding, "backslashreplace", write_through=True)
    renderer: Processor
    if form is LogFormat.JSON:
        fit, renderer = _for_json, _render_json
    else:
        fit = _for_console
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    if _is_journal(sys.stderr):
        renderer = _prioritized(renderer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.ExceptionRenderer(_traceback),
            fit,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Handler()], level=logging.WARNING, force=True)
    warnings.showwarning = _show_warning
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


class LogStream(io.RawIOBase):
    """Standard error by way of an outlet."""

    def __init__(self) -> None:
        self._outlet = OutputThread(_STDERR, lambda _reason: None, _tell_dropped)
        atexit.register(self._outlet.flush, _FLUSH_SECONDS)

    def write(self, data: "ReadableBuffer") -> int:
        """Write a line soon; raises nothing."""
        line = bytes(data)
        self._outlet.put(line)
        return len(line)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for what writes past Python."""
        return _STDERR

    def isatty(self) -> bool:
        """Return whether a terminal shows it."""
        return os.isatty(_STDERR)


def _tell_dropped(total: int) -> None:
    _log.warning("log-lines-dropped", total=total)


# --- What others say


class _Handler(logging.Handler):
    """Makes an event of each record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record. One whose arguments do not fit is told unformatted."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - as `logging` does: a bad record stops nobody
            message = f"{record.msg} {record.args!r}"
        _log.log(
            min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL),
            "library-logged",
            logger=record.name,
            message=message,
            exc_info=record.exc_info,
        )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line  # all is said in one place and one form
    at = f"{filename}:{lineno}"
    _log.warning("library-warned", category=category.__name__, message=str(message), at=at)


def _uncaught(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    _log.critical("error-uncaught", where="main", exc_info=error)


def _uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:
        name = found.thread.name if found.thread else "a thread"
        _log.critical("error-uncaught", where=name, exc_info=found.exc_value)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    where = f"{found.err_msg or 'Exception ignored in'} {found.object!r}"
    _log.error("error-uncaught", where=where, exc_info=found.exc_value)


# --- How it is shown


def _traceback(exc_info: ExcInfo) -> str:
    """Return the lines of a traceback, but each message of an error in one."""
    parts = traceback.TracebackException(*exc_info).format()
    return "\n".join(
        escaped(part, "\n") if _FRAME.match(part) else one_line(part)
        for part in (part.strip("\n") for part in parts)
    )


def _for_console(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Make every value fit for a terminal; the renderer quotes those whose ends could not be seen.

    Of nested values it shows the ``repr``, in which strings are escaped.
    """
    fit: dict[str, Any] = {}
    for key, value in event.items():
        plain = _plain(value)
        if isinstance(plain, str):
            # A traceback is fit already, and keeps its own lines.
            plain = indented(plain) if key == "exception" else one_line(plain)
        fit[one_line(key)] = plain
    return fit


def _for_json(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    plain: EventDict = _plain(event)
    return plain


def _plain(value: object) -> Any:
    """Return ``value`` made of what JSON has; anything else as its text.

    What stands for bytes that are not UTF-8 is escaped: no encoding takes it.
    """
    if isinstance(value, str):
        if value.isascii():
            return str(value)
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value in _INTEGERS:
        return int(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return _plain(os.fsdecode(value) if isinstance(value, bytes) else str(value))


def _is_journal(stream: TextIO) -> bool:
    """Return whether systemd reads ``stream``; a redirected one it does not (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # closed, or none of the kernel's
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _prioritized(render: Processor) -> Processor:
    def rendered(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        return f"<{priority}>{render(logger, name, event)!s}"

    return rendered


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return json_escaped(msgspec.json.encode(event).decode())
