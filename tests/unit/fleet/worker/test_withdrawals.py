"""Which jobs a worker takes for withdrawn, and for how long."""

import asyncio

import msgspec

from tests.unit.fleet.worker.fakes import Clock
from tests.unit.fleet.worker.messages import MESSAGE
from wasmdrop.fleet.messages import JobMessage, Withdrawal, encode
from wasmdrop.fleet.names import withdrawal_subject
from wasmdrop.fleet.worker.withdrawals import Withdrawals

SUBJECT = withdrawal_subject("p", MESSAGE.daemon)


def named(*jobs: str) -> bytes:
    """Return the message of a daemon that withdraws these jobs."""
    return encode(Withdrawal(jobs))


def test_withdrawn_job_is_that_of_the_daemon_in_the_subject() -> None:
    """Another daemon may know the id; the server lets it send under its own name only."""
    withdrawals = Withdrawals(Clock())
    withdrawals.take(withdrawal_subject("p", "other"), named(MESSAGE.job))
    assert not withdrawals.has(MESSAGE)
    withdrawals.take(SUBJECT, named("another", MESSAGE.job))
    assert withdrawals.has(MESSAGE)
    later = msgspec.structs.replace(MESSAGE, attempt=2, generation=3)
    assert withdrawals.has(later)


def test_withdrawn_job_is_forgotten_after_a_minute_unless_it_is_named_again() -> None:
    """So that a worker keeps little of jobs that it may never see."""
    clock = Clock()
    withdrawals = Withdrawals(clock)
    for _ in range(2):
        withdrawals.take(SUBJECT, named(MESSAGE.job))
        clock.seconds += 59
    assert withdrawals.has(MESSAGE)
    clock.seconds += 2
    assert not withdrawals.has(MESSAGE)


def test_withdrawals_without_number_are_bounded() -> None:
    """The oldest are forgotten first, and messages that do not decode change nothing."""
    withdrawals = Withdrawals(Clock())
    withdrawals.take(SUBJECT, named(MESSAGE.job, "oldest"))
    for number in range(12):
        if number == 6:
            withdrawals.take(SUBJECT, named(MESSAGE.job))  # again
        withdrawals.take(SUBJECT, named(*(f"{number}-{one}" for one in range(1000))))
    withdrawals.take(SUBJECT, b"\xc1")
    withdrawals.take(SUBJECT, encode(Withdrawal(("job",) * 1001)))
    assert len(withdrawals._known) == 10_000
    assert not withdrawals.has(msgspec.structs.replace(MESSAGE, job="oldest"))
    assert withdrawals.has(MESSAGE)
    assert withdrawals.has(msgspec.structs.replace(MESSAGE, job="11-999"))


def test_run_is_cancelled_if_its_own_job_is_withdrawn() -> None:
    """Each run of it; after its end nothing happens to the task."""

    async def play() -> None:
        withdrawals = Withdrawals(Clock())
        other = msgspec.structs.replace(MESSAGE, job="other")
        again = msgspec.structs.replace(MESSAGE, generation=1)
        reached: list[JobMessage] = []

        async def hold(message: JobMessage) -> None:
            run = asyncio.ensure_future(asyncio.Event().wait())
            with withdrawals.ending(message, run):
                await asyncio.wait([run])
            reached.append(message)

        held = [asyncio.create_task(hold(one)) for one in (MESSAGE, other, again)]
        await asyncio.sleep(0)
        withdrawals.take(SUBJECT, named(MESSAGE.job))
        await asyncio.wait([held[0], held[2]])
        assert reached == [MESSAGE, again]
        held[1].cancel()
        await asyncio.wait(held)
        assert withdrawals._runs == {}

    asyncio.run(play())
