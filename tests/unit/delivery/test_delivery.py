"""Delivery: worker processes that die, hang or are idle, and what reaches the slot."""

import asyncio
import contextlib
import errno
import os
import random
import resource
import select
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.daemon import delivery_workers_of, wait_until
from tests.support.delivery import (
    OTHER,
    PACKAGE,
    PLACED,
    content,
    deliver,
    descriptors,
    slot_in,
    temporaries,
)
from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import (
    ResultPackage,
)
from wasmdrop.delivery.worker_process import DeliveryLostError
from wasmdrop.system.untrusted_trees import inventory


def run(shared: Path, work: Callable[[Delivery], Awaitable[None]], *, prints: bool = False) -> None:
    """Run ``work`` with a delivery that has real worker processes."""

    async def use() -> None:
        with Delivery(str(shared), prints_lines=prints) as delivery:
            await work(delivery)

    asyncio.run(use())
    assert delivery_workers_of(os.getpid()) == []


async def until(look: Callable[[], object], what: str) -> None:
    """Wait until ``look`` is true, while the event loop runs."""
    await asyncio.to_thread(wait_until, look, what)


def processes(count: int) -> list[int]:
    """Return the worker processes, as soon as there are ``count``."""

    def look() -> list[int] | None:
        found = delivery_workers_of(os.getpid())
        return found if len(found) == count else None

    return wait_until(look, f"{count} delivery workers")


def test_delivery_over_earlier_results_replaces_all_files(tmp_path: Path) -> None:
    """Files of the earlier job that the new one does not write are removed."""
    (tmp_path / "result.stdout").write_bytes(b"of an earlier job")
    (tmp_path / "result.done").write_bytes(b"old")
    deliver(tmp_path)
    assert content(tmp_path) == PLACED


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
    """A monotonic clock that a test can set forward."""

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
    """Give started processes ``fd`` as their standard output."""
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
