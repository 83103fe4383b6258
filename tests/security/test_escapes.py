"""Escape attempts by code that has already broken out of wasmtime.

Each attempt runs natively in a process that is confined like a child of the fork server, and in one
that the functions of the native program confine like a child of a zygote. It must fail, judged by
its own report and by the changes around it. The same attempt without the confinement must succeed,
because otherwise its failure would prove nothing. In a zygote, a known few succeed.
"""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.require import require
from tests.support.security import harness
from tests.support.security.native_confinement import build_library
from tests.support.security.syscalls import ATTEMPTS

ROOT = Path(harness.__file__).parents[3]

#: A round of attempts takes 10 s on an idle machine.
HARNESS_SECONDS = 900

#: The attempts that succeed in a zygote: forking and what it needs. A zygote may lower its own
#: limits and has no limit of CPU time; the daemon measures what it uses.
ALLOWED_IN_ZYGOTE = {
    "computing_for_ever",
    "forking_by_clone",
    "holding_the_parent",
    "making_a_pair_of_sockets",
    "passing_a_descriptor_to_the_parent",
    "raising_the_own_limits",
}


@pytest.fixture(scope="session")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of all rounds of attempts, which test workers share."""
    base = tmp_path_factory.getbasetemp()
    # Without workers the parent directory is that of all runs, and would have an old result.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "escapes.json"
    with shared.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        if not text:
            library = build_library(tmp_path_factory.mktemp("native"))
            text = json.dumps(_rounds("" if library is None else str(library)))
            file.write(text)
    found: dict[str, Any] = json.loads(text)
    return found


def _rounds(library: str) -> dict[str, Any]:
    # Isolated and with an empty environment, like the fork server.
    program = (
        f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; "
        "from tests.support.security.harness import main; main(sys.argv[1], [], sys.argv[2])"
    )
    rounds = {
        mode: subprocess.Popen(
            [sys.executable, "-I", "-c", program, mode, library], env={}, stdout=subprocess.PIPE
        )
        for mode in harness.MODES
        if library or mode not in harness.NATIVE_MODES
    }
    results = {}
    try:
        for mode, process in rounds.items():
            output, _ = process.communicate(timeout=HARNESS_SECONDS)
            assert process.returncode == 0, f"the round {mode} ended with {process.returncode}"
            results[mode] = json.loads(output)
    finally:
        for process in rounds.values():
            process.kill()
    return results


def _gained(result: dict[str, Any]) -> list[str]:
    """Return the achievements of an attempt."""
    report = [result["report"]] if result["report"].startswith(("escaped:", "fault:")) else []
    return report + [f"changed: {what}" for what in result["changed"]]


def round_of(rounds: dict[str, Any], mode: str) -> dict[str, Any]:
    """Return the results of a round; require what it needs."""
    require(mode in rounds, "a C compiler")
    missing, results = rounds[mode]["missing"], rounds[mode]["results"]
    require(not missing, f"a kernel that can confine: {'; '.join(missing)}")
    return dict(results)


@pytest.mark.parametrize("mode", ["child", "zygote-child"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempt_in_child_fails(rounds: dict[str, Any], name: str, mode: str) -> None:
    """It reports no gain and changes nothing around it."""
    assert _gained(round_of(rounds, mode)[name]) == []


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempt_in_zygote_changes_nothing_and_gains_only_forking(
    rounds: dict[str, Any], name: str
) -> None:
    """The exceptions are listed, and each of them must succeed."""
    result = round_of(rounds, "zygote")[name]
    assert result["changed"] == []
    assert bool(_gained(result)) is (name in ALLOWED_IN_ZYGOTE)


@pytest.mark.parametrize("name", [one.name for one in ATTEMPTS.values() if not one.only_confined])
def test_attempt_without_confinement_succeeds(rounds: dict[str, Any], name: str) -> None:
    """So it is the confinement that stops it."""
    result = rounds["unconfined"]["results"][name]
    needs = ATTEMPTS[name].needs
    require(not needs or _gained(result), f"{needs}; here the attempt {result['report']}")
    assert _gained(result) != []
    assert not result["report"].startswith("fault:")


@pytest.mark.parametrize("mode", ["child", "zygote-child", "zygote"])
def test_attempt_with_unknown_system_call_is_killed(rounds: dict[str, Any], mode: str) -> None:
    """By SIGSYS, which the daemon reports as a violation."""
    assert round_of(rounds, mode)["connecting_by_ipv4"]["report"] == "status -31"
