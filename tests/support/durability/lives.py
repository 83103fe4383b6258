"""A daemon of many lives on the same directories, each with a log of its own."""

import time
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.durability.checker import (
    Evidence,
    Finding,
    check,
    is_at_rest,
    job_count,
    open_count,
    rows_of,
)
from tests.support.durability.producer import Producer

__all__ = ["Lives"]

_GLANCE_SECONDS = 0.02
_PATIENCE_GLANCES = 1500


class Lives(Daemon):
    """A daemon that is killed and started again; counts its kills and judges what is left."""

    def __init__(self, base: Path, **variables: str) -> None:
        super().__init__(base, **variables)
        self.producer = Producer(self.shared, self.wasm)
        self.kills = 0
        self.deaths = 0
        self._base = base
        self._life = 0
        self._witnessed: set[str] = set()

    def launch(self) -> None:
        """Begin a new life."""
        self._life += 1
        self._log = self._base / f"log-{self._life}"
        super().launch()

    def kill(self) -> None:
        """End this life with SIGKILL, and note which jobs it had accepted."""
        super().kill()
        self.note_death()

    def note_death(self) -> None:
        """Note that the process died, and which jobs it had accepted."""
        self.kills += 1
        self.witness()

    def begin_anew(self, producer: Producer) -> None:
        """Forget what was: the directories are now as after one death."""
        self.producer = producer
        self.kills = 1
        self._witnessed.clear()

    def has_died(self) -> bool:
        """Whether the process is gone."""
        return self.process is None or self.process.poll() is not None

    def settle(self) -> None:
        """Wait until it has come to rest; what then still is open counts as lost.

        Patience is counted in glances without any progress, not by the clock: a machine may be
        frozen for a while, and its daemons with it.
        """
        evidence = self.evidence()
        seen, glances = (-1, -1), 0
        while not is_at_rest(evidence) and glances < _PATIENCE_GLANCES:
            time.sleep(_GLANCE_SECONDS)
            now = (self.job_count(), open_count(self.state))
            glances = glances + 1 if now == seen else 0
            seen = now

    def job_count(self) -> int:
        """Return how many jobs were accepted so far."""
        return job_count(self.state)

    def evidence(self) -> Evidence:
        """Return what there is to be judged."""
        lines = self.lines() if self._out.exists() else []
        return Evidence(
            self.shared,
            self.wasm,
            self.state,
            self.producer,
            lines,
            self.kills,
            self.deaths,
            self._witnessed,
        )

    def verdict(self) -> list[Finding]:
        """Let it come to rest, stop it cleanly, and return all that is wrong."""
        self.settle()
        status = self.stop()
        assert status == 0, self.log_text()[-4000:]
        self.witness()
        return check(self.evidence())

    def witness(self) -> None:
        """Note which jobs it has accepted."""
        self._witnessed |= {row.id for row in rows_of(self.state)}
        self._witnessed |= {event["job"] for event in self.events("job-finished")}
