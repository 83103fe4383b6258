"""Sends the events of the journal to a hook, at least once. No job waits for the hook.

Events are read from the journal when they are due, some at a time, so that memory is bounded. If
the daemon is killed between the answer of the receiver and its note in the journal, the event is
sent again.

An event that fails is due again after a pause that doubles. If no event succeeds any more, one at a
time is tried, at growing intervals: a receiver that is down is not flooded, and if it is back, it
gets all events that wait.
"""

import asyncio
import contextlib
import time
from typing import Any, Final

import structlog
from tenacity import RetryCallState, Retrying, wait_random_exponential

from wasmdrop.hooks.hook import Hook, HookBacklog, HookFailedError, Sent
from wasmdrop.jobs.journal.event_queue import EventQueue
from wasmdrop.jobs.journal.events import Event

_log = structlog.get_logger()

#: Events that are read at a time, and the size of their markers past which no more are.
_READ_AT_ONCE: Final = 256
_READ_BYTES: Final = 1 << 20

#: How long a new event waits for others, in seconds; the second value applies while many jobs wait,
#: because the sender takes processor time from them.
_GATHER_SECONDS: Final = 0.1
_BUSY_GATHER_SECONDS: Final = 5.0

#: How long a call of the hook may go on to its next event, in seconds: the events that it took are
#: sent again if the daemon is killed meanwhile.
_CALL_SECONDS: Final = 0.2

#: How often the journal is read if nothing happens, and searched for events that are too old, in
#: seconds.
_LOOK_SECONDS: Final = 60.0

#: The longest pause of an event that failed, and between two tries of a hook that seems down, in
#: seconds.
_LONGEST_PAUSE_SECONDS: Final = 600.0
_LONGEST_PROBE_SECONDS: Final = 60.0
_PAUSES: Final = wait_random_exponential(multiplier=1, max=_LONGEST_PAUSE_SECONDS, min=0.5)
_PROBES: Final = wait_random_exponential(multiplier=1, max=_LONGEST_PROBE_SECONDS, min=0.5)

#: After this many failures in a row, the hook is considered down.
_SEEMS_DOWN: Final = 4

#: An event is not given up earlier, in seconds, however short the retention of jobs is.
_LEAST_KEPT_SECONDS: Final = 3600.0

#: How long a stopping daemon waits for attempts that are under way, in seconds.
_STOP_SECONDS: Final = 3.0


class HookSender:
    """Sends the events of a journal to ``hook``; used from one event loop.

    An event is given up after ``keep_seconds``, but not within an hour.
    """

    def __init__(self, events: EventQueue, hook: Hook, keep_seconds: float) -> None:
        self._events = events
        self._hook = hook
        self.keep_for(keep_seconds)
        self._ready: asyncio.Queue[Event] = asyncio.Queue()
        self._held: set[str] = set()
        """The jobs of the events in memory."""
        self._attempts: set[asyncio.Task[Sent]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._call_events = 1
        """How many events a call of the hook gets; so many that it takes about `_CALL_SECONDS`."""
        self._was_cut = False
        """Whether more events were due than the last read returned."""
        self._expire_at = 0.0
        """When events that are too old are removed next, by the loop's clock."""
        self._probing = asyncio.Lock()
        self._failures_in_row = 0
        self._not_before = 0.0
        """When the next attempt may begin, by the loop's clock."""
        self._oldest_ns: int | None = None
        self._delivered = self._failed = self._given_up = 0

    def keep_for(self, seconds: float) -> None:
        """Give an event up after that time from now on, but not within an hour."""
        self._keep_ns = int(max(seconds, _LEAST_KEPT_SECONDS) * 1e9)

    def start(self) -> None:
        """Begin to send events."""
        workers = (self._work() for _ in range(self._hook.at_once))
        self._tasks = [asyncio.create_task(one) for one in (self._read(), *workers)]

    async def stop(self) -> None:
        """Begin nothing new; attempts that are under way have some seconds to end."""
        self._is_stopping = True
        for reader in self._tasks[:1]:
            reader.cancel()
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=_STOP_SECONDS)
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *self._attempts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def backlog(self) -> HookBacklog:
        """Return the state of the hook."""
        now_ns = time.time_ns()
        oldest_ns = self._oldest_ns if self._events.pending else None
        age_seconds = 0.0 if oldest_ns is None else max(0, now_ns - oldest_ns) / 1e9
        given_up = self._given_up + self._events.trimmed
        return HookBacklog(
            self._events.pending, age_seconds, self._delivered, self._failed, given_up
        )

    # Reading

    async def _read(self) -> None:
        """Read events when they are due and none is in memory."""
        while True:
            self._events.changed.clear()
            wait_seconds = _LOOK_SECONDS
            if self._ready.empty():
                try:
                    wait_seconds = await self._fill()
                except Exception:  # noqa: BLE001 - jobs do not need it; the next look retries
                    _log.exception("hook-read-failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._events.changed.wait()
            if not self._was_cut:
                await self._let_gather()

    async def _let_gather(self) -> None:
        """Wait for more events, and until few jobs wait, but not for ever."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _BUSY_GATHER_SECONDS
        await asyncio.sleep(_GATHER_SECONDS)
        while self._events.is_busy() and loop.time() < end:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(_GATHER_SECONDS)

    async def _fill(self) -> float:
        """Read the events that are due; return how long none can be due, in seconds."""
        now_ns = time.time_ns()
        loop = asyncio.get_running_loop()
        if loop.time() >= self._expire_at:
            await self._give_up(now_ns - self._keep_ns)
            self._expire_at = loop.time() + _LOOK_SECONDS
        longest_ns = int(_LONGEST_PAUSE_SECONDS * 1e9)
        due = await self._events.due(now_ns, longest_ns, self._held, _READ_AT_ONCE, _READ_BYTES)
        self._oldest_ns = due.oldest_ns
        self._was_cut = due.was_cut
        for event in due.events:
            self._held.add(event.job_id)
            self._ready.put_nowait(event)
        if due.next_due_ns is None:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, max(0.0, (due.next_due_ns - now_ns) / 1e9))

    async def _give_up(self, before_ns: int) -> None:
        while jobs := await self._events.expire(before_ns):
            self._given_up += len(jobs)
            _log.error("hook-given-up", events=len(jobs), first_job=jobs[0], last_job=jobs[-1])

    # Sending

    async def _work(self) -> None:
        while not self._is_stopping:
            events = [await self._ready.get()]
            # While the hook fails, few events are held up by one.
            count = 1 if self._failures_in_row else self._call_events
            while len(events) < count and not self._ready.empty():
                events.append(self._ready.get_nowait())
            attempt = asyncio.create_task(self._send(events))
            self._attempts.add(attempt)
            try:
                sent = await attempt
            finally:
                self._attempts.discard(attempt)
            tried = sent.taken + (sent.failure is not None)
            self._held.difference_update(event.job_id for event in events[:tried])
            for event in events[tried:]:
                self._ready.put_nowait(event)
            if self._ready.empty():
                self._events.changed.set()

    async def _send(self, events: list[Event]) -> Sent:
        is_probe = self._failures_in_row >= _SEEMS_DOWN
        async with self._probing if is_probe else contextlib.nullcontext():
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            if self._is_stopping:
                return Sent(0)
            end = time.monotonic() + _CALL_SECONDS
            try:
                sent = await self._hook.send(
                    events, lambda: time.monotonic() < end and not self._is_stopping
                )
            except Exception as error:  # noqa: BLE001 - a fault in one must not end the others
                _log.exception("hook-stuck", job=events[0].job_id)
                sent = Sent(0, HookFailedError(type(error).__name__))
            self._note(events, sent)
        return sent

    def _note(self, events: list[Event], sent: Sent) -> None:
        if sent.taken:
            self._failures_in_row = 0
            self._delivered += sent.taken
            self._events.remove([event.job_id for event in events[: sent.taken]])
        if sent.failure is not None:
            failed = events[sent.taken]
            self._fail(failed, str(sent.failure), sent.failure.retry_after_seconds)
        elif sent.taken < len(events):
            self._call_events = sent.taken
        elif len(events) == self._call_events:
            self._call_events = min(2 * self._call_events, self._hook.most_events)

    def _fail(self, event: Event, reason: str, retry_after_seconds: float | None) -> None:
        self._failed += 1
        self._failures_in_row += 1
        asked_seconds = min(retry_after_seconds or 0.0, _LONGEST_PAUSE_SECONDS)
        tries = self._failures_in_row - _SEEMS_DOWN + 1
        alone_seconds = max(asked_seconds, _pause(_PROBES, tries) if tries > 0 else 0.0)
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + alone_seconds)
        failures = event.failures + 1
        pause_seconds = max(asked_seconds, _pause(_PAUSES, failures))
        self._events.postpone(event.job_id, failures, time.time_ns() + int(pause_seconds * 1e9))
        logged = self._failures_in_row if tries > 0 else failures
        if not logged & (logged - 1):  # only failures 1, 2, 4, 8, ... are logged
            _log.warning(
                "hook-failed",
                job=event.job_id,
                slot=event.slot,
                failures=failures,
                pending=self._events.pending,
                error=reason,
                again_in=round(pause_seconds, 1),
            )


def _pause(pauses: wait_random_exponential, failures: int) -> float:
    """Return how long to wait after so many failures, in seconds."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = failures
    return float(pauses(state))
