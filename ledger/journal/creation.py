"""The creation of a book in one step: all of it is there, or nothing.

A book is built beside its place, or in a folder inside a directory that exists, all of it synced,
and renamed into place. What a killed creation leaves behind is removed by the next one. This file
opens no journal that exists and does not know what group 1 holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path

import lmdb
import numpy as np

from ledger.base.files import occupy_standard_descriptors, reserve_lock_file, sync
from ledger.facts.errors import DataRefused, DirectoryInUse, DirectoryNotWritable, LedgerError
from ledger.facts.limits import GROUP_VALUE_BYTES_MAX, MAP_BYTES
from ledger.journal.environment import open_lmdb
from ledger.journal.group import DIGEST_BYTES, Group, write_group
from ledger.journal.reader import READERS_MAX, data_path, key_of

CREATING = ".creating"  # where a book is made inside a directory that exists

_NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


def holds_book(directory: Path) -> bool:
    """Whether `directory` holds a book."""
    return data_path(directory).is_file()


def create(directory: Path, cluster: int, group: Group) -> None:
    """Make a book whose journal holds `group` as group 1: all of it is there, or nothing.

    A directory that exists stays the same one, since it may be where somebody is. DataRefused
    when it holds anything, DirectoryNotWritable when it or its parent cannot be written,
    DirectoryInUse when another is creating it, LedgerError otherwise.
    """
    if group.position_first != 1:
        raise ValueError(f"a book begins at position 1, not {group.position_first}")
    occupy_standard_descriptors()
    directory = directory.resolve()
    _check_vacant(directory)
    try:
        if directory.exists():
            _create_inside(directory, cluster, group)
        else:
            _create(directory, cluster, group)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            _check_vacant(directory)  # another was first
        why = f"cannot create {directory}: {error.strerror}"
        if error.errno in _NOT_WRITABLE:
            raise DirectoryNotWritable(why) from error
        raise LedgerError(why) from error
    except lmdb.Error as error:
        raise LedgerError(f"cannot create {directory}: {error}") from error


def _check_vacant(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise DataRefused(f"{directory} is not a directory")
    if holds_book(directory):
        raise DataRefused(f"{directory} already holds a book")
    found = sorted(entry.name for entry in directory.iterdir() if entry.name != CREATING)
    if found:
        names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise DataRefused(f"{directory} is not empty and holds no book; it holds {names}")


def _create(directory: Path, cluster: int, group: Group) -> None:
    """Build the book beside its place, all of it synced, and rename it there. One at a time."""
    temporary = directory.with_name(f".{directory.name}.creating")
    descriptor = _hold_folder(temporary)
    if descriptor is None:
        raise DirectoryInUse(f"{directory} is being created by another process")
    try:
        _check_vacant(directory)  # another may have been first
        _write_first(temporary, cluster, group)
        os.fsync(descriptor)
        temporary.rename(directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _create_inside(directory: Path, cluster: int, group: Group) -> None:
    """Build the book in a folder of `directory`, and rename its journal into place: it is there
    then. A killed creation leaves the folder, which the next one removes."""
    making = directory / CREATING
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryInUse(f"{directory} is being created by another process") from error
        _check_vacant(directory)  # another may have made it a moment ago
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(0o700)
        try:
            _write_first(making, cluster, group)
            (making / "journal").rename(directory / "journal")
            os.fsync(descriptor)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    finally:
        os.close(descriptor)


def _write_first(directory: Path, cluster: int, group: Group) -> None:
    journal, state = directory / "journal", directory / "state"
    journal.mkdir(0o700)
    state.mkdir(0o700)
    reserve_lock_file(journal)
    value = np.empty(GROUP_VALUE_BYTES_MAX, np.uint8)
    whole = write_group(value, cluster, 1, bytes(DIGEST_BYTES), group)[2]
    with (
        open_lmdb(journal, MAP_BYTES, READERS_MAX, create=True) as env,
        env.begin(write=True) as transaction,
    ):
        if not transaction.put(key_of(1), whole, append=True):
            raise LedgerError(f"{directory}: the new journal is not empty")
    for path in (data_path(directory), journal, state):
        sync(path)


def _hold_folder(path: Path) -> int | None:
    """Make an empty folder that only this process works in, until the descriptor that is returned
    is closed; None while another process works there. What a dead one left in it is removed."""
    while True:
        is_ours = False
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
            is_ours = True
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # whoever worked there has just moved it to its place
        except OSError:
            if is_ours:
                path.rmdir()
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                for left in path.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open folder still has this name."""
    held = os.fstat(descriptor)
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
