"""The client library in slots of hostile owners: forged results, and links out of the slot."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest

from tests.support.deliveries import deliver, files_below
from wasmdrop.client import ResultError, Submission, TornResultError, submit
from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES
from wasmdrop.protocol.marker import MAX_MARKER_BYTES
from wasmdrop.system.slot_directory import SlotDirectory

GIBIBYTE: Final = 1 << 30

#: A digest.
NONE: Final = "0" * 64


def forge(submission: Submission, change: Callable[[dict[str, Any]], None]) -> None:
    """Deliver a result whose marker says something else."""
    deliver(submission)
    marker = json.loads(submission.marker_path.read_bytes())
    change(marker)
    submission.marker_path.write_text(json.dumps(marker))


def replace(submission: Submission, suffix: str, content: bytes) -> None:
    """Deliver a result with one forged file and a marker that agrees with it."""

    def agree(marker: dict[str, Any]) -> None:
        digest = hashlib.sha256(content).hexdigest()
        marker["files"][f"result-x{suffix}"] = {"sha256": digest, "bytes": len(content)}

    forge(submission, agree)
    submission.marker_path.with_suffix(suffix).write_bytes(content)


def run_submit(shared: Path, *words: str) -> "subprocess.Popen[str]":
    """Start ``wasmdrop submit`` in an address space of 2 GiB."""
    return subprocess.Popen(
        [
            *("/bin/sh", "-c", f'ulimit -v {2 * GIBIBYTE // 1024} && exec "$@"', "sh"),
            *(sys.executable, "-m", "wasmdrop", "submit", "--shared-dir", str(shared), *words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


#: What `result.json` may hold when its owner forges it.
LINES: Final = {
    "no JSON": b"{",
    "nothing": b"",
    "no UTF-8": b'{"results":["\xff"]}',
    "deep": b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a huge integer": b'{"results":[' + b"9" * 100_000 + b"]}",
    "a huge float": b'{"results":[1e999]}',
    "NaN": b'{"results":[NaN]}',
    "half a character": b'{"results":["\\ud800"]}',
    "a key twice": b'{"results":[1],"results":[2]}',
    "another type": b'{"results":7}',
    "no object": b"[1,2]",
    "another exit code": b'{"exit_code":"0"}',
    "two lines": b'{"results":\n[1]}',
    "a return": b'{"results":\r[1]}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_result_forged_line_is_a_result_error(tmp_path: Path, line: bytes, end: bytes) -> None:
    """Any JSON and any invalid JSON gives one line that names the slot."""
    submission = submit(tmp_path, b"{}", "x")
    replace(submission, ".json", line + end)
    with pytest.raises(ResultError, match=r"^input-x\.json: ") as caught:
        submission.result(0)
    assert str(caught.value).isprintable()


def test_result_raw_value_that_is_no_text_is_a_result_error(tmp_path: Path) -> None:
    """``result.txt`` is text."""
    submission = submit(tmp_path, b"{}", "x")
    replace(submission, ".txt", b"result: \xff\n\xff\n")
    with pytest.raises(ResultError, match=r"^input-x\.json: not what a daemon writes: "):
        submission.result(0)


@pytest.mark.parametrize("name", ["result-x.json", "result-x.txt", "result-x.output/big"])
def test_result_sparse_file_of_gigabytes_is_not_read(tmp_path: Path, name: str) -> None:
    """It takes no disk space but would take memory. Its size is checked first."""
    submission = submit(tmp_path, b"{}", "x")

    def name_it(marker: dict[str, Any]) -> None:
        marker["files"][name] = {"sha256": "0" * 64, "bytes": 8 * GIBIBYTE}

    forge(submission, name_it)
    (tmp_path / "result-x.output").mkdir()
    with (tmp_path / name).open("wb") as file:
        file.truncate(8 * GIBIBYTE)
    with pytest.raises(ResultError, match=r"(has|have) 85\d{8} bytes; the limit"):
        submission.result(0)


def test_result_many_files_share_one_limit(tmp_path: Path) -> None:
    """The caller's limit is exact to the byte."""
    submission = submit(tmp_path, b"{}", "x")

    def name_them(marker: dict[str, Any]) -> None:
        digest = hashlib.sha256(bytes(1000)).hexdigest()
        for number in range(50):
            marker["files"][f"result-x.output/{number}"] = {"sha256": digest, "bytes": 1000}

    forge(submission, name_them)
    (tmp_path / "result-x.output").mkdir()
    for number in range(50):
        (tmp_path / "result-x.output" / str(number)).write_bytes(bytes(1000))
    marker = json.loads(submission.marker_path.read_bytes())
    size = sum(file["bytes"] for file in marker["files"].values())
    with pytest.raises(ResultError, match=rf"have {size} bytes; the limit is {size - 1}"):
        submission.result(0, max_bytes=size - 1)
    assert len(submission.result(0, max_bytes=size).output) == 50


def test_result_file_that_grows_during_the_read_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is read than its size at the check."""
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    fstat = os.fstat

    def look_and_grow(fd: int) -> os.stat_result:
        status = fstat(fd)
        with path.open("ab") as file:
            file.write(bytes(1000))
        return status

    with SlotDirectory(str(tmp_path), PurePosixPath()) as directory:
        monkeypatch.setattr(os, "fstat", look_and_grow)
        assert directory.read("x", 4) == b"1234"


def test_marker_with_a_million_files_is_ignored(tmp_path: Path) -> None:
    """No job may write so many files."""
    submission = submit(tmp_path, b"{}", "x")

    def name_them(marker: dict[str, Any]) -> None:
        file = {"sha256": "0" * 64, "bytes": 0}
        marker["files"] |= {f"result-x.output/{n}": file for n in range(MAX_OUTPUT_ENTRIES + 4)}

    forge(submission, name_them)
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)
    million = submission.marker_path.read_bytes() + bytes(MAX_MARKER_BYTES)
    submission.marker_path.write_bytes(million)
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)


@pytest.mark.parametrize(
    "name",
    [
        "result-x.output/../../secret",
        "result-x.output/..",
        "result-x.output/./a",
        "result-x.output//a",
        "result-x.output/",
        "result-x.\0",
        "result-x.output/" + "a/" * 100 + "a",
        "/result-x.json",
        "..",
        "",
    ],
)
def test_marker_with_names_that_no_daemon_writes_is_ignored(tmp_path: Path, name: str) -> None:
    """The names lead elsewhere or nowhere, or cost time."""
    submission = submit(tmp_path, b"{}", "x")

    def name_it(marker: dict[str, Any]) -> None:
        marker["files"][name] = {"sha256": "0" * 64, "bytes": 0}

    forge(submission, name_it)
    with pytest.raises(TimeoutError, match="the file at the marker's path is no marker"):
        submission.result(0)


SIZE: Final = re.compile(r'(result-x\.json": \{[^}]*"bytes": )')

#: Markers that break readers of JSON: each gets the marker's text and returns another.
MARKERS: Final[dict[str, Callable[[str], str]]] = {
    "deep": lambda text: text[:-1] + ',"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a huge integer": lambda text: text[:-1] + ',"x":' + "9" * 100_000 + "}",
    "a huge size": lambda text: SIZE.sub(r"\g<1>" + "9" * 100_000, text, count=1),
    "a large size": lambda text: SIZE.sub(r"\g<1>" + "9" * 4000, text, count=1),
    "NaN": lambda text: text[:-1] + ',"x":NaN}',
    "a huge float": lambda text: text[:-1] + ',"x":1e999}',
    "a key twice": lambda text: text[:-1] + ',"x":1,"x":2}',
    "half a character": lambda text: text[:-1] + ',"x":"\\ud800"}',
    "another type": lambda text: text.replace('"seconds": {', '"seconds": [{', 1),
    "a name of half a character": lambda text: text.replace('x.txt"', 'x.txt\\ud800"'),
    "a name that is too long": lambda text: text.replace(
        '"result-x.txt": {',
        f'"result-x.{"a" * 300}": {{"sha256":"{"0" * 64}","bytes":0}},"result-x.txt": {{',
    ),
}


@pytest.mark.parametrize("change", MARKERS.values(), ids=MARKERS)
def test_marker_forged_at_random_raises_documented_errors_only(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    """Also before a drop, which reads the marker, too."""
    submission = submit(tmp_path, b"{}", "x")
    forge(submission, lambda _marker: None)
    path = submission.marker_path
    path.write_text(change(path.read_text()))
    with pytest.raises((ResultError, TimeoutError), match=r"^input-x\.json: ") as caught:
        submission.result(0)
    assert "\n" not in str(caught.value)
    submit(tmp_path, b"{}", "x")


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
    ],
    ids=["fifo", "directory", "link", "circle"],
)
@pytest.mark.parametrize("name", ["result-x.json", "result-x.output/a", "result-x.output"])
def test_result_file_that_is_no_regular_file_is_never_read(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    """At each path of a result."""
    submission = submit(tmp_path, b"{}", "x")

    def name_it(marker: dict[str, Any]) -> None:
        marker["files"]["result-x.output/a"] = {"sha256": "0" * 64, "bytes": 9}

    forge(submission, name_it)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(TornResultError, match=r"is missing|does not have the marker's digest"):
        submission.result(0)


# --- Ways out of the directory


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Yield a directory outside of the shared one, with a file that must not change."""
    outside = tmp_path / "outside"
    (outside / "result-x.output").mkdir(parents=True)
    (tmp_path / "shared" / "batch").mkdir(parents=True)
    for name in ("input-x.json", "result-x.done", "result-x.output/file", "module.wasm"):
        (outside / name).write_bytes(b"secret")
    return outside


def untouched(outside: Path) -> bool:
    """Return whether nothing was added, changed or removed."""
    names = ["input-x.json", "module.wasm", "result-x.done", "result-x.output/file"]
    return files_below(outside) == names and all(
        (outside / name).read_bytes() == b"secret" for name in names
    )


def lead_out(shared: Path, outside: Path) -> None:
    """Replace the slot's directory with a link."""
    (shared / "batch").rename(shared / "moved")
    (shared / "batch").symlink_to(outside)


def test_submit_does_not_follow_a_link(tmp_path: Path, secret: Path) -> None:
    """Neither at the directory nor above it; no directories are created there."""
    shared = tmp_path / "shared"
    lead_out(shared, secret)
    for name in ("batch/x", "batch/inner/x"):
        with pytest.raises(OSError, match="Not a directory"):
            submit(shared, b"{}", name, module=b"\0asm", ready_suffix=".ready")
    assert untouched(secret)
    assert sorted(path.name for path in secret.iterdir()) == sorted(
        ["input-x.json", "module.wasm", "result-x.done", "result-x.output"]
    )


def test_submit_does_not_follow_a_link_made_meanwhile(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the directory is replaced between two steps, the opened one is used."""
    shared = tmp_path / "shared"
    put = SlotDirectory.put

    def put_and_lead_out(directory: SlotDirectory, name: str, data: bytes) -> os.stat_result:
        status = put(directory, name, data)
        if name == "module.wasm":
            lead_out(shared, secret)
        return status

    monkeypatch.setattr(SlotDirectory, "put", put_and_lead_out)
    submit(shared, b"{}", "batch/x", module=b"\0asm", ready_suffix=".ready")
    assert untouched(secret)
    assert files_below(shared / "moved") == ["input-x.json", "input-x.json.ready", "module.wasm"]


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("../../outside/input-x.json")]
)
def test_submit_ready_file_replaces_and_opens_nothing(
    tmp_path: Path, secret: Path, make: Callable[[Path], None]
) -> None:
    """It waits for no FIFO, and changes no other file's time."""
    shared = tmp_path / "shared"
    before = (secret / "input-x.json").stat().st_mtime_ns
    make(shared / "batch" / "input-x.json.ready")
    submit(shared, b"{}", "batch/x", ready_suffix=".ready")
    assert stat.S_ISREG((shared / "batch" / "input-x.json.ready").lstat().st_mode)
    assert (secret / "input-x.json").stat().st_mtime_ns == before


def test_remove_does_not_follow_a_link(tmp_path: Path, secret: Path) -> None:
    """Neither at the directory nor at the output directory."""
    shared = tmp_path / "shared"
    submission = submit(shared, b"{}", "batch/x", ready_suffix=".ready")
    deliver(submission)
    output = shared / "batch" / "result-x.output"
    output.symlink_to(secret / "result-x.output")
    submission.remove()
    assert files_below(shared / "batch") == []
    assert output.is_symlink()
    lead_out(shared, secret)
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        submission.remove()
    assert untouched(secret)


def test_remove_output_directory_with_any_content_is_removed(tmp_path: Path, secret: Path) -> None:
    """Also with thousands of levels, and with links that lead out."""
    submission = submit(tmp_path / "shared", b"{}", "x")
    fd = os.open(tmp_path / "shared", os.O_RDONLY)
    os.mkdir("result-x.output", dir_fd=fd)
    for name in ("result-x.output", *["d"] * 1500):
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        os.symlink(secret, "link", dir_fd=fd)
        os.mkdir("d", dir_fd=fd)
    os.close(fd)
    try:
        submission.remove()
    finally:  # pytest could not remove it
        subprocess.run(["rm", "-rf", str(tmp_path / "shared" / "result-x.output")], check=True)
    assert files_below(tmp_path / "shared") == []
    assert not (tmp_path / "shared" / "result-x.output").exists()
    assert untouched(secret)


def test_result_outside_of_the_slot_is_not_read(tmp_path: Path, secret: Path) -> None:
    """A link replaced the directory after the drop."""
    shared = tmp_path / "shared"
    submission = submit(shared, b"{}", "batch/x")
    deliver(submission)
    (shared / "batch" / "result-x.done").rename(secret / "result-x.done")
    lead_out(shared, secret)
    with pytest.raises(ResultError, match=r"^batch/input-x\.json: .*(Too many levels|Not a dir)"):
        submission.result(0)


def test_result_without_permission_is_a_result_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system error becomes one, with the path."""
    submission = submit(tmp_path, b"{}", "x")
    deliver(submission)
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "result-x.txt":
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    message = rf"^input-x\.json: {tmp_path}/result-x\.txt: Permission denied$"
    with pytest.raises(ResultError, match=message):
        submission.result(0)


# --- The command

#: What is forged, by the change of the marker.
FORGED: Final[dict[str, Callable[[str], str]]] = {
    "a huge integer": MARKERS["a huge integer"],
    "8 GiB": lambda text: SIZE.sub(rf"\g<1>{8 * GIBIBYTE}", text, count=1),
    "a name that acts": lambda text: text.replace(
        '"files": {',
        r'"files": {"result-x.\u001b[2J\n\u202e": {"sha256":"' + NONE + '","bytes":0},',
    ),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("flag", ["--wait", "--json"])
def test_submit_command_forged_result_gives_one_line_and_status_3(
    tmp_path: Path, change: Callable[[str], str], flag: str
) -> None:
    """No traceback, bounded memory, and no escapes from forged names."""
    submission = submit(tmp_path, b'{"args":[1]}', "x")
    forge(submission, lambda _marker: None)
    forged = change(submission.marker_path.read_text())
    submission.marker_path.rename(tmp_path / "forged")
    (tmp_path / "forged").write_text(forged)
    dropped = submission.input_path.stat().st_ino
    process = run_submit(tmp_path, "--name", "x", "--arg", "1", "--wait", flag)
    while submission.input_path.stat().st_ino == dropped:
        assert process.poll() is None
    (tmp_path / "forged").rename(submission.marker_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert [json.loads(line)["status"] for line in out.splitlines()] == (
        ["dropped"] if flag == "--json" else []
    )
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert err.startswith("wasmdrop: input-x.json: ")
