"""The one lock of a book: a flock on DIR/lock, which says who holds it; readers share it.

The text is taken out again by a clean close, so a text without a holder tells of a crash. A process
that the holder forked keeps the lock of a holder that was killed as long as it lives; it must not
release it. This file knows nothing of what the lock guards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger.base.files import close
from ledger.facts.errors import DataRefused, DirectoryInUse, DirectoryNotWritable

HOLDER_BYTES_MAX = 1024
COMMAND_CHARACTERS_MAX = 120  # of a holder's command line that are told


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
            holder = f"pid {os.getpid()}: {_short(sys.orig_argv)}"
            text = holder.encode(errors="surrogateescape")[:HOLDER_BYTES_MAX]
            os.ftruncate(self._fd, 0)
            if os.pwrite(self._fd, text, 0) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BlockingIOError as error:
            why = f"{directory} is in use{_holder(self._fd)}"
            os.close(self._fd)
            raise DirectoryInUse(why) from error
        except OSError as error:
            _let_go(self._fd)
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
        _let_go(self._fd)


class SharedLock:
    """While it is held nobody becomes the writer of a book; others may hold it, too.

    It needs no more than to read DIR/lock, and writes nothing. `warning` says when it cannot be
    had and a writer may be at work meanwhile, or is None. DirectoryInUse names a writer.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        self.warning: str | None = None
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = f"{directory} is in use{_holder(self._fd)}"
            self.release()
            raise DirectoryInUse(why) from error
        except OSError as error:
            self.release()
            if not _is_readonly(directory):
                self.warning = (
                    f"cannot lock {path} ({error.strerror}): should a server be at work, this is"
                    " the book as it was for a moment"
                )

    def release(self) -> None:
        if self._fd >= 0:
            _let_go(self._fd)
        self._fd = -1


def _let_go(lock: int) -> None:
    """Unlock and close: to close alone would leave the lock to the children that were forked."""
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)
    close(lock)


def _is_readonly(directory: Path) -> bool:
    """Whether nobody can serve what lies here."""
    with contextlib.suppress(OSError):
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    return False


def _short(words: Sequence[str]) -> str:
    """A command line on one line of bounded length."""
    if words:
        words = [Path(words[0]).name, *words[1:]]
    text = " ".join(shlex.join(words).split())
    return text if len(text) <= COMMAND_CHARACTERS_MAX else text[:COMMAND_CHARACTERS_MAX] + "..."


def _holder(lock: int) -> str:
    """Who holds the lock that this descriptor is of, as the system says or as the file does."""
    said = os.pread(lock, HOLDER_BYTES_MAX, 0).decode(errors="replace")
    pids = _lockers(lock)
    if os.getpid() in pids:
        return ": this process has it open already"
    if pids and not any(said.startswith(f"pid {pid}:") for pid in pids):
        # The text is of a holder that was killed, or this one may only read.
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pids[0]}/cmdline").read_bytes().decode(errors="replace")
            said = f"pid {pids[0]}: {_short(words.split(chr(0))[:-1])}"
    return f" by {said or 'another process'}"


def _lockers(lock: int) -> list[int]:
    """The processes with a flock on the same file that the system tells of; none of another pid
    namespace."""
    file = os.fstat(lock)
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    return [int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == place]
