"""The streams and consumers of a fleet: their definitions, how to make them, and what is missing.

Only ``wasmdrop fleet init`` makes them. Daemons and workers have no right to, and check them.
"""

from typing import Any, Final

import msgspec

from wasmdrop.fleet.connection import FleetConnection
from wasmdrop.fleet.errors import FleetApiError
from wasmdrop.fleet.messages import MAX_MESSAGE_BYTES
from wasmdrop.fleet.names import (
    ALL_MODULE_CHUNKS,
    ALL_OUTCOMES,
    ANY_ENGINE,
    MODULES,
    OUTCOMES,
    all_inputs,
    all_jobs,
    all_outputs,
    input_stream,
    job_stream,
    jobs_filter,
    outcome_consumer,
    outcomes_filter,
    output_stream,
)

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

_MODULE_DAYS: Final = 30
_NOT_FOUND: Final = 404


class Sizes(msgspec.Struct, frozen=True):
    """Limits of the streams in MiB. The server reserves them on its disk."""

    jobs: int = 256
    """Of each pool."""
    outcomes: int = 512
    modules: int = 1024
    inputs: int = 512
    """Of each daemon."""
    outputs: int = 1024
    """Of each daemon."""


class Plan(msgspec.Struct, frozen=True):
    """What a fleet is to have."""

    daemons: tuple[str, ...]
    pools: tuple[str, ...]
    engines: tuple[str, ...]
    """Classes of deterministic jobs, see :func:`~wasmdrop.fleet.names.engine_class`."""
    replicas: int = 1
    sizes: Sizes = Sizes()


class Stream(msgspec.Struct, frozen=True):
    """A stream and its consumers, in the words of JetStream's API."""

    config: dict[str, Any]
    consumers: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])


def streams(plan: Plan) -> list[Stream]:
    """Return the definitions of all streams."""
    sizes = plan.sizes
    queue = {
        "retention": "workqueue",
        "discard": "new",
        "discard_new_per_subject": True,
    }
    chunks = {"retention": "limits", "allow_direct": True}
    passing = {**chunks, "discard": "new", "max_age": _DAY_NS}
    month = {"discard": "old", "max_age": _MODULE_DAYS * _DAY_NS}

    def config(name: str, subjects: str, size: int, **more: object) -> dict[str, Any]:
        return {
            "name": name,
            "subjects": [subjects],
            "storage": "file",
            "num_replicas": plan.replicas,
            "max_msgs_per_subject": 1,
            "max_msg_size": MAX_MESSAGE_BYTES,
            "max_bytes": size * _MIB,
            **more,
        }

    jobs = [
        Stream(
            config(job_stream(pool), all_jobs(pool), sizes.jobs, **queue),
            tuple(
                _consumer(engine, jobs_filter(pool, engine), JOB_ACK_SECONDS)
                for engine in (ANY_ENGINE, *plan.engines)
            ),
        )
        for pool in plan.pools
    ]
    outcomes = Stream(
        config(OUTCOMES, ALL_OUTCOMES, sizes.outcomes, **queue, allow_direct=True),
        tuple(
            _consumer(outcome_consumer(daemon), outcomes_filter(daemon), OUTCOME_ACK_SECONDS)
            for daemon in plan.daemons
        ),
    )
    return [
        *jobs,
        outcomes,
        Stream(config(MODULES, ALL_MODULE_CHUNKS, sizes.modules, **chunks, **month)),
        *(
            Stream(config(input_stream(daemon), all_inputs(daemon), sizes.inputs, **passing))
            for daemon in plan.daemons
        ),
        *(
            Stream(config(output_stream(daemon), all_outputs(daemon), sizes.outputs, **passing))
            for daemon in plan.daemons
        ),
    ]


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


async def create(connection: FleetConnection, plan: Plan) -> list[tuple[str, str]]:
    """Make or change all streams and consumers; return names, and what became of each.

    Raises ``FleetUnavailableError``.
    """
    done = []
    for stream in streams(plan):
        done.append((stream.name, await _put_stream(connection, stream.config)))
        for consumer in stream.consumers:
            name = consumer["name"]
            became = await _put_consumer(connection, stream.name, consumer)
            done.append((f"{stream.name} {name}", became))
    return done


async def _put_stream(connection: FleetConnection, config: dict[str, Any]) -> str:
    name = config["name"]
    found = await _config(connection, f"STREAM.INFO.{name}")
    if found is None:
        await connection.api(f"STREAM.CREATE.{name}", config)
        return "created"
    if _has(found, config):
        return "unchanged"
    await connection.api(f"STREAM.UPDATE.{name}", {**found, **config})
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


async def missing_for_daemon(connection: FleetConnection, pool: str, daemon: str) -> list[str]:
    """Return what a daemon needs and the fleet lacks, each in one line.

    Raises ``FleetUnavailableError``.
    """
    missing = []
    if not await connection.has_consumer(job_stream(pool), ANY_ENGINE):
        missing.append(f"the fleet has no pool {pool}; run `wasmdrop fleet init --pool {pool}`")
    if not await connection.can_fetch(OUTCOMES, outcome_consumer(daemon)):
        missing.append(
            f"the fleet has no daemon {daemon}; run `wasmdrop fleet init --daemon {daemon}`"
        )
    return missing


async def missing_for_worker(connection: FleetConnection, pool: str, engine: str) -> list[str]:
    """Return what a worker needs and the fleet lacks, each in one line.

    A pool without the worker's class of deterministic jobs has jobs for it nevertheless.
    Raises ``FleetUnavailableError``.
    """
    if not await connection.can_fetch(job_stream(pool), ANY_ENGINE):
        return [f"the fleet has no pool {pool}; run `wasmdrop fleet init --pool {pool}`"]
    if not await connection.can_fetch(job_stream(pool), engine):
        reason = f"pool {pool} has no class {engine} of deterministic jobs"
        return [f"{reason}; run `wasmdrop fleet init` with this wasmtime (--wasmtime VERSION)"]
    return []
