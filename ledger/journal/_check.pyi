"""The AEGIS-128L check. Every function takes any contiguous buffer.

The GIL is released for what takes longer than getting it back.
"""

from typing import Any

from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

GROUP_MAGIC: bytes  # what a group's value begins with
GROUP_FORMAT: int


def aegis(buffer: Buffer, /) -> bytes:
    """The 16-byte check of `buffer`, with AES instructions where the machine has them."""

def aegis_portable(buffer: Buffer, /) -> bytes:
    """The same check in plain C, for machines without AES instructions and for tests."""

def blocks(body: Buffer, group: int) -> bytes:
    """Eight bytes of check for each started block of 4,096 bytes of `body`.

    `group` is the number (u64) of the journal group the body belongs to: it is part of each check.
    """

def write(body: Buffer, group: int, to: Buffer) -> int:
    """Copy `body` to the beginning of `to`, its blocks' checks behind it; how many bytes that is.

    ValueError when `to` is too small.
    """

def first_bad_block(body: Buffer, checks: Buffer, group: int) -> int:
    """The index of the first block whose check differs, or -1 when `body` is as it was written.

    ValueError when `checks` has not exactly eight bytes for each started block.
    """

def on_sigbus(line: bytes) -> None:
    """Have `line` written to standard error before SIGBUS ends the process, for good."""
