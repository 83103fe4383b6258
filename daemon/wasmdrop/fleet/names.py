"""Names of streams, consumers and subjects. They have the version of the protocol.

Each name that a user or another machine chooses is one token: letters, digits, ``-`` and ``_``.
"""

import re
from typing import Final

from wasmdrop.protocol.outcome import DETERMINISTIC_PROFILE
from wasmdrop.protocol.runtime_versions import RuntimeVersions

#: Version of names and messages that daemons write. Workers serve this one and the one before.
PROTOCOL: Final = 1
SERVED_PROTOCOLS: Final = tuple(range(max(1, PROTOCOL - 1), PROTOCOL + 1))

#: Jobs that may run with any version of wasmtime.
ANY_ENGINE: Final = "any"

_PREFIX: Final = f"wd{PROTOCOL}"

#: The prefix of the functions of JetStream, and its name in the accounts of daemons.
API: Final = "$JS.API"
MEMBER_API: Final = f"{_PREFIX}.api"

MODULES: Final = f"WD{PROTOCOL}_MODULES"
"""The stream with the chunks of modules."""

REVOCATIONS: Final = f"{_PREFIX}.revoke"
"""The start of the subjects of revocations."""

ALL_OUTCOMES: Final = f"{_PREFIX}.out.*.*"
ALL_MODULE_CHUNKS: Final = f"{_PREFIX}.module.*.*.*"
ALL_OUTPUT_CHUNKS: Final = f"{_PREFIX}.output.*.*.*.*"


def engine_class(runtime: RuntimeVersions) -> str:
    """Return the class of deterministic jobs that these versions run alike."""
    wasmtime = re.sub("[^A-Za-z0-9-]", "_", runtime.wasmtime)
    return f"p{DETERMINISTIC_PROFILE}-{wasmtime}"


def job_stream(pool: str) -> str:
    """Return the name of the stream of a pool's jobs."""
    return f"WD{PROTOCOL}_JOBS_{pool}"


def job_subject(  # one token each
    pool: str, engine: str, daemon: str, job_id: str, attempt: int, generation: int
) -> str:
    """Return the subject of one publication of a job."""
    return f"{_PREFIX}.job.{pool}.{engine}.{daemon}.{job_id}-{attempt}-{generation}"


def job_of_subject(subject: str) -> tuple[str, int, int] | None:
    """Return the job id, the attempt and the generation of a :func:`job_subject`.

    Return None for another subject.
    """
    job_id, *numbers = subject.rpartition(".")[2].rsplit("-", 2)
    if len(numbers) < 2 or not all(one.isascii() and one.isdecimal() for one in numbers):  # noqa: PLR2004
        return None
    attempt, generation = map(int, numbers)
    return job_id, attempt, generation


def all_jobs(pool: str) -> str:
    """Return the subjects of the stream of a pool's jobs."""
    return f"{_PREFIX}.job.{pool}.>"


def jobs_filter(pool: str, engine: str) -> str:
    """Return the filter of the consumer of a class of jobs, which is named like the class."""
    return f"{_PREFIX}.job.{pool}.{engine}.>"


def daemon_jobs_filter(pool: str, daemon: str) -> str:
    """Return the filter of all jobs of a daemon."""
    return f"{_PREFIX}.job.{pool}.*.{daemon}.*"


def outcome_stream(daemon: str) -> str:
    """Return the name of the stream of a daemon's outcomes.

    Each daemon has its own one: that of a daemon which is gone may be full for ever.
    """
    return f"WD{PROTOCOL}_OUTCOMES_{daemon}"


def outcome_subject(daemon: str, ticket: str) -> str:
    """Return the subject of the outcome for a ticket."""
    return f"{_PREFIX}.out.{daemon}.{ticket}"


def outcomes_filter(daemon: str) -> str:
    """Return the subjects of the stream of a daemon's outcomes, and the filter of its consumer."""
    return f"{_PREFIX}.out.{daemon}.*"


def outcome_consumer(daemon: str) -> str:
    """Return the name of the consumer of a daemon's outcomes."""
    return f"d-{daemon}"


def started_subject(daemon: str) -> str:
    """Return the subject on which workers tell a daemon that they begin a job."""
    return f"{_PREFIX}.started.{daemon}"


def revocation_subject(pool: str, daemon: str) -> str:
    """Return the subject on which a daemon tells the workers of a pool that jobs are over."""
    return f"{REVOCATIONS}.{pool}.{daemon}"


def heartbeat_subject(pool: str, worker: str) -> str:
    """Return the subject of a worker's heartbeats."""
    return f"{_PREFIX}.worker.{pool}.{worker}"


def daemon_heartbeat_subject(daemon: str) -> str:
    """Return the subject of a daemon's heartbeats."""
    return f"{_PREFIX}.daemon.{daemon}"


def module_chunk_subject(pool: str, sha256: str, number: int) -> str:
    """Return the subject of one chunk of a module, counted from 0.

    A client may ask for the last chunk of a subject with wildcards. So rights must tell pools and
    daemons apart by tokens of their own, not only by names that are hard to guess.
    """
    return f"{_PREFIX}.module.{pool}.{sha256}.{number}"


def pool_modules(pool: str) -> str:
    """Return the filter of all chunks of modules of a pool."""
    return f"{_PREFIX}.module.{pool}.*.*"


def input_stream(daemon: str) -> str:
    """Return the name of the stream with the chunks of a daemon's large calls.

    Each daemon has its own one: it may purge this stream, and only this one.
    """
    return f"WD{PROTOCOL}_INPUTS_{daemon}"


def all_inputs(daemon: str) -> str:
    """Return the subjects of the stream of a daemon's large calls."""
    return f"{_PREFIX}.input.{daemon}.>"


def input_chunk_subject(daemon: str, pool: str, ticket: str, number: int) -> str:
    """Return the subject of one chunk of a large call."""
    return f"{_PREFIX}.input.{daemon}.{pool}.{ticket}.{number}"


def input_chunks_filter(daemon: str, ticket: str) -> str:
    """Return the filter of all chunks of a large call."""
    return f"{_PREFIX}.input.{daemon}.*.{ticket}.*"


def pool_inputs(pool: str) -> str:
    """Return the filter of all chunks of large calls for a pool."""
    return f"{_PREFIX}.input.*.{pool}.*.*"


def output_stream(daemon: str) -> str:
    """Return the name of the stream with the chunks of the large outcomes for a daemon."""
    return f"WD{PROTOCOL}_OUTPUTS_{daemon}"


def all_outputs(daemon: str) -> str:
    """Return the subjects of the stream of the large outcomes for a daemon."""
    return f"{_PREFIX}.output.{daemon}.>"


def output_chunk_subject(daemon: str, ticket: str, upload: str, number: int) -> str:
    """Return the subject of one chunk of output; each upload has a name of its own."""
    return f"{_PREFIX}.output.{daemon}.{ticket}.{upload}.{number}"


def output_chunks_filter(daemon: str, ticket: str) -> str:
    """Return the filter of all chunks of all uploads for a ticket."""
    return f"{_PREFIX}.output.{daemon}.{ticket}.>"
