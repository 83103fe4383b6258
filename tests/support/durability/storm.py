"""The storm: kills at random moments while producers and consumers are active, and then a check.

``python -m tests.support.durability.storm --kills 200 --jobs 50000 --seed 1``, or ``make torture``.
``--controls`` switches on cancellation, retention, hooks, limits, reloads and the page, too.
``--full-disks`` has another process fill the disks and make room again, at random; needs root.
Prints the numbers of kills, jobs and faults; the exit status is 1 if there were faults.

Mostly the daemon is killed, sometimes its fork server or a delivery worker before it, sometimes the
daemon is stopped. Meanwhile inputs are dropped, dropped again, removed and renamed, modules are
replaced, and a consumer checks every slot: a marker must be true at any moment. The seed determines
the random choices; the moment that a kill hits depends on the machine.
"""

# ruff: noqa: T201 - a command that prints

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.daemon import wait_until
from tests.support.durability.checker import Finding, Kind, check_slot_now
from tests.support.durability.controls import Controls
from tests.support.durability.full_disks import FullDisks
from tests.support.durability.lives import Lives
from tests.support.guests import runs_in_native, use_guest

_SLOTS: Final = 60
#: Directories below the shared one, each with a module of its own.
_FAMILIES: Final = 4
#: Drops ahead of the jobs: more of them would mostly replace each other unread.
_AHEAD: Final = 120
_CODES: Final = ("ok",) * 12 + ("trap", "invalid-input")
#: Turns of the module's loop. Most jobs are short, some are interrupted by a kill.
_TURNS: Final = (1, 1, 1, 1, 1, 1_000_000, 20_000_000)
#: Sizes of paddings, so that some writes take longer than others.
_PADDINGS: Final = (0, 0, 0, 0, 30_000)


@dataclass
class Report:
    """The result of a storm."""

    seed: int
    kills: int = 0
    server_kills: int = 0
    delivery_kills: int = 0
    stops: int = 0
    reloads: int = 0
    refused_reloads: int = 0
    fillings: int = 0
    drops: int = 0
    jobs: int = 0
    looks: int = 0
    seconds: float = 0.0
    native_modules: int = 0
    """Modules whose jobs all ran in the native program, if only it was to be used."""
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        found = Counter(finding.kind for finding in self.findings)
        damage = "  ".join(f"{kind} {found[kind]}" for kind in Kind)
        return (
            f"seed {self.seed}: kills {self.kills}  kills of the fork server"
            f" {self.server_kills}  of delivery {self.delivery_kills}  stops {self.stops}"
            f"  reloads {self.reloads}, refused {self.refused_reloads}"
            f"  full disks {self.fillings}"
            f"  drops {self.drops}  jobs {self.jobs}"
            f"  looks at markers {self.looks}  {self.seconds:.0f} s\n{damage}"
        )


def storm(
    base: Path,
    seed: int,
    kills: int,
    jobs: int,
    guest: str = "auto",
    *,
    has_controls: bool = False,
    has_full_disks: bool = False,
) -> Report:
    """Run at least this many kills and jobs in the directory ``base``."""
    report = Report(seed)
    started = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    with contextlib.ExitStack() as running:
        disks = FullDisks(base, dice) if has_full_disks else None
        if disks is not None:
            running.enter_context(disks.running())
        one = _Storm(base, dice, report, guest, disks, has_controls=has_controls)
        if one.controls is not None:
            running.enter_context(one.controls.running())
        one.run(kills, jobs)
    report.seconds = time.monotonic() - started
    return report


class _Storm:
    def __init__(
        self,
        base: Path,
        dice: random.Random,
        report: Report,
        guest: str,
        disks: FullDisks | None,
        *,
        has_controls: bool,
    ) -> None:
        self._dice = dice
        self._report = report
        self._disks = disks
        # A short drain leaves work to the next daemon.
        self._lives = Lives(
            base,
            WASMDROP_DRAIN_SEC="0.2",
            WASMDROP_SETTLE_SEC="0.05",
            # A long job may be interrupted by many kills, which use up its attempts.
            WASMDROP_ATTEMPTS="100",
        )
        if disks is not None:
            self._lives.environment["WASMDROP_RESERVE_MB"] = "1"
        self._record = use_guest(guest, self._lives)
        self._names = [f"input-{number}.json" for number in range(_SLOTS)]
        self._own = [f"family{number}/input.json" for number in range(_FAMILIES)]
        self._names += [f"family{number}/input-more.json" for number in range(_FAMILIES)]
        self._ended = threading.Event()
        self.controls = Controls(self._lives, dice) if has_controls else None

    def run(self, kills: int, jobs: int) -> None:
        lives, report = self._lives, self._report
        with self._room():
            lives.producer.module(lives.wasm / "m.wasm")
            lives.producer.module(lives.wasm / "module.wasm", "input.json")
            for own in self._own:
                lives.producer.module(lives.shared / Path(own).parent / "module.wasm", own)
        self._start()
        consumer = threading.Thread(target=self._consume, name="consumer")
        consumer.start()
        try:
            while lives.kills < kills or report.jobs < jobs:
                share = max(1, (jobs - report.jobs) // max(1, kills - lives.kills))
                self._live(self._dice.uniform(0, 2) * share)
                self._die()
                self._look_everywhere()
                if self.controls:
                    self.controls.reloads.write()
                self._start()
                report.jobs = lives.job_count()
            with self._room():
                report.findings += (self.controls or lives).verdict()
        finally:
            self._ended.set()
            consumer.join()
            if not lives.has_died():
                lives.kill()
        report.native_modules = sum(runs_in_native(self._record).values())
        report.jobs = lives.job_count()
        report.kills = lives.kills
        report.fillings = self._disks.fillings if self._disks else 0
        if self.controls:
            report.reloads = self.controls.reloads.count("settings-reloaded")
            report.refused_reloads = self.controls.reloads.count("reload-refused")

    def _room(self) -> contextlib.AbstractContextManager[None]:
        """Keep the disks from being full for a block."""
        return self._disks.room() if self._disks else contextlib.nullcontext()

    def _start(self) -> None:
        if self._disks:
            self._lives.launch()  # the start may have to wait for room
        else:
            self._lives.start()

    def _live(self, jobs: float) -> None:
        """Drop until about this many more jobs were accepted."""
        lives, dice = self._lives, self._dice
        # The daemon has moved the input, or the disk is full.
        usual = OSError if self._disks else FileNotFoundError
        goal = lives.job_count() + jobs
        while (done := lives.job_count()) < goal:
            assert not lives.has_died(), f"the daemon ended by itself: {lives.log_text()[-4000:]}"
            for _ in range(min(_AHEAD, int(goal - done) + 1)):
                with contextlib.suppress(usual):
                    self._act()
            time.sleep(dice.uniform(0, 0.3))

    def _act(self) -> None:
        """Do one random action of a producer."""
        dice, producer = self._dice, self._lives.producer
        wasm, shared = self._lives.wasm, self._lives.shared
        present = [name for name in self._names if self._is_present(name)]
        self._report.drops += 1
        if self.controls and present and dice.random() < 0.06:
            self.controls.cancel(present)
        # Before its handler is there the signal ends the process.
        if self.controls and dice.random() < 0.04 and self._lives.events("ready"):
            self.controls.reloads.reload()
        kind = dice.random()
        if kind < 0.02:
            producer.module(wasm / "m.wasm")
        elif kind < 0.025:
            producer.module(wasm / "module.wasm", "input.json")
        elif kind < 0.03:
            own = dice.choice(self._own)
            more = own.replace("input", "input-more")
            producer.module(shared / Path(own).parent / "module.wasm", own, more)
        elif present and kind < 0.08:
            producer.remove(dice.choice(present))
        elif present and kind < 0.12:
            producer.rename(dice.choice(present), dice.choice(self._names))
        elif present and kind < 0.2:
            producer.drop_again(dice.choice(present))
        elif kind < 0.25:
            name = dice.choice(["input.json", *self._own])
            producer.drop(name, producer.version(module=None, turns=dice.choice(_TURNS)))
        else:
            version = producer.version(
                code=dice.choice(_CODES),
                turns=dice.choice(_TURNS),
                padding=dice.choice(_PADDINGS),
            )
            producer.drop(dice.choice(self._names), version)

    def _is_present(self, name: str) -> bool:
        record = self._lives.producer.slots.get(name)
        return record is not None and record.is_present

    def _die(self) -> None:
        lives, dice = self._lives, self._dice
        kind = dice.random()
        if kind < 0.2:
            self._kill_one_of_its_processes(is_server=kind < 0.1)
            time.sleep(dice.uniform(0, 0.2))
        if kind > 0.95:
            with self._room():
                wait_until(lambda: lives.events("ready"), "the daemon to be ready")
            assert lives.stop() == 0, lives.log_text()[-4000:]
            with self._room():
                lives.witness()
            self._report.stops += 1
            return
        assert lives.process is not None
        lives.process.kill()
        with self._room():
            lives.kill()

    def _kill_one_of_its_processes(self, *, is_server: bool) -> None:
        lives, report = self._lives, self._report
        for child in (lives.fork_servers() if is_server else lives.delivery_workers())[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            report.server_kills += is_server
            report.delivery_kills += not is_server

    def _look_everywhere(self) -> None:
        for name in list(self._lives.producer.slots):
            found = check_slot_now(self._lives.shared, name)
            self._report.looks += 1
            if found is not None:
                self._report.findings.append(found)

    def _consume(self) -> None:
        """Check the markers all the time, as consumers do."""
        while not self._ended.wait(0.1):
            self._look_everywhere()


def main() -> int:
    """Run the storm of the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="kill the daemon again and again, then check")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--guest", default="auto")
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--full-disks", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="wasmdrop-storm-"))
    report = storm(
        *(directory, options.seed, options.kills, options.jobs, options.guest),
        has_controls=options.controls,
        has_full_disks=options.full_disks,
    )
    print(report)
    if report.findings:
        print(f"directories kept for inspection: {directory}")
    else:
        shutil.rmtree(directory)
    for finding in report.findings[:50]:
        print(f"{finding.kind}: {finding.where}: {finding.what}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
