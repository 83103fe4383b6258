"""System calls of a real run, SQLite's included, recorded by strace(1)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Calls that change a file or a name, or make such a change durable.
_CALLS: Final = (
    *("open", "openat", "creat", "truncate", "ftruncate", "fallocate", "fchmod", "fchmodat"),
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("splice", "fsync", "fdatasync", "sync", "syncfs", "msync", "mkdir", "mkdirat", "rmdir"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat"),
    *("symlink", "symlinkat", "chmod", "io_submit", "io_getevents"),
)

_LINE: Final = re.compile(r"(\d+) +(.*)")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_UNFINISHED: Final = " <unfinished ...>"
_WHOLE: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
#: An fsync that was submitted by io_submit(2), with the number that io_getevents(2) reports.
_SUBMITTED: Final = re.compile(
    r"\{aio_data=(0|0x[0-9a-f]+), aio_lio_opcode=IOCB_CMD_FSYNC, aio_fildes=(\d+<[^>]*>)\}"
)
_EVENT: Final = re.compile(r"\{data=(0|0x[0-9a-f]+), obj=0x[0-9a-f]+, res=0, res2=0\}")
_DESCRIPTOR: Final = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded."""

    began: int
    """Positions of its start and its end in the order of all calls."""
    ended: int
    name: str
    args: tuple[str, ...]
    returned: int

    def path(self, index: int) -> str:
        """Return the path of the descriptor at ``index``."""
        found = _DESCRIPTOR.match(self.args[index])
        return _bytes(found[1]).decode("utf-8", "surrogateescape") if found else ""

    def data(self, index: int) -> bytes:
        """Return the string at ``index``."""
        found = _STRING.match(self.args[index])
        assert found is not None, (self.name, self.args[index][:80])
        return _bytes(found[1])

    def number(self, index: int) -> int:
        """Return the number at ``index``, which may be written in octal."""
        text = self.args[index]
        return int(text, 8 if text.startswith("0") else 10)


def command(trace: Path) -> tuple[str, ...]:
    """Return a command prefix that writes ``trace``."""
    return (
        *("strace", "--follow-forks", "--seccomp-bpf", "--quiet=all"),
        "--decode-fds=path",
        *("--strings-in-hex=all", "--string-limit=100000000"),
        *("--signal=none", f"--trace={','.join(_CALLS)}", f"--output={trace}"),
    )


def read_trace(trace: Path) -> Iterator[Call]:
    """Yield the calls in the order of their ends.

    Each fsync that was submitted by io_submit(2) is one call, which ends when it is reported.
    """
    begun: dict[str, tuple[int, str]] = {}
    syncing: dict[tuple[str, str, str], tuple[int, str]] = {}
    with trace.open() as lines:
        for index, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:
                continue
            thread, text = found.groups()
            began = index
            if text.endswith(_UNFINISHED):
                begun[thread] = (index, text.removesuffix(_UNFINISHED))
                continue
            if (rest := _RESUMED.match(text)) is not None:
                began, start = begun.pop(thread)
                text = start + rest[1]
            whole = _WHOLE.match(text)
            if whole is not None and int(whole[3]) >= 0:
                args = tuple(whole[2].split(", "))
                if whole[1] == "io_submit":
                    for number, fd in _SUBMITTED.findall(whole[2])[: int(whole[3])]:
                        syncing[thread, args[0], number] = (began, fd)
                elif whole[1] == "io_getevents":
                    for number in _EVENT.findall(whole[2]):
                        its_beginning, fd = syncing.pop((thread, args[0], number))
                        yield Call(its_beginning, index, "fsync", (fd,), 0)
                else:
                    yield Call(began, index, whole[1], args, int(whole[3]))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
