"""Orders: what a child is told, made of a module's summary, a call and its limits."""

import math

import msgspec

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, ModuleKind, ModuleSummary
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.memory_shares import memory_shares_of
from wasmdrop.sandbox.wire import BoundFunction, Invocation, Preparation, WasiContext

__all__ = ["Call", "CompileLimits", "can_be_readied", "invocation_of", "preparation_of"]


class Call(msgspec.Struct, frozen=True):
    """What to call and with what: an entry that exists, arguments that fit it."""

    entry: str
    signature: FunctionType
    args: tuple[int, ...] = ()
    """One bit pattern a parameter."""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    stdin: bytes = b""
    files: dict[str, bytes] = {}
    """What is laid into the job's own directory, by relative path."""
    grants: dict[str, str] = {}
    """Directories that it may read besides, by the name that it sees them under."""
    component: ComponentCall | None = None
    """The signature and arguments of a component's function, in place of the above."""
    is_command: bool = False
    """Whether the entry is a WASI command's, whose output and exit code are its results."""


class CompileLimits(msgspec.Struct, frozen=True):
    """Limits of one compilation."""

    seconds: float = 60.0
    memory_mb: int = 2048


def can_be_readied(module: CompiledModule) -> bool:
    """Whether an instance can be made of a module without running anything of its own."""
    summary = module.summary
    return not (
        summary.has_start
        or summary.kind is ModuleKind.COMPONENT
        # What tells of them is a process's own.
        or _has_hidden_memories(summary)
        # Its world is one for each process, and as such part of what makes it ready.
        or module.options.deterministic
    )


def preparation_of(module: CompiledModule, call: Call, limits: Limits) -> Preparation:
    """Return how the module is made ready for this call, and others like it."""
    summary = module.summary
    memories = _memories(summary)
    is_hidden = _has_hidden_memories(summary)
    return Preparation(
        options=module.options,
        memory_export=memories[0] if memories and not is_hidden else None,
        memory_bytes=limits.memory_bytes,
        shares=memory_shares_of(summary, limits),
        output_bytes=limits.output_bytes,
        cpu_seconds=math.ceil(limits.timeout_sec) + 1,
        fuel=limits.fuel,
        has_wasi=summary.wants_wasi,
        is_component=call.component is not None,
        function=BoundFunction(call.entry, call.signature, _initializes(summary, call))
        if _is_plain(call)
        else None,
        tells_refusals=summary.tells_refusals,
        has_hidden_memories=is_hidden,
    )


def _memories(summary: ModuleSummary) -> list[str]:
    return [name for name, kind in summary.other_exports.items() if kind == "memory"]


def _has_hidden_memories(summary: ModuleSummary) -> bool:
    """Whether there may be more memories than one that is exported, once.

    The heap of structs and exceptions is one.
    """
    if summary.kind is ModuleKind.COMPONENT or summary.has_gc_heap:
        return True
    return summary.memory_count > 0 and not summary.memory_count == len(_memories(summary)) == 1


def _is_plain(call: Call) -> bool:
    """Whether all that a call gives the module is arguments of its function."""
    is_function = not call.is_command and call.component is None
    return is_function and not (call.env or call.stdin or call.files or call.grants)


def _initializes(summary: ModuleSummary, call: Call) -> bool:
    return summary.kind is ModuleKind.REACTOR and call.entry != "_initialize"


def invocation_of(
    module: CompiledModule, call: Call, limits: Limits, *, has_directory: bool
) -> Invocation:
    """Return what is told of the call alone."""
    summary = module.summary
    return Invocation(
        entry=call.entry,
        signature=call.signature,
        args=call.args,
        is_command=call.is_command,
        initialize=_initializes(summary, call),
        wasi=WasiContext(
            call.argv,
            call.env,
            len(call.stdin),
            limits.disk_bytes if has_directory else None,
            tuple(call.grants),
            tuple((path, len(content)) for path, content in call.files.items()),
        )
        if summary.wants_wasi
        else None,
        component=call.component,
    )
