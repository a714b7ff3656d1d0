"""Threads of the ledger's own: one thing after another, and what a thread of them may not ask."""

from __future__ import annotations

import threading

import pytest

from ledger.base.worker import Own, Worker, check_outside


def test_a_worker_does_one_thing_after_another_in_its_thread():
    seen = []
    with Worker("test", lambda: seen.append("begun")) as worker:
        futures = [worker.submit(lambda n=n: seen.append(n) or n) for n in range(50)]
        failing = worker.submit(int, "no number")
        assert [future.result(30) for future in futures] == list(range(50))
        with pytest.raises(ValueError, match="no number"):
            failing.result(30)
        assert worker.submit(threading.current_thread).result(30).name == "test"
    assert seen == ["begun", *range(50)]
    with pytest.raises(RuntimeError, match="test has ended"):
        worker.submit(int)


def test_what_is_given_up_is_cancelled_and_what_runs_ends():
    gate, running = threading.Event(), threading.Event()
    worker = Worker("test")
    first = worker.submit(lambda: (running.set(), gate.wait(30)))
    others = [worker.submit(int) for _ in range(3)]
    assert running.wait(30)
    worker.shutdown(wait=False, cancel_futures=True)
    gate.set()
    worker.shutdown()
    assert first.done() and not first.cancelled() and all(one.cancelled() for one in others)


def test_a_thread_of_our_own_is_told_from_the_host_s():
    check_outside()
    said = []

    def work():
        try:
            check_outside()
        except RuntimeError as error:
            said.append(str(error))

    for thread in (threading.Thread(target=work), Own("test", work)):
        thread.start()
        thread.join()
    assert len(said) == 1 and said[0].startswith("called from inside a call")
