"""JSON Schemas (2020-12) of the input and of the completion marker.

They are generated from the types that the daemon reads and writes. The daemon also checks what a
schema can't express: its own limits, lengths in bytes, duplicate keys, numbers such as ``1.0`` for
integers, and names that are a file and a directory.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.marker import MARKER_SCHEMA, Marker

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: Type and title by name.
DOCUMENTS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "input": (InputSpec, "wasmdrop.input/1"),
    "marker": (Marker, MARKER_SCHEMA),
}


def document(name: str) -> dict[str, Any]:
    """Return the JSON Schema of one of ``DOCUMENTS``."""
    return schema_of(*DOCUMENTS[name])


def schema_of(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """Return the JSON Schema of a type whose values are documents."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    body = definitions.pop(kind.__name__)
    if kind is InputSpec:
        _let_be_null(body["properties"])
    for part in (body, *definitions.values()):
        # The first paragraph is for users, the others are for developers.
        part["description"] = " ".join(part["description"].partition("\n\n")[0].split())
    return {"$schema": _DIALECT, **body, "title": title, "$defs": definitions}


def _let_be_null(properties: dict[str, Any]) -> None:
    """Allow ``null`` for each key, as the daemon does."""
    for name, value in properties.items():
        if {"type": "null"} not in value.get("anyOf", ()):
            about = {key: value.pop(key) for key in ("description", "default") if key in value}
            properties[name] = {**about, "anyOf": [value, {"type": "null"}]}
