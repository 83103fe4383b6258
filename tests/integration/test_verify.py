"""``wasmdrop verify``: results of real daemons, true and forged."""

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, run
from tests.support.components import EVERYTHING
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.keys import new_key
from tests.support.receipts import CID, DIRECTORY_CID
from tests.support.require import require_users
from tests.support.users import DAEMON, as_user, shared_base
from tests.support.verification import DeliveredSlot, check, inventory_of
from tests.support.wasi_programs import FILE_PROGRAMS, FILES, STREAM_PROGRAMS, STREAMS
from wasmdrop.proof.envelope import Envelope, encode_envelope, merge_envelopes, sign_payload
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.service.verify.derivation import derive
from wasmdrop.service.verify.verdict import DocumentError, Verdict

ADD: Final = """(module (func (export "add") (param i64 i64) (result i64)
  (i64.add (local.get 0) (local.get 1))))"""

MODULES: Final = {
    "fib": FIB,
    # Another one with the same function.
    "fab": FIB.replace("i64.const 2)", "i64.const 1)"),
    "echo": '(module (func (export "echo") (param i64) (result i64) (local.get 0)))',
    "hello": f"(module {STREAMS} {STREAM_PROGRAMS['hello']})",
    "count": f"(module {STREAMS} {STREAM_PROGRAMS['count']})",
    "much": f"(module {STREAMS} {STREAM_PROGRAMS['much']})",
    "work": f"(module {FILES} {FILE_PROGRAMS['work']})",
    "odd": f"(module {FILES} {FILE_PROGRAMS['odd']})",
    "trap": '(module (func (export "run") (unreachable)))',
    "spin": '(module (func (export "run") (loop (br 0))))',
    "deep": '(module (func $run (export "run") (call $run)))',
    # Grows its memory until that fails; gives the number of pages.
    "grow": """(module (memory (export "memory") 1) (func (export "run") (result i32)
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (memory.size)))""",
    "component": EVERYTHING,
    DIRECTORY_CID: FIB,
}

#: Inputs of jobs that can be verified, and their codes.
MATCHING: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "fib": ({"module": "fib", "entry": "fib", "args": [12], "id": "task-7"}, "ok"),
    "big": ({"module": "echo", "entry": "echo", "args": [-(2**63) + 1]}, "ok"),
    "hello": ({"module": "hello"}, "ok"),
    "exit": ({"module": "count", "args": ["a", "b", "c"]}, "exit"),
    "output-limit": ({"module": "much", "output_mb": 0.05}, "output-limit"),
    "work": ({"module": "work", "files": {"data/in.txt": "in"}}, "ok"),
    "odd": ({"module": "odd"}, "ok"),
    "trap": ({"module": "trap", "entry": "run"}, "trap"),
    "fuel": ({"module": "spin", "entry": "run", "fuel": 10_000}, "fuel-limit"),
    "grow": ({"module": "grow", "entry": "run", "memory_mb": 3}, "ok"),
    "component": ({"module": "component", "entry": "many", "args": [1000]}, "ok"),
    "args": ({"module": "fib", "entry": "fib", "args": ["x"]}, "invalid-args"),
    # Entry and arguments are those of the daemon's environment.
    "environment": ({}, "ok"),
}

#: Inputs of jobs that can't be verified, and a part of the reason.
UNVERIFIABLE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "plain": ({"module": "fib", "entry": "fib", "deterministic": False}, "not deterministic"),
    "timeout": ({"module": "spin", "entry": "run", "timeout_sec": 0.2}, "timeout"),
    "deep": ({"module": "deep", "entry": "run"}, "stack overflow"),
    "missing": ({"module": "nowhere"}, "module-missing"),
    "tree": ({"module": DIRECTORY_CID, "entry": "fib", "args": [12]}, "content id"),
    "grants": ({"module": "hello", "grants": ["data"]}, "grants"),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    """Give a daemon with a key, stopped after it has run all jobs."""
    base = tmp_path_factory.mktemp("verify")
    (base / "data").mkdir()
    it = Daemon(
        base,
        ADD_X="41",
        ADD_Y="1",
        WASMDROP_MODULE_WAIT_SEC="0.2",
        WASMDROP_GRANTS=f"data={base / 'data'}",
        WASMDROP_SIGNING_KEY=str(new_key(base / "keys" / "key.pem")),
    )
    for name, text in MODULES.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    drop(it.shared / "environment" / "module.wasm", bytes(wat2wasm(ADD)))
    jobs = {name: spec for name, (spec, _) in (MATCHING | UNVERIFIABLE).items()}
    with it.running():
        for name, spec in jobs.items():
            drop(it.shared / name / "input.json", json.dumps({"deterministic": True} | spec))
        for name in jobs:
            _wait_for(it, name)
    # The verifier has another environment than the executor, and no key.
    for variable in ("ADD_X", "ADD_Y", "WASMDROP_GRANTS", "WASMDROP_SIGNING_KEY"):
        del it.environment[variable]
    return it


def _wait_for(daemon: Daemon, name: str) -> None:
    wait_until(lambda: daemon.marker(f"{name}/input.json"), f"the marker of {name}")


def slot(daemon: Daemon, name: str, tmp_path: Path) -> DeliveredSlot:
    """Return a copy of a slot whose marker alone makes the claim."""
    return DeliveredSlot(daemon.shared / name, tmp_path).without_receipt()


@pytest.mark.parametrize("name", MATCHING)
def test_verify_of_a_true_result_is_a_match_and_leaves_the_slot_alone(
    daemon: Daemon, name: str
) -> None:
    """With its marker and its receipt; each kind of module and of outcome."""
    marker = daemon.marker(f"{name}/input.json")
    assert marker is not None
    assert marker["code"] == MATCHING[name][1], marker["message"]
    before = inventory_of(daemon.shared / name)
    report = check(daemon, daemon.shared / name)
    assert (report.verdict, report.differences) == (Verdict.MATCH, ()), report.reason
    assert inventory_of(daemon.shared / name) == before


@pytest.mark.parametrize("name", UNVERIFIABLE)
def test_verify_of_a_result_that_depends_on_more_is_unverifiable(daemon: Daemon, name: str) -> None:
    """With the reason, and without a run."""
    report = check(daemon, daemon.shared / name)
    assert report.verdict is Verdict.UNVERIFIABLE
    assert UNVERIFIABLE[name][1] in report.reason


def test_verify_of_a_marker_of_an_earlier_version_is_unverifiable(
    daemon: Daemon, tmp_path: Path
) -> None:
    """It has no profile number and no content ids; its digests can be checked."""
    old = slot(daemon, "work", tmp_path)

    def make_old(marker: dict[str, Any]) -> None:
        for each in (marker["module"], marker["input"], *marker["files"].values()):
            del each["cid"]
        del marker["output"], marker["deterministic"]["profile"]

    old.forge_marker(make_old)
    assert check(daemon, old.directory, runs=False).verdict is Verdict.NOT_RUN
    report = check(daemon, old.directory)
    assert (report.verdict, "profile is null" in report.reason) == (Verdict.UNVERIFIABLE, True)


def test_verify_says_what_it_takes_from_the_claim(daemon: Daemon) -> None:
    """The values of the executor's environment are in no digest."""
    done = run(daemon, "verify", str(daemon.shared / "environment"))
    assert (done.returncode, done.stderr) == (0, "")
    assert 'note: the input names no entry; taken from the claim: "add"' in done.stdout
    assert "note: the input has no args; taken from the claim: [41,1]" in done.stdout


def _edit(slot: DeliveredSlot, suffix: str, old: bytes, new: bytes) -> None:
    data = slot.path(suffix).read_bytes()
    assert old in data
    slot.forge_file(f"result{suffix}", data.replace(old, new))


def _set(slot: DeliveredSlot, **keys: Any) -> None:
    slot.forge_marker(lambda marker: marker.update(keys))


def _set_bytes(slot: DeliveredSlot, name: str, size_bytes: int) -> None:
    slot.forge_marker(lambda marker: marker["files"][name].update(bytes=size_bytes))


def _forget(slot: DeliveredSlot, name: str) -> None:
    slot.forge_marker(lambda marker: marker["files"].pop(name))


LIES: Final[dict[str, tuple[str, Callable[[DeliveredSlot], object], str]]] = {
    "result": ("fib", lambda it: _edit(it, ".json", b"[144]", b"[145]"), "result.json"),
    "stdout": ("hello", lambda it: _edit(it, ".stdout", b"hello", b"hallo"), "result.stdout"),
    "exit code": (
        "exit",
        lambda it: _edit(it, ".json", b'"exit_code":3', b'"exit_code":4'),
        "exit code",
    ),
    "fuel": ("fib", lambda it: _set(it, fuel_used=211), "fuel"),
    "code": ("fib", lambda it: _set(it, code="exit", status="failed"), "code"),
    "output file": (
        "work",
        lambda it: it.forge_file("result.output/top", b"forged"),
        "result.output/top",
    ),
    "output file too many": (
        "work",
        lambda it: it.forge_file("result.output/more", b""),
        "result.output/more",
    ),
    "output file missing": (
        "work",
        lambda it: it.forge_file("result.output/top", None),
        "result.output/top",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_verify_of_a_lie_with_fitting_digests_names_what_differs(
    daemon: Daemon, tmp_path: Path, lie: str
) -> None:
    """Only a rerun can find it."""
    name, forge, what = LIES[lie]
    forged = slot(daemon, name, tmp_path)
    forge(forged)
    output = forged.directory / "result.output"
    if output.exists():
        cid = run(daemon, "cid", "--json", str(output)).stdout
        _set(forged, output={"cid": json.loads(cid)["cid"]})
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.MISMATCH
    assert what in {found.what for found in report.differences}
    assert "came out differently" in report.reason


def test_verify_with_another_module_names_what_differs(daemon: Daemon, tmp_path: Path) -> None:
    """Of a marker that names a module which gives something else."""
    forged = slot(daemon, "fib", tmp_path)
    data = (daemon.wasm / "fab.wasm").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    _set(forged, module={"path": "fab.wasm", "sha256": sha256, "bytes": len(data)})
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.MISMATCH
    assert "result.json" in {found.what for found in report.differences}


@pytest.mark.parametrize(
    ("name", "keys", "what"),
    [
        ("fib", {"entry": "fab"}, "entry"),
        ("fib", {"id": "task-8"}, "id"),
        ("fib", {"status": "failed"}, "status"),
        ("grow", {"limits": {"memory_mb": 4}}, "limits.memory_mb"),
        ("fuel", {"limits": {"fuel": 20_000}}, "limits.fuel"),
        ("work", {"output": {"cid": None}}, "result.output cid"),
        ("fib", {"output": {"cid": None}}, "result.output cid"),
    ],
)
def test_verify_of_a_claim_that_contradicts_its_own_input_or_files_does_not_run_it(
    daemon: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    keys: dict[str, Any],
    what: str,
) -> None:
    """The lie is found before."""
    monkeypatch.setattr("wasmdrop.service.verify.verification.run_again", None)
    forged = slot(daemon, name, tmp_path)
    if "limits" in keys:
        keys = {"limits": forged.marker()["limits"] | keys["limits"]}
    _set(forged, **keys)
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.MISMATCH
    assert [found.what for found in report.differences] == [what]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda it: it.path(".json").unlink(), "result.json"),
        (lambda it: it.path(".stdout").write_bytes(b"hallo\n"), "result.stdout"),
        (lambda it: it.path(".output").mkdir(), "result.output cid"),
        (lambda it: _forget(it, "result.stderr"), "result.stderr"),
        (lambda it: _set_bytes(it, "result.json", 7), "result.json"),
        (lambda it: (it.path(".txt").unlink(), it.path(".txt").mkdir()), "result.txt"),
        (lambda it: it.path(".receipt").write_bytes(b"{}"), "result.receipt"),
    ],
)
def test_verify_of_files_that_are_not_those_of_the_marker_does_not_run_the_job(
    daemon: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[DeliveredSlot], object],
    what: str,
) -> None:
    """Missing, changed, too many, or of another kind; also with ``--no-run``."""
    monkeypatch.setattr("wasmdrop.service.verify.verification.run_again", None)
    forged = DeliveredSlot(daemon.shared / "hello", tmp_path)
    change(forged)
    for runs in (True, False):
        report = check(daemon, forged.directory, runs=runs)
        assert report.verdict is Verdict.MISMATCH
        assert [found.what for found in report.differences] == [what]


def test_verify_of_a_marker_with_another_size_of_an_output_file_is_a_mismatch(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Its digest alone does not make the entry true."""
    forged = slot(daemon, "work", tmp_path)
    _set_bytes(forged, "result.output/top", 70)
    report = check(daemon, forged.directory, runs=False)
    assert report.verdict is Verdict.MISMATCH
    assert [found.what for found in report.differences] == ["result.output/top bytes"]


@pytest.mark.parametrize("what", ["module", "input"])
def test_verify_of_a_claim_with_the_content_id_of_another_file_is_a_mismatch(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Of the module or the input, whose digest is true."""
    monkeypatch.setattr("wasmdrop.service.verify.verification.run_again", None)
    forged = slot(daemon, "fib", tmp_path)
    forged.forge_marker(lambda marker: marker[what].update(cid=CID))
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.MISMATCH
    assert [found.what for found in report.differences] == [f"{what} cid"]


def test_verify_without_a_run_checks_digests_and_says_so(daemon: Daemon) -> None:
    """Also of a job that can't be verified."""
    assert check(daemon, daemon.shared / "fib", runs=False).verdict is Verdict.NOT_RUN
    done = run(daemon, "verify", "--no-run", str(daemon.shared / "plain"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("not-run: the job was not run\n")
    assert "note: no signature was checked" in done.stdout


def test_verify_with_another_wasmtime_compares_all_but_the_fuel(
    daemon: Daemon, tmp_path: Path
) -> None:
    """A result that differs then is unverifiable."""
    forged = slot(daemon, "fib", tmp_path)
    versions = forged.marker()["runtime"] | {"wasmtime": "49.0.0"}
    _set(forged, runtime=versions, fuel_used=1)
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.MATCH
    assert any("fuel was not compared" in note for note in report.notes)
    _edit(forged, ".json", b"[144]", b"[145]")
    report = check(daemon, forged.directory)
    assert report.verdict is Verdict.UNVERIFIABLE
    assert "49.0.0" in report.reason


@pytest.mark.parametrize(
    ("name", "words"), [("deep", "stack overflow"), ("timeout", "depends on the machine")]
)
def test_verify_with_a_rerun_that_ends_by_chance_is_unverifiable(
    daemon: Daemon, tmp_path: Path, name: str, words: str
) -> None:
    """Whatever the claim is."""
    forged = slot(daemon, name, tmp_path)
    _set(forged, code="ok", status="succeeded", message="")
    report = check(daemon, forged.directory, max_sec=0.3 if name == "timeout" else 60.0)
    assert report.verdict is Verdict.UNVERIFIABLE
    assert report.reason.startswith("run here")
    assert words in report.reason


@pytest.mark.parametrize("is_seen_late", [False, True])
def test_verify_of_a_module_that_changes_after_it_was_found_is_refused(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_seen_late: bool
) -> None:
    """Its owner may write to it at any moment; what runs is a copy with the claimed digest."""
    module = tmp_path / "fib.wasm"
    module.write_bytes((daemon.wasm / "fib.wasm").read_bytes())

    def derive_meanwhile(*arguments: Any) -> Any:
        module.write_bytes((daemon.wasm / "fab.wasm").read_bytes())
        return derive(*arguments)

    monkeypatch.setattr("wasmdrop.service.verify.verification.derive", derive_meanwhile)
    if is_seen_late:
        name = "wasmdrop.service.verify.verification._require_content"
        monkeypatch.setattr(name, lambda *_: None)
    with pytest.raises(DocumentError, match="it changed while it was read"):
        check(daemon, daemon.shared / "fib", module_path=str(module))


def test_verify_on_a_host_with_lower_limits_is_unverifiable(daemon: Daemon) -> None:
    """With the setting, and exit status 4."""
    done = run(daemon, "verify", str(daemon.shared / "fib"), WASMDROP_MEMORY_MB="255")
    assert (done.returncode, done.stderr) == (4, "")
    assert "raise WASMDROP_MEMORY_MB" in done.stdout


def test_verify_finds_module_and_input_that_the_caller_gives_and_refuses_others(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Of a receipt alone, in a directory without anything else."""
    receipt = tmp_path / "task-7.receipt"
    receipt.write_bytes(daemon.result_path("fib/input.json", ".receipt").read_bytes())
    given = {
        "input_path": str(daemon.shared / "fib" / "input.json"),
        "module_path": str(daemon.wasm / "fib.wasm"),
    }
    report = check(daemon, receipt, **given)
    assert report.verdict is Verdict.MATCH
    assert any("no result file was looked at" in note for note in report.notes)
    with pytest.raises(DocumentError, match="give it with --input FILE"):
        check(daemon, receipt, module_path=given["module_path"])
    elsewhere = DeliveredSlot(daemon.shared / "fib", tmp_path)
    variables = {"WASMDROP_WASM_DIR": str(tmp_path / "none")}
    done = run(daemon, "verify", str(elsewhere.directory), **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "give it with --module FILE" in done.stderr
    for option in ("--module", "--input"):
        done = run(daemon, "verify", str(receipt), option, str(daemon.wasm / "fab.wasm"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "of the claim is" in done.stderr


def _claim_another_directory(statement: Any) -> None:
    (output,) = [each for each in statement["subject"] if each["name"] == "result.output"]
    output.update(uri=f"ipfs://{DIRECTORY_CID}", digest={"cid": DIRECTORY_CID})


def _hide_the_call(statement: Any) -> None:
    statement["predicate"]["call"] = None


@pytest.mark.parametrize(
    ("name", "lie", "what"),
    [
        ("work", _claim_another_directory, "result.output cid"),
        # All that is compared field by field is true, but no executor states this.
        ("fib", _hide_the_call, "receipt"),
    ],
)
def test_verify_of_a_receipt_that_lies_is_a_mismatch(
    daemon: Daemon, tmp_path: Path, name: str, lie: Callable[[Any], None], what: str
) -> None:
    """Also if a trusted key has signed it: a signature says who, not that it is true."""
    key = PrivateKey.generate(KeyKind.ED25519)
    forged = DeliveredSlot(daemon.shared / name, tmp_path)
    forged.forge_receipt(lie, key)
    report = check(daemon, forged.path(".receipt"), trusted=(key.public,))
    assert report.verdict is Verdict.MISMATCH
    assert [found.what for found in report.differences] == [what]
    assert report.signers == (key.key_id,)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["predicate"]["outcome"].update(fuelUsed=1),
        lambda it: it["predicate"]["call"].update(args=[13]),
        lambda it: it["predicate"]["module"]["digest"].update(sha256="a" * 64),
        lambda it: it["subject"][0]["digest"].update(sha256="a" * 64),
    ],
)
def test_verify_of_a_receipt_that_contradicts_the_marker_is_a_mismatch(
    daemon: Daemon, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    """Before anything runs, and without keys."""
    forged = DeliveredSlot(daemon.shared / "fib", tmp_path)
    forged.forge_receipt(change, PrivateKey.generate(KeyKind.ED25519))
    forged.forge_file("result.receipt", forged.path(".receipt").read_bytes())
    report = check(daemon, forged.directory, runs=False)
    assert report.verdict is Verdict.MISMATCH
    assert "the receipt contradicts the marker" in report.reason


def test_verify_with_two_of_three_trusted_keys_is_a_match(daemon: Daemon, tmp_path: Path) -> None:
    """A key that signs twice counts once, and so does a signature with another's key id."""
    keys = [PrivateKey.generate(kind) for kind in KeyKind]
    pem = tmp_path / "executors.pem"
    pem.write_text("".join(key.public.pem() for key in keys))
    signed = DeliveredSlot(daemon.shared / "fib", tmp_path)
    payload = signed.envelope().payload
    one, two, _three = (sign_payload(payload, key) for key in keys)
    stranger = sign_payload(payload, PrivateKey.generate(KeyKind.ED25519)).signatures[0]
    named = msgspec.structs.replace(stranger, key_id=keys[2].key_id)
    again = msgspec.structs.replace(one, signatures=(*one.signatures, *one.signatures, named))
    other = msgspec.structs.replace(one, payload=payload.replace(b'"fuelUsed":', b'"fuelUsed":1'))
    assert other.payload != payload
    receipt = signed.directory / "merged.receipt"

    def verdict(envelope: Envelope, signatures: int) -> Verdict:
        receipt.write_bytes(encode_envelope(envelope))
        trusted = tuple(key.public for key in keys)
        return check(daemon, receipt, runs=False, trusted=trusted, signatures=signatures).verdict

    assert verdict(again, 1) is Verdict.NOT_RUN
    assert verdict(again, 2) is Verdict.MISMATCH
    assert verdict(other, 1) is Verdict.MISMATCH
    both = merge_envelopes([one, two])
    assert verdict(both, 3) is Verdict.MISMATCH
    assert verdict(both, 2) is Verdict.NOT_RUN
    done = run(daemon, "verify", str(receipt), "--trust", str(pem), "--signatures", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(re.findall("signed by: (.*)", done.stdout)) == sorted(
        key.key_id for key in keys[:2]
    )


def test_verify_with_trust_of_a_marker_needs_its_receipt(daemon: Daemon, tmp_path: Path) -> None:
    """And a file of keys, at least as many as must have signed."""
    pem = tmp_path / "keys.pem"
    pem.write_text(PrivateKey.generate(KeyKind.P256).public.pem())
    unsigned = slot(daemon, "fib", tmp_path)
    with pytest.raises(DocumentError, match="names no receipt"):
        check(daemon, unsigned.directory, runs=False, trusted=())
    for words, reason in (
        (("--trust", str(unsigned.path(".txt"))), "found none"),
        (("--trust", str(pem), "--signatures", "2"), "is more than"),
    ):
        done = run(daemon, "verify", "--no-run", str(daemon.shared / "fib"), *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr


def test_verify_as_json_says_all_that_the_text_says(daemon: Daemon, tmp_path: Path) -> None:
    """For programs."""
    forged = slot(daemon, "fib", tmp_path)
    _set(forged, fuel_used=211)
    done = run(daemon, "verify", "--json", str(forged.path(".done")))
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    marker = forged.marker()
    assert told["verdict"] == "mismatch"
    used = str(DeliveredSlot(daemon.shared / "fib", tmp_path / "true").marker()["fuel_used"])
    assert told["differences"] == [{"what": "fuel", "claimed": "211", "actual": used}]
    assert told["module"] == marker["module"]["sha256"]
    assert told["input"] == marker["input"]["sha256"]
    assert told["versions"]["claimed"] == told["versions"]["own"]
    assert "no signature was checked" in told["notes"][0]
    text = run(daemon, "verify", str(forged.path(".done"))).stdout
    assert text.startswith("mismatch: the job came out differently\n  fuel\n    claimed: 211\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 3)], ids=["INT", "TERM"]
)
def test_verify_that_a_signal_ends_leaves_nothing(
    daemon: Daemon, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """No state directory and no process."""
    forged = slot(daemon, "timeout", tmp_path)
    _set(forged, code="ok", status="succeeded", message="")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        command("verify", str(forged.directory)),
        env=daemon.environment | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    # The machine code is there just before the job starts.
    wait_until(lambda: list(temporary.glob("*/code/*/*")) or None, "the module to be compiled")
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert list(temporary.iterdir()) == []


def test_verify_as_an_ordinary_user_of_a_directory_that_it_may_only_read(daemon: Daemon) -> None:
    """Nothing is written there."""
    require_users()
    with shared_base() as base:
        it = DeliveredSlot(daemon.shared / "work", base)
        module = base / "work.wasm"
        module.write_bytes((daemon.wasm / "work.wasm").read_bytes())
        for path in (it.directory, *it.directory.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [*as_user(DAEMON), *command("verify", str(it.directory), "--module", str(module))],
            env=daemon.environment | {"WASMDROP_WASM_DIR": "/nonexistent", "HOME": "/"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_verify_with_standard_output_that_cannot_be_written_is_a_fault_of_the_host(
    daemon: Daemon,
) -> None:
    """And no verdict: the status of other commands would be that of an unverifiable result."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("verify", "--no-run", str(daemon.shared / "fib")),
            env=daemon.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 3
    assert b"can't be written" in done.stderr
