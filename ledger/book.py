"""Edge: the in-process door: one book, embedded, without a socket.

Book is for threads, AsyncBook for an asyncio loop; both ask the same engine the same things, and
thousands of callers share a group. One call is one request of at most 8,189 events. A call either
raises before it was accepted (ValueError, Busy, DiskFull, LedgerStopped) or returns when what it
did, or saw, is durable. An engine that stops raises LedgerStopped from every call and leaves its
host alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ledger import config, schema
from ledger.calls import Answered, Awaited, Calls, Records, Rows, kind, pieces
from ledger.engine import Engine
from ledger.errors import Busy, DataRefused, DiskFull, LedgerError, LedgerStopped, WrongProcess
from ledger.paging import AsyncPages, Pages
from ledger.recovery import Parts, recover, start_id
from ledger.runner import LoopRunner, ThreadRunner
from ledger.schema import ARRIVAL, Operation, Verdict

_CLOSED = "the book is closed"


class _Call:
    """One request on its way: an asker of the engine whose caller waits to be woken.

    `accepted` or `error` says what became of it; with neither, there was no room yet.
    """

    def __init__(
        self,
        door: _Door[Any],
        operation: Operation,
        records: Rows,
        wake: Callable[[], None],
        room: Callable[[], None],
    ) -> None:
        self._door = door
        # A copy: the caller's other threads must not change an event while it is judged.
        self._records = records.copy()
        self._arrivals = np.zeros(1, ARRIVAL)
        self._arrivals["operation"] = operation
        self._arrivals["verdict"] = Verdict.REPLY
        self._arrivals["event_count"] = len(records)
        self._arrivals["batch_count"] = 1
        self._dtype = schema.SHAPES[operation].result
        self._wake = wake
        self._room = room
        self._taken = False
        self._results: Rows | None = None
        self.accepted = False
        self.error: LedgerError | None = None

    def submit(self) -> None:
        """Ask the engine for room. DiskFull is the error when there is no space for the request."""
        try:
            taken = self._door._engine.submit(self, self._records, self._arrivals, 1)
        except LedgerStopped as stopped:
            self.error = stopped
            return
        if taken and not self._taken and self.error is None:
            why = self._door._engine.refusal or "there is no space for another request"
            self.error = DiskFull(why)
        self.accepted = bool(taken)

    def settled(self) -> bool:
        """Whether the engine took the request; raises what it was refused for."""
        if self.error is not None:
            raise self.error
        return self.accepted

    def of(self, arrival: int) -> _Call:
        return self

    def take(self, engine: Engine, made: int) -> tuple[Rows, int]:
        answer = engine.answers[0]
        start = int(answer["payload_offset"])
        end = start + int(answer["payload_bytes"])
        self._taken = True
        results = np.frombuffer(bytearray(engine.payload[start:end]), self._dtype)
        return results, results.nbytes + 1

    def deliver(self, taken: Any) -> None:
        self._results = taken
        self._wake()

    def full(self) -> bool:
        return False

    def resume(self) -> None:
        # Here and now: what was attached for this request may be gone when its caller is awake.
        # In a book that is being closed nobody appends what would be taken.
        if not self._door._closed:
            self.submit()
        self._room()

    def refused(self, why: DataRefused) -> None:
        self.error = why
        self._room()

    def unanswered(self, why: DataRefused) -> None:
        """Only what a session asks again is answered from the journal."""

    def stopped(self, cause: LedgerStopped) -> None:
        self.error = LedgerStopped(cause.cause)  # its own: each is raised in another thread
        self._wake()
        self._room()

    def result(self) -> Rows:
        if self.error is not None:
            raise self.error
        assert self._results is not None
        return self._results


class _Door(Calls[Answered]):
    """What both kinds of book are. `timeout` ends only the wait for acceptance, with Busy; None
    waits for ever. Besides ValueError the calls raise DiskFull before acceptance, DataRefused when
    what the call needs of the journal is damaged, LedgerStopped when the engine has stopped,
    WrongProcess after a fork.
    """

    def __init__(self, parts: Parts, engine: Engine) -> None:
        self._parts = parts
        self._engine = engine
        self._pid = os.getpid()
        self._closed = False

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

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise WrongProcess(
                f"the book was opened by process {self._pid} and cannot be used by {os.getpid()}:"
                " let several processes use `ledger serve`"
            )
        if self._closed:
            raise ValueError(_CLOSED)
        self._engine.check()

    def _check_open(self, call: _Call) -> None:
        """A call that waits for room finds none in a book that was closed meanwhile."""
        if self._closed and not call.accepted:
            raise ValueError(_CLOSED)

    def _hash(self) -> bytes:
        """Of a book at rest: what two books that went through the same groups have in common."""
        return hashlib.sha256(
            self._engine.core.state_hash() + self._parts.journal.digest()
        ).digest()


class Book(_Door[Rows], Pages):
    """One open book, for threads. Made by `open`; closed by close() or the end of `with`."""

    def __init__(self, parts: Parts, runner: ThreadRunner, lock: threading.Condition) -> None:
        self._lock = lock
        self._runner = runner
        engine = parts.engine(runner)
        super().__init__(parts, engine)
        with lock:
            engine.start(time.time_ns(), config.RELEASE, start_id())
        self._wait_idle()

    def create_many(self, records: Records) -> Rows:
        """Create any number of accounts or transfers, several requests under way at once.

        records: array of ACCOUNT or TRANSFER, (n,), or a list of structs; split at chain ends.
        Returns an array of CREATE_RESULT, (n,). ValueError, with nothing done, for a chain longer
        than a request. When it raises DiskFull or LedgerStopped, earlier parts may be done: retry
        all of it with the same ids.
        """
        operation, rows = kind(records)
        waiting = [self._begin(operation, piece, None) for piece in pieces(rows)]
        parts = [self._end(*one) for one in waiting]
        return np.concatenate(parts) if parts else np.zeros(0, schema.CREATE_RESULT)

    def _ask(self, operation: Operation, records: Rows, timeout: float | None) -> Rows:
        return self._end(*self._begin(operation, records, timeout))

    def _begin(
        self, operation: Operation, records: Rows, timeout: float | None
    ) -> tuple[_Call, threading.Lock]:
        done = threading.Lock()
        done.acquire()
        call = _Call(self, operation, records, done.release, self._lock.notify_all)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check()
        with self._lock:
            self._check()
            try:
                call.submit()
                while not call.settled():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise Busy(_busy(timeout))
                    self._lock.wait(left)
                    self._check_open(call)
            finally:
                self._engine.forget(call)
        return call, done

    def _end(self, call: _Call, done: threading.Lock) -> Rows:
        done.acquire()
        return call.result()

    def _wait_idle(self) -> None:
        """Until all that was accepted is durable, or the engine has stopped."""
        with self._lock:
            while not self._engine.idle and self._engine.cause is None:
                self._engine.notify_after_group(_Idle(self._lock.notify_all))
                self._lock.wait()

    def state_hash(self) -> bytes:
        """SHA-256 of the state, 32 bytes: equal in every book that went through the same groups."""
        self._check()
        with self._lock:
            self._wait_idle()
            self._check()
            return self._hash()

    def close(self) -> None:
        """Make durable what was accepted, and close. A stopped or forked book just closes."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._wait_idle()
        self._runner.stop()
        with self._lock:
            self._lock.notify_all()  # who waits for more than room, and will not get it
        _stamp_and_close(self._engine, self._parts)

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
    """One open book, for the asyncio loop it was opened in. Made by `open_async`."""

    def __init__(self, parts: Parts, runner: LoopRunner) -> None:
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self._rooms: set[asyncio.Future[None]] = set()  # callers that wait for acceptance
        engine = parts.engine(runner)
        super().__init__(parts, engine)
        engine.start(time.time_ns(), config.RELEASE, start_id())

    async def create_many(self, records: Records) -> Rows:
        """As Book.create_many."""
        operation, rows = kind(records)
        parts = await asyncio.gather(*[self._ask(operation, piece, None) for piece in pieces(rows)])
        return np.concatenate(parts) if parts else np.zeros(0, schema.CREATE_RESULT)

    async def _ask(self, operation: Operation, records: Rows, timeout: float | None) -> Rows:
        done: asyncio.Future[None] = self._loop.create_future()
        call = _Call(self, operation, records, lambda: _wake(done), self._room)
        deadline = None if timeout is None else self._loop.time() + timeout
        self._check()
        try:
            call.submit()
            while not call.settled():
                left = None if deadline is None else deadline - self._loop.time()
                if left is not None and left <= 0:
                    raise Busy(_busy(timeout))
                await self._wait_for_room(left)
                self._check_open(call)
        finally:
            self._engine.forget(call)
        await done
        return call.result()

    def _room(self) -> None:
        rooms, self._rooms = self._rooms, set()
        for waiting in rooms:
            _wake(waiting)

    async def _wait_for_room(self, seconds: float | None) -> None:
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._rooms.add(waiting)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting, seconds)
        finally:
            self._rooms.discard(waiting)

    async def _wait_idle(self) -> None:
        while not self._engine.idle and self._engine.cause is None:
            self._engine.notify_after_group(_Idle(self._room))
            await self._wait_for_room(None)

    async def state_hash(self) -> bytes:
        """As Book.state_hash."""
        self._check()
        await self._wait_idle()
        self._check()
        return self._hash()

    async def close(self) -> None:
        """As Book.close."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        await self._wait_idle()
        self._runner.stop()
        self._room()  # who waits for more than room, and will not get it
        await asyncio.to_thread(_stamp_and_close, self._engine, self._parts)


class _Idle:
    """An asker that submits nothing and only wants to hear of the next group, or the end."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify

    def of(self, arrival: int) -> _Idle:
        return self

    def take(self, engine: Engine, made: int) -> tuple[Any, int]:
        return None, 0

    def deliver(self, taken: Any) -> None:
        pass

    def full(self) -> bool:
        return False

    def resume(self) -> None:
        self._notify()

    def refused(self, why: DataRefused) -> None:
        pass

    def unanswered(self, why: DataRefused) -> None:
        pass

    def stopped(self, cause: LedgerStopped) -> None:
        self._notify()


def _busy(timeout: float | None) -> str:
    return f"no room for the request within {timeout} s; nothing of it was done"


def _wake(future: asyncio.Future[None]) -> None:
    """A caller that was cancelled is not there to be woken."""
    if not future.done():
        future.set_result(None)


def _stamp_and_close(engine: Engine, parts: Parts) -> None:
    try:
        if engine.cause is None:
            engine.write_stamp()
    finally:
        parts.close()


def open(
    path: str | os.PathLike[str], cluster: int = 0, *, accept_clock: bool = False
) -> Book:
    """Open the book in the directory `path`, making it when there is none.

    cluster: the book's id, 0 .. 2^128-1; a book of another is refused. Raises DataRefused (what is
    there is no sound book of this cluster), DirectoryInUse, DirectoryNotWritable, ClockRefused,
    DiskFull (no space is left even for a start), SystemLimit (no address space for the journal's
    map, or no thread), LedgerStopped (an I/O error); ValueError for a path or a cluster that is
    none.
    """
    place, number = _place(path), schema.whole("cluster", cluster)
    lock = threading.Condition()
    runner = ThreadRunner(lock)
    try:
        parts = recover(
            place, number, digest_executor=runner.digests, accept_clock=accept_clock
        )
    except BaseException:
        runner.stop()
        raise
    book = Book(parts, runner, lock)
    try:
        book._check()
    except BaseException:
        book.close()
        raise
    return book


@contextlib.asynccontextmanager
async def open_async(
    path: str | os.PathLike[str], cluster: int = 0, *, accept_clock: bool = False
) -> AsyncIterator[AsyncBook]:
    """As open, for `async with`: the book lives in the running loop."""
    place, number = _place(path), schema.whole("cluster", cluster)
    runner = LoopRunner()
    try:
        parts = await asyncio.to_thread(
            recover, place, number, digest_executor=runner.digests, accept_clock=accept_clock
        )
    except BaseException:
        runner.stop()
        raise
    book = AsyncBook(parts, runner)
    try:
        await book._wait_idle()
        book._check()
        yield book
    finally:
        await book.close()


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
