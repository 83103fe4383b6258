"""The example relayer, as a user starts it: with two executors, and with everyone who may lie."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from examples.relayer.gateway import Gateway
from wasmtime import wat2wasm

from tests.support.commands import command
from tests.support.daemon import DEADLINE_SECONDS, Daemon, environment
from tests.support.examples import EXAMPLES
from tests.support.fib import FIB
from tests.support.gateway import running
from tests.support.lying_executor import lying_executor
from wasmdrop.proof.envelope import encode_envelope, parse_envelope, sign_payload
from wasmdrop.proof.keys import PrivateKey
from wasmdrop.unixfs.cid import raw_cid

#: The content id of the result.txt of a deterministic job that returns 144.
CID_OF_144: Final = "bafkreifebbuyfkdy2r2fzbrfjold5u5pvtnp2hvsao33cji2m6rdjujtne"
KINDS: Final = ("ed25519", "p256", "secp256k1")


class World(NamedTuple):
    """Two executors with keys of different kinds, and a gateway that is the node, too."""

    executors: tuple[Daemon, Daemon]
    gateway: Gateway
    task: Path
    keys: list[Path]
    """Private keys, of :data:`KINDS`. Each executor has one; the third is unused."""
    public: list[str]
    """Their public keys, as PEM."""
    trusted: Path
    """All public keys."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give the executors and all that a relayer needs."""
    base = tmp_path_factory.mktemp("relayer")
    keys = [base / f"{kind}.pem" for kind in KINDS]
    public = [new_key(kind, path) for kind, path in zip(KINDS, keys, strict=True)]
    trusted = base / "trusted.pem"
    trusted.write_text("".join(public))
    first, second = (
        Daemon(base / name, WASMDROP_SIGNING_KEY=str(key))
        for name, key in zip(("first", "second"), keys, strict=False)
    )
    task = base / "task.json"
    with running(Gateway()) as gateway, first.running(), second.running():
        module = gateway.add(bytes(wat2wasm(FIB)))
        given = {"entry": "fib", "args": [12], "fuel": 1_000_000}
        task.write_text(json.dumps({"id": "task-7", "module": module, "input": given}))
        yield World((first, second), gateway, task, keys, public, trusted)


def new_key(kind: str, path: Path) -> str:
    """Make a private key; return the public one as PEM."""
    words = command("key", "new", "--type", kind, str(path))
    return subprocess.run(
        words, env=environment(), check=True, capture_output=True, text=True
    ).stdout


def relay(
    world: World,
    *executors: Path,
    task: Path | None = None,
    gateway: str | None = None,
    trusted: Path | None = None,
    node: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the relayer, which wants two signatures; by default with both executors."""
    shared = executors or [daemon.shared for daemon in world.executors]
    words = [word for each in shared for word in ("--executor", str(each))]
    words += ["--gateway", gateway or world.gateway.url, "--node", node or world.gateway.url]
    words += ["--trust", str(trusted or world.trusted), "--signatures", "2"]
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "relayer/relayer.py"), str(task or world.task), *words],
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
    )


@pytest.fixture
def unpublished(world: World) -> Iterator[None]:
    """Check that the test publishes nothing and leaves nothing in the slots."""
    before = set(world.gateway.blocks)
    yield
    assert set(world.gateway.blocks) == before
    assert [list(daemon.shared.glob("[!.]*")) for daemon in world.executors] == [[], []]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return why the relayer stopped: what follows the name of the task in its one line."""
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    prefix = f"relayer: {done.args[2]}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def test_relayer_publishes_the_result_and_prints_its_content_id_and_last_line(world: World) -> None:
    """What two executors say, with two of three trusted keys."""
    done = relay(world)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{CID_OF_144}\n144\n", "")
    text = world.gateway.blocks.pop(CID_OF_144).decode()
    assert text.splitlines()[-1] == "144"
    assert [list(daemon.shared.glob("[!.]*")) for daemon in world.executors] == [[], []]


class _ChangingGateway(Gateway):
    """Changes one bit of each block that it serves."""

    def add(self, content: bytes) -> str:
        cid = super().add(content)
        self.blocks = {
            key: block[:-1] + bytes([block[-1] ^ 1]) for key, block in self.blocks.items()
        }
        return cid


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_a_changed_block_of_the_gateway(world: World) -> None:
    """No job is dropped."""
    with running(_ChangingGateway()) as gateway:
        cid = gateway.add(bytes(wat2wasm(FIB)))
        line = refusal(relay(world, gateway=gateway.url))
    assert line.startswith("wasmdrop fetch: ")
    assert f"block {cid}" in line


class _ForgettingNode(Gateway):
    """Stores something else than it is given."""

    def add(self, content: bytes) -> str:
        return super().add(content + b"\n")


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_a_node_that_stores_another_file(world: World) -> None:
    """Nothing is printed."""
    with running(_ForgettingNode()) as node:
        line = refusal(relay(world, node=node.url))
    expected = f"{node.url} answered another content id than {CID_OF_144}: "
    assert line.startswith(expected)


def forged_text(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the files with another result.txt."""
    return {**files, "result.txt": files["result.txt"].replace(b"144", b"145")}


@pytest.mark.usefixtures("unpublished")
@pytest.mark.parametrize("fits", [False, True])
def test_relayer_refuses_a_result_forged_after_delivery(
    world: World, tmp_path: Path, fits: bool
) -> None:
    """By its content id in the marker; if the marker is forged as well, by the receipt."""
    first, second = world.executors
    with lying_executor(tmp_path / "shared", first, forged_text, fits_content_id=fits) as shared:
        line = refusal(relay(world, shared, second.shared))
    if fits:
        assert line.startswith(f"{shared}: the receipt is for another result.txt")
    else:
        assert line.endswith(f"result.txt does not have the content id {CID_OF_144}")


class Forger:
    """Changes the result in all files, and signs a statement that says so."""

    def __init__(self, key: Path) -> None:
        self._key = PrivateKey.from_pem(key.read_bytes())

    def __call__(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return the files that the executor delivers instead."""
        forged = {name: content.replace(b"144", b"145") for name, content in files.items()}
        statement = json.loads(parse_envelope(files["result.receipt"]).payload)
        for subject in statement["subject"]:
            digest = hashlib.sha256(forged[subject["name"]]).hexdigest()
            subject |= {"uri": f"ipfs://{raw_cid(digest)}", "digest": {"sha256": digest}}
        payload = json.dumps(statement, separators=(",", ":")).encode()
        return forged | {"result.receipt": encode_envelope(sign_payload(payload, self._key))}


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_executors_that_disagree(world: World, tmp_path: Path) -> None:
    """The second one signs another result."""
    first, second = world.executors
    with lying_executor(tmp_path / "shared", second, Forger(world.keys[1])) as shared:
        line = refusal(relay(world, first.shared, shared))
    assert line.startswith("wasmdrop receipt: ")
    assert "states something other" in line


@pytest.mark.usefixtures("unpublished")
def test_relayer_finds_a_lie_that_all_executors_have_signed(world: World, tmp_path: Path) -> None:
    """Everything fits, with two trusted signatures: only running the job again tells."""
    first, second = world.executors
    with (
        lying_executor(tmp_path / "first", first, Forger(world.keys[0])) as one,
        lying_executor(tmp_path / "second", second, Forger(world.keys[1])) as two,
    ):
        line = refusal(relay(world, one, two))
    assert line.startswith("wasmdrop verify: mismatch: ")


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_a_signature_of_another_key(world: World, tmp_path: Path) -> None:
    """Two signatures are wanted, and one key is not trusted."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(world.public[0] + world.public[2])
    line = refusal(relay(world, trusted=trusted))
    assert line.startswith("wasmdrop verify: ")
    assert "1 of 2 trusted keys" in line


@pytest.mark.usefixtures("unpublished")
def test_relayer_stops_at_a_job_that_fails(world: World, tmp_path: Path) -> None:
    """The line has the job's code and message."""
    task = tmp_path / "task.json"
    task.write_text(world.task.read_text().replace("[12]", "[1.5]"))
    line = refusal(relay(world, task=task))
    assert "invalid-args: args[0]: expected" in line


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_a_failure_that_the_marker_calls_a_success(
    world: World, tmp_path: Path
) -> None:
    """The receipts are true, but the last line of result.txt is not a value."""
    first, second = world.executors
    task = tmp_path / "task.json"
    task.write_text(world.task.read_text().replace("[12]", "[1.5]"))
    marker = {"status": "succeeded", "code": "ok", "message": ""}
    with (
        lying_executor(tmp_path / "first", first, dict, marker=marker) as one,
        lying_executor(tmp_path / "second", second, dict, marker=marker) as two,
    ):
        line = refusal(relay(world, one, two, task=task))
    assert line == f"{one}: the receipt is for a job that ended as invalid-args"


@pytest.mark.usefixtures("unpublished")
@pytest.mark.parametrize("task_input", ['"fib"', "{}", '{"entry": "fib"}', '{"args": [12]}'])
def test_relayer_refuses_a_task_that_leaves_the_call_open(
    world: World, tmp_path: Path, task_input: str
) -> None:
    """Before it fetches anything."""
    task = tmp_path / "task.json"
    task.write_text(f'{{"id": "task-7", "module": "bafkrei", "input": {task_input}}}')
    line = refusal(relay(world, task=task))
    assert line == "expected id, module, and input with entry and args"


def test_gateway_that_can_not_start_says_why_in_one_line(world: World, tmp_path: Path) -> None:
    """On a port that is in use, and with a file that is missing."""
    missing, port = str(tmp_path / "missing"), str(world.gateway.server_port)
    cases = (
        (["--port", port], f"gateway: port {port}: Address already in use\n"),
        (["--port", "0", missing], f"gateway: {missing}: No such file or directory\n"),
    )
    for words, said in cases:
        line = [sys.executable, str(EXAMPLES / "relayer" / "gateway.py"), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.usefixtures("unpublished")
def test_relayer_refuses_a_task_that_is_no_json(world: World, tmp_path: Path) -> None:
    """The line names the file."""
    task = tmp_path / "task.json"
    task.write_text("task-7 fib 12")
    assert refusal(relay(world, task=task)) == "Expecting value: line 1 column 1 (char 0)"
