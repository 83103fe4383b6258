"""What the dispatcher asks of the sandbox: one call, or one compilation within its limits."""

import msgspec

from wasmdrop.module import ComponentCall, FunctionType

__all__ = ["Call", "CompileLimits"]


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
