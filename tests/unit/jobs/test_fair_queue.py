"""The fair queue: directories take turns, slots of one directory stay in order."""

import pytest

from wasmdrop.jobs.fair_queue import FairQueue


def test_fair_queue_directory_with_many_slots_does_not_delay_others() -> None:
    """The slot of another directory is second, however many came before it."""
    turns = FairQueue()
    for number in range(1000):
        turns.add(f"many/input-{number}.json")
    turns.add("few/input.json")
    turns.add("input.json")
    assert [turns.next() for _ in range(5)] == [
        "many/input-0.json",
        "few/input.json",
        "input.json",
        "many/input-1.json",
        "many/input-2.json",
    ]


def test_fair_queue_next_returns_slots_until_empty() -> None:
    """An empty queue raises."""
    turns = FairQueue()
    assert not turns
    turns.add("a")
    assert turns
    assert turns.next() == "a"
    assert not turns
    with pytest.raises(KeyError):
        turns.next()


def test_fair_queue_owner_of_many_directories_has_one_turn() -> None:
    """All directories below one top directory share its turn."""
    turns = FairQueue("/mnt/shared")
    for number in range(4):
        turns.add(f"/mnt/shared/mallory/{number}/input.json")
    turns.add("/mnt/shared/alice/input.json")
    turns.add("/mnt/shared/input.json")
    owners = [turns.next().split("/")[3] for _ in range(6)]
    assert owners == ["mallory", "alice", "input.json", "mallory", "mallory", "mallory"]


def test_fair_queue_held_directory_has_no_turn_until_released() -> None:
    """Slots that are added meanwhile wait with the others, in order."""
    turns = FairQueue()
    turns.add("mallory/1/input.json")
    turns.hold("mallory")
    assert not turns
    assert turns.waiting_held() == ["mallory"]
    turns.add("alice/input.json")
    turns.add("mallory/1/input-2.json")
    assert [turns.next()] == ["alice/input.json"]
    assert not turns
    turns.release("mallory")
    assert turns.waiting_held() == []
    assert [turns.next(), turns.next()] == ["mallory/1/input.json", "mallory/1/input-2.json"]
    turns.hold("mallory")
    assert turns.waiting_held() == []
    turns.release("mallory")
    assert not turns


@pytest.mark.parametrize("is_held", [False, True])
def test_fair_queue_removed_slot_has_no_turn(is_held: bool) -> None:
    """A slot that is not in the queue is not removed."""
    turns = FairQueue()
    for key in ("a/input.json", "a/b/input.json", "c/input.json"):
        turns.add(key)
    if is_held:
        turns.hold("a")
    assert turns.remove("a/input.json")
    assert not turns.remove("a/input.json")
    assert not turns.remove("a/other.json")
    assert not turns.remove("d/input.json")
    if is_held:
        turns.release("a")
    assert sorted([turns.next(), turns.next()]) == ["a/b/input.json", "c/input.json"]
    assert not turns


def test_fair_queue_directory_whose_slots_are_all_removed_has_no_turn() -> None:
    """The next turn is that of another directory."""
    turns = FairQueue()
    for key in ("a/input.json", "b/input.json"):
        turns.add(key)
    assert turns.remove("a/input.json")
    assert turns.next() == "b/input.json"
    assert not turns
