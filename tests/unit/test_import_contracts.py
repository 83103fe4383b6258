"""Import contracts: each is broken on purpose in a copy of the package, and is reported."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import wasmdrop

ROOT: Final = Path(__file__).resolve().parents[2]
ONE_WAY: Final = "Imports point one way"
SIDES: Final = "The host's and the guest's side of the sandbox never meet"
WASMTIME: Final = "Only the guest's side of the sandbox reaches wasmtime"
NETWORK: Final = "Only the command fetch, the fleet and webhooks reach the network"
NATS: Final = "Only the fleet uses NATS"
GUEST: Final = "The guest's side knows nothing of the daemon"


#: Imports to add to modules, each with the contract that it breaks and the chain that is reported.
FORBIDDEN: Final = {
    "wasmtime": (
        {"sandbox/host/executor.py": "import wasmtime"},
        WASMTIME,
        "wasmdrop.sandbox.host.executor -> wasmtime",
    ),
    "wasmtime-indirectly": (
        {"intake/layout.py": "import wasmdrop.system.first", "system/first.py": "import wasmtime"},
        WASMTIME,
        "wasmdrop.system.first -> wasmtime",
    ),
    "guest-from-host": (
        {"sandbox/host/executor.py": "import wasmdrop.sandbox.guest.engine"},
        SIDES,
        "wasmdrop.sandbox.host.executor -> wasmdrop.sandbox.guest.engine",
    ),
    "marker-from-guest": (
        {"sandbox/guest/engine.py": "import wasmdrop.protocol.marker"},
        GUEST,
        "wasmdrop.sandbox.guest.engine -> wasmdrop.protocol.marker",
    ),
    "state-from-guest-indirectly": (
        {
            "sandbox/guest/engine.py": "import wasmdrop.system.second",
            "system/second.py": "import wasmdrop.system.private_files",
        },
        GUEST,
        "wasmdrop.system.second -> wasmdrop.system.private_files",
    ),
    "fetch-from-daemon": (
        {"cli/serve.py": "import wasmdrop.fetch.download"},
        NETWORK,
        "wasmdrop.cli.serve -> wasmdrop.fetch.download",
    ),
    "http-from-daemon-indirectly": (
        {"cli/serve.py": "import wasmdrop.system.third", "system/third.py": "import http.client"},
        NETWORK,
        "wasmdrop.system.third -> http",
    ),
    "http-from-command-hook": (
        {"hooks/command.py": "import wasmdrop.web.client"},
        NETWORK,
        "wasmdrop.hooks.command -> wasmdrop.web.client",
    ),
    "nats-from-daemon": (
        {"service/inbox.py": "import nats"},
        NATS,
        "wasmdrop.service.inbox -> nats",
    ),
    "upwards": (
        {"intake/layout.py": "import wasmdrop.jobs.job"},
        ONE_WAY,
        "wasmdrop.intake.layout -> wasmdrop.jobs.job",
    ),
    "sideways": (
        {"intake/layout.py": "import wasmdrop.sandbox.wire"},
        ONE_WAY,
        "wasmdrop.intake.layout -> wasmdrop.sandbox.wire",
    ),
}


def checked(base: Path, added: list[dict[str, str]]) -> str:
    """Return the report on a copy of the package with lines added to its modules."""
    package = base / "wasmdrop"
    shutil.copytree(
        Path(wasmdrop.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", base)
    for name, line in (item for lines in added for item in lines.items()):
        path = package / name
        text = path.read_text(encoding="utf-8") if path.exists() else '"""New."""\n'
        path.write_text(f"{text}{line}\n", encoding="utf-8")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=base,
        env={"PYTHONPATH": str(base)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout + done.stderr
    return done.stdout


def reported(report: str, contract: str) -> str:
    """Return what a report says of one broken contract."""
    assert f"{contract} BROKEN" in report
    details = re.split(r"\n(.+)\n-{4,}\n", report)
    return dict(zip(details[1::2], details[2::2], strict=True))[contract]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the report on all forbidden imports at once; `make lint` shows that there are none."""
    return checked(
        tmp_path_factory.mktemp("contracts"), [lines for lines, *_ in FORBIDDEN.values()]
    )


@pytest.mark.parametrize("name", FORBIDDEN)
def test_import_contract_that_is_broken_is_reported_with_its_chain(report: str, name: str) -> None:
    """An import that a contract forbids breaks it, directly or through another module."""
    _lines, contract, chain = FORBIDDEN[name]
    assert chain in reported(report, contract)


def test_import_contracts_report_a_module_without_a_layer(tmp_path: Path) -> None:
    """Every part of the package has a place among the layers."""
    report = checked(tmp_path, [{"added.py": ""}])
    assert "added" in reported(report, ONE_WAY)
