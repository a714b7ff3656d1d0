"""Edge: the binary door: connections of the client protocol, over plain streams.

A connection reads into one buffer that all share (turn.py), and gets memory of its own only while
a frame is half arrived or waits for room, so ten thousand idle clients cost nothing. Bounds: a
frame's length, bytes of unfinished frames in all, unread replies of each peer and of all, time for
each, lines of the log. Backpressure is not reading. When something about a peer's bytes is wrong,
what came before is answered and the connection closed; a frame that is not exactly right never
leaves, because clients abort on it. This file knows neither accounts nor the journal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ledger import _wire, config
from ledger.doors.turn import ARRIVALS_MAX, DROP, EVICT, Turn
from ledger.errors import DataRefused, LedgerStopped
from ledger.schema import ARRIVAL, EvictionReason, int_of

if TYPE_CHECKING:
    from ledger._core import Bytes
    from ledger.engine import Engine

log = logging.getLogger("ledger.door")

SIZE_AT, COMMAND_AT = 96, 114  # of a frame's header
WIRE_ERRORS = {value: doc for _, value, doc in _wire.names()["wire_errors"]}


class Door:
    """All connections of one book's binary door, and what they share. Lives in one loop."""

    def __init__(
        self, engine: Engine, cluster: int, connections_max: int = config.CONNECTIONS_MAX
    ) -> None:
        self.engine = engine
        self.codec = _wire.Codec(cluster, config.RELEASE, config.RELEASE_MIN)
        self.arrivals: npt.NDArray[np.void] = np.zeros(ARRIVALS_MAX, ARRIVAL)
        self.connections: dict[int, Connection] = {}  # by route
        self.turn = Turn(engine, self.codec, self.connections)
        self.connections_max = connections_max
        self.kept_bytes = 0  # memory of connections whose frames are half arrived
        self.unread_bytes = 0  # replies in memory for those who are behind
        self.behind: dict[Connection, None] = {}  # peers that read too little, the oldest first
        self.draining = False
        self.crowded = False  # too much has half arrived: no new frames are read
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
        self._sweep = loop.call_later(config.SWEEP_SECONDS, self._look_around)

    def _look_around(self) -> None:
        self._schedule_sweep()
        if self._lines > config.LOG_LINES_MAX:
            log.warning("%d more lines like these", self._lines - config.LOG_LINES_MAX)
        self._lines = 0
        if self.kept_bytes <= config.RECEIVE_BYTES_MAX:
            self.crowded = False
        now = time.monotonic()
        for connection in list(self.connections.values()):
            connection.look_at_deadlines(now)

    def tell(self, peer: str, what: str) -> None:
        """Log what was wrong with a peer; no peer can fill the disk by being wrong."""
        self._lines += 1
        if self._lines <= config.LOG_LINES_MAX:
            log.warning("%s: %s", peer, what)

    def bound_unread(self) -> None:
        """Close whoever has been behind longest while too much waits to be read."""
        while self.unread_bytes > config.UNREAD_BYTES_MAX:
            next(iter(self.behind)).cut("it reads too little, and so do others")

    def bound_kept(self) -> None:
        """Begin no new frames while too much has half arrived; what has begun goes on."""
        if self.kept_bytes > config.RECEIVE_BYTES_MAX and not self.crowded:
            self.crowded = True
            for connection in self.connections.values():
                connection.hold_new_frames()

    def drain(self) -> None:
        """Read no more from anybody."""
        self.turn.settle()
        self.draining = True
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
    """One peer. An asker of the engine."""

    __slots__ = (
        "_behind", "_counted_bytes", "_door", "_ending", "_filled", "_frame_since", "_freed_bytes",
        "_heard", "_held_bytes", "_kept", "_needed", "_peer", "_piece_ends", "_progress",
        "_progress_at", "_reading", "_stuck", "_told", "_transport", "_was_full", "_written_bytes",
        "in_turn", "route",
    )  # fmt: skip

    def __init__(self, door: Door, route: int) -> None:
        self.route = route
        self.in_turn = False  # something it sent waits for the end of the turn
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._peer = "?"
        self._kept: npt.NDArray[np.uint8] | None = None  # a frame half arrived, or without room
        self._filled = 0
        self._needed = 0
        self._stuck = False  # whole frames are kept that the engine had no room for
        self._was_full = False  # they are kept because of this peer's own unread replies
        self._reading = True
        self._ending = False  # it will be closed once what came before is answered
        self._told = False  # the log knows that this peer breaks rules
        self._held_bytes = 0  # replies that are not durable yet
        self._behind = False  # more than BEHIND_BYTES waited for it, and some still do
        self._written_bytes = 0  # since it fell behind, as is the next
        self._freed_bytes = 0
        self._piece_ends: deque[int] = deque()  # memory is freed piece by piece
        self._counted_bytes = 0  # this peer's share of the door's unread bytes
        self._heard = time.monotonic()
        self._frame_since: float | None = None
        self._progress = 0  # bytes that had left at the last look
        self._progress_at = 0.0

    # ---- the transport's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = str(transport.get_extra_info("peername"))
        self._transport.set_write_buffer_limits(high=config.BEHIND_BYTES, low=0)
        door = self._door
        if door.draining:
            self._transport.abort()
        elif door.crowded or len(door.connections) >= door.connections_max:
            # A new connection cannot be kept from reading once, so a crowded door takes none.
            why = "too much has half arrived" if door.crowded else "too many"
            door.tell(self._peer, f"refused: {len(door.connections)} connections, {why}")
            self._transport.abort()
        else:
            door.connections[self.route] = self

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._drop_kept()
        self._catch_up()
        self._door.connections.pop(self.route, None)
        self._door.engine.forget(self)

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

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._behind = True
        self._door.behind[self] = None
        self._progress, self._progress_at = 0, time.monotonic()
        self._written_bytes, self._freed_bytes = self.unwritten_bytes, 0
        self._piece_ends.append(self._written_bytes)

    def resume_writing(self) -> None:
        self._catch_up()
        self._go_on()

    # ---- frames ---------------------------------------------------------------------------------

    def _process_kept(self) -> None:
        kept, filled, since = self._kept, self._filled, self._frame_since
        assert kept is not None
        self._drop_kept()
        self.process(kept, 0, filled, since)

    def process(self, buffer: Bytes, start: int, end: int, since: float | None) -> None:
        """Take all whole frames of buffer[start:end], the first of which began at `since` (None
        for now); keep the rest."""
        door = self._door
        while self._transport is not None and not self._ending:
            count, start, needed, error = door.codec.parse(
                buffer, start, end, door.arrivals, 0, self.route
            )
            if count:
                since = None
                for index in np.flatnonzero(door.arrivals["verdict"][:count] == DROP):
                    self.tell_dropped(buffer, door.arrivals[index])
                try:
                    done = door.engine.submit(self, buffer, door.arrivals, count)
                except LedgerStopped:
                    return
                if done < count:
                    start = int(door.arrivals["frame_offset"][done])
                    self._keep(buffer, start, end, end - start, since)
                    self._stuck, self._was_full = True, self.full()
                    self.hold_reading()
                    return
            if error:
                door.tell(self._peer, f"closed: {WIRE_ERRORS[error]}")
                self._end()
                return
            if needed == 0:
                return
            if needed > end - start:
                self._keep(buffer, start, end, needed, since)
                return

    def tell_dropped(self, buffer: Bytes, arrival: np.void) -> None:
        """Say once that a peer sends what the protocol does not have."""
        if not self._told:
            at = int(arrival["frame_offset"]) + COMMAND_AT
            command = np.frombuffer(buffer, np.uint8, 1, at)[0]
            self._door.tell(
                self._peer, f"ignored: a frame of command {command} that breaks the protocol"
            )
            self._told = True

    def _keep(self, buffer: Bytes, start: int, end: int, needed: int, since: float | None) -> None:
        """Memory of its own for what is half arrived, or has no room."""
        kept = np.empty(max(needed, end - start), np.uint8)
        kept[: end - start] = np.frombuffer(buffer, np.uint8, end - start, start)
        self._kept, self._filled, self._needed = kept, end - start, needed
        self._frame_since = time.monotonic() if since is None else since
        self._door.kept_bytes += kept.nbytes
        self._door.bound_kept()

    def _drop_kept(self) -> None:
        if self._kept is not None:
            self._door.kept_bytes -= self._kept.nbytes
        self._kept, self._filled, self._needed = None, 0, 0
        self._frame_since, self._stuck = None, False

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

    def _go_on(self) -> None:
        """Try again what found no room, and read on."""
        if self._open() is None or self._ending or self._door.draining:
            return
        if self._stuck:
            self._process_kept()
        transport = self._open()
        if transport is None or self._stuck or self._reading or self._ending:
            return
        if self._door.crowded and self._kept is None:
            return
        self._reading = True
        transport.resume_reading()

    # ---- an asker of the engine -----------------------------------------------------------------

    def of(self, arrival: int) -> Connection:
        return self

    def take(self, engine: Engine, made: int) -> tuple[bytes, int]:
        answers = engine.answers
        frames = self._door.codec.encode(answers, made, engine.payload, engine.counts)
        for index in np.flatnonzero(answers["verdict"][:made] == EVICT):
            self.tell_evicted(answers[index])
        self.hold(frames)
        return frames, len(frames)

    def tell_evicted(self, answer: np.void) -> None:
        reason = EvictionReason(int(answer["reason"])).name.lower()
        self._door.tell(self._peer, f"evicted: client {int_of(answer['client'])}: {reason}")

    def hold(self, frames: bytes) -> None:
        """These will be delivered once they are durable."""
        self._held_bytes += len(frames)

    def deliver(self, taken: Any) -> None:
        self._held_bytes -= len(taken)
        if self._transport is None:
            return
        was_behind = self._behind
        self._transport.write(taken)
        if self._behind:
            self._count_unread(len(taken) if was_behind else 0)
        if self._ending and self._held_bytes == 0:
            self.close()
        elif self._stuck and self._was_full and not self.full():
            self._go_on()

    def takes(self) -> bool:
        """Whether what it sends is executed and answered."""
        return self._transport is not None and not self._ending and not self.full()

    def full(self) -> bool:
        return self._held_bytes + self.unwritten_bytes > config.SEND_BYTES_MAX

    def resume(self) -> None:
        self._go_on()

    def refused(self, why: DataRefused) -> None:
        """The first frame that is kept is not answered; those behind it are."""
        self._door.tell(self._peer, f"not answered: {why}")
        if self._stuck and self._kept is not None:
            size = int.from_bytes(self._kept[SIZE_AT : SIZE_AT + 4].tobytes(), "little")
            self._kept, self._filled = self._kept[size:], self._filled - size
            if self._filled == 0:
                self._drop_kept()
        self._go_on()

    def unanswered(self, why: DataRefused) -> None:
        self._door.tell(self._peer, f"not answered: {why}")

    def stopped(self, cause: LedgerStopped) -> None:
        self.close(at_once=True)

    # ---- replies that wait to be read -----------------------------------------------------------

    @property
    def unwritten_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _count_unread(self, written: int) -> None:
        """Count what is in memory for this peer, now that so many bytes more were written."""
        if written:
            self._written_bytes += written
            self._piece_ends.append(self._written_bytes)
        left = self._written_bytes - self.unwritten_bytes
        while self._piece_ends and self._piece_ends[0] <= left:
            self._freed_bytes = self._piece_ends.popleft()
        in_memory = self._written_bytes - self._freed_bytes
        self._door.unread_bytes += in_memory - self._counted_bytes
        self._counted_bytes = in_memory
        self._door.bound_unread()

    def _catch_up(self) -> None:
        self._behind = False
        self._door.behind.pop(self, None)
        self._door.unread_bytes -= self._counted_bytes
        self._counted_bytes = 0
        self._piece_ends.clear()

    def _reads(self, now: float) -> bool:
        """Whether this peer took anything of what waits for it in the last SEND_SECONDS_MAX."""
        if not self._behind:
            return True
        self._count_unread(0)
        left = self._written_bytes - self.unwritten_bytes
        if left != self._progress:
            self._progress, self._progress_at = left, now
        return now - self._progress_at <= config.SEND_SECONDS_MAX

    # ---- the end --------------------------------------------------------------------------------

    def look_at_deadlines(self, now: float) -> None:
        """Close a peer that sends a frame too slowly, reads nothing, or says nothing."""
        if self._transport is None:
            return
        frame_since = now if self._stuck or self._frame_since is None else self._frame_since
        if now - frame_since > config.FRAME_SECONDS_MAX:
            self.cut("a frame took too long")
        elif not self._reads(now):
            self.cut("it reads nothing")
        elif now - self._heard > config.IDLE_SECONDS_MAX and not self._stuck:
            self.cut("it says nothing")
        elif not self._stuck:
            self._go_on()

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
            self._catch_up()
            self._transport.abort()
        else:
            self._transport.close()
