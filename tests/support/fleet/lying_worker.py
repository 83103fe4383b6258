"""A worker that was taken over: it speaks the protocol, and lies.

A job names its lie in its first argument, and in the second one how often it is to be told; then
the worker answers honestly, without running anything.
"""

import asyncio
import contextlib
import hashlib
import math
import os
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tests.support.fleet.output_bodies import entry, listing
from tests.support.fleet.ready import connected
from tests.support.fleet.server import Server
from wasmdrop.fleet.bodies.invalid_answers import Flaw
from wasmdrop.fleet.bodies.outcome_codec import encode_outcome
from wasmdrop.fleet.bodies.transfers import Publication, receive_call
from wasmdrop.fleet.messages import (
    CHUNK_BYTES,
    Answer,
    Blob,
    GivenUp,
    JobMessage,
    Output,
    Ran,
    Returned,
    Started,
    decode,
    encode,
)
from wasmdrop.fleet.names import job_stream, outcome_subject, started_subject
from wasmdrop.fleet.transport.connection import FleetConnection, Lease
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import RuntimeVersions, own_versions
from wasmdrop.sandbox.host.call import Call

POOL: Final = "default"
NAME: Final = "liar"

#: Output of an honest answer, and its only file.
HONEST_STDOUT: Final = b"honest"
HONEST_FILE: Final = ("out.txt", b"content")

_HUGE: Final = 1 << 48


@dataclass(frozen=True)
class Task:
    """A job that was leased, and how to answer it."""

    connection: FleetConnection
    message: JobMessage
    call: Call

    def outcome(self, **fields: Any) -> bytes:
        """Return an honest outcome with other fields."""
        honest = Outcome(
            Code.OK, results=(), exit_code=0, is_command=True, stdout=HONEST_STDOUT, stderr=b""
        )
        plain = msgspec.msgpack.decode(encode_outcome(honest, self.call))
        return msgspec.msgpack.encode({**plain, **fields})

    def ran(
        self,
        outcome: bytes | Blob | None = None,
        output: Output | None = None,
        runtime: RuntimeVersions | None = None,
    ) -> bytes:
        """Return an answer of a job that ran."""
        path, content = HONEST_FILE
        head = listing([entry(path, content)])
        output = output or Output(len(head), head + content)
        if outcome is None:
            outcome = self.outcome()
        return self.answer(Ran(outcome, output, runtime or own_versions()))

    def with_files(self, head: bytes, contents: bytes = b"") -> bytes:
        """Return an answer with other output files."""
        return self.ran(output=Output(len(head), head + contents))

    def answer(self, content: Ran | Returned | GivenUp, **fields: Any) -> bytes:
        """Return an answer, with other fields."""
        message = self.message
        key = {"job": message.job, "attempt": message.attempt, "generation": message.generation}
        return encode(Answer(**{**key, "worker": NAME, "content": content, **fields}))

    async def store(self, chunks: list[bytes], *, upload: str = "ab" * 16) -> str:
        """Store chunks of output under a name; return it."""
        message = self.message
        names = Publication(POOL, message.daemon, message.ticket).output_chunks(upload)
        for number, chunk in enumerate(chunks):
            await self.connection.store(names(number), chunk)
        return upload

    async def large(self, body: bytes, chunks: list[bytes], **fields: Any) -> Blob:
        """Announce a body, with other fields, and store other chunks."""
        upload = await self.store(chunks)
        announced = {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}
        return Blob(**{**announced, "upload": upload, **fields})


Lie = Callable[[Task], Awaitable[bytes]]


def _plain(function: Callable[[Task], bytes]) -> Lie:
    async def lie(task: Task) -> bytes:
        return function(task)

    return lie


def _outcome(**fields: Any) -> Lie:
    return _plain(lambda task: task.ran(task.outcome(**fields)))


def _files(*files: Any, made: tuple[str, ...] = (), contents: bytes = b"") -> Lie:
    return _plain(lambda task: task.with_files(listing(files, made), contents))


def _raw_blob(field: str, value: Any) -> Lie:
    """Announce an outcome whose description has a value that no honest worker can send."""

    def lie(task: Task) -> bytes:
        answer = msgspec.msgpack.decode(task.ran(Blob("ab" * 32, 1000, "cd" * 16)))
        answer["content"]["outcome"][field] = value
        return msgspec.msgpack.encode(answer)

    return _plain(lie)


def _raw_answer(field: str, value: Any) -> Lie:
    def lie(task: Task) -> bytes:
        return msgspec.msgpack.encode({**msgspec.msgpack.decode(task.ran()), field: value})

    return _plain(lie)


def _large_output(change: Callable[[list[bytes]], list[bytes]], **fields: Any) -> Lie:
    """Send output files in chunks, after a change of these."""

    async def lie(task: Task) -> bytes:
        content = os.urandom(3 * CHUNK_BYTES)
        head = listing([entry("large", content)])
        body = head + content
        chunks = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]
        blob = await task.large(body, change(chunks), **fields)
        return task.ran(output=Output(len(head), blob))

    return lie


def _large_outcome(**fields: Any) -> Lie:
    async def lie(task: Task) -> bytes:
        body = task.outcome(stdout=bytes(CHUNK_BYTES))
        chunks = [body[:CHUNK_BYTES], body[CHUNK_BYTES:]]
        return task.ran(await task.large(body, chunks, **fields))

    return lie


#: Lies that are told once and refused, by name, with the flaw and words of the reason.
LIES: Final[dict[str, tuple[Flaw, str, Lie]]] = {
    # Messages
    "no-message": (Flaw.MALFORMED, "does not decode", _plain(lambda _: b"\xc1\xff")),
    "empty-message": (Flaw.MALFORMED, "does not decode", _plain(lambda _: b"\x80")),
    "deep-message": (Flaw.MALFORMED, "does not decode", _plain(lambda _: b"\x91" * 500_000)),
    "many-fields": (
        Flaw.MALFORMED,
        "does not decode",
        _plain(lambda _: msgspec.msgpack.encode({f"f{n}": n for n in range(50_000)})),
    ),
    "control-characters": (
        Flaw.MALFORMED,
        "does not decode",
        _raw_answer("content", {"type": "\x1b[2J\r\n"}),
    ),
    "other-job": (Flaw.VALUE, "names another job", _raw_answer("job", "another")),
    "other-attempt": (Flaw.VALUE, "names another job", _raw_answer("attempt", 7)),
    "later-generation": (Flaw.VALUE, "names another job", _raw_answer("generation", 99)),
    "negative-attempt": (Flaw.MALFORMED, "does not decode", _raw_answer("attempt", -1)),
    "huge-number": (Flaw.MALFORMED, "does not decode", _raw_answer("attempt", (1 << 64) - 1)),
    "worker-of-newlines": (Flaw.MALFORMED, "does not decode", _raw_answer("worker", "a\n")),
    "upload-with-newline": (Flaw.MALFORMED, "does not decode", _raw_blob("upload", "ab\nPING\n")),
    "upload-of-all": (Flaw.MALFORMED, "does not decode", _raw_blob("upload", "*")),
    "digest-of-all": (Flaw.MALFORMED, "does not decode", _raw_blob("sha256", ">" * 64)),
    "negative-size": (Flaw.MALFORMED, "does not decode", _raw_blob("size_bytes", -1)),
    # Outcomes
    "no-outcome": (
        Flaw.MALFORMED,
        "outcome that does not decode",
        _plain(lambda task: task.ran(b"")),
    ),
    "deep-outcome": (
        Flaw.MALFORMED,
        "outcome that does not decode",
        _plain(lambda task: task.ran(b"\x81\xa5stdin" + b"\x91" * 200_000)),
    ),
    "unknown-code": (
        Flaw.MALFORMED,
        "outcome that does not decode",
        _outcome(code="rejected\x1b[2J"),
    ),
    "code-of-the-daemon": (
        Flaw.VALUE,
        "the code invalid-module, which only",
        _outcome(code="invalid-module"),
    ),
    "exit-code": (Flaw.VALUE, "out-of-range exit code", _outcome(exit_code=1 << 40)),
    "memory": (Flaw.VALUE, "out-of-range memory size", _outcome(peak_memory_bytes=1 << 60)),
    "fuel": (Flaw.VALUE, "out-of-range use of fuel", _outcome(fuel_used=-5)),
    "endless-run": (Flaw.VALUE, "impossible duration", _outcome(run_seconds=math.inf)),
    "no-duration": (Flaw.VALUE, "impossible duration", _outcome(cpu_seconds=math.nan)),
    "results": (Flaw.VALUE, "results that do not fit", _outcome(results=[1, 2, 3])),
    "one-stream": (Flaw.VALUE, "alone", _outcome(stderr=None)),
    "no-streams": (Flaw.VALUE, "no output of a WASI program", _outcome(stdout=None, stderr=None)),
    "much-output": (Flaw.SIZE, "bytes of output; the limit is", _outcome(stderr=bytes(150_000))),
    "versions": (
        Flaw.VALUE,
        "a version that is not",
        _plain(lambda task: task.ran(runtime=RuntimeVersions("1", "\x1b[2J", "linux"))),
    ),
    "long-version": (
        Flaw.VALUE,
        "a version that is not",
        _plain(lambda task: task.ran(runtime=RuntimeVersions("1" * 100_000, "2", "linux"))),
    ),
    "files-of-a-crash": (
        Flaw.VALUE,
        "output files of a job that has none",
        _outcome(code="crashed"),
    ),
    # Bodies
    "huge-outcome": (Flaw.SIZE, "bytes are more than", _large_outcome(size_bytes=_HUGE)),
    "shorter-outcome": (Flaw.SIZE, "bytes; ", _large_outcome(size_bytes=CHUNK_BYTES + 1)),
    "other-outcome": (Flaw.DIGEST, "does not match its digest", _large_outcome(sha256="ab" * 32)),
    "outcome-without-name": (
        Flaw.VALUE,
        "without the name of its upload",
        _large_outcome(upload=""),
    ),
    "missing-outcome": (Flaw.MISSING, "is missing", _large_outcome(upload="cd" * 16)),
    "huge-output": (
        Flaw.SIZE,
        "bytes; the limit is",
        _large_output(lambda chunks: chunks, size_bytes=_HUGE),
    ),
    "swapped-chunks": (
        Flaw.DIGEST,
        "does not match",
        _large_output(lambda chunks: [chunks[0], chunks[2], chunks[1], *chunks[3:]]),
    ),
    "missing-chunk": (Flaw.MISSING, "is missing", _large_output(lambda chunks: chunks[:-1])),
    "empty-chunk": (
        Flaw.SIZE,
        "chunk 1 has 0 bytes",
        _large_output(lambda chunks: [chunks[0], b"", *chunks[2:]]),
    ),
    "short-chunk": (
        Flaw.SIZE,
        "chunk 1 has 100 bytes",
        _large_output(lambda chunks: [chunks[0], chunks[1][:100], *chunks[2:]]),
    ),
    "long-chunks": (
        Flaw.SIZE,
        "chunk 0 has 700000 bytes",
        _large_output(lambda chunks: [bytes(700_000) for _ in chunks]),
    ),
    "flipped-bit": (
        Flaw.DIGEST,
        "does not match",
        _large_output(lambda chunks: [*chunks[:-1], bytes(len(chunks[-1]))]),
    ),
    # Output files
    "listing-too-long": (
        Flaw.SIZE,
        "a list of output files of",
        _plain(lambda task: task.ran(output=Output(_HUGE, b""))),
    ),
    "listing-longer-than-body": (
        Flaw.SIZE,
        "output files of -",
        _plain(lambda task: task.ran(output=Output(1000, b"abc"))),
    ),
    "no-listing": (
        Flaw.MALFORMED,
        "list of files that does not decode",
        _plain(lambda task: task.with_files(b"\xc1")),
    ),
    "deep-listing": (
        Flaw.MALFORMED,
        "list of files that does not decode",
        _plain(lambda task: task.with_files(b"\x82\xa5files" + b"\x91" * 100_000)),
    ),
    "parent": (
        Flaw.PATH,
        "not a plain relative path",
        _files(entry("../../../../evil", b"x"), contents=b"x"),
    ),
    "absolute": (Flaw.PATH, "not a plain relative path", _files(entry("/evil"))),
    "dots": (
        Flaw.PATH,
        "not a plain relative path",
        _files(entry("a/../../evil", b""), made=("a",)),
    ),
    "empty-part": (Flaw.PATH, "not a plain relative path", _files(entry("a//b"), made=("a",))),
    "null": (Flaw.PATH, "a name with control characters", _files(entry("a\0b"))),
    "escape": (Flaw.PATH, "a name with control characters", _files(entry("\x1b[2J"))),
    "long-name": (Flaw.PATH, "not a plain relative path", _files(entry("x" * 300))),
    "long-path": (Flaw.PATH, "a path that is too long", _files(entry("d/" * 600 + "x"))),
    "same-file": (Flaw.PATH, "two output files", _files(entry("a"), entry("a"))),
    "file-as-directory": (
        Flaw.PATH,
        "its directory is not listed",
        _files(entry("a"), entry("a/b")),
    ),
    "directory-as-file": (Flaw.PATH, "two output files", _files(entry("a"), made=("a",))),
    "child-first": (Flaw.PATH, "its directory is not listed", _files(made=("a/b", "a"))),
    "too-deep": (
        Flaw.PATH,
        "directories deep",
        _files(made=tuple("/".join("d" * depth) for depth in range(1, 60))),
    ),
    "too-many": (
        Flaw.SIZE,
        "the limit is 10000",
        _files(made=tuple(f"d{number}" for number in range(10_001))),
    ),
    "huge-file": (Flaw.SIZE, "do not add up", _files(entry("a", size=1 << 62))),
    "negative-file": (
        Flaw.SIZE,
        "a negative size",
        _files(entry("a", size=-5), entry("b", size=5)),
    ),
    "more-bytes": (Flaw.SIZE, "do not add up", _files(entry("a", b"x"), contents=b"xy")),
    "fewer-bytes": (Flaw.SIZE, "do not add up", _files(entry("a", b"xyz"), contents=b"xy")),
    "other-content": (
        Flaw.DIGEST,
        "do not match their list",
        _files(entry("a", b"good"), contents=b"evil"),
    ),
    "other-digest": (
        Flaw.DIGEST,
        "do not match their list",
        _files(entry("a", b"good", sha256="0" * 64), contents=b"good"),
    ),
    "too-large": (
        Flaw.SIZE,
        "bytes; the limit is 1048576",
        _large_output(lambda chunks: chunks, size_bytes=2 << 20),
    ),
}


class LyingWorker:
    """The only worker of a pool, on a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_over = threading.Event()
        self.problems: list[str] = []
        """Faults of the worker itself; a test with one of them is void."""
        self.told: dict[str, int] = {}
        """How often each lie was told."""

    @contextlib.contextmanager
    def running(self) -> Iterator["LyingWorker"]:
        """Work during the block."""
        thread = threading.Thread(target=lambda: asyncio.run(self._work()))
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()

    async def _work(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        async with connected(self._server) as connection:
            while not self._is_over.is_set():
                lease = await connection.fetch(job_stream(POOL), "any", 0.5)
                if lease is not None:
                    task = asyncio.create_task(self._answer(connection, lease))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _answer(self, connection: FleetConnection, lease: Lease) -> None:
        try:
            message = decode(lease.data, JobMessage)
            publication = Publication(POOL, message.daemon, message.ticket)
            call = await receive_call(connection, publication, message.call, 1 << 30)
            started = Started(message.ticket, NAME, lease.delivery)
            await connection.publish(started_subject(message.daemon), encode(started))
            task = Task(connection, message, call)
            data = await self._lie(task) or task.ran()
            await connection.store(outcome_subject(message.daemon, message.ticket), data)
            await lease.ack()
        except Exception:  # noqa: BLE001 - the test reports it
            self.problems.append(traceback.format_exc())

    async def _lie(self, task: Task) -> bytes | None:
        """Return a lie, or None if the job is to be answered honestly now."""
        _program, name, count = task.call.argv
        told = self.told.get(key := f"{name}-{count}", 0)
        if told >= int(count):
            return None
        self.told[key] = told + 1
        return await LIES[name][2](task)
