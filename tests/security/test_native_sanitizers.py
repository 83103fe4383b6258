"""Jobs of each kind in a native program with the address and undefined-behaviour sanitizers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.fib import FIB
from tests.support.native.build import SANITIZERS, built
from tests.support.native.process import Ended, NativeZygote
from tests.support.wasi_programs import FILE_PROGRAMS, FILES, READER, STREAM_PROGRAMS, STREAMS
from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.native_wire import Result
from wasmdrop.sandbox.wire import EngineOptions

VALUES: Final = """(module (func (export "swap") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
  (local.get 3) (local.get 2) (local.get 1) (local.get 0)))"""

DEEP: Final = (
    '(module (func $down (export "down") (result i32) (i32.add (call $down) (i32.const 1))))'
)

GROWING: Final = """(module (memory (export "memory") 1) (table $t 1 funcref)
  (func (export "grow") (result i32) (drop (table.grow $t (ref.null func) (i32.const 100000000)))
    (memory.grow (i32.const 65535))))"""


class Sanitized:
    """The program, and the directory of the sanitizers' reports."""

    def __init__(self, program: Path, reports: Path) -> None:
        self._program = program
        self._reports = reports

    def zygote(
        self,
        text: str,
        options: EngineOptions | None = None,
        limits: Limits | None = None,
        directory: Path | None = None,
        grants: dict[str, Path] | None = None,
    ) -> NativeZygote:
        """Return a zygote of the module."""
        log = f"log_path={self._reports}/report"
        # A zygote is not dumpable, and so its memory can't be searched for leaks. Each child ends
        # with its only job.
        sanitizers = {"ASAN_OPTIONS": f"detect_leaks=0:{log}", "UBSAN_OPTIONS": log}
        return NativeZygote(self._program, text, options, limits, directory, grants, **sanitizers)

    def check(self) -> None:
        """Fail with the reports of the sanitizers, if there are any."""
        assert [path.read_text() for path in self._reports.iterdir()] == []


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the program."""
    return built(tmp_path_factory.mktemp("sanitized"), "gcc", *SANITIZERS)


@pytest.fixture
def sanitized(program: Path, tmp_path: Path) -> Iterator[Sanitized]:
    """Give the program, whose sanitizers must report nothing."""
    reports = tmp_path / "reports"
    reports.mkdir()
    it = Sanitized(program, reports)
    yield it
    it.check()


def run(zygote: NativeZygote, entry: str, *args: int, **details: object) -> Ended:
    """Run a job whose child ends well."""
    ended = zygote.run(entry, *args, **details)
    assert ended.status == 0
    return ended


def stream_program(name: str) -> str:
    """Return a program that uses streams, as text."""
    return f"(module {STREAMS} {STREAM_PROGRAMS[name]})"


def test_functions_in_a_sanitized_program_return_their_results(sanitized: Sanitized) -> None:
    """Of one module several times, in a child each; and values of each type."""
    with sanitized.zygote(FIB) as zygote:
        assert zygote.ready.result is Result.RETURNED
        assert [run(zygote, "fib", n).report.values for n in (1, 10, 12)] == [(1,), (55,), (144,)]
    with sanitized.zygote(VALUES) as zygote:
        values = (1, 2, 0x3F800000, 0x4000000000000000)
        assert run(zygote, "swap", *values).report.values == values[::-1]


def test_failures_in_a_sanitized_program_are_reported(sanitized: Sanitized) -> None:
    """A trap with its message and backtrace, refused growth, fuel, and a missing entry."""
    with sanitized.zygote(DEEP) as zygote:
        report = run(zygote, "down").report
        assert (report.result, report.frames[0]) == (Result.TRAPPED, "down")
        assert "stack" in report.message
        assert report.frame_count > len(report.frames)
    with sanitized.zygote(GROWING) as zygote:
        report = run(zygote, "grow").report
        assert report.result is Result.RETURNED
        assert report.refused_bytes
        assert report.refused_elements
    with sanitized.zygote(FIB, EngineOptions(fuel=True), Limits(fuel=1000)) as zygote:
        report = run(zygote, "fib", 30).report
        assert (report.result, report.fuel_used) == (Result.TRAPPED, 1000)
    two = '(module (func (export "a")) (func (export "b")))'
    with sanitized.zygote(two) as zygote:
        zygote.functions["missing"] = zygote.functions["a"]
        assert run(zygote, "missing").report.result is Result.NO_ENTRY


def test_module_that_can_not_be_linked_in_a_sanitized_program_is_reported(
    sanitized: Sanitized,
) -> None:
    """The zygote ends with its only report."""
    with sanitized.zygote('(module (import "no" "one" (func)) (func (export "a")))') as zygote:
        assert zygote.ready.result is Result.FAILED
        assert "no::one" in zygote.ready.message
    assert zygote.process.returncode == 1


def test_wasi_programs_in_a_sanitized_program_exit_and_print(sanitized: Sanitized) -> None:
    """With arguments, environment, standard input, exit codes, and the limit of output."""
    for name, details, printed, code in (
        ("hello", {}, (b"hello\n", b"oh\n"), None),
        ("args", {"argv": ("module.wasm", "one", "")}, (b"module.wasm\0one\0\0", b""), None),
        ("env", {"env": {"A": "1", "B": ""}}, (b"A=1\0B=\0", b""), None),
        ("cat", {"stdin": b"x" * 100_000}, (b"x" * 100_000, b""), None),
        ("count", {"argv": ("module.wasm", *"abc")}, (b"", b""), 3),
    ):
        with sanitized.zygote(stream_program(name)) as zygote:
            ended = run(zygote, "_start", is_command=True, **details)
        assert (ended.stdout, ended.stderr) == printed
        expected = Result.RETURNED if code is None else Result.EXITED
        assert (ended.report.result, ended.report.exit_code) == (expected, code or 0)
    with sanitized.zygote(stream_program("endless"), limits=Limits(output_mb=0.1)) as zygote:
        assert run(zygote, "_start", is_command=True).report.result is Result.OUTPUT_LIMIT
    with sanitized.zygote(stream_program("reactor")) as zygote:
        assert run(zygote, "run").report.values == (42,)


def test_files_of_jobs_in_a_sanitized_program_are_read_and_written(
    sanitized: Sanitized, tmp_path: Path
) -> None:
    """In the directory of the job, and in a granted one."""
    text = f"(module {FILES} {FILE_PROGRAMS['work']})"
    with sanitized.zygote(text, directory=tmp_path) as zygote:
        ended = run(zygote, "_start", is_command=True, files={"data/in.txt": b"content"})
    assert (ended.report.result, ended.stdout) == (Result.RETURNED, b"content")
    assert (tmp_path / "job/out/answer.txt").read_bytes() == b"42\n"
    granted = tmp_path / "granted"
    granted.mkdir()
    (granted / "file").write_bytes(b"granted")
    reader = READER.replace("FLAGS", "0").replace("RIGHTS", "2")
    with sanitized.zygote(reader, directory=tmp_path, grants={"lib": granted}) as zygote:
        ended = run(zygote, "_start", is_command=True, stdin=b"file")
    assert (ended.report.result, ended.stdout) == (Result.RETURNED, b"granted")
