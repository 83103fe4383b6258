"""``wasmdrop doctor``: check whether this host and its mounts are suitable."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.text import Text

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_flags, given_flags
from wasmdrop.cli.wide_table import print_table
from wasmdrop.protocol.text import one_line
from wasmdrop.service import log
from wasmdrop.service.doctor import examine
from wasmdrop.service.doctor.finding import Finding, Severity, worst

_STYLES: Final = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings."""
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the findings; return 1 if there are problems, else 0."""
    loaded = settings.load(os.environ, given_flags(options))
    log.configure(loaded.settings.log, "critical")  # the findings report what goes wrong
    findings = [_printable(finding) for finding in asyncio.run(examine(loaded.settings))]
    status = worst(findings)
    if options.as_json:
        report = {"status": status, "checks": findings}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    else:
        _print(findings)
    return 1 if status is Severity.PROBLEM else 0


def _print(findings: Sequence[Finding]) -> None:
    rows = []
    for finding in findings:
        found = Text(finding.found)
        if finding.advice:
            found.append(f" → {finding.advice}", style="italic")
        status = Text(finding.status, style=_STYLES[finding.status])
        rows.append((status, finding.area, finding.check, found))
    print_table(("status", "area", "check", "found"), rows)
    counts = {status: sum(finding.status is status for finding in findings) for status in Severity}
    problems = _count(counts[Severity.PROBLEM], "problem")
    warnings = _count(counts[Severity.WARNING], "warning")
    summary = f"\n{len(findings)} checks: {problems}, {warnings}\n"
    sys.stdout.write(summary)


def _printable(finding: Finding) -> Finding:
    """Return the finding in text that is safe for a terminal: paths may have any bytes."""
    check, found, advice = map(one_line, (finding.check, finding.found, finding.advice))
    return msgspec.structs.replace(finding, check=check, found=found, advice=advice)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
