"""What works beside the order, moved by hand: windows sealed, checkpoints, cold answers.

A real journal and real column files; the disk under them fails when it is told to. Windows are four
transfers, so every few payments reach the sealed past.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from chaos.altered import altered
from chaos.model import NS_PER_S
from chaos.process import Server
from ledger.engine import recovery
from ledger.engine.checkpointer import decode_numbers, encode_numbers
from ledger.facts import limits, schema
from ledger.facts.errors import ColumnDamaged, DataRefused, LedgerStopped
from ledger.facts.schema import Operation
from ledger.history import segments
from tests.support import book_calls
from tests.support.core_book import account, hold, pay
from tests.support.engine_parts import Submitter
from tests.support.raw import ids, transfers, with_accounts
from tests.support.sealing_parts import (
    CREATED,
    WINDOW,
    Client,
    Sealing,
    flip,
    flip_payment,
    lookup,
    made,
    paid,
    statement,
    statuses,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW_EVENTS", WINDOW)
    monkeypatch.setattr(limits, "COLD_REQUESTS_MAX", 2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Sealing]:
    bench = Sealing(tmp_path / "book")
    bench.accounts(Submitter(), account(1), account(2))
    bench.rest()
    yield bench
    bench.close()


# ---- windows ------------------------------------------------------------------------------------


def test_a_window_is_sealed_once_its_last_group_is_durable(bench: Sealing) -> None:
    bench.transfers(Submitter(), *(pay(id) for id in paid(100)))
    assert bench.core.memtables == [], "its group is still open"
    bench.runner.turn()
    assert len(bench.core.memtables) == 1 and bench.waiting("seal") == 0
    bench.runner.sync()
    assert bench.waiting("seal") == 1
    bench.runner.finish("seal")
    assert bench.core.memtables == [] and bench.history.covers(bench.journal.group)
    looked = lookup(bench, 102)
    bench.rest()
    assert looked.ids() == [102]


def test_a_full_window_behind_three_closed_ones_waits_for_a_drop(bench: Sealing) -> None:
    bench.transfers(Submitter(), hold(50, timeout=1))
    for first in (100, 200, 300):
        bench.window(first)
        assert not bench.keeper.full
    bench.window(400)
    assert bench.keeper.full and len(bench.core.memtables) == 3
    group = bench.journal.group
    payer = Client(bench, (Operation.CREATE_TRANSFERS, [pay(500)]))
    reader = Client(bench, (Operation.LOOKUP_ACCOUNTS, [1]))
    bench.clock.ns += 2 * NS_PER_S
    bench.engine.tick()
    bench.settle()
    assert not payer.taken and not reader.taken, "a read, too, needs a group that it saw"
    assert (bench.journal.group, payer.resumed) == (group, 0)
    assert bench.runner.wakes[-1] == (limits.REFUSED_RETRY_NS, bench.engine.tick)
    bench.runner.finish("seal")
    assert payer.taken and reader.taken and not bench.keeper.full
    bench.settle()
    assert statuses(payer) == [CREATED] and len(bench.core.open_holds()) == 0
    assert bench.waiting("seal") == 1, "the next is being sealed"
    bench.rest()
    read = statement(bench)
    bench.rest()
    assert read.ids() == [50, *paid(100, 200, 300, 400), 500]


def test_more_than_memory_takes_goes_on_window_after_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One submitter's burst ends group after group, so the windows fill while it is submitted."""
    monkeypatch.setattr(limits, "GROUP_BYTES_MAX", 8 * 1024)
    bench = Sealing(tmp_path / "book")
    bench.accounts(Submitter(), account(1), account(2))
    bench.settle()
    wanted = range(1000, 1200)
    client = Client(
        bench, *((Operation.CREATE_TRANSFERS, [pay(id), pay(id + 500)]) for id in wanted)
    )
    for _ in range(20):
        bench.settle()
    assert bench.keeper.full and not client.taken and bench.engine.idle
    bench.rest()
    assert client.taken and statuses(client) == [CREATED] * 400
    read = statement(bench)
    bench.rest()
    assert sorted(read.ids()) == [*wanted, *(id + 500 for id in wanted)]
    bench.close()


@pytest.mark.parametrize("lane", ["seal", "merge"])
def test_what_finds_no_space_is_tried_again(
    bench: Sealing, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MERGED_AT_ONCE", 2)
    bench.window(100)
    bench.history.fail[lane] = errno.ENOSPC
    bench.rest()
    assert bench.engine.cause is None and bench.history.fail == {}
    if lane == "seal":
        assert len(bench.core.memtables) == 1, "it stays in memory"
        [(delay_ns, again)] = bench.runner.laters
        assert (delay_ns, bench.waiting("seal")) == (limits.REFUSED_RETRY_NS, 0)
        again()
        bench.rest()
    bench.windows(200)
    assert [file.windows for file in bench.history.segments] == [2]
    assert [name[:8] for name in made(bench.directory)] == ["segment-"]
    read = statement(bench)
    bench.rest()
    assert read.ids() == paid(100, 200)


@pytest.mark.parametrize("step", ["seal", "merge", "open", "append", "commit"])
def test_another_error_of_the_disk_stops_the_engine(
    bench: Sealing, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told; after a restart nothing is missing."""
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    bench.windows(100)
    hash_before = bench.core.state_hash()
    clients = [lookup(bench, id) for id in paid(100)[:3]]
    assert bench.waiting("past") == 2, "the third is behind them"
    answered = []
    if step == "seal":  # what comes after a drop comes after all answers
        answered = bench.runner.lanes.pop("past")
    bench.window(200)
    bench.history.fail[step] = errno.EIO
    bench.rest()
    [cause] = bench.told
    assert isinstance(cause.cause, OSError) and cause.cause.errno == errno.EIO
    assert cause.exit_code == limits.Exit.IO_ERROR
    bench.runner.lanes["past"] = answered
    bench.rest()
    if step == "seal":
        assert [client.causes for client in clients] == [[cause]] * 3
        assert [client.resumed for client in clients] == [0] * 3, "nothing is answered any more"
    with pytest.raises(LedgerStopped):
        lookup(bench, 1)
    again = bench.again()
    assert again.core.state_hash() != hash_before
    read = statement(again)
    again.rest()
    assert read.ids() == paid(100, 200)
    again.close()


def test_a_window_sealed_during_a_merge_is_looked_at_afterwards(
    bench: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MERGED_AT_ONCE", 2)
    bench.window(100)
    bench.runner.finish("seal")
    bench.window(200)
    assert bench.waiting("merge") == bench.waiting("seal") == 1

    def seal_meanwhile() -> None:
        bench.history.in_merge = None
        bench.runner.finish("seal")

    bench.history.in_merge = seal_meanwhile
    bench.rest()
    assert [file.windows for file in bench.history.segments] == [2]


# ---- requests that need the sealed past ---------------------------------------------------------


def test_few_are_answered_at_once_and_all_in_turn(bench: Sealing) -> None:
    bench.windows(100, 200)
    wanted = paid(100, 200)
    clients = [lookup(bench, id, 1000 + id) for id in wanted]
    order = []
    while bench.waiting("past"):
        assert bench.waiting("past") <= limits.COLD_REQUESTS_MAX
        bench.runner.finish("past")
        order += [client for client in clients if client.got and client not in order]
    assert order == clients and [client.ids() for client in clients] == [[id] for id in wanted]
    assert all(client.resumed <= 2 for client in clients)


def test_a_drop_waits_for_who_is_being_answered(bench: Sealing) -> None:
    """So no answer is thrown away, however often windows are sealed; who asks meanwhile waits."""
    bench.windows(100)
    bench.window(200)
    read = statement(bench)
    answered = bench.runner.work("reads")  # it knows the first window alone
    bench.runner.finish("seal")
    later = statement(bench)
    assert len(bench.core.memtables) == 1 and bench.waiting("reads") == 0
    answered()
    assert read.resumed == 1 and read.ids() == paid(100, 200)
    assert len(bench.core.memtables) == 0 and later.resumed == 1
    bench.rest()
    assert later.ids() == paid(100, 200)


def test_payments_wait_for_a_slow_answer_once_at_the_most(bench: Sealing) -> None:
    """The first is overtaken by the drop that they wait for; the second is what a drop waits for.
    """
    bench.windows(100)
    read = statement(bench)
    answered = bench.runner.work("reads")
    for first in (200, 300, 400, 500):
        bench.window(first)
    payer = Client(bench, (Operation.CREATE_TRANSFERS, [pay(600)]))
    assert bench.keeper.full and not payer.taken
    bench.runner.finish("seal")
    assert payer.taken and read.resumed == 0
    bench.settle()
    answered()
    assert read.resumed == 1 and read.got == [] and bench.waiting("reads") == 1
    bench.window(700)
    assert bench.keeper.full and len(bench.core.memtables) == 3
    behind = Client(bench, (Operation.CREATE_TRANSFERS, [pay(800)]))
    bench.runner.finish("seal")
    assert bench.keeper.full and not behind.taken
    bench.runner.finish("reads")
    assert behind.taken and not bench.keeper.full
    bench.settle()
    assert read.ids() == [*paid(100, 200, 300, 400, 500), 600, *paid(700)]
    again = statement(bench)
    bench.rest()
    assert again.ids() == [*read.ids(), 800]


def test_windows_that_close_during_a_long_answer_are_sealed_and_dropped_together(
    bench: Sealing,
) -> None:
    bench.windows(100)
    read = statement(bench)
    for first in (200, 300):
        bench.window(first)
        bench.runner.finish("seal")
    assert len(bench.core.memtables) == 2 and bench.waiting("seal") == 0
    assert len(made(bench.directory)) == 3, "both are written, and seen by nobody"
    bench.runner.finish("reads")
    assert bench.core.memtables == [] and bench.history.group == bench.journal.group
    assert read.ids() == paid(100, 200, 300)
    read = statement(bench)
    bench.rest()
    assert read.ids() == paid(100, 200, 300)
    with pytest.raises(ValueError, match="no closed memtable begins with group 7"):
        bench.core.memtable_columns(bytes(16), 7)


def test_a_payment_does_not_wait_behind_a_statement(bench: Sealing) -> None:
    """Whose id the past must be asked for, and which is one of few."""
    bench.windows(100)
    read = statement(bench)
    many = [pay(5000 + n) for n in range(limits.COLD_LITTLE_MAX)]
    payer = Client(bench, (Operation.CREATE_TRANSFERS, [pay(101), *many]))
    assert (bench.waiting("reads"), bench.waiting("past")) == (1, 1)
    bench.runner.finish("past")
    assert payer.taken and read.got == []
    again = [pay(id) for id in paid(100)] * limits.COLD_LITTLE_MAX
    Client(bench, (Operation.CREATE_TRANSFERS, again))
    assert (bench.waiting("reads"), bench.waiting("past")) == (2, 0), "many are no little"
    bench.rest()
    assert read.ids() == [*paid(100), *range(5000, 5000 + len(many))]


def test_a_segment_that_is_written_is_not_seen_before_the_drop(bench: Sealing) -> None:
    """In memory and in the file at once: nothing comes twice, and nothing is missing."""
    bench.windows(100)
    bench.window(200)
    dropped = bench.runner.work("seal")
    assert len(made(bench.directory)) == 2 and len(bench.core.memtables) == 1
    read = statement(bench)
    bench.runner.finish("reads")
    assert read.ids() == paid(100, 200)
    dropped()
    read = statement(bench)
    bench.rest()
    assert read.ids() == paid(100, 200)
    # A restart in between takes it from the file.
    bench.window(300)
    bench.runner.work("seal")
    again = bench.again()
    assert again.history.group == again.core.group_first - 1
    read = statement(again)
    again.rest()
    assert read.ids() == paid(100, 200, 300)
    again.close()


def test_a_payment_waits_for_what_the_past_knows_of_its_id(bench: Sealing) -> None:
    bench.windows(100, 200)
    client = Client(bench, (Operation.CREATE_TRANSFERS, [pay(101), pay(900), pay(203, amount=9)]))
    behind = Client(bench, (Operation.CREATE_TRANSFERS, [pay(901)]))
    bench.settle()
    assert not client.taken and behind.taken, "who needs nothing goes on"
    bench.rest()
    codes = schema.TransferStatus
    assert statuses(client) == [codes.EXISTS, CREATED, codes.EXISTS_WITH_DIFFERENT_AMOUNT]


def test_who_is_forgotten_is_not_resumed_and_still_counts(bench: Sealing) -> None:
    """What a peer that left had asked is under way until it is answered."""
    bench.windows(100)
    left = [lookup(bench, id) for id in paid(100)]
    for client in left:
        bench.engine.forget(client)
    others = [lookup(bench, id) for id in paid(100)]
    assert bench.waiting("past") == limits.COLD_REQUESTS_MAX
    bench.engine.forget(others[1])
    back = left[0]
    back.ask()
    assert bench.waiting("past") == limits.COLD_REQUESTS_MAX
    bench.rest()
    assert [client.resumed for client in left[1:]] == [0] * 3
    assert [bool(client.got) for client in others] == [True, False, True, True]
    assert back.ids() == [100]


def test_who_finds_it_attached_leaves_its_place_to_the_next(bench: Sealing) -> None:
    bench.windows(100, 200)
    herd = [lookup(bench, 101) for _ in range(50)]
    bench.rest()
    assert [client.ids() for client in herd] == [[101]] * 50
    assert max(client.resumed for client in herd) == 1


def test_who_wants_something_else_is_not_forgotten_behind_a_herd(bench: Sealing) -> None:
    bench.windows(100, 200)
    wanted = [101 if n % 5 else paid(100, 200)[n // 5 % 8] for n in range(60)]
    herd = [lookup(bench, id) for id in wanted]
    payers = [Client(bench, (Operation.CREATE_TRANSFERS, [pay(203)])) for _ in range(9)]
    read = statement(bench)
    bench.rest()
    assert [client.ids() for client in herd] == [[id] for id in wanted]
    assert [statuses(client) for client in payers] == [[schema.TransferStatus.EXISTS]] * 9
    assert read.ids() == paid(100, 200)


def test_a_window_dropped_before_a_herd_is_answered_loses_nobody(bench: Sealing) -> None:
    bench.windows(100, 200)
    herd = [lookup(bench, 101) for _ in range(20)]
    bench.window(300)
    bench.runner.finish("seal")
    herd += [lookup(bench, id) for id in paid(200, 300) * 3]
    bench.rest()
    assert [len(client.got) for client in herd] == [1] * len(herd)


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("finder", ["past", "merge"])
def test_a_damaged_column_file_stops_the_engine_and_a_start_makes_it_again(
    bench: Sealing, finder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MERGED_AT_ONCE", 2 if finder == "merge" else 8)
    bench.windows(100)
    digest = bench.history.digest()
    [name] = made(bench.directory)
    flip(bench.directory / "state" / name, 4096 + 9)
    client = None
    if finder == "past":
        client = lookup(bench, 101)
    else:
        bench.window(200)
    bench.rest()
    [cause] = bench.told
    assert isinstance(cause.cause, ColumnDamaged) and name in str(cause.cause)
    assert cause.exit_code == limits.Exit.DATA_REFUSED
    assert f"{name}.damaged" in made(bench.directory) and name not in made(bench.directory)
    if client is not None:
        assert client.causes == [cause] and client.got == [], "damaged data is never served"
    bench.close()
    parts = recovery.recover(bench.directory, accept_clock=True)
    if finder == "past":
        assert parts.history.digest() == digest
    assert set(made(bench.directory)) >= {name, f"{name}.damaged"}
    parts.close()
    again = Sealing(bench.directory)
    read = lookup(again, 101)
    again.rest()
    assert read.ids() == [101]
    again.close()


def test_damage_of_the_journal_is_told_to_who_needs_it_alone(bench: Sealing) -> None:
    bench.windows(100, 200)
    flip_payment(bench.directory, 101)
    clients = [lookup(bench, id) for id in (101, 201, 100, 203)]
    bench.rest()
    assert bench.engine.cause is None and bench.told == []
    hurt, *others = clients
    assert hurt.got == [] and hurt.resumed == 0
    [why] = hurt.refusals
    assert isinstance(why, DataRefused) and "group" in str(why)
    # Of the same group, and so of the same block.
    assert len(others[1].refusals) == 1
    assert others[0].ids() == [201] and others[2].ids() == [203]
    payer = Client(bench, (Operation.CREATE_TRANSFERS, [pay(900)]))
    bench.rest()
    assert statuses(payer) == [CREATED]


def test_a_book_refuses_the_call_that_needs_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start from a checkpoint does not read what is before it."""
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 40)
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    directory = tmp_path / "book"
    with ledger.open(directory) as book:
        book.create_accounts([book_calls.account(1), book_calls.account(2)])
        for first in range(1000, 2000, 50):
            book.create_transfers(book_calls.rows(range(first, first + 50)))
    recovery.rebuild(directory)
    flip_payment(directory, 1100)
    with ledger.open(directory) as book:
        for _ in range(2):
            with pytest.raises(DataRefused, match=r"group \d+"):
                book.lookup_transfers([1100])
            with pytest.raises(DataRefused, match=r"group \d+"):
                book.create_transfers(book_calls.rows([1100]))
            with pytest.raises(DataRefused, match=r"group \d+"):
                book.get_account_transfers(schema.AccountFilter(account_id=1, limit=200, flags=3))
        assert len(book.lookup_transfers([1000, 1999])) == 2
        assert book.create_transfers(book_calls.rows([5000]))["status"].tolist() == [CREATED]


def test_a_server_leaves_the_request_that_needs_it_unanswered(
    server: Callable[..., Server], tmp_path: Path
) -> None:
    directory = tmp_path / "served"
    running = server(directory, env=altered(tmp_path, WINDOW_EVENTS=40))
    peer, session = with_accounts(running.address)
    for first in range(1000, 1500, 50):
        session.ask(peer, Operation.CREATE_TRANSFERS, transfers(first, 50))
    flip_payment(directory, 1100)
    with peer:
        # Both come in one segment: the one that is not answered does not hold up the next.
        asked = session.request_frame(Operation.LOOKUP_TRANSFERS, ids(1100))
        peer.send(asked + session.request_frame(Operation.LOOKUP_TRANSFERS, ids(1000)))
        assert session.results(peer.frame())["id"][:, 0].tolist() == [1000]
        line = running.wait_line("not answered")
        assert "group" in line and "check failed" in line
        paid = session.ask(peer, Operation.CREATE_TRANSFERS, transfers(9000, 1))
        assert paid["status"].tolist() == [CREATED]
    assert running.terminate() == 0


# ---- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at each window, written in many steps."""
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    monkeypatch.setattr(limits, "CHECKPOINT_STEP_BYTES", 512)


@pytest.mark.usefixtures("often")
def test_a_checkpoint_is_of_one_moment_and_a_start_goes_on_from_it(bench: Sealing) -> None:
    """Accounts and holds change between its steps."""
    bench.accounts(Submitter(), *(account(id) for id in range(10, 30)))
    bench.transfers(Submitter(), *(hold(50 + n, credit_account_id=10 + n) for n in range(3)))
    bench.settle()
    bench.transfers(Submitter(), pay(60))
    bench.settle()
    taken_after = bench.journal.group
    assert bench.waiting("checkpoint") == 0, "not before all up to there is sealed"
    bench.runner.finish("seal")
    steps = 0
    while bench.waiting("checkpoint"):
        bench.runner.finish("checkpoint")
        steps += 1
        bench.transfers(Submitter(), pay(200 + steps, debit_account_id=10 + steps))
        bench.settle()
    assert steps > 5
    checkpoint = bench.history.checkpoint
    assert checkpoint is not None and checkpoint.group_last == taken_after
    live = bench.core.state_hash()
    again = bench.again()
    assert again.restored == taken_after and again.found == live
    again.close()


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("step", ["open", "append", "commit"])
def test_a_checkpoint_without_space_is_given_up_and_the_next_one_is_written(
    bench: Sealing, step: str
) -> None:
    bench.windows(100)
    first = bench.history.checkpoint
    assert first is not None
    bench.history.fail[step] = errno.ENOSPC
    bench.windows(200)
    assert bench.engine.cause is None and bench.history.fail == {}
    assert bench.history.checkpoint is first, "the one before is as good"
    assert [name for name in made(bench.directory) if name.endswith(".creating")] == []
    again = bench.again()
    assert again.restored == first.group_last
    again.windows(300)
    second = again.history.checkpoint
    assert second is not None and second.group_last > first.group_last
    assert len([name for name in made(bench.directory) if name.startswith("checkpoint")]) == 1
    live = again.core.state_hash()
    last = again.again()
    assert (last.restored, last.found) == (second.group_last, live)
    last.close()


@pytest.mark.usefixtures("often")
def test_after_a_checkpoint_given_up_the_same_engine_writes_the_next(bench: Sealing) -> None:
    bench.history.fail["append"] = errno.ENOSPC
    bench.windows(100)
    assert bench.history.checkpoint is None
    bench.windows(200)
    assert bench.history.checkpoint is not None
    assert bench.history.checkpoint.group_last == bench.journal.group


def test_a_checkpoint_waits_until_it_is_worth_it(
    bench: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sooner than after so many windows, nor before as much was journaled as it writes."""
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 3)
    bench.windows(100, 200)
    assert bench.history.checkpoint is None
    bench.windows(300)
    first = bench.history.checkpoint
    assert first is not None
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES_A_WINDOW", 100)  # two accounts are 256
    bench.windows(400, 500)
    assert bench.history.checkpoint is first
    bench.windows(600)
    second = bench.history.checkpoint
    assert second is not None and second.group_last == bench.journal.group


def test_the_numbers_of_a_checkpoint_are_its_facts() -> None:
    numbers = {
        "group": 7, "position": 2**64 - 1, "clock": 3, "account_timestamp_max": 4,
        "transfer_timestamp_max": 5, "transfer_count": 6, "burned_count": 7,
        "burned_hash": bytes(range(16)),
    }  # fmt: skip
    assert decode_numbers(encode_numbers(numbers)) == numbers
    for facts in (b"", b"{}", encode_numbers(numbers | {"group": "seven"})):
        with pytest.raises(DataRefused, match="checkpoint"):
            decode_numbers(facts)
