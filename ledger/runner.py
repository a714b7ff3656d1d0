"""Edge: where an engine's work happens: one thread appends, everything else has one place.

LoopRunner's place is an asyncio loop (the server, the async book); ThreadRunner's is whoever holds
the book's lock (the sync book). Both keep histograms of how long a group takes from hand-over to synced,
and from synced to released. They know nothing of what they run.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Timings:
    """Histograms by powers of two of µs: `counts[i]` is for [2^i, 2^(i+1)) µs, 32 buckets."""

    def __init__(self) -> None:
        self.counts = [0] * 32

    def add_ns(self, ns: int) -> None:
        self.counts[min(31, max(0, (ns // 1000).bit_length() - 1))] += 1


class _Worker:
    """The journal's one thread, and another that computes digests beside it.

    Jobs come one at a time: an engine has one append under way.
    """

    def __init__(self, name: str) -> None:
        self.digests = ThreadPoolExecutor(1, f"{name}-digest")
        self.synced, self.released = Timings(), Timings()
        self._jobs: queue.SimpleQueue[tuple[Job, Done] | None] = queue.SimpleQueue()
        self._name = f"{name}-journal"
        self._thread: threading.Thread | None = None

    def run(self, job: Job, done: Done) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((job, done))

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            started = time.monotonic_ns()
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            ended = time.monotonic_ns()
            self.synced.add_ns(ended - started)
            self._call(done, error, ended)

    def _call(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        raise NotImplementedError

    def _finish(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        self.released.add_ns(time.monotonic_ns() - ended_ns)
        done(error)

    def stop(self) -> None:
        """End the threads once what they do is done."""
        self._jobs.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.digests.shutdown()


class LoopRunner(_Worker):
    """Everything but the appends happens in the loop that is running now."""

    def __init__(self, name: str = "ledger") -> None:
        super().__init__(name)
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.TimerHandle | None = None

    def _call(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        self._loop.call_soon_threadsafe(self._finish, done, error, ended_ns)

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def wake(self, delay_ns: int, callback: Callable[[], None]) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_later(delay_ns / 1e9, callback)

    def stop(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        super().stop()


class ThreadRunner(_Worker):
    """Everything but the appends happens under `lock`, in whichever thread holds it."""

    def __init__(self, lock: threading.RLock | threading.Condition, name: str = "ledger") -> None:
        super().__init__(name)
        self._lock = lock
        self._wake: threading.Timer | None = None
        self._stopped = False

    def _call(self, done: Done, error: BaseException | None, ended_ns: int) -> None:
        with self._lock:
            self._finish(done, error, ended_ns)

    def soon(self, callback: Callable[[], None]) -> None:
        callback()

    def wake(self, delay_ns: int, callback: Callable[[], None]) -> None:
        if self._stopped:
            return
        if self._wake is not None:
            self._wake.cancel()

        def locked() -> None:
            with self._lock:
                if not self._stopped:
                    callback()

        self._wake = threading.Timer(delay_ns / 1e9, locked)
        self._wake.daemon = True
        self._wake.start()

    def stop(self) -> None:
        self._stopped = True
        if self._wake is not None:
            self._wake.cancel()
        super().stop()
