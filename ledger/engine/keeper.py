"""The keeper of history: it bounds memory, keeps restarts short and answers old requests.

It ties together the memtables, the checkpointer and the requests that need history, and decides
when a memtable may be evicted. All of it is derived from the journal behind its durable line: a
crash anywhere loses only work that is done again. Its methods are called while the engine's
turnstile is held. This file knows no file and no column.
"""

from __future__ import annotations

from ledger import _core
from ledger.engine.background import Background
from ledger.engine.checkpointer import Checkpointer
from ledger.engine.history_requests import HistoryRequests
from ledger.engine.memtables import Memtables
from ledger.engine.ports import Host, Runner, Submitter
from ledger.facts import limits
from ledger.history.segments import History
from ledger.journal.ports import Ends


class HistoryKeeper:
    """The Keeper of one engine, over the history in one directory."""

    def __init__(self, core: _core.Core, history: History, ends: Ends) -> None:
        self._core, self._history = core, history
        self._background = Background(history)
        self.memtables = Memtables(core, history, ends, self._background)
        self._checkpointer = Checkpointer(core, history, ends, self._background)
        self._requests = HistoryRequests(core, history, self._background)
        self._durable = 0
        core.use_hash_key(history.hash_key)

    # ---- replay ---------------------------------------------------------------------------------

    def replayed(self) -> None:
        """A group has been replayed."""
        last = self.memtables.replayed()
        if last is None:
            return
        self._checkpointer.replayed(last == self._history.group)

    def check_replayed(self) -> None:
        """All is replayed. WindowsDiffer when what is flushed is in memory as well."""
        self.memtables.check_replayed()

    # ---- what the engine calls ------------------------------------------------------------------

    def bind(self, runner: Runner, host: Host, durable: int) -> None:
        """From now on work goes on lanes of `runner`."""
        self._background.bind(runner, host)
        self._durable = durable
        self._next()

    @property
    def full(self) -> bool:
        """Whether no group may be opened: the memtable is full, and too many are in memory."""
        return self.memtables.full

    def group_taken(self) -> None:
        """A group was closed and none is open: the moment to rotate."""
        self._rotate(limits.WINDOWS_CLOSED_MAX)

    def _rotate(self, closed_max: int) -> None:
        if self.memtables.rotate(closed_max):
            self._checkpointer.rotated()

    def group_durable(self, group: int) -> None:
        self._durable = group
        self._next()

    def ask(self, submitter: Submitter) -> None:
        """The submitter's request needs history: it is resumed when that is in memory."""
        self._requests.ask(submitter, self._held(), self._installed, self._answered)

    def forget(self, submitter: Submitter) -> None:
        """The submitter does not want to be resumed any more."""
        self._requests.forget(submitter)

    def stop(self) -> list[Submitter]:
        """The engine has stopped: nothing is begun any more. Who still waits, to be told."""
        self._background.stopped = True
        return self._requests.stop()

    def release(self) -> None:
        """The book is closed: nothing is begun any more, and the engine is let go, so that its
        memory is given back without the collector."""
        self._background.release()

    # ---- what follows from what -----------------------------------------------------------------

    def _next(self) -> None:
        """Begin what can be begun."""
        if self._background.idle:
            return
        if self.memtables.crowded:
            self._evict()
        self.memtables.flush(self._durable, self._flushed, self._next)
        self._checkpointer.copy_some(self._next)
        self.memtables.merge(self._next)

    def _held(self) -> bool:
        """Whether look-ups wait for an eviction."""
        return bool(self.memtables.waiting)

    def _flushed(self) -> None:
        self._evict()
        self._next()

    def _installed(self) -> None:
        """Something was put into the core for a request, which is about to be submitted again.

        It may use one memtable more than payments may: else it would be refused now, and what was
        installed would be gone with the next eviction.
        """
        if self._core.group_records == 0:
            self._rotate(limits.WINDOWS_CLOSED_MAX + 1)

    def _answered(self) -> None:
        self._evict()
        self._requests.resume_queue(self._held)

    def _evict(self) -> None:
        """Evict what is flushed, once nothing is being looked up: what is found must stay true
        until it is installed. Who asks meanwhile waits for the eviction, and what is rotated
        meanwhile is flushed too, so that long look-ups do not hold up what follows.

        If payments wait for it, memtables are evicted at once, and the look-ups under way are
        repeated, once each: they find in the page cache what they read.
        """
        if not self.memtables.waiting:
            return
        overtaken = self.memtables.crowded and self._requests.may_be_overtaken
        if self._requests.asking and not overtaken:
            return
        self.memtables.evict()
        if self._core.group_records == 0:
            self.group_taken()
        self._background.resume_refused()
        self._requests.resume_queue(self._held)
        self._next()
