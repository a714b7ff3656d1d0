"""Tests of the kernels that read bodies: records by address and time, each block checked first."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.history import _scan
from ledger.journal import _check, _file
from tests.oracles.past_oracle import FIELDS, PastOracle, chosen, field_hash, key_of
from tests.support import books
from tests.support.properties import bounded

BLOCK_BYTES = 4096
TIMESTAMP_MAX = 2**63 - 1
ANY = dict.fromkeys((*FIELDS, "timestamp_min", "timestamp_max", "flags"), 0) | {"limit": 8189}


class Held:
    """A group's number, body and checks, and what the oracle finds in it."""

    def __init__(self, number: int, body: bytes, oracle: PastOracle) -> None:
        self.number, self.body = number, bytearray(body)
        self.checks = _check.blocks(body, number)
        self.transfers = [t for t in oracle.transfers if t.place >> 20 == number]
        self.records = {t.place: t.record for t in self.transfers} | {
            place: record.ljust(128, b"\0")
            for place, record in oracle.burned.values()
            if place >> 20 == number
        }

    def copy(self) -> Held:
        """The same, to be damaged."""
        copy = Held.__new__(Held)
        copy.__dict__ = self.__dict__ | {"body": bytearray(self.body)}
        return copy

    @property
    def whole(self) -> _file.BodyInMemory:
        return _file.BodyInMemory(self.body, self.checks, self.number)

    def take(self, places: list[int]) -> tuple[int, list[bytes]]:
        out = np.full((len(places), 128), 7, np.uint8)
        bad = self.whole.take(np.array(places, np.uint64), out)
        return bad, [row.tobytes() for row in out]

    def scan(
        self, wanted: dict[str, int], first: int, last: int, limit: int, reversed: bool
    ) -> tuple[list[bytes], int]:
        found, bad = _scan.scan(self.whole, query(wanted), first, last, limit, reversed)
        return [row.tobytes() for row in found], bad

    def at(self, timestamps: list[int]) -> tuple[list[bool], int, int, int]:
        wanted = np.array(timestamps, np.uint64)
        found, first, last, bad = _scan.at(self.whole, wanted)
        return found.tolist(), first, last, bad


def query(wanted: dict[str, int]) -> bytes:
    return schema.pack_query_filters([schema.QueryFilter(**wanted)]).tobytes()


def blocks_of(place: int) -> set[int]:
    offset, size = (place >> 3 & 0x1FFFF) * 16, 32 if place & 7 else 128
    return {offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES}


@functools.cache
def groups() -> list[Held]:
    held = []
    for seed in (4, 14, 21):
        some = books.generated(seed, 400, 1000)
        oracle = PastOracle(some)
        held += [Held(fields["group"], body, oracle) for fields, body in some]
    assert sum(len(one.transfers) for one in held) > 3000
    return held


@pytest.fixture
def held() -> Held:
    """A group with many transfers, to be damaged."""
    return max(groups(), key=lambda one: len(one.transfers)).copy()


# ---- by place -----------------------------------------------------------------------------------


def test_every_record_is_taken_from_its_place():
    for one in groups():
        places = list(one.records)
        random.Random(1).shuffle(places)
        assert one.take(places) == (_file.INTACT, [one.records[place] for place in places])
        assert one.take(places[:1] * 3) == (_file.INTACT, [one.records[places[0]]] * 3)
        assert one.take([]) == (_file.INTACT, [])


def test_a_body_may_lie_at_any_address(held: Held):
    """A group of a few records is kept among others, at an even address and no better."""
    place = held.transfers[7].place
    for shift in range(1, 17):
        moved = memoryview(bytes(shift) + held.body)[shift:]
        out = np.zeros((1, 128), np.uint8)
        wanted = np.array([place], np.uint64)
        assert _file.BodyInMemory(moved, held.checks, held.number).take(wanted, out) == _file.INTACT
        assert out.tobytes() == held.transfers[7].record


@bounded(60)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_a_damaged_block_is_named_when_something_is_read_from_it_and_only_then(seed, count):
    rng = random.Random(seed)
    one = rng.choice(groups()).copy()
    places = rng.sample(list(one.records), count)
    at = rng.randrange(len(one.body))
    one.body[at] ^= 1 << rng.randrange(8)
    bad, records = one.take(places)
    touched = any(at // BLOCK_BYTES in blocks_of(place) for place in places)
    assert bad == (at // BLOCK_BYTES if touched else _file.INTACT)
    if not touched:
        assert records == [one.records[place] for place in places]


def test_a_record_over_two_blocks_needs_both(held: Held):
    [place, *_] = [t.place for t in held.transfers if len(blocks_of(t.place)) == 2]
    for block in sorted(blocks_of(place)):
        held.body[block * BLOCK_BYTES] ^= 1
        assert held.take([place])[0] == block
        held.body[block * BLOCK_BYTES] ^= 1
    assert held.take([place]) == (_file.INTACT, [held.records[place]])


def test_a_place_where_no_such_record_is(held: Held):
    good = held.transfers[0].place
    end = (len(held.body) // 16) << 3 | held.number << 20
    for wrong in (
        good + (1 << 20),  # another group
        good | 2,  # a kind that is none
        end,
        end - (7 << 3),  # its end is beyond the body's
        good - (1 << 3),  # a run's header
        held.number << 20 | 0x1FFFF << 3,
        2**64 - 1,
    ):
        assert held.take([good, wrong])[0] == _file.NO_RECORD, hex(wrong)
    [burned, *_] = [place for place in held.records if place & 7 == 1]
    assert held.take([burned ^ 1])[0] == _file.NO_RECORD
    assert held.take([good | 1])[0] == _file.NO_RECORD


def test_a_record_that_the_body_cuts_off(held: Held):
    place = held.transfers[7].place
    end = (place >> 3 & 0x1FFFF) * 16 + 128
    for cut in (16, 112, 128):
        held.body = held.body[: end - cut]
        held.checks = _check.blocks(held.body, held.number)
        assert held.take([place])[0] == _file.NO_RECORD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 0),
        ("id", 2**64 - 1),
        ("debit_account_id", 0),
        ("credit_account_id", 0),
        ("ledger", 0),
        ("code", 0),
        ("flags", 1 << 9),
        ("timestamp", 0),
        ("timestamp", 2**63),
    ],
)
def test_what_does_not_look_like_a_transfer_is_none(held: Held, field: str, value: int):
    place = held.transfers[3].place
    offset = (place >> 3 & 0x1FFFF) * 16
    record = np.frombuffer(held.body, schema.TRANSFER, 1, offset)
    record[field] = value
    del record
    held.checks = _check.blocks(held.body, held.number)
    assert held.take([place])[0] == _file.NO_RECORD


# ---- by time ------------------------------------------------------------------------------------


@bounded(80)
@given(st.integers(0, 2**32))
def test_a_scan_finds_what_a_look_at_everything_finds(seed: int):
    rng = random.Random(seed)
    one = rng.choice(groups())
    example = rng.choice(one.transfers).fields
    wanted = ANY | {
        name: example[name] if rng.random() < 0.7 else rng.randrange(1, 9)
        for name in rng.sample(FIELDS, rng.choice((0, 1, 1, 2)))
    }
    times = [t.fields["timestamp"] for t in one.transfers]
    first, last = sorted(rng.choice(times) + rng.randint(-1, 1) for _ in range(2))
    if rng.random() < 0.3:
        first, last = 0, TIMESTAMP_MAX
    limit = rng.choice((0, 1, 2, 10, 8189))
    newest_first = rng.random() < 0.5
    expected = [
        t.record
        for t in one.transfers
        if first <= t.fields["timestamp"] <= last and chosen(wanted, t.fields)
    ]
    expected = (expected[::-1] if newest_first else expected)[:limit]
    assert one.scan(wanted, first, last, limit, newest_first) == (expected, _file.INTACT)


def test_a_scan_stops_at_a_damaged_block_and_names_it(held: Held):
    block = len(held.body) // BLOCK_BYTES // 2
    held.body[block * BLOCK_BYTES + 99] ^= 16
    assert held.scan(ANY, 0, TIMESTAMP_MAX, 8189, False)[1] == block
    assert held.scan(ANY, 0, TIMESTAMP_MAX, 8189, True)[1] == block
    assert held.at([1])[3] == block
    before = [t for t in held.transfers if max(blocks_of(t.place)) < block]
    times = [t.fields["timestamp"] for t in before]
    records = [t.record for t in before[:5]]
    assert held.scan(ANY, times[0], times[4], 8189, False) == (records, _file.INTACT)


@pytest.mark.parametrize(
    ("field", "value"), [("count", 0), ("count", 2), ("bytes", 2**31), ("bytes", 24)]
)
def test_a_run_that_cannot_be_is_no_record(held: Held, field: str, value: int):
    offset = (held.transfers[0].place >> 3 & 0x1FFFF) * 16 - 16
    run = np.frombuffer(held.body, schema.RUN, 1, offset)
    assert run["kind"] == schema.JournalKind.TRANSFER and run["count"] != 2
    run[field] = value
    del run
    held.checks = _check.blocks(held.body, held.number)
    assert held.scan(ANY, 0, TIMESTAMP_MAX, 8189, False)[1] == _file.NO_RECORD
    assert held.at([1])[3] == _file.NO_RECORD


def test_timestamps_of_a_group():
    rng = random.Random(5)
    for one in groups():
        times = [t.fields["timestamp"] for t in one.transfers]
        asked = sorted(
            [rng.choice(times) + rng.randint(-2, 2) for _ in range(200)] + [0, TIMESTAMP_MAX]
        )
        there = set(times)
        found, first, last, bad = one.at(asked)
        assert found == [timestamp in there for timestamp in asked]
        assert (first, last, bad) == (times[0], times[-1], _file.INTACT)
        assert one.at(times) == ([True] * len(times), times[0], times[-1], _file.INTACT)
        assert one.at([]) == ([], 0, 0, _file.INTACT)


def test_a_group_without_transfers():
    [(fields, body)] = books.Writer().groups()
    one = Held(fields["group"], body, PastOracle([]))
    assert one.at([1, 2]) == ([False, False], 0, 0, _file.INTACT)
    assert one.scan(ANY, 0, TIMESTAMP_MAX, 10, False) == ([], _file.INTACT)


# ---- of an account ------------------------------------------------------------------------------


@bounded(80)
@given(st.integers(0, 2**32))
def test_an_account_filter_selects_by_side_field_and_time(seed: int):
    rng = random.Random(seed)
    one = rng.choice(groups())
    example = rng.choice(one.transfers).fields
    account = example[rng.choice(("debit_account_id", "credit_account_id"))]
    ends = [(t.fields["debit_account_id"], t.fields["credit_account_id"]) for t in one.transfers]
    touching = [t for t, both in zip(one.transfers, ends, strict=True) if account in both]
    wanted = ANY | {"flags": rng.choice((0, 1, 2, 3, 4, 7))}
    wanted |= {name: example[name] for name in rng.sample(FIELDS, rng.choice((0, 1, 2)))}
    del wanted["ledger"]
    times = [t.fields["timestamp"] for t in touching]
    wanted["timestamp_min"], wanted["timestamp_max"] = rng.choice(
        [(0, 0), (min(times), max(times)), tuple(sorted(rng.choices(times, k=2)))]
    )
    asked = schema.pack_account_filters([schema.AccountFilter(account_id=account, **wanted)])
    records = np.frombuffer(b"".join(t.record for t in touching), np.uint8).reshape(-1, 128)
    marks, stray = _scan.select(asked.tobytes(), records)
    sides = [(t.fields["debit_account_id"] == account) ^ 1 for t in touching]
    assert stray == -1
    assert marks.tolist() == [
        bool(wanted["flags"] & 1 << side) and chosen(wanted, t.fields)
        for side, t in zip(sides, touching, strict=True)
    ]
    other = next(t for t, both in zip(one.transfers, ends, strict=True) if account not in both)
    strange = np.frombuffer(other.record, np.uint8).reshape(1, 128)
    assert _scan.select(asked.tobytes(), np.concatenate([records, strange]))[1] == len(touching)


def test_filters_that_make_no_sense():
    assert _scan.query_filter_is_valid(query(ANY))
    wanted = {"account_id": 5, "flags": 3, "limit": 1}
    for changes, valid in (({}, True), ({"account_id": 0}, False), ({"flags": 4}, False)):
        one = schema.AccountFilter(**wanted | changes)
        assert _scan.account_filter_is_valid(schema.pack_account_filters([one]).tobytes()) is valid
    for wrong in ({"limit": 0}, {"flags": 2}, {"timestamp_min": 3, "timestamp_max": 2}):
        assert not _scan.query_filter_is_valid(query(ANY | wrong))


def test_a_query_asks_a_block_for_each_field_it_names():
    key = bytes(range(16))
    assert _scan.field_hashes(query(ANY), key).tolist() == []
    values = {"user_data_128": 2**127 + 3, "user_data_64": 2**63 + 5, "user_data_32": 7}
    values |= {"code": 7, "ledger": 7}
    hashes = [field_hash(key_of(key), name, value) for name, value in values.items()]
    assert _scan.field_hashes(query(ANY | values), key).tolist() == hashes
    assert len(set(hashes)) == 5, "the field is part of it"
    assert _scan.field_hashes(query(ANY | {"ledger": 7}), key).tolist() == hashes[4:]


# ---- arguments ----------------------------------------------------------------------------------


def test_what_has_the_wrong_size_is_refused(held: Held):
    places = np.zeros(2, np.uint64)
    out = np.zeros((2, 128), np.uint8)
    with pytest.raises(ValueError, match="bytes of checks for a body of"):
        _file.BodyInMemory(held.body, held.checks[8:], held.number)
    with pytest.raises(ValueError, match="no address reaches its end"):
        _file.BodyInMemory(bytes(1 << 21), bytes(4096), held.number)
    for wrong in (out[:1], np.zeros((2, 64), np.uint8)):
        with pytest.raises(ValueError, match="for 2 records"):
            held.whole.take(places, wrong)
    with pytest.raises(ValueError, match="a filter of 3 bytes"):
        _scan.scan(held.whole, bytes(3), 0, 1, 1, False)
    with pytest.raises(ValueError, match="a filter of 3 bytes"):
        _scan.select(bytes(3), out)
    with pytest.raises(ValueError, match="records of 64 bytes"):
        _scan.select(bytes(128), np.zeros((2, 64), np.uint8))
    for asked in (_scan.query_filter_is_valid, _scan.account_filter_is_valid):
        with pytest.raises(ValueError, match="a filter of 0 bytes"):
            asked(b"")
    with pytest.raises(ValueError, match="a key of 15 bytes"):
        _scan.field_hashes(query(ANY), bytes(15))
