"""Tests of what a query reads of the journal's file: as all of a group says, and no more of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.facts.errors import DataRefused
from ledger.history import _scan, lookup
from ledger.journal import _file
from ledger.journal.journal import Journal
from tests.support.journal_groups import BLOCK_BYTES, HEADER_BYTES, SIZES, changed, create, made
from tests.support.properties import bounded

ANY = schema.pack_query_filters([schema.QueryFilter()]).tobytes()
TIMESTAMP_MAX = 2**63 - 1
LARGE = 3000  # transfers in the largest group

Wanted = tuple[bytes, int, int, int, bool]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scans") / "book"
    create(directory, list(SIZES))
    return directory


@pytest.fixture
def book(directory: Path) -> Iterator[Journal]:
    with Journal.open(directory, readonly=True) as opened:
        yield opened


def scanned(
    book: Journal, number: int, likely: tuple[int, int], wanted: Wanted
) -> list[bytes] | None:
    with book.open_body(number) as body:
        if body is None:
            return None
        found, bad = _scan.scan(body, *wanted, *likely)
    return [row.tobytes() for row in found] if bad == _file.INTACT else None


def transfers_of(number: int) -> np.ndarray:
    """The transfers of a group, with their places."""
    count = SIZES[number - 1]
    body, places = made(number, count)
    return np.frombuffer(body, schema.TRANSFER, count, (places[0] >> 3 & 0x1FFFF) * 16)


def expected(number: int, wanted: Wanted, code: int) -> list[bytes]:
    _, first, last, limit, newest_first = wanted
    found = [
        row.tobytes()
        for row in transfers_of(number)
        if first <= row["timestamp"] <= last and code in (0, row["code"])
    ]
    return (found[::-1] if newest_first else found)[:limit]


@bounded(150)
@given(st.randoms(use_true_random=False))
def test_the_same_as_of_all_of_the_group(directory: Path, rng: random.Random) -> None:
    """Whatever is said of where the stretch probably begins, and how long it probably is."""
    number = rng.randrange(1, len(SIZES) + 1)
    rows, places = transfers_of(number), made(number, SIZES[number - 1])[1]
    at, count = rng.randrange(len(rows)), rng.randrange(1, len(rows) + 1)
    first, last = int(rows["timestamp"][at]), int(rows["timestamp"][min(len(rows), at + count) - 1])
    first, last = first + rng.choice((0, 0, -1, 1)), last + rng.choice((0, 0, -1, 1))
    if rng.random() < 0.2:
        first, last = 0, TIMESTAMP_MAX
    code = rng.choice((0, int(rng.choice(rows["code"].tolist()))))
    asked = schema.pack_query_filters([schema.QueryFilter(code=code)]).tobytes()
    wanted = asked, first, last, rng.choice((0, 1, 10, 8189)), rng.random() < 0.5
    likely = rng.choice((
        (places[at], count), (0, 0), (rng.choice(places), rng.randrange(5000)),
        (number - 1 << 20, 4096), ((number << 20) + (1 << 20) - 8, 2**63),
    ))  # fmt: skip
    with Journal.open(directory, readonly=True) as book:
        assert scanned(book, number, likely, wanted) == expected(number, wanted, code)
        [(_, body, checks)] = book.bodies([number])
        whole, bad = _scan.scan(_file.BodyInMemory(body, checks, number), *wanted)
        assert [row.tobytes() for row in whole] == expected(number, wanted, code)
        assert bad == _file.INTACT


def test_little_is_read_of_a_long_group(book: Journal) -> None:
    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    number = SIZES.index(LARGE) + 1
    rows, places = transfers_of(number), made(number, LARGE)[1]
    wanted = ANY, int(rows["timestamp"][1000]), int(rows["timestamp"][1009]), 10, False
    nothing = -read_bytes() + read_bytes()
    before = read_bytes()
    found = scanned(book, number, (places[1000], 10), wanted)
    read = read_bytes() - before - nothing
    assert found is not None and len(found) == 10
    steps = 4 * 16 * BLOCK_BYTES  # the run's header, and where the stretch begins and ends
    assert read < steps < LARGE * 128


def test_what_is_asked_of_the_disk_ahead_is_there_without_it(book: Journal) -> None:
    """The transfers of some groups, from the middle of one on."""
    number = SIZES.index(500) + 1
    [place] = made(number, 500)[1][250:251]
    os.fsync(book._file)
    os.posix_fadvise(book._file, 0, 0, os.POSIX_FADV_DONTNEED)
    book.read_ahead(
        [(place, number + 1, 4096), (place, 1 << 40, 2**40), (1 << 60, 1 << 61, 1)]
    )
    _file.read_ahead(-1, 0, place, number, 1)
    wanted = ANY, 0, TIMESTAMP_MAX, 8189, False
    assert scanned(book, number, (place, 250), wanted) == expected(number, wanted, 0)


def test_the_next_blocks_are_asked_for_in_their_order_and_none_is_lost(book: Journal) -> None:
    head = np.dtype([("place_first", "u8"), ("group_last", "u8"), ("transfers", "u4")])
    for count in (0, 1, 2, 5, 16, 17, 60):
        heads = np.zeros(count, head)
        heads["place_first"] = np.arange(count)
        seen = lookup._ahead(book, iter(heads))
        assert [int(one["place_first"]) for one in seen] == list(range(count))


def test_damage_where_it_is_read_is_left_to_the_journal_to_name(tmp_path: Path) -> None:
    directory = tmp_path / "book"
    create(directory, [*SIZES, 1])  # the last group is checked when a book is opened
    number = SIZES.index(LARGE) + 1
    rows, places = transfers_of(number), made(number, LARGE)[1]
    offset = (places[2000] >> 3 & 0x1FFFF) * 16
    with changed(directory, number) as value:
        value[HEADER_BYTES + offset] ^= 1
    block = offset // BLOCK_BYTES
    head = np.zeros(1, [("place_first", "u8"), ("transfers", "u4")])[0]
    head["place_first"], head["transfers"] = places[1990], 20
    stretch = int(rows["timestamp"][1990]), int(rows["timestamp"][2009])
    with Journal.open(directory, readonly=True) as book:
        wanted = ANY, *stretch, 8189, False
        assert scanned(book, number, (places[1990], 20), wanted) is None
        with pytest.raises(DataRefused, match=f"group {number}: block {block} check failed"):
            lookup._scanned(book, number, head, wanted)
        before = ANY, int(rows["timestamp"][100]), int(rows["timestamp"][109]), 8189, False
        assert scanned(book, number, (places[100], 10), before) == expected(number, before, 0)
    with changed(directory, number) as value:
        value[HEADER_BYTES + offset] ^= 1
        value[100] ^= 1
    with Journal.open(directory, readonly=True) as book:
        assert scanned(book, number, (places[100], 10), before) is None
        with pytest.raises(DataRefused, match=f"group {number}.*header check failed"):
            lookup._scanned(book, number, head, before)
