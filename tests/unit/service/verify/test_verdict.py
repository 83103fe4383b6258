"""How a difference shows its two values."""

from wasmdrop.proof.statement import ClaimedLimits
from wasmdrop.protocol.limits import Limits
from wasmdrop.service.verify.verdict import difference


def test_difference_shows_values_of_several_fields_as_json() -> None:
    """As the documents do, not as Python does."""
    shown = difference("limits", ClaimedLimits.of(Limits()), None)
    assert shown.claimed == '{"memoryMb":256,"outputMb":8.0,"diskMb":64,"fuel":null}'
    assert shown.actual == "none"


def test_difference_shows_text_in_one_short_line_without_escape_sequences() -> None:
    """Both values are a stranger's."""
    shown = difference("a\n\x1b[2J", "\x1b[31m" * 1000, 7)
    assert (shown.what, shown.actual) == (r"a\n\x1b[2J", "7")
    assert shown.claimed.isprintable()
    assert len(shown.claimed) == 160
