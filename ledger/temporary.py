"""Edge: a real book in a directory of its own that is gone when it is closed, for tests.

Everything is as in any other book, the disk too. This file knows how a book is opened and closed,
and nothing of what is in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from ledger.book import AsyncBook, Book, open, open_async

_PREFIX = "ledger-book-"


def open_temporary(cluster: int = 0) -> Book:
    """A new book in the system's directory for temporary files; close() removes it.

    For tests: `with ledger.open_temporary() as book`. Errors as open's.
    """
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        book = open(directory, cluster)
    except BaseException:
        shutil.rmtree(directory)
        raise
    close, pid = book.close, os.getpid()

    def close_and_remove() -> None:
        try:
            close()
        finally:
            if os.getpid() == pid:  # a forked child has the book no more than any other
                shutil.rmtree(directory, ignore_errors=True)

    book.close = close_and_remove  # type: ignore[method-assign]
    return book


@contextlib.asynccontextmanager
async def open_temporary_async(cluster: int = 0) -> AsyncIterator[AsyncBook]:
    """As open_temporary, for `async with`: the book lives in the running loop."""
    directory = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        async with open_async(directory, cluster) as book:
            yield book
    finally:
        shutil.rmtree(directory, ignore_errors=True)
