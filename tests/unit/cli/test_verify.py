"""The exit statuses of ``wasmdrop verify``: nothing but a lie has that of a mismatch."""

import argparse

import pytest

from wasmdrop.cli import verify as command
from wasmdrop.protocol.errors import StorageError
from wasmdrop.service.verify.verdict import Report, Verdict


def status(monkeypatch: pytest.MonkeyPatch, outcome: Report | Exception) -> int:
    """Return the exit status if the verification ends like this."""

    def verify(*_arguments: object) -> Report:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(command, "verify", verify)
    monkeypatch.setattr(
        "wasmdrop.cli.verify.log.configure", lambda *_: None
    )  # it is one for all tests
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["any"]))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict.MATCH, 0),
        (Verdict.NOT_RUN, 0),
        (Verdict.MISMATCH, 1),
        (Verdict.UNVERIFIABLE, 4),
    ],
)
def test_verify_has_an_exit_status_for_each_verdict(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, expected: int
) -> None:
    """As documented."""
    assert status(monkeypatch, Report(verdict=verdict)) == expected


def test_verify_with_an_unexpected_error_has_the_status_of_a_fault_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of an uncaught exception is 1."""
    assert status(monkeypatch, OverflowError("words")) == 3
    assert "OverflowError: words" in capsys.readouterr().err
    with pytest.raises(StorageError, match="words"):
        status(monkeypatch, OSError("words"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--signatures", "0"], "expected a whole number from 1 to 1048576"),
        (["--signatures", "1048577"], "expected a whole number from 1 to 1048576"),
        (["--signatures", "1_0"], "expected a whole number from 1 to 1048576"),
        (["--max-result-mb", "9" * 5000], "expected a whole number from 1 to 1048576"),
        (["--max-sec", "0"], "expected more than 0 and at most 2592000"),
        (["--max-sec", "nan"], "expected more than 0 and at most 2592000"),
        (["--max-sec", "x"], "expected more than 0 and at most 2592000"),
    ],
)
def test_verify_with_an_impossible_number_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    """Exit status 2, and a message that names the flag and what was expected."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["any", *words])
    assert caught.value.code == 2
    assert f"error: argument {words[0]}: {reason}" in capsys.readouterr().err
