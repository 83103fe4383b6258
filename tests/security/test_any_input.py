"""No input can end the daemon: every drop, whatever its content, ends in a true marker.

Against one running daemon: bytes, near-inputs and JSON of any shape as inputs, and modules and
components in which a few bytes were changed.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tests.support.components import COMMAND, EVERYTHING
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.guests import runs_in_native, use_guest
from tests.support.outcomes import faults
from tests.support.strategies import JSON, mutations, replaced
from tests.support.wasi_programs import FILE_PROGRAMS, FILES

#: Modules, dropped unchanged and with changes: a function, a program with files, components.
MODULES: Final = {
    "fib": bytes(wat2wasm(FIB)),
    "work": bytes(wat2wasm(f"(module {FILES} {FILE_PROGRAMS['work']})")),
    "everything": bytes(wat2wasm(EVERYTHING)),
    "hello": bytes(wat2wasm(COMMAND.replace("RESULT", "0"))),
}

#: A valid input for each; together they have every key.
INPUTS: Final[list[dict[str, Any]]] = [
    {"module": "fib", "entry": "fib", "args": [12], "fuel": 100_000, "id": "x", "memory_mb": 1},
    {
        "module": "work",
        "args": ["a", "b"],
        "env": {"A": "1"},
        "stdin": {"base64": "AP8="},
        "files": {"data/in.txt": "x", "raw": {"base64": "AP8="}},
        "grants": [],
        "output_mb": 1,
        "disk_mb": 1,
    },
    {
        "module": "everything",
        "entry": "a:b/shapes@1.0.0#echo-record",
        "args": [[{"x": 1.5, "a-b": "p"}]],
        "deterministic": True,
        "timeout_sec": 1,
    },
    {"module": "hello"},
]

_numbers: Final = itertools.count()

_settings: Final = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all examples; it must serve as well afterwards."""
    it = Daemon(
        tmp_path_factory.mktemp("any-input"),
        WASMDROP_SETTLE_SEC="0.02",
        WASMDROP_MODULE_WAIT_SEC="0.02",
        TIMEOUT_SEC="1",
    )
    for name, module in MODULES.items():
        drop(it.wasm / f"{name}.wasm", module)
    record = use_guest(guest, it)
    with it.running():
        yield it
        it.submit("input.json", INPUTS[0] | {"id": "last"})
        assert it.result("input.json")["results"] == [144]
    assert any(runs_in_native(record).values()) is (guest == "native")


def outcome_of(daemon: Daemon, content: bytes) -> dict[str, Any]:
    """Drop ``content`` in a new slot; return its marker after checking it."""
    name = f"input-{next(_numbers)}.json"
    path: Path = daemon.shared / name
    drop(path, content)
    marker = wait_until(lambda: daemon.marker(name), f"the marker of {content!r}")
    daemon.result(name)
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert faults(daemon) == []
    path.unlink()
    return marker


sound: Final = st.sampled_from(INPUTS)


@given(
    st.one_of(
        st.binary(max_size=200),
        sound.flatmap(lambda one: mutations(json.dumps(one).encode())),
        sound.flatmap(replaced),
        JSON.map(lambda value: json.dumps(value).encode()),
    )
)
@_settings
def test_input_of_any_content_does_not_end_the_daemon(daemon: Daemon, content: bytes) -> None:
    """It runs or is refused, and the fault is never the daemon's or the sandbox's."""
    marker = outcome_of(daemon, content)
    assert marker["code"] not in {"internal", "crashed", "sandbox-violation"}, marker["message"]


@given(st.sampled_from(range(len(INPUTS))), st.data())
@_settings
def test_module_of_any_content_does_not_end_the_daemon(
    daemon: Daemon, which: int, data: st.DataObject
) -> None:
    """Whatever happened to its bytes on the way."""
    name = f"changed-{next(_numbers)}"
    module = data.draw(mutations(MODULES[INPUTS[which]["module"]]))
    drop(daemon.wasm / f"{name}.wasm", module)
    marker = outcome_of(daemon, json.dumps(INPUTS[which] | {"module": name}).encode())
    assert marker["code"] not in {"internal", "crashed", "sandbox-violation"}, marker["message"]
    (daemon.wasm / f"{name}.wasm").unlink()
