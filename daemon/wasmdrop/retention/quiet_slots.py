"""Keep slots quiet while their files are moved or removed.

No job of a quiet slot begins, and no thread of intake looks at its input.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from wasmdrop.intake.intake import Intake
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.slot import Slot


@dataclass
class Quiet:
    """Slots that are quiet for the duration of a block."""

    slots: list[Slot]
    busy: list[Slot]
    """Other slots: a thread of intake looks at their inputs now."""
    gone: set[str] = field(default_factory=set)
    """Paths of inputs that are gone, durably; to be filled by the block."""


class QuietSlots:
    """Used from the event loop. ``inbox_emptied``: see :meth:`.Inbox.emptied`."""

    def __init__(
        self,
        intake: Intake,
        dispatcher: Dispatcher,
        journal: Journal,
        inbox_emptied: Callable[[], Awaitable[None]],
    ) -> None:
        self._intake = intake
        self._dispatcher = dispatcher
        self._journal = journal
        self._inbox_emptied = inbox_emptied

    @contextlib.asynccontextmanager
    async def quiet(self, slots: Sequence[Slot]) -> AsyncIterator[Quiet]:
        """Keep those slots quiet that are not in use now.

        A slot is in use if it has an open job, or if a thread looks at its input. If the block is
        cancelled, they stay quiet: the daemon stops, and a thread may still be at work on them.
        """
        held: list[Slot] = []
        busy: list[Slot] = []
        for slot in slots:
            (held if self._intake.hold(slot.input_path) else busy).append(slot)
        # A drop that was read before has become a job then.
        await self._inbox_emptied()
        quiet = Quiet([slot for slot in held if self._dispatcher.reserve(slot.key)], busy)
        reserved = list(quiet.slots)
        try:
            yield quiet
        except Exception:
            self._end(held, reserved, quiet)
            raise
        self._end(held, reserved, quiet)

    def _end(self, held: list[Slot], reserved: list[Slot], quiet: Quiet) -> None:
        for path in quiet.gone:
            self._journal.forget(path)
        for slot in held:
            self._intake.release(slot.input_path, is_gone=slot.input_path in quiet.gone)
        for slot in reserved:
            self._dispatcher.free(slot.key)
