"""The parser: errors in one line with a suggestion, no abbreviations, readable help."""

from collections.abc import Iterator

import pytest

from wasmdrop.cli import parser
from wasmdrop.cli.commands import COMMANDS, GROUPS

_TYPES = "expected ed25519, p256 or secp256k1"
_POSITIVE = "wasmdrop submit: --timeout-sec: expected more than 0, got nan"
_DOCUMENTS = "expected input, marker or receipt"


def all_parsers(of: parser.Parser) -> Iterator[parser.Parser]:
    """Give a parser and all below it."""
    yield of
    for below in of.subparsers().values():
        yield from all_parsers(below)


PARSERS = list(all_parsers(parser.build(list(COMMANDS))))
every_parser = pytest.mark.parametrize("each", PARSERS, ids=lambda each: each.prog)


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message about a command line."""
    with pytest.raises(SystemExit) as ended:
        parser.parse(words.split())
    out, errors = capsys.readouterr()
    message, hint = errors.splitlines()
    command = message.partition(":")[0]
    assert (ended.value.code, out, hint) == (2, "", f"Help: {command} --help")
    return message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sumbit", "wasmdrop: sumbit: no command of this name; did you mean submit?"),
        ("zzz", "wasmdrop: zzz: no command of this name"),
        ("jbos --help", "wasmdrop: jbos: no command of this name; did you mean jobs?"),
        ("--verison", "wasmdrop: --verison: no flag of this name; did you mean --version?"),
        ("-x jobs", "wasmdrop: -x: no flag of this name"),
        (
            "serve --worker 3",
            "wasmdrop serve: --worker: no flag of this name; did you mean --workers?",
        ),
        (
            "serve --worker=3",
            "wasmdrop serve: --worker: no flag of this name; did you mean --workers?",
        ),
        ("jobs -x", "wasmdrop jobs: -x: no flag of this name"),
        ("show", "wasmdrop show: expected JOB"),
        ("show a b", "wasmdrop show: b: unexpected"),
        # A missing flag may be one that was mistyped.
        (
            "fleet config --key keys",
            "wasmdrop fleet config: --key: no flag of this name; did you mean --keys?",
        ),
        ("fleet config", "wasmdrop fleet config: expected --keys"),
        ("key", "wasmdrop key: expected a command: new or show"),
        ("key nw", "wasmdrop key: nw: no command of this name; did you mean new?"),
        ("key zzz", "wasmdrop key: zzz: no command of this name; expected new or show"),
        (
            "key new --type p25 k",
            f"wasmdrop key new: --type: {_TYPES}, got p25; did you mean p256?",
        ),
        ("jobs --limit many", "wasmdrop jobs: --limit: expected a whole number, got many"),
        ("-v jobs", "wasmdrop: -v: no flag of this name"),
        ("-v", "wasmdrop: -v: no flag of this name"),
        ("submit --rm=yes", "wasmdrop submit: --rm: takes no value, got yes"),
        ("submit --memory-mb 0", "wasmdrop submit: --memory-mb: expected more than 0, got 0"),
        ("submit --fuel -3", "wasmdrop submit: --fuel: expected more than 0, got -3"),
        ("submit --fuel few", "wasmdrop submit: --fuel: expected a whole number, got few"),
        ("submit --timeout-sec nan", _POSITIVE),
        ("jobs --slot", "wasmdrop jobs: --slot: expected one argument"),
        (
            "schema markr",
            f"wasmdrop schema: document: {_DOCUMENTS}, got markr; did you mean marker?",
        ),
    ],
)
def test_mistake_is_one_line_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    """And a line that names the help of the command; the same in all versions of Python."""
    assert refused(words, capsys) == message


def test_empty_word_is_a_mistake_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    """As a variable of a shell that is not set gives."""
    for words in (["show", "a", ""], ["", "show"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse(words)
        assert ended.value.code == 2
    assert "wasmdrop show: an empty word: unexpected\n" in capsys.readouterr().err


@every_parser
def test_flag_that_is_abbreviated_is_refused(
    capsys: pytest.CaptureFixture[str], each: parser.Parser
) -> None:
    """A later version may have another flag that begins so."""
    for flag in each.flags():
        short = flag[:-1]
        if flag.startswith("--") and short not in each.flags():
            message = refused(f"{each.prog} {short} 1".removeprefix("wasmdrop "), capsys)
            assert message.startswith(
                f"{each.prog}: {short}: no flag of this name; did you mean --"
            )


def test_value_that_looks_like_a_flag_after_two_dashes_is_no_flag() -> None:
    """Also a word with a space, and what follows an equals sign."""
    assert parser.parse(["submit", "--", "--worker"]).files == ["--worker"]
    assert parser.parse(["submit", "--arg=--worker"]).arg == ["--worker"]


@every_parser
def test_help_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, each: parser.Parser
) -> None:
    """No line is wrapped by the terminal; usage has one line or two."""
    monkeypatch.setenv("COLUMNS", "80")
    text = each.format_help()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert len(each.format_usage().splitlines()) <= 2


@pytest.mark.parametrize("words", [["--help"], ["key", "new", "--help"]])
def test_help_has_no_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """As in versions of Python that know none."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        parser.parse(words)
    assert ended.value.code == 0
    assert "\x1b" not in capsys.readouterr().out


def test_call_without_a_command_prints_the_help_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script that forgot the command does not succeed."""
    with pytest.raises(SystemExit) as ended:
        parser.parse([])
    out, errors = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    for purpose, commands in GROUPS.items():
        assert f"\n{purpose}:\n" in errors
        assert all(f"\n  {name} " in errors for name in commands)


def test_only_the_called_command_is_imported() -> None:
    """The parsers of the others have no flags yet."""
    below = parser.build(["jobs"]).subparsers()
    assert [name for name, each in below.items() if len(each.flags()) > 2] == ["jobs"]


@every_parser
def test_help_breaks_no_flag_and_no_path(
    each: parser.Parser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are to be copied."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = each.format_help().splitlines()
    assert [line for line in lines if line.endswith("-") and line[-2:] != " -"] == []
