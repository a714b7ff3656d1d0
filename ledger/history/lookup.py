"""What a request needs of the sealed past, found by way of columns in the journal.

Ids, statements, queries and timestamps are looked up in the column files of segments; the columns
say where records lie and the journal gives them, so what is answered is always the journal's. All
functions may run in any thread beside whatever seals, merges or appends: segments do not change,
and a reader keeps those it began with. What is read at once is bounded: rows come in chunks that
grow up to EVENTS_MAX, groups one after the other. A damaged block of the journal is DataRefused and
names it, a damaged column file is ColumnDamaged. This file knows no directory and seals nothing.
The weak spot: a filter that selects little of an account with a long past reads all of that past.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.facts.errors import ColumnDamaged
from ledger.facts.limits import COLD_LITTLE_MAX, EVENTS_MAX
from ledger.facts.schema import (
    ACCOUNT_FILTER,
    QUERY_FILTER,
    TRANSFER,
    AccountFilterFlags,
    Operation,
    QueryFilterFlags,
    TransferFlags,
)
from ledger.history import _columns, _scan
from ledger.history._columns import ColumnFile
from ledger.journal import _file
from ledger.journal.ports import JournalReader, NoRecord, check_block

BLOCKS_AT_ONCE_MIN = 16  # whose filters are asked at first
BLOCKS_AT_ONCE_MAX = 1 << 16  # and later: a page for 63 of them
BLOCKS_AHEAD_MAX = 16  # of transfers, half a mebibyte each, that the disk is asked for ahead

ABSENT, STORED, BURNED = 0, 1, 2  # what became of an id

Ids = NDArray[np.void]  # of 16 bytes each
Records = NDArray[np.uint8]  # (n, 128)
Numbers = NDArray[np.uint64]

_ID = np.dtype("V16")
_RESOLVING = np.uint16(TransferFlags.POST_PENDING_TRANSFER | TransferFlags.VOID_PENDING_TRANSFER)
_SHIFT = np.uint64(_file.GROUP_SHIFT)
_TIMESTAMP_MAX = 2**63 - 1


class Sealed(NamedTuple):
    """Where to look: segments in order that cover the past without a gap, and the journal."""

    segments: Sequence[ColumnFile]
    journal: JournalReader
    hash_key: bytes  # of ids and of what the filters of blocks hold; 16 bytes


class Wanted(NamedTuple):
    """What a request needs to know of the past before it can be ordered."""

    ids: bytes  # of transfers, 16 each
    reads: list[tuple[int, bytes, int]]  # operation, filter record, index of the account or 0
    timestamps: Numbers  # is there a transfer at this time? ns

    @property
    def little(self) -> bool:
        """Whether a moment is enough to answer: a payment may wait for it."""
        ids = len(self.ids) // _ID.itemsize
        return not self.reads and max(ids, len(self.timestamps)) <= COLD_LITTLE_MAX


class Resolved(NamedTuple):
    """What the past says. Ids come once each: those wanted, then holds that found transfers end."""

    ids: bytes  # 16 each
    kinds: NDArray[np.uint8]  # ABSENT, STORED or BURNED
    records: Records  # of transfers; a burned id's record and zeros; zeros
    outcomes: NDArray[np.uint8]  # HoldOutcome of a hold that has ended, else 0
    reads: list[tuple[int, bytes, bytes]]  # operation, filter record, results of 128 bytes
    timestamps: Numbers
    found: NDArray[np.bool_]


def resolve(sealed: Sealed, wanted: Wanted) -> Resolved:
    """Answer `wanted` from what is sealed.

    DataRefused for a damaged group, ColumnDamaged for a damaged column file, OSError when one
    cannot be read.
    """
    ids = _Ids(sealed)
    ids.find(np.frombuffer(wanted.ids, _ID))
    ids.find(ids.holds_ended())
    reads = [
        (operation, asked, b"".join(_read(sealed, operation, asked, account)))
        for operation, asked, account in wanted.reads
    ]
    found = _find_timestamps(sealed, wanted.timestamps)
    return Resolved(
        ids.ids.tobytes(),
        ids.kinds,
        ids.records,
        ids.outcomes(),
        reads,
        wanted.timestamps,
        found,
    )


# ---- records of the journal ---------------------------------------------------------------------


def _records_at(journal: JournalReader, segment: ColumnFile, places: Numbers) -> Records:
    """The records at these places, which `segment` gave, in any order; a chunk at most."""
    if len(places):
        first, last = (int(bound >> _SHIFT) for bound in (places.min(), places.max()))
        if not segment.group_first <= first <= last <= segment.group_last:
            raise _astray(segment, "a place outside its groups")
    try:
        return journal.records_at(places)
    except NoRecord as error:
        raise _astray(segment, f"a place in group {error.group} where no such record is") from error


def _astray(segment: ColumnFile, what: str) -> ColumnDamaged:
    """Pages that are intact and say what cannot be: not damage by a disk, but as useless."""
    return ColumnDamaged(segment.path, what)


# ---- ids ----------------------------------------------------------------------------------------


class _Ids:
    """What is known of some ids, each of them once, in the order they were asked for."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        # Most ids are in the largest one, and those that were found are not looked for again.
        self._segments = sorted(
            sealed.segments, key=lambda segment: segment.count(_columns.IDS), reverse=True
        )
        self.ids: Ids = np.empty(0, _ID)
        self.kinds = np.empty(0, np.uint8)
        self.places = np.empty(0, np.uint64)
        self.records: Records = np.empty((0, TRANSFER.itemsize), np.uint8)

    def find(self, asked: Ids) -> None:
        """Look up those of `asked` that were not asked for before."""
        _, firsts = np.unique(np.concatenate([self.ids, asked]), return_index=True)
        new = asked[np.sort(firsts[firsts >= len(self.ids)]) - len(self.ids)]
        known = len(self.ids)
        self.ids = np.concatenate([self.ids, new])
        self.kinds = np.concatenate([self.kinds, np.zeros(len(new), np.uint8)])
        self.places = np.concatenate([self.places, np.zeros(len(new), np.uint64)])
        self.records = np.concatenate(
            [self.records, np.zeros((len(new), TRANSFER.itemsize), np.uint8)]
        )
        for first in range(known, len(self.ids), EVENTS_MAX):
            self._find_rows(first, min(len(self.ids), first + EVENTS_MAX))

    def _find_rows(self, first: int, end: int) -> None:
        order = first + np.argsort(self.ids[first:end])
        ids = self.ids[order]
        hashes = _columns.hash_ids(ids, self._sealed.hash_key)
        for segment in self._segments:
            left = hashes[self.kinds[order] == ABSENT]
            for places, records in self._candidates(segment, np.unique(left)):
                # Hashes may collide: only a whole id says whose record this is.
                owners: Ids = records[:, : _ID.itemsize].copy().view(_ID).ravel()
                at = np.minimum(np.searchsorted(ids, owners), len(ids) - 1)
                same = ids[at] == owners
                rows = order[at[same]]
                self.records[rows] = records[same]
                self.places[rows] = places[same]
                burned = places[same] & np.uint64(_file.KIND_MASK) == _file.BURNED_ID
                self.kinds[rows] = np.where(burned, BURNED, STORED)

    def _candidates(
        self, segment: ColumnFile, hashes: Numbers
    ) -> Iterator[tuple[Numbers, Records]]:
        """Places, and the records there, of the ids in `segment` with these hashes, in chunks."""
        _, places = segment.lookup(_columns.IDS, hashes)
        for first in range(0, len(places), EVENTS_MAX):
            chunk = places[first : first + EVENTS_MAX]
            yield chunk, _records_at(self._sealed.journal, segment, chunk)

    def holds_ended(self) -> Ids:
        """The ids of the holds that found transfers post or void."""
        transfers = self.records[self.kinds == STORED].view(TRANSFER).ravel()
        ending = transfers[transfers["flags"] & _RESOLVING != 0]
        return np.ascontiguousarray(ending["pending_id"]).view(_ID).ravel()

    def outcomes(self) -> NDArray[np.uint8]:
        """How each hold among the found transfers ended; 0 for what is none or still open."""
        result = np.zeros(len(self.ids), np.uint8)
        flags = self.records.view(TRANSFER).ravel()["flags"]
        holds = np.flatnonzero((self.kinds == STORED) & (flags & TransferFlags.PENDING != 0))
        for segment in self._segments:
            earlier = holds[self.places[holds] >> _SHIFT <= segment.group_last]
            which, outcomes = segment.lookup(_columns.RESOLUTIONS, self.places[earlier])
            result[earlier[which]] = outcomes
        return result


# ---- statements and queries ---------------------------------------------------------------------


def _read(sealed: Sealed, operation: int, asked: bytes, account: int) -> Iterator[bytes]:
    """The first results of a read, in its direction, at most as many as it asks for."""
    if operation == Operation.QUERY_TRANSFERS:
        if _scan.query_filter_is_valid(asked):
            yield from _query(sealed, asked)
    elif _scan.account_filter_is_valid(asked):
        yield from _statement(sealed, operation, asked, account)


def _blocks_in(segment: ColumnFile, timestamp_first: int, timestamp_last: int) -> tuple[int, int]:
    """The blocks [first, end) with transfers in this stretch of time."""
    first = segment.block_at(timestamp_first)
    end = segment.block_at(timestamp_last + 1)
    if end < segment.count(_columns.BLOCKS):
        [block] = segment.blocks(end, end + 1)
        if block["timestamp_first"] <= timestamp_last:
            end += 1
    return first, max(first, end)


def _places_in(segment: ColumnFile, timestamp_first: int, timestamp_last: int) -> tuple[int, int]:
    """Places that bound all transfers in this stretch of time, and perhaps a block's more."""
    first, end = _blocks_in(segment, timestamp_first, timestamp_last)
    if first == end:
        return 1, 0
    low = segment.blocks(first, first + 1)[0]["place_first"]
    last = segment.blocks(end - 1, end)[0]["group_last"]
    return int(low), (int(last) + 1 << _file.GROUP_SHIFT) - 1


def _groups(block: np.void) -> range:
    """The groups that a block's transfers lie in."""
    return range(int(block["place_first"]) >> _file.GROUP_SHIFT, int(block["group_last"]) + 1)


def _statement(sealed: Sealed, operation: int, asked: bytes, account: int) -> Iterator[bytes]:
    fields = np.frombuffer(asked, ACCOUNT_FILTER)[0]
    newest_first = bool(fields["flags"] & AccountFilterFlags.REVERSED)
    timestamps = int(fields["timestamp_min"]), int(fields["timestamp_max"]) or _TIMESTAMP_MAX
    left = min(int(fields["limit"]), EVENTS_MAX)
    size = left  # of a chunk; a selective filter will need more rows than it gives results
    order = range(len(sealed.segments))
    for at in reversed(order) if newest_first else order:
        segment = sealed.segments[at]
        low, end = segment.bounds(_columns.ROWS, account, *_places_in(segment, *timestamps))
        while low < end and left > 0:
            first = max(low, end - size) if newest_first else low
            rows = segment.records(_columns.ROWS, first, min(end, first + size))
            low, end = (low, first) if newest_first else (first + len(rows), end)
            size = min(2 * size, EVENTS_MAX)
            places = _places(rows)
            records = _records_at(sealed.journal, segment, places)
            transfers = np.flatnonzero(places & np.uint64(_file.KIND_MASK) == 0)
            chosen, stray = _scan.select(asked, records[transfers])
            if stray >= 0:
                stray = int(places[transfers[stray]])
                raise _astray(segment, f"a row of an account that {stray:#x} is not of")
            found = transfers[chosen]
            found = (found[::-1] if newest_first else found)[:left]
            left -= len(found)
            if operation == Operation.GET_ACCOUNT_TRANSFERS:
                yield records[found].tobytes()
            elif len(found):
                balances = _balances(sealed, at, account, asked[:16], first, places, records)
                yield _balance_records(balances[found], records[found]).tobytes()


def _places(rows: NDArray[np.uint8]) -> Numbers:
    return np.ascontiguousarray(rows.view(np.uint64)[:, 1])


def _balances(
    sealed: Sealed, at: int, account: int, id: bytes, first: int, places: Numbers, records: Records
) -> NDArray[np.uint8]:
    """The account's balances after each of these rows, the first of which is row `first` of the
    segment: those of the last head before them, and what the rows since then did."""
    before, earlier = _since_head(sealed, at, account, first, int(places[0]))
    parts = [(sealed.segments[at], places, records)]
    for segment, some in earlier:
        parts.insert(0, (segment, some, _records_at(sealed.journal, segment, some)))
    for segment, some, read in parts:
        resolutions = _scan.resolution_places(some, read)
        ending = np.flatnonzero(resolutions)
        ended = np.zeros_like(read)
        if len(ending):
            ended[ending] = _records_at(sealed.journal, segment, resolutions[ending])
        after = _scan.run_balances(before, some, read, ended, np.frombuffer(id, np.uint8))
        before = after[-1]
    return after


def _since_head(
    sealed: Sealed, at: int, account: int, first: int, place: int
) -> tuple[NDArray[np.uint8], list[tuple[ColumnFile, Numbers]]]:
    """Balances after the account's last head before `place`, and the rows from there to it, the
    newest first: segment by segment, from row `first` of segment `at` downwards."""
    earlier: list[tuple[ColumnFile, Numbers]] = []
    for segment in reversed(sealed.segments[: at + 1]):
        low, end = segment.bounds(_columns.ROWS, account, 0, place - 1)
        if segment is sealed.segments[at]:
            end = first
        head = _last_head(segment, account, place)
        if head is not None:
            head_place = int(head[:16].view(np.uint64)[1])
            row, low = segment.bounds(_columns.ROWS, account, head_place, head_place)
            if row + 1 != low:
                raise _astray(segment, f"balances of an account that {head_place:#x} is not of")
        while low < end:
            start = max(low, end - EVENTS_MAX)
            earlier.append((segment, _places(segment.records(_columns.ROWS, start, end))))
            end = start
        if head is not None:
            return head[32:], earlier
    return np.zeros(64, np.uint8), earlier


def _last_head(segment: ColumnFile, account: int, place: int) -> NDArray[np.uint8] | None:
    """The record of the account's balances after its last row before `place` that has one."""
    first, end = segment.bounds(_columns.BALANCES, account, 0, place - 1)
    return segment.records(_columns.BALANCES, end - 1, end)[0].copy() if first < end else None


def _balance_records(balances: NDArray[np.uint8], transfers: Records) -> NDArray[np.uint8]:
    """Account balance records: four amounts, then the transfer's timestamp."""
    result = np.zeros((len(balances), TRANSFER.itemsize), np.uint8)
    result[:, :64] = balances
    result[:, 64:72] = transfers[:, 120:128]
    return result


def _query(sealed: Sealed, asked: bytes) -> Iterator[bytes]:
    fields = np.frombuffer(asked, QUERY_FILTER)[0]
    newest_first = bool(fields["flags"] & QueryFilterFlags.REVERSED)
    earliest, latest = int(fields["timestamp_min"]), int(fields["timestamp_max"]) or _TIMESTAMP_MAX
    left = min(int(fields["limit"]), EVENTS_MAX)
    hashes = _scan.field_hashes(asked, sealed.hash_key)
    for segment in reversed(sealed.segments) if newest_first else sealed.segments:
        blocks = _candidate_blocks(segment, earliest, latest, hashes, newest_first)
        for block in _ahead(sealed.journal, blocks):
            first = max(earliest, int(block["timestamp_first"]))
            last = min(latest, int(block["timestamp_last"]))
            groups = _groups(block)
            for number in reversed(groups) if newest_first else groups:
                records = _scanned(
                    sealed.journal, number, block, (asked, first, last, left, newest_first)
                )
                left -= len(records)
                yield records.tobytes()
                if left == 0:
                    return


def _ahead(journal: JournalReader, blocks: Iterator[np.void]) -> Iterator[np.void]:
    """The blocks; the disk is asked for those to come already, for more and more of them."""
    waiting: deque[np.void] = deque()
    room = 1
    while True:
        coming = list(itertools.islice(blocks, room - len(waiting)))
        if coming:
            journal.read_ahead(
                (int(block["place_first"]), int(block["group_last"]), int(block["transfers"]))
                for block in coming
            )
        waiting += coming
        if not waiting:
            return
        yield waiting.popleft()
        room = min(2 * room, BLOCKS_AHEAD_MAX)


def _scanned(
    journal: JournalReader, number: int, block: np.void, wanted: tuple[bytes, int, int, int, bool]
) -> Records:
    """The transfers of a group that a query wants: filter, stretch of time, limit, direction.

    They are read directly from the file; a group that cannot be read so is read through the
    journal, which names what is wrong.
    """
    likely = int(block["place_first"]), int(block["transfers"])
    with journal.open_body(number) as part:
        if part is not None:
            records, bad = _scan.scan(part, *wanted, *likely)
            if bad == _file.INTACT:
                return records
    [(_, body, checks)] = journal.bodies([number])
    records, bad = _scan.scan(_file.BodyInMemory(body, checks, number), *wanted)
    check_block(number, bad)
    return records


def _candidate_blocks(
    segment: ColumnFile, earliest: int, latest: int, hashes: Numbers, newest_first: bool
) -> Iterator[np.void]:
    """The blocks in a stretch of time that may hold all the hashes, in a direction."""
    low, end = _blocks_in(segment, earliest, latest)
    size = BLOCKS_AT_ONCE_MIN
    while low < end:
        first = max(low, end - size) if newest_first else low
        last = min(end, first + size)
        chosen = segment.blocks_maybe(first, last, hashes)
        size = min(2 * size, BLOCKS_AT_ONCE_MAX)
        low, end = (low, first) if newest_first else (last, end)
        for number in chosen[::-1] if newest_first else chosen:
            yield segment.blocks(number, number + 1)[0]


# ---- timestamps ---------------------------------------------------------------------------------


def _find_timestamps(sealed: Sealed, timestamps: Numbers) -> NDArray[np.bool_]:
    """Which of the timestamps a transfer carries."""
    order = np.argsort(timestamps)
    ascending = timestamps[order]
    found = np.zeros(len(timestamps), np.bool_)
    first = 0
    for segment in sealed.segments:
        while first < len(ascending):
            at = segment.block_at(int(ascending[first]))
            if at == segment.count(_columns.BLOCKS):
                break
            [block] = segment.blocks(at, at + 1)
            end = int(np.searchsorted(ascending, block["timestamp_last"], "right"))
            _find_in(sealed.journal, _groups(block), ascending[first:end], found[first:end])
            first = end
    result = np.empty_like(found)
    result[order] = found
    return result


def _find_in(
    journal: JournalReader, groups: range, ascending: Numbers, found: NDArray[np.bool_]
) -> None:
    """Mark in `found` which timestamps a transfer of these groups carries, by bisection."""
    if len(ascending) == 0 or len(groups) == 0:
        return
    middle = len(groups) // 2
    below = len(ascending)
    above = below
    for number, body, checks in journal.bodies(groups[middle:]):
        whole = _file.BodyInMemory(body, checks, number)
        marks, first, last, bad = _scan.at(whole, ascending)
        check_block(number, bad)
        if last > 0:  # else no transfer is in this group: the next one that has any will do
            found |= marks
            below = int(np.searchsorted(ascending, np.uint64(first)))
            above = int(np.searchsorted(ascending, np.uint64(last), "right"))
            break
    _find_in(journal, groups[:middle], ascending[:below], found[:below])
    _find_in(journal, range(number + 1, groups.stop), ascending[above:], found[above:])
