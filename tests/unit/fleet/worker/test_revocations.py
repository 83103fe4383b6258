"""Which jobs a worker takes for revoked, and for how long."""

import asyncio

import msgspec

from tests.unit.fleet.worker.fakes import Clock
from tests.unit.fleet.worker.messages import MESSAGE
from wasmdrop.fleet.messages import JobMessage, Revocation, encode
from wasmdrop.fleet.names import revocation_subject
from wasmdrop.fleet.worker.revocations import Revocations

SUBJECT = revocation_subject("p", MESSAGE.daemon)


def named(*jobs: str) -> bytes:
    """Return the message of a daemon that revokes these jobs."""
    return encode(Revocation(jobs))


def test_revoked_job_is_that_of_the_daemon_in_the_subject() -> None:
    """Another daemon may know the id; the server lets it send under its own name only."""
    revocations = Revocations(Clock())
    revocations.take(revocation_subject("p", "other"), named(MESSAGE.job))
    assert not revocations.has(MESSAGE)
    revocations.take(SUBJECT, named("another", MESSAGE.job))
    assert revocations.has(MESSAGE)
    later = msgspec.structs.replace(MESSAGE, attempt=2, generation=3)
    assert revocations.has(later)


def test_revoked_job_is_forgotten_after_a_minute_unless_it_is_named_again() -> None:
    """So that a worker keeps little of jobs that it may never see."""
    clock = Clock()
    revocations = Revocations(clock)
    for _ in range(2):
        revocations.take(SUBJECT, named(MESSAGE.job))
        clock.seconds += 59
    assert revocations.has(MESSAGE)
    clock.seconds += 2
    assert not revocations.has(MESSAGE)


def test_revocations_without_number_are_bounded() -> None:
    """The oldest are forgotten first, and messages that do not decode change nothing."""
    revocations = Revocations(Clock())
    revocations.take(SUBJECT, named(MESSAGE.job, "oldest"))
    for number in range(12):
        if number == 6:
            revocations.take(SUBJECT, named(MESSAGE.job))  # again
        revocations.take(SUBJECT, named(*(f"{number}-{one}" for one in range(1000))))
    revocations.take(SUBJECT, b"\xc1")
    revocations.take(SUBJECT, encode(Revocation(("job",) * 1001)))
    assert len(revocations._known) == 10_000
    assert not revocations.has(msgspec.structs.replace(MESSAGE, job="oldest"))
    assert revocations.has(MESSAGE)
    assert revocations.has(msgspec.structs.replace(MESSAGE, job="11-999"))


def test_run_is_cancelled_if_its_own_job_is_revoked() -> None:
    """Each run of it; after its end nothing happens to the task."""

    async def play() -> None:
        revocations = Revocations(Clock())
        other = msgspec.structs.replace(MESSAGE, job="other")
        again = msgspec.structs.replace(MESSAGE, generation=1)
        reached: list[JobMessage] = []

        async def hold(message: JobMessage) -> None:
            run = asyncio.ensure_future(asyncio.Event().wait())
            with revocations.ending(message, run):
                await asyncio.wait([run])
            reached.append(message)

        held = [asyncio.create_task(hold(one)) for one in (MESSAGE, other, again)]
        await asyncio.sleep(0)
        revocations.take(SUBJECT, named(MESSAGE.job))
        await asyncio.wait([held[0], held[2]])
        assert reached == [MESSAGE, again]
        held[1].cancel()
        await asyncio.wait(held)
        assert revocations._runs == {}

    asyncio.run(play())
