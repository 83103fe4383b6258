"""Write the receipt of a deterministic job: the signed statement about its other result files."""

from collections.abc import Mapping
from typing import Any

from wasmdrop.proof.envelope import Signer, encode_envelope, sign_payload
from wasmdrop.proof.statement import Engine, Resource, encode_statement, statement_of
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedFile, MarkedInput, MarkedModule
from wasmdrop.protocol.outcome import Outcome
from wasmdrop.protocol.runtime_versions import RuntimeVersions


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
    """Return the content of the receipt; None if the input or the output directory has no digest.

    ``files`` are the other result files by suffix. The same job has the same receipt at each
    attempt, after a restart, and on another host with the same key.
    """
    if given is None or given.sha256 is None:
        return None  # such a job is not deterministic: its input would have to ask for it
    output = outcome.output
    if output is not None and output.cid is None:
        return None  # the receipt would not cover the output files
    statement = statement_of(
        {suffix: Resource.of(file.sha256, file.cid) for suffix, file in files.items()},
        None if output is None else output.cid,
        None if module is None else Resource.of(module.sha256, module.cid),
        Resource.of(given.sha256, given.cid),
        entry,
        tuple(args),
        limits,
        Engine(wasmdrop=runtime.wasmdrop, wasmtime=runtime.wasmtime),
        outcome,
    )
    return encode_envelope(sign_payload(encode_statement(statement), signer))
