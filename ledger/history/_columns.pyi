"""Column files: sorted records on disk, written once, searched and merged; every page is checked.

A column is records of one length. Columns with numbers below 16 are *keyed*: each record begins
with a u64 key and a u64 value, and records ascend strictly by (key, value). The others keep the
order they were written in. Everything is little-endian. Errors of the system are OSErrors with
the path.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]
_Bytes = bytes  # the name that ColumnFile has for its length

SEGMENT: Final[int]
CHECKPOINT: Final[int]

IDS: Final[int]
RESOLUTIONS: Final[int]
ROWS: Final[int]
BALANCES: Final[int]
BLOCKS: Final[int]
PANELS: Final[int]
ACCOUNTS: Final[int]
HOLDS: Final[int]
SESSIONS: Final[int]
STARTS: Final[int]
RECORD_BYTES: Final[dict[int, int]]
"""Bytes of a record of each of these columns."""

PAGE_BYTES: Final[int]
PAYLOAD_BYTES: Final[int]
STEP_BYTES: Final[int]
"""Most bytes that are written before they are made durable."""
FACTS_BYTES_MAX: Final[int]
COLUMNS_MAX: Final[int]
MERGE_MAX: Final[int]
BLOCK_TRANSFERS: Final[int]
"""Most transfers of a block of BLOCKS."""
BLOCK: Final[np.dtype[np.void]]
"""place_first, timestamp_first, timestamp_last, group_last, panel, index, transfers."""

FIELD_USER_DATA_128: Final[int]
FIELD_USER_DATA_64: Final[int]
FIELD_USER_DATA_32: Final[int]
FIELD_CODE: Final[int]
FIELD_LEDGER: Final[int]

class ColumnWriter:
    """A new file at `path` (it must not exist; mode 0600), for one thread.

    The header is written last: a file that was not finished is refused by ColumnFile. After an
    error of a write the writer is closed, and the file is its owner's to remove.
    """

    path: str

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        kind: int,
        cluster: int,
        group_first: int,
        group_last: int,
        position_last: int,
        digest: bytes,
        windows: int,
    ) -> None:
        """`kind` is SEGMENT or CHECKPOINT, `digest` the 32 bytes of group_last's."""

    def column(self, column: int, record_bytes: int) -> None:
        """End the column before and begin this one, with records of a multiple of 16 bytes.

        ValueError for a length no record has, a number used before, or more than COLUMNS_MAX.
        """

    def append(self, records: Buffer) -> None:
        """Whole records, contiguous; any number of calls.

        ValueError, and the writer is closed, when a record of a keyed column does not come after
        the one before it.
        """

    def finish(self, facts: bytes = b"") -> None:
        """Write what is left, make it durable, then the header with the caller's `facts`; close."""

    def close(self) -> None:
        """Give up what is not finished. The file stays."""

class ColumnFile:
    """A finished file, for any number of threads; every page is checked whenever it is read.

    DataRefused when the header is not that of a whole, intact file. Any call that reads raises
    ColumnDamaged for a page that is not what was written, and ValueError after close(). A column
    that the file lacks is an empty one with records of 16 bytes.
    """

    path: str
    kind: int
    cluster: int
    group_first: int
    group_last: int
    position_last: int
    windows: int
    digest: _Bytes
    facts: _Bytes

    def __init__(self, path: str | PathLike[str]) -> None: ...
    @property
    def bytes(self) -> int:
        """Length of the file."""

    def count(self, column: int) -> int:
        """Records of a column."""

    def load_fences(self) -> None:
        """Read where each page of the keyed columns begins: 16 bytes a page, kept in memory.

        Whatever searches a column does so for that column when nobody did before.
        """

    def lookup(
        self, column: int, keys: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """All records whose key is among `keys`, (n,): (index into keys, value) of each, (m,).

        They come ascending by key, and those of one key that was asked for once by value. A key
        that was asked for twice is answered twice.
        """

    def bounds(self, column: int, key: int, value_low: int, value_high: int) -> tuple[int, int]:
        """Record numbers first, end of those with this key and value_low <= value <= value_high."""

    def records(self, column: int, first: int, end: int) -> NDArray[np.uint8]:
        """Records first to end - 1: (end - first, record_bytes)."""

    def keys(self, column: int, first: int, end: int) -> NDArray[np.uint64]:
        """Only the first eight bytes of each of these records: (end - first,)."""

    def blocks(self, first: int, end: int) -> NDArray[np.void]:
        """These records of BLOCKS: BLOCK, (end - first,)."""

    def blocks_maybe(
        self, first: int, end: int, hashes: NDArray[np.uint64]
    ) -> NDArray[np.uint32]:
        """Which of the blocks first to end - 1 may hold all `hashes` (see hash_field): (m,)."""

    def block_at(self, timestamp: int) -> int:
        """The first block whose timestamp_last >= timestamp; else count."""

    def verify(self) -> None:
        """Read every page; ColumnDamaged names the first that is not what it must be.

        Of keyed columns the order of all records is proved too.
        """

    def close(self) -> None:
        """Close the file as soon as the calls under way have returned."""

def sort_pairs(pairs: NDArray[np.uint64]) -> None:
    """Sort (n, 2) in place by the first of each two, and equal ones by the second."""

def merge(files: Iterable[ColumnFile], writer: ColumnWriter, column: int) -> int:
    """Write one keyed column of at most MERGE_MAX files as one column; returns its records.

    It begins the column itself, unless no file has it. Memory is 1 MiB a file. ValueError, and the
    writer is closed, when two files share a (key, value).
    """

def hash_ids(ids: Buffer, key: bytes) -> NDArray[np.uint64]:
    """The hash under `key` (16 bytes) of each id (16 bytes) in `ids`."""

def hash_field(key: bytes, field: int, value: int) -> int:
    """The hash by which the filter of a block knows a FIELD_... and its value (up to 128 bits)."""
