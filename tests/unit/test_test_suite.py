"""Rules that the tests themselves follow."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]

#: Ways to keep a test from running, of which only :mod:`tests.support.require` makes use.
SKIPPING: Final = {"SkipTest", "importorskip", "skip", "skipTest", "skipif", "xfail"}

#: What a shell's background jobs and nohup(1) ignore, and pass on to their children.
IGNORED_BY_STARTERS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Give the name and the syntax of every module of the tests but this one."""
    for path in sorted(TESTS.rglob("*.py")):
        if path != Path(__file__):
            yield str(path.relative_to(TESTS)), ast.parse(path.read_text())


def test_test_suite_skips_only_through_require() -> None:
    """Whatever skips by itself could stay out of continuous integration unnoticed."""
    found = [
        f"{name}:{node.lineno}"
        for name, module in modules()
        if name not in {"support/require.py", "unit/test_require.py"}
        for node in ast.walk(module)
        if (isinstance(node, ast.Attribute) and node.attr in SKIPPING)
        or (isinstance(node, ast.Name) and node.id in SKIPPING)
        or (isinstance(node, ast.Constant) and node.value == "CI")
    ]
    assert found == []


def test_test_modules_import_no_other_test_module() -> None:
    """Shared helpers live in tests/support."""
    found = [
        f"{name}: {node.module}"
        for name, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom)
        if (node.module or "").startswith("tests.")
        and (node.module or "").rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert found == []


@pytest.mark.parametrize("number", IGNORED_BY_STARTERS)
def test_signals_have_their_default_action_in_tests_and_their_children(number: int) -> None:
    """Also in the workers of xdist: see the test below."""
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    assert signal.getsignal(number) is default
    command = [sys.executable, "-c", f"import signal; print(signal.getsignal({number}))"]
    child = subprocess.run(command, capture_output=True, check=True, text=True)
    assert child.stdout == f"{default}\n" or "default_int_handler" in child.stdout


@pytest.mark.parametrize("workers", ["0", "1"])
def test_signals_ignored_by_the_starter_have_their_default_action(workers: str) -> None:
    """A shell ignores SIGINT and SIGQUIT for its background jobs."""
    selected = (
        f"{__file__}::{test_signals_have_their_default_action_in_tests_and_their_children.__name__}"
    )
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--numprocesses={workers}", selected]
    ended = subprocess.run(
        ["sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh", sys.executable, *words],
        cwd=TESTS.parent,
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout
    assert f"{len(IGNORED_BY_STARTERS)} passed" in ended.stdout
