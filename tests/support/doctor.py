"""``wasmdrop doctor`` on hosts that lack a feature.

A seccomp filter in front of the command makes single system calls fail, or succeed without doing
anything, as a container or an old kernel does.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.daemon import Daemon
from wasmdrop.sandbox.native_program import find_native_program

#: Numbers on x86-64 and on 64-bit ARM (asm/unistd.h).
NUMBERS: Final = {
    "fsync": (74, 82),
    "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26),
    "inotify_init": (253, 26),
    "landlock_create_ruleset": (444, 444),
    "pidfd_open": (434, 434),
}

#: Takes a list of [system call, errno] and of capabilities, then becomes the command.
LAUNCHER: Final = """
import ctypes, json, os, resource, struct, sys
calls, capabilities, files, command = json.loads(sys.argv[1])
libc = ctypes.CDLL(None)
for capability in capabilities:
    assert libc.prctl(24, capability, 0, 0, 0) == 0
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
code = struct.pack("<HBBI", 0x20, 0, 0, 0)
for number, error in calls:
    code += struct.pack("<HBBI", 0x15, 0, 1, number)
    code += struct.pack("<HBBI", 6, 0, 0, 0x50000 | error)
code += struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(code, len(code))
filter = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
program = ctypes.create_string_buffer(filter)
if calls:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0
os.execv(command[0], command)
"""

Check = dict[str, str]


class Doctor:
    """The command, with its own directories, which are those of ``daemon``."""

    def __init__(self, base: Path) -> None:
        self.base = base
        # Without the native program, which is a warning, there is no host without warnings.
        lacks_program = find_native_program() is None
        self.daemon = Daemon(base, **({"WASMDROP_GUEST": "python"} if lacks_program else {}))

    def examine(
        self,
        *flags: str,
        failing: Mapping[str, int] | None = None,
        without_capabilities: Sequence[int] = (),
        open_files: int = 0,
        **variables: str,
    ) -> tuple[int, dict[str, Check]]:
        """Run doctor with ``--json``; return its exit status and its findings by check."""
        column = 0 if platform.machine() == "x86_64" else 1
        calls = [(NUMBERS[name][column], number) for name, number in (failing or {}).items()]
        command = [sys.executable, "-m", "wasmdrop", "doctor", "--json", *flags]
        taken_away = json.dumps([calls, list(without_capabilities), open_files, command])
        ended = self.run([sys.executable, "-c", LAUNCHER, taken_away], **variables)
        report = json.loads(ended.stdout)
        checks = report["checks"]
        found = {check["check"]: check for check in checks}
        assert len(found) == len(checks), "two checks have one name"
        for check in checks:
            assert bool(check["advice"]) is (check["status"] != "ok"), check
        worst = max((check["status"] for check in checks), key=["ok", "warning", "problem"].index)
        assert report["status"] == worst
        assert ended.returncode == (1 if worst == "problem" else 0)
        return ended.returncode, found

    def run(self, command: Sequence[str], **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command line with the daemon's settings."""
        return subprocess.run(
            command,
            env=self.daemon.environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def everything(self) -> set[tuple[str, int, int]]:
        """Return every file below the base, with size and inode."""
        return {
            (str(path), path.lstat().st_ino, path.lstat().st_size) for path in self.base.rglob("*")
        }


def not_ok(found: Mapping[str, Check]) -> dict[str, str]:
    """Return the status of every check that is not ok."""
    return {name: check["status"] for name, check in found.items() if check["status"] != "ok"}
