"""The jobs beside the order, and what becomes of the engine when one of them fails.

A job blocks on a lane of the runner; what it leads to happens while the engine's turnstile is held.
An error of derived data stops the engine: the next start makes again what is damaged. This file
knows no job: neither what is flushed nor who is answered.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ledger.engine.ports import Host, Runner
from ledger.facts import limits
from ledger.facts.errors import ColumnDamaged, DataRefused
from ledger.history.segments import History

Done = Callable[[BaseException | None], None]


class Background:
    """The lanes of one engine. Nothing begins before bind(), and nothing after stop()."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._runner: Runner | None = None
        self._host: Host | None = None
        self.stopped = False

    @property
    def idle(self) -> bool:
        """Whether nothing may be begun: there is no engine yet, or it has stopped."""
        return self.stopped or self._runner is None

    def bind(self, runner: Runner, host: Host) -> None:
        """From now on work goes on lanes of `runner`."""
        self._runner, self._host = runner, host

    def release(self) -> None:
        """Begin nothing more, and let go of what it was bound to."""
        self.stopped = True
        self._runner = self._host = None

    def run(self, lane: str, job: Callable[[], None], done: Done) -> None:
        """A job on a lane; what `done` raises stops the engine."""
        assert self._runner is not None

        def finished(error: BaseException | None) -> None:
            try:
                done(error)
            except Exception as raised:
                self.failed(raised)

        self._runner.aside(lane, job, finished)

    def later(self, callback: Callable[[], None]) -> None:
        """Try again what found no space."""
        assert self._runner is not None
        self._runner.later(limits.REFUSED_RETRY_NS, callback)

    def resume_refused(self) -> None:
        """There is room again for those that the engine refused."""
        assert self._host is not None
        self._host.resume()

    def failed(self, error: BaseException | None) -> bool:
        """Stop the engine for an error of derived data; whether it has stopped."""
        if error is None:
            return self.stopped
        if isinstance(error, ColumnDamaged):
            self._history.damaged(error)
        if not self.stopped:
            assert self._host is not None
            self._host.stop(error)
        return True


def no_space(error: BaseException | None) -> bool:
    """Whether a job found no space on the disk, which is tried again and stops nothing."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def of_the_journal(error: BaseException | None) -> bool:
    """Whether it says that a group is damaged, which ends nothing but what needs that group."""
    return isinstance(error, DataRefused) and not isinstance(error, ColumnDamaged)
