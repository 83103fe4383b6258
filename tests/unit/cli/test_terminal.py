"""Tables for a person at a terminal."""

import pytest

from wasmdrop.cli import terminal

_ROWS = [
    ("20260101T000000Z-0000000001", "delivered", "ok", "a/input.json", "1", "3 ms", ""),
    ("20260101T000000Z-0000000002", "delivered", "trap", "input.json", "1", "3 ms", "wasm trap"),
    ("20260101T000000Z-0000000003", "waiting", "-", "input-c.json", "0", "3 s", "no module " * 20),
]


def test_jobs_on_a_terminal_of_80_columns_have_one_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the part of the id that is enough, and the code of a finished job."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal.print_jobs(_ROWS, 1, 3)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["job", "state", "slot", "time"]
    assert lines[1] == ["0000000001", "ok", "a/input.json", "3", "ms"]
    assert lines[2] == ["0000000002", "trap", "input.json", "3", "ms", "wasm", "trap"]
    assert lines[3][:5] == ["0000000003", "waiting", "input-c.json", "3", "s"]
    assert lines[4:] == [["3", "jobs,", "1", "open"]]


def test_jobs_on_a_wide_terminal_have_whole_ids_and_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reasons may take several lines."""
    monkeypatch.setenv("COLUMNS", "160")
    terminal.print_jobs(_ROWS, 1, 3)
    out = capsys.readouterr().out
    assert all(row[0] in out for row in _ROWS)
    assert out.count("module") == 20


def test_facts_on_a_narrow_terminal_are_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest is to be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    digest = "".join(f"{number:04}" for number in range(16))
    terminal.print_facts([("input", digest)])
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.removeprefix("input").strip() for line in lines) == digest
