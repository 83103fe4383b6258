"""Ways out of the sandbox, for code that has already broken out of wasmtime.

Each attempt runs natively in a process that was confined as the forking server does it, and in one
that was forked and confined as a template does it, and must fail, judged by what it changed in the
world around it and by what it says it gained. Then it is made again without the confinement, and
must succeed: else it would show nothing. What gets through in a template itself is known.
"""

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.require import require
from tests.support.security import harness
from tests.support.security.syscalls import ATTEMPTS

ROOT = Path(harness.__file__).parents[3]

#: A round of attempts takes ten on an idle machine.
HARNESS_SECONDS = 900

#: What a template can do that its children can't: fork, with what that takes. It may lower its own
#: limits, and has no time of its own; the daemon looks at what it uses.
BY_A_TEMPLATE = {
    "computing_for_ever",
    "forking_by_clone",
    "holding_the_parent",
    "making_a_pair_of_sockets",
    "passing_a_descriptor_to_the_parent",
    "raising_the_own_limits",
}


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what all rounds of attempts told; made once, however many workers share the tests."""
    shared = tmp_path_factory.getbasetemp().parent / "escapes.json"
    with shared.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        if not text:
            text = json.dumps(_rounds())
            file.write(text)
    found: dict[str, Any] = json.loads(text)
    return found


def _rounds() -> dict[str, Any]:
    # Isolated and with an empty environment, as the pool starts the forking server.
    program = (
        f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; "
        "from tests.support.security.harness import main; main(sys.argv[1], [])"
    )
    rounds = {
        mode: subprocess.Popen(
            [sys.executable, "-I", "-c", program, mode], env={}, stdout=subprocess.PIPE
        )
        for mode in ("confined", "invoked", "template", "free")
    }
    told = {}
    try:
        for mode, process in rounds.items():
            output, _ = process.communicate(timeout=HARNESS_SECONDS)
            assert process.returncode == 0, f"the round {mode} ended with {process.returncode}"
            told[mode] = json.loads(output)
    finally:
        for process in rounds.values():
            process.kill()
    return told


def _gained(result: dict[str, Any]) -> list[str]:
    """Return what an attempt achieved."""
    said = [result["said"]] if result["said"].startswith(("escaped:", "fault:")) else []
    return said + [f"changed: {what}" for what in result["changed"]]


def require_all(missing: list[str]) -> None:
    """Require the features of the kernel that a round of attempts found missing."""
    require(not missing, f"a kernel that can confine: {'; '.join(missing)}")


@pytest.mark.parametrize("mode", ["confined", "invoked"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_gains_nothing_in_the_sandbox(
    told: dict[str, Any], name: str, mode: str
) -> None:
    """Neither by its own account nor by what it changed, whichever way its process came."""
    confined = told[mode]
    require_all(confined["missing"])
    assert _gained(confined["results"][name]) == []


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_template_gains_no_more_than_to_fork(told: dict[str, Any], name: str) -> None:
    """It changes nothing in the world either."""
    results = told["template"]
    require_all(results["missing"])
    assert results["results"][name]["changed"] == []
    assert bool(_gained(results["results"][name])) is (name in BY_A_TEMPLATE)


@pytest.mark.parametrize("name", [one.name for one in ATTEMPTS.values() if not one.never_free])
def test_it_is_the_confinement_that_stops_it(told: dict[str, Any], name: str) -> None:
    """The same attempt of the same user succeeds without it."""
    result = told["free"]["results"][name]
    needs = ATTEMPTS[name].needs
    require(not needs or _gained(result), f"{needs}; here the attempt {result['said']}")
    assert _gained(result) != []
    assert not result["said"].startswith("fault:")


def test_an_attempt_that_the_sandbox_forbids_outright_is_killed(told: dict[str, Any]) -> None:
    """By the signal that the daemon reports as a violation."""
    confined = told["confined"]
    require_all(confined["missing"])
    assert confined["results"]["connecting_by_ipv4"]["said"] == "status -31"
