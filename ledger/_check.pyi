"""The AEGIS-128L check. Every function takes any contiguous buffer and runs without the GIL."""

from typing import Any

from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]


def aegis(buffer: Buffer, /) -> bytes:
    """The 16-byte check of `buffer`, with AES instructions where the machine has them."""

def aegis_portable(buffer: Buffer, /) -> bytes:
    """The same check in plain C, for machines without AES instructions and for tests."""

def blocks(body: Buffer, group: int) -> bytes:
    """Eight bytes of check for each started block of 4,096 bytes of `body`.

    `group` is the number (u64) of the journal group the body belongs to: it is part of each check.
    """

def first_bad_block(body: Buffer, checks: Buffer, group: int) -> int:
    """The index of the first block whose check differs, or -1 when `body` is as it was written.

    ValueError when `checks` has not exactly eight bytes for each started block.
    """
