"""What the engine and its parts need of each other, so that none of them imports another.

The engine is handed a clock, a runner, a stamp and a keeper of history; who submits requests and
who wants to know what became durable are handed to it later. Here are only these promises, and the
buffers in which answers are handed over. This file knows nobody who keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ledger.facts import limits
from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.facts.schema import ANSWER


class Answers:
    """The buffers that a core writes its answers to and a submitter takes them from.

    records: array of ANSWER; payload: results, bytes; counts: uint16, results of each batch.
    """

    def __init__(self) -> None:
        self.records: npt.NDArray[np.void] = np.zeros(limits.ANSWERS_MAX, ANSWER)
        self.payload: npt.NDArray[np.uint8] = np.zeros(limits.PAYLOAD_BYTES_MAX, np.uint8)
        self.counts: npt.NDArray[np.uint16] = np.zeros(limits.COUNTS_MAX, np.uint16)


class Stamp(Protocol):
    """What keeps the head stamp."""

    def write(self, cluster: int, group: int, position: int, digest: bytes) -> None: ...


class Time(Protocol):
    def now_ns(self) -> int: ...


class Turnstile(Protocol):
    """The engine's lock: one thread works on it; the same thread may take it more than once."""

    def acquire(self, blocking: bool = ...) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: Any) -> Any: ...


class Runner(Protocol):
    """Where and when things happen: thread and loop in production, a chosen moment in a test.

    Whatever it calls back, jobs aside, is called while `turnstile` is held.
    """

    @property
    def turnstile(self) -> Turnstile: ...

    def run(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Run a blocking job elsewhere, then `done` with its error while the turnstile is held.
        One job after the other, and a job may begin before the one before it has been told."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once what is at hand has been submitted."""

    def wake(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Call back after a time; a new wake replaces the last."""

    def later(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Call back after a time, whatever else is to be woken."""

    def aside(
        self, lane: str, job: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        """As run, beside the appends: the jobs of one lane come one after another."""


class Submitter(Protocol):
    """Who submits: a connection, several of them at once, or an in-process call."""

    def of(self, arrival: int) -> Submitter:
        """Who asked the arrival of this index, of those that are being executed."""

    def take(self, answers: Answers, made: int) -> tuple[Any, int]:
        """Make what answers.records[:made] say into something of its own; and its size in bytes."""

    def deliver(self, taken: Any) -> None:
        """What was taken may leave now: all it saw is durable."""

    def full(self) -> bool:
        """Whether no more answers may be held for this submitter."""

    def resume(self) -> None:
        """There is room again after submit() took less than all."""

    def refused(self, why: DataRefused) -> None:
        """The first request not taken cannot be answered: the journal is damaged there."""

    def unanswered(self, why: DataRefused) -> None:
        """The same of one that was taken: its original reply cannot be rebuilt."""

    def stopped(self, cause: LedgerStopped) -> None:
        """The engine has stopped; nothing more will be delivered."""


class Host(Protocol):
    """What the engine does for its keeper of history."""

    def stop(self, error: BaseException) -> None: ...
    def resume(self) -> None: ...


class Observer(Protocol):
    """Who is told which group became durable, in order, while the turnstile is held."""

    def group_durable(self, group: int) -> None: ...


class Keeper(Observer, Protocol):
    """Who keeps memory bounded and answers from history: it evicts what the engine has filled."""

    def bind(self, runner: Runner, host: Host, durable: int) -> None:
        """From now on work goes on lanes of `runner`; `durable` is the last durable group."""

    @property
    def full(self) -> bool:
        """Whether no group may be opened."""

    def group_taken(self) -> None:
        """A group was closed and none is open."""

    def ask(self, submitter: Submitter) -> None:
        """The submitter's request needs history: it is resumed when that is in memory."""

    def forget(self, submitter: Submitter) -> None:
        """The submitter does not want to be resumed any more."""

    def stop(self) -> list[Submitter]:
        """The engine has stopped: begin nothing more. Who still waits, to be told."""
