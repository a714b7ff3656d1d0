"""Requests that need history: they wait outside of the order until it is in memory.

What such a request wants is looked up on a lane and installed in the core, and then it is submitted
again. So many are looked up at a time; the others wait in a queue. An eviction makes what was found
before it stale: then a request looks up once more. This file knows neither segments nor what a
request says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger import _core
from ledger.engine.background import Background, of_the_journal
from ledger.engine.ports import Submitter
from ledger.facts import limits
from ledger.facts.errors import DataRefused
from ledger.history.lookup import Wanted
from ledger.history.segments import History


class HistoryRequests:
    """Who waits for history."""

    def __init__(self, core: _core.Core, history: History, background: Background) -> None:
        self._core, self._history, self._background = core, history, background
        # Those that are looked up for, whether they still want it (what they asked is under way
        # until then), and those behind them.
        self._asking: dict[Submitter, bool] = {}
        self._queue: dict[Submitter, None] = {}
        self._disappointed: dict[Submitter, None] = {}  # an eviction made stale what was found

    @property
    def may_be_overtaken(self) -> bool:
        """Whether an eviction now would disappoint nobody twice."""
        return self._disappointed.keys().isdisjoint(self._asking)

    @property
    def asking(self) -> bool:
        """Whether something is being looked up, which an eviction would make stale."""
        return bool(self._asking)

    def ask(
        self,
        submitter: Submitter,
        held: bool,
        installed: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        """The submitter's request ended with COLD: it is resumed when what it wants is there.

        While they are `held` nobody begins. `installed` is called when something was put into the
        core, `answered` after a look-up.
        """
        if submitter in self._asking:
            self._asking[submitter] = True
            return
        if held or len(self._asking) >= limits.COLD_REQUESTS_MAX:
            self._queue[submitter] = None
            return
        self._asking[submitter] = True
        wanted, generation = Wanted(*self._core.take_wanted()), self._core.generation
        found: list[Any] = []

        def done(error: BaseException | None) -> None:
            if self._background.stopped:
                return
            # Of a journal that is damaged there who asked is told, and others are served.
            if error is not None and not of_the_journal(error):
                self._background.failed(error)
                return
            if error is None and generation == self._core.generation:
                self._core.attach(*found[0])
                installed()
                self._answer(submitter, error, stale=False)
            else:
                self._answer(submitter, error, stale=error is None)
            answered()

        # An id that the filter could not rule out must not wait behind a long statement.
        lane = "past" if wanted.little else "reads"
        self._background.run(lane, lambda: found.append(self._history.resolve(wanted)), done)

    def _answer(self, submitter: Submitter, error: BaseException | None, stale: bool) -> None:
        wanted = self._asking.pop(submitter)
        self._disappointed.pop(submitter, None)
        if stale and wanted:
            self._disappointed[submitter] = None
        if wanted:
            if isinstance(error, DataRefused):
                submitter.refused(error)
            else:
                submitter.resume()

    def resume_queue(self, held: Callable[[], bool]) -> None:
        """Let those ask again who found too many before them, until as many are asking as may, or
        they are `held`.

        Whoever finds what it wants installed goes on without asking, and leaves its room to the
        next. Each comes once: who queues itself again meanwhile is behind all of them.
        """
        for submitter in list(self._queue):
            full = held() or len(self._asking) >= limits.COLD_REQUESTS_MAX
            if self._background.stopped or full:
                return
            if self._queue.pop(submitter, submitter) is None:
                submitter.resume()

    def forget(self, submitter: Submitter) -> None:
        """The submitter does not want to be resumed any more."""
        if submitter in self._asking:
            self._asking[submitter] = False
        self._queue.pop(submitter, None)
        self._disappointed.pop(submitter, None)

    def stop(self) -> list[Submitter]:
        """Nothing is resumed any more. Who still waits, to be told."""
        waiting = [one for one, wanted in self._asking.items() if wanted] + [*self._queue]
        self._asking.clear()
        self._queue.clear()
        return waiting
