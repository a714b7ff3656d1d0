"""Checkpoints: what is needed to go on from the end of a group, as a column file.

A checkpoint is written column by column and becomes the book's own at its commit. At a start the
newest one that segments cover is used. This file does not know what the columns hold or when a
checkpoint is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ledger.history._columns import ColumnFile
from ledger.history.new_file import NewFile


def newest(
    checkpoints: Iterable[ColumnFile], group: int
) -> tuple[ColumnFile | None, list[ColumnFile], list[ColumnFile]]:
    """The newest checkpoint that segments up to `group` cover, those older than it, and those that
    are not covered."""
    ordered = sorted(checkpoints, key=lambda file: file.group_last)
    covered = [file for file in ordered if file.group_last <= group]
    ahead = [file for file in ordered if file.group_last > group]
    return (covered[-1] if covered else None), covered[:-1], ahead


class CheckpointWriter:
    """A checkpoint while it is written: columns one after the other, then commit or abandon."""

    def __init__(self, new: NewFile, replace: Callable[[ColumnFile], None]) -> None:
        """`replace` makes the durable file the checkpoint of the book; older ones go."""
        self._new, self._replace = new, replace

    def column(self, column: int, record_bytes: int) -> None:
        """Begin a column, which ends the one before."""
        self._new.writer.column(column, record_bytes)

    def append(self, records: Any) -> None:
        """Whole records, C-contiguous, any number of times a column."""
        self._new.writer.append(records)

    def commit(self, facts: bytes) -> None:
        """Make it the checkpoint of the book, durable when this returns; older ones go."""
        with self._new as new:
            self._replace(new.commit(facts))

    def abandon(self) -> None:
        """Leave nothing of it."""
        self._new.abandon()
