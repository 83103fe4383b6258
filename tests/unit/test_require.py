"""Requirements of tests: what is skipped, and where it fails instead."""

import ast
from pathlib import Path

import pytest

from tests.support.require import NOT_IN_CI, require, require_tools
from tests.support.security import harness  # noqa: F401 - registers every attempt
from tests.support.security.syscalls import ATTEMPTS

ROOT = Path(__file__).parents[2]


def test_require_on_a_developers_machine_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is shown."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs a tool"):
        require("", "a tool")


def test_require_in_ci_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks a tool can't be green."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs a tool"):
        require("", "a tool")


def test_require_in_ci_skips_a_test_that_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that one."""
    monkeypatch.setenv("CI", "true")
    listed = next(iter(NOT_IN_CI))
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{listed} (call)")
    with pytest.raises(pytest.skip.Exception):
        require("", "a tool")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{listed}x (call)")
    with pytest.raises(pytest.fail.Exception):
        require("", "a tool")


def test_require_of_what_is_there_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In CI or elsewhere."""
    for value in ("", "true"):
        monkeypatch.setenv("CI", value)
        require("x", "a tool")


def test_require_tools_names_those_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no others."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "there").touch(mode=0o755)
    with pytest.raises(pytest.skip.Exception, match=r"needs absent, missing\Z"):
        require_tools("absent", "there", "missing")


def test_skips_in_ci_are_of_tests_that_exist() -> None:
    """So that the list shrinks with the tests."""
    for test in NOT_IN_CI:
        path, _, rest = test.partition("::")
        name, _, parameter = rest.removesuffix("]").partition("[")
        module = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert ATTEMPTS[parameter].needs
