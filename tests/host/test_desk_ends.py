"""A book whose opening or closing is interrupted or cancelled, or that is dropped: it is released.

Nothing stays open or locked, and what was acknowledged is there.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref

import pytest

import ledger
from ledger.engine import recovery
from tests.support.book_calls import (
    CREATED,
    account,
    appending,
    call,
    held,
    pay,
    posted,
    rows,
)
from tests.support.interrupts import COUNT, SEED, handling, interrupt, interrupted

pytestmark = pytest.mark.timeout(300 + COUNT // 5, method="thread")  # the alarm is taken


def free(directory):
    """Whether the book can be opened at once, and nothing of another is left."""
    with ledger.open(directory) as book:
        return posted(book)


def test_an_interrupted_opening_leaves_nothing_open(tmp_path):
    chance, threads = random.Random(SEED), threading.active_count()
    directory = tmp_path / "book"
    with ledger.open(directory) as book:
        book.create_accounts([account(1), account(2)])
        book.create_many(rows(range(1, 20_001)))
    count = 0
    with handling(interrupt):
        for _ in range(COUNT // 10):
            book = interrupted(chance.uniform(0.0001, 0.05), lambda: ledger.open(directory))
            count += book is None
            if book is not None:
                book.close()
            del book
            assert free(directory) == 20_000
    assert count and threading.active_count() == threads


@pytest.fixture
def endless(monkeypatch):
    """Replays that end only when they are told to; the event says that one has begun."""
    begun = threading.Event()

    def replay(journal, core, progress=None, from_group=1, after_group=None):
        while True:
            begun.set()
            time.sleep(0.001)
            progress(from_group, journal.group)

    yield begun, lambda: monkeypatch.setattr(recovery, "replay", replay), monkeypatch.undo


def test_an_opening_that_takes_long_can_be_interrupted(tmp_path, endless):
    begun, begin, end = endless
    threads = threading.active_count()
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1)])
    begin()
    with handling(interrupt):
        assert interrupted(0.2, lambda: ledger.open(tmp_path / "book")) is None
    assert begun.is_set() and threading.active_count() == threads
    end()
    assert free(tmp_path / "book") == 0


def test_a_cancelled_opening_leaves_nothing_open(tmp_path, endless):
    begun, begin, end = endless
    threads = threading.active_count()
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1)])

    async def opened():
        async with ledger.open_async(tmp_path / "book"):
            pass

    async def run():
        task = asyncio.ensure_future(opened())
        while not begun.is_set():
            await asyncio.sleep(0)
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threading.active_count() == threads
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await opened()

    begin()
    asyncio.run(run())
    end()
    assert threading.active_count() == threads
    assert free(tmp_path / "book") == 0


def test_an_interrupted_closing_closes(tmp_path):
    threads = threading.active_count()
    book = ledger.open(tmp_path / "book")
    book.create_accounts([account(1), account(2)])
    with held(book) as event, handling(interrupt):
        payer, got = call(book.create_transfers, [pay(1)])
        appending(book)
        threading.Timer(0.3, event.set).start()
        assert interrupted(0.05, book.close) is None
    payer.join()
    assert got[0]["status"].tolist() == [CREATED]
    book.close()
    with pytest.raises(ValueError, match="the book is closed"):
        book.lookup_accounts([1])
    assert free(tmp_path / "book") == 10
    assert threading.active_count() <= threads + 1, "but for the timer"


def test_a_cancelled_closing_closes(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book) as event:
                payer = asyncio.ensure_future(book.create_transfers([pay(1)]))
                while not book._engine._appending:
                    await asyncio.sleep(0)
                closer = asyncio.ensure_future(book.close())
                await asyncio.sleep(0.01)
                asyncio.get_running_loop().call_later(0.1, event.set)
                closer.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closer
            assert (await payer)["status"].tolist() == [CREATED]
            assert free(tmp_path / "book") == 10

    asyncio.run(run())


def test_a_dropped_book_is_released_with_a_warning(tmp_path):
    threads = threading.active_count()
    book = ledger.open(tmp_path / "book")
    book.create_accounts([account(1), account(2)])
    book.create_transfers([pay(1)])
    with pytest.warns(ResourceWarning, match="dropped and not closed"):
        del book
        gc.collect()
    assert threading.active_count() == threads
    assert free(tmp_path / "book") == 10


def test_a_closed_book_gives_its_memory_back_without_the_collector(tmp_path):
    """What refers to itself waits for a collector that counts objects of Python, not bytes."""
    gc.collect()
    gc.disable()
    try:
        with ledger.open(tmp_path / "book") as book:
            book.create_accounts([account(1), account(2)])
            book.create_transfers([pay(1)])
            parts = [weakref.ref(one) for one in (book._desk, book._engine, book._engine._keeper)]
        del book
        assert [one() for one in parts] == [None] * 3
    finally:
        gc.enable()


def test_a_dropped_async_book_is_released(tmp_path):
    threads = threading.active_count()

    async def run():
        opening = ledger.open_async(tmp_path / "book")
        book = await opening.__aenter__()
        await book.create_accounts([account(1), account(2)])
        assert (await book.create_transfers([pay(1)]))["status"].tolist() == [CREATED]
        accepted = asyncio.ensure_future(book.create_transfers([pay(2)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        accepted.cancel()

    asyncio.run(run())
    gc.collect()
    assert threading.active_count() == threads
    assert free(tmp_path / "book") in (10, 20)
