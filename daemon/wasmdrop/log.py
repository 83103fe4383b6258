"""Logging: one event name for each thing that happens, on standard error.

Result lines are not logs: they go to standard output, see :mod:`wasmdrop.delivery`.

Where standard error is systemd's journal, each line begins with its priority, which the journal
takes away again (sd-daemon(3)): ``journalctl --priority=warning`` then shows what it should.
"""

import os
import sys
from typing import Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from wasmdrop.settings import LogFormat

__all__ = ["configure"]

#: syslog(3)'s numbers, as the journal knows them.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(form: LogFormat, level: str = "info") -> None:
    """Send structlog's events of ``level`` and above to standard error in ``form``."""
    renderer: structlog.typing.Processor
    if form is LogFormat.JSON:
        renderer = _render_json
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    if _is_journal(sys.stderr):
        renderer = _prioritized(renderer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Make file names that are not UTF-8 fit to be written."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isascii():
            event[key] = value.encode("utf-8", "backslashreplace").decode()
    return event


def _is_journal(stream: TextIO) -> bool:
    """Return whether systemd reads ``stream``; a redirected one it does not (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # closed, or none of the kernel's
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _prioritized(render: structlog.typing.Processor) -> structlog.typing.Processor:
    def rendered(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        return f"<{priority}>{render(logger, name, event)!s}"

    return rendered


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
