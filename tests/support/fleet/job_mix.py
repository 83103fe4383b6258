"""Jobs of every kind that a fleet runs, with their expected results.

Most inputs are dropped once, in slots of their own, so that every result can be checked at the end.
Some slots get one version after the other.
"""

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any, Final

from wasmtime import wat2wasm

from tests.support.durability.producer import Producer, Version, module_of

#: The function of the producer's modules, as a component.
_COMPONENT: Final = """
(component
  (core module $core
    (func (export "run") (param $number i64) (param $turns i64) (result i64)
      (loop $again
        (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
        (br_if $again (i64.gt_s (local.get $turns) (i64.const 0))))
      (i64.add (i64.mul (local.get $number) (i64.const 2)) (i64.const {addend}))))
  (core instance $i (instantiate $core))
  (func (export "run") (param "number" s64) (param "turns" s64) (result s64)
    (canon lift (core func $i "run"))))
"""

#: Copies the file ``in`` to ``out/copy``.
_COPIER: Final = """
(module
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "out") (data (i32.const 80) "out/copy") (data (i32.const 96) "in")
  (func $need (param $errno i32) (if (local.get $errno) (then unreachable)))
  (func (export "run") (param $number i64) (param $turns i64) (result i64)
    (call $need (call $mkdir (i32.const 3) (i32.const 64) (i32.const 3)))
    (call $need (call $open (i32.const 3) (i32.const 0) (i32.const 96) (i32.const 2)
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
    (call $need (call $open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 8)
      (i32.const 1) (i64.const 0x40) (i64.const 0) (i32.const 0) (i32.const 36)))
    (i32.store (i32.const 0) (i32.const 65536))
    (block $end
      (loop $again
        (i32.store (i32.const 4) (i32.const 65536))
        (call $need
          (call $read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $end (i32.eqz (i32.load (i32.const 8))))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (call $need
          (call $write (i32.load (i32.const 36)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $again)))
    (i64.add (i64.mul (local.get $number) (i64.const 2)) (i64.const {addend}))))
"""

#: Never ends; ``hog`` fills much memory before.
_ENDLESS: Final = """
(module (memory (export "memory") 1600)
  (func (export "run") (param i64 i64) (loop br 0))
  (func (export "hog") (param i64 i64)
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 104857600))
    (loop br 0)))
"""

#: Memory of a running ``hog``, which no other job needs, in bytes.
HOG_BYTES: Final = 90_000_000

_PLAIN: Final = tuple(f"plain{number}" for number in range(5))
_TURNS: Final = (1, 1, 1, 1_000_000, 20_000_000)
_LARGE_MODULE_BYTES: Final = 3_000_000
_LARGE_FILE_BYTES: Final = 700_000
_LONG_TURNS: Final = 500_000_000

#: Slots that get one version after the other, in each directory.
_SHARED_SLOTS: Final = 4
_SHARED_SHARE: Final = 0.15


class JobMix:
    """Drops jobs of random kinds; the seed determines all of them.

    ``poison``: jobs whose process is killed by the test, each time; ``deadly``: jobs that have
    their worker killed, each time. Both end as ``crashed``.
    """

    def __init__(self, producer: Producer, seed: str) -> None:
        self._producer = producer
        self._dice = random.Random(seed)  # noqa: S311 - a test's dice
        self._late = 0
        kinds: dict[Callable[[], Version], int] = {
            self._function: 500,
            self._component: 80,
            self._keeper: 60,
            self._copy: 60,
            self._deterministic: 80,
            self._trap: 30,
            self._invalid_input: 10,
            self._invalid_args: 10,
            self._long: 10,
            self._large_module: 8,
            self._large_file: 5,
            self._timeout: 4,
            self._late_module: 2,
        }
        self._kinds = list(kinds)
        self._weights = list(kinds.values())

    def start(self) -> None:
        """Drop the modules."""
        producer, wasm = self._producer, self._producer.wasm
        for name in _PLAIN:
            producer.module(wasm / f"{name}.wasm")
        producer.module(wasm / "keeper.wasm", keeps_files=True)
        for name, text in (("component", _COMPONENT), ("copier", _COPIER)):
            addend = producer.next_number()
            data = bytes(wat2wasm(text.format(addend=addend)))
            producer.add_module(wasm / f"{name}.wasm", data, addend)
        addend = producer.next_number()
        large = module_of(addend) + _custom_section(self._dice.randbytes(_LARGE_MODULE_BYTES))
        producer.add_module(wasm / "large.wasm", large, addend)
        producer.add_module(wasm / "endless.wasm", bytes(wat2wasm(_ENDLESS)), 0)

    def drop(self) -> None:
        """Drop one job."""
        self._place(self._dice.choices(self._kinds, self._weights)[0]())

    def drop_poison(self) -> None:
        """Drop a job whose process is killed whenever it runs."""
        self._place(self._version("endless", code="crashed"))

    def drop_deadly(self) -> None:
        """Drop a job whose worker is killed whenever it runs."""
        self._place(self._version("endless", entry="hog", code="crashed"))

    def _place(self, version: Version) -> None:
        number = version.number
        is_shared = version.code == "ok" and self._dice.random() < _SHARED_SHARE
        last = f"again{self._dice.randrange(_SHARED_SLOTS)}" if is_shared else str(number)
        self._producer.drop(f"d{number % 10}/input-{last}.json", version)

    def _version(
        self,
        module: str,
        *,
        entry: str = "run",
        turns: int = 1,
        code: str = "ok",
        output: tuple[tuple[str, str], ...] = (),
        **keys: Any,
    ) -> Version:
        number = self._producer.next_number()
        content = {"module": module, "entry": entry, "args": [number, turns], **keys}
        return Version(number, json.dumps(content).encode(), code, output=output)

    def _function(self) -> Version:
        return self._version(self._dice.choice(_PLAIN), turns=self._dice.choice(_TURNS))

    def _long(self) -> Version:
        return self._version(self._dice.choice(_PLAIN), turns=_LONG_TURNS)

    def _deterministic(self) -> Version:
        return self._version(self._dice.choice(_PLAIN), deterministic=True)

    def _component(self) -> Version:
        return self._version("component", turns=self._dice.choice(_TURNS))

    def _large_module(self) -> Version:
        return self._version("large")

    def _late_module(self) -> Version:
        """Return a job of a module that the workers have not seen."""
        self._late += 1
        self._producer.module(self._producer.wasm / f"late{self._late}.wasm")
        return self._version(f"late{self._late}")

    def _keeper(self) -> Version:
        text = self._dice.randbytes(20).hex()
        output = (("in", _sha256(text)), ("out/empty", _sha256("")))
        return self._version("keeper", output=output, files={"in": text})

    def _copy(self, size_bytes: int = 200) -> Version:
        text = self._dice.randbytes(size_bytes // 2).hex()
        output = (("in", _sha256(text)), ("out/copy", _sha256(text)))
        return self._version("copier", output=output, files={"in": text})

    def _large_file(self) -> Version:
        return self._copy(_LARGE_FILE_BYTES)

    def _trap(self) -> Version:
        return self._version(self._dice.choice(_PLAIN), entry="trap", code="trap")

    def _timeout(self) -> Version:
        return self._version("endless", code="timeout", timeout_sec=1)

    def _invalid_input(self) -> Version:
        return self._producer.version(code="invalid-input")

    def _invalid_args(self) -> Version:
        number = self._producer.next_number()
        content = {"module": "plain0", "entry": "run", "args": [number]}
        return Version(number, json.dumps(content).encode(), "invalid-args")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _custom_section(data: bytes) -> bytes:
    """Return a section that engines ignore; see the WebAssembly core specification, 5.5.3."""
    content = b"\x01x" + data
    size, length = len(content), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return b"\x00" + bytes(length) + content
