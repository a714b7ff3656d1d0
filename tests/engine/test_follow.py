"""The order in which groups are appended and answers leave."""

from __future__ import annotations

import pytest

from tests.support.core_book import account, pay
from tests.support.engine_parts import Submitter, with_accounts


@pytest.fixture
def bench():
    return with_accounts(account(1), account(2))


def test_what_is_open_follows_an_append_where_it_was_made(bench):
    bench.runner.turnstile.free = True
    submitters = [Submitter() for _ in range(3)]
    bench.transfers(submitters[0], pay(1))
    bench.runner.turn()
    tells = []
    for n, jobs in ((2, 1), (3, 0)):
        bench.transfers(submitters[n - 1], pay(n))
        tells.append(bench.runner.write())
        assert len(bench.runner.jobs) == jobs, "two that are untold, no more"
    assert bench.core.group_records and not any(submitter.got for submitter in submitters)
    for told in tells:
        told()
    bench.settle()
    assert [len(submitter.got) for submitter in submitters] == [1] * 3
    assert bench.runner.turnstile.held == 0
    assert bench.replayed() == bench.core.state_hash()


def test_whoever_is_at_work_hands_over_what_an_append_could_not(bench):
    first, second = Submitter(), Submitter()
    bench.transfers(first, pay(1))
    bench.runner.turn()
    bench.transfers(second, pay(2))
    told = bench.runner.write()
    assert bench.runner.jobs == [], "somebody was at work"
    bench.engine.flush()
    assert len(bench.runner.jobs) == 1, "the log is free, though the engine was not told"
    told()
    assert [len(first.got), len(second.got)] == [1, 0]
    bench.settle()
    assert len(second.got) == 1


def test_what_fails_behind_an_append_stops_the_engine_in_its_own_place(bench):
    def fail(stage):
        if bench.runner.turnstile.free and stage == "encoded":
            raise MemoryError

    bench.engine._failpoint = fail
    submitters = Submitter(), Submitter()
    bench.transfers(submitters[0], pay(1))
    bench.runner.turn()
    bench.transfers(submitters[1], pay(2))
    bench.runner.turnstile.free = True
    told = bench.runner.write()
    assert bench.engine.cause is None and bench.runner.turnstile.held == 0
    told()
    assert isinstance(bench.engine.cause.cause, MemoryError)
    assert [len(submitter.causes) for submitter in submitters] == [1, 1]


def test_answers_to_what_is_submitted_during_a_release_leave_last(bench):
    order = []

    class Noting(Submitter):
        def deliver(self, taken):
            order.append(self.route)
            if self.route == 1:
                bench.lookup(Noting(4), 1)
                assert order == [1], "two answers are still before it"
                bench.transfers(Noting(5), pay(5))

    for n in (1, 2, 3):
        bench.transfers(Noting(n), pay(n))
    bench.settle()
    assert order == [1, 2, 3, 4, 5]
    assert bench.engine._held_bytes == 0 and not bench.engine._releasing
