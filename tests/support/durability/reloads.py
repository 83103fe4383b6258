"""Reloads in a storm: the daemon's configuration file is replaced, and SIGHUP sent.

Some files are cut off or have a wrong value; the daemon must refuse them whole. The limits of each
good file have a number of their own, so that a job's limits identify the file that it ran with.
"""

import itertools
import json
import random
import signal
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from tests.support.durability.checker import Finding, Kind
from tests.support.durability.lives import Lives
from wasmdrop.protocol.limits import Limits

#: Lines that make a file wrong.
_WRONG: Final = ("atempts = 3", "attempts = 0", 'watch = "perhaps"', "attempts = 70\nattempts = 71")


class Reloads:
    """Writes the configuration file of a daemon, and has it reloaded."""

    def __init__(self, lives: Lives, dice: random.Random) -> None:
        self._lives = lives
        self._dice = dice
        self._path = lives.shared.parent / "config.toml"
        self._numbers = itertools.count(1)
        self._good: list[Limits] = []
        lives.environment.pop("WASMDROP_ATTEMPTS")  # it would hide that of the file
        lives.environment["WASMDROP_CONFIG"] = str(self._path)
        self.write()

    def write(self) -> None:
        """Replace the file by a good one."""
        number = next(self._numbers)
        limits = Limits(20 + number, 256 + number, 8 + number, 64 + number)
        if self._dice.random() < 0.3:
            limits = msgspec.structs.replace(limits, fuel=10**12 + number)
        self._good.append(limits)
        self._place(self._text(limits))

    def reload(self) -> None:
        """Replace the file, mostly by a good one, and send SIGHUP."""
        kind = self._dice.random()
        number = 100_000 + next(self._numbers)
        text = self._text(Limits(number, number, number, number))
        if kind < 0.15:
            # After an equals sign, where no file is complete.
            self._place("=".join(text.split("=")[: self._dice.randint(1, text.count("="))]) + "=")
        elif kind < 0.3:
            self._place(text + self._dice.choice(_WRONG))
        elif kind < 0.35:
            self._path.unlink(missing_ok=True)
        else:
            self.write()
        assert self._lives.process is not None
        self._lives.process.send_signal(signal.SIGHUP)

    def check(self, markers: Iterable[bytes]) -> Iterator[Finding]:
        """Return the jobs whose limits are those of no good file, and reloads that failed."""
        for text in markers:
            marker = json.loads(text)
            if msgspec.convert(marker["limits"], Limits) not in self._good:
                what = f"job {marker['job']} ran with limits of no file: {marker['limits']}"
                yield Finding(Kind.WRONG, "configuration file", what)
        if self.count("reload-failed"):
            yield Finding(Kind.WRONG, "configuration file", "a reload failed, see the logs")

    def count(self, event: str) -> int:
        """Return how often the daemons logged an event."""
        logs = self._lives.shared.parent.glob("log-*")
        return sum(log.read_text().count(f'"{event}"') for log in logs)

    def _text(self, limits: Limits) -> str:
        dice = self._dice
        values = msgspec.structs.asdict(limits) | {
            "fuel": "none" if limits.fuel is None else limits.fuel,
            "attempts": dice.randint(60, 100),
            "keep_days": dice.randint(100, 1000),
            "max_queued": dice.choice((30, 1000)),
            "reserve_mb": dice.randint(0, 16),
            # These need a restart.
            "directory_running": dice.choice((1, 2)),
            "directory_queued": dice.choice((40, 200)),
        }
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())

    def _place(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.replace(self._path)
