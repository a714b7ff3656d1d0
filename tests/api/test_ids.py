"""Ids: rising, unique, in range, from several threads and after a fork."""

from __future__ import annotations

import importlib
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

from ledger.api.ids import id, ids

ids_module = importlib.import_module("ledger.api.ids")  # ledger.api.ids is the function
U128_MAX = 2**128 - 1


def numbers(limbs):
    return [int(low) | int(high) << 64 for low, high in limbs.tolist()]


def test_ids_rise_and_begin_with_the_time():
    before = time.time_ns() // 1_000_000
    made = [id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert made == sorted(set(made))
    assert before <= made[0] >> 80 <= after
    assert all(0 < one < U128_MAX for one in made)


def test_many_ids_at_once_rise_by_one_and_after_those_made_before():
    one = id()
    made = numbers(ids(10_000))
    assert one < made[0]
    assert made == list(range(made[0], made[0] + 10_000))
    assert id() > made[-1]
    assert ids(0).shape == (0, 2)


def test_a_run_of_ids_may_carry_into_the_high_limb(monkeypatch):
    start = (2**40 << 80) + 2**64 - 3
    monkeypatch.setattr(ids_module, "_last", start - 1)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    made = ids(6)
    assert made.dtype == np.uint64
    assert numbers(made) == list(range(start, start + 6))


def test_a_clock_that_falls_back_does_not_take_ids_back(monkeypatch):
    first = id()
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert first < id() < id()


def test_a_negative_count_is_refused_and_changes_nothing():
    before = id()
    with pytest.raises(ValueError, match="count: -1 is not within"):
        ids(-1)
    assert id() > before


def test_threads_never_make_the_same():
    made: list[int] = []
    lock = threading.Lock()

    def work():
        mine = [id() for _ in range(500)] + numbers(ids(500))
        with lock:
            made.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000


def test_a_forked_child_makes_others():
    id()
    with ids_module._lock:  # held at the fork: the child must not wait for it
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"%d" % id())
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    theirs = int(os.read(read, 100))
    os.close(read)
    assert theirs not in (id() + n for n in range(-10, 10))


@pytest.mark.timeout(60, method="thread")  # the alarm is taken
def test_a_handler_that_makes_ids_while_ids_are_made_gets_its_own():
    made: list[int] = []
    chance = random.Random(3)

    def handler(*_):
        made.append(id())
        made.extend(numbers(ids(3)))
        if len(made) < 4000:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00001, 0.0001))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001)
        while len(made) < 4000:
            made.append(id())
            made.extend(numbers(ids(2)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(set(made)) == len(made)
