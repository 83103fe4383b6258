"""Power cuts at any moment of a real run: unsynced changes may be lost.

One run is traced, SQLite's calls included. For each moment the disk is restored to states that it
may have after a power cut: without any unsynced change; with all names but no unsynced bytes; with
everything; and with random parts. Before a daemon starts on it, no marker may be untrue. Afterwards
nothing may be lost, torn or left behind, and no printed result line may be printed again.

Every state is checked. A daemon is started on some of them, or on each with
``WASMDROP_TORTURE=long``.
"""

import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import DEADLINE_SECONDS
from tests.support.durability.checker import check_slot_now
from tests.support.durability.disk import Change, Disk, Given, Tree
from tests.support.durability.lives import Lives
from tests.support.durability.producer import Producer, SlotRecord, Version
from tests.support.durability.trace import command, read_trace
from tests.support.require import require_tools

_SEED: Final = int(os.environ.get("WASMDROP_TORTURE_SEED", "1"))
_IS_LONG: Final = os.environ.get("WASMDROP_TORTURE") == "long"
#: States of each kind on which the short form starts a daemon.
_SAMPLE: Final = 8

_Chance = Callable[[int], Callable[[Change], bool]]


def _random_parts(moment: int) -> Callable[[Change], bool]:
    dice = random.Random(f"{_SEED} {moment}")  # noqa: S311 - a test's dice
    lucky: dict[Change, bool] = {}
    return lambda change: lucky.setdefault(change, dice.random() < 0.5)


_CHANCES: Final[dict[str, _Chance]] = {
    "nothing": lambda _moment: lambda _change: False,
    "names": lambda _moment: Disk.is_name,
    "everything": lambda _moment: lambda _change: True,
    "random": _random_parts,
}


class _Run:
    """One traced run, and the daemon for the runs after the cuts."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.disk = Disk(base)
        self._drops: list[tuple[str, Version]] = []
        self.lives = lives = Lives(base, WASMDROP_SETTLE_SEC="0.02")
        lives.producer.module(lives.wasm / "m.wasm")
        (base / "kept").mkdir()
        lives.prefix = command(base / "trace")
        lives.start()
        self._work()
        self._stop()
        lives.prefix = ()
        self.addends = lives.producer.addends
        calls = list(read_trace(base / "trace"))
        out = str(base / "out")
        writes = [call for call in calls if call.name == "write" and call.path(0) == out]
        self._lines = [(call.ended, call.data(1)) for call in writes]
        # Without all lines the replay would prove nothing.
        assert len(self._lines) == len(self._drops), (len(calls), self._lines)
        self._given = sorted(
            (
                Given(self._when(number), f"shared/{name}", base / "kept" / str(number))
                for number, (name, _version) in enumerate(self._drops)
            ),
            key=lambda given: given.at,
        )
        self.disk.replay(calls, self._given)

    def _drop(self, name: str, version: Version) -> None:
        self.lives.producer.drop(name, version)
        os.link(self.lives.shared / name, self.base / "kept" / str(len(self._drops)))
        self._drops.append((name, version))

    def _work(self) -> None:
        producer = self.lives.producer
        self._drop("input-a.json", producer.version())
        self.lives.settle()
        for name in ("input-a.json", "input-b.json", "input-c.json"):
            self._drop(name, producer.version())
        self.lives.settle()
        for code in ("trap", "invalid-input"):
            self._drop("input-b.json", producer.version(code=code))
            self.lives.settle()
        self._drop("input-c.json", producer.version(padding=10_000))
        self.lives.settle()

    def _stop(self) -> None:
        tracer = self.lives.process
        assert tracer is not None
        children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert tracer.wait(DEADLINE_SECONDS) == 0, self.lives.log_text()

    def _when(self, number: int) -> int:
        """Return the first position in the trace at which a drop may have happened.

        Each drop waited for the result line of the previous one in its slot. An earlier position
        than the real one makes no difference, because the daemon had not seen the drop yet.
        """
        name = self._drops[number][0]
        before = [version for its, version in self._drops[:number] if its == name]
        if not before:
            return -1
        last = before[-1]
        mark = b"invalid-input" if last.code == "invalid-input" else b"[%d," % last.number
        return next(at for at, line in self._lines if mark in line)

    def look(self, moment: int, tree: Tree) -> None:
        """Cut the power; check that no marker is untrue."""
        self.disk.lay(tree)
        for name in {name for name, _version in self._drops}:
            assert check_slot_now(self.lives.shared, name) is None, f"cut at {moment}"

    def cut(self, moment: int, tree: Tree) -> None:
        """Cut the power, start a daemon, and check."""
        lives = self.lives
        self.disk.lay(tree)
        printed = b"".join(data for at, data in self._lines if at < moment)
        (self.base / "out").write_bytes(printed)
        producer = Producer(lives.shared, lives.wasm)
        producer.addends = self.addends
        for number, (name, version) in enumerate(self._drops):
            if self._when(number) < moment:
                record = producer.slots.setdefault(name, SlotRecord(is_present=True))
                record.versions.append(version)
        lives.begin_anew(producer)
        lives.start()
        assert lives.verdict() == [], f"cut at {moment}: {lives.log_text()[-3000:]}"


def _fingerprint(tree: Tree) -> bytes:
    return hashlib.sha256(repr(sorted(tree.items())).encode()).digest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> _Run:
    """Return a run that was traced from start to stop."""
    require_tools("strace")
    return _Run(tmp_path_factory.mktemp("cut"))


@pytest.mark.parametrize("luck", _CHANCES)
def test_power_cut_at_any_moment_leaves_true_markers(run: _Run, luck: str) -> None:
    """Whichever unsynced changes survive."""
    states: dict[bytes, tuple[int, Tree]] = {}
    for moment in run.disk.moments():
        tree = run.disk.left_at(moment, _CHANCES[luck](moment))
        states.setdefault(_fingerprint(tree), (moment, tree))
    for moment, tree in states.values():
        run.look(moment, tree)
    chosen = list(states.values())
    if not _IS_LONG:
        dice = random.Random(_SEED)  # noqa: S311 - a test's dice
        chosen = dice.sample(chosen, min(_SAMPLE, len(chosen)))
    for moment, tree in chosen:
        run.cut(moment, tree)
    print(f"{luck}: {len(chosen)} of {len(states)} disks")  # noqa: T201 - what the long form shows
