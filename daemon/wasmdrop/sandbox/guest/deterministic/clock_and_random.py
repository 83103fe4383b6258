"""The world of a deterministic job: the same clock and the same randomness every time.

Takes the place of WASI's clocks and sources of randomness, of preview 1 and of 0.2. The clock
starts at the same moment and moves on by a millisecond with each look at it, so that a program that
waits by looking comes to its end. What it is told of files is in :mod:`.preview1`. What is left of
the outer world is how long a sleep really takes.
"""

from collections.abc import Callable
from typing import Any, Final

from wasmtime import Caller, FuncType, Linker, ValType, WasmtimeError, component

from wasmdrop.protocol.module_types import WASI_MODULE
from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS, DETERMINISTIC_SEED
from wasmdrop.sandbox.guest.deterministic.guest_memory import put

__all__ = ["ClockAndRandom"]

_TICK_NS: Final = 1_000_000
_BILLION: Final = 1_000_000_000

#: The version under which wasmtime's linker knows WASI 0.2, whatever a component asks for.
_VERSION: Final = "0.2.12"

# Error numbers of preview 1.
_SUCCESS, _FAULT, _INVALID = 0, 21, 28

_REALTIME: Final = 0
_CLOCKS: Final = range(4)

_U64: Final = (1 << 64) - 1

_CHUNK_BYTES: Final = 1 << 16
#: Random bytes that a component may ask for at once.
_MAX_RANDOM_BYTES: Final = 1 << 24


class _SplitMix64:
    """SplitMix64 (Steele, Lea, Flood 2014): numbers that any machine can make again.

    No secrets are made of it: it is to be foreseen. Python's own generators would be seeded anew in
    every fork of a process that has loaded them, whether used or not, which takes 0.2 ms.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed

    def next(self) -> int:
        """Return 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _U64
        mixed = self._state
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _U64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _U64
        return mixed ^ (mixed >> 31)

    def take(self, size: int) -> bytes:
        """Return so many bytes, of which those of an unfinished number are not used again."""
        words = (self.next().to_bytes(8, "little") for _ in range(-(-size // 8)))
        return b"".join(words)[:size]


class ClockAndRandom:
    """One job's clock and randomness."""

    def __init__(self) -> None:
        self._random = _SplitMix64(DETERMINISTIC_SEED)
        self._elapsed_ns = 0

    def install(self, linker: Linker, components: component.Linker) -> None:
        """Replace what the linkers, which must allow it, know of clocks and randomness."""
        i32, i64 = ValType.i32(), ValType.i64()
        core: list[tuple[str, list[ValType], Callable[..., int]]] = [
            ("clock_time_get", [i32, i64, i32], self._clock_time_get),
            ("clock_res_get", [i32, i32], self._clock_res_get),
            ("random_get", [i32, i32], self._random_get),
        ]
        for name, params, function in core:
            linker.define_func(
                WASI_MODULE, name, FuncType(params, [i32]), function, access_caller=True
            )
        interfaces: dict[str, dict[str, Callable[..., Any]]] = {
            "wasi:clocks/wall-clock": {"now": self._now, "resolution": self._resolution},
            "wasi:clocks/monotonic-clock": {
                "now": lambda _store: self._tick(),
                "resolution": lambda _store: _TICK_NS,
            },
            "wasi:random/random": {
                "get-random-bytes": self._bytes,
                "get-random-u64": self._u64,
            },
            "wasi:random/insecure": {
                "get-insecure-random-bytes": self._bytes,
                "get-insecure-random-u64": self._u64,
            },
            "wasi:random/insecure-seed": {
                "insecure-seed": lambda store: (self._u64(store), self._u64(store))
            },
        }
        with components.root() as root:
            for name, functions in interfaces.items():
                with root.add_instance(f"{name}@{_VERSION}") as instance:
                    for inner, function in functions.items():
                        instance.add_func(inner, function)

    def now_ns(self) -> int:
        """Return the time of day, in nanoseconds since 1970; moves the clock on."""
        return DETERMINISTIC_CLOCK_NS + self._tick()

    def _tick(self) -> int:
        self._elapsed_ns += _TICK_NS
        return self._elapsed_ns

    def _clock_time_get(self, caller: Caller, clock: int, _precision: int, at: int) -> int:
        if clock not in _CLOCKS:
            return _INVALID
        now_ns = self.now_ns() if clock == _REALTIME else self._tick()
        return _put(caller, at, now_ns.to_bytes(8, "little"))

    def _clock_res_get(self, caller: Caller, clock: int, at: int) -> int:
        if clock not in _CLOCKS:
            return _INVALID
        return _put(caller, at, _TICK_NS.to_bytes(8, "little"))

    def _random_get(self, caller: Caller, at: int, size: int) -> int:
        at, left = at & 0xFFFFFFFF, size & 0xFFFFFFFF
        while left:
            chunk = self._random.take(min(left, _CHUNK_BYTES))
            if _put(caller, at, chunk) != _SUCCESS:
                return _FAULT
            at, left = at + len(chunk), left - len(chunk)
        return _SUCCESS

    def _now(self, _store: object) -> component.Record:
        return _datetime(self.now_ns())

    def _resolution(self, _store: object) -> component.Record:
        return _datetime(_TICK_NS)

    def _bytes(self, _store: object, size: int) -> bytes:
        if size > _MAX_RANDOM_BYTES:
            raise WasmtimeError(f"asked for more than {_MAX_RANDOM_BYTES} random bytes at once")
        return self._random.take(size)

    def _u64(self, _store: object) -> int:
        return self._random.next()


def _put(caller: Caller, at: int, data: bytes) -> int:
    """Write into the calling module's memory; return an error number of preview 1."""
    return _SUCCESS if put(caller, at, data) else _FAULT


def _datetime(nanoseconds: int) -> component.Record:
    record = component.Record()
    fields = dict(zip(("seconds", "nanoseconds"), divmod(nanoseconds, _BILLION), strict=True))
    for name, value in fields.items():
        setattr(record, name, value)
    return record
