"""Import contracts: each is broken on purpose in a copy of the package, and is reported."""

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
GUEST: Final = "The guest's side knows nothing of the daemon"


def broken_contracts(base: Path, added: dict[str, str]) -> set[str]:
    """Return the contracts that a copy of the package breaks with lines added to its modules."""
    package = base / "wasmdrop"
    shutil.copytree(
        Path(wasmdrop.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", base)
    for name, line in added.items():
        path = package / name
        text = path.read_text(encoding="utf-8") if path.exists() else '"""New."""\n'
        path.write_text(f"{text}{line}\n", encoding="utf-8")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    done = subprocess.run(
        command,
        cwd=base,
        env={"PYTHONPATH": str(base)},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = {
        line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if " BROKEN" in line
    }
    assert (done.returncode != 0) == bool(broken), done.stdout + done.stderr
    return broken


@pytest.mark.parametrize(
    ("added", "broken"),
    [
        ({}, set()),
        ({"sandbox/host/executor.py": "import wasmtime"}, {WASMTIME}),
        (
            {
                "sandbox/host/executor.py": "import wasmdrop.system.added",
                "system/added.py": "import wasmtime",
            },
            {WASMTIME},
        ),
        (
            {"sandbox/host/executor.py": "import wasmdrop.sandbox.guest.engine"},
            {SIDES, WASMTIME},
        ),
        ({"sandbox/guest/engine.py": "import wasmdrop.protocol.marker"}, {GUEST}),
        (
            {
                "sandbox/guest/engine.py": "import wasmdrop.system.added",
                "system/added.py": "import wasmdrop.system.private_files",
            },
            {GUEST},
        ),
        ({"intake/layout.py": "import wasmdrop.jobs.job"}, {ONE_WAY}),
        ({"intake/layout.py": "import wasmdrop.sandbox.wire"}, {ONE_WAY}),
        ({"added.py": ""}, {ONE_WAY}),
    ],
    ids=[
        "none",
        "wasmtime",
        "wasmtime-indirectly",
        "guest-from-host",
        "marker-from-guest",
        "state-from-guest-indirectly",
        "upwards",
        "sideways",
        "module-without-a-layer",
    ],
)
def test_import_contracts_deliberate_import_is_reported(
    tmp_path: Path, added: dict[str, str], broken: set[str]
) -> None:
    """An import that a contract forbids breaks it, directly or through another module."""
    found = broken_contracts(tmp_path, added)
    assert broken <= found
    assert bool(found) == bool(broken)
