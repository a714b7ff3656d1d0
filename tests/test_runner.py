"""Runners: one thread appends, the rest has its place; wakes come, and the last one counts."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.runner import LoopRunner, ThreadRunner, Timings

MS = 1_000_000


@pytest.fixture
def runner():
    lock = threading.Condition()
    runner = ThreadRunner(lock, "test")
    yield runner
    runner.stop()


def test_jobs_run_in_order_in_one_thread_and_are_done_under_the_lock(runner):
    lock, order, threads = runner.place, [], set()
    finished = threading.Event()

    def job(n):
        assert not lock._is_owned(), "a job does not hold up the callers"
        threads.add(threading.current_thread().name)
        order.append(n)

    def done(error):
        assert error is None and lock._is_owned()
        if len(order) == 50:
            finished.set()

    for n in range(50):
        runner.run(lambda n=n: job(n), done)
    assert finished.wait(30)
    assert order == list(range(50)) and threads == {"test-journal"}
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
    with runner.place:
        runner.run(ran.set, lambda error: finished.set())
        assert ran.wait(30), "the job itself does not"
        assert not finished.is_set()
    assert finished.wait(30)


def test_the_next_job_does_not_wait_until_the_one_before_is_told(runner):
    """What is called back may execute a request: the log goes on meanwhile."""
    ran, told = threading.Event(), []
    runner.run(lambda: None, lambda error: told.append(ran.wait(30)))
    runner.run(ran.set, lambda error: told.append("second"))
    assert ran.wait(30)
    runner.stop()
    assert told == [True, "second"]


def test_soon_is_now_for_whoever_holds_the_lock(runner):
    called = []
    runner.soon(lambda: called.append(threading.current_thread()))
    assert called == [threading.current_thread()]


def test_a_wake_comes_and_a_new_one_takes_the_place_of_the_last(runner):
    woken, told = [], threading.Event()

    def wake(name):
        woken.append((name, runner.place._is_owned()))
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


def test_stop_ends_the_threads_after_what_was_asked():
    runner = ThreadRunner(threading.Condition(), "test")
    done = []
    gate = threading.Event()
    runner.run(gate.wait, done.append)
    runner.run(lambda: None, done.append)
    runner.wake(3600 * 1000 * MS, lambda: done.append("wake"))
    gate.set()
    runner.stop()
    assert done == [None, None]
    assert not runner._thread.is_alive()
    with pytest.raises(RuntimeError):
        runner.digests.submit(int)


ASKS = {
    "run": lambda runner, callback: runner.run(lambda: None, callback),
    "soon": lambda runner, callback: runner.soon(callback),
    "later": lambda runner, callback: runner.later(1, callback),
    "wake": lambda runner, callback: runner.wake(1, callback),
    "aside": lambda runner, callback: runner.aside("lane", lambda: None, callback),
}


async def holds(runner, ask):
    """Whether the journal's thread finds the place taken while this calls back."""
    found = asyncio.get_running_loop().create_future()

    def callback(error=None):
        with ThreadPoolExecutor(1) as other:
            found.set_result(not other.submit(runner.place.acquire, False).result(30))

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
