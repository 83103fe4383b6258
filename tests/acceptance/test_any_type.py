"""Values of any type through real components: what goes in as JSON comes back equal.

For each example a component of its own is made, with a function for each drawn type that hands a
list of that type back as it came. Types that need names are with their own in test_components.py;
that any value fits its type or is refused with a path is shown in tests/unit/test_wit.py.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tests.acceptance.daemon import Daemon, drop
from tests.acceptance.test_components import CORE
from tests.unit.test_wit import plain_of, scalars
from wasmdrop.module import WitType
from wasmdrop.wit import decode_result

_SPELT: Final = {"f32": "float32", "f64": "float64"}

#: Tells examples apart: the same bytes in one slot would find the marker of an earlier one.
_numbers: Final = itertools.count()

anonymous = st.recursive(
    scalars,
    lambda inner: (
        inner.map(lambda one: WitType("list", (), (one,)))
        | inner.map(lambda one: WitType("option", (), (one,)))
        | st.lists(inner, min_size=1, max_size=4).map(lambda some: WitType("tuple", (), (*some,)))
        | st.tuples(st.none() | inner, st.none() | inner).map(
            lambda two: WitType("result", (), two)
        )
    ),
    max_leaves=8,
)


@st.composite
def typed_lists(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a type, as it is spelt in a component's text, and a list of values of it as JSON."""
    form = draw(anonymous)
    many = WitType("list", (), (form,))
    value = decode_result(draw(plain_of(many)), many)
    return spelt(form), value


def spelt(form: WitType) -> str:
    """Return a type in the text format of components."""
    parts = [None if part is None else spelt(part) for part in form.types]
    if form.kind == "result":
        ok, error = parts
        return f"(result {ok or ''} {'' if error is None else f'(error {error})'})"
    if parts:
        return f"({form.kind} {' '.join(part or '' for part in parts)})"
    return _SPELT.get(form.kind, form.kind)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all examples."""
    with Daemon(tmp_path_factory.mktemp("any-type")).running() as it:
        yield it


@given(st.lists(typed_lists(), min_size=1, max_size=6))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_value_of_any_type_comes_back_equal(
    daemon: Daemon, cases: list[tuple[str, Any]]
) -> None:
    """Lists, options, tuples and results of all scalars, in each other."""
    functions = "".join(
        f'(func $f{n} (param "items" (list {form})) (result (list {form}))'
        ' (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))'
        f'(export "echo-{n}" (func $f{n}))'
        for n, (form, _values) in enumerate(cases)
    )
    name = f"m{next(_numbers)}"
    drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(f"(component {CORE} {functions})")))
    for n, (form, values) in enumerate(cases):
        job = {"module": name, "entry": f"echo-{n}", "args": [values], "id": str(n)}
        daemon.submit("input-echo.json", job)
        result = daemon.result("input-echo.json")
        assert result.get("results") == [values], (form, json.dumps(values), result)
