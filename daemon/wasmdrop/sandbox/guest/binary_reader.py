"""Read the elements of the WebAssembly binary format: integers, names, types, limits, constants.

Follows the WebAssembly core specification 3.0, chapter "Binary Format", plus the custom page sizes
proposal.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code

_END: Final = 0x0B
#: Instructions of constant expressions, with the sizes of their operands; 0 is a LEB128 integer.
_CONSTANT_OPERANDS: Final = {
    0x23: (0,),  # global.get
    0x41: (0,),  # i32.const
    0x42: (0,),  # i64.const
    0x43: (4,),  # f32.const
    0x44: (8,),  # f64.const
    **dict.fromkeys((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E), ()),  # add, sub, mul
    0xD0: (0,),  # ref.null
    0xD2: (0,),  # ref.func
    **dict.fromkeys((0xFB00, 0xFB01, 0xFB06, 0xFB07), (0,)),  # struct.new to array.new_default
    0xFB08: (0, 0),  # array.new_fixed
    **dict.fromkeys((0xFB1A, 0xFB1B, 0xFB1C), ()),  # conversions, ref.i31
    0xFD0C: (16,),  # v128.const
}

_NUMBER_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_PACKED_TYPES: Final = (0x78, 0x77)
#: Abstract heap types: the name, and the short form of a nullable reference to it.
_HEAP_TYPES: Final = {
    0x75: ("nocont", "nullcontref"),
    0x74: ("noexn", "nullexnref"),
    0x73: ("nofunc", "nullfuncref"),
    0x72: ("noextern", "nullexternref"),
    0x71: ("none", "nullref"),
    0x70: ("func", "funcref"),
    0x6F: ("extern", "externref"),
    0x6E: ("any", "anyref"),
    0x6D: ("eq", "eqref"),
    0x6C: ("i31", "i31ref"),
    0x6B: ("struct", "structref"),
    0x6A: ("array", "arrayref"),
    0x69: ("exn", "exnref"),
    0x68: ("cont", "contref"),
}
_REF, _REF_NULL = 0x64, 0x63

_HAS_MAXIMUM, _SHARED, _INDEX_64, _HAS_PAGE_SIZE = 1, 2, 4, 8
TABLE_FLAGS: Final = _HAS_MAXIMUM | _INDEX_64
MEMORY_FLAGS: Final = _HAS_MAXIMUM | _SHARED | _INDEX_64 | _HAS_PAGE_SIZE
#: Log2 of the page size in bytes; with custom page sizes, 0 is valid too.
_PAGE_POWER: Final = 16


def malformed(problem: str, offset: int) -> RefusedError:
    """Return the refusal of a module that is malformed at ``offset``."""
    return RefusedError(Code.INVALID_MODULE, f"malformed module: {problem} (at offset {offset:#x})")


class SizeLimits(NamedTuple):
    """The declared size of a table or memory."""

    minimum: int
    """In elements of a table, in bytes of a memory."""
    maximum: int | None
    """In elements of a table, in pages of a memory; None if none is declared."""
    is_wide: bool
    """Whether indices have 64 bits."""
    page_power: int
    """Log2 of the page size in bytes; 0 for a table."""
    text: str


class BinaryReader:
    """Reads from ``position``, never past ``end``; raises ``RefusedError`` with the offset."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def byte(self) -> int:
        """Read one byte."""
        if self.position >= self.end:
            raise malformed("unexpected end", self.position)
        self.position += 1
        return self.data[self.position - 1]

    def part(self, size: int) -> "BinaryReader":
        """Return a reader of the next ``size`` bytes, and skip them."""
        start = self.position
        if size > self.end - start:
            raise malformed(f"expected {size} bytes, {self.end - start} left", start)
        self.position += size
        return BinaryReader(self.data, start, self.position)

    def sections(self) -> Iterator[tuple[int, int, "BinaryReader"]]:
        """Read the remaining sections of a module or component: offset, id and content of each."""
        while self.position < self.end:
            start = self.position
            yield start, self.byte(), self.part(self.u32())

    def copy(self) -> "BinaryReader":
        """Return another reader of the remaining bytes."""
        return BinaryReader(self.data, self.position, self.end)

    def rest(self) -> bytes:
        """Return the remaining bytes, without skipping them."""
        return self.data[self.position : self.end]

    def unsigned(self, bits: int) -> int:
        """Read an unsigned LEB128 integer of at most ``bits`` bits."""
        start = self.position
        number = shift = 0
        while True:
            byte = self.byte()
            # In the last allowed byte, the excess bits include the continuation bit.
            if shift + 7 > bits and byte >> (bits - shift):
                raise malformed(f"expected an unsigned integer of {bits} bits", start)
            number |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return number
            shift += 7

    def u32(self) -> int:
        """Read an unsigned integer of 32 bits."""
        return self.unsigned(32)

    def count(self) -> int:
        """Read the length of a vector, whose elements take at least one byte each."""
        start = self.position
        count = self.u32()
        if count > self.end - self.position:
            left = self.end - self.position
            raise malformed(f"expected {count} elements, {left} bytes left", start)
        return count

    def name(self) -> str:
        """Read a name."""
        content = self.part(self.u32())
        try:
            return str(self.data[content.position : content.end], "utf-8")
        except UnicodeDecodeError as error:
            offset = content.position + error.start
            raise malformed("expected a name in UTF-8", offset) from None

    def mutability(self) -> bool:
        """Read whether a global or field is mutable."""
        start = self.position
        byte = self.byte()
        if byte > 1:
            raise malformed(f"expected a mutability of 0 or 1, got {byte}", start)
        return byte == 1

    def type_index(self) -> int:
        """Read a type index that is encoded as a signed integer of 33 bits."""
        start = self.position
        index = self.u32()
        if self.data[self.position - 1] & 0x40:
            raise malformed("expected a heap type", start)
        return index

    def reference(self, *, nullable: bool) -> str:
        """Read a heap type; return the reference type in its short text form."""
        if self.position < self.end and self.data[self.position] in _HEAP_TYPES:
            heap, short = _HEAP_TYPES[self.byte()]
            return short if nullable else f"(ref {heap})"
        return f"(ref {'null ' if nullable else ''}{self.type_index()})"

    def value_type(self) -> str:
        """Read a value type; return its text form."""
        start = self.position
        byte = self.byte()
        if byte in _NUMBER_TYPES:
            return _NUMBER_TYPES[byte]
        if byte in _HEAP_TYPES:
            return _HEAP_TYPES[byte][1]
        if byte in (_REF, _REF_NULL):
            return self.reference(nullable=byte == _REF_NULL)
        raise malformed(f"expected a value type, got {byte:#04x}", start)

    def value_types(self) -> tuple[str, ...]:
        """Read a vector of value types."""
        return tuple([self.value_type() for _ in range(self.count())])

    def skip_field(self) -> None:
        """Skip a field of a struct or the element type of an array."""
        if self.position < self.end and self.data[self.position] in _PACKED_TYPES:
            self.position += 1
        else:
            self.value_type()
        self.mutability()

    def skip_constant(self) -> None:
        """Skip a constant expression and its end."""
        while True:
            start = self.position
            code = self.byte()
            if code == 0xFB:  # noqa: PLR2004 - prefix of reference instructions
                code = 0xFB00 | self.u32()
            elif code == 0xFD:  # noqa: PLR2004 - prefix of vector instructions
                code = 0xFD00 | self.u32()
            if code == _END:
                return
            if code not in _CONSTANT_OPERANDS:
                raise malformed("expected a constant expression", start)
            for size in _CONSTANT_OPERANDS[code]:
                if size:
                    self.part(size)
                else:
                    self.skip_integer()

    def skip_integer(self) -> None:
        """Skip a signed or unsigned LEB128 integer of at most 64 bits."""
        for _ in range(10):
            if self.byte() < 0x80:  # noqa: PLR2004 - the last byte
                return
        raise malformed("expected an integer of at most 64 bits", self.position)

    def limits(self, allowed_flags: int) -> SizeLimits:
        """Read the limits of a table or a memory."""
        start = self.position
        flags = self.byte()
        if flags & ~allowed_flags:
            raise malformed(f"expected limits flags, got {flags:#04x}", start)
        bits = 64 if flags & _INDEX_64 else 32
        minimum = self.unsigned(bits)
        words = ["i64"] if flags & _INDEX_64 else []
        words.append(str(minimum))
        maximum = None
        if flags & _HAS_MAXIMUM:
            maximum = self.unsigned(bits)
            words.append(str(maximum))
        if flags & _SHARED:
            words.append("shared")

        power = _PAGE_POWER if allowed_flags & _HAS_PAGE_SIZE else 0
        if flags & _HAS_PAGE_SIZE:
            start = self.position
            power = self.u32()
            if power not in (0, _PAGE_POWER):
                raise malformed(f"expected pages of 2^0 or 2^16 bytes, got 2^{power}", start)
            words.append(f"(pagesize {1 << power})")
        return SizeLimits(minimum << power, maximum, bits > 32, power, " ".join(words))  # noqa: PLR2004
