"""The input file: its keys, their types and bounds, and the error messages for invalid inputs.

An `InputSpec` is valid by itself. Whether the module exports the entry and takes the arguments is
checked when the job runs.

``wasmdrop schema input`` is generated from the same definition. Constraints that msgspec does not
check, such as patterns and bounds, are given for the schema beside each key.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.input_values import (
    DIGEST,
    DIGEST_FORM,
    ENV_NAME,
    MAX_FILES,
    MAX_PATH_BYTES,
    MODULE_PATH,
    PLAIN_PATH,
    Content,
    check_content,
    check_env,
    check_files,
    check_grants,
    check_module,
    refuse,
)
from wasmdrop.protocol.limits import GRANT_NAME, Limits
from wasmdrop.protocol.text import describe_value

#: Characters of the producer's id for a job.
MAX_ID_LENGTH: Final = 200

#: wasmtime counts fuel in an unsigned 64-bit integer.
MAX_FUEL: Final = 2**64 - 1


class InputSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """One input file. Every key is optional; ``null`` is the same as omitting the key.

    Raises `RefusedError` (``invalid-input``) if a value is out of bounds.
    """

    entry: Annotated[
        str | None,
        msgspec.Meta(
            description="The exported function to call; for a component also"
            " ns:pkg/interface@1.0.0#func. Default: ENTRY, then add, then a command's _start.",
            examples=["fib"],
        ),
    ] = None
    args: Annotated[
        tuple[Any, ...] | None,
        msgspec.Meta(
            description="The arguments of the function; for a WASI command, its argument strings.",
            examples=[[12]],
        ),
    ] = None
    module: Annotated[
        str | None,
        msgspec.Meta(
            description="The module: a path below the wasm directory, with or without .wasm, or"
            " sha256: and the digest of a module that the daemon has seen before.",
            examples=["fib", "group/fib.wasm"],
            extra_json_schema={
                "pattern": f"^(?:{DIGEST_FORM}|(?!{DIGEST}){MODULE_PATH})$",
                "maxLength": MAX_PATH_BYTES,
            },
        ),
    ] = None
    env: Annotated[
        dict[str, Annotated[str, msgspec.Meta(extra_json_schema={"pattern": r"^[^\x00]*$"})]],
        msgspec.Meta(
            description="WASI environment variables. Those of the daemon are not passed on.",
            extra_json_schema={"propertyNames": {"pattern": f"^{ENV_NAME}$"}},
        ),
    ] = {}
    stdin: Annotated[
        Content | None,
        msgspec.Meta(description="Standard input of a WASI program: text, or base64."),
    ] = None
    files: Annotated[
        dict[str, Content],
        msgspec.Meta(
            description="Files by relative path, written to the job's private directory, which a"
            " WASI program sees as /.",
            extra_json_schema={
                "maxProperties": MAX_FILES,
                "propertyNames": {"pattern": f"^{PLAIN_PATH}$", "maxLength": MAX_PATH_BYTES},
            },
        ),
    ] = {}
    grants: Annotated[
        tuple[Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{GRANT_NAME}$"})], ...],
        msgspec.Meta(
            description="Names of directories that the operator lets jobs read. A WASI program sees"
            " the grant NAME as /NAME.",
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    timeout_sec: Annotated[
        float | None,
        msgspec.Meta(
            description="Wall clock time of the run in seconds. All limits can be at most the"
            " daemon's own.",
            extra_json_schema={"exclusiveMinimum": 0},
        ),
    ] = None
    memory_mb: Annotated[
        int | None,
        msgspec.Meta(
            description="The linear memories together, in MiB.", extra_json_schema={"minimum": 1}
        ),
    ] = None
    fuel: Annotated[
        int | None,
        msgspec.Meta(
            description="Units of wasmtime's fuel, about one per instruction.",
            extra_json_schema={"minimum": 1, "maximum": MAX_FUEL},
        ),
    ] = None
    output_mb: Annotated[
        float | None,
        msgspec.Meta(
            description="Standard output and standard error together, or the results, in MiB.",
            extra_json_schema={"exclusiveMinimum": 0},
        ),
    ] = None
    disk_mb: Annotated[
        int | None,
        msgspec.Meta(
            description="The files in the job's directory together, in MiB.",
            extra_json_schema={"minimum": 1},
        ),
    ] = None
    deterministic: Annotated[
        bool,
        msgspec.Meta(
            description="Fixed clock, seeded randomness, canonical NaNs, deterministic relaxed"
            " SIMD."
        ),
    ] = False
    id: Annotated[
        str | None,
        msgspec.Meta(
            description="The producer's id for the job, repeated in the completion marker.",
            extra_json_schema={"maxLength": MAX_ID_LENGTH},
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.module is not None:
            check_module(self.module)
        if self.env:
            check_env(self.env)
        if self.stdin is not None:
            check_content(self.stdin, "stdin")
        if self.files:
            check_files(self.files)
        if self.grants:
            check_grants(self.grants, self.files)
        if self.id is not None and len(self.id) > MAX_ID_LENGTH:
            refuse(("id",), f"expected at most {MAX_ID_LENGTH} characters, got {len(self.id)}")


_CONTENT: Final = 'a string or {"base64": "..."}'

_EXPECTED: Final[Mapping[str, str]] = {
    "entry": "a string",
    "args": "an array",
    "module": "a string",
    "env": "an object of strings",
    "stdin": _CONTENT,
    "files": "an object of file names and contents",
    "grants": "an array of names",
    "timeout_sec": "a number",
    "memory_mb": "an integer",
    "fuel": "an integer",
    "output_mb": "a number",
    "disk_mb": "an integer",
    "deterministic": "true or false",
    "id": "a string",
}

_ITEMS: Final[Mapping[str, tuple[Any, str]]] = {
    "env": (str, "a string"),
    "files": (Content, _CONTENT),
}


def parse_input(text: bytes) -> InputSpec:
    """Parse an input file.

    Raises `RefusedError` (``invalid-input``), whose message has the path and what was expected.
    """
    value = strict_json.parse(text)
    if not isinstance(value, dict):
        refuse((), f'expected an object such as {{"args": [12]}}, got {describe_value(value)}')
    given = {key: item for key, item in value.items() if item is not None or key not in _EXPECTED}
    try:
        return msgspec.convert(given, InputSpec, strict=True)
    except msgspec.ValidationError as error:
        _refuse_misfit(value, given)
        refuse((), str(error))


def limits_for(spec: InputSpec, ceiling: Limits) -> Limits:
    """Return the limits of a job: those of ``spec``, and those of ``ceiling`` by default.

    Raises `RefusedError` (``invalid-input``) for a limit that is above ``ceiling`` or not positive.
    """
    asked: dict[str, float] = {}
    for name in ("timeout_sec", "memory_mb", "output_mb", "disk_mb", "fuel"):
        value: float | None = getattr(spec, name)
        if value is None:
            continue
        allowed: float | None = getattr(ceiling, name)
        at_most = MAX_FUEL if allowed is None else allowed
        if value <= 0:
            refuse(
                (name,),
                f"expected more than 0 and at most {_number(at_most)}, got {_number(value)}",
            )
        if value > at_most:
            who = "this daemon allows" if allowed is not None else "can be counted"
            refuse((name,), f"{_number(value)} is more than {who} ({_number(at_most)})")
        asked[name] = value
    return msgspec.structs.replace(ceiling, **asked) if asked else ceiling


def grants_for(spec: InputSpec, directories: Mapping[str, Path]) -> dict[str, str]:
    """Return the ``directories`` that ``spec`` names, which the job may read.

    Raises `RefusedError` (``invalid-input``) for an unknown name.
    """
    for index, name in enumerate(spec.grants):
        if name not in directories:
            known = f"there are {', '.join(sorted(directories))}" if directories else "it has none"
            refuse(
                ("grants", index),
                f"no grant of this daemon is named {describe_value(name)}; {known}",
            )
    return {name: str(directories[name]) for name in spec.grants}


def _number(value: float) -> str:
    return describe_value(int(value) if value == int(value) else value)


# --- Values of the wrong type


def _refuse_misfit(value: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Raise the refusal of the first invalid key.

    msgspec's own message shows keys of a mapping as ``[...]`` and types by their Python names.
    """
    for key in value:
        if key not in _EXPECTED:
            _refuse_unknown(key)
    types = {field.name: field.type for field in msgspec.structs.fields(InputSpec)}
    for key, item in given.items():
        if key in _ITEMS and isinstance(item, dict):
            kind, expected = _ITEMS[key]
            for name, part in item.items():
                _require(part, kind, expected, (key, name))
        else:
            _require(item, types[key], _EXPECTED[key], (key,))


def _require(value: object, kind: Any, expected: str, steps: Iterable[str]) -> None:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        refuse(steps, f"expected {expected}, got {describe_value(value)}")


def _refuse_unknown(key: str) -> NoReturn:
    near = difflib.get_close_matches(key[:MAX_ID_LENGTH], _EXPECTED, 1)
    hint = f"did you mean {near[0]}? The keys are" if near else "the keys are"
    refuse((key,), f"unknown key; {hint} {', '.join(_EXPECTED)}")
