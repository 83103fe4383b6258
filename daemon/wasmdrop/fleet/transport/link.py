"""Keeps a connection to one server of a fleet, and replaces it when it is lost."""

import asyncio
import contextlib
import random
import time
from enum import Enum
from typing import Final

import structlog

from wasmdrop.fleet.errors import FleetOutdatedError, FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.transport.access import Access
from wasmdrop.fleet.transport.nats_client import Callback, NatsClient
from wasmdrop.protocol.text import one_line

_log = structlog.get_logger()

#: How long JetStream may give no answer to any request before another server is tried. It doubles
#: with each server that does not help.
_PATIENCE_SECONDS: Final = 10.0
_MAX_PATIENCE_SECONDS: Final = 300.0

#: Refusals that are logged of one connection.
_MAX_REFUSALS: Final = 16

_FIRST_DELAY_SECONDS: Final = 0.25
_MAX_DELAY_SECONDS: Final = 8.0


class _State(Enum):
    UNKNOWN = "unknown"
    CONNECTED = "connected"
    LOST = "lost"
    REFUSED = "refused"


class Link:
    """A connection to one server at a time, while :meth:`run` runs."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client: NatsClient | None = None
        self._connected = asyncio.Event()
        self._heard_at = time.monotonic()
        self._state = _State.UNKNOWN
        self._refusals: set[str] = set()
        self._silent_since: float | None = None
        self._patience_seconds = _PATIENCE_SECONDS
        self._subscriptions: list[tuple[str, Callback]] = []
        self.problem = "no server was reached yet"
        """Why there is no connection, in one line; empty while there is one."""
        self.server_version = ""
        """Of the last server that was reached."""
        self.server_url = ""
        """Of the last server that was reached."""

    @property
    def is_connected(self) -> bool:
        """Whether a server is reached now, as far as is known."""
        return self._client is not None and self._client.is_open

    @property
    def away_seconds(self) -> float:
        """For how long no server was reached; 0 while one is."""
        if self.is_connected:
            return 0.0
        heard_at = self._heard_at if self._client is None else self._client.heard_at
        return time.monotonic() - heard_at

    @property
    def is_refused(self) -> bool:
        """Whether servers are there, but must not be used, or refuse this user."""
        return self._state is _State.REFUSED

    async def publish(self, subject: str, data: bytes) -> None:
        """Send a message if there is a connection."""
        if self._client is not None:
            with contextlib.suppress(FleetUnavailableError):
                await self._client.publish(subject, data)

    async def subscribe(self, subject: str, callback: Callback) -> None:
        """Subscribe now, and with each new connection."""
        self._subscriptions.append((subject, callback))
        if self._client is not None:
            with contextlib.suppress(FleetUnavailableError):  # the next connection subscribes
                await self._client.subscribe(subject, callback)

    async def client(self, seconds: float) -> NatsClient:
        """Return the connection; wait for one. Raises ``FleetUnavailableError``."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                while not self.is_connected:
                    self._connected.clear()
                    await self._connected.wait()
        except TimeoutError:
            raise FleetUnavailableError(self.problem or "the connection is lost") from None
        assert self._client is not None  # noqa: S101 - is_connected
        return self._client

    async def run(self) -> None:
        """Connect again and again, until this is cancelled."""
        failures = 0
        while True:
            refusal = ""
            for server in random.sample(self._access.servers, len(self._access.servers)):
                client = NatsClient(server, self._access, self._note_refusal)
                try:
                    await client.start()
                    failures = 0
                    await self._use(client)
                except FleetRefusedError as error:
                    refusal = problem = str(error)
                except FleetUnavailableError as error:
                    problem = str(error)
                except Exception as error:  # noqa: BLE001 - the next connection may do without it
                    problem = f"{server.url}: {type(error).__name__}: {one_line(str(error), 200)}"
                finally:
                    self._heard_at = max(self._heard_at, client.heard_at)
                    self._client = None
                    await client.close()
                self.problem = refusal or problem
            self._note_state(_State.REFUSED if refusal else _State.LOST)
            delay = min(_FIRST_DELAY_SECONDS * 2**failures, _MAX_DELAY_SECONDS)
            failures += 1
            await asyncio.sleep(random.uniform(0.5, 1.0) * delay)  # noqa: S311

    async def _use(self, client: NatsClient) -> None:
        for subject, callback in self._subscriptions:
            await client.subscribe(subject, callback)
        self._client = client
        self._silent_since = None
        self.problem = ""
        self.server_version = client.version
        self.server_url = client.server.url
        self._connected.set()
        self._note_state(_State.CONNECTED)
        reason = await client.wait_until_lost()
        self.problem = f"{self.server_url}: {reason}"
        self._note_state(_State.LOST)
        await asyncio.sleep(random.uniform(0, _FIRST_DELAY_SECONDS))  # noqa: S311 - not all at once
        raise FleetUnavailableError(self.problem)

    def _note_state(self, state: _State) -> None:
        """Log a change. What stays the same for hours is one line."""
        if state is self._state:
            return
        self._state = state
        if state is _State.CONNECTED:
            self._refusals.clear()
            _log.info("fleet-connected", server=self.server_url, version=self.server_version)
        elif state is _State.LOST:
            _log.warning("fleet-lost", reason=self.problem)
        else:
            _log.error("fleet-refused", reason=self.problem)

    def _note_refusal(self, error: FleetRefusedError) -> None:
        """Log, once, that a server refused a message without a waiting sender."""
        reason = str(error)
        if reason in self._refusals or len(self._refusals) >= _MAX_REFUSALS:
            return
        self._refusals.add(reason)
        if isinstance(error, FleetOutdatedError):
            _log.warning("fleet-outdated", reason=reason)
        else:
            _log.error("fleet-refused", reason=reason)

    def note_answer(self) -> None:
        """Note that JetStream answered."""
        self._silent_since = None
        self._patience_seconds = _PATIENCE_SECONDS

    def note_silence(self) -> None:
        """Leave a server that answers itself while JetStream does not: others may reach it."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        silent = now - self._silent_since
        is_enough = silent > self._patience_seconds and len(self._access.servers) > 1
        if is_enough and self._client is not None:
            self._patience_seconds = min(2 * self._patience_seconds, _MAX_PATIENCE_SECONDS)
            self._client.leave(f"JetStream gave no answer for {silent:.0f} s")
