"""The queue of file events: owners take turns, events of one owner stay in order."""

from wasmdrop.intake.fair_events import FairEvents


def test_fair_events_many_of_one_owner_do_not_delay_those_of_another() -> None:
    """Each owner has the next turn after all others had one."""
    events: FairEvents[str] = FairEvents()
    events.add(("many", f"many {number}") for number in range(100))
    events.add([("few", "few 0"), ("few", "few 1")])
    assert len(events) == 102
    assert events.take(5) == ["many 0", "few 0", "many 1", "few 1", "many 2"]
    assert len(events) == 97
    assert events.take(1000) == [f"many {number}" for number in range(3, 100)]
    assert not events
    assert events.take(1) == []
