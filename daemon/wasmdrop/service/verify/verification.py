"""The steps of a verification, each of which may end it."""

import asyncio
import contextlib
from importlib.metadata import version

import msgspec

from wasmdrop.proof.claim import Claim, Content
from wasmdrop.proof.envelope import Verifier
from wasmdrop.proof.statement import Engine
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.service.verify.artifacts import (
    Artifact,
    digest_of,
    find_input,
    find_module,
    is_tree_of,
    open_given,
    read_all,
    require_size,
)
from wasmdrop.service.verify.claims import Claimed, read_claim
from wasmdrop.service.verify.comparison import conclude, require_match, require_same_statement
from wasmdrop.service.verify.derivation import (
    Derived,
    derive,
    require_limits,
    require_verifiable,
)
from wasmdrop.service.verify.documents import DocumentDirectory, open_document
from wasmdrop.service.verify.rerun import run_again
from wasmdrop.service.verify.signatures import require_signatures
from wasmdrop.service.verify.verdict import (
    ConcludedError,
    Difference,
    DocumentError,
    Report,
    Verdict,
    difference,
    mismatch,
    unverifiable,
)
from wasmdrop.settings import Settings

_NO_SIGNATURE = "no signature was checked; --trust KEYS.pem checks them"
_NO_FILES = "no result file was looked at; compare those you have with the digests in the receipt"
_NOT_RUN = "the job was not run"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to verify, and how."""

    path: str
    """A marker, a receipt, or a directory with one marker."""
    module_path: str | None = None
    input_path: str | None = None
    trusted: tuple[Verifier, ...] | None = None
    """None if signatures are not checked."""
    signatures: int = 1
    """Trusted keys that must have signed."""
    runs: bool = True
    max_sec: float
    """Time limit of the run."""
    max_result_bytes: int
    """Limit of all result files of a slot."""


def verify(settings: Settings, request: Request) -> Report:
    """Verify one result.

    Raises ``DocumentError`` if the request or a document can't be used, ``SettingsError`` if jobs
    can't be confined here, ``SandboxError`` and ``StorageError`` if the rerun fails by a fault of
    its own, ``KeyboardInterrupt`` for SIGINT.
    """
    own = Engine(wasmdrop=version("wasmdrop"), wasmtime=version("wasmtime"))
    claim: Claim | None = None
    path: str | None = None
    signers: tuple[str, ...] = ()
    notes: tuple[str, ...] = () if request.trusted is not None else (_NO_SIGNATURE,)
    verdict, reason = Verdict.MATCH, ""
    differences: tuple[Difference, ...] = ()
    try:
        with open_document(request.path) as (directory, document):
            path = directory.path_of(document.name)
            if document.is_receipt and not request.runs and request.trusted is None:
                raise DocumentError("--no-run leaves nothing to check of a receipt without --trust")
            if document.is_receipt:
                notes += (_NO_FILES,)
            claimed = read_claim(directory, document, request.max_result_bytes)
            claim = claimed.claim
            if request.trusted is not None:
                if claimed.envelope is None:
                    raise DocumentError(
                        f"{path}: the marker names no receipt, so there is no signature to check;"
                        " verify it without --trust"
                    )
                signers = require_signatures(claimed.envelope, request.trusted, request.signatures)
            if not request.runs:
                verdict, reason = Verdict.NOT_RUN, _NOT_RUN
            else:
                notes += _run_and_compare(settings, request, directory, claimed, own)
    except ConcludedError as end:
        verdict, reason, differences = end.verdict, end.reason, end.differences
    return Report(
        path=path,
        verdict=verdict,
        reason=reason,
        differences=differences,
        notes=notes,
        signers=signers,
        claim=claim,
        own_engine=own,
    )


def _run_and_compare(
    settings: Settings,
    request: Request,
    directory: DocumentDirectory,
    claimed: Claimed,
    own: Engine,
) -> tuple[str, ...]:
    """Run the job again; return notes if it comes out as claimed.

    Raises ``ConcludedError`` if it does not, or if a rerun can't decide that.
    """
    claim = claimed.claim
    require_verifiable(claim)
    require_limits(claim.limits, settings.limits)
    if claim.input is None or claim.module is None:
        raise unverifiable("the claim names no input or no module")
    with contextlib.ExitStack() as opened:
        opening = _open_module(settings, request, directory, claim.module)
        # A wrong file of the caller is an error, whatever else is found.
        module = opened.enter_context(opening) if request.module_path is not None else None
        given = opened.enter_context(
            _open_input(settings, request, directory, claimed.stem, claim.input)
        )
        derived = _derive(claim, read_all(given, claim.input.sha256), request.max_sec, own)
        module = module or opened.enter_context(opening)
        _require_content("input", given, claim.input)
        _require_content("module", module, claim.module)
        if derived.module_tree is not None and not is_tree_of(module, derived.module_tree):
            raise unverifiable(
                "the input names its module by a content id that is not that of the claimed one by"
                " any profile that is known here"
            )
        rerun = asyncio.run(run_again(settings, module, claim.module.sha256, derived))
    unchecked = require_match(claim, rerun, own, claimed.contents)
    if claimed.envelope is not None:
        require_same_statement(claim, rerun, own, claimed.envelope.payload)
    return (*derived.notes, *unchecked)


def _open_input(
    settings: Settings,
    request: Request,
    directory: DocumentDirectory,
    stem: str,
    claimed: Content,
) -> contextlib.AbstractContextManager[Artifact]:
    max_bytes = settings.max_input_mb * MEBIBYTE
    require_size("input", claimed, max_bytes, "WASMDROP_MAX_INPUT_MB")
    if request.input_path is not None:
        return open_given(request.input_path, "input", claimed, max_bytes)
    return find_input(directory, stem, claimed, max_bytes)


def _open_module(
    settings: Settings, request: Request, directory: DocumentDirectory, claimed: Content
) -> contextlib.AbstractContextManager[Artifact]:
    max_bytes = settings.max_module_mb * MEBIBYTE
    require_size("module", claimed, max_bytes, "WASMDROP_MAX_MODULE_MB")
    if request.module_path is not None:
        return open_given(request.module_path, "module", claimed, max_bytes)
    wasm_dir = str(settings.wasm_dir)
    return find_module(directory, wasm_dir, settings.max_depth, claimed, max_bytes)


def _derive(claim: Claim, data: bytes, max_sec: float, own: Engine) -> Derived:
    try:
        return derive(claim, data, max_sec)
    except RefusedError as refusal:
        actual = f"{refusal.code}: {refusal.message}"
        raise conclude(claim, own, [difference("code", claim.code, actual)]) from None


def _require_content(what: str, artifact: Artifact, claimed: Content) -> None:
    """Raise ``ConcludedError`` if size or content id are not those of the digest.

    Raises ``DocumentError`` if the file does not have this digest any more.
    """
    differences = []
    if claimed.size_bytes not in {None, artifact.size_bytes}:
        differences.append(difference(f"{what} bytes", claimed.size_bytes, artifact.size_bytes))
    if claimed.cid is not None:
        digest = digest_of(artifact)
        if digest.sha256 != claimed.sha256:
            raise DocumentError(f"{artifact.path}: it changed while it was read")
        if (cid := digest.link().cid.text) != claimed.cid:
            differences.append(difference(f"{what} cid", claimed.cid, cid))
    if differences:
        raise mismatch(f"the claim describes its own {what} falsely", *differences)
