"""Edge: where an engine's work happens: one thread appends, everything else has one place.

LoopRunner's place is an asyncio loop (the server, the async book); ThreadRunner's is whoever holds
the book's lock (the sync book). Who works there holds `place`, so that the thread that appends can
hand the next group over when nobody does. Both keep histograms of how long a group takes from
hand-over to synced, and from synced to its release. They know nothing of what they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

Callback = Callable[[], None]
Done = Callable[[BaseException | None], None]

PATIENT_LANES = ("merge", "scrub")


class Timings:
    """A histogram by powers of two: `counts[i]` is for [2^i, 2^(i+1)) µs, 32 buckets."""

    def __init__(self) -> None:
        self.counts = [0] * 32

    def add_ns(self, ns: int) -> None:
        self.counts[min(31, max(0, (ns // 1000).bit_length() - 1))] += 1


class _Worker(ABC):
    """The journal's one thread, and another that computes digests beside it.

    Jobs come one at a time: an engine has one append under way.
    """

    def __init__(self, name: str) -> None:
        self.digests = ThreadPoolExecutor(1, f"{name}-digest")
        self.synced, self.released = Timings(), Timings()
        self._jobs: queue.SimpleQueue[tuple[Callback, Done] | Callback | None] = (
            queue.SimpleQueue()
        )
        self._wake: tuple[int, Callback] | None = None
        self._laters: list[tuple[int, Callback]] = []
        self._name = name
        self._stopping = False
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._thread = threading.Thread(target=self._work, name=f"{name}-journal", daemon=True)
        self._thread.start()

    def run(self, job: Callback, done: Done) -> None:
        self._jobs.put((job, done))

    def _work(self) -> None:
        while (item := self._next()) is not None:
            if not isinstance(item, tuple):
                item()
                continue
            job, done = item
            started = time.monotonic_ns()
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            ended = time.monotonic_ns()
            self.synced.add_ns(ended - started)
            self._place(self._finish, done, error, ended)

    def _next(self) -> tuple[Callback, Done] | Callback | None:
        """The next job, once what is to be called back before it has been; None at the end."""
        while True:
            alarms = [*self._laters, *filter(None, [self._wake])]
            if not alarms:
                return self._jobs.get()
            alarm = min(alarms, key=itemgetter(0))
            left_ns = alarm[0] - time.monotonic_ns()
            if left_ns > 0:
                with contextlib.suppress(queue.Empty):
                    return self._jobs.get(timeout=left_ns / 1e9)
            if self._wake is alarm:
                self._wake = None
            elif alarm in self._laters:
                self._laters.remove(alarm)
            else:
                continue  # another wake has replaced it
            self._place(alarm[1])

    @abstractmethod
    def _place(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back where everything but the appends happens."""

    def _finish(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        self.released.add_ns(time.monotonic_ns() - ended_ns)
        done(error)

    def wake(self, delay_ns: int, callback: Callback) -> None:
        self._wake = (time.monotonic_ns() + delay_ns, callback)
        self._jobs.put(_look_again)

    def aside(self, lane: str, job: Callback, done: Done) -> None:
        if self._stopping:
            return
        if lane not in self._lanes:
            self._lanes[lane] = ThreadPoolExecutor(
                1, f"{self._name}-{lane}", _yield_to_others if lane in PATIENT_LANES else None
            )

        def work() -> None:
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            self._place(done, error)

        self._lanes[lane].submit(work)

    def stop(self) -> None:
        """End the threads once what they do is done; what they have not begun is given up."""
        self._wake = None
        self._laters.clear()
        self._stopping = True
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)
        self._jobs.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()
        for lane in self._lanes.values():
            lane.shutdown()
        self.digests.shutdown()


def _yield_to_others() -> None:
    """What this thread does can wait for everything else."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _look_again() -> None:
    """A job that does nothing but end the wait for the one before the new wake."""


class LoopRunner(_Worker):
    """Everything but the appends happens in the loop that is running now."""

    def __init__(self, name: str = "ledger") -> None:
        self._loop = asyncio.get_running_loop()
        self.place = threading.RLock()
        super().__init__(name)

    def _place(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(self._here, callback, *arguments)

    def _here(self, callback: Callable[..., None], *arguments: Any) -> None:
        with self.place:
            callback(*arguments)

    def soon(self, callback: Callback) -> None:
        self._loop.call_soon(self._here, callback)

    def later(self, delay_ns: int, callback: Callback) -> None:
        self._loop.call_later(delay_ns / 1e9, self._here, callback)


class ThreadRunner(_Worker):
    """Everything but the appends happens in whichever thread holds `place`.

    What is called back has a thread of its own: a request that waited for room is executed there,
    while the journal's thread is already appending the group before it.
    """

    def __init__(self, place: threading.Condition, name: str = "ledger") -> None:
        self.place = place
        self._placed: queue.SimpleQueue[Callback | None] = queue.SimpleQueue()
        self._back = threading.Thread(target=self._call_back, name=f"{name}-back", daemon=True)
        self._back.start()
        super().__init__(name)

    def _call_back(self) -> None:
        while (callback := self._placed.get()) is not None:
            with self.place:
                callback()

    def _place(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._placed.put(lambda: callback(*arguments))

    def soon(self, callback: Callback) -> None:
        callback()

    def later(self, delay_ns: int, callback: Callback) -> None:
        self._laters.append((time.monotonic_ns() + delay_ns, callback))
        self._jobs.put(_look_again)

    def stop(self) -> None:
        super().stop()
        self._placed.put(None)
        if self._back is not threading.current_thread():
            self._back.join()
