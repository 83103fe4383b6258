"""``wasmdrop key`` and ``wasmdrop receipt``, as a user runs them."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from jsonschema import Draft202012Validator

from tests.support.commands import command
from tests.support.receipts import DIRECTORY_CID, a_payload, an_envelope
from wasmdrop.proof.envelope import (
    MAX_ENVELOPE_BYTES,
    encode_envelope,
    merge_envelopes,
    parse_envelope,
)
from wasmdrop.proof.keys import KeyKind, PrivateKey, load_public_keys
from wasmdrop.proof.statement import Engine
from wasmdrop.protocol.outcome import Code, Outcome

#: Runs ``wasmdrop`` as if cryptography were not installed.
_WITHOUT_EXTRA: Final = """\
import sys
sys.modules["cryptography"] = None
from wasmdrop.cli.main import main
sys.exit(main())
"""


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    line = command(*map(str, words))
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("kind", KeyKind)
def test_key_new_writes_a_private_file_and_prints_its_public_key(
    tmp_path: Path, kind: KeyKind
) -> None:
    """``key show`` prints the same for the private key, and for what it printed."""
    file = tmp_path / "key.pem"
    made = run("key", "new", "--type", kind, file)
    assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = PrivateKey.from_pem(file.read_bytes())
    assert key.kind is kind
    lines = [f"type: {kind}", f"key id: {key.key_id}"]
    if (address := key.public.address()) is not None:
        lines.append(f"address: {address}")
    assert made.stdout == "\n".join([*lines, key.public.pem()])
    (tmp_path / "public.pem").write_text(made.stdout)
    for shown in (file, tmp_path / "public.pem"):
        assert run("key", "show", shown).stdout == made.stdout


def test_key_new_without_a_type_makes_an_ed25519_key(tmp_path: Path) -> None:
    """Two keys are never the same."""
    printed = [run("key", "new", tmp_path / name).stdout for name in "ab"]
    keys = load_public_keys("".join(printed).encode())
    assert [key.kind for key in keys] == [KeyKind.ED25519] * 2


def test_key_new_never_overwrites(tmp_path: Path) -> None:
    """Nor follows a link to a file that does not exist yet."""
    file, link, target = (tmp_path / name for name in ("file", "link", "target"))
    file.write_text("precious")
    link.symlink_to(target)
    for path in (file, link):
        done = run("key", "new", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"wasmdrop: {path}: exists; a key is never overwritten")
    assert file.read_text() == "precious"
    assert not target.exists()


def test_key_new_in_a_directory_that_is_missing_is_a_usage_error(tmp_path: Path) -> None:
    """In one line that names the file."""
    file = tmp_path / "no" / "key.pem"
    done = run("key", "new", file)
    expected = f"wasmdrop: {file}: can't be written: No such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_key_show_of_anything_else_is_a_usage_error(tmp_path: Path) -> None:
    """A FIFO could block; a secret could be printed."""
    fifo, text = tmp_path / "fifo", tmp_path / "text"
    os.mkfifo(fifo)
    text.write_text("a secret\n" * 10_000)
    for path, reason in (
        (fifo, "can't be read: a FIFO"),
        (tmp_path, "can't be read: a directory"),
        (tmp_path / "none", "can't be read: No such file or directory"),
        (text, "expected at most 65536 bytes"),
    ):
        done = run("key", "show", path)
        expected = f"wasmdrop: {path}: {reason}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_key_without_the_extra_says_how_to_install_it(tmp_path: Path) -> None:
    """Its help works without."""

    def without(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", _WITHOUT_EXTRA, *words]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    for words in (("new", str(tmp_path / "key")), ("show", str(tmp_path / "key"))):
        done = without("key", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "wasmdrop: key: needs the package cryptography; install it with"
            " pip install 'wasmdrop[receipts]'\n"
        )
    assert list(tmp_path.iterdir()) == []
    assert without("key", "new", "--help").returncode == 0


def test_receipt_merge_prints_one_receipt_with_all_signatures(tmp_path: Path) -> None:
    """The same in any order; ``--output`` writes it to a file."""
    files = [tmp_path / name for name in ("a.receipt", "b.receipt", "c.receipt")]
    envelopes = [an_envelope(a_payload(), kind) for kind in KeyKind]
    for file, envelope in zip(files, envelopes, strict=True):
        file.write_bytes(encode_envelope(envelope))
    done = run("receipt", "merge", *files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.encode() == encode_envelope(merge_envelopes(envelopes))
    output = tmp_path / "merged.receipt"
    output.write_text("older")
    again = run("receipt", "merge", "--output", output, *reversed(files))
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert output.read_text() == done.stdout
    assert len(parse_envelope(output.read_bytes()).signatures) == len(KeyKind)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "envelope: line 1, column 2: expected a key in double quotes"),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "expected at most 1048576 bytes"),
        (encode_envelope(an_envelope(b"{}")), "statement: Object missing required field"),
        (encode_envelope(an_envelope(b'{"\x1b":1}')), "statement: line 1, column"),
        (json.dumps({"\u202e": 1, "payload": "\x1b"}).encode(), "envelope: Object missing"),
    ],
    ids=range(5),
)
def test_receipt_merge_with_a_bad_receipt_names_its_file(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """Nothing is printed or written, and nothing acts on a terminal."""
    good, bad, output = (tmp_path / name for name in ("good", "bad", "output"))
    good.write_bytes(encode_envelope(an_envelope()))
    bad.write_bytes(content)
    done = run("receipt", "merge", good, bad, "--output", output)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"wasmdrop: {bad}: {reason}")
    assert done.stderr.removesuffix("\n").isprintable()
    assert not output.exists()


@pytest.mark.parametrize(
    ("payload", "difference"),
    [
        (a_payload(entry="\x1b[2J"), 'at $.predicate.call.entry "\\u001b[2J", not "fib"'),
        (a_payload(args=(12, 13)), "at $.predicate.call.args an array with 2 elements, not an arr"),
        (a_payload(args=(True,)), "at $.predicate.call.args[0] true, not 12"),
        (a_payload(engine=Engine(wasmdrop="0.1.0", wasmtime="51")), 'wasmtime "51", not "50.0.1"'),
        (
            a_payload(Outcome(code=Code.OK, exit_code=0, fuel_used=212)),
            "only this one has $.predicate.outcome.exitCode",
        ),
        (a_payload() + b" ", "equal values in other bytes"),
    ],
    ids=range(6),
)
def test_receipt_merge_of_other_statements_says_where_they_differ(
    tmp_path: Path, payload: bytes, difference: str
) -> None:
    """Mostly another version or another limit."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(encode_envelope(an_envelope()))
    second.write_bytes(encode_envelope(an_envelope(payload)))
    done = run("receipt", "merge", first, second)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"wasmdrop: {second}: states something other than {first}: ")
    assert difference in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()


def test_schema_receipt_describes_the_statement() -> None:
    """It takes what the daemon writes, and has no place for other keys."""
    done = run("schema", "receipt")
    schema = json.loads(done.stdout)
    Draft202012Validator.check_schema(schema)
    schemas = Draft202012Validator(schema)
    statement = json.loads(a_payload(args=(2**64 - 1,), module=None, output_cid=DIRECTORY_CID))
    schemas.validate(statement)
    for place, key, value in (
        (statement, "later", 1),
        (statement, "predicateType", "urn:other"),
        (statement["predicate"], "input", None),
        (statement["predicate"]["outcome"], "fuelUsed", -1),
    ):
        kept = dict(place)
        place[key] = value
        assert not schemas.is_valid(statement), key
        place.clear()
        place.update(kept)
    schemas.validate(statement)


def test_receipt_merge_needs_no_extra(tmp_path: Path) -> None:
    """It verifies nothing, so a relayer needs no cryptography."""
    file = tmp_path / "a.receipt"
    file.write_bytes(encode_envelope(an_envelope()))
    line = [sys.executable, "-c", _WITHOUT_EXTRA, "receipt", "merge", str(file), str(file)]
    done = subprocess.run(line, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", file.read_bytes())


def test_verify_with_a_number_of_signatures_needs_trusted_keys(tmp_path: Path) -> None:
    """Without them nothing is counted, and the caller must not believe so."""
    (tmp_path / "result.receipt").write_bytes(encode_envelope(an_envelope()))
    done = run("verify", tmp_path / "result.receipt", "--signatures", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "wasmdrop: --signatures: expected --trust KEYS.pem beside it\n"


@pytest.mark.parametrize("kind", ["a FIFO", "a link", "a directory"])
def test_receipt_merge_replaces_regular_files_alone(tmp_path: Path, kind: str) -> None:
    """Not a device such as /dev/null, nor the link /dev/stdout."""
    (tmp_path / "a").write_bytes(encode_envelope(an_envelope()))
    output = tmp_path / "output"
    if kind == "a FIFO":
        os.mkfifo(output)
    elif kind == "a link":
        output.symlink_to("missing")
    else:
        output.mkdir()
    before = output.lstat()
    done = run("receipt", "merge", tmp_path / "a", tmp_path / "a", "--output", output)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"wasmdrop: {output}: can't be written: {kind}\n"
    after = output.lstat()  # whose atime may differ
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
