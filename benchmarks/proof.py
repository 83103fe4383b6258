#!/usr/bin/env python3
"""Measure the cost of content ids and of receipts: deterministic jobs of several daemons in turns.

python benchmarks/proof.py [--drops N] [--burst N] [--dir DIR]
"""

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import suite, workloads
from benchmarks.client import Client, drop_all
from benchmarks.contenders import Wasmdrop
from benchmarks.measures import Case, Latency, Throughput, rate
from benchmarks.processor_time import seconds_by_kind
from benchmarks.tables import milliseconds, render
from benchmarks.usage import MAIN
from benchmarks.variants import Variant
from benchmarks.workloads import Workload
from wasmdrop.proof.keys import KeyKind, PrivateKey

_RAW_CID: Final = re.compile(r"(def raw_cid\(.*?\) -> str:\n)")
_WARM_UP: Final = 20


class WithoutContentIds(Variant):
    """wasmdrop that computes no content id of a file of one block."""

    name = "no content ids"

    def change(self) -> None:
        """Have the function that computes them return an empty text."""
        self.replace("unixfs/cid.py", _RAW_CID, r'\1    return ""\n')


class ContentIds(Wasmdrop):
    """wasmdrop without a key."""

    name = "content ids"


class Ed25519(Wasmdrop):
    """wasmdrop that writes a receipt for each job."""

    name = "receipts, ed25519"
    kind = KeyKind.ED25519

    def variables(self) -> dict[str, str]:
        """Return the directories and the key."""
        key = self.base / "key.pem"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(PrivateKey.generate(self.kind).pem())
        return super().variables() | {"WASMDROP_SIGNING_KEY": str(key)}


class P256(Ed25519):
    """The same with a key for NIST's curve."""

    name = "receipts, P-256"
    kind = KeyKind.P256


class Secp256k1(Ed25519):
    """The same with a key of Ethereum's kind."""

    name = "receipts, secp256k1"
    kind = KeyKind.SECP256K1


_ALL: Final = (WithoutContentIds, ContentIds, Ed25519, P256, Secp256k1)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the cost of content ids and receipts.")
    parser.add_argument("--drops", type=int, default=300, metavar="N", help="single drops of each")
    parser.add_argument("--burst", type=int, default=500, metavar="N", help="slots of a burst")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to be measured")
    options = parser.parse_args()
    about = suite.described(options.dir)
    latency, throughput = Latency(options.drops), Throughput(options.burst)
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base,
        _cases(Path(base).resolve()) as cases,
    ):
        for case in cases:
            drops = [case.next_input() for _ in range(_WARM_UP)]
            drop_all([(case.client, {name: content for name, content, _wanted in drops})])
        measures: tuple[Latency | Throughput, ...] = (latency, throughput)
        for measure in measures:
            for number in range(measure.rounds):
                sys.stderr.write(f"{measure.title}: {number + 1} of {measure.rounds}\n")
                for case in cases:
                    measure.step(case, number)
    sys.stdout.write(f"{about}\n\n{_report(cases)}\n")
    return 0


def _report(cases: list[Case]) -> str:
    """Return the table; ratios and differences are those to the daemon without a key."""
    base = next(case for case in cases if case.contender.name == ContentIds.name)
    rows = []
    for case in cases:
        median, of_base = (statistics.median(one.latencies) for one in (case, base))
        cpu, cpu_of_base = (seconds_by_kind(one) for one in (case, base))
        jobs, jobs_of_base = (rate(one.bursts) for one in (case, base))
        whole = sum(cpu.values())
        rows.append(
            [
                case.contender.name,
                milliseconds(median),
                f"{median / of_base:.2f}",
                f"{jobs:,.0f}",
                f"{jobs / jobs_of_base:.2f}",
                milliseconds(whole),
                f"{whole / sum(cpu_of_base.values()):.2f}",
                f"{(cpu[MAIN] - cpu_of_base[MAIN]) * 1e6:+.0f}",
            ]
        )
    head = ["daemon", "median ms", "ratio", "burst, jobs a second", "ratio"]
    return render([*head, "processor ms a job", "ratio", "of the daemon, µs"], rows, words=1)


@contextlib.contextmanager
def _cases(base: Path) -> Iterator[list[Case]]:
    fib = next(each for each in workloads.find() if each.name == "fib")
    assert isinstance(fib, Workload)  # noqa: S101 - it needs no compiler
    content = fib.content
    workload = replace(
        fib,
        name="deterministic fib",
        content=lambda serial: content(serial) | {"deterministic": True},
    )
    with contextlib.ExitStack() as stack:
        cases = []
        for kind in _ALL:
            contender = kind(base, {workload.module_name: workload.module})
            stack.callback(contender.stop)
            contender.start()
            client = Client(contender.shared)
            stack.callback(client.close)
            cases.append(Case(contender, client, workload))
        yield cases


if __name__ == "__main__":
    sys.exit(main())
