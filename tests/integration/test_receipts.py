"""Receipts of real daemons: what independent readers make of them, and that executors agree."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement as OtherStatement
from in_toto_attestation.v1.statement_pb2 import Statement as OtherMessage
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer._key import Key, SSlibKey
from wasmtime import wat2wasm

from tests.support.commands import command
from tests.support.daemon import Daemon, drop, environment
from tests.support.fib import FIB
from tests.support.guests import use_guest
from tests.support.keys import new_key
from tests.support.receipts import statement_in
from tests.support.wasi_programs import FILES
from wasmdrop.proof.envelope import parse_envelope, signed_by
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol.outcome import Code

MODULES: Final = {
    "fib": FIB,
    "echo": '(module (func (export "echo") (param i64) (result i64) (local.get 0)))',
    # Prints a line; its directory, with the input's files, becomes its output.
    "program": f"""(module {FILES} (data (i32.const 64) "hello\\n")
      (func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 6))
        (call $proc_exit (i32.const 3))))""",
    "trap": '(module (func (export "run") (unreachable)))',
    "spin": '(module (func (export "run") (loop (br 0))))',
}

PAGE: Final = Path(__file__).parents[2] / "docs" / "receipts.md"

#: As much of jq as the page needs: prints the text at ``.payload`` or ``.signatures[0].sig``.
_JQ: Final = f"""\
#!{sys.executable}
import json, re, sys
value = json.load(open(sys.argv[3]))
for key, index in re.findall(r"([a-z]+)|([0-9]+)", sys.argv[2]):
    value = value[key or int(index)]
print(value)
"""

#: Inputs of deterministic jobs and their codes.
JOBS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "fib": ({"module": "fib", "entry": "fib", "args": [12], "id": "task-7"}, "ok"),
    "big": ({"module": "echo", "entry": "echo", "args": [-(2**63)]}, "ok"),
    "program": ({"module": "program", "files": {"in": "a", "deep/er": "b"}}, "exit"),
    "trap": ({"module": "trap"}, "trap"),
    "fuel": ({"module": "spin", "fuel": 10_000}, "fuel-limit"),
    "entry": ({"module": "fib", "entry": "none"}, "entry-not-found"),
    "args": ({"module": "fib", "entry": "fib", "args": ["x", 2**64]}, "invalid-args"),
    "missing": ({"module": "nowhere"}, "module-missing"),
    "timeout": ({"module": "spin", "timeout_sec": 0.2}, "timeout"),
}


class Executor:
    """A daemon with a key of one kind, whose slots are all in one directory."""

    def __init__(self, base: Path, kind: str, directory: str, **variables: str) -> None:
        key = new_key(base / "keys" / "key.pem", kind)
        self.key = PrivateKey.from_pem(key.read_bytes()).public
        self.public = base / "public.pem"
        self.public.write_text(self.key.pem())
        self.daemon = Daemon(
            base,
            WASMDROP_SIGNING_KEY=str(key),
            WASMDROP_MODULE_WAIT_SEC="0.2",
            WASMDROP_SETTLE_SEC="0.02",
            **variables,
        )
        self.directory = directory
        for name, text in MODULES.items():
            drop(self.daemon.wasm / f"{name}.wasm", bytes(wat2wasm(text)))

    def slot(self, name: str) -> str:
        """Return the path of the input of a job."""
        return f"{self.directory}input-{name}.json"

    def path(self, name: str, suffix: str = ".receipt") -> Path:
        """Return a result file of a job."""
        return self.daemon.result_path(self.slot(name), suffix)

    def receipt(self, name: str) -> bytes:
        """Return the receipt of a job."""
        return self.path(name).read_bytes()


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> list[Executor]:
    """Give two executors that have run all jobs, with other keys, guests, paths and settings."""
    first = Executor(tmp_path_factory.mktemp("first"), "ed25519", "")
    second = Executor(
        tmp_path_factory.mktemp("second"), "p256", "some/where/", TIMEOUT_SEC="7", TZ="Asia/Tokyo"
    )
    use_guest("native", first.daemon)
    use_guest("python", second.daemon)
    for executor in (first, second):
        with executor.daemon.running() as daemon:
            for name, (spec, code) in JOBS.items():
                # The input is the same, byte for byte.
                marker = daemon.submit(executor.slot(name), {**spec, "deterministic": True})
                assert marker["code"] == code, marker
                daemon.result(executor.slot(name))
    return [first, second]


@pytest.mark.parametrize("name", JOBS)
def test_receipt_of_each_job_states_its_files_and_is_signed(
    executors: list[Executor], name: str
) -> None:
    """The marker lists it with its digest, as it lists the others."""
    for executor in executors:
        marker = json.loads(executor.path(name, ".done").read_bytes())
        receipt = executor.receipt(name)
        digest = hashlib.sha256(receipt).hexdigest()
        assert marker["files"][f"result-{name}.receipt"]["sha256"] == digest
        envelope = parse_envelope(receipt)
        assert signed_by(envelope, [executor.key]) == (executor.key,)
        statement = parse_statement(envelope.payload)
        stated = {
            each.name: each.digest.sha256
            for each in statement.subject
            if each.name != "result.output"
        }
        assert stated == {
            file.replace(f"result-{name}", "result"): entry["sha256"]
            for file, entry in marker["files"].items()
            if "/" not in file and not file.endswith(".receipt")
        }
        outputs = [each for each in statement.subject if each.name == "result.output"]
        cid = None if marker["output"] is None else marker["output"]["cid"]
        assert [each.digest.cid for each in outputs] == ([] if cid is None else [cid])
        predicate = statement.predicate
        assert predicate.input.digest.sha256 == marker["input"]["sha256"]
        assert predicate.outcome.code == marker["code"]
        assert predicate.outcome.fuel_used == marker["fuel_used"]


@pytest.mark.parametrize(
    "name", [name for name, job in JOBS.items() if Code(job[1]).is_reproducible]
)
def test_receipts_of_two_executors_have_the_same_payload(
    executors: list[Executor], name: str
) -> None:
    """In other slots, at other times, with other timeouts, in the native and the Python guest."""
    first, second = (parse_envelope(executor.receipt(name)) for executor in executors)
    assert first.payload == second.payload
    for executor in executors:
        for secret in (executor.daemon.shared, executor.directory or "input-", "job"):
            assert str(secret).encode() not in first.payload


def test_receipts_of_two_executors_merge_into_one_that_others_verify(
    executors: list[Executor],
) -> None:
    """With both signatures, by securesystemslib and as a statement of in-toto."""
    paths = [str(executor.path("program")) for executor in executors]
    done = subprocess.run(command("receipt", "merge", *paths), check=True, capture_output=True)
    document = json.loads(done.stdout)
    keys: list[Key] = [
        SSlibKey.from_crypto(load_pem_public_key(each.public.read_bytes()), each.key.key_id)
        for each in executors
    ]
    envelope = OtherEnvelope.from_dict(document)
    assert len(envelope.verify(keys, 2)) == 2
    message = json_format.Parse(envelope.payload, OtherMessage())
    OtherStatement.copy_from_pb(message).validate()
    assert message.predicate["outcome"]["exitCode"] == 3


def test_receipt_is_verified_by_the_programs_of_the_page(
    executors: list[Executor], tmp_path: Path
) -> None:
    """They share no code with ours, and refuse a changed byte of the payload."""
    prepare, ed25519, ecdsa = _snippets("sh")[-3:]
    (python,) = _snippets("python")
    jq = tmp_path / "bin" / "jq"
    jq.parent.mkdir()
    jq.write_text(_JQ)
    jq.chmod(0o755)
    path = f"{jq.parent}:{environment()['PATH']}"

    def verify(*line: str) -> int:
        done = subprocess.run(
            line, cwd=tmp_path, env={"PATH": path}, check=False, capture_output=True
        )
        return done.returncode

    for executor in executors:
        (tmp_path / "operator.pem").write_bytes(executor.public.read_bytes())
        (tmp_path / "result.receipt").write_bytes(executor.receipt("fib"))
        for suffix in (".json", ".txt"):
            result = executor.path("fib").with_suffix(suffix).read_bytes()
            (tmp_path / f"result{suffix}").write_bytes(result)
        openssl = ed25519 if executor.key.kind is KeyKind.ED25519 else ecdsa
        assert verify("sh", "-euc", prepare + openssl) == 0
        assert verify(sys.executable, "-c", python) == 0
        (tmp_path / "result.txt").write_text("forged")
        assert verify(sys.executable, "-c", python) == 1
        receipt = json.loads(executor.receipt("fib"))
        changed = base64.b64decode(receipt["payload"]).replace(b'"args":[12]', b'"args":[13]')
        receipt["payload"] = base64.b64encode(changed).decode()
        (tmp_path / "result.receipt").write_text(json.dumps(receipt))
        assert verify("sh", "-euc", prepare) == 0
        assert verify("sh", "-euc", prepare + openssl) != 0
        assert verify(sys.executable, "-c", python) != 0


def test_receipt_of_the_example_is_that_of_the_page(executors: list[Executor]) -> None:
    """But for versions, which also decide how text becomes a module and what fuel it uses."""
    (shown,) = [json.loads(text) for text in _snippets("json") if "_type" in text]
    stated = statement_in(executors[0].receipt("fib"))
    for statement in (shown, stated):
        del statement["predicate"]["engine"]
        del statement["predicate"]["module"]["uri"]
        statement["predicate"]["module"]["digest"]["sha256"] = ""
        statement["predicate"]["outcome"]["fuelUsed"] = 0
    assert json.dumps(shown) == json.dumps(stated)  # the order of keys, too


def _snippets(language: str) -> list[str]:
    """Return the examples of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_receipt_keeps_integers_beyond_2_53(executors: list[Executor]) -> None:
    """Of a real call: the smallest i64."""
    for executor in executors:
        assert statement_in(executor.receipt("big"))["predicate"]["call"]["args"] == [-(2**63)]


def test_receipt_of_a_call_from_the_environment_states_it(tmp_path: Path) -> None:
    """The input has no entry and no arguments: the daemon's settings supplied them."""
    executor = Executor(tmp_path, "secp256k1", "", ENTRY="fib", ARGS_JSON="[7]")
    with executor.daemon.running() as daemon:
        daemon.submit("input-env.json", {"module": "fib", "deterministic": True})
        call = statement_in(executor.receipt("env"))["predicate"]["call"]
        assert call == {"entry": "fib", "args": [7]}
        # The next job of the slot has none, so the old one is removed.
        daemon.submit("input-env.json", {"module": "fib"})
        assert not executor.path("env").exists()
        daemon.result("input-env.json")


def test_run_with_a_key_writes_the_same_receipt_as_a_daemon(
    executors: list[Executor], tmp_path: Path
) -> None:
    """``wasmdrop run``, whose results have the stem of ``OUTPUT_PATH``."""
    daemon = executors[0].daemon
    given = tmp_path / "given.json"
    given.write_text(json.dumps({**JOBS["fib"][0], "deterministic": True}))
    (tmp_path / "out").mkdir()
    variables = {
        "INPUT_PATH": str(given),
        "OUTPUT_PATH": str(tmp_path / "out" / "answer.txt"),
        "WASMDROP_STATE_DIR": str(tmp_path / "state"),
    }
    environment = {**daemon.environment, **variables}
    del environment["WASMDROP_SHARED_DIR"]
    done = subprocess.run(command("run"), env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"\n144\n")
    assert (tmp_path / "out" / "answer.receipt").read_bytes() == executors[0].receipt("fib")


def test_daemon_without_a_key_has_no_cryptography_in_memory(tmp_path: Path) -> None:
    """And writes no receipt."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    with daemon.running():
        marker = daemon.submit("input.json", {**JOBS["fib"][0], "deterministic": True})
        assert daemon.process is not None
        assert "cryptography" not in Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert marker["files"].keys() == {"result.json", "result.txt"}
