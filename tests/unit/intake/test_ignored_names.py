"""The log of ignored names: complete within bounds of number and memory."""

import time
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from wasmdrop import settings
from wasmdrop.intake import ignored_names
from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.intake.ignored_names import IgnoredNames
from wasmdrop.intake.layout import Layout

DAY_SECONDS: Final = 86_400.0


class Bench:
    """The log for a shared and a wasm directory, with a clock that says that files are old."""

    def __init__(self, base: Path) -> None:
        self.shared, self.wasm = base / "shared", base / "wasm"
        for directory in (self.shared, self.wasm):
            directory.mkdir()
        flags = {"shared_dir": str(self.shared), "wasm_dir": str(self.wasm), "max_depth": "2"}
        loaded = settings.load({}, flags | {"state_dir": str(base / "state")}).settings
        self.ahead_seconds = 60.0
        self.asked: list[tuple[str, float]] = []
        self.counters = IntakeCounters()
        self.ignored = IgnoredNames(
            Layout(loaded),
            self.counters,
            lambda path, seconds: self.asked.append((path, seconds)),
            lambda: time.time() + self.ahead_seconds,
        )

    def make(self, path: Path) -> str:
        """Create a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    def consider(self, *paths: Path) -> list[EventDict]:
        """Create and consider files; return the log events."""
        with capture_logs() as logged:
            for path in paths:
                self.ignored.consider(self.make(path))
        return logged


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Yield a log with its own directories."""
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((f"shared/{name}", "input.json or input-NAME.json") for name in
          ("Input.json", "INPUT.JSON", "input.JSON", "input 1.json", "input_1.json", "inputs.json")),  # noqa: E501
        *((f"shared/{name}", "1 to 200 printable characters, at most") for name in
          ("input-.json", "input.json.txt", "input-a\u202eb.json", f"input-{'x' * 201}.json")),
        ("shared/input.json.ready", "input.json or input-NAME.json"),
        ("shared/one/Input.json", "input.json or input-NAME.json"),
        ("shared/1/2/3/input.json", "more than 2 levels below the shared directory"),
        ("shared/1/2/3/module.wasm", "WASMDROP_MAX_DEPTH"),
        ("shared/fib.wasm", "only module.wasm is a module here"),
        ("shared/Module.wasm", "only module.wasm is a module here"),
        ("wasm/Calc.WASM", "ends in .wasm, in lower case"),
        ("wasm/group/calc.Wasm", "ends in .wasm, in lower case"),
        ("wasm/input.json", "from the shared directory alone"),
    ],
)  # fmt: skip
def test_ignored_name_is_logged_once_with_its_reason(bench: Bench, name: str, reason: str) -> None:
    """The number of times that it is found does not matter."""
    path = bench.shared.parent / name
    (event,) = bench.consider(path, path, path)
    assert event["event"] == "name-ignored"
    assert event["log_level"] == "warning"
    assert event["path"] == str(path)
    assert reason in event["reason"]
    assert bench.counters.names_ignored == 1


@pytest.mark.parametrize(
    "name",
    [
        *("shared/input.json", "shared/input-测试.json", "shared/1/2/module.wasm", "wasm/a.wasm"),
        *("shared/result.json", "shared/other.json", "shared/input.txt", "wasm/fib.wasm.sha256"),
        *("shared/.Input.json", "shared/Input.json.tmp", "shared/Input.json~", "wasm/.A.WASM"),
        *("shared/result.output/Input.json", "shared/.hidden/Input.json", "wasm/README.md"),
    ],
)
def test_other_name_is_not_logged(bench: Bench, name: str) -> None:
    """Inputs, modules, other files, and hidden or unfinished ones."""
    assert bench.consider(bench.shared.parent / name) == []


def test_ignored_name_that_is_renamed_at_once_is_not_logged(bench: Bench) -> None:
    """A producer may write under such a name first. It is considered again a moment later."""
    bench.ahead_seconds = 0.0
    path = bench.shared / "input.json.new"
    assert bench.consider(path) == []
    assert [asked for asked, _seconds in bench.asked] == [str(path)]
    path.rename(bench.shared / "input.json")
    with capture_logs() as logged:
        bench.ignored.consider(str(path))
    assert logged == []
    assert len(bench.asked) == 1


def test_ignored_name_of_a_directory_is_not_logged(bench: Bench) -> None:
    """It may contain slots."""
    (bench.shared / "Input.json").mkdir()
    with capture_logs() as logged:
        bench.ignored.consider(str(bench.shared / "Input.json"))
    assert logged == []


def test_ignored_names_in_one_directory_do_not_count_for_others(bench: Bench) -> None:
    """Each directory has its own limit, which is reset every day."""
    most = ignored_names._MAX_NAMES
    many = [bench.shared / "hostile" / f"input {number}.json" for number in range(3 * most)]
    logged = bench.consider(*many, *many)
    assert [event["event"] for event in logged].count("name-ignored") == most
    assert logged[-1]["event"] == "names-ignored"
    assert logged[-1]["directory"] == str(bench.shared / "hostile")
    assert len(logged) == most + 1
    assert len(bench.consider(bench.shared / "honest" / "Input.json")) == 1
    assert len(bench.consider(bench.shared / "Input.json")) == 1
    bench.ahead_seconds += DAY_SECONDS
    assert len(bench.consider(many[-1], many[-1])) == 1


def test_ignored_names_number_of_directories_is_bounded(bench: Bench) -> None:
    """The last event says that there may be more."""
    most = ignored_names._MAX_DIRECTORIES
    paths = [bench.shared / str(number) / "Input.json" for number in range(most + 9)]
    logged = bench.consider(*paths, *paths)
    assert [event["event"] for event in logged] == [*["name-ignored"] * most, "names-ignored"]
