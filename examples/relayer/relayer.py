"""Have a task run by several executors, check what they deliver, and publish the result.

    python relayer.py TASK --gateway URL --executor host/shared --executor other/shared
        --trust keys.pem --signatures 2 --node URL

TASK is a JSON file, and an executor is the shared directory of a daemon:

    {"id": "task-7", "module": "bafkrei…", "input": {"entry": "fib", "args": [12], "fuel": 1000000}}

Standard output gets what a relayer records on chain: the CID of result.txt, then its last line. If
a check fails, nothing is published, and one line on standard error says why (exit status 1).
"""

import argparse
import base64
import contextlib
import json
import secrets
import subprocess
import sys
import tempfile
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wasmdrop.client import Result, ResultError, Submission, submit
from wasmdrop.unixfs.files import FileImporter

#: Adds a file to kubo with the profile unixfs-v1-2025, so that its CID is the one that we compute.
ADD = "/api/v0/add?cid-version=1&raw-leaves=true&chunker=size-1048576&max-file-links=1024"


class RelayError(Exception):
    """A check failed; the message says which and why, in one line."""


def relay(task: dict[str, Any], args: argparse.Namespace, work: Path) -> Result:
    """Return the checked result of a task; check copies, because slots may change at any time."""
    # The module. `fetch` checks every block, so the gateway need not be trusted.
    wasmdrop("fetch", f"ipfs://{task['module']}", "--gateway", args.gateway, "--into", work)
    module = work / f"{task['module']}.wasm"

    # The jobs. The id binds the receipts to this task: they contain the digest of the input.
    given = work / "input.json"
    given.write_text(json.dumps(task["input"] | {"id": task["id"], "deterministic": True}))
    with contextlib.ExitStack() as stack:
        jobs = [
            # Leaving the block removes their files.
            stack.enter_context(submit(each, given.read_bytes(), module=module.read_bytes()))
            for each in args.executor
        ]
        results = [job.result(args.timeout) for job in jobs]

    # What they say: the same, with enough signatures of keys that we trust.
    receipts = [work / f"{number}.receipt" for number in range(len(results))]
    for path, job, result in zip(receipts, jobs, results, strict=True):
        path.write_bytes(checked_receipt(job, result))
    if len(receipts) > 1:
        receipts[0].write_text(wasmdrop("receipt", "merge", *receipts))
    # Whether it is true: `verify` runs the job again.
    trust = ["--trust", args.trust, "--signatures", str(args.signatures)]
    wasmdrop("verify", receipts[0], "--module", module, "--input", given, *trust)
    # And whether it is about a success, and about the file that we are going to publish.
    statement = json.loads(base64.b64decode(json.loads(receipts[0].read_bytes())["payload"]))
    if (code := statement["predicate"]["outcome"]["code"]) != "ok":
        raise RelayError(f"{args.executor[0]}: the receipt is for a job that ended as {code}")
    (uri,) = (each.get("uri") for each in statement["subject"] if each["name"] == "result.txt")
    if uri != f"ipfs://{content_id(results[0].text)}":
        raise RelayError(f"{args.executor[0]}: the receipt is for another result.txt: {uri}")
    return results[0]


def checked_receipt(job: Submission, result: Result) -> bytes:
    """Return the receipt of a job, if its marker says that it succeeded, with a true content id."""
    if result.status == "failed":
        raise RelayError(f"{job.marker_path}: {result.code}: {result.message}".partition("\n")[0])
    if result.receipt is None:
        raise RelayError(f"{job.marker_path}: there is no receipt: has the daemon a signing key?")
    told = result.marker["files"][f"{job.marker_path.stem}.txt"].get("cid")
    if told != content_id(result.text):
        raise RelayError(f"{job.marker_path}: result.txt does not have the content id {told}")
    return result.receipt


def publish(content: bytes, node: str) -> str:
    """Add a file to an IPFS node; return its CID, which must be the one that we compute."""
    boundary = secrets.token_hex(16)
    head = 'Content-Disposition: form-data; name="file"; filename="result.txt"'
    form = f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection = HTTPConnection(urlsplit(node).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", ADD, form, kind)
        answer = connection.getresponse().read()
    cid = content_id(content)
    match json.loads(answer):
        case {"Hash": stored} if stored == cid:
            return cid
    raise RelayError(f"{node} answered another content id than {cid}: {answer!r:.200}")


def content_id(content: bytes) -> str:
    """Return the CID of a file."""
    importer = FileImporter()
    importer.update(content)
    return importer.finish().cid.text


def wasmdrop(*words: str | Path) -> str:
    """Return the output of a command of wasmdrop. Raises `RelayError` with its last message."""
    command = [sys.executable, "-m", "wasmdrop", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        message = done.stderr.strip().rpartition("\n")[2] or done.stdout.partition("\n")[0]
        raise RelayError(f"wasmdrop {words[0]}: {message.removeprefix('wasmdrop: ')}")
    return done.stdout


def main() -> int:
    """Relay one task; return an exit status."""
    parser = argparse.ArgumentParser(description="Have a task run, check and publish the result.")
    parser.add_argument("task", type=Path, help="a JSON file")
    parser.add_argument("--gateway", required=True, help="URL; has the module")
    parser.add_argument("--executor", required=True, action="append", help="a shared directory")
    parser.add_argument("--trust", required=True, help="public keys of executors, PEM")
    parser.add_argument("--signatures", type=int, default=1, help="how many are needed")
    parser.add_argument("--node", required=True, help="URL; gets the result")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each executor")
    args = parser.parse_args()
    try:
        task = json.loads(args.task.read_text())
        match task:
            # If the input left the call open, the environment of an executor would choose it.
            case {"id": str(), "module": str(), "input": {"entry": str(), "args": list()}}:
                with tempfile.TemporaryDirectory() as work:
                    result = relay(task, args, Path(work))
            case _:
                raise RelayError("expected id, module, and input with entry and args")
        print(publish(result.text, args.node), result.raw, sep="\n")
    except (RelayError, ResultError, HTTPException, OSError, ValueError) as error:
        print(f"relayer: {args.task}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
