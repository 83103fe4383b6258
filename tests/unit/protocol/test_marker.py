"""Markers that any user may have written: which are accepted, and for which input."""

import json
from typing import Any

import pytest

from tests.support.markers import a_marker
from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES
from wasmdrop.protocol.marker import Marker, parse_slot_marker
from wasmdrop.protocol.slot import RESULT_SUFFIXES

FILE = {"sha256": "0" * 64, "bytes": 1}
RESULTS = {"result.json": FILE, "result.txt": FILE}


def marker_of(files: dict[str, Any], marked: dict[str, Any] | None = None) -> Marker | None:
    """Parse a marker with these files and this input."""
    return parse_slot_marker(json.dumps(a_marker(files, input=marked)).encode(), "result")


def test_parse_slot_marker_of_files_in_the_slot_is_accepted() -> None:
    """Result files and output files."""
    assert marker_of(RESULTS | {"result.output/a/b": FILE}) is not None


@pytest.mark.parametrize(
    "name",
    [
        "other.stdout",
        "/etc/passwd",
        "result.output/../../x",
        "result.output//x",
        "result.output/./x",
        "result.output/x\0",
        "result.output/" + "d/" * 40 + "x",
    ],
)
def test_parse_slot_marker_of_file_outside_the_slot_is_none(name: str) -> None:
    """Nor of names that have a second spelling, or more levels than a job can make."""
    assert marker_of(RESULTS | {name: FILE}) is None


def test_parse_slot_marker_with_missing_or_too_many_files_is_none() -> None:
    """Each job writes two files, and may leave a bounded number of others."""
    for suffix in RESULTS:
        assert marker_of({suffix: FILE}) is None
    names = [
        f"result.output/{number}" for number in range(MAX_OUTPUT_ENTRIES + len(RESULT_SUFFIXES) - 1)
    ]
    assert marker_of(RESULTS | dict.fromkeys(names, FILE)) is None
    assert marker_of(RESULTS | dict.fromkeys(names[:-1], FILE)) is not None


def test_is_of_input_with_digest_compares_only_the_digest() -> None:
    """A copy of the same input on another mount is the same input."""
    marker = marker_of(RESULTS, {"path": "p", "sha256": "1" * 64, "bytes": 9})
    assert marker is not None
    assert marker.is_of_input("1" * 64, 8, 7)
    assert not marker.is_of_input("2" * 64, 9, 7)
    assert not marker.is_of_input(None, 9, 7)


def test_is_of_input_without_digest_compares_size_and_time() -> None:
    """The daemon could not read the input."""
    file = {"mtime_ns": 7, "inode": 1, "device": 1}
    marker = marker_of(RESULTS, {"path": "p", "sha256": None, "bytes": 9, "file": file})
    assert marker is not None
    assert marker.is_of_input("1" * 64, 9, 7)
    assert not marker.is_of_input("1" * 64, 9, 8)
    assert not marker.is_of_input("1" * 64, 8, 7)


def test_is_of_input_without_input_is_false() -> None:
    """A job of a default module has none."""
    marker = marker_of(RESULTS)
    assert marker is not None
    assert not marker.is_of_input(None, None, 0)


@pytest.mark.parametrize("cid", ["", "b" + "a" * 59, "b" + "A" * 58, "b" + "a" * 58 + "\n", 1, []])
def test_parse_slot_marker_with_anything_but_a_cid_is_none(cid: Any) -> None:
    """The text is as long as a CID, so that nothing else can be in it."""
    assert marker_of(RESULTS | {"result.json": FILE | {"cid": cid}}) is None
    assert marker_of(RESULTS, {"path": "p", "sha256": "1" * 64, "bytes": 9, "cid": cid}) is None


def test_parse_slot_marker_with_or_without_cids_is_accepted() -> None:
    """Earlier versions wrote none."""
    parsed = marker_of(RESULTS | {"result.json": FILE | {"cid": "b" + "a" * 58}})
    assert parsed is not None
    assert [file.cid for file in parsed.files.values()] == ["b" + "a" * 58, None]
    assert parsed.output is None


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "0" * 64 + "\n", "A" * 64])
def test_parse_slot_marker_with_anything_but_a_digest_is_none(sha256: str) -> None:
    """The text is as long as a digest, so that nothing else can be in it."""
    assert marker_of(RESULTS | {"result.json": FILE | {"sha256": sha256}}) is None
