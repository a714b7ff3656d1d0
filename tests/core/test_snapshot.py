"""Snapshots: what is copied in steps beside the work is the state of one moment, and comes back."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chaos.core_driver import Driver
from chaos.model import encode
from ledger import _core
from ledger.engine import recovery
from ledger.engine.checkpointer import encode_numbers
from ledger.facts import limits, schema
from ledger.history import _columns
from tests.support.core_book import Book, account, hold, linked, pay, post, void


class Copy:
    """A snapshot that is copied bit by bit, and what the state was when it was opened."""

    def __init__(self, core: _core.Core) -> None:
        self.core = core
        self.hash, self.counts = core.state_hash(), dict(core.counts_by_kind)
        self.holds = core.open_holds()
        few, self.numbers = core.open_snapshot()
        self.few = {column: records.tobytes() for column, records in few.items()}
        self.columns: dict[int, bytes] = {}
        self.done = False

    def step(self, records: int) -> None:
        out = np.zeros(160 * records, np.uint8)
        column, count = self.core.copy_snapshot(out)
        self.done = column == 0
        if column:
            size = _columns.RECORD_BYTES[column]
            self.columns[column] = self.columns.get(column, b"") + out[: size * count].tobytes()

    def restored(self, driver: Driver) -> _core.Core:
        columns = self.columns | self.few
        for column in (_columns.STARTS, _columns.ACCOUNTS, _columns.HOLDS, _columns.SESSIONS):
            raw = np.frombuffer(bytearray(columns.get(column, b"")), np.uint8)
            driver.core.restore(column, raw.reshape(-1, _columns.RECORD_BYTES[column]))
        driver.core.restore_numbers(self.numbers)
        return driver.core


def busy(book: Book, draw: random.Random, at: int) -> None:
    """A request that changes accounts, opens and ends holds, some of it taken back."""
    id = 10**7 + 10 * at
    events = [
        pay(
            id, debit_account_id=draw.randint(1, 2), credit_account_id=3, amount=draw.randint(1, 9)
        ),
        hold(
            id + 1, debit_account_id=draw.choice((1, 4)), timeout=draw.choice((0, 0, 5)), amount=7
        ),
    ]
    if at > 3:
        earlier = 10**7 + 10 * draw.randint(max(0, at - 20), at - 1) + 1
        events.append(draw.choice((post, void))(id + 2, earlier))
        again = 10**7 + 10 * draw.randint(max(0, at - 20), at - 1) + 1
        # A chain that fails at its end takes back the end of a hold.
        events += [linked(post(id + 3, again)), pay(id + 4, debit_account_id=99)]
    book.transfers(*events)
    if draw.random() < 0.1:
        book.accounts(account(1000 + at))
    book.wait(draw.choice((0, 1)))


@pytest.mark.parametrize("window_events", [0, 5])
@pytest.mark.parametrize("seed", range(6))
def test_a_snapshot_is_the_state_of_its_moment(
    seed: int, window_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(Driver, "window_events", window_events)
    book = Book({1: 8, 2: 0})
    at = 0
    for _ in range(6):
        for _ in range(draw.randint(1, 12)):
            busy(book, draw, at := at + 1)
        book.driver.close_group()
        copy = Copy(book.core)
        groups = len(book.driver.groups)
        while not copy.done:
            copy.step(draw.randint(1, 3))
            if draw.random() < 0.7:
                busy(book, draw, at := at + 1)
        book.driver.close_group()
        live = book.core.state_hash()

        second = Driver()
        second.past = book.driver.past
        core = copy.restored(second)
        assert core.state_hash() == copy.hash
        assert np.array_equal(core.open_holds(), copy.holds)
        assert core.counts_by_kind == copy.counts
        for fields, body in book.driver.groups[groups:]:
            core.replay(
                body, fields["group"], fields["position_first"], fields["position_count"],
                fields["clock_before"], fields["clock_after"],
            )  # fmt: skip
        assert core.state_hash() == live, "replay goes on from it"


def test_what_does_not_fit_is_refused() -> None:
    book = Book()
    book.transfers(hold(50))
    book.driver.close_group()
    copy = Copy(book.core)
    while not copy.done:
        copy.step(2)
    copy.columns[_columns.ACCOUNTS] *= 2
    with pytest.raises(Exception, match="record 5 of column 16 does not fit"):
        copy.restored(Driver())


def test_a_snapshot_that_is_given_up_leaves_nothing() -> None:
    book = Book()
    book.driver.close_group()
    Copy(book.core).step(1)
    book.core.close_snapshot()
    book.transfers(pay(1))
    book.driver.close_group()
    copy = Copy(book.core)
    while not copy.done:
        copy.step(1)
    assert copy.restored(Driver()).state_hash() == book.core.state_hash()


def test_sessions_come_back_in_the_order_of_their_last_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few records are read at once: the one that is evicted next is still the oldest."""

    def ask(driver: Driver, operation: int, events: bytes, client: int, **fields: int) -> np.void:
        fields |= {"release": limits.RELEASE}
        identity: dict[str, Any] = {"client": schema.u128(client), "checksum": (client, 1)}
        answer = driver.answer(*driver.arrival(operation, [events], **identity, **fields), 10**18)
        assert answer is not None and answer["verdict"] == schema.Verdict.REPLY
        return answer

    before, after = Driver(sessions_max=6), Driver(sessions_max=6)
    numbers = {n: int(ask(before, 2, b"", n)["position"]) for n in range(1, 7)}
    for client in (2, 1):
        record = encode(account(client))
        ask(before, 146, record, client, session=numbers[client], number=1)
    before.core.start(10**18, 10**18, limits.RELEASE, 7)
    before.close_group()
    few, at_end = before.core.open_snapshot()
    writer = _columns.ColumnWriter(
        tmp_path / "checkpoint", kind=_columns.CHECKPOINT, cluster=0, group_first=1, group_last=1,
        position_last=1, digest=bytes(32), windows=0,
    )  # fmt: skip
    for column, records in few.items():
        writer.column(column, _columns.RECORD_BYTES[column])
        writer.append(records)
    writer.finish(encode_numbers(at_end))
    monkeypatch.setattr(limits, "CHECKPOINT_STEP_BYTES", 256)
    file = _columns.ColumnFile(tmp_path / "checkpoint")
    history: Any = SimpleNamespace(checkpoint=file, id_count=0, hashes=lambda: iter(()))
    assert recovery.restore(history, after.core) == 1
    for client in range(7, 13):
        ask(after, 2, b"", client)
    after.close_group()
    evicted = [
        schema.int_of(record["client"])
        for kind, _, records in after.runs()
        if kind == schema.JournalKind.SESSION_EVICTED
        for record in records
    ]
    assert evicted == [3, 4, 5, 6, 2, 1]
