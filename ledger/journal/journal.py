"""The journal: every group in order, durable in LMDB, the only truth of a book.

Here live the durable append, the lock that makes one process the writer, and what is refused at
open; a book is created in creation.py and read in reader.py. Strategy: LMDB in its default mode
(data synced before the meta page, the meta page through O_DSYNC), one group a transaction, and
nothing retried: the first error of an append stops the journal for good. LMDB has no checksums, so
a group's own are verified whenever it is read. The weak spot: a damaged LMDB page (not a group's
bytes) can crash the process instead of naming itself. This file knows neither records nor sockets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Self

import lmdb
import numpy as np

from ledger.base.files import (
    close,
    occupy_standard_descriptors,
    reserve_lock_file,
    sync,
)
from ledger.facts.errors import (
    DataRefused,
    DirectoryNotWritable,
    Fenced,
    LedgerStopped,
    WrongProcess,
)
from ledger.facts.limits import (
    DIGEST_ASIDE_BYTES,
    DISK_RESERVE_BYTES,
    DISK_RESERVE_READS_BYTES,
    DISK_WARN_PERCENT,
    GROUP_VALUE_BYTES_MAX,
    MAP_BYTES,
    READ_SLOTS,
)
from ledger.journal.creation import create, holds_book
from ledger.journal.environment import Environment, open_lmdb
from ledger.journal.group import (
    HEADER_BYTES,
    End,
    Group,
    Header,
    digest_group,
    read_group,
    write_group,
)
from ledger.journal.lock import Lock
from ledger.journal.ports import Room
from ledger.journal.reader import (
    META_BYTES,
    READERS_MAX,
    Reading,
    Snapshot,
    check_size,
    data_path,
    key_of,
    lmdb_error,
)


class Journal(Reading):
    """The open journal of one book. `append` belongs to one thread; reading is for any.

    `cluster`, `group` (number of the last), `position` (the last taken), `clock` (ns) and
    `directory` are for reading. After an error in `append` every call raises LedgerStopped.
    """

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether `directory` holds a book."""
        return holds_book(directory)

    create = staticmethod(create)

    @classmethod
    def open(
        cls,
        directory: Path,
        cluster: int | None = None,
        *,
        readonly: bool = False,
        locked: bool = True,
        digest_executor: Executor | None = None,
        map_bytes: int = MAP_BYTES,
    ) -> Self:
        """Open a book's journal; what it ends with is on disk, not only in memory, when it returns.

        `cluster` refuses any other book. A writer is always `locked`. `readonly` with the lock is
        for a book nobody serves; without it a book can be looked at while it is served: what it
        ended with then may be a moment ahead of the disk. `digest_executor` computes digests while
        large groups are being synced; without one all are computed in `append`.
        DataRefused, DirectoryInUse, DirectoryNotWritable, or LedgerStopped for an I/O error.
        """
        if not (readonly or locked):
            raise ValueError("a journal is written only under its lock")
        occupy_standard_descriptors()
        directory = directory.resolve()
        if not cls.exists(directory):
            raise DataRefused(f"{directory} holds no book: {data_path(directory)} is missing")
        lock = Lock(directory) if locked else None
        try:
            return cls(directory, cluster, readonly, lock, digest_executor, map_bytes)
        except BaseException:
            if lock is not None:
                lock.release(clean=lock.was_clean)
            raise

    def __init__(
        self,
        directory: Path,
        cluster: int | None,
        readonly: bool,
        lock: Lock | None,
        digest_executor: Executor | None,
        map_bytes: int,
    ) -> None:
        self.directory = directory
        self.readonly = readonly
        self._lock = lock
        self._executor = digest_executor
        self._pid = os.getpid()
        self._cause: BaseException | None = None
        self._closed = False
        if not readonly:
            _reach_disk(directory, warm=lock is not None and lock.was_clean)
        self._writing: Environment | None = None
        try:
            _check_begins(data_path(directory))
            if readonly:
                self._env = _open_env(directory, readonly, map_bytes)
            else:
                self._writing = Environment(
                    directory / "journal", map_bytes, READERS_MAX, READ_SLOTS
                )
                self._env = self._writing.lmdb
        except lmdb.Error as error:
            raise lmdb_error(str(data_path(directory)), error) from error
        except OSError as error:
            raise LedgerStopped(error) from error
        try:
            self._page_bytes = self._env.stat()["psize"]
            self._check_size()
            if readonly:
                self._env.reader_check()
            self._find_ends(cluster)
            if self._writing is not None:
                self._committed = self._env.info()["last_txnid"]
            self._file = os.open(data_path(directory), os.O_RDONLY | os.O_CLOEXEC)
        except BaseException as error:
            self._close_environment()
            if isinstance(error, lmdb.Error):
                raise lmdb_error(str(directory), error) from error
            if isinstance(error, OSError):
                raise LedgerStopped(error) from error
            raise
        if not readonly:
            # Written to now, so that no append takes the page faults of its first touch.
            self._value = np.full(GROUP_VALUE_BYTES_MAX, 255, np.uint8)

    @property
    def warning(self) -> str | None:
        """What an operator should know of how it was opened."""
        return self._writing.warning if self._writing is not None else None

    def _check_size(self) -> None:
        """Refuse a file without its end: reading what is missing would kill the process."""
        path = data_path(self.directory)
        pages = self._env.info()["last_pgno"] + 1
        check_size(path, path.stat().st_size, pages, self._page_bytes)

    def _find_ends(self, cluster: int | None) -> None:
        """Check the last group, and take cluster, position, clock and digest from it."""
        with self._transaction() as transaction, transaction.cursor() as cursor:
            if not cursor.first():
                raise DataRefused(f"{self.directory}: the journal holds no group")
            _check_key(cursor, 1)
            cursor.last()
            number = int.from_bytes(cursor.key(), "big")
            header, body = _read_at(cursor, number)
            self.cluster = header.cluster
            if cluster is not None and cluster != self.cluster:
                raise DataRefused(
                    f"{self.directory} is the book of cluster {self.cluster}, not of {cluster}"
                )
            entries = transaction.stat()["entries"]
            if entries != number:
                raise DataRefused(
                    f"{self.directory}: the last group is {number}, but the journal holds {entries}"
                )
            digest = digest_group(cursor.value()[:HEADER_BYTES], body)
            self._end = End(number, header.position_last, header.clock_after, digest)

    # ---- appending ------------------------------------------------------------------------------

    def append(self, expected_position: int, group: Group) -> int:
        """Make `group` durable as the next one, and return its number.

        `expected_position` is the last position the caller knows of. Any error, of whatever kind,
        raises LedgerStopped now and at every later call: after a failed sync nobody knows what is
        on disk, and only a restart finds out.
        """
        self._check_usable()
        try:
            return self._append(expected_position, group)
        except BaseException as error:
            self._cause = _named(data_path(self.directory), error)
            raise LedgerStopped(self._cause) from error

    def _append(self, expected_position: int, group: Group) -> int:
        if self._writing is None:
            raise ValueError("the journal was opened to be read")
        if expected_position != self.position:
            raise Fenced(
                f"the journal ends at position {self.position}, its writer expected "
                f"{expected_position}"
            )
        if group.position_first != self.position + 1 or group.clock_before != self.clock:
            raise ValueError(
                f"a group from position {group.position_first}, clock {group.clock_before}, does "
                f"not follow position {self.position}, clock {self.clock}"
            )
        self._check_before()
        number = self.group + 1
        header, body, value = write_group(self._value, self.cluster, number, self.digest(), group)
        with self._env.begin(write=True) as transaction:
            if not transaction.put(key_of(number), value, append=True):
                raise Fenced(f"the journal already holds group {number}")
            # Both views stay as they are until the next header has taken the digest.
            digest = (
                digest_group(header, body)
                if self._executor is None or len(body) < DIGEST_ASIDE_BYTES
                else self._executor.submit(digest_group, header, body)
            )
            committed = transaction.id()
        self._committed = committed
        self._writing.check()  # what went to a file that is gone is not durable
        self._end = End(
            number, self.position + group.position_count, group.clock_after, digest
        )
        return number

    def _check_before(self) -> None:
        """DataRefused unless the book is ours, and its file as the last append left it. Whether it
        is the same file was looked at when its space was, and is again after the append."""
        assert self._writing is not None and self._lock is not None
        self._lock.check()
        committed = self._env.info()["last_txnid"]
        if committed != self._committed:
            raise DataRefused(
                f"{self._writing.path} was written to by another while it was in use: it ends with "
                f"transaction {committed}, not with {self._committed}"
            )

    # ---- housekeeping ---------------------------------------------------------------------------

    def room(self) -> Room:
        """The space left for groups, on the disk and in the map; pages LMDB could reuse count as
        used. Refuses when less than the reserves of limits.py are left. LedgerStopped when the file
        is not there any more."""
        self._check_usable()
        if self._writing is not None:
            try:
                self._writing.check()
            except (DataRefused, OSError) as error:
                raise LedgerStopped(error) from error
        disk = os.statvfs(self.directory)
        disk_free = disk.f_bavail * disk.f_frsize
        # As df counts: what is kept for root is neither used nor free.
        disk_used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        info = self._env.info()
        map_bytes = info["map_size"]
        map_free = map_bytes - (info["last_pgno"] + 1) * self._page_bytes
        free = min(disk_free, map_free)
        disk_bytes = max(1, disk_used + disk_free)
        used = max(100 - 100 * disk_free // disk_bytes, 100 - 100 * map_free // map_bytes)
        warn = max((percent for percent in DISK_WARN_PERCENT if used >= percent), default=0)
        where = "disk" if disk_free <= map_free else "journal's map"
        left = f"{free} bytes left on the {where}"
        refusal = shut = None
        if free < DISK_RESERVE_BYTES:
            refusal = (
                f"{self.directory}: {left}, {DISK_RESERVE_BYTES} are kept for work already accepted"
            )
        if free < DISK_RESERVE_READS_BYTES:
            shut = (
                f"{self.directory}: {left}, {DISK_RESERVE_READS_BYTES} are needed to start or to"
                f" let a new client read"
            )
        return Room(free, used, warn, refusal, shut)

    def reader_check(self) -> int:
        """Free the places of readers whose process is gone; to be called every minute."""
        self._check_usable()
        try:
            return self._env.reader_check()
        except lmdb.Error as error:
            raise lmdb_error(str(data_path(self.directory)), error) from error

    @property
    def crowded(self) -> str | None:
        """Who took all the reader slots, if nobody else can read any more; or None."""
        self._check_usable()
        return self._writing.crowded if self._writing is not None else None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Snapshot]:
        if self._writing is None:
            with super()._transaction() as transaction:
                yield transaction
        else:
            with self._writing.slots.read() as slot:
                yield slot

    def close(self) -> None:
        """Close the file and give up the lock. In a process that forked it does nothing."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        close(self._file)
        self._close_environment()
        if self._lock is not None:
            self._lock.release(clean=self._cause is None)

    def _close_environment(self) -> None:
        if self._writing is not None:
            self._writing.close()
        else:
            self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise WrongProcess(
                f"{self.directory} was opened by process {self._pid} and cannot be used by "
                f"{os.getpid()}: let several processes use `ledger serve`"
            )
        if self._cause is not None:
            raise LedgerStopped(self._cause)
        if self._closed:
            raise ValueError(f"the journal of {self.directory} is closed")


# ---- files --------------------------------------------------------------------------------------


def _read_at(cursor: lmdb.Cursor[memoryview], number: int) -> tuple[Header, memoryview]:
    """The group under the cursor, checked. LMDB reads the value's pages without the GIL."""
    _check_key(cursor, number)
    return read_group(cursor.value(), number)


def _check_key(cursor: lmdb.Cursor[memoryview], number: int) -> None:
    key = bytes(cursor.key())
    if key != key_of(number):
        raise DataRefused(f"group {number} is missing: found key {key.hex()} in its place")


def _named(path: Path, error: BaseException) -> BaseException:
    """The error; what the library or the system says names the file."""
    if isinstance(error, lmdb.Error):
        told = lmdb_error(str(path), error)
        error = told.cause if isinstance(told, LedgerStopped) else told
    if isinstance(error, OSError) and error.filename is None:
        return OSError(error.errno, error.strerror or str(error), str(path))
    if isinstance(error, lmdb.Error) and str(path) not in str(error):
        return type(error)(f"{path}: {error}")
    return error


def _check_begins(path: Path) -> None:
    if path.stat().st_size < META_BYTES:  # LMDB would take it for a new one
        raise DataRefused(f"{path} has {path.stat().st_size} bytes: its beginning is missing")


def _open_env(directory: Path, readonly: bool, map_bytes: int) -> lmdb.Environment:
    folder = directory / "journal"
    with contextlib.suppress(PermissionError):  # who may only read gets no lock file from LMDB
        reserve_lock_file(folder)
    return open_lmdb(folder, map_bytes, READERS_MAX, readonly=readonly)


def _reach_disk(directory: Path, warm: bool) -> None:
    """Sync what a killed process left unsynced, before anybody is told of it.

    Unless the book was closed (`warm`), forget what memory holds of it: after a failed sync that
    may be what the disk never took, and only what is read from the disk may be answered from.
    """
    path = data_path(directory)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DirectoryNotWritable(f"cannot write {path}: {error.strerror}") from error
    try:
        os.fsync(descriptor)
        if not warm:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        sync(path.parent)
        sync(directory)
        with contextlib.suppress(PermissionError):  # it may be there to pass through only
            sync(directory.parent)
    except OSError as error:
        raise LedgerStopped(error) from error
    finally:
        os.close(descriptor)
