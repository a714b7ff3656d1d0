"""Edge: our own client of the binary door, for asyncio (`AsyncClient`) and for threads (`Client`).

Here live many requests at once and the thread that serves programs without an event loop. The calls
are those of calls.py, how requests travel is link.py's. This file knows nothing of frames, engines,
books or directories.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import numpy as np

from ledger import config, schema
from ledger.calls import Records, Rows, kind, pieces
from ledger.errors import LedgerError, WrongProcess
from ledger.link import Link
from ledger.paging import AsyncPages, Pages
from ledger.schema import Operation

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop, uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class AsyncClient(AsyncPages):
    """A client for asyncio. All calls come from one event loop; they may overlap.

    `address` is "HOST:PORT"; `sessions` is how many requests may be under way at once; `timeout`
    is how long a call may take, in seconds, unless the call says otherwise. The connection is made
    by the first call and made again whenever it is lost.

    Every call raises, besides ValueError for wrong arguments:
    ConnectionError -- the server was never reached; nothing was executed.
    Busy -- no session came free in time, or too many callers wait; nothing was executed.
    OutcomeUnknown -- sent, but not answered in time; retry with the same ids.
    SessionEvicted -- the server ended the client's session: from then on every call raises it and a
        new client is needed. The reason no_session may mean that the server has lost its history.
    HistoryLost -- the server answered at an earlier position than it had before: its journal was
        put back from a copy. From then on every call raises it and a new client is needed.
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

    async def create_many(self, records: Records) -> Rows:
        """Create any number of accounts or of transfers, several requests at a time.

        `records` is an array of ACCOUNT or TRANSFER, or structs of one kind. It is cut where
        chains end. Order is kept inside a request (up to 8,189 records), not between them: send
        what must come first in an earlier call. Returns an array of CREATE_RESULT in the order of
        `records`. When a call fails, all of it may be repeated with the same ids. ValueError, with
        nothing sent, for a chain longer than a request.
        """
        operation, rows = kind(records)
        numbered = enumerate(pieces(rows))
        results: dict[int, Rows] = {}

        async def work() -> None:
            for index, piece in numbered:
                results[index] = await self._ask(operation, piece, None)

        workers = min(self._sessions_max, -(-len(rows) // config.EVENTS_MAX) + 1)
        await _all([work() for _ in range(workers)])
        empty = np.zeros(0, schema.CREATE_RESULT)
        return np.concatenate([empty, *(results[index] for index in range(len(results)))])

    async def close(self) -> None:
        """End the connection. Calls still under way raise OutcomeUnknown or ConnectionError."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Rows:
        return await self._link.request(operation, events, timeout)


async def _all(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error ends the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Client(Pages):
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

    def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Rows:
        return self._run(lambda: self._client._ask(operation, events, timeout))

    def create_many(self, records: Records) -> Rows:
        """See AsyncClient.create_many."""
        return self._run(lambda: self._client.create_many(records))

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
