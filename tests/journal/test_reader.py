"""Tests of the journal's bodies: chosen groups read beside whoever appends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.journal import _check
from ledger.journal import reader as reading
from ledger.journal.group import Group
from ledger.journal.journal import Journal

GROUPS = 40


def body_of(number: int) -> bytes:
    """Some lie within a leaf of the tree, some over many pages."""
    return bytes([number]) * 16 * (number if number % 3 else 700 * number)


def add(book: Journal) -> int:
    group = Group(body_of(book.group + 1), book.position + 1, 3, 1, book.clock, book.clock + 10)
    return book.append(book.position, group)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    Journal.create(tmp_path / "book", 7, Group(body_of(1), 1, 1, 1, 0, 100))
    with Journal.open(tmp_path / "book") as book:
        for _ in range(GROUPS - 1):
            add(book)
    return tmp_path / "book"


@pytest.fixture
def book(directory: Path) -> Iterator[Journal]:
    with Journal.open(directory) as opened:
        yield opened


def damage(directory: Path, number: int, at: int) -> None:
    path = str(directory / "journal")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as write:
        value = bytearray(write.get(number.to_bytes(8, "big")))
        value[at] ^= 1
        assert write.put(number.to_bytes(8, "big"), bytes(value))


@pytest.mark.parametrize("numbers", [[], [1], [GROUPS], [2, 3, 17, 18, 40], range(1, GROUPS + 1)])
def test_bodies_of_the_groups_asked_for(book: Journal, numbers: list[int]) -> None:
    found = [(number, bytes(body), bytes(checks)) for number, body, checks in book.bodies(numbers)]
    assert found == [
        (number, body_of(number), _check.blocks(body_of(number), number)) for number in numbers
    ]


def test_a_body_is_mapped_memory(book: Journal) -> None:
    for _, body, checks in book.bodies([3]):
        assert body.readonly and checks.readonly
        with pytest.raises(TypeError):
            body[0] = 1


def test_only_groups_that_are_there(book: Journal) -> None:
    for number in (0, GROUPS + 1):
        with pytest.raises(ValueError, match=f"group {number} is not among the journal's 40"):
            list(book.bodies([number]))
    bodies = book.bodies([GROUPS, GROUPS + 1])
    assert next(bodies)[0] == GROUPS
    with pytest.raises(ValueError, match="group 41 is not among"):
        next(bodies)


def test_a_group_that_was_appended_after_the_first_was_read(book: Journal) -> None:
    bodies = book.bodies(iter([1, GROUPS + 1]))
    assert next(bodies)[0] == 1
    add(book)
    number, body, _ = next(bodies)
    assert (number, bytes(body)) == (GROUPS + 1, body_of(GROUPS + 1))


def seen_by_readers(book: Journal) -> list[int]:
    """The transaction that each reader sees."""
    lines = [line for line in book._env.readers().splitlines() if not line.endswith("-")]
    return [int(line.split()[2]) for line in lines if line.split()[0].isdigit()]


@pytest.mark.parametrize(("seconds", "renewed"), [(60.0, False), (0.0, True)])
def test_long_reading_renews_its_transaction(
    book: Journal, monkeypatch: pytest.MonkeyPatch, seconds: float, renewed: bool
) -> None:
    """A transaction that stays open would keep the file growing."""
    monkeypatch.setattr(reading, "READ_TRANSACTION_SECONDS_MAX", seconds)
    bodies = book.bodies(range(1, GROUPS + 1))
    assert next(bodies)[0] == 1
    first = seen_by_readers(book)
    add(book)
    assert [number for number, _, _ in (next(bodies), next(bodies))] == [2, 3]
    assert seen_by_readers(book) == [first[0] + renewed]
    bodies.close()
    assert seen_by_readers(book) == []


def test_a_damaged_header_is_refused_and_a_damaged_block_is_left_to_the_reader(
    directory: Path,
) -> None:
    damage(directory, 9, 40)
    damage(directory, 12, 256 + 5000)
    with Journal.open(directory) as book:
        assert [number for number, _, _ in book.bodies([8, 10])] == [8, 10]
        with pytest.raises(DataRefused, match="group 9: header check failed"):
            list(book.bodies([8, 9]))
        [(number, body, checks)] = book.bodies([12])
        assert _check.first_bad_block(body, checks, number) == 1


def test_a_missing_group_is_named(directory: Path) -> None:
    with Journal.open(directory) as book:
        with book._env.begin(write=True) as write:
            write.delete((9).to_bytes(8, "big"))
        with pytest.raises(DataRefused, match="group 9 is missing"):
            list(book.bodies([8, 9]))


def test_beside_the_thread_that_appends(book: Journal) -> None:
    stop = threading.Event()
    wrong: list[object] = []
    rounds = [0]

    def read() -> None:
        while not stop.is_set():
            last = book.group
            for number, body, checks in book.bodies(range(max(1, last - 20), last + 1)):
                if (
                    bytes(body) != body_of(number)
                    or _check.first_bad_block(body, checks, number) >= 0
                ):
                    wrong.append(number)
            rounds[0] += 1

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(60):
        add(book)
    stop.set()
    reader.join()
    assert wrong == [] and rounds[0] > 0


def test_a_journal_that_stopped_gives_nothing(book: Journal) -> None:
    with pytest.raises(LedgerStopped):
        book.append(book.position + 1, Group(b"b" * 16, 1, 1, 1, 0, 1))
    with pytest.raises(LedgerStopped):
        next(book.bodies([1]))
