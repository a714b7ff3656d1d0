"""Edge: our own client of the binary door, for asyncio (`AsyncClient`) and for threads (`Client`).

Here live the calls: what they take and return, how a long array is cut into requests, and the
thread that serves programs without an event loop. How requests travel is link.py's. This file knows
records through the schema; it knows nothing of frames, engines, books or directories.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

import numpy as np

from ledger import config, schema
from ledger.errors import LedgerError, WrongProcess
from ledger.link import Link, Rows
from ledger.schema import Operation

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop, uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _pieces(rows: Rows) -> Iterator[Rows]:
    """`rows` in requests of at most EVENTS_MAX that end where a chain ends."""
    linked = (rows["flags"] & schema.TransferFlags.LINKED) != 0
    ends = np.flatnonzero(~linked) + 1
    if len(rows) and linked[-1]:
        ends = np.append(ends, len(rows))
    start = 0
    cuts = []
    while start < len(rows):
        index = np.searchsorted(ends, start + config.EVENTS_MAX, side="right") - 1
        end = int(ends[index]) if index >= 0 else 0
        if end <= start:
            raise ValueError(
                f"records[{start}]: a chain of more than {config.EVENTS_MAX} events begins here"
            )
        cuts.append((start, end))
        start = end
    return (rows[start:end] for start, end in cuts)


class AsyncClient:
    """A client for asyncio. All calls come from one event loop; they may overlap.

    `address` is "HOST:PORT"; `sessions` is how many requests may be under way at once; `timeout`
    is how long a call may take, in seconds. The connection is made by the first call and made
    again whenever it is lost.

    Every call raises, besides ValueError for wrong arguments:
    ConnectionError -- the server was never reached; nothing was executed.
    Busy -- no session came free in time, or too many callers wait; nothing was executed.
    OutcomeUnknown -- sent, but not answered in time; retry with the same ids.
    SessionEvicted -- the server ended the client's session: from then on every call raises it and a
        new client is needed. The reason no_session may mean that the server has lost its history.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:3000",
        cluster: int = 0,
        sessions: int = config.CLIENT_SESSIONS,
        timeout: float = config.REQUEST_SECONDS_MAX,
    ) -> None:
        self._link = Link(address, cluster, sessions, timeout)
        self._sessions_max = sessions

    @property
    def address(self) -> str:
        return self._link.address

    @property
    def position(self) -> int:
        """Highest position a reply has seen."""
        return self._link.position

    # ---- calls ----------------------------------------------------------------------------------

    async def create_accounts(self, accounts: object) -> Rows:
        """Create `accounts` (array of ACCOUNT, bytes, or Account structs; at most 8,189).

        Returns an array of CREATE_RESULT, one result an account in order: `status` is an
        AccountStatus, `timestamp` ns since 1970.
        """
        return await self._call(Operation.CREATE_ACCOUNTS, accounts)

    async def create_transfers(self, transfers: object) -> Rows:
        """Create `transfers` (array of TRANSFER, bytes, or Transfer structs; at most 8,189).

        Returns an array of CREATE_RESULT, one result a transfer in order: `status` is a
        TransferStatus, `timestamp` ns since 1970. A chain never spans two calls.
        """
        return await self._call(Operation.CREATE_TRANSFERS, transfers)

    async def create_many(self, records: object) -> Rows:
        """Create any number of accounts or of transfers, several requests at a time.

        `records` is an array of ACCOUNT or TRANSFER, or structs of one kind. It is cut where
        chains end. Order is kept inside a request (up to 8,189 records), not between them: send
        what must come first in an earlier call. Returns an array of CREATE_RESULT in the order of
        `records`. When a call fails, all of it may be repeated with the same ids. ValueError, with
        nothing sent, for a chain longer than a request.
        """
        operation, rows = _kind(records)
        pieces = enumerate(_pieces(rows))
        results: dict[int, Rows] = {}

        async def work() -> None:
            for index, piece in pieces:
                results[index] = await self._call(operation, piece)

        workers = min(self._sessions_max, -(-len(rows) // config.EVENTS_MAX) + 1)
        await _all([work() for _ in range(workers)])
        empty = np.zeros(0, schema.CREATE_RESULT)
        return np.concatenate([empty, *(results[index] for index in range(len(results)))])

    async def lookup_accounts(self, ids: object) -> Rows:
        """Accounts by id (integers, (n, 2) uint64, array of ID, or bytes; at most 8,189).

        Returns an array of ACCOUNT in the order asked; ids that are not there are left out.
        """
        return await self._call(Operation.LOOKUP_ACCOUNTS, ids)

    async def lookup_transfers(self, ids: object) -> Rows:
        """Transfers by id, as lookup_accounts. Returns an array of TRANSFER."""
        return await self._call(Operation.LOOKUP_TRANSFERS, ids)

    async def get_account_transfers(self, filter: object) -> Rows:
        """Transfers of one account, by an AccountFilter. Returns an array of TRANSFER."""
        return await self._call(Operation.GET_ACCOUNT_TRANSFERS, filter)

    async def get_account_balances(self, filter: object) -> Rows:
        """Balances of one account after each transfer that an AccountFilter selects.

        Returns an array of ACCOUNT_BALANCE; empty unless the account has the flag history.
        """
        return await self._call(Operation.GET_ACCOUNT_BALANCES, filter)

    async def query_accounts(self, filter: object) -> Rows:
        """Accounts by a QueryFilter. Returns an array of ACCOUNT."""
        return await self._call(Operation.QUERY_ACCOUNTS, filter)

    async def query_transfers(self, filter: object) -> Rows:
        """Transfers by a QueryFilter. Returns an array of TRANSFER."""
        return await self._call(Operation.QUERY_TRANSFERS, filter)

    async def close(self) -> None:
        """End the connection. Calls still under way raise OutcomeUnknown or ConnectionError."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, operation: Operation, value: object) -> Rows:
        shape = schema.SHAPES[operation]
        events = schema.records(value, shape.event)
        if shape.single and len(events) != 1:
            raise ValueError(f"filter: exactly one, not {len(events)}")
        if len(events) > config.EVENTS_MAX:
            raise ValueError(f"{len(events)} events are more than {config.EVENTS_MAX} in a call")
        return await self._link.request(operation, events)


def _kind(records: object) -> tuple[Operation, Rows]:
    """Whether `records` are accounts or transfers, and as an array."""
    first = records
    if isinstance(records, list | tuple) and records:
        first = records[0]
    dtype = records.dtype if isinstance(records, np.ndarray) else None
    if isinstance(first, schema.Account) or dtype == schema.ACCOUNT:
        return Operation.CREATE_ACCOUNTS, schema.records(records, schema.ACCOUNT)
    if isinstance(first, schema.Transfer) or dtype == schema.TRANSFER or first == []:
        return Operation.CREATE_TRANSFERS, schema.records(records, schema.TRANSFER)
    raise ValueError("records: neither accounts nor transfers (bytes do not say which they are)")


async def _all(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Client:
    """A client for programs without an event loop. May be used from several threads at once.

    The arguments, methods and errors are AsyncClient's. It runs an event loop in a thread of its
    own. WrongProcess when used after a fork.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:3000",
        cluster: int = 0,
        sessions: int = config.CLIENT_SESSIONS,
        timeout: float = config.REQUEST_SECONDS_MAX,
    ) -> None:
        self._client = AsyncClient(address, cluster, sessions, timeout)
        self._pid = os.getpid()
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True,
                                        name=f"ledger client {address}")
        self._thread.start()

    @property
    def address(self) -> str:
        return self._client.address

    @property
    def position(self) -> int:
        """Highest position a reply has seen."""
        return self._client.position

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if os.getpid() != self._pid:
            raise WrongProcess("the client was made by another process: make one after the fork")
        if self._loop.is_closed():
            raise LedgerError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def create_accounts(self, accounts: object) -> Rows:
        """See AsyncClient.create_accounts."""
        return self._run(lambda: self._client.create_accounts(accounts))

    def create_transfers(self, transfers: object) -> Rows:
        """See AsyncClient.create_transfers."""
        return self._run(lambda: self._client.create_transfers(transfers))

    def create_many(self, records: object) -> Rows:
        """See AsyncClient.create_many."""
        return self._run(lambda: self._client.create_many(records))

    def lookup_accounts(self, ids: object) -> Rows:
        """See AsyncClient.lookup_accounts."""
        return self._run(lambda: self._client.lookup_accounts(ids))

    def lookup_transfers(self, ids: object) -> Rows:
        """See AsyncClient.lookup_transfers."""
        return self._run(lambda: self._client.lookup_transfers(ids))

    def get_account_transfers(self, filter: object) -> Rows:
        """See AsyncClient.get_account_transfers."""
        return self._run(lambda: self._client.get_account_transfers(filter))

    def get_account_balances(self, filter: object) -> Rows:
        """See AsyncClient.get_account_balances."""
        return self._run(lambda: self._client.get_account_balances(filter))

    def query_accounts(self, filter: object) -> Rows:
        """See AsyncClient.query_accounts."""
        return self._run(lambda: self._client.query_accounts(filter))

    def query_transfers(self, filter: object) -> Rows:
        """See AsyncClient.query_transfers."""
        return self._run(lambda: self._client.query_transfers(filter))

    def close(self) -> None:
        """End the connection and the thread. Calls under way in other threads raise."""
        if self._loop.is_closed() or os.getpid() != self._pid:
            return
        self._run(self._client.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
