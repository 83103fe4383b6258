"""Keccak-256 as Ethereum uses it: SHA-3 with the padding of the original submission.

Only for addresses. hashlib has the padding of FIPS 202 alone, which gives other digests.
"""

from typing import Final

_MASK: Final = 2**64 - 1
_RATE_BYTES: Final = 136
_ROUNDS: Final = 24


def keccak_256(data: bytes) -> bytes:
    """Return the 32 bytes of the digest of ``data``."""
    return sponge(data, 0x01)


def sponge(data: bytes, padding: int) -> bytes:
    """Return the digest with this first byte of padding; 0x06 gives SHA3-256."""
    padded = bytearray(data + bytes((padding,)) + bytes(-(len(data) + 1) % _RATE_BYTES))
    padded[-1] |= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE_BYTES):
        for index in range(_RATE_BYTES // 8):
            at = start + 8 * index
            lanes[index] ^= int.from_bytes(padded[at : at + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _permuted(lanes: list[int]) -> list[int]:
    """Return Keccak-f[1600] of ``lanes``; the lane (x, y) is at x + 5y (FIPS 202, section 3)."""
    register = 1
    for _ in range(_ROUNDS):
        # Theta
        parity = [
            lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
            for x in range(5)
        ]
        lanes = [
            lane ^ parity[(at + 4) % 5] ^ _rotated(parity[(at + 1) % 5], 1)
            for at, lane in enumerate(lanes)
        ]
        # Rho and pi
        x, y, moved = 1, 0, lanes[1]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            turned = _rotated(moved, (step + 1) * (step + 2) // 2)
            lanes[x + 5 * y], moved = turned, lanes[x + 5 * y]
        # Chi
        lanes = [
            lane ^ (~lanes[at // 5 * 5 + (at + 1) % 5] & lanes[at // 5 * 5 + (at + 2) % 5] & _MASK)
            for at, lane in enumerate(lanes)
        ]
        # Iota: one bit of the register for each power of two
        for power in range(7):
            if register & 1:
                lanes[0] ^= 1 << (2**power - 1)
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
    return lanes


def _rotated(lane: int, count: int) -> int:
    count %= 64
    return (lane << count | lane >> (64 - count)) & _MASK
