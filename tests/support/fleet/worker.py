"""A worker of a fleet in a process, and a daemon that a test plays: it publishes jobs by hand."""

import asyncio
import hashlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from wasmtime import wat2wasm

from tests.support.daemon import DEADLINE_SECONDS, Daemon
from tests.support.fleet.server import Server
from wasmdrop.fleet.bodies import Publication, send_call
from wasmdrop.fleet.chunks import put_blob
from wasmdrop.fleet.connection import FleetConnection, Stored
from wasmdrop.fleet.messages import Answer, Blob, JobMessage, decode, encode
from wasmdrop.fleet.names import (
    ANY_ENGINE,
    job_subject,
    module_chunk_subject,
    outcome_stream,
    outcome_subject,
)
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import EngineOptions

DAEMON: Final = "daemon"
POOL: Final = "default"

ADD: Final = bytes(
    wat2wasm("""(module (func (export "add") (param i64 i64) (result i64)
    (i64.add (local.get 0) (local.get 1))))""")
)
_BINARY: Final = FunctionType(("i64", "i64"), ("i64",))

#: ``spin`` runs until its timeout.
SPIN: Final = bytes(wat2wasm('(module (func (export "spin") (loop $on (br $on))))'))
SPIN_CALL: Final = Call("spin", FunctionType())


def add_call(first: int, second: int) -> Call:
    """Return the call of ``add`` with these numbers."""
    return Call("add", _BINARY, (first, second))


class Worker(Daemon):
    """``wasmdrop work`` with a state directory below ``base``, not started."""

    def __init__(self, base: Path, server: Server, **variables: str) -> None:
        super().__init__(base, **variables)
        for name in ("WASMDROP_WASM_DIR", "WASMDROP_SHARED_DIR"):
            del self.environment[name]
        for directory in (self.wasm, self.shared):
            directory.rmdir()
        self.environment = {
            "WASMDROP_FLEET": server.url,
            "WASMDROP_FLEET_NAME": base.name,
            "WASMDROP_WORKERS": "2",
        } | self.environment
        self.command = (sys.executable, "-m", "wasmdrop", "work")


class HandmadeDaemon:
    """Publishes jobs and reads their answers, as a daemon does; each job has one attempt."""

    def __init__(self, connection: FleetConnection) -> None:
        self._connection = connection
        self._serial = itertools.count()

    async def upload(self, module: bytes) -> Blob:
        """Store the chunks of a module."""
        sha256 = hashlib.sha256(module).hexdigest()
        return await put_blob(
            self._connection, lambda number: module_chunk_subject(POOL, sha256, number), [module]
        )

    async def publish(
        self,
        module: Blob,
        call: Call,
        limits: Limits = Limits(timeout_sec=60),  # noqa: B008 - it is frozen
        *,
        engine: str = ANY_ENGINE,
        attempts: int = 3,
        **changes: Any,
    ) -> JobMessage:
        """Publish a job, with ``changes`` of its message."""
        ticket = os.urandom(16).hex()
        publication = Publication(POOL, DAEMON, ticket)
        message = JobMessage(
            daemon=DAEMON,
            job=f"job-{next(self._serial)}",
            attempt=1,
            generation=0,
            ticket=ticket,
            module=module,
            options=EngineOptions(deterministic=engine != ANY_ENGINE),
            limits=limits,
            call=await send_call(self._connection, publication, call),
            attempts=attempts,
        )
        await self.send(msgspec.structs.replace(message, **changes), engine)
        return message

    async def send(self, message: JobMessage, engine: str = ANY_ENGINE) -> None:
        """Store a job in its stream."""
        subject = job_subject(
            POOL, engine, message.daemon, message.job, message.attempt, message.generation
        )
        assert await self._connection.store(subject, encode(message)) is Stored.STORED

    async def answer(self, message: JobMessage) -> Answer:
        """Wait for the answer to a job."""
        subject = outcome_subject(message.daemon, message.ticket)
        data = await until(
            lambda: self._connection.get(outcome_stream(message.daemon), subject), "an answer"
        )
        return decode(data, Answer)


async def until(look: Callable[[], Any], what: str) -> Any:
    """Return the first true value that the coroutine function ``look`` returns."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (found := await look()):  # noqa: ASYNC110 - it is far away
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None
