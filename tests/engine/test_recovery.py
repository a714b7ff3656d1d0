"""Recovery: a new book is made, an old one is verified and replayed, a damaged one is refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import ledger
from ledger.engine import assembly, recovery
from ledger.engine.clock import Clock
from ledger.facts import limits, schema
from ledger.facts.errors import ClockRefused, DataRefused, DirectoryInUse
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from tests.support.book_calls import account, pay, rows

DAY = 24 * 3600 * 10**9


def statement(account_id: int) -> schema.AccountFilter:
    return schema.AccountFilter(account_id=account_id, limit=8189, flags=3)


def filled(directory: Path) -> tuple[bytes, int]:
    """A book of about forty groups; the state hash of its core, and its position."""
    with ledger.open(directory) as book:
        book.create_accounts([account(1), account(2)])
        for id in range(1, 20):
            book.create_transfers([pay(id), pay(id + 100, flags=2, timeout=900), pay(0)])
            book.create_transfers([pay(id + 200, pending_id=id + 100, flags=4)])
        book.create_many(rows(range(1000, 20_000)))
        return book._engine.core.state_hash(), book._engine.core.position


def test_a_new_book_holds_one_group_and_a_stamp(tmp_path):
    before = time.time_ns()
    parts = recovery.recover(tmp_path / "book", 5)
    try:
        assert (parts.journal.cluster, parts.journal.group, parts.journal.position) == (5, 1, 1)
        assert parts.core.position == 1 and parts.core.group == 2
        assert before <= parts.core.clock_ns <= time.time_ns()
        stamp = parts.checkpoint.read()
        assert (stamp.group, stamp.position) == (1, 1)
        assert parts.warnings == [] or "disk" in parts.warnings[0]
    finally:
        parts.close()


def test_replay_ends_in_the_state_that_was_and_says_how_far_it_is(tmp_path):
    state, position = filled(tmp_path / "book")
    seen = []
    for _ in range(2):
        parts = recovery.recover(tmp_path / "book", progress=lambda *at: seen.append(at))
        try:
            assert parts.core.state_hash() == state
            assert parts.core.position == parts.journal.position == position
            assert parts.core.group == parts.journal.group + 1
            assert parts.core.group_records == 0, "recovery writes nothing"
        finally:
            parts.close()
    groups = len(seen) // 2
    assert seen[:groups] == [(n, groups) for n in range(1, groups + 1)]


@pytest.mark.parametrize("part", range(5))
def test_a_flipped_bit_of_a_payment_is_refused_and_everything_is_let_go(tmp_path, part):
    directory = tmp_path / "book"
    filled(directory)
    parts = recovery.recover(directory)
    file = next(path for path in sorted(directory.rglob("data.mdb")) if path.stat().st_size > 10**6)
    content = file.read_bytes()
    parts.close()
    # Somewhere in the body of a group: where a payment of a known id lies.
    place = content.find(rows([5000 + part * 3000]).tobytes()[:64])
    assert place > 0
    with file.open("r+b") as damaged:
        damaged.seek(place + 48)
        damaged.write(b"\x02")
    with pytest.raises(DataRefused, match=r"group \d+ .*check"):
        recovery.recover(directory)
    # The lock was let go: the same error again, and a mended file opens.
    with pytest.raises(DataRefused):
        recovery.recover(directory)
    file.write_bytes(content)
    recovery.recover(directory).close()


def test_a_journal_older_than_its_stamp_is_refused(tmp_path):
    directory = tmp_path / "book"
    ledger.open(directory).close()
    stamped = Checkpoint(directory)
    stamped.write(0, 99, 1000, bytes(32))
    stamped.close()
    with pytest.raises(DataRefused) as refused:
        recovery.recover(directory)
    assert "1000" in str(refused.value)


def test_another_cluster_and_a_book_in_use_are_refused(tmp_path):
    directory = tmp_path / "book"
    parts = recovery.recover(directory, 5)
    with pytest.raises(DirectoryInUse):
        recovery.recover(directory, 5)
    parts.close()
    with pytest.raises(DataRefused, match="cluster"):
        recovery.recover(directory, 6)
    parts = recovery.recover(directory)
    assert parts.journal.cluster == 5, "none asked for: the one that is there"
    parts.close()


def test_a_clock_far_ahead_is_refused_unless_it_is_accepted(tmp_path, monkeypatch):
    directory = tmp_path / "book"
    ledger.open(directory).close()
    wall = time.time_ns

    def year_ahead() -> Clock:
        return Clock(wall=lambda: wall() + 365 * DAY)

    monkeypatch.setattr(recovery, "Clock", year_ahead)
    with pytest.raises(ClockRefused, match="--accept-clock"):
        recovery.recover(directory)
    parts = recovery.recover(directory, accept_clock=True)
    assert any("days ahead" in warning for warning in parts.warnings)
    parts.close()


def test_a_clock_that_is_behind_goes_on_from_the_journal(tmp_path, monkeypatch):
    directory = tmp_path / "book"
    filled(directory)
    wall = time.time_ns
    monkeypatch.setattr(recovery, "Clock", lambda: Clock(wall=lambda: wall() - DAY))
    with ledger.open(directory) as book:
        assert any("behind" in warning for warning in book.warnings)
        last = book._engine.core.clock_ns
        found = book.create_transfers([pay(10**6)])
        assert found["timestamp"][0] > last > wall() - DAY // 2


def test_a_creation_that_was_cut_short_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    directory = tmp_path / "book"

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "create", cut)
    with pytest.raises(KeyboardInterrupt):
        recovery.recover(directory)
    monkeypatch.undo()
    assert not Journal.exists(directory)
    recovery.recover(directory).close()
    assert Journal.exists(directory)


def test_the_hash_key_differs_from_one_opening_to_the_next_and_nothing_else(tmp_path):
    cores = [assembly.new_core()[0] for _ in range(2)]
    assert cores[0].state_hash() == cores[1].state_hash()
    assert np.array_equal(cores[0].open_holds(), cores[1].open_holds())


def test_what_is_derived_is_made_again_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed beside the work with merges under way, or from the journal at once: one history."""
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 40)
    directory = tmp_path / "book"
    with ledger.open(directory, 5) as book:
        accounts = np.zeros(3, schema.ACCOUNT)
        accounts["id"][:, 0], accounts["ledger"], accounts["code"] = (1, 2, 3), 1, 1
        accounts["flags"] = schema.AccountFlags.HISTORY
        book.create_accounts(accounts)
        for first in range(100, 1100, 50):
            transfers = np.zeros(50, schema.TRANSFER)
            transfers["id"][:, 0] = range(first, first + 50)
            transfers["debit_account_id"][:, 0], transfers["credit_account_id"][:, 0] = 1, 2
            transfers["amount"][:, 0], transfers["ledger"], transfers["code"] = first, 1, 1
            book.create_transfers(transfers)
        live = book.state_hash()
    state = directory / "state"
    parts = recovery.recover(directory, 5)
    before = parts.history.digest()
    assert parts.history.group > 0
    parts.close()
    rebuilt = recovery.rebuild(directory)
    assert rebuilt.history_hash == before.hex()
    assert rebuilt.segments < 20
    again = recovery.rebuild(directory)
    assert again == rebuilt
    # A checkpoint and its segments, or nothing: the book is the same.
    with ledger.open(directory, 5) as book:
        assert book.lookup_transfers([100, 1099])["amount"][:, 0].tolist() == [100, 1050]
    for path in state.glob("segment-*"):
        path.unlink()
    with ledger.open(directory, 5) as book:
        assert len(book.lookup_transfers(list(range(100, 1100)))) == 1000
    assert live != b""


@pytest.mark.parametrize("window_events", [7, 55, 1000])
def test_what_was_cut_elsewhere_is_sealed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_events: int
) -> None:
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 40)
    with ledger.open(tmp_path / "book") as book:
        book.create_accounts([account(1), account(2)])
        for id in range(1000, 2000, 30):
            book.create_transfers(rows(range(id, id + 30)))
    monkeypatch.setattr(limits, "WINDOW_EVENTS", window_events)
    with ledger.open(tmp_path / "book") as book:
        found = book.get_account_transfers(statement(1))
        assert found["id"][:, 0].tolist() == list(range(1000, 2020))
        book.create_transfers(rows(range(5000, 5100)))
    with ledger.open(tmp_path / "book") as book:
        assert len(book.get_account_transfers(statement(1))) == 1120
