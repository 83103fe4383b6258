"""The directory of ``submit --save``, in which another user may plant things."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from wasmdrop.cli.saved_results import SaveDirectory
from wasmdrop.client import Result
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.outcome import Code, Status


def result(output: Mapping[str, bytes]) -> Result:
    """Return a result with these output files."""
    line = json.dumps({"results": [1]}).encode()
    return Result(
        *(Status.SUCCEEDED, Code.OK, "", (1,), None, b"out", None),
        output=dict(output),
        raw="1",
        line=line,
        text=b"1\n",
        receipt=None,
        marker={},
    )


@pytest.mark.parametrize("planted", ["result.json", "result.output", "result.output/a"])
def test_save_follows_no_planted_link(tmp_path: Path, planted: str) -> None:
    """Root saves in a directory of a user, who makes a link while the job runs."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    saved = SaveDirectory(str(tmp_path / "saved"))
    link = tmp_path / "saved" / planted
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere / "file" if planted == "result.json" else elsewhere)
    with pytest.raises(StorageError, match=r"--save: .*saved/result.*: "):
        saved.save(result({"a/file": b"evil"}))
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_text() == "precious"


def test_save_writes_into_the_directory_that_was_empty(tmp_path: Path) -> None:
    """Also if another one has its name by now."""
    saved = SaveDirectory(str(tmp_path / "saved"))
    (tmp_path / "saved").rename(tmp_path / "moved")
    (tmp_path / "other").mkdir()
    (tmp_path / "saved").symlink_to(tmp_path / "other")
    saved.save(result({"a/file": b"x", "a/b": b"y"}))
    assert list((tmp_path / "other").iterdir()) == []
    assert (tmp_path / "moved" / "result.output" / "a" / "file").read_bytes() == b"x"


def test_saved_results_are_synced_with_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--rm`` removes the job's own files then, and the power may fail."""
    synced = set()

    def fsync(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    target = tmp_path / "saved"
    SaveDirectory(str(target)).save(result({"a/file": b"x"}))
    assert synced == {tmp_path, target, *target.rglob("*")}
    assert target / "result.output" / "a" / "file" in synced
