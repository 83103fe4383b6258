"""The client library against files as the daemon writes them. The tests act as the daemon."""

import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.deliveries import deliver, files_below
from wasmdrop.client import Submission, TornResultError, submit
from wasmdrop.protocol.outcome import Code, Outcome, Status
from wasmdrop.system.slot_directory import SlotDirectory


class Clock:
    """A clock that advances only by pauses; ``during`` is called in each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_seconds = 0.0
        self.pauses: list[float] = []
        self.during: Callable[[], None] = lambda: None
        monkeypatch.setattr("wasmdrop.client.time.monotonic", lambda: self.now_seconds)
        monkeypatch.setattr("wasmdrop.client.time.sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_seconds += seconds
        self.during()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Yield a controlled clock."""
    return Clock(monkeypatch)


# --- Dropping


def test_submit_bytes_drops_them_unchanged_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The file has exactly these bytes; the temporary file is gone."""
    data = b'{"args": [1 , 2.50]}\r\n'
    submission = submit(tmp_path, data, "x")
    assert files_below(tmp_path) == ["input-x.json"]
    assert submission.input_path == tmp_path / "input-x.json"
    assert submission.input_path.read_bytes() == data


def test_submit_mapping_drops_json(tmp_path: Path) -> None:
    """In UTF-8, as the protocol requires."""
    submission = submit(tmp_path, {"entry": "fün", "args": [2**64]})
    text = submission.input_path.read_text("utf-8")
    assert text == '{"entry":"fün","args":[18446744073709551616]}'


@pytest.mark.parametrize("args", [[float("nan")], [float("inf")], ["\ud800"]])
def test_submit_mapping_unfit_for_json_is_refused_and_drops_nothing(
    tmp_path: Path, args: list[Any]
) -> None:
    """The protocol writes NaN as text, and can't represent half a character."""
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        submit(tmp_path, {"args": args})
    assert files_below(tmp_path) == []


def test_submit_existing_input_is_replaced_by_a_new_file(tmp_path: Path) -> None:
    """A process that has the old version open continues to read it."""
    submission = submit(tmp_path, b'{"args":[1]}', "x")
    with submission.input_path.open("rb") as old:
        submit(tmp_path, b"{}", "x")
        assert old.read() == b'{"args":[1]}'


def test_submit_failure_leaves_no_temporary_file(tmp_path: Path) -> None:
    """In this test a directory has the name."""
    (tmp_path / "input-x.json").mkdir()
    with pytest.raises(IsADirectoryError):
        submit(tmp_path, b"{}", "x")
    assert files_below(tmp_path) == []


def test_submit_file_mode_follows_the_umask(tmp_path: Path) -> None:
    """The daemon is usually another user, which could not read a private file."""
    before = os.umask(0o027)
    try:
        submission = submit(tmp_path, b"{}", module=b"\0asm")
    finally:
        os.umask(before)
    for path in (submission.input_path, submission.input_path.with_name("module.wasm")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("orders", "input-orders.json"),
        ("input-orders.json", "input-orders.json"),
        ("input.json", "input.json"),
        ("batch/2026/orders", "batch/2026/input-orders.json"),
        ("batch/input.json", "batch/input.json"),
        ("input", "input-input.json"),
        ("x" * 200, f"input-{'x' * 200}.json"),
        ("测试", "input-测试.json"),
        ("input-a b.json", "input-a b.json"),
        ("測" * 73, f"input-{'測' * 73}.json"),
    ],
)
def test_submit_name_chooses_the_slot(tmp_path: Path, name: str, slot: str) -> None:
    """A short or full name, with directories that are created."""
    submission = submit(tmp_path, b"{}", name)
    assert submission.slot == slot
    assert (tmp_path / slot).read_bytes() == b"{}"
    marker = (tmp_path / slot).with_name(Path(slot).name.replace("input", "result", 1))
    assert submission.marker_path == marker.with_suffix(".done")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a\nb",
        "a\u202eb",
        "\udcff",
        "測" * 74,
        "x" * 201,
        "../x",
        "/x",
        "a//x",
        ".hidden/x",
        "a.tmp/x",
        "a~/x",
        "a.part/x",
        "x/",
    ],
)
def test_submit_ignored_name_is_refused(tmp_path: Path, name: str) -> None:
    """There would never be a result, or the name leads out of the directory."""
    with pytest.raises(ValueError, match=r"^name: expected .* got "):
        submit(tmp_path, b"{}", name)
    assert files_below(tmp_path) == []


def test_submit_without_name_gets_a_new_slot(tmp_path: Path) -> None:
    """With a module it also gets a new directory."""
    plain = {submit(tmp_path, b"{}").slot for _ in range(50)}
    brought = {submit(tmp_path, b"{}", module=b"\0asm").input_path.parent for _ in range(50)}
    assert len(plain) == len(brought) == 50
    assert all(slot.startswith("input-") and "/" not in slot for slot in plain)
    assert all((directory / "module.wasm").read_bytes() == b"\0asm" for directory in brought)


def test_submit_module_is_dropped_beside_the_input(tmp_path: Path) -> None:
    """The daemon looks for it there first."""
    submit(tmp_path, b"{}", "batch/x", module=b"\0asm")
    assert files_below(tmp_path) == ["batch/input-x.json", "batch/module.wasm"]


def test_submit_ready_suffix_creates_the_ready_file(tmp_path: Path) -> None:
    """For a daemon with ``WASMDROP_READY_SUFFIX``."""
    submit(tmp_path, b"{}", "x", ready_suffix=".ready")
    assert files_below(tmp_path) == ["input-x.json", "input-x.json.ready"]


def test_submit_missing_shared_directory_is_refused(tmp_path: Path) -> None:
    """A misspelt path must not become a directory without a daemon."""
    with pytest.raises(FileNotFoundError, match="shared directory does not exist"):
        submit(tmp_path / "missing", b"{}", "a/b")
    assert not (tmp_path / "missing").exists()


# --- Results


def test_result_of_a_function_is_complete(tmp_path: Path) -> None:
    """Status, values, raw value, line, text and marker."""
    submission = submit(tmp_path, {"entry": "fib"}, "x")
    deliver(submission, Outcome(code=Code.OK, results=(2**64 - 1,)))
    result = submission.result(0)
    assert (result.status, result.code, result.message) == (Status.SUCCEEDED, Code.OK, "")
    assert (result.results, result.raw) == ((2**64 - 1,), "18446744073709551615")
    assert (result.exit_code, result.stdout, result.stderr) == (None, None, None)
    assert result.line == b'{"entry":"fib","args":[12],"results":[18446744073709551615]}'
    assert result.text == submission.marker_path.with_suffix(".txt").read_bytes()
    assert result.receipt is None
    assert result.marker == json.loads(submission.marker_path.read_bytes())


class _Key:
    """A private key that signs nothing."""

    key_id = "0" * 64

    def sign(self, _data: bytes) -> bytes:
        return b"a signature"


def test_result_has_its_receipt_as_bytes(tmp_path: Path) -> None:
    """If the daemon has signed one; leaving the block removes it."""
    with submit(tmp_path, b"{}") as submission:
        deliver(submission, signer=_Key())
        receipt = submission.marker_path.with_suffix(".receipt").read_bytes()
        assert submission.result(0).receipt == receipt
        assert b'"payloadType"' in receipt
    assert files_below(tmp_path) == []


def test_remove_keeps_an_input_that_is_dropped_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at the slot, and before the removal."""
    submission = submit(tmp_path, b"{}", "orders")
    deliver(submission)

    def drop_and_go_on(_submission: Submission, _directory: SlotDirectory) -> bool:
        submit(tmp_path, b'{"id":"newer"}', "orders")
        return False

    monkeypatch.setattr(Submission, "_is_in_use", drop_and_go_on)
    before = files_below(tmp_path)
    submission.remove()
    assert files_below(tmp_path) == before
    assert submission.input_path.read_bytes() == b'{"id":"newer"}'


def test_result_of_a_failure_has_code_and_message(tmp_path: Path) -> None:
    """There are no values."""
    submission = submit(tmp_path, b"{}")
    deliver(submission, Outcome(code=Code.TRAP, message="unreachable\n  at f"))
    result = submission.result(0)
    assert (result.status, result.code) == (Status.FAILED, Code.TRAP)
    assert (result.message, result.results, result.raw) == ("unreachable\n  at f", None, "error")


def test_result_of_a_command_has_its_whole_output_as_bytes(tmp_path: Path) -> None:
    """Not the text in ``result.json``, which is shortened and repaired."""
    submission = submit(tmp_path, b"{}")
    written = b"\xff" * 100_000
    outcome = Outcome(
        code=Code.EXIT,
        message="exited",
        exit_code=3,
        is_command=True,
        stdout=written,
        stderr=b"",
    )
    deliver(submission, outcome)
    result = submission.result(0)
    assert (result.exit_code, result.stdout, result.stderr) == (3, written, b"")
    assert result.raw == "3"


@pytest.mark.parametrize("written", [b"", b"\xff" * 100_000])
def test_result_of_a_function_with_output_has_all_of_it(tmp_path: Path, written: bytes) -> None:
    """Beside its results. Empty output differs from no WASI."""
    submission = submit(tmp_path, b"{}")
    outcome = Outcome(code=Code.OK, results=(1,), stdout=b"", stderr=written)
    deliver(submission, outcome)
    result = submission.result(0)
    assert (result.results, result.exit_code, result.raw) == ((1,), None, "1")
    assert (result.stdout, result.stderr) == (b"", written)
    files = {path.suffix for path in tmp_path.iterdir() if path.name.startswith("result")}
    assert files == {".json", ".txt", ".done", *([".stderr"] if written else [])}


def test_result_ignores_marker_of_an_earlier_job_with_the_same_input(tmp_path: Path) -> None:
    """The same bytes dropped again are a new job with its own result."""
    first = submit(tmp_path, b"{}", "x")
    deliver(first)
    again = submit(tmp_path, b"{}", "x")
    with pytest.raises(TimeoutError, match="still that of an earlier job"):
        again.result(0)
    deliver(again, Outcome(code=Code.OK, results=(1,)))
    assert again.result(0).results == (1,)


def test_result_ignores_marker_of_another_input(tmp_path: Path) -> None:
    """Another producer uses the slot."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission, sha256="0" * 64)
    with pytest.raises(TimeoutError, match="of another input"):
        submission.result(0)


@pytest.mark.parametrize("damaged", [".json", ".txt"])
def test_result_files_that_never_agree_with_the_marker_are_an_error(
    tmp_path: Path, clock: Clock, damaged: str
) -> None:
    """Raised after some time, or at the timeout; a wrong result is never returned."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission)
    path = submission.marker_path.with_suffix(damaged)
    path.write_bytes(path.read_bytes().replace(b"144", b"145"))
    with pytest.raises(TornResultError, match=rf"result-x{damaged} does not have the marker's"):
        submission.result(0)
    assert clock.now_seconds == 0
    path.unlink()
    with pytest.raises(TornResultError, match=rf"result-x{damaged} is missing"):
        submission.result()
    assert 5 <= clock.now_seconds < 6


def test_result_waits_for_files_that_agree_with_the_marker_later(
    tmp_path: Path, clock: Clock
) -> None:
    """A network mount may show the new marker before the new files."""
    submission = submit(tmp_path, b"{}")
    deliver(submission)
    path = submission.marker_path.with_suffix(".json")
    whole = path.read_bytes()
    path.write_bytes(b"old")

    def mend() -> None:
        if clock.now_seconds > 1:
            path.write_bytes(whole)

    clock.during = mend
    assert submission.result().results == (144,)


def test_result_time_for_torn_files_restarts_with_each_marker(tmp_path: Path, clock: Clock) -> None:
    """Two jobs in the slot may each be torn for a while."""
    submission = submit(tmp_path, b"{}")
    path = submission.marker_path.with_suffix(".json")

    def play() -> None:
        step = int(clock.now_seconds / 3)
        if step in {0, 2}:
            deliver(submission)
            path.unlink()
        elif step == 1:
            submission.marker_path.unlink(missing_ok=True)
        else:
            deliver(submission)

    clock.during = play
    assert submission.result().code is Code.OK
    assert clock.now_seconds >= 9


def test_result_replaced_during_a_read_is_read_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer job's delivery in the middle of the reading gives its result, not half of each.

    It does not count as torn if there is no time left for another poll.
    """
    submission = submit(tmp_path, b"{}")
    deliver(submission)
    read = SlotDirectory.read
    replaced = False

    def read_and_replace(
        directory: SlotDirectory, name: str, size_bytes: int, *, at_most: bool = False
    ) -> bytes | None:
        nonlocal replaced
        data = read(directory, name, size_bytes, at_most=at_most)
        if name.endswith(".json") and not replaced:
            replaced = True
            deliver(submission, Outcome(code=Code.OK, results=(7,)))
        return data

    monkeypatch.setattr(SlotDirectory, "read", read_and_replace)
    with pytest.raises(TimeoutError, match="are being replaced"):
        submission.result(0)
    deliver(submission)
    replaced = False
    result = submission.result()
    assert (result.results, result.raw) == ((7,), "7")
    assert len(clock.pauses) == 1


@pytest.mark.parametrize("name", ["../secret", "result-x.d/../../secret", "/etc/hostname"])
def test_marker_with_files_elsewhere_is_ignored(tmp_path: Path, name: str) -> None:
    """A forged marker must not make the client read files outside of the slot."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "secret").write_bytes(b"")
    submission = submit(shared, b"{}", "x")
    deliver(submission)
    marker = json.loads(submission.marker_path.read_bytes())
    marker["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    submission.marker_path.write_text(json.dumps(marker))
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)


def test_marker_without_required_files_is_ignored(tmp_path: Path) -> None:
    """There would be nothing to return."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission)
    marker = json.loads(submission.marker_path.read_bytes())
    del marker["files"]["result-x.json"]
    submission.marker_path.write_text(json.dumps(marker))
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b'{"schema":"wasmdrop.marker/2"}'])
def test_marker_invalid_content_is_ignored(tmp_path: Path, content: bytes) -> None:
    """The wait continues, because the daemon will replace it."""
    submission = submit(tmp_path, b"{}", "x")
    submission.marker_path.write_bytes(content)
    assert submit(tmp_path, b"{}", "x").previous_job is None
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["fifo", "directory", "link"],
)
def test_marker_that_is_no_regular_file_is_ignored(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A FIFO would block forever, and an endless file would fill the memory."""
    submission = submit(tmp_path, b"{}", "x")
    make(submission.marker_path)
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submit(tmp_path, b"{}", "x").result(0)


def test_result_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """The daemon never creates links, so its target is no result."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission)
    path = tmp_path / "result-x.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(TornResultError, match=r"result-x\.json does not have"):
        submission.result(0)


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda output: output.mkdir(), "is missing"),
        (lambda output: output.write_bytes(b""), "is missing"),
        (lambda output: (output.mkdir(), (output / "a").touch()), "does not have"),
    ],
)
def test_result_output_files_are_checked(
    tmp_path: Path, make: Callable[[Path], None], state: str
) -> None:
    """``result.output/`` is part of the result."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission)
    make(tmp_path / "result-x.output")
    marker = json.loads(submission.marker_path.read_bytes())
    marker["files"]["result-x.output/a"] = {"sha256": "0" * 64, "bytes": 0}
    submission.marker_path.write_text(json.dumps(marker))
    with pytest.raises(TornResultError, match=rf"result-x\.output/a {state}"):
        submission.result(0)


# --- Waiting


def test_result_poll_interval_grows_to_its_limit(tmp_path: Path, clock: Clock) -> None:
    """Pauses grow from 1 ms to 50 ms, and delay by at most a quarter of the job's time."""
    submission = submit(tmp_path, b"{}")

    def finish() -> None:
        if clock.now_seconds > 10:
            deliver(submission)

    clock.during = finish
    assert submission.result().code is Code.OK
    assert clock.pauses[0] == 0.001
    assert max(clock.pauses) == clock.pauses[-1] == 0.05
    assert all(0 <= late - early <= early / 3.9 for early, late in itertools.pairwise(clock.pauses))


def test_result_timeout_is_kept_and_says_what_was_found(tmp_path: Path, clock: Clock) -> None:
    """The last pause is shortened; the caller may wait again."""
    submission = submit(tmp_path, b"{}", "x")
    with pytest.raises(TimeoutError) as caught:
        submission.result(3)
    assert clock.now_seconds == pytest.approx(3)
    where = f"no daemon has watched {tmp_path}: it has no .wasmdrop.lock"
    assert str(caught.value) == f"input-x.json: no result in time: there is no marker yet; {where}"
    deliver(submission)
    assert submission.result(0).results == (144,)


def test_result_is_immutable_and_comparable(tmp_path: Path) -> None:
    """All values are frozen."""
    submission = submit(tmp_path, b"{}")
    deliver(submission)
    result = submission.result(0)
    assert result == submission.result(0)
    with pytest.raises(AttributeError):
        result.code = Code.TRAP  # type: ignore[misc]
    assert msgspec.structs.replace(result, raw="1").raw == "1"
