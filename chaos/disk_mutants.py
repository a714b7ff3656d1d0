"""The disk tier: faults of a ledger that the tier must find, put into a life before it begins.

Each is the smallest change that makes the ledger promise what a power cut can take back. Nothing
here runs but when a mutant is asked for by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lmdb
import numpy as np

from ledger.base import files
from ledger.engine.engine import Engine
from ledger.facts.limits import GROUP_VALUE_BYTES_MAX
from ledger.history import new_file, segments
from ledger.history._columns import ColumnFile
from ledger.history.checkpoints import CheckpointWriter
from ledger.journal import creation, journal
from ledger.journal.group import Group, digest_group, write_group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal


def _nothing(*arguments: object, **named: object) -> None:
    """What a mutant does instead."""


def _lmdb_with(**changed: bool) -> None:
    real = lmdb.open

    def opened(*arguments: Any, **named: Any) -> Any:
        return real(*arguments, **(named | changed))

    cast(Any, lmdb).open = opened


def _no_sync() -> None:
    _lmdb_with(sync=False)


def _no_metasync() -> None:
    _lmdb_with(metasync=False)


def _no_sync_at_start() -> None:
    cast(Any, journal)._reach_disk = _nothing


def _stamp_ahead() -> None:
    opened: dict[Path, Checkpoint] = {}
    real_init, real_append = Checkpoint.__init__, Journal.append

    def init(self: Checkpoint, directory: Path) -> None:
        real_init(self, directory)
        opened[self.directory] = self

    def append(self: Journal, expected_position: int, group: Group) -> int:
        number, last = self.group + 1, self.position + group.position_count
        value = np.zeros(GROUP_VALUE_BYTES_MAX, np.uint8)
        header, body, _ = write_group(value, self.cluster, number, self.digest(), group)
        opened[self.directory].write(self.cluster, number, last, digest_group(header, body))
        return real_append(self, expected_position, group)

    Checkpoint.__init__ = init  # type: ignore[method-assign]
    Journal.append = append  # type: ignore[method-assign]


def _create_in_place() -> None:
    def create(directory: Path, cluster: int, group: Group) -> None:
        directory.mkdir(0o700)
        creation._write_first(directory, cluster, group)
        files.sync(directory)
        files.sync(directory.parent)

    creation._create = create


def _create_unsynced() -> None:
    real = creation._create

    def create(directory: Path, cluster: int, group: Group) -> None:
        fsync = os.fsync
        os.fsync = _nothing
        try:
            real(directory, cluster, group)
        finally:
            os.fsync = fsync

    creation._create = create


def _acknowledge_early() -> None:
    real = Engine._append

    def append(self: Engine) -> None:
        for submitter, taken, _ in self._waits.get(self.core.group, []):
            submitter.deliver(taken)
        real(self)

    Engine._append = append  # type: ignore[method-assign]


def _name_before_sync() -> None:
    def commit(self: Any, facts: bytes = b"") -> Any:
        self._temporary.rename(self._path)
        self.writer.finish(facts)
        files.sync(self._path.parent)
        return ColumnFile(str(self._path))

    new_file.NewFile.commit = commit  # type: ignore[method-assign]


def _no_folder_sync() -> None:
    cast(Any, segments).sync = cast(Any, new_file).sync = _nothing


def _unlink_before_merge() -> None:
    real = segments.History.merge

    def merge(self: segments.History) -> bool:
        for file in segments._due(self.segments):
            Path(file.path).unlink()
        return real(self)

    segments.History.merge = merge  # type: ignore[method-assign]


def _drop_older_checkpoint_first() -> None:
    real = CheckpointWriter.commit

    def commit(self: CheckpointWriter, facts: bytes) -> None:
        older = cast(Any, self._replace).__self__.checkpoint
        if older is not None:
            Path(older.path).unlink()
        real(self, facts)

    CheckpointWriter.commit = commit  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "the journal is opened with sync=False": _no_sync,
    "the journal is opened with metasync=False": _no_metasync,
    "no sync at start": _no_sync_at_start,
    "the head is stamped before the group is durable": _stamp_ahead,
    "a book is created in its place": _create_in_place,
    "a book is created without syncs": _create_unsynced,
    "acknowledged before the append": _acknowledge_early,
    "a column file has its name before it is synced": _name_before_sync,
    "a folder of column files is not synced": _no_folder_sync,
    "a merge removes what it merges first": _unlink_before_merge,
    "a checkpoint removes the one before it first": _drop_older_checkpoint_first,
}


# A disk that lies cannot be survived by one machine; the tier must show the loss all the same.
LYING_DISK = "the disk says it has synced and has not"


def rule(name: str, rule: str) -> str:
    """The rule of a life that has `rule`, when it is the mutant's."""
    return "sync 0 lie" if name == LYING_DISK else rule


def apply(name: str) -> None:
    """Make this process the mutant of that name; none when it is empty. KeyError for no mutant."""
    if name not in ("", LYING_DISK):
        MUTANTS[name]()
