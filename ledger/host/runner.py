"""Where an engine's work happens: one thread appends, everything else has one place.

LoopRunner's place is an asyncio loop (the server); ThreadRunner's is the thread that calls `turn`
(a book in a host's process). Who works there holds `place`, so that the thread that appends can
hand the next group over when nobody does. Both keep histograms of how long a group takes from
hand-over to synced, and from synced to its release. All threads are started before the first work.
They know nothing of what they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from ledger.base.worker import Own, Worker
from ledger.facts import limits

Callback = Callable[[], None]
Done = Callable[[BaseException | None], None]

LANES = ("seal", "merge", "checkpoint", "past", "reads")
SERVED_LANES = (*LANES, "scrub")
PATIENT_LANES = ("merge", "scrub")


class Timings:
    """A histogram by powers of two: `counts[i]` is for [2^i, 2^(i+1)) µs, 32 buckets."""

    def __init__(self) -> None:
        self.counts = [0] * 32

    def add_ns(self, ns: int) -> None:
        self.counts[min(31, max(0, (ns // 1000).bit_length() - 1))] += 1


class _Runner(ABC):
    """The journal's one thread, another that computes digests beside it, and one for each lane.

    Jobs come one at a time: an engine has one append under way.
    """

    def __init__(self, name: str, lanes: tuple[str, ...]) -> None:
        self.synced, self.released = Timings(), Timings()
        self._jobs: queue.SimpleQueue[tuple[Callback, Done] | Callback | None] = (
            queue.SimpleQueue()
        )
        self._handed = self._finished = 0  # jobs that the journal's thread was given, and did
        # What the journal's thread calls back later (ns, which, what): one wake, a heap of others.
        self._wake: tuple[int, int, Callback] | None = None
        self._alarms: list[tuple[int, int, Callback]] = []
        self._numbers = itertools.count()
        self._stopping = False
        self._workers: dict[str, Worker] = {}
        self._name, self._lanes = name, lanes
        self._thread = Own(f"{name}-journal", self._work)

    def start(self) -> None:
        """Start all threads. RuntimeError, and none is left, when the system gives no more."""
        try:
            for lane in ("digest", *self._lanes):
                begin = _yield_to_others if lane in PATIENT_LANES else None
                self._workers[lane] = Worker(f"{self._name}-{lane}", begin)
            self._thread.start()
        except BaseException:
            self.stop()
            raise

    @property
    def digests(self) -> Worker:
        """The worker that computes digests."""
        return self._workers["digest"]

    def run(self, job: Callback, done: Done) -> None:
        self._handed += 1
        self._jobs.put((job, done))

    def _work(self) -> None:
        while (item := self._next()) is not None:
            if not isinstance(item, tuple):
                item()
                continue
            job, done = item
            error, ended_ns = self._do(job)
            self._post(self._finish, done, error, ended_ns)
            self._finished += 1

    def _do(self, job: Callback) -> tuple[BaseException | None, int]:
        """Run a job; its error, and when it ended, ns."""
        started_ns = time.monotonic_ns()
        error: BaseException | None = None
        try:
            job()
        except BaseException as raised:
            error = raised
        ended_ns = time.monotonic_ns()
        self.synced.add_ns(ended_ns - started_ns)
        return error, ended_ns

    def _next(self) -> tuple[Callback, Done] | Callback | None:
        """The next job, or what is to be called back when its time comes first; None at the end."""
        while True:
            alarm = self._alarms[0] if self._alarms else None
            due = [one for one in (self._wake, alarm) if one is not None]
            if not due:
                return self._jobs.get()
            first = min(due, key=itemgetter(0))
            try:
                return self._jobs.get(timeout=max(0, first[0] - time.monotonic_ns()) / 1e9)
            except queue.Empty:
                if first is alarm:
                    heapq.heappop(self._alarms)
                elif self._wake is first:
                    self._wake = None
                else:
                    continue
                self._post(first[2])

    @abstractmethod
    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back where everything but the appends happens."""

    def _finish(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        self.released.add_ns(time.monotonic_ns() - ended_ns)
        done(error)

    def wake(self, delay_ns: int, callback: Callback) -> None:
        self._wake = (time.monotonic_ns() + delay_ns, 0, callback)
        self._jobs.put(_look_again)

    def later(self, delay_ns: int, callback: Callback) -> None:
        alarm = (time.monotonic_ns() + delay_ns, next(self._numbers), callback)
        self._jobs.put(lambda: heapq.heappush(self._alarms, alarm))

    def aside(self, lane: str, job: Callback, done: Done) -> None:
        if self._stopping:
            return

        def work() -> None:
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            self._post(done, error)

        self._workers[lane].submit(work)

    def stop(self) -> None:
        """End the threads once what they do is done; what they have not begun is given up."""
        self._wake = None
        self._stopping = True
        lanes = [worker for lane, worker in self._workers.items() if lane != "digest"]
        for worker in lanes:
            worker.shutdown(wait=False, cancel_futures=True)
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()
        for worker in self._workers.values():
            worker.shutdown()
        # What is not called back any more holds the engine.
        self._wake = None
        self._alarms.clear()


def _yield_to_others() -> None:
    """What this thread does can wait for everything else."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _look_again() -> None:
    """A job that does nothing but end the wait for the one before the new wake."""


class LoopRunner(_Runner):
    """Everything but the appends happens in the loop that is running now."""

    def __init__(self, name: str = "ledger") -> None:
        super().__init__(name, SERVED_LANES)
        self._loop = asyncio.get_running_loop()
        self.turnstile = threading.RLock()
        self.start()

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(self._here, callback, *arguments)

    def _here(self, callback: Callable[..., None], *arguments: Any) -> None:
        with self.turnstile:
            callback(*arguments)

    def soon(self, callback: Callback) -> None:
        self._loop.call_soon(self._here, callback)


class ThreadRunner(_Runner):
    """Everything but the appends happens in the one thread that calls `turn` again and again.

    A turn is all that was put until it began, one after the other, and then what was to come soon.
    The weak spot: a thread's hand-over costs as much as executing a payment, so who pays alone and
    waits has its group appended in the same thread (`alone`), which does nothing else meanwhile.
    """

    def __init__(self, name: str = "ledger") -> None:
        super().__init__(name, LANES)
        self.turnstile = threading.RLock()
        self.alone = False  # set in a turn by what would like its job done in this thread
        self._put: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self._soon: list[Callback] = []
        self._here: tuple[Callback, Done] | None = None

    def put(self, callback: Callback) -> None:
        """Have it called in one of the next turns. From any thread, a signal handler, a finalizer:
        nothing that these can interrupt is held or half done by this."""
        self._put.put(callback)

    @property
    def waiting(self) -> int:
        """How much was put and is not called yet, about."""
        return self._put.qsize()

    def turn(self) -> None:
        """Wait until there is something, and do it. What is called must not raise."""
        callback = self._put.get()
        self.alone = False
        with self.turnstile:
            callback()
            for _ in range(min(self._put.qsize(), limits.TURN_CALLS_MAX)):
                self._put.get()()
                self.alone = False
            self._do_soon()
        if self._here is not None:
            (job, done), self._here = self._here, None
            error, ended_ns = self._do(job)
            with self.turnstile:
                self._finish(done, error, ended_ns)
                self._do_soon()

    def _do_soon(self) -> None:
        while self._soon:
            self._soon.pop(0)()
        self.alone = False

    def run(self, job: Callback, done: Done) -> None:
        if self._here is not None:  # a second job in one turn: who is not alone any more
            before, self._here = self._here, None
            super().run(*before)
        # In order: all that the journal's thread was given must be done and told.
        if self.alone and self._handed == self._finished and self._put.empty():
            self._here = (job, done)
        else:
            super().run(job, done)

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        def unless_stopped() -> None:
            if not self._stopping:
                callback(*arguments)

        self._put.put(unless_stopped)

    def soon(self, callback: Callback) -> None:
        self._soon.append(callback)

    def finish(self) -> None:
        """After `stop`: call what was put, which finds nobody at work."""
        while not self._put.empty():
            self._put.get()()
