"""Random inputs: WIT types with values, JSON of any shape, and sound bytes with one change."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from wasmdrop.protocol.component_values import INTEGERS
from wasmdrop.protocol.module_types import WitType

names = st.lists(
    st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True), min_size=1, max_size=4, unique=True
).map(tuple)

scalars = st.sampled_from([*INTEGERS, "f32", "f64", "bool", "char", "string"]).map(WitType)


@st.composite
def named(draw: st.DrawFn, inner: st.SearchStrategy[WitType]) -> WitType:
    """Draw a record or a variant."""
    kind = draw(st.sampled_from(["record", "variant"]))
    them = draw(names)
    part = inner if kind == "record" else st.none() | inner
    return WitType(kind, them, tuple(draw(part) for _ in them))


types = st.recursive(
    scalars
    | names.map(lambda them: WitType("enum", them))
    | names.map(lambda them: WitType("flags", them)),
    lambda inner: (
        inner.map(lambda one: WitType("list", (), (one,)))
        | inner.map(lambda one: WitType("option", (), (one,)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: WitType("tuple", (), (*some,)))
        | st.tuples(st.none() | inner, st.none() | inner).map(
            lambda two: WitType("result", (), two)
        )
        | named(inner)
    ),
    max_leaves=8,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


def plain_of(form: WitType) -> st.SearchStrategy[Any]:  # noqa: C901 - one case for each type
    """Return a strategy of plain values of a type."""
    inner = [st.none() if part is None else plain_of(part) for part in form.types]
    match form.kind:
        case kind if kind in INTEGERS:
            return st.integers(*INTEGERS[kind])
        case "f32" | "f64":
            return st.integers(0, 2 ** int(form.kind[1:]) - 1)
        case "bool":
            return st.booleans()
        case "char":
            return st.characters(exclude_categories=["Cs"])
        case "string":
            return texts
        case "list" if form.types[0] == WitType("u8"):
            return st.binary().map(_base64)
        case "list":
            return st.lists(inner[0], max_size=3)
        case "option":
            return st.lists(inner[0], max_size=1)
        case "tuple" | "record":
            return st.tuples(*inner).map(list)
        case "enum":
            return st.integers(0, len(form.names) - 1)
        case "flags":
            return st.sets(st.integers(0, len(form.names) - 1)).map(sorted)
    cases = [payload.map(_numbered(number)) for number, payload in enumerate(inner)]
    return st.one_of(cases)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _numbered(number: int) -> Any:
    return lambda payload: [number, payload]


#: JSON of any shape, also numbers and strings that no field accepts.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of ``data`` with one change: bytes replaced, removed or inserted."""
    place = st.integers(0, len(data) - 1)
    byte = st.binary(min_size=1, max_size=1)
    return st.one_of(
        st.builds(lambda at, new: data[:at] + new + data[at + 1 :], place, byte),
        st.builds(lambda at, size: data[:at] + data[at + size :], place, st.integers(1, 40)),
        st.builds(lambda at, new: data[:at] + new + data[at:], place, st.binary(max_size=8)),
        st.binary(max_size=200),
    )


def replaced(sound: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy of ``sound`` with one value, at any depth, replaced by any other."""
    paths = list(_paths(sound))

    def put(path: tuple[str, ...], value: Any) -> bytes:
        body = json.loads(json.dumps(sound))
        inner = body
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return json.dumps(body).encode()

    return st.builds(put, st.sampled_from(paths), JSON)


def _paths(body: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in body.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from _paths(value, (*before, key))
