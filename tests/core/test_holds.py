"""Holds: posts, voids, expiry, and accounts that close and open again.

RULES says how to break each rule of a post of hold 1; of two broken rules the first of the table is
answered. A hold ends once: posted in whole or in part, voided, or expired at its deadline.
"""

import random
from itertools import combinations

import pytest

from chaos.model import NS_PER_S, U128_MAX, AccountFlag
from tests.support.core_book import (
    CREATED,
    NOW,
    ORDER,
    Book,
    F,
    account,
    broken,
    hold,
    imported,
    linked,
    pay,
    post,
    void,
)

pytestmark = pytest.mark.usefixtures("windows")

# What to change in post(id, 1); hold 1 is open. Transfer 2 is a payment, hold 3 posted, 4 voided,
# 5 expired; 6 closes its debit account, 7 its credit account; 8 burned.
RULES = {
    "linked_event_chain_open": {"flags": F.linked},
    "reserved_flag": {"flags": 1 << 15},
    "id_already_failed": {"id": 8},
    "flags_are_mutually_exclusive": {"flags": F.pending},
    "pending_id_must_not_be_zero": {"pending_id": 0},
    "pending_id_must_not_be_int_max": {"pending_id": U128_MAX},
    "timeout_reserved_for_pending_transfer": {"timeout": 1},
    "pending_transfer_not_found": {"pending_id": 77},
    "pending_transfer_not_pending": {"pending_id": 2},
    "pending_transfer_has_different_debit_account_id": {"debit_account_id": 3},
    "pending_transfer_has_different_credit_account_id": {"credit_account_id": 3},
    "pending_transfer_has_different_ledger": {"ledger": 2},
    "pending_transfer_has_different_code": {"code": 2},
    "exceeds_pending_transfer_amount": {"amount": 11},
    "pending_transfer_has_different_amount": {"flags": F.void_pending, "amount": 9},
    "pending_transfer_already_posted": {"pending_id": 3},
    "pending_transfer_already_voided": {"pending_id": 4},
    "pending_transfer_expired": {"pending_id": 5},
    "debit_account_already_closed": {"pending_id": 6},
    "credit_account_already_closed": {"pending_id": 7},
    "pending_id_must_be_different": {},  # needs the event's own id
}
VOID_ONLY = {"pending_transfer_has_different_amount"}


def furnished():
    book = Book()
    assert book.accounts(account(5), account(6)) == [CREATED] * 2
    assert book.transfers(
        hold(1), pay(2), hold(3), hold(4), hold(5, timeout=1),
        hold(6, debit_account_id=5, flags=F.pending | F.closing_debit),
        hold(7, credit_account_id=6, flags=F.pending | F.closing_credit),
        pay(8, debit_account_id=77), post(9, 3), void(10, 4),
    ) == [CREATED] * 7 + ["debit_account_not_found"] + [CREATED] * 2  # fmt: skip
    book.wait(2)
    return book


def attempt(id, *names):
    """A post of hold 1, or a void of it where only a void can break the rule."""
    base = void(id, 1) if VOID_ONLY & set(names) else post(id, 1)
    event = broken(base, *(RULES[name] for name in names))
    if event is not None and "pending_id_must_be_different" in names:
        event = None if event.pending_id != 1 else event._replace(pending_id=event.id)
    return event


@pytest.mark.parametrize("status", RULES)
def test_each_rule_by_itself(status):
    book = furnished()
    before = book.picture()
    assert book.transfers(attempt(50, status)) == [status]
    assert book.results[0].timestamp == book.timestamp
    assert book.picture() == before
    book.check()


def test_of_two_broken_rules_the_first_is_answered():
    book = furnished()
    assert book.transfers(pay(11)) == [CREATED]  # hold 5 expires now
    before = book.picture()
    for id, pair in enumerate(combinations(RULES, 2), 1000):
        event = attempt(id, *pair)
        if event is None or ("amount" in RULES[pair[0]] and "flags" in RULES[pair[1]]):
            continue
        expected = min(pair, key=ORDER.index)
        if event.flags & (F.post_pending | F.void_pending) == F.post_pending | F.void_pending:
            expected = min(expected, "flags_are_mutually_exclusive", key=ORDER.index)
        assert book.transfers(event) == [expected], pair
    assert book.picture() == before
    book.check()


@pytest.mark.parametrize(
    "flags",
    [F.pending, F.balancing_debit, F.balancing_credit, F.closing_debit, F.closing_credit,
     F.void_pending],
)  # fmt: skip
def test_a_post_is_nothing_else(flags):
    book = furnished()
    assert book.transfers(post(50, 1, flags=flags)) == ["flags_are_mutually_exclusive"]


@pytest.mark.parametrize(
    ("event", "posted"),
    [
        (post(2, 1), 10),
        (post(2, 1, 10), 10),
        (post(2, 1, 4), 4),
        (post(2, 1, 0), 0),
        (void(2, 1), 0),
        (void(2, 1, 10), 0),
        (post(2, 1, debit_account_id=1, credit_account_id=2, ledger=1, code=1), 10),
    ],
)
def test_a_hold_ends_and_all_of_it_leaves_the_pending_balances(event, posted):
    book = Book()
    fields = {"user_data_128": 2**100, "user_data_64": 2**50, "user_data_32": 2**20}
    assert book.transfers(hold(1, timeout=60, **fields), event) == [CREATED] * 2
    assert book.balances(1) == (0, posted, 0, 0)
    assert book.balances(2) == (0, 0, 0, posted)
    stored = book.transfer(2)
    asked = 10 if stored.flags & F.void_pending else posted
    assert stored == pay(2, amount=asked, pending_id=1, flags=event.flags,
                         timestamp=book.timestamp, **fields)  # fmt: skip
    assert book.core.open_holds().tolist() == []
    assert book.core.next_expiry_ns == 0
    book.check()


def test_a_post_may_carry_user_data_of_its_own():
    book = Book()
    assert book.transfers(hold(1, user_data_64=5, user_data_32=6), post(2, 1, user_data_64=7)) == [
        CREATED, CREATED,
    ]  # fmt: skip
    stored = book.transfer(2)
    assert (stored.user_data_64, stored.user_data_32) == (7, 6)


@pytest.mark.parametrize(
    ("made", "again", "status"),
    [
        (post(2, 1), post(2, 1, 10), "exists"),
        (post(2, 1, 10), post(2, 1), "exists"),
        (post(2, 1, 4), post(2, 1), "exists_with_different_amount"),
        (post(2, 1, 0), post(2, 1, 0), "exists"),
        (post(2, 1, 0), post(2, 1), "exists_with_different_amount"),
        (void(2, 1), void(2, 1, 10), "exists"),
        (void(2, 1, 10), void(2, 1), "exists"),
        (void(2, 1), void(2, 1, 1), "exists_with_different_amount"),
        (post(2, 1), void(2, 1), "exists_with_different_flags"),
        (post(2, 1), post(2, 3, timeout=1), "exists_with_different_pending_id"),
        (post(2, 1), post(2, 1, timeout=1), "exists_with_different_timeout"),
        (post(2, 1), post(2, 1, debit_account_id=1, credit_account_id=2), "exists"),
        (post(2, 1), post(2, 1, debit_account_id=3), "exists_with_different_debit_account_id"),
        (post(2, 1), post(2, 1, credit_account_id=3), "exists_with_different_credit_account_id"),
        (post(2, 1), post(2, 1, user_data_64=64), "exists"),
        (post(2, 1, user_data_64=64), post(2, 1), "exists"),
        (post(2, 1, user_data_64=5), post(2, 1), "exists_with_different_user_data_64"),
        (post(2, 1), post(2, 1, user_data_128=5), "exists_with_different_user_data_128"),
        (post(2, 1), post(2, 1, user_data_32=5), "exists_with_different_user_data_32"),
        (post(2, 1), post(2, 1, ledger=2), "exists_with_different_ledger"),
        (post(2, 1), post(2, 1, ledger=1, code=1), "exists"),
        (post(2, 1), post(2, 1, code=2), "exists_with_different_code"),
    ],
)
def test_a_post_sent_again_is_compared_with_what_it_did(made, again, status):
    book = Book()
    assert book.transfers(hold(1, user_data_64=64), made) == [CREATED, CREATED]
    made_at = book.timestamp
    assert book.transfers(again) == [status]
    assert book.results[0].timestamp == (made_at if status == "exists" else book.timestamp)


def test_an_imported_post_of_a_hold_with_a_deadline_takes_the_deadline_away():
    book = Book()
    assert book.transfers(hold(1, timeout=60)) == [CREATED]
    opened_at = book.timestamp
    book.wait(1)
    assert book.transfers(imported(post(2, 1), opened_at)) == [
        "imported_event_timestamp_must_not_regress"
    ]
    assert book.transfers(imported(post(2, 1), opened_at + 1)) == [CREATED]
    assert book.results[0].timestamp == opened_at + 1
    assert book.core.next_expiry_ns == 0
    book.check()


# ---- deadlines -----------------------------------------------------------------------------------


def test_a_deadline_binds_the_post_that_is_stamped_at_it():
    book = Book()
    assert book.transfers(hold(1, timeout=1), hold(2, timeout=1)) == [CREATED] * 2
    # Stamped one before and at the deadline of hold 2, which has not been run then.
    deadline = book.timestamp + NS_PER_S
    book.now = deadline - 4
    assert book.transfers(post(10, 2), pay(11), void(12, 1), post(13, 2)) == [
        CREATED, CREATED, "pending_transfer_expired", "pending_transfer_already_posted",
    ]  # fmt: skip
    assert book.results[2].timestamp == deadline - 1
    assert book.balances(1) == (0, 20, 0, 0)
    book.check()


def test_what_is_due_is_released_before_the_next_request_even_a_read():
    book = Book()
    assert book.transfers(hold(1, timeout=1), hold(2)) == [CREATED] * 2
    due = book.timestamp - 1 + NS_PER_S
    assert book.core.next_expiry_ns == due
    book.now = due - 1
    assert book.balances(1) == (20, 0, 0, 0)
    book.now = due
    assert book.balances(1) == (10, 0, 0, 0)
    assert book.core.clock_ns == due
    assert [row[1] for row in book.core.open_holds().tolist()] == [0]
    assert book.transfers(post(3, 1)) == ["pending_transfer_expired"]
    assert len(book.transfers_of(1)) == 2, "an expiry makes no transfer"
    book.check()


def test_holds_expire_by_deadline_then_age_each_with_a_stamp_of_its_own():
    book = Book()
    timeouts = [3, 1, 2, 1, 3, 2, 1]
    holds = [hold(n, timeout=timeout) for n, timeout in enumerate(timeouts, 1)]
    assert book.transfers(*holds) == [CREATED] * 7
    positions = {n: row[0] for n, row in enumerate(book.core.open_holds().tolist(), 1)}
    assert book.transfers(void(20, 4)) == [CREATED]
    book.wait(10)
    assert book.transfers(pay(21)) == [CREATED]
    book.driver.close_group()
    found = book.driver.expiries()
    assert [position for _, position in found] == [positions[n] for n in (2, 7, 3, 6, 1, 5)]
    assert [stamp for stamp, _ in found] == list(range(book.now - 5, book.now + 1))
    book.check()


def test_of_holds_with_one_deadline_the_oldest_expires_first():
    book = Book()
    book.wait(1)
    begin = book.now
    for n in range(12):
        book.now = begin + n * NS_PER_S
        assert book.transfers(hold(1 + n, timeout=20 - n)) == [CREATED]
        assert book.timestamp == book.now + 1
    assert {row[1] for row in book.core.open_holds().tolist()} == {begin + 1 + 20 * NS_PER_S}
    assert book.transfers(void(50, 3)) == [CREATED]
    positions = [row[0] for row in book.core.open_holds().tolist()]
    book.now = begin + 30 * NS_PER_S
    assert book.transfers(pay(51)) == [CREATED]
    book.driver.close_group()
    assert [position for _, position in book.driver.expiries()] == positions
    book.check()


@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_holds_opened_and_ended_expires_in_order(seed):
    """Against a list that is sorted anew: the next deadline after each step, then all of them."""
    draw = random.Random(seed)
    book = Book()
    ids = iter(range(100, 10**9))
    deadlines: dict[int, int] = {}
    for _ in range(60):
        opened = [hold(next(ids), timeout=draw.randrange(1, 10**6)) for _ in range(8)]
        ended = draw.sample(list(deadlines), min(len(deadlines), draw.choice((0, 3, 7))))
        events = opened + [void(next(ids), id) for id in ended]
        draw.shuffle(events)
        assert set(book.transfers(*events)) == {CREATED}
        for event, result in zip(events, book.results, strict=True):
            if event.flags & F.pending:
                deadlines[event.id] = result.timestamp + event.timeout * NS_PER_S
            else:
                del deadlines[event.pending_id]
        assert book.core.next_expiry_ns == min(deadlines.values())
    positions = dict(
        zip(deadlines, (row[0] for row in book.core.open_holds().tolist()), strict=True)
    )
    book.wait(2 * 10**6)
    assert book.transfers(pay(1)) == [CREATED]
    book.driver.close_group()
    in_order = sorted(deadlines, key=lambda id: (deadlines[id], id))
    assert [at for _, at in book.driver.expiries()] == [positions[id] for id in in_order]
    book.check()


def test_more_than_a_step_of_holds_expires_in_several_steps():
    book = Book()
    first = 8190 + 5
    for begin in range(0, first, 4000):
        ids = range(100 + begin, 100 + min(begin + 4000, first))
        assert set(book.transfers(*[hold(id, amount=1, timeout=1) for id in ids])) == {CREATED}
    book.wait(5)
    assert book.transfers(pay(1)) == [CREATED]
    book.driver.close_group()
    stamps = [stamp for stamp, _ in book.driver.expiries()]
    # A step of 8,190 ends at the clock, the next goes on after it.
    assert stamps == list(range(book.now - 8190 + 1, book.now + 1)) + [
        book.now + n for n in range(1, 6)
    ]
    assert book.results[0].timestamp == book.timestamp == book.now + 5 + 1 + 1
    assert book.balances(1) == (0, 10, 0, 0)
    assert book.core.counts_by_kind["open_holds"] == 0
    book.check()


def test_expiries_that_find_no_room_in_the_group_wait_for_the_next_one():
    book = Book()
    for n in range(5):
        ids = range(1000 + n * 8000, 1000 + (n + 1) * 8000)
        assert set(book.transfers(*[hold(id, amount=1, timeout=1) for id in ids])) == {CREATED}
    book.driver.close_group()
    core = book.core
    due = NOW + 100 * NS_PER_S
    assert core.expire(due) is False, "five steps fit in one group"
    assert core.counts_by_kind["open_holds"] == 0
    for n in range(5, 11):
        ids = range(1000 + n * 8000, 1000 + (n + 1) * 8000)
        book.now = due + 1
        assert set(book.transfers(*[hold(id, amount=1, timeout=1) for id in ids])) == {CREATED}
        book.driver.close_group()
    assert core.expire(due * 2) is True, "the sixth step has no room"
    assert core.counts_by_kind["open_holds"] == 48_000 - 5 * 8190
    book.driver.close_group()
    assert core.expire(due * 2) is False
    assert core.counts_by_kind["open_holds"] == 0
    book.check()


# ---- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "closed", "status"),
    [
        (F.closing_debit, 1, "debit_account_already_closed"),
        (F.closing_credit, 2, "credit_account_already_closed"),
    ],
)
def test_a_closing_hold_closes_until_it_is_voided(flag, closed, status):
    book = Book()
    assert book.transfers(hold(5)) == [CREATED]
    assert book.transfers(hold(1, flags=F.pending | flag)) == [CREATED]
    assert [book.closed(1), book.closed(2)] == [closed == 1, closed == 2]
    assert book.transfers(pay(2), hold(3), post(4, 1), post(6, 5)) == [status] * 4
    assert book.transfers(void(7, 5)) == [CREATED], "a void is let into a closed account"
    assert book.closed(closed)
    assert book.transfers(void(8, 1)) == [CREATED]
    assert not book.closed(closed)
    assert book.transfers(pay(9)) == [CREATED]
    book.check()


def test_a_closing_hold_that_expires_opens_both_sides():
    book = Book()
    flags = F.pending | F.closing_debit | F.closing_credit
    assert book.transfers(hold(1, flags=flags, timeout=1)) == [CREATED]
    assert book.closed(1) and book.closed(2)
    book.wait(2)
    assert not book.closed(1) and not book.closed(2)
    book.check()


def test_an_account_closed_since_has_different_flags():
    book = Book()
    assert book.transfers(hold(1, flags=F.pending | F.closing_debit)) == [CREATED]
    assert book.accounts(account(1)) == ["exists_with_different_flags"]
    assert book.accounts(account(1, flags=32)) == ["exists"]


def test_a_hold_opened_and_ended_in_one_chain():
    book = Book()
    chain = [linked(hold(1, timeout=9)), linked(post(2, 1, 4)), pay(3)]
    assert book.transfers(*chain) == [CREATED] * 3
    assert book.balances(1) == (0, 14, 0, 0)
    book.check()


def test_an_expiry_has_no_row_in_the_history_of_balances():
    """The page for hosts says so: the row of the next transfer shows what it changed."""
    book = Book()
    book.accounts(account(5, flags=AccountFlag.history), account(6))
    assert book.transfers(hold(1, debit_account_id=5, credit_account_id=6, timeout=2)) == [CREATED]
    book.wait(3)
    [row] = book.balances_of(5)
    assert row.debits_pending == 10
    assert book.balances(5) == (0, 0, 0, 0)
    book.transfers(pay(2, debit_account_id=5, credit_account_id=6, amount=1))
    [_, row] = book.balances_of(5)
    assert (row.debits_pending, row.debits_posted) == (0, 1)
