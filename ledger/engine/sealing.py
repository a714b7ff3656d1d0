"""Order: what keeps memory bounded and restarts short: windows sealed, checkpoints, cold answers.

A full window is cut at the end of a group, sealed once that group is durable, and dropped; a
checkpoint is copied in small steps beside the work and becomes valid when all before it is sealed.
A request that needs the sealed past waits outside of the order until it is attached, and is tried
again then. All of it is derived from the journal behind its durable line: a crash anywhere loses
only work that is done again. What blocks runs on lanes of the runner; what touches the core happens
while the engine's turnstile is held. It knows no file and no column: History keeps them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from ledger import _core
from ledger.engine.ports import Host, Runner, Submitter
from ledger.facts import limits
from ledger.facts.errors import ColumnDamaged, DataRefused, LedgerError
from ledger.history import _columns
from ledger.history.lookup import Wanted
from ledger.journal.ports import Ends

Done = Callable[[BaseException | None], None]


class Writer(Protocol):
    """A checkpoint that is being written."""

    def column(self, column: int, record_bytes: int) -> None: ...
    def append(self, records: Any) -> None: ...
    def commit(self, facts: bytes) -> None: ...
    def abandon(self) -> None: ...


class Past(Protocol):
    """The sealed past, and who writes it: History."""

    @property
    def hash_key(self) -> bytes: ...
    @property
    def group(self) -> int: ...
    def covers(self, group_last: int) -> bool: ...
    def write(
        self,
        columns: dict[int, npt.NDArray[Any]],
        group_first: int,
        group_last: int,
        position_last: int,
        digest: bytes,
    ) -> Any: ...
    def add(self, segment: Any) -> None: ...
    def merge(self) -> bool: ...
    def resolve(self, wanted: Any) -> Any: ...
    def checkpoint_writer(self, group: int, position: int, digest: bytes) -> Writer: ...
    def damaged(self, error: ColumnDamaged) -> None: ...


class WindowsDiffer(LedgerError):
    """What is sealed was cut elsewhere, by software that keeps more or less in memory."""


class _Snapshot:
    """A checkpoint under way: the numbers, sessions and starts of one moment, the rest copied
    later."""

    def __init__(
        self, few: dict[int, npt.NDArray[np.uint8]], numbers: dict[str, Any]
    ) -> None:
        self.few, self.numbers = few, numbers
        self.group = int(numbers["group"])
        self.column = 0
        self.writer: Writer | None = None
        self.buffer = np.empty(limits.CHECKPOINT_STEP_BYTES, np.uint8)

    def begin(self, past: Past, ends: Ends) -> Writer:
        if self.writer is None:
            self.writer = past.checkpoint_writer(self.group, *ends.end_of(self.group))
        return self.writer

    def write(self, past: Past, ends: Ends, column: int, count: int) -> None:
        """Write what was copied; all is written when nothing was."""
        writer = self.begin(past, ends)
        if column == 0:
            for one, records in self.few.items():
                writer.column(one, _columns.RECORD_BYTES[one])
                writer.append(records)
            writer.commit(encode_numbers(self.numbers))
            return
        if column != self.column:
            writer.column(column, _columns.RECORD_BYTES[column])
            self.column = column
        writer.append(self.buffer[: count * _columns.RECORD_BYTES[column]])


class Sealer:
    """Cuts, seals and drops the windows of one core, writes its checkpoints, attaches its past."""

    def __init__(self, core: _core.Core, past: Past, ends: Ends) -> None:
        self._core, self._past, self._ends = core, past, ends
        self._runner: Runner | None = None
        self._host: Host | None = None
        self._durable = 0
        self._sealing = self._copying = self._merging = False
        self._written: list[Any] = []  # segments of the first windows, which are not dropped yet
        self._merge_due = True  # whether there may be something to merge
        self._snapshot: _Snapshot | None = None
        self._windows_since = 0  # cut since the last checkpoint
        self._stopped = False
        # Who waits for the sealed past: those that are being answered, whether they still want to
        # be (what they asked is under way until then), and those behind them.
        self._asking: dict[Submitter, bool] = {}
        self._queue: dict[Submitter, None] = {}
        self._disappointed: dict[Submitter, None] = {}  # their answer was overtaken by a drop
        core.use_hash_key(past.hash_key)

    # ---- replay: everything in turn -------------------------------------------------------------

    def replayed(self) -> None:
        """A group has been replayed: cut, seal what is not sealed yet, and drop."""
        core = self._core
        if not core.memtable_full:
            return
        core.rotate()
        [(first, last)] = core.memtables
        if not self._past.covers(last):
            if first != self._past.group + 1:
                raise WindowsDiffer(f"a window from group {first}, sealed up to {self._past.group}")
            self._past.add(self._write_window(first, last))
        core.evict()
        self._windows_since += 1
        if self._past.group == last and self._checkpoint_due():
            snapshot = self._open_snapshot()
            column = -1
            while column:
                column, count = core.copy_snapshot(snapshot.buffer)
                snapshot.write(self._past, self._ends, column, count)

    def check_replayed(self) -> None:
        """All is replayed: what is sealed must not be in memory as well. WindowsDiffer."""
        if self._core.group_first != self._past.group + 1:
            raise WindowsDiffer(
                f"sealed up to group {self._past.group}, in memory from {self._core.group_first}"
            )

    def _write_window(self, first: int, last: int) -> Any:
        """The segment of a closed window, which nobody looks into yet."""
        columns = self._core.memtable_columns(self._past.hash_key, first)
        segment = self._past.write(columns, first, last, *self._ends.end_of(last))
        self._core.filter_insert(columns[_columns.IDS][:, 0])
        return segment

    def _checkpoint_due(self) -> bool:
        """Whether what was journaled since the last checkpoint is worth the cost of another."""
        if self._windows_since < limits.CHECKPOINT_WINDOWS_MIN:
            return False
        counts = self._core.counts_by_kind
        size = 128 * counts["accounts"] + 160 * counts["open_holds"] + 128 * counts["sessions"]
        return size <= self._windows_since * limits.CHECKPOINT_BYTES_A_WINDOW

    def _open_snapshot(self) -> _Snapshot:
        self._windows_since = 0
        return _Snapshot(*self._core.open_snapshot())

    # ---- beside the work: the engine calls, and holds its turnstile --------------------------

    def bind(self, runner: Runner, host: Host, durable: int) -> None:
        """From now on work goes on lanes of `runner`."""
        self._runner, self._host, self._durable = runner, host, durable
        self._next()

    @property
    def full(self) -> bool:
        """Whether no group may be opened: the window is full, and too many are still in memory."""
        return self._core.memtable_full

    def group_taken(self) -> None:
        """A group was closed and none is open: the moment to cut."""
        self._cut(limits.WINDOWS_CLOSED_MAX)

    def _cut(self, closed_max: int) -> None:
        """Close the window if it is full and fewer than so many are closed."""
        core = self._core
        if not core.memtable_full or len(core.memtables) >= closed_max:
            return
        core.rotate()
        self._windows_since += 1
        if self._snapshot is None and self._checkpoint_due():
            self._snapshot = self._open_snapshot()

    def group_durable(self, group: int) -> None:
        self._durable = group
        self._next()

    def _next(self) -> None:
        """Begin what can be begun."""
        if self._stopped or self._runner is None:
            return
        if self._crowded:
            self._drop()
        windows = self._core.memtables
        sealed = len(self._written)
        if not self._sealing and len(windows) > sealed and windows[sealed][1] <= self._durable:
            self._sealing = True
            first, last = windows[sealed]
            written: list[Any] = []

            def done(error: BaseException | None) -> None:
                self._sealed(written, error)

            self._aside(
                "seal", lambda: written.append(self._write_window(first, last)), done
            )
        if (
            not self._copying
            and self._snapshot is not None
            and self._past.group >= self._snapshot.group
        ):
            self._copy()
        if self._merge_due and not self._merging:
            self._merging = True
            self._aside("merge", self._merge, self._merged)

    def _sealed(self, written: list[Any], error: BaseException | None) -> None:
        self._sealing = False
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # The window stays in memory; when too many do, nothing more is taken.
            self._later(self._next)
        elif not self._failed(error):
            self._written += written
            self._drop()
            self._next()

    @property
    def _crowded(self) -> bool:
        """Whether payments wait for a drop."""
        return self.full and len(self._core.memtables) >= limits.WINDOWS_CLOSED_MAX

    def _drop(self) -> None:
        """Drop the windows that are sealed, once nobody is being answered: what was found for them
        must stay true until it is attached. Who asks meanwhile waits for the drop, and what is
        closed meanwhile is sealed too, so that long answers do not hold up what follows.

        Payments wait for no cold disk: where they would have to, the answers under way are
        overtaken and asked for again, once each, which finds warm what they read.
        """
        if not self._written:
            return
        overtaken = self._crowded and self._disappointed.keys().isdisjoint(self._asking)
        if self._asking and not overtaken:
            return
        written, self._written = self._written, []
        # In one step: whoever asks finds each transfer either here or there.
        for segment in written:
            self._past.add(segment)
            self._core.evict()
        self._merge_due = True
        if self._core.group_records == 0:
            self.group_taken()
        assert self._host is not None
        self._host.resume()
        self._resume_queue()
        self._next()

    def _copy(self) -> None:
        """Copy a little of the snapshot here, and write it elsewhere."""
        snapshot = self._snapshot
        assert snapshot is not None and self._runner is not None
        self._copying = True
        column, count = self._core.copy_snapshot(snapshot.buffer)

        def written(error: BaseException | None) -> None:
            self._copying = False
            no_space = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if no_space or _of_the_journal(error):
                self._abandon()
            elif not self._failed(error):
                if column == 0:
                    self._snapshot = None
                self._next()

        self._aside(
            "checkpoint", lambda: snapshot.write(self._past, self._ends, column, count), written
        )

    def _abandon(self) -> None:
        """This checkpoint finds no space, or its group is damaged: the one before is as good."""
        snapshot, self._snapshot = self._snapshot, None
        assert snapshot is not None
        if snapshot.writer is not None:
            snapshot.writer.abandon()
        self._core.close_snapshot()

    def _merge(self) -> None:
        self._merge_due = False  # first: a window that is sealed meanwhile may make more due
        if self._past.merge():
            self._merge_due = True

    def _merged(self, error: BaseException | None) -> None:
        self._merging = False
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return  # segments are as good unmerged: the next seal tries again
        if not self._failed(error):
            self._next()

    def _aside(self, lane: str, job: Callable[[], None], done: Done) -> None:
        """A job on a lane; what `done` raises here stops the engine."""
        assert self._runner is not None

        def finished(error: BaseException | None) -> None:
            try:
                done(error)
            except Exception as raised:
                self._failed(raised)

        self._runner.aside(lane, job, finished)

    def _later(self, callback: Callable[[], None]) -> None:
        assert self._runner is not None
        self._runner.later(limits.REFUSED_RETRY_NS, callback)

    def _failed(self, error: BaseException | None) -> bool:
        """Stop the engine for an error of derived data: a start rebuilds what is damaged."""
        if error is None:
            return self._stopped
        if isinstance(error, ColumnDamaged):
            self._past.damaged(error)
        if not self._stopped:
            assert self._host is not None
            self._host.stop(error)
        return True

    def stop(self) -> list[Submitter]:
        """The engine has stopped: nothing is begun any more. Who still waits, to be told."""
        self._stopped = True
        waiting = [one for one, wanted in self._asking.items() if wanted] + [*self._queue]
        self._asking.clear()
        self._queue.clear()
        return waiting

    # ---- requests that need the sealed past -----------------------------------------------------

    def ask(self, submitter: Submitter) -> None:
        """The submitter's request ended with COLD: it is resumed when what it wants is attached."""
        if submitter in self._asking:
            self._asking[submitter] = True
            return
        if self._written or len(self._asking) >= limits.COLD_REQUESTS_MAX:
            self._queue[submitter] = None
            return
        assert self._runner is not None
        self._asking[submitter] = True
        wanted, generation = Wanted(*self._core.take_wanted()), self._core.generation
        found: list[Any] = []

        def done(error: BaseException | None) -> None:
            self._answer(submitter, generation, found[0] if error is None else None, error)

        # An id that the filter could not rule out must not wait behind a long statement.
        lane = "past" if wanted.little else "reads"
        self._aside(lane, lambda: found.append(self._past.resolve(wanted)), done)

    def _answer(
        self, submitter: Submitter, generation: int, found: Any, error: BaseException | None
    ) -> None:
        if self._stopped:
            return
        # Of a journal that is damaged there who asked is told, and others are served.
        if error is not None and not _of_the_journal(error):
            self._failed(error)
            return
        wanted = self._asking.pop(submitter)
        self._disappointed.pop(submitter, None)
        if error is None and generation == self._core.generation:
            self._core.attach(*found)
            if self._core.group_records == 0:
                # One window more than payments may have: else who waited would be refused now, and
                # what was attached would be gone with the next drop.
                self._cut(limits.WINDOWS_CLOSED_MAX + 1)
        elif error is None and wanted:
            self._disappointed[submitter] = None
        if wanted:
            if isinstance(error, DataRefused):
                submitter.refused(error)
            else:
                submitter.resume()
        self._drop()
        self._resume_queue()

    def _resume_queue(self) -> None:
        """Let those ask again who found too many before them, until as many are asking as may.

        Whoever finds what it wants attached goes on without asking, and leaves its place to the
        next. Each comes once: who queues itself again meanwhile is behind all of them.
        """
        for submitter in list(self._queue):
            if self._stopped or self._written or len(self._asking) >= limits.COLD_REQUESTS_MAX:
                return
            if self._queue.pop(submitter, submitter) is None:
                submitter.resume()

    def forget(self, submitter: Submitter) -> None:
        """The submitter does not want to be resumed any more."""
        if submitter in self._asking:
            self._asking[submitter] = False
        self._queue.pop(submitter, None)
        self._disappointed.pop(submitter, None)


def _of_the_journal(error: BaseException | None) -> bool:
    """Whether it says that a group is damaged, which ends nothing but what needs that group."""
    return isinstance(error, DataRefused) and not isinstance(error, ColumnDamaged)


def encode_numbers(numbers: dict[str, Any]) -> bytes:
    """The numbers of a snapshot as the facts of its checkpoint."""
    return msgspec.json.encode(numbers)


def decode_numbers(facts: bytes) -> dict[str, Any]:
    """DataRefused when they are not what encode_numbers gives."""
    try:
        numbers = msgspec.json.decode(facts, type=_Numbers)
    except msgspec.MsgspecError as error:
        raise DataRefused(f"the facts of the checkpoint are damaged: {error}") from error
    return msgspec.structs.asdict(numbers)


class _Numbers(msgspec.Struct):
    group: int
    position: int
    clock: int
    account_timestamp_max: int
    transfer_timestamp_max: int
    transfer_count: int
    burned_count: int
    burned_hash: bytes
