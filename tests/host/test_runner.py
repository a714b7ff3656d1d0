"""Runners: one thread appends, the rest has its place; wakes come, and the last one counts."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ledger.host.runner import LoopRunner, ThreadRunner, Timings

MS = 1_000_000


@contextmanager
def turning():
    """A runner, and the thread that turns it, which stops it too."""
    runner, ended = ThreadRunner("test"), []
    runner.start()

    def work():
        while not ended:
            runner.turn()
        runner.stop()
        runner.finish()

    thread = threading.Thread(target=work, name="test-turns")
    thread.start()
    try:
        yield runner
    finally:
        runner.put(lambda: ended.append(True))
        thread.join()


@pytest.fixture
def runner():
    with turning() as one:
        yield one


def test_jobs_run_in_order_in_one_thread_and_are_done_under_the_lock(runner):
    lock, order, threads = runner.turnstile, [], set()
    finished, tellers = threading.Event(), set()

    def job(n):
        assert not lock._is_owned(), "a job does not hold up the callers"
        threads.add(threading.current_thread().name)
        order.append(n)

    def done(error):
        assert error is None and lock._is_owned()
        tellers.add(threading.current_thread().name)
        if len(order) == 50:
            finished.set()

    for n in range(50):
        runner.run(lambda n=n: job(n), done)
    assert finished.wait(30)
    assert order == list(range(50))
    assert (threads, tellers) == ({"test-journal"}, {"test-turns"})
    assert sum(runner.synced.counts) == 50 and sum(runner.released.counts) == 50


def test_whatever_a_job_raises_is_handed_to_done(runner):
    errors, finished = [], threading.Event()

    def fail(error):
        raise error

    def done(error):
        errors.append(error)
        if len(errors) == 3:
            finished.set()

    raised = [OSError(5, "I/O error"), SystemExit(3), KeyboardInterrupt()]
    for error in raised:
        runner.run(lambda error=error: fail(error), done)
    assert finished.wait(30)
    assert errors == raised


def test_done_waits_for_the_lock(runner):
    finished, ran = threading.Event(), threading.Event()
    with runner.turnstile:
        runner.run(ran.set, lambda error: finished.set())
        assert ran.wait(30), "the job itself does not"
        assert not finished.is_set()
    assert finished.wait(30)


def test_the_next_job_does_not_wait_until_the_one_before_is_told(runner):
    """What is called back may execute a request: the log goes on meanwhile."""
    ran, told, finished = threading.Event(), [], threading.Event()
    runner.run(lambda: None, lambda error: told.append(ran.wait(30)))
    runner.run(ran.set, lambda error: (told.append("second"), finished.set()))
    assert finished.wait(30)
    assert told == [True, "second"]


def test_what_comes_soon_comes_after_all_that_was_put(runner):
    called, begun, gate, finished = [], threading.Event(), threading.Event(), threading.Event()
    runner.put(lambda: (begun.set(), gate.wait(30)))
    assert begun.wait(30)
    runner.put(lambda: runner.soon(lambda: called.append("soon")))
    for n in range(5):
        runner.put(lambda n=n: called.append(n))
    runner.put(lambda: runner.soon(finished.set))
    gate.set()
    assert finished.wait(30)
    assert called == [*range(5), "soon"]


def test_a_lone_job_needs_no_other_thread_and_never_overtakes_one(runner):
    told, finished = [], threading.Event()

    def asks(alone, gate):
        def job():
            gate.wait(30)
            told.append(("ran", threading.current_thread().name))

        def ask():
            runner.alone = alone
            runner.run(job, lambda error: (told.append("told"), finished.set()))

        return ask

    open_gate, gate = threading.Event(), threading.Event()
    open_gate.set()
    for alone, name in ((True, "test-turns"), (False, "test-journal")):
        runner.put(asks(alone, open_gate))
        assert finished.wait(30)
        assert told == [("ran", name), "told"]
        told.clear()
        finished.clear()
    runner.put(asks(False, gate))
    runner.put(asks(True, open_gate))
    gate.set()
    while len(told) < 4:
        assert finished.wait(30)
    assert [one for one in told if one != "told"] == [("ran", "test-journal")] * 2


@pytest.mark.parametrize("then", [True, False], ids=["a lone one", "one among others"])
def test_jobs_of_one_turn_are_done_in_order(runner, then):
    """A group that is full and the one that follows it: the second is appended after the first."""
    done, finished = [], threading.Semaphore(0)

    def ask():
        runner.alone = True
        runner.run(lambda: done.append(1), lambda error: finished.release())
        runner.alone = then
        runner.run(lambda: done.append(2), lambda error: finished.release())

    runner.put(ask)
    for _ in range(2):
        assert finished.acquire(timeout=30)
    assert done == [1, 2]


def test_a_wake_comes_and_a_new_one_takes_the_place_of_the_last(runner):
    woken, told = [], threading.Event()

    def wake(name):
        woken.append((name, runner.turnstile._is_owned()))
        told.set()

    runner.wake(3600 * 1000 * MS, lambda: wake("late"))
    started = time.monotonic_ns()
    runner.wake(20 * MS, lambda: wake("soon"))
    assert told.wait(30)
    assert woken == [("soon", True)]
    assert time.monotonic_ns() - started >= 20 * MS
    told.clear()
    runner.wake(0, lambda: wake("now"))
    assert told.wait(30)
    assert [name for name, _ in woken] == ["soon", "now"]


def test_jobs_go_on_while_a_wake_is_waited_for(runner):
    runner.wake(3600 * 1000 * MS, lambda: None)
    finished = threading.Event()
    runner.run(lambda: None, lambda error: finished.set())
    assert finished.wait(30)


def test_what_comes_later_comes_in_order_and_beside_the_wake(runner):
    called, finished = [], threading.Event()
    runner.wake(3600 * 1000 * MS, lambda: called.append("wake"))
    runner.later(40 * MS, lambda: (called.append("last"), finished.set()))
    runner.later(10 * MS, lambda: called.append("first"))
    runner.later(10 * MS, lambda: called.append("second"))
    assert finished.wait(30)
    assert called == ["first", "second", "last"]


def test_stop_ends_the_threads_after_what_was_asked():
    threads = threading.active_count()
    done, gate = [], threading.Event()
    with turning() as runner:
        runner.run(gate.wait, done.append)
        runner.run(lambda: done.append("ran"), done.append)
        runner.wake(3600 * 1000 * MS, lambda: done.append("wake"))
        gate.set()
    assert "ran" in done and "wake" not in done
    assert not runner._thread.is_alive() and threading.active_count() == threads
    with pytest.raises(RuntimeError):
        runner.digests.submit(int)


def test_without_threads_nothing_is_left(monkeypatch):
    threads, start, started = threading.active_count(), threading.Thread.start, []

    def refuse(thread):
        if len(started) == 4:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        ThreadRunner("test").start()
    assert threading.active_count() == threads


ASKS = {
    "run": lambda runner, callback: runner.run(lambda: None, callback),
    "soon": lambda runner, callback: runner.soon(callback),
    "later": lambda runner, callback: runner.later(1, callback),
    "wake": lambda runner, callback: runner.wake(1, callback),
    "aside": lambda runner, callback: runner.aside("reads", lambda: None, callback),
}


async def holds(runner, ask):
    """Whether the journal's thread finds the place taken while this calls back."""
    found = asyncio.get_running_loop().create_future()

    def callback(error=None):
        with ThreadPoolExecutor(1) as other:
            found.set_result(not other.submit(runner.turnstile.acquire, False).result(30))

    ASKS[ask](runner, callback)
    return await asyncio.wait_for(found, 30)


def test_in_a_loop_everything_but_the_jobs_happens_in_the_loop():
    async def run():
        loop_thread = threading.current_thread()
        runner = LoopRunner("test")
        try:
            seen, finished, woken = [], asyncio.Event(), asyncio.Event()

            def done(error):
                seen.append((error, threading.current_thread()))
                finished.set()

            def job():
                seen.append(threading.current_thread().name)
                raise OSError(5, "I/O error")

            runner.run(job, done)
            runner.soon(lambda: seen.append("soon"))
            assert seen in ([], ["test-journal"]), "not before the loop turns"
            await asyncio.wait_for(finished.wait(), 30)
            assert "soon" in seen and "test-journal" in seen
            [(error, thread)] = [one for one in seen if isinstance(one, tuple)]
            assert isinstance(error, OSError) and thread is loop_thread
            runner.wake(MS, lambda: woken.set())
            await asyncio.wait_for(woken.wait(), 30)
            assert all(await asyncio.gather(*[holds(runner, ask) for ask in ASKS]))
        finally:
            runner.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ns", "bucket"),
    [(0, 0), (999, 0), (1000, 0), (1999, 0), (2000, 1), (1_000_000, 9), (10**30, 31)],
)
def test_timings_count_by_powers_of_two_microseconds(ns, bucket):
    timings = Timings()
    timings.add_ns(ns)
    assert timings.counts.index(1) == bucket and sum(timings.counts) == 1
