"""The engine with parts moved by hand: what leaves when, who waits for what, and how it stops."""

from __future__ import annotations

import numpy as np
import pytest

from chaos.model import NS_PER_S, U128_MAX, AccountFilter
from ledger.base.failpoint import FailpointReached, failpoint
from ledger.facts import limits
from ledger.facts.errors import LedgerStopped
from ledger.facts.schema import CREATE_RESULT, Operation, TransferStatus
from tests.support.core_book import NOW, account, hold, pay
from tests.support.engine_parts import Bench, Submitter, requests, session_of, with_accounts

CREATED = 2**32 - 1


def statuses(answer):
    return np.frombuffer(answer.payload, CREATE_RESULT)["status"].tolist()


@pytest.fixture
def bench():
    return with_accounts(account(1), account(2))


# ---- the durable line ----------------------------------------------------------------------------


def test_nothing_leaves_before_its_append_is_done(bench):
    submitter = Submitter()
    assert bench.transfers(submitter, pay(1)) == 1
    assert submitter.got == [] and bench.runner.jobs == []
    bench.runner.turn()
    assert submitter.got == [] and len(bench.runner.jobs) == 1
    told = bench.runner.write()
    assert submitter.got == [], "written, but the engine has not heard"
    told()
    [answer] = submitter.got
    assert statuses(answer) == [CREATED]
    assert answer.position == bench.log.position == bench.engine.durable_position
    assert bench.engine.idle


def test_one_group_is_open_while_one_is_made_durable(bench):
    submitters = [Submitter() for _ in range(6)]
    bench.transfers(submitters[0], pay(1))
    bench.runner.turn()
    groups = bench.log.group
    for n, submitter in enumerate(submitters[1:], 2):
        bench.transfers(submitter, pay(n))
        bench.runner.turn()
    assert len(bench.runner.jobs) == 1, "one append at a time"
    bench.runner.sync()
    assert [len(submitter.got) for submitter in submitters] == [1, 0, 0, 0, 0, 0]
    assert len(bench.runner.jobs) == 1, "the next group goes before anything is released"
    bench.runner.sync()
    assert [len(submitter.got) for submitter in submitters] == [1] * 6
    assert bench.log.group == groups + 2, "five callers shared a group"
    positions = [submitter.got[0].position for submitter in submitters]
    assert positions == sorted(positions)
    assert bench.replayed() == bench.core.state_hash()


def test_answers_leave_in_the_order_they_were_asked(bench):
    order = []

    class Noting(Submitter):
        def deliver(self, taken):
            order.append(self.route)

    for n in range(1, 30):
        bench.transfers(Noting(n), pay(n))
        if n == 10:
            bench.runner.turn()
    bench.settle()
    assert order == list(range(1, 30))


def test_a_read_waits_for_what_it_saw_and_for_nothing_else(bench):
    early, writer, late, lonely = Submitter(), Submitter(), Submitter(), Submitter()
    bench.lookup(early, 1)
    assert len(early.got) == 1, "all it saw is durable"
    bench.transfers(writer, pay(1))
    bench.lookup(late, 1)
    assert late.got == []
    bench.runner.turn()
    bench.lookup(lonely, 1)
    assert lonely.got == [], "it saw the group that is being made durable"
    bench.runner.sync()
    assert [len(submitter.got) for submitter in (writer, late, lonely)] == [1, 1, 1]
    assert late.got[0].payload == lonely.got[0].payload != early.got[0].payload
    assert bench.log.group == 3 and bench.core.group_records == 0


def test_refusals_and_evictions_wait_as_well(bench):
    writer, unknown = Submitter(1), Submitter(2)
    bench.transfers(writer, pay(1))
    bench.lookup(unknown, 1, client=(9, 0), session=77, number=1)
    assert unknown.got == []
    bench.settle()
    assert [answer.verdict for answer in unknown.got] == ["EVICT"]
    bad = Submitter()
    bench.transfers(bad, pay(2, debit_account_id=77))
    assert bad.got == []
    bench.settle()
    assert statuses(bad.got[0]) == [TransferStatus.DEBIT_ACCOUNT_NOT_FOUND]


def test_a_group_takes_one_reading_of_the_clock_and_one_look_at_the_room(bench):
    readings, looks = bench.clock.readings, bench.log.looks
    for n in range(1, 20):
        bench.clock.ns += 1
        bench.transfers(Submitter(), pay(n))
    assert (bench.clock.readings, bench.log.looks) == (readings + 1, looks + 1)


def test_the_stamp_is_written_after_an_append_and_now_and_then_only(bench):
    assert bench.stamp.written == [(1, 1)], "the first group of a run"
    bench.transfers(Submitter(), pay(1))
    bench.settle()
    assert len(bench.stamp.written) == 1
    bench.clock.ns += limits.HEAD_NS
    submitter = Submitter()
    bench.transfers(submitter, pay(2))
    bench.runner.turn()
    assert len(bench.stamp.written) == 1, "not before the append"
    bench.runner.sync()
    assert bench.stamp.written[1:] == [(bench.log.group, bench.log.position)]
    assert len(submitter.got) == 1


# ---- no room -------------------------------------------------------------------------------------


def full(n):
    """A request of 8,189 payments; two of them do not fit in a group."""
    return [pay(n * 10_000 + i) for i in range(1, 8190)]


def fill(bench):
    """As many full requests as there may be groups; who asked them."""
    submitters = [Submitter() for _ in range(limits.GROUPS_IN_FLIGHT_MAX)]
    for n, submitter in enumerate(submitters):
        assert bench.transfers(submitter, *full(n)) == 1
    return submitters


def test_a_full_group_is_handed_over_and_the_next_one_takes_on(bench):
    submitters = [Submitter() for _ in range(4)]
    assert bench.transfers(submitters[0], *full(0)) == 1
    assert bench.transfers(submitters[1], *full(1)) == 1, "the first went to the log to make room"
    assert bench.transfers(submitters[2], *full(2)) == 1, "the second waits for the log behind it"
    assert len(bench.runner.jobs) == 2
    assert bench.transfers(submitters[3], *full(0)) == 0, "one is open, one full, one being synced"
    assert submitters[3].resumed == 0
    bench.runner.sync()
    assert [len(submitter.got) for submitter in submitters] == [1, 0, 0, 0]
    assert submitters[3].resumed == 1
    assert bench.transfers(submitters[3], *full(0)) == 1
    bench.settle()
    assert [set(statuses(submitter.got[0])) for submitter in submitters[:3]] == [{CREATED}] * 3
    assert set(statuses(submitters[3].got[0])) == {TransferStatus.EXISTS}
    assert bench.replayed() == bench.core.state_hash()


def test_what_a_waiting_group_answers_waits_for_its_own_sync(bench):
    submitters = fill(bench)
    first, second = bench.runner.write(), bench.runner.write()
    first()
    assert [len(one.got) for one in submitters] == [1, 0, 0], "both are written, one is told"
    second()
    assert [len(submitter.got) for submitter in submitters] == [1, 1, 0]


def test_nothing_follows_a_failed_append_of_the_group_before(bench):
    submitters = fill(bench)
    bench.log.fail = OSError("no")
    bench.runner.sync()
    bench.runner.sync()
    assert isinstance(bench.engine.cause, LedgerStopped)
    assert [len(submitter.got) for submitter in submitters] == [0, 0, 0]
    assert [len(submitter.causes) for submitter in submitters] == [1, 1, 1]


def test_what_is_taken_of_a_run_of_requests_is_said(bench):
    """Twelve requests of which three groups' worth fit: the rest is asked again from there."""
    submitter = Submitter()
    wanted = [(Operation.CREATE_TRANSFERS, [pay(n * 10_000 + i) for i in range(1, 2500)])
              for n in range(12)]  # fmt: skip
    arrivals, buffer = requests(*wanted)
    at, rounds = 0, 0
    while at < 12:
        done = bench.engine.submit(submitter, buffer, arrivals[at:].copy(), 12 - at)
        at += done
        rounds += 1
        if at < 12:
            assert submitter.resumed == rounds - 1
            bench.runner.sync()
            assert submitter.resumed == rounds
    bench.settle()
    assert len(submitter.got) == 12
    assert bench.core.counts_by_kind["transfers"] == 12 * 2499
    stamps = [answer.timestamp for answer in submitter.got]
    assert stamps == sorted(stamps)


def test_too_many_held_bytes_stop_the_asking(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLY_BYTES_IN_FLIGHT_MAX", 5_000)
    bench.transfers(Submitter(), pay(1))
    submitters = [Submitter() for _ in range(20)]
    taken = [bench.lookup(submitter, 1, 2) for submitter in submitters]
    assert 0 < sum(taken) < 10 and taken == sorted(taken, reverse=True)
    bench.settle()
    assert [len(submitter.got) for submitter in submitters] == taken
    assert [submitter.resumed for submitter in submitters] == [1 - one for one in taken]
    assert bench.engine._held_bytes == 0
    assert bench.lookup(submitters[-1], 1) == 1


def test_an_asker_that_is_full_is_not_served_and_not_resumed(bench):
    submitter = Submitter()
    submitter.is_full = True
    assert bench.transfers(submitter, pay(1)) == 0
    bench.transfers(Submitter(), pay(2))
    bench.settle()
    assert submitter.resumed == 0 and submitter.got == []


def test_who_waits_for_room_waits_once_and_may_give_up(bench):
    fill(bench)
    patient, gone = Submitter(), Submitter()
    for _ in range(3):
        assert bench.transfers(patient, *full(3)) == 0
        assert bench.transfers(gone, *full(3)) == 0
    bench.engine.forget(gone)
    bench.engine.forget(gone)
    bench.runner.sync()
    assert (patient.resumed, gone.resumed) == (1, 0)


def test_who_waited_first_goes_on_first(bench):
    fill(bench)
    order = []
    submitters = [Submitter() for _ in range(4)]
    for n, submitter in enumerate(submitters, 3):

        def go_on(n=n, submitter=submitter):
            order.append((n, bench.transfers(submitter, *full(n))))

        submitter.on_resume = go_on
        assert bench.transfers(submitter, *full(n)) == 0
    for _ in range(4):
        bench.runner.sync()
        bench.runner.turn()
    # Each group took one; the next in the line tried and kept its place.
    taken = [n for n, done in order if done]
    assert taken == [3, 4, 5, 6]
    assert len(order) <= 2 * len(submitters)


def test_no_space_drops_what_writes_and_answers_what_reads(bench):
    bench.log.full = "the disk is full"
    writer, reader = Submitter(), Submitter()
    before = bench.core.state_hash()
    assert bench.transfers(writer, pay(1)) == 1
    assert bench.lookup(reader, 1) == 1
    assert writer.got == [] and len(reader.got) == 1
    assert bench.engine.refusal == "the disk is full"
    assert bench.engine.idle and bench.core.state_hash() == before
    bench.log.full = None
    assert bench.transfers(writer, pay(1)) == 1
    bench.settle()
    assert statuses(writer.got[0]) == [CREATED]


def test_space_is_looked_at_before_a_group_is_begun_not_in_it(bench):
    writer = Submitter()
    bench.transfers(writer, pay(1))
    bench.log.full = "the disk is full"
    bench.transfers(writer, pay(2))
    bench.settle()
    assert len(writer.got) == 2, "room for the group was there when it was begun"
    bench.transfers(writer, pay(3))
    assert bench.engine.idle


# ---- requests sent again -------------------------------------------------------------------------


def test_the_resend_of_a_request_that_is_executing_waits_for_its_group(bench):
    session = session_of(bench)
    first, second = Submitter(1), Submitter(2)
    ask = {"number": 1, "checksum": (5, 5), **session}
    bench.transfers(first, pay(1), **ask)
    bench.transfers(second, pay(1), **ask)
    assert bench.core.resends == 1
    bench.runner.turn()
    third = Submitter(3)
    bench.transfers(third, pay(1), **ask)
    assert [len(submitter.got) for submitter in (first, second, third)] == [0, 0, 0]
    bench.runner.sync()
    for submitter in (first, second, third):
        assert vars(submitter.got[0]) == vars(first.got[0]) | {"verdict": "REPLY"}
    late = Submitter(4)
    bench.transfers(late, pay(1), **ask)
    assert vars(late.got[0]) == vars(first.got[0]), "durable long since: at once"
    assert bench.core.counts_by_kind["transfers"] == 1


def test_a_resend_and_other_answers_in_one_call(bench):
    session = session_of(bench)
    ask = {"number": 1, "checksum": (5, 5), **session}
    bench.transfers(Submitter(1), pay(1), **ask)
    bench.settle()
    arrivals, buffer = requests(
        (Operation.CREATE_TRANSFERS, [pay(1)]), (Operation.CREATE_TRANSFERS, [pay(2)]),
        (Operation.LOOKUP_ACCOUNTS, [1]), **ask,
    )  # fmt: skip
    arrivals["number"] = [1, 2, 3]
    arrivals["checksum"][1:] = (6, 6)
    submitter = Submitter(2)
    assert bench.engine.submit(submitter, buffer, arrivals, 3) == 3
    assert [statuses(answer) for answer in submitter.got] == [[CREATED]], "the resend is durable"
    bench.settle()
    assert len(submitter.got) == 3


def test_a_resend_from_a_damaged_group_is_refused_and_others_are_served(bench):
    session = session_of(bench)
    bench.transfers(Submitter(1), pay(1), number=1, checksum=(5, 5), **session)
    bench.settle()
    group, body = bench.log.groups[-1]
    bench.log.groups[-1] = (group, bytes(len(body)))
    hurt, other = Submitter(2), Submitter(3)
    assert bench.transfers(hurt, pay(1), number=1, checksum=(5, 5), **session) == 1
    assert bench.transfers(other, pay(2)) == 1
    bench.settle()
    assert "no request is recorded" in str(hurt.refusals[0]) and hurt.got == []
    assert statuses(other.got[0]) == [CREATED] and bench.told == []


def test_a_waiting_resend_from_a_damaged_group_is_refused_where_it_waited(bench):
    session = session_of(bench)
    first, second, third = Submitter(1), Submitter(2), Submitter(3)
    bench.transfers(first, pay(1), number=1, checksum=(5, 5), **session)
    bench.transfers(second, pay(1), number=1, checksum=(5, 5), **session)
    bench.transfers(third, pay(2))
    bench.runner.turn()
    told = bench.runner.write()
    group, body = bench.log.groups[-1]
    bench.log.groups[-1] = (group, bytes(len(body)))
    told()
    assert [len(submitter.got) for submitter in (first, second, third)] == [1, 0, 1]
    assert [len(submitter.refusals) for submitter in (first, second, third)] == [0, 1, 0]
    assert bench.told == [] and bench.engine._held_bytes == 0


# ---- time ----------------------------------------------------------------------------------------


def test_the_engine_asks_to_be_woken_and_expires_in_a_group_of_its_own(bench):
    assert bench.runner.wakes == []
    bench.transfers(Submitter(), hold(1, timeout=2), hold(2, timeout=5))
    bench.settle()
    due = bench.core.next_expiry_ns
    assert bench.runner.wakes == [(due - bench.clock.ns, bench.engine.tick)]
    bench.transfers(Submitter(), pay(3))
    bench.settle()
    assert len(bench.runner.wakes) == 1, "not again for the same time"
    bench.clock.ns = due
    groups = bench.log.group
    bench.engine.tick()
    assert bench.core.counts_by_kind["open_holds"] == 1
    bench.settle()
    assert bench.log.group == groups + 1
    assert bench.log.groups[-1][0].position_count == 1
    assert len(bench.runner.wakes) == 2 and bench.runner.wakes[1][0] == 3 * NS_PER_S + 1
    assert bench.replayed() == bench.core.state_hash()


def test_a_wake_that_comes_early_asks_again_and_a_far_one_is_cut(bench):
    bench.transfers(Submitter(), hold(1, timeout=2), hold(2, timeout=10**6))
    bench.settle()
    bench.engine.tick()
    assert bench.engine.idle
    assert bench.runner.wakes[0] == bench.runner.wakes[1]
    bench.clock.ns += 3 * NS_PER_S
    bench.engine.tick()
    bench.settle()
    assert bench.runner.wakes[-1][0] == limits.WAKE_NS_MAX


def test_expiries_wait_while_there_is_no_space(bench):
    bench.transfers(Submitter(), hold(1, timeout=2))
    bench.settle()
    bench.clock.ns += 3 * NS_PER_S
    bench.log.full = "the disk is full"
    reader = Submitter()
    bench.lookup(reader, 1)
    assert len(reader.got) == 1
    bench.engine.tick()
    assert bench.engine.idle and bench.core.counts_by_kind["open_holds"] == 1
    assert bench.runner.wakes[-1] == (limits.REFUSED_RETRY_NS, bench.engine.tick)
    bench.log.full = None
    bench.engine.tick()
    bench.settle()
    assert bench.core.counts_by_kind["open_holds"] == 0


def test_more_expiries_than_a_group_holds_take_several(bench):
    for n in range(6):
        first = 1 + n * 8000
        events = [hold(id, amount=1, timeout=1) for id in range(first, first + 8000)]
        bench.transfers(Submitter(), *events)
        bench.settle()
    groups = bench.log.group
    bench.clock.ns += 2 * NS_PER_S
    bench.engine.tick()
    for _ in range(5):
        bench.settle()
        for _, callback in bench.runner.wakes[-1:]:
            callback()
    assert bench.core.counts_by_kind["open_holds"] == 0
    assert bench.log.group == groups + 2
    assert bench.replayed() == bench.core.state_hash()


# ---- the end -------------------------------------------------------------------------------------


def test_a_failed_append_stops_everybody_for_good(bench):
    first, second, refused, reader = Submitter(), Submitter(), Submitter(), Submitter()
    bench.transfers(first, pay(1))
    bench.runner.turn()
    bench.transfers(second, pay(2))
    bench.lookup(reader, 1)
    bench.engine.notify_after_group(refused)
    bench.log.fail = OSError(5, "Input/output error")
    bench.runner.sync()
    for submitter in (first, second, refused, reader):
        assert submitter.got == []
        assert [str(cause) for cause in submitter.causes] == [
            "the ledger has stopped: [Errno 5] Input/output error"
        ]
    assert bench.told == [bench.engine.cause]
    bench.log.fail = None
    for ask in (bench.transfers, bench.lookup):
        with pytest.raises(LedgerStopped, match="Input/output error") as stopped:
            ask(Submitter(), 1 if ask == bench.lookup else pay(9))
        assert stopped.value.cause is bench.engine.cause.cause
    groups = bench.log.group
    bench.engine.flush()
    bench.engine.tick()
    bench.runner.turn()
    assert bench.runner.jobs == [] and bench.log.group == groups
    assert bench.told == [bench.engine.cause], "told once"


def test_the_error_of_a_stopped_engine_does_not_grow(bench):
    bench.transfers(Submitter(), pay(1))
    bench.runner.turn()
    bench.log.fail = OSError(5, "Input/output error")
    bench.runner.sync()
    depths = []
    for _ in range(20):
        try:
            bench.lookup(Submitter(), 1)
        except LedgerStopped as error:
            depth, at = 0, error.__traceback__
            while at is not None:
                depth, at = depth + 1, at.tb_next
            depths.append(depth)
    assert len(set(depths)) == 1


def test_a_log_that_gives_a_group_another_number_stops_the_engine(bench):
    submitter = Submitter()
    bench.transfers(submitter, pay(1))
    bench.runner.turn()
    bench.log.append = lambda expected, group: 99
    bench.runner.sync()
    assert submitter.got == [] and len(submitter.causes) == 1


def test_an_append_that_ends_after_the_engine_stopped_releases_nothing(bench):
    submitter = Submitter()
    bench.transfers(submitter, pay(1))
    bench.runner.turn()
    told = bench.runner.write()
    bench.engine._fail(MemoryError())
    told()
    assert submitter.got == [] and len(submitter.causes) == 1


@pytest.mark.parametrize("stage", ["applied", "encoded", "appended", "released"])
def test_a_failpoint_stops_the_engine_at_its_stage(stage):
    # Passes of each stage: the start record 1 (not applied), the accounts 2, the transfer.
    nth = 2 if stage == "applied" else 3
    bench = Bench(failpoint=failpoint(f"{stage}:raise:{nth}"))
    bench.accounts(Submitter(), account(1), account(2))
    bench.settle()
    submitter, other = Submitter(), Submitter()
    bench.engine.notify_after_group(other)
    if stage == "applied":
        with pytest.raises(LedgerStopped):
            bench.transfers(submitter, pay(1))
    else:
        bench.transfers(submitter, pay(1))
        bench.settle()
    assert isinstance(bench.engine.cause.cause, FailpointReached)
    assert bench.log.group == {"applied": 2, "encoded": 2, "appended": 3, "released": 3}[stage]
    assert len(submitter.got) == (stage == "released")
    assert len(submitter.causes) == (stage in ("encoded", "appended"))
    assert len(other.causes) == 1
    with pytest.raises(LedgerStopped):
        bench.lookup(submitter, 1)


def test_an_asker_that_breaks_leaves_nobody_waiting(bench):
    submitters = [Submitter() for _ in range(4)]
    for n, submitter in enumerate(submitters, 1):
        bench.transfers(submitter, pay(n))
    submitters[1].fail = RuntimeError("broken")
    bench.settle()
    assert [len(submitter.got) for submitter in submitters] == [1, 0, 0, 0]
    assert [len(submitter.causes) for submitter in submitters] == [0, 1, 1, 1]


def test_an_asker_that_cannot_take_stops_the_engine_that_already_executed(bench):
    submitter = Submitter()
    submitter.take = lambda engine, made: (_ for _ in ()).throw(MemoryError("no buffer"))
    with pytest.raises(LedgerStopped, match="no buffer"):
        bench.transfers(submitter, pay(1))
    bench.settle()
    assert bench.core.counts_by_kind["transfers"] == 1
    assert bench.log.group == 2, "what nobody was told of is not made durable either"


def test_an_interrupt_inside_the_engine_stops_it_and_goes_through(bench):
    bench.log.room = lambda: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.transfers(Submitter(), pay(1))
    with pytest.raises(LedgerStopped):
        bench.lookup(Submitter(), 1)


# ---- together ------------------------------------------------------------------------------------


def test_two_engines_in_one_process_know_nothing_of_each_other():
    benches = [Bench(), Bench()]
    submitters = [Submitter(), Submitter()]
    for bench, submitter in zip(benches, submitters, strict=True):
        bench.accounts(submitter, account(1), account(2))
    for n in range(1, 50):
        for turn, (bench, submitter) in enumerate(zip(benches, submitters, strict=True)):
            bench.clock.ns += 1000
            bench.transfers(submitter, pay(n * (turn + 1), amount=n))
            if n % 7 == turn:
                bench.settle()
    benches[0].settle()
    assert [len(submitter.got) for submitter in submitters] != [50, 50], "the other one still waits"
    benches[1].log.fail = OSError(28, "No space left on device")
    benches[1].settle()
    assert benches[0].engine.cause is None and benches[1].engine.cause is not None
    assert len(submitters[0].got) == 50
    assert benches[0].replayed() == benches[0].core.state_hash()
    reader = Submitter()
    everything = AccountFilter(account_id=1, limit=U128_MAX % 2**32, flags=3)
    benches[0].submit(reader, (Operation.GET_ACCOUNT_TRANSFERS, [everything]))
    assert len(reader.got[0].payload) == 49 * 128


def test_a_run_goes_on_after_what_the_log_holds():
    bench = Bench()
    assert bench.log.group == 1 and bench.core.clock_ns == NOW
    assert bench.engine.durable_position == 1
    unstarted = Bench(started=False)
    submitter = Submitter()
    unstarted.lookup(submitter, 1)
    assert submitter.got == [], "the start record is not durable"
    unstarted.settle()
    assert len(submitter.got) == 1
