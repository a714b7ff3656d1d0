"""Threads of the ledger's own, started early and kept to the end.

The standard pool refuses work once the main thread has returned, and newer interpreters then start
no thread at all, while a host's other threads and its handlers of the exit still pay. So whoever
needs a thread starts it while it opens. All are daemons: a book that is open when its host ends is
left as a kill would leave it. This file knows nothing of what is done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple[Future[Any], Callable[[], Any]]


class Own(threading.Thread):
    """A thread of the ledger's own."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(target=work, name=name, daemon=True)


def check_outside() -> None:
    """RuntimeError in a thread of the ledger's own, where a finalizer of the host's may run: what
    it asked there would wait for the thread that it keeps waiting."""
    if isinstance(threading.current_thread(), Own):
        raise RuntimeError(
            "called from inside a call: a finalizer ran in a thread of the ledger's own, which"
            " cannot wait for itself; let finalizers leave what they want to a thread of yours"
        )


class Worker(Executor):
    """One thread that does one thing after another; `begin` is called there first.

    What is asked for after `shutdown` is a RuntimeError.
    """

    def __init__(self, name: str, begin: Callable[[], None] | None = None) -> None:
        self._asked: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._begin = begin
        self._ended = False
        self._thread = Own(name, self._work)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._ended:
            raise RuntimeError(f"{self._thread.name} has ended")
        future: Future[T] = Future()
        self._asked.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after what was asked, or after what it does if the rest is given up."""
        self._ended = True
        while cancel_futures and not self._asked.empty():
            job = self._asked.get()
            if job is not None:
                job[0].cancel()
        self._asked.put(None)
        if wait:
            self._thread.join()

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        while (job := self._asked.get()) is not None:
            self._do(*job)
            del job  # nothing is kept of it while the next is waited for

    def _do(self, future: Future[Any], what: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = what()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
