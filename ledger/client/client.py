"""Our own client of the binary door, for asyncio (`AsyncClient`) and for threads (`Client`).

Here live many requests at once and the thread that serves programs without an event loop. The calls
are those of calls.py, how requests travel is connection.py's. This file knows nothing of frames,
engines, books or directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, NoReturn, Self, TypeVar

import numpy as np

from ledger.api.calls import Records, Rows, kind, pieces
from ledger.api.paging import AsyncPages, Pages
from ledger.base.worker import Own, check_outside
from ledger.client.connection import Link
from ledger.facts import limits, schema
from ledger.facts.errors import WrongProcess
from ledger.facts.schema import Operation

T = TypeVar("T")

CLOSED = "the client is closed"


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop, uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class AsyncClient(AsyncPages):
    """A client for asyncio. All calls come from one event loop (RuntimeError in another, and
    nothing is sent); they may overlap. A cancelled call ends at once: what was not sent is never
    sent, of what was the outcome is unknown.

    `address` is "HOST:PORT"; `sessions` is how many requests may be under way at once; `timeout`
    is how long a call may take, in seconds, unless the call says otherwise. The connection is made
    by the first call and made again whenever it is lost.

    Every call raises, besides ValueError for wrong arguments and once the client is closed:
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
        sessions: int = limits.CLIENT_SESSIONS,
        timeout: float = limits.REQUEST_SECONDS_MAX,
    ) -> None:
        self._link = Link(address, cluster, sessions, timeout)
        self._sessions_max = sessions
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the first call

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
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

        workers = min(self._sessions_max, -(-len(rows) // limits.EVENTS_MAX) + 1)
        await _all([work() for _ in range(workers)])
        empty = np.zeros(0, schema.CREATE_RESULT)
        return np.concatenate([empty, *(results[index] for index in range(len(results)))])

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client belongs to the process that made it and cannot be pickled")

    async def close(self) -> None:
        """End the connection. Calls still under way raise OutcomeUnknown or ConnectionError."""
        self._check_loop()
        await self._link.close()

    def _check_loop(self) -> None:
        """RuntimeError, before anything is sent, in another loop than that of the first call."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise RuntimeError(
                "an AsyncClient is called in one asyncio loop, that of its first call; nothing was"
                " sent: make a client for each loop, or use `ledger.Client`"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Rows:
        self._check_loop()
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
    own. WrongProcess when used after a fork; RuntimeError inside a call, from a finalizer that runs
    in that thread. What interrupts a call is raised at once, and its outcome is then unknown.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:3000",
        cluster: int = 0,
        sessions: int = limits.CLIENT_SESSIONS,
        timeout: float = limits.REQUEST_SECONDS_MAX,
    ) -> None:
        self._client = AsyncClient(address, cluster, sessions, timeout)
        self._pid = os.getpid()
        self._service = _Service(f"ledger client {address}")
        finalizer = weakref.finalize(self, _dropped, self._client, self._service, self._pid)
        finalizer.atexit = False

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self._client.address

    @property
    def position(self) -> int:
        """Highest position a reply has seen."""
        return self._client.position

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client belongs to the process that made it and cannot be pickled")

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if os.getpid() != self._pid:
            raise WrongProcess("the client was made by another process: make one after the fork")
        check_outside()  # a finalizer in the loop's thread would wait for itself
        return self._service.run(call)

    def _ask(self, operation: Operation, events: Rows, timeout: float | None) -> Rows:
        return self._run(lambda: self._client._ask(operation, events, timeout))

    def create_many(self, records: Records) -> Rows:
        """See AsyncClient.create_many."""
        return self._run(lambda: self._client.create_many(records))

    def close(self) -> None:
        """End the connection and the thread. Calls under way in other threads raise."""
        if self._service.over or os.getpid() != self._pid:
            return
        try:
            self._run(self._client.close)
        finally:
            self._service.stop()
        self._service.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Service:
    """An event loop in a thread of its own, and whoever waits for what it does."""

    def __init__(self, name: str) -> None:
        self.loop = new_loop()
        self.over = False
        self._waiting: set[Future[Any]] = set()
        self.thread = Own(name, self._serve)
        self.thread.start()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns or raises; ValueError when the loop is over before."""
        coroutine = call()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise ValueError(CLOSED) from None
        self._waiting.add(future)
        try:
            if self.over:  # it may have looked for who waits a moment before
                future.cancel()
            return future.result()
        except CancelledError:
            raise ValueError(CLOSED) from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._waiting.discard(future)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed already
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _serve(self) -> None:
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_end_others())
        finally:
            self.loop.close()
            self.over = True
            for future in list(self._waiting):
                future.cancel()


async def _end_others() -> None:
    """Cancel what still runs in this loop, and wait for its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _dropped(client: AsyncClient, service: _Service, pid: int) -> None:
    """A Client is gone that nobody has closed: its connection and its thread end."""
    if os.getpid() != pid or service.over:
        return
    loop = service.loop

    def end() -> None:
        closing = loop.create_task(client.close())
        closing.add_done_callback(lambda _: loop.stop())

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end)
    warnings.warn(
        f"the client of {client.address} was dropped and not closed", ResourceWarning, stacklevel=2
    )
