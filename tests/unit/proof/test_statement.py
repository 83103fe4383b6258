"""Statements: the same bytes from the same run, and strict reading."""

import json
from typing import Any, Final

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement as OtherStatement
from in_toto_attestation.v1.statement_pb2 import Statement as OtherMessage

from tests.support.receipts import CID, DIRECTORY_CID, a_payload, resource
from wasmdrop.proof.statement import (
    MAX_CALL_BYTES,
    MAX_CALL_DEPTH,
    PREDICATE_TYPE,
    encode_statement,
    parse_statement,
)
from wasmdrop.protocol.errors import MalformedError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome

#: Integers that other readers of JSON round.
BIG: Final = (2**53 + 1, 2**63, -(2**63), 2**64 - 1, 10**40, -(10**40))


def test_statement_is_encoded_as_documented() -> None:
    """Byte for byte: signatures are of bytes, so another order of keys is another statement."""
    assert a_payload().decode() == (
        '{"_type":"https://in-toto.io/Statement/v1","subject":['
        f'{{"name":"result.json","uri":"ipfs://{CID}","digest":{{"sha256":"{"1" * 64}"}}}},'
        f'{{"name":"result.txt","uri":"ipfs://{CID}","digest":{{"sha256":"{"2" * 64}"}}}}],'
        '"predicateType":"urn:wasmdrop:run:v1","predicate":{'
        f'"module":{{"uri":"ipfs://{CID}","digest":{{"sha256":"{"3" * 64}"}}}},'
        f'"input":{{"uri":"ipfs://{CID}","digest":{{"sha256":"{"4" * 64}"}}}},'
        '"call":{"entry":"fib","args":[12]},'
        '"profile":{"deterministic":1,"seed":0,"clock":"2000-01-01T00:00:00Z"},'
        '"limits":{"memoryMb":256,"outputMb":8.0,"diskMb":64,"fuel":null},'
        '"engine":{"wasmdrop":"0.1.0","wasmtime":"50.0.1"},'
        '"outcome":{"code":"ok","fuelUsed":212}}}'
    )


def test_statement_of_a_failed_program_has_message_exit_code_and_directory() -> None:
    """Subjects are sorted by name; the directory is one of them."""
    outcome = Outcome(code=Code.EXIT, message="not published: x", exit_code=-3, is_command=True)
    files = {suffix: resource() for suffix in (".txt", ".stdout", ".stderr", ".json")}
    statement = json.loads(a_payload(outcome, files=files, output_cid=DIRECTORY_CID))
    names = [subject["name"] for subject in statement["subject"]]
    assert names == [f"result.{it}" for it in ("json", "output", "stderr", "stdout", "txt")]
    assert statement["subject"][1] == {
        "name": "result.output",
        "uri": f"ipfs://{DIRECTORY_CID}",
        "digest": {"cid": DIRECTORY_CID},
    }
    assert statement["predicate"]["outcome"] == {
        "code": "exit",
        "message": "not published: x",
        "exitCode": -3,
        "fuelUsed": None,
    }


def test_statement_survives_reading() -> None:
    """Equal as a value, and byte for byte."""
    payload = a_payload(
        Outcome(code=Code.TRAP, message='unreachable\n "ü"'),
        module=None,
        entry=None,
        args=("é\0\u2028", 1.5, None, True, {"a": [1e300]}),
        limits=Limits(fuel=2**64 - 1, output_mb=0.25),
        output_cid=DIRECTORY_CID,
    )
    assert encode_statement(parse_statement(payload)) == payload


@pytest.mark.parametrize("number", BIG)
def test_integer_beyond_2_53_is_exact(number: int) -> None:
    """In arguments, also inside of others; of fuel as far as it is counted."""
    payload = a_payload(Outcome(code=Code.OK, fuel_used=abs(number)), args=(number, [number]))
    assert f'"args":[{number},[{number}]]'.encode() in payload
    predicate = parse_statement(payload).predicate
    assert predicate.call is not None
    assert predicate.call.args == (number, [number])
    assert predicate.outcome.fuel_used == abs(number)


def test_call_that_is_too_large_is_left_out() -> None:
    """An input may have arguments of megabytes, and a receipt must stay readable."""
    room = MAX_CALL_BYTES - len('{"entry":"f","args":[""]}')
    fits = parse_statement(a_payload(entry="f", args=("x" * room,))).predicate
    assert fits.call is not None
    assert parse_statement(a_payload(entry="f", args=("x" * (room + 1),))).predicate.call is None
    assert parse_statement(a_payload(entry="x" * MAX_CALL_BYTES)).predicate.call is None


def test_call_that_is_nested_too_deep_is_left_out() -> None:
    """An input may nest as deep as a reader of the statement accepts, which wraps it further."""
    deep: list[Any] = [1]
    for _ in range(MAX_CALL_DEPTH - 2):
        deep = [deep]
    wide: tuple[Any, ...] = ([{}] * 100, deep)
    call = parse_statement(a_payload(args=wide)).predicate.call
    assert call is not None
    assert call.args == wide
    assert parse_statement(a_payload(args=([{"x": deep}], 1))).predicate.call is None


@pytest.mark.parametrize("code", Code)
def test_message_is_stated_only_if_it_is_the_same_everywhere(code: Code) -> None:
    """Those of the daemon and of missing modules name paths."""
    payload = a_payload(Outcome(code=code, message="/a/path"))
    assert (b"/a/path" in payload) is code.is_reproducible


def test_call_with_text_that_is_not_utf_8_is_stated() -> None:
    """ENTRY may have any bytes; its statement must not keep a job from ending."""
    assert b'"entry":"?x"' in a_payload(entry="\udcffx")


def test_statement_is_read_by_the_library_of_in_toto() -> None:
    """Which shares no code with ours."""
    payload = a_payload(Outcome(code=Code.EXIT, message="m", exit_code=1, stdout=b""))
    message = json_format.Parse(payload, OtherMessage())
    other = OtherStatement.copy_from_pb(message)
    other.validate()
    assert message.predicate_type == PREDICATE_TYPE
    assert {subject.name: subject.digest["sha256"] for subject in message.subject} == {
        "result.json": "1" * 64,
        "result.txt": "2" * 64,
    }


def _changed(*path: Any, value: Any) -> bytes:
    """Return a payload with the value at ``path`` replaced."""
    statement = json.loads(a_payload())
    place = statement
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(statement).encode()


_FILE: Final = {"sha256": "1" * 64}
_BOTH: Final = [{"name": name, "digest": _FILE} for name in ("result.json", "result.txt")]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "line 1, column 2"),
        (b"[]", "Expected `object`"),
        (b'{"_type":"a","_type":"b"}', 'duplicate key "_type"'),
        (_changed("_type", value="https://in-toto.io/Statement/v0.1"), "at `$._type`"),
        (_changed("predicateType", value="urn:wasmdrop:run:v2"), "at `$.predicateType`"),
        (_changed("later", value=1), "unknown field `later`"),
        (_changed("predicate", "grants", value=[]), "unknown field `grants`"),
        (_changed("predicate", "input", value=None), "at `$.predicate.input`"),
        (_changed("predicate", "input", "digest", "sha256", value="A" * 64), "matching regex"),
        (_changed("predicate", "input", "digest", "sha256", value="a" * 64 + "\n"), "regex"),
        (_changed("predicate", "module", "uri", value="https://example.org"), "matching regex"),
        (_changed("predicate", "module", "uri", value="ipfs://../../etc"), "matching regex"),
        (_changed("predicate", "profile", "deterministic", value=0), ">= 1"),
        (_changed("predicate", "profile", "deterministic", value=True), "got `bool`"),
        (_changed("predicate", "limits", "memoryMb", value=1.5), "got `float`"),
        (_changed("predicate", "limits", "memoryMb", value=0), ">= 1"),
        (_changed("predicate", "limits", "fuel", value="1"), "got `str`"),
        (_changed("predicate", "outcome", "code", value="fine"), "Invalid enum value"),
        (_changed("predicate", "outcome", "fuelUsed", value=-1), ">= 0"),
        (_changed("predicate", "call", "args", value={}), "at `$.predicate.call.args`"),
        (_changed("subject", value=[]), "expected result.json, result.txt and other"),
        (_changed("subject", value=_BOTH[:1]), "got result.json"),
        (_changed("subject", value=[*_BOTH, _BOTH[0]]), "each once"),
        (_changed("subject", 0, "name", value="../x\x1b"), "\\x1b"),
        (_changed("subject", 0, "name", value="result.receipt"), "result.receipt"),
        (_changed("subject", 0, "digest", value={}), "json: expected the digest sha256 alone"),
        (
            _changed("subject", value=[*_BOTH, {"name": "result.output", "digest": _FILE}]),
            "result.output: expected the digest cid alone",
        ),
        (_changed("subject", 1, "digest", "cid", value=CID), "txt: expected the digest sha256 al"),
        (_changed("predicate", "input", "digest", "cid", value=CID), "input: expected the digest"),
        (_changed("predicate", "module", "digest", value={}), "module: expected the digest"),
    ],
    ids=range(30),
)
def test_statement_that_is_malformed_is_refused(payload: bytes, reason: str) -> None:
    """With the place and what was expected, in one line that is fit for a terminal."""
    with pytest.raises(MalformedError) as raised:
        parse_statement(payload)
    text = str(raised.value)
    assert reason in text
    assert text.isprintable()
    assert len(text) < 500
