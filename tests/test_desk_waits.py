"""Who waits at a book, and what ends the wait: a place, a rest, a start, an interrupt.

The engine's thread is held where a test needs it, so nothing here depends on how fast it is.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import pytest

import ledger
from ledger import config
from tests.book_calls import account, until

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
    monkeypatch.setattr(config, "CALLS_WAITING_MAX", 4)

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
