"""Chains of linked events: all or nothing, wherever they fail, and nothing is left of a failure.

A chain that fails takes back accounts, balances, closed bits, holds opened and ended, deadlines and
the highest timestamps; only the burned id of the event that broke it stays.
"""

import random

import pytest

from tests.support.core_book import (
    CREATED,
    FAILED,
    NOW,
    OPEN,
    A,
    Book,
    F,
    account,
    hold,
    imported,
    linked,
    pay,
    post,
    void,
)

pytestmark = pytest.mark.usefixtures("windows")

# Events that break a chain, by what they answer, and whether they burn their id.
BREAKERS = {
    "id_must_not_be_zero": (pay(0), False),
    "id_must_not_be_int_max": (pay(2**128 - 1), False),
    "debit_account_not_found": (pay(90, debit_account_id=77), True),
    "credit_account_not_found": (pay(90, credit_account_id=77), True),
    "pending_transfer_not_found": (post(90, 77), True),
    "exceeds_credits": (pay(90, debit_account_id=3, amount=1000), True),
    "exceeds_debits": (pay(90, credit_account_id=4, amount=1000), True),
    "imported_event_not_expected": (imported(pay(90), 1), False),
    "exists": (pay(50), False),
}
LIMITS = {3: A.debits_must_not_exceed_credits, 4: A.credits_must_not_exceed_debits}


def furnished():
    """Transfer 50 made; holds 51 and 52 open, one with a deadline; 53 closes account 2 by hold."""
    book = Book(LIMITS)
    assert book.accounts(account(5), account(6)) == [CREATED] * 2
    assert book.transfers(
        pay(50), hold(51, timeout=60), hold(52),
        hold(53, debit_account_id=5, credit_account_id=6, flags=F.pending | F.closing_debit),
        hold(54, timeout=50), hold(55, timeout=70),
    ) == [CREATED] * 6  # fmt: skip
    return book


def links(book):
    """A chain that does everything a transfer can do."""
    return [
        linked(event)
        for event in (
            pay(1),
            hold(2, timeout=1),
            hold(3),
            post(4, 51, 4),
            void(5, 52),
            void(6, 53),
            pay(7, debit_account_id=5, credit_account_id=6),
            post(8, 2),
            hold(9, flags=F.pending | F.closing_debit | F.closing_credit, timeout=2),
            void(10, 9),
            hold(11, flags=F.pending | F.closing_debit),
        )
    ]


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("status", ["debit_account_not_found", "id_must_not_be_zero"])
def test_a_chain_that_fails_at_any_place_leaves_nothing(place, status):
    book = furnished()
    before = book.picture()
    chain = links(book)
    breaker, burns = BREAKERS[status]
    chain.insert(place, linked(breaker))
    last = pay(12, debit_account_id=3, amount=0)
    assert book.transfers(*chain, last) == [FAILED] * place + [status] + [FAILED] * (12 - place)
    stamps = [result.timestamp for result in book.results]
    assert stamps == list(range(book.timestamp - 12, book.timestamp + 1))
    assert book.picture() == before
    if burns:
        assert book.burned(90)
    assert book.core.counts_by_kind["burned_ids"] == burns
    # Every other id may be used again, with the same effect as if nothing had been.
    assert book.transfers(*links(book), last) == [CREATED] * 12
    assert book.closed(1) and not book.closed(2) and not book.closed(5)
    book.check()


@pytest.mark.parametrize("status", BREAKERS)
def test_whatever_breaks_a_chain(status):
    book = furnished()
    before = book.picture()
    breaker, burns = BREAKERS[status]
    assert book.transfers(linked(pay(1)), linked(breaker), pay(2)) == (
        [FAILED, status, FAILED] if status != "exists" else
        [FAILED, "exists_with_different_flags", FAILED]
    )  # fmt: skip
    again = "id_already_failed" if burns else status
    assert book.transfers(linked(pay(1)), breaker) == [FAILED, again]
    assert book.picture() == before
    assert book.core.counts_by_kind["burned_ids"] == burns
    assert book.transfers(pay(1), pay(2)) == [CREATED] * 2
    book.check()


def test_only_the_first_failure_burns():
    book = furnished()
    gone = {"debit_account_id": 77}
    chain = [linked(pay(1, **gone)), linked(pay(2, **gone)), pay(3, **gone)]
    assert book.transfers(*chain) == ["debit_account_not_found", FAILED, FAILED]
    assert book.burned(1) and not book.burned(2) and not book.burned(3)
    book.check()


def test_a_chain_left_open_fails_as_a_whole():
    book = furnished()
    before = book.picture()
    chain = links(book)
    assert book.transfers(*chain) == [FAILED] * 10 + [OPEN]
    assert book.picture() == before
    assert book.transfers(linked(pay(1))) == [OPEN]
    assert book.transfers(linked(pay(0)), linked(pay(1)), linked(pay(2))) == [
        "id_must_not_be_zero", FAILED, OPEN,
    ]  # fmt: skip
    assert book.picture() == before
    assert book.transfers(pay(1)) == [CREATED]
    book.check()


def test_a_chain_does_not_cross_batches():
    book = furnished()
    assert book.batches([linked(pay(1))], [], [pay(2)], [linked(pay(3)), pay(4)]) == [
        [OPEN], [], [CREATED], [CREATED, CREATED],
    ]  # fmt: skip
    book.check()


def test_chains_follow_each_other_and_stand_alone():
    book = furnished()
    assert book.transfers(
        pay(1), linked(pay(2)), pay(3),
        linked(pay(4)), pay(0),
        linked(pay(5)), linked(pay(6)), pay(7),
        pay(8), linked(pay(9)), pay(10, ledger=2),
        pay(11),
    ) == [
        CREATED, CREATED, CREATED,
        FAILED, "id_must_not_be_zero",
        CREATED, CREATED, CREATED,
        CREATED, FAILED, "transfer_must_have_the_same_ledger_as_accounts",
        CREATED,
    ]  # fmt: skip
    assert book.balances(1)[1] == 10 * (1 + 2 + 3 + 1 + 1 + 1)
    book.check()


def test_a_chain_sees_what_it_did_and_a_failure_does_not():
    book = Book()
    chain = [linked(hold(1)), linked(post(2, 1)), linked(post(3, 1)), pay(4)]
    assert book.transfers(*chain) == [FAILED, FAILED, "pending_transfer_already_posted", FAILED]
    assert book.transfers(post(2, 1)) == ["pending_transfer_not_found"]
    assert book.transfers(linked(pay(5)), linked(pay(5)), pay(6)) == [FAILED, "exists", FAILED]
    assert book.results[1].timestamp == book.timestamp - 2, "of the one that was there a moment"
    book.check()


def test_accounts_of_a_failed_chain_are_gone():
    book = Book()
    before = book.picture()
    chain = [linked(account(50)), linked(account(51)), linked(account(50)), account(52)]
    assert book.accounts(*chain) == [FAILED, FAILED, "exists", FAILED]
    assert book.accounts(linked(account(50)), linked(account(51))) == [FAILED, OPEN]
    assert book.picture() == before
    assert book.transfers(pay(1, debit_account_id=50)) == ["debit_account_not_found"]
    assert book.accounts(linked(account(51)), account(50)) == [CREATED] * 2
    assert book.transfers(pay(2, debit_account_id=50, credit_account_id=51)) == [CREATED]
    book.check()


def test_the_highest_timestamps_come_back():
    book = Book()
    book.wait(1)
    high, low = NOW + 2000, NOW + 1000
    chain = [linked(imported(account(50), high)), imported(account(51, code=0), high + 1)]
    assert book.accounts(*chain) == [FAILED, "code_must_not_be_zero"]
    assert book.results[0].timestamp == high, "the stamp it had been given"
    assert book.accounts(imported(account(50), low)) == [CREATED]
    chain = [linked(imported(pay(1), high)), imported(pay(2, code=0), high + 1)]
    assert book.transfers(*chain) == [FAILED, "code_must_not_be_zero"]
    assert book.transfers(imported(pay(1), low + 1)) == [CREATED]
    book.driver.close_group()
    fields, _ = book.driver.groups[-1]
    assert fields["transfer_timestamp_min"] == fields["transfer_timestamp_max"] == low + 1
    book.check()


def test_deadlines_of_a_failed_chain_never_come_and_those_it_ended_do():
    book = Book()
    assert book.transfers(hold(1, timeout=5)) == [CREATED]
    chain = [linked(hold(2, timeout=1)), linked(void(3, 1)), pay(0)]
    assert book.transfers(*chain) == [FAILED, FAILED, "id_must_not_be_zero"]
    book.wait(3)
    assert book.balances(1) == (10, 0, 0, 0)
    assert book.core.clock_ns < book.now, "nothing was due"
    book.wait(3)
    assert book.balances(1) == (0, 0, 0, 0)
    book.check()


def test_a_chain_as_long_as_a_request():
    book = Book()
    ids = range(100, 100 + 8189)
    chain = [linked(hold(id, amount=1, timeout=1 + id % 7)) for id in ids]
    before = book.picture()
    assert book.transfers(*chain) == [FAILED] * 8188 + [OPEN]
    assert book.picture() == before
    chain[-1] = hold(ids[-1], amount=1)
    assert book.transfers(*chain) == [CREATED] * 8189
    ends = [linked(post(id + 10**5, id)) for id in ids]
    assert book.transfers(*ends[:-1], pay(0)) == [FAILED] * 8188 + ["id_must_not_be_zero"]
    assert book.core.counts_by_kind["open_holds"] == 8189
    ends[-1] = post(ids[-1] + 10**5, ids[-1])
    assert book.transfers(*ends) == [CREATED] * 8189
    assert book.balances(1) == (0, 8189, 0, 0)
    book.check()


@pytest.mark.parametrize("seed", range(6))
def test_many_failed_chains_over_shared_holds_leave_the_state_untouched(seed):
    """Posting blocks, the heap of deadlines and the free list of holds are shaken at random."""
    draw = random.Random(seed)
    book = Book()
    ids = iter(range(1000, 10**9))
    open_holds = []
    for _ in range(60):
        new = [hold(next(ids), amount=1, timeout=draw.choice((0, 50, 60, 70))) for _ in range(9)]
        assert set(book.transfers(*new)) == {CREATED}
        open_holds += [event.id for event in new]
        before = book.picture()
        chain = []
        for id in draw.sample(open_holds, 6):
            end = draw.choice((post, void))(next(ids), id)
            chain += draw.sample([end, hold(next(ids), amount=1, timeout=draw.choice((0, 55)))], 2)
        breaker = pay(next(ids), debit_account_id=draw.choice((77, 1)), code=draw.choice((0, 1)))
        failing = [linked(event) for event in [*chain, breaker]] + [pay(0)]
        statuses = book.transfers(*failing)
        assert CREATED not in statuses
        assert book.picture() == before
        gone = draw.sample(open_holds, 3)
        assert book.transfers(*[void(next(ids), id) for id in gone]) == [CREATED] * 3
        open_holds = [id for id in open_holds if id not in gone]
    book.check()
