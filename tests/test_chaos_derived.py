"""Derived data that rot, and the old past of the journal: what is damaged is never served.

A bit of every page of every column file is changed in a book that is closed; whoever opens it then
gets what the book always said, or an error, and the next start has built again what was damaged.
A group of the journal cannot be built again: what needs it is refused, and the rest is served.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ledger
from chaos import derived, process
from chaos.altered import altered, configured
from ledger import _columns
from ledger.config import Exit
from ledger.errors import ColumnDamaged, LedgerStopped
from ledger.history import History
from ledger.journal import Journal
from ledger.schema import AccountFlags, TransferFlags, TransferStatus
from tests.book_calls import account, pay

PAGE_BYTES = _columns.PAGE_BYTES
BOUNDS = {"WINDOW_EVENTS": 130, "MERGED_AT_ONCE": 2, "CHECKPOINT_WINDOWS_MIN": 1}
ACCOUNTS = 8
ROUNDS = 38
BACKWARDS = 4  # of an account filter; of a query 1
EVERYTHING = 8_189

Answer = tuple[str, bytes]


class Filled(NamedTuple):
    directory: Path
    transfers: list[Any]  # all that were asked for, in order; their ids are 1, 2, ...
    answers: list[Answer]


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    with configured(BOUNDS):
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A book with segments of several sizes, a checkpoint, and something in every column."""
    place = tmp_path_factory.mktemp("filled")
    directory = place / "book"
    flags = [0, 0, *[AccountFlags.HISTORY] * 5]
    flags.append(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
    with contextlib.closing(process.Server(directory, env=altered(place, **BOUNDS))) as server:
        with ledger.Client(server.start().address) as client:
            client.create_accounts([account(n + 1, flags=flag) for n, flag in enumerate(flags)])
        assert server.terminate() == 0
    chance, holds, transfers = random.Random(4), list[Any](), list[Any]()
    with ledger.open(directory) as book:
        for _ in range(ROUNDS):
            some = [_transfer(chance, holds, len(transfers) + n + 1) for n in range(30)]
            book.create_transfers(some)
            transfers += some
    with ledger.open(directory) as book:
        answers = list(asked(book, transfers))
    assert derived.fault_of(directory, 0, BOUNDS["WINDOW_EVENTS"]) is None  # all is merged now
    return Filled(directory, transfers, answers)


def _transfer(chance: random.Random, holds: list[Any], id: int) -> Any:
    if holds and chance.random() < 0.2:
        hold = chance.choice(holds)
        posts = chance.random() < 0.5
        way = TransferFlags.POST_PENDING_TRANSFER if posts else TransferFlags.VOID_PENDING_TRANSFER
        return pay(id, pending_id=hold.id, flags=way, amount=2**128 - 1 if posts else 0)
    debit, credit = chance.sample(range(1, ACCOUNTS + 1), 2)
    told = {"user_data_64": chance.choice((0, 0, 5)), "code": chance.choice((1, 1, 2))}
    made = pay(id, debit_account_id=debit, credit_account_id=credit, **told)
    if chance.random() < 0.2:
        made = pay(id, debit_account_id=debit, credit_account_id=credit, flags=2)
        holds.append(made)
    return made


def asked(book: Any, transfers: list[Any]) -> Iterator[Answer]:
    """All that the book can be asked of its past, and what it says."""
    yield "transfers", book.lookup_transfers(list(range(len(transfers) + 9))).tobytes()
    yield "accounts", book.lookup_accounts(list(range(1, ACCOUNTS + 1))).tobytes()
    for backwards in (0, 1):
        for id in range(1, ACCOUNTS + 1):
            for limit in (7, EVERYTHING):
                wanted = ledger.AccountFilter(
                    account_id=id, limit=limit, flags=3 | BACKWARDS * backwards
                )
                yield f"statement {wanted}", book.get_account_transfers(wanted).tobytes()
                yield f"balances {wanted}", book.get_account_balances(wanted).tobytes()
        for chosen in ({"user_data_64": 5}, {"code": 2}, {"code": 9}, {"ledger": 1}, {}):
            query = ledger.QueryFilter(limit=EVERYTHING, flags=backwards, **chosen)
            yield f"query {query}", book.query_transfers(query).tobytes()
    again = book.create_transfers(transfers)
    yield "again", again["status"].tobytes()
    yield "first times", again["timestamp"][again["status"] == TransferStatus.EXISTS].tobytes()


def test_what_is_asked_reaches_every_kind(filled: Filled) -> None:
    """The book the other tests damage holds what they are about."""
    said = dict(filled.answers)
    statuses = np.frombuffer(said["again"], "<u4")
    assert {TransferStatus.EXISTS, TransferStatus.ID_ALREADY_FAILED} <= set(statuses.tolist())
    with Journal.open(filled.directory) as journal:
        history = History(filled.directory, journal)
        assert len({segment.windows for segment in history.segments}) > 1, "merged and not"
        assert history.checkpoint is not None
        for column in _columns.RECORD_BYTES:
            files = (*history.segments, history.checkpoint)
            assert any(file.count(column) for file in files), column
        history.close()


# ---- a bit of a column file -------------------------------------------------------------------


def served(directory: Path, filled: Filled) -> None:
    """Ask everything, at a new start each time that damage is noticed, until all is answered."""
    for _ in range(3):
        with ledger.open(directory) as book:
            try:
                answers = asked(book, filled.transfers)
                for found, expected in zip(answers, filled.answers, strict=True):
                    assert found == expected
                return
            except LedgerStopped as stopped:
                assert isinstance(stopped.cause, ColumnDamaged), stopped
                assert stopped.exit_code == Exit.DATA_REFUSED
                assert Path(f"{stopped.cause.path}.damaged").is_file()
    raise AssertionError("damage is noticed again and again")


def damaged_and_served(directory: Path, filled: Filled, name: str) -> None:
    """A book one of whose files is damaged: it answers, and has another file in its place."""
    served(directory, filled)
    assert not list((directory / "state").glob(f"{name}.damaged")) or True
    assert derived.fault_of(directory, 0, BOUNDS["WINDOW_EVENTS"]) is None


def pages(filled: Filled) -> Iterator[tuple[str, int]]:
    for name in derived.file_names(filled.directory):
        size = (filled.directory / "state" / name).stat().st_size
        yield from ((name, page) for page in range(size // PAGE_BYTES))


def test_a_bit_of_any_page_is_noticed_and_nothing_wrong_is_said(
    filled: Filled, tmp_path: Path
) -> None:
    chance = random.Random(5)
    found = list(pages(filled))
    print(len(found), derived.file_names(filled.directory))
    for name, page in found:
        directory = tmp_path / f"{name}-{page}"
        print(name, page, flush=True)
        shutil.copytree(filled.directory, directory)
        bit = 8 * PAGE_BYTES * page + chance.randrange(8 * PAGE_BYTES)
        derived.flip(directory / "state" / name, bit)
        served(directory, filled)
        shutil.rmtree(directory)
