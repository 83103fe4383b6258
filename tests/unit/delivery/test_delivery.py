"""Delivery: order of steps, existing files, failures, and workers that die or hang."""

import asyncio
import contextlib
import dataclasses
import errno
import os
import random
import resource
import select
import signal
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.daemon import delivery_workers_of, wait_until
from wasmdrop.delivery.delivery import Delivery, DeliveryLostError
from wasmdrop.delivery.fsync import FsyncBatch
from wasmdrop.delivery.wire import (
    Abandon,
    DeliveryReport,
    DeliveryRequest,
    Finished,
    FrameDecoder,
    Publish,
    ResultPackage,
    Stage,
    decode_request,
    encode,
)
from wasmdrop.delivery.worker import DeliveryWorker
from wasmdrop.protocol.slot import Slot
from wasmdrop.system.durable_files import TEMPORARY_PREFIX
from wasmdrop.system.untrusted_trees import inventory

PACKAGE = ResultPackage({".json": b"{}\n", ".txt": b"1\n"}, b'{"marker":1}\n')
OTHER = ResultPackage({".json": b"[]\n", ".txt": b"2\n"}, b'{"marker":2}\n')

PLACED = {"result.json": b"{}\n", "result.txt": b"1\n", "result.done": b'{"marker":1}\n'}


def slot_in(directory: Path, name: str = "input.json", stem: str = "result") -> Slot:
    """Return a slot of this directory."""
    return Slot(name, str(directory / name), str(directory), stem)


def run(shared: Path, work: Callable[[Delivery], Awaitable[None]], *, prints: bool = False) -> None:
    """Let ``work`` use a delivery with its real processes, to the end."""

    async def use() -> None:
        with Delivery(str(shared), prints_lines=prints) as delivery:
            await work(delivery)

    asyncio.run(use())
    assert delivery_workers_of(os.getpid()) == []


def deliver(directory: Path, package: ResultPackage = PACKAGE, shared: Path | None = None) -> None:
    """Deliver into ``directory``, by a process."""
    seen: list[ResultPackage] = []

    async def place() -> None:
        with Delivery(str(shared or directory), seen.append) as delivery:
            await delivery.deliver(slot_in(directory), package)

    asyncio.run(place())
    assert seen == [package]


@dataclasses.dataclass
class Bench:
    """A worker in this process, where calls can be watched."""

    shared: Path
    answers: list[DeliveryReport] = dataclasses.field(default_factory=list)
    lines: list[bytes] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = DeliveryWorker(
            str(self.shared),
            f"{TEMPORARY_PREFIX}test-",
            self.answers.extend,
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
            package.files,
            package.marker,
            package.line,
            output and msgspec.structs.replace(output, root=""),
            os.fsencode(output.root) if output else b"",
            may_be_published,
        )

    def handle(self, *requests: DeliveryRequest) -> Sequence[DeliveryReport]:
        """Have requests handled together; return the new reports."""
        before = len(self.answers)
        self.worker.handle(requests)
        return self.answers[before:]


def content(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def temporaries(directory: Path) -> list[Path]:
    """Return what is there under temporary names."""
    return [path for path in directory.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]


async def until(look: Callable[[], object], what: str) -> None:
    """Wait for something to be true while the loop goes on."""
    await asyncio.to_thread(wait_until, look, what)


def descriptors() -> int:
    """Return how many descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def processes(count: int) -> list[int]:
    """Return this process's that deliver, when there are so many: a new one has no name at once."""

    def look() -> list[int] | None:
        found = delivery_workers_of(os.getpid())
        return found if len(found) == count else None

    return wait_until(look, f"{count} processes that deliver")


def watch(monkeypatch: pytest.MonkeyPatch, directory: Path) -> list[str]:
    """Return a list that grows by each call that changes names or makes anything durable."""
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


def test_delivery_over_earlier_results_replaces_all_files(tmp_path: Path) -> None:
    """Files of the earlier job that the new one does not write are removed."""
    (tmp_path / "result.stdout").write_bytes(b"of an earlier job")
    (tmp_path / "result.done").write_bytes(b"old")
    deliver(tmp_path)
    assert content(tmp_path) == PLACED


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


def test_delivery_over_special_files_replaces_them_unopened(tmp_path: Path) -> None:
    """The target of a link, a FIFO and the content of a directory are not touched."""
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.mkdir()
    outside.write_bytes(b"precious")
    (shared / "result.json").symlink_to(outside)
    os.mkfifo(shared / "result.txt")
    (shared / "result.done").mkdir()
    (shared / "result.done" / "kept").write_bytes(b"kept")
    (shared / "result.stdout").mkdir()
    deliver(shared)
    assert outside.read_bytes() == b"precious"
    assert content(shared)["result.json"] == b"{}\n"
    assert content(shared)["result.txt"] == b"1\n"
    assert content(shared)["result.done"] == b'{"marker":1}\n'
    (aside,) = shared.glob("result.done.aside-*")
    assert (aside / "kept").read_bytes() == b"kept"
    assert not (shared / "result.stdout").exists()


def test_delivery_to_slot_that_became_a_link_fails(tmp_path: Path) -> None:
    """Nothing is written through the link."""
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    (shared / "slot").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic"):
        deliver(shared / "slot", shared=shared)
    assert list(elsewhere.iterdir()) == []


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
    answers = bench.handle(lost, bench.stage(2), Publish(1), Publish(2))
    assert [
        (answer.number, answer.error is None) for answer in answers if isinstance(answer, Finished)
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


def test_worker_reports_before_it_removes_leftovers(tmp_path: Path) -> None:
    """Without a report the daemon delivers again, and needs the output files once more."""
    shared, left = tmp_path / "shared", tmp_path / "left"
    for directory in (shared, left):
        directory.mkdir()
    (left / "file").write_bytes(b"content")
    package = ResultPackage(PACKAGE.files, PACKAGE.marker, inventory(str(left), 100))
    seen: list[bool] = []
    worker = DeliveryWorker(
        str(shared), TEMPORARY_PREFIX, lambda _answers: seen.append(left.exists()), lambda *_: None
    )
    worker.handle([Bench(shared).stage(1, package), Publish(1)])
    assert seen == [True]
    while worker.remove_some():
        pass
    assert not left.exists()
    assert (shared / "result.output" / "file").read_bytes() == b"content"


def test_abandoned_delivery_leaves_no_file(tmp_path: Path) -> None:
    """Whether it was staged already or not. The next delivery is not affected."""

    async def work(delivery: Delivery) -> None:
        delivery.stage(slot_in(tmp_path), OTHER).abandon()
        placement = delivery.stage(slot_in(tmp_path), OTHER)
        await until(lambda: len(temporaries(tmp_path)) == 3, "what is staged")
        placement.abandon()
        await until(lambda: not temporaries(tmp_path), "it to go")
        assert content(tmp_path) == {}
        await delivery.deliver(slot_in(tmp_path), PACKAGE)
        assert not placement.done.done()

    run(tmp_path, work)
    assert content(tmp_path) == PLACED


def test_staged_results_are_removed_when_the_daemon_exits(tmp_path: Path) -> None:
    """The old results stay unchanged."""
    deliver(tmp_path)

    async def work(delivery: Delivery) -> None:
        delivery.stage(slot_in(tmp_path), OTHER)
        await until(lambda: len(temporaries(tmp_path)) == 3, "what is staged")
        seen = {name: data for name, data in content(tmp_path).items() if name[0] != "."}
        assert seen == PLACED

    run(tmp_path, work)
    assert content(tmp_path) == PLACED


def test_worker_that_dies_before_publishing_is_replaced(tmp_path: Path) -> None:
    """Its staged results fail; the next delivery starts another worker."""
    deliver(tmp_path)

    async def work(delivery: Delivery) -> None:
        placement = delivery.stage(slot_in(tmp_path), OTHER)
        await until(lambda: len(temporaries(tmp_path)) == 3, "what is staged")
        (process,) = processes(1)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(DeliveryLostError) as caught:
            await placement.publish()
        assert caught.value.errno == errno.EIO
        seen = {name: data for name, data in content(tmp_path).items() if name[0] != "."}
        assert seen == PLACED
        await delivery.deliver_again(slot_in(tmp_path), OTHER)
        assert processes(1) != [process]

    with capture_logs() as logs:
        run(tmp_path, work)
    assert [event["event"] for event in logs] == ["delivery-worker-died"]
    assert (
        content(tmp_path).items() >= {"result.json": b"[]\n", "result.done": OTHER.marker}.items()
    )


def test_worker_that_died_idle_fails_one_delivery(tmp_path: Path) -> None:
    """The next delivery fails at once, the one after it succeeds."""

    async def work(delivery: Delivery) -> None:
        (process,) = processes(1)
        os.kill(process, signal.SIGKILL)
        # The loop is not to hear of it yet.
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        placed = delivery.deliver(slot_in(tmp_path), PACKAGE)
        with pytest.raises(DeliveryLostError):
            await placed
        await delivery.deliver(slot_in(tmp_path), PACKAGE)

    run(tmp_path, work)
    assert content(tmp_path) == PLACED


def test_probe_of_directory_that_can_not_be_opened_fails(tmp_path: Path) -> None:
    """It writes nothing and follows no link."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")

    async def work(delivery: Delivery) -> None:
        await delivery.probe(str(tmp_path / "there"))
        for name, error in (("gone", FileNotFoundError), ("link", OSError)):
            with pytest.raises(error):
                await delivery.probe(str(tmp_path / name))

    run(tmp_path, work)
    assert list((tmp_path / "there").iterdir()) == []


def test_retry_does_not_delay_new_deliveries(tmp_path: Path) -> None:
    """They have separate workers: one that hangs does not affect the other."""

    async def work(delivery: Delivery) -> None:
        (first,) = processes(1)
        await delivery.deliver_again(slot_in(tmp_path), PACKAGE)
        (again,) = set(processes(2)) - {first}
        os.kill(again, signal.SIGSTOP)
        held = delivery.deliver_again(slot_in(tmp_path, stem="result-held"), PACKAGE)
        await delivery.deliver(slot_in(tmp_path, stem="result-other"), PACKAGE)
        assert not held.done()
        os.kill(again, signal.SIGCONT)
        await held

    run(tmp_path, work)
    names = {path.name for path in tmp_path.glob("*.done")}
    assert names == {"result.done", "result-held.done", "result-other.done"}


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1 << 30), (1000, 3 * 100_000)])
def test_worker_that_hangs_gets_a_bounded_number_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    """Further deliveries fail at once. When it continues, all deliveries succeed."""
    monkeypatch.setattr("wasmdrop.delivery.worker_process._HANGS_SECONDS", 0.0)
    monkeypatch.setattr("wasmdrop.delivery.worker_process._MAX_WAITING", most)
    monkeypatch.setattr("wasmdrop.delivery.worker_process._MAX_WAITING_BYTES", most_bytes)
    large = ResultPackage({".json": b"x" * 100_000, ".txt": b""}, b"marker")
    slots = [slot_in(tmp_path, stem=f"result-{number}") for number in range(4)]

    async def work(delivery: Delivery) -> None:
        (process,) = processes(1)
        os.kill(process, signal.SIGSTOP)
        held = [delivery.deliver(slot, large) for slot in slots[:3]]
        with pytest.raises(TimeoutError, match="does not answer"):
            await delivery.deliver(slots[3], large)
        os.kill(process, signal.SIGCONT)
        await asyncio.gather(*held)
        await delivery.deliver(slots[3], large)

    run(tmp_path, work)
    assert len(list(tmp_path.glob("*.done"))) == len(slots)


class Clock:
    """The monotonic clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return time.monotonic() + self.ahead_seconds


def test_worker_that_hangs_is_logged_once_until_it_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the mount point and the number of results."""
    clock = Clock()
    monkeypatch.setattr("wasmdrop.delivery.worker_process.time", clock)

    async def work(delivery: Delivery) -> None:
        (process,) = processes(1)
        for turn in range(2):
            os.kill(process, signal.SIGSTOP)
            placements = [
                delivery.stage(slot_in(tmp_path, stem=f"result-{turn}-{number}"), PACKAGE)
                for number in range(5)
            ]
            placed = [placement.publish() for placement in placements]
            clock.ahead_seconds += 3600
            assert all(placement.hangs() for placement in placements)
            os.kill(process, signal.SIGCONT)
            await asyncio.gather(*placed)
            assert not any(placement.hangs() for placement in placements)

    with capture_logs() as logs:
        run(tmp_path, work)
    assert [(log["event"], log["undelivered"]) for log in logs] == [
        ("delivery-worker-stalled", 5)
    ] * 2
    assert Path(logs[0]["mount"]).is_mount()


def test_worker_that_reports_regularly_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the last of many results waits."""
    clock = Clock()
    monkeypatch.setattr("wasmdrop.delivery.worker_process.time", clock)

    async def work(delivery: Delivery) -> None:
        (process,) = processes(1)
        slots = [slot_in(tmp_path, stem=f"result-{number}") for number in range(1000)]
        placements = [delivery.stage(slot, PACKAGE) for slot in slots]
        placed = [placement.publish() for placement in placements]
        clock.ahead_seconds = 3600
        await placed[0]
        os.kill(process, signal.SIGSTOP)
        assert not placed[-1].done()
        assert not placements[-1].hangs()
        os.kill(process, signal.SIGCONT)
        await asyncio.gather(*placed)

    with capture_logs() as logs:
        run(tmp_path, work)
    assert logs == []


def test_worker_with_unread_report_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop may be busy, or the daemon may have been stopped for an hour."""
    clock = Clock()
    monkeypatch.setattr("wasmdrop.delivery.worker_process.time", clock)

    async def work(delivery: Delivery) -> None:
        placement = delivery.stage(slot_in(tmp_path), PACKAGE)
        placed = placement.publish()
        (process,) = delivery._workers.values()
        # Not by the loop, which would read the answer.
        wait_until(lambda: bool(select.select([process._link], [], [], 0)[0]), "the answer")
        clock.ahead_seconds = 3600
        assert not placement.hangs()
        await placed

    with capture_logs() as logs:
        run(tmp_path, work)
    assert logs == []


def test_shutdown_finishes_requested_deliveries(tmp_path: Path) -> None:
    """Also requests that the worker has not read yet. Its reports are not read any more."""
    large = ResultPackage({".json": b"x" * 300_000, ".txt": b""}, b"marker")
    slots = [slot_in(tmp_path, stem=f"result-{number}") for number in range(40)]

    async def work(delivery: Delivery) -> None:
        placed = [delivery.deliver(slot, large) for slot in slots]
        await asyncio.sleep(0)
        assert not any(one.done() for one in placed)

    run(tmp_path, work)
    assert len(list(tmp_path.glob("*.done"))) == len(slots)
    assert temporaries(tmp_path) == []


def test_idle_worker_exits_unless_it_is_the_shared_directory_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one stays, also after a restart; the others are started again when needed."""
    monkeypatch.setattr("wasmdrop.delivery.worker_process._IDLE_SECONDS", 0.05)
    shared = tmp_path / "shared"
    shared.mkdir()

    def package(number: int) -> ResultPackage:
        left = tmp_path / str(number)
        left.mkdir()
        (left / "file").write_bytes(b"")
        return ResultPackage(PACKAGE.files, PACKAGE.marker, inventory(str(left), 0))

    async def work(delivery: Delivery) -> None:
        (first,) = processes(1)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(DeliveryLostError):
            await delivery.deliver(slot_in(shared), PACKAGE)
        await delivery.deliver(slot_in(shared), PACKAGE)
        (second,) = processes(1)
        for number in range(2):
            await delivery.deliver(slot_in(shared), package(number))
            await until(lambda: len(delivery_workers_of(os.getpid())) == 1, "the end of the other")
            assert processes(1) == [second]
        await asyncio.sleep(0.2)
        assert processes(1) == [second]

    with capture_logs() as logs:
        run(shared, work)
    assert [event["event"] for event in logs] == ["delivery-worker-died"]


def test_many_deliveries_at_once_need_few_descriptors(tmp_path: Path) -> None:
    """As when a full disk has room again and all waiting deliveries are retried."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work(delivery: Delivery) -> None:
        slots = [slot_in(tmp_path, stem=f"result-{number}") for number in range(600)]
        await asyncio.gather(*(delivery.deliver(slot, PACKAGE) for slot in slots))

    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))  # the processes inherit it
    try:
        run(tmp_path, work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.glob("*.done"))) == 600


def test_worker_without_reader_publishes_and_cleans_up(tmp_path: Path) -> None:
    """It publishes what was requested and removes the other staged files."""

    def let_go(process: int, held: int) -> None:
        wait_until(lambda: descriptors() < held, "the end of the link")
        os.kill(process, signal.SIGCONT)

    continued: list[threading.Thread] = []

    async def work(delivery: Delivery) -> None:
        (process,) = processes(1)
        os.kill(process, signal.SIGSTOP)
        delivery.stage(slot_in(tmp_path, stem="result-a"), OTHER)
        placed = delivery.deliver(slot_in(tmp_path), PACKAGE)
        await asyncio.sleep(0)
        assert not placed.done()
        continued.append(threading.Thread(target=let_go, args=(process, descriptors())))
        continued[0].start()

    run(tmp_path, work)
    continued[0].join()
    assert content(tmp_path) == PLACED


def test_large_results_arrive_complete(tmp_path: Path) -> None:
    """In as many parts as the link takes, with others behind them."""
    data = random.Random(1).randbytes(8_000_000)  # noqa: S311 - any bytes
    large = ResultPackage({".json": data, ".txt": b""}, b"marker")

    async def work(delivery: Delivery) -> None:
        first = delivery.deliver(slot_in(tmp_path, stem="result-a"), large)
        await asyncio.sleep(0)
        await asyncio.gather(first, delivery.deliver(slot_in(tmp_path), PACKAGE))

    run(tmp_path, work)
    assert (tmp_path / "result-a.json").read_bytes() == data
    assert (tmp_path / "result.json").read_bytes() == b"{}\n"


@contextlib.contextmanager
def standard_output(fd: int) -> Iterator[None]:
    """Let processes that are started have ``fd`` as their standard output."""
    ours = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


def test_result_lines_of_two_workers_do_not_mix(tmp_path: Path) -> None:
    """Lines longer than a pipe takes at once, beside short ones."""
    shared = tmp_path / "shared"
    shared.mkdir()
    reading, writing = os.pipe()
    chunks: list[bytes] = []

    def read() -> None:
        # Only now, when both have something to print and the pipe is full.
        wait_until(lambda: len(list(shared.glob("*-short.done"))) == 20, "the short ones")
        while chunk := os.read(reading, 4096):
            chunks.append(chunk)

    def package(number: int, kind: str) -> ResultPackage:
        output = None
        if kind != "others":  # what leaves files has a process of its own
            left = tmp_path / f"{number}-{kind}"
            left.mkdir()
            (left / "file").write_bytes(b"")
            output = inventory(str(left), 0)
        length = 100 if kind == "short" else 200_000  # more than a pipe holds
        line = b"%d" % (number % 10) * length + b"\n"
        return ResultPackage({".json": line, ".txt": b""}, b"marker", output)

    async def work(delivery: Delivery) -> None:
        placed = [
            delivery.deliver(slot_in(shared, stem=f"result-{number}-{kind}"), package(number, kind))
            for kind in ("short", "long", "others")
            for number in range(20)
        ]
        processes(2)
        await asyncio.gather(*placed)

    reader = threading.Thread(target=read)
    reader.start()
    with standard_output(writing):
        os.close(writing)
        run(shared, work, prints=True)
    reader.join()
    os.close(reading)
    lines = b"".join(chunks).splitlines()
    assert len(lines) == 60
    assert {(line[:1] * len(line) == line, len(line)) for line in lines} == {
        (True, 100),
        (True, 200_000),
    }


def test_closed_standard_output_does_not_stop_deliveries(tmp_path: Path) -> None:
    """It is logged once."""
    reading, writing = os.pipe()
    os.close(reading)

    async def work(delivery: Delivery) -> None:
        await delivery.deliver(slot_in(tmp_path), OTHER)
        await until(lambda: logs, "the warning")
        await delivery.deliver(slot_in(tmp_path), PACKAGE)

    with capture_logs() as logs, standard_output(writing):
        os.close(writing)
        run(tmp_path, work, prints=True)
    assert [event["event"] for event in logs] == ["result-lines-stopped"]
    assert content(tmp_path) == PLACED


def test_delivery_to_names_of_any_bytes_succeeds(tmp_path: Path) -> None:
    """Names of the shared directory, of a slot, of a stem, and of output files."""
    shared = tmp_path / os.fsdecode(b"shared-\xff")
    directory = shared / os.fsdecode(b"slot-\xfe'\n")
    left = tmp_path / os.fsdecode(b"left-\xfd")
    for each in (directory, left):
        each.mkdir(parents=True)
    (left / "file").write_bytes(b"content")
    stem = os.fsdecode(b"result-\xfc")
    package = ResultPackage(PACKAGE.files, PACKAGE.marker, inventory(str(left), 100))

    async def work(delivery: Delivery) -> None:
        await delivery.deliver(slot_in(shared), PACKAGE)
        await delivery.deliver(slot_in(directory, stem=stem), package)
        with pytest.raises(FileNotFoundError) as caught:
            await delivery.deliver(slot_in(directory / "gone"), PACKAGE)
        assert "gone" in str(caught.value)
        str(caught.value).encode()

    run(shared, work)
    assert content(shared) == PLACED
    assert set(content(directory)) == {stem + suffix for suffix in (".json", ".txt", ".done")}
    assert (directory / f"{stem}.output" / "file").read_bytes() == b"content"


def test_frame_decoder_with_any_split_returns_all_bodies() -> None:
    """Byte by byte, and in any two parts."""
    requests: list[DeliveryRequest] = [Publish(1), Abandon(2), Publish(300)]
    data = b"".join(map(encode, requests))
    for at in range(len(data) + 1):
        frames = FrameDecoder()
        bodies = frames.feed(data[:at]) + frames.feed(data[at:])
        assert list(map(decode_request, bodies)) == requests
    frames = FrameDecoder()
    one_by_one = [body for byte in data for body in frames.feed(bytes([byte]))]
    assert list(map(decode_request, one_by_one)) == requests
