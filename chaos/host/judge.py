"""What must be true after each life of a host; it rests on its diary and on the book, opened anew.

What was acknowledged is there, as it was asked for and with the time that was told, and nothing is
there twice. What was refused is not there; what nobody knows is there wholly or not at all, and
from then on it is known. The accounts are what all that together makes, and the book verifies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ledger
from chaos.host import payments
from chaos.host.diary import Told
from chaos.host.payments import Numbers, Rows
from ledger.audit import verify
from ledger.facts.limits import EVENTS_MAX

Finding = tuple[str, str]
COMPARED = [name for name in ledger.TRANSFER.names or () if name != "timestamp"]
BLOCKS_AT_ONCE = 2_000


class Judge:
    """Knows of one book what its hosts were told so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: dict[int, int] = {}  # of each block's payments, by its first id
        self.times: dict[int, list[int]] = {}  # of the blocks that are there
        self.absent: set[int] = set()

    def after(self, told: Told) -> list[Finding]:
        """What is wrong after a life, given its diary."""
        found = list(told.broken)
        if found:
            return found
        try:
            found += self._verified()
            if not found:
                with ledger.open(self.directory) as book:
                    found += self._judged(told, book)
        except (ledger.LedgerError, OSError) as error:
            found.append(("chain", f"the book cannot be used: {type(error).__name__}: {error}"))
        return found

    def _verified(self) -> Iterator[Finding]:
        report = verify.verify(self.directory)
        self.transfers = report.records.get("transfer", 0)
        if not report.clean:
            yield "chain", f"verify: {report.fault or report.stamp_fault}"

    def _judged(self, told: Told, book: ledger.Book) -> Iterator[Finding]:
        self.counts |= told.asked
        there = _looked_up(book, self.counts)
        for first, count in self.counts.items():
            rows = there[first]
            finding = self._block(told, first, count, rows)
            if finding is not None:
                yield finding
                return
            if len(rows):
                self.times[first] = rows["timestamp"].tolist()
            else:
                self.absent.add(first)
        for first, times in told.again:
            if self.times.get(first) != times:
                yield "original-reply", f"payments from {first} were told two times of creation"
                return
        yield from self._totals(book)

    def _block(self, told: Told, first: int, count: int, rows: Rows) -> Finding | None:
        """One block: what was known of it, and what is there."""
        known = self.times.get(first) or told.acked.get(first)
        name = f"payments {first} .. {first + count - 1}"
        if known is not None and len(rows) != count:
            return "durable", f"{name} were acknowledged, {len(rows)} of {count} are there"
        if (first in told.refused or first in self.absent) and len(rows):
            why = told.refused.get(first, "they were not there before")
            return "one-effect", f"{name}: {why}; {len(rows)} of {count} are there"
        if len(rows) not in (0, count):
            return "whole", f"{name}: {len(rows)} of {count} are there"
        if known is not None and rows["timestamp"].tolist() != known:
            return "original-reply", f"{name} are there with other times than were told"
        wanted = payments.records(payments.numbers(first, len(rows)))
        if any((rows[field] != wanted[field]).any() for field in COMPARED):
            return "judged", f"{name} are not what was asked for"
        return None

    def _totals(self, book: ledger.Book) -> Iterator[Finding]:
        ids = _ids((first, self.counts[first]) for first in self.times)
        if self.transfers != len(ids):
            yield "one-effect", f"{len(ids):,} payments are known, the book has {self.transfers:,}"
            return
        wanted = payments.balances(ids)
        for row in book.lookup_accounts(list(wanted)):
            account = ledger.int_of(row["id"])
            have = tuple(ledger.int_of(row[f"{side}_posted"]) for side in ("debits", "credits"))
            if have != wanted[account]:
                what = f"account {account} has {have}, its payments make {wanted[account]}"
                yield "conserved", what


def _ids(blocks: Iterable[tuple[int, int]]) -> Numbers:
    parts = [payments.numbers(first, count) for first, count in blocks]
    return np.concatenate([payments.numbers(0, 0), *parts])


def _looked_up(book: ledger.Book, counts: dict[int, int]) -> dict[int, Any]:
    """The transfers of each block that the book has."""
    ids = _ids(counts.items())
    parts = [
        book.lookup_transfers(payments.id_rows(ids[at : at + EVENTS_MAX]))
        for at in range(0, len(ids), EVENTS_MAX)
    ]
    rows = np.concatenate([np.zeros(0, ledger.TRANSFER), *parts])
    numbers = rows["id"][:, 0]
    order = np.argsort(numbers, kind="stable")
    rows, numbers = rows[order], numbers[order]
    edges = {first: np.searchsorted(numbers, [first, first + counts[first]]) for first in counts}
    return {first: rows[low:high] for first, (low, high) in edges.items()}
