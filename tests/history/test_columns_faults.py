"""Column files that are damaged, cut, mixed up or could not be written: found, named, never served.

Damage is done to files that were written well. Writes fail in a process of its own, with the fault
library loaded, at the first call, the second, and so on until an attempt meets no fault.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chaos import shim
from ledger.facts.errors import ColumnDamaged, DataRefused
from ledger.history import _columns
from ledger.history._columns import ColumnFile, ColumnWriter
from tests.support.column_files import (
    HEAD,
    PAGE_BYTES,
    Block,
    Panel,
    opened,
    panel_columns,
    records,
    reseal,
    write,
)

ROOT = Path(__file__).resolve().parents[2]
TOP = 2**64 - 1
PAIRS = [(n // 3, n) for n in range(600)]  # three pages
PANELS = [
    Panel([Block(n, n, n, 1, n, [n])], lines) for n, lines in ((1, 127), (2, 252), (3, 1))
]
COLUMNS = {1: records(PAIRS), **panel_columns(PANELS), 16: records(PAIRS[:40], 160)}
# The pages: header; three of column 1 and their fence page; one of column 5 and its; five of column
# 6, of panels of two, two and one parts, and theirs; two.
IDS_PAGES, IDS_FENCES, BLOCKS_PAGE, BLOCKS_FENCES, PANELS_PAGES, PANELS_FENCES, ACCOUNTS_PAGES = (
    range(1, 4), 4, 5, 6, range(7, 12), 12, range(13, 15),
)  # fmt: skip
PAGES = 15
# One byte of each part of a page.
PARTS = {"first": 0, "last of the payload": 4063, "number": 4064, "identity": 4075, "check": 4095}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    assert write(tmp_path / "file", COLUMNS).stat().st_size == PAGES * PAGE_BYTES
    return tmp_path / "file"


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), at)


def reads(file: ColumnFile) -> dict[str, tuple[Callable[[], object], set[int]]]:
    """Every call that reads, and the pages that it cannot do without."""
    ids, accounts = set(IDS_PAGES), set(ACCOUNTS_PAGES)
    keys, high = np.array([0, 90, 199], np.uint64), np.array([TOP], np.uint64)
    # The first part of a panel tells its shape, the second of two has the line of this hash.
    panels = {BLOCKS_PAGE, PANELS_FENCES, *PANELS_PAGES}
    return {
        "records 1": (lambda: file.records(1, 0, 600), ids),
        "records 1, some": (lambda: file.records(1, 254, 508), {2}),
        "records 16": (lambda: file.records(16, 0, 40), accounts),
        "keys": (lambda: file.keys(1, 0, 600), ids),
        "lookup": (lambda: file.lookup(1, keys), ids | {IDS_FENCES}),
        "bounds": (lambda: file.bounds(1, 199, 599, 599), {3, IDS_FENCES}),
        "blocks": (lambda: file.blocks(0, 3), {BLOCKS_PAGE}),
        "maybe": (lambda: file.blocks_maybe(0, 3, high), panels),
        "at": (lambda: file.block_at(0), {BLOCKS_PAGE}),
        "fences": (file.load_fences, {IDS_FENCES, BLOCKS_FENCES, PANELS_FENCES}),
        "verify": (file.verify, set(range(1, PAGES))),
    }


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("page", range(1, PAGES))
def test_a_flipped_bit_is_found_by_who_reads_its_page_and_by_no_other(path, page, part):
    flip(path, page * PAGE_BYTES + PARTS[part])
    for call in reads(ColumnFile(path)):
        read, pages = reads(ColumnFile(path))[call]  # a file that knows no fences yet
        if page not in pages:
            read()
            continue
        with pytest.raises(ColumnDamaged, match=f"{path}: page {page} is damaged"):
            read()


def test_every_flipped_byte_of_the_header_is_refused(path):
    for at in range(PAGE_BYTES):
        flip(path, at)
        with pytest.raises(DataRefused, match=f"{path}: ") as error:
            ColumnFile(path)
        assert type(error.value) is DataRefused
        flip(path, at)
    ColumnFile(path).verify()


def test_random_damage_never_gets_through(path):
    rng = random.Random(1)
    whole = path.read_bytes()
    for _ in range(200):
        for at in {rng.randrange(PAGE_BYTES, len(whole)) for _ in range(rng.choice([1, 2, 30]))}:
            flip(path, at)
        with pytest.raises(ColumnDamaged):
            ColumnFile(path).verify()
        path.write_bytes(whole)


def test_intact_pages_in_the_wrong_place_are_damage(path):
    whole = bytearray(path.read_bytes())
    first, second = (slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES) for page in (1, 2))
    whole[first], whole[second] = whole[second], whole[first]
    path.write_bytes(whole)
    with pytest.raises(ColumnDamaged, match="page 1 is damaged"):
        ColumnFile(path).records(1, 0, 1)
    with pytest.raises(ColumnDamaged, match="page 2 is damaged"):
        ColumnFile(path).records(1, 300, 301)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": _columns.CHECKPOINT}, {"cluster": 1}, {"group_first": 2}, {"group_last": 4},
        {"position_last": 1}, {"digest": bytes(32)}, {"windows": 1},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_intact_pages_of_another_file_are_damage(path, tmp_path, other):
    whole = bytearray(path.read_bytes())
    page = slice(2 * PAGE_BYTES, 3 * PAGE_BYTES)
    whole[page] = write(tmp_path / "other", COLUMNS, **other).read_bytes()[page]
    path.write_bytes(whole)
    with pytest.raises(ColumnDamaged, match="page 2 is damaged"):
        ColumnFile(path).verify()


def test_a_file_that_is_not_whole_is_refused(path):
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 1000), *range(0, len(whole), PAGE_BYTES)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataRefused, match=r"too short|not the length"):
            ColumnFile(path)
    for more in (1, PAGE_BYTES):
        path.write_bytes(whole + bytes(more))
        with pytest.raises(DataRefused, match="the file has not the length that its header says"):
            ColumnFile(path)


def test_a_file_that_is_cut_while_it_is_open(path):
    file = ColumnFile(path)
    os.truncate(path, 3 * PAGE_BYTES + 100)
    file.records(1, 0, 254)
    for read, pages in (reads(file)[call] for call in ("records 1", "blocks", "fences", "verify")):
        with pytest.raises(ColumnDamaged, match="the file ends before page") as error:
            read()
        assert int(str(error.value).split()[-1]) in pages


def test_a_file_that_was_not_finished_is_refused(tmp_path):
    writer = ColumnWriter(tmp_path / "file", **HEAD)
    writer.column(1, 16)
    writer.append(records([(n, n) for n in range(100_000)]))  # more than one write
    writer.close()
    assert (tmp_path / "file").stat().st_size > PAGE_BYTES
    with pytest.raises(DataRefused, match="not a column file"):
        ColumnFile(tmp_path / "file")


def column_row(number: int, **change: int) -> tuple[int, bytes]:
    """Where the row of one of COLUMNS lies in the header, and that row with something else."""
    row = [
        {"column": 1, "record_bytes": 16, "count": 600, "page_first": 1, "page_count": 3},
        {"column": 5, "record_bytes": 48, "count": 3, "page_first": 5, "page_count": 1},
        {"column": 6, "record_bytes": 4064, "count": 5, "page_first": 7, "page_count": 5},
        {"column": 16, "record_bytes": 160, "count": 40, "page_first": 13, "page_count": 2},
    ][number]
    assert set(change) <= set(row)
    return 128 + 32 * number, struct.pack("<IIQQQ", *(row | change).values())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((0, b"LEDGCOLT"), "not a column file"),
        ((8, b"\1\0"), "a format this version does not know"),
        ((8, b"\3\0"), "a format this version does not know"),
        ((10, b"\3\0"), "neither a segment nor a checkpoint"),
        ((10, b"\0\0"), "neither a segment nor a checkpoint"),
        ((12, b"\x11\0\0\0"), "more columns than a header holds"),
        ((12, b"\3\0\0\0"), "the file has not the length"),
        ((12, b"\5\0\0\0"), "a length that no record has"),
        ((1024, b"\1\x08\0\0"), "more facts than a header holds"),
        (column_row(0, record_bytes=0), "a length that no record has"),
        (column_row(0, record_bytes=24), "a length that no record has"),
        (column_row(0, record_bytes=4080), "a length that no record has"),
        (column_row(1, column=1), "a column is named twice"),
        (column_row(0, count=100), "a column is not where it must be"),
        (column_row(0, count=763), "a column is not where it must be"),
        (column_row(0, count=TOP), "a column is not where it must be"),
        (column_row(0, page_first=0), "a column is not where it must be"),
        (column_row(1, page_first=4), "a column is not where it must be"),
        (column_row(0, page_count=2), "a column is not where it must be"),
        (column_row(3, count=TOP // 160 * 160, page_count=TOP // 4064 + 1), "not where it must be"),
        (column_row(3, count=25 << 40, page_count=1 << 40), "the file has not the length"),
        (column_row(3, column=4), "the file has not the length"),  # it would have fences
    ],
)
def test_a_header_that_nobody_would_write_is_refused_though_its_check_is_right(path, change, why):
    reseal(path, 0, *change)
    with pytest.raises(DataRefused, match=why):
        ColumnFile(path)


@pytest.mark.parametrize(
    ("page", "at", "new", "named"),
    [
        (2, 16 * 9, records([(0, 0)]).tobytes(), 2),  # inside a page
        (2, 16 * 253, records([(TOP, TOP)]).tobytes(), 3),  # across its end
        (3, 0, records([(199, 599)]).tobytes(), 3),  # not what its fence says
        (IDS_FENCES, 16, records([(1, 1)]).tobytes(), 2),
    ],
)
def test_verify_finds_records_in_disorder_though_their_checks_are_right(path, page, at, new, named):
    reseal(path, page, at, new)
    with pytest.raises(ColumnDamaged, match=f"page {named} is damaged"):
        ColumnFile(path).verify()


@pytest.mark.parametrize(
    ("page", "at", "value"),
    [
        (7, 8, 1),  # a part that is not the panel's first
        (8, 8, 0),  # the first part again
        (7, 16, 0),  # no blocks
        (7, 16, 64),
        (9, 16, 2),  # not as many as the second part says
        (7, 20, 0),  # no lines
        (7, 20, 126 * 9),  # more parts than there are
        (9, 20, 250),
        (11, 8, 1),
    ],
)
def test_a_panel_that_cannot_lie_where_it_lies_is_damage(path, page, at, value):
    reseal(path, page, at, value.to_bytes(4, "little"))
    with pytest.raises(ColumnDamaged, match=r"page \d+ is damaged|no panel begins at 0x1"):
        ColumnFile(path).blocks_maybe(0, 3, np.array([TOP], np.uint64))


def test_a_block_that_is_in_no_panel_is_damage(path):
    reseal(path, BLOCKS_PAGE, 32, (9).to_bytes(8, "little"))
    with pytest.raises(ColumnDamaged, match="no panel begins at 0x9"):
        ColumnFile(path).blocks_maybe(0, 3, np.array([TOP], np.uint64))
    reseal(path, BLOCKS_PAGE, 32, struct.pack("<QI", 1, 1))
    with pytest.raises(ColumnDamaged, match="page 7 is damaged"):
        ColumnFile(path).blocks_maybe(0, 3, np.array([TOP], np.uint64))


def test_a_merge_names_the_file_that_is_damaged(path, tmp_path):
    good = opened(tmp_path / "good", {1: records([(TOP, n) for n in range(70_000)])})
    flip(path, 3 * PAGE_BYTES)
    damaged = ColumnFile(path)
    writer = ColumnWriter(tmp_path / "merged", **HEAD)
    with pytest.raises(ColumnDamaged, match=f"{path}: page 3 is damaged"):
        _columns.merge([good, damaged], writer, 1)
    late = opened(tmp_path / "late", {1: records([(5, n) for n in range(70_000)])})
    flip(tmp_path / "late", 270 * PAGE_BYTES)  # read when the first 256 are used up
    with pytest.raises(ColumnDamaged, match="late: page 270 is damaged"):
        _columns.merge([good, late], ColumnWriter(tmp_path / "again", **HEAD), 1)


# ---- writes that fail ---------------------------------------------------------------------------

CALLS_MAX = 60
ROWS = np.arange(2 * 700_000, dtype=np.uint64).reshape(-1, 2)  # 11 MiB: twelve writes, two steps


def write_all(path: Path) -> None:
    write(path, {1: ROWS.view(np.uint8), 16: records(PAIRS)}, b"facts")


def fails_cleanly(path: Path, control: Path, rule: str) -> bool:
    """Write under a rule: True when it met no fault. What failed is no column file."""
    path.unlink(missing_ok=True)
    shim.switch(control, rule)
    writer = ColumnWriter(path, **HEAD)
    try:
        writer.column(1, 16)
        writer.append(ROWS)
        writer.column(16, 16)
        writer.append(records(PAIRS))
        writer.finish(b"facts")
    except OSError as error:
        assert error.filename == str(path)
        assert error.errno in (errno.ENOSPC, errno.EIO)
        try:
            writer.append(b"")
        except ValueError as closed:
            assert "the writer is closed" in str(closed)
        else:
            raise AssertionError("a writer that failed goes on") from error
        shim.switch(control)
        try:
            ColumnFile(path).verify()
        except DataRefused:
            return False
        # Only the last sync may fail for a file that is whole.
        assert rule.startswith("sync")
        return False
    finally:
        writer.close()
        shim.switch(control)
    ColumnFile(path).verify()
    return True


def fail_each(desk: Path, calls: str, action: str) -> None:
    path, control = desk / "disk" / "file", desk / "control"
    for nth in range(1, CALLS_MAX):
        if fails_cleanly(path, control, f"{calls} {nth} {action}"):
            assert nth > 3
            return
    raise AssertionError("the file was never written")


def go_on_after_short_writes(desk: Path) -> None:
    path = desk / "disk" / "file"
    for nth in range(1, 16):
        shim.switch(desk / "control", f"any {nth} short")
        write_all(path)
        ColumnFile(path).verify()
        path.unlink()
    shim.switch(desk / "control", "any 0 short")  # until half a byte is left
    try:
        write_all(path)
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EIO, str(path))
    else:
        raise AssertionError("half of nothing is something")


def sync_in_steps(desk: Path) -> None:
    """At most STEP_BYTES between two syncs, and a sync on each side of the header's write."""
    write_all(desk / "disk" / "file")
    events = [event for event in shim.events(desk / "log") if event.what == "end"]
    calls = [(event.call, event.result) for event in events]
    assert calls[-4:] == [(calls[-4][0], calls[-4][1]), ("fdatasync", 0), ("pwrite", 4096),
                          ("fdatasync", 0)]  # fmt: skip
    steps, unsynced = 0, 0
    for call, result in calls:
        unsynced = 0 if call == "fdatasync" else unsynced + result
        steps += call == "fdatasync"
        assert call in ("pwrite", "pwritev", "fdatasync")
        assert unsynced <= _columns.STEP_BYTES
    assert steps == 3


def refuse_a_file_too_large(desk: Path) -> None:
    path = desk / "disk" / "file"
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))
    try:
        write_all(path)
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EFBIG, str(path))
        assert path.stat().st_size == 3 << 20
    else:
        raise AssertionError("the limit holds for nobody")


SCENARIOS: dict[str, Callable[[Path], None]] = {
    **{
        f"{calls}_{action}": lambda desk, calls=calls, action=action: fail_each(desk, calls, action)
        for calls, action in (("any", "enospc"), ("any", "eio"), ("sync", "eio"))
    },
    "short": go_on_after_short_writes,
    "steps": sync_in_steps,
    "limit": refuse_a_file_too_large,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_writes_that_fail(scenario: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    environment = shim.environment(
        tmp_path / "disk", control=tmp_path / "control", log=tmp_path / "log"
    )
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, __file__, scenario, tmp_path], env=environment, check=True)


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
