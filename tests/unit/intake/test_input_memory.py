"""Memory for inputs is bounded, and no input that finds none is forgotten."""

from pathlib import Path

import pytest

from wasmdrop import settings
from wasmdrop.intake import input_memory as memory_module
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import Drop, InputDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing


@pytest.mark.parametrize("most_waiting", [10_000, 3])
def test_inputs_without_memory_wait_on_disk_and_are_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_waiting: int
) -> None:
    """An input that is larger than all memory is taken alone."""
    monkeypatch.setattr(memory_module, "_BUDGET_BYTES", 10_000)
    monkeypatch.setattr(memory_module, "_SMALL_INPUT_BYTES", 2000)
    monkeypatch.setattr(memory_module, "_MAX_WAITING", most_waiting)
    shared = tmp_path / "shared"
    for name in ("shared", "wasm", "state"):
        (tmp_path / name).mkdir()
    places = {f"WASMDROP_{name.upper()}_DIR": str(tmp_path / name) for name in ("wasm", "shared")}
    places["WASMDROP_STATE_DIR"] = str(tmp_path / "state")
    loaded = settings.load(places, {}).settings
    names = [f"input-{number}.json" for number in range(30)]
    for name in names:
        (shared / name).write_text(
            "{}" + " " * (20_000 if name == names[7] else 1800 + int(name[6:-5]) * 10)
        )
    journal = open_for_writing(tmp_path / "journal.sqlite")
    emitted: list[InputDrop] = []
    again: list[str] = []

    def emit(drop: Drop) -> None:
        assert isinstance(drop, InputDrop)
        emitted.append(drop)

    intake = Intake(
        loaded,
        Layout(loaded),
        TakenVersions(tmp_path / "journal.sqlite", pytest.fail),
        Backlog(1000),
        lambda _slot, _reference: None,
        emit,
        lambda path, _seconds: again.append(path),
    )
    for name in names:
        intake.consider(str(shared / name))
    assert len(emitted) < len(names)
    released = 0
    while released < len(emitted):
        in_memory = emitted[released:]
        sizes = [len(drop.data) for drop in in_memory]
        for some in (
            [size for size in sizes if size > 2000],
            [one for one in sizes if one <= 2000],
        ):
            assert len(some) <= 1 or sum(some) <= 10_000
        memory = emitted[released].memory
        assert memory is not None
        memory.release()
        released += 1
        while again:
            path = Path(again.pop(0))
            for one in sorted(path.glob("input*")) if path.is_dir() else [path]:
                intake.consider(str(one))
    assert sorted(drop.slot.key for drop in emitted) == sorted(names)
    intake.close()
    journal.close()
