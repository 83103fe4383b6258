"""Requests: derived from a module's summary, a call and its limits."""

import math
import os
from collections.abc import Sequence

import msgspec

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, ModuleKind, ModuleSummary
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.memory_shares import memory_shares_of
from wasmdrop.sandbox.wire import Invocation, Preparation, WasiContext


class Call(msgspec.Struct, frozen=True):
    """A call: an entry that exists, and arguments that fit it."""

    entry: str
    signature: FunctionType
    args: tuple[int, ...] = ()
    """One bit pattern per parameter."""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    stdin: bytes = b""
    files: dict[str, bytes] = {}
    """Files to create in the directory of the job, by relative path."""
    grants: dict[str, str] = {}
    """Directories that it may also read, by the name under which it sees them."""
    component: ComponentCall | None = None
    """Signature and arguments of a component's function, instead of the above."""
    is_command: bool = False
    """Whether the entry is that of a WASI command: its results are output and an exit code."""


def wants_directory(summary: ModuleSummary, call: Call) -> bool:
    """Whether a call can use a directory of its own."""
    return summary.wants_files and bool(call.is_command or call.files or call.grants)


def can_be_prepared(module: CompiledModule) -> bool:
    """Whether a module can be instantiated before there is a job, without running its code."""
    summary = module.summary
    return not (
        summary.has_start
        or summary.kind is ModuleKind.COMPONENT
        # Their sizes are read from the address map of the process, which a fork inherits.
        or _has_hidden_memories(summary)
        # The deterministic clock and random numbers belong to the process.
        or module.options.deterministic
    )


def preparation_of(
    module: CompiledModule,
    call: Call,
    limits: Limits,
    directories: Sequence[int] = (),
) -> Preparation:
    """Return how to prepare the module for this call and others like it.

    ``directories``: if the job has a directory, descriptors of its parent and of the grants.
    """
    summary = module.summary
    memories = [name for name, kind in summary.other_exports.items() if kind == "memory"]
    is_hidden = _has_hidden_memories(summary)
    return Preparation(
        options=module.options,
        memory_export=memories[0] if memories and not is_hidden else None,
        memory_bytes=limits.memory_bytes,
        shares=memory_shares_of(summary, limits),
        output_bytes=limits.output_bytes,
        fuel=limits.fuel,
        has_wasi=summary.wants_wasi,
        is_component=call.component is not None,
        disk_bytes=limits.disk_bytes if directories else None,
        directories=tuple((status.st_dev, status.st_ino) for status in map(os.fstat, directories)),
        tells_refusals=summary.tells_refusals,
        has_hidden_memories=is_hidden,
    )


def invocation_of(
    module: CompiledModule, call: Call, limits: Limits, *, has_directory: bool
) -> Invocation:
    """Return the part of a request that belongs to the call alone."""
    summary = module.summary
    return Invocation(
        entry=call.entry,
        signature=call.signature,
        args=call.args,
        is_command=call.is_command,
        initialize=_initializes(summary, call),
        cpu_seconds=cpu_limit_seconds(limits),
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


def cpu_limit_seconds(limits: Limits) -> int:
    """Return the kernel's limit of processor time, which must not precede the timeout."""
    return math.ceil(limits.timeout_sec) + 1


def _has_hidden_memories(summary: ModuleSummary) -> bool:
    """Whether there may be memories other than a single one that is exported once.

    The heap of structs and exceptions is a memory.
    """
    if summary.kind is ModuleKind.COMPONENT or summary.has_gc_heap:
        return True
    exported = sum(kind == "memory" for kind in summary.other_exports.values())
    return summary.memory_count > 0 and not summary.memory_count == exported == 1


def _initializes(summary: ModuleSummary, call: Call) -> bool:
    return summary.kind is ModuleKind.REACTOR and call.entry != "_initialize"
