"""Receipts after a death of the daemon: the same bytes, whichever attempt or daemon delivers them.

The nonce of an ECDSA signature would give it away: with a random one, each signature differs.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import wait_for_state
from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop, wait_until
from tests.support.durability import dying
from tests.support.durability.points import find_points, kill_plan
from tests.support.fib import FIB
from tests.support.keys import new_key
from wasmdrop.proof.envelope import parse_envelope, signed_by
from wasmdrop.proof.keys import PrivateKey, PublicKey

_JOB: Final[dict[str, Any]] = {"module": "fib", "entry": "fib", "args": [12], "deterministic": True}

_WRITE: Final = "delivery.placement.Placement.write:write_all"
_RENAME: Final = "delivery.placement.Placement._rename:replace"

#: Calls of a delivery of result.json, result.txt, the receipt and the marker, in this order.
_RECEIPT, _MARKER = 3, 4


def _daemon(base: Path) -> tuple[Daemon, PublicKey]:
    """Return a daemon, not started, and its public key."""
    key = new_key(base / "keys" / "key.pem", "secp256k1")
    daemon = Daemon(base, WASMDROP_SIGNING_KEY=str(key), WASMDROP_MODULE_WAIT_SEC="60")
    return daemon, PrivateKey.from_pem(key.read_bytes()).public


def _receipt_of_another_run(daemon: Daemon) -> bytes:
    """Return the receipt of the same input in a new slot."""
    daemon.submit("input-again.json", _JOB)
    daemon.result("input-again.json")
    return daemon.result_path("input-again.json", ".receipt").read_bytes()


@pytest.mark.parametrize(
    ("point", "turn", "moment"),
    [
        (_WRITE, _RECEIPT, "halfway"),
        (_RENAME, _RECEIPT, "after"),
        (_RENAME, _MARKER, "after"),
    ],
    ids=["written", "renamed", "marked"],
)
def test_receipt_after_a_kill_during_its_delivery_has_the_same_bytes(
    tmp_path: Path, point: str, turn: int, moment: str
) -> None:
    """The job runs again unless its marker is in place."""
    daemon, key = _daemon(tmp_path)
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    place = next(each for each in find_points() if str(each) == point)
    daemon.prefix = (sys.executable, dying.__file__, kill_plan(place, moment, turn))
    daemon.launch()
    drop(daemon.shared / "input.json", _JOB)
    assert daemon.process is not None
    assert daemon.process.wait(DEADLINE_SECONDS) == -signal.SIGKILL, daemon.log_text()
    path = daemon.result_path("input.json", ".receipt")
    left = path.read_bytes() if path.exists() else None
    assert (left is None, daemon.marker("input.json") is None) == (
        point == _WRITE,
        turn != _MARKER,
    )
    daemon.prefix = ()
    with daemon.running():
        daemon.wait_for("input.json", json.dumps(_JOB).encode())
        daemon.result("input.json")
        receipt = path.read_bytes()
        assert left in {None, receipt}
        assert receipt == _receipt_of_another_run(daemon)
    assert signed_by(parse_envelope(receipt), [key]) == (key,)


def test_receipt_that_waited_for_its_slot_is_delivered_by_the_next_daemon(tmp_path: Path) -> None:
    """With the other results, as the first daemon signed it."""
    daemon, key = _daemon(tmp_path)
    # The job begins before it is noticed that its input is gone.
    daemon.environment["WASMDROP_SETTLE_SEC"] = "3600"
    daemon.start()
    slot, aside = daemon.shared / "slot", daemon.shared.with_name("aside")
    drop(slot / "input.json", _JOB)
    wait_for_state(daemon, "slot/input.json", "waiting")
    slot.rename(aside)
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    daemon.until_logged("delivery-postponed")
    daemon.kill()
    aside.rename(slot)
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("slot/input.json"), "the delivery")
        assert marker["attempt"] == 1
        daemon.result("slot/input.json")
        receipt = (slot / "result.receipt").read_bytes()
        assert receipt == _receipt_of_another_run(daemon)
    assert signed_by(parse_envelope(receipt), [key]) == (key,)
