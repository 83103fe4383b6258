"""Processor time of a job in a burst, by the processes that take it."""

from collections.abc import Sequence

from benchmarks.measures import Case
from benchmarks.tables import milliseconds, render
from benchmarks.usage import KINDS

TITLE = "Processor time of a job in a burst, ms"


def seconds_by_kind(case: Case) -> dict[str, float]:
    """Return the processor time of one job by kind of process, over all bursts of the case."""
    jobs = sum(size for size, _seconds in case.bursts)
    return {kind: sum(one[kind] for one in case.cpu_seconds) / jobs for kind in KINDS}


def report(cases: Sequence[Case]) -> str:
    """Return the table."""
    rows = []
    for case in cases:
        seconds = seconds_by_kind(case)
        every = sum(seconds.values())
        rows.append(
            [
                case.workload.name,
                case.contender.name,
                f"{1 / every:,.0f}" if every else "-",
                milliseconds(every),
                # Scripts have no processes of some kinds.
                *(milliseconds(one or None) for one in seconds.values()),
            ]
        )
    return render(["module", "who", "jobs per processor second", "all", *KINDS], rows)
