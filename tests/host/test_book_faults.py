"""A book in this process when something goes wrong: no space, no memory, a disk that fails.

A call is refused before anything is done, or the book has stopped for good; its host lives on.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import ledger
from chaos import shim
from ledger.facts import limits
from ledger.facts.errors import Busy, DiskFull, LedgerStopped
from ledger.journal.journal import Room
from tests.support.book_calls import (
    CREATED,
    account,
    appending,
    call,
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


# ---- no space, and the end -----------------------------------------------------------------------


def test_a_full_disk_refuses_before_acceptance_and_reads_go_on(book):
    position, room = book.position, book._parts.journal.room
    book._parts.journal.room = lambda: Room(0, 100, 95, "the disk is full")
    for ask in (book.create_transfers, book.create_many):
        with pytest.raises(DiskFull, match="the disk is full"):
            ask([pay(1)])
    assert posted(book) == 0 and book.position == position
    book._parts.journal.room = room
    assert book.create_transfers([pay(1)])["status"].tolist() == [CREATED]


def test_a_stopped_book_says_why_to_everybody_and_its_host_lives(book):
    with held(book) as event:
        waiting = [call(book.create_transfers, [pay(id)]) for id in range(1, 5)]
        appending(book)
        append = book._parts.journal._append
        book._parts.journal._append = lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error"))
        event.set()
        for thread, _ in waiting:
            thread.join()
        book._parts.journal._append = append
    for _, got in waiting:
        assert isinstance(got[0], LedgerStopped) and isinstance(got[0].cause, OSError)
        assert got[0].exit_code == limits.Exit.IO_ERROR
    for ask in (
        lambda: book.create_transfers([pay(9)]),
        lambda: book.lookup_accounts([1]),
        lambda: book.create_many([pay(9)]),
        book.state_hash,
    ):
        with pytest.raises(LedgerStopped, match="I/O error"):
            ask()
    book.close()


DISK_FAILS = """
import sys
import ledger
from chaos import shim
from pathlib import Path
from tests.support.book_calls import account, pay
directory, control = sys.argv[1], Path(sys.argv[2])
book = ledger.open(directory)
book.create_accounts([account(1), account(2)])
book.create_transfers([pay(1)])
shim.switch(control, sys.argv[3])
try:
    book.create_transfers([pay(2)])
except ledger.LedgerStopped as error:
    print(type(error.cause).__name__)
shim.switch(control)
for ask in (lambda: book.create_transfers([pay(3)]), lambda: book.lookup_accounts([1])):
    try:
        ask()
    except ledger.LedgerStopped:
        print("stopped")
book.close()
print("alive")
"""


@pytest.mark.parametrize("fault", ["fdatasync 1 eio", "any 1 eio", "any 1 enospc"])
def test_a_disk_that_fails_stops_the_book_and_not_its_host(tmp_path, fault):
    control = tmp_path / "control"
    control.touch()
    directory = tmp_path / "book"
    done = subprocess.run(
        [sys.executable, "-c", DISK_FAILS, directory, control, fault],
        env=shim.environment(directory, control=control) | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["stopped", "stopped", "alive"], done.stderr
    with ledger.open(directory) as book:
        found = book.lookup_transfers([1, 2, 3])
        ids = [ledger.int_of(row["id"]) for row in found]
        assert ids in ([1], [1, 2]), "acknowledged is there, refused is not"


@pytest.mark.parametrize("stage", ["applied", "encoded", "appended", "released"])
def test_a_failpoint_stops_the_book_at_its_stage(tmp_path, monkeypatch, stage):
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1), account(2)])
    # The start record is not applied by a request; it passes the other stages first.
    monkeypatch.setenv("LEDGER_FAILPOINT", f"{stage}:raise:{1 if stage == 'applied' else 2}")
    with ledger.open(tmp_path / "book") as book:
        if stage == "released":
            assert book.create_transfers([pay(1)])["status"].tolist() == [CREATED]
        else:
            with pytest.raises(LedgerStopped, match=stage):
                book.create_transfers([pay(1)])
        with pytest.raises(LedgerStopped, match=stage):
            book.lookup_accounts([1])
    monkeypatch.delenv("LEDGER_FAILPOINT")
    with ledger.open(tmp_path / "book") as book:
        there = len(book.lookup_transfers([1]))
        assert there == (stage in ("appended", "released"))


def test_a_book_that_cannot_begin_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("LEDGER_FAILPOINT", "encoded:raise:1")
    with pytest.raises(LedgerStopped, match="encoded"):
        ledger.open(tmp_path / "book")

    async def run():
        async with ledger.open_async(tmp_path / "book"):
            raise AssertionError("a stopped book was opened")

    with pytest.raises(LedgerStopped, match="encoded"):
        asyncio.run(run())
    monkeypatch.delenv("LEDGER_FAILPOINT")
    ledger.open(tmp_path / "book").close()


def test_without_memory_the_book_stops_cleanly(tmp_path):
    program = """if True:
        import resource, sys
        import ledger
        from tests.support.book_calls import account, rows
        book = ledger.open(sys.argv[1])
        book.create_accounts([account(1), account(2)])
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        requests = [rows(range(n * 10_000, n * 10_000 + 8000)) for n in range(1, 60)]
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
        acknowledged = 0
        try:
            for one in requests:
                book.create_transfers(one)
                acknowledged += 1
        except (ledger.LedgerStopped, MemoryError) as error:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            print(acknowledged, type(error).__name__)
        book.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "book"], cwd=ROOT, timeout=60,
        env=dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT}/tests"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    acknowledged, _ = done.stdout.split()
    with ledger.open(tmp_path / "book") as book:
        count = book._engine.core.counts_by_kind["transfers"]
        assert count in (int(acknowledged) * 8000, int(acknowledged) * 8000 + 8000)
        assert posted(book) == count


def test_an_interrupted_wait_leaves_the_book_working(book):
    done = subprocess.run(
        [sys.executable, "-c", """if True:
        import signal, sys, threading
        import ledger
        from tests.support.book_calls import account, appending, held, pay
        # A shell starts what runs in the background with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        book = ledger.open(sys.argv[1])
        book.create_accounts([account(1), account(2)])
        noticed = threading.Event()
        with held(book) as event:
            def interrupt():
                appending(book)
                # Again, should it come right before the wait: then nothing ends the wait for it.
                while True:
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                    if noticed.wait(5):
                        break
            threading.Thread(target=interrupt).start()
            try:
                book.create_transfers([pay(1)])
            except KeyboardInterrupt:
                noticed.set()
                print("interrupted")
        print(len(book.lookup_transfers([1])))
        book.close()
        """, Path(book._parts.journal.directory).with_name("other")], cwd=ROOT, timeout=60,
        env=dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT}/tests"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["interrupted", "1"], done.stderr


# ---- calls that wait for the sealed past ---------------------------------------------------------


@contextmanager
def asking(book):
    """Questions to the sealed past wait until the event that is given is set; each one is noted."""
    past, event, asked = book._parts.history, threading.Event(), []

    def resolve(wanted):
        asked.append(wanted)
        event.wait()
        return type(past).resolve(past, wanted)

    past.resolve = resolve
    try:
        yield event, asked
    finally:
        event.set()


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """A book whose transfers 1 to 4 are in a segment."""
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 4)
    with ledger.open(tmp_path / "sealed") as book:
        book.create_accounts([account(1), account(2)])
        for first in (1, 11):
            book.create_transfers(rows(range(first, first + 4)))
        until(book, lambda: book._parts.history.segments and not book._engine.core.memtables)
        yield book


def test_a_call_is_tried_where_its_answer_is_attached(sealed):
    """A drop that waits for it follows at once, and throws away what is attached."""
    book = sealed
    with asking(book) as (answer, asked):
        thread, got = call(book.lookup_transfers, [1, 14])
        until(book, lambda: asked)
        book.create_transfers(rows(range(21, 25)))
        until(book, lambda: book._engine._keeper.memtables.waiting)
        answer.set()
        thread.join()
        until(book, lambda: not book._engine._keeper.memtables.waiting)
    assert got[0]["id"][:, 0].tolist() == [1, 14]
    assert len(asked) == 1


@pytest.mark.parametrize("ask", ["lookup_transfers", "create_transfers"])
def test_a_call_that_waits_for_the_past_ends_with_its_book(sealed, ask):
    """Nobody would append what it writes: it is told so, and does not wait for ever."""
    book = sealed
    with asking(book) as (answer, asked):
        records = [1] if ask == "lookup_transfers" else rows([1])
        thread, got = call(getattr(book, ask), records)
        until(book, lambda: asked)
        closing, _ = call(book.close)
        until(book, lambda: book._desk.closed)
        answer.set()
        thread.join()
        closing.join()
    assert isinstance(got[0], ValueError) and str(got[0]) == "the book is closed"


def test_a_call_that_waits_for_the_past_gives_up_in_time(sealed):
    book = sealed
    with asking(book) as (_, asked), pytest.raises(Busy, match=r"within 0\.01 s"):
        book.lookup_transfers([1], timeout=0.01)
    until(book, lambda: len(asked) == 1)  # who asks and who waits are two threads
    assert len(book.lookup_transfers([1])) == 1


def test_an_awaited_call_is_tried_where_its_answer_is_attached(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 4)

    async def main():
        async with ledger.open_async(tmp_path / "sealed") as book:
            await book.create_accounts([account(1), account(2)])
            keeper = book._engine._keeper
            for first in (1, 11):
                await book.create_transfers(rows(range(first, first + 4)))
            while not book._parts.history.segments or book._engine.core.memtables:
                await asyncio.sleep(0)
            with asking(book) as (answer, asked):
                found = asyncio.create_task(book.lookup_transfers([1, 14]))
                while not asked:
                    await asyncio.sleep(0)
                await book.create_transfers(rows(range(21, 25)))
                while not keeper.memtables.waiting:
                    await asyncio.sleep(0)
                answer.set()
                assert (await found)["id"][:, 0].tolist() == [1, 14]
                assert len(asked) == 1

    asyncio.run(main())
