"""The streams and consumers of a fleet: their definitions, how to make them, and which are missing.

Only ``wasmdrop fleet init`` makes them. Daemons and workers have no right to, and check them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from wasmdrop.fleet.errors import FleetApiError, FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.messages import HEADER_BYTES, MAX_MESSAGE_BYTES
from wasmdrop.fleet.names import (
    ALL_MODULE_CHUNKS,
    ANY_ENGINE,
    MODULES,
    all_inputs,
    all_jobs,
    all_outputs,
    input_stream,
    job_stream,
    jobs_filter,
    outcome_consumer,
    outcome_stream,
    outcomes_filter,
    output_stream,
)
from wasmdrop.fleet.transport.connection import NO_ROOM, FleetConnection

_MIB: Final = 1024 * 1024
_SECOND_NS: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * _SECOND_NS

#: The time of a lease of a job, which workers extend, and of an outcome.
JOB_ACK_SECONDS: Final = 10
OUTCOME_ACK_SECONDS: Final = 30

#: Leased and not acknowledged messages of a consumer.
_MAX_LEASES: Final = 100_000

#: Waiting requests of a consumer: each worker has one per class.
_MAX_WAITING: Final = 65_536

#: How long a consumer may be without a leader before it counts as missing.
CHECK_SECONDS: Final = 5.0

_MODULE_DAYS: Final = 30
_NOT_FOUND: Final = 404

#: JetStream's errors of a cluster that begins: too few servers are there, or none leads.
_NOT_YET: Final = frozenset({10005, 10008})


class Sizes(msgspec.Struct, frozen=True):
    """Limits of the streams in MiB, which the server reserves on its disk.

    None leaves a stream as it is, and gives a new one the default.
    """

    jobs: int | None = None
    """Of each pool."""
    outcomes: int | None = None
    """Of each daemon."""
    modules: int | None = None
    inputs: int | None = None
    """Of each daemon."""
    outputs: int | None = None
    """Of each daemon."""


DEFAULT_SIZES: Final = Sizes(jobs=256, outcomes=256, modules=1024, inputs=512, outputs=1024)
DEFAULT_REPLICAS: Final = 1


class Plan(msgspec.Struct, frozen=True):
    """The streams and consumers that a fleet needs."""

    daemons: tuple[str, ...]
    pools: tuple[str, ...]
    engines: tuple[str, ...]
    """Classes of deterministic jobs, see :func:`~wasmdrop.fleet.names.engine_class`."""
    replicas: int | None = None
    """None leaves a stream as it is."""
    sizes: Sizes = Sizes()


class Stream(msgspec.Struct, frozen=True):
    """A stream and its consumers, in the words of JetStream's API."""

    config: dict[str, Any]
    defaults: dict[str, Any]
    """What a new stream has, and one that is there keeps."""
    consumers: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])


def streams(plan: Plan) -> list[Stream]:
    """Return the definitions of all streams."""
    queue = {
        "retention": "workqueue",
        "discard": "new",
        "discard_new_per_subject": True,
    }
    chunks = {"retention": "limits", "allow_direct": True}
    passing = {**chunks, "discard": "new", "max_age": _DAY_NS}
    month = {"discard": "old", "max_age": _MODULE_DAYS * _DAY_NS}

    def stream(
        name: str, subjects: str, size: str, rules: dict[str, Any], consumers: Iterable[Any] = ()
    ) -> Stream:
        chosen = {"num_replicas": plan.replicas, "max_bytes": _bytes(getattr(plan.sizes, size))}
        config = {
            "name": name,
            "subjects": [subjects],
            "storage": "file",
            "max_msgs_per_subject": 1,
            "max_msg_size": MAX_MESSAGE_BYTES + HEADER_BYTES,
            **rules,
        }
        return Stream(
            config | {key: value for key, value in chosen.items() if value is not None},
            {
                "num_replicas": DEFAULT_REPLICAS,
                "max_bytes": _bytes(getattr(DEFAULT_SIZES, size)),
            },
            tuple(consumers),
        )

    return [
        *(
            stream(
                *(job_stream(pool), all_jobs(pool), "jobs"),
                # Jobs that a worker keeps must not fill it. The daemon publishes lost ones again.
                {**queue, "max_age": _DAY_NS},
                (
                    _consumer(engine, jobs_filter(pool, engine), JOB_ACK_SECONDS)
                    for engine in (ANY_ENGINE, *plan.engines)
                ),
            )
            for pool in plan.pools
        ),
        *(
            stream(
                *(outcome_stream(daemon), outcomes_filter(daemon), "outcomes"),
                {**queue, "allow_direct": True},
                [_consumer(outcome_consumer(daemon), outcomes_filter(daemon), OUTCOME_ACK_SECONDS)],
            )
            for daemon in plan.daemons
        ),
        stream(MODULES, ALL_MODULE_CHUNKS, "modules", {**chunks, **month}),
        *(
            stream(input_stream(daemon), all_inputs(daemon), "inputs", passing)
            for daemon in plan.daemons
        ),
        *(
            stream(output_stream(daemon), all_outputs(daemon), "outputs", passing)
            for daemon in plan.daemons
        ),
    ]


def _bytes(size: int | None) -> int | None:
    return None if size is None else size * _MIB


def _consumer(name: str, subjects: str, ack_seconds: int) -> dict[str, Any]:
    return {
        "name": name,
        "durable_name": name,
        "filter_subject": subjects,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ack_seconds * _SECOND_NS,
        "max_deliver": -1,
        "max_ack_pending": _MAX_LEASES,
        "max_waiting": _MAX_WAITING,
    }


async def create(
    connection: FleetConnection, plan: Plan, seconds: float = 60.0
) -> AsyncIterator[tuple[str, str]]:
    """Make or change all streams and consumers; yield each name, and what became of it.

    ``seconds``: for how long to wait for a cluster that has no leader yet, or not all its servers.
    Raises ``FleetUnavailableError``.
    """
    deadline = time.monotonic() + seconds
    for stream in streams(plan):
        yield stream.name, await _repeated(deadline, _put_stream, connection, stream)
        for consumer in stream.consumers:
            became = await _repeated(deadline, _put_consumer, connection, stream.name, consumer)
            yield f"{stream.name} {consumer['name']}", became


async def _repeated(deadline: float, put: Callable[..., Awaitable[str]], *arguments: object) -> str:
    while True:
        try:
            return await put(*arguments)
        except FleetApiError as error:
            if error.number in NO_ROOM:
                raise FleetRefusedError(
                    f"{error}: the server reserves the size of each stream; raise max_file_store of"
                    " its configuration, or choose smaller ones (--jobs-mb and the others)"
                ) from None
            if error.number not in _NOT_YET or time.monotonic() > deadline:
                raise
        except FleetRefusedError:
            raise
        except FleetUnavailableError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)


async def _put_stream(connection: FleetConnection, stream: Stream) -> str:
    found = await _config(connection, f"STREAM.INFO.{stream.name}")
    if found is None:
        await connection.api(f"STREAM.CREATE.{stream.name}", {**stream.defaults, **stream.config})
        return "created"
    if _has(found, stream.config):
        return "unchanged"
    await connection.api(f"STREAM.UPDATE.{stream.name}", {**found, **stream.config})
    return "updated"


async def _put_consumer(connection: FleetConnection, stream: str, config: dict[str, Any]) -> str:
    name = config["name"]
    found = await _config(connection, f"CONSUMER.INFO.{stream}.{name}")
    if found is not None and _has(found, config):
        return "unchanged"
    request = {"stream_name": stream, "config": config}
    await connection.api(f"CONSUMER.CREATE.{stream}.{name}", request)
    return "created" if found is None else "updated"


async def _config(connection: FleetConnection, name: str) -> dict[str, Any] | None:
    try:
        answer = await connection.api(name)
    except FleetApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    config = answer["config"]
    assert isinstance(config, dict)  # noqa: S101 - the API's own form
    return config


def _has(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(found.get(key) == value for key, value in wanted.items())


async def missing_for_daemon(
    connection: FleetConnection, pool: str, daemon: str, seconds: float = CHECK_SECONDS
) -> list[str]:
    """Return the parts that a daemon needs and the fleet lacks, each in one line.

    Raises ``FleetUnavailableError``.
    """
    missing = []
    if not await connection.has_consumer(job_stream(pool), ANY_ENGINE):
        missing.append(f"the fleet has no pool {pool}; run `wasmdrop fleet init --pool {pool}`")
    if not await connection.can_fetch(
        outcome_stream(daemon), outcome_consumer(daemon), seconds=seconds
    ):
        missing.append(
            f"the fleet has no daemon {daemon}; run `wasmdrop fleet init --daemon {daemon}`"
        )
    return missing


async def missing_for_worker(
    connection: FleetConnection, pool: str, engine: str, seconds: float = CHECK_SECONDS
) -> list[str]:
    """Return the parts that a worker needs and the fleet lacks, each in one line.

    A pool without the worker's class of deterministic jobs has jobs for it nevertheless.
    Raises ``FleetUnavailableError``.
    """
    if not await connection.can_fetch(job_stream(pool), ANY_ENGINE, seconds=seconds):
        return [f"the fleet has no pool {pool}; run `wasmdrop fleet init --pool {pool}`"]
    if not await connection.can_fetch(job_stream(pool), engine, seconds=seconds):
        reason = f"pool {pool} has no class {engine} of deterministic jobs"
        return [f"{reason}; run `wasmdrop fleet init` with this wasmtime (--wasmtime VERSION)"]
    return []
