"""Verify: a clean book is clean, and whatever is done to one is found, with its first place."""

import mmap
import os
from pathlib import Path

import lmdb
import numpy as np
import pytest

from ledger.audit import verify as module
from ledger.audit.verify import Fault, Reading, rebuild, verify
from ledger.facts import errors
from ledger.facts.schema import JournalKind as K
from ledger.journal.group import Group, write_group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from tests.support import books


@pytest.fixture
def groups() -> books.Groups:
    return books.paid(12, 30)


def data(book: Path) -> Path:
    return book / "journal" / "data.mdb"


def flip(book: Path, number: int, offset: int) -> None:
    """Flip a bit of a group's value, where LMDB keeps it."""
    path = str(book / "journal")
    with lmdb.open(path, readonly=True, lock=False, lib_version=0) as env, env.begin() as read:
        value = read.get(number.to_bytes(8, "big"))
    assert value is not None
    whole = bytearray(data(book).read_bytes())
    place = bytes(whole).index(value[:256]) + offset
    whole[place] ^= 1
    data(book).write_bytes(whole)


def test_a_clean_book(tmp_path, groups):
    book = books.write(tmp_path / "book", groups)
    report = verify(book)
    with Journal.open(book) as journal:
        assert (report.cluster, report.groups) == (books.CLUSTER, journal.group)
        assert (report.position, report.clock_ns) == (journal.position, journal.clock)
        assert report.digest == journal.digest().hex()
    assert report.clean
    assert [total.ledger for total in report.ledgers] == [1, 2]
    assert report.records["transfer"] == len(books.places(groups, K.TRANSFER))
    driver = books.Driver()
    for header, body in books.headers(groups):
        driver.core.replay(body, *header[1:4], *header[5:7])
    assert report.state_hash == driver.core.state_hash().hex()


@pytest.mark.parametrize("seed", range(3))
def test_generated_books_are_clean(tmp_path, seed):
    book = books.write(tmp_path / "book", books.generated(seed, 200, 60))
    assert verify(book).clean


def test_a_cluster_of_128_bits_comes_back(tmp_path, groups):
    report = verify(books.write(tmp_path / "book", groups, 2**128 - 1))
    assert (report.cluster, report.clean) == (2**128 - 1, True)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("offset", [250, 300])
def test_a_flipped_bit_is_found_in_its_group(tmp_path, groups, number, offset):
    book = books.write(tmp_path / "book", groups)
    flip(book, number, offset)
    fault = verify(book).fault
    assert fault is not None
    assert fault.group == number
    assert fault.position == groups[number - 1][0]["position_first"]
    assert "check failed" in fault.why


@pytest.mark.parametrize("number", [1, -1])
def test_a_flipped_bit_at_either_end_is_found(tmp_path, groups, number):
    book = books.write(tmp_path / "book", groups)
    flip(book, number % (len(groups) + 1), 300)
    fault = verify(book).fault
    assert fault is not None
    assert f"group {number % (len(groups) + 1)} " in fault.why


def test_a_record_that_lies_under_good_checks(tmp_path, groups):
    altered, position = books.alter(groups, K.TRANSFER, 20, {"code": 0})
    book = books.write(tmp_path / "book", altered)
    fault = verify(book).fault
    assert fault is not None
    assert fault.position == position
    first = groups[fault.group - 1][0]["position_first"]
    assert first <= position < first + groups[fault.group - 1][0]["position_count"]


def used_again(groups: books.Groups, which: int) -> tuple[books.Groups, int]:
    """The same groups, where one transfer has the id of the first one, and its position."""
    index, offset, _ = books.places(groups, K.TRANSFER)[0]
    id = np.frombuffer(groups[index][1], "<u8", 2, offset)
    return books.alter(groups, K.TRANSFER, which, {"id": id})


def test_an_id_that_was_used_already(tmp_path, groups):
    altered, position = used_again(groups, 17)
    fault = verify(books.write(tmp_path / "book", altered)).fault
    assert fault is not None
    assert fault.position == position
    assert "id is used already" in fault.why


def group_of(groups: books.Groups, position: int) -> int:
    firsts = [fields["position_first"] for fields, _ in groups]
    return int(np.searchsorted(firsts, position, side="right"))


@pytest.mark.parametrize("window", [1, 40, 1 << 20])
def test_an_id_that_the_core_has_forgotten(tmp_path, monkeypatch, window):
    """The audit finds it at the end, however few transfers replay remembers."""
    monkeypatch.setattr(module, "WINDOW_EVENTS", window)
    page = mmap.mmap(-1, module._PAGE.size)
    groups = books.paid(40, 30)
    assert module._read_book(books.write(tmp_path / "clean", groups), page).clean
    altered, position = used_again(groups, 100)
    book = books.write(tmp_path / "book", altered)
    fault = module._read_book(book, page).fault
    assert (fault.group, fault.position) == (group_of(groups, position), position)
    assert "a transfer whose id is used already" in fault.why


@pytest.mark.parametrize("used", [40, 60, 80])
def test_a_forgotten_id_is_told_when_it_is_the_first_fault(tmp_path, monkeypatch, used):
    """Beside a record that is wrong, and a group that cannot be read."""
    monkeypatch.setattr(module, "WINDOW_EVENTS", 1)
    page = mmap.mmap(-1, module._PAGE.size)
    groups, position = used_again(books.paid(40, 30), used)
    altered, wrong = books.alter(groups, K.TRANSFER, 60 + (used == 60), {"code": 0})
    book = books.write(tmp_path / "record", altered)
    assert module._read_book(book, page).fault.position == min(position, wrong)
    book = books.write(tmp_path / "group", groups)
    damaged = group_of(groups, wrong)
    flip(book, damaged, 300)
    first = groups[damaged - 1][0]["position_first"]
    assert module._read_book(book, page).fault.position == min(position, first)


def test_an_id_that_was_used_already_behind_what_replay_refuses(tmp_path):
    groups, used = used_again(books.paid(40, 30), 100)
    altered, position = books.alter(groups, K.REQUEST, 20, {"client": (5, 0)})
    fault = verify(books.write(tmp_path / "book", altered)).fault
    assert fault.position == position < used
    assert "a session that is not open" in fault.why


@pytest.mark.parametrize("seed", range(3))
def test_holds_outlive_what_the_core_forgets(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(module, "WINDOW_EVENTS", 30)
    book = books.write(tmp_path / "book", books.generated(seed, 200, 60))
    report = module._read_book(book, mmap.mmap(-1, module._PAGE.size))
    assert report.clean
    assert report.state_hash == verify(book).state_hash


def test_the_first_of_two_faults_is_named(tmp_path, groups):
    altered, first = books.alter(groups, K.TRANSFER, 10, {"code": 0})
    index, offset, _ = books.places(groups, K.TRANSFER)[0]
    id = np.frombuffer(groups[index][1], "<u8", 2, offset)
    altered, second = books.alter(altered, K.TRANSFER, 30, {"id": id})
    assert first < second
    fault = verify(books.write(tmp_path / "book", altered)).fault
    assert fault is not None
    assert fault.position == first


def test_a_broken_digest_chain(tmp_path, groups):
    book = books.write(tmp_path / "book", groups)
    fields, body = groups[3]
    named = {name: value for name, value in fields.items() if name != "group"}
    value = np.zeros(1 << 21, np.uint8)
    whole = write_group(value, books.CLUSTER, 4, bytes(32), Group(body, **named))[2]
    path = str(book / "journal")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as put:
        put.put((4).to_bytes(8, "big"), bytes(whole))
    fault = verify(book).fault
    assert fault is not None
    assert (fault.group, fault.position) == (4, fields["position_first"])
    assert "digest" in fault.why


def test_a_journal_behind_its_stamp(tmp_path, groups):
    book = books.write(tmp_path / "book", groups[:-1])
    last = groups[-1][0]
    with Checkpoint(book) as checkpoint:
        checkpoint.write(
            books.CLUSTER, last["group"], last["position_first"] + last["position_count"], bytes(32)
        )
    report = verify(book)
    assert (report.clean, report.fault) == (False, None)
    assert "the journal has lost acknowledged groups" in str(report.stamp_fault)
    assert not rebuild(book).clean
    assert verify(book).clean


def test_a_journal_with_a_fault_is_not_trusted(tmp_path, groups):
    altered, _ = books.alter(groups, K.TRANSFER, 20, {"code": 0})
    book = books.write(tmp_path / "book", altered)
    assert rebuild(book).fault is not None
    assert not (book / "state" / "data.mdb").exists()


def test_no_stamp_is_a_warning(tmp_path, groups):
    report = verify(books.write(tmp_path / "book", groups))
    assert report.clean
    assert "no head stamp" in report.warnings[0]


def test_damage_below_the_groups_is_a_fault_and_not_a_crash(tmp_path, groups):
    """Whatever a page of LMDB is overwritten with, verify answers, and never says clean."""
    whole = data(books.write(tmp_path / "book", groups)).read_bytes()
    found = 0
    for page in range(2, len(whole) // 4096):
        book = tmp_path / f"book{page}"
        (book / "journal").mkdir(parents=True)
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 64] = b"\xff" * 64
        data(book).write_bytes(damaged)
        before = data(book).read_bytes()
        report = verify(book)
        assert data(book).read_bytes() == before
        found += not report.clean
        if report.clean:  # then it was a page of the past, which nothing refers to
            assert report.groups == len(groups)
    assert found >= len(groups), "each group begins on a page of its own"


def test_a_reader_that_dies_is_a_fault_with_a_place(tmp_path, groups, monkeypatch):
    """The child is killed as a bad page would kill it, in the middle of the book."""
    book = books.write(tmp_path / "book", groups)
    for name, value in books.at_group(tmp_path, 3, "SIGBUS").items():
        monkeypatch.setenv(name, value)
    report = verify(book)
    why = "the reader died with SIGBUS while reading group 3"
    assert report.fault == Fault(3, groups[2][0]["position_first"], why)


def test_a_directory_without_a_book(tmp_path):
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(errors.DataRefused, match="holds no book"):
            verify(missing)


def test_a_book_in_use(tmp_path, groups):
    book = books.write(tmp_path / "book", groups)
    holder = f"pid {os.getpid()}"
    with Journal.open(book), pytest.raises(errors.DirectoryInUse, match=holder):
        verify(book)


def test_progress_is_told(tmp_path, groups, monkeypatch):
    book = books.write(tmp_path / "book", groups)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    seen: list[Reading] = []
    verify(book, seen.append)
    assert seen and seen[-1].group <= len(groups)
    assert seen == sorted(seen)


def test_an_interrupted_verify_leaves_no_reader(tmp_path, groups, monkeypatch):
    book = books.write(tmp_path / "book", groups)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)

    def interrupt(_: Reading) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(book, interrupt)
    with Journal.open(book):
        pass


@pytest.mark.parametrize("chunk_groups", [1, 2, 5, 4096])
def test_the_first_fault_is_told_however_groups_are_audited_together(
    tmp_path, monkeypatch, chunk_groups
):
    """A record that the audit refuses, and a group, before or after it, that cannot be read."""
    monkeypatch.setattr(module, "CHUNK_GROUPS_MAX", chunk_groups)
    groups = books.paid(40, 30)
    page = mmap.mmap(-1, module._PAGE.size)
    told = set()
    for place in (0, 9, 100, len(books.places(groups, K.TRANSFER)) - 1):
        altered, position = books.alter(groups, K.TRANSFER, place, {"code": 0})
        book = books.write(tmp_path / f"book-{place}", altered)
        assert module._read_book(book, page).fault.position == position
        with Journal.open(book, readonly=True) as journal:
            damaged = journal.group // 2
            first = journal.one(damaged)[0].position_first
        flip(book, damaged, 300)
        fault = module._read_book(book, page).fault
        assert fault.position == min(position, first)
        assert (fault.group == damaged) or position < first
        told.add(position < first)
    assert told == {False, True}
