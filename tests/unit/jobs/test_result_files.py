"""Result files and markers are encoded as the protocol says."""

import hashlib
import json
from typing import Any

import pytest

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.result_files import encode_result_files, package
from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES, Limits
from wasmdrop.protocol.marker import MAX_MARKER_BYTES, parse_marker, parse_slot_marker
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK_NS,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
    OutputFile,
    OutputTree,
)
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot
from wasmdrop.unixfs.cid import raw_cid
from wasmdrop.unixfs.files import FileImporter

OK = Outcome(code=Code.OK, results=(144,))
PRINTED = Outcome(code=Code.EXIT, exit_code=3, is_command=True, stdout=b"x", stderr=b"")
TRAP = Outcome(code=Code.TRAP, message="unreachable\nbacktrace")


def packed(
    outcome: Outcome,
    finished_at_ns: int,
    *,
    is_deterministic: bool,
    module_cid: str | None = None,
    stem: str = "result",
    **fields: Any,
) -> ResultPackage:
    """Return the results of a job that ended then."""
    job = Job(
        id="j",
        slot=Slot("input.json", "/s/input.json", "/s", stem),
        dropped_at_ns=1,
        finished_at_ns=finished_at_ns,
        **fields,
    )
    limits = Limits()
    return package(job, "run", [1], outcome, limits, module_cid, is_deterministic=is_deterministic)


def marked(outcome: Outcome, **fields: Any) -> dict[str, Any]:
    """Return the marker of such a job."""
    found = json.loads(packed(outcome, 2_000_000_000, is_deterministic=False, **fields).marker)
    assert isinstance(found, dict)
    return found


def imported(data: bytes) -> str:
    """Return the CID of a file with this content."""
    importer = FileImporter()
    importer.update(data)
    return importer.finish().cid.text


@pytest.mark.parametrize("outcome", [OK, PRINTED, TRAP], ids=["ok", "exit", "trap"])
def test_result_files_of_deterministic_job_do_not_depend_on_the_time(outcome: Outcome) -> None:
    """They are those that anyone gets from the outcome and the start of the job's clock."""
    first = packed(outcome, 2_000_000_000, is_deterministic=True)
    second = packed(outcome, 3_000_000_000, is_deterministic=True)
    assert first.files == second.files
    assert first.files == encode_result_files("run", [1], outcome, DETERMINISTIC_CLOCK_NS)
    assert first.files[".txt"].startswith(b"timestamp: 2000-01-01T00:00:00Z\n")


def test_result_text_of_other_job_has_the_time_of_its_end() -> None:
    """In UTC, to the second."""
    text = packed(OK, 1_700_000_000_500_000_000, is_deterministic=False).files[".txt"]
    assert text == b"timestamp: 2023-11-14T22:13:20Z\nresult: 144\n144\n"


def test_marker_of_deterministic_job_names_its_rules() -> None:
    """The clock in the marker is the timestamp of ``result.txt``."""
    results = packed(OK, 2_000_000_000, is_deterministic=True)
    marker: dict[str, Any] = json.loads(results.marker)
    assert marker["deterministic"] == {
        "seed": DETERMINISTIC_SEED,
        "clock": results.files[".txt"].split()[1].decode(),
        "profile": DETERMINISTIC_PROFILE,
    }
    assert json.loads(packed(OK, 1, is_deterministic=False).marker)["deterministic"] is None


def test_marker_without_profile_is_read_as_of_unknown_rules() -> None:
    """Earlier versions wrote none."""
    marker = json.loads(packed(OK, 2_000_000_000, is_deterministic=True).marker)
    del marker["deterministic"]["profile"]
    parsed = parse_marker(json.dumps(marker).encode())
    assert parsed is not None
    assert parsed.deterministic is not None
    assert parsed.deterministic.profile is None


def test_marker_has_the_cid_of_each_file_module_and_input() -> None:
    """For small files the digest in another alphabet."""
    digests = [hashlib.sha256(data).hexdigest() for data in (b"module", b"input")]
    module, given = PinnedModule("/m", digests[0], 6), InputFile("/i", digests[1], 5)
    large = bytes(3 << 20)
    outcome = Outcome(code=Code.OK, results=(), is_command=True, stdout=large, stderr=b"")
    results = packed(
        *(outcome, 2_000_000_000),
        is_deterministic=False,
        module_cid=imported(b"module"),
        module=module,
        input=given,
    )
    marker = json.loads(results.marker)
    assert marker["module"]["cid"] == imported(b"module")
    assert marker["input"]["cid"] == imported(b"input") == raw_cid(digests[1])
    for suffix, data in results.files.items():
        assert marker["files"][f"result{suffix}"]["cid"] == imported(data)
    assert marker["files"]["result.stdout"]["cid"].startswith("bafybei")
    assert parse_marker(results.marker) is not None


def test_marker_has_the_cids_of_output_files_and_their_directory() -> None:
    """Also if the directory has none."""
    digest = "1" * 64
    files = (OutputFile("small", digest, 1), OutputFile("d/large", digest, 2 << 20, "bafylarge"))
    tree = OutputTree("/t", files, ("d",), cid="bafytree")
    marker = marked(Outcome(code=Code.OK, results=(), output=tree))
    assert marker["output"] == {"cid": "bafytree"}
    assert marker["files"]["result.output/small"]["cid"] == raw_cid(digest)
    assert marker["files"]["result.output/d/large"]["cid"] == "bafylarge"
    without = marked(Outcome(code=Code.OK, results=(), output=OutputTree("/t")))
    assert without["output"] == {"cid": None}
    assert marked(OK)["output"] is None


def test_marker_without_known_cid_leaves_it_out() -> None:
    """Of an unread input, and of large ones that an earlier version read."""
    unread = marked(OK, input=InputFile("/i", None, 1, FileVersion(1, 2, 3, 4), "unreadable"))
    assert "cid" not in unread["input"]
    old = {"input": InputFile("/i", "1" * 64, 2 << 20), "module": PinnedModule("/m", "2" * 64, 1)}
    assert "cid" not in marked(OK, **old)["input"]
    assert "cid" not in marked(OK, **old)["module"]


def test_marker_of_as_many_files_as_a_job_may_leave_can_be_read() -> None:
    """With the longest paths, of characters that JSON escapes."""
    stem = "result-" + '"' * 200
    prefix = "/".join(['"' * 254] * 4)[:1018]
    files = tuple(
        OutputFile(f"{prefix}{number:06}", "1" * 64, 1 << 40, "b" + "a" * 58)
        for number in range(MAX_OUTPUT_ENTRIES)
    )
    outcome = Outcome(code=Code.OK, results=(), output=OutputTree("/t", files))
    marker = packed(outcome, 2_000_000_000, is_deterministic=False, stem=stem).marker
    assert len(marker) <= MAX_MARKER_BYTES
    assert parse_slot_marker(marker, stem) is not None
