"""Check that the daemon can reach its fleet, and that the fleet has its parts."""

from typing import Final

from wasmdrop.fleet.admin.setup import missing_for_daemon
from wasmdrop.fleet.errors import FleetRefusedError, FleetUnavailableError
from wasmdrop.fleet.messages import Revocation, encode
from wasmdrop.fleet.names import (
    ANY_ENGINE,
    engine_class,
    input_chunk_subject,
    input_chunks_filter,
    input_stream,
    job_stream,
    revocation_subject,
)
from wasmdrop.fleet.transport.access import read_access
from wasmdrop.fleet.transport.connection import FleetConnection, Stored, connect
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import FleetFallback, Settings

_AREA: Final = "fleet"

_CONNECT_SECONDS: Final = 10.0

#: The ticket of a chunk that no job has.
_NO_TICKET: Final = "0" * 32


async def examine(settings: Settings) -> list[Finding]:
    """Connect as the daemon does, with its key."""
    try:
        access = read_access(settings, f"wasmdrop doctor of {settings.fleet_name}")
    except SettingsError as error:
        found, _, advice = str(error).partition("; ")
        return [problem(_AREA, "settings", found, advice)]
    async with connect(access) as connection:
        try:
            await connection.wait_connected(_CONNECT_SECONDS)
        except FleetUnavailableError as error:
            return [_unreachable(settings, error)]
        found = f"{connection.server_url}, version {connection.server_version}"
        findings = [ok(_AREA, "server", found)]
        try:
            findings += await _examine_setup(connection, settings)
        except FleetUnavailableError as error:
            advice = "use the key that `wasmdrop fleet config` made for this daemon"
            found = str(error).partition("; ")[0]
            findings.append(problem(_AREA, "rights", found, advice))
        return findings


def _unreachable(settings: Settings, error: FleetUnavailableError) -> Finding:
    found = str(error)
    advice = "start the server, or correct WASMDROP_FLEET; `wasmdrop fleet status` tries it, too"
    if isinstance(error, FleetRefusedError):  # the server is there
        found, _, advice = found.partition("; ")
    if settings.fleet_fallback is FleetFallback.LOCAL:
        return warning(_AREA, "server", f"{found}; jobs run on this host", advice)
    return problem(_AREA, "server", f"{found}; jobs wait", advice)


async def _examine_setup(connection: FleetConnection, settings: Settings) -> list[Finding]:
    daemon, pool = settings.fleet_name, settings.fleet_pool
    missing = await missing_for_daemon(connection, pool, daemon)
    if missing:
        parts = [line.partition("; ") for line in missing]
        return [problem(_AREA, "streams", found, advice) for found, _, advice in parts]
    findings = [ok(_AREA, "streams", f"those of daemon {daemon} and pool {pool} are there")]
    own = engine_class(own_versions())
    if await connection.has_consumer(job_stream(pool), own):
        findings.append(ok(_AREA, "deterministic jobs", f"pool {pool} has class {own}"))
    else:
        findings.append(
            warning(
                *(_AREA, "deterministic jobs", f"pool {pool} has no class {own}"),
                f"run `wasmdrop fleet init --wasmtime {own_versions().wasmtime}`",
            )
        )
    findings.append(await _examine_workers(connection, pool))
    findings.append(await _try_round_trip(connection, daemon, pool))
    findings.append(await _try_revocation(connection, daemon, pool))
    return findings


async def _examine_workers(connection: FleetConnection, pool: str) -> Finding:
    queue = await connection.api(f"CONSUMER.INFO.{job_stream(pool)}.{ANY_ENGINE}")
    waiting, leased = queue["num_waiting"], queue["num_ack_pending"]
    found = f"{waiting} requests for jobs wait, {leased} jobs are leased"
    if waiting or leased:
        return ok(_AREA, "workers", found)
    return warning(
        *(_AREA, "workers", f"no worker of pool {pool} asks for jobs"),
        "start one with `wasmdrop work`",
    )


async def _try_round_trip(connection: FleetConnection, daemon: str, pool: str) -> Finding:
    """Store a chunk, find it, and remove it."""
    stream, chunks = input_stream(daemon), input_chunks_filter(daemon, _NO_TICKET)
    subject = input_chunk_subject(daemon, pool, _NO_TICKET, 0)
    stored = await connection.store(subject, b"wasmdrop doctor")
    found = await connection.subjects(stream, chunks)
    await connection.purge(stream, chunks)
    left = await connection.subjects(stream, chunks)
    if stored is Stored.FULL:
        return warning(
            *(_AREA, "round trip", f"stream {stream} is full: jobs with large inputs wait"),
            "let jobs finish, or make it larger with `wasmdrop fleet init --inputs-mb`",
        )
    if found != {subject} or left:
        return problem(
            *(_AREA, "round trip", f"{subject} was stored and removed, but not so in {stream}"),
            "run `wasmdrop fleet init`",
        )
    return ok(_AREA, "round trip", f"a message was stored in {stream}, found and removed")


async def _try_revocation(connection: FleetConnection, daemon: str, pool: str) -> Finding:
    """Revoke no job."""
    subject = revocation_subject(pool, daemon)
    if await connection.may_publish(subject, encode(Revocation(()))):
        return ok(_AREA, "cancellation", f"workers of pool {pool} may be told of cancelled jobs")
    return warning(
        *(_AREA, "cancellation", f"the server does not allow this key to publish {subject}"),
        "cancelled jobs run on at their workers until they end or time out; run `wasmdrop fleet"
        " config` of this version again with the same arguments, and restart the server",
    )
