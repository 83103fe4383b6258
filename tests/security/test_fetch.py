"""``wasmdrop fetch`` against hostile servers, and against authors of hostile files.

Whatever the server does, the command ends with status 1 and one line that names what it did, and
leaves no file.
"""

import argparse
import gzip
import hashlib
import itertools
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.raw_server import Answer, Request, blocks_of, body, gateway, head, serving
from tests.support.unixfs_nodes import HUGE, Blocks
from wasmdrop.cli import fetch
from wasmdrop.unixfs.cid import Cid
from wasmdrop.unixfs.profiles import CIDV1

#: Two blocks below a node, so that the second or third answer can be the wrong one.
CONTENT: Final = hashlib.shake_256(b"module").digest(CIDV1.chunk_bytes + 1000)
ROOT, BLOCKS = blocks_of(CONTENT, CIDV1)
CHUNKS: Final = [cid for cid in BLOCKS if cid != ROOT.text]

BLOCK_BYTES: Final = 2 * 1024 * 1024

Fetch = Callable[..., str]


@pytest.fixture
def refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Fetch:
    """Return a function that fetches, checks that this is refused, and returns the reason."""
    into = tmp_path / "wasm"
    into.mkdir()
    monkeypatch.setenv("WASMDROP_MAX_MODULE_MB", "3")
    parser = argparse.ArgumentParser()
    fetch.add_arguments(parser)

    def refuse(answer: Answer, *words: str, cid: Cid = ROOT, url_path: str = "") -> str:
        with serving(answer) as server:
            digest = hashlib.sha256(CONTENT).hexdigest()
            source = f"{server.url}{url_path}#sha256={digest}" if url_path else f"ipfs://{cid}"
            given = [source, "--gateway", server.url, "--into", str(into), *words]
            status = fetch.run(parser.parse_args(given))
        said = capsys.readouterr()
        assert (status, said.out) == (1, "")
        assert said.err.endswith("\n")
        assert said.err[:-1].isprintable()  # one line, without control characters
        assert os.listdir(into) == []  # noqa: PTH208 - names that begin with a dot, too
        return said.err.replace(server.url, "URL").removeprefix("wasmdrop: ").rstrip("\n")

    return refuse


def instead(answer: bytes, of: str = CHUNKS[-1]) -> Answer:
    """Return an honest gateway, except for the answer to the request for one block."""
    honest = gateway(BLOCKS)

    def respond(request: Request, connection: socket.socket) -> None:
        if of in request.target:
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
        else:
            honest(request, connection)

    return respond


def endless(start: bytes, more: bytes) -> Answer:
    """Return a server that begins an answer and goes on without end."""

    def respond(_request: Request, connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(more)

    return respond


GOOD: Final = BLOCKS[CHUNKS[-1]]
CHANGED: Final = GOOD[:-1] + bytes((GOOD[-1] ^ 1,))
ZIPPED: Final = gzip.compress(GOOD)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body(CHANGED), "sent 1000 other bytes"),
        (body(GOOD[:-1]), "sent 999 other bytes"),
        (body(b""), "sent 0 other bytes"),
        (body(GOOD)[:-1], "ended after 999 of 1000 bytes"),
        (head() + GOOD[:-1], "sent 999 other bytes"),
        (body(GOOD, "404 Not Found"), "answered 404 Not Found"),
        (body(GOOD, "500 Internal Server Error"), "answered 500 Internal Server Error"),
        (body(GOOD, "206 Partial Content"), "answered 206 Partial Content"),
        (body(GOOD, "404 \x1b]0;owned\x07"), r"answered 404 \x1b]0;owned\x07"),
        (body(b"", "200 OK", "Content-Encoding: gzip") + ZIPPED, 'Content-Encoding "gzip"'),
        (body(ZIPPED), f"sent {len(ZIPPED)} other bytes"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 'not HTTP: BadStatusLine "SSH-2.0-OpenSSH_9.6'),
        (b"\x16\x03\x01\x00\x05\xff\x00" * 100 + b"\n", "not HTTP: BadStatusLine"),
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "sent 0 other bytes"),
        (head("200 OK", *["X: y"] * 101), "not HTTP: HTTPException"),
        (head("200 OK", "X: " + "y" * 100_000), "sends header lines or chunks without end"),
        (head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\n", "ended in the middle"),
        (head("200 OK", "Transfer-Encoding: chunked") + b"5\r\nabc", "ended in the middle"),
        # The messages of Python's reader for these two differ between versions.
        (head("200 OK", "Transfer-Encoding: chunked") + b"-1\r\nabc", ""),
        (head("200 OK", "Transfer-Encoding: chunked") + b"-5\r\nabc", ""),
        (head("200 OK", "Content-Length: -5") + CHANGED, "sent 1000 other bytes"),
        (head("200 OK", f"Content-Length: {HUGE}"), f"declares {HUGE} bytes, more than 2097152"),
        (head("200 OK", f"Content-Length: {BLOCK_BYTES + 1}"), "declares 2097153 bytes"),
        (head() + bytes(BLOCK_BYTES + 1), "more than 2097152 bytes"),
    ],
)
def test_fetch_wrong_answer_is_refused(refusal: Fetch, answer: bytes, reason: str) -> None:
    """The message names the block and what the gateway did."""
    said = refusal(instead(answer))
    assert said.startswith(f"URL: block {CHUNKS[-1]}: ")
    assert reason in said


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd", "/other", ""],
)
@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_fetch_redirect_is_not_followed(refusal: Fetch, status: str, location: str) -> None:
    """Neither to another host nor to a file."""
    said = refusal(instead(body(GOOD, status, f"Location: {location}")))
    assert f'with a redirect to "{location}", and redirects are not followed' in said


CHUNKED: Final = head("200 OK", "Transfer-Encoding: chunked")
LAST_CHUNK: Final = b"0\r\n"


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (head(), bytes(65536)),
        (CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n" * 1000),
        (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
        (CHUNKED + b"ffffffffffffffff\r\n", bytes(65536)),
        (CHUNKED + b"-1\r\n", bytes(65536)),
        (CHUNKED + LAST_CHUNK, b"Trailer: x\r\n" * 1000),
        (b"", head("100 Continue") * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        (b"", b"y" * 65536),
    ],
)
@pytest.mark.parametrize("url_path", ["", "/module.wasm"])
def test_fetch_endless_answer_is_refused(
    refusal: Fetch, start: bytes, more: bytes, url_path: str
) -> None:
    """By the number of bytes, not by time: whatever it is that does not end."""
    said = refusal(endless(start, more), url_path=url_path)
    assert any(
        reason in said
        for reason in ("more than", "without end", "not HTTP: LineTooLong", "not HTTP: HTTPExc")
    ), said


def test_fetch_slow_answer_ends_at_the_deadline(refusal: Fetch) -> None:
    """A byte at a time, each early enough for a socket's timeout."""

    def drip(_request: Request, connection: socket.socket) -> None:
        connection.sendall(head("200 OK", "Content-Length: 1000000"))
        connection.settimeout(0.01)
        for _ in itertools.count():
            connection.sendall(b"x")
            try:
                connection.recv(1)
            except TimeoutError:
                continue
            return

    assert "not complete after 0.2 s (--max-sec)" in refusal(drip, "--max-sec", "0.2")


def test_fetch_silent_server_ends_at_the_deadline(refusal: Fetch) -> None:
    """It accepts the connection and says nothing."""
    said = refusal(lambda _request, connection: connection.recv(1) and None, "--max-sec", "0.2")
    assert "not complete after 0.2 s (--max-sec)" in said


def test_fetch_reset_connection_is_refused(refusal: Fetch) -> None:
    """In the middle of a block."""

    def reset(_request: Request, connection: socket.socket) -> None:
        connection.sendall(head("200 OK", "Content-Length: 1000000"))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    assert "Connection reset by peer" in refusal(reset)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1], "sent 263143 bytes of SHA-256"),
        (CHANGED, "sent 1000 bytes of SHA-256"),
        (CONTENT + bytes(3 * 1024 * 1024), "more than 3145728"),
    ],
)
def test_fetch_url_with_other_content_is_refused(
    refusal: Fetch, content: bytes, reason: str
) -> None:
    """By its digest, and by the bound on modules."""
    for answer in (body(content), head() + content):
        said = refusal(
            lambda _request, connection, answer=answer: (
                connection.sendall(answer),
                connection.shutdown(socket.SHUT_WR),
            ),
            url_path="/module.wasm",
        )
        assert reason in said


def test_fetch_url_with_a_redirect_is_refused(refusal: Fetch) -> None:
    """Also for plain URLs."""
    answer = body(b"", "302 Found", "Location: file:///etc/passwd")
    said = refusal(lambda _request, connection: connection.sendall(answer), url_path="/module.wasm")
    assert "redirects are not followed" in said


@pytest.mark.parametrize(
    ("name", "reason", "requests"),
    [
        ("size bomb", f"declares a file of {HUGE} bytes", 1),
        ("size over the limit", "declares a file of 3145729 bytes, more than 3145728", 1),
        ("part larger than declared", "has 2 bytes of content", 2),
        ("part smaller than declared", "has 2 bytes of content", 2),
        ("empty leaves", "has a link to an empty part", 1),
        ("leaves of one byte", "has too many blocks", 1),
        ("tree of one leaf", "has too many blocks", 13),
        ("deep chain", "has parts below level 8", 8),
        ("directory", "is a directory", 1),
        ("garbage", "has an unknown field", 1),
    ],
)
def test_fetch_hostile_file_is_refused(
    refusal: Fetch, name: str, reason: str, requests: int
) -> None:
    """The blocks are what their CIDs say: here their author is hostile, not the gateway."""
    blocks = Blocks()
    x, hi = blocks.add_leaf(b"x"), blocks.add_leaf(b"hi")
    level = blocks.add_file(*[x] * 4), 4
    empty = blocks.add_leaf(b"")
    root = {
        "size bomb": blocks.add_file((x[0], HUGE)),
        "size over the limit": blocks.add_file((x[0], 3 * 1024 * 1024 + 1)),
        "part larger than declared": blocks.add_file((hi[0], 1)),
        "part smaller than declared": blocks.add_file((hi[0], 3)),
        "empty leaves": blocks.add_file(*[empty] * 1000),
        "leaves of one byte": blocks.add_file(*[x] * 10_000),
        "tree of one leaf": blocks.add_file(*[(blocks.add_file(*[level] * 4), 16)] * 4),
        "deep chain": blocks.add_chain(100),
        "directory": blocks.add(b"\x0a\x02\x08\x01"),
        "garbage": blocks.add(b"garbage"),
    }[name]
    asked = []
    honest = gateway(blocks)

    def answer(request: Request, connection: socket.socket) -> None:
        asked.append(request.target)
        honest(request, connection)

    assert reason in refusal(answer, cid=root)
    assert len(asked) == requests
