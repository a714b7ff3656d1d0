"""A book is brought back: created when new, verified and replayed when not.

What comes out are the parts an engine is built from, in the state the journal ends with: the newest
checkpoint put back and the groups after it replayed. Recovery judges nothing again: it checks
(blocks, digest chain, the head stamp) and applies effects; derived data that is damaged or missing
is made again from the journal, never used. Kill it at any point and it can be run again: it writes
nothing but a new book's first group and what is derived. It knows no loop or socket, and of threads
only one that reads ahead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger import _core
from ledger.base import files
from ledger.base.worker import Worker
from ledger.engine.assembly import Parts, new_core, replay_group
from ledger.engine.checkpointer import decode_numbers
from ledger.engine.clock import Clock
from ledger.engine.keeper import HistoryKeeper
from ledger.engine.memtables import WindowsDiffer
from ledger.engine.ports import Answers
from ledger.facts import limits
from ledger.facts.errors import (
    ColumnDamaged,
    DataRefused,
    DirectoryNotWritable,
    DiskFull,
)
from ledger.history import _columns
from ledger.history._columns import ColumnFile
from ledger.history.segments import History, drop
from ledger.journal.group import Group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal

Progress = Callable[[int, int], None]  # groups done, groups in all; what it raises ends the work


def start_id() -> int:
    """An id for one start of a book, which no start of any copy of it has."""
    return int.from_bytes(os.urandom(8), "little")


def create(directory: Path, cluster: int) -> None:
    """Make a new book: its first group holds one start record. Errors as Journal.create."""
    core, _ = new_core()
    now_ns = time.time_ns()
    core.start(now_ns, now_ns, limits.RELEASE, start_id())
    fields, body = core.take_group()
    del fields["group"]
    Journal.create(directory, cluster, Group(body, **fields))


def replay(
    journal: Journal,
    core: _core.Core,
    progress: Progress | None = None,
    from_group: int = 1,
    after_group: Callable[[], None] | None = None,
) -> None:
    """Apply the groups of the journal from `from_group` on to a core that has those before.

    after_group is called after each. DataRefused names the first wrong group.
    """
    for header, body in journal.read(from_group, chain=True):
        replay_group(core, header, body)
        if after_group is not None:
            after_group()
        if progress is not None:
            progress(header.group, journal.group)


def restore(
    history: History, core: _core.Core, go_on: Callable[[], None] = lambda: None
) -> int:
    """Put the newest checkpoint back; the group it was taken after, 0 when there is none.

    go_on is called again and again, and may raise. ColumnDamaged when the checkpoint is damaged.
    """
    checkpoint = history.checkpoint
    core.filter_expect(history.id_count)
    for hashes in _ahead(history.hashes()):
        core.filter_insert(hashes)
        go_on()
    if checkpoint is None:
        return 0
    if checkpoint.count(_columns.STARTS) == 0:
        raise ColumnDamaged(checkpoint.path, "it is of software that kept no starts")
    some, every = limits.CHECKPOINT_STEP_BYTES // 128, limits.SESSIONS_MAX
    # Sessions are put in the order of their last requests, which takes all of them at once.
    for column, step in (
        (_columns.STARTS, every),
        (_columns.ACCOUNTS, some),
        (_columns.HOLDS, some),
        (_columns.SESSIONS, every),
    ):
        for records in _ahead(_records(checkpoint, column, step)):
            core.restore(column, records)
            go_on()
    core.restore_numbers(decode_numbers(checkpoint.facts))
    return checkpoint.group_last


def _records(file: ColumnFile, column: int, step: int) -> Iterator[NDArray[np.uint8]]:
    """The records of a column, `step` at a time."""
    count = file.count(column)
    for first in range(0, count, step):
        yield file.records(column, first, min(count, first + step))


def _ahead(items: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The items; each is read in another thread while the one before is used."""
    with Worker("ledger-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def bring_back(
    directory: Path,
    journal: Journal,
    make_core: Callable[[], tuple[_core.Core, Answers]],
    progress: Progress | None = None,
) -> tuple[_core.Core, Answers, History, HistoryKeeper]:
    """The state that the journal ends with, in a core of `make_core`, and its sealed past.

    What is derived and damaged is removed, and made again while all is replayed; the warnings of
    the history say so.
    """
    warnings: list[str] = []

    def begun() -> None:
        if progress is not None:
            progress(0, journal.group)

    while True:
        history = History(directory, journal)
        history.warnings[:0] = warnings
        try:
            core, buffers = make_core()
            keeper = HistoryKeeper(core, history, journal)
            from_group = restore(history, core, begun) + 1
            replay(journal, core, progress, from_group, keeper.replayed)
            keeper.check_replayed()
            return core, buffers, history, keeper
        except ColumnDamaged as error:
            history.damaged(error)
            history.close()
            warnings = [*history.warnings, f"{error}: it is put aside and will be built again"]
        except WindowsDiffer as error:
            history.close()
            drop(directory)
            warnings = [*history.warnings, f"all that is derived will be built again: {error}"]
        except BaseException:
            history.close()
            raise


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
    DiskFull when there is not even space for a start.
    """
    try:
        is_new = not Journal.exists(directory)
    except OSError as error:
        raise DirectoryNotWritable(f"cannot reach {directory}: {error.strerror}") from error
    if is_new:
        is_new = _create(directory, cluster or 0)
    journal = Journal.open(directory, cluster, digest_executor=digest_executor)
    checkpoint = history = None
    try:
        if (shut := journal.room().shut) is not None:
            raise DiskFull(shut)
        checkpoint = Checkpoint(directory)
        if is_new:
            checkpoint.write(journal.cluster, journal.group, journal.position, journal.digest())
        warnings = [journal.warning, checkpoint.warning, files.open_to_all(directory)]
        warnings += [checkpoint.verify_against(journal), room_warning(journal)]
        core, buffers, history, keeper = bring_back(
            directory, journal, lambda: new_core(limits.WINDOW_EVENTS), progress
        )
        parts = Parts(core, buffers, journal, checkpoint, Clock(), history, keeper)
        parts.warnings += [warning for warning in warnings if warning is not None]
        parts.warnings += history.warnings
        if core.position != journal.position:
            raise DataRefused(
                f"{directory}: replay ends at position {core.position}, the journal at"
                f" {journal.position}"
            )
        warning = parts.clock.check_start(core.clock_ns, accept_clock)
        if warning is not None:
            parts.warnings.append(warning)
    except BaseException:
        if history is not None:
            history.close()
        if checkpoint is not None:
            checkpoint.close()
        journal.close()
        raise
    return parts


def _create(directory: Path, cluster: int) -> bool:
    """Make a book; False when another process was first, whose book is there now."""
    try:
        create(directory, cluster)
    except DataRefused:
        if Journal.exists(directory):
            return False
        raise
    return True


def room_warning(journal: Journal) -> str | None:
    room = journal.room()
    if room.warn_percent:
        return f"{journal.directory}: {room.used_percent}% of the disk is used"
    return None


@dataclass
class Rebuilt:
    """What is derived from a journal, made anew: how much of it, and hashes that name it."""

    position: int
    segments: int
    history_hash: str  # History.digest: the same for every way to come by it
    state_hash: str


def rebuild(directory: Path, progress: Progress | None = None) -> Rebuilt:
    """Drop all that is derived from the journal in `directory`, and make it anew from there.

    Errors as recover's; what was derived is gone then, and the next start makes it.
    """
    with Journal.open(directory) as journal, Checkpoint(directory) as checkpoint:
        checkpoint.verify_against(journal)
        drop(directory)
        core, _, history, _ = bring_back(
            directory, journal, lambda: new_core(limits.WINDOW_EVENTS), progress
        )
        try:
            while history.merge():
                pass
            return Rebuilt(
                journal.position,
                len(history.segments),
                history.digest().hex(),
                core.state_hash().hex(),
            )
        finally:
            history.close()
