"""Admission: bounds of jobs and bytes on their way, and turns of large inputs."""

from wasmdrop.jobs.admission import _EXTRA_JOBS, _LARGE_STOP_BYTES, _STOP_BYTES, Admission

LARGE = 1024 * 1024


def begin_all(admission: Admission, input_bytes: int = 0) -> list[str]:
    """Begin all jobs for which there is room."""
    begun = []
    while (key := admission.next()) is not None:
        admission.enter(input_bytes)
        begun.append(key)
    return begun


def test_admission_full_room_begins_no_job_until_one_leaves() -> None:
    """The room is that of the workers and some more."""
    admission = Admission(2)
    for number in range(100):
        admission.add(f"{number}/input.json", 2)
    assert len(begin_all(admission)) == 2 + _EXTRA_JOBS
    admission.leave(0)
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
