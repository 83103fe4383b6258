"""Invalid inputs: each is refused with name and reason, and harms neither slot nor daemon."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, GOOD, with_fib
from tests.support.outcomes import failure
from tests.support.require import require_root
from tests.support.wrong_keys import KEYS
from wasmdrop.unixfs.file_digest import FileDigest

pytestmark = pytest.mark.usefixtures("no_fault")

#: Text that no guest and no result may contain.
PRECIOUS: Final = "not for guests"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all cases; no case may change it."""
    base = tmp_path_factory.mktemp("bad-input")
    it = Daemon(base, WASMDROP_MAX_INPUT_MB="1", WASMDROP_SETTLE_SEC="0.1")
    (base / "secret").write_text(PRECIOUS)
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with it.running():
        yield it


def good_drop_runs(daemon: Daemon, name: str) -> None:
    """Replace the file at that path with a good input and check its results."""
    path = daemon.shared / name
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    marker = daemon.submit(name, GOOD)
    assert marker["code"] == "ok", marker["message"]
    assert daemon.result(name) == {"entry": "fib", "args": [12], "results": [144]}
    assert daemon.result_path(name, ".txt").read_text().splitlines()[-1] == "144"


# No readable file at the input's path


def _socket(path: Path) -> None:
    # Through a descriptor: the path of a socket may have 107 bytes at most (unix(7)).
    directory = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _device(kind: int, major: int, minor: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        require_root()
        os.mknod(path, kind | 0o666, os.makedev(major, minor))

    return make


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _link_by_way_of_a_directory(path: Path) -> None:
    path.with_name("away").symlink_to("/")
    path.symlink_to("away/etc/hostname")


def _circle(path: Path) -> None:
    path.with_name("round").symlink_to(path.name)
    path.symlink_to("round")


def _link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def _too_large(path: Path) -> None:
    drop(path, b'{"args":[12]' + b" " * (1 << 20) + b"}")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


OUT: Final = "a link that leads out of"

ODD: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "directory": (Path.mkdir, "expected a regular file, found a directory"),
    "fifo": (os.mkfifo, "expected a regular file, found a FIFO"),
    "socket": (_socket, "expected a regular file, found a socket"),
    "null": (_device(stat.S_IFCHR, 1, 3), "expected a regular file, found a device"),
    "terminal": (_device(stat.S_IFCHR, 5, 0), "expected a regular file, found a device"),
    "disk": (_device(stat.S_IFBLK, 7, 200), "expected a regular file, found a device"),
    "dangling": (_link("nowhere"), "a link to nothing"),
    "absolute": (_link("/etc/hostname"), OUT),
    "relative": (_link("../../secret"), OUT),
    "dotdot": (_link("../dotdot/../../secret"), OUT),
    "environ": (_link("/proc/self/environ"), OUT),
    "stdin": (_link("/dev/stdin"), OUT),
    "by-way": (_link_by_way_of_a_directory, OUT),
    "circle": (_circle, "links that lead in a circle"),
    "itself": (_link("input.json"), "links that lead in a circle"),
    "to-directory": (_link("."), "expected a regular file, found a directory"),
    "to-fifo": (_link_to_fifo, "expected a regular file, found a FIFO"),
    "too-large": (
        _too_large,
        "1048589 bytes are more than is read (limit: 1 MiB; WASMDROP_MAX_INPUT_MB",
    ),
    "sparse": (
        _sparse,
        "1099511627776 bytes are more than is read (limit: 1 MiB; WASMDROP_MAX_INPUT_MB",
    ),
}


def true_input(path: Path) -> dict[str, Any]:
    """Return what a marker must say of an input that is not read as one."""
    status = path.lstat()
    is_file = stat.S_ISREG(status.st_mode)
    digest = None
    if is_file and status.st_size < 4 << 20:
        digest = FileDigest()
        digest.update(path.read_bytes())
    found = {
        "path": str(path),
        "sha256": digest and digest.sha256,
        "bytes": status.st_size if is_file else None,
    }
    identity = {
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }
    return found | ({"cid": digest.link().cid.text} if digest else {"file": identity})


@pytest.mark.parametrize("kind", ODD)
def test_input_that_is_no_regular_file_is_refused_by_name(daemon: Daemon, kind: str) -> None:
    """The daemon neither opens it nor waits for it, and the next drop replaces it."""
    make, words = ODD[kind]
    name = f"{kind}/input.json"
    path = daemon.shared / name
    path.parent.mkdir()
    make(path)
    failure(daemon, name, "invalid-input", name, words)
    marker = daemon.marker(name)
    assert marker is not None
    assert marker["input"] == true_input(path)
    for suffix in (".json", ".txt", ".done"):
        assert PRECIOUS not in daemon.result_path(name, suffix).read_text()
    good_drop_runs(daemon, name)


def test_input_link_inside_the_shared_directory_is_followed(daemon: Daemon) -> None:
    """ConfigMap volumes consist of such links."""
    drop(daemon.shared / "data" / "content", GOOD)
    (daemon.shared / "linked").mkdir()
    (daemon.shared / "linked" / "input.json").symlink_to("../data/content")
    wait_until(lambda: daemon.marker("linked/input.json"), "the marker")
    assert daemon.result("linked/input.json")["results"] == [144]


def test_input_path_with_another_kind_of_file_is_a_drop_of_its_own(daemon: Daemon) -> None:
    """Even if the second file gets the inode number of the first, as it often does."""
    name = "odd/input.json"
    path = daemon.shared / name
    path.parent.mkdir()
    os.mkfifo(path)
    failure(daemon, name, "invalid-input", "a FIFO")
    path.unlink()
    path.symlink_to("nowhere")
    wait_until(
        lambda: "a link to nothing" in (daemon.marker(name) or {"message": ""})["message"],
        "the refusal of the link",
    )
    path.unlink()
    path.mkdir()
    wait_until(
        lambda: "a directory" in (daemon.marker(name) or {"message": ""})["message"],
        "the refusal of the directory",
    )
    good_drop_runs(daemon, name)


# A file whose content is no input


def _nested(depth: int) -> bytes:
    return b'{"entry":"fib","args":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


CONTENT: Final[dict[str, tuple[bytes, tuple[str, ...]]]] = {
    "empty": (b"", ("line 1, column 1", "the file is empty")),
    "blank": (b" \n\t", ("only white space",)),
    "not-utf8": (b'{"entry":"\xff"}', ("line 1, column 11", "0xff", "not UTF-8")),
    "utf16": ('{"args":[1]}'.encode("utf-16"), ("the file is UTF-16",)),
    "utf16-unmarked": ('{"args":[1]}'.encode("utf-16-le"), ("line 1, column 2",)),
    "byte-order-mark": (b"\xef\xbb\xbf{}", ("a byte order mark",)),
    "zeros": (bytes(4096), ("line 1, column 1", "expected a value")),
    "nested-65": (_nested(65), ("nested deeper than 64",)),
    "nested-100000": (_nested(100_000), ("nested deeper than 64",)),
    "nested-open": (b'{"args":' + b"[" * 100_000, ("nested deeper than 64",)),
    "truncated": (b'{"entry":"fib","ar', ("line 1, column 16", "has no end")),
    "truncated-later": (b'{"entry":"fib",\n"args":[1', ("line 2, column 10", "the end of the")),
    "two-values": (b"{} {}", ("line 1, column 4", "expected nothing after the value")),
    "no-object": (b"[12]", ("expected an object", "got an array")),
    "null": (b"null", ("expected an object", "got null")),
    "duplicate-key": (b'{"args":[1],\n "args":[2]}', ("line 2, column 2", 'key "args"')),
    "duplicate-deeper": (b'{"env":{"A":"1","A":"2"}}', ("$.env", 'duplicate key "A"')),
    "bare-nan": (b'{"args":[1,NaN]}', ("line 1, column 12", "$.args[1]", "NaN is not JSON")),
    "bare-infinity": (b'{"args":[-Infinity]}', ("line 1, column 10", "-Infinity is not JSON")),
    "beyond-f64": (b'{"args":[1e999]}', ("line 1, column 10", "1e999 is beyond the range")),
    "long-integer": (b'{"args":[' + b"9" * 5000 + b"]}", ("line 1, column 10", "4300 digits")),
    "half-a-pair": (b'{"entry":"\\ud800"}', ("line 1, column 11", "half of a surrogate pair")),
    "comment": (b"{} // good", ("line 1, column 4",)),
    "quotes": (b"{'args':[1]}", ("line 1, column 2", "a key in double quotes")),
    "trailing-comma": (b'{"args":[1,]}', ("line 1, column 12",)),
    "leading-zero": (b'{"args":[012]}', ("line 1, column 11",)),
    "raw-newline": (b'{"entry":"a\nb"}', ("line 1, column 12", "control character")),
    "unknown-key": (b'{"arg":[1]}', ("$.arg: unknown key; did you mean args?", "deterministic")),
    "large-and-bad": (b'{"args":[' + b"1," * 400_000 + b"]}", ("line 1, column 800010",)),
}


CONTENT.update(
    {
        f"{key}-{number}": (json.dumps({key: value}).encode(), (words,))
        for number, (key, value, words) in enumerate(KEYS)
    }
)


@pytest.mark.parametrize("kind", CONTENT)
def test_input_with_invalid_content_is_refused_with_its_place(daemon: Daemon, kind: str) -> None:
    """The message says where, what was expected and what was found; the next drop runs."""
    content, words = CONTENT[kind]
    name = f"input-{kind}.json"
    drop(daemon.shared / name, content)
    failure(daemon, name, "invalid-input", *words)
    good_drop_runs(daemon, name)


def test_input_nested_sixty_four_levels_deep_is_parsed(daemon: Daemon) -> None:
    """The protocol sets this limit. That fib takes no arrays is a separate error."""
    drop(daemon.shared / "input-nested-64.json", _nested(64))
    failure(daemon, "input-nested-64.json", "invalid-args", "args[0]: expected i64")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("entry", {"entry": "x" * 100_000}),
        ("escape", {"entry": "\x1b[31m\r\nfake: line\u2028"}),
        ("argument", {"entry": "fib", "args": ["y" * 100_000]}),
        ("key", {"z" * 100_000: 1}),
        ("module", {"module": "m" * 100_000}),
    ],
)
def test_message_that_quotes_an_input_is_bounded_and_escaped(
    daemon: Daemon, kind: str, content: dict[str, Any]
) -> None:
    """Quoted text can't take over a terminal, a log or a line parser."""
    name = f"input-quoted-{kind}.json"
    daemon.submit(name, content)
    marker = daemon.marker(name)
    assert marker is not None
    assert marker["status"] == "failed"
    assert len(marker["message"]) <= 4000
    assert all(char.isprintable() or char == "\n" for char in marker["message"])
    text = daemon.result_path(name, ".txt").read_text()
    assert len(text.splitlines()) == 3
    good_drop_runs(daemon, name)


def test_input_that_the_daemon_may_not_read_is_refused(tmp_path: Path) -> None:
    """Permissions forbid it, also to a root without the capability to override them."""
    daemon = Daemon(tmp_path)
    if os.geteuid() == 0:
        daemon.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with daemon.running():
        hidden = daemon.shared / ".input"
        hidden.write_text(GOOD)
        hidden.chmod(0)
        hidden.rename(daemon.shared / "input.json")
        failure(daemon, "input.json", "invalid-input", "input.json", "may not read it")
        good_drop_runs(daemon, "input.json")


# Ways to write a file


def test_input_written_in_several_parts_gives_one_result(tmp_path: Path) -> None:
    """Write, close, open again: an incomplete input is not judged while it grows."""
    daemon = with_fib(tmp_path, WASMDROP_SETTLE_SEC="2")
    with daemon.running():
        path = daemon.shared / "input.json"
        for part in ("", '{"entry":', '"fib",', '"args"', ":[1", "2]}"):
            with path.open("a") as file:
                file.write(part)
            # A later drop has run, so the daemon has seen this change.
            daemon.submit("input-other.json", GOOD.replace("}", f',"id":"{len(part)}"}}'))
        daemon.wait_for("input.json", GOOD.encode())
        assert daemon.result("input.json")["results"] == [144]
        # Beyond the moment at which the first part would have been judged.
        daemon.submit("input-late.json", "late")
        failure(daemon, "input-late.json", "invalid-input")
    jobs = daemon.events("job-finished")
    codes = [event["code"] for event in jobs if event["slot"] != "input-other.json"]
    assert codes == ["ok", "invalid-input"]


def test_input_with_the_same_bytes_runs_again(daemon: Daemon) -> None:
    """A new version of the file is a drop, whatever its content."""
    first = daemon.submit("input-again.json", GOOD)
    drop(daemon.shared / "input-again.json", GOOD)
    wait_until(
        lambda: (daemon.marker("input-again.json") or first)["job"] != first["job"],
        "the second job",
    )


def test_shared_directory_behind_a_link_behaves_the_same(tmp_path: Path) -> None:
    """The same bytes run again, too."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    daemon = with_fib(tmp_path / "link")
    with daemon.running():
        first = daemon.submit("input.json", GOOD)
        drop(daemon.shared / "input.json", GOOD)
        wait_until(
            lambda: (daemon.marker("input.json") or first)["job"] != first["job"], "the second job"
        )


# Names


@pytest.mark.parametrize(
    "name",
    [
        "input-a.b_C-9.json",
        f"input-{'n' * 200}.json",
        "input--.json",
        "input-...json",
        "two\nlines/input.json",
        "tab\t and space/input.json",
        os.fsdecode(b"not-utf8-\xff\xfe/input.json"),
        f"{'d' * 255}/input.json",
        "input.json.d/input.json",
        "ü/💧/input.json",
        "1/2/3/4/5/6/7/8/input.json",
    ],
)
def test_slot_name_that_is_allowed_is_run(daemon: Daemon, name: str) -> None:
    """Letters, digits, dot, underscore and hyphen in input names; any character in directories."""
    drop(daemon.shared / name, GOOD)
    wait_until(lambda: daemon.marker(name), f"the marker of {name!r}")
    assert daemon.result(name)["results"] == [144]
    drop(daemon.shared / name, "bad")
    wait_until(
        lambda: (daemon.marker(name) or {"code": ""})["code"] == "invalid-input", "the refusal"
    )
    assert daemon.result(name)["error"]["code"] == "invalid-input"


def test_slot_name_that_is_not_allowed_is_ignored(daemon: Daemon) -> None:
    """It gets neither a result nor a job."""
    names = [
        "input-.json",
        f"input-{'n' * 201}.json",
        "input-a\n.json",
        "input.json~",
        "input.json.tmp",
        "input.json.part",
        ".input.json",
        "INPUT.JSON",
        "input.jsonl",
        "xinput.json",
        "input-x.JSON",
        "input.json\n",
        ".hidden/input.json",
        "unfinished.part/input.json",
        "backup~/input.json",
        "deep/2/3/4/5/6/7/8/9/input.json",
    ]
    for name in names:
        drop(daemon.shared / name, GOOD)
    good_drop_runs(daemon, "input-witness.json")
    for name in names:
        directory = (daemon.shared / name).parent
        if directory != daemon.shared:
            assert [path.name for path in directory.iterdir()] == [Path(name).name]
    slots = {event["slot"] for event in daemon.events("job-finished")}
    assert slots.isdisjoint(names)
    assert not {path.name for path in daemon.shared.glob("result*n" + "n" * 200 + "*")}
    assert not (daemon.shared / "result-.json").exists()


def test_slots_after_all_cases_hold_no_temporary_files(daemon: Daemon) -> None:
    """And no process has opened a FIFO."""
    good_drop_runs(daemon, "input-last.json")
    assert not list(daemon.shared.rglob(".wasmdrop-*"))
