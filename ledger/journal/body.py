"""The body of a group as numpy rows, kind by kind, each row with its position.

A body is runs in the order of execution; a run is a header and records of one kind. Here the run
headers are walked and checked, and the records of each kind are gathered into one array, also over
many groups at once, so that whoever judges them pays for an array and not for a record. This file
knows how runs are laid out and nothing of what the records mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ledger.facts.schema import RECORDS, RUN, JournalKind
from ledger.journal.group import Header

VERSION = 1
LONG_RUNS = 16  # records a run from which runs are copied one by one
UNIT_BYTES = 16  # runs and most records begin at multiples of it in the body

DTYPES = {kind: RECORDS[kind.name.lower()] for kind in JournalKind}
_BYTES = {int(kind) | VERSION << 16: dtype.itemsize for kind, dtype in DTYPES.items()}

assert RUN.itemsize == UNIT_BYTES


class Wrong(NamedTuple):
    """What is wrong, and the position of the first record it is wrong with."""

    position: int
    why: str


class Rows(NamedTuple):
    """Records of one kind, (n,) of its dtype, and their positions, (n,) int64, ascending."""

    records: NDArray[np.void]
    positions: NDArray[np.int64]

    def before(self, position: int) -> Self:
        """The rows at positions lower than `position`."""
        count = int(np.searchsorted(self.positions, position))
        return self._replace(records=self.records[:count], positions=self.positions[:count])


class Runs(NamedTuple):
    """The runs of one or more groups in order: kind, records, where they begin, first position."""

    body: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    counts: NDArray[np.int64]
    units: NDArray[np.int64]  # of the first record, in UNIT_BYTES from the beginning of `body`
    positions: NDArray[np.int64]
    wrong: Wrong | None  # where the walk ended early

    def rows(self, kind: JournalKind) -> Rows:
        """All records of `kind`, copied out of the body."""
        dtype = DTYPES[kind]
        chosen = self.kinds == int(kind)
        counts = self.counts[chosen]
        total = int(counts.sum())
        if total == 0:
            return Rows(np.empty(0, dtype), np.empty(0, np.int64))
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.repeat(self.positions[chosen], counts) + within
        # As bytes: numpy copies a record with named fields one field after the other.
        plain = np.dtype(f"V{dtype.itemsize}")
        if total >= LONG_RUNS * len(counts):
            firsts = (self.units[chosen] * UNIT_BYTES).tolist()
            runs = [
                np.ndarray((count,), plain, self.body, first)
                for first, count in zip(firsts, counts.tolist(), strict=True)
            ]
            return Rows(np.concatenate(runs).view(dtype), positions)
        stride = UNIT_BYTES if dtype.itemsize % UNIT_BYTES == 0 else dtype.itemsize
        places = np.repeat(self.units[chosen] * (UNIT_BYTES // stride), counts)
        # Every address that could hold a record, so that one index gathers all that do.
        everywhere: NDArray[np.void] = np.ndarray(
            ((self.body.nbytes - dtype.itemsize) // stride + 1,), plain, self.body, 0, (stride,)
        )
        found = everywhere[places + within * (dtype.itemsize // stride)]
        return Rows(found.view(dtype), positions)


def read_runs(body: NDArray[np.uint8], headers: Sequence[Header]) -> Runs:
    """The runs of `headers`' groups, whose bodies lie one after the other in `body`.

    Ends at the first run that is not one, and says so in `wrong`. `body` must not change while the
    result is used.
    """
    words = body.view(np.uint64).data
    kinds: list[int] = []
    counts: list[int] = []
    units: list[int] = []
    position = position_first = headers[0].position_first
    at = end = 0
    wrong = None
    for header in headers:
        end += header.body_bytes // 8
        run_first = len(kinds)
        while at < end:
            first, second = words[at], words[at + 1]
            size = _BYTES.get(first & 0xFFFF_FFFF)
            count = first >> 32
            why = _why_no_run(first, second, size, end - at - 2)
            if why is not None:
                wrong = Wrong(position, why)
                break
            kinds.append(first & 0xFFFF)
            counts.append(count)
            units.append(at // 2 + 1)
            position += count
            at += 2 + second // 8
        wrong = wrong or _why_no_group(header, position, len(kinds) - run_first)
        if wrong is not None:
            break
    sizes = np.array(counts, np.int64)
    return Runs(
        body,
        np.array(kinds, np.int64),
        sizes,
        np.array(units, np.int64),
        position_first + np.cumsum(sizes) - sizes,
        wrong,
    )


def _why_no_run(first: int, second: int, size: int | None, words_left: int) -> str | None:
    count = first >> 32
    if size is not None and count and second == (count * size + 15) & -16 <= words_left * 8:
        return None
    kind, version = first & 0xFFFF, first >> 16 & 0xFFFF
    if size is None:
        return f"a run of kind {kind}, version {version}: this software does not know it"
    if second >> 32:
        return "a run whose reserved bytes are not zero"
    return f"a run of {count} records of kind {kind} in {second} bytes"


def _why_no_group(header: Header, position: int, run_count: int) -> Wrong | None:
    if position != header.position_last + 1:
        return Wrong(
            position,
            f"the body of {header.place} ends at position {position - 1}",
        )
    if run_count != header.run_count:
        return Wrong(
            header.position_first,
            f"{header.place} has {run_count} runs, its header says {header.run_count}",
        )
    return None
