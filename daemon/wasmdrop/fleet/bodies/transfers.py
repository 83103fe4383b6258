"""What travels with a job and with its answer: in the message if it is small, else in chunks.

:func:`send_call` and :func:`receive_results` are the daemon's, the other two the worker's.
"""

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from typing import Final

import msgspec

from wasmdrop.fleet.bodies.call_codec import (
    InvalidCallError,
    NotPortableError,
    decode_call,
    encode_call,
)
from wasmdrop.fleet.bodies.chunks import (
    ChunkStore,
    InvalidBodyError,
    MissingChunkError,
    SubjectOf,
    get_blob,
    put_blob,
    read_blob,
)
from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.outcome_codec import (
    check_runtime,
    decode_outcome,
    encode_outcome,
    max_outcome_bytes,
)
from wasmdrop.fleet.bodies.output_files import encode_listing, read_contents, unpack
from wasmdrop.fleet.bodies.threads import on_thread
from wasmdrop.fleet.messages import INLINE_BYTES, Blob, Output, Ran
from wasmdrop.fleet.names import (
    input_chunk_subject,
    input_stream,
    output_chunk_subject,
    output_stream,
)
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.protocol.outcome import Outcome, OutputTree
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.call import Call, wants_directory
from wasmdrop.sandbox.host.executor import WITHOUT_FILES
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory

#: Outcomes larger than this are decoded on a thread, so that other jobs go on.
_LARGE_BYTES: Final = 64 * 1024

#: Largest call that is sent, in bytes: a fraction of the stream of calls, and less than workers
#: accept by default.
_MAX_CALL_BYTES: Final = 64 * 1024 * 1024

#: Results larger than this are stored one after the other, see :func:`send_results`.
_TURN_BYTES: Final = 4 * 1024 * 1024

#: How long a worker waits for room in the stream of outputs, in seconds: between these, at random.
#: If many workers have filled it with parts of their outputs, those that wait longest get the room
#: of the others.
_FULL_SECONDS: Final = (10.0, 60.0)


class Publication(msgspec.Struct, frozen=True):
    """One publication of a job, which gives its chunks their subjects."""

    pool: str
    daemon: str
    ticket: str

    def input_chunk(self, number: int) -> str:
        """Return the subject of a chunk of the call."""
        return input_chunk_subject(self.daemon, self.pool, self.ticket, number)

    def output_chunks(self, upload: str) -> SubjectOf:
        """Return the subjects of the chunks of one body of an answer."""
        return partial(output_chunk_subject, self.daemon, self.ticket, upload)


async def send_call(store: ChunkStore, publication: Publication, call: Call) -> bytes | Blob:
    """Return the call for a job's message; a large one is stored in chunks first.

    Raises ``NotPortableError`` if it can only run here, and as :func:`.put_blob` does.
    """
    pieces = encode_call(call)
    size_bytes = sum(map(len, pieces))
    if size_bytes <= INLINE_BYTES:
        return b"".join(pieces)
    if size_bytes > _MAX_CALL_BYTES:
        raise NotPortableError(f"it has {size_bytes} bytes; at most {_MAX_CALL_BYTES} are sent")
    return await put_blob(store, publication.input_chunk, pieces)


async def receive_call(
    store: ChunkStore, publication: Publication, body: bytes | Blob, max_bytes: int
) -> Call:
    """Return the call of a job's message.

    Raises ``InvalidCallError`` if it is larger than ``max_bytes``, or not valid;
    ``MissingChunkError`` if it is gone; ``FleetUnavailableError`` as the connection does.
    """
    if isinstance(body, Blob):
        try:
            data = await get_blob(
                store, input_stream(publication.daemon), publication.input_chunk, body, max_bytes
            )
        except MissingChunkError:
            raise
        except InvalidBodyError as error:
            raise InvalidCallError(f"a call that is not as announced: {error}") from None
        return await on_thread(decode_call, data)
    return decode_call(body)


async def send_results(
    store: ChunkStore,
    publication: Publication,
    outcome: Outcome,
    call: Call,
    turn: asyncio.Lock | None = None,
) -> Ran:
    """Return the answer of a job that ran; large parts are stored in chunks first.

    Results of more than 4 MiB are stored while the lock ``turn`` is held: in a stream that is
    nearly full, parts of many bodies would leave no room for the rest of any. The caller removes
    the output files (:func:`.remove_output`). Raises ``SandboxError`` if they can't be read or have
    changed, and as :func:`.put_blob` does.
    """
    if call.component is None:
        data = encode_outcome(outcome, call)
    else:
        data = await on_thread(encode_outcome, outcome, call)  # may take seconds
    tree = outcome.output
    size_bytes = len(data) + sum(file.size_bytes for file in tree.files) if tree else len(data)
    if turn is None or size_bytes <= _TURN_BYTES:
        return await _store_results(store, publication, data, tree)
    async with turn:
        return await _store_results(store, publication, data, tree)


async def _store_results(
    store: ChunkStore, publication: Publication, data: bytes, tree: OutputTree | None
) -> Ran:
    sent: bytes | Blob = data
    if len(data) > INLINE_BYTES:
        sent = await _put_output(store, publication, [data])
    output = None
    if tree is not None:
        listing = encode_listing(tree)
        pieces = itertools.chain([listing], read_contents(tree))
        body: bytes | Blob
        if len(listing) + sum(file.size_bytes for file in tree.files) > INLINE_BYTES:
            body = await _put_output(store, publication, pieces)
        else:
            body = await on_thread(b"".join, pieces)
        output = Output(len(listing), body)
    return Ran(sent, output, own_versions())


async def receive_results(
    store: ChunkStore,
    publication: Publication,
    ran: Ran,
    summary: ModuleSummary,
    call: Call,
    limits: Limits,
    directories: JobDirectoryFactory,
    *,
    deterministic: bool,
    elapsed_seconds: float,
) -> Outcome:
    """Return the outcome of an answer, with its output files in a new directory.

    ``elapsed_seconds``: the time since the job was published; infinity if that is unknown. The
    caller sets ``worker``. Raises ``InvalidAnswerError`` if the job can't have ended like this;
    nothing is left of it then. Raises ``SandboxError`` if the daemon's disk is at fault, and
    ``FleetUnavailableError`` as the connection does.
    """
    try:
        check_runtime(ran.runtime, own_versions(), deterministic=deterministic)
        decode = partial(
            decode_outcome,
            call=call,
            limits=limits,
            has_streams=summary.wants_wasi,
            elapsed_seconds=elapsed_seconds,
        )
        data: bytes | bytearray
        if isinstance(ran.outcome, Blob):
            subject_of = publication.output_chunks(_upload_of(ran.outcome))
            max_bytes = max_outcome_bytes(call, limits)
            data = await get_blob(
                store, output_stream(publication.daemon), subject_of, ran.outcome, max_bytes
            )
        else:
            data = ran.outcome
        # As with a child's report: the results of a component may take seconds.
        is_large = len(data) > _LARGE_BYTES
        outcome = await on_thread(decode, data) if is_large else decode(data)
        outcome = msgspec.structs.replace(outcome, runtime=ran.runtime)
        if ran.output is None:
            return outcome
        if not wants_directory(summary, call) or outcome.code in WITHOUT_FILES:
            raise InvalidAnswerError(Flaw.VALUE, "output files of a job that has none")
        body = ran.output.body
        sizes = size_of(body), ran.output.listing_bytes, limits.disk_bytes
        async with contextlib.aclosing(_pieces(store, publication, body)) as pieces:
            tree = await unpack(pieces, *sizes, directories)
    except InvalidBodyError as error:
        raise InvalidAnswerError(error.flaw, str(error)) from None
    return msgspec.structs.replace(outcome, output=tree)


def size_of(body: bytes | Blob) -> int:
    """Return the announced size of a body in bytes."""
    return body.size_bytes if isinstance(body, Blob) else len(body)


async def _put_output(store: ChunkStore, publication: Publication, pieces: Iterable[bytes]) -> Blob:
    # A name of its own: two workers that run the same job must not mix their chunks.
    upload = os.urandom(16).hex()
    subject_of = publication.output_chunks(upload)
    full_seconds = random.uniform(*_FULL_SECONDS)  # noqa: S311 - spreads load
    return await put_blob(store, subject_of, pieces, upload=upload, full_seconds=full_seconds)


async def _pieces(
    store: ChunkStore, publication: Publication, body: bytes | Blob
) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
        return
    subject_of = publication.output_chunks(_upload_of(body))
    chunks = read_blob(store, output_stream(publication.daemon), subject_of, body, body.size_bytes)
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            yield chunk


def _upload_of(blob: Blob) -> str:
    if not blob.upload:
        raise InvalidAnswerError(Flaw.VALUE, "a body without the name of its upload")
    return blob.upload
