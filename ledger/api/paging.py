"""Answers longer than one call gives, page after page, by the timestamps of their records.

A timestamp names one record of its kind, and none is ever made behind one that exists, so a page
goes on right after the last record of the one before, in both directions. `Pages` is for threads
and `AsyncPages` for a loop; both ask with the calls of calls.py. This file keeps nothing between
two pages but the filter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ledger.api import calls, filters
from ledger.api.calls import Calls, Rows
from ledger.facts import limits, schema
from ledger.facts.schema import Operation


class _Walk:
    """Where a walk through the pages is: the filter of the next page, and whether there is one."""

    def __init__(self, operation: Operation, filter: Any, page: int) -> None:
        rows = schema.records(filter, schema.SHAPES[operation].event)
        if len(rows) != 1:
            raise ValueError(f"filter: exactly one, not {len(rows)}")
        if not isinstance(filter, bytes | bytearray | memoryview):
            filters.check_range(rows[0])
        self._page = schema.whole("page", page, 32)
        if not 1 <= self._page <= limits.EVENTS_MAX:
            raise ValueError(f"page: {page} is not within 1 .. {limits.EVENTS_MAX}")
        self._filter = rows.copy()
        backwards = {schema.ACCOUNT_FILTER: schema.AccountFilterFlags.REVERSED}
        bit = backwards.get(rows.dtype, schema.QueryFilterFlags.REVERSED)
        self._reversed = bool(int(rows["flags"][0]) & int(bit))
        self._left = int(rows["limit"][0]) or None  # None: all there are
        self.over = False

    def ask(self) -> bytes:
        """The filter of the next page, in bytes: its timestamps are the ledger's, not a person's.
        """
        limit = self._page if self._left is None else min(self._page, self._left)
        self._filter["limit"] = limit
        return self._filter.tobytes()

    def took(self, rows: Rows) -> None:
        """The page that was asked for is `rows`."""
        self.over = len(rows) < int(self._filter["limit"][0])
        if self._left is not None:
            self._left -= len(rows)
            self.over = self.over or self._left <= 0
        if self.over:
            return
        last = int(rows["timestamp"][-1])
        first = int(self._filter["timestamp_min"][0])
        end = int(self._filter["timestamp_max"][0]) or filters.TIMESTAMP_MAX
        # The field after the last record must be none that means "open", nor behind the range.
        if self._reversed:
            self.over = last <= max(first, 1)
            self._filter["timestamp_max"] = last - 1
        else:
            self.over = last >= end
            self._filter["timestamp_min"] = last + 1


def _walk(ask: Callable[..., Rows], walk: _Walk, timeout: float | None) -> Iterator[Rows]:
    while not walk.over:
        rows = ask(walk.ask(), timeout)
        walk.took(rows)
        if len(rows):
            yield rows


async def _walk_async(
    ask: Callable[..., calls.Awaited], walk: _Walk, timeout: float | None
) -> AsyncIterator[Rows]:
    while not walk.over:
        rows = await ask(walk.ask(), timeout)
        walk.took(rows)
        if len(rows):
            yield rows


class Pages(Calls[Rows]):
    """Whole answers, in arrays of at most `page` records each; an empty answer has no page.

    The filter's `limit` counts all pages together; 0 takes all there is. `timeout` is each page's.
    What is created between two pages is in a later page, or not: forwards it comes at the end (a
    filter with a timestamp_max ends, however much is paid meanwhile), with REVERSED it does not
    come. Nothing comes twice and nothing that existed before the first page is left out.
    """

    def iter_account_transfers(
        self,
        filter: calls.OneAccountFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> Iterator[Rows]:
        """get_account_transfers in pages: arrays of TRANSFER."""
        walk = _Walk(Operation.GET_ACCOUNT_TRANSFERS, filter, page)
        return _walk(self.get_account_transfers, walk, timeout)

    def iter_account_balances(
        self,
        filter: calls.OneAccountFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> Iterator[Rows]:
        """get_account_balances in pages: arrays of ACCOUNT_BALANCE."""
        walk = _Walk(Operation.GET_ACCOUNT_BALANCES, filter, page)
        return _walk(self.get_account_balances, walk, timeout)

    def iter_query_accounts(
        self,
        filter: calls.OneQueryFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> Iterator[Rows]:
        """query_accounts in pages: arrays of ACCOUNT."""
        walk = _Walk(Operation.QUERY_ACCOUNTS, filter, page)
        return _walk(self.query_accounts, walk, timeout)

    def iter_query_transfers(
        self,
        filter: calls.OneQueryFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> Iterator[Rows]:
        """query_transfers in pages: arrays of TRANSFER."""
        walk = _Walk(Operation.QUERY_TRANSFERS, filter, page)
        return _walk(self.query_transfers, walk, timeout)


class AsyncPages(Calls[calls.Awaited]):
    """As Pages, for `async for`."""

    def iter_account_transfers(
        self,
        filter: calls.OneAccountFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> AsyncIterator[Rows]:
        """get_account_transfers in pages: arrays of TRANSFER."""
        walk = _Walk(Operation.GET_ACCOUNT_TRANSFERS, filter, page)
        return _walk_async(self.get_account_transfers, walk, timeout)

    def iter_account_balances(
        self,
        filter: calls.OneAccountFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> AsyncIterator[Rows]:
        """get_account_balances in pages: arrays of ACCOUNT_BALANCE."""
        walk = _Walk(Operation.GET_ACCOUNT_BALANCES, filter, page)
        return _walk_async(self.get_account_balances, walk, timeout)

    def iter_query_accounts(
        self,
        filter: calls.OneQueryFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> AsyncIterator[Rows]:
        """query_accounts in pages: arrays of ACCOUNT."""
        walk = _Walk(Operation.QUERY_ACCOUNTS, filter, page)
        return _walk_async(self.query_accounts, walk, timeout)

    def iter_query_transfers(
        self,
        filter: calls.OneQueryFilter,
        page: int = limits.EVENTS_MAX,
        timeout: float | None = None,
    ) -> AsyncIterator[Rows]:
        """query_transfers in pages: arrays of TRANSFER."""
        walk = _Walk(Operation.QUERY_TRANSFERS, filter, page)
        return _walk_async(self.query_transfers, walk, timeout)
