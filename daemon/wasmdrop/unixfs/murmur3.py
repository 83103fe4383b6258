"""The hash of names in sharded directories: the first half of MurmurHash3's x64 128-bit variant.

By Austin Appleby, in the public domain (https://github.com/aappleby/smhasher). Not cryptographic.
"""

from typing import Final

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F
_HALF_BYTES: Final = 8
_BLOCK_BYTES: Final = 2 * _HALF_BYTES


def murmur3_x64_64(data: bytes) -> int:
    """Return the hash of ``data`` with seed 0."""
    first = second = 0
    whole = len(data) - len(data) % _BLOCK_BYTES
    for at in range(0, whole, _BLOCK_BYTES):
        low = int.from_bytes(data[at : at + _HALF_BYTES], "little")
        high = int.from_bytes(data[at + _HALF_BYTES : at + _BLOCK_BYTES], "little")
        first ^= _scramble_low(low)
        first = (_rotate(first, 27) + second) * 5 + 0x52DCE729 & _MASK
        second ^= _scramble_high(high)
        second = (_rotate(second, 31) + first) * 5 + 0x38495AB5 & _MASK
    # Zero bytes that are missing at the end have no effect.
    first ^= _scramble_low(int.from_bytes(data[whole : whole + _HALF_BYTES], "little"))
    second ^= _scramble_high(int.from_bytes(data[whole + _HALF_BYTES :], "little"))
    first ^= len(data)
    second ^= len(data)
    first = first + second & _MASK
    second = second + first & _MASK
    return _finish(first) + _finish(second) & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _scramble_low(half: int) -> int:
    return _rotate(half * _C1 & _MASK, 31) * _C2 & _MASK


def _scramble_high(half: int) -> int:
    return _rotate(half * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
