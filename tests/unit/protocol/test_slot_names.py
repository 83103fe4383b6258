"""Slot names, and the inputs and results that have them."""

import pytest

from wasmdrop.protocol.slot import MAX_SLOT_NAME_BYTES, is_slot_name, result_stem


@pytest.mark.parametrize(
    "name",
    ["a", ".", "..", "a-b_c.d", "input", "a b", "测试", "Ωμέγα", "é", "e\u0301", "🦀", "x" * 200],
)
def test_printable_name_is_a_slot_name(name: str) -> None:
    """In any script, and with any meaning elsewhere: it is never a whole path component."""
    assert is_slot_name(name)
    assert result_stem(f"input-{name}.json") == f"result-{name}"


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", "a\0b", "a\nb", "a\x1b[31m", "a\x85b"),
        *("\u202egnp", "a\u200bb", "a\u2028b", "\ufeffa", "\ue000"),
        *("\udcff", "x" * 201, "é" * 113),
    ],
)
def test_unsafe_or_long_name_is_not_a_slot_name(name: str) -> None:
    """Unsafe in a path or on a terminal, or too long in characters or in bytes."""
    assert not is_slot_name(name)
    assert result_stem(f"input-{name}.json") is None


def test_longest_slot_name_fits_all_file_names() -> None:
    """An output directory that was set aside has the longest name."""
    name = "é" * (MAX_SLOT_NAME_BYTES // 2)
    assert is_slot_name(name)
    assert len(f"result-{name}.output.aside-01234567.output".encode()) <= 255
    assert not is_slot_name(name + "é")


@pytest.mark.parametrize(
    "file",
    ["Input.json", "input.JSON", "input 1.json", "input_1.json", "input-.json", "input.json.txt"],
)
def test_result_stem_of_other_file_is_none(file: str) -> None:
    """However similar its name is to that of an input."""
    assert result_stem(file) is None
