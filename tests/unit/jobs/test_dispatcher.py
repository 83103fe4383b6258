"""The jobs of one slot: in the order in which they were added, but for one that runs again."""

from wasmdrop.jobs.dispatcher import _SlotQueue
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.runner import Work
from wasmdrop.protocol.slot import Slot


def _work(number: int) -> Work:
    return Work(Job(str(number), Slot("a", "/a", "/", "result"), number))


def _begun(queue: _SlotQueue, count: int) -> list[str]:
    return [queue.begin().job.id for _ in range(count)]


def test_jobs_of_a_slot_are_begun_in_their_order() -> None:
    """However they come and go."""
    queue = _SlotQueue()
    for number in range(3):
        queue.add(_work(number))
    assert _begun(queue, 2) == ["0", "1"]
    queue.add(_work(3))
    assert _begun(queue, 2) == ["2", "3"]
    assert (queue.first, queue.last) == (None, None)
    queue.add(_work(4))
    assert _begun(queue, 1) == ["4"]


def test_a_job_that_runs_again_is_before_those_that_wait() -> None:
    """Whether some do or not."""
    queue = _SlotQueue()
    queue.add_first(_work(0))
    assert _begun(queue, 1) == ["0"]
    queue.add(_work(2))
    queue.add_first(_work(1))
    queue.add(_work(3))
    assert _begun(queue, 3) == ["1", "2", "3"]
