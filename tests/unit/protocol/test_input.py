"""The input file: its keys, their bounds, and the error messages."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import MAX_FUEL, InputSpec, limits_for, parse_input
from wasmdrop.protocol.input_values import MAX_FILES, Base64, content_bytes
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code

#: How long a single example takes says nothing on a busy machine.
no_deadline = settings(deadline=None)

KEYS = (
    "entry, args, module, env, stdin, files, grants, timeout_sec, memory_mb, fuel, output_mb,"
    " disk_mb, deterministic, id"
)
CEILING = Limits(timeout_sec=20.0, memory_mb=256, output_mb=8.0, disk_mb=64, fuel=1000)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def read(value: object) -> InputSpec:
    """Return what an input file of ``value`` asks for."""
    return parse_input(json.dumps(value).encode())


def refusal(value: object) -> str:
    """Return the message with which an input file of ``value`` is refused."""
    with pytest.raises(RefusedError) as caught:
        read(value)
    assert caught.value.code is Code.INVALID_INPUT
    return caught.value.message


def limits_refusal(ceiling: Limits = CEILING, **asked: Any) -> str:
    """Return the message with which an input that asks for these limits is refused."""
    with pytest.raises(RefusedError) as caught:
        limits_for(read(asked), ceiling)
    assert caught.value.code is Code.INVALID_INPUT
    return caught.value.message


def test_parse_of_every_key_returns_its_value() -> None:
    """With the types of the definition."""
    spec = read(
        {
            "entry": "fib",
            "args": [12, "x", [1.5, None]],
            "module": "group/fib.wasm",
            "env": {"A": "1", "B": ""},
            "stdin": {"base64": "AP8="},
            "files": {"a.txt": "ä", "d/b.bin": {"base64": ""}},
            "grants": ["pylib"],
            "timeout_sec": 5,
            "memory_mb": 16,
            "fuel": MAX_FUEL,
            "output_mb": 0.5,
            "disk_mb": 1,
            "deterministic": True,
            "id": "job 1",
        }
    )
    assert spec == InputSpec(
        entry="fib",
        args=(12, "x", [1.5, None]),
        module="group/fib.wasm",
        env={"A": "1", "B": ""},
        stdin=Base64("AP8="),
        files={"a.txt": "ä", "d/b.bin": Base64("")},
        grants=("pylib",),
        timeout_sec=5.0,
        memory_mb=16,
        fuel=MAX_FUEL,
        output_mb=0.5,
        disk_mb=1,
        deterministic=True,
        id="job 1",
    )
    assert spec.stdin is not None
    assert content_bytes(spec.stdin) == b"\0\xff"
    assert [content_bytes(content) for content in spec.files.values()] == ["ä".encode(), b""]


def test_parse_of_null_is_the_same_as_no_key() -> None:
    """Many languages write null for a missing value."""
    assert read({}) == InputSpec()
    assert read(dict.fromkeys(KEYS.split(", "))) == InputSpec()


@given(st.lists(anything))
@no_deadline
def test_parse_keeps_arguments_unchanged(args: list[object]) -> None:
    """Integers of any size, floats as floats, at every depth."""
    source = json.dumps({"args": args}).replace("Infinity", "1")
    kept = parse_input(source.encode()).args
    assert kept is not None
    assert repr(list(kept)) == repr(json.loads(source)["args"])


def test_parse_keeps_huge_integers_in_arguments() -> None:
    """The entry's signature decides whether they fit."""
    assert read({"args": [2**64, [-(10**400)]]}).args == (2**64, [-(10**400)])


@given(
    st.dictionaries(st.sampled_from([*KEYS.split(", "), "other"]), anything, max_size=3)
    | anything.map(lambda value: {"files": {"x": value}, "env": {"y": value}})
    | anything
)
@no_deadline
def test_parse_of_any_json_returns_or_is_refused_with_a_path(value: object) -> None:
    """No other exception, and no names of Python or msgspec types."""
    try:
        read(value)
    except RefusedError:
        message = refusal(value)
        assert message.startswith(("$", "line "))
        assert "Expected `" not in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], '$: expected an object such as {"args": [12]}, got an array with 1 element'),
        (None, '$: expected an object such as {"args": [12]}, got null'),
        ({"entry": 5}, "$.entry: expected a string, got 5"),
        ({"args": {"a": 1}}, "$.args: expected an array, got an object with 1 key"),
        ({"args": "12"}, '$.args: expected an array, got "12"'),
        ({"module": []}, "$.module: expected a string, got an array with 0 elements"),
        ({"env": ["A=1"]}, "$.env: expected an object of strings, got an array with 1 element"),
        ({"env": {"A": "1", "B": 2}}, "$.env.B: expected a string, got 2"),
        ({"env": {"A": None}}, "$.env.A: expected a string, got null"),
        ({"stdin": 1}, '$.stdin: expected a string or {"base64": "..."}, got 1'),
        (
            {"stdin": {"text": "x"}},
            '$.stdin: expected a string or {"base64": "..."}, got an object with 1 key',
        ),
        (
            {"stdin": {"base64": "", "x": 1}},
            '$.stdin: expected a string or {"base64": "..."}, got an object with 2 keys',
        ),
        ({"files": {"a b": 1}}, '$.files["a b"]: expected a string or {"base64": "..."}, got 1'),
        (
            {"files": "x"},
            '$.files: expected an object of file names and contents, got "x"',
        ),
        ({"timeout_sec": "5"}, '$.timeout_sec: expected a number, got "5"'),
        ({"timeout_sec": True}, "$.timeout_sec: expected a number, got true"),
        ({"memory_mb": 1.5}, "$.memory_mb: expected an integer, got 1.5"),
        ({"fuel": "1"}, '$.fuel: expected an integer, got "1"'),
        ({"output_mb": []}, "$.output_mb: expected a number, got an array with 0 elements"),
        ({"disk_mb": False}, "$.disk_mb: expected an integer, got false"),
        ({"deterministic": 1}, "$.deterministic: expected true or false, got 1"),
        ({"id": 7}, "$.id: expected a string, got 7"),
        ({"id": "x" * 201}, "$.id: expected at most 200 characters, got 201"),
    ],
)
def test_parse_of_wrong_type_is_refused_with_path_and_type(value: object, message: str) -> None:
    """Path, expected and given, in one sentence."""
    assert refusal(value) == message


def test_parse_of_unknown_key_is_refused_with_the_known_ones() -> None:
    """A similar key is suggested. An unknown key with null is unknown too."""
    assert refusal({"zzz": 1}) == f"$.zzz: unknown key; the keys are {KEYS}"
    assert refusal({"arg": None}) == (f"$.arg: unknown key; did you mean args? The keys are {KEYS}")
    assert "unknown key" in refusal({"x" * 1_000_000: 1})


def test_parse_of_invalid_json_is_refused_with_its_position() -> None:
    """Before the keys are checked."""
    with pytest.raises(RefusedError, match=r'^line 1, column 12: duplicate key "args"$'):
        parse_input(b'{"args":[],"args":[]}')


@pytest.mark.parametrize(
    "module",
    ["fib", "fib.wasm", "a/b/c.wasm", ".hidden", "...", "é ü", "sha256:" + "aF" * 32, "sha256"],
)
def test_module_of_plain_path_or_digest_is_valid(module: str) -> None:
    """It is kept unchanged."""
    assert read({"module": module}).module == module


@pytest.mark.parametrize(
    "module",
    [
        *("", "/fib", "../fib", "a/../fib", "a//b", "a/", ".", "./a", "a\\b", "a\0b"),
        *("x" * 256, "/".join("a" * 33), "/".join(["a" * 100] * 11), "é" * 128),
    ],
)
def test_module_outside_the_wasm_directory_is_refused(module: str) -> None:
    """So are second spellings of a path, and names that Linux does not allow."""
    assert refusal({"module": module}).startswith(
        "$.module: expected a plain path below the wasm directory, such as group/fib.wasm, got "
    )


@pytest.mark.parametrize("digits", ["", "a" * 63, "a" * 65, "g" * 64, "a" * 63 + "\n"])
def test_module_of_malformed_digest_is_refused(digits: str) -> None:
    """It is not taken for a file name."""
    assert refusal({"module": f"sha256:{digits}"}).startswith(
        "$.module: expected sha256: and 64 hexadecimal digits, got "
    )


@pytest.mark.parametrize("name", ["", "A=B", "=", "A\0"])
def test_env_with_invalid_name_is_refused(name: str) -> None:
    """See environ(7)."""
    assert refusal({"env": {"OK": "1", name: "x"}}).startswith(
        "$.env: expected names without '=' and NUL, got "
    )


def test_env_with_nul_in_value_is_refused() -> None:
    """The guest would see the value up to there."""
    assert refusal({"env": {"A": "b\0c"}}) == (
        '$.env.A: expected a string without NUL, got "b\\u0000c"'
    )


@pytest.mark.parametrize("name", ["", "/a", "..", "a/../b", "a//b", "a/", "./a", "a\0", "a" * 256])
def test_file_outside_the_job_directory_is_refused(name: str) -> None:
    """So is every second spelling of a path."""
    assert refusal({"files": {name: ""}}).startswith(
        "$.files: expected plain relative paths, such as data/in.txt, got "
    )


def test_file_below_another_file_is_refused() -> None:
    """In any order. Names with a common prefix are valid."""
    for files in ({"a/b": "", "a/b/c/d": ""}, {"a/b/c/d": "", "a/b": ""}):
        assert refusal({"files": files}) == (
            '$.files["a/b/c/d"]: "a/b" can\'t be a file and a directory'
        )
    names = {"a/b": "", "a/bc": "", "a.b": "", "ab/c": ""}
    assert read({"files": names}).files == names


def test_too_many_files_are_refused() -> None:
    """An input could name a million empty files, which fill a small file system."""
    files = {str(number): "" for number in range(MAX_FILES)}
    assert len(read({"files": files}).files) == MAX_FILES
    assert (
        refusal({"files": {**files, "x": ""}}) == "$.files: expected at most 4096 files, got 4097"
    )


@given(st.binary())
def test_base64_is_decoded_to_its_bytes(content: bytes) -> None:
    """Standard alphabet, with padding."""
    text = base64.b64encode(content).decode()
    spec = read({"stdin": {"base64": text}, "files": {"f": {"base64": text}}})
    assert spec.stdin is not None
    assert content_bytes(spec.stdin) == content_bytes(spec.files["f"]) == content


@pytest.mark.parametrize(
    "text", ["QQ", "QQ=", "Q Q=", "QQ==\n", "QQ==QQ==", "-_8=", "é", "====", "="]
)
def test_invalid_base64_is_refused_with_its_path(text: str) -> None:
    """Nothing is skipped or guessed."""
    assert refusal({"stdin": {"base64": text}}).startswith("$.stdin.base64: expected base64, got ")
    assert refusal({"files": {"a": {"base64": "QQ=="}, "b/c": {"base64": text}}}).startswith(
        '$.files["b/c"].base64: expected base64, got '
    )


def test_input_spec_made_in_python_is_checked() -> None:
    """An ``InputSpec`` is always valid, wherever it comes from."""
    with pytest.raises(RefusedError):
        InputSpec(module="../fib")


def test_limits_without_request_are_those_of_the_daemon() -> None:
    """All of them."""
    assert limits_for(InputSpec(), CEILING) == CEILING


def test_limits_with_request_replace_those_of_the_daemon() -> None:
    """Up to the daemon's own, inclusive."""
    asked = InputSpec(timeout_sec=0.5, memory_mb=1, output_mb=0.25, disk_mb=2, fuel=3)
    assert limits_for(asked, CEILING) == Limits(
        timeout_sec=0.5, memory_mb=1, output_mb=0.25, disk_mb=2, fuel=3
    )
    all_there_is = InputSpec(timeout_sec=20, memory_mb=256, output_mb=8, disk_mb=64, fuel=1000)
    assert limits_for(all_there_is, CEILING) == CEILING


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"timeout_sec": 60}, "$.timeout_sec: 60 is more than this daemon allows (20)"),
        ({"timeout_sec": 20.5}, "$.timeout_sec: 20.5 is more than this daemon allows (20)"),
        ({"memory_mb": 257}, "$.memory_mb: 257 is more than this daemon allows (256)"),
        ({"output_mb": 8.1}, "$.output_mb: 8.1 is more than this daemon allows (8)"),
        ({"disk_mb": 2**70}, f"$.disk_mb: {2**70} is more than this daemon allows (64)"),
        ({"fuel": 1001}, "$.fuel: 1001 is more than this daemon allows (1000)"),
        ({"timeout_sec": 0}, "$.timeout_sec: expected more than 0 and at most 20, got 0"),
        ({"memory_mb": -1}, "$.memory_mb: expected more than 0 and at most 256, got -1"),
        ({"output_mb": -0.5}, "$.output_mb: expected more than 0 and at most 8, got -0.5"),
        ({"disk_mb": 0}, "$.disk_mb: expected more than 0 and at most 64, got 0"),
        ({"fuel": 0}, "$.fuel: expected more than 0 and at most 1000, got 0"),
    ],
)
def test_limit_out_of_bounds_is_refused_with_the_bound(asked: dict[str, Any], message: str) -> None:
    """It is not reduced silently."""
    assert limits_refusal(**asked) == message


def test_fuel_limit_without_limit_of_the_daemon_is_valid() -> None:
    """Up to the largest number that wasmtime can count."""
    without = Limits(fuel=None)
    assert limits_for(InputSpec(), without).fuel is None
    assert limits_for(InputSpec(fuel=MAX_FUEL), without).fuel == MAX_FUEL
    assert limits_refusal(without, fuel=MAX_FUEL + 1) == (
        f"$.fuel: {MAX_FUEL + 1} is more than can be counted ({MAX_FUEL})"
    )


def test_json_schema_describes_every_key() -> None:
    """For editors, and for producers that validate inputs."""
    schema = msgspec.json.schema(InputSpec)["$defs"]["InputSpec"]
    assert list(schema["properties"]) == KEYS.split(", ")
    assert all(key["description"] for key in schema["properties"].values())
    assert schema["additionalProperties"] is False
    assert "required" not in schema or schema["required"] == []


def test_encoded_input_spec_has_only_given_keys() -> None:
    """Clients write inputs with the same definition."""
    assert msgspec.json.encode(InputSpec(entry="fib", args=(12,))) == b'{"entry":"fib","args":[12]}'
