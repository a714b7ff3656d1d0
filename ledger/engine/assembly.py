"""The parts of an engine, put together; and a core that applies a journal's groups.

Who starts a book recovers the parts first; who only reads a journal makes a core here and applies
its groups. This file opens nothing: whoever opened the parts closes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger import _core
from ledger.base.failpoint import failpoint
from ledger.engine.clock import Clock
from ledger.engine.engine import Engine
from ledger.engine.keeper import HistoryKeeper
from ledger.engine.ports import Answers, Runner
from ledger.facts import limits
from ledger.facts.errors import LedgerStopped
from ledger.history.segments import History
from ledger.journal.group import Header
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal


@dataclass
class Parts:
    """What an engine is built from. Whoever opened them closes them."""

    core: _core.Core
    buffers: Answers
    journal: Journal
    checkpoint: Checkpoint | None
    clock: Clock
    history: History
    keeper: HistoryKeeper
    warnings: list[str] = field(default_factory=list)

    def engine(
        self, runner: Runner, on_stopped: Callable[[LedgerStopped], None] | None = None
    ) -> Engine:
        """An engine of these parts, with the failpoint that the environment sets."""
        return Engine(
            self.core,
            self.buffers,
            self.journal,
            self.clock,
            runner,
            stamp=self.checkpoint,
            keeper=self.keeper,
            failpoint=failpoint(),
            on_stopped=on_stopped,
        )

    def close(self) -> None:
        self.keeper.release()
        self.history.close()
        if self.checkpoint is not None:
            self.checkpoint.close()
        self.journal.close()


def new_core(window_events: int = 0) -> tuple[_core.Core, Answers]:
    """An empty state machine and the buffers it answers to; window_events as Core has it."""
    buffers = Answers()
    core = _core.Core(
        limits.GROUP_BYTES_MAX,
        limits.SESSIONS_MAX,
        os.urandom(16),
        buffers.records,
        buffers.payload,
        buffers.counts,
        window_events,
    )
    return core, buffers


def replay_group(core: _core.Core, header: Header, body: Any) -> list[int]:
    """Apply a group to a core that has those before; its counts of records by kind.

    DataRefused names the first record that is wrong.
    """
    return core.replay(
        body,
        header.group,
        header.position_first,
        header.position_count,
        header.clock_before,
        header.clock_after,
    )


def forget_window(core: _core.Core) -> None:
    """After a replayed group, for who reads a journal once: keep no more than a window."""
    if core.memtable_full:
        core.rotate()
        core.evict()
