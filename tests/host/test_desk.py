"""A book whose callers are interrupted, cancelled, called again inside a call, or gone.

Whatever happens to a caller: its exception is its own, what was acknowledged is there, all balances
add up, and the book goes on. COUNT, from the environment, is how many of each kind are tried; SEED
replays a run.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import ledger
from ledger.facts import limits
from tests.support.book_calls import (
    CREATED,
    account,
    call,
    fill,
    held,
    pay,
    posted,
    rows,
    until,
)
from tests.support.interrupts import COUNT, SEED, Interrupted, handling, interrupt, interrupted

pytestmark = pytest.mark.timeout(300 + COUNT // 5, method="thread")  # the alarm is taken
EXISTS = ledger.TransferStatus.EXISTS


@pytest.fixture
def book(tmp_path):
    with ledger.open(tmp_path / "book") as one:
        one.create_accounts([account(1), account(2)])
        yield one


def settle(book, requests, acknowledged):
    """Ask again for all, as hosts do: each is there once, what was acknowledged was before."""
    total = 0
    for request in requests:
        ids = request["id"]
        total += len(ids)
        there = sum(len(book.lookup_transfers(ids[n : n + 8000])) for n in range(0, len(ids), 8000))
        assert there in (0, len(ids)), "a request is executed whole or not at all"
        if int(ids[0, 0]) in acknowledged:
            assert there == len(ids)
        found = set(book.create_many(request)["status"].tolist())
        assert found == {EXISTS if there else CREATED}
    [first], [second] = book.lookup_accounts([1]), book.lookup_accounts([2])
    assert ledger.int_of(first["debits_posted"]) == total
    assert ledger.int_of(second["credits_posted"]) == total


@contextmanager
def beside(book, first):
    """Another thread that pays meanwhile, and that nothing may disturb."""
    going, paid, wrong = [True], [], []

    def work():
        id = first
        while going:
            found = book.create_transfers(rows([id]))
            (paid if found["status"].tolist() == [CREATED] else wrong).append(id)
            id += 1

    thread, got = call(work)
    try:
        yield paid
    finally:
        going.clear()
        thread.join()
    assert got == [None] and wrong == [] and paid


# ---- interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 500])
def test_an_exception_of_a_signal_s_handler_is_its_caller_s_alone(book, size):
    chance, requests, acknowledged = random.Random(SEED), [], set()
    count = COUNT if size == 1 else COUNT // 3
    took = 0.0005
    with handling(interrupt), beside(book, 10**12) as paid:
        while len(requests) - len(acknowledged) < count:
            requests.append(rows(range(len(requests) * size + 1, (len(requests) + 1) * size + 1)))
            began = time.perf_counter()
            found = interrupted(
                chance.uniform(0.00001, 2 * took), lambda: book.create_transfers(requests[-1])
            )
            took += (min(0.01, time.perf_counter() - began) - took) / 16
            if found is not None:
                assert set(found["status"].tolist()) == {CREATED}
                acknowledged.add(int(requests[-1]["id"][0, 0]))
    settle(book, [*requests, rows(paid)], acknowledged | set(paid[:1]))


@pytest.mark.parametrize("many", [False, True])
def test_an_exception_sent_to_a_thread_is_its_caller_s_alone(book, many):
    chance, requests, acknowledged = random.Random(SEED), [], set()
    ended: list[bool] = []
    size, ask = (10_000, book.create_many) if many else (1, book.create_transfers)
    count = COUNT // 30 if many else COUNT

    def work():
        while len(requests) - len(acknowledged) < count:
            try:
                first = len(requests) * size + 1
                requests.append(rows(range(first, first + size)))
                found = ask(requests[-1])
                acknowledged.add(int(requests[-1]["id"][0, 0]))
                assert set(found["status"].tolist()) == {CREATED}
            except Interrupted:
                pass
        ended.append(True)

    def safe():
        while not ended:
            try:  # noqa: SIM105 - the suppressing would be interrupted too
                work()
            except Interrupted:
                pass

    thread, _ = call(safe)
    while not ended:
        time.sleep(chance.uniform(0, 0.02 if many else 0.002))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted)
        )
    thread.join()
    if many:
        requests = [part for one in requests for part in (one[:8189], one[8189:])]
    settle(book, requests, acknowledged)


def test_a_call_that_waits_for_room_and_is_interrupted_does_nothing(book):
    with held(book) as event, handling(interrupt):
        waiting = fill(book)
        for _ in range(3):
            got = interrupted(0.05, lambda: book.create_transfers(rows(range(50_000, 58_189))))
            assert got is None
        until(book, lambda: not book._engine._refused)
        event.set()
        for thread, _ in waiting:
            thread.join()
    assert len(book.lookup_transfers([50_000])) == 0
    assert book.create_transfers([pay(60_000)])["status"].tolist() == [CREATED]


# ---- calls inside calls --------------------------------------------------------------------------


def test_a_signal_s_handler_may_call_the_book_inside_a_call(book):
    answers, failures = [], []
    chance = random.Random(SEED)

    def handler(*_):
        number = len(answers) + 1
        try:
            found = book.create_transfers(rows([10**9 + number]))
            there = book.lookup_accounts([1, 2, 1])
            answers.append((found["status"].tolist(), there["id"][:, 0].tolist()))
        except BaseException as error:
            failures.append(error)
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.001))

    paid = 0
    with handling(handler), beside(book, 10**12) as others:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while len(answers) < COUNT and not failures:
            paid += 1
            assert book.create_transfers(rows([paid]))["status"].tolist() == [CREATED]
            found = book.lookup_transfers([paid])
            assert found.dtype == ledger.TRANSFER and found["id"][:, 0].tolist() == [paid]
    assert failures == [] and all(one == ([CREATED], [1, 2, 1]) for one in answers)
    assert posted(book) == paid + len(answers) + len(others)


class Dropped:
    """Garbage whose finalizer asks."""

    def __init__(self, ask):
        self.ask, self.itself = ask, self

    def __del__(self):
        self.ask()


@pytest.mark.parametrize("which", ["engine", "journal", "lane"])
def test_a_finalizer_in_the_book_s_own_threads_gets_a_clear_error(book, which):
    said, finished = [], threading.Event()
    asks = (
        lambda: book.create_transfers([pay(1)]),
        lambda: book.lookup_accounts([1]),
        lambda: book.create_many([pay(2)]),
        book.state_hash,
        book.close,
    )

    def ask():
        for one in asks:
            try:
                said.append(one())
            except RuntimeError as error:
                said.append(str(error))

    def collect():
        gc.collect()
        finished.set()

    run = {
        "engine": book._desk.put,
        "journal": lambda job: book._runner.run(job, lambda error: None),
        "lane": lambda job: book._runner.aside("reads", job, lambda error: None),
    }
    Dropped(ask)
    run[which](collect)
    assert finished.wait(30)
    assert len(said) == 5 and all(one.startswith("called from inside a call") for one in said)
    assert book.create_transfers([pay(3)])["status"].tolist() == [CREATED]


# ---- cancellations -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_cancelled_call_ends_at_once_and_is_whole(tmp_path, how):
    """12 tasks pay full requests, more than there is room for, and are cancelled at any moment."""
    chance, requests, acknowledged, cancelled = random.Random(SEED), [], set(), []

    async def one():
        first = requests[-1].stop if requests else 1
        full = COUNT <= 1000 or chance.random() < 0.1  # else the disk is what gives out
        requests.append(range(first, first + (8189 if full else 100)))
        request = rows(requests[-1])
        seconds = chance.uniform(0, 0.05)
        if how == "timeout":
            try:
                async with asyncio.timeout(seconds):
                    await book.create_transfers(request, timeout=30)
                    acknowledged.add(first)
            except TimeoutError:
                cancelled.append(first)
            return
        task = asyncio.ensure_future(book.create_transfers(request, timeout=30))
        await asyncio.sleep(seconds)
        told = task.cancel()
        try:
            await task
            acknowledged.add(first)
            assert not told, "cancel() said that the call ends, and it went on"
        except asyncio.CancelledError:
            cancelled.append(first)

    async def work():
        while len(cancelled) < (COUNT if COUNT > 1000 else COUNT // 3):
            await one()

    async def run():
        nonlocal book
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            await asyncio.gather(*[work() for _ in range(12)])

    book = None
    asyncio.run(run())
    with ledger.open(tmp_path / "book") as again:
        settle(again, map(rows, requests), acknowledged)


def test_a_cancelled_call_that_waits_for_room_does_nothing(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book) as event:
                first = asyncio.ensure_future(book.create_transfers([pay(1)]))
                while not book._engine._appending:
                    await asyncio.sleep(0)
                full = [
                    asyncio.ensure_future(book.create_transfers(rows(range(n, n + 8189))))
                    for n in (10_000, 20_000)
                ]
                while book._engine._appending != limits.GROUPS_IN_FLIGHT_MAX - 1:
                    await asyncio.sleep(0)
                waiting = [
                    asyncio.ensure_future(
                        book.create_transfers(rows(range(n, n + 8189)), timeout=timeout)
                    )
                    for n, timeout in ((30_000, None), (40_000, 30), (50_000, 30))
                ]
                while len(book._engine._refused) < 3:
                    await asyncio.sleep(0)
                for task in waiting[:2]:
                    assert task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                event.set()
                await asyncio.gather(first, *full, waiting[2])
            found = await book.lookup_transfers([30_000, 40_000, 50_000])
            assert found["id"][:, 0].tolist() == [50_000]

    asyncio.run(run())


def test_an_async_book_is_called_in_its_loop_alone(tmp_path):
    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            position = book.position

            def elsewhere():
                asyncio.run(book.create_transfers([pay(1)]))

            def without():
                book.create_transfers([pay(2)]).send(None)

            for ask in (elsewhere, without, lambda: asyncio.run(book.create_many([pay(3)])),
                        lambda: asyncio.run(book.state_hash()),
                        lambda: asyncio.run(book.close())):  # fmt: skip
                thread, got = call(ask)
                while thread.is_alive():
                    await asyncio.sleep(0)
                assert isinstance(got[0], RuntimeError) and "nothing was done" in str(got[0])
            assert book.position == position
            assert len(await book.lookup_transfers([1, 2, 3])) == 0
            here = asyncio.get_running_loop()

            def properly():
                asked = asyncio.run_coroutine_threadsafe(book.create_transfers([pay(4)]), here)
                return asked.result(30)

            thread, got = call(properly)
            while thread.is_alive():
                await asyncio.sleep(0)
            assert got[0]["status"].tolist() == [CREATED]

    asyncio.run(run())


# ---- bounds --------------------------------------------------------------------------------------


def test_more_callers_than_may_wait_wait_outside(book, monkeypatch):
    with held(book) as event:
        waiting = fill(book)
        monkeypatch.setattr(limits, "CALLS_WAITING_MAX", 2)
        many = [call(book.create_transfers, rows(range(n, n + 8189)))
                for n in range(100_000, 220_000, 10_000)]  # fmt: skip
        until(book, lambda: len(book._desk.unaccepted) >= 2)
        with pytest.raises(ledger.Busy, match="nothing of it was done"):
            book.create_transfers(rows([500_000]), timeout=0.05)
        event.set()
        for thread, got in [*waiting, *many]:
            thread.join()
            assert set(got[0]["status"].tolist()) == {CREATED}
    assert len(book.lookup_transfers([500_000])) == 0


def test_more_tasks_than_may_wait_wait_outside_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CALLS_WAITING_MAX", 4)

    async def run():
        async with ledger.open_async(tmp_path / "book") as book:
            await book.create_accounts([account(1), account(2)])
            with held(book) as event:
                first = asyncio.ensure_future(book.create_transfers([pay(1)]))
                while not book._engine._appending:
                    await asyncio.sleep(0)
                many = [asyncio.ensure_future(book.create_transfers(rows(range(n, n + 8189))))
                        for n in range(10_000, 210_000, 10_000)]  # fmt: skip
                while len(book._outside._waiting) < 10:
                    await asyncio.sleep(0)
                with pytest.raises(ledger.Busy):
                    await book.create_transfers(rows([500_000]), timeout=0.05)
                for task in many[7::3]:
                    task.cancel()
                # One more may be let in while the engine's thread takes one from the queue.
                assert len(book._desk.unaccepted) <= 4 + 1
                event.set()
                found = await asyncio.gather(first, *many, return_exceptions=True)
            done = [one for one in found if not isinstance(one, BaseException)]
            assert len(done) == 1 + 20 - len(many[7::3])
            stamps = [int(one["timestamp"][0]) for one in done]
            assert stamps == sorted(stamps)
            assert len(await book.lookup_transfers([500_000])) == 0
            assert not book._outside._waiting and not book._outside._let_in

    asyncio.run(run())


def test_pieces_come_one_after_the_other_and_none_after_one_that_is_refused(book):
    """A hold in one piece, its post in the next: were the first refused and the second not, the
    post's id would be burned."""
    made = rows(range(1, 100_001))
    room = book._parts.journal.room
    refusing = [False]

    def full():
        found = room()
        return found._replace(refusal="the disk is full") if refusing[0] else found

    book._parts.journal.room = full
    thread, got = call(book.create_many, made)
    until(book, lambda: book._engine.core.counts_by_kind["transfers"] > 10_000)
    refusing[0] = True
    thread.join()
    if isinstance(got[0], BaseException):
        assert isinstance(got[0], ledger.DiskFull)
    refusing[0] = False
    count = posted(book)
    assert count % 8189 == 0 or count == len(made)
    there = np.array([len(book.lookup_transfers([int(id)])) for id in range(1, 100_001, 8189)])
    assert (np.diff(there) <= 0).all(), "no piece was executed after one that was not"
    assert set(book.create_many(made)["status"].tolist()) <= {CREATED, EXISTS}
    assert posted(book) == len(made)
