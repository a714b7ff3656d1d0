"""Records looked up in the bodies of the journal's groups; see _past.pyx for what it knows.

`body` and `checks` are a group's body and the checks of its blocks, `group` is its number. A block
is checked before anything is read from it, without the GIL. What a call came to is INTACT, or the
number of the first block found that is not as it was written, or NO_RECORD where what should be a
record is none. ValueError for arrays and bodies of a wrong size.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

GROUP_SHIFT: int  # of the group in a place
KIND_MASK: int  # of what lies there: TRANSFER or BURNED_ID
TRANSFER: int
BURNED_ID: int
GROUP_MAGIC: bytes  # what a group's value begins with
GROUP_FORMAT: int
INTACT: int
NO_RECORD: int

def take(
    body: Buffer,
    checks: Buffer,
    group: int,
    places: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> int:
    """Copy the record at each of the places, (n,), to a row of `out`, (n, 128); what it came to.

    A burned id takes 32 bytes of its row, zeros follow. NO_RECORD for a place that is of another
    group, outside the body, or where the bytes do not look like a record of the place's kind.
    """

def take_from(
    descriptor: int,
    snapshot: int,
    cluster: Buffer,
    places: NDArray[np.uint64],
    out: NDArray[np.uint8],
    groups_max: int,
) -> tuple[int, list[int]]:
    """As take, from the journal's file: of the first groups that the ascending places are in.

    How many places that was, and which of the groups were not found perfect: their rows mean
    nothing, and the library is to be asked for them. A transaction of the library that reads
    `snapshot` must be open; cluster: 16 bytes.
    """

def scan_from(
    descriptor: int,
    snapshot: int,
    cluster: Buffer,
    group: int,
    likely: int,
    likely_count: int,
    filter: Buffer,
    timestamp_first: int,
    timestamp_last: int,
    limit: int,
    reversed: bool,
) -> NDArray[np.uint8] | None:
    """As scan, from the journal's file, of which is read what is looked at; as of take_from.

    Where the transfers of the stretch of time probably begin, a place, and how many they probably
    are: less is looked at when that is so. None when not all of it was found perfect: the library
    is to be asked.
    """

def read_ahead(descriptor: int, snapshot: int, place: int, group_last: int, count: int) -> None:
    """Ask the disk for `count` transfers from a place on, up to the group `group_last`, and do not
    wait for them; a transaction as of take_from."""

class Pages:
    """Where the library's file holds its values, as one snapshot of it sees them.

    A transaction of the library that reads `snapshot` must be open meanwhile. Keys that ascend cost
    a read for each page of keys. OSError when a page cannot be read.
    """

    def __init__(self, descriptor: int, snapshot: int) -> None: ...
    def find(self, key: Buffer) -> tuple[int, int] | None:
        """Offset and length of a key's value; None when it is not found so."""

def scan(
    body: Buffer,
    checks: Buffer,
    group: int,
    filter: Buffer,
    timestamp_first: int,
    timestamp_last: int,
    limit: int,
    reversed: bool,
) -> tuple[NDArray[np.uint8], int]:
    """Transfers whose fields a QUERY_FILTER selects, (n, 128), and what it came to.

    Looked at are those from timestamp_first to timestamp_last (ns, inclusive, at most 2^63-1), not
    the filter's own range; at most `limit` are given, the newest first when reversed.
    """

def at(
    body: Buffer, checks: Buffer, group: int, timestamps: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], int, int, int]:
    """Which of the ascending timestamps, (n,), a transfer of the group carries.

    Then the timestamps of the group's first and last transfer, 0 when it has none, and what it came
    to. ns.
    """

def select(filter: Buffer, records: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], int]:
    """Which transfers, (n, 128), an ACCOUNT_FILTER selects, its range of time included.

    Then -1, or the index of the first transfer that does not touch the filter's account at all.
    """

def query_filter_is_valid(filter: Buffer) -> bool:
    """Whether a QUERY_FILTER makes sense; one that does not selects nothing."""

def account_filter_is_valid(filter: Buffer) -> bool:
    """Whether an ACCOUNT_FILTER makes sense; one that does not selects nothing."""

def field_hashes(filter: Buffer, key: bytes) -> NDArray[np.uint64]:
    """What the filter of a block is asked for: a hash for each field that a QUERY_FILTER names.

    key: the 16 bytes under which whoever filled the filter hashed.
    """

def resolution_places(
    places: NDArray[np.uint64], records: NDArray[np.uint8]
) -> NDArray[np.uint64]:
    """For each record that posts or voids a hold, where the hold's end lies; 0 for others.

    places: (n,); records: (n, 128), as take gives them.
    """

def run_balances(
    before: NDArray[np.uint8],
    places: NDArray[np.uint64],
    records: NDArray[np.uint8],
    ended: NDArray[np.uint8],
    account_id: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """An account's four balances after each of its rows, (n, 64).

    before: (64,), the balances before the first row: debits pending, debits posted, credits
    pending, credits posted, u128 each; places, (n,), and records, (n, 128): the rows in order;
    ended: (n, 128), the ends of the holds that rows post or void; account_id: (16,).
    """
