"""The cost of durability and of confinement: wasmdrop beside its variants without them."""

import statistics
from collections.abc import Sequence

from benchmarks.measures import Case, rate
from benchmarks.processor_time import seconds_by_kind
from benchmarks.tables import milliseconds, render

TITLE = "The cost of durability and of confinement"


def report(cases: Sequence[Case]) -> str:
    """Return the table; the ratios are those of wasmdrop as it is to the variant."""
    rows: list[list[str]] = []
    for case in cases:
        if not case.contender.is_variant:
            continue
        whole = next(one for one in cases if one.workload is case.workload)
        for one in (whole, case):
            if one is whole and any(row[:2] == _names(whole) for row in rows):
                continue
            (median, jobs, cpu), (of_whole, jobs_of_whole, cpu_of_whole) = _of(one), _of(whole)
            rows.append(
                [
                    *_names(one),
                    milliseconds(median),
                    f"{of_whole / median:.2f}",
                    f"{jobs:,.1f}",
                    f"{jobs_of_whole / jobs:.2f}",
                    milliseconds(cpu),
                    f"{cpu_of_whole / cpu:.2f}" if cpu else "-",
                ]
            )
    ratio = "wasmdrop / it"
    head = ["module", "who", "median ms", ratio, "burst, jobs a second", ratio]
    return render([*head, "processor ms a job", ratio], rows)


def _names(case: Case) -> list[str]:
    return [case.workload.name, case.contender.name]


def _of(case: Case) -> tuple[float, float, float]:
    """Return median latency, jobs per second of a burst, and processor seconds of a job."""
    cpu = sum(seconds_by_kind(case).values())
    return statistics.median(case.latencies), rate(case.bursts), cpu
