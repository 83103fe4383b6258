"""The JSON Schemas agree with what the daemon accepts and writes."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.wrong_keys import KEYS
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.result_files import package
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import MAX_FUEL, MAX_ID_LENGTH, limits_for, parse_input
from wasmdrop.protocol.input_values import MAX_FILES
from wasmdrop.protocol.json_schema import DOCUMENTS, document
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import parse_marker
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, PinnedModule, Slot

EXAMPLES: Final = sorted((Path(__file__).parents[3] / "examples").glob("*/input.json"))
INPUTS: Final = Draft202012Validator(document("input"))
MARKERS: Final = Draft202012Validator(document("marker"))

#: More than anybody asks for: what a daemon's own limits are is not in the schema.
CEILING: Final = Limits(timeout_sec=1e300, memory_mb=1 << 200, output_mb=1e300, disk_mb=1 << 200)

LONG: Final = "x" * (MAX_ID_LENGTH + 1)


def is_taken(value: object) -> bool:
    """Whether the daemon takes an input file of this content."""
    try:
        limits_for(parse_input(json.dumps(value).encode()), CEILING)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize("name", DOCUMENTS)
def test_printed_document_is_a_valid_schema(name: str) -> None:
    """By the meta-schema, with a description of every key."""
    command = [sys.executable, "-m", "wasmdrop", "schema", name]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert printed == json.loads(json.dumps(document(name)))
    Draft202012Validator.check_schema(printed)


def test_schema_command_without_name_prints_the_input() -> None:
    """Producers need it more often."""
    command = [sys.executable, "-m", "wasmdrop", "schema"]
    printed = subprocess.run(command, check=True, capture_output=True).stdout
    assert json.loads(printed) == json.loads(json.dumps(document("input")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.parent.name))
def test_example_inputs_match_the_schema(path: Path) -> None:
    """Producers start from them."""
    INPUTS.validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize(("key", "value", "words"), KEYS)
def test_refused_input_does_not_match_the_schema(key: str, value: Any, words: str) -> None:
    """Except for limits of the running daemon, and numbers that no machine can hold."""
    valid = INPUTS.is_valid({key: value})
    assert valid == ("this daemon" in words or value == 10**400)


# Hypothesis is told where to look: at the bounds, and beside them.
paths = st.lists(
    st.sampled_from(["a", ".", "..", "...", ".b", "..c", "", "d e", "\0", "\n", ".\n", "\\", "ä"]),
    min_size=1,
    max_size=34,
).map("/".join)
contents: st.SearchStrategy[Any] = (
    st.text(max_size=3)
    | st.fixed_dictionaries(
        {"base64": st.from_regex(r"[A-Za-z0-9+/]{0,5}={0,2}", fullmatch=True) | st.text(max_size=4)}
    )
    | st.just({"base64": "AA==", "more": 1})
    | st.just({})
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda value: value != int(value)  # 1.0 is an integer to JSON Schema, and none to the daemon
)
of_any_type: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | numbers | st.text(max_size=3) | st.just([]) | st.just({})
)


def tells_apart(files: Mapping[str, Any]) -> bool:
    """Whether no name is both a file and a directory, which no schema can ask for."""
    return not any(other.startswith(f"{name}/") for name in files for other in files)


def hides_nothing(value: Any) -> bool:
    """Whether no grant has a file's name, which no schema can ask for either."""
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        return True
    return not any(path.partition("/")[0] == "a" for path in value["files"])


keys: dict[str, st.SearchStrategy[Any]] = {
    "entry": st.text(),
    "args": st.lists(of_any_type),
    "module": paths
    | st.sampled_from(
        ["sha256:", f"sha256:{'a' * 64}", f"sha256:{'A' * 63}g", "y" * 255, "y" * 256]
    ),
    "env": st.dictionaries(
        st.text("A=\0\n", max_size=3), st.text("a\0\n", max_size=3) | of_any_type, max_size=3
    ),
    "stdin": contents,
    "files": st.dictionaries(paths, contents, max_size=3).filter(tells_apart),
    "grants": st.lists(st.sampled_from(["a", "b-_1", "", ".b", "x" * 64, "x" * 65]) | of_any_type),
    "timeout_sec": numbers,
    "memory_mb": numbers,
    "fuel": numbers | st.sampled_from([0, 1, MAX_FUEL, MAX_FUEL + 1]),
    "output_mb": numbers,
    "disk_mb": numbers,
    "deterministic": st.booleans(),
    "id": st.sampled_from(["", LONG, LONG[1:]]),
    "ID": of_any_type,
}
inputs = st.one_of(
    *(st.fixed_dictionaries({key: of_any_type | values}) for key, values in keys.items()),
    st.fixed_dictionaries({}, optional=keys),
    of_any_type,
)


@given(inputs.filter(hides_nothing))
@example({"files": {str(number): "" for number in range(MAX_FILES)}})
@example({"files": {str(number): "" for number in range(MAX_FILES + 1)}})
@example({"stdin": {"base64": "0000="}})
@example({"stdin": {"base64": "0000===="}})
@settings(max_examples=1000, deadline=None)
def test_any_input_matches_the_schema_if_it_is_accepted(value: Any) -> None:
    """And the other way round."""
    assert INPUTS.is_valid(value) == is_taken(value)


def test_generated_inputs_have_every_key() -> None:
    """So that the property above covers each of them."""
    assert set(document("input")["properties"]) == keys.keys() - {"ID"}


def written(outcome: Outcome, **changes: Any) -> dict[str, Any]:
    """Return the marker of a job that ended so."""
    file = ("/p", "0" * 64, 3)
    job = Job(
        id="j",
        slot=Slot("input.json", "/s/input.json", "/s", "result"),
        dropped_at_ns=1,
        input=InputFile(*file),
        module=PinnedModule(*file),
        finished_at_ns=2_000_000_000,
        **changes,
    )
    marker = json.loads(package(job, "run", [1], outcome, Limits()).marker)
    assert isinstance(marker, dict)
    return marker


def test_encoded_marker_matches_the_schema_and_is_parsed() -> None:
    """Integration tests check the markers of running daemons too."""
    for code in Code:
        marker = written(Outcome(code=code), producer_id="mine")
        MARKERS.validate(marker)
        assert parse_marker(json.dumps(marker).encode()) is not None


@pytest.mark.parametrize("key", document("marker")["required"])
def test_marker_without_required_key_is_invalid(key: str) -> None:
    """For the schema and for the parser."""
    marker = written(Outcome(code=Code.OK))
    del marker[key]
    assert not MARKERS.is_valid(marker)
    assert parse_marker(json.dumps(marker).encode()) is None


def test_times_in_markers_have_constant_width() -> None:
    """So that they sort as text, also if the microseconds are 0."""
    marker = written(Outcome(code=Code.OK))
    for name in ("dropped_at", "started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", marker[name])
