"""Shared by the commands that read the journal: its location, and how they show a job."""

import argparse
import os

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_config_flag, config_flag
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.job_facts import seconds_of, why
from wasmdrop.jobs.journal.reader import JournalEntry
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.slot import InputFile, PinnedModule
from wasmdrop.protocol.text import bounded_text, one_line
from wasmdrop.settings import Settings


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the directory of the journal, and the configuration file."""
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="state directory of the daemon (default: from WASMDROP_STATE_DIR, the configuration"
        " file or systemd's STATE_DIRECTORY, as the daemon does, else /var/lib/wasmdrop)",
    )
    add_config_flag(parser)


def load(options: argparse.Namespace) -> Settings:
    """Return the settings of the flags, the environment and the configuration file."""
    return settings.load(os.environ, flags(options), runs_jobs=False).settings


def flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the flags that were given, by the name of the setting, and ``config``."""
    given = config_flag(options)
    if options.state_dir is not None:
        given["state_dir"] = options.state_dir
    return given


def shown_seconds(seconds: float) -> str:
    """Return a duration for a person."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:  # noqa: PLR2004 - then minutes say more
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def facts(entry: JournalEntry, first: Job | None) -> list[tuple[str, str]]:
    """Return facts of a job by name, each except the message in one line."""
    job = entry.job
    state = f"{job.state}, {'for' if not job.state.is_final else 'after'} "
    rows = [
        ("job", job.id),
        ("slot", job.slot.key),
        ("state", state + shown_seconds(seconds_of(entry))),
        ("why", "" if job.state.is_final else why(entry, first)),
        ("code", job.code or ""),
        ("message", job.message),
        ("attempts", str(job.attempt)),
        ("worker", job.worker or ""),
        ("id", job.producer_id or ""),
        ("input", _describe(job.input) or "none"),
        ("kept", "the input is kept in the journal" if entry.has_input else ""),
        (
            "module",
            _describe(job.module) or f"not read yet; {job.module_reference or 'the default'}",
        ),
        ("dropped", timestamp(job.dropped_at_ns)),
        ("started", _time(job.started_at_ns) or ""),
        ("finished", _time(job.finished_at_ns) or ""),
        ("changed", timestamp(entry.changed_at_ns)),
    ]
    return [
        (name, bounded_text(value) if name == "message" else one_line(value))
        for name, value in rows
        if value
    ]


def _describe(file: InputFile | PinnedModule | None) -> str:
    if file is None:
        return ""
    size = "no regular file" if file.size_bytes is None else f"{file.size_bytes} bytes"
    digest = "not read" if file.sha256 is None else f"sha256:{file.sha256}"
    return f"{file.path}, {size}, {digest}"


def _time(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else timestamp(nanoseconds)
