"""Logging: one event name for each thing that happens, on standard error.

Result lines are not logs: they go to standard output, see :mod:`wasmdrop.delivery`.
"""

import sys

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from wasmdrop.settings import LogFormat

__all__ = ["configure"]


def configure(form: LogFormat, level: str = "info") -> None:
    """Send structlog's events of ``level`` and above to standard error in ``form``."""
    renderer: structlog.typing.Processor
    if form is LogFormat.JSON:
        renderer = _render_json
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
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


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
