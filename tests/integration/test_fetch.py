"""``wasmdrop fetch`` as a user runs it, and a daemon that finds what it fetched."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, on_terminal
from tests.support.daemon import environment, wait_until
from tests.support.fib import FIB, with_fib
from tests.support.raw_server import Request, blocks_of, body, gateway, head, serving
from wasmdrop.unixfs.profiles import UNIXFS_V0_2015

MODULE: Final = bytes(wat2wasm(FIB))
#: Kinds of sockets that reach another host.
_NETWORK: Final = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "packet")


def fetch(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command; standard output and error are no terminal."""
    return subprocess.run(
        command("fetch", *words),
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_fetch_module_is_found_by_its_cid_or_digest(tmp_path: Path) -> None:
    """While the daemon runs, without waiting until it has seen the file; version 0 keeps its name.

    The gateway is below a path.
    """
    digest = hashlib.sha256(MODULE).hexdigest()
    cid, blocks = blocks_of(MODULE)
    old_cid, old_blocks = blocks_of(MODULE, UNIXFS_V0_2015)
    honest = gateway(blocks | old_blocks, "/base")

    def answer(request: Request, connection: socket.socket) -> None:
        if request.target == "/fib.wasm":
            connection.sendall(body(MODULE))
        else:
            honest(request, connection)

    daemon = with_fib(tmp_path)
    with daemon.running(), serving(answer) as server:
        variables = {
            "WASMDROP_WASM_DIR": str(daemon.wasm),
            "IPFS_GATEWAY": f"{server.url}/base",
        }
        for name, source in (
            (str(cid), f"ipfs://{cid}"),
            (str(old_cid), f"ipfs://{old_cid}"),
            (digest, f"{server.url}/fib.wasm#sha256={digest}"),
        ):
            done = fetch(source, **variables)
            path = daemon.wasm / f"{name}.wasm"
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"file {path}\nbytes {len(MODULE)}\nsha256 {digest}\n"
            slot = f"input-{name}.json"
            marker = daemon.submit(slot, {"module": name, "entry": "fib", "args": [12]})
            assert marker["module"]["path"] == str(path)
            assert daemon.result(slot)["results"] == [144]


def test_fetch_prints_json(tmp_path: Path) -> None:
    """The second time it says that nothing was downloaded."""
    cid, blocks = blocks_of(MODULE)
    with serving(gateway(blocks)) as server:
        words = (f"ipfs://{cid}", "--gateway", server.url, "--into", str(tmp_path), "--json")
        said = [json.loads(fetch(*words).stdout) for _ in range(2)]
    known = {
        "path": str(tmp_path / f"{cid}.wasm"),
        "bytes": len(MODULE),
        "sha256": hashlib.sha256(MODULE).hexdigest(),
    }
    assert said == [known | {"downloaded": True}, known | {"downloaded": False}]


def test_fetch_on_a_terminal_shows_its_progress(tmp_path: Path) -> None:
    """On standard error, beside the result."""
    cid, blocks = blocks_of(MODULE)
    with serving(gateway(blocks)) as server:
        words = command("fetch", f"ipfs://{cid}", "--gateway", server.url, "--into", str(tmp_path))
        status, shown = on_terminal(words, environment())
    assert status == 0
    # The name beside the bar is cut to fit.
    assert shown.count(cid.text[:16]) > 1
    assert f"sha256 {hashlib.sha256(MODULE).hexdigest()}" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ipfs://bafkqaaa", "--gateway", "http://localhost"], "unsupported hash"),
        (["ipns://example.org"], "expected ipfs://CID or a URL"),
        ([f"ipfs://{blocks_of(MODULE)[0]}"], "expected --gateway URL or the variable IPFS_GATEWAY"),
        (
            ["http://localhost/#sha256=" + "0" * 64, "--into", "/missing"],
            "directory /missing can't be opened",
        ),
        (["http://localhost/#sha256=" + "0" * 64, "--max-sec", "0"], "expected more than 0"),
        (["http://localhost/#sha256=" + "0" * 64, "--max-sec", "nan"], "expected more than 0"),
        (["http://localhost/#sha256=" + "0" * 64, "--max-sec", "1 h"], "expected more than 0"),
        (["ipfs://CID", "--gateway", "localhost"], "not a CID"),
    ],
)
def test_fetch_used_wrongly_ends_with_status_2(words: list[str], said: str) -> None:
    """Before any request."""
    done = fetch(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[0]


def test_fetch_refused_ends_with_status_1_and_one_line(tmp_path: Path) -> None:
    """No traceback, and no file."""
    cid, _blocks = blocks_of(MODULE)
    with serving(gateway({})) as server:
        done = fetch(f"ipfs://{cid}", "--gateway", server.url, "--into", str(tmp_path))
    said = f"wasmdrop: {server.url}: block {cid}: answered 404 Not Found\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_fetch_ended_by_a_signal_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of a download; the exit status says which signal."""

    def stall(_request: Request, connection: socket.socket) -> None:
        connection.sendall(head("200 OK", "Content-Length: 100000") + bytes(50_000))
        connection.recv(1)

    with serving(stall) as server:
        process = subprocess.Popen(
            command("fetch", f"{server.url}/#sha256={'0' * 64}", "--into", str(tmp_path)),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: list(tmp_path.iterdir()), "the temporary file")
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (128 + number, b"", b"")
    assert list(tmp_path.iterdir()) == []


def network_sockets(pid: int) -> Iterator[str]:
    """Yield the descriptors of a process that are sockets of a network."""
    known = set()
    for kind in _NETWORK:
        table = Path(f"/proc/{pid}/net/{kind}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            known |= set(line.split())
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
        if found is not None and found[1] in known:
            yield f"{pid}: {link.name}"


def test_daemon_without_http_has_no_network(tmp_path: Path) -> None:
    """It and its helpers have no network socket and no module that could open one."""
    daemon = with_fib(tmp_path)
    daemon.command = (sys.executable, "-X", "importtime", "-m", "wasmdrop", "serve")
    with daemon.running():
        daemon.submit("input-a.json", {"entry": "fib", "args": [12]})
        assert daemon.process is not None
        sockets = [*network_sockets(daemon.process.pid)]
        for pid in daemon.children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a job that ended
                sockets += network_sockets(pid)
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", daemon.log_text(), re.MULTILINE))
    assert "wasmdrop.service.daemon" in imported
    network = {"http.client", "urllib.request", "nats", "nkeys", "nacl", "wasmdrop.fetch"}
    unused = {"wasmdrop.fleet", "wasmdrop.hooks", "wasmdrop.page"}
    assert imported & {*network, *unused} == set()
    assert sockets == []


def test_network_sockets_of_a_process_with_one_are_found() -> None:
    """The test above could find one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert f"{os.getpid()}: {listener.fileno()}" in network_sockets(os.getpid())
