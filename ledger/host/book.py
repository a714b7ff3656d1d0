"""The in-process door: one book, embedded, without a socket.

Book is for threads, AsyncBook for an asyncio loop; both ask the same engine the same things, and
thousands of callers share a group. One call is one request of at most 8,189 events. A call either
raises before it was accepted (ValueError, Busy, DiskFull, LedgerStopped) or returns when what it
did, or saw, is durable. An engine that stops raises LedgerStopped from every call and leaves its
host alone. What is open lives at a desk (desk.py); here are the handles that callers hold, how they
wait, and what becomes of a book whose handle is gone. The engine's thread knows no handle.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from ledger.api.calls import Answered, Awaited, Calls, Records, Rows, kind, pieces
from ledger.api.paging import AsyncPages, Pages
from ledger.facts import limits, schema
from ledger.facts.errors import Busy
from ledger.facts.schema import Operation
from ledger.host.desk import Ask, Call, Desk


class _Door(Calls[Answered]):
    """What both kinds of book are. `timeout` ends only the wait for acceptance, with Busy; None
    waits for ever. Besides ValueError the calls raise DiskFull before acceptance, DataRefused when
    what the call needs of the journal is damaged, LedgerStopped when the engine has stopped,
    WrongProcess after a fork, and RuntimeError inside a call: from a finalizer that runs in a
    thread of the ledger's own. A signal's handler may call the book wherever it interrupts.

    What interrupts a call (a handler that raises, a cancellation) is raised at once. A request that
    was not accepted by then is not executed any more; one that was is executed and durable, and
    only this caller does not learn of it: it asks again, with the same ids.
    """

    _kind = ""  # how people call it

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._finalizer = weakref.finalize(self, self._dropped, desk)
        # A book that is open when its host ends is left as a kill would leave it.
        self._finalizer.atexit = False

    def _opened(self) -> None:
        desk = self._desk
        assert desk.parts is not None and desk.engine is not None
        self._parts, self._engine, self._runner = desk.parts, desk.engine, desk.runner

    @staticmethod
    def _dropped(desk: Desk) -> None:
        """The handle is gone. What was accepted becomes durable, and everything is released."""
        if os.getpid() != desk.pid or desk.ended:
            return
        was_closed = desk.closed
        desk.close_soon()
        if not was_closed:
            warnings.warn(
                f"the book in {desk.path} was dropped and not closed", ResourceWarning, stacklevel=2
            )

    def __repr__(self) -> str:
        state = ", closed" if self._desk.closed else ""
        return f"<{self._kind} in {os.fspath(self.path)!r}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a book belongs to the process that opened it and cannot be pickled or copied: let"
            " several processes use `ledger serve`"
        )

    @property
    def path(self) -> Path:
        """The book's directory."""
        return self._desk.path

    @property
    def cluster(self) -> int:
        """The book's cluster id."""
        return self._parts.journal.cluster

    @property
    def position(self) -> int:
        """The last durable position."""
        return self._engine.durable_position

    @property
    def warnings(self) -> list[str]:
        """What the operator should know of how the book was opened."""
        return self._parts.warnings


class Book(_Door[Rows], Pages):
    """One open book, for threads. Made by `open`; closed by close() or the end of `with`."""

    _kind = "ledger.Book"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        try:
            opening, opened = self._new_ask()
            desk.start(opening)
            opened.acquire()
            opening.result()
        except BaseException:
            desk.close_soon()
            raise
        self._opened()

    def create_many(self, records: Records) -> Rows:
        """Create any number of accounts or transfers, several requests under way at once.

        records: array of ACCOUNT or TRANSFER, (n,), or a list of structs, but no bytes, which do
        not say what they are; split at chain ends. The parts are executed in their order, and none
        after one that raises. Returns an array of CREATE_RESULT, (n,). ValueError, with nothing
        done, for a chain longer than a request. When it raises DiskFull or LedgerStopped, or is
        interrupted, earlier parts may be done: retry all of it with the same ids.
        """
        operation, rows = kind(records)
        found = [np.zeros(0, schema.CREATE_RESULT)]
        waiting: deque[tuple[Call, threading.Lock]] = deque()
        before = None
        try:
            for piece in pieces(rows):
                if len(waiting) == limits.PIECES_AHEAD_MAX:
                    found.append(self._end(*waiting[0], None))
                    waiting.popleft()
                waiting.append(self._new_call(operation, piece, None, before))
                before = waiting[-1][0]
                self._desk.put_ask(before, before.begin)
            while waiting:
                found.append(self._end(*waiting[0], None))
                waiting.popleft()
        except BaseException:
            for call, _ in waiting:
                call.abandon()
            raise
        return np.concatenate(found)

    def _ask(self, operation: Operation, records: Rows, timeout: float | None) -> Rows:
        call, done = self._new_call(operation, records, timeout)
        try:
            self._desk.put_ask(call, call.begin)
            return self._end(call, done, timeout)
        except BaseException:
            call.abandon()
            raise

    def _new_call(
        self, operation: Operation, records: Rows, timeout: float | None, before: Call | None = None
    ) -> tuple[Call, threading.Lock]:
        """Who makes it puts it, where an interrupt from then on abandons it."""
        desk = self._desk
        desk.check()
        if desk.places <= 0:
            self._wait_for_place(timeout)
        done = threading.Lock()
        done.acquire()
        return Call(desk, done.release, operation, records, before), done

    def _end(self, call: Call, done: threading.Lock, timeout: float | None) -> Rows:
        if timeout is None:
            done.acquire()
        elif not done.acquire(timeout=_seconds(timeout)):
            self._desk.put(partial(call.give_up, _busy(timeout)))
            done.acquire()
        results: Rows = call.result()
        return results

    def _wait_for_place(self, timeout: float | None) -> None:
        """Until there are fewer calls that wait. It takes more threads than a host has, so it is
        simple: nothing that a caller could hold when it is interrupted."""
        deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
        while self._desk.places <= 0:
            if deadline is not None and time.monotonic() >= deadline:
                raise _busy(timeout)
            time.sleep(limits.POLL_SECONDS)
            self._desk.check()

    def _new_ask(self) -> tuple[Ask, threading.Lock]:
        settled = threading.Lock()
        settled.acquire()
        return Ask(self._desk, settled.release), settled

    def state_hash(self) -> bytes:
        """SHA-256 of the state, 32 bytes: equal in every book that went through the same groups."""
        self._desk.check()
        ask, settled = self._new_ask()
        self._desk.state_hash(ask)
        settled.acquire()
        found: bytes = ask.result()
        return found

    def close(self) -> None:
        """Make durable what was accepted, and close. A stopped or forked book just closes.

        Who is interrupted here has closed it: it waits a moment until all is released.
        """
        desk = self._desk
        if os.getpid() != desk.pid:
            return
        desk.check_here()
        if desk.ended:
            return
        closing, closed = self._new_ask()
        try:
            if desk.close(closing):
                closed.acquire()
        except BaseException:
            desk.close_soon()
            raise
        desk.thread.join()
        closing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncBook(_Door[Awaited], AsyncPages):
    """One open book, for the asyncio loop it was opened in. Made by `open_async`.

    RuntimeError, and nothing done, when it is called in another loop or in none.
    """

    _kind = "ledger.AsyncBook"

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(desk)
        self._loop = loop
        self._outside = _Outside(desk, loop)
        desk.tell = self._outside.tell

    async def create_many(self, records: Records) -> Rows:
        """As Book.create_many."""
        operation, rows = kind(records)
        found = [np.zeros(0, schema.CREATE_RESULT)]
        waiting: deque[Call] = deque()
        before = None
        try:
            for piece in pieces(rows):
                if len(waiting) == limits.PIECES_AHEAD_MAX:
                    found.append(await waiting[0].future)
                    waiting.popleft()
                before = await self._new_call(operation, piece, None, before)
                waiting.append(before)
                self._desk.put_ask(before, before.begin)
            while waiting:
                found.append(await waiting[0].future)
                waiting.popleft()
        except BaseException:
            for call in waiting:
                call.future.cancel()
                call.abandon()
            raise
        return np.concatenate(found)

    async def _ask(self, operation: Operation, records: Rows, timeout: float | None) -> Rows:
        call = await self._new_call(operation, records, timeout)
        timer = None
        try:
            self._desk.put_ask(call, call.begin)
            if timeout is not None:
                busy = partial(call.give_up, _busy(timeout))
                timer = self._loop.call_later(_seconds(timeout), self._desk.put, busy)
            results: Rows = await call.future
        except BaseException:
            call.abandon()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return results

    async def _new_call(
        self, operation: Operation, records: Rows, timeout: float | None, before: Call | None = None
    ) -> Call:
        self._check()
        if self._outside.crowded:
            if not await self._outside.wait(timeout):
                raise _busy(timeout)
            self._check()
        call = Call(self._desk, None, operation, records, before)
        call.future = self._loop.create_future()
        return call

    def _check(self) -> None:
        self._desk.check()
        self._check_loop()

    def _check_loop(self) -> None:
        running = None
        with contextlib.suppress(RuntimeError):
            running = asyncio.get_running_loop()
        if running is not self._loop:
            raise RuntimeError(
                "an AsyncBook is called in the asyncio loop that it was opened in, and only there;"
                " nothing was done: threads and other loops use `ledger.open`, or"
                " asyncio.run_coroutine_threadsafe"
            )

    async def state_hash(self) -> bytes:
        """As Book.state_hash."""
        self._check()
        ask = self._new_ask()
        self._desk.state_hash(ask)
        found: bytes = await ask.future
        return found

    def _new_ask(self) -> Ask:
        ask = Ask(self._desk, None)
        ask.future = self._loop.create_future()
        return ask

    async def _open(self) -> None:
        opening = self._new_ask()
        self._desk.start(opening)
        await opening.future
        self._opened()

    async def close(self) -> None:
        """As Book.close."""
        desk = self._desk
        if os.getpid() != desk.pid:
            return
        desk.check_here()
        if desk.ended:
            return
        self._check_loop()
        closing = self._new_ask()
        if desk.close(closing):
            await self._closed(closing.future)
        desk.thread.join()

    async def _closed(self, closed: asyncio.Future[Any]) -> None:
        """Wait until it is closed; for who is cancelled meanwhile, once or again and again, only so
        long that the next to open the directory finds it free."""
        cancelled: asyncio.CancelledError | None = None
        seconds = None
        while not closed.done() and (seconds is None or seconds > 0):
            try:
                await asyncio.wait([closed], timeout=seconds)
            except asyncio.CancelledError as error:
                if cancelled is None:
                    ends = self._loop.time() + limits.CLOSE_SECONDS_MAX
                cancelled = error
            if cancelled is not None:
                seconds = ends - self._loop.time()
        if cancelled is not None:
            raise cancelled
        closed.result()


class _Outside:
    """The loop's side of a desk: who is told there, and who finds no place to wait at it."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self._loop = loop
        self._waiting: dict[asyncio.Future[bool], None] = {}  # in order
        self._let_in = 0  # that have a place and did not take it yet

    @property
    def crowded(self) -> bool:
        """Whether who comes now must wait: in their order, so also while others do."""
        return bool(self._waiting) or self._let_in > 0 or self._desk.places <= 0

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a place; whether there was one in time."""
        place: asyncio.Future[bool] = self._loop.create_future()
        self._waiting[place] = None
        # Not at once: callers let in earlier, whose tasks did not run yet, come first.
        self._loop.call_soon(self._fill)
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(_seconds(timeout), self._answer, place, False)
        try:
            return await place
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.result():
                self._let_in -= 1
                self._fill()

    def _answer(self, place: asyncio.Future[bool], is_one: bool) -> None:
        self._waiting.pop(place, None)
        if not place.done():
            place.set_result(is_one)
            self._let_in += is_one

    def _fill(self) -> None:
        """Let in as many as there are places. Who still waits is let in when others leave, or when
        the desk tells: what takes the places may be nothing that somebody is told of."""
        # Before the look: the turn that frees a place after it finds this set.
        self._desk.wanted = bool(self._waiting)
        while self._waiting and self._let_in < self._desk.places:
            self._answer(next(iter(self._waiting)), True)

    def tell(self, asks: list[Ask]) -> None:
        """From the engine's thread, once for all that a turn has settled."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits in it
            self._loop.call_soon_threadsafe(self._told, asks)

    def _told(self, asks: list[Ask]) -> None:
        """In the loop: everybody learns of it. Who was cancelled is not there any more."""
        for ask in asks:
            if ask.future.done():
                continue
            if ask.error is not None:
                ask.future.set_exception(ask.error)
            else:
                ask.future.set_result(ask.value)
        self._fill()


def _busy(timeout: float | None) -> Busy:
    return Busy(f"no room for the request within {timeout} s; nothing of it was done")


def _seconds(timeout: float) -> float:
    """A time that locks and loops can wait for."""
    return min(max(0.0, timeout), threading.TIMEOUT_MAX)


def open(
    path: str | os.PathLike[str], cluster: int = 0, *, accept_clock: bool = False
) -> Book:
    """Open the book in the directory `path`, making it when there is none.

    cluster: the book's id, 0 .. 2^128-1; a book of another is refused. Raises DataRefused (what is
    there is no sound book of this cluster), DirectoryInUse, DirectoryNotWritable, ClockRefused,
    DiskFull (no space is left even for a start), SystemLimit (no address space for the journal's
    map, or no free descriptors: `ulimit -n`), LedgerStopped (an I/O error), RuntimeError (the
    system gives no thread); ValueError for a path or a cluster that is none. Who is interrupted
    here finds the directory free.
    """
    return Book(make_desk(path, cluster, accept_clock))


@contextlib.asynccontextmanager
async def open_async(
    path: str | os.PathLike[str], cluster: int = 0, *, accept_clock: bool = False
) -> AsyncIterator[AsyncBook]:
    """As open, for `async with`: the book is for the running loop."""
    book = AsyncBook(make_desk(path, cluster, accept_clock), asyncio.get_running_loop())
    try:
        await book._open()
        yield book
    finally:
        await book.close()


def make_desk(
    path: str | os.PathLike[str], cluster: int, accept_clock: bool = False
) -> Desk:
    """The desk of a book that is not open yet. ValueError as open's."""
    return Desk(_place(path), schema.whole("cluster", cluster), accept_clock)


def _place(path: str | os.PathLike[str]) -> Path:
    """The directory that `path` names. ValueError for what names none, or none on purpose."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(f"path: {path!r} names no directory")
    if os.fspath(path) == ":memory:":
        raise ValueError(
            "path: ':memory:': a book is always on disk; ledger.open_temporary() is one for tests,"
            " removed when it is closed"
        )
    return Path(path)
