"""Tests of the sealed past's files: sealed, merged, found again at a start, refused, built anew."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from chaos.core_driver import new_core
from ledger.facts.errors import ColumnDamaged, DataRefused, DirectoryNotWritable, LedgerStopped
from ledger.history import _columns, segments
from ledger.history._columns import ColumnFile
from ledger.history.segments import History
from ledger.journal.journal import Journal
from tests.oracles.past_oracle import PastOracle, hash64, key_of
from tests.support import books
from tests.support.past_books import Sealed, busy


@pytest.fixture(autouse=True)
def four_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges that a book of few windows already needs."""
    monkeypatch.setattr(segments, "MERGED_AT_ONCE", 4)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return books.write(tmp_path_factory.mktemp("template") / "book", busy(150))


@pytest.fixture
def book(template: Path, tmp_path: Path) -> Iterator[Sealed]:
    """A book of some sixty groups, nothing of it sealed."""
    shutil.copytree(template, tmp_path / "book")
    groups = busy(150)
    opened = Sealed(tmp_path / "book", groups, PastOracle(groups))
    yield opened
    opened.close()


def segment(first: int, last: int) -> str:
    return f"segment-{first:016x}-{last:016x}"


def checkpoint(group: int) -> str:
    return f"checkpoint-{group:016x}"


def ranges(book: Sealed) -> list[tuple[int, int, int]]:
    return [(file.group_first, file.group_last, file.windows) for file in book.history.segments]


def write_checkpoint(book: Sealed, group: int, facts: bytes = b"facts") -> None:
    writer = book.history.checkpoint_writer(group, *book.journal.end_of(group))
    writer.column(_columns.ACCOUNTS, 160)
    writer.append(bytes([group]) * 320)
    writer.commit(facts)


def open_files() -> list[str]:
    descriptors = Path("/proc/self/fd")
    return [str(link.readlink()) for link in descriptors.iterdir() if link.is_symlink()]


def everything(book: Sealed) -> list[int]:
    """What is found of all ids."""
    return book.find([*book.oracle.by_id, *book.oracle.burned]).kinds.tolist()


# ---- sealing ------------------------------------------------------------------------------------


def test_the_key_is_the_books_own_and_the_same_at_every_start(book: Sealed) -> None:
    digest = book.journal.end_of(1)[1]
    key = hashlib.sha256(b"ledger index key" + digest).digest()[:16]
    assert book.history.hash_key == book.again().history.hash_key == key


def test_what_is_sealed_is_there_at_once_and_after_a_restart(book: Sealed) -> None:
    history = book.history
    assert (history.group, history.segments, history.covers(1)) == (0, (), False)
    book.seal(2, 5)
    assert ranges(book) == [(1, 5, 1), (6, 10, 1)]
    assert (history.group, history.covers(10), history.covers(11)) == (10, True, False)
    assert book.names() == [segment(1, 5), segment(6, 10)]
    again = book.again()
    assert ranges(again) == [(1, 5, 1), (6, 10, 1)] and again.history.warnings == []
    [file, _] = again.history.segments
    assert (file.position_last, file.digest) == again.journal.end_of(5)
    assert (file.kind, file.cluster) == (_columns.SEGMENT, books.CLUSTER)
    again.close()


def test_a_window_follows_the_one_before_it(book: Sealed) -> None:
    book.seal(1, 5)
    for first, last in ((1, 5), (5, 9), (7, 9)):
        with pytest.raises(ValueError, match=f"groups from {first} do not follow group 5"):
            book.history.seal(book.columns(first, last), first, last, *book.journal.end_of(last))
    assert book.names() == [segment(1, 5)]


def test_a_written_window_is_seen_when_it_is_added(book: Sealed) -> None:
    """In between it is durable: a restart sees it."""
    book.seal(1, 5)
    file = book.history.write(book.columns(6, 9), 6, 9, *book.journal.end_of(9))
    assert book.history.group == 5 and not book.history.covers(9)
    assert book.names() == [segment(1, 5), segment(6, 9)]
    book.history.add(file)
    assert ranges(book) == [(1, 5, 1), (6, 9, 1)]
    again = book.again()
    assert ranges(again) == [(1, 5, 1), (6, 9, 1)]
    again.close()


def test_all_hashes_of_all_ids(book: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "CHUNK_BYTES", 16 * 50)
    sealed = book.seal(4, 6)
    assert book.merge() == 1
    book.seal(1, 6)
    some = list(book.history.hashes())
    assert all(0 < len(hashes) <= 50 for hashes in some) and len(some) > 4
    key = key_of(book.history.hash_key)
    ids = [t.fields["id"] for t in book.oracle.until(sealed + 6)]
    ids += [id for id, (place, _) in book.oracle.burned.items() if place >> 20 <= sealed + 6]
    assert sorted(np.concatenate(some).tolist()) == sorted(hash64(key, id) for id in ids)


def test_the_same_history_makes_the_same_files(tmp_path: Path) -> None:
    groups = busy(40)
    made = []
    for name in ("one", "other"):
        book = Sealed.of(tmp_path / name, groups)
        book.seal(6, 2)
        book.merge()
        made.append({name: (book.state / name).read_bytes() for name in book.names()})
        book.close()
    assert made[0] == made[1]


# ---- merging ------------------------------------------------------------------------------------


def test_four_equal_neighbours_become_one_the_oldest_first(book: Sealed) -> None:
    for count in range(1, 22):
        book.seal(1, 2)
        book.merge()
        digits = [file.windows for file in book.history.segments]
        assert sum(digits) == count and sorted(digits, reverse=True) == digits
        assert [digits.count(4**power) for power in range(3)] == [
            count % 4, count // 4 % 4, count // 16
        ]  # fmt: skip
        names = [segment(file.group_first, file.group_last) for file in book.history.segments]
        assert book.names() == names
        assert ranges(book)[0][0] == 1 and book.history.group == 2 * count
        assert not [link for link in open_files() if "segment-" in link and "deleted" in link]
    assert not book.history.merge()


def test_merges_that_come_late_make_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = busy(60)
    late, prompt = Sealed.of(tmp_path / "late", groups), Sealed.of(tmp_path / "prompt", groups)
    late.seal(11, 2)
    digest = late.history.digest()
    monkeypatch.setattr(segments, "CHUNK_BYTES", 64)
    assert late.history.digest() == digest, "however much is read at once"
    assert [file.windows for file in late.history.segments] == [1] * 11
    before = everything(late)
    assert late.merge() == 2
    for _ in range(11):
        prompt.seal(1, 2)
        prompt.merge()
    files = {name: (late.state / name).read_bytes() for name in late.names()}
    assert files == {name: (prompt.state / name).read_bytes() for name in prompt.names()}
    assert late.history.digest() == prompt.history.digest() == digest
    assert everything(late) == before
    late.close()
    prompt.close()


def test_the_digest_is_of_every_record(tmp_path: Path) -> None:
    book = Sealed.of(tmp_path / "book", busy(30))
    digests = set()
    for column in range(1, 6):
        columns = book.columns(1, 5)
        # The last word of a record: a place, an outcome, a balance, a filter.
        columns[column] = columns[column].copy()
        columns[column].reshape(len(columns[column]), -1)[-1, -1] ^= 4
        book.history.seal(columns, 1, 5, *book.journal.end_of(5))
        digests.add(book.history.digest())
        segments.drop(book.directory)
        book = book.again()
    book.seal(1, 5)
    digests.add(book.history.digest())
    assert len(digests) == 6
    book.close()


# ---- what a crash leaves ------------------------------------------------------------------------


def test_what_a_merge_left_behind_goes(book: Sealed, tmp_path: Path) -> None:
    book.seal(5, 3)
    shutil.copytree(book.state, tmp_path / "before")
    assert book.merge() == 1
    for path in (tmp_path / "before").glob("segment-*"):
        shutil.copy(path, book.state)
    assert len(book.names()) == 6
    again = book.again()
    assert again.names() == [segment(1, 12), segment(13, 15)]
    assert ranges(again) == [(1, 12, 4), (13, 15, 1)] and again.history.warnings == []
    again.close()


def test_half_made_files_go_and_others_stay(book: Sealed) -> None:
    book.seal(2, 3)
    whole = (book.state / segment(4, 6)).read_bytes()
    (book.state / f".{segment(7, 9)}.creating").write_bytes(whole[:5000])
    (book.state / f".{checkpoint(6)}.creating").write_bytes(b"")
    (book.state / "segments.txt").write_text("not ours")
    (book.state / f"{segment(1, 9)}.damaged").write_bytes(whole)
    again = book.again()
    assert again.history.warnings == []
    left = [segment(1, 3), f"{segment(1, 9)}.damaged", segment(4, 6), "segments.txt"]
    assert again.names() == left
    again.close()


@pytest.mark.parametrize("windows", [0, 3])
def test_a_write_that_fails_leaves_what_was_there(book: Sealed, windows: int) -> None:
    sealed = book.seal(4, 3) if windows else 0
    if windows:
        write_checkpoint(book, sealed)
    names, digest = book.names(), book.history.digest()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for bytes_max in (0, 4096, 3 * 4096):
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                book.seal(1, 3)
            if windows:
                with pytest.raises(OSError, match="File too large"):
                    book.history.merge()
                with pytest.raises(OSError, match="File too large"):
                    writer = book.history.checkpoint_writer(sealed, *book.journal.end_of(sealed))
                    writer.column(_columns.HOLDS, 192)
                    writer.append(bytes(192 * 1000))
                    writer.commit(b"")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert book.names() == names and book.history.digest() == digest
    assert book.seal(1, 3) == sealed + 3
    assert book.merge() == (1 if windows else 0)


# ---- what is not whole --------------------------------------------------------------------------


def test_a_gap_ends_what_is_sealed(book: Sealed) -> None:
    book.seal(5, 3)
    write_checkpoint(book, 15)
    (book.state / segment(7, 9)).unlink()
    again = book.again()
    assert again.history.group == 6 and again.names() == [segment(1, 3), segment(4, 6)]
    assert again.history.checkpoint is None
    warnings = [warning.partition(": ") for warning in again.history.warnings]
    assert [Path(first.split()[0]).name for first, _, _ in warnings] == [
        segment(10, 12), segment(13, 15), checkpoint(15)
    ]  # fmt: skip
    assert {why for _, _, why in warnings[:2]} == {"nothing covers the groups after 6"}
    assert again.seal(3, 3) == 15
    again.close()


def flip(path: Path, at: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)


DAMAGES: list[Callable[[Path], object]] = [
    lambda path: flip(path, 3),
    lambda path: flip(path, 40),
    lambda path: flip(path, 4090),
    lambda path: path.write_bytes(b""),
    lambda path: os.truncate(path, 8192),
    lambda path: path.rename(path.with_name(segment(4, 99))),
    lambda path: path.rename(path.with_name(path.name + "0")),
    lambda path: path.rename(path.with_name(path.name.upper().replace("SEGMENT", "segment"))),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_segment_without_its_header_or_name_is_built_again(
    book: Sealed, damage: Callable[[Path], object]
) -> None:
    book.seal(4, 11)
    write_checkpoint(book, 44)
    damage(book.state / segment(0xC, 0x16))
    again = book.again()
    assert again.names() == [segment(1, 11)] and again.history.group == 11
    assert len(again.history.warnings) == 4
    assert all("is removed and will be built again: " in one for one in again.history.warnings)
    assert again.history.checkpoint is None
    again.close()


def test_a_checkpoint_without_its_header_goes_alone(book: Sealed) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 6)
    flip(book.state / checkpoint(6), 3)
    again = book.again()
    assert again.names() == [segment(1, 3), segment(4, 6)]
    assert again.history.checkpoint is None and len(again.history.warnings) == 1
    again.close()


# ---- what is another's --------------------------------------------------------------------------


def reopened(book: Sealed) -> History:
    with Journal.open(book.directory) as journal:
        return History(book.directory, journal)


def test_files_of_another_cluster_are_refused(book: Sealed, tmp_path: Path) -> None:
    book.seal(2, 3)
    book.close()
    books.write(tmp_path / "other", book.groups, cluster=8)
    shutil.copy(book.state / segment(1, 3), tmp_path / "other" / "state")
    with (
        Journal.open(tmp_path / "other") as journal,
        pytest.raises(
            DataRefused, match=r"is of cluster 7, the journal of 8: directories were mix"
        ),
    ):
        History(tmp_path / "other", journal)
    assert (tmp_path / "other" / "state" / segment(1, 3)).exists()


def test_a_journal_that_lost_groups_is_refused(book: Sealed) -> None:
    book.seal(2, 3)
    book.close()
    shutil.rmtree(book.directory / "journal")
    short = books.write(book.directory.with_name("short"), book.groups[:5])
    shutil.copytree(short / "journal", book.directory / "journal")
    half = book.state / f".{segment(7, 9)}.creating"
    half.touch()
    position = book.groups[4][0]["position_first"] + book.groups[4][0]["position_count"] - 1
    seen = book.groups[5][0]["position_first"] + book.groups[5][0]["position_count"] - 1
    with pytest.raises(DataRefused) as refused:
        reopened(book)
    assert str(refused.value) == (
        f"the journal ends at position {position} but {segment(4, 6)} says {seen}: the journal "
        "has lost acknowledged groups or directories were mixed; find the right one, or let "
        f"`ledger rebuild {book.directory}` make all that is derived from this journal (with "
        "--trust-journal when the head stamp is refused, too)"
    )
    assert half.exists(), "nothing is removed of what is refused"


@pytest.mark.parametrize("what", ["segments", "a checkpoint"])
def test_files_of_another_history_are_refused(book: Sealed, tmp_path: Path, what: str) -> None:
    groups = busy(151)
    other = Sealed.of(tmp_path / "other", groups)
    assert other.journal.group >= book.journal.group
    [book_last, other_last] = [one.journal.group for one in (book, other)]
    book.seal(1, book_last)
    other.seal(1, book_last)
    write_checkpoint(other, book_last)
    other.close()
    book.close()
    assert other_last >= book_last
    name = segment(1, book_last) if what == "segments" else checkpoint(book_last)
    shutil.copy(other.state / name, book.state / name)
    with pytest.raises(
        DataRefused,
        match=rf"group {book_last} is not the one that {name} saw end at position \d+: directories",
    ):
        reopened(book)


def test_what_cannot_be_removed_or_read(book: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    book.close()
    (book.state / f".{segment(7, 9)}.creating").touch()
    for error, raised in (
        (PermissionError(13, "no"), DirectoryNotWritable),
        (OSError(5, "no"), LedgerStopped),
    ):

        def fail(path: Path, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(raised):
            reopened(book)
        with pytest.raises(raised):
            segments.drop(book.directory)


# ---- damage found later -------------------------------------------------------------------------


def test_a_damaged_file_is_put_aside_and_built_again(book: Sealed) -> None:
    book.seal(5, 3)
    older = book.state / f"{segment(7, 9)}.damaged"
    older.touch()
    flip(book.state / segment(4, 6), 4096 + 7)
    with pytest.raises(ColumnDamaged) as damaged:
        everything(book)
    book.history.damaged(damaged.value)
    assert book.history.group == 15, "what is in memory does not forget it"
    assert not older.exists() and (book.state / f"{segment(4, 6)}.damaged").exists()
    again = book.again()
    assert again.history.group == 3
    assert again.names() == [segment(1, 3), f"{segment(4, 6)}.damaged"]
    assert again.seal(4, 3) == 15
    assert len(everything(again)) == len(again.oracle.by_id) + len(again.oracle.burned)
    again.close()


def test_a_merge_of_a_damaged_segment_leaves_it_as_it_is(book: Sealed) -> None:
    book.seal(4, 3)
    flip(book.state / segment(4, 6), 4096 + 7)
    names = book.names()
    with pytest.raises(ColumnDamaged, match=segment(4, 6)) as damaged:
        book.history.merge()
    assert book.names() == names
    book.history.damaged(damaged.value)
    book.history.damaged(damaged.value)  # it may be told twice


def test_every_page_of_every_file_is_verified(book: Sealed) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 6)
    seen = list(book.history.verify())
    assert [path.name for path, _ in seen] == [segment(1, 3), segment(4, 6), checkpoint(6)]
    assert [path.stat().st_size for path, _ in seen] == [size for _, size in seen]
    again = book
    for path, size in seen:
        for page in range(1, size // 4096):
            again = again.again()
            flip(path, page * 4096 + 9)
            with pytest.raises(ColumnDamaged, match=f"{path.name}: page {page} is damaged"):
                list(again.history.verify())
            flip(path, page * 4096 + 9)
    again.close()


# ---- checkpoints --------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_kept(book: Sealed) -> None:
    book.seal(4, 3)
    assert book.history.checkpoint is None
    for group in (5, 12, 12):
        write_checkpoint(book, group, f"facts {group}".encode())
    assert [name for name in book.names() if "check" in name] == [checkpoint(12)]
    again = book.again()
    file = again.history.checkpoint
    assert file is not None and (file.kind, file.group_last) == (_columns.CHECKPOINT, 12)
    assert (file.position_last, file.digest) == again.journal.end_of(12)
    assert file.facts == b"facts 12"
    assert file.records(_columns.ACCOUNTS, 0, 2).tobytes() == bytes([12]) * 320
    assert again.history.segments[0].group_first == 1
    again.close()


def test_an_older_checkpoint_that_a_crash_left_goes(book: Sealed, tmp_path: Path) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 5)
    shutil.copy(book.state / checkpoint(5), tmp_path)
    write_checkpoint(book, 6)
    shutil.copy(tmp_path / checkpoint(5), book.state)
    again = book.again()
    assert again.names() == [checkpoint(6), segment(1, 3), segment(4, 6)]
    assert again.history.warnings == []
    again.close()


def test_a_checkpoint_that_is_given_up_leaves_nothing(book: Sealed) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 3)
    writer = book.history.checkpoint_writer(6, *book.journal.end_of(6))
    writer.column(_columns.ACCOUNTS, 160)
    writer.append(bytes(160 * 1000))
    assert f".{checkpoint(6)}.creating" in book.names()
    writer.abandon()
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.append(bytes(160))
    assert book.names() == [checkpoint(3), segment(1, 3), segment(4, 6)]
    assert book.history.checkpoint is not None and book.history.checkpoint.group_last == 3


def test_a_checkpoint_needs_the_segments_before_it(book: Sealed) -> None:
    book.seal(2, 3)
    with pytest.raises(ValueError, match="no checkpoint of group 7: segments end with 6"):
        book.history.checkpoint_writer(7, *book.journal.end_of(7))
    write_checkpoint(book, 6)
    (book.state / segment(4, 6)).unlink()
    again = book.again()
    assert again.names() == [segment(1, 3)] and again.history.checkpoint is None
    again.close()


def test_a_damaged_checkpoint_is_forgotten(book: Sealed) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 6)
    file = book.history.checkpoint
    assert isinstance(file, ColumnFile)
    flip(Path(file.path), 4096 + 9)
    with pytest.raises(ColumnDamaged) as damaged:
        file.records(_columns.ACCOUNTS, 0, 2)
    book.history.damaged(damaged.value)
    assert book.history.checkpoint is None
    write_checkpoint(book, 6)
    assert book.names() == [
        checkpoint(6), f"{checkpoint(6)}.damaged", segment(1, 3), segment(4, 6)
    ]  # fmt: skip


# ---- dropping -----------------------------------------------------------------------------------


def test_all_of_it_can_be_dropped(book: Sealed) -> None:
    book.seal(2, 3)
    write_checkpoint(book, 6)
    (book.state / f".{segment(7, 9)}.creating").touch()
    (book.state / f"{segment(7, 9)}.damaged").touch()
    (book.state / "note.txt").touch()
    book.close()
    segments.drop(book.directory)
    assert book.names() == ["note.txt"]
    assert reopened(book).group == 0
    assert PastOracle(book.groups).transfers


# ---- with the core ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [4, 14, 21])
def test_what_the_core_says_of_its_windows(tmp_path: Path, seed: int) -> None:
    """It is what the oracle says, and what is sealed of it is what is sealed of the oracle's."""
    book = Sealed.of(tmp_path / "book", books.generated(seed, 400, 40))
    key = book.history.hash_key
    core = new_core(window_events=100)
    sealed = 0
    for fields, body in book.groups:
        core.replay(
            body,
            *(fields[name] for name in ("group", "position_first", "position_count")),
            *(fields[name] for name in ("clock_before", "clock_after")),
        )
        if core.memtable_full:
            core.rotate()
            [(first, last)] = core.memtables
            columns = core.memtable_columns(key, core.memtables[0][0])
            expected = book.oracle.columns(key, first, last)
            book.history.seal(columns, first, last, *book.journal.end_of(last))
            file = book.history.segments[-1]
            for column, records in expected.items():
                found = file.records(column, 0, file.count(column))
                assert found.tobytes() == records.tobytes(), (first, last, column)
                sealed += len(records)
            core.evict()
    assert sealed > 1000 and len(book.history.segments) > 3
    book.close()


def test_a_burned_id_that_shares_a_transfers_hash(book: Sealed) -> None:
    columns = book.columns(1, 5)
    hashed, place = columns[_columns.IDS][3].tolist()
    both = np.array([(hashed, place), (hashed, place - 8)], np.uint64)
    columns[_columns.IDS] = np.concatenate([columns[_columns.IDS], both[1:]])
    book.history.seal(columns, 1, 5, *book.journal.end_of(5))
    found = book.history.segments[0].lookup(_columns.IDS, np.array([hashed], np.uint64))[1]
    assert found.tolist() == [place - 8, place]
