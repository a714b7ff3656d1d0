"""A column file that is written, and the names of column files in DIR/state.

A file is written under a temporary name, synced and renamed, which is its commit. Names say which
groups a file is of. This file knows no journal and not what the columns hold.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from ledger.base.files import occupy_standard_descriptors, sync
from ledger.facts.errors import DirectoryNotWritable, LedgerStopped
from ledger.history import _columns
from ledger.history._columns import ColumnFile, ColumnWriter

CREATING = ".creating"  # at the end of the name of a file that is written
DAMAGED = ".damaged"  # and of one that was put out of the way
_OURS = re.compile(r"\.?(segment|checkpoint)-.*")


class NewFile:
    """A column file under its temporary name: it gets its own at `commit`, or is removed."""

    def __init__(self, folder: Path, **header: Any) -> None:
        name = file_name(header["kind"], header["group_first"], header["group_last"])
        self._path = folder / name
        self._temporary = folder / f".{name}{CREATING}"
        self._temporary.unlink(missing_ok=True)
        occupy_standard_descriptors()  # the host may have closed them since
        self.writer = ColumnWriter(str(self._temporary), **header)

    def commit(self, facts: bytes = b"") -> ColumnFile:
        self.writer.finish(facts)
        self._temporary.rename(self._path)
        sync(self._path.parent)
        occupy_standard_descriptors()
        return ColumnFile(str(self._path))

    def abandon(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):  # the next start removes it
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abandon()


def file_name(kind: int, group_first: int, group_last: int) -> str:
    """The name of a segment of these groups, or of the checkpoint of the last one."""
    if kind == _columns.SEGMENT:
        return f"segment-{group_first:016x}-{group_last:016x}"
    return f"checkpoint-{group_last:016x}"


def paths(folder: Path) -> list[Path]:
    """Whatever in the folder is named like a column file, finished, half made or damaged."""
    return sorted(path for path in folder.glob("*") if _OURS.match(path.name))


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """The system's errors as the ledger's own."""
    try:
        yield
    except PermissionError as error:
        raise DirectoryNotWritable(f"cannot write {path}: {error}") from error
    except OSError as error:
        raise LedgerStopped(error) from error
