"""An LMDB environment that this process writes: its lock table held, its read slots reserved,
its file watched.

LMDB keeps who reads in a table in lock.mdb, and guards the table with POSIX locks. The system drops
all POSIX locks of a process on a file when the process closes any descriptor of that file: a host
that copies its own book takes them from us, the next opener takes itself for the first and wipes
the table under the writer, and pages go to a writer while they are read. So this file holds the two
locks that LMDB relies on once more, as locks of an open file description, which only their own
descriptor can lose: byte 0, which says that the table is in use, and the byte of this process's
number, which says that the owner of our slots is alive. The second is also what keeps a process
with the same number in another pid namespace from sharing our slots.

Reads of the writer do not depend on what others leave of the table: their slots are taken at the
start. When even that cannot be had (all slots are taken, or our number is), the environment gets a
new lock file: whoever holds the book's own lock is its only writer, and those who read with the old
one must open it again. The caller holds the book's lock. This file knows no group and no stamp.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from ledger.base.files import close, reserve_lock_file
from ledger.facts.errors import DataRefused, MapRefused

ATTEMPTS = 3  # at a lock table that others work on

_F_OFD_GETLK, _F_OFD_SETLK = 36, 37  # Linux; Python has no names for them
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, bytes, pid


_SAME_NUMBER = "a reader in another pid namespace has the number of this process"


class _TableTaken(Exception):
    """The lock table has no place for this process; the text says why."""


class Environment:
    """One LMDB environment, open to be written. `lmdb` is the library's own handle; `slots` are for
    all reads of this process.

    `warning` says what an operator should know of how it was opened, or is None. lmdb.Error and
    OSError as the library and the system raise them.
    """

    def __init__(self, folder: Path, map_bytes: int, readers_max: int, slots: int) -> None:
        self.path = folder / "data.mdb"
        self.warning: str | None = None
        self._lock_path = folder / "lock.mdb"
        self._map_bytes, self._readers_max, self._slots_count = map_bytes, readers_max, slots
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._open()
                break
            except _TableTaken as error:
                if attempt == ATTEMPTS:
                    raise DataRefused(f"{self._lock_path} cannot be used: {error}") from None
                self._replace_lock_file(str(error))
        # Never shrinks while it is ours; what was seen last is what must still be there.
        found = self.path.stat()
        self._identity, self._bytes = (found.st_dev, found.st_ino), found.st_size

    # ---- the lock table -------------------------------------------------------------------------

    def _open(self) -> None:
        reserve_lock_file(self.path.parent)
        self._descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if self._locked(os.getpid()):
                raise _TableTaken(_SAME_NUMBER)
            # The library reads when it opens, which takes a slot and its lock at our number.
            self.lmdb = open_lmdb(self.path.parent, self._map_bytes, self._readers_max)
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, lmdb.ReadersFullError):
                raise _TableTaken("others had taken all of its reader slots") from None
            if isinstance(error, lmdb.Error) and os.strerror(errno.EAGAIN) in str(error):
                raise _TableTaken(_SAME_NUMBER) from None
            raise
        try:
            self._hold()
            self.lmdb.reader_check()
            self.slots = Slots(self.lmdb, self._slots_count)
        except BaseException as error:
            full = f"others had taken its reader slots: {self.readers()}"
            self.close()
            if isinstance(error, lmdb.ReadersFullError):
                raise _TableTaken(full) from None
            raise

    def _hold(self) -> None:
        """Put locks of our descriptor in the place of those that a host can drop."""
        pid = os.getpid()
        if not self._lock(fcntl.F_RDLCK, 0):
            raise _TableTaken("another process was about to make its lock table anew")
        if self.taken()[pid]:
            # Of a dead process: the library frees no slot that has the number of its own.
            raise _TableTaken(f"a dead reader had the number of this process, {pid}")
        # The library asks for its lock at our number once, and did; ours cannot be had beside it.
        # So that one is dropped, in the way in which a host would drop it.
        os.close(os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC))
        if not self._lock(fcntl.F_WRLCK, pid):
            raise _TableTaken(_SAME_NUMBER)

    def _lock(self, kind: int, byte: int) -> bool:
        """Whether our descriptor has the lock now."""
        wanted = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, _F_OFD_SETLK, wanted)
        except BlockingIOError:
            return False
        return True

    def _locked(self, byte: int) -> bool:
        """Whether somebody else holds a lock on this byte."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        found = fcntl.fcntl(self._descriptor, _F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _replace_lock_file(self, why: str) -> None:
        self._lock_path.unlink()
        self.warning = (
            f"{self._lock_path} was made anew: {why}; who reads with the old one must open it again"
        )

    def taken(self) -> Counter[int]:
        """How many reader slots each process has, by its number as it knows it."""
        rows = [line.split() for line in self.lmdb.readers().splitlines()]
        return Counter(int(row[0]) for row in rows if row[0].isdigit())

    def readers(self) -> str:
        """Who has how many reader slots, for people, the greediest first."""
        return ", ".join(f"pid {pid} has {count}" for pid, count in self.taken().most_common(5))

    @property
    def crowded(self) -> str | None:
        """Who took all the reader slots, if nobody else can read any more; or None."""
        if sum(self.taken().values()) < self.lmdb.info()["max_readers"]:
            return None
        return f"all reader slots of {self.path.parent} are taken: {self.readers()}"

    # ---- the file -------------------------------------------------------------------------------

    def check(self) -> None:
        """DataRefused when the file is not the one that was opened, or has lost its end."""
        expected = self._bytes
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise DataRefused(f"{self.path} was taken away while it was in use") from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise DataRefused(f"another file was put in the place of {self.path} while it was used")
        if found.st_size < expected:
            raise DataRefused(
                f"{self.path} was cut from {expected} to {found.st_size} bytes while it was in use"
            )
        self._bytes = found.st_size

    def close(self) -> None:
        """Close it, in the process that opened it. Our locks go last: until then nobody may take
        the table for unused."""
        self.lmdb.close()
        # To close alone would leave the locks to the children that were forked.
        for byte in (0, os.getpid()):
            with contextlib.suppress(OSError):
                self._lock(fcntl.F_UNLCK, byte)
        close(self._descriptor)


class Slot:
    """A reserved place to read from: a transaction that is open, or one that keeps the place."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._transaction: lmdb.Transaction[memoryview] | None = environment.begin(buffers=True)

    def begin(self) -> None:
        # The ended transaction becomes the library's spare one, which begin() renews: the place is
        # never given back. For one caller at a time.
        self._transaction = None
        self._transaction = self._environment.begin(buffers=True)

    def end(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()

    def id(self) -> int:
        """The number of the snapshot that is read."""
        assert self._transaction is not None
        return self._transaction.id()

    def get(self, key: bytes) -> memoryview | None:
        """The value at a key, valid until the end."""
        assert self._transaction is not None
        return self._transaction.get(key)

    def cursor(self) -> lmdb.Cursor[memoryview]:
        """A cursor, valid until the end."""
        assert self._transaction is not None
        return self._transaction.cursor()

    def stat(self) -> Any:
        assert self._transaction is not None
        return self._transaction.stat()


class Slots:
    """As many places to read from as may be needed at once; who finds none free waits for one."""

    def __init__(self, environment: lmdb.Environment, count: int) -> None:
        self._free = [Slot(environment) for _ in range(count)]
        for slot in self._free:
            slot.end()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def read(self) -> Iterator[Slot]:
        """A snapshot, from any thread, for a moment."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            slot = self._free.pop()
            try:
                slot.begin()
            except BaseException:
                self._free.append(slot)
                raise
        try:
            yield slot
        finally:
            with self._changed:
                slot.end()
                self._free.append(slot)
                self._changed.notify()


def open_lmdb(
    folder: Path,
    map_bytes: int,
    readers_max: int,
    *,
    readonly: bool = False,
    create: bool = False,
) -> lmdb.Environment:
    """LMDB in its default mode, and with the engine named: the environment could change it.

    MapRefused when the system does not give the map its address space.
    """
    try:
        return lmdb.open(
            os.fsencode(folder),  # a name may be any bytes
            map_size=map_bytes,
            subdir=True,
            readonly=readonly,
            create=create,
            mode=0o600,
            sync=True,
            metasync=True,
            writemap=False,
            readahead=True,
            max_readers=readers_max,
            max_spare_txns=1,  # what Slot lives on
            lock=True,
            lib_version=0,
        )
    except lmdb.MemoryError as error:
        raise MapRefused(str(folder), map_bytes) from error
