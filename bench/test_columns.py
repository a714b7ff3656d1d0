"""How fast column files are built, merged and searched: the index of transfers beyond memory.

Sizes are those of a window of a million transfers: a hash and a place for each id, two rows for
each transfer. Files lie on the disk of tmp_path and in the memory of the system, so a lookup shows
what the processor does and not what a disk would. It knows no journal and no core.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.conftest import Measure
from bench.workload import EVENTS
from ledger.history import _columns
from ledger.history._columns import ColumnFile, ColumnWriter

TRANSFERS = 1_000_000
ACCOUNTS = 100_000
Pairs = NDArray[np.uint64]
_RANDOM = np.random.default_rng(1)


@pytest.fixture
def transfers(tiny: bool) -> int:
    return 1000 if tiny else TRANSFERS


def pairs(count: int, keys: int, place: int = 0) -> Pairs:
    """Keys drawn at random, and places in order: what a core has before it is sorted."""
    made = np.empty((count, 2), np.uint64)
    made[:, 0] = _RANDOM.integers(0, keys, count, np.uint64, True)
    made[:, 1] = place + np.arange(count)
    return made


def ids(count: int, place: int = 0) -> Pairs:
    return pairs(count, 2**64 - 1, place)


def writer(path: Path) -> ColumnWriter:
    return ColumnWriter(
        path, kind=_columns.SEGMENT, cluster=1, group_first=1, group_last=2, position_last=3,
        digest=bytes(32), windows=1,
    )  # fmt: skip


def names(folder: Path) -> Callable[[], Path]:
    """A new name at each call; the file of the one before is removed."""
    number = 0

    def following() -> Path:
        nonlocal number
        (folder / f"file-{number}").unlink(missing_ok=True)
        number += 1
        return folder / f"file-{number}"

    return following


@pytest.mark.parametrize("keys", [2**64 - 1, ACCOUNTS], ids=["hashes", "accounts"])
def test_sort(measure: Measure, transfers: int, keys: int) -> None:
    unsorted = pairs(transfers, keys)
    latest = [unsorted]

    def prepare() -> tuple[Pairs]:
        latest[0] = unsorted.copy()
        return (latest[0],)

    measure(_columns.sort_pairs, prepare, count=transfers, unit="pairs")
    assert (latest[0][1:, 0] >= latest[0][:-1, 0]).all()


def test_build_a_segment(measure: Measure, transfers: int, tmp_path: Path) -> None:
    columns = {_columns.IDS: ids(transfers), _columns.ROWS: pairs(2 * transfers, ACCOUNTS)}
    following = names(tmp_path)
    latest = [tmp_path]

    def prepare() -> tuple[Path, dict[int, Pairs]]:
        latest[0] = following()
        return latest[0], {column: unsorted.copy() for column, unsorted in columns.items()}

    def build(path: Path, unsorted: dict[int, Pairs]) -> None:
        target = writer(path)
        for column, rows in unsorted.items():
            _columns.sort_pairs(rows)
            target.column(column, rows.itemsize * 2)
            target.append(rows)
        target.finish()

    measure(build, prepare, count=transfers, unit="transfers", rounds=10)
    assert ColumnFile(latest[0]).count(_columns.ROWS) == 2 * transfers


def file_of(path: Path, rows: Pairs) -> ColumnFile:
    _columns.sort_pairs(rows)
    target = writer(path)
    target.column(_columns.IDS, rows.itemsize * 2)
    target.append(rows)
    target.finish()
    return ColumnFile(path)


def test_merge_of_four(measure: Measure, transfers: int, tmp_path: Path) -> None:
    files = [file_of(tmp_path / f"part-{n}", ids(transfers, n * transfers)) for n in range(4)]
    following = names(tmp_path)

    def merge(target: ColumnWriter) -> None:
        assert _columns.merge(files, target, _columns.IDS) == 4 * transfers
        target.finish()

    measure(merge, lambda: (writer(following()),), count=4 * transfers, unit="records", rounds=10)


@pytest.mark.parametrize("history", [1_000_000, 16_000_000], ids="of {:,}".format)
@pytest.mark.parametrize("asked", [1, EVENTS])
def test_lookup(measure: Measure, tiny: bool, tmp_path: Path, history: int, asked: int) -> None:
    rows = ids(20_000 if tiny else history)
    file = file_of(tmp_path / "file", rows)
    file.load_fences()

    def prepare() -> tuple[int, Pairs]:
        return _columns.IDS, rows[_RANDOM.integers(0, len(rows), asked), 0]

    measure(file.lookup, prepare, count=asked, unit="keys", rounds=50)
    column, keys = prepare()
    indices, values = file.lookup(column, keys)
    assert np.isin(np.arange(asked), indices).all()
    assert len(values) >= asked


def test_hashes_of_ids_read_back(measure: Measure, transfers: int, tmp_path: Path) -> None:
    rows = ids(transfers)
    file = file_of(tmp_path / "file", rows)
    measure(
        lambda: file.keys(_columns.IDS, 0, transfers), count=transfers, unit="records", rounds=30
    )
    assert (file.keys(_columns.IDS, 0, transfers) == rows[:, 0]).all()
