"""Choose the export that a job calls, and its arguments, in the protocol's order of precedence.

Pure: from the module's summary, the input and the settings to a :class:`Plan`. The runner uses it
for each job, ``wasmdrop inspect`` to show it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wasmdrop.protocol.component_values import encode_args as encode_wit_args
from wasmdrop.protocol.core_values import check_signature, encode_args
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text, describe_value
from wasmdrop.settings import Settings

#: Exports that an error message lists.
_LISTED: Final = 30


_ADD: Final = "add"
_ADD_PARAMS: Final = ("i64", "i64")


class Plan(msgspec.Struct, frozen=True):
    """A call that fits the module."""

    entry: str
    signature: FunctionType
    args: tuple[Any, ...]
    """The arguments as the results echo them."""
    bits: tuple[int, ...] = ()
    """The arguments as bit patterns, for a function."""
    argv: tuple[str, ...] | None = None
    """The argument strings after the program's name, for a command; None for a function."""
    component: ComponentCall | None = None
    """The call of a component, with its arguments as plain values."""


def choose_entry(summary: ModuleSummary, wanted: str | None, settings: Settings) -> str:
    """Return the export to call: of ``wanted``, ``ENTRY``, ``add`` and ``_start`` the first one.

    If there is a ``wanted`` one, no other is tried. Raises ``RefusedError`` with
    ``entry-not-found`` and the module's exports.
    """
    functions = summary.functions.keys() | summary.wit_functions.keys()
    if wanted is not None:
        if wanted in functions:
            return wanted
        if wanted in summary.other_exports:
            kind = summary.other_exports[wanted]
            raise RefusedError(
                Code.ENTRY_NOT_FOUND,
                f"{describe_value(wanted)} is exported as a {kind}, not as a function",
            )
        raise RefusedError(
            Code.ENTRY_NOT_FOUND,
            f"the module exports no function {describe_value(wanted)}; {_exports(summary)}",
        )
    if settings.entry in functions:
        return settings.entry
    add = summary.functions.get(_ADD)
    if add is not None and add.params == _ADD_PARAMS:
        return _ADD
    if summary.command is not None:
        return summary.command
    raise RefusedError(
        Code.ENTRY_NOT_FOUND,
        f'no "entry" was given and the module exports no {describe_value(settings.entry)};'
        f" {_exports(summary)}",
    )


def plan(
    summary: ModuleSummary, wanted: str | None, args: Sequence[Any] | None, settings: Settings
) -> Plan:
    """Return the call that a job makes.

    Raises ``RefusedError``: ``link-error`` first, because no export of such a module can be called;
    ``entry-not-found``, ``invalid-args``, ``unsupported-signature``.
    """
    if summary.link_error:
        raise RefusedError(Code.LINK_ERROR, bounded_text(summary.link_error))
    entry = choose_entry(summary, wanted, settings)
    function = summary.wit_functions.get(entry)
    signature = FunctionType() if function is not None else summary.functions[entry]
    given = tuple(_arguments(entry, signature, args, settings))
    if entry == summary.command:
        call = None if function is None else ComponentCall(function, ())
        return Plan(entry, signature, given, argv=_argument_strings(given), component=call)
    if function is not None:
        call = ComponentCall(function, tuple(encode_wit_args(given, function)))
        return Plan(entry, signature, given, component=call)
    check_signature(signature)
    return Plan(entry, signature, given, bits=tuple(encode_args(given, signature.params)))


def _arguments(
    entry: str, signature: FunctionType, args: Sequence[Any] | None, settings: Settings
) -> Sequence[Any]:
    if args is not None:
        return args
    if settings.env_args is not None:
        return settings.env_args
    if entry == _ADD and signature.params == _ADD_PARAMS:
        return (settings.add_x, settings.add_y)
    return ()


def _argument_strings(args: Sequence[Any]) -> tuple[str, ...]:
    """Return a command's arguments; a number becomes its decimal text."""
    strings = []
    for index, arg in enumerate(args):
        if isinstance(arg, bool) or not isinstance(arg, str | int | float):
            raise RefusedError(
                Code.INVALID_ARGS,
                f"args[{index}]: expected a string, as the arguments of a command are",
            )
        text = str(arg)
        if "\0" in text:
            raise RefusedError(Code.INVALID_ARGS, f"args[{index}]: holds a NUL character")
        strings.append(text)
    return tuple(strings)


def _exports(summary: ModuleSummary) -> str:
    names = [*summary.functions, *summary.wit_functions]
    if not names:
        return "it exports no functions at all"
    shown = ", ".join(map(describe_value, names[:_LISTED]))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"it exports {shown}{more}"
