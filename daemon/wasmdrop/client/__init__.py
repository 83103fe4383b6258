"""A library for producers in Python: drops inputs safely and waits for their results.

Uses the drop protocol and nothing else of the daemon, which may run in another container or on
another machine that shares the directory. Guarantees that a drop appears completely or not at all,
and that the files of a :class:`Result` have the digests in its completion marker. Everyone who can
write to a slot's directory can forge a whole result. But nothing there makes the library read a
file elsewhere, read more than ``max_bytes``, or raise errors other than the documented ones.

::

    from wasmdrop.client import submit

    result = submit("/mnt/shared", {"entry": "fib", "args": [12]}).result(timeout_seconds=10)
    print(result.code, result.results)

As a context manager a submission removes its files when the block ends::

    with submit("/mnt/shared", {"module": "tool", "args": ["-v"]}) as job:
        print(job.result(timeout_seconds=10).output)
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from wasmdrop.client.result import Result, ResultError, TornResultError, result_of, unfit
from wasmdrop.protocol.input_values import text_or_base64
from wasmdrop.protocol.marker import MAX_MARKER_BYTES, Marker, parse_slot_marker
from wasmdrop.protocol.slot import (
    CANCEL_SUFFIX,
    OUTPUT_SUFFIX,
    RESULT_SUFFIXES,
    SLOT_NAME_RULE,
    is_slot_name,
    result_stem,
)
from wasmdrop.protocol.text import one_line
from wasmdrop.system import openat2
from wasmdrop.system.slot_directory import SlotDirectory

__all__ = ["MAX_RESULT_BYTES", "Result", "ResultError", "Submission", "TornResultError", "submit"]

#: Default limit of all files of one result together: more than twice what the daemon's default
#: limits of a job allow.
MAX_RESULT_BYTES: Final = 256 * 1024 * 1024

#: Pauses between polls of the marker. An idle daemon takes a few milliseconds for a small job; a
#: poll costs a few microseconds. The growth delays a result by at most a quarter of the job's time.
_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.05
_PAUSE_GROWTH: Final = 1.25

#: How long files may disagree with an unchanged marker. On a local disk they never do; a network
#: mount may show a new marker with cached old files for a while.
_TORN_SECONDS: Final = 5.0

#: Largest ``result.json`` and ``result.txt`` that are read. Both contain the results as text, the
#: first also the arguments. As Python values they take up to twenty times as much memory.
_TEXT_BYTES: Final = 64 * 1024 * 1024

_MODULE_NAME: Final = "module.wasm"
#: The daemon's lock on a shared directory.
_LOCK: Final = ".wasmdrop.lock"
_DIRECTORY: Final = re.compile(r"[^.\0].*(?<!~)(?<!\.tmp)(?<!\.part)", re.DOTALL)


class Submission(msgspec.Struct, frozen=True):
    """A dropped job."""

    slot: str
    """The input's path below the shared directory: the slot's name in markers and logs."""
    input_path: Path
    sha256: str
    """Digest of the input in hexadecimal, as in the marker."""
    size_bytes: int
    mtime_ns: int
    """Modification time of the input, as in the marker if the daemon can't read the input."""
    previous_job: str | None
    """The job whose marker was in the slot before the drop."""
    ready_suffix: str = ""
    has_own_directory: bool = False
    """Whether this job alone has the slot's directory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def cancel(self) -> None:
        """Cancel the job, whether it waits or runs, and all earlier jobs of its slot.

        Returns at once; :meth:`result` returns the end, with ``Code.CANCELLED`` unless the job had
        ended before. Raises ``OSError``.
        """
        with SlotDirectory(self._shared_dir, PurePosixPath(self.slot).parent) as directory:
            directory.put(self.input_path.name + CANCEL_SUFFIX, b"")
            directory.sync()

    def remove(self) -> None:
        """Remove the input, its results, and the directory if the job has its own.

        A job that has not begun is cancelled. If it has not ended yet, its results arrive in the
        slot later, unless the directory was removed, too. If another input was dropped there since,
        nothing is removed. Raises ``OSError``: a ``PermissionError`` if the daemon is another user
        and published output files, whose directory belongs to the daemon.
        """
        stem = self.marker_path.stem
        names = [self.marker_path.name, self.input_path.name + CANCEL_SUFFIX]
        if self.ready_suffix:
            names.append(self.input_path.name + self.ready_suffix)
        names += [stem + suffix for suffix in RESULT_SUFFIXES]
        if self.has_own_directory:
            names.append(_MODULE_NAME)
        below = PurePosixPath(self.slot).parent
        try:
            directory = SlotDirectory(self._shared_dir, below)
        except FileNotFoundError:
            return
        with directory:
            version = self.size_bytes, self.mtime_ns
            if self._is_in_use(directory) or not directory.remove_version(
                self.input_path.name, version
            ):
                return
            for name in names:
                directory.remove_file(name)
            directory.remove_tree(stem + OUTPUT_SUFFIX)
        if self.has_own_directory:
            # It is not empty if a result is being delivered.
            with (
                contextlib.suppress(OSError),
                SlotDirectory(self._shared_dir, below.parent) as above,
            ):
                above.remove_directory(below.name)

    def _is_in_use(self, directory: SlotDirectory) -> bool:
        """Whether the slot has another input, or its result."""
        status = directory.status(self.input_path.name)
        if status is not None:
            return (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns)
        # The daemon may have archived or removed the input.
        data = directory.read(self.marker_path.name, MAX_MARKER_BYTES, at_most=True)
        marker = None if data is None else parse_slot_marker(data, self.marker_path.stem)
        if marker is None or marker.job == self.previous_job:
            return False
        return not marker.is_of_input(self.sha256, self.size_bytes, self.mtime_ns)

    @property
    def _shared_dir(self) -> str:
        return str(self.input_path.parents[len(PurePosixPath(self.slot).parts) - 1])

    @property
    def marker_path(self) -> Path:
        """The path of the completion marker."""
        return _marker_path(self.input_path)

    def result(
        self, timeout_seconds: float | None = None, *, max_bytes: int = MAX_RESULT_BYTES
    ) -> Result:
        """Wait for the job to end and return its result; a timeout of None waits without limit.

        A timeout of zero polls once. May be called again after a ``TimeoutError``: the job stays
        dropped. ``max_bytes`` is the limit of all files together, in which ``result.json`` and
        ``result.txt`` may have 64 MiB each. The marker may have 16 MiB in addition.

        Raises ``TimeoutError``; ``ResultError`` if the job ended but its result can't be used;
        ``TornResultError``, a kind of that, if the files never agreed with an unchanged marker.
        """
        end = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        torn_end = math.inf
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            now = time.monotonic()
            try:
                found = self._look(max_bytes)
                torn_end = math.inf
            except TornResultError as torn:
                torn_end = min(torn_end, now + _TORN_SECONDS)
                if now >= min(torn_end, end):
                    raise
                found = str(torn)
            except OSError as error:
                raise unfit(self.slot, f"{error.filename}: {error.strerror}") from error
            if isinstance(found, Result):
                return found
            if now >= end:
                raise TimeoutError(f"{self.slot}: no result in time: {found}")
            time.sleep(min(pause_seconds, end - now))
            pause_seconds = min(pause_seconds * _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS)

    def _look(self, max_bytes: int) -> Result | str:
        """Return the result, or the reason why there is none yet."""
        try:
            directory = SlotDirectory(self._shared_dir, PurePosixPath(self.slot).parent)
        except FileNotFoundError:
            return "its directory does not exist"
        with directory:
            return self._look_in(directory, max_bytes)

    def _look_in(self, directory: SlotDirectory, max_bytes: int) -> Result | str:
        name = self.marker_path.name
        data = directory.read(name, MAX_MARKER_BYTES, at_most=True)
        if data is None:
            return f"there is no marker yet; {self._daemon()}"
        marker = parse_slot_marker(data, self.marker_path.stem)
        if marker is None:
            return "the file at the marker's path is no marker"
        if marker.job == self.previous_job:
            return "the marker is still that of an earlier job"
        if not marker.is_of_input(self.sha256, self.size_bytes, self.mtime_ns):
            return "the marker is that of another input"
        self._require_bounds(marker, max_bytes)
        files = {}
        for file, expected in marker.files.items():
            content = directory.read(file, expected.bytes)
            if content is None or hashlib.sha256(content).hexdigest() != expected.sha256:
                if directory.read(name, MAX_MARKER_BYTES, at_most=True) != data:
                    return "the results are being replaced"
                state = "is missing" if content is None else "does not have the marker's digest"
                raise TornResultError(one_line(f"{self.slot}: {file} {state}"))
            files[file] = content
        return result_of(self.slot, self.marker_path.stem, marker, data, files)

    def _daemon(self) -> str:
        """Describe the daemon of the shared directory, by its lock file."""
        try:
            openat2.lstat(self._shared_dir, _LOCK)
        except OSError:
            return f"no daemon has watched {self._shared_dir}: it has no {_LOCK}"
        return (
            f"{self._shared_dir} has the lock of a daemon; if it runs, `wasmdrop jobs` on its side"
            " says what the job waits for, such as its module"
        )

    def _require_bounds(self, marker: Marker, max_bytes: int) -> None:
        stem = self.marker_path.stem
        for suffix in (".json", ".txt"):
            size = marker.files[stem + suffix].bytes
            if size > _TEXT_BYTES:
                raise unfit(
                    self.slot, f"{stem}{suffix} has {size} bytes; the limit is {_TEXT_BYTES}"
                )
        size = sum(file.bytes for file in marker.files.values())
        if size > max_bytes:
            raise unfit(self.slot, f"its files have {size} bytes; the limit is {max_bytes}")


def submit(
    shared_dir: str | Path,
    spec: Mapping[str, Any] | bytes,
    name: str | None = None,
    *,
    module: bytes | None = None,
    ready_suffix: str = "",
) -> Submission:
    """Drop an input durably and return; ``Submission.result`` waits for its result.

    ``spec`` is the input: a mapping with the keys of the protocol, or the bytes of the file. In a
    mapping, ``stdin`` and the values of ``files`` may be bytes.

    ``name`` is the slot: ``orders`` or ``input-orders.json``, or ``input.json`` for the unnamed
    one, optionally with directories (``batch/orders``), which are created. Without a name the job
    gets a new slot. A slot holds one result at a time: wait for it before you drop the next input
    there, and never drop the same bytes there twice at a time.

    ``module`` is dropped as ``module.wasm`` beside the input, before it. Every input in that
    directory that names no ``"module"`` uses it from then on. Therefore a job without a name gets a
    new directory as well.

    Results are expected beside the input, and not where the daemon's ``OUTPUT_PATH`` may put those
    of the root slot.

    ``ready_suffix`` is the daemon's ``WASMDROP_READY_SUFFIX``, if it has one: then the ready file
    is created, too.

    Raises ``ValueError`` if the name is invalid or JSON can't represent the mapping, and
    ``OSError``: a ``FileNotFoundError`` if the shared directory does not exist, a
    ``NotADirectoryError`` if there is a link on the way, because none is followed below the shared
    directory.
    """
    shared_dir = Path(os.path.abspath(shared_dir))  # noqa: PTH100 - Path.resolve would follow links
    slot = _unique_slot(with_directory=module is not None) if name is None else _slot(name)
    data = spec if isinstance(spec, bytes) else _encoded(spec)
    path = shared_dir / slot
    with SlotDirectory(str(shared_dir), slot.parent, make=True) as directory:
        if module is not None:
            directory.put(_MODULE_NAME, module)
        marker_path = _marker_path(path)
        previous = directory.read(marker_path.name, MAX_MARKER_BYTES, at_most=True)
        marker = None if previous is None else parse_slot_marker(previous, marker_path.stem)
        status = directory.put(path.name, data)
        if ready_suffix:
            directory.put(path.name + ready_suffix, b"")
        directory.sync()
    return Submission(
        slot=str(slot),
        input_path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        mtime_ns=status.st_mtime_ns,
        previous_job=None if marker is None else marker.job,
        ready_suffix=ready_suffix,
        has_own_directory=name is None and module is not None,
    )


def _slot(name: str) -> PurePosixPath:
    *directories, last = name.split("/")
    if all(_DIRECTORY.fullmatch(directory) for directory in directories):
        if result_stem(last) is not None:
            return PurePosixPath(name)
        if is_slot_name(last):
            return PurePosixPath(*directories, f"input-{last}.json")
    raise ValueError(
        f"name: expected {SLOT_NAME_RULE}, or input.json, after optional directories whose"
        f" names do not begin with a dot; got {name!r}"
    )


def _unique_slot(*, with_directory: bool) -> PurePosixPath:
    token = secrets.token_hex(8)
    return PurePosixPath(f"job-{token}/input.json" if with_directory else f"input-{token}.json")


def _encoded(spec: Mapping[str, Any]) -> bytes:
    value = dict(spec)
    if isinstance(value.get("stdin"), bytes):
        value["stdin"] = text_or_base64(value["stdin"])
    if isinstance(value.get("files"), Mapping):
        value["files"] = {
            name: text_or_base64(content) if isinstance(content, bytes) else content
            for name, content in value["files"].items()
        }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _marker_path(input_path: Path) -> Path:
    return input_path.with_name(f"result{input_path.stem.removeprefix('input')}.done")
