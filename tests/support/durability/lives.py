"""A daemon that is killed and restarted on the same directories, with a log for each life."""

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

_CHECK_SECONDS = 0.02
_MAX_CHECKS = 1500


class Lives(Daemon):
    """A daemon that is killed and restarted; counts the kills and checks the final state."""

    def __init__(self, base: Path, **variables: str) -> None:
        super().__init__(base, **variables)
        self.producer = Producer(self.shared, self.wasm)
        self.kills = 0
        self.deaths = 0
        self._base = base
        self._life = 0
        self._witnessed: set[str] = set()

    def launch(self) -> None:
        """Start the daemon with a new log."""
        self._life += 1
        self._log = self._base / f"log-{self._life}"
        super().launch()

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, and record the jobs that it had accepted."""
        super().kill()
        self.note_death()

    def note_death(self) -> None:
        """Record that the daemon died, and the jobs that it had accepted."""
        self.kills += 1
        self.witness()

    def begin_anew(self, producer: Producer) -> None:
        """Start over: the directories are now as after one kill."""
        self.producer = producer
        self.kills = 1
        self._witnessed.clear()

    def has_died(self) -> bool:
        """Whether the process has exited."""
        return self.process is None or self.process.poll() is not None

    def settle(self) -> None:
        """Wait until the daemon is at rest. Jobs that are open then count as lost.

        Gives up after many checks without progress, not after a time: the machine may be frozen for
        a while.
        """
        evidence = self.evidence()
        seen, checks = (-1, -1), 0
        while not is_at_rest(evidence) and checks < _MAX_CHECKS:
            time.sleep(_CHECK_SECONDS)
            now = (self.job_count(), open_count(self.state))
            checks = checks + 1 if now == seen else 0
            seen = now

    def job_count(self) -> int:
        """Return the number of accepted jobs."""
        return job_count(self.state)

    def evidence(self) -> Evidence:
        """Return the evidence for the checker."""
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
        """Wait for rest, stop the daemon, and return all faults."""
        self.settle()
        status = self.stop()
        assert status == 0, self.log_text()[-4000:]
        self.witness()
        return check(self.evidence())

    def witness(self) -> None:
        """Record the accepted jobs."""
        self._witnessed |= {row.id for row in rows_of(self.state)}
        self._witnessed |= {event["job"] for event in self.events("job-finished")}
