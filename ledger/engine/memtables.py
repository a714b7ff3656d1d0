"""The memtables of one core: rotated, flushed to segments, evicted; and segments merged.

A full memtable is rotated at the end of a group and flushed once that group is durable; its segment
is shown in the same step in which it is evicted, so that a transfer is found either here or there.
Flushes and merges block on lanes. This file knows no request, and not when an eviction would take
away what somebody was promised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger import _core
from ledger.engine.background import Background, no_space
from ledger.facts import limits
from ledger.facts.errors import LedgerError
from ledger.history import _columns
from ledger.history.segments import History
from ledger.journal.ports import Ends


class WindowsDiffer(LedgerError):
    """What is flushed was rotated elsewhere, by software that keeps more or less in memory."""


class Memtables:
    """Flushes the memtables of one core."""

    def __init__(
        self, core: _core.Core, history: History, ends: Ends, background: Background
    ) -> None:
        self._core, self._history, self._ends = core, history, ends
        self._background = background
        self._flushing = self._merging = False
        self.waiting: list[Any] = []  # segments of the first memtables, which are not evicted yet
        self._merge_due = True  # whether there may be something to merge

    @property
    def full(self) -> bool:
        """Whether no group may be opened: one is full, and too many are still in memory."""
        return self._core.memtable_full

    @property
    def crowded(self) -> bool:
        """Whether payments wait for an eviction."""
        return self.full and len(self._core.memtables) >= limits.WINDOWS_CLOSED_MAX

    def rotate(self, closed_max: int) -> bool:
        """Close the open one if it is full and fewer than so many are closed; whether it was."""
        core = self._core
        if not core.memtable_full or len(core.memtables) >= closed_max:
            return False
        core.rotate()
        return True

    def flush(
        self, durable: int, flushed: Callable[[], None], again: Callable[[], None]
    ) -> None:
        """Begin to flush the next one, if its last group is durable. Then `flushed` is called, or
        `again` later, when there was no space."""
        closed = self._core.memtables[len(self.waiting) :]
        if self._flushing or not closed or closed[0][1] > durable:
            return
        self._flushing = True
        first, last = closed[0]
        written: list[Any] = []

        def done(error: BaseException | None) -> None:
            self._flushing = False
            if no_space(error):
                # The memtable stays; when too many do, nothing more is taken.
                self._background.later(again)
            elif not self._background.failed(error):
                self.waiting += written
                flushed()

        self._background.run("seal", lambda: written.append(self._write(first, last)), done)

    def _write(self, first: int, last: int) -> Any:
        """The segment of a closed memtable, which nobody looks into yet."""
        columns = self._core.memtable_columns(self._history.hash_key, first)
        segment = self._history.write(columns, first, last, *self._ends.end_of(last))
        self._core.filter_insert(columns[_columns.IDS][:, 0])
        return segment

    def evict(self) -> None:
        """Evict those that are flushed, and show their segments, in one step."""
        segments, self.waiting = self.waiting, []
        for segment in segments:
            self._history.add(segment)
            self._core.evict()
        self._merge_due = True

    def merge(self, again: Callable[[], None]) -> None:
        """Begin to merge segments, if there may be something to merge; then `again` is called."""
        if not self._merge_due or self._merging:
            return
        self._merging = True

        def merged(error: BaseException | None) -> None:
            self._merging = False
            if no_space(error):
                return  # segments are as good unmerged: the next flush tries again
            if not self._background.failed(error):
                again()

        self._background.run("merge", self._merge, merged)

    def _merge(self) -> None:
        self._merge_due = False  # first: one that is flushed meanwhile may make more due
        if self._history.merge():
            self._merge_due = True

    # ---- replay: everything in turn -------------------------------------------------------------

    def replayed(self) -> int | None:
        """A group has been replayed: rotate, flush what is not flushed yet, and evict. The last
        group of the memtable that was rotated, None when none was. WindowsDiffer."""
        core = self._core
        if not core.memtable_full:
            return None
        core.rotate()
        [(first, last)] = core.memtables
        if not self._history.covers(last):
            if first != self._history.group + 1:
                raise WindowsDiffer(
                    f"a window from group {first}, sealed up to {self._history.group}"
                )
            self._history.add(self._write(first, last))
        core.evict()
        return last

    def check_replayed(self) -> None:
        """All is replayed: what is flushed must not be in memory as well. WindowsDiffer."""
        if self._core.group_first != self._history.group + 1:
            raise WindowsDiffer(
                f"sealed up to group {self._history.group}, in memory from"
                f" {self._core.group_first}"
            )
