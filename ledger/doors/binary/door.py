"""The binary door: connections of the client protocol, over plain streams.

A connection reads into one buffer that all share (batch.py), and gets memory of its own only while
a frame is half arrived or waits for room, as much as has arrived, so ten thousand idle clients cost
nothing. Bounds: a frame's length, bytes of unfinished frames in all, replies in memory of each peer
and of all until they are freed, time for each, lines of the log. Who asks much for little (a
filter, many ids) has a share of each turn of the loop and goes to the end of a line with the rest;
payments and small reads never wait for those. Backpressure is not reading. When something about a
peer's bytes is wrong, what came before is answered and the connection closed; a frame that is not
exactly right never leaves, because clients abort on it. This file knows neither accounts nor the
journal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ledger.doors.binary.batch import ARRIVALS_MAX, DROP, EVICT, Turn
from ledger.facts import _facts, limits
from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.facts.schema import ARRIVAL, EvictionReason, int_of
from ledger.wire import _codec

if TYPE_CHECKING:
    from ledger._core import Bytes
    from ledger.engine.engine import Engine
    from ledger.engine.ports import Answers

log = logging.getLogger("ledger.door")

SIZE_AT, COMMAND_AT = 96, 114  # of a frame's header
WIRE_ERRORS = {value: doc for _, value, doc in _facts.names()["wire_errors"]}


class Door:
    """All connections of one book's binary door, and what they share. Lives in one loop."""

    def __init__(
        self, engine: Engine, cluster: int, connections_max: int = limits.CONNECTIONS_MAX
    ) -> None:
        self.engine = engine
        self.codec = _codec.Codec(cluster, limits.RELEASE, limits.RELEASE_MIN)
        self.arrivals: npt.NDArray[np.void] = np.zeros(ARRIVALS_MAX, ARRIVAL)
        self.connections: dict[int, Connection] = {}  # by route
        self.turn = Turn(engine, self.codec, self.connections, self.full)
        self.connections_max = connections_max
        self.kept_bytes = 0  # memory of connections whose frames are half arrived, or wait
        self.reply_bytes = 0  # replies in memory: not durable yet, unread, or not freed yet
        self.lost_bytes = 0  # those of them whose connection was given up
        self.behind: dict[Connection, None] = {}  # peers with unread replies, the oldest first
        self.waiting: dict[Connection, None] = {}  # for their share of a turn, the next first
        self._reads = 0  # records that long reads were executed for in this turn of the loop
        self._turning = False  # whether the end of this turn will be told
        self.draining = False
        self.half: dict[Connection, None] = {}  # peers with half a frame, what began first first
        self.crowded = False  # too much waits for room: no new frames are read
        self._route = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._lines = 0  # logged since the last sweep

    def connect(self) -> Connection:
        """The protocol of a new connection."""
        if self._sweep is None:
            self._schedule_sweep()
        self._route += 1
        return Connection(self, self._route)

    def _schedule_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(limits.SWEEP_SECONDS, self._look_around)

    def _look_around(self) -> None:
        self._schedule_sweep()
        if self._lines > limits.LOG_LINES_MAX:
            log.warning("%d more lines like these", self._lines - limits.LOG_LINES_MAX)
        self._lines = 0
        if self.kept_bytes <= limits.RECEIVE_BYTES_MAX:
            self.crowded = False
        now = time.monotonic()
        for connection in list(self.connections.values()):
            connection.look_at_deadlines(now)

    def tell(self, peer: str, what: str) -> None:
        """Log what was wrong with a peer; no peer can fill the disk by being wrong."""
        self._lines += 1
        if self._lines <= limits.LOG_LINES_MAX:
            log.warning("%s: %s", peer, what)

    # ---- what all have together -----------------------------------------------------------------

    def full(self) -> bool:
        """Whether there is no memory for any reply."""
        return self.reply_bytes > limits.UNREAD_BYTES_MAX + limits.UNREAD_RESERVE_BYTES

    def admits(self, reads: int, resumed: bool) -> bool:
        """Whether so many records may be read now; they are counted then. Who is `resumed` may
        read a little more: what was found for it may be gone in the next turn."""
        if reads <= limits.READS_LITTLE:
            return True
        reads_max = limits.READS_RESUMED if resumed else limits.READS_A_TURN
        if self._many_replies or self._reads >= reads_max:
            return False
        self._reads += reads
        self._tell_turn()
        return True

    def wait(self, connection: Connection) -> None:
        """Have it go on in a later turn, behind those that wait already."""
        self.waiting[connection] = None
        self._tell_turn()

    def _tell_turn(self) -> None:
        if not self._turning:
            self._turning = True
            self.engine.soon(self._next_turn)

    def _next_turn(self) -> None:
        """Those go on who wait, each with one share, as far as this turn has room."""
        self._turning = False
        self._reads = 0
        for connection in list(self.waiting):
            if self._reads >= limits.READS_A_TURN or self._many_replies:
                break
            if self.waiting.pop(connection, connection) is None:
                connection.go_on()
        # While there is no memory, whoever gives some back tells the turn.
        if self._reads or (self.waiting and not self._many_replies):
            self._tell_turn()

    @property
    def _many_replies(self) -> bool:
        return self.reply_bytes > limits.UNREAD_BYTES_MAX

    def free(self, replies_bytes: int, lost_bytes: int = 0) -> None:
        """Replies are in memory no more."""
        self.reply_bytes -= replies_bytes
        self.lost_bytes -= lost_bytes
        if self.waiting:
            self._tell_turn()

    def bound_unread(self) -> None:
        """Close whoever has been behind longest while too much waits to be read."""
        while self.reply_bytes - self.lost_bytes > limits.UNREAD_BYTES_MAX and self.behind:
            next(iter(self.behind)).cut("it reads too little, and so do others")

    def bound_kept(self) -> None:
        """Close whose frame began longest ago while too much has half arrived. Should whole ones be
        too much that wait for room, begin no new ones."""
        while self.kept_bytes > limits.RECEIVE_BYTES_MAX and self.half:
            next(iter(self.half)).cut("its frame is slow, and too much has half arrived")
        if self.kept_bytes > limits.RECEIVE_BYTES_MAX and not self.crowded:
            self.crowded = True
            for connection in self.connections.values():
                connection.hold_new_frames()

    def drain(self) -> None:
        """Read no more from anybody."""
        self.turn.settle()
        self.draining = True
        self.waiting.clear()
        for connection in self.connections.values():
            connection.hold_reading()

    @property
    def written(self) -> bool:
        """Whether all that was delivered has left."""
        return not any(connection.unwritten_bytes for connection in self.connections.values())

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections.values()):
            connection.close()


class Connection(asyncio.BufferedProtocol):
    """One peer. A submitter of the engine."""

    __slots__ = (
        "_aborted", "_behind", "_door", "_ending", "_filled", "_frame_since", "_heard",
        "_held_bytes", "_kept", "_lost_bytes", "_needed", "_peer", "_progress", "_progress_at",
        "_reading", "_start", "_stuck", "_told", "_transport", "_unread_bytes", "_was_full",
        "in_turn", "route",
    )  # fmt: skip

    def __init__(self, door: Door, route: int) -> None:
        self.route = route
        self.in_turn = False  # something it sent waits for the end of the turn
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._peer = "?"
        self._kept: npt.NDArray[np.uint8] | None = None  # a frame half arrived, or without room
        self._start = 0  # where the first frame that is kept begins
        self._filled = 0
        self._needed = 0
        self._stuck = False  # whole frames are kept that there was no room for
        self._was_full = False  # they are kept because of this peer's own unread replies
        self._reading = True
        self._ending = False  # it will be closed once what came before is answered
        self._told = False  # the log knows that this peer breaks rules
        self._held_bytes = 0  # replies that are not durable yet
        self._behind = False  # something waits to be read by it
        self._unread_bytes = 0  # written since then: none is sure to be freed before all is read
        self._aborted = False
        self._lost_bytes = 0  # unread when it was given up, and not freed yet
        self._heard = time.monotonic()
        self._frame_since: float | None = None
        self._progress = 0  # bytes that had left at the last look
        self._progress_at = 0.0

    # ---- the transport's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = str(transport.get_extra_info("peername"))
        self._transport.set_write_buffer_limits(high=0, low=0)  # all that waits is counted
        door = self._door
        if door.draining:
            self._transport.abort()
        elif door.crowded or len(door.connections) >= door.connections_max:
            # A new connection cannot be kept from reading once, so a crowded door takes none.
            why = "too much waits for room" if door.crowded else "too many"
            door.tell(self._peer, f"refused: {len(door.connections)} connections, {why}")
            self._transport.abort()
        else:
            door.connections[self.route] = self

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lose()
        self._door.connections.pop(self.route, None)
        self._door.engine.forget(self)
        if self._lost_bytes:
            # The transport's own end comes after this call, in what is left of this turn.
            self._door.engine.soon(self._lost)

    def get_buffer(self, sizehint: int) -> Any:
        if self._kept is None:
            return self._door.turn.space()
        return self._kept[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._heard = time.monotonic()
        if self._kept is None:
            self._door.turn.add(self, count)
            return
        self._filled += count
        if self._filled >= self._needed:
            self._process_kept()
            self.hold_new_frames()
        elif self._filled == len(self._kept):
            self._take_memory(self._kept, 0, self._filled, self._needed)
            self._door.bound_kept()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._behind = True
        self._door.behind[self] = None
        self._progress, self._progress_at = 0, time.monotonic()

    def resume_writing(self) -> None:
        self._door.free(self._catch_up())
        self.go_on()

    # ---- frames ---------------------------------------------------------------------------------

    def _process_kept(self, resumed: bool = False) -> None:
        kept = self._kept
        assert kept is not None
        self._stuck = False
        self._leave_lines()
        self.process(kept, self._start, self._filled, self._frame_since, resumed)

    def more(self, buffer: Bytes, start: int, end: int) -> None:
        """Take what was read behind what has come to be kept since it was asked to be read."""
        if self._kept is None:
            self.process(buffer, start, end, None)
            return
        read = np.frombuffer(buffer, np.uint8, end - start, start)
        joined = np.concatenate([self._kept[self._start : self._filled], read])
        if self._stuck:
            self._take_memory(joined, 0, len(joined), len(joined))
            self._door.bound_kept()
            return
        since = self._frame_since
        self._drop_kept()
        self.process(joined, 0, len(joined), since)

    def process(
        self,
        buffer: Bytes,
        start: int,
        end: int,
        since: float | None,
        resumed: bool = False,
    ) -> None:
        """Take all whole frames of buffer[start:end], the first of which began at `since` (None
        for now), long reads as far as this turn's share goes; keep the rest."""
        if not self._process(buffer, start, end, since, resumed) and buffer is self._kept:
            self._drop_kept()

    def _process(
        self, buffer: Bytes, start: int, end: int, since: float | None, resumed: bool
    ) -> bool:
        """Whether something of it was kept."""
        door = self._door
        arrivals = door.arrivals
        shared = False
        while self._open() is not None and not self._ending:
            count, after, needed, error = door.codec.parse(
                buffer, start, end, arrivals, 0, self.route, limits.READS_SHARE
            )
            if count:
                since = None
                reads = door.codec.reads
                if (shared and reads > limits.READS_LITTLE) or not door.admits(reads, resumed):
                    self._wait(buffer, start, end)
                    door.wait(self)
                    return True
                shared = shared or reads > limits.READS_LITTLE
                for index in np.flatnonzero(arrivals["verdict"][:count] == DROP):
                    self.tell_dropped(buffer, arrivals[index])
                try:
                    done = door.engine.submit(self, buffer, arrivals, count)
                except LedgerStopped:
                    return False
                if done < count:
                    return self._find_no_room(buffer, int(arrivals["frame_offset"][done]), end)
                start = after
            if error:
                door.tell(self._peer, f"closed: {WIRE_ERRORS[error]}")
                self._end()
                return False
            if needed == 0:
                return False
            if needed > end - start:
                self._keep(buffer, start, end, needed, since)
                return True
        return False

    def _find_no_room(self, buffer: Bytes, start: int, end: int) -> bool:
        """The engine took no more. It resumes who may go on, or the peer has to read, or others."""
        if self._open() is None:
            return False
        self._wait(buffer, start, end)
        self._was_full = self._own_full()
        if not self._was_full and self._door.full():
            self._door.wait(self)
        return True

    def tell_dropped(self, buffer: Bytes, arrival: np.void) -> None:
        """Say once that a peer sends what the protocol does not have."""
        if not self._told:
            at = int(arrival["frame_offset"]) + COMMAND_AT
            command = np.frombuffer(buffer, np.uint8, 1, at)[0]
            self._door.tell(
                self._peer, f"ignored: a frame of command {command} that breaks the protocol"
            )
            self._told = True

    def _wait(self, buffer: Bytes, start: int, end: int) -> None:
        """Keep whole frames until they are executed; what is kept already stays where it is."""
        if buffer is self._kept:
            self._start = start
        else:
            self._keep(buffer, start, end, end - start, None)
        self._stuck, self._was_full = True, False
        self.hold_reading()

    def _keep(self, buffer: Bytes, start: int, end: int, needed: int, since: float | None) -> None:
        """Memory of its own for what is half arrived, or has no room."""
        self._take_memory(buffer, start, end, needed)
        self._frame_since = time.monotonic() if since is None else since
        if needed > end - start:
            self._door.half[self] = None
        self._door.bound_kept()

    def _take_memory(self, buffer: Bytes, start: int, end: int, needed: int) -> None:
        """Twice of what has arrived and no more than is needed, with buffer[start:end] in it."""
        filled = end - start
        room = max(filled, min(needed, max(limits.RECEIVE_BYTES_MIN, 2 * filled)))
        kept = np.empty(room, np.uint8)
        kept[:filled] = np.frombuffer(buffer, np.uint8, filled, start)
        if self._kept is not None:
            self._door.kept_bytes -= self._kept.nbytes
        self._kept, self._start, self._filled, self._needed = kept, 0, filled, needed
        self._door.kept_bytes += kept.nbytes

    def _drop_kept(self) -> None:
        if self._kept is not None:
            self._door.kept_bytes -= self._kept.nbytes
            self._leave_lines()
        self._kept, self._start, self._filled, self._needed = None, 0, 0, 0
        self._frame_since, self._stuck = None, False

    def _leave_lines(self) -> None:
        """What is kept is on its way again, or gone."""
        self._door.half.pop(self, None)
        self._door.waiting.pop(self, None)

    def _open(self) -> asyncio.Transport | None:
        """The transport while it can be used: one that is closing refuses to be told anything."""
        if self._transport is None or self._transport.is_closing():
            return None
        return self._transport

    def hold_reading(self) -> None:
        transport = self._open()
        if self._reading and transport is not None:
            self._reading = False
            transport.pause_reading()

    def hold_new_frames(self) -> None:
        """Read no more if the door is crowded, unless a frame has half arrived."""
        if self._door.crowded and self._kept is None:
            self.hold_reading()

    def go_on(self, resumed: bool = False) -> None:
        """Try again what found no room, and read on."""
        if self._open() is None or self._ending or self._door.draining:
            return
        if self._stuck:
            self._process_kept(resumed)
        transport = self._open()
        if transport is None or self._stuck or self._reading or self._ending:
            return
        if self._door.crowded and self._kept is None:
            return
        self._reading = True
        transport.resume_reading()

    # ---- a submitter of the engine --------------------------------------------------------------

    def of(self, arrival: int) -> Connection:
        return self

    def take(self, answers: Answers, made: int) -> tuple[bytes, int]:
        records = answers.records
        frames = self._door.codec.encode(records, made, answers.payload, answers.counts)
        for index in np.flatnonzero(records["verdict"][:made] == EVICT):
            self.tell_evicted(records[index])
        self.hold(frames)
        return frames, len(frames)

    def tell_evicted(self, answer: np.void) -> None:
        reason = EvictionReason(int(answer["reason"])).name.lower()
        lost = ": it has seen what this journal does not hold" if answer["lost"] else ""
        self._door.tell(self._peer, f"evicted: client {int_of(answer['client'])}: {reason}{lost}")

    def hold(self, frames: bytes) -> None:
        """These will be delivered once they are durable."""
        self._held_bytes += len(frames)
        self._door.reply_bytes += len(frames)

    def deliver(self, taken: Any) -> None:
        size = len(taken)
        self._held_bytes -= size
        if self._transport is None or self._aborted:
            self._door.free(size)
            return
        self._transport.write(taken)
        if self._behind:
            self._unread_bytes += size
            self._door.bound_unread()
        else:
            self._door.free(size)
        if self._ending and self._held_bytes == 0:
            self.close()
        elif self._stuck and self._was_full and not self.full():
            self.go_on()

    def takes(self) -> bool:
        """Whether what it sends is executed and answered."""
        return self._open() is not None and not self._ending and not self.full()

    def full(self) -> bool:
        return self._aborted or self._own_full() or self._door.full()

    def _own_full(self) -> bool:
        return self._held_bytes + self._unread_bytes > limits.SEND_BYTES_MAX

    def resume(self) -> None:
        self.go_on(resumed=True)

    def refused(self, why: DataRefused) -> None:
        """The first frame that is kept is not answered; those behind it are."""
        self._door.tell(self._peer, f"not answered: {why}")
        if self._stuck and self._kept is not None:
            at = self._start + SIZE_AT
            self._start += int.from_bytes(self._kept[at : at + 4].tobytes(), "little")
            if self._start == self._filled:
                self._drop_kept()
        self.go_on()

    def unanswered(self, why: DataRefused) -> None:
        self._door.tell(self._peer, f"not answered: {why}")

    def stopped(self, cause: LedgerStopped) -> None:
        self.close(at_once=True)

    # ---- replies that wait to be read -----------------------------------------------------------

    @property
    def unwritten_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _catch_up(self) -> int:
        """Nothing waits to be read any more; how much of memory that was."""
        self._behind = False
        self._door.behind.pop(self, None)
        unread, self._unread_bytes = self._unread_bytes, 0
        return unread

    def _lose(self) -> None:
        """What it sent and did not read is given up; the replies count until they are freed."""
        self._drop_kept()
        unread = self._catch_up()
        self._lost_bytes += unread
        self._door.lost_bytes += unread

    def _lost(self) -> None:
        self._door.free(self._lost_bytes, self._lost_bytes)
        self._lost_bytes = 0

    def _reads(self, now: float) -> bool:
        """Whether this peer took anything of what waits for it in the last SEND_SECONDS_MAX."""
        if not self._behind:
            return True
        left = self._unread_bytes - self.unwritten_bytes
        if left != self._progress:
            self._progress, self._progress_at = left, now
        return now - self._progress_at <= limits.SEND_SECONDS_MAX

    # ---- the end --------------------------------------------------------------------------------

    def look_at_deadlines(self, now: float) -> None:
        """Close a peer that sends a frame too slowly, reads nothing, or says nothing."""
        if self._transport is None:
            return
        frame_since = now if self._stuck or self._frame_since is None else self._frame_since
        if now - frame_since > limits.FRAME_SECONDS_MAX:
            self.cut("a frame took too long")
        elif not self._reads(now):
            self.cut("it reads nothing")
        elif now - self._heard > limits.IDLE_SECONDS_MAX and not self._stuck:
            self.cut("it says nothing")
        elif not self._stuck:
            self.go_on()

    def cut(self, why: str) -> None:
        """Close at once, and say why."""
        self._door.tell(self._peer, f"closed: {why}")
        self.close(at_once=True)

    def _end(self) -> None:
        """Read no more, and close once what came before is answered."""
        self._ending = True
        self.hold_reading()
        if self._held_bytes == 0:
            self.close()

    def close(self, at_once: bool = False) -> None:
        """Close; what was written still leaves unless `at_once`."""
        if self._transport is None:
            return
        if at_once:
            self._aborted = True
            self._lose()
            self._transport.abort()
        else:
            self._transport.close()
