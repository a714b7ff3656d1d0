"""Files: what LMDB needs of them, beside itself."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from ledger.base.files import LOCK_FILE_BYTES, reserve_lock_file, sync


def test_a_lock_file_has_its_space_before_lmdb_opens_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock.mdb"
    reserve_lock_file(tmp_path)
    assert lock.stat().st_blocks * 512 >= LOCK_FILE_BYTES
    before = lock.stat().st_blocks
    with lmdb.open(str(tmp_path), max_readers=126, lib_version=0) as env:
        assert env.info()["max_readers"] >= 126
        assert lock.stat().st_blocks == before, "LMDB needed more than was reserved"


TRY = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_the_locks_on_a_lock_file_survive(tmp_path: Path) -> None:
    """Closing a file ends all locks that the process has on it."""
    lock = tmp_path / "lock.mdb"
    lock.write_bytes(b"x" * LOCK_FILE_BYTES)
    sync(lock)  # its blocks are counted only now
    with lock.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        reserve_lock_file(tmp_path)
        tried = subprocess.run([sys.executable, "-c", TRY, lock], capture_output=True, text=True)
        assert "BlockingIOError" in tried.stderr


def test_a_hole_in_a_lock_file_is_filled(tmp_path: Path) -> None:
    with (tmp_path / "lock.mdb").open("wb") as file:
        file.truncate(LOCK_FILE_BYTES)
    reserve_lock_file(tmp_path)
    assert (tmp_path / "lock.mdb").stat().st_blocks * 512 >= LOCK_FILE_BYTES


def test_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing/lock\.mdb"):
        reserve_lock_file(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="missing"):
        sync(tmp_path / "missing")
