"""Tables of ``wasmdrop config`` and ``doctor``."""

import sys

import pytest
from rich.text import Text

from wasmdrop.cli.wide_table import print_table


def test_table_in_a_pipe_has_one_whole_line_for_each_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also a row that is longer than any terminal."""
    value = "/srv/" + "x" * 5000
    print_table(("setting", "value"), [("WASM_PATH", value), ("ENTRY", Text("run"))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["setting", "value"], ["WASM_PATH", value], ["ENTRY", "run"]]


def test_table_on_a_narrow_terminal_folds_cells_and_keeps_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name or a digest that is cut can't be copied."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # without escape sequences; rich takes 80 columns then
    value = "".join(f"{number:03}" for number in range(60))
    name = "WASMDROP_SHARED_DIR"
    print_table(("setting", "value"), [(name, value)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{name} ")
    assert "".join(line[len(name) :].strip() for line in lines[1:]) == value
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("value", ['["[/x]"]', "/srv/[red]jobs"])
def test_table_with_markup_of_rich_prints_it(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting is text; rich would fail or leave it out."""
    print_table(("setting", "value"), [("ARGS_JSON", value)])
    assert value in capsys.readouterr().out
