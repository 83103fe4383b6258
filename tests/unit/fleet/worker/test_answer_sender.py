"""An answer is stored before its job is acknowledged, however long the fleet has no room for it."""

import asyncio

import pytest

from tests.support.loop_clock import LoopClock
from tests.unit.fleet.worker.fakes import Clock, FakeConnection, FakeLease, settled
from tests.unit.fleet.worker.messages import ANSWER, MESSAGE
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.messages import Answer, decode
from wasmdrop.fleet.names import outcome_subject
from wasmdrop.fleet.transport.connection import Stored
from wasmdrop.fleet.worker.answer_sender import REFUSED_SECONDS, AnswerSender

SUBJECT = outcome_subject(MESSAGE.daemon, MESSAGE.ticket)


async def _send(connection: FakeConnection, lease: FakeLease, *, at_once: bool = True) -> Stored:
    sender = AnswerSender(connection.as_connection(), Clock())
    loop = LoopClock()
    sending = asyncio.create_task(sender.send(lease.as_lease(), MESSAGE, ANSWER))
    while not sending.done():
        await settled()
        if not at_once:
            await loop.jump(10)
    return await sending


def test_answer_is_stored_under_its_ticket_and_the_job_acknowledged() -> None:
    """Once."""
    connection, lease = FakeConnection(), FakeLease()
    assert asyncio.run(_send(connection, lease)) is Stored.STORED
    assert decode(connection.stored[SUBJECT], Answer) == ANSWER
    assert lease.acks == 1


def test_answer_to_a_job_that_was_answered_acknowledges_it() -> None:
    """The other worker may have died in between."""
    connection, lease = FakeConnection(), FakeLease()
    connection.store_replies.append(Stored.OCCUPIED)
    assert asyncio.run(_send(connection, lease)) is Stored.OCCUPIED
    assert lease.acks == 1


@pytest.mark.parametrize("reply", [Stored.FULL, FleetUnavailableError("no server")])
def test_answer_that_is_not_stored_is_sent_again(reply: Stored | FleetUnavailableError) -> None:
    """A full stream and a server that is away delay it."""
    connection, lease = FakeConnection(), FakeLease()
    connection.store_replies.extend([reply] * 5)
    assert asyncio.run(_send(connection, lease, at_once=False)) is Stored.STORED
    assert (connection.stores, lease.acks) == (6, 1)


def _refuse_for(connection: FakeConnection, seconds: float) -> tuple[Stored | None, int]:
    """Refuse an answer for so long; return what was reported by then, and the acknowledgements."""
    clock, lease = Clock(), FakeLease()
    sender = AnswerSender(connection.as_connection(), clock)

    async def play() -> Stored | None:
        loop = LoopClock()
        sending = asyncio.create_task(sender.send(lease.as_lease(), MESSAGE, ANSWER))
        connection.store_replies.extend([Stored.FULL] * 10_000)
        for _ in range(int(seconds / 10)):
            await settled()
            clock.seconds += 10
            await loop.jump(10)
        if sending.done():
            return await sending
        sending.cancel()
        await asyncio.wait([sending])
        return None

    return asyncio.run(play()), lease.acks


def test_answer_refused_for_long_by_a_connected_server_is_given_up() -> None:
    """The job is not acknowledged, so it is delivered again."""
    assert _refuse_for(FakeConnection(), REFUSED_SECONDS + 100) == (Stored.FULL, 0)


def test_answer_refused_before_and_after_a_lost_connection_is_not_given_up() -> None:
    """Only the time of one connection counts."""
    connection, clock, lease = FakeConnection(), Clock(), FakeLease()
    connection.store_replies.extend([Stored.FULL] * 10_000)

    async def play() -> bool:
        loop = LoopClock()
        sender = AnswerSender(connection.as_connection(), clock)
        sending = asyncio.create_task(sender.send(lease.as_lease(), MESSAGE, ANSWER))
        for is_connected in (True, False, True):
            connection.is_connected = is_connected
            for _ in range(4):
                await loop.jump(10)
                await settled()
                clock.seconds += REFUSED_SECONDS / 5
        is_given_up = sending.done()
        sending.cancel()
        await asyncio.wait([sending])
        return is_given_up

    assert not asyncio.run(play())


def test_answer_without_a_server_is_never_given_up() -> None:
    """The worker could do nothing else meanwhile."""
    connection = FakeConnection()
    connection.is_connected = False
    assert _refuse_for(connection, 3 * REFUSED_SECONDS) == (None, 0)
