"""Who waits at a book, and what ends the wait: a place, a rest, a start, an interrupt.

The engine's thread is held where a test needs it, so nothing here depends on how fast it is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest

import ledger
from ledger.facts import limits
from ledger.facts.schema import Operation
from ledger.host.book import Book
from ledger.host.desk import Ask, Call, Desk
from tests.support.book_calls import CREATED, account, call, held, rows, until

pytestmark = pytest.mark.timeout(120)


class Interrupted(Exception):
    """What the host's handler raises."""


@pytest.fixture
def book(tmp_path):
    with ledger.open(tmp_path / "book") as one:
        one.create_accounts([account(1), account(2)])
        yield one


@contextmanager
def busy(book):
    """The engine's thread does nothing else until the block ends."""
    begun, event = threading.Event(), threading.Event()
    book._desk.put(lambda: (begun.set(), event.wait()))
    assert begun.wait(30)
    try:
        yield
    finally:
        event.set()


# ---- a place -------------------------------------------------------------------------------------


def test_who_waits_outside_is_let_in_when_what_filled_the_line_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CALLS_WAITING_MAX", 4)

    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1)])
            for _ in range(20):
                with busy(book):
                    for _ in range(5):
                        book._desk.put(lambda: None)  # as a caller does who is gone
                    waiting = [asyncio.ensure_future(book.lookup_accounts([1])) for _ in range(10)]
                    await asyncio.sleep(0)
                    assert len(book._outside._waiting) == 10
                for found in await asyncio.wait_for(asyncio.gather(*waiting), 30):
                    assert len(found) == 1

    asyncio.run(run())


def test_who_is_gone_and_was_answered_takes_no_place(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            task = asyncio.ensure_future(book.lookup_accounts([1]))
            await asyncio.sleep(0)
            until(book, lambda: not book._desk.unaccepted and book._engine.idle)
            begun, event = threading.Event(), threading.Event()
            book._desk.put(lambda: (begun.set(), event.wait()))
            assert begun.wait(30)  # the look-up is settled, and the loop was not told yet
            task.cancel()
            await asyncio.sleep(0)
            assert task.cancelled() and book._runner.waiting == 0
            event.set()

    asyncio.run(run())


# ---- an interrupt --------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_a_call_is_abandoned_that_is_interrupted_when_it_was_just_put(book, monkeypatch, many):
    put_ask = book._desk.put_ask

    def interrupted(ask, begin):
        put_ask(ask, begin)
        raise Interrupted

    monkeypatch.setattr(book._desk, "put_ask", interrupted)
    with busy(book), pytest.raises(Interrupted):
        (book.create_many if many else book.create_transfers)(rows([1]))
    monkeypatch.undo()
    assert len(book.lookup_transfers([1])) == 0


# ---- a start -------------------------------------------------------------------------------------


class SlowStart(threading.Event):
    """A thread's start that is interrupted, and goes on only when the book is being closed."""

    def __init__(self, desk):
        super().__init__()
        self._desk = desk

    def wait(self, timeout=None):
        raise Interrupted

    def set(self):
        while not self._desk.closed:
            time.sleep(0.001)
        time.sleep(0.2)  # who does not wait for it is gone by then
        super().set()


def test_who_is_interrupted_in_the_start_of_the_thread_finds_the_book_free(tmp_path):
    desk = Desk(tmp_path / "book", 0, False)
    desk.thread._started = SlowStart(desk)
    with pytest.raises(Interrupted):
        Book(desk)
    assert desk.ended
    ledger.open(tmp_path / "book").close()


# ---- a rest --------------------------------------------------------------------------------------


def test_a_state_hash_comes_though_there_are_always_new_calls(book):
    """Each group on its way is given back only when more has been asked."""
    asked = iter(range(10, 10**9))
    going, runner = [True], book._runner
    payers, asking = [], threading.Lock()

    def run(job, done):
        with asking:
            if going:
                payers.append(call(book.create_transfers, rows([next(asked)])))
                type(runner).run(runner, lambda: (more(), job())[1], done)
            else:
                type(runner).run(runner, job, done)

    def more():
        """Until the payment that was asked with this group is in the next one, or held up."""
        while not (book._engine.core.group_records or book._desk.held or not going):
            time.sleep(0.001)

    runner.run = run
    try:
        payers.append(call(book.create_transfers, rows([1])))
        thread, got = call(book.state_hash)
        thread.join(20)
        came = not thread.is_alive()
    finally:
        with asking:
            going.clear()
        thread.join()
        for payer, _ in payers:
            payer.join()
        del runner.run
    assert came and len(got[0]) == 32
    assert all(found[0]["status"].tolist() == [CREATED] for _, found in payers)


def test_a_later_call_does_not_overtake_those_that_a_rest_held_up(book):
    desk, hashing, go = book._desk, threading.Event(), threading.Event()
    real = desk._hash
    desk._hash = lambda ask: (hashing.set(), go.wait(), real(ask))
    with held(book) as event:
        first, _ = call(book.create_transfers, rows([1]))
        until(book, lambda: book._engine._appending)
        resting, _ = call(book.state_hash)
        until(book, lambda: desk._at_rest)
        early, early_got = call(book.create_transfers, rows([2]))
        until(book, lambda: desk.held)
        event.set()
        hashing.wait()
        late, late_got = call(book.create_transfers, rows([3]))
        while not book._runner.waiting:
            time.sleep(0)
        go.set()
        for thread in (first, resting, early, late):
            thread.join()
    assert early_got[0]["timestamp"][0] < late_got[0]["timestamp"][0]


def test_a_call_that_comes_while_a_book_is_being_closed_is_ended(book):
    """Nothing gives it room any more, and it came too late to be given up with the others."""
    desk, engine = book._desk, book._engine
    engine._resume_refused = lambda: None
    ended = threading.Event()
    waiting = Call(desk, ended.set, Operation.CREATE_TRANSFERS, rows([1]))

    def close_and_begin():
        desk._close(Ask(desk, lambda: None))
        engine._refused[object()] = None
        waiting.begin()

    desk.put(close_and_begin)
    assert ended.wait(20) and isinstance(waiting.error, ValueError)


def test_calls_that_a_rest_holds_up_can_give_up_and_end_with_the_book(tmp_path):
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1), account(2)])
        with held(book) as event:
            first, paid = call(book.create_transfers, rows([1]))
            until(book, lambda: book._engine._appending)
            resting, got = call(book.state_hash)
            until(book, lambda: book._desk._at_rest)
            waiting, late = call(book.create_transfers, rows([2]))
            until(book, lambda: book._desk.held)
            with pytest.raises(ledger.Busy):
                book.create_transfers(rows([3]), timeout=0.01)
            assert len(book._desk.held) == 1
            closing, closed = call(book.close)
            until(book, lambda: book._desk._closing)
            waiting.join()
            assert isinstance(late[0], ValueError) and book._desk.held == {}
            event.set()
            for thread in (first, resting, closing):
                thread.join()
        assert paid[0]["status"].tolist() == [CREATED] and len(got[0]) == 32 and closed == [None]


def test_a_closing_that_is_cancelled_again_and_again_leaves_a_free_directory(tmp_path):
    """As libraries do whose scopes end: they cancel in every turn of the loop."""

    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book) as event:
                payer = asyncio.ensure_future(book.create_transfers(rows(range(1, 3))))
                while not book._engine._appending:
                    await asyncio.sleep(0)
                closer = asyncio.ensure_future(book.close())
                await asyncio.sleep(0)
                for turn in range(100):
                    closer.cancel()
                    await asyncio.sleep(0)
                    assert turn > 50 or not closer.done()
                    if turn == 50:
                        event.set()
                with pytest.raises(asyncio.CancelledError):
                    await closer
            assert (await payer)["status"].tolist() == [CREATED] * 2
            ledger.open(tmp_path / "book").close()

    asyncio.run(run())
