"""Values of any type through real components: JSON comes back equal, or is refused.

Each example has its own component, with a function for each drawn type that returns its argument, a
list of that type. Types in an interface are in test_components.py.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tests.support.components import CORE
from tests.support.daemon import Daemon, drop
from tests.support.outcomes import faults
from tests.support.strategies import plain_of, texts, types
from wasmdrop.protocol.component_values import decode_result, encode_args
from wasmdrop.protocol.module_types import WitFunction, WitType

_SPELT: Final = {"f32": "float32", "f64": "float64"}

#: Numbers the examples: the same bytes in one slot would find the marker of an earlier one.
_numbers: Final = itertools.count()

#: A type, a list of values of it as JSON, and the same with one place changed to anything.
_Case = tuple[WitType, list[Any], list[Any]]


#: Any JSON. Infinity, which Python would write as a bare word, is none.
json_values: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@st.composite
def cases(draw: st.DrawFn) -> _Case:
    """Draw a type, a list of its values, and one that may not be."""
    form = draw(types)
    values = _values(draw, form)
    changed = json.loads(json.dumps(values)) or [None]
    path = draw(st.sampled_from(list(_places(changed))))
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = draw(json_values)
    return form, values, changed


def _values(draw: st.DrawFn, form: WitType) -> list[Any]:
    many = WitType("list", (), (form,))
    values: list[Any] = decode_result(draw(plain_of(many)), many)
    return values


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    steps: Any = ()
    if isinstance(value, list):
        steps = enumerate(value)
    elif isinstance(value, dict):
        steps = value.items()
    for step, inner in steps:
        yield (step,)
        yield from ((step, *path) for path in _places(inner))


class Text:
    """Types in the text format of components, in which a type with named parts needs a name."""

    def __init__(self) -> None:
        self.definitions: list[str] = []

    def of(self, form: WitType) -> str:
        """Return how a type is referred to."""
        parts = [None if part is None else self.of(part) for part in form.types]
        named = list(zip(form.names, parts, strict=False))
        match form.kind:
            case "result":
                ok, error = parts
                return f"(result {ok or ''} {'' if error is None else f'(error {error})'})"
            case "enum" | "flags":
                return self._named(f"({form.kind} {' '.join(map(json.dumps, form.names))})")
            case "record":
                fields = " ".join(f'(field "{name}" {part})' for name, part in named)
                return self._named(f"(record {fields})")
            case "variant":
                some = " ".join(f'(case "{name}" {part or ""})' for name, part in named)
                return self._named(f"(variant {some})")
        if parts:
            return f"({form.kind} {' '.join(part or '' for part in parts)})"
        return _SPELT.get(form.kind, form.kind)

    def _named(self, definition: str) -> str:
        number = len(self.definitions)
        self.definitions.append(
            f'(type $t{number} {definition}) (export $e{number} "type-{number}" (type $t{number}))'
        )
        return f"$e{number}"


def component_of(forms: list[WitType]) -> bytes:
    """Return a component with a function ``echo-N`` for lists of each type."""
    text = Text()
    functions = "".join(
        f'(func $f{n} (param "items" (list {form})) (result (list {form}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        f'(export "echo-{n}" (func $f{n}))'
        for n, form in enumerate([text.of(form) for form in forms])
    )
    return bytes(wat2wasm(f"(component {CORE} {' '.join(text.definitions)} {functions})"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all examples."""
    with Daemon(tmp_path_factory.mktemp("any-type")).running() as it:
        yield it


@given(st.lists(cases(), min_size=1, max_size=6))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_component_value_of_any_type_comes_back_equal_or_is_refused_with_its_path(
    daemon: Daemon, drawn: list[_Case]
) -> None:
    """Types nest in each other. A value of the wrong type never reaches the component."""
    name = f"m{next(_numbers)}"
    drop(daemon.wasm / f"{name}.wasm", component_of([form for form, _values, _changed in drawn]))
    for n, (form, values, changed) in enumerate(drawn):
        job = {"module": name, "entry": f"echo-{n}", "args": [values], "id": str(n)}
        daemon.submit("input-echo.json", job)
        result = daemon.result("input-echo.json")
        assert result.get("results") == [values], (form, json.dumps(values), result)

        marker = daemon.submit("input-echo.json", {**job, "args": [changed], "id": f"{n} changed"})
        result = daemon.result("input-echo.json")
        if marker["code"] == "ok":
            # Other JSON of the same meaning, such as an integer for a float.
            function = WitFunction((("items", WitType("list", (), (form,))),))
            assert encode_args(result["results"], function) == encode_args([changed], function)
        else:
            assert marker["code"] == "invalid-args", (form, json.dumps(changed), marker["message"])
            assert marker["message"].startswith("args[0]")
    assert faults(daemon) == []
