"""A real book in a directory of its own that is gone with it, for tests.

Gone when it is closed, when it is dropped, and when the interpreter ends; a kill leaves it.
Everything else is as in any other book, the disk too. This file knows how a book is opened and
closed, and nothing of what is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from ledger.facts.errors import system_limit
from ledger.host.book import AsyncBook, Book, make_desk
from ledger.host.desk import Desk

_PREFIX = "ledger-book-"
_DESCRIPTORS = 8  # with which a directory can be made and removed again


class _Temporary(Book):
    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._finalizer.atexit = True

    @staticmethod
    def _dropped(desk: Desk) -> None:
        Book._dropped(desk)
        _remove(desk)

    def close(self) -> None:
        """As Book.close; the directory is removed."""
        try:
            super().close()
        finally:
            _remove(self._desk)


class _AsyncTemporary(AsyncBook):
    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(desk, loop)
        self._finalizer.atexit = True

    @staticmethod
    def _dropped(desk: Desk) -> None:
        AsyncBook._dropped(desk)
        _remove(desk)

    async def close(self) -> None:
        """As Book.close; the directory is removed."""
        try:
            await super().close()
        finally:
            _remove(self._desk)


def open_temporary(cluster: int = 0) -> Book:
    """A new book in the system's directory for temporary files; close() removes it.

    For tests: `with ledger.open_temporary() as book`. It is removed, too, when the book is dropped
    or the interpreter ends. Errors as open's.
    """
    directory = _directory()
    try:
        return _Temporary(make_desk(directory, cluster))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


@contextlib.asynccontextmanager
async def open_temporary_async(cluster: int = 0) -> AsyncIterator[AsyncBook]:
    """As open_temporary, for `async with`: the book lives in the running loop."""
    directory = _directory()
    try:
        book = _AsyncTemporary(make_desk(directory, cluster), asyncio.get_running_loop())
        try:
            await book._open()
            yield book
        finally:
            await book.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _directory() -> Path:
    """A new one. SystemLimit when there are too few descriptors even to remove it again."""
    held: list[int] = []
    try:
        while len(held) < _DESCRIPTORS:
            held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise system_limit(error) or error from error
    finally:
        for descriptor in held:
            os.close(descriptor)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


def _remove(desk: Desk) -> None:
    if os.getpid() == desk.pid:  # a forked child has the book no more than any other
        shutil.rmtree(desk.path, ignore_errors=True)
