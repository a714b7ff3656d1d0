"""Reading: look-ups, the transfers and balances of an account, queries by field, both ways in time.

A read changes nothing; a filter that makes no sense selects nothing.
"""

import pytest

from chaos.model import NS_PER_S, TIMESTAMP_MAX, U128_MAX, Account, Operation, Transfer
from tests.support.core_book import (
    CREATED,
    A,
    Book,
    account,
    hold,
    linked,
    pay,
    post,
    void,
)

pytestmark = pytest.mark.usefixtures("windows")

DEBITS, CREDITS, REVERSED = 1, 2, 4
POSTINGS_IN_A_BLOCK = 14


def ids(found):
    return [row.id for row in found]


def test_lookups_keep_the_order_asked_skip_what_is_missing_and_repeat():
    book = Book()
    assert book.transfers(pay(5), pay(6), pay(7, debit_account_id=77)) == [
        CREATED, CREATED, "debit_account_not_found",
    ]  # fmt: skip
    wanted = [9, 0, 3, 3, U128_MAX, 77, 1]
    assert ids(book.read(Operation.lookup_accounts, Account, wanted)) == [9, 3, 3, 1]
    assert ids(book.read(Operation.lookup_transfers, Transfer, [6, 7, 5, 0, 6])) == [6, 5, 6]
    assert book.read(Operation.lookup_accounts, Account, []) == []


def test_a_read_changes_nothing():
    book = Book()
    assert book.transfers(pay(1)) == [CREATED]
    before = (book.core.position, book.core.clock_ns, book.core.state_hash())
    book.now += NS_PER_S
    assert book.transfers_of(1) and book.query(Operation.query_accounts)
    assert book.account(1) and book.balances_of(1) == []
    assert (book.core.position, book.core.clock_ns, book.core.state_hash()) == before


def payments(count):
    """Account 1 pays 2 on even ids and is paid by 3 on odd ones, a microsecond apart."""
    book = Book()
    made = []
    for id in range(1000, 1000 + count):
        book.now += 1000
        sides = (1, 2) if id % 2 == 0 else (3, 1)
        assert book.transfers(
            pay(id, debit_account_id=sides[0], credit_account_id=sides[1], code=id % 3 + 1,
                user_data_128=id % 2 << 100, user_data_64=id % 4, user_data_32=id % 5)
        ) == [CREATED]  # fmt: skip
        made.append((id, book.timestamp))
    return book, made


@pytest.mark.parametrize("count", [0, 1, 13, 14, 15, 28, 29, 50])
def test_an_accounts_transfers_both_ways_at_the_edges_of_posting_blocks(count):
    book, made = payments(count)
    assert ids(book.transfers_of(1)) == [id for id, _ in made]
    assert ids(book.transfers_of(1, flags=3 | REVERSED)) == [id for id, _ in reversed(made)]
    assert ids(book.transfers_of(1, flags=DEBITS)) == [id for id, _ in made if id % 2 == 0]
    assert ids(book.transfers_of(1, flags=CREDITS)) == [id for id, _ in made if id % 2]
    assert ids(book.transfers_of(2)) == [id for id, _ in made if id % 2 == 0]
    assert ids(book.transfers_of(4)) == ids(book.transfers_of(77)) == []


def test_time_ranges_are_inclusive_and_a_limit_takes_the_first_of_its_order():
    book, made = payments(40)
    for low in (0, 1, 13, 14, 39):
        for high in (low, 20, 27, 39):
            if high < low:
                continue
            selected = [id for id, _ in made[low : high + 1]]
            bounds = {"timestamp_min": made[low][1], "timestamp_max": made[high][1]}
            for limit in (1, 3, 8189):
                forward = book.transfers_of(1, limit=limit, **bounds)
                assert ids(forward) == selected[:limit]
                backward = book.transfers_of(1, limit=limit, flags=3 | REVERSED, **bounds)
                assert ids(backward) == selected[::-1][:limit]
                assert (
                    ids(book.query(Operation.query_transfers, limit=limit, **bounds))
                    == (selected[:limit])
                )
                assert (
                    ids(book.query(Operation.query_transfers, limit=limit, flags=1, **bounds))
                    == selected[::-1][:limit]
                )
    between = made[3][1] + 1
    assert ids(book.transfers_of(1, timestamp_min=between)) == [id for id, _ in made[4:]]
    assert ids(book.transfers_of(1, timestamp_max=between)) == [id for id, _ in made[:4]]
    assert book.transfers_of(1, timestamp_min=between, timestamp_max=between) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("code", 2), ("user_data_128", 1 << 100), ("user_data_64", 3), ("user_data_32", 4)],
)
def test_a_filter_requires_each_field_that_is_not_zero(name, value):
    book, made = payments(40)
    stored = {id: book.transfer(id) for id, _ in made}
    expected = [id for id, _ in made if getattr(stored[id], name) == value]
    assert 0 < len(expected) < 40
    assert ids(book.transfers_of(1, **{name: value})) == expected
    assert ids(book.query(Operation.query_transfers, **{name: value})) == expected
    both = {name: value, "code": 1}
    if name != "code":
        expected = [id for id in expected if stored[id].code == 1]
        assert ids(book.transfers_of(1, **both)) == expected
        assert ids(book.query(Operation.query_transfers, **both)) == expected


def test_queries_find_accounts_by_every_field():
    book = Book()
    fields = {"user_data_128": 1 << 127, "user_data_64": 1 << 63, "user_data_32": 1 << 31}
    made = [account(n, code=n % 2 + 1, **(fields if n % 3 == 0 else {})) for n in range(50, 62)]
    assert set(book.accounts(*made)) == {CREATED}
    assert ids(book.query(Operation.query_accounts, ledger=2)) == [9]
    for name, value in fields.items():
        assert ids(book.query(Operation.query_accounts, **{name: value})) == [51, 54, 57, 60]
    assert ids(book.query(Operation.query_accounts, code=2, user_data_32=1 << 31)) == [51, 57]
    assert ids(book.query(Operation.query_accounts, flags=1, limit=2)) == [61, 60]
    stored_at = book.account(55).timestamp
    assert ids(book.query(Operation.query_accounts, timestamp_min=stored_at, limit=1)) == [55]
    assert ids(
        book.query(Operation.query_accounts, timestamp_max=stored_at, limit=1, flags=1)
    ) == [55]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"timestamp_min": TIMESTAMP_MAX + 1},
        {"timestamp_max": TIMESTAMP_MAX + 1},
        {"timestamp_max": 2**64 - 1},
        {"timestamp_min": 3, "timestamp_max": 2},
        {"reserved": 1},
        {"reserved": 1 << 47},
        {"flags": 1 << 3},
        {"flags": 1 << 31},
    ],
)
def test_a_filter_that_makes_no_sense_selects_nothing(wrong):
    book = Book({1: A.history})
    assert book.transfers(pay(1)) == [CREATED]
    of_account = wrong | ({"flags": wrong["flags"] | 3} if "flags" in wrong else {})
    assert book.transfers_of(1, **of_account) == []
    assert book.balances_of(1, **of_account) == []
    assert book.query(Operation.query_transfers, **wrong) == []
    assert book.query(Operation.query_accounts, **wrong) == []
    assert len(book.transfers_of(1, timestamp_max=TIMESTAMP_MAX)) == 1
    assert len(book.transfers_of(1, limit=2**32 - 1)) == 1


@pytest.mark.parametrize("wrong", [{"account_id": 0}, {"account_id": U128_MAX}, {"flags": 0},
                                   {"flags": REVERSED}, {"reserved": 1 << 463}])  # fmt: skip
def test_an_account_filter_needs_an_account_and_a_side(wrong):
    book = Book({1: A.history})
    assert book.transfers(pay(1)) == [CREATED]
    assert book.transfers_of(1, **wrong) == []
    assert book.balances_of(1, **wrong) == []


def test_no_more_than_8189_results_of_one_filter():
    book = Book()
    for first in (1000, 9000):
        events = [pay(id, amount=0) for id in range(first, first + 8000)]
        assert set(book.transfers(*events)) == {CREATED}
    for limit in (8189, 8190, 2**32 - 1):
        assert ids(book.transfers_of(1, limit=limit)) == list(range(1000, 1000 + 8189))
        found = book.query(Operation.query_transfers, limit=limit, flags=1)
        assert ids(found) == list(range(16_999, 16_999 - 8189, -1))


def test_balances_right_after_each_transfer_of_an_account_with_history():
    book = Book({1: A.history})
    book.wait(1)
    assert book.transfers(
        pay(1, amount=7), hold(2, amount=5, timeout=1), post(3, 2, 4), hold(4, amount=3),
        void(5, 4), pay(6, debit_account_id=2, credit_account_id=1, amount=2),
        hold(7, amount=1, timeout=1),
    ) == [CREATED] * 7  # fmt: skip
    expected = [(0, 7, 0, 0), (5, 7, 0, 0), (0, 11, 0, 0), (3, 11, 0, 0), (0, 11, 0, 0),
                (0, 11, 0, 2), (1, 11, 0, 2)]  # fmt: skip
    rows = book.balances_of(1)
    assert [tuple(row[:4]) for row in rows] == expected
    assert [row.timestamp for row in rows] == [t.timestamp for t in book.transfers_of(1)]
    assert all(row.zero == 0 for row in rows)
    assert book.balances_of(1, flags=3 | REVERSED) == rows[::-1]
    assert [tuple(row[:4]) for row in book.balances_of(1, flags=CREDITS)] == [(0, 11, 0, 2)]
    assert book.balances_of(2) == [], "no history"
    # An expiry is no transfer: it shows in the row of the next one.
    book.wait(5)
    assert book.transfers(pay(8, amount=0)) == [CREATED]
    assert [tuple(row[:4]) for row in book.balances_of(1)] == [*expected, (0, 11, 0, 2)]
    book.check()


def test_history_of_a_failed_chain_is_forgotten_and_written_anew():
    book = Book({1: A.history, 2: A.history})
    chain = [linked(pay(1, amount=100)), pay(2, ledger=2)]
    assert book.transfers(*chain)[1] == "transfer_must_have_the_same_ledger_as_accounts"
    plain = {"debit_account_id": 3, "credit_account_id": 4}
    assert book.transfers(pay(3, **plain), pay(4, amount=1)) == [CREATED] * 2
    assert [tuple(row[:4]) for row in book.balances_of(1)] == [(0, 1, 0, 0)]
    assert [tuple(row[:4]) for row in book.balances_of(2)] == [(0, 0, 0, 1)]
    replayed = book.driver.replayed()
    book.driver = replayed
    assert [tuple(row[:4]) for row in book.balances_of(1)] == [(0, 1, 0, 0)]


def test_batches_of_a_read_are_answered_one_by_one():
    book, _ = payments(20)
    batches = [[1, 2], [], [77], [3]]
    encoded = [b"".join(id.to_bytes(16, "little") for id in batch) for batch in batches]
    _, replies = book.driver.execute(Operation.lookup_accounts, encoded, book.now)
    assert [len(reply) // 128 for reply in replies] == [2, 0, 0, 1]
