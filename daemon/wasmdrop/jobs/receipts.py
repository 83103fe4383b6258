"""Write the receipt of a deterministic job: the signed statement about its other result files."""

from collections.abc import Mapping
from typing import Any

from wasmdrop.proof.envelope import Signer, encode_envelope, sign_payload
from wasmdrop.proof.statement import Engine, Resource, encode_statement, statement_of
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedFile, MarkedInput, MarkedModule, RuntimeVersions
from wasmdrop.protocol.outcome import Outcome


def encode_receipt(
    files: Mapping[str, MarkedFile],
    module: MarkedModule | None,
    given: MarkedInput | None,
    entry: str | None,
    args: list[Any],
    limits: Limits,
    runtime: RuntimeVersions,
    outcome: Outcome,
    signer: Signer,
) -> bytes | None:
    """Return the content of the receipt; None if the job's input has no digest.

    ``files`` are the other result files by suffix. The same job has the same receipt at each
    attempt, after a restart, and on another host with the same key.
    """
    if given is None or given.sha256 is None:
        return None  # such a job is not deterministic: its input would have to ask for it
    statement = statement_of(
        {suffix: Resource.of(file.sha256, None) for suffix, file in files.items()},
        None,
        None if module is None else Resource.of(module.sha256, None),
        Resource.of(given.sha256, None),
        entry,
        tuple(args),
        limits,
        Engine(wasmdrop=runtime.wasmdrop, wasmtime=runtime.wasmtime),
        outcome,
    )
    return encode_envelope(sign_payload(encode_statement(statement), signer))
