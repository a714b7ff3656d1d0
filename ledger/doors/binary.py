"""Edge: the binary door: connections of the client protocol, over plain streams.

A connection reads into one buffer that all share, and gets memory of its own only while a frame is
half arrived or waits for room, so ten thousand idle clients cost nothing. Bounds: a frame's length,
bytes of unfinished frames in all, unread replies and time for each connection. Backpressure is not
reading. When something about a peer's bytes is wrong, what came before is answered and the
connection closed; a frame that is not exactly right never leaves, because clients abort on it. This
file knows neither accounts nor the journal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ledger import _wire, config
from ledger.errors import LedgerStopped
from ledger.schema import ARRIVAL, WireError

if TYPE_CHECKING:
    from ledger._core import Bytes
    from ledger.engine import Engine

log = logging.getLogger("ledger.door")

ARRIVALS_MAX = 1024  # frames read in one call of the codec


class Door:
    """All connections of one book's binary door, and what they share. Lives in one loop."""

    def __init__(self, engine: Engine, cluster: int) -> None:
        self.engine = engine
        self.codec = _wire.Codec(cluster, config.RELEASE, config.RELEASE_MIN)
        self.shared = bytearray(config.SHARED_BUFFER_BYTES)
        self.arrivals: npt.NDArray[np.void] = np.zeros(ARRIVALS_MAX, ARRIVAL)
        self.connections: set[Connection] = set()
        self.kept_bytes = 0  # memory of connections whose frames are half arrived
        self.draining = False
        self._route = 0
        self._sweep: asyncio.TimerHandle | None = None

    def connect(self) -> Connection:
        """The protocol of a new connection."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(
                config.SWEEP_SECONDS, self._look_at_deadlines
            )
        self._route += 1
        return Connection(self, self._route)

    def _look_at_deadlines(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.look_at_deadlines(now)
        self._sweep = asyncio.get_running_loop().call_later(
            config.SWEEP_SECONDS, self._look_at_deadlines
        )

    def drain(self) -> None:
        """Read no more from anybody."""
        self.draining = True
        for connection in self.connections:
            connection.hold_reading()

    @property
    def written(self) -> bool:
        """Whether all that was delivered has left."""
        return not any(connection.unwritten_bytes for connection in self.connections)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            connection.close()


class Connection(asyncio.BufferedProtocol):
    """One peer. An asker of the engine."""

    __slots__ = (
        "_door", "_filled", "_frame_since", "_heard", "_held_bytes", "_kept", "_needed", "_peer",
        "_reading", "_stuck", "_transport", "_unread_since", "route",
    )  # fmt: skip

    def __init__(self, door: Door, route: int) -> None:
        self.route = route
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._peer = "?"
        self._kept: npt.NDArray[np.uint8] | None = None  # a frame half arrived, or without room
        self._filled = 0
        self._needed = 0
        self._stuck = False  # whole frames are kept that the engine had no room for
        self._reading = True
        self._held_bytes = 0
        self._heard = time.monotonic()
        self._frame_since: float | None = None
        self._unread_since: float | None = None  # since when the peer reads too little

    # ---- the transport's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = str(transport.get_extra_info("peername"))
        self._transport.set_write_buffer_limits(high=config.SEND_BYTES_MAX)
        if len(self._door.connections) >= config.CONNECTIONS_MAX or self._door.draining:
            log.warning("%s: refused, %d connections", self._peer, len(self._door.connections))
            self._transport.abort()
            return
        self._door.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._drop_kept()
        self._door.connections.discard(self)

    def get_buffer(self, sizehint: int) -> Any:
        if self._kept is None:
            return self._door.shared
        return self._kept[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._heard = time.monotonic()
        if self._kept is None:
            self._process(self._door.shared, count)
            return
        self._filled += count
        if self._filled >= self._needed:
            self._process_kept()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._unread_since = time.monotonic()

    def resume_writing(self) -> None:
        self._unread_since = None
        self._go_on()

    # ---- frames ---------------------------------------------------------------------------------

    def _process_kept(self) -> None:
        kept, filled = self._kept, self._filled
        assert kept is not None
        self._drop_kept()
        self._process(kept, filled)

    def _process(self, buffer: Bytes, end: int) -> None:
        """Take all whole frames of buffer[:end]; keep the rest."""
        door = self._door
        start = 0
        while self._transport is not None:
            count, start, needed, error = door.codec.parse(buffer, start, end, door.arrivals)
            if count:
                try:
                    done = door.engine.submit(self, buffer, door.arrivals, count)
                except LedgerStopped:
                    return
                if done < count:
                    start = int(door.arrivals["frame_offset"][done])
                    self._keep(buffer, start, end, end - start, stuck=True)
                    return
            if error:
                log.warning("%s: closed: %s", self._peer, WireError(error).name.lower())
                self.close()
                return
            if needed == 0:
                return
            if needed > end - start:
                self._keep(buffer, start, end, needed, stuck=False)
                return

    def _keep(self, buffer: Bytes, start: int, end: int, needed: int, stuck: bool) -> None:
        """Memory of its own for what is half arrived (or has no room), and no reading if stuck."""
        kept = np.empty(max(needed, end - start), np.uint8)
        kept[: end - start] = np.frombuffer(buffer, np.uint8, end - start, start)
        self._kept, self._filled, self._needed = kept, end - start, needed
        self._door.kept_bytes += kept.nbytes
        self._frame_since = self._frame_since or time.monotonic()
        self._stuck = stuck
        if stuck or self._door.kept_bytes > config.RECEIVE_BYTES_MAX:
            self.hold_reading()

    def _drop_kept(self) -> None:
        if self._kept is not None:
            self._door.kept_bytes -= self._kept.nbytes
        self._kept, self._filled, self._needed = None, 0, 0
        self._frame_since, self._stuck = None, False

    def hold_reading(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Try again what found no room, and read on."""
        if self._transport is None or self._door.draining:
            return
        if self._stuck:
            self._process_kept()
        if self._stuck or self._reading or self._transport is None:
            return
        self._reading = True
        self._transport.resume_reading()

    # ---- an asker of the engine -----------------------------------------------------------------

    def take(self, engine: Engine, made: int) -> tuple[bytes, int]:
        frames = self._door.codec.encode(engine.answers, made, engine.payload, engine.counts)
        self._held_bytes += len(frames)
        return frames, len(frames)

    def deliver(self, taken: Any) -> None:
        self._held_bytes -= len(taken)
        if self._transport is None:
            return
        self._transport.write(taken)
        if self._stuck and not self.full():
            self._go_on()

    def full(self) -> bool:
        return self._held_bytes + self.unwritten_bytes > config.SEND_BYTES_MAX

    def resume(self) -> None:
        self._go_on()

    def stopped(self, cause: LedgerStopped) -> None:
        self.close(at_once=True)

    @property
    def unwritten_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    # ---- the end --------------------------------------------------------------------------------

    def look_at_deadlines(self, now: float) -> None:
        """Close a peer that sends a frame too slowly, reads nothing, or says nothing."""
        if self._transport is None:
            return
        why = None
        waits_for_peer = self._frame_since is not None and not self._stuck
        if waits_for_peer and now - (self._frame_since or now) > config.FRAME_SECONDS_MAX:
            why = "a frame took too long"
        elif self._unread_since is not None and now - self._unread_since > config.SEND_SECONDS_MAX:
            why = "it reads nothing"
        elif now - self._heard > config.IDLE_SECONDS_MAX and not self._stuck:
            why = "it says nothing"
        if why is not None:
            log.warning("%s: closed: %s", self._peer, why)
            self.close(at_once=True)
        elif not self._stuck and self._door.kept_bytes <= config.RECEIVE_BYTES_MAX:
            self._go_on()

    def close(self, at_once: bool = False) -> None:
        """Close; what was written still leaves unless `at_once`."""
        if self._transport is None:
            return
        if at_once:
            self._transport.abort()
        else:
            self._transport.close()
