"""Pythons and C libraries that are newer than those of the other tests, in other Debians.

The locked packages are installed, and jobs of each kind run confined: a newer interpreter or C
library may make other system calls.
"""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import environment
from tests.support.deploy.base import developers_packages, overlaid, python_root
from tests.support.require import require_tools

_TESTS: Final = (
    "tests/integration/test_guests.py",  # jobs of each kind, in both guests
    "tests/integration/test_process_titles.py",
    "tests/security/test_escapes.py",
    "tests/unit/fetch",  # uses private parts of http.client
    "tests/unit/sandbox/confinement",
    "tests/unit/web",
)

#: What these tests need of the developers' tools, all of which `ci.yml` installs.
_TOOLS: Final = ("cryptography", "hypothesis", "jsonschema", "pytest")

_COMMANDS: Final = f"""
mount --types proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount --bind "$2" "$1/wheels"
exec chroot "$1" sh -ec '
    cd /src
    make setup
    .venv/bin/python -m pip install --quiet {" ".join(_TOOLS)}
    .venv/bin/python -c "import sys; print(sys.version_info[:2])"
    .venv/bin/python -m pytest -q -k "not without_confinement" {" ".join(_TESTS)}
'
"""


@pytest.mark.parametrize(("suite", "python"), [("trixie", "3.13"), ("forky", "3.14")])
def test_jobs_run_confined_with_the_python_of(suite: str, python: str, tmp_path: Path) -> None:
    """From an installation without a network to results."""
    lower, packages = python_root(suite), developers_packages(python)
    require_tools("mount", "unshare", "chroot")
    with overlaid(lower, tmp_path) as root:
        (root / "wheels").mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", _COMMANDS, "sh", str(root), str(packages)],
            env=environment(
                PATH="/usr/sbin:/usr/bin:/sbin:/bin",
                CI="true",
                PIP_NO_INDEX="1",
                PIP_FIND_LINKS="/wheels",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert str(tuple(map(int, python.split(".")))) in done.stdout
