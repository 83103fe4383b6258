"""Requirements of tests: what is skipped, and where it fails instead."""

import ast
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.require import NOT_IN_CI, require, require_tools
from tests.support.security import harness  # noqa: F401 - registers every attempt
from tests.support.security.syscalls import ATTEMPTS

ROOT = Path(__file__).parents[2]


def outcome(use: Callable[[], None]) -> str:
    """Return how a requirement ends the test, with its reason; empty if it is met.

    An exception that skips would skip the test of it, too.
    """
    try:
        use()
    except pytest.skip.Exception as skipped:
        return f"skipped: {skipped}"
    except pytest.fail.Exception as failed:
        return f"failed: {failed}"
    return ""


def test_require_on_a_developers_machine_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is shown."""
    monkeypatch.delenv("CI", raising=False)
    assert outcome(lambda: require("", "a tool")) == "skipped: needs a tool"


def test_require_in_ci_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks a tool can't be green."""
    monkeypatch.setenv("CI", "true")
    assert outcome(lambda: require("", "a tool")).startswith("failed: needs a tool")


def test_require_in_ci_skips_a_test_that_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that one."""
    monkeypatch.setenv("CI", "true")
    listed = next(iter(NOT_IN_CI))
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{listed} (call)")
    assert outcome(lambda: require("", "a tool")).startswith("skipped")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{listed}x (call)")
    assert outcome(lambda: require("", "a tool")).startswith("failed")


@pytest.mark.parametrize("value", ["", "true"])
def test_require_that_is_met_does_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """In CI or elsewhere."""
    monkeypatch.setenv("CI", value)
    assert outcome(lambda: require("x", "a tool")) == ""


def test_require_tools_names_those_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no others."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "there").touch(mode=0o755)
    use = functools.partial(require_tools, "absent", "there", "missing")
    assert outcome(use) == "skipped: needs absent, missing"


def test_skips_in_ci_are_of_tests_that_exist() -> None:
    """So that the list shrinks with the tests."""
    for test in NOT_IN_CI:
        path, _, rest = test.partition("::")
        name, _, parameter = rest.removesuffix("]").partition("[")
        module = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert not parameter or ATTEMPTS[parameter].needs
