"""Leaf: the one lock of a book: a flock on DIR/lock, which says who holds it.

The text is taken out again by a clean close, so a text without a holder tells of a crash. A process
that the holder forked keeps the lock as long as it lives. This file knows nothing of what the lock
guards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import sys
from pathlib import Path

from ledger.errors import DataRefused, DirectoryInUse, DirectoryNotWritable

HOLDER_BYTES_MAX = 1024


class Lock:
    """The lock of one book, held by this process from here on until `release`.

    `was_clean` says whether whoever held it before gave it up. DirectoryInUse names the holder,
    DirectoryNotWritable when the lock's file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        path = self._path = directory / "lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DirectoryNotWritable(f"cannot lock {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(self._fd)
            self.was_clean = held.st_size == 0
            self._identity = held.st_dev, held.st_ino
            holder = f"pid {os.getpid()}: {shlex.join(sys.orig_argv)}".encode()[:HOLDER_BYTES_MAX]
            os.ftruncate(self._fd, 0)
            if os.pwrite(self._fd, holder, 0) != len(holder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BlockingIOError as error:
            holder = os.pread(self._fd, HOLDER_BYTES_MAX, 0)
            os.close(self._fd)
            who = holder.decode(errors="replace") or "another process"
            raise DirectoryInUse(f"{directory} is in use by {who}") from error
        except OSError as error:
            os.close(self._fd)
            raise DirectoryNotWritable(f"cannot write {path}: {error.strerror}") from error

    def check(self) -> None:
        """DataRefused when the file is not at its place any more: another could take the book."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            raise DataRefused(f"{self._path} was taken away while the book was in use") from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise DataRefused(f"another file was put in the place of {self._path}")

    def release(self, clean: bool) -> None:
        """Give the lock up; unless `clean`, the next to hold it will know of a crash."""
        with contextlib.suppress(OSError):
            if clean:
                os.ftruncate(self._fd, 0)
        os.close(self._fd)
