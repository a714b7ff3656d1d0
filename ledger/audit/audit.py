"""The audit: a journal judged and added up again, not as the core does it.

Two kernels do the work, a chunk of groups at a time: one holds every record to the rules and adds
up balances, the other holds each request's effects to what it announces. Here their findings are
put together: the first fault by position, in words, and the sums. Of the past the audit keeps the
accounts, the open holds, a bit for each hold that has ended, and eight bytes for each transfer id:
a keyed hash. Which ids share one is known at the end; whether an id really came twice is seen when
the groups are read once more, so hardly ever. It knows no disk, and trusts that groups were checked
and follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.audit import _records, _requests
from ledger.facts.limits import EVENTS_MAX
from ledger.facts.schema import ACCOUNT, JournalKind
from ledger.journal.body import Wrong, read_runs
from ledger.journal.group import Header

SUSPECTS_MAX = 1 << 18  # hashes whose ids are kept at once when groups are read once more

_BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_USED_ALREADY = {
    JournalKind.TRANSFER: "a transfer whose id is used already",
    JournalKind.BURNED_ID: "a burned id that is used already",
}
_numbers_of = attrgetter(*_records.HEADER)

Groups = Iterable[tuple[Header, bytes | memoryview | NDArray[np.uint8]]]


class LedgerTotals(NamedTuple):
    """One ledger's accounts added up, and what became of its holds."""

    ledger: int
    accounts: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    held: int
    captured: int
    released: int
    open: int


class Audit:
    """The audit of a journal from group 1 on. `wrong` is the first fault, and ends it.

    `hash_key`: 16 secret bytes, so that nobody can choose ids that share a hash.
    """

    def __init__(self, hash_key: bytes) -> None:
        self.wrong: Wrong | None = None
        self._fold = _records.Fold(hash_key)

    @property
    def counts(self) -> dict[JournalKind, int]:
        """Records of each kind, as far as groups were taken."""
        counts = self._fold.counts
        return {kind: counts[kind] for kind in JournalKind}

    def take(self, headers: Sequence[Header], bodies: NDArray[np.uint8]) -> bool:
        """Judge and add up the next groups, whose bodies follow each other in `bodies`.

        False when something is wrong; nothing more can be taken then. ValueError when `bodies` are
        not those of the headers, or not aligned to 16 bytes; MemoryError.
        """
        numbers = np.array([_numbers_of(header) for header in headers], np.uint64)
        before = 0
        found = self._fold.take(bodies, numbers)
        if found is not None:
            group, before, kind, why = found
            numbers = numbers[: group + 1]
            end = int(numbers[:, -1].sum())
            bodies = bodies[:end]
            body = bodies[end - headers[group].body_bytes :]
            self.wrong = (
                read_runs(body, [headers[group]]).wrong
                if why is None
                else Wrong(before, _in_words(why, kind))
            )
        earlier = _requests.first_wrong(bodies, numbers, before)
        if earlier is not None:
            position, kind, why = earlier
            self.wrong = Wrong(position, _in_words(why, kind))
        return self.wrong is None

    # ---- results --------------------------------------------------------------------------------

    def accounts(self) -> NDArray[np.void]:
        """Every account as it must stand now, in order of creation: array of ACCOUNT.

        ValueError names the first account whose balance is below 0 or beyond 2^128-1.
        """
        beyond = self._fold.beyond()
        if beyond is not None:
            account, balance, value = beyond
            raise ValueError(f"account {account}: {_BALANCES[balance]} is {value}")
        return self._fold.accounts().view(ACCOUNT)

    def open_holds(self) -> NDArray[np.uint64]:
        """Open holds in order of creation: (position, expires_at ns or 0), shape (n, 2)."""
        return self._fold.open_holds()

    def totals(self) -> list[LedgerTotals]:
        """Each ledger added up, lowest first."""
        return [LedgerTotals(*numbers) for numbers in self._fold.totals()]

    def repeated(self, read: Callable[[], Groups], before: int) -> tuple[Header, Wrong] | None:
        """The first id of a transfer that was used already, below the position `before`; its group.

        `read` gives the groups once more from group 1 on, as far as they were taken. It is called
        only when ids share a hash, and more than once only when more than SUSPECTS_MAX do.
        """
        first = None
        suspects = self._fold.repeated()
        for place in range(0, len(suspects), SUSPECTS_MAX):
            some = suspects[place : place + SUSPECTS_MAX]
            found = self._first_repeated(some, read(), before)
            if found is not None:
                first, before = found, found[1].position
        return first

    def _first_repeated(
        self, suspects: NDArray[np.uint64], groups: Groups, before: int
    ) -> tuple[Header, Wrong] | None:
        seen: set[bytes] = set()
        for header, body in groups:
            if header.position_first >= before:
                break
            runs = read_runs(np.frombuffer(body, np.uint8), [header])
            found: list[tuple[int, bytes, str]] = []
            for kind, why in _USED_ALREADY.items():
                records, positions = runs.rows(kind).before(before)
                ids = np.ascontiguousarray(records["id"])
                for row in np.flatnonzero(np.isin(self._fold.hashes(ids), suspects)):
                    found.append((int(positions[row]), ids[row].tobytes(), why))
            for position, id, why in sorted(found):
                if id in seen:
                    return header, Wrong(position, why)
                seen.add(id)
        return None


def _in_words(why: str, kind: int) -> str:
    name = JournalKind(kind).name.lower() if kind else ""
    return why.format(kind=name, events_max=EVENTS_MAX)
