"""The in-process door: books for threads and for a loop, over a real journal.

What they take, how callers share groups, that a call returns when its group is durable; one book a
directory, one process a book. What goes wrong is in test_book_faults.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import ledger
from ledger.engine.engine import Engine
from ledger.facts.errors import (
    Busy,
    DataRefused,
    DirectoryInUse,
    DirectoryNotWritable,
    WrongProcess,
)
from ledger.host.desk import Desk
from tests.support.book_calls import (
    CREATED,
    account,
    appending,
    call,
    fill,
    held,
    pay,
    posted,
    rows,
    until,
)

ROOT = Path(__file__).resolve().parents[2]
EXISTS = ledger.TransferStatus.EXISTS


@pytest.fixture
def book(tmp_path):
    with ledger.open(tmp_path / "book") as one:
        assert one.create_accounts([account(1), account(2)])["status"].tolist() == [CREATED] * 2
        yield one


# ---- what goes in --------------------------------------------------------------------------------


def test_records_may_be_structs_arrays_or_bytes(book):
    array = rows([3, 4])
    for given in ([pay(1), pay(2)], array, array.tobytes(), memoryview(array.tobytes()), pay(5)):
        found = book.create_transfers(given)
        assert set(found["status"].tolist()) == {CREATED} or given is not array
        assert found.dtype == ledger.CREATE_RESULT
        assert (found["timestamp"] > 0).all()
    every_other = rows(range(100, 120))[::2]
    assert book.create_transfers(every_other)["status"].tolist() == [CREATED] * 10
    ids = np.array([[4, 0], [77, 0], [3, 0]], np.uint64)
    for given in ([4, 77, 3], ids, ids.tobytes()):
        assert [ledger.int_of(row["id"]) for row in book.lookup_transfers(given)] == [4, 3]
    assert len(book.create_transfers([])) == len(book.lookup_accounts([])) == 0


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda book: book.create_transfers([account(1)]), "not a Transfer"),
        (lambda book: book.create_accounts(rows([1])), "no row of"),
        (lambda book: book.create_transfers(b"x" * 127), "not whole records"),
        (lambda book: book.create_transfers([pay(1), pay(-1)]), r"transfers\[1\].id: -1"),
        (lambda book: book.create_transfers([pay(1, code=1 << 16)]), r"transfers\[0\].code"),
        (lambda book: book.create_transfers([pay(1, amount=1.5)]), r"transfers\[0\].amount"),
        (lambda book: book.create_transfers(7), "int is no Transfer"),
        (lambda book: book.lookup_accounts([1 << 128]), r"ids\[0\]"),
        (lambda book: book.lookup_accounts(["1"]), r"ids\[0\]: '1' is not an integer"),
        (lambda book: book.create_transfers(rows(range(1, 8191))), "8190 events are more than"),
        (lambda book: book.lookup_accounts(list(range(8190))), "8190 events are more than"),
        (lambda book: book.query_accounts([]), "exactly one, not 0"),
        (lambda book: book.query_accounts([ledger.QueryFilter()] * 2), "exactly one, not 2"),
        (lambda book: book.get_account_transfers(ledger.QueryFilter()), "QueryFilter"),
        (lambda book: book.create_many(b"x" * 128), "bytes do not say"),
        (lambda book: book.create_many([1]), "neither accounts nor transfers"),
        (lambda book: book.create_many([pay(n, flags=1) for n in range(1, 8191)] * 2),
         r"records\[0\]: a chain of more than 8189"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_request_is_one_clear_error_and_nothing_is_done(book, ask, why):
    position = book.position
    with pytest.raises(ValueError, match=why):
        ask(book)
    assert book.create_transfers([pay(1)])["status"].tolist() == [CREATED]
    assert book.position == position + 2, "a request and a transfer"


def test_every_read_in_short(book):
    book.create_accounts([account(3, flags=ledger.AccountFlags.HISTORY, code=7)])
    book.create_transfers([pay(1), pay(2, debit_account_id=3, user_data_64=5)])
    of = ledger.AccountFilter(account_id=3, limit=10, flags=ledger.AccountFilterFlags.DEBITS)
    assert ledger.int_of(book.get_account_transfers(of)[0]["id"]) == 2
    assert ledger.int_of(book.get_account_balances(of)[0]["debits_posted"]) == 10
    found = book.query_transfers(ledger.QueryFilter(user_data_64=5, limit=10))
    assert [ledger.int_of(row["id"]) for row in found] == [2]
    found = book.query_accounts(ledger.QueryFilter(code=7, limit=10))
    assert [ledger.int_of(row["id"]) for row in found] == [3]


def test_create_many_splits_where_chains_end(book):
    made = rows(range(1, 30_001))
    made["flags"][8180:8200] = ledger.TransferFlags.LINKED  # a chain across the first limit
    made["flags"][20_000] = ledger.TransferFlags.LINKED
    made["amount"][20_001, 1] = 1 << 63  # fails, and its chain with it
    made["debit_account_id"][20_001, 0] = 77
    found = book.create_many(made)
    assert len(found) == 30_000
    failed = np.flatnonzero(found["status"] != CREATED).tolist()
    assert failed == [20_000, 20_001]
    assert posted(book) == 30_000 - 2
    assert set(book.create_many(list(map(account, range(10, 9000))))["status"].tolist()) == {
        CREATED
    }
    assert len(book.create_many([])) == 0


# ---- several at once -----------------------------------------------------------------------------


def test_many_threads_share_groups_and_everybody_gets_their_own(book):
    groups = book._parts.journal.group
    wrong = []

    def work(first):
        for id in range(first, first + 40):
            found = book.create_transfers([pay(id, amount=1), pay(0)])
            if found["status"].tolist() != [CREATED, ledger.TransferStatus.ID_MUST_NOT_BE_ZERO]:
                wrong.append(found)
            if len(book.lookup_transfers([id])) != 1:
                wrong.append(id)

    threads = [threading.Thread(target=work, args=(n * 1000 + 1,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert posted(book) == 16 * 40
    assert book._parts.journal.group - groups < 16 * 40, "groups were shared"


def test_thousands_of_callers_in_a_loop_share_groups(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            groups = book._parts.journal.group
            found = await asyncio.gather(
                *[book.create_transfers([pay(id, amount=1)]) for id in range(1, 5001)]
            )
            assert {one["status"][0] for one in found} == {CREATED}
            stamps = [int(one["timestamp"][0]) for one in found]
            assert stamps == sorted(set(stamps)), "in the order they were asked"
            assert book._parts.journal.group - groups < 50
            [row] = await book.lookup_accounts([1])
            assert ledger.int_of(row["debits_posted"]) == 5000
            many = await book.create_many(rows(range(10_001, 40_001)))
            assert set(many["status"].tolist()) == {CREATED}
            return await book.state_hash()

    before = asyncio.run(run())
    with ledger.open(tmp_path / "book") as book:
        assert book.state_hash() != before, "a start record more"
        assert posted(book) == 35_000


def test_a_new_call_does_not_overtake_one_whose_task_did_not_run_yet(tmp_path, monkeypatch):
    places = [0]
    monkeypatch.setattr(Desk, "places", property(lambda desk: places[0]))

    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            places[0] = 1
            await book.create_accounts([account(1), account(2)])
            places[0] = 0
            early = asyncio.ensure_future(book.create_transfers([pay(1)]))
            while not book._outside._waiting:
                await asyncio.sleep(0)
            late = asyncio.ensure_future(book.create_transfers([pay(2)]))
            places[0] = 9
            book._outside._fill()  # the early call gets a place; the late one's task runs first
            found = await asyncio.gather(early, late)
            assert found[0]["timestamp"][0] < found[1]["timestamp"][0]

    asyncio.run(run())


def test_a_small_call_does_not_overtake_a_large_one_that_waits_for_room(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book):
                large = []
                while not book._engine.has_waiting:
                    first = 10**6 + len(large) * 8189
                    calling = book.create_transfers(rows(range(first, first + 8189)))
                    large.append(asyncio.ensure_future(calling))
                    await asyncio.sleep(0)
                small = asyncio.ensure_future(book.create_transfers(rows([1])))
                while len(book._desk.unaccepted) < 2 and not small.done():
                    await asyncio.sleep(0)
            found = await asyncio.gather(*large, small)
            stamps = [int(one["timestamp"][0]) for one in found]
            assert stamps == sorted(set(stamps)), "in the order they were asked"

    asyncio.run(run())


def test_a_cancelled_caller_harms_nobody(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book):
                tasks = [asyncio.ensure_future(book.create_transfers([pay(id)]))
                         for id in range(1, 20)]  # fmt: skip
                while book._engine.core.counts_by_kind["transfers"] < 19:
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
            found = await asyncio.gather(*tasks[1::2])
            assert {one["status"][0] for one in found} == {CREATED}
            [row] = await book.lookup_accounts([1])
            assert ledger.int_of(row["debits_posted"]) == 19 * 10, "accepted is accepted"

    asyncio.run(run())


def test_a_call_returns_only_when_its_group_is_durable(book):
    durable = book.position
    with held(book) as event:
        thread, got = call(book.create_transfers, [pay(1)])
        appending(book)
        reader, read = call(book.lookup_transfers, [1])
        assert got == read == [] and book.position == durable
        event.set()
        thread.join()
        reader.join()
    assert got[0]["status"].tolist() == [CREATED] and len(read[0]) == 1
    assert book.position > durable


def test_busy_comes_before_acceptance_and_nothing_of_it_is_done(book):
    with held(book) as event:
        waiting = fill(book)
        before = book._engine.core.state_hash()
        for timeout in (0, 0.01):
            with pytest.raises(Busy, match="nothing of it was done"):
                book.create_transfers(rows(range(30_000, 38_189)), timeout=timeout)
        assert book._engine.core.state_hash() == before
        assert book._engine._refused == {}, "who gave up does not wait"
        patient = call(book.create_transfers, rows(range(50_000, 58_189)), 60.0)
        event.set()
        for thread, _ in [*waiting, patient]:
            thread.join()
    for _, got in [*waiting, patient]:
        assert set(got[0]["status"].tolist()) == {CREATED}
    assert len(book.lookup_transfers([30_000])) == 0


def test_busy_in_a_loop(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book) as event:
                first = asyncio.ensure_future(book.create_transfers([pay(1)]))
                while not book._engine._appending:
                    await asyncio.sleep(0)
                second = asyncio.ensure_future(book.create_transfers(rows(range(10, 8199))))
                also = asyncio.ensure_future(book.create_transfers(rows(range(10_000, 18_189))))
                await asyncio.sleep(0)
                for timeout in (0, 0.01):
                    with pytest.raises(Busy):
                        await book.create_transfers(rows(range(20_000, 28_189)), timeout=timeout)
                third = asyncio.ensure_future(book.create_transfers(rows(range(30_000, 38_189))))
                fourth = asyncio.ensure_future(book.create_transfers(rows(range(40_000, 48_189))))
                await asyncio.sleep(0)
                fourth.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await fourth
                until(book, lambda: len(book._engine._refused) == 1)
                event.set()
                await asyncio.gather(first, second, also, third)
            assert len(await book.lookup_transfers([20_000, 30_000, 40_000])) == 1

    asyncio.run(run())


# ---- one book, one process -----------------------------------------------------------------------


def test_a_book_is_of_no_use_after_a_fork(book):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for ask in (lambda: book.create_transfers([pay(1)]), lambda: book.lookup_accounts([1]),
                    book.state_hash, lambda: book.create_many([pay(1)])):  # fmt: skip
            try:
                ask()
            except WrongProcess as error:
                said.append(str(error))
            except BaseException as error:
                said.append(repr(error))
        book.close()
        os.write(write, "\n".join(said).encode())
        os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    said = os.read(read, 10_000).decode().splitlines()
    os.close(read)
    assert len(said) == 4 and all(f"opened by process {os.getpid()}" in line for line in said)
    assert book.create_transfers([pay(1)])["status"].tolist() == [CREATED], "the parent goes on"


def test_a_closed_book_is_free_while_a_child_lives(tmp_path):
    read, write = os.pipe()
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1)])
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # lives until its parent has looked
            os._exit(0)
    try:
        with ledger.open(tmp_path / "book") as again:
            assert len(again.lookup_accounts([1])) == 1 and again.warnings == book.warnings
    finally:
        os.close(write)
        os.close(read)
        assert os.waitpid(child, 0)[1] == 0


def test_two_books_in_one_process_are_two(tmp_path, book):
    with ledger.open(tmp_path / "other", cluster=9) as other:
        assert (book.cluster, other.cluster) == (0, 9)
        other.create_accounts([account(1), account(2)])
        threads = [call(one.create_many, rows(range(1, 20_001))) for one in (book, other)]
        for thread, got in threads:
            thread.join()
            assert set(got[0]["status"].tolist()) == {CREATED}
        other.create_transfers([pay(50_000, amount=5)])
        assert (posted(book), posted(other)) == (20_000, 20_005)


def test_a_directory_is_in_use_once_and_says_by_whom(book):
    directory = book._parts.journal.directory
    with pytest.raises(DirectoryInUse, match="this process has it open already"):
        ledger.open(directory)
    assert posted(book) == 0


def test_what_was_acknowledged_is_there_after_reopening(tmp_path):
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1, flags=2), account(2), account(3)])
        fund = pay(1, debit_account_id=2, credit_account_id=1, amount=100)
        book.create_transfers([fund, pay(2, flags=2, timeout=1000), pay(3, amount=10**6)])
        first = book.create_transfers([pay(4)])
        hashes, position = book.state_hash(), book.position
        assert book.state_hash() == hashes
        accounts = book.lookup_accounts([1, 2, 3]).tobytes()
    for _ in range(2):
        with ledger.open(tmp_path / "book") as book:
            assert book.lookup_accounts([1, 2, 3]).tobytes() == accounts
            assert book.position > position, "a start record"
            position = book.position
            again = book.create_transfers([pay(4), pay(3), pay(5, pending_id=2, flags=8, amount=0)])
            assert again["status"][:2].tolist() == [
                EXISTS, ledger.TransferStatus.ID_ALREADY_FAILED,
            ]  # fmt: skip
            assert again["timestamp"][0] == first["timestamp"][0]
            accounts = book.lookup_accounts([1, 2, 3]).tobytes()
            position = book.position


def test_the_state_hash_is_that_of_a_replay(tmp_path):
    from ledger.engine.recovery import recover

    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1), account(2)])
        book.create_many(rows(range(1, 20_000)))
        book.create_transfers([pay(50_000, flags=2, timeout=99), pay(0), pay(60_000, amount=7)])
        live = book.state_hash()
        core_hash = book._engine.core.state_hash()
    parts = recover(tmp_path / "book")
    assert parts.core.state_hash() == core_hash
    parts.close()
    with ledger.open(tmp_path / "copy") as other:
        assert other.state_hash() != live


def test_state_hash_waits_for_what_is_under_way(book):
    with held(book) as event:
        writer, _ = call(book.create_transfers, [pay(1)])
        appending(book)
        thread, got = call(book.state_hash)
        assert got == []
        event.set()
        thread.join()
        writer.join()
    assert got == [book.state_hash()]


@pytest.mark.parametrize("how", ["cluster", "file", "foreign", "parent"])
def test_a_directory_that_does_not_serve_is_refused(tmp_path, how):
    directory = tmp_path / "book"
    error: type[Exception] = DataRefused
    if how == "cluster":
        ledger.open(directory, cluster=3).close()
    elif how == "file":
        directory.write_text("no book")
        error = (DataRefused, DirectoryNotWritable)
    elif how == "foreign":
        directory.mkdir()
        (directory / "notes.txt").write_text("mine")
    else:
        directory = tmp_path / "none" / "book"
        error = DirectoryNotWritable
    threads = threading.active_count()
    with pytest.raises(error):
        ledger.open(directory, cluster=4)
    assert threading.active_count() == threads, "no thread is left"


def test_a_closed_book_takes_nothing_and_closes_again(tmp_path):
    threads = threading.active_count()
    book = ledger.open(tmp_path / "book")
    book.create_accounts([account(1)])
    book.close()
    book.close()
    for ask in (lambda: book.create_transfers([pay(1)]), lambda: book.lookup_accounts([1]),
                book.state_hash):  # fmt: skip
        with pytest.raises(ValueError, match="the book is closed"):
            ask()
    assert threading.active_count() == threads
    ledger.open(tmp_path / "book").close()


def test_closing_waits_for_what_was_accepted(tmp_path):
    book = ledger.open(tmp_path / "book")
    book.create_accounts([account(1), account(2)])
    with held(book) as event:
        writers = [call(book.create_transfers, [pay(id)]) for id in range(1, 6)]
        appending(book)
        closers = [call(book.close) for _ in range(3)]
        event.set()
        for thread, _ in [*writers, *closers]:
            thread.join()
    book.close()
    acknowledged = sum(not isinstance(got[0], Exception) for _, got in writers)
    assert acknowledged >= 1
    with ledger.open(tmp_path / "book") as again:
        assert posted(again) == 10 * acknowledged


def test_an_expiry_comes_without_anybody_asking(tmp_path):
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1), account(2)])
        book.create_transfers([pay(1, flags=2, timeout=1)])
        due = book._engine.core.next_expiry_ns
        assert due > 0
        expired = threading.Event()
        tick = Engine._expire

        def noting(engine):
            tick(engine)
            if engine.core.next_expiry_ns == 0:
                expired.set()

        book._engine._expire = noting.__get__(book._engine)
        assert expired.wait(30)
        [row] = book.lookup_accounts([1])
        assert ledger.int_of(row["debits_pending"]) == 0
        assert book._engine.core.counts_by_kind["open_holds"] == 0
