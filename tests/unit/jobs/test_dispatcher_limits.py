"""Limits per directory in the dispatcher, in any order of drops, waits, cancellations and ends."""

import asyncio
import contextlib
from collections import Counter
from typing import Final
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.jobs.dispatcher_bench import OK, Bench, FakeRunner, drop, with_bench
from wasmdrop.jobs.admission import _EXTRA_JOBS
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.module_lookup import ModuleAwaitedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import top_directory

#: Jobs that there is room for, and how many of one directory may be under way and may wait.
_ROOM: Final = 3
_RUNNING: Final = 2
_QUEUED: Final = 3

_KEYS: Final = [f"{top}/{number}/input.json" for top in "ab" for number in range(3)]
_ACTIONS: Final = ("drop", "drop", "drop", "end", "await", "wake", "lend", "return", "cancel")


class _Play:
    """Jobs that a test moves, and checks of the limits between the moves."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._parked: list[str] = []
        self._lent: dict[str, contextlib.ExitStack] = {}

    async def act(self, action: str, number: int) -> None:
        """Do one thing, if there is anything to do it to; let its effects happen."""
        bench = self._bench
        if action == "drop":
            self._drop(_KEYS[number % len(_KEYS)])
        elif action == "wake" and self._parked:
            key = self._parked.pop(number % len(self._parked))
            if key in bench.awaiting:  # its job was not cancelled meanwhile
                bench.awaiting.remove(key)
                bench.dispatcher.resume(key)
        elif action == "return" and self._lent:
            self._lent.popitem()[1].close()
        elif action == "cancel" and bench.journal.jobs:
            names = [name for name in bench.journal.jobs if name not in self._lent]
            if names:
                _ = bench.dispatcher.cancel(names[number % len(names)], "cancelled by a test")
        elif running := [job for job in self._running() if job.id not in self._lent]:
            self._act_on(running[number % len(running)], action)
        for _ in range(30):
            await asyncio.sleep(0)

    def check(self) -> None:
        """Check the limit of each directory, and that no job waits without a reason."""
        under_way = Counter(top_directory(job.slot.key) for job in self._running())
        assert all(count <= _RUNNING for count in under_way.values()), under_way
        busy = {job.slot.key for job in self._running()} | self._bench.awaiting
        ready = {job.slot.key for job in self._open()} - busy
        if len(self._running()) - len(self._lent) < _ROOM:
            assert all(under_way[top_directory(key)] == _RUNNING for key in ready), ready
        assert all(self._bench.table.first(key).job.end is None for key in ready)

    async def end_all(self) -> None:
        """Let every job come to its end."""
        while self._open():
            before = len(self._open())
            for action in ("return", "wake", "end"):
                for number in range(len(_KEYS)):
                    await self.act(action, number)
            self.check()
            assert len(self._open()) < before
        assert self._bench.metrics.held_directories() == 0
        assert self._bench.metrics.full_directories() == 0

    def _drop(self, key: str) -> None:
        running = {job.id for job in self._running()} - self._lent.keys()
        waiting = [job for job in self._open() if job.id not in running and job.end is None]
        tops = Counter(top_directory(job.slot.key) for job in waiting)
        self._bench.backlog.add()
        self._bench.dispatcher.accept(drop(key))
        end = list(self._bench.journal.jobs.values())[-1].end
        is_refused = end is not None and end.code is Code.QUEUE_LIMIT
        assert is_refused is (tops[top_directory(key)] >= _QUEUED)

    def _act_on(self, job: Job, action: str) -> None:
        bench, key = self._bench, job.slot.key
        if action == "end":
            bench.outcomes[job.id].set_result(OK)
        elif action == "await":
            self._parked.append(key)
            bench.awaiting.add(key)
            bench.outcomes[job.id].set_exception(ModuleAwaitedError())
        elif action == "lend":
            stack = self._lent[job.id] = contextlib.ExitStack()
            stack.enter_context(bench.dispatcher.yield_room(bench.table.first(key)))

    def _running(self) -> list[Job]:
        outcomes = self._bench.outcomes
        return [self._bench.journal.jobs[name] for name, one in outcomes.items() if not one.done()]

    def _open(self) -> list[Job]:
        return [job for job in self._bench.journal.jobs.values() if not job.state.is_final]


@given(
    st.lists(st.tuples(st.sampled_from(_ACTIONS), st.integers(0, 1000)), min_size=20, max_size=60)
)
def test_dispatcher_with_limits_keeps_them_and_forgets_no_job(
    actions: list[tuple[str, int]],
) -> None:
    """No directory has more under way than it may, and a job with room for it begins."""

    async def use(bench: Bench) -> None:
        play = _Play(bench)
        for action, number in actions:
            await play.act(action, number)
            play.check()
        await play.end_all()

    limits = {
        "WASMDROP_DIRECTORY_RUNNING": str(_RUNNING),
        "WASMDROP_DIRECTORY_QUEUED": str(_QUEUED),
    }
    with mock.patch.object(FakeRunner, "capacity", _ROOM - _EXTRA_JOBS):
        with_bench(use, **limits)
