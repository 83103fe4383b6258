"""A connection whose server is away, comes back, hangs, or must not be used."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.fleet.fake_server import fake_server
from tests.support.fleet.ready import access_to, ready_server
from tests.support.fleet.secure import SecureFleet, secure_fleet
from tests.support.fleet.server import Server
from wasmdrop.fleet.errors import FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.names import job_stream, job_subject
from wasmdrop.fleet.transport import connection as connection_module
from wasmdrop.fleet.transport import link, nats_client
from wasmdrop.fleet.transport.access import read_access
from wasmdrop.fleet.transport.connection import FleetConnection, Stored, connect
from wasmdrop.fleet.transport.keys import new_seed
from wasmdrop.settings import load

WAIT_SECONDS = 60
JOB = job_subject("default", "any", "daemon", "job", 1, 0)
STREAM = job_stream("default")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server with streams."""
    with ready_server(tmp_path / "nats") as server:
        yield server


async def _until_away(connection: FleetConnection) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while connection.is_connected:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


def test_connection_without_a_server_is_there_when_the_server_is(server: Server) -> None:
    """Start-up does not wait, and says why there is no connection."""
    server.kill()

    async def run() -> None:
        async with connect(access_to(server)) as connection:
            assert not connection.is_connected
            with pytest.raises(FleetUnavailableError, match="Connection refused"):
                await connection.store(JOB, b"", seconds=1)
            await connection.publish("wd1.daemon.daemon", b"")
            assert connection.away_seconds > 0
            await asyncio.to_thread(server.start)
            assert await connection.store(JOB, b"", seconds=WAIT_SECONDS) is Stored.STORED
            assert connection.away_seconds == 0
            assert connection.problem == ""

    asyncio.run(run())


def test_connection_comes_back_with_its_subscriptions_and_logs_each_change_once(
    server: Server,
) -> None:
    """However often the server could not be reached meanwhile."""

    async def run() -> None:
        heard = asyncio.Event()
        async with connect(access_to(server)) as connection:
            await connection.wait_connected(WAIT_SECONDS)
            await connection.subscribe("wd1.started.daemon", lambda *_got: heard.set())
            connection._link._heard_at -= 1000  # it is there for that long
            server.kill()
            await _until_away(connection)
            assert connection.away_seconds < 900
            with pytest.raises(FleetUnavailableError):
                await connection.store(JOB, b"", seconds=2)
            await asyncio.to_thread(server.start)
            await connection.wait_connected(WAIT_SECONDS)
            async with asyncio.timeout(WAIT_SECONDS):
                while not heard.is_set():
                    await connection.publish("wd1.started.daemon", b"")
                    await asyncio.sleep(0.01)

    with capture_logs() as logs:
        asyncio.run(run())
    assert [entry["event"] for entry in logs] == [
        "fleet-connected",
        "fleet-lost",
        "fleet-connected",
    ]


def test_server_that_hangs_is_noticed_and_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it does not read what it was sent, which the library waits for at the end."""
    monkeypatch.setattr(nats_client, "_PING_SECONDS", 0.1)
    monkeypatch.setattr(nats_client, "_PONG_SECONDS", 2)
    monkeypatch.setattr(nats_client, "_FLUSH_SECONDS", 0.5)

    async def run() -> None:
        async with connect(access_to(server)) as connection:
            await connection.wait_connected(WAIT_SECONDS)
            asking = asyncio.create_task(connection.fetch(STREAM, "any", 30))
            await connection.api("INFO")
            server.signal(signal.SIGSTOP)
            for _number in range(64):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await connection.publish("wd1.worker.default.w", bytes(512 * 1024))
            await _until_away(connection)
            with pytest.raises(FleetUnavailableError):
                await asking
            while any("_wait_for_msgs" in repr(each) for each in asyncio.all_tasks()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # tasks of its subscriptions

    async def within_bounds() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await run()

    asyncio.run(within_bounds())


def test_loop_on_a_lost_connection_can_be_cancelled(server: Server) -> None:
    """The library makes another error of a cancellation that comes when it is closed."""

    async def fetch_for_ever(connection: FleetConnection) -> None:
        while True:
            with contextlib.suppress(Exception):
                await connection.fetch(STREAM, "any", 5)

    async def run() -> None:
        async with connect(access_to(server)) as connection:
            await connection.wait_connected(WAIT_SECONDS)
            loops = [asyncio.create_task(fetch_for_ever(connection)) for _number in range(3)]
            await connection.api("INFO")
            loops[0].cancel()
            server.kill()
            loops[1].cancel()
            await _until_away(connection)
            loops[2].cancel()
            async with asyncio.timeout(WAIT_SECONDS):
                ended = await asyncio.gather(*loops, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    asyncio.run(run())


def test_end_of_a_connection_does_not_hide_a_cancellation(server: Server) -> None:
    """A task that is cancelled while its connection ends is cancelled."""

    async def use(is_connected: asyncio.Event) -> None:
        async with connect(access_to(server)) as connection:
            await connection.wait_connected(WAIT_SECONDS)
            is_connected.set()
            await asyncio.Event().wait()

    async def run() -> None:
        is_connected = asyncio.Event()
        task = asyncio.create_task(use(is_connected))
        await is_connected.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_server_without_answers_of_jetstream_is_left_for_another_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is cut off from the leaders of the cluster: it answers pings."""
    monkeypatch.setattr(link, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(connection_module, "_TRY_SECONDS", 0.2)

    def the_fake_one_first(servers: Any, _count: int) -> list[Any]:
        return sorted(servers, key=lambda one: bool(one.url == server.url))

    monkeypatch.setattr(random, "sample", the_fake_one_first)

    async def run() -> None:
        async with fake_server(headers=True) as fake:
            urls = f"nats://127.0.0.1:{fake.port},{server.url}"
            access = read_access(load({"WASMDROP_FLEET": urls}, {}).settings, "test")
            async with connect(access) as connection:
                await connection.wait_connected(WAIT_SECONDS)
                assert connection.server_url.endswith(str(fake.port))
                assert await connection.store(JOB, b"", seconds=WAIT_SECONDS) is Stored.STORED
                assert connection.server_url == server.url

    asyncio.run(run())


@pytest.mark.parametrize(
    ("info", "scheme", "text"),
    [
        ({"version": "2.14.2"}, "nats", r"has version 2\.14\.2; expected 2\.14\.3 or later"),
        ({"version": "2.9.10"}, "nats", r"has version 2\.9\.10; expected 2\.14\.3 or later"),
        ({"version": "new"}, "nats", "has version new; expected"),
        ({"max_payload": 65_536}, "nats", "allows messages of 65536 bytes; expected max_payload"),
        ({}, "tls", "does not offer TLS"),
    ],
    ids=["version", "debian", "no-version", "payload", "tls"],
)
def test_server_that_must_not_be_used_is_refused(
    info: dict[str, Any], scheme: str, text: str
) -> None:
    """The reason is there at once, and in the log, once."""

    async def run() -> None:
        async with fake_server(**info) as fake:
            url = f"{scheme}://127.0.0.1:{fake.port}"
            access = read_access(load({"WASMDROP_FLEET": url}, {}).settings, "test")
            async with connect(access) as connection:
                with pytest.raises(FleetRefusedError, match=text):
                    await connection.wait_connected(WAIT_SECONDS)
                async with asyncio.timeout(WAIT_SECONDS):
                    while fake.connections < 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert not connection.is_connected
            assert scheme == "nats" or fake.received == b""

    with capture_logs() as logs:
        asyncio.run(run())
    assert [entry["event"] for entry in logs] == ["fleet-refused"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    """Give a fleet with keys and TLS."""
    with secure_fleet(tmp_path_factory.mktemp("fleet"), ["d"], ["p"]) as fleet:
        yield fleet


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ("other-key", "does not know this key; `wasmdrop fleet config`"),
        ("no-key", "asks for a key; `wasmdrop fleet config`"),
        ("other-authority", "a certificate that is not trusted .*WASMDROP_FLEET_CA"),
        ("other-name", "a certificate for another name .*WASMDROP_FLEET,"),
    ],
)
def test_server_that_refuses_says_why(
    fleet: SecureFleet, tmp_path: Path, changed: str, text: str
) -> None:
    """And what to do about it."""
    variables = fleet.environment("daemon-d")
    if changed == "other-key":
        key = tmp_path / "other.nk"
        key.touch(mode=0o600)
        key.write_text(new_seed())
        variables["WASMDROP_FLEET_KEY"] = str(key)
    elif changed == "no-key":
        del variables["WASMDROP_FLEET_KEY"]
    elif changed == "other-name":
        url = variables["WASMDROP_FLEET"]
        variables["WASMDROP_FLEET"] = url.replace("127.0.0.1", "localhost")
    else:
        del variables["WASMDROP_FLEET_CA"]

    async def run() -> None:
        async with connect(read_access(load(variables, {}).settings, "test")) as connection:
            with pytest.raises(FleetRefusedError, match=text):
                await connection.wait_connected(WAIT_SECONDS)

    asyncio.run(run())


def test_subscription_without_the_right_is_logged_with_what_to_do(fleet: SecureFleet) -> None:
    """As when a daemon has the key of a pool."""

    async def run() -> str:
        async with fleet.connected("pool-p") as connection:
            with capture_logs() as logs:
                await connection.subscribe("wd1.daemon.d", lambda _subject, _data: None)
                async with asyncio.timeout(WAIT_SECONDS):
                    while not logs:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
        return str(logs[0]["reason"])

    reason = asyncio.run(run())
    assert reason.startswith("the server does not allow this key to subscribe to wd1.daemon.d; ")
    assert "correct WASMDROP_FLEET_KEY" in reason
