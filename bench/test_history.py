"""How fast the past is sealed, merged and read: windows to column files, and answers from them.

The books are real: an in-process book wrote their journals and sealed them, in windows smaller than
a server's, so that a history of several is made in seconds. Files lie in the memory of the system,
so a look-up shows what the processor does and not what a disk would. It knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import ledger
from bench import workload
from bench.conftest import Measure
from bench.workload import EVENTS, Rows
from chaos.core_driver import NOW, Driver
from ledger.facts import limits, schema
from ledger.facts.schema import Operation
from ledger.history import _columns, segments
from ledger.history._columns import ColumnWriter
from ledger.history.segments import History, Wanted
from ledger.journal.journal import Journal

KEY = bytes(range(16))
WINDOW, TINY_WINDOW = 1 << 17, 1 << 13  # transfers
MERGED = segments.MERGED_AT_ONCE
WINDOWS = (MERGED, 4 * MERGED)
HOT_EACH = 10  # each tenth payment is account 1's
NO_TIMES = np.empty(0, np.uint64)


def payments(request: int) -> Rows:
    """A full request with a hot account, and one payment that has a value of its own."""
    rows = workload.transfers(request)
    rows["debit_account_id"][::HOT_EACH, 0] = 1
    rows["credit_account_id"][:, 0] = np.maximum(rows["credit_account_id"][:, 0], 2)
    rows["user_data_64"][0] = request + 1
    return rows


# ---- from memory --------------------------------------------------------------------------------


def core_of(events: int, accounts: int = workload.ACCOUNTS, flags: int = 0) -> Driver:
    """A core with windows of so many events, which keeps the first one that is closed."""

    class Windowed(Driver):
        window_events = events
        windows_kept = 1

    driver = Windowed()
    driver.core.start(NOW, NOW, limits.RELEASE)
    for rows in workload.accounts(flags, accounts):
        driver.execute(Operation.CREATE_ACCOUNTS, [rows.tobytes()], NOW)
    return driver


@pytest.mark.parametrize("flags", [0, schema.AccountFlags.HISTORY], ids=["plain", "with balances"])
def test_seal_of_a_window(measure: Measure, tiny: bool, tmp_path: Path, flags: int) -> None:
    driver = core_of(TINY_WINDOW if tiny else limits.WINDOW_EVENTS, flags=flags)
    requests = 0
    while not driver.core.memtables:
        rows = payments(requests)
        driver.execute(Operation.CREATE_TRANSFERS, [rows.tobytes()], NOW + requests)
        requests += 1
    [window] = driver.core.memtables
    path = tmp_path / "segment"

    def prepare() -> tuple[()]:
        path.unlink(missing_ok=True)
        return ()

    def seal() -> None:
        columns = driver.core.memtable_columns(KEY, driver.core.memtables[0][0])
        for column in (_columns.IDS, _columns.RESOLUTIONS, _columns.ROWS):
            _columns.sort_pairs(columns[column])
        heads = columns[_columns.BALANCES]
        columns[_columns.BALANCES] = heads[np.lexsort((heads[:, 1], heads[:, 0]))]
        writer = ColumnWriter(
            path, kind=_columns.SEGMENT, cluster=0, group_first=window[0], group_last=window[1],
            position_last=1, digest=bytes(32), windows=1,
        )  # fmt: skip
        for column, records in sorted(columns.items()):
            writer.column(column, _columns.RECORD_BYTES[column])
            writer.append(records)
        writer.finish()

    measure(seal, prepare, count=requests * EVENTS, unit="transfers", rounds=5)
    file = _columns.ColumnFile(path)
    assert file.count(_columns.IDS) == requests * EVENTS
    assert (file.count(_columns.BALANCES) > 0) == bool(flags)


@pytest.mark.parametrize("accounts", [10_000, 1_000_000], ids="of {:,}".format)
def test_snapshot_is_copied(measure: Measure, tiny: bool, accounts: int) -> None:
    core = core_of(WINDOW, 100 if tiny else accounts).core
    buffer = np.empty(limits.CHECKPOINT_STEP_BYTES, np.uint8)
    copied = [0]

    def copy() -> None:
        core.open_snapshot()
        copied[0] = 0
        while (step := core.copy_snapshot(buffer))[0]:
            copied[0] += step[1]

    measure(copy, count=100 if tiny else accounts, unit="accounts", rounds=20)
    assert copied[0] == core.counts_by_kind["accounts"]
    assert _columns.RECORD_BYTES[_columns.ACCOUNTS] == schema.ACCOUNT.itemsize


# ---- from files ---------------------------------------------------------------------------------


class Sealed(NamedTuple):
    """A book at rest: its sealed past, that past as it was before it was merged, and how long."""

    history: History
    journal: Journal
    unmerged: Path
    requests: int


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int, bool], Sealed]]:
    """sealed(windows, tiny): a book of as many windows, made once."""
    made: dict[int, Sealed] = {}

    def make(windows: int, tiny: bool) -> Sealed:
        if windows not in made:
            made[windows] = _sealed(tmp_path_factory.mktemp("sealed"), windows, tiny)
        return made[windows]

    yield make
    for one in made.values():
        one.history.close()
        one.journal.close()


def _sealed(folder: Path, windows: int, tiny: bool) -> Sealed:
    window = TINY_WINDOW if tiny else WINDOW
    requests = windows * -(-window // EVENTS)
    book = folder / "book"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WINDOW_EVENTS", window)
        patch.setattr(segments, "MERGED_AT_ONCE", windows + 1)
        with ledger.open(book) as one:
            for rows in workload.accounts():
                rows["flags"][rows["id"][:, 0] == 1] = schema.AccountFlags.HISTORY
                one.create_accounts(rows)
            for request in range(requests):
                results = one.create_transfers(payments(request))
                assert (results["status"] == workload.CREATED).all()
        ledger.open(book).close()  # seals what was given up at the end
    journal = Journal.open(book, readonly=True)
    past = History(book, journal)
    assert len(past.segments) == windows
    unmerged = folder / "unmerged"
    link_segments(book / "state", unmerged)
    while past.merge():
        pass
    return Sealed(past, journal, unmerged, requests)


def link_segments(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.glob("segment-*"):
        (target / path.name).hardlink_to(path)


def resolve(past: Sealed, wanted: Wanted) -> bytes:
    """What a read gives, or the records of ids."""
    found = past.history.resolve(wanted)
    return found.reads[0][2] if found.reads else found.records.tobytes()


def test_merge_of_adjacent_windows(
    measure: Measure, tiny: bool, tmp_path: Path, sealed: Callable[[int, bool], Sealed]
) -> None:
    past = sealed(MERGED, tiny)
    latest: list[History] = []

    def prepare() -> tuple[()]:
        place = tmp_path / str(len(latest))
        link_segments(past.unmerged, place / "state")
        latest.append(History(place, past.journal))
        return ()

    measure(
        lambda: latest[-1].merge(), prepare, count=past.requests * EVENTS, unit="transfers",
        rounds=5,
    )  # fmt: skip
    [segment] = latest[-1].segments
    assert (segment.windows, segment.count(_columns.IDS)) == (MERGED, past.requests * EVENTS)
    for one in latest:
        one.close()


@pytest.mark.parametrize("windows", WINDOWS, ids="of {} windows".format)
@pytest.mark.parametrize("asked", [1, EVENTS])
def test_look_up_of_ids(
    measure: Measure, tiny: bool, windows: int, asked: int,
    sealed: Callable[[int, bool], Sealed],
) -> None:  # fmt: skip
    past = sealed(MERGED if tiny else windows, tiny)
    random = np.random.default_rng(3)

    def prepare() -> tuple[Sealed, Wanted]:
        numbers = np.unique(random.integers(0, past.requests * EVENTS, 2 * asked))
        requests, events = np.divmod(random.permutation(numbers)[:asked], EVENTS)
        ids = np.stack([events, 1 + requests], axis=1).astype(np.uint64)
        return past, Wanted(ids.tobytes(), [], NO_TIMES)

    measure(resolve, prepare, count=asked, unit="ids", rounds=20)
    _, wanted = prepare()
    found = np.frombuffer(resolve(past, wanted), schema.TRANSFER)
    assert found["id"].tobytes() == wanted.ids


@pytest.mark.parametrize("windows", WINDOWS, ids="of {} windows".format)
@pytest.mark.parametrize("reverse", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("operation", ["GET_ACCOUNT_TRANSFERS", "GET_ACCOUNT_BALANCES"])
def test_statement_of_a_hot_account(
    measure: Measure, tiny: bool, operation: str, reverse: bool, windows: int,
    sealed: Callable[[int, bool], Sealed],
) -> None:  # fmt: skip
    past = sealed(MERGED if tiny else windows, tiny)
    asked = schema.AccountFilter(account_id=1, limit=EVENTS, flags=7 if reverse else 3)
    read = (Operation[operation], schema.pack_account_filters([asked]).tobytes(), 0)
    wanted = Wanted(b"", [read], NO_TIMES)
    measure(resolve, lambda: (past, wanted), count=EVENTS, unit="records", rounds=20)
    found = np.frombuffer(resolve(past, wanted), schema.SHAPES[Operation[operation]].result)
    assert len(found) == min(EVENTS, past.requests * -(-EVENTS // HOT_EACH))
    times = found["timestamp"][::-1] if reverse else found["timestamp"]
    assert (times[1:] > times[:-1]).all()
    if found.dtype == schema.ACCOUNT_BALANCE:
        debits = np.sort(found["debits_posted"][:, 0])
        assert (np.diff(debits) == 1).all() and (debits[0] == 1 or reverse)


@pytest.mark.parametrize("windows", WINDOWS, ids="of {} windows".format)
def test_query_by_a_rare_value(
    measure: Measure, tiny: bool, windows: int, sealed: Callable[[int, bool], Sealed]
) -> None:
    past = sealed(MERGED if tiny else windows, tiny)
    random = np.random.default_rng(4)

    def prepare() -> tuple[Sealed, Wanted]:
        asked = schema.QueryFilter(
            user_data_64=1 + int(random.integers(0, past.requests)), limit=EVENTS
        )
        read = (Operation.QUERY_TRANSFERS, schema.pack_query_filters([asked]).tobytes(), 0)
        return past, Wanted(b"", [read], NO_TIMES)

    measure(resolve, prepare, count=1, unit="queries", rounds=20)
    _, wanted = prepare()
    [found] = np.frombuffer(resolve(past, wanted), schema.TRANSFER)
    assert found["user_data_64"] == np.frombuffer(wanted.reads[0][1], schema.QUERY_FILTER)[0][
        "user_data_64"
    ]
