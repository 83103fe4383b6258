"""Names of slots."""

import pytest

from wasmdrop.protocol.slot import MAX_SLOT_NAME_BYTES, is_slot_name, result_stem


@pytest.mark.parametrize(
    "name",
    ["a", ".", "..", "a-b_c.d", "input", "a b", "测试", "Ωμέγα", "é", "e\u0301", "🦀", "x" * 200],
)
def test_printable_name_is_a_slots(name: str) -> None:
    """Of any script, and whatever it means elsewhere: it is never a whole component of a path."""
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
def test_name_that_is_unfit_for_a_path_or_a_terminal_is_no_slots(name: str) -> None:
    """Neither are names that are too long, in characters or in bytes."""
    assert not is_slot_name(name)
    assert result_stem(f"input-{name}.json") is None


def test_longest_names_leave_room_for_every_file_of_a_slot() -> None:
    """An output that was set aside has the longest one."""
    name = "é" * (MAX_SLOT_NAME_BYTES // 2)
    assert is_slot_name(name)
    assert len(f"result-{name}.output.aside-01234567.output".encode()) <= 255
    assert not is_slot_name(name + "é")


@pytest.mark.parametrize(
    "file",
    ["Input.json", "input.JSON", "input 1.json", "input_1.json", "input-.json", "input.json.txt"],
)
def test_file_with_another_name_is_no_input(file: str) -> None:
    """However much it looks like one."""
    assert result_stem(file) is None
