"""Overviews are made one at a time, at most once a second, and shared by all clients."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop import settings
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.work_table import WorkTable
from wasmdrop.page.activity import Activity
from wasmdrop.page.journal_queries import JournalQueries
from wasmdrop.page.main_loop import MainLoop, NoAnswerError
from wasmdrop.page.model import Health, Overview
from wasmdrop.page.overview import OverviewMaker
from wasmdrop.page.sources import Sources
from wasmdrop.settings import GuestMode


class FakeLoop:
    """The daemon's event loop: the test's own, if it answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.hangs = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def call(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine when it goes on."""
        self.calls += 1
        if self.hangs:
            raise NoAnswerError("it hangs")
        await self.goes_on.wait()
        return await function()


class FakeCompiler:
    """A compiler that has compiled nothing."""

    seconds: dict[str, float] = {}  # noqa: RUF012 - never changed


class FakeCache:
    """An empty cache."""

    total_bytes = 0


class Clock:
    """A clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class Made:
    """A maker of overviews of a daemon without jobs."""

    def __init__(self, base: Path) -> None:
        directories = {
            f"WASMDROP_{name.upper()}_DIR": str(base / name) for name in ("shared", "wasm", "state")
        }

        async def health() -> Health:
            return Health(is_alive=True, is_ready=True)

        async def cancel(_job: str, _reason: str) -> bool:
            return False

        self.loop = FakeLoop()
        self.clock = Clock()
        sources = Sources(
            settings=settings.load(directories, {}).settings,
            guest=GuestMode.PYTHON,
            table=WorkTable(None),  # type: ignore[arg-type]
            metrics=Metrics(),
            compiler=FakeCompiler(),  # type: ignore[arg-type]
            cache=FakeCache(),  # type: ignore[arg-type]
            loop=asyncio.get_running_loop(),
            cancel=cancel,
            health=health,
            silent_seconds=lambda: 0.0,
            space={str(base / "state"): (1, 2)},
        )
        self.maker = OverviewMaker(
            *(sources, Activity(lambda _seconds: None), JournalQueries(base / "state"), self.loop),  # type: ignore[arg-type]
            has_login=True,
            clock=self.clock,
        )


def test_overview_of_many_clients_is_made_once(tmp_path: Path) -> None:
    """Again after a second; one that leaves does not end it for the others."""

    async def ask() -> None:
        it = Made(tmp_path)
        it.loop.goes_on.clear()
        asked = [asyncio.create_task(it.maker.json()) for _ in range(50)]
        await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.sleep(0)
        it.loop.goes_on.set()
        answers = await asyncio.gather(*asked[1:])
        assert len(set(answers)) == 1
        overview = msgspec.json.decode(answers[0], type=Overview)
        assert overview.login
        assert overview.storage.volumes[0].free_bytes == 1
        it.clock.seconds = 0.9
        await it.maker.json()
        assert it.loop.calls == 1
        it.clock.seconds = 2.0
        await it.maker.json()
        assert it.loop.calls == 2

    asyncio.run(ask())


def test_overview_after_one_that_failed_is_made_anew(tmp_path: Path) -> None:
    """All who waited for the failed one get the error."""

    async def ask() -> None:
        it = Made(tmp_path)
        it.loop.hangs = True
        errors = await asyncio.gather(*(it.maker.json() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(error, NoAnswerError) for error in errors)
        assert it.loop.calls == 1
        it.loop.hangs = False
        assert await it.maker.json()

    asyncio.run(ask())


def test_main_loop_that_hangs_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says for how long; a loop that is closed is one that stops."""
    monkeypatch.setattr("wasmdrop.page.main_loop._ANSWER_SECONDS", 0.05)

    async def answer() -> int:
        return 7

    async def ask(loop: asyncio.AbstractEventLoop) -> int:
        return await MainLoop(loop, lambda: 33.0).call(answer)

    hung = asyncio.new_event_loop()
    with pytest.raises(NoAnswerError, match="has not answered for 33 s"):
        asyncio.run(ask(hung))
    hung.run_until_complete(asyncio.sleep(0))
    hung.close()
    with pytest.raises(NoAnswerError, match="is stopping"):
        asyncio.run(ask(hung))
