"""Random reports, cache entries and markers: valid ones are accepted, others rejected."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.native_reports import report_frame
from tests.support.strategies import JSON, mutations, replaced
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.placed_marker import placed_marker
from wasmdrop.jobs.result_files import package
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import Slot
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.module_cache.manifest import (
    DamagedEntryError,
    make_manifest,
    read_manifest,
)
from wasmdrop.sandbox.host.native_reports import decode_native_report
from wasmdrop.sandbox.host.reports import decode_run_report, outcome_of_report
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.native_wire import Result
from wasmdrop.sandbox.wire import FRAME, EngineOptions, Preparation, RunReport

OPTIONS = EngineOptions()
SIGNATURE = FunctionType(("i64",), ("i64",))
CALL = Call("fib", SIGNATURE, (12,))
SUMMARY = ModuleSummary(ModuleKind.LIBRARY, {"fib": SIGNATURE})
SHA256 = "ab" * 32
PREPARATION = Preparation(
    options=OPTIONS,
    memory_export=None,
    memory_bytes=1 << 24,
    shares=MemoryShares(1 << 24, 0, 1 << 24, 0),
    output_bytes=1000,
    fuel=None,
    has_wasi=False,
    is_component=False,
    tells_refusals=True,
)


REPORT = msgspec.json.encode(RunReport(Code.OK, "", (144,), None, 65536, 0.001))


@given(st.one_of(mutations(REPORT), replaced(json.loads(REPORT)), JSON.map(msgspec.json.encode)))
def test_any_report_of_child_is_an_outcome_or_a_sandbox_error(header: bytes) -> None:
    """An outcome has values of the entry's signature and a plausible time."""
    try:
        outcome = outcome_of_report(decode_run_report(header), CALL, 0.5)
    except SandboxError:
        return
    assert 0 <= outcome.run_seconds <= 0.5
    if outcome.code is Code.OK:
        assert outcome.results is not None
        assert len(outcome.results) == 1
        assert 0 <= int(str(outcome.results[0])) < 1 << 64


NATIVE_REPORTS = [
    report_frame(144),
    report_frame(result=Result.TRAPPED, trap=9, message=b"unreachable", frames=bytes(4)),
    report_frame(result=Result.FAILED, message=b"x", numbers=(0.1, 0.1, 1, 1, 1 << 30, -1)),
]


@given(
    st.sampled_from(NATIVE_REPORTS).flatmap(lambda frame: mutations(frame[FRAME.size :]))
    | st.binary(max_size=200)
)
def test_any_report_of_native_child_is_an_outcome_or_a_sandbox_error(data: bytes) -> None:
    """As that of any other child."""
    try:
        outcome = outcome_of_report(decode_native_report(data, CALL, PREPARATION), CALL, 0.5)
    except SandboxError:
        return
    assert 0 <= outcome.run_seconds <= 0.5
    assert len(outcome.message) <= MESSAGE_LIMIT
    if outcome.code is Code.OK:
        assert outcome.results is not None
        assert len(outcome.results) == 1
        assert 0 <= int(str(outcome.results[0])) < 1 << 64


@contextlib.contextmanager
def content(data: bytes) -> Iterator[int]:
    """Return a descriptor of a file with this content."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


with content(b"code") as code_fd:
    MANIFEST = make_manifest(SHA256, OPTIONS, SUMMARY, code_fd)


def with_digest(data: bytes) -> bytes:
    """Return a manifest around ``data`` with a valid digest."""
    return b'{"sha256":"%s","manifest":%s}' % (hashlib.sha256(data).hexdigest().encode(), data)


@given(
    st.one_of(
        mutations(MANIFEST),
        replaced(json.loads(MANIFEST)),
        replaced(json.loads(MANIFEST)["manifest"]).map(with_digest),
        JSON.map(msgspec.json.encode).map(with_digest),
    )
)
def test_any_manifest_is_that_of_the_module_or_damaged(data: bytes) -> None:
    """A wrong digest is rejected, and so is the manifest of another module."""
    with content(data) as fd:
        try:
            manifest = read_manifest(fd, SHA256, OPTIONS)
        except DamagedEntryError:
            return
    assert (manifest.module, manifest.options) == (SHA256, OPTIONS.token)
    assert isinstance(manifest.summary, ModuleSummary)
    assert isinstance(manifest.code_bytes, int)


def sound_slot(directory: str) -> tuple[Job, ResultPackage]:
    """Return a job of a slot in ``directory``, and its delivered results."""
    slot = Slot("input.json", f"{directory}/input.json", directory, "result")
    job = Job(id="20261123T000000Z-00", slot=slot, dropped_at_ns=1, attempt=1, finished_at_ns=2)
    results = package(job, "fib", [12], Outcome(code=Code.OK, results=(144,)), Limits())
    for suffix, data in results.files.items():
        Path(directory, f"result{suffix}").write_bytes(data)
    return job, results


with tempfile.TemporaryDirectory() as some_directory:
    MARKER = sound_slot(some_directory)[1].marker


@given(st.one_of(mutations(MARKER), replaced(json.loads(MARKER)), JSON.map(msgspec.json.encode)))
def test_any_marker_found_at_start_is_accepted_only_if_true(marker: bytes) -> None:
    """It names the job, and all its files exist with their digests."""
    with tempfile.TemporaryDirectory() as directory:
        job, results = sound_slot(directory)
        Path(directory, "result.done").write_bytes(marker)
        if placed_marker(job) is None:
            return
        found = json.loads(marker.decode(errors="replace"))  # bytes that no field holds are skipped
        assert found["job"] == job.id
        assert "result.json" in found["files"]
        for name, entry in found["files"].items():
            data = results.files[name.removeprefix("result")]
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_true_marker_found_at_start_is_accepted(tmp_path: Path) -> None:
    """So that the property above covers more than rejections."""
    job, results = sound_slot(str(tmp_path))
    (tmp_path / "result.done").write_bytes(results.marker)
    assert placed_marker(job) == results.marker


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_marker_that_is_no_regular_file_is_rejected(tmp_path: Path, kind: str) -> None:
    """And does not block the daemon."""
    job, results = sound_slot(str(tmp_path))
    marker = tmp_path / "result.done"
    if kind == "fifo":
        os.mkfifo(marker)
    elif kind == "directory":
        marker.mkdir()
    else:
        (tmp_path.parent / "elsewhere").write_bytes(results.marker)
        marker.symlink_to(tmp_path.parent / "elsewhere")
    assert placed_marker(job) is None
