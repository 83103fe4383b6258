"""wasmdrop without one of its parts: what that part costs.

A variant is a copy of the package with a few lines changed. It is made for the measurement and
thrown away.
"""

import re
import shutil
from pathlib import Path
from typing import Final

import wasmdrop
from benchmarks.contenders import Wasmdrop
from benchmarks.workloads import Workload

#: Called once, before any process that Landlock and filters confine.
_PREPARES: Final = re.compile(r"(    def prepare_fork_server\(self\) -> None:\n)")
_NOTHING_TO_CONFINE: Final = r"\1        self.landlock_version, self._filters = 0, {}\n"

_BEGIN: Final = re.compile(r"(    def begin\(self, fds.*?\) -> None:\n)")
_FINISH: Final = re.compile(r"(    def finish\(self\) -> .*?:\n)")
_BEGIN_WRITING: Final = re.compile(r"(def begin_writing\(.*?\) -> None:\n)")
_NO_FSYNC: Final = "import os\n\nos.fsync = os.fdatasync = lambda fd: None\n"


class Variant(Wasmdrop):
    """A daemon that runs a changed copy of the package."""

    is_variant = True

    def __init__(self, base: Path, modules: dict[str, bytes]) -> None:
        super().__init__(base, modules)
        source = Path(wasmdrop.__file__).parent
        self._root = self.base / "source"
        self.copy = self._root / "wasmdrop"
        shutil.copytree(source, self.copy, ignore=shutil.ignore_patterns("__pycache__"))
        self.change()

    @classmethod
    def takes(cls, workload: Workload) -> bool:
        """Return whether it is measured with this workload: with small ones."""
        return workload.everywhere and not workload.slow_elsewhere

    def change(self) -> None:
        """Change the copy."""
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        """Return variables that put the copy before the installed package."""
        return super().variables() | {"PYTHONPATH": str(self._root)}

    def replace(self, file: str, what: re.Pattern[str], by: str) -> None:
        """Replace the only match in a file of the copy."""
        path = self.copy / file
        text, found = what.subn(by, path.read_text(encoding="utf-8"))
        if found != 1:
            raise SystemExit(f"{path}: expected one match of {what.pattern!r}, found {found}")
        path.write_text(text, encoding="utf-8")


class NotDurable(Variant):
    """wasmdrop that syncs nothing to the disk: no file, no directory, no journal."""

    name = "wasmdrop, not durable"

    def change(self) -> None:
        """Replace each way to sync."""
        init = self.copy / "__init__.py"
        init.write_text(init.read_text(encoding="utf-8") + _NO_FSYNC, encoding="utf-8")
        self.replace("delivery/fsync.py", _BEGIN, r"\1        self._fds = fds\n        return\n")
        self.replace("delivery/fsync.py", _FINISH, r"\1        return [None] * len(self._fds)\n")
        self.replace("system/durable_files.py", _BEGIN_WRITING, r"\1    return\n")
        database = "jobs/journal/database.py"
        self.replace(database, re.compile("PRAGMA synchronous = FULL"), "PRAGMA synchronous = OFF")


class Unconfined(Variant):
    """wasmdrop whose jobs are confined neither by Landlock nor by filters; limits stay."""

    name = "wasmdrop, not confined"

    def change(self) -> None:
        """Have the fork server and all below it find no Landlock and no filters."""
        self.replace("sandbox/confinement/confine.py", _PREPARES, _NOTHING_TO_CONFINE)
