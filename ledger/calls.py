"""View: what every ledger can be asked, embedded or served, from a thread or a loop.

One list of calls for `Book`, `AsyncBook`, `Client` and `AsyncClient`: their names, what they take,
what comes back. A class that inherits says how one request is answered, and what a timeout ends.
This file knows neither engines nor sockets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ledger import config, schema
from ledger.schema import Operation

Rows = npt.NDArray[Any]
Answered = TypeVar("Answered")  # what a call returns: an array, or an awaitable of one


class Calls(ABC, Generic[Answered]):
    """The calls. Records are arrays of the dtype named, structs of the kind, or bytes; ids are
    integers, uint64 of shape (n, 2) low limb first, or bytes; a filter is one struct or an array
    of one. `timeout` is in seconds; the class says what it ends and what None means.

    Every call raises ValueError, before anything is asked, for what cannot be a request: records
    of another kind, numbers that do not fit, more than 8,189 events.
    """

    @abstractmethod
    def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Answered:
        """Have one request of one batch answered: an array of the operation's result."""

    def create_accounts(self, accounts: object, timeout: float | None = None) -> Answered:
        """Create accounts (ACCOUNT, (n,)), each on its own or, where linked, together.

        An array of CREATE_RESULT, (n,): status (AccountStatus) and timestamp (ns since 1970).
        """
        return self._call(Operation.CREATE_ACCOUNTS, accounts, timeout)

    def create_transfers(self, transfers: object, timeout: float | None = None) -> Answered:
        """Create transfers (TRANSFER, (n,)), each on its own or, where linked, together.

        The id is the idempotency key: what is sent again is answered `exists`. An array of
        CREATE_RESULT, (n,): status (TransferStatus) and timestamp (ns since 1970).
        """
        return self._call(Operation.CREATE_TRANSFERS, transfers, timeout)

    def lookup_accounts(self, ids: object, timeout: float | None = None) -> Answered:
        """The accounts that exist, in the order asked: array of ACCOUNT, (m,), m <= len(ids)."""
        return self._call(Operation.LOOKUP_ACCOUNTS, ids, timeout)

    def lookup_transfers(self, ids: object, timeout: float | None = None) -> Answered:
        """The transfers that exist, in the order asked: array of TRANSFER, (m,), m <= len(ids)."""
        return self._call(Operation.LOOKUP_TRANSFERS, ids, timeout)

    def get_account_transfers(self, filter: object, timeout: float | None = None) -> Answered:
        """Transfers of an account by time, by an AccountFilter: array of TRANSFER, (m,)."""
        return self._call(Operation.GET_ACCOUNT_TRANSFERS, filter, timeout)

    def get_account_balances(self, filter: object, timeout: float | None = None) -> Answered:
        """An account's balances right after each transfer that an AccountFilter selects.

        Array of ACCOUNT_BALANCE, (m,); empty unless the account has the flag HISTORY.
        """
        return self._call(Operation.GET_ACCOUNT_BALANCES, filter, timeout)

    def query_accounts(self, filter: object, timeout: float | None = None) -> Answered:
        """Accounts by their fields and time, by a QueryFilter: array of ACCOUNT, (m,)."""
        return self._call(Operation.QUERY_ACCOUNTS, filter, timeout)

    def query_transfers(self, filter: object, timeout: float | None = None) -> Answered:
        """Transfers by their fields and time, by a QueryFilter: array of TRANSFER, (m,)."""
        return self._call(Operation.QUERY_TRANSFERS, filter, timeout)

    def _call(self, operation: Operation, value: object, timeout: float | None) -> Answered:
        shape = schema.SHAPES[operation]
        events = schema.records(value, shape.event)
        if shape.single and len(events) != 1:
            raise ValueError(f"filter: exactly one, not {len(events)}")
        if len(events) > config.EVENTS_MAX:
            raise ValueError(
                f"{len(events)} events are more than one request holds, {config.EVENTS_MAX}:"
                " create_many splits them"
            )
        return self._ask(operation, events, timeout)


def kind(records: object) -> tuple[Operation, Rows]:
    """The records of a create_many as an array, and the operation that their kind asks for."""
    first = records[0] if isinstance(records, list | tuple) and records else records
    dtype = records.dtype if isinstance(records, np.ndarray) else None
    if isinstance(first, schema.Account) or dtype == schema.ACCOUNT:
        return Operation.CREATE_ACCOUNTS, schema.records(records, schema.ACCOUNT)
    if isinstance(first, schema.Transfer) or dtype == schema.TRANSFER or first == []:
        return Operation.CREATE_TRANSFERS, schema.records(records, schema.TRANSFER)
    raise ValueError("records: neither accounts nor transfers (bytes do not say which they are)")


def pieces(rows: Rows) -> list[Rows]:
    """`rows` (ACCOUNT or TRANSFER) in requests of at most 8,189 that never cut a chain.

    ValueError for a chain of linked events that is longer.
    """
    linked = (rows["flags"] & int(schema.TransferFlags.LINKED)) != 0
    return [rows[start:end] for start, end in _cuts(linked)]


def _cuts(linked: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    start, count = 0, len(linked)
    while start < count:
        end = min(start + config.EVENTS_MAX, count)
        if end < count:
            ends = np.flatnonzero(~linked[start:end])
            if len(ends) == 0:
                raise ValueError(
                    f"records[{start}]: a chain of more than {config.EVENTS_MAX} events begins here"
                )
            end = start + int(ends[-1]) + 1
        yield start, end
        start = end
