"""Part: the journal's groups read again: in order, by number, whole or to look into.

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

from ledger import _past
from ledger.config import (
    GROUP_VALUE_BYTES_MAX,
    READ_AHEAD_BYTES,
    READ_LARGE_BYTES,
    READ_TRANSACTION_SECONDS_MAX,
)
from ledger.errors import DataRefused, DirectoryNotWritable, LedgerError, LedgerStopped
from ledger.group import (
    DIGEST_BYTES,
    HEADER_BYTES,
    Header,
    check_digest,
    digest_group,
    read_group,
    read_header,
)

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


def lmdb_error(where: str, error: lmdb.Error) -> LedgerError:
    if isinstance(error, _LMDB_DAMAGE):
        return DataRefused(f"{where}: damaged outside the groups ({error})")
    if isinstance(error, lmdb.ReadonlyError):
        return DirectoryNotWritable(f"cannot write {where}: {error}")
    return LedgerStopped(error)


@contextlib.contextmanager
def _told_as(number: int) -> Iterator[None]:
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
    _env: lmdb.Environment
    _file: int  # LMDB's file, open to be read
    _large_flags = RWF_DONTCACHE  # 0 where the system or the file system does not know it

    @property
    @abstractmethod
    def group(self) -> int:
        """Number of the last group."""

    @abstractmethod
    def _check_usable(self) -> None:
        """Raise what says why nothing can be read any more."""

    def read(
        self, from_group: int = 1, *, chain: bool = False
    ) -> Iterator[tuple[Header, memoryview]]:
        """Each group from `from_group` to the last, checked, with `chain` by digest as well.

        A body is valid until the next step. DataRefused names the first wrong group.
        """
        if from_group < 1:
            raise ValueError(f"groups begin at 1, not {from_group}")
        first = max(1, from_group - 1)  # the one before says what must follow
        numbers = itertools.takewhile(lambda number: number <= self.group, itertools.count(first))
        digest = bytes(DIGEST_BYTES) if first == 1 else None
        previous: Header | None = None
        for number, value in self.values(numbers, READ_AHEAD_BYTES):
            header, body = read_group(value, number, self.cluster, previous)
            if chain:
                if digest is not None:
                    check_digest(header, digest)
                digest = digest_group(value[:HEADER_BYTES], body)
            if number >= from_group:
                yield header, body
            previous = header

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
            with self.snapshot() as (file, snapshot):
                with _told_as(number):
                    pages = _past.Pages(file, snapshot)
                while True:
                    size, end = self._read(pages, file, number, buffer)
                    small = size < READ_LARGE_BYTES  # what is read at once needs no advice
                    if small and ahead_bytes and end + ahead_bytes // 2 >= advised:
                        os.posix_fadvise(file, end, ahead_bytes, os.POSIX_FADV_WILLNEED)
                        advised = end + ahead_bytes
                    yield number, buffer[:size].toreadonly()
                    number = next(wanted, None)
                    if number is None or number > held or time.monotonic() > deadline:
                        break

    def _read(
        self, pages: _past.Pages, file: int, number: int, buffer: memoryview
    ) -> tuple[int, int]:
        """Read the value of a group to `buffer`; its bytes, and where it ends in the file or 0."""
        with _told_as(number):
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
    def snapshot(self) -> Iterator[tuple[int, int]]:
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
