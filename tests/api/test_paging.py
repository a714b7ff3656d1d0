"""Pages: together they are the whole answer, once, in both directions, whatever their size.

The books are real, and the truth is what was created. The same walks go over a socket.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger
from ledger.facts import schema
from ledger.facts.schema import AccountFilter, QueryFilter

BOTH = 3
REVERSED = 4
STAMPS = (1, 2, 3, 10, 11, 500)  # of imported accounts
IMPORTED = ledger.AccountFlags.IMPORTED


def account(id: int, **fields: int) -> ledger.Account:
    return ledger.Account(**{"id": id, "ledger": 1, "code": 1} | fields)


def pay(id: int, **fields: int) -> ledger.Transfer:
    some = {"debit_account_id": 1, "credit_account_id": 2, "amount": id, "ledger": 1, "code": 1}
    return ledger.Transfer(**{"id": id} | some | fields)


def fill(book: ledger.Book | ledger.Client, count: int) -> None:
    """Imported accounts with stamps of their own from 1 on, and payments between the first two."""
    imported = [
        account(place, flags=IMPORTED | ledger.AccountFlags.HISTORY, timestamp=stamp)
        for place, stamp in enumerate(STAMPS, 1)
    ]
    ledger.raise_for_status(book.create_accounts(imported), imported)
    early = [pay(id, flags=ledger.TransferFlags.IMPORTED, timestamp=600 + id) for id in (1, 2, 3)]
    ledger.raise_for_status(book.create_transfers(early), early)
    later = [pay(id, user_data_64=id % 3) for id in range(4, count + 1)]
    ledger.raise_for_status(book.create_many(later), later)


@pytest.fixture(scope="module")
def book():
    with ledger.open_temporary() as book:
        fill(book, 40)
        yield book


def numbers(pages) -> list[int]:
    return [number for page in pages for number in ledger.ints(page["id"])]


@pytest.mark.parametrize("page", [1, 2, 3, 39, 40, 41, 8189])
@pytest.mark.parametrize("flags", [0, REVERSED])
def test_the_pages_are_the_whole_answer_in_its_order(book, page, flags):
    filter = AccountFilter(account_id=1, flags=BOTH | flags)
    pages = list(book.iter_account_transfers(filter, page=page))
    assert all(1 <= len(rows) <= page and rows.dtype == ledger.TRANSFER for rows in pages)
    wanted = list(range(40, 0, -1)) if flags else list(range(1, 41))
    assert numbers(pages) == wanted
    balances = np.concatenate(list(book.iter_account_balances(filter, page=page)))
    assert len(balances) == 40
    assert ledger.int_of(balances[-1 if not flags else 0]["debits_posted"]) == sum(range(41))
    found = book.iter_query_transfers(QueryFilter(flags=int(flags > 0), user_data_64=1), page=page)
    assert numbers(found) == [id for id in wanted if id > 3 and id % 3 == 1]


@pytest.mark.parametrize("page", [1, 2, 3, 6, 7])
def test_a_reversed_walk_that_reaches_timestamp_1_ends_there(book, page):
    """Right after timestamp 1 comes 0, and 0 is open: a walk that takes it for a bound never ends.
    """
    pages = book.iter_query_accounts(QueryFilter(flags=1), page=page)
    found = [row for _, rows in zip(range(20), pages, strict=False) for row in rows]
    assert [int(row["timestamp"]) for row in found] == list(reversed(STAMPS))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_range_and_limit_in_pages_is_what_one_call_gives(book, data):
    stamps = sorted(int(row["timestamp"]) for row in book.query_transfers(QueryFilter(limit=99)))
    near = st.sampled_from([*STAMPS, *stamps]).flatmap(
        lambda stamp: st.sampled_from([stamp - 1, stamp, stamp + 1])
    )
    low, high = data.draw(near), data.draw(near | st.just(0))
    if high and low > high:
        low, high = high, low
    limit, page = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 9))
    asked = {"timestamp_min": low, "timestamp_max": high, "limit": limit}
    for back in (0, 1):
        for walk, call in (
            (book.iter_query_accounts, book.query_accounts),
            (book.iter_query_transfers, book.query_transfers),
        ):
            filter = QueryFilter(flags=back, **asked)
            assert numbers(walk(filter, page=page)) == numbers([call(filter)])
        filter = AccountFilter(account_id=2, flags=BOTH | 4 * back, **asked)
        whole = numbers([book.get_account_transfers(filter)])
        assert numbers(book.iter_account_transfers(filter, page=page)) == whole


def test_an_empty_answer_has_no_page(book):
    assert list(book.iter_query_transfers(QueryFilter(ledger=7))) == []


def test_the_limit_counts_all_pages_and_may_be_more_than_one_call_gives(book):
    filter = QueryFilter(limit=100_000)
    assert numbers(book.iter_query_transfers(filter, page=7)) == list(range(1, 41))
    assert numbers(book.iter_query_transfers(QueryFilter(limit=15), page=7)) == list(range(1, 16))
    assert numbers(book.iter_query_transfers(QueryFilter(limit=14), page=7)) == list(range(1, 15))


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda book: book.iter_query_accounts([]), "filter: exactly one, not 0"),
        (lambda book: book.iter_query_accounts(QueryFilter(), page=0), "page: 0 is not within"),
        (lambda book: book.iter_query_accounts(QueryFilter(), page=8190), "page: 8190 is not"),
        (lambda book: book.iter_query_accounts(QueryFilter(), page="7"), "page: '7' is not an"),
        (lambda book: book.iter_account_transfers(AccountFilter(account_id=1)), "neither DEBITS"),
        (lambda book: book.iter_account_balances(QueryFilter()), "QueryFilter"),
    ],
)
def test_what_is_wrong_is_said_by_the_call_before_the_first_page(book, ask, why):
    with pytest.raises(ValueError, match=why):
        ask(book)


def test_what_is_paid_between_two_pages_comes_at_the_end_or_never():
    with ledger.open_temporary() as book:
        fill(book, 10)
        forwards = book.iter_account_transfers(AccountFilter(account_id=1, flags=BOTH), page=4)
        backwards = book.iter_account_transfers(AccountFilter(account_id=1, flags=7), page=4)
        first, last = next(forwards), next(backwards)
        book.create_transfers([pay(11)])
        assert numbers([first, *forwards]) == list(range(1, 12))
        assert numbers([last, *backwards]) == list(range(10, 0, -1))


def test_more_than_a_page_of_the_largest_size():
    with ledger.open_temporary() as book:
        fill(book, 20_000)
        pages = list(book.iter_account_transfers(AccountFilter(account_id=2, flags=BOTH)))
        assert list(map(len, pages)) == [8189, 8189, 20_000 - 2 * 8189]
        assert numbers(pages) == list(range(1, 20_001))


def test_a_loop_pages_too():
    async def walk() -> None:
        async with ledger.open_temporary_async() as book:
            await book.create_accounts([account(id) for id in (1, 2, 3)])
            await book.create_transfers([pay(id) for id in range(1, 8)])
            for flags, wanted in ((BOTH, [1, 2, 3, 4, 5, 6, 7]), (7, [7, 6, 5, 4, 3, 2, 1])):
                filter = AccountFilter(account_id=1, flags=flags)
                pages = [page async for page in book.iter_account_transfers(filter, page=3)]
                assert numbers(pages) == wanted
            filter = QueryFilter(limit=2)
            for pager in (book.iter_query_accounts, book.iter_query_transfers):
                assert numbers([page async for page in pager(filter, page=1)]) == [1, 2]
            with pytest.raises(ValueError, match="neither DEBITS"):
                book.iter_account_balances(AccountFilter(account_id=1))

    asyncio.run(walk())


def test_over_a_socket(server):
    with ledger.Client(server().address) as client:
        fill(client, 12)
        filter = AccountFilter(account_id=1, flags=BOTH | REVERSED)
        pages = list(client.iter_account_transfers(filter, page=5))
        assert numbers(pages) == list(range(12, 0, -1))
        assert schema.int_of(client.lookup_accounts([1])[0]["debits_posted"]) == sum(range(13))
        accounts = client.iter_query_accounts(QueryFilter(flags=1), page=2)
        assert numbers(accounts) == [6, 5, 4, 3, 2, 1]
