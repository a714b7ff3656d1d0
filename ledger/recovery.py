"""Order: a book is brought back: created when new, verified and replayed when not.

What comes out are the parts an engine is built from, in the state the journal ends with. Recovery
judges nothing again: it checks (blocks, digest chain, the head stamp) and applies effects. Kill it
at any point and it can be run again: it writes nothing but a new book's first group. It knows no
thread, loop or socket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from ledger import _core, config
from ledger.checkpoint import Checkpoint
from ledger.clock import Clock
from ledger.engine import Answers, Engine, Runner
from ledger.errors import DataRefused, LedgerStopped
from ledger.failpoint import failpoint
from ledger.group import Group
from ledger.journal import Journal

Progress = Callable[[int, int], None]  # groups done, groups in all


@dataclass
class Parts:
    """What an engine is built from. Whoever opened them closes them."""

    core: _core.Core
    buffers: Answers
    journal: Journal
    checkpoint: Checkpoint | None
    clock: Clock
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
            failpoint=failpoint(),
            on_stopped=on_stopped,
        )

    def close(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.close()
        self.journal.close()


def new_core() -> tuple[_core.Core, Answers]:
    """An empty state machine and the buffers it answers to."""
    buffers = Answers()
    core = _core.Core(
        config.GROUP_BYTES_MAX,
        config.SESSIONS_MAX,
        os.urandom(16),
        buffers.answers,
        buffers.payload,
        buffers.counts,
    )
    return core, buffers


def create(directory: Path, cluster: int) -> None:
    """Make a new book: its first group holds one start record. Errors as Journal.create."""
    core, _ = new_core()
    now_ns = time.time_ns()
    core.start(now_ns, now_ns, config.RELEASE)
    fields, body = core.take_group()
    del fields["group"]
    Journal.create(directory, cluster, Group(body, **fields))


def replay(journal: Journal, core: _core.Core, progress: Progress | None = None) -> None:
    """Apply every group of the journal to an empty core; DataRefused names the first wrong one."""
    for header, body in journal.read(chain=True):
        core.replay(
            body,
            header.group,
            header.position_first,
            header.position_count,
            header.clock_before,
            header.clock_after,
        )
        if progress is not None:
            progress(header.group, journal.group)


def recover(
    directory: Path,
    cluster: int | None = None,
    *,
    digest_executor: Executor | None = None,
    accept_clock: bool = False,
    progress: Progress | None = None,
) -> Parts:
    """Open the book in `directory`, making it when there is none, and bring its state back.

    cluster: the book's id; None takes what is there, or 0 for a new one. DataRefused,
    DirectoryInUse, DirectoryNotWritable, ClockRefused, LedgerStopped as the parts raise them.
    """
    is_new = not Journal.exists(directory)
    if is_new:
        create(directory, cluster or 0)
    journal = Journal.open(directory, cluster, digest_executor=digest_executor)
    checkpoint = None
    try:
        checkpoint = Checkpoint(directory)
        if is_new:
            checkpoint.write(journal.cluster, journal.group, journal.position, journal.digest())
        core, buffers = new_core()
        parts = Parts(core, buffers, journal, checkpoint, Clock())
        for warning in (checkpoint.verify_against(journal), room_warning(journal)):
            if warning is not None:
                parts.warnings.append(warning)
        replay(journal, core, progress)
        if core.position != journal.position:
            raise DataRefused(
                f"{directory}: replay ends at position {core.position}, the journal at"
                f" {journal.position}"
            )
        warning = parts.clock.check_start(core.clock_ns, accept_clock)
        if warning is not None:
            parts.warnings.append(warning)
    except BaseException:
        if checkpoint is not None:
            checkpoint.close()
        journal.close()
        raise
    return parts


def room_warning(journal: Journal) -> str | None:
    room = journal.room()
    if room.warn_percent:
        return f"{journal.directory}: {room.used_percent}% of the disk is used"
    return None
