"""Documents of strangers: ``wasmdrop verify`` refuses them, runs nothing and writes nothing."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.daemon import Daemon
from tests.support.deliveries import deliver
from tests.support.receipts import edited
from tests.support.verification import DeliveredSlot, check, inventory_of
from wasmdrop.client import submit
from wasmdrop.proof.envelope import (
    Envelope,
    Signature,
    encode_envelope,
    sign_payload,
)
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.service.verify.verdict import DocumentError, Verdict

HUGE: Final = 10**4000


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeliveredSlot:
    """Give a slot with a true marker and receipt; nothing can be run."""
    monkeypatch.setattr("wasmdrop.service.verify.verification.run_again", None)
    submission = submit(tmp_path, {"entry": "fib"}, "original/input.json")
    deliver(submission, signer=PrivateKey.generate(KeyKind.ED25519))
    return DeliveredSlot(tmp_path / "original", tmp_path / "copy")


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """Give the settings of a daemon that does not run."""
    return Daemon(tmp_path / "daemon")


def require_refused(daemon: Daemon, slot: DeliveredSlot, path: Path, *words: str) -> None:
    """Require that a document is refused with one printable line, and that nothing is written."""
    before = inventory_of(slot.directory)
    with pytest.raises(DocumentError) as caught:
        check(daemon, path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert inventory_of(slot.directory) == before


def _set_profile(slot: DeliveredSlot, change: dict[str, int]) -> None:
    slot.forge_marker(lambda marker: marker["deterministic"].update(change))


def test_true_documents_are_not_refused(daemon: Daemon, slot: DeliveredSlot) -> None:
    """Else the tests below would show nothing."""
    assert check(daemon, slot.directory, runs=False).verdict is Verdict.NOT_RUN
    assert check(daemon, slot.path(".done"), runs=False).verdict is Verdict.NOT_RUN
    assert check(daemon, slot.path(".receipt"), runs=False, trusted=(), signatures=0).signers == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\xff\xfe{", "UTF-16"),
        (b"[]", "expected a marker or a receipt"),
        (b"{}", "expected a marker or a receipt"),
        (b'{"schema":"wasmdrop.marker/2"}', "Invalid enum value"),
        (b'{"schema":"wasmdrop.marker/1"}', "missing required field"),
        (b'{"schema":1,"schema":2}', "duplicate key"),
        (b'{"schema":' * 70 + b"1" + b"}" * 70, "nested deeper"),
        (b"[" * 500_000, "nested deeper"),
        (b'{"schema":' + b"1" * 500_000 + b"}", "digits"),
        (b'{"schema":1e999}', "beyond the range"),
        (b'{"schema":NaN}', "NaN"),
        (b'{"schema":"\\ud800"}', "surrogate"),
        (b'{"schema":"' + b"x" * (1 << 20) + b'"}', "expected at most 1048576 bytes"),
        (b'{"payloadType":"text/plain","payload":"","signatures":[]}', "payloadType"),
    ],
)
def test_document_that_is_no_marker_and_no_receipt_is_refused(
    daemon: Daemon, slot: DeliveredSlot, data: bytes, words: str
) -> None:
    """With the file, the place and what was expected."""
    slot.path(".done").write_bytes(data)
    require_refused(daemon, slot, slot.directory, "result.done", words)


@pytest.mark.parametrize(
    "change",
    [
        lambda marker: marker["files"].update({"../result.json": marker["files"]["result.json"]}),
        lambda marker: marker["files"].update({"/etc/passwd": marker["files"]["result.json"]}),
        lambda marker: marker["files"].update({"result.output/../../x": {"sha256": "a" * 64}}),
        lambda marker: marker["files"]["result.json"].update(sha256="a" * 63 + "\n"),
        lambda marker: marker["files"]["result.json"].update(sha256="a" * 64 + "\n"),
        lambda marker: marker["files"]["result.json"].update(bytes=-1),
        lambda marker: marker["files"]["result.json"].update(bytes=HUGE),
        lambda marker: marker["files"]["result.json"].update(bytes=1.5),
        lambda marker: marker["files"].pop("result.txt"),
        lambda marker: marker.update(code="\x1b[2J"),
        lambda marker: marker.update(limits={"memory_mb": HUGE}),
        lambda marker: marker.update(limits={"memory_mb": "256"}),
        lambda marker: marker.update(limits={"output_mb": HUGE}),
        lambda marker: marker.update(limits={"timeout_sec": HUGE}),
        lambda marker: marker.update(fuel_used=HUGE),
        lambda marker: marker.update(fuel_used=-1),
        lambda marker: marker.update(input=7),
        lambda marker: marker.update(module={"path": "x", "sha256": "x", "bytes": 1}),
        lambda marker: marker.update(deterministic={"seed": "0", "clock": ""}),
        lambda marker: marker.update(finished_at="yesterday"),
    ],
)
def test_marker_with_hostile_values_is_refused(
    daemon: Daemon, slot: DeliveredSlot, change: Callable[[dict[str, Any]], None]
) -> None:
    """Names that lead out, huge numbers, other types."""
    slot.forge_marker(change)
    require_refused(daemon, slot, slot.directory, "result.done")


def test_marker_with_huge_numbers_that_have_no_bound_is_answered_in_short(
    daemon: Daemon, slot: DeliveredSlot
) -> None:
    """A profile, a seed and an exit code may be any number."""
    slot.without_receipt()
    for change in ({"profile": HUGE}, {"profile": 1, "seed": HUGE}):
        _set_profile(slot, change)
        report = check(daemon, slot.directory)
        assert report.verdict is Verdict.UNVERIFIABLE
        assert len(report.reason) < 200


@pytest.mark.parametrize(
    ("suffix", "is_document"), [(".done", True), (".json", False), (".receipt", False)]
)
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket", "loop", "device"])
def test_file_that_is_no_regular_one_is_not_opened(
    daemon: Daemon, slot: DeliveredSlot, suffix: str, is_document: bool, kind: str
) -> None:
    """Nothing blocks, and no link is followed, not even to the right content."""
    path = slot.path(suffix)
    moved = slot.directory / "moved"
    path.rename(moved)
    with socket.socket(socket.AF_UNIX) as unix:
        if kind == "link":
            path.symlink_to(moved)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "socket":
            unix.bind(str(path))
        elif kind == "loop":
            path.symlink_to(path.name)
        else:
            path.symlink_to("/dev/zero")
        if is_document:
            require_refused(daemon, slot, slot.directory, "result.done")
            if kind != "directory":
                require_refused(daemon, slot, path, "result.done")
            return
        report = check(daemon, slot.directory)
    assert report.verdict is Verdict.MISMATCH
    assert [found.what for found in report.differences] == [f"result{suffix}"]


def test_receipt_in_the_place_of_a_marker_is_refused(daemon: Daemon, slot: DeliveredSlot) -> None:
    """Else the files of the directory would not be looked at."""
    receipt = slot.path(".receipt").read_bytes()
    for data in (receipt, edited(receipt, schema="wasmdrop.marker/1")):
        slot.path(".done").write_bytes(data)
        for path in (slot.directory, slot.path(".done")):
            require_refused(daemon, slot, path, "result.done", "expected a marker")
    slot.path(".receipt").write_bytes(edited(receipt, schema="wasmdrop.marker/1"))
    require_refused(daemon, slot, slot.path(".receipt"), "expected a marker")


def test_marker_of_other_files_in_the_directory_must_be_named(
    daemon: Daemon, slot: DeliveredSlot
) -> None:
    """A true result beside a forged one without a marker."""
    for suffix in (".json", ".txt", ".receipt", ".done"):
        slot.path(suffix).rename(slot.directory / f"x{suffix}")
    slot.path(".json").write_bytes(b"forged")
    require_refused(daemon, slot, slot.directory, "no marker")


def test_directory_without_one_marker_is_refused(daemon: Daemon, slot: DeliveredSlot) -> None:
    """Several are named, escaped."""
    slot.path("-\x1b[2J.done").write_bytes(b"{}")
    require_refused(daemon, slot, slot.directory, "several markers", r"-\u001b[2J.done")
    for path in slot.directory.glob("*.done"):
        path.unlink()
    (slot.directory / ".result.done").write_bytes(b"{}")
    require_refused(daemon, slot, slot.directory, "no marker")
    require_refused(daemon, slot, slot.directory / "none.done", "No such file")


def test_output_directory_with_more_than_the_marker_names_is_bounded(
    daemon: Daemon, slot: DeliveredSlot
) -> None:
    """A link, a FIFO, a sparse file of a terabyte, and a tree that is too deep."""
    slot.without_receipt().forge_file("result.output/a", b"a")
    output = slot.path(".output")

    def whats() -> set[str]:
        report = check(daemon, slot.directory)
        assert report.verdict is Verdict.MISMATCH
        return {found.what for found in report.differences}

    (output / "link").symlink_to("/etc/passwd")
    os.mkfifo(output / "fifo")
    assert "result.output" in whats()
    with (output / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert "result.output" in whats()
    (output / "sparse").unlink()
    Path(output, *["deep"] * 60).mkdir(parents=True)
    assert "result.output" in whats()


def test_marker_that_names_more_bytes_than_are_read_is_unverifiable(
    daemon: Daemon, slot: DeliveredSlot
) -> None:
    """Nothing is hashed."""
    with slot.path(".json").open("wb") as file:
        file.truncate(1 << 40)
    slot.forge_marker(lambda marker: marker["files"]["result.json"].update(bytes=1 << 40))
    report = check(daemon, slot.directory)
    assert report.verdict is Verdict.UNVERIFIABLE
    assert "--max-result-mb" in report.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda it: it.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda it: it.update(more=1),
        lambda it: it["predicate"].update(more=1),
        lambda it: it["subject"].append(it["subject"][0]),
        lambda it: it["subject"].append({"name": "../x", "digest": {"sha256": "a" * 64}}),
        lambda it: it["subject"].pop(),
        lambda it: it["predicate"]["limits"].update(memoryMb=HUGE),
        lambda it: it["predicate"]["outcome"].update(fuelUsed=HUGE),
        lambda it: it["predicate"]["outcome"].update(code="\x1b"),
        lambda it: it["predicate"]["input"].update(digest={}),
        lambda it: it["predicate"].update(input=None),
    ],
)
def test_receipt_with_another_statement_is_refused(
    daemon: Daemon, slot: DeliveredSlot, change: Callable[[Any], None]
) -> None:
    """Whoever has signed it."""
    statement = json.loads(slot.envelope().payload)
    change(statement)
    envelope = Envelope(json.dumps(statement).encode(), slot.envelope().signatures)
    slot.path(".receipt").write_bytes(encode_envelope(envelope))
    require_refused(daemon, slot, slot.path(".receipt"), "result.receipt")


@pytest.mark.parametrize(
    "changes",
    [
        {"payloadType": "application/json"},
        {"payload": "%%%"},
        {"payload": 7},
        {"signatures": []},
        {"signatures": [{"keyid": "a", "sig": "AA=="}] * 65},
        {"signatures": [{"keyid": "a", "sig": ""}]},
        {"signatures": [{"keyid": 1, "sig": "AA=="}]},
        {"signatures": [7]},
    ],
)
def test_receipt_in_another_envelope_is_refused(
    daemon: Daemon, slot: DeliveredSlot, changes: dict[str, Any]
) -> None:
    """Before its payload is parsed."""
    path = slot.path(".receipt")
    path.write_bytes(edited(path.read_bytes(), **changes))
    require_refused(daemon, slot, path, "result.receipt", "envelope")


@pytest.mark.parametrize("kind", KeyKind)
def test_receipt_with_a_forged_signature_is_a_mismatch(
    daemon: Daemon, slot: DeliveredSlot, kind: KeyKind
) -> None:
    """Of other bytes, of another key, cut, or without meaning; with the key id of a trusted one."""
    key, stranger = PrivateKey.generate(kind), PrivateKey.generate(kind)
    payload = slot.envelope().payload
    true = sign_payload(payload, key).signatures[0].value
    for value in (
        sign_payload(payload + b" ", key).signatures[0].value,
        sign_payload(payload, stranger).signatures[0].value,
        key.sign(payload),
        true[:-1],
        true[::-1],
        bytes(64),
        bytes(1024),
    ):
        forged = Envelope(payload, (Signature(key.key_id, value),))
        slot.path(".receipt").write_bytes(encode_envelope(forged))
        report = check(daemon, slot.path(".receipt"), trusted=(key.public,))
        assert report.verdict is Verdict.MISMATCH
        assert "0 of 1 trusted keys" in report.reason
