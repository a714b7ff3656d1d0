"""Tests of what is found in the sealed past: the same as by a look at every record."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.facts.errors import ColumnDamaged, DataRefused
from ledger.facts.schema import Operation, TransferFlags
from ledger.history import _columns, segments
from ledger.history import lookup as resolve_module
from ledger.history.lookup import ABSENT, BURNED, STORED, Resolved, Wanted, resolve
from ledger.history.lookup import Sealed as Where
from tests.oracles.past_oracle import FIELDS, hash64, key_of
from tests.support import books
from tests.support.past_books import ANY, NO_TIMES, Sealed, busy, conversed, filter_of, packed
from tests.support.properties import bounded

SEEDS = (4, 14, 21)
STATEMENT, BALANCES = Operation.GET_ACCOUNT_TRANSFERS, Operation.GET_ACCOUNT_BALANCES
QUERY = Operation.QUERY_TRANSFERS
TIMESTAMP_MAX = 2**63 - 1


@pytest.fixture(autouse=True)
def four_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges that a book of few windows already needs."""
    monkeypatch.setattr(segments, "MERGED_AT_ONCE", 4)



@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sealed]]:
    """Books of which a good part is sealed, in segments of several sizes."""
    place = tmp_path_factory.mktemp("shelf")
    made = [Sealed.generated(place / f"book-{seed}", seed) for seed in SEEDS]
    made.append(Sealed.of(place / "busy", busy()))
    for windows, book in zip((9, 13, 11, 18), made, strict=True):
        book.seal(windows)
        book.merge()
        assert len({segment.windows for segment in book.history.segments}) > 1
        assert book.history.group < book.journal.group
    yield made
    for book in made:
        book.close()


def limit(rng: random.Random) -> int:
    return rng.choice((1, 1, 2, 10, 100, 8189, 2**32 - 1))


def time_range(rng: random.Random, times: list[int]) -> dict[str, int]:
    """Often all of time, else between transfers, at them or beside them."""
    if rng.random() < 0.4 or not times:
        return {}
    first, last = sorted(rng.choice(times) + rng.choice((-1, 0, 0, 1)) for _ in range(2))
    names = {"timestamp_min": first, "timestamp_max": last}
    return {name: names[name] for name in rng.choice((["timestamp_min"], ["timestamp_max"], names))}


# ---- ids ----------------------------------------------------------------------------------------


@bounded(60)
@given(st.integers(0, 2**32))
def test_ids_are_found_or_known_to_be_absent(shelf: list[Sealed], seed: int) -> None:
    rng = random.Random(seed)
    book = rng.choice(shelf)
    oracle, sealed = book.oracle, book.history.group
    known = [*oracle.by_id, *oracle.burned]
    asked = rng.choices(known, k=rng.randint(0, 60)) + [rng.randrange(1, 2**128) for _ in range(9)]
    rng.shuffle(asked)
    found = book.find(asked)
    ids = list(dict.fromkeys(asked))
    for id in list(ids):
        moved = oracle.by_id.get(id)
        if moved is not None and moved.place >> 20 <= sealed and moved.fields["flags"] & 12:
            ids.append(moved.fields["pending_id"])
    ids = list(dict.fromkeys(ids))
    assert found.ids == packed(ids)
    check_ids(book, ids, found)


def check_ids(book: Sealed, ids: list[int], found: Resolved) -> None:
    records = [record.tobytes() for record in found.records]
    answers = zip(found.kinds.tolist(), records, found.outcomes.tolist(), strict=True)
    for id, (kind, record, outcome) in zip(ids, answers, strict=True):
        check_id(book, id, kind, record, outcome)


def check_id(book: Sealed, id: int, kind: int, record: bytes, outcome: int) -> None:
    oracle, sealed = book.oracle, book.history.group
    moved, burned = oracle.by_id.get(id), oracle.burned.get(id)
    if moved is not None and moved.place >> 20 <= sealed:
        assert (kind, record) == (STORED, moved.record)
        assert outcome == oracle.outcome(moved, sealed)
    elif burned is not None and burned[0] >> 20 <= sealed:
        assert (kind, record, outcome) == (BURNED, burned[1].ljust(128, b"\0"), 0)
    else:
        assert (kind, record, outcome) == (ABSENT, bytes(128), 0)


def test_every_hold_and_every_end_of_one(shelf: list[Sealed]) -> None:
    """All at once, so that nothing depends on what is asked for together."""
    outcomes = set()
    for book in shelf:
        known = [*book.oracle.by_id, *book.oracle.burned]
        found = book.find(known)
        assert found.ids == packed(known), "the holds are among them already"
        check_ids(book, known, found)
        flags = found.records.view(schema.TRANSFER).ravel()["flags"]
        outcomes |= set(found.outcomes[flags & TransferFlags.PENDING != 0].tolist())
    assert outcomes == {0, 1, 2, 3}, "open, posted, voided and expired ones were there"


def test_a_post_brings_its_hold_from_an_older_segment(tmp_path: Path) -> None:
    writer = books.Writer(group_records_max=1)
    writer.accounts(books.account(1), books.account(2))
    writer.transfers(books.transfer(10, flags=int(TransferFlags.PENDING)))
    writer.transfers(books.transfer(11, flags=int(TransferFlags.PENDING)))
    post = int(TransferFlags.POST_PENDING_TRANSFER)
    assert writer.transfers(
        schema.Transfer(id=12, pending_id=10, amount=2**128 - 1, flags=post)
    ) == ["CREATED"]
    book = Sealed.of(tmp_path / "book", writer.groups())
    group = book.oracle.by_id[12].place >> 20
    before = book.seal(group - 1, 1)
    assert before == group - 1
    assert book.find([10, 12]).outcomes.tolist() == [0, 0]
    book.seal(1, 1)
    found = book.find([11, 12, 13])
    assert found.ids == packed([11, 12, 13, 10])
    assert found.kinds.tolist() == [STORED, STORED, ABSENT, STORED]
    assert found.outcomes.tolist() == [0, 0, 0, schema.HoldOutcome.POSTED]
    book.close()


def test_ids_that_share_a_hash_are_told_apart(tmp_path: Path) -> None:
    """Two factors of a product in the other order: who knows the key can do that at will."""
    writer = books.Writer(group_records_max=1)
    writer.accounts(books.account(1), books.account(2))
    first = Sealed.of(tmp_path / "first", writer.groups())
    key = key_of(first.history.hash_key)
    first.close()
    mixes = 0x2D358DCCAA6C78A5 ^ key[0], 0x8BB84B93962EACC9 ^ key[1]
    ids = [123456789, 5 << 70 | 1]
    twins = [
        (id >> 64 ^ mixes[1] ^ mixes[0]) | (id ^ mixes[0] ^ mixes[1]) % 2**64 << 64 for id in ids
    ]
    assert [hash64(key, id) for id in ids] == [hash64(key, id) for id in twins]
    assert writer.transfers(books.transfer(ids[0]), books.transfer(twins[0])) == ["CREATED"] * 2
    assert writer.transfers(books.transfer(ids[1])) == ["CREATED"]
    book = Sealed.of(tmp_path / "book", writer.groups())
    assert key_of(book.history.hash_key) == key
    book.seal(book.journal.group, 1)
    found = book.find([*ids, *twins])
    assert found.kinds.tolist() == [STORED, STORED, STORED, ABSENT]
    assert book.find([twins[1]]).kinds.tolist() == [ABSENT]
    assert [record.tobytes() for record in found.records[:3]] == [
        book.oracle.by_id[id].record for id in (*ids, twins[0])
    ]
    book.close()


def test_nothing_is_sealed_and_nothing_is_asked(tmp_path: Path) -> None:
    book = Sealed.of(tmp_path / "book", busy(20))
    some = next(iter(book.oracle.by_id))
    assert book.find([some]).kinds.tolist() == [ABSENT]
    assert book.read(STATEMENT, ANY | {"account_id": 1, "flags": 3}) == b""
    assert book.read(QUERY, ANY) == b""
    assert book.at([1, 2]) == [False, False]
    book.seal(1)
    empty = book.find([])
    assert (empty.ids, empty.reads, empty.found.tolist()) == (b"", [], [])
    assert empty.records.shape == (0, 128)
    book.close()


# ---- statements and queries ---------------------------------------------------------------------


@bounded(150)
@given(st.integers(0, 2**32))
def test_statements(shelf: list[Sealed], seed: int) -> None:
    rng = random.Random(seed)
    book = rng.choice(shelf)
    oracle = book.oracle
    example = rng.choice(oracle.transfers)
    with_history = [id for id, index in oracle.accounts.items() if oracle.history[index]]
    account = rng.choice(list(example.fields.values())[1:3])
    operation = rng.choice((STATEMENT, BALANCES))
    if operation == BALANCES and with_history:
        account = rng.choice(with_history)
    if not oracle.history[oracle.accounts[account]]:
        operation = STATEMENT  # the core answers balances of others itself: there are none
    times = [
        t.fields["timestamp"] for t in oracle.transfers if oracle.accounts[account] in t.accounts
    ]
    wanted = ANY | {"account_id": account, "limit": limit(rng)} | time_range(rng, times)
    wanted["flags"] = rng.choice((1, 2, 3, 3, 5, 6, 7, 7))
    names = rng.sample([name for name in FIELDS if name != "ledger"], rng.choice((0, 0, 1, 2)))
    wanted |= {name: example.fields[name] for name in names}
    expected = oracle.statement(book.history.group, operation == BALANCES, wanted)
    assert book.read(operation, wanted) == expected


@bounded(150)
@given(st.integers(0, 2**32))
def test_queries(shelf: list[Sealed], seed: int) -> None:
    rng = random.Random(seed)
    book = rng.choice(shelf)
    example = rng.choice(book.oracle.transfers)
    times = [t.fields["timestamp"] for t in book.oracle.transfers]
    wanted = ANY | {"limit": limit(rng), "flags": rng.choice((0, 1))} | time_range(rng, times)
    wanted |= {
        name: example.fields[name] if rng.random() < 0.8 else rng.randrange(1, 5)
        for name in rng.sample(FIELDS, rng.choice((0, 1, 1, 2)))
    }
    assert book.read(QUERY, wanted) == book.oracle.query(book.history.group, wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"timestamp_min": TIMESTAMP_MAX + 1},
        {"timestamp_max": 2**64 - 1},
        {"timestamp_min": 3, "timestamp_max": 2},
        {"flags": 1 << 31},
    ],
)
def test_a_filter_that_makes_no_sense_selects_nothing(
    shelf: list[Sealed], wrong: dict[str, int]
) -> None:
    book = shelf[3]
    account = wrong | {"account_id": 2, "flags": wrong.get("flags", 0) | 3}
    assert book.read(STATEMENT, ANY | account) == book.read(BALANCES, ANY | account) == b""
    assert book.read(QUERY, ANY | wrong) == b""
    assert book.read(QUERY, ANY | {"timestamp_max": TIMESTAMP_MAX}) != b""


@pytest.mark.parametrize("seed", [7, 14])
def test_the_core_answers_the_same_from_memory(tmp_path: Path, seed: int) -> None:
    writer = conversed(seed, 300)
    book = Sealed.of(tmp_path / "book", writer.groups())
    book.seal(-(-book.journal.group // 5))
    assert book.history.group == book.journal.group
    rng = random.Random(seed)
    compared = 0
    for _ in range(150):
        account = rng.choice(list(book.oracle.accounts))
        times = [t.fields["timestamp"] for t in book.oracle.transfers]
        wanted = ANY | {"limit": limit(rng)} | time_range(rng, times)
        operation = rng.choice((STATEMENT, BALANCES, QUERY))
        if operation == BALANCES:  # the core asks for no others
            account = rng.choice(
                [a for a, i in book.oracle.accounts.items() if book.oracle.history[i]]
            )
        if operation == QUERY:
            wanted |= {"flags": rng.choice((0, 1)), "code": rng.choice((0, 1, 2))}
        else:
            wanted |= {"account_id": account, "flags": rng.choice((1, 2, 3, 7))}
        asked = filter_of(operation, wanted)
        [expected] = writer.driver.execute(operation, [asked], writer.now)[1]
        assert book.read(operation, wanted) == expected
        compared += len(expected) // 128
    assert compared > 1000
    book.close()


def test_many_results_come_in_bounded_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one request or one reply holds, in groups of a few megabytes."""
    fetched: list[int] = []
    fetch = resolve_module._records_at

    def watched(journal: Any, segment: Any, places: Any) -> Any:
        fetched.append(len(places))
        return fetch(journal, segment, places)

    monkeypatch.setattr(resolve_module, "_records_at", watched)
    writer = books.Writer(group_records_max=8000)
    flags = int(schema.AccountFlags.HISTORY)
    writer.accounts(books.account(1, flags=flags), books.account(2))
    for first in (1000, 9000, 17_000):
        made = writer.transfers(
            *(books.transfer(id, amount=0) for id in range(first, first + 8000))
        )
        assert set(made) == {"CREATED"}
    book = Sealed.of(tmp_path / "book", writer.groups())
    book.seal(2, 2)
    assert book.history.group == book.journal.group
    everything = [t.record for t in book.oracle.transfers]
    wanted = ANY | {"account_id": 2, "flags": 3, "limit": 2**32 - 1}
    assert book.read(STATEMENT, wanted) == b"".join(everything[:8189])
    assert book.read(STATEMENT, wanted | {"flags": 7}) == b"".join(everything[:-8190:-1])
    wanted = ANY | {"limit": 2**32 - 1}
    assert book.read(QUERY, wanted) == b"".join(everything[:8189])
    assert book.read(QUERY, wanted | {"flags": 1}) == b"".join(everything[:-8190:-1])
    nothing = {"account_id": 1, "flags": 3, "user_data_64": 99, "limit": 5}
    assert book.read(BALANCES, nothing) == book.read(STATEMENT, nothing) == b""
    asked = list(range(900, 26_000))
    found = book.find(asked)
    assert found.kinds.tolist() == [int(1000 <= id < 25_000) for id in asked]
    assert found.records[100:24_100].tobytes() == b"".join(everything)
    assert max(fetched) == 8189 and min(fetched) <= 5, "chunks grow"
    times = [t.fields["timestamp"] for t in book.oracle.transfers]
    assert book.at([times[0] - 1, *times, times[-1] + 1]) == [False, *[True] * 24_000, False]
    book.close()


def test_a_query_leaves_alone_what_cannot_hold_it(book: Sealed) -> None:
    """A block of the journal that must not be read is damaged; to read it would be refused."""
    moved = next(t for t in book.oracle.transfers if t.place >> 20 == 3)
    number, offset = moved.place >> 20, (moved.place >> 3 & 0x1FFFF) * 16
    book.close()
    damage_journal(book.directory, number, 256 + offset)
    damaged = Sealed(book.directory, book.groups, book.oracle)
    with pytest.raises(DataRefused, match=f"group {number}: block"):
        damaged.read(QUERY, ANY)
    for name in FIELDS:
        assert damaged.read(QUERY, ANY | {name: 31_999}) == b""
    damaged.close()


# ---- timestamps ---------------------------------------------------------------------------------


@bounded(40)
@given(st.integers(0, 2**32))
def test_timestamps(shelf: list[Sealed], seed: int) -> None:
    rng = random.Random(seed)
    book = rng.choice(shelf)
    sealed = {t.fields["timestamp"] for t in book.oracle.until(book.history.group)}
    times = [t.fields["timestamp"] for t in book.oracle.transfers]
    count = rng.choice((0, 1, 3, 300))
    asked = [rng.choice(times) + rng.choice((-1, 0, 0, 1)) for _ in range(count)]
    asked += rng.sample([1, TIMESTAMP_MAX, times[0] - 1, times[-1] + 1], 2)
    assert book.at(asked) == [timestamp in sealed for timestamp in asked]


def test_timestamps_among_groups_without_transfers(tmp_path: Path) -> None:
    """All in one block, which is searched by bisection over its groups."""
    writer = books.Writer(group_records_max=0)
    writer.accounts(books.account(1), books.account(2))
    id = 10
    for others in (0, 1, 5, 0, 2, 9, 1, 0, 4):
        assert writer.transfers(books.transfer(id), books.transfer(id + 1)) == ["CREATED"] * 2
        for _ in range(others):
            writer.accounts(books.account(1000 + writer.now))
        id += 2
    opened = Sealed.of(tmp_path / "book", writer.groups())
    opened.seal(1, opened.journal.group)
    times = [t.fields["timestamp"] for t in opened.oracle.transfers]
    for asked in ([time] for time in times):
        assert opened.at(asked) == [True]
        assert opened.at([asked[0] - 500]) == [False]
    around = sorted({time + near for time in times for near in (-1, 0, 1)})
    assert opened.at(around) == [time in times for time in around]
    opened.close()


# ---- damage -------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Sealed]:
    opened = Sealed.of(tmp_path / "book", busy(60))
    opened.seal(3)
    yield opened
    opened.close()


def damage_journal(directory: Path, number: int, at: int) -> None:
    path = str(directory / "journal")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as write:
        value = bytearray(write.get(number.to_bytes(8, "big")))
        value[at] ^= 1
        assert write.put(number.to_bytes(8, "big"), bytes(value))


def test_a_damaged_block_of_the_journal_is_named(book: Sealed) -> None:
    moved = book.oracle.transfers[40]
    number, offset = moved.place >> 20, (moved.place >> 3 & 0x1FFFF) * 16
    [other] = [t for t in book.oracle.transfers if t.place >> 20 != number][-1:]
    book.close()
    damage_journal(book.directory, number, 256 + offset)
    damaged = Sealed(book.directory, book.groups, book.oracle)
    named = f"group {number}: block {offset // 4096} check failed"
    timestamp = moved.fields["timestamp"]
    times = {"timestamp_min": timestamp, "timestamp_max": timestamp}
    account = {"account_id": moved.fields["debit_account_id"], "flags": 3} | times
    statement = ANY | account
    del statement["ledger"]
    for ask in (
        lambda: damaged.find([moved.fields["id"]]),
        lambda: damaged.read(QUERY, ANY | times),
        lambda: damaged.read(STATEMENT, statement),
        lambda: damaged.at([timestamp]),
    ):
        with pytest.raises(DataRefused, match=named) as refused:
            ask()
        assert not isinstance(refused.value, ColumnDamaged)
    assert damaged.find([other.fields["id"]]).ids == packed([other.fields["id"]])
    damaged.close()


def test_a_damaged_page_of_a_column_is_named(book: Sealed) -> None:
    segment = max(book.history.segments, key=lambda segment: segment.count(_columns.PANELS))
    groups = range(segment.group_first, segment.group_last + 1)
    found = [t for t in book.oracle.transfers if t.place >> 20 in groups]
    path = Path(segment.path)
    whole = path.read_bytes()
    again = book
    parts = segment.count(_columns.PANELS)
    # After the blocks comes what only helps to search them by key; panels and their keys are last.
    unread = len(whole) // 4096 - 1 - parts - 1
    values = {(name, moved.fields[name]) for moved in found for name in FIELDS}
    for page in {*range(1, len(whole) // 4096)} - {unread}:
        path.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        again = again.again()
        with pytest.raises(ColumnDamaged, match=f"{path.name}: page {page} ") as refused:
            again.find([t.fields["id"] for t in found])
            for account in again.oracle.accounts:
                wanted = {"account_id": account, "flags": 3, "limit": 8189}
                again.read(STATEMENT, wanted)
                again.read(BALANCES, wanted)
            for name, value in values:  # among them is one of each part of a panel
                again.read(QUERY, ANY | {name: value, "timestamp_max": TIMESTAMP_MAX})
        assert refused.value.path == str(path)


@pytest.mark.parametrize(
    ("column", "shift"),
    [
        (_columns.IDS, 1 << 3),
        (_columns.IDS, 1 << 20),
        (_columns.IDS, 100 << 20),
        (_columns.ROWS, 1 << 3),
        (_columns.ROWS, 1 << 20),
        (_columns.BALANCES, 1 << 3),
        (_columns.BALANCES, 1 << 20),
    ],
)
def test_a_column_that_leads_astray_is_damage(tmp_path: Path, column: int, shift: int) -> None:
    """Intact pages that say what cannot be: nothing of them is answered."""
    book = Sealed.of(tmp_path / "book", busy(20))
    columns = book.columns(1, 5)
    columns[column][:, 1] += np.uint64(shift)
    book.history.seal(columns, 1, 5, *book.journal.end_of(5))
    with pytest.raises(ColumnDamaged, match="segment-0000000000000001"):
        book.find([t.fields["id"] for t in book.oracle.until(5)])
        for account in book.oracle.accounts:
            wanted = {"account_id": account, "flags": 3, "limit": 8189}
            book.read(STATEMENT, wanted)
            book.read(BALANCES, wanted)
            book.read(BALANCES, wanted | {"flags": 7, "limit": 1})
    book.close()


def test_a_row_of_another_account_is_damage(tmp_path: Path) -> None:
    book = Sealed.of(tmp_path / "book", busy(20))
    columns = book.columns(1, 5)
    strange = next(t for t in book.oracle.until(5) if 2 not in t.accounts)
    rows = [tuple(row) for row in columns[_columns.ROWS].tolist()]
    columns[_columns.ROWS] = np.array(sorted({*rows, (2, strange.place)}), np.uint64)
    book.history.seal(columns, 1, 5, *book.journal.end_of(5))
    wanted = {"account_id": list(book.oracle.accounts)[2], "flags": 3, "limit": 8189}
    with pytest.raises(ColumnDamaged, match=f"a row of an account that {strange.place:#x} is not"):
        book.read(STATEMENT, wanted)
    book.close()


# ---- beside sealing and merging -----------------------------------------------------------------


def test_readers_go_on_while_segments_come_and_go(tmp_path: Path) -> None:
    book = Sealed.generated(tmp_path / "book", 14)
    book.seal(3, 2)
    early = book.oracle.until(book.history.group)
    ids = packed([t.fields["id"] for t in early])
    expected = b"".join(t.record for t in early)
    stop = threading.Event()
    wrong: list[object] = []
    rounds = [0]

    def read() -> None:
        while not stop.is_set():
            try:
                found = book.history.resolve(Wanted(ids, [], NO_TIMES))
                if found.records[: len(early)].tobytes() != expected:
                    wrong.append("other records")
            except BaseException as error:
                wrong.append(error)
            rounds[0] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(16):
        book.seal(1, 2)
        book.merge()
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == [] and rounds[0] > 2
    book.close()


def test_a_reader_keeps_the_segments_it_began_with(book: Sealed) -> None:
    where = Where(book.history.segments, book.journal, book.history.hash_key)
    book.seal(1)
    assert book.merge() == 1 and len(book.history.segments) == 1
    sealed = [t for t in book.oracle.transfers if t.place >> 20 <= where.segments[-1].group_last]
    found = resolve(where, Wanted(packed([t.fields["id"] for t in sealed]), [], NO_TIMES))
    assert found.records[: len(sealed)].tobytes() == b"".join(t.record for t in sealed)
