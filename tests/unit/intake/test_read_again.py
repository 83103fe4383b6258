"""Reading an input again, for a rerun."""

import threading
from pathlib import Path

import pytest

from wasmdrop import settings
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import Drop, InputDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import open_for_writing


class ReadDuringDrop:
    """An intake whose drops are read again by another thread just before they are emitted."""

    def __init__(self, base: Path) -> None:
        self.shared = base / "shared"
        places = {
            "WASMDROP_WASM_DIR": str(self.shared),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
        }
        self.shared.mkdir()
        loaded = settings.load(places, {}).settings
        open_for_writing(base / "journal.sqlite").close()
        self.layout = Layout(loaded)
        self.happened: list[str] = []
        self.intake = Intake(
            loaded,
            self.layout,
            TakenVersions(base / "journal.sqlite", pytest.fail),
            Backlog(100),
            lambda _slot, _reference: None,
            self._emit,
        )
        self.reader = threading.Thread(target=self._read)

    def _emit(self, drop: Drop) -> None:
        assert isinstance(drop, InputDrop)
        self.reader.start()
        self.reader.join(0.2)
        self.happened.append("emitted")

    def _read(self) -> None:
        slot = self.layout.slot_of(str(self.shared / "input.json"))
        assert slot is not None
        assert self.intake.read_again(slot) is not None
        self.happened.append("read")


def test_read_again_of_an_input_that_is_being_taken_follows_its_drop(tmp_path: Path) -> None:
    """Else a dropped module could rerun the slot before the job of the drop is known."""
    bench = ReadDuringDrop(tmp_path)
    path = bench.shared / "input.json"
    path.write_text("{}")
    bench.intake.consider(str(path))
    bench.reader.join()
    bench.intake.close()
    assert bench.happened == ["emitted", "read"]
