"""Records at addresses in the journal; see _file.pyx for what it knows.

A block is checked before anything is read from it, without the GIL. What a call came to is INTACT,
or the number of the first block found that is not as it was written, or NO_RECORD where what should
be a record is none. ValueError for arrays and bodies of a wrong size.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

GROUP_SHIFT: int  # of the group in an address
KIND_MASK: int  # of what lies there: TRANSFER or BURNED_ID
TRANSFER: int
BURNED_ID: int
INTACT: int
NO_RECORD: int

class Body:
    """A group's body, of which is read what is looked at: a BodyInMemory or a BodyInFile."""

    @property
    def group(self) -> int:
        """Number of the group."""

    def take(self, addresses: NDArray[np.uint64], out: NDArray[np.uint8]) -> int:
        """Copy the record at each address, (n,), to a row of `out`, (n, 128); what it came to.

        A burned id takes 32 bytes of its row, zeros follow. NO_RECORD for an address that is of
        another group, outside the body, or where the bytes do not look like a record of the
        address's kind.
        """

class BodyInMemory(Body):
    """A body and the checks of its blocks; `group` is the group's number."""

    def __init__(self, body: Buffer, checks: Buffer, group: int) -> None: ...

class BodyInFile(Body):
    """A body in the journal's file, some blocks at a time; open_body gives it."""

def open_body(descriptor: int, snapshot: int, cluster: Buffer, group: int) -> BodyInFile | None:
    """A group's body in the journal's file. None when the group's header, or what is around the
    body, was not found perfect: the library is to be asked.

    A transaction of the library that reads `snapshot` must be open as long as the body is read;
    cluster: 16 bytes.
    """

def take_from(
    descriptor: int,
    snapshot: int,
    cluster: Buffer,
    addresses: NDArray[np.uint64],
    out: NDArray[np.uint8],
    groups_max: int,
) -> tuple[int, list[int]]:
    """As Body.take, from the journal's file: of the first groups that the ascending addresses are
    in.

    How many addresses that was, and which of the groups were not found perfect: their rows mean
    nothing, and the library is to be asked for them. A transaction as of open_body.
    """

def read_ahead(descriptor: int, snapshot: int, address: int, group_last: int, count: int) -> None:
    """Ask the disk for `count` transfers from an address on, up to the group `group_last`, and do
    not wait for them; a transaction as of open_body."""

class Pages:
    """Where the library's file holds its values, as one snapshot of it sees them.

    A transaction of the library that reads `snapshot` must be open meanwhile. Keys that ascend cost
    a read for each page of keys. OSError when a page cannot be read.
    """

    def __init__(self, descriptor: int, snapshot: int) -> None: ...
    def find(self, key: Buffer) -> tuple[int, int] | None:
        """Offset and length of a key's value; None when it is not found so."""
