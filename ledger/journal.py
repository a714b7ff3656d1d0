"""Part: the journal: every group in order, durable in LMDB, the only truth of a book.

Here live the durable append, checked reading, the lock that makes one process the writer, the
creation of a book in one step, and what is refused at open. Strategy: LMDB in its default mode
(data synced before the meta page, the meta page through O_DSYNC), one group a transaction, and
nothing retried: the first error of an append stops the journal for good. LMDB has no checksums, so
a group's own are verified whenever it is read. The weak spot: a damaged LMDB page (not a group's
bytes) can crash the process instead of naming itself. This file knows neither records nor sockets.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple, Self

import lmdb
import numpy as np

from ledger.config import (
    DIGEST_ASIDE_BYTES,
    DISK_RESERVE_BYTES,
    DISK_WARN_PERCENT,
    GROUP_VALUE_BYTES_MAX,
    MAP_BYTES,
)
from ledger.errors import (
    DataRefused,
    DirectoryInUse,
    DirectoryNotWritable,
    Fenced,
    LedgerError,
    LedgerStopped,
    WrongProcess,
)
from ledger.files import (
    occupy_standard_descriptors,
    remove_leftovers,
    reserve_lock_file,
    sync,
)
from ledger.group import (
    DIGEST_BYTES,
    HEADER_BYTES,
    End,
    Group,
    Header,
    digest_group,
    read_group,
    write_group,
)
from ledger.lock import Lock
from ledger.reading import Reading, key_of, lmdb_error

READERS_MAX = 126  # transactions that read at once, all processes together
META_BYTES = 2 * 4096  # LMDB's two meta pages, at the least

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


class Room(NamedTuple):
    """Space for what comes: bytes left, percent used, the highest warning reached (0 for none).

    `refusal` says why no more work may be accepted, or is None.
    """

    free_bytes: int
    used_percent: int
    warn_percent: int
    refusal: str | None


class Journal(Reading):
    """The open journal of one book. `append` belongs to one thread; reading is for any.

    `cluster`, `group` (number of the last), `position` (the last taken), `clock` (ns) and
    `directory` are for reading. After an error in `append` every call raises LedgerStopped.
    """

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether `directory` holds a book."""
        return _data_path(directory).is_file()

    @staticmethod
    def create(directory: Path, cluster: int, group: Group) -> None:
        """Make a book whose journal holds `group` as group 1: all of it is there, or nothing.

        DataRefused when `directory` holds anything, DirectoryNotWritable when it or its parent
        cannot be written, DirectoryInUse when another is creating it, LedgerError otherwise.
        """
        if group.position_first != 1:
            raise ValueError(f"a book begins at position 1, not {group.position_first}")
        occupy_standard_descriptors()
        directory = directory.resolve()
        _check_vacant(directory)
        prefix = f".{directory.name}.creating-"
        temporary = directory.with_name(f"{prefix}{os.getpid()}")
        try:
            remove_leftovers(directory.parent, prefix)
            _create_at(temporary, directory, cluster, group)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                _check_vacant(directory)  # another was first
            why = f"cannot create {directory}: {error.strerror}"
            if error.errno in _NOT_WRITABLE:
                raise DirectoryNotWritable(why) from error
            raise LedgerError(why) from error
        except lmdb.Error as error:
            raise LedgerError(f"cannot create {directory}: {error}") from error

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
            raise DataRefused(f"{directory} holds no book: {_data_path(directory)} is missing")
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
        try:
            self._env = _open_env(directory, readonly, map_bytes)
        except lmdb.Error as error:
            raise lmdb_error(str(_data_path(directory)), error) from error
        except OSError as error:
            raise LedgerStopped(error) from error
        try:
            self._page_bytes = self._env.stat()["psize"]
            self._check_size()
            self._env.reader_check()
            self._find_ends(cluster)
            self._file = os.open(_data_path(directory), os.O_RDONLY | os.O_CLOEXEC)
        except BaseException as error:
            self._env.close()
            if isinstance(error, lmdb.Error):
                raise lmdb_error(str(directory), error) from error
            if isinstance(error, OSError):
                raise LedgerStopped(error) from error
            raise
        if not readonly:
            # Written to now, so that no append takes the page faults of its first touch.
            self._value = np.full(GROUP_VALUE_BYTES_MAX, 255, np.uint8)

    def _check_size(self) -> None:
        """Refuse a file without its end: reading what is missing would kill the process."""
        pages = self._env.info()["last_pgno"] + 1
        path = _data_path(self.directory)
        size = path.stat().st_size
        if size < pages * self._page_bytes:
            raise DataRefused(
                f"{path} has {size} bytes, but its {pages} pages take {pages * self._page_bytes}: "
                f"its end is missing"
            )

    def _find_ends(self, cluster: int | None) -> None:
        """Check the first and the last group, and take cluster, position, clock and digest."""
        with self._env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            if not cursor.first():
                raise DataRefused(f"{self.directory}: the journal holds no group")
            first, _ = _read_at(cursor, 1)
            self.cluster = first.cluster
            if cluster is not None and cluster != self.cluster:
                raise DataRefused(
                    f"{self.directory} is the book of cluster {self.cluster}, not of {cluster}"
                )
            cursor.last()
            number = int.from_bytes(cursor.key(), "big")
            header, body = _read_at(cursor, number, self.cluster)
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
            self._cause = error
            raise LedgerStopped(error) from error

    def _append(self, expected_position: int, group: Group) -> int:
        if self.readonly:
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
        self._end = End(
            number, self.position + group.position_count, group.clock_after, digest
        )
        return number

    @property
    def group(self) -> int:
        """Number of the last group."""
        return self._end.group

    @property
    def position(self) -> int:
        """The last position."""
        return self._end.position

    @property
    def clock(self) -> int:
        """The ledger clock after the last group, ns."""
        return self._end.clock

    def digest(self) -> bytes:
        """The digest of the last group, 32 bytes; waits for the worker that computes it."""
        return self._end.known_digest()

    def end_of(self, number: int) -> tuple[int, bytes]:
        """The last position of group `number` and its digest, as the next group continues them."""
        end = self._end  # taken once: another thread may be appending
        if number == end.group:
            return end.position, end.known_digest()
        following = self.one(number + 1)[0]
        return following.position_first - 1, following.digest_previous

    # ---- housekeeping ---------------------------------------------------------------------------

    def room(self) -> Room:
        """The space left for groups, on the disk and in the map; pages LMDB could reuse count as
        used. Refuses when less than DISK_RESERVE_BYTES is left."""
        self._check_usable()
        disk = os.statvfs(self.directory)
        disk_free = disk.f_bavail * disk.f_frsize
        disk_bytes = max(1, disk.f_blocks * disk.f_frsize)
        info = self._env.info()
        map_bytes = info["map_size"]
        map_free = map_bytes - (info["last_pgno"] + 1) * self._page_bytes
        free = min(disk_free, map_free)
        used = max(100 - 100 * disk_free // disk_bytes, 100 - 100 * map_free // map_bytes)
        warn = max((percent for percent in DISK_WARN_PERCENT if used >= percent), default=0)
        refusal = None
        if free < DISK_RESERVE_BYTES:
            what = "disk" if disk_free <= map_free else "journal's map"
            refusal = (
                f"{self.directory}: {free} bytes left on the {what}, {DISK_RESERVE_BYTES} are kept "
                f"for work already accepted"
            )
        return Room(free, used, warn, refusal)

    def reader_check(self) -> int:
        """Free the places of readers whose process is gone; to be called every minute."""
        self._check_usable()
        return self._env.reader_check()

    def close(self) -> None:
        """Close the file and give up the lock. In a process that forked it does nothing."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        os.close(self._file)
        self._env.close()
        if self._lock is not None:
            self._lock.release(clean=self._cause is None)

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


def _read_at(
    cursor: lmdb.Cursor[memoryview], number: int, cluster: int | None = None
) -> tuple[Header, memoryview]:
    """The group under the cursor, checked. LMDB reads the value's pages without the GIL."""
    key = bytes(cursor.key())
    if key != key_of(number):
        raise DataRefused(f"group {number} is missing: found key {key.hex()} in its place")
    return read_group(cursor.value(), number, cluster)


def _data_path(directory: Path) -> Path:
    return directory / "journal" / "data.mdb"


def _open_env(
    directory: Path, readonly: bool, map_bytes: int, create: bool = False
) -> lmdb.Environment:
    """LMDB in its default mode, and with the engine named: the environment could change it."""
    path = _data_path(directory)
    if not create and path.stat().st_size < META_BYTES:  # LMDB would take it for a new one
        raise DataRefused(f"{path} has {path.stat().st_size} bytes: its beginning is missing")
    with contextlib.suppress(PermissionError):  # who may only read gets no lock file from LMDB
        reserve_lock_file(path.parent)
    return lmdb.open(
        str(path.parent),
        map_size=map_bytes,
        subdir=True,
        readonly=readonly,
        create=create,
        mode=0o600,
        sync=True,
        metasync=True,
        writemap=False,
        readahead=True,
        max_readers=READERS_MAX,
        lock=True,
        lib_version=0,
    )


def _reach_disk(directory: Path, warm: bool) -> None:
    """Sync what a killed process left unsynced, before anybody is told of it.

    Unless the book was closed (`warm`), forget what memory holds of it: after a failed sync that
    may be what the disk never took, and only what is read from the disk may be answered from.
    """
    path = _data_path(directory)
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


def _check_vacant(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise DataRefused(f"{directory} is not a directory")
    if Journal.exists(directory):
        raise DataRefused(f"{directory} already holds a book")
    found = sorted(entry.name for entry in directory.iterdir())
    if found:
        names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise DataRefused(f"{directory} is not empty and holds no book; it holds {names}")
    if directory.is_mount():
        raise DirectoryNotWritable(f"{directory} is a mount point: name a directory below it")


def _create_at(temporary: Path, directory: Path, cluster: int, group: Group) -> None:
    """Build the book in `temporary`, all of it synced, and rename it to `directory`."""
    try:
        temporary.mkdir(0o700)
    except FileExistsError as error:
        raise DirectoryInUse(f"{directory} is being created by another process") from error
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_first(temporary, cluster, group)
            if directory.exists():
                temporary.chmod(stat.S_IMODE(directory.stat().st_mode))
            os.fsync(descriptor)
            temporary.rename(directory)
            sync(directory.parent)
        finally:
            os.close(descriptor)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_first(directory: Path, cluster: int, group: Group) -> None:
    journal, state = directory / "journal", directory / "state"
    journal.mkdir(0o700)
    state.mkdir(0o700)
    value = np.empty(GROUP_VALUE_BYTES_MAX, np.uint8)
    whole = write_group(value, cluster, 1, bytes(DIGEST_BYTES), group)[2]
    with (
        _open_env(directory, readonly=False, map_bytes=MAP_BYTES, create=True) as env,
        env.begin(write=True) as transaction,
    ):
        if not transaction.put(key_of(1), whole, append=True):
            raise LedgerError(f"{directory}: the new journal is not empty")
    for path in (_data_path(directory), journal, state):
        sync(path)
