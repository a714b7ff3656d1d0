"""Tests of records taken from the journal's file: as LMDB has them, or their groups are left to it.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts.errors import LedgerStopped
from ledger.history import lookup
from ledger.journal import _check, _file, journal, reader
from ledger.journal.journal import Journal
from tests.support.journal_groups import (
    BLOCK_BYTES,
    HEADER_BYTES,
    SIZES,
    changed,
    create,
    group_of,
    made,
)
from tests.support.properties import bounded

SEGMENT: Any = SimpleNamespace(group_first=1, group_last=1 << 40, path="segment")


def records_of(places: list[int], counts: list[int]) -> list[bytes]:
    found = []
    for place in places:
        number, offset = place >> 20, (place >> 3 & 0x1FFFF) * 16
        size = (128, 32, 48, 48)[place & 7]
        found.append(made(number, counts[number - 1])[0][offset : offset + size].ljust(128, b"\0"))
    return found


def taken(book: Journal, places: list[int]) -> tuple[list[bytes], list[int]]:
    """The records at these places, and the groups that are left to the library."""
    out = np.full((len(places), 128), 7, np.uint8)
    left = book._take(np.array(sorted(places), np.uint64), out)
    return [row.tobytes() for row in out], left


class Slow(Journal):
    """A journal from whose file nothing can be taken: the library gives all of it."""

    def __init__(self, book: Journal) -> None:
        self.__dict__.update(book.__dict__)

    def _take(self, ascending: np.ndarray, out: np.ndarray) -> list[int]:
        self._check_usable()
        return np.unique(ascending >> np.uint64(20)).tolist()


def outcome(book: Any, places: list[int]) -> tuple[str, str] | list[bytes]:
    """The records, or what was raised."""
    try:
        found = lookup._records_at(book, SEGMENT, np.array(places, np.uint64))
        return [row.tobytes() for row in found]
    except Exception as error:
        return type(error).__name__, str(error)


COUNTS = [SIZES[n % len(SIZES)] for n in range(60)]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    directory = tmp_path_factory.mktemp("places") / "book"
    return directory, create(directory, COUNTS)


@pytest.fixture
def book(made_once: tuple[Path, list[int]]) -> Iterator[Journal]:
    with Journal.open(made_once[0], readonly=True) as opened:
        yield opened


@pytest.fixture
def all_places(made_once: tuple[Path, list[int]]) -> list[int]:
    return made_once[1]


# ---- what is perfect ----------------------------------------------------------------------------


def test_every_record_is_taken(book: Journal, all_places: list[int]) -> None:
    assert {place & 7 for place in all_places} == {0, 1, 2, 3}
    assert taken(book, all_places) == (records_of(all_places, COUNTS), [])
    assert taken(book, []) == ([], [])


@bounded(100)
@given(st.randoms(use_true_random=False))
def test_some_records_in_any_order(
    made_once: tuple[Path, list[int]], rng: random.Random
) -> None:
    directory, all_places = made_once
    places = rng.choices(all_places, k=rng.choice((1, 2, 10, 500)))
    groups = rng.sample(range(1, 61), rng.randrange(1, 61))
    chosen = [place for place in places if place >> 20 in groups]
    with Journal.open(directory, readonly=True) as book:
        assert outcome(book, chosen) == records_of(chosen, COUNTS) == outcome(Slow(book), chosen)
        assert taken(book, chosen)[1] == []


@bounded(12)
@given(st.lists(st.sampled_from(SIZES[:8]), min_size=1, max_size=400), st.integers(1, 50))
def test_books_of_any_groups(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], at_once: int
) -> None:
    directory = tmp_path_factory.mktemp("any") / "book"
    places = create(directory, counts)
    with pytest.MonkeyPatch.context() as patch, Journal.open(directory) as book:
        patch.setattr(reader, "GROUPS_AT_ONCE_MAX", at_once)
        assert taken(book, places) == (records_of(places, counts), [])


def test_what_memory_does_not_hold_comes_from_the_disk(
    book: Journal, all_places: list[int]
) -> None:
    places = random.Random(1).sample(all_places, 200)
    with book._snapshot() as (descriptor, _):
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert taken(book, places) == (records_of(sorted(places), COUNTS), [])


def test_little_is_read_of_a_long_group(book: Journal, all_places: list[int]) -> None:
    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    number = COUNTS.index(3000) + 1
    [place, *_] = [place for place in all_places if place >> 20 == number][1000:]
    before = read_bytes()
    nothing = read_bytes() - before
    before = read_bytes()
    assert taken(book, [place])[1] == []
    assert read_bytes() - before - nothing < 8 * BLOCK_BYTES < len(made(number, 3000)[0]) / 10


def test_beside_the_thread_that_appends(tmp_path: Path) -> None:
    counts = [SIZES[n % 9] for n in range(400)]
    create(tmp_path / "book", counts[:5])
    done = threading.Event()
    with Journal.open(tmp_path / "book") as book:

        def append() -> None:
            for number, count in enumerate(counts[5:], 6):
                book.append(number - 1, group_of(made(number, count)[0], number))
            done.set()

        writer = threading.Thread(target=append)
        writer.start()
        rounds = 0
        while not done.is_set():
            last = book.group
            places = [
                place
                for number in range(max(1, last - 30), last + 1)
                for place in made(number, counts[number - 1])[1][:3]
            ]
            assert outcome(book, places) == records_of(places, counts)
            rounds += taken(book, places)[1] == []
        writer.join()
    assert rounds > 3


# ---- what is not --------------------------------------------------------------------------------


def check_header(value: bytearray) -> None:
    value[240:256] = _check.aegis(bytes(value[:240]))


GROUPS = (1, 3, 6, 10, 11)  # within a leaf, whole, in parts


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, list[int]]:
    return tmp_path / "book", create(tmp_path / "book", list(SIZES))


def same_refusal(directory: Path, number: int, place: int, why: str) -> None:
    with Journal.open(directory, readonly=True) as book:
        refused = outcome(book, [place])
        assert refused == outcome(Slow(book), [place])
        assert refused[0] == "DataRefused" and why in refused[1], refused
        assert taken(book, [place])[1] == [number]


@pytest.mark.parametrize("number", GROUPS[1:-1])
def test_a_damaged_group_is_left_and_refused_as_ever(
    damaged: tuple[Path, list[int]], number: int
) -> None:
    """A flipped bit anywhere in a header; in the block that is needed; in its check."""
    directory, all_places = damaged
    places = [place for place in all_places if place >> 20 == number]
    for at in (*range(9), 16, 40, 104, 130, 200, 239, 240, 255):
        with changed(directory, number) as value:
            value[at] ^= 1
        why = "does not begin with a group header" if at < 8 else "header check failed"
        same_refusal(directory, number, places[0], why)
        with changed(directory, number) as value:
            value[at] ^= 1
    body_bytes = len(made(number, SIZES[number - 1])[0])
    offset = (places[-1] >> 3 & 0x1FFFF) * 16
    block = offset // BLOCK_BYTES
    for at in (HEADER_BYTES + offset, HEADER_BYTES + body_bytes + 8 * block):
        with changed(directory, number) as value:
            value[at] ^= 1
        same_refusal(directory, number, places[-1], f"group {number}: block {block} check failed")
        with changed(directory, number) as value:
            value[at] ^= 1
    with Journal.open(directory, readonly=True) as book:
        assert taken(book, places)[1] == []


@pytest.mark.parametrize(
    ("at", "byte", "why"),
    [
        (0, 2, "does not begin with a group header"),
        (8, 2, "format 2, this software reads 1"),
        (16, 9, "is of cluster 9, the book is of 7"),
        (40, 5, "lies in the place of group 3"),
        (96, 32, " 296 expected"),
    ],
)
def test_a_header_of_another_group(
    damaged: tuple[Path, list[int]], at: int, byte: int, why: str
) -> None:
    directory, all_places = damaged
    with changed(directory, 3) as value:
        value[at : at + 8] = bytes([byte]) + bytes(7)
        check_header(value)
    [place, *_] = [place for place in all_places if place >> 20 == 3]
    same_refusal(directory, 3, place, why)


@pytest.mark.parametrize("more", [-8, -1, 1, 8, 4104, 3 << 20])
@pytest.mark.parametrize("number", [3, 10])
def test_a_value_of_another_length(
    damaged: tuple[Path, list[int]], number: int, more: int
) -> None:
    directory, all_places = damaged
    with changed(directory, number) as value:
        value[:] = value + bytes(more) if more > 0 else value[:more]
    [place, *_] = [place for place in all_places if place >> 20 == number]
    same_refusal(directory, number, place, "expected")


def test_a_value_with_room_for_the_check_of_a_block_that_is_none(
    damaged: tuple[Path, list[int]],
) -> None:
    """Eight bytes more, after whole blocks only: a body as long would have been without them."""
    directory, _ = damaged
    body, places = made(12, 500)
    with Journal.open(directory) as book:
        book.append(11, group_of(body[: 8 * BLOCK_BYTES], 12))
        book.append(12, group_of(body, 13))
        assert taken(book, [places[0]])[1] == []
    with changed(directory, 12) as value:
        value += bytes(8)
    same_refusal(directory, 12, places[0], "expected")


def test_a_body_that_ends_where_no_place_reaches(damaged: tuple[Path, list[int]]) -> None:
    directory, all_places = damaged
    body = made(3, SIZES[2])[0].ljust(3 << 20, b"\0")
    with changed(directory, 3) as value:
        value[96:104] = len(body).to_bytes(8, "little")
        check_header(value)
        value[HEADER_BYTES:] = body + _check.blocks(body, 3)
    [place, *_] = [place for place in all_places if place >> 20 == 3]
    with Journal.open(directory, readonly=True) as book:
        assert taken(book, [place])[1] == [3]
        refused = outcome(book, [place])
        assert refused == outcome(Slow(book), [place])
        assert refused[0] == "DataRefused"
        assert refused[1].endswith("2097152 bytes, 3152128 expected")


def test_a_page_that_is_not_the_value_s(damaged: tuple[Path, list[int]]) -> None:
    """The library does not look at what comes before a value, and gives what follows."""
    directory, all_places = damaged
    places = [place for place in all_places if place >> 20 == 10]
    with Journal.open(directory) as book:
        with book._snapshot() as (descriptor, number):
            found = _file.Pages(descriptor, number).find((10).to_bytes(8, "big"))
            assert found is not None
        with (directory / "journal" / "data.mdb").open("r+b") as file:
            file.seek(found[0] - 16)
            file.write(b"\x01")
        assert taken(book, places)[1] == [10]
        assert outcome(book, places) == records_of(places, list(SIZES))


@pytest.mark.parametrize("size", [0, 8, 255, 256])
def test_a_value_that_is_no_group(damaged: tuple[Path, list[int]], size: int) -> None:
    with changed(damaged[0], 3) as value:
        value[:] = value[:size]
    same_refusal(damaged[0], 3, 3 << 20 | 1 << 3, "group 3")


def test_a_missing_group(damaged: tuple[Path, list[int]]) -> None:
    with Journal.open(damaged[0]) as book:
        with book._env.begin(write=True) as write:
            write.delete((3).to_bytes(8, "big"))
        assert outcome(book, [3 << 20 | 1 << 3]) == ("DataRefused", "group 3 is missing")


def test_only_what_is_wrong_is_left(damaged: tuple[Path, list[int]]) -> None:
    """The library is asked for two groups of eleven, and the first wrong one is named."""
    directory, all_places = damaged
    for number in (9, 5):
        with changed(directory, number) as value:
            value[HEADER_BYTES + 20] ^= 1
    with Journal.open(directory, readonly=True) as book:
        found, left = taken(book, all_places)
        assert left == [5, 9]
        for place, record, right in zip(
            all_places, found, records_of(all_places, list(SIZES)), strict=True
        ):
            assert place >> 20 in left or record == right
        assert outcome(book, all_places[::-1]) == (
            "DataRefused",
            "group 5: block 0 check failed",
        )


@pytest.mark.parametrize("number", [1, 3, 10, 11])
def test_a_place_where_no_record_is(book: Journal, number: int) -> None:
    body, places = made(number, COUNTS[number - 1])
    end = number << 20 | len(body) // 16 << 3
    wrong = [
        places[0] | 4,
        places[0] - (1 << 3),
        end - (1 << 3),
        end,
        end + (300 << 3),
        number << 20 | 0x1FFFF << 3,
    ]
    for place in wrong:
        refused = outcome(book, [places[0], place])
        assert refused == outcome(Slow(book), [places[0], place])
        assert refused[0] == "ColumnDamaged", hex(place)
        assert taken(book, [places[0], place])[1] == [number]


def test_a_group_that_the_journal_does_not_hold(book: Journal, all_places: list[int]) -> None:
    places = [all_places[0], 61 << 20 | 1 << 3]
    why = "group 61 is not among the journal's 60"
    assert outcome(book, places) == outcome(Slow(book), places) == ("ValueError", why)


def test_a_file_that_cannot_be_read_is_told(
    book: Journal, all_places: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.open(book.directory, os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(reader, "GROUPS_AT_ONCE_MAX", 7)
    with monkeypatch.context() as patch:
        patch.setattr(book, "_file", folder)
        assert taken(book, all_places)[1] == list(range(1, 61))
        why = "group 1: cannot be read: Is a directory"
        assert outcome(book, all_places) == ("DataRefused", why)
    os.close(folder)


# ---- the journal's side -------------------------------------------------------------------------


def seen_by_readers(book: Journal) -> list[str]:
    """The snapshot of each reader."""
    lines = [line for line in book._env.readers().splitlines() if not line.endswith("-")]
    return [line.split()[2] for line in lines if line.split()[0].isdigit()]


def test_a_snapshot_is_kept_while_it_is_open(damaged: tuple[Path, list[int]]) -> None:
    with Journal.open(damaged[0]) as book:
        with book._snapshot() as (_, number):
            assert seen_by_readers(book) == [str(number)]
        assert seen_by_readers(book) == []


def test_a_closed_or_stopped_journal_gives_nothing(damaged: tuple[Path, list[int]]) -> None:
    directory, all_places = damaged
    with Journal.open(directory) as book:
        descriptor = book._file
        assert not os.get_inheritable(descriptor)
        with pytest.raises(LedgerStopped):
            book.append(99, group_of(made(1, 1)[0], 1))
        with pytest.raises(LedgerStopped):
            taken(book, all_places)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with Journal.open(directory) as book:
        pass
    with pytest.raises(ValueError, match="is closed"):
        taken(book, all_places)


def test_a_journal_without_its_file_is_not_opened(
    damaged: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors may run out between LMDB's and ours."""
    real = os.open

    def none_left(path: Any, flags: int, *mode: int) -> int:
        if flags == os.O_RDONLY | os.O_CLOEXEC and str(path).endswith("data.mdb"):
            raise OSError(24, "Too many open files")
        return real(path, flags, *mode)

    monkeypatch.setattr(journal.os, "open", none_left)
    with pytest.raises(LedgerStopped, match="Too many open files"):
        Journal.open(damaged[0])
    monkeypatch.undo()
    Journal.open(damaged[0]).close()


def test_no_lock_is_on_the_file(book: Journal) -> None:
    """A closed descriptor takes this process's locks on its file with it."""
    locked = {
        int(line.split()[-3].split(":")[-1])
        for line in Path("/proc/locks").read_text().splitlines()
    }
    assert (book.directory / "journal" / "lock.mdb").stat().st_ino in locked
    assert (book.directory / "journal" / "data.mdb").stat().st_ino not in locked


def test_arrays_that_do_not_fit(book: Journal) -> None:
    places = np.array([1 << 20 | 1 << 3], np.uint64)
    with book._snapshot() as (file, number):
        for rows in ((0, 128), (2, 128), (1, 64)):
            with pytest.raises(ValueError, match="bytes for 1 records"):
                _file.take_from(file, number, bytes(16), places, np.zeros(rows, np.uint8), 1)
        out = np.zeros((1, 128), np.uint8)
        for cluster, at, groups in (
            (bytes(16), places[:0], 1),
            (b"", places, 1),
            (bytes(16), places, 0),
        ):
            with pytest.raises(ValueError, match="addresses"):
                _file.take_from(file, number, cluster, at, out[: len(at)], groups)
