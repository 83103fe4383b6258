"""Parts of the benchmarks: traces, processor time, native programs, variants, targets, plots."""

import compileall
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import wasmtime
from benchmarks import floor, targets
from benchmarks.client import Client
from benchmarks.contenders import Contender, DurableWarmScript, WarmScript, Wasmdrop
from benchmarks.floor_rate import words_for
from benchmarks.measures import Case
from benchmarks.native import COMPILERS, LackError, build, call
from benchmarks.plots import bars, lines
from benchmarks.proof import WithoutContentIds
from benchmarks.syscalls import parse
from benchmarks.trace import stages_of
from benchmarks.usage import (
    CHILD,
    FORK_SERVER,
    KINDS,
    MAIN,
    ZYGOTE,
    cpu_seconds_by_kind,
    cpu_seconds_with_ended,
    resident_mb,
)
from benchmarks.variants import NotDurable, Unconfined
from benchmarks.workloads import Workload, find

from tests.support.require import lack

#: A fork server whose zygote has a child that has ended and one that waits, each with some
#: processor time; it prints a line and waits for another.
FORKS = """
import os, sys, time
def burn():
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
def fork(body):
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(0)
    return pid
def live_child():
    burn()
    os.write(ready, b"x")
    time.sleep(600)
def zygote():
    burn()
    os.waitpid(fork(burn), 0)
    fork(live_child)
    time.sleep(600)
wait, ready = os.pipe()
os.setsid()
burn()
fork(zygote)
os.read(wait, 1)
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""

#: A job in the output of strace: the daemon is 10 with its thread 11, its child 20.
TRACE = r"""
20 99.900000 read(3<socket:[7]>,  <unfinished ...>
11 100.000100 read(9<anon_inode:inotify>, "\0\0.input-1.json\0\0\0", 65536) = 32 <0.000010>
11 100.000200 read(9<anon_inode:inotify>, "\0\0input-1.json\0\0\0\0", 65536 <unfinished ...>
10 100.000250 recvfrom(4<socket:[5]>, "\0", 4096, 0, NULL, NULL) = 1 <0.000010>
11 100.000300 <... read resumed>) = 32 <0.000100>
10 100.001000 sendmsg(6<socket:[7]>, {msg_iov=[{iov_base="run"}]}, 0) = 3 <0.000100>
20 100.001200 <... read resumed>"run", 24) = 3 <0.100200>
20 100.001500 mmap(NULL, 65536) = 0x7f00deadb000 <0.000500>
10 100.002000 recvfrom(4<socket:[5]>, 0x55, 4096, 0, NULL, NULL) = -1 EAGAIN (Not now) <0.000010>
10 100.003000 recvmsg(8<socket:[9]>, {iov_base="child 21"}, 0) = 8 <0.000010>
20 100.032000 writev(3<socket:[7]>, [{iov_base="ok"}], 1) = 48 <0.000100>
10 100.032500 recvfrom(6<socket:[7]>, "ok", 65536, 0, NULL, NULL) = 48 <0.000100>
19 100.033000 exit_group(0) = ?
11 100.034000 renameat(3</shared>, ".w-1", 3</shared>, "result-1.json") = 0 <0.000100>
11 100.035000 renameat(3</shared>, ".w-2", 3</shared>, "result-1.done") = 0 <0.000250>
""".strip().splitlines()


def _workload(name: str) -> Workload:
    found = {one.name: one for one in find()}[name]
    assert isinstance(found, Workload)
    return found


def test_trace_joins_calls_that_were_interrupted() -> None:
    """Begun in one line, resumed in another: one call, from the first to the second."""
    calls = parse(TRACE)
    (read,) = (one for one in calls if one.task == 20 and one.name == "read")
    assert (read.began, read.ended, read.result) == (99.9, 100.0012, 3)
    assert '"run"' in read.text
    (mapped,) = (one for one in calls if one.name == "mmap")
    assert mapped.result == 0x7F00DEADB000
    assert mapped.ended == pytest.approx(100.002, rel=1e-9)


def test_trace_takes_the_result_after_the_last_equals_sign() -> None:
    """An error's words are no part of it."""
    (written,) = parse([r'7 1.5 write(1, "f(x) = 5 <0.5>", 14) = -1 EIO (An error) <0.25>'])
    assert (written.result, written.ended) == (-1, 1.75)
    assert written.text == 'write(1, "f(x) = 5 <0.5>", 14)'


def test_trace_with_a_call_that_began_before_its_first_line_is_read() -> None:
    """A trace may be read from its middle on."""
    (resumed,) = parse(['20 5.5 <... read resumed>"run", 24) = 3 <0.1>', "20 5.6 cut off in the"])
    assert (resumed.name, resumed.ended, resumed.result) == ("read", 5.5, 3)


def test_trace_gives_the_stages_of_a_job() -> None:
    """The rename counts, not the temporary name.

    The report, not other messages of the fork server.
    """
    found = stages_of(parse(TRACE), {10, 11}, "input-1.json")
    assert found == pytest.approx(
        {
            "noticed": 100.0003,
            "sent": 100.001,
            "silent": 100.002,
            "answer": 100.032,
            "answered": 100.0326,
            "marked": 100.03525,
        },
        rel=1e-9,
    )


def test_trace_that_lacks_a_step_gives_no_figure() -> None:
    """Such as after a change of the wire format."""
    without = [line for line in TRACE if "sendmsg" not in line]
    with pytest.raises(SystemExit, match="that an order was sent"):
        stages_of(parse(without), {10, 11}, "input-1.json")


def test_processor_time_of_children_that_have_ended_counts() -> None:
    """A job's process is gone when its cost is read."""
    before = cpu_seconds_with_ended(os.getpid())
    pid = os.fork()
    if pid == 0:
        while time.process_time() < 0.3:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    assert cpu_seconds_with_ended(os.getpid()) - before >= 0.25


def test_processor_time_is_told_apart_by_kind_of_process() -> None:
    """Ended children of a zygote count as children, and a zygote is known by having some."""
    before = cpu_seconds_by_kind(os.getpid())
    with subprocess.Popen(
        ["wasmdrop: fork server", "-c", FORKS],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        after = cpu_seconds_by_kind(os.getpid())
        process.stdin.close()
    assert after[CHILD] - before[CHILD] >= 0.35
    assert after[FORK_SERVER] >= 0.15
    assert after[ZYGOTE] >= 0.15


def test_resident_memory_is_that_of_the_field() -> None:
    """A peak is no less than the present value."""
    assert 1 < resident_mb(os.getpid()) <= resident_mb(os.getpid(), "VmHWM")


def test_native_program_without_a_compiler_is_left_out(tmp_path: Path) -> None:
    """The error names the compilers; the benchmark goes on."""
    with pytest.raises(LackError, match="no C compiler"):
        build(tmp_path, "native", ["no-such-compiler"])


@pytest.mark.parametrize("name", ["fib", "fib Go", "computing"])
def test_native_program_gives_the_result(tmp_path: Path, name: str) -> None:
    """Also of a WASI reactor, and in 64 bits."""
    try:
        program = build(tmp_path, "native")
        workload = _workload(name)
    except (LackError, AssertionError):
        lack(f"one of {', '.join(COMPILERS)}, and the module")
    code = tmp_path / "code"
    code.write_bytes(wasmtime.Module(wasmtime.Engine(), workload.module).serialize())
    content = workload.input(3)
    result, seconds = call(program, code, content["entry"], content["args"])
    assert [result] == workload.wanted(3).results
    assert seconds > 0


@pytest.mark.parametrize("name", ["fib", "hello", "WASI files", "WASI 100 kB"])
@pytest.mark.parametrize("is_native", [True, False])
def test_floor_checks_each_result(tmp_path: Path, name: str, is_native: bool) -> None:
    """It gives figures for the right result, and fails for another one."""
    try:
        way = (
            [str(build(tmp_path, "fork_floor"))] if is_native else [sys.executable, floor.__file__]
        )
    except LackError:
        lack(f"one of {', '.join(COMPILERS)}")
    words = words_for(_workload(name), tmp_path / "job", 0.05)
    done = subprocess.run([*way, *words], check=True, capture_output=True)
    assert all(value > 0 for value in json.loads(done.stdout).values())
    expected = Path(words[2])
    if expected.is_file():
        expected.write_bytes(expected.read_bytes() + b"x")
    else:
        words[2] += "1"
    done = subprocess.run([*way, *words], check=False, capture_output=True)
    assert b"the result was wrong" in done.stderr


@pytest.mark.parametrize("kind", [NotDurable, Unconfined, WithoutContentIds])
def test_variant_is_a_changed_copy_that_compiles(tmp_path: Path, kind: type[Wasmdrop]) -> None:
    """The changes fit the package as it is."""
    variant = kind(tmp_path, {})
    root = Path(variant.variables()["PYTHONPATH"])
    assert compileall.compile_dir(root, quiet=2)


def test_targets_compare_wasmdrop_with_each_script(tmp_path: Path) -> None:
    """A median as a share of the script's, a burst likewise, and processor time by process."""
    cases = [
        _case(kind, name, tmp_path / name, seconds, cpu_seconds)
        for kind, seconds, cpu_seconds in (
            (Wasmdrop, 0.002, {CHILD: 400.0, MAIN: 0.5}),
            (DurableWarmScript, 0.004, {}),
            (WarmScript, 0.001, {}),
        )
        for name in ("fib", "hello", "WASI files")
        if kind is Wasmdrop or name != "WASI files"
    ]
    found = {(one.module, one.what.partition(":")[0]): one for one in targets.targets(cases)}

    def told(module: str, what: str) -> tuple[float, float, bool]:
        one = found[module, what]
        return round(one.limit, 6), round(one.reached, 6), one.is_met

    script = "of that of the warm script"
    assert told("fib", f"median, {script}, fsync") == (0.8, 0.5, True)
    assert told("fib", f"burst, {script}, fsync") == (1.3, 2.0, True)
    assert told("hello", f"median, {script}") == (1.3, 2.0, False)
    # Its own run of 1 ms and 1.8 times the 2 ms of fib.
    assert told("WASI files", "median, ms") == (4.6, 2.0, True)
    # A thousand jobs took 400 s in children and half a second in the daemon.
    assert told("fib", "fork server, zygotes, children") == (0.6, 400.0, False)
    assert told("fib", "daemon process") == (0.6, 0.5, True)
    assert told("fib", "delivery worker") == (0.3, 0.0, True)


def _case(
    kind: type[Contender], name: str, base: Path, seconds: float, cpu_seconds: dict[str, float]
) -> Case:
    """Return a case with jobs of ``seconds`` each, also in a burst of a thousand."""
    contender = kind(base, {})
    client = Client(contender.shared)
    client.close()
    case = Case(contender, client, _workload(name))
    case.latencies = [seconds] * 3
    case.bursts = [(1000, 1000 * seconds)]
    case.cpu_seconds = [dict.fromkeys(KINDS, 0.0) | cpu_seconds]
    case.stages = [{"run": 0.001}]
    return case


def test_plots_are_images_whose_marks_lie_inside() -> None:
    """Also with nothing but zeros, and with names that look like markup."""
    for image in (
        bars("a < b", {"<one>": 0.0, "two & a long name of many words": 0.0}),
        lines("a < b", {"<one>": [(0, 0), (100, 50)], "two": [(50, 100.0)]}),
    ):
        root = ET.fromstring(image)  # noqa: S314 - our own text
        _x, _y, width, height = (float(word) for word in root.attrib["viewBox"].split())
        for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
            for place in line.attrib["points"].split():
                x, y = (float(word) for word in place.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
