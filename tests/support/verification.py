"""Delivered slots, copied and forged, and their verification in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import Daemon
from wasmdrop import settings
from wasmdrop.jobs.result_files import mark_file
from wasmdrop.proof.envelope import Envelope, Signer, encode_envelope, parse_envelope, sign_payload
from wasmdrop.proof.statement import parse_statement
from wasmdrop.service.verify.verdict import Report
from wasmdrop.service.verify.verification import Request, verify

#: The time of a rerun; generous, for slow and busy machines.
MAX_SEC: Final = 60.0


class DeliveredSlot:
    """A copy of the directory with the root slot of a job, to be forged."""

    def __init__(self, original: Path, target: Path) -> None:
        self.directory = target / original.name
        shutil.copytree(original, self.directory, symlinks=True)

    def path(self, suffix: str) -> Path:
        """Return the path of a result file."""
        return self.directory / f"result{suffix}"

    def marker(self) -> dict[str, Any]:
        """Return the marker."""
        marker: dict[str, Any] = json.loads(self.path(".done").read_bytes())
        return marker

    def forge_marker(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the marker."""
        marker = self.marker()
        change(marker)
        self.path(".done").write_text(json.dumps(marker))

    def forge_file(self, name: str, data: bytes | None) -> None:
        """Write a result file, or remove it, such that the marker's digests fit."""
        path = self.directory / name
        if data is None:
            path.unlink()
            self.forge_marker(lambda marker: marker["files"].pop(name))
            return
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        file = mark_file(data)
        entry = {"sha256": file.sha256, "bytes": file.bytes, "cid": file.cid}
        self.forge_marker(lambda marker: marker["files"].update({name: entry}))

    def without_receipt(self) -> "DeliveredSlot":
        """Remove the receipt, so that the marker alone makes the claim."""
        if self.path(".receipt").exists():
            self.forge_file("result.receipt", None)
        return self

    def envelope(self) -> Envelope:
        """Return the receipt."""
        return parse_envelope(self.path(".receipt").read_bytes())

    def forge_receipt(self, change: Callable[[Any], None], signer: Signer) -> None:
        """Change the statement of the receipt and sign it; the marker is not changed."""
        statement = json.loads(self.envelope().payload)
        change(statement)
        payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()
        parse_statement(payload)  # a forgery that is malformed would be found for that
        self.path(".receipt").write_bytes(encode_envelope(sign_payload(payload, signer)))


def check(daemon: Daemon, path: Path, **changes: Any) -> Report:
    """Verify a document in this process, with the settings of a daemon."""
    own = settings.load(daemon.environment, {"state_dir": "/dev/null"}).settings
    given: dict[str, Any] = {"max_sec": MAX_SEC, "max_result_bytes": 1 << 28} | changes
    return verify(own, Request(path=str(path), **given))


def inventory_of(directory: Path) -> list[tuple[object, ...]]:
    """Return all names below a directory with what a writer would change."""
    return sorted(
        (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path in (directory, *directory.rglob("*"))
        for status in (path.lstat(),)
    )
