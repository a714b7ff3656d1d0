"""Column files: written, parsed by the format's words, searched, merged, against plain Python.

Long records make short pages: with one, two or four records a page, every property meets the
borders of pages. What damage does is in test_columns_faults.py.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts.errors import DataRefused
from ledger.history import _columns
from ledger.history._columns import ColumnFile, ColumnWriter
from tests.support import column_files
from tests.support.column_files import HEAD, Block, Panel, opened, pairs_of, parse, records, write
from tests.support.properties import bounded

TOP = 2**64 - 1
KEY = bytes(range(16))
FEW = st.sampled_from([0, 1, 2, 3, 5, 8, 2**32, TOP - 1, TOP])  # so that they meet
ANY = st.integers(0, TOP)
PAIRS = st.sets(st.tuples(FEW | ANY, FEW | ANY), max_size=60).map(sorted)
RECORD_BYTES = st.sampled_from([16, 496, 1008, 2032, 4064])  # 254, 8, 4, 2 and 1 a page


def many(seed: int, count: int, keys: int = TOP) -> column_files.Pairs:
    rng = random.Random(seed)
    return sorted({(rng.randint(0, keys), rng.randint(0, TOP)) for _ in range(count)})


def words(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


# ---- sorting and hashing ------------------------------------------------------------------------


FAR = st.sampled_from([0xFFFF, 0x3FFFFF << 20, 0xFF00FF, 1 << 63 | 1, TOP << 40 & TOP])
ORDERS = st.sampled_from(["as they come", "by value", "by value, reversed", "sorted", "one key"])


@bounded(120)
@given(
    st.integers(0, 2**32), st.sampled_from([0, 1, 2, 16, 17, 255, 5000, 70_000]), ANY | FEW | FAR,
    ORDERS,
)  # fmt: skip
def test_pairs_are_sorted_by_both(seed, count, mask, order):
    """Keys that differ in few bits or many, all in one part or each in its own."""
    random_words = np.random.default_rng(seed).integers(0, TOP, (count, 2), np.uint64, True)
    pairs = random_words & np.array([mask, TOP], np.uint64)
    if order != "as they come":
        pairs[:, 1] = np.arange(count)
    if order == "by value, reversed":
        pairs = np.ascontiguousarray(pairs[::-1])
    if order == "sorted":
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    if order == "one key":
        pairs[: count // 2, 0] = pairs[:1, 0]
    wanted = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    _columns.sort_pairs(pairs)
    assert (pairs == wanted).all()


def test_only_rows_of_two_that_may_be_written_are_sorted():
    with pytest.raises(ValueError, match="rows of 3: 2 expected"):
        _columns.sort_pairs(np.zeros((4, 3), np.uint64))
    fixed = np.zeros((4, 2), np.uint64)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _columns.sort_pairs(fixed)
    with pytest.raises(ValueError, match="contiguous"):
        _columns.sort_pairs(np.zeros((4, 4), np.uint64)[:, ::2])


def fold(a: int, b: int) -> int:
    return a * b >> 64 ^ a * b & TOP


def hash64(key: bytes, value: int) -> int:
    """The definition: two folded multiplications."""
    low, high = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    mixed = fold(
        (value & TOP) ^ low ^ 0x2D358DCCAA6C78A5, (value >> 64) ^ high ^ 0x8BB84B93962EACC9
    )
    return fold(mixed ^ 0x9E3779B97F4A7C15, 0x4B33A62ED433D4A3)


@bounded(50)
@given(st.lists(st.integers(0, 2**128 - 1), max_size=9), st.binary(min_size=16, max_size=16))
def test_ids_are_hashed_under_the_key(ids, key):
    raw = b"".join(one.to_bytes(16, "little") for one in ids)
    assert _columns.hash_ids(raw, key).tolist() == [hash64(key, one) for one in ids]


def test_a_field_and_its_value_are_hashed_together():
    fields = [_columns.FIELD_USER_DATA_128, _columns.FIELD_USER_DATA_64,
              _columns.FIELD_USER_DATA_32, _columns.FIELD_CODE, _columns.FIELD_LEDGER]  # fmt: skip
    values = [1, 2, 2**64, 2**128 - 1]
    asked = list(itertools.product(fields, values))
    assert len({_columns.hash_field(KEY, *one) for one in asked}) == len(asked)
    assert _columns.hash_field(KEY, 1, 1) != _columns.hash_field(bytes(16), 1, 1)
    low = (int.from_bytes(KEY[:8], "little") + 3 * 0x9E3779B97F4A7C15) & TOP
    assert _columns.hash_field(KEY, 3, 77) == hash64(low.to_bytes(8, "little") + KEY[8:], 77)


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(ValueError, match="17 bytes are not whole ids"):
        _columns.hash_ids(bytes(17), KEY)
    for short in (b"", bytes(15), bytes(17)):
        with pytest.raises(ValueError, match=f"a key of {len(short)} bytes: 16 expected"):
            _columns.hash_ids(bytes(16), short)
    with pytest.raises(OverflowError):
        _columns.hash_field(KEY, 1, 2**128)


# ---- writing ------------------------------------------------------------------------------------


@bounded(60)
@given(
    st.dictionaries(st.integers(1, 18), st.tuples(PAIRS, RECORD_BYTES), max_size=5),
    st.binary(max_size=_columns.FACTS_BYTES_MAX),
    st.randoms(use_true_random=False),
)
def test_a_file_is_what_the_format_says(columns, facts, rng):
    """However the records were handed over; read back whole, and by the words of the format."""
    rows = {column: records(pairs, size) for column, (pairs, size) in columns.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "whole", rows, facts)
        assert path.stat().st_mode & 0o777 == 0o600
        parsed = parse(path)
        assert parsed.facts == facts
        assert parsed.columns == {
            column: (part.shape[1], [bytes(row) for row in part]) for column, part in rows.items()
        }
        writer = ColumnWriter(Path(folder) / "pieces", **HEAD)
        for column, part in rows.items():
            writer.column(column, part.shape[1])
            cuts = sorted(rng.randint(0, len(part)) for _ in range(3))
            for first, end in itertools.pairwise([0, *cuts, len(part)]):
                writer.append(part[first:end])
        writer.finish(facts)
        assert (Path(folder) / "pieces").read_bytes() == path.read_bytes()
        file = ColumnFile(path)
        file.verify()
        for column, part in rows.items():
            assert file.count(column) == len(part)
            assert (file.records(column, 0, len(part)) == part).all()


@pytest.mark.parametrize("kind", [_columns.SEGMENT, _columns.CHECKPOINT])
def test_a_header_says_what_it_was_given(tmp_path, kind):
    file = opened(tmp_path / "file", {}, kind=kind, facts=b"own")
    assert {name: getattr(file, name) for name in HEAD} == HEAD | {"kind": kind}
    assert file.facts == b"own"
    assert file.path == str(tmp_path / "file")
    assert file.bytes == 4096
    assert parse(tmp_path / "file").fields[:3] == (b"LEDGCOLS", 2, kind)


def test_columns_of_the_ledger_have_their_lengths():
    assert _columns.RECORD_BYTES == {
        _columns.IDS: 16, _columns.RESOLUTIONS: 16, _columns.ROWS: 16, _columns.BALANCES: 96,
        _columns.BLOCKS: 48, _columns.PANELS: 4064, _columns.ACCOUNTS: 128, _columns.HOLDS: 160,
        _columns.SESSIONS: 128, _columns.STARTS: 16,
    }  # fmt: skip
    assert [*_columns.RECORD_BYTES] == [1, 2, 3, 4, 5, 6, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("pairs", "number"),
    [
        ([(1, 1), (1, 1)], 1),
        ([(1, 2), (1, 1)], 1),
        ([(2, 0), (1, 9)], 1),
        ([(1, 1), (1, 2), (1, 3), (1, 3)], 3),
        ([(0, 0)] + [(n, 0) for n in range(1, 300)] + [(299, 0)], 300),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_a_keyed_column_takes_no_record_that_does_not_come_later(tmp_path, pairs, number, apart):
    writer = ColumnWriter(tmp_path / "file", **HEAD)
    writer.column(_columns.ROWS, 16)
    rows = records(pairs)
    if apart:
        writer.append(rows[:number])
        rows = rows[number:]
    with pytest.raises(ValueError, match=f"file: record {number} does not come after the one"):
        writer.append(rows)
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.append(records([(TOP, TOP)]))


def test_order_starts_afresh_with_each_column_and_is_free_in_the_others(tmp_path):
    low, mixed = [(1, 1)], [(5, 5), (1, 1), (1, 1)]
    file = opened(tmp_path / "file", {1: records([(9, 9)]), 2: records(low), 16: records(mixed)})
    assert (pairs_of(file, 2), pairs_of(file, 16)) == (low, mixed)
    for search in (
        lambda: file.lookup(16, words([1])),
        lambda: file.bounds(16, 1, 0, TOP),
    ):
        with pytest.raises(ValueError, match="column 16 is not sorted by a key"):
            search()


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"kind": 3}, ValueError, "kind 3 is neither"),
        ({"digest": bytes(31)}, ValueError, "a digest of 31 bytes: 32 expected"),
        ({"cluster": 2**128}, OverflowError, "too big"),
        ({"cluster": -1}, OverflowError, "negative"),
        ({"group_first": 2**64}, OverflowError, "too large"),
    ],
)
def test_a_header_that_cannot_be_is_not_begun(tmp_path, change, error, why):
    with pytest.raises(error, match=why):
        ColumnWriter(tmp_path / "file", **HEAD | change)
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_opened_closes_nothing(tmp_path):
    """A descriptor that nobody set is 0, and that one is somebody else's."""
    before = os.fstat(0).st_ino
    for make in (
        lambda: ColumnWriter(tmp_path / "file", **HEAD | {"group_first": -1}),
        lambda: ColumnWriter(tmp_path / "file", **HEAD | {"kind": 9}),
        lambda: ColumnWriter(3, **HEAD),
        lambda: ColumnWriter(tmp_path / "none" / "file", **HEAD),
        lambda: ColumnFile(3),
        lambda: ColumnFile(tmp_path / "none"),
        lambda: ColumnFile.__new__(ColumnFile),
    ):
        with pytest.raises((ValueError, TypeError, OverflowError, OSError)):
            make()
    assert os.fstat(0).st_ino == before


def test_arguments_that_a_writer_does_not_take(tmp_path):
    writer = ColumnWriter(tmp_path / "file", **HEAD)
    with pytest.raises(ValueError, match="no column is begun"):
        writer.append(bytes(16))
    for length in (0, 8, 24, 4080):
        with pytest.raises(ValueError, match=f"records of {length} bytes: a multiple of 16"):
            writer.column(1, length)
    for column in range(1, 17):
        writer.column(column, 32)
    with pytest.raises(ValueError, match="33 bytes are not whole records of 32"):
        writer.append(bytes(33))
    with pytest.raises(ValueError, match="more than 16 columns"):
        writer.column(17, 32)
    with pytest.raises(ValueError, match="2049 bytes of facts: at most 2048"):
        writer.finish(bytes(2049))
    writer.append(bytes(64))
    writer.finish()
    assert ColumnFile(tmp_path / "file").count(16) == 2
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.finish()
    with pytest.raises(FileExistsError, match="file"):
        ColumnWriter(tmp_path / "file", **HEAD)
    writer = ColumnWriter(tmp_path / "twice", **HEAD)
    writer.column(4, 96)
    with pytest.raises(ValueError, match="column 4 is already there"):
        writer.column(4, 96)


# ---- searching ----------------------------------------------------------------------------------


@bounded(150)
@given(PAIRS, RECORD_BYTES, st.lists(FEW | ANY, max_size=12), st.data())
def test_searches_find_what_a_list_holds(pairs, record_bytes, keys, data):
    rows = records(pairs, record_bytes)
    keys += data.draw(st.lists(st.sampled_from(pairs).map(lambda pair: pair[0]), max_size=12)
                      if pairs else st.just([]))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = opened(Path(folder) / "file", {3: records([(7, 7)]), 4: rows})
        found = file.lookup(4, words(keys))
        assert sorted(zip(*(part.tolist() for part in found), strict=True)) == sorted(
            (i, value) for i, key in enumerate(keys) for k, value in pairs if k == key
        )
        for key, low, high in data.draw(
            st.lists(st.tuples(st.sampled_from([*keys, 4]), FEW | ANY, FEW | ANY), max_size=9)
        ):
            first, end = file.bounds(4, key, low, high)
            assert pairs[first:end] == [p for p in pairs if p[0] == key and low <= p[1] <= high]
            assert first == bisect_left(pairs, (key, low)) <= end
        first, end = sorted(data.draw(st.tuples(*[st.integers(0, len(pairs))] * 2)))
        assert (file.records(4, first, end) == rows[first:end]).all()
        assert file.keys(4, first, end).tolist() == [key for key, _ in pairs[first:end]]


@pytest.mark.parametrize("asked", [1, 100, 20_000])
def test_lookups_in_many_pages(tmp_path, asked):
    """Keys that lie alone, that fill pages, and that nobody has, in no order."""
    rng = random.Random(asked)
    pairs = sorted({*many(1, 60_000), *((77, value) for value in range(3000)), (TOP, 1), (TOP, 2)})
    file = opened(tmp_path / "file", {1: records(pairs)})
    keys = [*rng.choices([key for key, _ in pairs], k=asked), 78, 77, 0, TOP]
    wanted: dict[int, list[int]] = {}
    for key, value in pairs:
        wanted.setdefault(key, []).append(value)
    indices, values = file.lookup(1, words(keys))
    assert (indices.dtype, values.dtype) == (np.uint32, np.uint64)
    found = list(zip(indices.tolist(), values.tolist(), strict=True))
    assert len(found) == len(set(found)) == sum(len(wanted.get(key, ())) for key in keys)
    assert all(value in wanted[keys[i]] for i, value in found[:: 1 + asked // 100])
    assert [value for i, value in found if i == asked + 1] == wanted[77]


def test_bounds_at_the_end_of_all_numbers(tmp_path):
    pairs = [(TOP, 0), (TOP, TOP - 1), (TOP, TOP)]
    file = opened(tmp_path / "file", {1: records(pairs)})
    assert file.bounds(1, TOP, 0, TOP) == (0, 3)
    assert file.bounds(1, TOP, 1, TOP - 1) == (1, 2)
    assert file.bounds(1, TOP, TOP, TOP) == (2, 3)
    assert file.bounds(1, TOP - 1, 0, TOP) == (0, 0)


def test_what_is_not_there_is_empty(tmp_path):
    file = opened(tmp_path / "file", {2: records([])})
    for column in (1, 2):
        assert file.count(column) == 0
        assert [part.tolist() for part in file.lookup(column, words([0, TOP]))] == [[], []]
        assert file.bounds(column, 5, 0, TOP) == (0, 0)
        assert file.records(column, 0, 0).shape == (0, 16)
        assert file.keys(column, 0, 0).shape == (0,)
    assert file.blocks(0, 0).shape == file.blocks_maybe(0, 0, words([1])).shape == (0,)
    assert file.block_at(0) == 0
    file.verify()


def test_a_file_system_that_keeps_all_in_memory():
    """It knows no write that leaves the page cache alone: one that does not is made instead."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rows = records(many(5, 40_000), 160)
        file = opened(Path(folder) / "file", {16: rows})
        assert file.records(16, 0, len(rows)).tobytes() == rows.tobytes()


@pytest.mark.parametrize(("first", "end"), [(0, 4), (2, 1), (4, 4)])
def test_records_that_are_not_there_are_refused(tmp_path, first, end):
    file = opened(tmp_path / "file", {5: records([(1, 0), (2, 0), (3, 0)], 48)})
    for read in (
        lambda: file.records(5, first, end),
        lambda: file.keys(5, first, end),
        lambda: file.blocks(first, end),
        lambda: file.blocks_maybe(first, end, words([])),
    ):
        with pytest.raises(ValueError, match=f"records {first} to {end} of column 5, which has 3"):
            read()


# ---- merging ------------------------------------------------------------------------------------


@bounded(30)
@given(PAIRS, RECORD_BYTES, st.integers(1, _columns.MERGE_MAX), st.randoms(use_true_random=False))
def test_a_merge_is_the_column_that_one_file_would_have(pairs, record_bytes, count, rng):
    """However the records were spread; a file may have none, or not the column at all."""
    parts: list[column_files.Pairs] = [[] for _ in range(count)]
    for pair in pairs:
        parts[rng.randrange(count)].append(pair)
    with tempfile.TemporaryDirectory() as folder:
        columns = [
            {4: records(part, record_bytes)} if part or rng.random() < 0.5 else {} for part in parts
        ]
        files = [opened(Path(folder) / f"{i}", own) for i, own in enumerate(columns)]
        writer = ColumnWriter(Path(folder) / "merged", **HEAD)
        assert _columns.merge(files, writer, 4) == len(pairs)
        writer.finish()
        whole = {4: records(pairs, record_bytes)} if any(columns) else {}
        direct = write(Path(folder) / "direct", whole)
        assert (Path(folder) / "merged").read_bytes() == direct.read_bytes()


@pytest.mark.parametrize(
    "parts",
    [
        [(3000, 999)],
        [(3000, 999), (2600, 999), (1, 999), (0, 999)],
        [(5000, 999), (200, 10), (3000, 999), (1024, 999), (1025, 99)],
        [(4000, 999)] * 16,
    ],
    ids=len,
)
def test_a_merge_of_more_than_is_read_at_once(tmp_path, parts):
    """256 pages of four records are read at once; some files are used up long before others."""
    columns = [records(many(i, count, keys), 1008) for i, (count, keys) in enumerate(parts)]
    files = [opened(tmp_path / f"{i}", {3: rows}) for i, rows in enumerate(columns)]
    writer = ColumnWriter(tmp_path / "merged", **HEAD)
    merged = _columns.merge(files, writer, 3)
    writer.finish()
    file = ColumnFile(tmp_path / "merged")
    file.verify()
    wanted = sorted(pair for one in files for pair in pairs_of(one, 3))
    assert merged == file.count(3) == len(wanted)
    assert (file.records(3, 0, merged) == records(wanted, 1008)).all()


def test_what_cannot_be_merged_is_refused(tmp_path):
    file = opened(tmp_path / "file", {1: records([(1, 1)]), 2: records([(1, 1)]), 16: records([])})
    other = opened(tmp_path / "other", {1: records([(1, 1)]), 2: records([(2, 2)], 32)})
    writer = ColumnWriter(tmp_path / "merged", **HEAD)
    with pytest.raises(ValueError, match="17 files: at most 16"):
        _columns.merge([file] * 17, writer, 1)
    with pytest.raises(ValueError, match="other: column 2 cannot be merged with the others"):
        _columns.merge([file, other], writer, 2)
    with pytest.raises(ValueError, match="file: column 16 cannot be merged"):
        _columns.merge([file], writer, 16)
    assert _columns.merge([file, other], writer, 3) == _columns.merge([], writer, 1) == 0
    with pytest.raises(ValueError, match="merged: record 1 does not come after the one before it"):
        _columns.merge([file, other], writer, 1)
    with pytest.raises(ValueError, match="the writer is closed"):
        _columns.merge([file], writer, 2)
    other.close()
    with pytest.raises(ValueError, match="other: the file is closed"):
        _columns.merge([file, other], ColumnWriter(tmp_path / "again", **HEAD), 1)
    file.verify()  # nobody thinks that a merge still reads it
    file.close()
    with pytest.raises(ValueError, match="file: the file is closed"):
        file.verify()


# ---- blocks -------------------------------------------------------------------------------------


def panels_of(seed: int, count: int) -> list[Panel]:
    """Panels of all sizes; some in a row have the same shape."""
    rng = random.Random(seed)
    made, timestamp, number = [], 100, 0
    while len(made) < count:
        block_count, line_count = rng.choice([1, 2, 5, 62, 63]), rng.choice([1, 2, 3, 7, 130])
        for _ in range(rng.choice([1, 1, 3])):
            blocks = []
            for _ in range(block_count):
                last = timestamp + rng.randrange(50)
                hashes = [rng.getrandbits(64) for _ in range(rng.choice([0, 3, 40]))]
                blocks.append(Block(number * 7, timestamp, last, number + 1, number * 2, hashes))
                timestamp = last + rng.randrange(1, 9)
                number += 1
            made.append(Panel(blocks, line_count))
    return made


def test_records_of_blocks(tmp_path):
    panels = panels_of(1, 12)
    file = opened(tmp_path / "file", column_files.panel_columns(panels))
    wanted = [
        (b.place_first, b.timestamp_first, b.timestamp_last, b.group_last,
         panel.blocks[0].place_first, index, b.transfers)
        for panel in panels for index, b in enumerate(panel.blocks)
    ]  # fmt: skip
    blocks = file.blocks(0, file.count(5))
    names = "place_first timestamp_first timestamp_last group_last panel index transfers"
    assert blocks.dtype.names == (*names.split(),)
    assert [block.item() for block in blocks] == wanted
    assert [block.item() for block in file.blocks(5, 9)] == wanted[5:9]


def test_blocks_that_may_hold_all_hashes(tmp_path):
    panels = panels_of(2, 14)
    shared = [5, TOP, 0]
    for panel in panels:
        for n, block in enumerate(panel.blocks):
            block.hashes.extend(shared[: n % 4])
    file = opened(tmp_path / "file", column_files.panel_columns(panels))
    rng = random.Random(3)
    blocks = [(block, panel.line_count) for panel in panels for block in panel.blocks]
    own = [h for block, _ in blocks for h in block.hashes]
    questions = [[], [own[0]], shared, shared[:2], [rng.getrandbits(64)]]
    questions += [rng.sample(own, 2) for _ in range(20)]
    questions += [rng.sample(block.hashes, 3) for block, _ in blocks if len(block.hashes) > 2]
    found = 0
    for hashes in questions:
        first, end = rng.choice([(0, len(blocks)), sorted(rng.choices(range(len(blocks)), k=2))])
        wanted = [n for n in range(first, end) if blocks[n][0].maybe(hashes, blocks[n][1])]
        maybe = file.blocks_maybe(first, end, words(hashes))
        assert maybe.tolist() == wanted and maybe.dtype == np.uint32
        found += len(wanted)
    assert found > 100


def test_the_block_at_a_time(tmp_path):
    panels = panels_of(4, 9)
    blocks = [block for panel in panels for block in panel.blocks]
    file = opened(tmp_path / "file", column_files.panel_columns(panels))
    assert len(blocks) > 84, "more than a page"
    for timestamp in [0, *range(90, blocks[-1].timestamp_last + 5), TOP]:
        wanted = bisect_left([block.timestamp_last for block in blocks], timestamp)
        assert file.block_at(timestamp) == wanted


# ---- threads ------------------------------------------------------------------------------------


def test_many_threads_share_a_file_and_the_last_one_closes_it(tmp_path):
    pairs = many(8, 40_000)
    file = opened(tmp_path / "file", {1: records(pairs), 3: records(pairs[:9000])})
    begin, answers, errors = threading.Barrier(7), [], []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        begin.wait()
        try:
            while True:
                some = rng.sample(pairs, 500)
                indices, values = file.lookup(1, words([key for key, _ in some]))
                answers.append(all(
                    some[i][1] == v for i, v in zip(indices.tolist(), values.tolist(), strict=True)
                ) and len(values) == 500)  # fmt: skip
                first, end = file.bounds(3, pairs[seed][0], 0, TOP)
                answers.append(pairs[first:end] == [pairs[seed]])
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    begin.wait()
    while len(answers) < 60:
        pass
    file.close()
    for thread in threads:
        thread.join()
    assert all(answers)
    assert errors == [f"{tmp_path / 'file'}: the file is closed"] * 6
    with pytest.raises(ValueError, match="the file is closed"):
        file.records(1, 0, 1)


@pytest.fixture
def patient():
    """No thread is made to give up the interpreter: it runs until it does so itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(before)


def turns_during(calls) -> int:
    """How often this thread has its turn while another one only makes the calls."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        for call in calls:
            call()
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    made = 0
    while not ended.is_set():
        made += 1
        time.sleep(0)
    thread.join()
    return made


def test_others_run_while_records_are_sorted_written_and_read(tmp_path, patient):
    pairs = np.random.default_rng(1).integers(0, TOP, (1_000_000, 2), np.uint64)
    assert turns_during([lambda: _columns.sort_pairs(pairs)] * 5) > 20
    writer = ColumnWriter(tmp_path / "file", **HEAD)
    writer.column(1, 16)
    parts = np.array_split(pairs, 10)
    assert turns_during([lambda part=part: writer.append(part) for part in parts]) > 20
    writer.finish()
    file = ColumnFile(tmp_path / "file")
    file.load_fences()
    assert turns_during([file.verify] * 10) > 20
    assert turns_during([lambda: file.records(1, 0, 1_000_000)] * 10) > 20
    assert turns_during([lambda: file.lookup(1, pairs[:9000, 0].copy())] * 200) > 20
    merged = ColumnWriter(tmp_path / "merged", **HEAD)
    assert turns_during([lambda: _columns.merge([file], merged, 1)]) > 20


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        ColumnFile(tmp_path / "none")
    assert error.value.filename == str(tmp_path / "none")
    with pytest.raises(DataRefused, match="not a file"):
        ColumnFile(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(DataRefused, match="empty: too short for a column file"):
        ColumnFile(tmp_path / "empty")
