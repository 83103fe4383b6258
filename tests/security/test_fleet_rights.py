"""What the members of a fleet can do to each other, tried on a server with its real accounts.

The server has the accounts of `wasmdrop fleet config`, with TLS and nkeys.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import nats
import pytest
from nats.aio.client import Client

from tests.support.fleet.secure import ADMIN, SecureFleet, secure_fleet
from wasmdrop.fleet.admin.server_config import ACCOUNT, PublicKeys, accounts
from wasmdrop.fleet.admin.setup import missing_for_daemon, missing_for_worker
from wasmdrop.fleet.errors import FleetUnavailableError
from wasmdrop.fleet.names import (
    MODULES,
    daemon_heartbeat_subject,
    daemon_jobs_filter,
    heartbeat_subject,
    input_chunk_subject,
    input_chunks_filter,
    input_stream,
    job_stream,
    job_subject,
    module_chunk_subject,
    outcome_consumer,
    outcome_stream,
    outcome_subject,
    output_chunk_subject,
    output_chunks_filter,
    output_stream,
    revocation_subject,
    started_subject,
)
from wasmdrop.fleet.transport.connection import FleetConnection, Lease, Stored

TICKET: Final = "0123456789abcdef" * 2
DIGEST: Final = "ab" * 32
JOB: Final = job_subject("p", "any", "d", "job", 1, 0)
DAEMON, OTHER_DAEMON, WORKER, OTHER_WORKER = "daemon-d", "daemon-e", "pool-p", "pool-q"

OUTCOMES_D, OUTCOMES_E = outcome_stream("d"), outcome_stream("e")

_API: Final = "$JS.API"
_NEXT: Final = f"{_API}.CONSUMER.MSG.NEXT"
_GET: Final = f"{_API}.DIRECT.GET"
_NO_WAIT: Final = b'{"batch": 1, "no_wait": true}'

#: Requests that change streams, with what an attacker sends.
CHANGES: Final = {
    f"{_API}.STREAM.DELETE.{OUTCOMES_D}": b"",
    f"{_API}.STREAM.DELETE.{OUTCOMES_E}": b"",
    f"{_API}.STREAM.PURGE.{OUTCOMES_E}": b"",
    f"{_API}.STREAM.PURGE.{input_stream('e')}": b"",
    f"{_API}.STREAM.UPDATE.{OUTCOMES_E}": json.dumps({"name": OUTCOMES_E, "max_bytes": 1}).encode(),
    f"{_API}.STREAM.CREATE.EVIL": b'{"name": "EVIL", "subjects": ["evil"]}',
    f"{_API}.STREAM.MSG.DELETE.{OUTCOMES_E}": b'{"seq": 1}',
    f"{_API}.CONSUMER.DELETE.{OUTCOMES_E}.{outcome_consumer('e')}": b"",
    f"{_API}.CONSUMER.DELETE.{job_stream('q')}.any": b"",
    f"{_API}.CONSUMER.PAUSE.{job_stream('q')}.any": b'{"pause_until": "2099-01-01T00:00:00Z"}',
    f"{_API}.CONSUMER.CREATE.{output_stream('e')}.evil": json.dumps(
        {"stream_name": output_stream("e"), "config": {"name": "evil", "ack_policy": "none"}}
    ).encode(),
    job_subject("p", "any", "e", "job", 1, 0): b"a job under the name of another daemon",
}

#: Requests that read, or lease, what belongs to others.
OF_THE_STREAMS: Final = (
    f"{_API}.STREAM.MSG.GET.{OUTCOMES_E}",
    f"{_API}.STREAM.SNAPSHOT.{OUTCOMES_E}",
    f"{_GET}.{OUTCOMES_E}",
    f"{_GET}.{MODULES}",
)
OF_DAEMON_E: Final = (
    f"{_NEXT}.{OUTCOMES_E}.{outcome_consumer('e')}",
    f"$JS.ACK.{OUTCOMES_E}.{outcome_consumer('e')}.1.1.1.1.0",
    f"{_GET}.{OUTCOMES_E}.{outcome_subject('e', TICKET)}",
    f"{_GET}.{OUTCOMES_E}.{outcome_subject('*', '*')}",
    f"{_GET}.{output_stream('e')}.{output_chunk_subject('e', TICKET, 'u', 0)}",
    f"{_GET}.{output_stream('e')}.{output_chunk_subject('d', TICKET, 'u', 0)}",
    input_chunk_subject("e", "p", TICKET, 0),
    daemon_heartbeat_subject("e"),
    revocation_subject("p", "e"),
)
OF_POOL_Q: Final = (
    f"{_NEXT}.{job_stream('q')}.any",
    f"$JS.ACK.{job_stream('q')}.any.1.1.1.1.0",
    f"{_GET}.{MODULES}.{module_chunk_subject('q', DIGEST, 0)}",
    f"{_GET}.{MODULES}.wd1.module.*.*.*",
    f"{_GET}.{MODULES}.wd1.module.>",
    f"{_GET}.{input_stream('d')}.{input_chunk_subject('d', 'q', TICKET, 0)}",
    f"{_GET}.{input_stream('d')}.wd1.input.*.*.*.*",
    heartbeat_subject("q", "w"),
    revocation_subject("q", "d"),
)
OF_DAEMONS: Final = (
    JOB,
    module_chunk_subject("p", DIGEST, 0),
    input_chunk_subject("d", "p", TICKET, 0),
    f"{_NEXT}.{OUTCOMES_D}.{outcome_consumer('d')}",
    f"{_GET}.{OUTCOMES_D}.{outcome_subject('d', TICKET)}",
    f"{_GET}.{output_stream('d')}.{output_chunk_subject('d', TICKET, 'u', 0)}",
    f"wd1.api.STREAM.PURGE.{output_stream('d')}",
    f"wd1.api.STREAM.INFO.{OUTCOMES_D}",
    daemon_heartbeat_subject("d"),
    revocation_subject("p", "d"),
)
DENIED: Final = [
    *((WORKER, one) for one in (*CHANGES, *OF_THE_STREAMS, *OF_DAEMONS, *OF_POOL_Q)),
    *((DAEMON, one) for one in (*CHANGES, *OF_THE_STREAMS, *OF_DAEMON_E)),
    (DAEMON, f"wd1.api.STREAM.PURGE.{output_stream('e')}"),
    (DAEMON, f"wd1.api.STREAM.PURGE.{OUTCOMES_E}"),
    (DAEMON, f"wd1.api.STREAM.DELETE.{input_stream('d')}"),
    (DAEMON, f"wd1.api.STREAM.PURGE.{job_stream('p')}"),
    (DAEMON, f"wd1.api.STREAM.MSG.DELETE.{job_stream('p')}"),
    (DAEMON, f"{_NEXT}.{job_stream('p')}.any"),
    (DAEMON, outcome_subject("e", TICKET)),
    (DAEMON, f"{_GET}.{input_stream('d')}.{input_chunk_subject('d', 'p', TICKET, 0)}"),
]


class Member:
    """A client of a member that may send anything, and what the server refused it."""

    def __init__(self, client: Client, denied: list[str]) -> None:
        self.client = client
        self.denied = denied

    async def send(self, subject: str, data: bytes, reply: str) -> None:
        """Send a message and wait until the server has read it."""
        await self.client.publish(subject, data, reply)
        await self.flush()

    async def flush(self) -> None:
        """Wait until the server has read all that was sent, and its refusals are here."""
        await self.client.flush()  # it may overtake what was sent before
        await self.client.flush()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    """Give a fleet of two daemons and two pools, whose server the tests share."""
    with secure_fleet(tmp_path_factory.mktemp("fleet"), ["d", "e"], ["p", "q"]) as fleet:
        yield fleet


@contextlib.asynccontextmanager
async def member(fleet: SecureFleet, user: str) -> AsyncIterator[Member]:
    """Connect with the key of a user, without the code of a daemon or a worker."""
    denied: list[str] = []

    async def hear(error: Exception) -> None:
        denied.append(str(error))

    access = fleet.access(user)
    client = await nats.connect(
        [server.url for server in access.servers],
        nkeys_seed=str(fleet.seed_file(user)),
        tls=access.tls,
        inbox_prefix=access.inbox,
        error_cb=hear,
        allow_reconnect=False,
    )
    try:
        yield Member(client, denied)
    finally:
        await client.close()


async def names_of(admin: FleetConnection) -> list[str]:
    """Return the names of all streams."""
    names = (await admin.api("STREAM.NAMES"))["streams"]
    return [str(name) for name in names or ()]


async def state(admin: FleetConnection) -> dict[str, Any]:
    """Return all streams and consumers, and how many messages each has."""
    found = {}
    for stream in (await admin.api("STREAM.LIST"))["streams"]:
        name = stream["config"]["name"]
        consumers = (await admin.api(f"CONSUMER.LIST.{name}"))["consumers"]
        found[name] = (
            stream["config"],
            stream["state"]["messages"],
            {one["name"]: (one["config"], one.get("paused")) for one in consumers},
        )
    return found


def test_daemon_and_worker_have_every_right_that_a_job_needs(fleet: SecureFleet) -> None:
    """From the upload of a module to the acknowledgement of the outcome."""

    async def run() -> None:
        async with fleet.connected(DAEMON) as daemon, fleet.connected(WORKER) as worker:
            assert await missing_for_daemon(daemon, "p", "d") == []
            assert await missing_for_worker(worker, "p", "any") == []

            chunk = bytes(256 * 1024)
            module, call = (
                module_chunk_subject("p", DIGEST, 0),
                input_chunk_subject("d", "p", TICKET, 0),
            )
            assert await daemon.store(module, chunk) is Stored.STORED
            assert await daemon.get(MODULES, module) == chunk
            assert await daemon.store(call, chunk) is Stored.STORED
            assert await daemon.store(JOB, b"job", message_id="job.1.0") is Stored.STORED

            lease = await worker.fetch(job_stream("p"), "any", 10)
            assert isinstance(lease, Lease)
            assert (lease.subject, lease.data, lease.delivery) == (JOB, b"job", 1)
            await lease.extend()
            assert await worker.get(MODULES, module) == chunk
            assert await worker.get(input_stream("d"), call) == chunk
            output = output_chunk_subject("d", TICKET, "u", 0)
            assert await worker.store(output, chunk) is Stored.STORED
            answer = outcome_subject("d", TICKET)
            assert await worker.store(answer, b"outcome", message_id=TICKET) is Stored.STORED
            assert await worker.store(answer, b"second outcome") is Stored.OCCUPIED
            await lease.ack()

            assert await daemon.get(OUTCOMES_D, answer) == b"outcome"
            outcome = await daemon.fetch(OUTCOMES_D, outcome_consumer("d"), 10)
            assert outcome is not None
            assert (outcome.subject, outcome.data) == (answer, b"outcome")
            assert await daemon.get(output_stream("d"), output) == chunk
            await outcome.ack()
            assert await daemon.subjects(job_stream("p"), daemon_jobs_filter("p", "d")) == set()
            await daemon.purge(input_stream("d"), input_chunks_filter("d", TICKET))
            await daemon.purge(output_stream("d"), output_chunks_filter("d", TICKET))
            assert await daemon.get(output_stream("d"), output) is None

    asyncio.run(run())


def _hear(heard: set[tuple[str, str]], user: str, subject: str, _data: bytes) -> None:
    heard.add((user, subject))


def test_messages_that_are_not_stored_reach_their_receivers_and_no_others(
    fleet: SecureFleet,
) -> None:
    """From the accounts of workers and of daemons into several others."""

    async def run() -> None:
        heard: set[tuple[str, str]] = set()
        async with contextlib.AsyncExitStack() as stack:
            users = (DAEMON, OTHER_DAEMON, ADMIN, WORKER, OTHER_WORKER, "worker-p")
            of = {user: await stack.enter_async_context(fleet.connected(user)) for user in users}
            for user, subject in (
                (DAEMON, heartbeat_subject("*", "*")),
                (DAEMON, started_subject("d")),
                (OTHER_DAEMON, heartbeat_subject("p", "*")),
                (OTHER_DAEMON, started_subject("e")),
                (ADMIN, heartbeat_subject("*", "*")),
                (ADMIN, daemon_heartbeat_subject("*")),
                (WORKER, revocation_subject("p", "*")),
                ("worker-p", revocation_subject("p", "*")),
                (OTHER_WORKER, revocation_subject("q", "*")),
            ):
                await of[user].subscribe(subject, functools.partial(_hear, heard, user))
            expected = {
                *((user, heartbeat_subject("p", "w")) for user in (DAEMON, OTHER_DAEMON, ADMIN)),
                (DAEMON, started_subject("d")),
                (ADMIN, daemon_heartbeat_subject("d")),
                *((user, revocation_subject("p", "d")) for user in (WORKER, "worker-p")),
            }
            async with asyncio.timeout(60):
                while heard != expected:
                    await of[WORKER].publish(heartbeat_subject("p", "w"), b"")
                    await of[WORKER].publish(started_subject("d"), b"")
                    await of[DAEMON].publish(daemon_heartbeat_subject("d"), b"")
                    await of[DAEMON].publish(revocation_subject("p", "d"), b"")
                    await asyncio.sleep(0.05)

    asyncio.run(run())


def test_members_are_denied_what_is_not_theirs(fleet: SecureFleet) -> None:
    """Requests that change streams, and those that read or lease what belongs to others."""

    async def run() -> None:
        async with member(fleet, WORKER) as worker, member(fleet, DAEMON) as daemon:
            members = {WORKER: worker, DAEMON: daemon}
            for user, subject in DENIED:
                one = members[user]
                one.denied.clear()
                await one.send(subject, CHANGES.get(subject, b""), one.client.new_inbox())
                expected = f'permissions violation for publish to "{subject.lower()}"'
                assert [expected in text for text in one.denied] == [True], (user, subject)

    asyncio.run(run())


@pytest.mark.parametrize("user", [WORKER, DAEMON])
def test_member_is_denied_messages_of_others(fleet: SecureFleet, user: str) -> None:
    """Also the answers that others receive."""
    other = fleet.access(OTHER_DAEMON).inbox

    async def run() -> None:
        subjects = (
            *(">", "wd1.>", "wd1.job.>", "wd1.out.>", "wd1.revoke.>", "_I.>", f"{other}.>"),
            *("$JS.>", "_R_.>"),
        )
        async with member(fleet, user) as one:
            for subject in subjects:
                one.denied.clear()
                await one.client.subscribe(subject)
                await one.flush()
                expected = f'permissions violation for subscription to "{subject.lower()}"'
                assert [expected in text for text in one.denied] == [True], subject

    asyncio.run(run())


def test_worker_with_its_own_key_gets_jobs_that_no_other_worker_reads(fleet: SecureFleet) -> None:
    """Workers that share a key receive their jobs on subjects that each of them may read."""
    alone = "worker-p"

    async def run() -> None:
        async with (
            fleet.connected(DAEMON) as daemon,
            fleet.connected(alone) as worker,
            member(fleet, WORKER) as other,
        ):
            await other.client.subscribe(f"{fleet.access(alone).inbox}.>")
            await other.flush()
            assert [text for text in other.denied if "permissions violation" in text]
            assert await daemon.store(JOB, b"job") is Stored.STORED
            lease = await worker.fetch(job_stream("p"), "any", 10)
            assert lease is not None
            assert lease.data == b"job"
            await lease.ack()

    asyncio.run(run())


async def _misdirect_answers(one: Member, user: str) -> None:
    """Have answers of the server, empty ones and such with chosen content, sent to each change."""
    consumer = (
        f"{job_stream('p')}.any" if user == WORKER else f"{OUTCOMES_D}.{outcome_consumer('d')}"
    )
    for number, (subject, data) in enumerate(CHANGES.items()):
        await one.send(f"{_NEXT}.{consumer}", _NO_WAIT, subject)
        await one.send(f"{_NEXT}.{consumer}", b"{", subject)
        await one.send(outcome_subject("d", TICKET), data, subject)
        if user == DAEMON:
            chunk = module_chunk_subject("p", DIGEST, number)
            await one.client.request(chunk, data, 30)
            await one.send(f"{_GET}.{MODULES}.{chunk}", b"", subject)
    # The server answers in turn: when this answer is there, the others are.
    answer = await one.client.request(f"{_NEXT}.{consumer}", _NO_WAIT, 30)
    assert answer.headers is not None
    assert answer.headers["Status"] == "404"


@pytest.mark.parametrize("user", [WORKER, DAEMON])
def test_answer_sent_to_another_subject_changes_nothing(fleet: SecureFleet, user: str) -> None:
    """The server answers in the member's own account, where the subject means nothing."""

    async def run() -> None:
        async with fleet.connected(ADMIN) as admin, member(fleet, user) as one:
            await _clear(admin)
            before = await state(admin)
            assert before[OUTCOMES_D][0]["name"] == OUTCOMES_D
            await _misdirect_answers(one, user)
            await _clear(admin)
            assert await state(admin) == before

    asyncio.run(run())


async def _clear(admin: FleetConnection) -> None:
    """Remove what a member may store under its own name."""
    await admin.purge(OUTCOMES_D, outcome_subject("d", "*"))
    await admin.purge(MODULES, ">")


def _in_one_account(keys: PublicKeys) -> dict[str, Any]:
    """Return accounts as above, except that worker and streams have the same one."""
    separate = accounts(keys)
    worker = separate["WORKERS_p"]["users"][0]
    return {ACCOUNT: {"jetstream": "enabled", "users": [{"nkey": keys.admin}, worker]}}


def test_answer_sent_to_another_subject_deletes_a_stream_in_one_account(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same attack, and the same rights: the test above would notice it."""

    async def run(fleet: SecureFleet) -> None:
        async with fleet.connected(ADMIN) as admin, member(fleet, WORKER) as worker:
            await worker.send(
                f"{_NEXT}.{job_stream('p')}.any", _NO_WAIT, f"{_API}.STREAM.DELETE.{OUTCOMES_D}"
            )
            assert worker.denied == []
            async with asyncio.timeout(60):
                while OUTCOMES_D in await names_of(admin):  # noqa: ASYNC110 - nobody tells it
                    await asyncio.sleep(0.05)

    base = tmp_path_factory.mktemp("one")
    with secure_fleet(base, ["d"], ["p", "q"], _in_one_account) as fleet:
        asyncio.run(run(fleet))


def test_worker_cannot_change_an_answer_that_is_stored(fleet: SecureFleet) -> None:
    """The first answer to a ticket stays, even if another worker knows the ticket."""

    async def run() -> None:
        answer = outcome_subject("d", "a" * 32)
        async with fleet.connected(WORKER) as one, fleet.connected(OTHER_WORKER) as other:
            assert await one.store(answer, b"first") is Stored.STORED
            assert await other.store(answer, b"second") is Stored.OCCUPIED
        async with fleet.connected(DAEMON) as daemon:
            assert await daemon.get(OUTCOMES_D, answer) == b"first"

    asyncio.run(run())


def test_worker_cannot_store_answers_to_a_daemon_that_is_not_in_the_fleet(
    fleet: SecureFleet,
) -> None:
    """Nothing would remove them, and they would take the room of the others."""

    async def run() -> None:
        async with fleet.connected(WORKER) as worker:
            with pytest.raises(FleetUnavailableError):
                await worker.store(outcome_subject("nobody", TICKET), b"filler", seconds=1)

    asyncio.run(run())


def test_answers_to_one_daemon_leave_the_room_of_the_others(fleet: SecureFleet) -> None:
    """A daemon that is gone does not take its answers, so its stream may be full for ever."""

    async def run() -> None:
        async with fleet.connected(WORKER) as worker, fleet.connected(ADMIN) as admin:
            filler = bytes(700 * 1024)
            for number in range(1000):
                subject = outcome_subject("e", f"{number:032x}")
                if await worker.store(subject, filler) is Stored.FULL:
                    break
            else:
                pytest.fail("the stream has no limit")
            answer = outcome_subject("d", "b" * 32)
            assert await worker.store(answer, filler) is Stored.STORED
            await admin.purge(OUTCOMES_D, answer)
            await admin.purge(OUTCOMES_E, ">")

    asyncio.run(run())
