"""What the LMDB environments of a book need of files beside LMDB: syncs, a lock file, and
descriptors that nobody writes to by habit.

Errors are the system's own, OSError with the path. It knows no journal and no record.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

LOCK_FILE_BYTES = 16 * 1024  # more than LMDB's for as many readers as a book has


def close(descriptor: int) -> None:
    """Close what a host may have closed before us: what follows is to be released all the same."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make a file, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_all(directory: Path) -> str | None:
    """A warning when everybody on this machine may write into the book in `directory`, or None."""
    parts = [directory, *(directory / name for name in ("journal", "journal/data.mdb", "state"))]
    found = [path for path in parts if path.exists() and path.stat().st_mode & stat.S_IWOTH]
    if not found:
        return None
    return (
        f"{', '.join(map(str, found))}: everybody on this machine may write there and so change or"
        " destroy the book: chmod -R o-w"
    )


def occupy_standard_descriptors() -> None:
    """See to it that no file opened from now on becomes descriptor 0, 1 or 2.

    A process that was started with these closed gives them to the next files it opens, and whatever
    prints (a library's warning, a crash report) would be written into a book. Where one is closed
    it becomes the null device, and stays that: a later file could land there as well.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)  # a child's files could land there too


def reserve_lock_file(environment: Path) -> None:
    """Give the lock file of the LMDB environment in this directory its space before LMDB opens it.

    LMDB writes that file through memory, and memory that the disk has no space for kills the
    process. A file that has its space is left alone: closing it would end this process's locks.
    """
    path = environment / "lock.mdb"
    if path.exists() and path.stat().st_blocks * 512 >= LOCK_FILE_BYTES:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, LOCK_FILE_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
