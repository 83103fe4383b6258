"""Admission: bounds of jobs and bytes on their way, and turns of large inputs."""

from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wasmdrop.jobs.admission import (
    _ENDING_JOBS,
    _EXTRA_JOBS,
    _LARGE_STOP_BYTES,
    _STOP_BYTES,
    Admission,
)
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import top_directory

LARGE = 1024 * 1024


def begin_all(admission: Admission, input_bytes: int = 0) -> list[str]:
    """Begin all jobs for which there is room."""
    begun = []
    while (key := admission.next()) is not None:
        admission.enter(key, input_bytes)
        begun.append(key)
    return begun


def test_admission_full_room_begins_no_job_until_one_leaves() -> None:
    """The room is that of the workers and some more."""
    admission = Admission(2)
    for number in range(100):
        admission.add(f"{number}/input.json", 2)
    begun = begin_all(admission)
    assert len(begun) == 2 + _EXTRA_JOBS
    admission.leave(begun[0], 0)
    assert len(begin_all(admission)) == 1


def test_admission_large_inputs_alternate_with_small_ones() -> None:
    """Neither kind waits for the end of the other."""
    admission = Admission(2)
    for number in range(3):
        admission.add(f"large-{number}/input.json", LARGE)
        admission.add(f"small-{number}/input.json", 2)
    kinds = [key.partition("-")[0] for key in begin_all(admission)]
    assert sorted(kinds[:2]) == sorted(kinds[2:4]) == ["large", "small"]
    assert len(kinds) == 6


def test_admission_large_input_waits_for_memory_and_small_ones_do_not() -> None:
    """With still more in memory no job begins."""
    admission = Admission(2)
    admission.hold(_LARGE_STOP_BYTES + 1)
    for name in ("large", "small", "other"):
        admission.add(f"{name}/input.json", LARGE if name == "large" else 2)
    assert admission.next() == "small/input.json"
    admission.hold(_STOP_BYTES)
    assert admission.next() is None
    admission.hold(-_STOP_BYTES)
    assert admission.next() == "other/input.json"
    assert admission.next() is None
    admission.hold(-_LARGE_STOP_BYTES)
    assert admission.next() == "large/input.json"


def test_admission_directory_at_its_limit_leaves_the_room_to_others() -> None:
    """Its next job begins when one of its jobs leaves."""
    admission = Admission(2, directory_limit=2)
    for number in range(5):
        admission.add(f"many/{number}/input.json", LARGE if number % 2 else 2)
    admission.add("few/input.json", 2)
    admission.add("input.json", 2)
    begun = begin_all(admission)
    assert sorted(map(top_directory, begun)) == ["", "few", "many", "many"]
    assert admission.held_directories() == 1
    admission.leave(next(key for key in begun if key.startswith("many")), 0)
    (next_begun,) = begin_all(admission)
    assert next_begun.startswith("many")


def test_admission_lent_room_does_not_raise_the_limit_of_its_directory() -> None:
    """Jobs of others take it; one more of its own could not be stopped later."""
    admission = Admission(2, directory_limit=1)
    for key in ("mine/input-1.json", "mine/input-2.json"):
        admission.add(key, 0)
    assert begin_all(admission) == ["mine/input-1.json"]
    admission.lend(0)
    assert begin_all(admission) == []
    assert admission.is_held("mine/input-2.json")
    admission.take_back(0)
    admission.leave("mine/input-1.json", 0)
    assert not admission.is_held("mine/input-2.json")
    assert begin_all(admission) == ["mine/input-2.json"]


def test_admission_ended_jobs_need_no_room_and_are_bounded() -> None:
    """A few at a time, however many jobs their directory has on its way."""
    admission = Admission(1, directory_limit=1)
    for number in range(1 + _EXTRA_JOBS):
        admission.add(f"{number}/input.json", 0)
    begin_all(admission)
    for number in range(100):
        admission.add(f"0/input-{number}.json", 0, Code.QUEUE_LIMIT)
    ending = begin_all(admission)
    assert len(ending) == _ENDING_JOBS
    admission.leave(ending[0], 0)
    assert len(begin_all(admission)) == 1
    assert admission.is_held("0/input.json")


def test_admission_cancelled_job_comes_before_refused_ones() -> None:
    """A person may wait for it, and there may be thousands of the others."""
    admission = Admission(1)
    admission.add("a/input.json", 0)
    admission.add("a/refused/input.json", 0, Code.QUEUE_LIMIT)
    admission.add("a/parked/input.json", 0, Code.CANCELLED)
    admission.cancel("a/input.json")
    begun = begin_all(admission)
    assert sorted(begun[:2]) == ["a/input.json", "a/parked/input.json"]
    assert begun[2:] == ["a/refused/input.json"]


def test_admission_job_cancelled_while_it_waits_needs_no_room() -> None:
    """It leaves its place behind the limit of its directory."""
    admission = Admission(1, directory_limit=1)
    for name in ("first", "second", "third"):
        admission.add(f"mine/input-{name}.json", 0)
    assert begin_all(admission) == ["mine/input-first.json"]
    admission.cancel("mine/input-third.json")
    admission.cancel("mine/input-first.json")
    assert begin_all(admission) == ["mine/input-third.json"]
    admission.leave("mine/input-first.json", 0)
    assert begin_all(admission) == ["mine/input-second.json"]


_KEYS: Final = [
    f"{directory}/input-{number}.json"
    for directory in ("a", "a/deep", "b", "c")
    for number in range(3)
]
_WORKERS: Final = 4 - _EXTRA_JOBS
"""So that there is room for four."""


class AdmissionMachine(RuleBasedStateMachine):
    """Slots that wait, begin, lend their room, wait for a module and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(_WORKERS, directory_limit=2)
        self.sizes: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.waiting_ended: set[str] = set()
        self.under_way: list[str] = []
        self.ending: list[str] = []
        self.lent: list[str] = []

    @rule(key=st.sampled_from(_KEYS), is_large=st.booleans(), is_ended=st.booleans())
    def add(self, key: str, is_large: bool, is_ended: bool) -> None:
        """Add a slot without a job here."""
        places = (self.waiting, self.waiting_ended, self.under_way, self.ending, self.lent)
        if not any(key in place for place in places):
            self.sizes[key] = LARGE if is_large else 2
            end = Code.QUEUE_LIMIT if is_ended else None
            self.admission.add(key, self.sizes[key], end)
            (self.waiting_ended if is_ended else self.waiting).add(key)

    @rule()
    def begin(self) -> None:
        """Begin a job; if none begins, there must be a reason for each that waits."""
        key = self.admission.next()
        if key is None:
            assert not self.waiting_ended or len(self.ending) == _ENDING_JOBS
            has_room = len(self.under_way) < 4
            assert not has_room or all(self.count(key) == 2 for key in self.waiting)
            return
        self.admission.enter(key, self.sizes[key])
        if key in self.waiting_ended:
            self.waiting_ended.remove(key)
            self.ending.append(key)
        else:
            self.waiting.remove(key)
            self.under_way.append(key)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """End a job."""
        key = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(key)
        self.admission.leave(key, self.sizes[key])

    @precondition(lambda self: self.ending)
    @rule()
    def leave_ended(self) -> None:
        """End a job whose end was decided."""
        key = self.ending.pop()
        self.admission.leave(key, self.sizes[key])

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        """Give the room of a job to others."""
        key = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(key)
        self.lent.append(key)
        self.admission.lend(self.sizes[key])

    @precondition(lambda self: self.lent)
    @rule()
    def take_back(self) -> None:
        """Go on after a wait, whether there is room or not."""
        key = self.lent.pop()
        self.under_way.append(key)
        self.admission.take_back(self.sizes[key])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a job that waits."""
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(key)
        self.waiting_ended.add(key)
        self.admission.cancel(key)

    @invariant()
    def directories_keep_their_limit(self) -> None:
        """At most two jobs of a top directory are on their way, lent room included."""
        assert all(self.count(key) <= 2 for key in _KEYS)

    def count(self, key: str) -> int:
        """Return how many jobs of the slot's top directory are on their way."""
        top = top_directory(key)
        return sum(top_directory(other) == top for other in (*self.under_way, *self.lent))

    def teardown(self) -> None:
        """Let all slots have their turn: none was forgotten."""
        while self.lent:
            self.take_back()
        while self.under_way or self.ending or self.waiting or self.waiting_ended:
            before = len(self.waiting) + len(self.waiting_ended)
            self.begin()
            if len(self.waiting) + len(self.waiting_ended) == before:
                assert self.under_way or self.ending
                for key in (*self.under_way, *self.ending):
                    self.admission.leave(key, self.sizes[key])
                self.under_way.clear()
                self.ending.clear()
        assert self.admission.next() is None
        assert self.admission.held_directories() == 0


TestAdmissionProperties = AdmissionMachine.TestCase
