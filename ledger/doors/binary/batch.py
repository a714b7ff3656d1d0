"""What all connections sent in one turn of the loop, executed in one call of the engine.

A read of one small request costs more in steps of the interpreter than in work. So small reads lie
one behind the other in one buffer until the loop has read whoever had something, and then they are
parsed, executed and answered together. Only what came whole and without fault takes part: anything
else (half a frame, a lack of room, much to look up, a peer that reads too little) its own
connection handles, in its place of the order. Bound: the buffer; a read that would leave no room
for another ends the turn. This file knows neither transports nor what a frame holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ledger.engine.ports import Submitter
from ledger.facts import limits
from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.facts.schema import ARRIVAL, Verdict

if TYPE_CHECKING:
    from ledger._core import Bytes
    from ledger.engine.engine import Engine
    from ledger.engine.ports import Answers
    from ledger.wire._codec import Codec

ARRIVALS_MAX = 1024  # executed in one call
DROP, EVICT = int(Verdict.DROP), int(Verdict.EVICT)


class Peer(Submitter, Protocol):
    """What a turn needs of a connection, whose frames it executes with those of others."""

    route: int
    in_turn: bool  # whether what it read waits for the end of the turn

    def takes(self) -> bool:
        """Whether its frames may be executed with those of others."""

    def more(self, buffer: Bytes, start: int, end: int) -> None:
        """It read buffer[start:end], too much or too often to wait for the end of the turn."""

    def process(self, buffer: Bytes, start: int, end: int, kept: Any) -> None:
        """Execute alone what it read."""

    def hold(self, frames: bytes) -> None:
        """These will be delivered once they are durable."""

    def tell_dropped(self, buffer: Bytes, arrival: np.void) -> None: ...
    def tell_evicted(self, answer: np.void) -> None: ...


Piece = tuple[Peer, int, int]  # who read buffer[start:end]


class Turn:
    """The reads of one turn. A submitter of the engine; the connections are those of one door."""

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        connections: Mapping[int, Peer],
        full: Callable[[], bool],
    ) -> None:
        self.buffer = bytearray(limits.TURN_BUFFER_BYTES)
        self._view = memoryview(self.buffer)
        self._engine = engine
        self._codec = codec
        self._connections = connections
        self.full = full  # whether there is no memory for another reply
        self._arrivals: npt.NDArray[np.void] = np.zeros(ARRIVALS_MAX, ARRIVAL)
        self._pieces: list[Piece] = []
        self._filled = 0

    def space(self) -> memoryview:
        """Where a connection reads to: room for the longest frame at least."""
        return self._view[self._filled :]

    def add(self, connection: Peer, count: int) -> None:
        """`connection` read so many bytes to the beginning of space()."""
        start, end = self._filled, self._filled + count
        if count >= limits.TURN_READ_BYTES or connection.in_turn:
            # Large enough for a call of its own, or the second read of one connection in a turn.
            self.settle()
            connection.more(self.buffer, start, end)
            return
        if not self._pieces:
            self._engine.soon(self.settle)
        connection.in_turn = True
        self._pieces.append((connection, start, end))
        self._filled = end
        if end > len(self.buffer) // 2:
            self.settle()

    def settle(self) -> None:
        """Execute what was read, in order."""
        pieces, self._pieces = self._pieces, []
        together: list[Piece] = []
        count = 0
        for connection, start, end in pieces:
            connection.in_turn = False
            found = self._parse(connection, start, end, count)
            if found:
                together.append((connection, start, end))
                count += found
                continue
            self._execute(together, count)
            together, count = [], 0
            connection.process(self.buffer, start, end, None)
        self._execute(together, count)
        self._filled = 0
        self._engine.flush()

    def _parse(self, connection: Peer, start: int, end: int, first: int) -> int:
        """Arrivals of what was read, from the first on; 0 when it cannot take part."""
        if not connection.takes() or first == ARRIVALS_MAX:
            return 0
        found, at, _, error = self._codec.parse(
            self.buffer, start, end, self._arrivals, first, connection.route, limits.READS_SHARE
        )
        little = self._codec.reads <= limits.READS_LITTLE
        return found if at == end and not error and little else 0

    def _execute(self, pieces: list[Piece], count: int) -> None:
        if not count:
            return
        arrivals = self._arrivals
        for index in np.flatnonzero(arrivals["verdict"][:count] == DROP):
            self.of(int(index)).tell_dropped(self.buffer, arrivals[index])
        try:
            done = self._engine.execute(self, self.buffer, arrivals, count)
        except LedgerStopped:
            return
        if done == count:
            return
        rest, route = int(arrivals["frame_offset"][done]), int(arrivals["route"][done])
        for connection, start, end in pieces:
            if connection.route == route:
                connection.process(self.buffer, rest, end, None)
            elif start > rest:
                connection.process(self.buffer, start, end, None)

    # ---- a submitter of the engine --------------------------------------------------------------

    def of(self, arrival: int) -> Peer:
        return self._connections[int(self._arrivals["route"][arrival])]

    def take(self, answers: Answers, made: int) -> tuple[list[tuple[Peer, bytes]], int]:
        records = answers.records
        parts = self._codec.encode_by_route(
            records, made, answers.payload, answers.counts, self._arrivals
        )
        taken, size = [], 0
        for route, frames in parts:
            connection = self._connections[route]
            connection.hold(frames)
            taken.append((connection, frames))
            size += len(frames)
        for index in np.flatnonzero(records["verdict"][:made] == EVICT):
            self.of(int(records["arrival"][index])).tell_evicted(records[index])
        return taken, size

    def deliver(self, taken: Any) -> None:
        for connection, frames in taken:
            connection.deliver(frames)

    def resume(self) -> None:
        """What found no room is asked by its connection."""

    def refused(self, why: DataRefused) -> None:
        """What cannot be answered is asked by its connection."""

    def unanswered(self, why: DataRefused) -> None:
        """Whose request it was is told."""

    def stopped(self, cause: LedgerStopped) -> None:
        for connection in list(self._connections.values()):
            connection.stopped(cause)
