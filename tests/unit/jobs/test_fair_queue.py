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
