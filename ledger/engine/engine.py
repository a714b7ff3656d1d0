"""The engine: requests in, groups out, and nothing leaves before its group is durable.

Arrivals are executed at once into the open group while the group before is being made durable;
answers wait beside the group they saw. It is built from parts handed to it (core, log, clock,
runner), so that a simulator can drive it: it starts no thread, reads no clock and knows no socket,
frame or event loop. One caller at a time: who works on it holds its runner's turnstile.

The log is never idle for the time it takes to tell the engine what it did: the thread that appends
hands the open group over itself, unless somebody is at work in the engine, and a full group may
wait for the one that is being made durable. Backpressure: when there is no room for another group,
or too many answers are held, submit() takes no more, and the submitter is resumed later.
The weak spot: a long read is executed in order with the payments and holds them up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ledger import _core
from ledger.engine.ports import Answers, Keeper, Observer, Runner, Stamp, Submitter, Time
from ledger.facts import limits
from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.facts.schema import Verdict
from ledger.journal.group import Group
from ledger.journal.ports import Log

if TYPE_CHECKING:
    from ledger._core import Bytes

RESEND = int(Verdict.RESEND)
T = TypeVar("T")


class Engine:
    """The order of one book. See the module for what it is built from.

    failpoint, when given, is called with the name of each stage a group passes: applied, encoded,
    appended, released. on_stopped is called once, with the cause, when the engine stops for good.
    """

    def __init__(
        self,
        core: _core.Core,
        buffers: Answers,
        log: Log,
        clock: Time,
        runner: Runner,
        *,
        stamp: Stamp | None = None,
        keeper: Keeper | None = None,
        failpoint: Callable[[str], None] | None = None,
        on_stopped: Callable[[LedgerStopped], None] | None = None,
    ) -> None:
        self.core = core
        self.answers = buffers
        self._log = log
        self._clock = clock
        self._runner = runner
        self._turnstile = runner.turnstile
        self._stamp = stamp
        self._keeper = keeper
        self._failpoint = failpoint
        self._on_stopped = on_stopped
        self.cause: LedgerStopped | None = None
        self.refusal: str | None = None  # why nothing that creates is taken now
        self._shut = False  # whether no new session is taken, either
        self._now_ns = 0
        self._stamped_ns = 0
        self._stamped = 0  # the group of the last stamp of this run
        self._stamp_asked = False
        self._handed = log.group  # the last group that was handed over
        self._flush_asked = False
        self._wake_ns = 0
        self._durable = log.group
        self._held_bytes = 0
        # What waits for each group that is not durable: (submitter, taken, bytes); an answer to be
        # rebuilt is (submitter, (group, record offset), 0).
        self._waits: dict[int, list[tuple[Submitter, Any, int]]] = {}
        self._releasing: deque[tuple[Submitter, Any, int]] = deque()  # durable: they leave in order
        self._refused: dict[Submitter, None] = {}  # in order; each connection or call at most once
        self.durable_position = log.position
        self._observers: list[Observer] = []
        if keeper is not None:
            self.observe(keeper)
            keeper.bind(runner, self, log.group)

    def observe(self, observer: Observer) -> None:
        """Tell it of every group that becomes durable from now on."""
        self._observers.append(observer)

    # ---- asking ---------------------------------------------------------------------------------

    def submit(
        self, submitter: Submitter, buffer: Bytes, arrivals: npt.NDArray[np.void], count: int
    ) -> int:
        """Execute arrivals[:count] in order, as far as there is room; how many were.

        When fewer than all, submitter.resume() is called once there is room, unless it was full():
        then the submitter itself knows when to go on. LedgerStopped when the engine has stopped.
        Whatever else is raised stops it: what was executed might never be answered.
        """
        return self._guarded(self._submit, submitter, buffer, arrivals, count)

    def execute(
        self, submitter: Submitter, buffer: Bytes, arrivals: npt.NDArray[np.void], count: int
    ) -> int:
        """As submit, for who asks again in another way for what found no room: none is resumed."""
        done, _ = self._guarded(self._execute, submitter, buffer, arrivals, count)
        self._ask_flush()
        return done

    def _guarded(self, step: Callable[..., T], *arguments: Any) -> T:
        with self._turnstile:
            self.check()
            try:
                return step(*arguments)
            except BaseException as error:
                self._fail(error)
                if isinstance(error, Exception):
                    self.check()
                raise

    def check(self) -> None:
        """LedgerStopped, a new one each time, when the engine has stopped."""
        if self.cause is not None:
            # An exception that is raised again and again drags an ever longer traceback along.
            raise LedgerStopped(self.cause.cause)

    def _submit(
        self, submitter: Submitter, buffer: Bytes, arrivals: npt.NDArray[np.void], count: int
    ) -> int:
        done, why = self._execute(submitter, buffer, arrivals, count)
        if why == _core.COLD:
            assert self._keeper is not None
            self._keeper.ask(submitter)
        elif why == _core.GROUP_FULL:
            self._refused[submitter] = None
        self._ask_flush()
        return done

    def _execute(
        self, submitter: Submitter, buffer: Bytes, arrivals: npt.NDArray[np.void], count: int
    ) -> tuple[int, int]:
        """How many were executed, and why no more: DONE (or the submitter is full), COLD, or
        GROUP_FULL for every other lack of room."""
        done, why = 0, _core.DONE
        while not submitter.full():
            why = _core.GROUP_FULL
            if self._held_bytes > limits.REPLY_BYTES_IN_FLIGHT_MAX:
                break
            if self.core.group_records == 0:
                if self._keeper is not None and self._keeper.full:
                    break
                self._open_group()
            done, made, why = self.core.execute(
                buffer, arrivals, done, count, self._now_ns, self.refusal is None, not self._shut
            )
            if made:
                self._hold(submitter, made)
            if why == _core.NO_MEMORY:
                raise MemoryError("no memory is left for another request")
            if why in (_core.DONE, _core.COLD):
                break
            if why == _core.GROUP_FULL and not self._next_group():
                break
            why = _core.DONE
        return done, why

    def _open_group(self) -> None:
        """One reading of the clock and one look at the space left for each group."""
        self._now_ns = self._clock.now_ns()
        room = self._log.room()
        self.refusal, self._shut = room.refusal, room.shut is not None

    def _hold(self, submitter: Submitter, made: int) -> None:
        """Keep answers until what they saw is durable; at once when it is."""
        if self._failpoint is not None:
            self._failpoint("applied")
        resends: list[tuple[Submitter, int, int]] = []
        if self.core.resends:
            resends = [
                (submitter.of(int(answer["arrival"])), int(answer["group"]),
                 int(answer["record_offset"]))
                for answer in self.answers.records[:made]
                if answer["verdict"] == RESEND
            ]
        taken, size = submitter.take(self.answers, made)
        if size:
            self._release_after(self.core.newest_group(), submitter, taken, size)
        for one, group, offset in resends:
            self._release_after(group, one, (group, offset), 0)

    def _release_after(self, group: int, submitter: Submitter, taken: Any, size: int) -> None:
        """Deliver an answer once its group is durable. A submitter may submit more while it is
        delivered to: those answers leave after all that are being released already."""
        if group > self._durable:
            self._waits.setdefault(group, []).append((submitter, taken, size))
        elif self._releasing:
            self._releasing.append((submitter, taken, size))
        else:
            self._deliver(submitter, taken, size)
            return
        self._held_bytes += size + limits.HELD_BYTES_EACH

    def _deliver(self, submitter: Submitter, taken: Any, size: int) -> None:
        if size:
            submitter.deliver(taken)
        else:
            self._resend(submitter, *taken)

    def _resend(self, submitter: Submitter, group: int, offset: int) -> None:
        """The original reply of a durable request, rebuilt from the journal.

        Of a journal that is damaged there who asked is told, and others are served.
        """
        try:
            header, body = self._log.one(group)
            self.core.original_answer(body, header.position_first, offset)
        except DataRefused as why:
            submitter.unanswered(why)
            return
        taken, size = submitter.take(self.answers, 1)
        if size:
            submitter.deliver(taken)

    def soon(self, callback: Callable[[], None]) -> None:
        """Have it called once what is at hand has been read."""
        self._runner.soon(callback)

    def notify_after_group(self, submitter: Submitter) -> None:
        """Have submitter.resume() called once the next group is durable."""
        self._refused[submitter] = None

    @property
    def has_waiting(self) -> bool:
        """Whether a submitter waits for room. One that must not overtake it waits behind it, by
        notify_after_group."""
        return bool(self._refused)

    def forget(self, submitter: Submitter) -> None:
        """The submitter does not want to be resumed any more."""
        self._refused.pop(submitter, None)
        if self._keeper is not None:
            self._keeper.forget(submitter)

    def resume(self) -> None:
        """Let those go on who found no room."""
        if self.cause is None:
            self._resume_refused()

    def stop(self, error: BaseException) -> None:
        """Stop for good, for an error of what works beside the order."""
        self._fail(error)

    # ---- groups ---------------------------------------------------------------------------------

    @property
    def _appending(self) -> int:
        """How many groups were handed over that the engine was not told of yet."""
        return self._handed - self._durable

    @property
    def _due(self) -> bool:
        """Whether there is something to hand over and the log has nothing to do."""
        return (
            self.core.group_records != 0
            and self._handed == self._log.group
            and self._appending < limits.GROUPS_IN_FLIGHT_MAX - 1
        )

    def _ask_flush(self) -> None:
        if not self._flush_asked and self._due:
            self._flush_asked = True
            self._runner.soon(self.flush)

    def flush(self) -> None:
        """Hand the open group over if it holds anything and the log is free."""
        with self._turnstile:
            self._flush_asked = False
            if self.cause is None and self._due:
                self._or_stop(self._append)

    def _follow(self) -> None:
        """The same where the log appends, unless the engine is at work: then it sees to it."""
        if self._turnstile.acquire(blocking=False):
            try:
                if self.cause is None and self._due:
                    self._append()
            finally:
                self._turnstile.release()

    def _or_stop(self, step: Callable[[], None]) -> None:
        """A step that a runner calls: what it raises stops the engine and goes no further."""
        try:
            step()
        except Exception as error:
            self._fail(error)

    def _next_group(self) -> bool:
        """Make room by handing the open group over; False while another waits for the log."""
        if self._appending == limits.GROUPS_IN_FLIGHT_MAX - 1:
            return False
        self._append()
        if self._keeper is not None and self._keeper.full:
            return False
        self._open_group()
        return True

    def _append(self) -> None:
        fields, body = self.core.take_group()
        number = fields.pop("group")
        group = Group(body, **fields)
        if self._keeper is not None:
            self._keeper.group_taken()
        if self._failpoint is not None:
            self._failpoint("encoded")
        expected = group.position_first - 1
        self._handed = number
        stamps = self._now_ns - self._stamped_ns >= limits.HEAD_NS
        if stamps:
            self._stamped_ns = self._now_ns

        def job() -> None:
            if self._log.append(expected, group) != number:
                raise DataRefused(f"the log gave group {number} another number")
            if stamps and self._stamp is not None:
                self.write_stamp()
            self._follow()

        def done(error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)
            elif self.cause is None:
                self._or_stop(lambda: self._appended(number))

        self._runner.run(job, done)

    def write_stamp(self) -> None:
        """Stamp the log's durable end. Only where nothing appends at the same time."""
        if self._stamp is not None:
            log = self._log
            self._stamp.write(log.cluster, log.group, log.position, log.digest())
            self._stamped = log.group

    def _ask_stamp(self) -> None:
        """Have the end stamped once no group has followed for a moment: what is acknowledged last
        would else have no witness for as long as nothing happens."""
        if self._stamp is not None and not self._stamp_asked and self._stamped < self._durable:
            self._stamp_asked = True
            group = self._durable
            self._runner.later(
                limits.STAMP_REST_NS, lambda: self._or_stop(lambda: self._rested(group))
            )

    def _rested(self, group: int) -> None:
        self._stamp_asked = False
        if self.cause is not None or self._stamped >= self._durable:
            return  # stopped, or stamped meanwhile, as the last group of a book that was closed
        if group != self._durable or not self.idle or self._log.room().refusal is not None:
            self._ask_stamp()  # while space is short what there is, is for groups
            return

        def done(error: BaseException | None) -> None:
            if error is not None:
                self._fail(error)

        self._runner.run(self.write_stamp, done)

    def _appended(self, number: int) -> None:
        """The durable line: what waited for this group may leave."""
        if self._failpoint is not None:
            self._failpoint("appended")
        self._durable = number
        self.durable_position = self._log.position
        self.core.made_durable(number)
        self._releasing.extend(self._waits.pop(number, []))
        # The next group goes to the log before anything is released: it is what others wait for.
        self.flush()
        self._release()
        if self._failpoint is not None:
            self._failpoint("released")
        for observer in self._observers:
            observer.group_durable(number)
        self._resume_refused()
        self._schedule_expiry()
        self._ask_stamp()

    def _release(self) -> None:
        """Deliver what waited. Should that fail, whoever is left is among those to be told."""
        while self._releasing:
            submitter, taken, size = self._releasing[0]
            self._deliver(submitter, taken, size)
            if self._releasing:
                self._releasing.popleft()
                self._held_bytes -= size + limits.HELD_BYTES_EACH

    def _resume_refused(self) -> None:
        """Let those go on who found no room, in their order, until there is none again."""
        for submitter in list(self._refused):
            if self._refused.pop(submitter, submitter) is submitter:
                continue
            others = len(self._refused)
            submitter.resume()
            if len(self._refused) > others:
                self._refused = {submitter: None} | self._refused
                break

    # ---- time -----------------------------------------------------------------------------------

    def _schedule_expiry(self) -> None:
        """Ask to be woken when the next hold runs out."""
        due_ns = self.core.next_expiry_ns
        if due_ns and due_ns != self._wake_ns:
            self._wake_ns = due_ns
            delay_ns = due_ns - self._clock.now_ns()
            self._runner.wake(min(max(0, delay_ns), limits.WAKE_NS_MAX), self.tick)

    def tick(self) -> None:
        """Run due expiries, in a group of their own when nothing else is open."""
        with self._turnstile:
            self._wake_ns = 0
            if self.cause is None:
                self._or_stop(self._expire)

    def _expire(self) -> None:
        if self.core.group_records == 0:
            if self._keeper is not None and self._keeper.full:
                self._runner.wake(limits.REFUSED_RETRY_NS, self.tick)
                return
            self._open_group()
        if self.refusal is not None:
            self._runner.wake(limits.REFUSED_RETRY_NS, self.tick)
            return
        if self.core.expire(self._now_ns) and self._next_group():
            self.core.expire(self._now_ns)
        if self.core.group_records:
            self._ask_flush()
        else:
            self._schedule_expiry()

    def start(self, wall_ns: int, release: int, start_id: int) -> None:
        """Open this run of the server; the first group holds its start record.

        start_id: 64 bits at random, so that no run of a copy of the book has the same.
        """
        with self._turnstile:
            self._open_group()
            self.core.start(self._now_ns, wall_ns, release, start_id)
            self._ask_flush()

    # ---- the end --------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether all that was accepted is durable and released."""
        return not self._appending and self.core.group_records == 0

    def _fail(self, error: BaseException) -> None:
        """Stop for good: nothing is acknowledged or read any more, and everybody is told."""
        if self.cause is not None:
            return
        self.cause = error if isinstance(error, LedgerStopped) else LedgerStopped(error)
        waits = [self._releasing, *(self._waits[group] for group in sorted(self._waits))]
        waiting = [submitter for those in waits for submitter, _, _ in those] + list(self._refused)
        if self._keeper is not None:
            waiting += self._keeper.stop()
        self._releasing, self._waits = deque(), {}
        self._refused.clear()
        for submitter in waiting:
            with suppress(Exception):
                submitter.stopped(self.cause)
        if self._on_stopped is not None:
            self._on_stopped(self.cause)
