"""The pipeline: in which order drops of intake reach the journal."""

from dataclasses import fields
from typing import Any, cast

from wasmdrop.intake.drops import CancelFile, DoneInput, GoneFile
from wasmdrop.service.pipeline import Pipeline


class Calls:
    """Stands for every object of a pipeline, and keeps the names of calls with their arguments."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self.made.append((name, *arguments, *named.values()))


def calls_of(drop: GoneFile | CancelFile | DoneInput) -> list[tuple[Any, ...]]:
    """Return the calls that a drop causes, without the reasons of cancellations."""
    calls = Calls()
    one = cast("Any", calls)
    Pipeline(*(one for _part in fields(Pipeline))).take(drop)
    return [call[:2] + call[3:] if call[0] == "cancel_slot" else call for call in calls.made]


def test_take_gone_input_cancels_before_its_version_is_forgotten() -> None:
    """The other way round, a crash in between would leave a job that no removal ends."""
    cancelled, forgotten = ("cancel_slot", "input.json", False), ("forget", "/s/input.json")
    assert calls_of(GoneFile("/s/input.json", "input.json")) == [cancelled, forgotten]
    assert calls_of(GoneFile("/s/module.wasm", None)) == [("forget", "/s/module.wasm")]


def test_take_cancel_file_cancels_before_its_version_is_remembered() -> None:
    """The other way round, a crash in between would lose the cancellation."""
    cancelled = ("cancel_slot", "input.json", True)
    remembered = ("remember", {"/s/input.json.cancel": b"1"})
    path = "/s/input.json.cancel"
    assert calls_of(CancelFile("input.json", path, b"1")) == [cancelled, remembered]
    assert calls_of(CancelFile("input.json", path, None)) == [cancelled]
    assert calls_of(DoneInput(path, b"1")) == [remembered]
