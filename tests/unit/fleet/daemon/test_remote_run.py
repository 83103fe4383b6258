"""One attempt in the fleet: every way from its publication to its outcome."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.fleet.doubles import CALL, FakeFleet, settle
from wasmdrop.fleet.daemon.availability import AWAY_SECONDS
from wasmdrop.fleet.daemon.metrics import Reason, Verdict
from wasmdrop.fleet.daemon.publications import Lost
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import Blob, GivenUp, JobMessage, Ran, Returned
from wasmdrop.fleet.names import (
    input_chunks_filter,
    outcome_subject,
    output_chunk_subject,
    output_chunks_filter,
)
from wasmdrop.fleet.transport.connection import Stored
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import own_versions

Scenario = Callable[[FakeFleet], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Return a function that plays a scenario with a fleet."""

    def run(scenario: Scenario, *, runs_here: bool = True) -> None:
        async def main() -> None:
            await scenario(FakeFleet(tmp_path, runs_here=runs_here))

        asyncio.run(main())

    return run


def test_run_answered_job_has_the_outcome_and_the_worker(play: Callable[..., None]) -> None:
    """Its answer is acknowledged when its results are safe, and not before."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        assert (message.job, message.attempt, message.generation) == ("job", 1, 0)
        assert message.attempts == 3
        assert fleet.connection.ids == ["job.1.0"]
        assert fleet.metrics.unanswered == 1
        lease = fleet.answer(message, await fleet.ran(message, "done"))
        outcome = await running
        assert (outcome.code, outcome.message, outcome.worker) == (Code.OK, "done", "w1")
        assert outcome.runtime == own_versions()
        await fleet.cleanup.flush()
        assert not lease.is_acknowledged
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        assert fleet.metrics.unanswered == 0
        assert fleet.metrics.published[Reason.NEW] == 1
        assert fleet.metrics.answers[Verdict.RAN] == 1
        assert await fleet.purged() == []

    play(scenario)


def test_run_answer_delivered_again_is_acknowledged_once_safe(play: Callable[..., None]) -> None:
    """A delivery of results may take longer than the lease on the answer."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        content = await fleet.ran(message)
        fleet.answer(message, content)
        await running
        again = fleet.answer(message, content)
        await fleet.cleanup.flush()
        assert not again.is_acknowledged
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        assert again.is_acknowledged
        assert fleet.metrics.answers[Verdict.LATE] == 0

    play(scenario)


def test_run_two_answers_are_one_outcome(play: Callable[..., None]) -> None:
    """Two workers may run a job after a lease lapsed; the first answer wins."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        first = await fleet.published()
        fleet.job().put(Lost(0, Reason.LOST))
        second = await fleet.published(2)
        assert second.generation == 1
        assert second.ticket != first.ticket
        fleet.answer(first, await fleet.ran(first, "first"))
        late = fleet.answer(second, await fleet.ran(second, "second"))
        assert (await running).message == "first"
        await fleet.cleanup.flush()
        assert late.is_acknowledged
        assert fleet.metrics.answers[Verdict.LATE] == 1
        later = fleet.answer(second, await fleet.ran(second, "third"))
        await fleet.cleanup.flush()
        assert later.is_acknowledged
        assert fleet.metrics.answers[Verdict.LATE] == 2
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        # A worker of either generation may have left chunks that no answer names.
        assert len(await fleet.purged()) == 2

    play(scenario)


def test_run_lost_generation_that_is_not_current_changes_nothing(
    play: Callable[..., None],
) -> None:
    """The news may be about a generation that was replaced meanwhile."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.job().put(Lost(7, Reason.LOST))
        await settle()
        assert len(fleet.connection.jobs) == 1
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_run_occupied_subject_counts_as_published(play: Callable[..., None]) -> None:
    """The job is still queued: an earlier daemon, or an earlier request, put it there."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.replies.append(Stored.OCCUPIED)
        running = fleet.begin(is_resumed=True)
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running
        assert fleet.metrics.published[Reason.RESUMED] == 1

    play(scenario)


def test_run_full_store_waits_and_says_why(play: Callable[..., None]) -> None:
    """A full store is back-pressure: the job neither fails nor runs here."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.replies += [Stored.FULL, Stored.FULL]
        running = fleet.begin()
        await fleet.until(lambda: "waits for the fleet, whose store is full" in fleet.notes)
        assert fleet.connection.jobs == []
        for _ in range(2):
            await settle()
            fleet.availability.check()
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running
        assert fleet.local.begun == 0

    play(scenario)


def test_run_returned_job_is_published_again_after_growing_pauses(
    play: Callable[..., None],
) -> None:
    """It was not run, so nothing is counted; its answer is acknowledged at once."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        for generation in range(5):
            message = await fleet.published(generation + 1)
            assert (message.attempt, message.generation) == (1, generation)
            lease = fleet.answer(message, Returned("it stops"))
        await fleet.until(lambda: len(fleet.pauses) == 5)
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        assert fleet.pauses[4] > fleet.pauses[0]
        assert "returned by worker w1: it stops" in fleet.notes
        message = await fleet.published(6)
        fleet.answer(message, await fleet.ran(message))
        assert (await running).attempts == 1
        assert fleet.metrics.published[Reason.RETURNED] == 5

    play(scenario)


def test_run_returned_job_of_an_old_generation_changes_nothing(play: Callable[..., None]) -> None:
    """The current generation is in the fleet already."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        first = await fleet.published()
        fleet.job().put(Lost(0, Reason.OVERDUE))
        second = await fleet.published(2)
        fleet.answer(first, Returned("it stops"))
        await settle()
        assert len(fleet.connection.jobs) == 2
        fleet.answer(second, await fleet.ran(second))
        await running

    play(scenario)


def test_run_returned_for_its_module_uploads_it_again(play: Callable[..., None]) -> None:
    """The stream of modules drops the oldest chunks, also those that are still needed."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        chunks = [subject for subject in fleet.connection.messages if ".module." in subject]
        assert chunks
        for subject in chunks:
            del fleet.connection.messages[subject]
        fleet.answer(message, Returned("chunks are missing", needs_module=True))
        message = await fleet.published(2)
        assert set(chunks) <= fleet.connection.messages.keys()
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_run_returned_by_all_runs_here_too(play: Callable[..., None]) -> None:
    """No worker may be able to run it; this machine compiled it."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        for generation in range(8):
            message = await fleet.published(generation + 1)
            fleet.answer(message, Returned("it can't be compiled"))
        await fleet.until(lambda: fleet.local.begun)
        fleet.local.end.set_result(Outcome(code=Code.OK, message="here"))
        assert (await running).message == "here"
        assert fleet.metrics.fallback_runs == 1

    play(scenario)


def test_run_given_up_after_as_many_starts_ends_as_crashed(play: Callable[..., None]) -> None:
    """Workers died on it: all attempts are used up."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        for delivery in (1, 2, 3):
            fleet.started(message, delivery)
        lease = fleet.answer(message, GivenUp(4))
        outcome = await running
        assert (outcome.code, outcome.attempts) == (Code.CRASHED, 3)
        await fleet.cleanup.flush()
        assert not lease.is_acknowledged

    play(scenario)


def test_run_given_up_in_a_later_attempt_uses_up_the_rest(play: Callable[..., None]) -> None:
    """The attempts before count, too."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin(number=2)
        message = await fleet.published()
        assert message.attempts == 2
        fleet.started(message, 1)
        fleet.started(message, 2)
        fleet.answer(message, GivenUp(3))
        assert (await running).attempts == 2

    play(scenario)


def test_run_given_up_without_starts_is_published_again_until_the_third(
    play: Callable[..., None],
) -> None:
    """Leases that lapse on a broken network count as no deaths, up to a limit."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        for generation in range(3):
            message = await fleet.published(generation + 1)
            assert message.generation == generation
            assert not running.done()
            fleet.answer(message, GivenUp(4))
        outcome = await running
        assert (outcome.code, outcome.attempts) == (Code.CRASHED, 3)
        assert fleet.metrics.published[Reason.GIVEN_UP] == 2

    play(scenario)


def bad_data(_fleet: FakeFleet, _message: JobMessage) -> bytes:
    """Return bytes that are no answer."""
    return b"\xc1"


def another_job(fleet: FakeFleet, message: JobMessage) -> bytes:
    """Return an answer to a job that its ticket is not for."""
    return fleet.answer_data(message, Returned(""), job="other")


def bad_code(fleet: FakeFleet, message: JobMessage) -> bytes:
    """Return an answer with an outcome that does not decode."""
    return fleet.answer_data(message, Ran(b"\xc1", None, own_versions()))


def chunks_gone(fleet: FakeFleet, message: JobMessage) -> bytes:
    """Return an answer whose outcome is in chunks that are too many."""
    blob = Blob("0" * 64, 1 << 40, "0" * 32)
    return fleet.answer_data(message, Ran(blob, None, own_versions()))


@pytest.mark.parametrize("forge", [bad_data, another_job, bad_code, chunks_gone])
def test_run_invalid_answer_is_published_again_and_internal_the_third_time(
    play: Callable[..., None], forge: Callable[[FakeFleet, JobMessage], bytes]
) -> None:
    """It is not counted as an attempt: another worker may do better."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        leases = []
        for generation in range(3):
            message = await fleet.published(generation + 1)
            assert (message.attempt, message.generation) == (1, generation)
            leases.append(fleet.deliver(message.ticket, forge(fleet, message)))
        outcome = await running
        assert (outcome.code, outcome.attempts) == (Code.INTERNAL, 1)
        assert "3 answers that are not valid" in outcome.message
        await fleet.cleanup.flush()
        assert [lease.is_acknowledged for lease in leases] == [True, True, False]
        assert fleet.metrics.answers[Verdict.INVALID] == 3
        assert fleet.metrics.published[Reason.INVALID] == 2

    play(scenario)


def test_run_returned_job_leaves_no_parts_of_its_output(play: Callable[..., None]) -> None:
    """A worker that finds no room in a full store has filled what there was."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.answer(message, Returned("its output could not be stored"))
        again = await fleet.published(2)
        assert await fleet.purged() == [output_chunks_filter("d", message.ticket)]
        fleet.answer(again, await fleet.ran(again))
        await running

    play(scenario)


def test_run_resumed_job_takes_the_answer_that_waits(play: Callable[..., None]) -> None:
    """It is not published again."""

    async def scenario(fleet: FakeFleet) -> None:
        ticket = fleet.tickets.ticket("job", 1, 0)
        running = fleet.begin()
        message = await fleet.published()
        data = fleet.answer_data(message, await fleet.ran(message, "waited"))
        running.cancel()
        await asyncio.wait([running])
        fleet.connection.messages[outcome_subject("d", ticket)] = data
        outcome = await fleet.begin(is_resumed=True)
        assert outcome.message == "waited"
        assert len(fleet.connection.jobs) == 1
        lease = fleet.deliver(ticket, data)
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        # The daemon that sent the call knew whether it was large.
        assert input_chunks_filter("d", ticket) in await fleet.purged()
        assert fleet.metrics.answers[Verdict.RAN] == 1

    play(scenario)


def test_run_resumed_job_with_returned_answer_judges_it_once(play: Callable[..., None]) -> None:
    """It is found in the stream, and then delivered."""

    async def scenario(fleet: FakeFleet) -> None:
        ticket = fleet.tickets.ticket("job", 1, 0)
        running = fleet.begin()
        message = await fleet.published()
        running.cancel()
        await asyncio.wait([running])
        data = fleet.answer_data(message, GivenUp(4))
        fleet.connection.messages[outcome_subject("d", ticket)] = data
        running = fleet.begin(is_resumed=True)
        again = await fleet.published(2)
        assert again.generation == 1
        lease = fleet.deliver(ticket, data)
        await settle()
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        assert fleet.metrics.answers[Verdict.GIVEN_UP] == 1
        assert len(fleet.connection.jobs) == 2
        fleet.answer(again, await fleet.ran(again))
        await running

    play(scenario)


def test_run_cancelled_leaves_its_answer_to_the_next_daemon(play: Callable[..., None]) -> None:
    """The job is open: its answer is not acknowledged, also if it came before."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.executor.detach()
        before = fleet.answer(message, await fleet.ran(message))
        await asyncio.wait([running])
        assert running.cancelled()
        after = fleet.answer(message, await fleet.ran(message))
        await fleet.cleanup.flush()
        assert not before.is_acknowledged
        assert not after.is_acknowledged
        assert fleet.metrics.unanswered == 0
        with pytest.raises(asyncio.CancelledError):
            await fleet.begin("other")

    play(scenario)


def test_run_published_job_also_runs_here_while_the_fleet_is_away(
    play: Callable[..., None],
) -> None:
    """The first outcome wins: here, that of this machine."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.connection.is_connected = False
        fleet.connection.away_seconds = AWAY_SECONDS - 1
        fleet.availability.check()
        await settle()
        assert fleet.local.begun == 0
        fleet.connection.away_seconds = AWAY_SECONDS
        fleet.availability.check()
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.local.end.set_result(Outcome(code=Code.OK, message="here"))
        outcome = await running
        assert (outcome.message, outcome.worker) == ("here", None)
        late = fleet.answer(message, await fleet.ran(message))
        await fleet.cleanup.flush()
        assert late.is_acknowledged

    play(scenario)


def test_run_answer_that_comes_first_ends_the_run_here(play: Callable[..., None]) -> None:
    """The connection came back in time."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.connection.is_connected = False
        fleet.connection.away_seconds = AWAY_SECONDS
        fleet.availability.check()
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.answer(message, await fleet.ran(message, "there"))
        assert (await running).message == "there"
        assert fleet.local.cancelled == 1

    play(scenario)


def test_run_published_job_waits_for_its_answer_with_wait(play: Callable[..., None]) -> None:
    """Nothing runs here, however long the fleet is away."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        fleet.connection.is_connected = False
        fleet.connection.away_seconds = 3600.0
        fleet.availability.check()
        await settle()
        assert fleet.local.begun == 0
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario, runs_here=False)


def test_run_unpublished_job_runs_here_when_the_fleet_is_away(play: Callable[..., None]) -> None:
    """It is not published afterwards."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.failure = FleetUnavailableError("no answer within 10 s")
        running = fleet.begin()
        await fleet.until(lambda: any("does not answer" in note for note in fleet.notes))
        fleet.now += AWAY_SECONDS
        fleet.availability.check()
        await fleet.until(lambda: fleet.local.begun == 1)
        fleet.connection.failure = None
        fleet.local.end.set_result(Outcome(code=Code.OK))
        await running
        assert fleet.connection.jobs == []

    play(scenario)


def test_run_unpublished_job_is_published_when_the_fleet_is_back(
    play: Callable[..., None],
) -> None:
    """A short failure is nothing but a delay."""

    async def scenario(fleet: FakeFleet) -> None:
        fleet.connection.failure = FleetUnavailableError("no leader")
        running = fleet.begin()
        await fleet.until(lambda: any("no leader" in note for note in fleet.notes))
        fleet.connection.failure = None
        fleet.availability.check()
        message = await fleet.published()
        fleet.answer(message, await fleet.ran(message))
        await running
        assert fleet.local.begun == 0

    play(scenario)


def test_run_answer_whose_chunks_can_not_be_asked_for_is_kept(play: Callable[..., None]) -> None:
    """The connection broke between the answer and its chunks."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        large = await fleet.ran(message, "x" * 100)
        assert isinstance(large.outcome, bytes)
        data = large.outcome
        blob = Blob(fleet.digest(data), len(data), "0" * 32)
        subject = output_chunk_subject("d", message.ticket, blob.upload, 0)
        fleet.connection.messages[subject] = data
        fleet.connection.failure = FleetUnavailableError("lost")
        fleet.answer(message, msgspec.structs.replace(large, outcome=blob))
        await settle()
        assert not running.done()
        fleet.connection.failure = None
        fleet.availability.check()
        assert (await running).message == "x" * 100
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        assert await fleet.purged() == [output_chunks_filter("d", message.ticket)]

    play(scenario)


def test_run_second_attempt_acknowledges_the_answer_of_the_first(
    play: Callable[..., None],
) -> None:
    """The runner repeats attempts of a job that stays open."""

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        lease = fleet.answer(message, await fleet.ran(message))
        await running
        running = fleet.begin(number=2)
        message = await fleet.published(2)
        assert (message.attempt, message.generation, message.attempts) == (2, 0, 2)
        await fleet.cleanup.flush()
        assert lease.is_acknowledged
        fleet.answer(message, await fleet.ran(message))
        await running

    play(scenario)


def test_run_large_call_travels_in_chunks_that_are_removed(play: Callable[..., None]) -> None:
    """Each generation has its own, because only its ticket is known to its worker."""

    async def scenario(fleet: FakeFleet) -> None:
        call = msgspec.structs.replace(CALL, stdin=bytes(300_000))
        running = fleet.begin(call=call)
        message = await fleet.published()
        assert isinstance(message.call, Blob)
        chunks = [subject for subject in fleet.connection.messages if ".input." in subject]
        assert len(chunks) == 2
        fleet.answer(message, await fleet.ran(message))
        await running
        fleet.executor.leave("job")
        await fleet.cleanup.flush()
        assert await fleet.purged() == [input_chunks_filter("d", message.ticket)]

    play(scenario)


def test_run_large_outcome_has_room_until_the_job_leaves(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused one gives its room back."""
    monkeypatch.setattr("wasmdrop.fleet.daemon.answer_room._SMALL_BYTES", 0)

    async def scenario(fleet: FakeFleet) -> None:
        running = fleet.begin()
        message = await fleet.published()
        ran = await fleet.ran(message)
        assert isinstance(ran.outcome, bytes)
        large = Blob(fleet.digest(ran.outcome), len(ran.outcome), "ab" * 16)
        subject = output_chunk_subject(message.daemon, message.ticket, large.upload, 0)
        fleet.connection.messages[subject] = b"x" * len(ran.outcome)
        fleet.answer(message, msgspec.structs.replace(ran, outcome=large))
        again = await fleet.published(2)
        assert fleet.room.is_unused
        subject = output_chunk_subject(again.daemon, again.ticket, large.upload, 0)
        fleet.connection.messages[subject] = ran.outcome
        fleet.answer(again, msgspec.structs.replace(ran, outcome=large))
        assert (await running).code is Code.OK
        assert not fleet.room.is_unused
        fleet.executor.leave("job")
        assert fleet.room.is_unused

    play(scenario)
