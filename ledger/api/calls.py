"""What every ledger can be asked, embedded or served, from a thread or a loop.

One list of calls for `Book`, `AsyncBook`, `Client` and `AsyncClient`: their names, what they take,
what comes back. A class that inherits says how one request is answered, and what a timeout ends.
This file knows neither engines nor sockets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from numbers import Real
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ledger.api import filters
from ledger.facts import limits, schema
from ledger.facts.schema import Account, AccountFilter, Operation, QueryFilter, Transfer

Rows = npt.NDArray[Any]
Answered = TypeVar("Answered")  # what a call returns: an array, or a coroutine of one
Awaited: TypeAlias = Coroutine[Any, Any, Rows]  # a type checker says when it is not awaited

Packed: TypeAlias = npt.NDArray[np.void] | bytes | bytearray | memoryview
Accounts: TypeAlias = Account | Sequence[Account] | Packed
Transfers: TypeAlias = Transfer | Sequence[Transfer] | Packed
Ids: TypeAlias = (
    int | Sequence[int | np.integer[Any] | npt.NDArray[np.uint64]] | npt.NDArray[np.uint64] | Packed
)
OneAccountFilter: TypeAlias = AccountFilter | Sequence[AccountFilter] | Packed
OneQueryFilter: TypeAlias = QueryFilter | Sequence[QueryFilter] | Packed
Records: TypeAlias = (
    Account | Transfer | Sequence[Account] | Sequence[Transfer] | npt.NDArray[np.void]
)


class Calls(ABC, Generic[Answered]):
    """The calls. Records are arrays of the dtype named, structs of the kind, or bytes; ids are
    integers, uint64 of shape (n, 2) low limb first, or bytes; a filter is one struct or an array
    of one. `timeout` is in seconds; the class says what it ends and what None means; `math.inf`
    waits for ever.

    Every call raises ValueError, before anything is asked, for what cannot be a request: records
    of another kind, numbers that do not fit, more than 8,189 events, a filter that selects nothing
    by the way it is written. A filter in bytes is sent as it is.
    """

    @abstractmethod
    def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Answered:
        """Have one request of one batch answered: an array of the operation's result."""

    def create_accounts(self, accounts: Accounts, timeout: float | None = None) -> Answered:
        """Create accounts (ACCOUNT, (n,)), each on its own or, where linked, together.

        An array of CREATE_RESULT, (n,): status (AccountStatus) and timestamp (ns since 1970).
        """
        return self._call(Operation.CREATE_ACCOUNTS, accounts, timeout)

    def create_transfers(self, transfers: Transfers, timeout: float | None = None) -> Answered:
        """Create transfers (TRANSFER, (n,)), each on its own or, where linked, together.

        The id is the idempotency key: what is sent again is answered `exists`. An array of
        CREATE_RESULT, (n,): status (TransferStatus) and timestamp (ns since 1970).
        """
        return self._call(Operation.CREATE_TRANSFERS, transfers, timeout)

    def lookup_accounts(self, ids: Ids, timeout: float | None = None) -> Answered:
        """The accounts that exist, in the order asked: array of ACCOUNT, (m,), m <= len(ids)."""
        return self._call(Operation.LOOKUP_ACCOUNTS, ids, timeout)

    def lookup_transfers(self, ids: Ids, timeout: float | None = None) -> Answered:
        """The transfers that exist, in the order asked: array of TRANSFER, (m,), m <= len(ids)."""
        return self._call(Operation.LOOKUP_TRANSFERS, ids, timeout)

    def get_account_transfers(
        self, filter: OneAccountFilter, timeout: float | None = None
    ) -> Answered:
        """Transfers of an account by time, by an AccountFilter: array of TRANSFER, (m,)."""
        return self._call(Operation.GET_ACCOUNT_TRANSFERS, filter, timeout)

    def get_account_balances(
        self, filter: OneAccountFilter, timeout: float | None = None
    ) -> Answered:
        """An account's balances right after each transfer that an AccountFilter selects.

        Array of ACCOUNT_BALANCE, (m,); empty unless the account has the flag HISTORY.
        """
        return self._call(Operation.GET_ACCOUNT_BALANCES, filter, timeout)

    def query_accounts(self, filter: OneQueryFilter, timeout: float | None = None) -> Answered:
        """Accounts by their fields and time, by a QueryFilter: array of ACCOUNT, (m,)."""
        return self._call(Operation.QUERY_ACCOUNTS, filter, timeout)

    def query_transfers(self, filter: OneQueryFilter, timeout: float | None = None) -> Answered:
        """Transfers by their fields and time, by a QueryFilter: array of TRANSFER, (m,)."""
        return self._call(Operation.QUERY_TRANSFERS, filter, timeout)

    def _call(self, operation: Operation, value: Any, timeout: float | None) -> Answered:
        shape = schema.SHAPES[operation]
        events = schema.records(value, shape.event)
        if shape.single:
            if len(events) != 1:
                raise ValueError(f"filter: exactly one, not {len(events)}")
            if not isinstance(value, bytes | bytearray | memoryview):
                filters.check(operation, events)
        if len(events) > limits.EVENTS_MAX:
            how = "create_many splits them" if shape.creates else "ask for them in parts"
            raise ValueError(
                f"{len(events)} events are more than one request holds, {limits.EVENTS_MAX}: {how}"
            )
        return self._ask(operation, events, None if timeout is None else seconds(timeout))


def seconds(timeout: float) -> float:
    """A timeout that every clock here takes. ValueError for what is no time from now on."""
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise ValueError(f"timeout: {timeout!r} is no number of seconds")
    try:
        wanted = float(timeout)
    except OverflowError:  # an integer or a fraction
        wanted = math.inf if timeout > 0 else -math.inf
    if math.isnan(wanted) or wanted < 0:
        raise ValueError(f"timeout: {wanted} is not 0 or more seconds (math.inf is for ever)")
    return min(wanted, limits.WAIT_SECONDS_MAX)


def kind(records: Any) -> tuple[Operation, Rows]:
    """The records of a create_many as an array, and the operation that their kind asks for."""
    sequence = isinstance(records, Sequence) and not isinstance(records, str | bytes | bytearray)
    first = records[0] if sequence and len(records) else records
    dtype = records.dtype if isinstance(records, np.ndarray) else None
    if isinstance(first, schema.Account) or dtype == schema.ACCOUNT:
        return Operation.CREATE_ACCOUNTS, schema.records(records, schema.ACCOUNT)
    if isinstance(first, schema.Transfer) or dtype == schema.TRANSFER:
        return Operation.CREATE_TRANSFERS, schema.records(records, schema.TRANSFER)
    if sequence and not len(records):
        return Operation.CREATE_TRANSFERS, schema.records([], schema.TRANSFER)
    if isinstance(first, np.void):
        raise ValueError("records: one row alone is no array of rows: give rows[0:1]")
    if isinstance(records, Iterator):
        raise ValueError(
            f"records: {schema.a(records)} is no array or list of accounts or transfers: give"
            " list(it)"
        )
    raise ValueError(
        f"records: {schema.a(first)}, neither accounts nor transfers (bytes do not say which they"
        " are)"
    )


def pieces(rows: Rows) -> list[Rows]:
    """`rows` (ACCOUNT or TRANSFER) in requests of at most 8,189 that never cut a chain.

    ValueError for a chain of linked events that is longer.
    """
    linked = (rows["flags"] & int(schema.TransferFlags.LINKED)) != 0
    return [rows[start:end] for start, end in _cuts(linked)]


def _cuts(linked: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    start, count = 0, len(linked)
    while start < count:
        end = min(start + limits.EVENTS_MAX, count)
        if end < count:
            ends = np.flatnonzero(~linked[start:end])
            if len(ends) == 0:
                raise ValueError(
                    f"records[{start}]: a chain of more than {limits.EVENTS_MAX} events begins here"
                )
            end = start + int(ends[-1]) + 1
        yield start, end
        start = end
