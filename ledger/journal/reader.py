"""The journal's groups read again: in order, by number, whole or to look into.

The file is read, not mapped, from where a search of our own says that LMDB keeps a value: a map is
filled page by page, from a disk at half its speed, and a sector that cannot be read kills who
touches it. LMDB's own search is the second opinion. What is read is checked before it is used.
Large groups do not stay in the system's memory unless they were there: a pass over all of them
leaves that memory to what is asked for often. This file writes nothing and does not know what a
body's records mean.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import lmdb
import numpy as np
from numpy.typing import NDArray

from ledger.facts.errors import DataRefused, DirectoryNotWritable, LedgerError, LedgerStopped
from ledger.facts.limits import (
    GROUP_VALUE_BYTES_MAX,
    READ_AHEAD_BYTES,
    READ_LARGE_BYTES,
    READ_TRANSACTION_SECONDS_MAX,
)
from ledger.facts.schema import TRANSFER
from ledger.journal import _file
from ledger.journal._file import Body, Pages
from ledger.journal.group import (
    DIGEST_BYTES,
    HEADER_BYTES,
    End,
    Header,
    check_digest,
    digest_group,
    read_group,
    read_header,
)
from ledger.journal.ports import NoRecord, check_block

GROUPS_AT_ONCE_MAX = 1024  # that records are taken from in one snapshot of the file
READERS_MAX = 126  # transactions that read at once, all processes together, at the least
META_BYTES = 2 * 4096  # LMDB's two meta pages, at the least
RWF_DONTCACHE = 0x80  # of preadv(2), since Linux 6.14
_LMDB_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)


def key_of(number: int) -> bytes:
    """LMDB's key of a group."""
    return number.to_bytes(8, "big")


def data_path(directory: Path) -> Path:
    """The file of a book's journal."""
    return directory / "journal" / "data.mdb"


def check_size(path: Path, size: int, pages: int, page_bytes: int) -> None:
    """Refuse a file without its end: reading what is missing would kill who maps it."""
    if size < pages * page_bytes:
        raise DataRefused(
            f"{path} has {size} bytes, but its {pages} pages take {pages * page_bytes}: "
            f"its end is missing"
        )


def advise(file: int, size: int, end: int, ahead_bytes: int, advised: int) -> int:
    """Once a group of `size` bytes is read that ends at `end`, have the system read what follows.

    As far as it was asked to read, which is where the last call said `advised`. What is large is
    read at once and needs no advice.
    """
    if size >= READ_LARGE_BYTES or not ahead_bytes or end + ahead_bytes // 2 < advised:
        return advised
    os.posix_fadvise(file, end, ahead_bytes, os.POSIX_FADV_WILLNEED)
    return end + ahead_bytes


def lmdb_error(where: str, error: lmdb.Error) -> LedgerError:
    if isinstance(error, _LMDB_DAMAGE):
        return DataRefused(f"{where}: damaged outside the groups ({error})")
    if isinstance(error, lmdb.ReadonlyError):
        return DirectoryNotWritable(f"cannot write {where}: {error}")
    return LedgerStopped(error)


@contextlib.contextmanager
def told_as(number: int) -> Iterator[None]:
    """What cannot be read of a group names it."""
    try:
        yield
    except OSError as error:
        raise DataRefused(f"group {number}: cannot be read: {error.strerror}") from error


class Snapshot(Protocol):
    """A transaction that reads."""

    def id(self) -> int: ...
    def get(self, key: bytes, /) -> memoryview | None: ...
    def cursor(self) -> lmdb.Cursor[memoryview]: ...
    def stat(self) -> Any: ...


class Reading(ABC):
    """A journal as it is read. Reading is for any thread."""

    directory: Path
    cluster: int
    _end: End
    _env: lmdb.Environment
    _file: int  # LMDB's file, open to be read
    _large_flags = RWF_DONTCACHE  # 0 where the system or the file system does not know it

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
        try:
            following = self.header(number + 1)
        except DataRefused:
            # Each of the two groups says it, so that one damaged group hides no end.
            header, digest = self._ended(number)
            return header.position_last, digest
        return following.position_first - 1, following.digest_previous

    @abstractmethod
    def _check_usable(self) -> None:
        """Raise what says why nothing can be read any more."""

    def read(
        self, from_group: int = 1, *, chain: bool = False
    ) -> Iterator[tuple[Header, memoryview]]:
        """Each group from `from_group` to the last, checked, with `chain` by digest as well.

        A body is valid until the next step. DataRefused names the first wrong group; the one
        before `from_group` is only looked at for what must follow it.
        """
        if from_group < 1:
            raise ValueError(f"groups begin at 1, not {from_group}")
        previous, digest = self._before(from_group)
        numbers = itertools.takewhile(
            lambda number: number <= self.group, itertools.count(from_group)
        )
        for number, value in self.values(numbers, READ_AHEAD_BYTES):
            header, body = read_group(value, number, self.cluster, previous)
            if chain:
                if digest is not None:
                    check_digest(header, digest)
                digest = digest_group(value[:HEADER_BYTES], body)
            yield header, body
            previous = header

    def _before(self, number: int) -> tuple[Header | None, bytes | None]:
        """What says what group `number` must follow: header and digest of the one before it.

        Nothing when that one is damaged: who reads from `number` on does not need it.
        """
        if number == 1:
            return None, bytes(DIGEST_BYTES)
        if number - 1 > self.group:
            return None, None
        try:
            return self._ended(number - 1)
        except DataRefused:
            return None, None

    def _ended(self, number: int) -> tuple[Header, bytes]:
        """Header of group `number`, all of which is checked, and its digest."""
        with contextlib.closing(self.values([number])) as values:
            value = next(values)[1]
            header, body = read_group(value, number, self.cluster)
            return header, digest_group(value[:HEADER_BYTES], body)

    def header(self, number: int) -> Header:
        """Of group `number`, whose body may be damaged. DataRefused when the header is."""
        with contextlib.closing(self.values([number])) as values:
            return read_header(next(values)[1], number, self.cluster)[0]

    def one(self, number: int) -> tuple[Header, bytes]:
        """Header and a copy of the body of group `number`, checked. DataRefused when damaged."""
        with contextlib.closing(self.values([number])) as values:
            header, body = read_group(next(values)[1], number, self.cluster)
            return header, bytes(body)

    def bodies(self, numbers: Iterable[int]) -> Iterator[tuple[int, memoryview, memoryview]]:
        """Number, body and block checks of each of the groups `numbers`, which ascend.

        The headers are checked and the blocks are not: whoever looks into a block checks it first.
        Valid until the next step. DataRefused names a damaged group, ValueError one not held.
        """
        for number, value in self.values(numbers):
            _, body, checks = read_header(value, number, self.cluster)
            yield number, body, checks

    # ---- records and bodies, past LMDB's own way ------------------------------------------------

    def records_at(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The record at each of the addresses, (n,) in any order: (n, 128).

        Zeros follow a record that is shorter than a transfer. NoRecord when no record of its kind
        is at an address, DataRefused names a damaged group, ValueError one not held.
        """
        order = np.argsort(addresses)
        ascending = addresses[order]
        records = np.empty((len(addresses), TRANSFER.itemsize), np.uint8)
        for number, body, checks in self.bodies(self._take(ascending, records)):
            bounds = np.array([number, number + 1], np.uint64) << np.uint64(_file.GROUP_SHIFT)
            first, end = np.searchsorted(ascending, bounds)
            whole = _file.BodyInMemory(body, checks, number)
            bad = whole.take(ascending[first:end], records[first:end])
            if bad == _file.NO_RECORD:
                raise NoRecord(number)
            check_block(number, bad)
        result = np.empty_like(records)
        result[order] = records
        return result

    def _take(self, ascending: NDArray[np.uint64], out: NDArray[np.uint8]) -> list[int]:
        """Read the records at these addresses directly from LMDB's file into `out`.

        The groups that could not be read this way, because they are damaged or for whatever other
        reason: the caller reads those through the journal, which names what is wrong.
        """
        left: list[int] = []
        cluster = self.cluster.to_bytes(16, "little")
        while len(ascending):
            with self._snapshot() as (file, snapshot):
                taken, some = _file.take_from(
                    file, snapshot, cluster, ascending, out, GROUPS_AT_ONCE_MAX
                )
            left += some
            ascending, out = ascending[taken:], out[taken:]
        return left

    @contextlib.contextmanager
    def open_body(self, number: int) -> Iterator[Body | None]:
        """The body of group `number`, of which is read from the file what is looked at.

        For a moment, as what a snapshot keeps. None when the group cannot be read this way: the
        caller reads it through bodies(), which names what is wrong.
        """
        with self._snapshot() as (file, snapshot):
            yield _file.open_body(file, snapshot, self.cluster.to_bytes(16, "little"), number)

    def read_ahead(self, extents: Iterable[tuple[int, int, int]]) -> None:
        """Ask the disk for transfers that will be looked at, and do not wait for them.

        Each extent is the address of its first transfer, the last group that it may reach into,
        and how many transfers it has.
        """
        with self._snapshot() as (file, snapshot):
            for address, group_last, count in extents:
                _file.read_ahead(file, snapshot, address, group_last, count)

    # ---- values ---------------------------------------------------------------------------------

    def values(
        self, numbers: Iterable[int], ahead_bytes: int = 0
    ) -> Generator[tuple[int, memoryview], None, None]:
        """Number and value of each of the groups `numbers`, which ascend; errors as of bodies().

        One buffer, valid until the next step. Of what follows in the file, the system is asked to
        read `ahead_bytes` meanwhile. The transaction is renewed between groups, since one that
        stays open keeps LMDB from reusing pages. Safe beside an append in another thread.
        """
        buffer = np.empty(GROUP_VALUE_BYTES_MAX, np.uint8).data
        wanted = iter(numbers)
        number = next(wanted, None)
        advised = 0  # as far the system was asked to read
        while number is not None:
            self._check_held(number)
            held = self.group  # what the transaction sees at the least
            deadline = time.monotonic() + READ_TRANSACTION_SECONDS_MAX
            with self._snapshot() as (file, snapshot):
                with told_as(number):
                    pages = Pages(file, snapshot)
                while True:
                    size, end = self._read(pages, file, number, buffer)
                    advised = advise(file, size, end, ahead_bytes, advised)
                    yield number, buffer[:size].toreadonly()
                    number = next(wanted, None)
                    if number is None or number > held or time.monotonic() > deadline:
                        break

    def _read(
        self, pages: Pages, file: int, number: int, buffer: memoryview
    ) -> tuple[int, int]:
        """Read the value of a group to `buffer`; its bytes, and where it ends in the file or 0."""
        with told_as(number):
            found = pages.find(key_of(number))
            if found is not None:
                size = min(found[1], len(buffer))  # what is longer is no group
                if self._read_at(file, buffer[:size], found[0]) < size:
                    raise DataRefused(f"group {number}: the file ends before it does")
                return size, found[0] + size
        # The library finds what our search of its pages does not.
        with self._transaction() as transaction:
            if (value := transaction.get(key_of(number))) is None:
                raise DataRefused(f"group {number} is missing")
            value = value[: len(buffer)]
            buffer[: len(value)] = value
            return len(value), 0

    def _read_at(self, file: int, buffer: memoryview, at: int) -> int:
        flags = self._large_flags if len(buffer) >= READ_LARGE_BYTES else 0
        try:
            return os.preadv(file, [buffer], at, flags)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not flags:
                raise
        self._large_flags = 0
        return os.preadv(file, [buffer], at)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[tuple[int, int]]:
        """A descriptor of LMDB's file, to read, and the number of a snapshot that keeps its pages.

        For a moment only: what stays open lets the file grow. Safe beside an append.
        """
        self._check_usable()
        try:
            with self._transaction() as transaction:
                yield self._file, transaction.id()
        except lmdb.Error as error:
            raise lmdb_error(str(self.directory), error) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Snapshot]:
        """What keeps the pages of the moment, and finds values in them."""
        with self._env.begin(buffers=True) as transaction:
            yield transaction

    def _check_held(self, number: int) -> None:
        if not 1 <= number <= self.group:
            raise ValueError(f"group {number} is not among the journal's {self.group}")
