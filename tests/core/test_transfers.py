"""Creating transfers that open or move: each rule in its order of precedence, and what they do.

The tables say how to break each rule. An event that breaks two answers with the first of the two in
the table. Posts, voids and expiries are in test_holds.py, chains in test_chains.py.
"""

from itertools import combinations

import pytest

from chaos.model import NS_PER_S, TIMESTAMP_MAX, U128_MAX
from ledger.facts import schema
from tests.support.core_book import (
    CREATED,
    FAILED,
    NOW,
    ORDER,
    A,
    Book,
    F,
    account,
    broken,
    hold,
    imported,
    linked,
    pay,
    post,
)

pytestmark = pytest.mark.usefixtures("windows")

HALF = 2**127
# Accounts made for the tables, all in ledger 1, and what they are there for.
CLOSED, NO_CREDIT, PENDING, POSTED, SUM = 20, 21, 22, 23, 24  # for the debit side
CLOSED_TOO, NO_DEBIT, PENDING_TOO, POSTED_TOO, SUM_TOO = 40, 41, 42, 43, 44  # for the credit side
OTHER_LEDGER = 9

# What to change in pay(id) so that the rule is broken; flags are added to what is there. The
# amount of an overflow is HALF, on an account that already has so much.
RULES = {
    "linked_event_chain_open": {"flags": F.linked},
    "imported_event_not_expected": {"flags": F.imported},
    "timestamp_must_be_zero": {"timestamp": 1},
    "reserved_flag": {"flags": 1 << 9},
    "id_must_not_be_zero": {"id": 0},
    "id_must_not_be_int_max": {"id": U128_MAX},
    "id_already_failed": {"id": 7},
    "debit_account_id_must_not_be_zero": {"debit_account_id": 0},
    "debit_account_id_must_not_be_int_max": {"debit_account_id": U128_MAX},
    "credit_account_id_must_not_be_zero": {"credit_account_id": 0},
    "credit_account_id_must_not_be_int_max": {"credit_account_id": U128_MAX},
    "accounts_must_be_different": {"debit_account_id": 1, "credit_account_id": 1},
    "pending_id_must_be_zero": {"pending_id": 1},
    "timeout_reserved_for_pending_transfer": {"timeout": 1},
    "closing_transfer_must_be_pending": {"flags": F.closing_credit},
    "ledger_must_not_be_zero": {"ledger": 0},
    "code_must_not_be_zero": {"code": 0},
    "debit_account_not_found": {"debit_account_id": 77},
    "credit_account_not_found": {"credit_account_id": 78},
    "accounts_must_have_the_same_ledger": {"credit_account_id": OTHER_LEDGER},
    "transfer_must_have_the_same_ledger_as_accounts": {"ledger": 2},
    "debit_account_already_closed": {"debit_account_id": CLOSED},
    "credit_account_already_closed": {"credit_account_id": CLOSED_TOO},
    "overflows_debits_posted": {"debit_account_id": POSTED, "amount": HALF},
    "overflows_credits_posted": {"credit_account_id": POSTED_TOO, "amount": HALF},
    "overflows_debits": {"debit_account_id": SUM, "amount": HALF},
    "overflows_credits": {"credit_account_id": SUM_TOO, "amount": HALF},
    "exceeds_credits": {"debit_account_id": NO_CREDIT},
    "exceeds_debits": {"credit_account_id": NO_DEBIT},
}
# What to change in hold(id): the rules that only a hold can break, among their neighbours.
HOLD_RULES = {
    "debit_account_already_closed": {"debit_account_id": CLOSED},
    "overflows_debits_pending": {"debit_account_id": PENDING, "amount": HALF},
    "overflows_credits_pending": {"credit_account_id": PENDING_TOO, "amount": HALF},
    "overflows_debits_posted": {"debit_account_id": POSTED, "amount": HALF},
    "overflows_credits_posted": {"credit_account_id": POSTED_TOO, "amount": HALF},
    "overflows_debits": {"debit_account_id": SUM, "amount": HALF},
    "overflows_credits": {"credit_account_id": SUM_TOO, "amount": HALF},
    "exceeds_credits": {"debit_account_id": NO_CREDIT},
    "exceeds_debits": {"credit_account_id": NO_DEBIT},
}
# What to change in imported(hold(id)), in a batch whose first event is imported.
IMPORT_RULES = {
    "linked_event_chain_open": {"flags": F.linked},
    "imported_event_expected": {"flags": -F.imported},
    "imported_event_timestamp_out_of_range": {"timestamp": 0},
    "imported_event_timestamp_must_not_advance": {"timestamp": TIMESTAMP_MAX},
    "reserved_flag": {"flags": 1 << 15},
    "id_already_failed": {"id": 7},
    "pending_id_must_be_zero": {"pending_id": 1},
    "debit_account_not_found": {"debit_account_id": 77},
    "transfer_must_have_the_same_ledger_as_accounts": {"ledger": 2},
    "imported_event_timestamp_must_not_regress": {"timestamp": 1},
    "imported_event_timestamp_must_postdate_debit_account": {"debit_account_id": 31},
    "imported_event_timestamp_must_postdate_credit_account": {"credit_account_id": 32},
    "imported_event_timeout_must_be_zero": {"timeout": 1},
    "debit_account_already_closed": {"debit_account_id": CLOSED},
    "credit_account_already_closed": {"credit_account_id": CLOSED_TOO},
    "overflows_debits_pending": {"debit_account_id": PENDING, "amount": HALF},
    "exceeds_debits": {"credit_account_id": NO_DEBIT},
}
# A stored hold sent again with what is changed.
EXISTS = {
    "exists_with_different_flags": {"flags": F.balancing_debit},
    "exists_with_different_pending_id": {"pending_id": 9},
    "exists_with_different_timeout": {"timeout": 61},
    "exists_with_different_debit_account_id": {"debit_account_id": 0},
    "exists_with_different_credit_account_id": {"credit_account_id": 77},
    "exists_with_different_amount": {"amount": 11},
    "exists_with_different_user_data_128": {"user_data_128": 1},
    "exists_with_different_user_data_64": {"user_data_64": 1},
    "exists_with_different_user_data_32": {"user_data_32": 1},
    "exists_with_different_ledger": {"ledger": 0},
    "exists_with_different_code": {"code": 0},
    "exists": {},
}
TRANSIENT = {
    "debit_account_not_found", "credit_account_not_found", "pending_transfer_not_found",
    "debit_account_already_closed", "credit_account_already_closed", "exceeds_credits",
    "exceeds_debits",
}  # fmt: skip


def furnished():
    """A book with the accounts of the tables, transfer 6 made and id 7 burned."""
    book = Book()
    flags = {NO_CREDIT: A.debits_must_not_exceed_credits}
    flags |= {NO_DEBIT: A.credits_must_not_exceed_debits}
    ids = [id + side for side in (0, 20) for id in (CLOSED, NO_CREDIT, PENDING, POSTED, SUM)]
    assert book.accounts(*[account(id, flags=flags.get(id, 0)) for id in ids]) == [CREATED] * 10
    closing = F.pending | F.closing_debit | F.closing_credit
    assert (
        book.transfers(
            hold(1, debit_account_id=CLOSED, credit_account_id=CLOSED_TOO, flags=closing),
            hold(2, debit_account_id=PENDING, credit_account_id=3, amount=HALF),
            hold(3, debit_account_id=4, credit_account_id=PENDING_TOO, amount=HALF),
            pay(4, debit_account_id=POSTED, credit_account_id=4, amount=HALF),
            pay(5, debit_account_id=3, credit_account_id=POSTED_TOO, amount=HALF),
            pay(6),
            pay(7, debit_account_id=77),
            hold(8, debit_account_id=SUM, credit_account_id=3, amount=HALF - 1),
            hold(9, debit_account_id=4, credit_account_id=SUM_TOO, amount=HALF - 1),
            pay(10, debit_account_id=SUM, credit_account_id=1, amount=1),
            pay(11, debit_account_id=2, credit_account_id=SUM_TOO, amount=1),
        )
        == [CREATED] * 6 + ["debit_account_not_found"] + [CREATED] * 4
    )
    book.wait(1)
    return book


def test_the_tables_are_in_the_order_of_the_status_list():
    for rules in (RULES, HOLD_RULES, IMPORT_RULES, EXISTS):
        assert list(rules) == sorted(rules, key=ORDER.index)
    transient = {status.name.lower() for status in schema.TRANSIENT}
    assert transient == TRANSIENT


@pytest.mark.parametrize("status", RULES)
def test_each_rule_by_itself(status):
    book = furnished()
    before = book.picture()
    event = broken(pay(50), RULES[status])
    assert book.transfers(pay(6), event) == ["exists", status]
    assert book.results[1].timestamp == book.timestamp
    assert book.picture() == before
    assert book.burned(event.id) == (status in TRANSIENT | {"id_already_failed"})
    book.check()


def test_of_two_broken_rules_the_first_is_answered():
    book = furnished()
    before = book.picture()
    for id, (first, second) in enumerate(combinations(RULES, 2), 1000):
        event = broken(pay(id), RULES[first], RULES[second])
        if event is None:
            continue
        assert book.transfers(pay(6), event) == ["exists", first], (first, second)
    assert book.picture() == before
    book.check()


def test_of_two_broken_rules_of_a_hold_the_first_is_answered():
    book = furnished()
    before = book.picture()
    rules = [*combinations(HOLD_RULES, 2), *((name, name) for name in HOLD_RULES)]
    for id, (first, second) in enumerate(rules, 1000):
        event = broken(hold(id), HOLD_RULES[first], HOLD_RULES[second])
        if event is None:
            continue
        assert book.transfers(event) == [first], (first, second)
    assert book.picture() == before
    book.check()


def test_of_two_broken_rules_of_an_import_the_first_is_answered():
    book = furnished()
    assert book.accounts(account(31), account(32)) == [CREATED] * 2
    book.wait(1)
    opener = imported(pay(60, debit_account_id=3, credit_account_id=4), NOW + NS_PER_S - 2)
    assert book.transfers(opener) == [CREATED]
    rules = [*combinations(IMPORT_RULES, 2), *((name, name) for name in IMPORT_RULES)]
    for id, (first, second) in enumerate(rules, 1000):
        # Later than the newest transfer, and than every account but 31 and 32.
        event = imported(hold(id), NOW + NS_PER_S - 1)
        event = broken(event, IMPORT_RULES[first], IMPORT_RULES[second])
        if event is None:
            continue
        assert book.transfers(opener, event) == ["exists", first], (first, second)
    book.check()


def test_a_deadline_may_not_pass_the_end_of_time():
    book = Book()
    book.now = TIMESTAMP_MAX - 2 * NS_PER_S - 1  # the hold is stamped one later
    assert book.transfers(hold(1, timeout=2)) == [CREATED]
    limited = {"debit_account_id": 3, "timeout": 2**32 - 1}
    assert book.transfers(hold(2, **limited)) == ["overflows_timeout"]
    assert book.transfers(hold(2, **limited, amount=U128_MAX)) == ["overflows_credits_pending"]
    book.check()


def test_a_timeout_overflows_before_a_limit_is_exceeded():
    book = Book({1: A.debits_must_not_exceed_credits})
    book.now = TIMESTAMP_MAX - NS_PER_S
    assert book.transfers(hold(1, timeout=2)) == ["overflows_timeout"]
    assert book.transfers(hold(1)) == ["exceeds_credits"]


@pytest.mark.parametrize("later", EXISTS)
@pytest.mark.parametrize("status", EXISTS)
def test_a_transfer_sent_again_is_compared_field_by_field(status, later):
    book = Book()
    first = hold(1, timeout=60)
    assert book.transfers(first) == [CREATED]
    made_at = book.timestamp
    book.wait(1)
    expected = min(status, later, key=ORDER.index)
    assert book.transfers(broken(first, EXISTS[status], EXISTS[later])) == [expected]
    assert book.results[0].timestamp == (made_at if expected == "exists" else book.timestamp)


def test_what_exists_is_answered_before_what_is_wrong_and_what_was_burned():
    book = furnished()
    both = F.pending | F.post_pending
    assert book.transfers(pay(6, flags=both)) == ["exists_with_different_flags"]
    assert book.transfers(pay(6, flags=1 << 9)) == ["reserved_flag"]
    assert book.transfers(pay(7, debit_account_id=0)) == ["id_already_failed"]


def test_an_import_sent_again_exists_whatever_its_timestamp():
    book = Book()
    book.wait(1)
    assert book.transfers(imported(pay(1), NOW + 100)) == [CREATED]
    assert book.transfers(imported(pay(1), NOW + 50)) == ["exists"]
    assert book.results[0].timestamp == NOW + 100
    assert book.transfers(pay(1)) == ["exists_with_different_flags"]
    book.check()


def test_a_linked_transfer_sent_again_without_its_link_is_another():
    book = Book()
    assert book.transfers(linked(pay(1)), pay(2)) == [CREATED] * 2
    assert book.transfers(pay(1)) == ["exists_with_different_flags"]
    assert book.transfers(linked(pay(1)), pay(3)) == ["exists", FAILED]


# ---- what a transfer does ------------------------------------------------------------------------


def test_a_payment_moves_posted_balances_and_a_hold_pending_ones():
    book = Book()
    assert book.transfers(pay(1, amount=7), hold(2, amount=U128_MAX - 7)) == [CREATED] * 2
    assert book.balances(1) == (U128_MAX - 7, 7, 0, 0)
    assert book.balances(2) == (0, 0, U128_MAX - 7, 7)
    assert book.transfers(pay(3, amount=1)) == ["overflows_debits"]
    assert book.transfers(pay(4, amount=0)) == [CREATED]
    book.check()


def test_what_was_sent_is_what_is_stored():
    book = Book()
    fields = {"user_data_128": U128_MAX, "user_data_64": 2**64 - 1, "user_data_32": 2**32 - 1}
    sent = hold(U128_MAX - 1, **fields, timeout=2**32 - 1, code=2**16 - 1, amount=2**64)
    assert book.transfers(sent) == [CREATED]
    assert book.transfer(sent.id) == sent._replace(timestamp=book.timestamp)
    book.check()


def test_timestamps_run_through_batches_and_failures_take_theirs():
    book = Book()
    book.wait(1)
    assert book.batches([pay(1), pay(0)], [], [pay(2)]) == [
        [CREATED, "id_must_not_be_zero"], [], [CREATED],
    ]  # fmt: skip
    assert [r.timestamp for r in book.results] == [book.now + 1, book.now + 2, book.now + 3]
    assert book.timestamp == book.now + 3
    book.check()


@pytest.mark.parametrize(
    ("flags", "asked", "moved"),
    [
        (F.balancing_debit, 30, 20),
        (F.balancing_debit, 15, 15),
        (F.balancing_debit, U128_MAX, 20),
        (F.balancing_credit, 30, 12),
        (F.balancing_debit | F.balancing_credit, 30, 12),
        (F.balancing_debit | F.balancing_credit, 5, 5),
        (F.balancing_debit | F.pending, U128_MAX, 20),
        (F.balancing_credit | F.pending, U128_MAX, 12),
        (F.balancing_debit, 0, 0),
    ],
)
def test_a_balancing_transfer_moves_at_most_what_is_left(flags, asked, moved):
    """Account 1 was credited 25 and debited 3, 2 held; account 2 debited 14, credited 2 held."""
    book = Book()
    book.fund(1, 25)
    assert (
        book.transfers(
            pay(1, credit_account_id=3, amount=3),
            hold(2, credit_account_id=3, amount=2),
            pay(3, debit_account_id=2, credit_account_id=3, amount=14),
            hold(4, debit_account_id=3, amount=2),
        )
        == [CREATED] * 4
    )
    assert book.transfers(pay(5, flags=flags, amount=asked)) == [CREATED]
    assert book.transfer(5).amount == moved
    pending, posted = book.balances(1)[:2]
    assert (pending, posted) == ((2 + moved, 3) if flags & F.pending else (2, 3 + moved))
    # Whoever asks for as much or more asks for the same; who asks for less does not.
    again = [pay(5, flags=flags, amount=amount) for amount in (asked, U128_MAX, moved)]
    assert book.transfers(*again) == ["exists"] * 3
    if moved:
        less = pay(5, flags=flags, amount=moved - 1)
        assert book.transfers(less) == ["exists_with_different_amount"]
    book.check()


def test_a_balancing_transfer_of_an_overdrawn_account_moves_nothing():
    book = Book()
    assert book.transfers(pay(1, amount=9), pay(2, flags=F.balancing_debit)) == [CREATED] * 2
    assert book.transfer(2).amount == 0
    book.check()


@pytest.mark.parametrize("kind", [pay, hold])
def test_limits_count_holds_and_are_reached_exactly(kind):
    book = Book({1: A.debits_must_not_exceed_credits, 2: A.credits_must_not_exceed_debits})
    book.fund(1, 10)
    assert book.transfers(pay(1, debit_account_id=2, credit_account_id=3, amount=8)) == [CREATED]
    assert book.transfers(
        hold(2, amount=3), kind(3, amount=8, credit_account_id=4), kind(4, amount=7),
        kind(5, amount=6, debit_account_id=4), kind(6, amount=5),
    ) == [CREATED, "exceeds_credits", "exceeds_debits", "exceeds_debits", CREATED]  # fmt: skip
    assert book.transfers(kind(7, amount=1, credit_account_id=4)) == [CREATED]
    book.check()


def test_a_burned_id_stays_burned_when_its_reason_is_gone():
    book = Book()
    assert book.transfers(pay(1, debit_account_id=50)) == ["debit_account_not_found"]
    assert book.accounts(account(50)) == [CREATED]
    assert book.transfers(pay(1, debit_account_id=50)) == ["id_already_failed"]
    assert book.transfer(1) is None
    assert book.transfers(post(2, 1)) == ["pending_transfer_not_found"]
    assert book.transfers(pay(3, debit_account_id=50)) == [CREATED]
    book.check()


@pytest.mark.parametrize("id", [1, 2**64, 2**64 + 1, 2**127, U128_MAX - 1])
def test_an_id_may_be_any_number_but_two(id):
    book = Book()
    assert book.transfers(pay(id), pay(id ^ 2**63)) == [CREATED] * 2
    assert book.accounts(account(id ^ 2**99), account(id ^ 2**98)) == [CREATED] * 2
    assert book.transfers(pay(id ^ 2**62, debit_account_id=id ^ 2**99)) == [CREATED]
    book.check()


# ---- imports -------------------------------------------------------------------------------------


def test_an_imported_transfer_needs_a_moment_of_its_own():
    book = Book()
    book.wait(1)
    account_at = book.account(9).timestamp
    assert book.accounts(imported(account(50), NOW + 200)) == [CREATED]
    regress = "imported_event_timestamp_must_not_regress"
    assert book.transfers(
        imported(pay(1), NOW + 100), imported(pay(2), NOW + 100), imported(pay(3), NOW + 99),
        imported(pay(4), NOW + 200), imported(pay(5), NOW + 201),
    ) == [CREATED, regress, regress, regress, CREATED]  # fmt: skip
    assert [book.results[0].timestamp, book.results[4].timestamp] == [NOW + 100, NOW + 201]
    assert book.transfer(5).timestamp == NOW + 201
    assert account_at < NOW + 100
    book.check()


def test_whether_a_batch_imports_is_said_by_its_own_first_event():
    book = Book()
    book.wait(1)
    assert book.batches(
        [pay(1), imported(pay(2), NOW + 100)],
        [imported(pay(3), NOW + NS_PER_S + 2), pay(4)],
        [pay(5)],
    ) == [[CREATED, "imported_event_not_expected"], [CREATED, "imported_event_expected"], [CREATED]]
    book.check()


def test_an_imported_hold_has_no_timeout_and_may_be_posted():
    book = Book()
    book.wait(1)
    assert book.transfers(
        imported(hold(1), NOW + 100), imported(post(2, 1), NOW + 101),
    ) == [CREATED] * 2  # fmt: skip
    assert book.transfer(2).timestamp == NOW + 101
    book.check()


