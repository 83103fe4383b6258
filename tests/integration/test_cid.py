"""``wasmdrop cid``, run as a user runs it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import command, on_terminal
from tests.support.daemon import environment
from tests.support.require import require_tools

ROOT = Path(__file__).resolve().parents[2]
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


def cid(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory; standard output is no terminal."""
    return subprocess.run(
        command("cid", *words),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ([], HELLO),
        (["--profile", "cidv1"], HELLO),
        (["--profile", "unixfs-v0-2015"], "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
    ],
    ids=["default", "cidv1", "v0"],
)
def test_cid_of_a_file_is_printed_by_profile(
    tmp_path: Path, profile: list[str], expected: str
) -> None:
    """As `ipfs add` gives it with the settings of each profile."""
    (tmp_path / "hello").write_text("hello world")
    done = cid(tmp_path, *profile, "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}  hello\n", "")


def test_cid_of_a_directory_is_printed_with_its_hidden_files(tmp_path: Path) -> None:
    """A trailing slash has no effect."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/.file").touch()
    done = cid(tmp_path, "empty", "empty/", "hidden")
    lines = done.stdout.splitlines()
    empty = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert lines[:2] == [f"{empty}  empty", f"{empty}  empty/"]
    assert not lines[2].startswith(empty)


def test_cid_refuses_what_is_no_file_and_goes_on(tmp_path: Path) -> None:
    """One line names each refused path, and the exit status is 1."""
    (tmp_path / "hello").write_text("hello world")
    (tmp_path / "link").symlink_to("hello")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "dir/fifo")
    (tmp_path / "linked").symlink_to("dir")
    done = cid(tmp_path, "link", "dir/", "linked/", "/dev/null", "missing", "hello")
    assert (done.returncode, done.stdout) == (1, f"{HELLO}  hello\n")
    only = "only regular files and directories have a content id"
    assert done.stderr.splitlines() == [
        f"wasmdrop: link: is a link; {only}",
        f"wasmdrop: dir/fifo: is a FIFO; {only}",
        f"wasmdrop: linked/: is a link; {only}",
        f"wasmdrop: /dev/null: is a device; {only}",
        "wasmdrop: missing: can't be read: No such file or directory",
    ]


def test_cid_escapes_names_and_json_has_them_exactly(tmp_path: Path) -> None:
    """A name can't act on a terminal, or look like another line."""
    name = "a\n\x1b[31m\x9b漢"
    (tmp_path / name).write_text("hello world")
    assert cid(tmp_path, name).stdout == f"{HELLO}  a\\n\\x1b[31m\\x9b漢\n"
    done = cid(tmp_path, "--json", name)
    assert done.stdout.rstrip("\n").isprintable()
    assert json.loads(done.stdout) == {"path": name, "cid": HELLO, "profile": "unixfs-v1-2025"}


def test_cid_shows_progress_of_large_files_on_a_terminal(tmp_path: Path) -> None:
    """On standard error, and removes it before the line is printed."""
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 65 << 20)
    status, shown = on_terminal(command("cid", str(large)), environment())
    assert status == 0
    assert "MiB" in shown
    assert shown.rstrip().endswith(f"{large}")
    small = tmp_path / "small"
    small.write_text("hello world")
    _status, shown = on_terminal(command("cid", str(small)), environment())
    assert shown == f"{HELLO}  {small}\r\n"


def test_shell_line_of_the_page_gives_the_cid_of_a_small_file(tmp_path: Path) -> None:
    """Without wasmdrop and IPFS."""
    require_tools("openssl", "base32")
    (tmp_path / "result.txt").write_text("hello world")
    page = (ROOT / "docs/content-ids.md").read_text(encoding="utf-8")
    line = page.partition("```sh\n")[2].partition("```")[0]
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.strip() == HELLO


def test_cid_without_a_known_profile_is_wrong_use(tmp_path: Path) -> None:
    """The message lists those that there are."""
    done = cid(tmp_path, "--profile", "v2", ".")
    assert done.returncode == 2
    assert "unixfs-v1-2025" in done.stderr
