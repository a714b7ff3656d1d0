"""How fast the state machine judges, reads and replays: full requests into a bare core.

What is measured is Core.execute and Core.replay alone: nothing is made durable, and no frame is
read. It knows no journal, no door and no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench import workload
from bench.conftest import Measure
from bench.workload import CREATED, EVENTS, Rows
from chaos.core_driver import NOW, Driver, new_core
from ledger import _core
from ledger.facts import limits, schema
from ledger.facts.schema import Operation


class Book:
    """A core with accounts, and a clock that goes on by 1 ms a request."""

    def __init__(self, flags: int = 0) -> None:
        self.driver = Driver()
        self.now = NOW
        self.requests = 0
        self.driver.core.start(NOW, NOW, limits.RELEASE)
        for rows in workload.accounts(flags):
            self.run(*self.ask(Operation.CREATE_ACCOUNTS, rows))

    def ask(self, operation: Operation, rows: Rows) -> tuple[Any, bytes, int]:
        """The arguments of run(); the group that is open is closed and forgotten."""
        self.driver.close_group()
        self.driver.groups.clear()
        self.now += 1_000_000
        self.requests += 1
        return *self.driver.arrival(operation, [rows.tobytes()]), self.now

    def run(self, arrivals: Any, buffer: bytes, now: int) -> None:
        done, made, why = self.driver.core.execute(buffer, arrivals, 0, 1, now)
        assert (done, made, why) == (1, 1, _core.DONE)

    def results(self, dtype: np.dtype[np.void]) -> Rows:
        """The results of the last request."""
        [results] = self.driver.results(self.driver.answers[0])
        return np.frombuffer(results, dtype)

    def created(self) -> int:
        return int((self.results(schema.CREATE_RESULT)["status"] == CREATED).sum())

    def pay(self, requests: int) -> None:
        for _ in range(requests):
            rows = workload.transfers(self.requests)
            self.run(*self.ask(Operation.CREATE_TRANSFERS, rows))


def create(measure: Measure, book: Book, rows: Callable[[int], Rows], created: int) -> None:
    """Measure full requests of rows(number); of the last one `created` must be created."""

    def prepare() -> tuple[Any, bytes, int]:
        return book.ask(Operation.CREATE_TRANSFERS, rows(book.requests))

    measure(book.run, prepare, count=len(rows(0)), rounds=100)
    assert book.created() == created


def test_plain_transfers(measure: Measure) -> None:
    create(measure, Book(), workload.transfers, EVENTS)


def test_transfers_of_accounts_with_history(measure: Measure) -> None:
    create(measure, Book(schema.AccountFlags.HISTORY), workload.transfers, EVENTS)


def test_holds_opened_and_posted(measure: Measure) -> None:
    create(measure, Book(), workload.holds, EVENTS // 2 * 2)


def test_holds_opened(measure: Measure) -> None:
    create(measure, Book(), workload.opened, EVENTS)


@pytest.mark.parametrize("flag", ["POST_PENDING_TRANSFER", "VOID_PENDING_TRANSFER"])
def test_holds_resolved(measure: Measure, flag: str) -> None:
    book = Book()

    def prepare() -> tuple[Any, bytes, int]:
        holds = workload.opened(book.requests)
        book.run(*book.ask(Operation.CREATE_TRANSFERS, holds))
        rows = workload.resolving(book.requests, holds, schema.TransferFlags[flag])
        return book.ask(Operation.CREATE_TRANSFERS, rows)

    measure(book.run, prepare, count=EVENTS, rounds=50)
    assert book.created() == EVENTS


def test_duplicates(measure: Measure) -> None:
    book = Book()
    rows = workload.transfers(book.requests)
    book.run(*book.ask(Operation.CREATE_TRANSFERS, rows))
    measure(book.run, lambda: book.ask(Operation.CREATE_TRANSFERS, rows), count=EVENTS, rounds=100)
    assert (book.results(schema.CREATE_RESULT)["status"] == schema.TransferStatus.EXISTS).all()


def test_refused_transfers(measure: Measure) -> None:
    create(measure, Book(), workload.refused, 0)


def test_chains_of_which_some_fail(measure: Measure) -> None:
    created = workload.chains(0)[1]
    create(measure, Book(), lambda number: workload.chains(number)[0], created)


@pytest.mark.parametrize("reverse", [False, True], ids=["oldest first", "newest first"])
def test_statement_of_one_account(measure: Measure, reverse: bool) -> None:
    book = Book()
    for _ in range(5):  # every fourth transfer is this account's
        rows = workload.transfers(book.requests)
        rows["debit_account_id"][::4, 0] = 1
        rows["credit_account_id"][:, 0] = np.maximum(rows["credit_account_id"][:, 0], 2)
        book.run(*book.ask(Operation.CREATE_TRANSFERS, rows))
    flags = 7 if reverse else 3
    asked = schema.AccountFilter(account_id=1, limit=EVENTS, flags=flags)
    rows = schema.pack_account_filters([asked])
    question = book.ask(Operation.GET_ACCOUNT_TRANSFERS, rows)
    measure(book.run, lambda: question, count=EVENTS, unit="records", rounds=100)
    found = book.results(schema.TRANSFER)
    assert len(found) == EVENTS
    assert ((found["debit_account_id"][:, 0] == 1) | (found["credit_account_id"][:, 0] == 1)).all()


@pytest.mark.parametrize("history", [10_000, 1_000_000], ids="of {:,}".format)
def test_lookup_of_transfers(measure: Measure, tiny: bool, history: int) -> None:
    book = Book()
    first = book.requests
    book.pay(2 if tiny else max(1, history // EVENTS))
    ids = np.zeros(EVENTS, schema.ID)
    random = np.random.default_rng(2)

    def prepare() -> tuple[Any, bytes, int]:
        ids["id"][:, 0] = random.integers(0, EVENTS, EVENTS)
        ids["id"][:, 1] = 1 + random.integers(first, book_end, EVENTS)
        return book.ask(Operation.LOOKUP_TRANSFERS, ids)

    book_end = book.requests
    measure(book.run, prepare, count=EVENTS, unit="records", rounds=100)
    assert (book.results(schema.TRANSFER)["id"] == ids["id"]).all()


def test_replay(measure: Measure, tiny: bool) -> None:
    requests = 2 if tiny else 60
    driver = Driver(group_records_max=0)
    driver.core.start(NOW, NOW, limits.RELEASE)
    now = NOW
    for rows in workload.accounts():
        now += 1_000_000
        driver.execute(Operation.CREATE_ACCOUNTS, [rows.tobytes()], now)
    for number in range(requests):
        now += 1_000_000
        events = workload.transfers(number).tobytes()
        driver.execute(Operation.CREATE_TRANSFERS, [events], now)
    driver.close_group()
    cores: list[_core.Core] = []

    def prepare() -> tuple[_core.Core]:
        cores[:] = [new_core()]
        return (cores[0],)

    def replay(core: _core.Core) -> None:
        for fields, body in driver.groups:
            core.replay(
                body, fields["group"], fields["position_first"], fields["position_count"],
                fields["clock_before"], fields["clock_after"],
            )  # fmt: skip

    measure(replay, prepare, count=requests * EVENTS, rounds=5)
    assert cores[0].state_hash() == driver.core.state_hash()
