"""A tiny IPFS gateway and node on loopback, for the examples of this folder and their tests.

    python gateway.py FILE… [--port 8080]

Serves the blocks of these files, and of those it is given later:

- `GET /ipfs/CID?format=raw` answers one block, as a trustless gateway does
  (https://specs.ipfs.tech/http-gateways/trustless-gateway/).
- `POST /api/v0/add` takes a file in a form and answers its CID, as kubo's RPC does. It always uses
  the profile `unixfs-v1-2025`.

It talks to no other node. Everything is in memory.
"""

import argparse
import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from wasmdrop.unixfs.cid import Cid
from wasmdrop.unixfs.files import FileImporter


class Gateway(ThreadingHTTPServer):
    """Listens on a port of loopback; 0 is a free one."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.blocks: dict[str, bytes] = {}
        """Every block by its CID."""

    @property
    def url(self) -> str:
        """The address of the gateway, without a path."""
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, content: bytes) -> str:
        """Keep the blocks of a file; return its CID."""
        importer = FileImporter(on_block=self._keep)
        importer.update(content)
        return importer.finish().cid.text

    def _keep(self, cid: Cid, block: bytes) -> None:
        self.blocks[cid.text] = block


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        """Answer a block."""
        url = urlsplit(self.path)
        block = self.server.blocks.get(url.path.removeprefix("/ipfs/"))
        if url.query != "format=raw":
            self.send_error(HTTPStatus.BAD_REQUEST, "only blocks: ?format=raw")
        elif block is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer("application/vnd.ipld.raw", block)

    def do_POST(self) -> None:
        """Keep the one file of a form, and answer its CID."""
        boundary = self.headers.get_param("boundary")
        size = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/api/v0/add" or not boundary or not size.isdigit():
            self.send_error(HTTPStatus.BAD_REQUEST, "expected /api/v0/add with a form")
            return
        form = self.rfile.read(int(size))
        content = form.partition(b"\r\n\r\n")[2].rpartition(f"\r\n--{boundary}--".encode())[0]
        answer = {"Name": "", "Hash": self.server.add(content), "Size": str(len(content))}
        self._answer("application/json", json.dumps(answer).encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(description="Serve the blocks of files on loopback.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    try:
        with Gateway(args.port) as gateway:
            for path in args.files:
                sys.stdout.write(f"{gateway.add(path.read_bytes())} {path}\n")
            sys.stdout.flush()
            gateway.serve_forever()
    except OSError as error:
        sys.exit(f"gateway: {error.filename or f'port {args.port}'}: {error.strerror}")


if __name__ == "__main__":
    main()
