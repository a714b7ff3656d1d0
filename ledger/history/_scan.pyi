"""Scans of the history on disk; see _scan.pyx for what it knows.

`body` is a group's body, which the journal gives. A block is checked before anything is read from
it, without the GIL. What a call came to is INTACT, or the number of the first block found that is
not as it was written, or NO_RECORD where what should be a record is none, as _file has them.
ValueError for arrays of a wrong size.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.journal._file import Body

Buffer = bytes | bytearray | memoryview | NDArray[Any]

def scan(
    body: Body,
    filter: Buffer,
    timestamp_first: int,
    timestamp_last: int,
    limit: int,
    reversed: bool,
    likely: int = 0,
    likely_count: int = 0,
) -> tuple[NDArray[np.uint8], int]:
    """Transfers whose fields a QUERY_FILTER selects, (n, 128), and what it came to.

    Looked at are those from timestamp_first to timestamp_last (ns, inclusive, at most 2^63-1), not
    the filter's own range; at most `limit` are given, the newest first when reversed. `likely` is
    the address where they probably begin and `likely_count` how many they probably are: less of the
    body is looked at when that is so.
    """

def at(body: Body, timestamps: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], int, int, int]:
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
    """For each record that posts or voids a hold, the address of the hold's end; 0 for others.

    places: (n,); records: (n, 128), as Body.take gives them.
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
