"""Creating accounts: each rule, in its order of precedence, and what is stored.

The table RULES says how to break each rule. An event that breaks two answers with the first of the
two in the table; the table itself is held to the order of the status list.
"""

from itertools import combinations, combinations_with_replacement

import pytest

from chaos.model import TIMESTAMP_MAX, U128_MAX
from ledger.facts import schema
from tests.support.core_book import (
    CREATED,
    FAILED,
    NOW,
    OPEN,
    A,
    Book,
    account,
    imported,
    linked,
    pay,
)

pytestmark = pytest.mark.usefixtures("windows")

BOTH_LIMITS = A.debits_must_not_exceed_credits | A.credits_must_not_exceed_debits

# What to change in account(50) so that the rule is broken; flags are added to what is there.
RULES = {
    "linked_event_chain_open": {"flags": A.linked},
    "imported_event_not_expected": {"flags": A.imported},
    "timestamp_must_be_zero": {"timestamp": 1},
    "reserved_field": {"reserved": 1},
    "reserved_flag": {"flags": 1 << 6},
    "id_must_not_be_zero": {"id": 0},
    "id_must_not_be_int_max": {"id": U128_MAX},
    "exists_with_different_flags": {"id": 1, "flags": A.history},
    "exists_with_different_user_data_128": {"id": 1, "user_data_128": 1 << 64},
    "exists_with_different_user_data_64": {"id": 1, "user_data_64": 1 << 32},
    "exists_with_different_user_data_32": {"id": 1, "user_data_32": 1},
    "exists_with_different_ledger": {"id": 1, "ledger": 2},
    "exists_with_different_code": {"id": 1, "code": 2},
    "exists": {"id": 1},
    "flags_are_mutually_exclusive": {"flags": BOTH_LIMITS},
    "debits_pending_must_be_zero": {"debits_pending": 1 << 64},
    "debits_posted_must_be_zero": {"debits_posted": 1},
    "credits_pending_must_be_zero": {"credits_pending": 1},
    "credits_posted_must_be_zero": {"credits_posted": U128_MAX},
    "ledger_must_not_be_zero": {"ledger": 0},
    "code_must_not_be_zero": {"code": 0},
}
# The same in a batch whose first event is imported.
RULES_IMPORTED = {
    "linked_event_chain_open": {"flags": A.linked},
    "imported_event_expected": {"flags": -A.imported},
    "imported_event_timestamp_out_of_range": {"timestamp": 0},
    "imported_event_timestamp_must_not_advance": {"timestamp": TIMESTAMP_MAX},
    "reserved_field": {"reserved": 1},
    "exists": {"id": 51},
    "flags_are_mutually_exclusive": {"flags": BOTH_LIMITS},
    "code_must_not_be_zero": {"code": 0},
    "imported_event_timestamp_must_not_regress": {"timestamp": 1},
}


# Accounts that differ only in these are the same.
NOT_COMPARED = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def broken(event, *changes):
    """The event with all the changes made; None when two of them want one field otherwise."""
    fields: dict[str, int] = {}
    for change in changes:
        for name, value in change.items():
            if name == "flags":
                flags = event.flags & ~-value if value < 0 else event.flags | value
                event = event._replace(flags=flags)
            elif fields.setdefault(name, value) != value:
                return None
    return event._replace(**fields)


def test_the_tables_are_in_the_order_of_the_status_list_and_miss_nothing():
    order = [status.name.lower() for status in schema.AccountStatus]
    for rules in (RULES, RULES_IMPORTED):
        assert list(rules) == sorted(rules, key=order.index)
    hit = {CREATED, FAILED, OPEN, *RULES, *RULES_IMPORTED}
    assert hit == set(order)
    assert len(order) - 1 == 26


@pytest.mark.parametrize("status", RULES)
def test_each_rule_by_itself(status):
    book = Book()
    book.wait(1)
    before = book.picture()
    assert book.accounts(account(1), broken(account(50), RULES[status])) == ["exists", status]
    expected = NOW + 1 if status == "exists" else book.timestamp
    assert book.results[1].timestamp == expected
    assert book.picture() == before
    book.check()


def test_of_two_broken_rules_the_first_is_answered():
    book = Book()
    for first, second in combinations(RULES, 2):
        event = broken(account(50), RULES[first], RULES[second])
        # What else is wrong with an account that exists is a difference, unless not compared.
        same_id = first.startswith("exists") and first != "exists" and second.startswith("exists")
        if event is None or (
            first.startswith("exists") and not same_id and not second.startswith(NOT_COMPARED)
        ):
            continue
        assert book.accounts(account(1), event) == ["exists", first], (first, second)
    assert book.core.counts_by_kind["accounts"] == 5


def test_of_two_rules_of_an_import_the_first_is_answered():
    book = Book()
    book.wait(1)
    assert book.accounts(imported(account(51), book.now - 2)) == [CREATED]
    book.wait(1)
    base = imported(account(50), book.now - 1)
    # The first event says that the batch imports; it exists and changes nothing.
    opener = imported(account(51), book.now - 1)
    for first, second in combinations_with_replacement(RULES_IMPORTED, 2):
        event = broken(base, RULES_IMPORTED[first], RULES_IMPORTED[second])
        if event is None or (first == "exists" and "timestamp" not in RULES_IMPORTED[second]):
            continue
        assert book.accounts(opener, event) == ["exists", first], (first, second)
    assert book.accounts(opener, base) == ["exists", CREATED]
    book.check()


@pytest.mark.parametrize(
    "timestamp", [pytest.param(0, id="of an account"), pytest.param(1, id="of a transfer")]
)
def test_an_imported_account_needs_a_moment_of_its_own(timestamp):
    book = Book()
    assert book.transfers(pay(1)) == [CREATED]
    at = book.results[0].timestamp if timestamp else NOW + 5
    book.wait(1)
    assert book.accounts(imported(account(50), at)) == ["imported_event_timestamp_must_not_regress"]
    assert book.accounts(imported(account(50), at + 1)) == [CREATED]
    assert book.results[0].timestamp == book.account(50).timestamp == at + 1
    book.check()


def test_an_import_may_be_later_than_its_own_event_but_not_than_its_batch():
    book = Book()
    book.wait(1)
    end = book.now + 2
    late = imported(account(50), end - 1)
    assert book.accounts(late, imported(account(51), end)) == [
        CREATED, "imported_event_timestamp_must_not_advance",
    ]  # fmt: skip
    assert [result.timestamp for result in book.results] == [end - 1, book.timestamp]
    book.check()


def test_what_was_sent_is_what_is_stored():
    book = Book()
    fields = {
        "user_data_128": U128_MAX, "user_data_64": 2**64 - 1, "user_data_32": 2**32 - 1,
        "ledger": 2**32 - 1, "code": 2**16 - 1,
        "flags": A.debits_must_not_exceed_credits | A.history | A.closed,
    }  # fmt: skip
    sent = account(U128_MAX - 1, **fields)
    assert book.accounts(sent) == [CREATED]
    assert book.account(sent.id) == sent._replace(timestamp=book.timestamp)
    assert book.accounts(sent) == ["exists"]
    book.check()


def test_timestamps_run_through_the_events_and_failures_take_theirs():
    book = Book()
    book.wait(1)
    assert book.accounts(account(50), account(0), account(51)) == [
        CREATED, "id_must_not_be_zero", CREATED,
    ]  # fmt: skip
    assert [r.timestamp for r in book.results] == [book.now + 1, book.now + 2, book.now + 3]
    assert book.timestamp == book.now + 3
    book.now -= 10**9  # a clock that falls back is not followed
    assert book.accounts(account(52)) == [CREATED]
    assert book.timestamp == book.now + 10**9 + 3 + 1 + 1


def test_a_linked_account_keeps_its_flag_and_is_not_the_same_without_it():
    book = Book()
    assert book.accounts(linked(account(50)), account(51)) == [CREATED, CREATED]
    assert book.account(50).flags == A.linked
    assert book.accounts(account(50)) == ["exists_with_different_flags"]
    book.check()


def test_a_request_may_have_no_events():
    book = Book()
    before = book.timestamp
    assert book.accounts() == []
    assert book.timestamp > before
    book.check()


def test_eight_thousand_accounts_in_one_request():
    book = Book()
    ids = range(100, 100 + 8189)
    assert book.accounts(*map(account, ids)) == [CREATED] * 8189
    assert book.accounts(*map(account, ids)) == ["exists"] * 8189
    assert book.core.counts_by_kind["accounts"] == 5 + 8189
    book.check()
