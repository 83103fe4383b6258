"""``wasmdrop cancel``: jobs whose end was decided before."""

import argparse
import asyncio
from pathlib import Path

import pytest

from wasmdrop.cli import cancel
from wasmdrop.jobs.job import DecidedEnd, Job
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import Slot


def test_cancel_of_a_refused_job_that_waits_in_its_slot_says_how_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its results follow those of the job before it, and it is not requested."""
    slot = Slot("input.json", str(tmp_path / "input.json"), str(tmp_path), "result")
    refused = "20260101T000000Z-0123456789"

    async def accept() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        await journal.accept(Job("20260101T000000Z-0000000000", slot, 1), None, {})
        end = DecidedEnd(Code.QUEUE_LIMIT, "too many")
        await journal.accept(Job(refused, slot, 2, end=end), None, {})
        await journal.close()

    asyncio.run(accept())
    options = argparse.Namespace(jobs=[refused], state_dir=str(tmp_path))
    assert cancel.run(options) == 1
    out, err = capsys.readouterr()
    assert (out, "it had already ended: queue-limit: too many" in err) == ("", True)
    assert not (tmp_path / "cancel").exists()
