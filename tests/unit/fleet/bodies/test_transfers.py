"""What travels with a job and with its answer, there and back."""

import asyncio
import hashlib
import os
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.fleet.chunk_memory import ChunkMemory
from tests.support.fleet.output_bodies import entry, left_below, listing, new_directories
from tests.support.strategies import mutations
from wasmdrop.fleet.bodies.call_codec import InvalidCallError, NotPortableError
from wasmdrop.fleet.bodies.chunks import MissingChunkError
from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.outcome_codec import encode_outcome
from wasmdrop.fleet.bodies.output_files import remove_output
from wasmdrop.fleet.bodies.transfers import (
    Publication,
    receive_call,
    receive_results,
    send_call,
    send_results,
)
from wasmdrop.fleet.messages import (
    CHUNK_BYTES,
    INLINE_BYTES,
    MAX_MESSAGE_BYTES,
    Answer,
    Blob,
    InvalidMessageError,
    Output,
    Ran,
    decode,
    encode,
)
from wasmdrop.fleet.transport.connection import Stored
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType, Import, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.system.untrusted_trees import inventory

PUBLICATION = Publication("pool", "daemon", "ab" * 16)
COMMAND = Call("_start", FunctionType(), is_command=True)
LIMITS = Limits(output_mb=2, disk_mb=3)
WASI = ModuleSummary(
    ModuleKind.COMMAND, imports=(Import("wasi_snapshot_preview1", "path_open", "func"),)
)
OUTCOME = Outcome(Code.OK, results=(), exit_code=0, is_command=True, stdout=b"", stderr=b"")


@pytest.fixture
def store() -> ChunkMemory:
    """Give a fleet's streams."""
    return ChunkMemory()


@pytest.fixture
def directories(tmp_path: Path) -> JobDirectoryFactory:
    """Give the job directories of a daemon."""
    return new_directories(tmp_path / "state")


def outcome_with(root: Path, outcome: Outcome = OUTCOME) -> Outcome:
    """Return an outcome with the output files in a directory."""
    return msgspec.structs.replace(outcome, output=inventory(str(root), 1 << 30))


def send(store: ChunkMemory, outcome: Outcome, call: Call = COMMAND) -> Ran:
    """Send results as a worker does, in a message."""
    ran = asyncio.run(send_results(store, PUBLICATION, outcome, call))
    data = encode(Answer("job", 1, 0, "worker", ran))
    content = decode(data, Answer).content
    assert isinstance(content, Ran)
    return content


def receive(
    store: ChunkMemory,
    ran: Ran,
    directories: JobDirectoryFactory,
    *,
    summary: ModuleSummary = WASI,
    call: Call = COMMAND,
) -> Outcome:
    """Receive results as a daemon does."""
    return asyncio.run(
        receive_results(
            *(store, PUBLICATION, ran, summary, call, LIMITS, directories),
            deterministic=False,
            elapsed_seconds=10,
        )
    )


@pytest.mark.parametrize("size", [10, INLINE_BYTES + 1, 5 * INLINE_BYTES])
def test_call_is_received_as_it_was_sent(store: ChunkMemory, size: int) -> None:
    """In the message or in chunks."""
    call = msgspec.structs.replace(COMMAND, stdin=os.urandom(size), files={"a/b": os.urandom(size)})
    body = asyncio.run(send_call(store, PUBLICATION, call))
    assert isinstance(body, Blob) == (size > INLINE_BYTES)
    assert asyncio.run(receive_call(store, PUBLICATION, body, 1 << 30)) == call


def test_call_that_is_too_large_is_not_sent(store: ChunkMemory) -> None:
    """The daemon runs it itself."""
    call = msgspec.structs.replace(COMMAND, stdin=bytes(64 << 20))
    with pytest.raises(NotPortableError, match="at most 67108864 are sent"):
        asyncio.run(send_call(store, PUBLICATION, call))
    assert store.stored == 0


def test_call_that_is_gone_or_not_as_announced_is_told_apart(
    store: ChunkMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first can be sent again."""
    monkeypatch.setattr("wasmdrop.fleet.bodies.chunks.MISSING_SECONDS", 0.01)
    call = msgspec.structs.replace(COMMAND, stdin=bytes(INLINE_BYTES))
    body = asyncio.run(send_call(store, PUBLICATION, call))
    with pytest.raises(InvalidCallError, match="are more than 1000"):
        asyncio.run(receive_call(store, PUBLICATION, body, 1000))
    store.messages.clear()
    with pytest.raises(MissingChunkError):
        asyncio.run(receive_call(store, PUBLICATION, body, 1 << 30))


@pytest.mark.parametrize("size", [0, 100, INLINE_BYTES, 3 * INLINE_BYTES])
def test_results_are_received_as_they_were_sent(
    store: ChunkMemory, directories: JobDirectoryFactory, tmp_path: Path, size: int
) -> None:
    """Outcome and output files, in the message or in chunks."""
    produced = tmp_path / "produced"
    (produced / "d").mkdir(parents=True)
    (produced / "d" / "file").write_bytes(os.urandom(size))
    outcome = msgspec.structs.replace(outcome_with(produced), stdout=os.urandom(size))
    found = receive(store, send(store, outcome), directories)
    assert found.output is not None
    assert outcome.output is not None
    same = {"output": None, "runtime": own_versions()}
    assert msgspec.structs.replace(found, output=None) == msgspec.structs.replace(outcome, **same)
    assert msgspec.structs.replace(found.output, root="") == msgspec.structs.replace(
        outcome.output, root=""
    )


def test_large_results_are_stored_one_after_the_other(store: ChunkMemory) -> None:
    """Small ones do not wait for them."""
    large = msgspec.structs.replace(OUTCOME, stdout=bytes(5 << 20))
    small = msgspec.structs.replace(OUTCOME, stdout=bytes(3 << 20))

    async def scene() -> None:
        turn = asyncio.Lock()
        await turn.acquire()
        waiting = asyncio.create_task(send_results(store, PUBLICATION, large, COMMAND, turn))
        await send_results(store, PUBLICATION, small, COMMAND, turn)
        assert len(store.messages) == 13
        turn.release()
        await waiting
        assert len(store.messages) == 13 + 21
        assert not turn.locked()

    asyncio.run(scene())


def test_largest_bodies_that_travel_in_the_message_fit_into_it(
    store: ChunkMemory, tmp_path: Path
) -> None:
    """Outcome and output files together."""
    produced = tmp_path / "produced"
    produced.mkdir()
    (produced / "file").write_bytes(bytes(INLINE_BYTES - 200))
    outcome = outcome_with(
        produced, msgspec.structs.replace(OUTCOME, stdout=bytes(INLINE_BYTES - 200))
    )
    ran = send(store, outcome)
    assert store.messages == {}
    assert len(encode(ran)) < MAX_MESSAGE_BYTES


def test_files_whose_list_is_larger_than_a_message_are_received(
    store: ChunkMemory, directories: JobDirectoryFactory, tmp_path: Path
) -> None:
    """It travels with their contents."""
    produced = tmp_path / "produced"
    produced.mkdir()
    count = 1 + MAX_MESSAGE_BYTES // 250
    for number in range(count):
        (produced / f"{number:0>250}").touch()
    ran = send(store, outcome_with(produced))
    found = receive(store, ran, directories)
    assert found.output is not None
    assert len(found.output.files) == count


@pytest.mark.parametrize(
    ("summary", "call", "code"),
    [
        (ModuleSummary(ModuleKind.COMMAND), COMMAND, Code.TRAP),
        (WASI, msgspec.structs.replace(COMMAND, is_command=False), Code.TRAP),
        (WASI, COMMAND, Code.DISK_LIMIT),
        (WASI, COMMAND, Code.CRASHED),
        (WASI, COMMAND, Code.SANDBOX_VIOLATION),
        (WASI, COMMAND, Code.INTERNAL),
    ],
)
def test_output_files_of_a_job_that_publishes_none_are_refused(
    store: ChunkMemory,
    directories: JobDirectoryFactory,
    tmp_path: Path,
    summary: ModuleSummary,
    call: Call,
    code: Code,
) -> None:
    """It has no directory, or its files are not to be seen."""
    (tmp_path / "produced").mkdir()
    outcome = Outcome(code)
    if summary.wants_wasi:
        outcome = msgspec.structs.replace(outcome, stdout=b"", stderr=b"")
    ran = send(store, outcome_with(tmp_path / "produced", outcome), call)
    with pytest.raises(InvalidAnswerError, match="output files of a job that has none") as caught:
        receive(store, ran, directories, summary=summary, call=call)
    assert caught.value.flaw is Flaw.VALUE
    assert left_below(tmp_path / "state") == []


#: Of output files, and what may be in memory of them: eight chunks on their way, and the rest.
_LARGE_BYTES = 48 << 20
_PEAK_BYTES = 16 * CHUNK_BYTES
_LARGE_LIMITS = msgspec.structs.replace(LIMITS, disk_mb=64)


class _Zeros(ChunkMemory):
    """A stream that keeps nothing: it has a listing, and then zeros."""

    def __init__(self, body_bytes: int = 0, head: bytes = b"") -> None:
        super().__init__()
        self._size_bytes = body_bytes
        self._head = head

    async def store(self, subject: str, data: bytes) -> Stored:
        """Drop a message."""
        await super().store(subject, data)
        self.messages.clear()
        return Stored.STORED

    async def get(self, stream: str, subject: str) -> bytes | None:
        """Make a message."""
        await super().get(stream, subject)
        start = int(subject.rpartition(".")[2]) * CHUNK_BYTES
        size = min(CHUNK_BYTES, self._size_bytes - start)
        return (self._head[start : start + size] + bytes(size))[:size]


def test_large_output_files_are_sent_with_few_chunks_in_memory(tmp_path: Path) -> None:
    """However large they are."""
    produced = tmp_path / "produced"
    produced.mkdir()
    for name in ("a", "b"):
        with (produced / name).open("wb") as file:
            file.truncate(_LARGE_BYTES // 2)
    outcome = outcome_with(produced)
    tracemalloc.start()
    try:
        ran = asyncio.run(send_results(_Zeros(), PUBLICATION, outcome, COMMAND))
        assert tracemalloc.get_traced_memory()[1] < _PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert ran.output is not None
    assert isinstance(ran.output.body, Blob)
    assert ran.output.body.size_bytes > _LARGE_BYTES


def test_large_output_files_are_received_with_few_chunks_in_memory(
    directories: JobDirectoryFactory,
) -> None:
    """However large they are."""
    zeros = hashlib.sha256()
    for _ in range(_LARGE_BYTES // CHUNK_BYTES):
        zeros.update(bytes(CHUNK_BYTES))
    head = listing([entry("a", size=_LARGE_BYTES, sha256=zeros.hexdigest())])
    body = hashlib.sha256(head)
    for _ in range(_LARGE_BYTES // CHUNK_BYTES):
        body.update(bytes(CHUNK_BYTES))
    size_bytes = len(head) + _LARGE_BYTES
    blob = Blob(body.hexdigest(), size_bytes, "ab" * 16)
    ran = Ran(encode_outcome(OUTCOME, COMMAND), Output(len(head), blob), own_versions())
    tracemalloc.start()
    try:
        found = asyncio.run(
            receive_results(
                *(_Zeros(size_bytes, head), PUBLICATION, ran, WASI, COMMAND, _LARGE_LIMITS),
                directories,
                deterministic=False,
                elapsed_seconds=10,
            )
        )
        assert tracemalloc.get_traced_memory()[1] < _PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert found.output is not None
    assert [file.size_bytes for file in found.output.files] == [_LARGE_BYTES]


_HEAD = listing([entry("a", b"123"), entry("d/b", b"4"), entry("d/c")], ["d"])
_ANSWER = encode(
    Answer(
        "job",
        1,
        0,
        "worker",
        Ran(
            encode_outcome(msgspec.structs.replace(OUTCOME, stdout=b"out"), COMMAND),
            Output(len(_HEAD), _HEAD + b"1234"),
            own_versions(),
        ),
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=1000)
@given(data=mutations(_ANSWER) | mutations(_ANSWER).flatmap(lambda data: mutations(data or b"x")))
def test_mutated_answer_is_received_or_refused(
    store: ChunkMemory, directories: JobDirectoryFactory, tmp_path: Path, data: bytes
) -> None:
    """With two exceptions, and no other; nothing is left of what is refused."""
    try:
        content = decode(data, Answer).content
        if not isinstance(content, Ran):
            return
        found = receive(store, content, directories)
    except (InvalidMessageError, InvalidAnswerError) as error:
        assert str(error).isprintable()  # noqa: PT017 - one of two good ends
    else:
        assert found.message.replace("\n", "").isprintable()
        assert found.attempts == 1
        assert found.worker is None
        if found.output is not None:
            assert Path(found.output.root).parent.parent == tmp_path / "state" / "jobs"
            remove_output(found.output)
    assert left_below(tmp_path / "state") == []
