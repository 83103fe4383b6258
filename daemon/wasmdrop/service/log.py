"""Logging: one event name for each kind of event, on standard error.

Guarantees:

- Logging never fails and never blocks. Lines that can't be written, because a pipe or the disk is
  full, are dropped and counted (``log-lines-dropped``).
- Nothing else is written between the events: records of ``logging``, warnings and uncaught errors
  become events, too.
- An event is one line and can't control a terminal, whatever file names and error messages it
  contains. In console form the lines of a traceback follow it, indented after the first.

If standard error is systemd's journal, each line begins with its priority, which the journal
removes (sd-daemon(3)), so that ``journalctl --priority=warning`` works.

Result lines are not logs: they go to standard output, see :mod:`wasmdrop.delivery`.
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

_log = structlog.get_logger()

#: The priorities of syslog(3).
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

_STDERR: Final = 2

#: How long the end of the process waits for a reader of the last lines, in seconds.
_FLUSH_SECONDS: Final = 2.0

#: The beginning of a stack entry in a traceback, also inside an exception group.
_FRAME: Final = re.compile(r'[ |+]*  File "')

#: Integers that every JSON parser can represent.
_INTEGERS: Final = range(-(1 << 63), 1 << 64)


def configure(form: LogFormat, level: str = "info") -> None:
    """Send all events of ``level`` and above to standard error in ``form``.

    Events are those of structlog, and as ``library-logged``, ``library-warned`` and
    ``error-uncaught`` the records of ``logging`` (warnings and above), warnings, and errors that
    end a thread or the process. Other writes to ``sys.stderr`` go through the same queue.
    """
    encoding, stream = sys.stderr.encoding, LogStream()
    sys.stderr = io.TextIOWrapper(stream, encoding, "backslashreplace", write_through=True)
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
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.ExceptionRenderer(_traceback),
            fit,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_names: _Logger(stream, encoding),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Handler()], level=logging.WARNING, force=True)
    warnings.showwarning = _show_warning
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def flush() -> None:
    """Wait until the lines so far are written: for a process that ends without exit handlers."""
    stream = getattr(sys.stderr, "buffer", None)
    if isinstance(stream, LogStream):
        stream.drain()


class LogStream(io.RawIOBase):
    """Standard error, written by an output thread."""

    def __init__(self) -> None:
        self._outlet = OutputThread(_STDERR, lambda _reason: None, _tell_dropped)
        atexit.register(self.drain)

    def write(self, data: "ReadableBuffer") -> int:
        """Queue a line; never raises."""
        line = bytes(data)
        self._outlet.put(line)
        return len(line)

    def drain(self) -> None:
        """Wait until the lines so far are written, or their reader is too slow."""
        self._outlet.flush(_FLUSH_SECONDS)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for code that writes without Python."""
        return _STDERR

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(_STDERR)


class _Logger:
    """Writes events to a stream.

    Not one of structlog, which hold a lock meanwhile: a finalizer may run at any moment, also in
    the middle of an event, and log an error.
    """

    def __init__(self, stream: LogStream, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding

    def msg(self, line: str) -> None:
        """Write an event."""
        self._stream.write(f"{line}\n".encode(self._encoding, "backslashreplace"))

    debug = info = warning = error = critical = exception = log = msg


def _tell_dropped(total: int) -> None:
    _log.warning("log-lines-dropped", total=total)


# --- Events of other libraries


class _Handler(logging.Handler):
    """Logs each record of ``logging`` as an event."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record; unformatted if its arguments do not fit its message."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - as in `logging`: a bad record must not raise
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
    del file, line
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


# --- Rendering


def _traceback(exc_info: ExcInfo) -> str:
    """Return the lines of a traceback, with each error message on one line."""
    parts = traceback.TracebackException(*exc_info).format()
    return "\n".join(
        escaped(part, "\n") if _FRAME.match(part) else one_line(part)
        for part in (part.strip("\n") for part in parts)
    )


def _for_console(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Escape every value for a terminal.

    The renderer shows nested values as their ``repr``, in which strings are escaped.
    """
    fit: dict[str, Any] = {}
    for key, value in event.items():
        plain = _plain(value)
        if isinstance(plain, str):
            # A traceback is escaped already and keeps its lines.
            plain = indented(plain) if key == "exception" else one_line(plain)
        fit[one_line(key)] = plain
    return fit


def _for_json(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    plain: EventDict = _plain(event)
    return plain


def _plain(value: object) -> Any:
    """Return ``value`` made of JSON types; other types as their text.

    Surrogates, which stand for bytes that are not UTF-8, are escaped: they can't be encoded.
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
    """Return whether ``stream`` goes to systemd's journal (systemd.exec(5)), not redirected."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # closed, or without a descriptor
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _prioritized(render: Processor) -> Processor:
    def rendered(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        return f"<{priority}>{render(logger, name, event)!s}"

    return rendered


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return json_escaped(msgspec.json.encode(event).decode())
