"""Tests of the head stamp: a journal that has lost groups, or is another's, is not taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lmdb
import pytest

from ledger.facts.errors import DataRefused
from ledger.journal import head_stamp
from ledger.journal.group import Group
from ledger.journal.head_stamp import Checkpoint, Stamp
from ledger.journal.journal import Journal


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of three groups, stamped at the second."""
    directory = tmp_path / "book"
    make(directory, b"s")
    return directory


def make(directory: Path, fill: bytes, cluster: int = 7) -> None:
    Journal.create(directory, cluster, Group(fill * 48, 1, 1, 1, 0, 100))
    with Journal.open(directory) as journal, Checkpoint(directory) as state:
        add(journal)
        stamp(state, journal)
        add(journal)


def add(journal: Journal) -> None:
    group = Group(b"b" * 64, journal.position + 1, 3, 1, journal.clock, journal.clock + 10)
    journal.append(journal.position, group)


def stamp(state: Checkpoint, journal: Journal) -> None:
    state.write(journal.cluster, journal.group, journal.position, journal.digest())


def verify(directory: Path) -> str | None:
    with Journal.open(directory) as journal, Checkpoint(directory) as state:
        return state.verify_against(journal)


def test_reads_back(book: Path) -> None:
    with Journal.open(book) as journal, Checkpoint(book) as state:
        assert state.read() == Stamp(7, 2, 4, journal.end_of(2)[1])


def test_a_journal_at_its_stamp_or_ahead_is_fine(book: Path) -> None:
    assert verify(book) is None
    with Journal.open(book) as journal, Checkpoint(book) as state:
        stamp(state, journal)
        assert state.verify_against(journal) is None


def test_a_journal_behind_its_stamp_is_refused(book: Path, tmp_path: Path) -> None:
    shutil.copytree(book, tmp_path / "backup")
    with Journal.open(book) as journal, Checkpoint(book) as state:
        add(journal)
        stamp(state, journal)
    shutil.rmtree(book / "journal")
    shutil.copytree(tmp_path / "backup" / "journal", book / "journal")
    with pytest.raises(DataRefused) as refused:
        verify(book)
    assert str(refused.value) == (
        "the journal ends at position 7 but the head stamp says 10: the journal has lost "
        "acknowledged groups or directories were mixed; only "
        f"`ledger rebuild {book} --trust-journal` goes on"
    )
    with Journal.open(book) as journal:
        head_stamp.rebuild(journal)
    assert verify(book) is None


@pytest.mark.parametrize("grown", [False, True])
def test_another_history_is_refused(book: Path, tmp_path: Path, grown: bool) -> None:
    make(tmp_path / "other", b"t")
    shutil.rmtree(book / "state")
    shutil.copytree(tmp_path / "other" / "state", book / "state")
    if grown:
        with Journal.open(book) as journal:
            add(journal)
    with pytest.raises(DataRefused, match=r"its group 2 is not the one .* position 4: director"):
        verify(book)


def test_another_cluster_is_refused(book: Path, tmp_path: Path) -> None:
    make(tmp_path / "other", b"s", cluster=8)
    shutil.rmtree(book / "state")
    shutil.copytree(tmp_path / "other" / "state", book / "state")
    with pytest.raises(DataRefused, match="is of cluster 8, the journal of 7"):
        verify(book)


@pytest.mark.parametrize("left", ["nothing", "an empty directory", "a half-made one"])
def test_a_missing_state_is_made_anew_and_told(book: Path, left: str) -> None:
    shutil.rmtree(book / "state")
    if left == "an empty directory":
        (book / "state").mkdir()
    if left == "a half-made one":
        (book / ".state.creating").mkdir()
        (book / ".state.creating" / "data.mdb").write_bytes(b"")
    warning = verify(book)
    assert warning is not None and "holds no head stamp" in warning
    assert not (book / ".state.creating").exists()
    with Journal.open(book) as journal, Checkpoint(book) as state:
        stamp(state, journal)
    assert verify(book) is None


def test_any_flipped_byte_of_the_stamp_is_refused(book: Path) -> None:
    with Checkpoint(book) as state, state._env.begin() as transaction:
        value = transaction.get(b"head")
    assert value is not None
    for index in range(len(value)):
        wrong = value[:index] + bytes([value[index] ^ 4]) + value[index + 1 :]
        put(book, wrong)
        with pytest.raises(DataRefused, match=r"state is damaged: the head stamp's check failed"):
            verify(book)
    put(book, value[:-1])
    with pytest.raises(DataRefused, match="check failed"):
        verify(book)
    put(book, value)
    assert verify(book) is None


def put(book: Path, value: bytes) -> None:
    path = str(book / "state")
    with lmdb.open(path, lib_version=0) as env, env.begin(write=True) as transaction:
        transaction.put(b"head", value)


def test_another_format_is_refused(book: Path) -> None:
    raw = b"LEDGHEAD" + (2).to_bytes(2, "little") + bytes(head_stamp._STAMP.size - 10)
    put(book, raw + head_stamp._check.aegis(raw))
    with pytest.raises(DataRefused, match="format 2, this software reads 1"):
        verify(book)


@pytest.mark.parametrize("kept", [0, 100, 8192])
def test_a_truncated_state_is_refused(book: Path, kept: int) -> None:
    os.truncate(book / "state" / "data.mdb", kept)
    with pytest.raises(DataRefused, match=rf"state is damaged: data\.mdb has {kept} bytes"):
        verify(book)


def test_a_state_that_is_not_lmdb_is_refused(book: Path) -> None:
    (book / "state" / "data.mdb").write_bytes(b"payments" * 4096)
    with pytest.raises(DataRefused, match=r"state is damaged: .*--trust-journal"):
        verify(book)
    with Journal.open(book) as journal:
        head_stamp.rebuild(journal)
    assert verify(book) is None
