"""Tests of the journal on a real LMDB: appending, reading, opening, refusing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.facts.errors import (
    DataRefused,
    DirectoryInUse,
    DirectoryNotWritable,
    Fenced,
    LedgerStopped,
    WrongProcess,
)
from ledger.facts.limits import (
    DIGEST_ASIDE_BYTES,
    DISK_RESERVE_BYTES,
    DISK_RESERVE_READS_BYTES,
    GROUP_VALUE_BYTES_MAX,
    READ_LARGE_BYTES,
)
from ledger.journal.group import Group, write_group
from ledger.journal.journal import Journal

CLUSTER = 7
FIRST = Group(b"s" * 48, 1, 1, 1, 0, 100)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    directory = tmp_path / "book"
    Journal.create(directory, CLUSTER, FIRST)
    return directory


def following(journal: Journal, body: bytes = b"b" * 64, count: int = 3) -> Group:
    return Group(body, journal.position + 1, count, 1, journal.clock, journal.clock + 10)


def add(journal: Journal, body: bytes = b"b" * 64, count: int = 3) -> int:
    return journal.append(journal.position, following(journal, body, count))


def raw_put(book: Path, number: int, value: bytes | None) -> None:
    """Put or (None) delete a value behind the journal's back."""
    path = str(book / "journal")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as write:
        key = number.to_bytes(8, "big")
        assert write.delete(key) if value is None else write.put(key, value)


def forged(number: int, digest: bytes, group: Group, cluster: int = CLUSTER) -> bytes:
    value = np.zeros(GROUP_VALUE_BYTES_MAX, np.uint8)
    return bytes(write_group(value, cluster, number, digest, group)[2])


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that knows Journal, Path and its arguments as a[1:]."""
    imports = "import sys\nfrom pathlib import Path\nfrom ledger.journal.journal import Journal\n"
    return subprocess.Popen(
        [sys.executable, "-c", f"{imports}a = sys.argv\n{code}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )


# ---- appending and reading ----------------------------------------------------------------------


def test_a_new_book(book: Path) -> None:
    with Journal.open(book, CLUSTER) as journal:
        assert (journal.cluster, journal.group, journal.position, journal.clock) == (7, 1, 1, 100)
        [(header, body)] = journal.read(chain=True)
        assert bytes(body) == FIRST.body and header.digest_previous == bytes(32)


def test_append_read_reopen(book: Path) -> None:
    with Journal.open(book) as journal:
        assert [add(journal, bytes([n]) * 4096 * n, n) for n in (1, 2, 3)] == [2, 3, 4]
        ends = [journal.end_of(number) for number in (1, 2, 3, 4)]
        assert [position for position, _ in ends] == [1, 2, 4, 7]
    with Journal.open(book, CLUSTER) as journal:
        assert (journal.group, journal.position, journal.clock) == (4, 7, 130)
        assert [journal.end_of(number) for number in (1, 2, 3, 4)] == ends
        assert [header.group for header, _ in journal.read(chain=True)] == [1, 2, 3, 4]
        assert [header.group for header, _ in journal.read(3, chain=True)] == [3, 4]
        assert journal.one(3)[1] == b"\2" * 8192
        assert list(journal.read(5)) == []
        assert add(journal) == 5


@settings(max_examples=25, deadline=None)
@given(
    bodies=st.lists(st.integers(1, 600), min_size=1, max_size=8),
    reopen=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 2**32),
    flip=st.tuples(st.integers(0, 8), st.integers(0, 10**9)),
)
def test_what_is_appended_is_read_and_any_flipped_bit_is_named(
    bodies: list[int], reopen: set[int], seed: int, flip: tuple[int, int]
) -> None:
    source = random.Random(seed)
    contents = [FIRST.body, *(source.randbytes(16 * size) for size in bodies)]
    with tempfile.TemporaryDirectory() as directory:
        book = Path(directory) / "book"
        Journal.create(book, CLUSTER, FIRST)
        journal = Journal.open(book)
        for index, body in enumerate(contents[1:]):
            if index in reopen:
                journal.close()
                journal = Journal.open(book)
            add(journal, body, source.randrange(1, 100))
        assert [bytes(body) for _, body in journal.read(chain=True)] == contents
        journal.close()

        number = 1 + flip[0] % len(contents)
        flip_bit(book, number, flip[1])
        with pytest.raises(DataRefused, match=rf"^group {number}\b"), Journal.open(book) as journal:
            for _ in journal.read():
                pass


def flip_bit(book: Path, number: int, bit: int) -> None:
    """Flip one bit of the group's value in the file, in every copy LMDB has left of its page."""
    with lmdb.open(str(book / "journal"), readonly=True, lib_version=0) as env, env.begin() as read:
        value = read.get(number.to_bytes(8, "big"))
    assert value is not None
    bit %= len(value) * 8
    wrong = bytearray(value)
    wrong[bit // 8] ^= 1 << bit % 8
    data = book / "journal" / "data.mdb"
    whole = data.read_bytes()
    assert value in whole
    data.write_bytes(whole.replace(value, wrong))


def test_reading_renews_its_transaction(book: Path) -> None:
    with Journal.open(book) as journal:
        for _ in range(3):
            add(journal)
        numbers = []
        for header, _ in journal.read():
            numbers.append(header.group)
            if header.group == 3:
                add(journal)  # while a reader stands in the journal
        assert numbers == list(range(1, 6))


def test_only_what_is_durable_is_read(book: Path) -> None:
    with Journal.open(book) as journal:
        add(journal)
        journal._end = journal._end._replace(
            group=journal.group - 1
        )  # as in the moment before the commit has returned
        assert [header.group for header, _ in journal.read()] == [1]
        with pytest.raises(ValueError, match="group 2 is not among"):
            journal.one(2)[1]


def test_a_group_of_another_history_breaks_the_chain(book: Path) -> None:
    with Journal.open(book) as journal:
        for _ in range(3):
            add(journal)
        other = Group(b"c" * 64, 2, 3, 1, 100, 110)
        digest = journal.end_of(1)[1]
    raw_put(book, 2, forged(2, digest, other))
    with Journal.open(book) as journal:
        assert len(list(journal.read())) == 4
        with pytest.raises(DataRefused, match=r"^group 3 \(positions 5-7\): holds another digest"):
            list(journal.read(chain=True))
        with pytest.raises(DataRefused, match="group 3 "):
            list(journal.read(3, chain=True))
        assert [header.group for header, _ in journal.read(4, chain=True)] == [4]


def test_a_missing_group_is_named(book: Path) -> None:
    with Journal.open(book) as journal:
        for _ in range(3):
            add(journal)
    raw_put(book, 3, None)
    with pytest.raises(DataRefused, match="the last group is 4, but the journal holds 3"):
        Journal.open(book)
    raw_put(book, 2**40, b"x")
    with pytest.raises(DataRefused, match="group 1099511627776"):
        Journal.open(book)


# ---- refusing an append -------------------------------------------------------------------------


def assert_stopped(journal: Journal, cause: type[BaseException], said: str) -> None:
    """Every later call gives the same cause."""
    for call in (lambda: add(journal), lambda: list(journal.read()), lambda: journal.one(1)[1]):
        with pytest.raises(LedgerStopped, match=said) as stopped:
            call()
        assert isinstance(stopped.value.cause, cause)


def test_another_expected_position_stops(book: Path) -> None:
    with Journal.open(book) as journal:
        with pytest.raises(LedgerStopped, match="ends at position 1, its writer expected 2"):
            journal.append(2, following(journal))
        assert_stopped(journal, Fenced, "expected 2")
    with Journal.open(book) as journal:
        assert journal.group == 1


@pytest.mark.parametrize("wrong", [{"position_first": 3}, {"clock_before": 99}])
def test_a_group_that_does_not_follow_stops(book: Path, wrong: dict[str, int]) -> None:
    with Journal.open(book) as journal:
        with pytest.raises(LedgerStopped, match="does not follow position 1, clock 100"):
            journal.append(1, following(journal)._replace(**wrong))
        assert_stopped(journal, ValueError, "does not follow")


def test_a_put_that_lmdb_refuses_stops(book: Path) -> None:
    with Journal.open(book) as journal:
        add(journal)
        journal._end = journal._end._replace(
            group=journal.group - 1
        )  # the key repeats: LMDB says so only by returning False
        with pytest.raises(LedgerStopped, match="already holds group 2"):
            add(journal)
        assert_stopped(journal, Fenced, "already holds group 2")
    with Journal.open(book) as journal:
        assert [header.group for header, _ in journal.read(chain=True)] == [1, 2]


def test_a_full_map_is_told_before_and_stops(book: Path) -> None:
    with Journal.open(book, map_bytes=1 << 20) as journal:
        refusal = journal.room().refusal
        assert refusal is not None and "left on the journal's map" in refusal
        with pytest.raises(LedgerStopped):
            for _ in range(100):
                add(journal, bytes(1 << 16))
        acknowledged = journal.group
        assert_stopped(journal, lmdb.MapFullError, "MDB_MAP_FULL")
    with Journal.open(book) as journal:
        assert journal.group == acknowledged
        add(journal)


def test_room(book: Path) -> None:
    with Journal.open(book, map_bytes=4 * DISK_RESERVE_BYTES) as journal:
        body = bytes(1 << 20)
        while (room := journal.room()).refusal is None:
            assert room.free_bytes >= DISK_RESERVE_BYTES and room.shut is None
            add(journal, body)
        assert room.shut is None, "what is needed to read is still taken"
        while (shut := journal.room()).shut is None:
            add(journal, body)
        assert shut.free_bytes < DISK_RESERVE_READS_BYTES and shut.refusal is not None
        assert "needed to start" in str(shut.shut)
        assert room.used_percent >= 70 and room.warn_percent in (70, 85, 95)
        assert add(journal, body)  # what is reserved is there for what was accepted


# ---- the digest worker --------------------------------------------------------------------------

LARGE = bytes(DIGEST_ASIDE_BYTES)


def test_digests_are_awaited_when_the_next_header_needs_them(book: Path) -> None:
    go = threading.Event()
    with ThreadPoolExecutor(1) as executor, Journal.open(book, digest_executor=executor) as journal:
        executor.submit(go.wait)
        assert add(journal, LARGE) == 2  # durable with its digest still to come
        assert isinstance(journal._end.digest, Future) and not journal._end.digest.done()
        go.set()
        assert add(journal) == 3
        assert isinstance(journal._end.digest, bytes), "not worth asking the worker for"
    with Journal.open(book) as journal:
        assert len(list(journal.read(chain=True))) == 3


def test_a_digest_worker_that_is_gone_stops(book: Path) -> None:
    executor = ThreadPoolExecutor(1)
    with Journal.open(book, digest_executor=executor) as journal:
        executor.shutdown()
        with pytest.raises(LedgerStopped):
            add(journal, LARGE)
        assert_stopped(journal, RuntimeError, "shutdown")


# ---- opening ------------------------------------------------------------------------------------


def test_lmdb_runs_in_the_mode_that_survives_power_loss(book: Path) -> None:
    with Journal.open(book) as journal:
        flags = journal._env.flags()
        assert flags["sync"] and flags["metasync"] and flags["lock"] and not flags["writemap"]
        assert journal._env.lib_version()[:2] == (0, 9)
        assert journal.reader_check() == 0


def test_another_cluster_is_refused(book: Path) -> None:
    with pytest.raises(DataRefused, match="is the book of cluster 7, not of 8"):
        Journal.open(book, 8)
    Journal.open(book, 7).close()


def test_another_format_is_refused(book: Path) -> None:
    value = bytearray(forged(1, bytes(32), FIRST))
    value[8] = 2
    raw_put(book, 1, bytes(value))
    with pytest.raises(DataRefused, match="format 2, this software reads 1"):
        Journal.open(book)


@pytest.mark.parametrize("kept", [0, 100, 8191, 8192, -4096, -1])
def test_a_truncated_file_is_refused(book: Path, kept: int) -> None:
    with Journal.open(book) as journal:
        add(journal, bytes(1 << 20))
    data = book / "journal" / "data.mdb"
    size = data.stat().st_size
    os.truncate(data, kept if kept >= 0 else size + kept)
    with pytest.raises(DataRefused, match=rf"has {data.stat().st_size} bytes"):
        Journal.open(book)


def test_a_file_that_is_not_lmdb_is_refused(book: Path) -> None:
    (book / "journal" / "data.mdb").write_bytes(b"payments" * 4096)
    with pytest.raises(DataRefused, match=r"data\.mdb: damaged"):
        Journal.open(book)


def test_no_book(tmp_path: Path) -> None:
    assert not Journal.exists(tmp_path)
    with pytest.raises(DataRefused, match=r"holds no book: .*data\.mdb is missing"):
        Journal.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_says_who_holds_it(book: Path) -> None:
    with child("Journal.open(Path(a[1])); print('open', flush=True); input()", book) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        with pytest.raises(DirectoryInUse, match=rf"in use by pid {holder.pid}: .*python"):
            Journal.open(book)
        with pytest.raises(DirectoryInUse):
            Journal.open(book, readonly=True)
        with Journal.open(book, readonly=True, locked=False) as journal:
            assert journal.position == 1
        holder.communicate("\n")
    Journal.open(book).close()


def test_a_reader_looks_on_while_the_book_is_served(book: Path) -> None:
    with Journal.open(book) as journal:
        add(journal)
        code = "print(len(list(Journal.open(Path(a[1]), readonly=True, locked=False).read())))"
        with child(code, book) as reader:
            assert reader.communicate()[0] == "2\n"
        add(journal)
        with pytest.raises(DirectoryInUse, match="in use: this process has it open already"):
            Journal.open(book)


def test_groups_are_read_where_the_system_cannot_leave_its_memory_alone(book: Path) -> None:
    """A flag of reading that this system does not know, as an older one does not know ours."""
    with Journal.open(book) as journal:
        for _ in range(5):
            add(journal, bytes(READ_LARGE_BYTES))
        assert [len(body) for _, body in journal.read()] == [48, *[READ_LARGE_BYTES] * 5]
        journal._large_flags = 1 << 30
        assert [len(body) for _, body in journal.read()] == [48, *[READ_LARGE_BYTES] * 5]
        assert journal._large_flags == 0


def test_readonly_appends_nothing(book: Path) -> None:
    with (
        Journal.open(book, readonly=True) as journal,
        pytest.raises(LedgerStopped, match="opened to be read"),
    ):
        add(journal)
    with pytest.raises(ValueError, match="only under its lock"):
        Journal.open(book, locked=False)


def test_a_forked_process_cannot_use_it(book: Path) -> None:
    with Journal.open(book) as journal:
        pid = os.fork()
        if pid == 0:
            refused = 0
            for call in (lambda: add(journal), lambda: list(journal.read()), journal.room):
                try:
                    call()
                except WrongProcess:
                    refused += 1
            journal.close()
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        with child("Journal.open(Path(a[1]))", book) as other:
            assert other.wait() != 0  # the child's close has not given up the lock
        assert add(journal) == 2


def test_closed_twice_and_then_not_usable(book: Path) -> None:
    journal = Journal.open(book)
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="is closed"):
        journal.room()


# ---- creating -----------------------------------------------------------------------------------


def test_create_in_an_empty_directory_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "book"
    directory.mkdir(0o750)
    Journal.create(directory, CLUSTER, FIRST)
    assert directory.stat().st_mode & 0o777 == 0o750
    assert (directory / "journal" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["book"]
    Journal.open(directory).close()


def test_create_refuses_what_is_not_empty(book: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="already holds a book"):
        Journal.create(book, 8, FIRST)
    Journal.open(book, CLUSTER).close()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").write_text("dear")
    with pytest.raises(DataRefused, match="is not empty and holds no book; it holds letters"):
        Journal.create(tmp_path / "home", CLUSTER, FIRST)
    with pytest.raises(DataRefused, match="is not a directory"):
        Journal.create(tmp_path / "home" / "letters", CLUSTER, FIRST)
    assert (tmp_path / "home" / "letters").read_text() == "dear"


def test_create_without_a_parent(tmp_path: Path) -> None:
    with pytest.raises(DirectoryNotWritable, match=r"cannot create .*No such file"):
        Journal.create(tmp_path / "no" / "book", CLUSTER, FIRST)


def test_create_removes_what_the_dead_left_and_not_what_the_living_make(tmp_path: Path) -> None:
    left, other = tmp_path / ".book.creating", tmp_path / ".book.creating-notes"
    for directory in (left, other):
        directory.mkdir()
        (directory / "journal").mkdir()
    code = (
        "import fcntl, os\nfd = os.open(a[1], os.O_RDONLY)\nfcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print('held', flush=True); input()"
    )
    with child(code, left) as creator:
        assert creator.stdout is not None and creator.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse, match="is being created by another process"):
            Journal.create(tmp_path / "book", CLUSTER, FIRST)
        assert (left / "journal").is_dir()
        creator.communicate("\n")
    Journal.create(tmp_path / "book", CLUSTER, FIRST)
    assert {entry.name for entry in tmp_path.iterdir()} == {"book", other.name}


def test_a_book_begins_at_position_1(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begins at position 1, not 2"):
        Journal.create(tmp_path / "book", CLUSTER, FIRST._replace(position_first=2))
    assert not any(tmp_path.iterdir())
