"""Text for messages: bounded, and without characters that act on a terminal."""

import pytest

from wasmdrop.protocol.text import (
    bounded_text,
    describe_error,
    describe_value,
    escaped,
    json_escaped,
    one_line,
)

HOSTILE = "a\x1b[31m\u202eb\n\udcff"


def test_escaped_of_hostile_text_is_printable() -> None:
    """Terminal escapes, direction overrides, newlines and bytes that are not UTF-8."""
    assert escaped(HOSTILE) == r"a\x1b[31m\u202eb\n\udcff"
    assert escaped(HOSTILE, "\n") == "a\\x1b[31m\\u202eb\n\\udcff"


def test_bounded_text_keeps_newlines_and_one_line_does_not() -> None:
    """Backtraces have several lines, log fields must not."""
    assert bounded_text("a\nb") == "a\nb"
    assert one_line("a\nb") == r"a\nb"


@pytest.mark.parametrize("text", ["x" * 11, "\x1b" * 11, "\n" * 11, "xxxxxxx\x1b"])
def test_bounded_text_over_the_limit_is_cut_and_marked(text: str) -> None:
    """Also if only the escaped text is too long."""
    for shown in (bounded_text(text, 10, keep=""), one_line(text, 10)):
        assert len(shown) == 10
        assert shown.endswith("…")
    assert one_line("x" * 10, 10) == "x" * 10


def test_describe_value_of_huge_value_is_short() -> None:
    """Nothing of a megabyte is copied, and no huge integer converted."""
    for value in ("x" * 1_000_000, 10**5000, [0] * 1000, {str(n): n for n in range(1000)}):
        assert len(describe_value(value)) <= 80
    assert describe_value(10**5000) == "an integer of 16610 bits"
    assert describe_value('say "hi"\x1b') == r'"say \"hi\"\u001b"'
    assert describe_value(b"x") == "a bytes"


def test_json_escaped_of_hostile_document_has_the_same_meaning() -> None:
    """Only the characters that act on a terminal are replaced."""
    assert json_escaped('{"a":"é\u202e"}') == '{"a":"é\\u202e"}'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "a: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (TimeoutError("the mount does not answer"), "the mount does not answer"),
        (ValueError("other"), "other"),
    ],
)
def test_describe_error_of_the_system_has_no_number(error: Exception, text: str) -> None:
    """Operators read it in `wasmdrop jobs`."""
    assert describe_error(error) == text
