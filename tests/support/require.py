"""Requirements of tests: without them a test is skipped, and fails in continuous integration.

.ci/run sets ``CI`` and installs every tool that a test requires, so that no test can stay out of
continuous integration unnoticed. Nothing else in the tests skips.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

import pytest

from wasmdrop.sandbox.confinement.confine import Confinement
from wasmdrop.sandbox.native_program import find_native_program

_WITHOUT_CONFINEMENT: Final = (
    "tests/security/test_escapes.py::test_attempt_without_confinement_succeeds[{}]"
)

#: Tests that may be skipped in continuous integration too, with the reason.
NOT_IN_CI: Final[Mapping[str, str]] = {
    _WITHOUT_CONFINEMENT.format(attempt): reason
    for attempt, reason in {
        "calling_by_the_x32_abi": "kernels are built without the x32 ABI",
        "loading_a_module": "the kernel may have no loadable modules",
        "loading_a_module_from_a_file": "the kernel may have no loadable modules",
        "reading_the_environment_of_init": "root in a container may not trace process 1",
        "reading_the_memory_of_the_machine": "containers have no /dev/mem",
        "talking_to_devices": "the kernel may lack I/O port permissions",
        "talking_to_one_device": "the kernel may lack I/O port permissions",
        "using_the_kernels_ciphers": "the kernel may lack AF_ALG sockets",
    }.items()
} | {
    "tests/deploy/test_kubernetes_components.py::test_kustomize_builds_each_component": (
        "no package of Debian has kubectl"
    ),
}


def require(condition: object, need: str) -> None:
    """Skip the current test unless ``condition`` is true; in continuous integration, fail it."""
    if not condition:
        lack(need)


def lack(need: str) -> NoReturn:
    """Skip the current test because of what it lacks; in continuous integration, fail it."""
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    if os.environ.get("CI") and test not in NOT_IN_CI:
        pytest.fail(f"needs {need}, which continuous integration must have")
    pytest.skip(f"needs {need}")


def require_tools(*names: str) -> None:
    """Require commands on PATH."""
    missing = [name for name in names if shutil.which(name) is None]
    require(not missing, ", ".join(missing))


def require_chromium() -> str:
    """Require a browser; return its program. Playwright would download one of its own."""
    program = shutil.which("chromium")
    require(program, "chromium")
    assert program is not None
    return program


def require_native_program() -> Path:
    """Require the native program, which the installation builds if there is a C compiler."""
    program = find_native_program()
    require(program is not None, "the native program: a C compiler, and make setup")
    assert program is not None
    return program


def require_root() -> None:
    """Require root, who may mount and change owners."""
    require(os.geteuid() == 0, "root")


def require_users() -> None:
    """Require the right and the command to run processes as other users."""
    require_root()
    require_tools("setpriv")


def require_fuse() -> None:
    """Require a file system whose server a test can stop."""
    require_root()
    require_tools("bindfs")
    require(Path("/dev/fuse").exists(), "/dev/fuse")


def require_network_namespaces() -> None:
    """Require the right and the commands to make machines on a network of their own."""
    require_root()
    require_tools("ip", "bridge", "nsenter")


def require_confinement() -> None:
    """Require every feature of the kernel that confines a job."""
    missing = Confinement().missing
    require(not missing, f"a kernel that can confine: {'; '.join(missing)}")
