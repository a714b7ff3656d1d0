"""The sealed past: column files in DIR/state that say where records lie in the journal.

Two kinds of files, each written under a temporary name, synced and renamed, which is its commit:
segment-<first group>-<last group>, the index of the transfers of these groups, and
checkpoint-<group>, what is needed to go on from the end of a group; numbers are 16 hex digits.
There is no manifest: the folder is read, a segment inside a larger one is the leftover of a merge,
and what is sealed is what segments cover from group 1 without a gap. All of it is derived from the
journal: a file that is damaged is removed and built again, but files that are not of this journal
are refused, because then nobody knows what to trust.

One thread at a time seals, one merges and one writes a checkpoint, beside each other; what only
reads may be called from any. This file knows columns and groups, and nothing of accounts or of when
to seal.

The weak spot: ids are found by a keyed hash whose key is derived from the digest of group 1, so
that every start makes the same files. Who knows that digest can choose ids that share a hash:
finding one of them is slower then, never wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.base.files import sync
from ledger.facts.errors import ColumnDamaged, DataRefused
from ledger.history import _columns
from ledger.history._columns import ColumnFile
from ledger.history.checkpoints import CheckpointWriter, newest
from ledger.history.lookup import Resolved, Sealed, Wanted, resolve
from ledger.history.new_file import CREATING, DAMAGED, NewFile, errors_of, file_name, paths
from ledger.journal.group import End
from ledger.journal.ports import JournalReader, refuse_another

__all__ = ["History", "Resolved", "Wanted", "drop"]

MERGED_AT_ONCE = 8  # adjacent segments of as many windows each
assert 2 <= MERGED_AT_ONCE <= _columns.MERGE_MAX, "they are merged in one pass"
CHUNK_BYTES = 1 << 20
COLUMNS = (  # of a segment
    _columns.IDS,
    _columns.RESOLUTIONS,
    _columns.ROWS,
    _columns.BALANCES,
    _columns.BLOCKS,
    _columns.PANELS,
)


class History:
    """The column files of one book, open under the journal's lock.

    `warnings` says what was removed at the start. `hash_key` is the key of the column of ids, 16
    bytes. Writing raises OSError when the disk does not take it: what was there stays.
    """

    def __init__(self, directory: Path, journal: JournalReader) -> None:
        """Open the files in DIR/state, and remove those that are of no use any more.

        DataRefused for files that are not of this journal, or of more than it holds;
        DirectoryNotWritable, or LedgerStopped for an I/O error.
        """
        self.directory = directory.resolve()
        self.warnings: list[str] = []
        self._path = self.directory / "state"
        self._cluster = journal.cluster
        self._journal = journal
        first_digest = journal.end_of(1)[1]
        self.hash_key = hashlib.sha256(b"ledger index key" + first_digest).digest()[:16]
        self.checkpoint: ColumnFile | None = None
        # By name; each step of whoever changes it is one call, so readers need no lock.
        self._segments: dict[str, ColumnFile] = {}
        self._written = 0  # the last group of the last segment that was written
        with errors_of(self._path):
            self._open()

    # ---- at the start ---------------------------------------------------------------------------

    def _open(self) -> None:
        useless: list[Path] = []
        checkpoints: list[ColumnFile] = []
        # Whoever made the files may have been killed before their names were durable.
        sync(self._path)
        for path in paths(self._path):
            if path.name.endswith(DAMAGED):
                continue
            file = self._open_one(path)
            if file is None:
                useless.append(path)
            elif file.kind == _columns.SEGMENT:
                self._segments[path.name] = file
            else:
                checkpoints.append(file)
        for file in (*self._segments.values(), *checkpoints):
            self._check_identity(file)
        useless += self._drop_uncovered()
        self.checkpoint, older, ahead = newest(checkpoints, self.group)
        for file in ahead:
            self._warn(Path(file.path), "the segments before it are not all there")
        useless += [Path(file.path) for file in (*older, *ahead)]
        for path in useless:
            path.unlink()

    def _open_one(self, path: Path) -> ColumnFile | None:
        """The file, or None when it is of no use."""
        if path.name.endswith(CREATING):
            return None
        try:
            file = ColumnFile(str(path))
        except DataRefused as error:
            self._warn(path, str(error))
            return None
        if path.name != file_name(file.kind, file.group_first, file.group_last):
            self._warn(path, "it has another's name")
            file.close()
            return None
        return file

    def _check_identity(self, file: ColumnFile) -> None:
        """Refuse what was not written for this journal, or for more of it than is left."""
        way = (
            f"find the right one, or let `ledger rebuild {self.directory}` make all that is derived"
            " from this journal (with --trust-journal when the head stamp is refused, too)"
        )
        said = End(file.group_last, file.position_last, 0, file.digest)
        name = Path(file.path).name
        untold = refuse_another(self._journal, file.cluster, said, name, file.path, way)
        if untold is not None:
            self.warnings.append(untold)

    def _drop_uncovered(self) -> list[Path]:
        """Forget the segments that are inside others or behind a gap, and say which they are."""
        used = self.segments
        ends = used[-1].group_last if used else 0
        dropped = []
        for name, file in list(self._segments.items()):
            if file in used:
                continue
            if file.group_last > ends:
                self._warn(Path(file.path), f"nothing covers the groups after {ends}")
            dropped.append(Path(file.path))
            del self._segments[name]
        return dropped

    def _warn(self, path: Path, why: str) -> None:
        self.warnings.append(f"{path} is removed and will be built again: {why}")

    # ---- what is there --------------------------------------------------------------------------

    @property
    def segments(self) -> tuple[ColumnFile, ...]:
        """The segments in order: each begins where the one before it ends."""
        used: list[ColumnFile] = []
        end = 0
        files = list(self._segments.values())
        for file in sorted(files, key=lambda file: (file.group_first, -file.group_last)):
            if file.group_first == end + 1:
                used.append(file)
                end = file.group_last
        return tuple(used)

    @property
    def group(self) -> int:
        """The last group that segments cover; 0 for none."""
        segments = self.segments
        return segments[-1].group_last if segments else 0

    def covers(self, group_last: int) -> bool:
        """Whether a window that ends with this group is sealed already."""
        return group_last <= self.group

    @property
    def id_count(self) -> int:
        """Ids in all segments, burned ones too."""
        return sum(segment.count(_columns.IDS) for segment in self.segments)

    def hashes(self) -> Iterator[NDArray[np.uint64]]:
        """The hashes of all ids of all segments, checked as they are read, some at a time."""
        for segment in self.segments:
            for first, end in _chunks(segment, _columns.IDS):
                yield segment.keys(_columns.IDS, first, end)

    def resolve(self, wanted: Wanted) -> Resolved:
        """What the sealed past says of `wanted`; see lookup.py. From any thread."""
        return resolve(Sealed(self.segments, self._journal, self.hash_key), wanted)

    # ---- writing --------------------------------------------------------------------------------

    def seal(
        self,
        columns: Mapping[int, NDArray[Any]],
        group_first: int,
        group_last: int,
        position_last: int,
        digest: bytes,
    ) -> None:
        """Write a window as the next segment, which is visible when this returns; see write()."""
        self.add(self.write(columns, group_first, group_last, position_last, digest))

    def write(
        self,
        columns: Mapping[int, NDArray[Any]],
        group_first: int,
        group_last: int,
        position_last: int,
        digest: bytes,
    ) -> ColumnFile:
        """Write a window as the next segment, which is durable when this returns, and no more.

        columns: by column number, rows of uint64 or bytes, C-contiguous; what is not in the order
        of its keys is put in order, in place where that can be. position_last and digest are those
        of group_last, which must be durable. ValueError when it does not follow the last one that
        was written. Whoever still has the window in memory calls add() when it drops it: who found
        a transfer in both would find it twice.
        """
        before = max(self.group, self._written)
        if group_first != before + 1:
            raise ValueError(f"groups from {group_first} do not follow group {before}")
        with self._new_file(
            _columns.SEGMENT, group_first, group_last, position_last, digest, 1
        ) as new:
            for column, records in sorted(columns.items()):
                new.writer.column(column, _columns.RECORD_BYTES[column])
                new.writer.append(_by_key(column, records))
            segment = new.commit()
        self._written = group_last
        return segment

    def merge(self) -> bool:
        """Merge the oldest adjacent segments that are due; False when none are."""
        inputs = _due(self.segments)
        if not inputs:
            return False
        first, last = inputs[0].group_first, inputs[-1]
        windows = sum(file.windows for file in inputs)
        with self._new_file(
            _columns.SEGMENT, first, last.group_last, last.position_last, last.digest, windows
        ) as new:
            for column in COLUMNS:
                _columns.merge(inputs, new.writer, column)
            self.add(new.commit())
        for file in inputs:  # not closed: somebody may be reading them
            path = Path(file.path)
            del self._segments[path.name]
            path.unlink(missing_ok=True)
        return True

    def _new_file(
        self,
        kind: int,
        group_first: int,
        group_last: int,
        position_last: int,
        digest: bytes,
        windows: int = 0,
    ) -> NewFile:
        return NewFile(
            self._path,
            kind=kind,
            cluster=self._cluster,
            group_first=group_first,
            group_last=group_last,
            position_last=position_last,
            digest=digest,
            windows=windows,
        )

    def add(self, segment: ColumnFile) -> None:
        """Make a segment that write() gave visible."""
        self._segments[Path(segment.path).name] = segment

    def checkpoint_writer(self, group: int, position: int, digest: bytes) -> CheckpointWriter:
        """Begin the checkpoint of the end of a group that segments cover; else ValueError."""
        if group > self.group:
            raise ValueError(f"no checkpoint of group {group}: segments end with {self.group}")
        new = self._new_file(_columns.CHECKPOINT, group, group, position, digest)
        return CheckpointWriter(new, self._replace_checkpoint)

    def _replace_checkpoint(self, file: ColumnFile) -> None:
        older, self.checkpoint = self.checkpoint, file
        if older is not None and older.path != file.path:
            Path(older.path).unlink(missing_ok=True)

    # ---- looking after it -----------------------------------------------------------------------

    def damaged(self, error: ColumnDamaged) -> None:
        """Put the file that `error` names out of the way, so that the next start builds it again.

        One such file is kept, to be looked at. A segment stays in use until then: without it the
        past would have a hole.
        """
        path = Path(error.path)
        if self.checkpoint is not None and error.path == self.checkpoint.path:
            self.checkpoint = None
        for older in self._path.glob(f"*{DAMAGED}"):
            older.unlink()
        with contextlib.suppress(FileNotFoundError):  # merged meanwhile
            path.rename(path.with_name(path.name + DAMAGED))
        sync(self._path)

    def verify(self) -> Iterator[tuple[Path, int]]:
        """Read every page of every file; each file and its bytes when all of it was read.

        ColumnDamaged names the first page that is not as it was written.
        """
        checkpoints = [] if self.checkpoint is None else [self.checkpoint]
        for file in (*self.segments, *checkpoints):
            file.verify()
            yield Path(file.path), file.bytes

    def digest(self) -> bytes:
        """SHA-256 of what all segments together say, 32 bytes; the same however they are merged."""
        segments = self.segments
        result = hashlib.sha256()
        for column in COLUMNS:
            count = sum(segment.count(column) for segment in segments)
            result.update(np.array([column, count], "<u8").tobytes())
            for records in _in_order(segments, column):
                result.update(records.data)
        return result.digest()

    def close(self) -> None:
        """Close all files. Nobody may be reading."""
        for file in self._segments.values():
            file.close()
        if self.checkpoint is not None:
            self.checkpoint.close()


def drop(directory: Path) -> None:
    """Remove all column files of a book whose lock the caller holds.

    DirectoryNotWritable, or LedgerStopped for an I/O error.
    """
    path = directory.resolve() / "state"
    with errors_of(path):
        for file in paths(path):
            file.unlink()


# ---- files and columns --------------------------------------------------------------------------


def _by_key(column: int, records: NDArray[Any]) -> NDArray[Any]:
    """The records in the order of their keys and values; blocks and panels come in it."""
    if column in (_columns.BLOCKS, _columns.PANELS) or len(records) == 0:
        return records
    rows: NDArray[np.uint64] = records.view(np.uint64)
    if rows.shape[1] == 2:
        _columns.sort_pairs(rows)
        return rows
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def _due(segments: Sequence[ColumnFile]) -> Sequence[ColumnFile]:
    """The oldest adjacent segments that are to be merged now; none when none are."""
    for first in range(len(segments) - MERGED_AT_ONCE + 1):
        some = segments[first : first + MERGED_AT_ONCE]
        if len({segment.windows for segment in some}) == 1:
            return some
    return ()


def _chunks(file: ColumnFile, column: int) -> Iterator[tuple[int, int]]:
    """The records of a column as [first, end), CHUNK_BYTES at a time."""
    count, size = file.count(column), max(1, CHUNK_BYTES // _columns.RECORD_BYTES[column])
    return ((first, min(count, first + size)) for first in range(0, count, size))


def _in_order(files: Sequence[ColumnFile], column: int) -> Iterator[NDArray[np.uint64]]:
    """All records of a column of all files by key and value, some at a time, as rows of uint64."""
    chunks = [_chunks(file, column) for file in files]
    read: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)] * len(files)
    while True:
        for place, file in enumerate(files):
            if len(read[place]) == 0 and (chunk := next(chunks[place], None)) is not None:
                read[place] = file.records(column, *chunk).view(np.uint64)
        ends = [(int(rows[-1, 0]), int(rows[-1, 1])) for rows in read if len(rows)]
        if not ends:
            return
        # All that is not after the first of the ends has been read.
        key, value = min(ends)
        taken = []
        for place, rows in enumerate(read):
            before = (rows[:, 0] < key) | ((rows[:, 0] == key) & (rows[:, 1] <= value))
            count = int(np.count_nonzero(before))
            taken.append(rows[:count])
            read[place] = rows[count:]
        together = np.concatenate([rows for rows in taken if len(rows)])
        yield together[np.lexsort((together[:, 1], together[:, 0]))]
