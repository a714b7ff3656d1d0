"""The head stamp: how far the journal was known to be durable, kept beside the journal.

DIR/state holds what is derived from the journal, in an LMDB environment of its own; now that is
one record, the stamp (a group's number, digest and last position). A journal that ends before its
stamp has lost acknowledged groups, one whose group has another digest is not the journal that was
stamped: both are refused. The state directory may be deleted: a missing one is made anew, and for
that one start nothing can be noticed. A stamp that is there but damaged is refused, because a
journal put back from an old backup must not pass for lack of a witness. This file knows neither
records nor how groups are kept: it asks a journal for its end and for digests.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import lmdb

from ledger.base.files import reserve_lock_file, sync
from ledger.facts.errors import DataRefused, DirectoryNotWritable, LedgerStopped
from ledger.journal import _check
from ledger.journal.environment import Environment, open_lmdb
from ledger.journal.group import End
from ledger.journal.ports import JournalEnd, JournalReader, refuse_another

FORMAT = 1
MAGIC = b"LEDGHEAD"
STATE_MAP_BYTES = 1 << 30  # address space, not disk
READERS_MAX = 8
META_BYTES = 2 * 4096  # LMDB's two meta pages, at the least

KEY = b"head"
_STAMP = struct.Struct("<8s H 6x 16s Q Q 32s")  # magic, format, cluster, group, position, digest
_CHECK_BYTES = 16


class Stamp(NamedTuple):
    """The end of the journal at some moment: all up to `position` was durable."""

    cluster: int
    group: int
    position: int
    digest: bytes


class Checkpoint:
    """The state directory of one book, open under the journal's lock; one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Open DIR/state, making it when it is missing.

        DataRefused when it is damaged, DirectoryNotWritable when it cannot be written.
        """
        self.directory = directory.resolve()
        self._path = self.directory / "state"
        with _errors(self._path):
            if not (self._path / "data.mdb").exists():
                _make(self._path)
            _check_size(self._path, META_BYTES)
            self._environment = Environment(self._path, STATE_MAP_BYTES, READERS_MAX, 1)
            self._env = self._environment.lmdb
        try:
            pages = self._env.info()["last_pgno"] + 1
            _check_size(self._path, pages * self._env.stat()["psize"])
        except BaseException:
            self._environment.close()
            raise

    @property
    def warning(self) -> str | None:
        """What an operator should know of how it was opened."""
        return self._environment.warning

    def write(self, cluster: int, group: int, position: int, digest: bytes) -> None:
        """Stamp the head. Only for what is durable: a stamp ahead of the journal refuses a start.

        LedgerStopped for an I/O error.
        """
        stamp = _STAMP.pack(MAGIC, FORMAT, cluster.to_bytes(16, "little"), group, position, digest)
        self._environment.check()
        with _errors(self._path), self._env.begin(write=True) as transaction:
            transaction.put(KEY, stamp + _check.aegis(stamp))
        self._environment.check()

    def read(self) -> Stamp | None:
        """The stamp, or None when there is none yet. DataRefused when it is damaged."""
        with _errors(self._path), self._environment.slots.read() as slot:
            found = slot.get(KEY)
            value = None if found is None else bytes(found)
        return parse(self._path, value)

    def verify_against(self, journal: JournalEnd) -> str | None:
        """Refuse a journal that does not hold what was stamped; a warning to show, or None."""
        return compare(self._path, self.read(), journal)

    def close(self) -> None:
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parse(path: Path, value: bytes | None) -> Stamp | None:
    """The stamp that is kept in the state directory `path`. DataRefused when it is damaged."""
    if value is None:
        return None
    stamp = value[: _STAMP.size]
    if len(value) != _STAMP.size + _CHECK_BYTES or _check.aegis(stamp) != value[_STAMP.size :]:
        raise DataRefused(damaged(path, "the head stamp's check failed"))
    magic, found, cluster, group, position, digest = _STAMP.unpack(stamp)
    if magic != MAGIC or found != FORMAT:
        raise DataRefused(
            f"the head stamp in {path} has format {found}, this software reads {FORMAT}"
        )
    return Stamp(int.from_bytes(cluster, "little"), group, position, digest)


def compare(path: Path, stamp: Stamp | None, journal: JournalEnd) -> str | None:
    """Refuse a journal that does not hold what the stamp in the state directory `path` says; a
    warning to show, or None.

    A journal ahead of its stamp is fine: the stamp is renewed every few seconds.
    """
    if stamp is None:
        return (
            f"{path} holds no head stamp: whether the journal has lost groups cannot be "
            f"told at this start"
        )
    said = End(stamp.group, stamp.position, 0, stamp.digest)
    where, way = f"the head stamp in {path}", _only_way(path.parent)
    return refuse_another(journal, stamp.cluster, said, "the head stamp", where, way)


def rebuild(journal: JournalReader) -> None:
    """Drop the state directory and stamp `journal` as it is, which its caller has verified whole
    and holds the lock of. What it has lost is given up."""
    path = journal.directory / "state"
    with _errors(path):
        _make(path)
    with Checkpoint(journal.directory) as checkpoint:
        checkpoint.write(journal.cluster, journal.group, journal.position, journal.digest())


def _make(path: Path) -> None:
    """Make the state directory in one step, so that a half-made one is always damage."""
    temporary = path.with_name(".state.creating")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(0o700)
    _open_env(temporary).close()
    for synced in (temporary / "data.mdb", temporary):
        sync(synced)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    sync(path.parent)


def _open_env(path: Path) -> lmdb.Environment:
    reserve_lock_file(path)
    return open_lmdb(path, STATE_MAP_BYTES, READERS_MAX, create=True)


def _check_size(path: Path, bytes_min: int) -> None:
    """Refuse a file without its end: reading what is missing would kill the process."""
    size = (path / "data.mdb").stat().st_size
    if size < bytes_min:
        raise DataRefused(damaged(path, f"data.mdb has {size} bytes of {bytes_min}"))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """LMDB's and the system's errors as the ledger's own."""
    try:
        yield
    except (
        lmdb.CorruptedError,
        lmdb.InvalidError,
        lmdb.PageNotFoundError,
        lmdb.VersionMismatchError,
    ) as error:
        raise DataRefused(damaged(path, str(error))) from error
    except (PermissionError, lmdb.ReadonlyError) as error:
        raise DirectoryNotWritable(f"cannot write {path}: {error}") from error
    except (OSError, lmdb.Error) as error:
        raise LedgerStopped(error) from error


def damaged(path: Path, what: str) -> str:
    """How a refusal of the state directory says what is wrong with it."""
    return f"{path} is damaged: {what}; {_only_way(path.parent)}"


def _only_way(directory: Path) -> str:
    return f"only `ledger rebuild {directory} --trust-journal` goes on"
