"""What travels with a job and with its answer, there and back."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from tests.support.fleet.chunk_memory import ChunkMemory
from tests.support.fleet.output_bodies import left_below, new_directories
from wasmdrop.fleet.bodies import (
    Publication,
    receive_call,
    receive_results,
    send_call,
    send_results,
)
from wasmdrop.fleet.call_codec import InvalidCallError
from wasmdrop.fleet.chunks import MissingChunkError
from wasmdrop.fleet.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.messages import (
    INLINE_BYTES,
    MAX_MESSAGE_BYTES,
    Answer,
    Blob,
    Ran,
    decode,
    encode,
)
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


def test_call_that_is_gone_or_not_as_announced_is_told_apart(
    store: ChunkMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first can be sent again."""
    monkeypatch.setattr("wasmdrop.fleet.chunks.MISSING_SECONDS", 0.01)
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
