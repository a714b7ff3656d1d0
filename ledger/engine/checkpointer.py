"""Checkpoints: the state at the end of a group, copied in small steps beside the work.

A snapshot keeps the numbers, sessions and starts of one moment; accounts and holds are copied from
the core a little at a time, and written on a lane. A checkpoint becomes valid when all before it
is flushed; a crash anywhere loses only what is done again. This file knows neither how a file of
columns is laid out nor when a memtable is full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ledger import _core
from ledger.engine.background import Background, no_space, of_the_journal
from ledger.facts import limits
from ledger.facts.errors import DataRefused
from ledger.history import _columns
from ledger.history.checkpoints import CheckpointWriter
from ledger.history.segments import History
from ledger.journal.ports import Ends


class Snapshot:
    """A checkpoint under way: what is few is copied at once, the rest later."""

    def __init__(self, few: dict[int, npt.NDArray[np.uint8]], numbers: dict[str, Any]) -> None:
        self.few, self.numbers = few, numbers
        self.group = int(numbers["group"])
        self.column = 0
        self.writer: CheckpointWriter | None = None
        self.buffer = np.empty(limits.CHECKPOINT_STEP_BYTES, np.uint8)

    def begin(self, history: History, ends: Ends) -> CheckpointWriter:
        if self.writer is None:
            self.writer = history.checkpoint_writer(self.group, *ends.end_of(self.group))
        return self.writer

    def write(self, history: History, ends: Ends, column: int, count: int) -> None:
        """Write what was copied; all is written when nothing was."""
        writer = self.begin(history, ends)
        if column == 0:
            for one, records in self.few.items():
                writer.column(one, _columns.RECORD_BYTES[one])
                writer.append(records)
            writer.commit(encode_numbers(self.numbers))
            return
        if column != self.column:
            writer.column(column, _columns.RECORD_BYTES[column])
            self.column = column
        writer.append(self.buffer[: count * _columns.RECORD_BYTES[column]])


class Checkpointer:
    """Writes the checkpoints of one core."""

    def __init__(
        self, core: _core.Core, history: History, ends: Ends, background: Background
    ) -> None:
        self._core, self._history, self._ends = core, history, ends
        self._background = background
        self._snapshot: Snapshot | None = None
        self._copying = False
        self._memtables_since = 0  # rotated since the last checkpoint

    def rotated(self) -> None:
        """A memtable was rotated: the moment at which a checkpoint may begin."""
        self._memtables_since += 1
        if self._snapshot is None and self._due():
            self._snapshot = self._open()

    def replayed(self, flushed: bool) -> None:
        """While a journal is replayed, a memtable was rotated: write a whole checkpoint when one is
        due, and all before it is `flushed`."""
        self._memtables_since += 1
        if not flushed or not self._due():
            return
        snapshot = self._open()
        column = -1
        while column:
            column, count = self._core.copy_snapshot(snapshot.buffer)
            snapshot.write(self._history, self._ends, column, count)

    def _due(self) -> bool:
        """Whether what was journaled since the last checkpoint is worth the cost of another."""
        if self._memtables_since < limits.CHECKPOINT_WINDOWS_MIN:
            return False
        counts, bytes_of = self._core.counts_by_kind, _columns.RECORD_BYTES
        size = (
            bytes_of[_columns.ACCOUNTS] * counts["accounts"]
            + bytes_of[_columns.HOLDS] * counts["open_holds"]
            + bytes_of[_columns.SESSIONS] * counts["sessions"]
        )
        return bool(size <= self._memtables_since * limits.CHECKPOINT_BYTES_A_WINDOW)

    def _open(self) -> Snapshot:
        self._memtables_since = 0
        return Snapshot(*self._core.open_snapshot())

    def copy_some(self, copied: Callable[[], None]) -> None:
        """Copy a little of the snapshot here and write it on its lane, when it may be written;
        then `copied` is called."""
        snapshot = self._snapshot
        if self._copying or snapshot is None or self._history.group < snapshot.group:
            return
        self._copying = True
        column, count = self._core.copy_snapshot(snapshot.buffer)

        def written(error: BaseException | None) -> None:
            self._copying = False
            if no_space(error) or of_the_journal(error):
                self._abandon()
            elif not self._background.failed(error):
                if column == 0:
                    self._snapshot = None
                copied()

        self._background.run(
            "checkpoint",
            lambda: snapshot.write(self._history, self._ends, column, count),
            written,
        )

    def _abandon(self) -> None:
        """This checkpoint finds no space, or its group is damaged: the one before is as good."""
        snapshot, self._snapshot = self._snapshot, None
        assert snapshot is not None
        if snapshot.writer is not None:
            snapshot.writer.abandon()
        self._core.close_snapshot()


def encode_numbers(numbers: dict[str, Any]) -> bytes:
    """The numbers of a snapshot as the facts of its checkpoint."""
    return msgspec.json.encode(numbers)


def decode_numbers(facts: bytes) -> dict[str, Any]:
    """DataRefused when they are not what encode_numbers gives."""
    try:
        numbers = msgspec.json.decode(facts, type=_Numbers)
    except msgspec.MsgspecError as error:
        raise DataRefused(f"the facts of the checkpoint are damaged: {error}") from error
    return msgspec.structs.asdict(numbers)


class _Numbers(msgspec.Struct):
    group: int
    position: int
    clock: int
    account_timestamp_max: int
    transfer_timestamp_max: int
    transfer_count: int
    burned_count: int
    burned_hash: bytes
