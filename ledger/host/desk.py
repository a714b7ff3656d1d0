"""An open book's engine in a thread of its own, and the desk where callers ask.

No caller works in the engine. What interrupts a caller (a signal's handler that raises, a time-out,
a cancellation, another call from a handler or a finalizer) can therefore only meet its wait: the
order and the hand-over to the journal are done in a thread that nothing of the host interrupts.
Caller and engine share no lock: a caller puts an Ask in a queue and waits on something of its own.
The engine's thread opens the book, decides everything that is to be decided of an Ask, and closes
the book, so that whoever waited for that may leave at any moment. This file knows neither loops nor
what a call means.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ledger.api.calls import Rows
from ledger.base.worker import Own, check_outside
from ledger.engine.assembly import Parts
from ledger.engine.engine import Engine
from ledger.engine.ports import Answers
from ledger.engine.recovery import recover, start_id
from ledger.facts import limits, schema
from ledger.facts.errors import (
    Busy,
    DataRefused,
    DiskFull,
    LedgerStopped,
    WrongProcess,
    naming_limits,
)
from ledger.facts.schema import ARRIVAL, Operation, Verdict
from ledger.host.runner import ThreadRunner

CLOSED = "the book is closed"


class _Abandoned(Exception):
    """Nobody waits any more for the book that is being opened."""


class Ask:
    """What somebody asked and waits for.

    Once it is settled there is a value, or an error, and `wake` is called, in the engine's thread;
    where there is no `wake` the desk tells of it together with others.
    """

    def __init__(self, desk: Desk, wake: Callable[[], None] | None) -> None:
        self._desk = desk
        self._wake = wake
        self.settled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.future: Any = None  # of who is told together with others

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        if self.settled:
            return
        self.value, self.error = value, error
        self.settled = True
        if self._wake is None:
            self._desk.told.append(self)
        else:
            self._wake()

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Call(Ask):
    """One request on its way: a submitter of the engine.

    before: a call that must be accepted before this one is tried; what ends it ends this one too.
    All but `abandon` happens in the engine's thread.
    """

    def __init__(
        self,
        desk: Desk,
        wake: Callable[[], None] | None,
        operation: Operation,
        records: Rows,
        before: Call | None = None,
    ) -> None:
        super().__init__(desk, wake)
        # A copy: the caller's other threads must not change an event while it is judged.
        self._records: Rows | None = records.copy()
        self._arrivals = np.zeros(1, ARRIVAL)
        self._arrivals["operation"] = operation
        self._arrivals["verdict"] = Verdict.REPLY
        self._arrivals["event_count"] = len(records)
        self._arrivals["batch_count"] = 1
        self._small = len(records) <= limits.EVENTS_ALONE_MAX
        self._dtype = schema.SHAPES[operation].result
        self._before = before
        self._next: Call | None = None
        self._taken = self._accepted = self._abandoned = False

    # ---- what the desk does with it -------------------------------------------------------------

    def begin(self) -> None:
        before = self._before
        if before is not None and not before._accepted and not before.settled:
            before._next = self
            return
        self._before = None  # nor whatever came before that is kept
        if before is not None and before.error is not None:
            self._fail(before.error)
            return
        self._desk.unaccepted[self] = None
        if self._desk.holds(self):
            return
        engine = self._desk.engine
        if engine is not None and engine.has_waiting and not self._desk.closed:
            # A small call might fit into a group that an earlier, larger call did not fit into.
            engine.notify_after_group(self)
        else:
            self._try()

    def give_up(self, why: Exception) -> None:
        """Its caller does not wait for room any longer. What is accepted goes on."""
        if not self._accepted:
            self._fail(why)

    def abandon(self) -> None:
        """Its caller is gone, by an exception in any place. From the caller's thread."""
        self._abandoned = True
        if self.settled:
            return
        self._desk.put(lambda: self.give_up(Busy("its caller is gone")))

    def _try(self) -> None:
        """Ask the engine for room. DiskFull is the error when there is no space for the request."""
        desk, records = self._desk, self._records
        if self._abandoned or self.settled or records is None:
            self.give_up(Busy("its caller is gone"))
            return
        if desk.closed:
            # Nobody appends what would be taken in a book that is being closed.
            self._fail(ValueError(CLOSED))
            return
        engine = desk.engine
        assert engine is not None
        try:
            taken = engine.submit(self, records, self._arrivals, 1)
        except LedgerStopped as stopped:
            self._fail(stopped)
            return
        if not taken:
            return
        if not self._taken and not self.settled:
            self._fail(DiskFull(engine.refusal or "there is no space for another request"))
            return
        self._accepted = True
        self._records = None
        desk.alone(self._small)
        self._leave()

    def _fail(self, error: BaseException) -> None:
        engine = self._desk.engine
        if engine is not None:
            engine.forget(self)
        self._records = None
        self.settle(error=error)
        self._leave()

    def _leave(self) -> None:
        """It waits for acceptance no more: who comes after it may try."""
        self._desk.unaccepted.pop(self, None)
        self._desk.held.pop(self, None)
        following, self._next = self._next, None
        if following is not None:
            self._desk.put(following.begin)

    # ---- what the engine does with it -----------------------------------------------------------

    def of(self, arrival: int) -> Call:
        return self

    def take(self, answers: Answers, made: int) -> tuple[Rows, int]:
        answer = answers.records[0]
        start = int(answer["payload_offset"])
        end = start + int(answer["payload_bytes"])
        self._taken = True
        results = np.frombuffer(bytearray(answers.payload[start:end]), self._dtype)
        return results, results.nbytes + 1

    def deliver(self, taken: Any) -> None:
        self.settle(taken)

    def full(self) -> bool:
        return False

    def resume(self) -> None:
        # Here and now: what was attached for this request may be gone in the next turn.
        self._try()

    def refused(self, why: DataRefused) -> None:
        self._fail(why)

    def unanswered(self, why: DataRefused) -> None:
        """Only what a session asks again is answered from the journal."""

    def stopped(self, cause: LedgerStopped) -> None:
        self._fail(LedgerStopped(cause.cause))  # its own: each is raised in another thread


class Desk:
    """One book: what is open of it, and the thread that it lives in from `start` to its end.

    tell: what is called there with all that a turn has settled of the Asks without a wake, and
    once there are places after somebody has set `wanted`.
    """

    def __init__(self, path: Path, cluster: int, accept_clock: bool) -> None:
        self.path = path
        self._cluster, self._accept_clock = cluster, accept_clock
        self.pid = os.getpid()
        self.tell: Callable[[list[Ask]], None] | None = None
        self.parts: Parts | None = None
        self.engine: Engine | None = None
        self.runner = ThreadRunner()
        self.closed = False  # whether nothing is taken any more
        self.ended = False  # whether all of it is released
        self.told: list[Ask] = []
        self.wanted = False  # whether somebody waits to be told that there are places
        self.unaccepted: dict[Call, None] = {}
        self.held: dict[Call, None] = {}  # of these, whom those who wait for a rest hold up
        self._begins_held = False  # whether those will begin in one of the next turns
        # What is to be done once all that was accepted is durable, or the engine has stopped.
        self._at_rest: list[tuple[Ask, Callable[[Ask], None]]] = []
        self._closing: list[Ask] = []
        self._over = False
        self._starting = False  # until the thread has begun
        self.thread = Own("ledger-engine", self._live)

    # ---- for callers, in any thread -------------------------------------------------------------

    def check(self) -> None:
        """What keeps this thread from asking anything now: WrongProcess, RuntimeError inside a
        call, ValueError when the book is closed, LedgerStopped."""
        self.check_here()
        if self.closed:
            raise ValueError(CLOSED)
        assert self.engine is not None
        self.engine.check()

    def check_here(self) -> None:
        if os.getpid() != self.pid:
            raise WrongProcess(
                f"the book was opened by process {self.pid} and cannot be used by {os.getpid()}:"
                " let several processes use `ledger serve`"
            )
        check_outside()

    @property
    def places(self) -> int:
        """How many more calls may wait for acceptance, about."""
        return limits.CALLS_WAITING_MAX - self.runner.waiting - len(self.unaccepted)

    def put(self, what: Callable[[], None]) -> None:
        """Have something done at the next turn. ValueError when there is no other."""
        self.runner.put(what)

    def put_ask(self, ask: Ask, begin: Callable[[], None]) -> None:
        """As put, for what somebody will wait for: ValueError when there is no other turn."""
        self.runner.put(begin)
        if self.ended and not ask.settled:
            raise ValueError(CLOSED)

    def state_hash(self, ask: Ask) -> None:
        """Settle `ask` with the hash of the state at rest."""
        self.put_ask(ask, lambda: self._rest(ask, self._hash))

    def start(self, opening: Ask) -> None:
        """Open the book and settle `opening` when it can be used. RuntimeError when the system
        gives no thread."""
        self.put(lambda: self._open(opening))
        self._starting = True
        try:
            self.thread.start()
        except RuntimeError:
            self._starting = False
            raise

    def close(self, closing: Ask) -> bool:
        """Settle `closing` when all that was accepted is durable and the book released; what is
        being opened is given up. False when that is so already, and nothing will be settled. May
        be asked again and again."""
        self.put(lambda: self._close(closing))
        # After that, so that a book whose closing was interrupted before is one that is open.
        self.closed = True
        return closing.settled or not self.ended

    def close_soon(self) -> None:
        """Close for somebody who is interrupted or gone, and wait until it is released, but not
        for ever, and not in a thread that it needs for that."""
        released = threading.Lock()
        released.acquire()
        # Whose start was interrupted is about to be alive, or never will be.
        is_there = self.thread.is_alive() or self._starting
        waits = self.close(Ask(self, released.release)) and is_there
        if not isinstance(threading.current_thread(), Own):
            if waits:
                released.acquire(timeout=limits.CLOSE_SECONDS_MAX)
                self._starting = False
            if self.ended:
                self.thread.join()

    # ---- in the engine's thread -----------------------------------------------------------------

    def _live(self) -> None:
        self._starting = False
        try:
            while not self._over:
                self.runner.turn()
                self._after_turn()
        except BaseException as error:
            # Nothing of the host comes here: there is no memory, or a fault of our own.
            if self.engine is not None:
                self.engine.stop(error)
            self._over = True
            self.closed = True
        self._end()

    def _after_turn(self) -> None:
        engine = self.engine
        while self._at_rest and engine is not None and (engine.idle or engine.cause is not None):
            ask, action = self._at_rest.pop(0)
            try:
                action(ask)
            except Exception as error:
                ask.settle(error=error)
        if self.held and not self._at_rest and not self._begins_held:
            self._begins_held = True
            self.put(self._begin_held)
        self._tell_settled()

    def _begin_held(self) -> None:
        self._begins_held = False
        held = list(self.held)
        self.held.clear()
        for call in held:
            call.begin()

    def holds(self, call: Call) -> bool:
        """Whether a call must wait: new calls one after the other would let no rest come, and those
        that a rest held up begin before a call that was made later."""
        if self._closing or not (self._at_rest or self.held):
            return False
        self.held[call] = None
        return True

    def _tell_settled(self) -> None:
        is_wanted = self.wanted and self.places > 0
        if (self.told or is_wanted) and self.tell is not None:
            if is_wanted:
                self.wanted = False  # before it is told: who finds no place wants one again
            told, self.told = self.told, []
            self.tell(told)

    def _rest(self, ask: Ask, action: Callable[[Ask], None]) -> None:
        if self.closed:
            ask.settle(error=ValueError(CLOSED))
        else:
            self._at_rest.append((ask, action))

    def alone(self, small: bool) -> None:
        """A call was accepted: if there is no other, its group needs no other thread."""
        self.runner.alone = small

    def _open(self, opening: Ask) -> None:
        try:
            self.runner.start()
            with naming_limits():
                self.parts = recover(
                    self.path,
                    self._cluster,
                    digest_executor=self.runner.digests,
                    accept_clock=self._accept_clock,
                    progress=self._go_on,
                )
            self._go_on()
            self.engine = self.parts.engine(self.runner)
            self.engine.start(time.time_ns(), limits.RELEASE, start_id())
        except BaseException as error:
            self._over = self.closed = True
            opening.settle(error=ValueError(CLOSED) if isinstance(error, _Abandoned) else error)
        else:
            self._at_rest.append((opening, self._opened))

    def _go_on(self, done: int = 0, total: int = 0) -> None:
        if self.closed:
            raise _Abandoned

    def _opened(self, opening: Ask) -> None:
        assert self.engine is not None
        with naming_limits():
            self.engine.check()
        opening.settle()

    def _hash(self, ask: Ask) -> None:
        assert self.engine is not None and self.parts is not None
        self.engine.check()
        state = self.engine.core.state_hash() + self.parts.journal.digest()
        ask.settle(hashlib.sha256(state).digest())

    def _close(self, closing: Ask) -> None:
        self._closing.append(closing)
        for call in list(self.unaccepted):
            call.give_up(ValueError(CLOSED))
        if len(self._closing) == 1:
            self._at_rest.append((closing, self._rested))

    def _rested(self, closing: Ask) -> None:
        self._over = self.closed = True

    def _end(self) -> None:
        """Release everything, then tell who waits for that and whoever came too late."""
        error: BaseException | None = None
        try:
            self._release()
        except BaseException as raised:
            error = raised
        self.ended = True
        for call in list(self.unaccepted):  # that came after _close and before `closed` was set
            call.give_up(ValueError(CLOSED))
        self.runner.finish()
        closing, at_rest = self._closing, self._at_rest
        self._closing, self._at_rest = [], []  # they hold this desk
        for ask in closing:
            ask.settle(error=error)
        for ask, _ in at_rest:
            ask.settle(error=ValueError(CLOSED))
        self._tell_settled()

    def _release(self) -> None:
        try:
            self.runner.stop()
            if self.engine is not None and self.engine.cause is None:
                self.engine.write_stamp()
        finally:
            if self.parts is not None:
                self.parts.close()
