"""Clock and random numbers of a deterministic job: the same in every run.

Replaces WASI's clocks and random sources, of preview 1 and of 0.2. The clock starts at a fixed time
and advances by a millisecond at each reading, so that a program that polls it makes progress. Only
the real duration of a sleep still differs.
"""

from collections.abc import Callable
from typing import Any, Final

from wasmtime import Caller, FuncType, Linker, ValType, WasmtimeError, component

from wasmdrop.protocol.module_types import WASI_MODULE
from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS, DETERMINISTIC_SEED
from wasmdrop.sandbox.guest.deterministic import guest_memory

_TICK_NS: Final = 1_000_000
_BILLION: Final = 1_000_000_000

#: wasmtime's linker provides WASI 0.2 under this version, whatever version a component imports.
_VERSION: Final = "0.2.12"

# Error numbers of preview 1.
_SUCCESS, _FAULT, _INVALID = 0, 21, 28

_REALTIME: Final = 0
_CLOCKS: Final = range(4)

_U64: Final = (1 << 64) - 1

_CHUNK_BYTES: Final = 1 << 16
#: Random bytes that a component may request at once.
_MAX_RANDOM_BYTES: Final = 1 << 24


class _SplitMix64:
    """SplitMix64 (Steele, Lea, Flood 2014): reproducible numbers, not for secrets.

    Python's own generators are reseeded in every fork, which takes 0.2 ms, once they are imported.
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
        """Return ``size`` bytes; the unused bytes of the last number are dropped."""
        words = (self.next().to_bytes(8, "little") for _ in range(-(-size // 8)))
        return b"".join(words)[:size]


class ClockAndRandom:
    """The clock and the random numbers of one job."""

    def __init__(self) -> None:
        self._random = _SplitMix64(DETERMINISTIC_SEED)
        self._elapsed_ns = 0

    def install(self, linker: Linker, components: component.Linker) -> None:
        """Replace clocks and random sources in linkers that allow shadowing."""
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
        """Advance the clock; return the time of day in nanoseconds since 1970."""
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
        return datetime_record(self.now_ns())

    def _resolution(self, _store: object) -> component.Record:
        return datetime_record(_TICK_NS)

    def _bytes(self, _store: object, size: int) -> bytes:
        if size > _MAX_RANDOM_BYTES:
            raise WasmtimeError(f"requested more than {_MAX_RANDOM_BYTES} random bytes at once")
        return self._random.take(size)

    def _u64(self, _store: object) -> int:
        return self._random.next()


def _put(caller: Caller, at: int, data: bytes) -> int:
    """Write to the calling module's memory; return an error number of preview 1."""
    return _SUCCESS if guest_memory.write(caller, at, data) else _FAULT


def datetime_record(time_ns: int) -> component.Record:
    """Return a time as a ``datetime`` of WASI 0.2."""
    seconds, nanoseconds = divmod(time_ns, _BILLION)
    return make_record(seconds=seconds, nanoseconds=nanoseconds)


def make_record(**fields: int) -> component.Record:
    """Return a record with these fields."""
    record = component.Record()
    for name, value in fields.items():
        setattr(record, name, value)
    return record
