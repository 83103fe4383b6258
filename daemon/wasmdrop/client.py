"""A library for producers in Python: drops inputs the right way and waits for their results.

Relies on the drop protocol and on nothing else of the daemon's, which may run in another container
or on another machine that shares the directory. Promises that a drop appears whole or not at all,
and that a :class:`Result` is what its completion marker says, digest by digest. Who may write to a
slot's directory can forge a whole result; but nothing there leads to a file elsewhere, or to more
that is read than was asked for, or to other errors than are named here.

::

    from wasmdrop.client import submit

    result = submit("/mnt/shared", {"entry": "fib", "args": [12]}).result(timeout_seconds=10)
    print(result.code, result.results)

As a context manager a submission takes away all that is in its slot when its block ends::

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

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError, StorageError
from wasmdrop.protocol.marker import MAX_MARKER_BYTES, Marker, parse_slot_marker
from wasmdrop.protocol.outcome import Code, Status
from wasmdrop.protocol.slot import SLOT_NAME_RULE, is_slot_name, result_stem
from wasmdrop.protocol.text import one_line
from wasmdrop.system import openat2
from wasmdrop.system.slot_directory import SlotDirectory

__all__ = ["MAX_RESULT_BYTES", "Result", "ResultError", "Submission", "TornResultError", "submit"]

#: What all files of one result may hold together unless it is said otherwise: more than twice what
#: the daemon's limits of a job allow by default.
MAX_RESULT_BYTES: Final = 256 * 1024 * 1024

#: Pauses between looks for the marker: an idle daemon takes some milliseconds for a small job, and
#: a look costs a few microseconds. The growth wastes at most a quarter of what a job took.
_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.05
_PAUSE_GROWTH: Final = 1.25

#: How long files may disagree with an unchanged marker. On a local disk they never do; network
#: mounts show the new marker beside cached old files for a while.
_TORN_SECONDS: Final = 5.0

#: Largest ``result.json`` and ``result.txt`` that are read: each has the results as text, and the
#: first also the arguments. As values they take up to twenty times as much.
_TEXT_BYTES: Final = 64 * 1024 * 1024

_MODULE_NAME: Final = "module.wasm"
_RESULTS: Final = (".json", ".txt", ".stdout", ".stderr")
_OUTPUT: Final = ".output"
#: The daemon's lock on a shared directory.
_LOCK: Final = ".wasmdrop.lock"
_DIRECTORY: Final = re.compile(r"[^.\0].*(?<!~)(?<!\.tmp)(?<!\.part)", re.DOTALL)


class ResultError(StorageError):
    """A job ended, but its result can't be had: too large, forged, or not to be read.

    Its text is one line, fit for a terminal, and begins with the slot.
    """


class TornResultError(ResultError):
    """The result files never came to agree with the sizes and digests in their marker."""


class Result(msgspec.Struct, frozen=True):
    """What came of a job."""

    status: Status
    code: Code
    message: str
    """Empty where the job succeeded."""
    results: tuple[Any, ...] | None
    """The returned values; None where the job failed."""
    exit_code: int | None
    """None if the job did not exit: a function that returned, a command that was stopped."""
    stdout: bytes | None
    """The whole standard output of a WASI program; None if the job was none, or never ran."""
    stderr: bytes | None
    output: dict[str, bytes]
    """What a WASI program left in its directory, by path below it."""
    raw: str
    """The last line of ``result.txt``: the raw value alone."""
    line: bytes
    """The line in ``result.json``, without its newline."""
    marker: dict[str, Any]
    """The completion marker, whole."""


class _ResultBody(msgspec.Struct, frozen=True):
    """The parts of ``result.json`` that a result is made of."""

    results: tuple[Any, ...] | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class Submission(msgspec.Struct, frozen=True):
    """A job that was dropped."""

    slot: str
    """The input's path below the shared directory, as markers and logs call the slot."""
    input_path: Path
    sha256: str
    """Of the input, in hex: the marker has the same."""
    size_bytes: int
    mtime_ns: int
    """Of the input: the marker has the same if the daemon can't read it."""
    previous_job: str | None
    """The job whose marker lay in the slot before the drop: never the one to wait for."""
    ready_suffix: str = ""
    has_own_directory: bool = False
    """Whether the slot's directory is this job's alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the input and its results, the marker first; and the directory if it is its own.

        Of a job that has not ended yet only the input goes: what comes of it lands in the slot all
        the same, unless its directory went, too. Raises ``OSError``, as ``PermissionError`` where
        the daemon is another user and published an output: that directory is the daemon's.
        """
        stem = self.marker_path.stem
        names = [self.marker_path.name, self.input_path.name]
        if self.ready_suffix:
            names.append(self.input_path.name + self.ready_suffix)
        names += [stem + suffix for suffix in _RESULTS]
        if self.has_own_directory:
            names.append(_MODULE_NAME)
        below = PurePosixPath(self.slot).parent
        try:
            directory = SlotDirectory(self._shared_dir, below)
        except FileNotFoundError:
            return
        with directory:
            for name in names:
                directory.remove_file(name)
            directory.remove_tree(stem + _OUTPUT)
        if self.has_own_directory:
            # Not empty where a result is just being delivered.
            with (
                contextlib.suppress(OSError),
                SlotDirectory(self._shared_dir, below.parent) as above,
            ):
                above.remove_directory(below.name)

    @property
    def _shared_dir(self) -> str:
        return str(self.input_path.parents[len(PurePosixPath(self.slot).parts) - 1])

    @property
    def marker_path(self) -> Path:
        """Where the completion marker will be."""
        return _marker_path(self.input_path)

    def result(
        self, timeout_seconds: float | None = None, *, max_bytes: int = MAX_RESULT_BYTES
    ) -> Result:
        """Wait for the job to end and return its result; None waits for as long as it takes.

        Zero looks once. May be called again after a ``TimeoutError``: the job stays dropped.
        ``max_bytes`` is the most that its files may have together for them to be read. Of that
        ``result.json`` and ``result.txt`` may have 64 MiB each; the marker may have 16 MiB besides.

        Raises ``TimeoutError``; ``ResultError`` where the job ended but its result can't be had; of
        that kind, ``TornResultError`` where a marker stayed and its files never agreed with it.
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
                raise self._unfit(f"{error.filename}: {error.strerror}") from error
            if isinstance(found, Result):
                return found
            if now >= end:
                raise TimeoutError(f"{self.slot}: no result in time: {found}")
            time.sleep(min(pause_seconds, end - now))
            pause_seconds = min(pause_seconds * _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS)

    def _look(self, max_bytes: int) -> Result | str:
        """Return the result, or why there is none yet."""
        try:
            directory = SlotDirectory(self._shared_dir, PurePosixPath(self.slot).parent)
        except FileNotFoundError:
            return "its directory is not there"
        with directory:
            return self._look_in(directory, max_bytes)

    def _look_in(self, directory: SlotDirectory, max_bytes: int) -> Result | str:
        name = self.marker_path.name
        data = directory.read(name, MAX_MARKER_BYTES, at_most=True)
        if data is None:
            return f"there is no marker yet; {self._daemon()}"
        marker = parse_slot_marker(data, self.marker_path.stem)
        if marker is None:
            return "there is something else in the marker's place"
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
                    return "the results are just being replaced"
                state = "is missing" if content is None else "does not have the marker's digest"
                raise TornResultError(one_line(f"{self.slot}: {file} {state}"))
            files[file] = content
        return self._result(marker, data, files)

    def _daemon(self) -> str:
        """Return what the shared directory tells of its daemon."""
        try:
            openat2.lstat(self._shared_dir, _LOCK)
        except OSError:
            return f"no daemon has watched {self._shared_dir}: it has no {_LOCK}"
        return (
            f"{self._shared_dir} has the lock of a daemon; if that runs, `wasmdrop jobs` beside it"
            " says what the job waits for, such as its module"
        )

    def _require_bounds(self, marker: Marker, max_bytes: int) -> None:
        stem = self.marker_path.stem
        for suffix in (".json", ".txt"):
            size = marker.files[stem + suffix].bytes
            if size > _TEXT_BYTES:
                raise self._unfit(
                    f"{stem}{suffix} has {size} bytes, at most {_TEXT_BYTES} are read"
                )
        size = sum(file.bytes for file in marker.files.values())
        if size > max_bytes:
            raise self._unfit(f"its files have {size} bytes, at most {max_bytes} are to be read")

    def _result(self, marker: Marker, data: bytes, files: dict[str, bytes]) -> Result:
        stem = self.marker_path.stem
        line = files[f"{stem}.json"].removesuffix(b"\n")
        if b"\n" in line or b"\r" in line:
            raise self._unfit(f"{stem}.json is more than one line")
        try:
            # Not msgspec's JSON: the standard library reads integers of any size.
            body = msgspec.convert(strict_json.parse(line), _ResultBody)
            whole_marker = msgspec.convert(strict_json.parse(data), dict[str, Any])
            raw = files[f"{stem}.txt"].decode().rstrip("\n").rpartition("\n")[2]
        except (RefusedError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise self._unfit(f"not what a daemon writes: {error}") from error
        return Result(
            status=marker.status,
            code=marker.code,
            message=marker.message,
            results=body.results,
            exit_code=body.exit_code,
            stdout=_output(files.get(f"{stem}.stdout"), body.stdout),
            stderr=_output(files.get(f"{stem}.stderr"), body.stderr),
            output={
                name.removeprefix(f"{stem}{_OUTPUT}/"): content
                for name, content in files.items()
                if name.startswith(f"{stem}{_OUTPUT}/")
            },
            raw=raw,
            line=line,
            marker=whole_marker,
        )

    def _unfit(self, reason: str) -> ResultError:
        return ResultError(one_line(f"{self.slot}: {reason}"))


def submit(
    shared_dir: str | Path,
    spec: Mapping[str, Any] | bytes,
    name: str | None = None,
    *,
    module: bytes | None = None,
    ready_suffix: str = "",
) -> Submission:
    """Drop an input durably and return at once; ``Submission.result`` waits for what comes of it.

    ``spec`` is the input: a mapping with the protocol's keys, or the file's very bytes, which are
    dropped as they are.

    ``name`` is the slot: ``orders`` or ``input-orders.json``, ``input.json`` for the one without a
    name, with directories before it if you like (``batch/orders``). Without a name the job gets a
    slot of its own. A named slot holds one result at a time: wait for it before you drop the next
    input there, and never have the same bytes in it twice at a time. Directories of a slot are made
    where they are missing.

    ``module`` is dropped as ``module.wasm`` beside the input, before it. Every input in that
    directory without a ``"module"`` of its own uses it from then on, so that a job without a name
    gets a directory of its own as well.

    Results are looked for beside the input, as the protocol has them, and not where an
    ``OUTPUT_PATH`` of the daemon's may send those of the root slot.

    ``ready_suffix`` is the daemon's ``WASMDROP_READY_SUFFIX``, if it has one: the file that says
    that the input is complete is then made, too.

    Raises ``ValueError`` for a name that is no slot's, or a mapping that JSON can't carry; and
    ``OSError``, as ``FileNotFoundError`` where the shared directory is not there, and as
    ``NotADirectoryError`` where a link lies on the way: none is followed below that directory.
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


def _output(file: bytes | None, shown: str | None) -> bytes | None:
    """Return one stream's content: of a function, an empty one has no file."""
    return b"" if file is None and shown == "" else file


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
    text = json.dumps(dict(spec), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _marker_path(input_path: Path) -> Path:
    return input_path.with_name(f"result{input_path.stem.removeprefix('input')}.done")
