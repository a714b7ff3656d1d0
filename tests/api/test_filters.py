"""Filters: each way to write one that selects nothing has its own error; the others are let be."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger
from ledger.api import filters
from ledger.facts import schema
from ledger.facts.schema import AccountFilter, Operation, QueryFilter

NOW_NS = 1_790_000_000_000_000_000
OF_ACCOUNT = {"account_id": 1, "limit": 10, "flags": 3}


def check(**fields: int) -> None:
    """The check of an account's filter and, where the fields are its too, of a query's."""
    filters.check(
        Operation.GET_ACCOUNT_TRANSFERS,
        schema.pack_account_filters([AccountFilter(**OF_ACCOUNT | fields)]),
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"limit": 0}, "filter.limit: 0 selects nothing, give 1 .. 8189"),
        ({"limit": 8190}, "filter.limit: 8190 is more .* iter_account_transfers pages"),
        ({"limit": 100_000}, "filter.limit: 100000 is more than one call gives, 8189"),
        ({"flags": 0}, "filter.flags: neither DEBITS nor CREDITS"),
        ({"flags": 4}, "filter.flags: neither DEBITS nor CREDITS"),
        ({"flags": 8 | 3}, "filter.flags: 0xb has bits that are no AccountFilterFlags"),
        ({"account_id": 0}, "filter.account_id: 0 and 2"),
        ({"account_id": 2**128 - 1}, "filter.account_id"),
        ({"timestamp_min": 6, "timestamp_max": 5}, "filter.timestamp_min: 6 is after"),
        ({"timestamp_min": 2**63}, "filter.timestamp_min: 9223372036854775808 is not within"),
        ({"timestamp_max": 2**64 - 1}, "filter.timestamp_max: .* is not within"),
        ({"timestamp_min": NOW_NS // 10**9}, "looks like seconds, .* give 1790000000000000000"),
        ({"timestamp_max": NOW_NS // 10**6}, "looks like milliseconds, .* give 179000000000000"),
        ({"timestamp_max": NOW_NS // 10**3}, "looks like microseconds, .* give 179000000000000"),
    ],
)
def test_a_filter_that_selects_nothing_by_how_it_is_written(fields, why):
    with pytest.raises(ValueError, match=why):
        check(**fields)


def test_reserved_must_be_zeros():
    row = schema.pack_query_filters([QueryFilter(limit=1)])
    row["reserved"][0, 3] = 1
    with pytest.raises(ValueError, match=re.escape("filter.reserved: must be zeros")):
        filters.check(Operation.QUERY_TRANSFERS, row)


@pytest.mark.parametrize("operation", [Operation.QUERY_ACCOUNTS, Operation.QUERY_TRANSFERS])
def test_a_query_has_one_flag_and_needs_none(operation):
    filters.check(operation, schema.pack_query_filters([QueryFilter(limit=1)]))
    filters.check(operation, schema.pack_query_filters([QueryFilter(limit=1, flags=1)]))
    with pytest.raises(ValueError, match="no QueryFilterFlags"):
        filters.check(operation, schema.pack_query_filters([QueryFilter(limit=1, flags=2)]))
    with pytest.raises(ValueError, match=f"iter_{operation.name.lower()} pages"):
        filters.check(operation, schema.pack_query_filters([QueryFilter(limit=8190)]))


TIMES = st.integers(0, 900_000_000) | st.integers(NOW_NS - 10**18, NOW_NS + 10**18)


@given(st.tuples(TIMES, TIMES).map(sorted), st.integers(1, 8189), st.integers(1, 3))
def test_times_of_this_age_and_small_stamps_of_imports_pass(times, limit, flags):
    low, high = times
    check(timestamp_min=low, timestamp_max=high, limit=limit, flags=flags)
    check(timestamp_min=low, limit=limit, flags=flags | 4)


def test_the_calls_ask_nothing_for_such_a_filter_and_bytes_pass_unread():
    """Of all four, as structs and as arrays; nothing is refused that the wire may say."""
    with ledger.open_temporary() as book:
        book.create_accounts([ledger.Account(id=1, ledger=1, code=1)])
        of_account = (book.get_account_transfers, book.get_account_balances)
        asked = [(call, AccountFilter(account_id=1, flags=3)) for call in of_account]
        asked += [(call, QueryFilter()) for call in (book.query_accounts, book.query_transfers)]
        for call, filter in asked:
            dtype = schema.ACCOUNT_FILTER if call in of_account else schema.QUERY_FILTER
            rows = schema.records(filter, dtype)
            for wrong in (filter, [filter], rows):
                with pytest.raises(ValueError, match=re.escape("filter.limit: 0")):
                    call(wrong)
            for raw in (rows.tobytes(), bytearray(rows.tobytes()), memoryview(rows.tobytes())):
                assert len(call(raw)) == 0
        everything = schema.pack_query_filters([QueryFilter(limit=100_000)])
        assert np.array_equal(book.query_accounts(everything.tobytes())["id"], [[1, 0]])
