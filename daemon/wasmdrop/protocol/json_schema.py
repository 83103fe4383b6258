"""The interfaces as documents: JSON Schemas (2020-12) of the input and of the completion marker.

Each is made from the very type that the daemon reads or writes with. What a schema can't say, the
daemon still checks: limits of its own, lengths in bytes, duplicate keys, numbers such as ``1.0``
where an integer is expected, a name that is a file and a directory.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.marker import MARKER_SCHEMA, Marker

__all__ = ["DOCUMENTS", "document"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: What there is a document of: its name, its type, its title.
DOCUMENTS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "input": (InputSpec, "wasmdrop.input/1"),
    "marker": (Marker, MARKER_SCHEMA),
}


def document(name: str) -> dict[str, Any]:
    """Return the JSON Schema of one of `DOCUMENTS`."""
    kind, title = DOCUMENTS[name]
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    body = definitions.pop(kind.__name__)
    if kind is InputSpec:
        _let_be_null(body["properties"])
    for part in (body, *definitions.values()):
        # The first paragraph is for users, whatever follows for developers.
        part["description"] = " ".join(part["description"].partition("\n\n")[0].split())
    return {"$schema": _DIALECT, **body, "title": title, "$defs": definitions}


def _let_be_null(properties: dict[str, Any]) -> None:
    """Say of each key what the reading of an input does: ``null`` is the same as leaving it out."""
    for name, value in properties.items():
        if {"type": "null"} not in value.get("anyOf", ()):
            about = {key: value.pop(key) for key in ("description", "default") if key in value}
            properties[name] = {**about, "anyOf": [value, {"type": "null"}]}
