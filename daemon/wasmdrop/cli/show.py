"""``wasmdrop show``: show one job in the journal."""

import argparse
import sys
from typing import Final

from wasmdrop.cli import job_view
from wasmdrop.jobs import job_facts
from wasmdrop.jobs.journal.reader import JournalReader
from wasmdrop.protocol.text import indented

_EPILOG: Final = """\
For an open job the output says what the job waits for, and for how long. If it is piped, there
is one line for each fact; a message may have several lines, indented after the first.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = _EPILOG
    parser.add_argument("job", metavar="JOB", help="id of a job, or a unique part of it")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    job_view.add_state_dir(parser)


def run(options: argparse.Namespace) -> int:
    """Print the job."""
    with JournalReader(job_view.load(options).state_dir) as history:
        entry = history.find(options.job)
        first = history.first_open(entry.job.slot.key)
    if options.as_json:
        sys.stdout.write(job_facts.as_json(entry, first) + "\n")
        return 0
    facts = job_view.facts(entry, first)
    if sys.stdout.isatty():
        # Importing rich takes a while, and only a person needs it.
        from wasmdrop.cli import terminal  # noqa: PLC0415

        terminal.print_facts(facts)
    else:
        sys.stdout.writelines(f"{name} {indented(value)}\n" for name, value in facts)
    return 0
