"""The frames of the protocol in the plainest Python that is right, to judge the codec by.

What lives here: check, header, batch trailer, and what a server makes of a frame, typed from the
protocol's text. What it must not know: the package it judges. It imports nothing of it and shares
no table with it, so a mistake made there is not repeated here.
"""

from __future__ import annotations


def _double(value: int) -> int:
    value <<= 1
    return value ^ 0x11B if value & 0x100 else value


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = _double(a), b >> 1
    return product


def _substitution() -> list[int]:
    """The substitution of AES, from its definition: inverse in the field, then an affine map."""
    table = []
    for value in range(256):
        inverse = 0
        if value:
            inverse = next(other for other in range(256) if _multiply(value, other) == 1)
        result = 0x63
        for turn in range(5):
            result ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        table.append(result)
    return table


S = _substitution()
Blocks = list[bytes]


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def aes_round(x: bytes, key: bytes) -> bytes:
    """SubBytes, ShiftRows, MixColumns, exclusive or with the key."""
    out = bytearray()
    for column in range(4):
        a = [S[x[(4 * column + 5 * row) % 16]] for row in range(4)]
        for row in range(4):
            out.append(
                _double(a[row])
                ^ _double(a[(row + 1) % 4])
                ^ a[(row + 1) % 4]
                ^ a[(row + 2) % 4]
                ^ a[(row + 3) % 4]
            )
    return xor(bytes(out), key)


def update(s: Blocks, first: bytes, second: bytes) -> Blocks:
    new = [aes_round(s[i - 1], s[i]) for i in range(8)]
    new[0] = xor(new[0], first)
    new[4] = xor(new[4], second)
    return new


def _seed() -> Blocks:
    zero = bytes(16)
    c0 = bytes.fromhex("000101020305080d1522375990e97962")
    c1 = bytes.fromhex("db3d18556dc22ff12011314273b528dd")
    s = [zero, c1, c0, c1, zero, c0, c1, c0]
    for _ in range(10):
        s = update(s, zero, zero)
    return s


SEED = _seed()


def aegis(stretch: bytes) -> bytes:
    s = SEED
    for start in range(0, len(stretch), 32):
        chunk = stretch[start : start + 32].ljust(32, b"\0")
        s = update(s, chunk[:16], chunk[16:])
    last = xor(s[2], (8 * len(stretch)).to_bytes(16, "little"))
    for _ in range(7):
        s = update(s, last, last)
    tag = s[0]
    for block in s[1:7]:
        tag = xor(tag, block)
    return tag
