"""DeliveryWorker: the order of its steps, existing files, failures, and clean-up."""

import dataclasses
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.support.delivery import OTHER, PACKAGE, PLACED, content, descriptors, temporaries
from wasmdrop.delivery.fsync import FsyncBatch
from wasmdrop.delivery.wire import (
    Abandon,
    DeliveryReport,
    DeliveryRequest,
    Finished,
    Publish,
    ResultPackage,
    Stage,
)
from wasmdrop.delivery.worker import DeliveryWorker
from wasmdrop.system.durable_files import TEMPORARY_PREFIX
from wasmdrop.system.untrusted_trees import inventory


@dataclasses.dataclass
class Bench:
    """A worker in this process, whose calls can be recorded."""

    shared: Path
    reports: list[DeliveryReport] = dataclasses.field(default_factory=list)
    lines: list[bytes] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = DeliveryWorker(
            str(self.shared),
            f"{TEMPORARY_PREFIX}test-",
            self.reports.extend,
            self.lines.append,
        )

    def stage(
        self, number: int, package: ResultPackage = PACKAGE, *, may_be_published: bool = False
    ) -> Stage:
        """Return a request for the one slot."""
        output = package.output
        return Stage(
            number,
            os.fsencode(self.shared),
            None,
            b"result",
            msgspec.structs.replace(
                package, output=output and msgspec.structs.replace(output, root="")
            ),
            os.fsencode(output.root) if output else b"",
            may_be_published,
        )

    def handle(self, *requests: DeliveryRequest) -> Sequence[DeliveryReport]:
        """Have requests handled together; return the new reports."""
        before = len(self.reports)
        self.worker.handle(requests)
        return self.reports[before:]


def watch(monkeypatch: pytest.MonkeyPatch, directory: Path) -> list[str]:
    """Return a list that records each rename, removal and sync."""
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("unlink", "replace")}
    begin, finish = FsyncBatch.begin, FsyncBatch.finish
    begun: dict[FsyncBatch, Sequence[int]] = {}

    def kind(fd: int) -> str:
        target = Path(f"/proc/self/fd/{fd}").readlink()
        return "directory" if target == directory else "file"

    def unlink(name: str, *, dir_fd: int) -> None:
        real["unlink"](name, dir_fd=dir_fd)
        calls.append(f"unlink {name}")

    def replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append(f"rename {target}")
        real["replace"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def remember(syncs: FsyncBatch, fds: Sequence[int]) -> None:
        begun[syncs] = fds
        begin(syncs, fds)

    def tell(syncs: FsyncBatch) -> list[OSError | None]:
        errors = finish(syncs)
        assert not any(errors)
        calls.extend(f"sync {kind(fd)}" for fd in begun.pop(syncs))
        return errors

    for name, stand_in in (("unlink", unlink), ("replace", replace)):
        monkeypatch.setattr(os, name, stand_in)
    monkeypatch.setattr(FsyncBatch, "begin", remember)
    monkeypatch.setattr(FsyncBatch, "finish", tell)
    return calls


@pytest.mark.parametrize("is_staged_before", [False, True])
def test_delivery_changes_results_only_without_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_staged_before: bool
) -> None:
    """Whenever a result file changes, the marker is absent, durably."""
    bench = Bench(tmp_path)
    bench.handle(bench.stage(1), Publish(1))
    calls = watch(monkeypatch, tmp_path)
    if is_staged_before:
        assert bench.handle(bench.stage(2, OTHER)) == []
        assert calls == ["sync file"] * 3
        assert bench.handle(Publish(2)) == [Finished(2)]
    else:
        assert bench.handle(bench.stage(2, OTHER), Publish(2)) == [Finished(2)]
    assert calls == [
        *["sync file"] * 3,
        "unlink result.done",
        "sync directory",
        "rename result.json",
        "rename result.txt",
        "sync directory",
        "rename result.done",
        "sync directory",
    ]
    assert bench.lines == [b"{}\n", b"[]\n"]


def test_delivery_that_fails_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a marker: the slot may hold a mixture of old and new files."""
    bench = Bench(tmp_path)
    bench.handle(bench.stage(1), Publish(1))

    def replace(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    (answer,) = bench.handle(bench.stage(2), Publish(2))
    assert answer == Finished(2, (errno.ENOSPC, "No space left on device", None))
    assert sorted(content(tmp_path)) == ["result.json", "result.txt"]
    assert len(bench.lines) == 1


def test_stage_that_fails_keeps_old_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is reported when the results are to be published, not before."""
    bench = Bench(tmp_path)
    bench.handle(bench.stage(1), Publish(1))

    finish = FsyncBatch.finish

    def fail(syncs: FsyncBatch) -> list[OSError | None]:
        return [OSError(errno.EIO, "Input/output error") for _ in finish(syncs)]

    with monkeypatch.context() as patched:
        patched.setattr(FsyncBatch, "finish", fail)
        assert bench.handle(bench.stage(2, OTHER)) == []
    assert bench.handle(Publish(2)) == [Finished(2, (errno.EIO, "Input/output error", None))]
    assert content(tmp_path) == PLACED
    assert temporaries(tmp_path) == []


def test_batch_with_failing_request_delivers_the_others(tmp_path: Path) -> None:
    """All of them go through the steps together."""
    bench = Bench(tmp_path)
    lost = dataclasses.replace(bench, shared=tmp_path / "gone").stage(1)
    reports = bench.handle(lost, bench.stage(2), Publish(1), Publish(2))
    assert [
        (answer.number, answer.error is None) for answer in reports if isinstance(answer, Finished)
    ] == [
        (1, False),
        (2, True),
    ]
    assert content(tmp_path) == PLACED


def test_worker_keeps_no_descriptor_open(tmp_path: Path) -> None:
    """However a delivery ends."""
    bench = Bench(tmp_path)
    before = descriptors()
    gone = dataclasses.replace(bench, shared=tmp_path / "gone")
    for number in range(0, 50, 5):
        bench.handle(bench.stage(number), gone.stage(number + 1))
        bench.handle(bench.stage(number + 2), Publish(number), bench.stage(number + 3))
        bench.handle(Publish(number + 1), Abandon(number + 2), Publish(number + 3))
        bench.handle(bench.stage(number + 4), Abandon(number + 4))
    assert descriptors() == before
    bench.handle(bench.stage(50))
    assert descriptors() == before + 1  # the directory's
    bench.worker.close()
    assert descriptors() == before
    assert temporaries(tmp_path) == []


def test_retry_of_published_results_only_syncs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker before may have died just before it reported them."""
    bench = Bench(tmp_path)
    bench.handle(bench.stage(1), Publish(1))
    calls = watch(monkeypatch, tmp_path)
    assert bench.handle(bench.stage(2, may_be_published=True), Publish(2)) == [Finished(2)]
    assert calls == ["sync directory"]
    assert len(bench.lines) == 1


@pytest.mark.parametrize("kind", ["nothing", "another", "longer", "link", "fifo", "directory"])
def test_retry_of_unpublished_results_publishes_them(tmp_path: Path, kind: str) -> None:
    """Only this very marker shows that all of them are in place."""
    marker = tmp_path / "result.done"
    if kind == "another":
        marker.write_bytes(OTHER.marker)
    elif kind == "longer":
        marker.write_bytes(PACKAGE.marker + b"\n")
    elif kind == "link":
        (tmp_path / "target").write_bytes(PACKAGE.marker)
        marker.symlink_to("target")
    elif kind == "fifo":
        os.mkfifo(marker)
    elif kind == "directory":
        marker.mkdir()
    bench = Bench(tmp_path)
    assert bench.handle(bench.stage(1, may_be_published=True), Publish(1)) == [Finished(1)]
    assert content(tmp_path).items() >= PLACED.items()
    assert stat.S_ISREG(marker.lstat().st_mode)
    assert bench.lines == [b"{}\n"]


@pytest.mark.parametrize("count", [3, 7, 100])
def test_staged_output_is_durable_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each file and directory is synced after its last change, beside the result files or before.

    A hundred files are more than the copy leaves to the batch of the result files.
    """
    shared, left = tmp_path / "shared", tmp_path / "left"
    (left / "inner").mkdir(parents=True)
    shared.mkdir()
    names = [f"inner/{number}" for number in range(count)]
    for name in names:
        (left / name).write_bytes(b"content")
    begin, fsync = FsyncBatch.begin, os.fsync
    synced: list[tuple[str, int]] = []

    def remember(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        relative = "/".join(path.relative_to(shared).parts[1:])
        synced.append((relative, path.stat().st_mode if path.is_dir() else path.stat().st_size))

    def begin_all(syncs: FsyncBatch, fds: Sequence[int]) -> None:
        for fd in fds:
            remember(fd)
        begin(syncs, fds)

    def sync_one(fd: int) -> None:
        remember(fd)
        fsync(fd)

    package = ResultPackage(PACKAGE.files, PACKAGE.marker, inventory(str(left), 1000))
    bench = Bench(shared)
    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(FsyncBatch, "begin", begin_all)
        patched.setattr(os, "fsync", sync_one)
        bench.handle(bench.stage(1, package))
    assert descriptors() == before + 1  # the directory's
    bench.handle(Publish(1))
    output = shared / "result.output"
    inside = [(name, len(b"content")) for name in names]
    inside += [("inner", (output / "inner").stat().st_mode), ("", output.stat().st_mode)]
    assert sorted(set(synced) - {("", len(data)) for data in PLACED.values()}) == sorted(inside)
    assert len(synced) == len(inside) + len(PLACED)


def test_worker_reports_before_it_removes_leftovers(tmp_path: Path) -> None:
    """Without a report the daemon delivers again, and needs the output files once more."""
    shared, left = tmp_path / "shared", tmp_path / "left"
    for directory in (shared, left):
        directory.mkdir()
    (left / "file").write_bytes(b"content")
    package = ResultPackage(PACKAGE.files, PACKAGE.marker, inventory(str(left), 100))
    seen: list[bool] = []
    worker = DeliveryWorker(
        str(shared), TEMPORARY_PREFIX, lambda _reports: seen.append(left.exists()), lambda *_: None
    )
    worker.handle([Bench(shared).stage(1, package), Publish(1)])
    assert seen == [True]
    while worker.remove_some():
        pass
    assert not left.exists()
    assert (shared / "result.output" / "file").read_bytes() == b"content"
