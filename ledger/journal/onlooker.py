"""A journal that is only looked at: LMDB's file read without the library.

An onlooker needs no more than to read DIR/journal/data.mdb: it opens no environment, takes no
reader's slot and no lock of LMDB's, maps nothing and writes nothing. So it works on read-only
media, for who may only read, beside a server in another container, and no start of a server
depends on it. The journal only grows, so a group's own pages never change; LMDB's pages that lead
to it, and a group small enough to lie on one of them, may be written over once the snapshot is two
commits old. What does not check is therefore looked up again in the newest snapshot, and called
damaged when that is still the same one. This file knows neither records nor who holds the book.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ledger.facts.errors import DataRefused, DirectoryNotReadable, LedgerError
from ledger.facts.limits import GROUP_VALUE_BYTES_MAX, ONLOOKER_TRIES_MAX
from ledger.journal import _file, _tree
from ledger.journal.group import HEADER_BYTES, End, digest_group, read_group, read_header
from ledger.journal.reader import (
    META_BYTES,
    Reading,
    advise,
    check_size,
    data_path,
    key_of,
    told_as,
)

T = TypeVar("T")


class NoBook(DataRefused):
    """There is no journal."""


class LmdbFile:
    """A file of LMDB's as its newest snapshot has it; FileNotFoundError when it is not there.

    DataRefused names the file and what is damaged in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = _opened(path)
        self._snapshot = -1
        try:
            self._check_begins()
            self.renew()
        except BaseException:
            self.close()
            raise

    def renew(self) -> bool:
        """Go on with the newest snapshot; whether it is another one."""
        before = self._snapshot
        try:
            found = _tree.newest(self.descriptor)
        except DataRefused as error:
            raise DataRefused(f"{self.path}: damaged outside the groups ({error})") from error
        except OSError as error:
            raise LedgerError(f"cannot read {self.path}: {error.strerror}") from error
        self._snapshot, self.page_bytes, self.page_last, self.keys = found
        self._pages = _file.Pages(self.descriptor, self._snapshot)
        return self._snapshot != before

    def settled(self, look: Callable[[], T]) -> T:
        """What `look` returns. It is called again while a newer snapshot explains what it raises.
        """
        tries = ONLOOKER_TRIES_MAX
        while True:
            tries -= 1
            try:
                return look()
            except DataRefused:
                if tries == 0 or not self.renew():
                    raise

    def _check_begins(self) -> None:
        status = os.fstat(self.descriptor)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise NoBook(f"{self.path} is no file")
        if size < META_BYTES:
            raise DataRefused(f"{self.path} has {size} bytes: its beginning is missing")

    def check_size(self) -> None:
        """Refuse a file without its end."""
        size = os.fstat(self.descriptor).st_size
        check_size(self.path, size, self.page_last + 1, self.page_bytes)

    def find(self, key: bytes) -> tuple[int, int] | None:
        """Where the value of a key lies, and its bytes."""
        return self._pages.find(key)

    def value(self, key: bytes) -> bytes | None:
        """A copy of a small value; None when the file holds nothing."""
        return self.settled(partial(self._value, key))

    def _value(self, key: bytes) -> bytes | None:
        if self.keys == 0:
            return None
        found = self.find(key)
        if found is None or found[1] > self.page_bytes:
            raise DataRefused(f"{self.path}: its pages lead to no {key!r}")
        return os.pread(self.descriptor, found[1], found[0])

    def last_key(self) -> bytes:
        return self._tree(_tree.last_key)

    def free_pages(self) -> NDArray[np.uint64]:
        """The pages that the next commits may write to."""
        return self._tree(_tree.free_pages)

    def _tree(self, ask: Callable[[int, int], T]) -> T:
        try:
            return ask(self.descriptor, self._snapshot)
        except DataRefused as error:
            raise DataRefused(f"{self.path}: damaged outside the groups ({error})") from error

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Onlooker(Reading):
    """The journal of one book as it is when it is opened, up to the last group then.

    DataRefused, DirectoryNotReadable, or LedgerError for an I/O error.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        try:
            self._lmdb = LmdbFile(data_path(self.directory))
        except (FileNotFoundError, NotADirectoryError) as error:
            path = data_path(self.directory)
            raise NoBook(f"{self.directory} holds no book: {path} is missing") from error
        self._file = self._lmdb.descriptor
        self._free: NDArray[np.uint64] | None = None
        self._buffer = np.empty(GROUP_VALUE_BYTES_MAX, np.uint8).data
        try:
            self._lmdb.settled(self._find_ends)
        except BaseException:
            self.close()
            raise

    def _find_ends(self) -> None:
        """Check the first and the last group, and take cluster, position, clock and digest."""
        lmdb = self._lmdb
        lmdb.check_size()
        if lmdb.keys == 0:
            raise DataRefused(f"{self.directory}: the journal holds no group")
        last = lmdb.last_key()
        number = int.from_bytes(last, "big")
        if last != key_of(number & (1 << 64) - 1):
            raise DataRefused(f"{lmdb.path}: the last key is {last[:16].hex()}, of no group")
        value = self._value(1, self._buffer)[0]
        self.cluster = read_group(value, 1)[0].cluster
        value = self._value(number, self._buffer)[0]
        header, body = read_group(value, number, self.cluster)
        if lmdb.keys != number:
            raise DataRefused(
                f"{self.directory}: the last group is {number}, but the journal holds {lmdb.keys}"
            )
        digest = digest_group(value[:HEADER_BYTES], body)
        self._end = End(number, header.position_last, header.clock_after, digest)

    def check_free_pages(self) -> None:
        """Refuse trees that the next commit would damage, and from now on such groups.

        For a journal that nobody writes: what is free changes with each commit.
        """
        self._free = self._lmdb.free_pages()

    def values(
        self, numbers: Iterable[int], ahead_bytes: int = 0
    ) -> Generator[tuple[int, memoryview], None, None]:
        """As Reading.values; what a writer may have written over is checked, too."""
        buffer = np.empty(GROUP_VALUE_BYTES_MAX, np.uint8).data
        advised = 0
        for number in numbers:
            self._check_usable()
            self._check_held(number)
            value, end = self._lmdb.settled(partial(self._settled_value, number, buffer))
            advised = advise(self._file, len(value), end, ahead_bytes, advised)
            yield number, value.toreadonly()

    def _settled_value(self, number: int, buffer: memoryview) -> tuple[memoryview, int]:
        value, end = self._value(number, buffer)
        if len(value) < self._lmdb.page_bytes:
            read_group(value, number, self.cluster)
        else:
            read_header(value, number, self.cluster)
        return value, end

    def _value(self, number: int, buffer: memoryview) -> tuple[memoryview, int]:
        """The value of a group as it lies in the file, and where it ends there."""
        with told_as(number):
            found = self._lmdb.find(key_of(number))
            if found is None:
                path = self._lmdb.path
                raise DataRefused(f"group {number} is missing: no page of {path} leads to it")
            at, size = found[0], min(found[1], len(buffer))
            if self._read_at(self._file, buffer[:size], at) < size:
                raise DataRefused(f"group {number}: the file ends before it does")
        self._check_not_free(number, at, at + size)
        return buffer[:size], at + size

    def _check_not_free(self, number: int, begin: int, end: int) -> None:
        if self._free is None:
            return
        pages = (begin // self._lmdb.page_bytes, (end - 1) // self._lmdb.page_bytes)
        low, high = np.searchsorted(self._free, pages[0]), np.searchsorted(self._free, pages[1] + 1)
        if low != high:
            raise DataRefused(
                f"group {number} lies on page {self._free[low]} of {self._lmdb.path}, which is in"
                " the list of free pages: the next payment may be written over it"
            )

    def close(self) -> None:
        self._lmdb.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._lmdb.descriptor < 0:
            raise ValueError(f"the journal of {self.directory} is closed")


def _opened(path: Path) -> int:
    """A descriptor to read a file; FileNotFoundError and NotADirectoryError as they are."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise DirectoryNotReadable(f"cannot read {path}: {error.strerror}") from error
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from error
