"""Clients that speak the real protocol and believe nothing: they write down what they saw.

A client is a process with one connection (at times two) and several sessions, each with one request
under way. It resends after 600 ms, reconnects, gives up when its plan says so, and keeps every
invocation and return by the world's clock. What the server says is compared only with what it said
before; whether it is right is judged later, by checks.py.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from chaos import model
from chaos.sim.network import Connection, Network
from chaos.sim.server import CLUSTER, RELEASE, Server
from chaos.sim.world import MS, World
from ledger.facts import schema
from ledger.facts.limits import MESSAGE_HEADER_BYTES
from ledger.facts.schema import SHAPES, EvictionReason, Operation, Verdict
from ledger.wire import _codec

RESEND_NS = 600 * MS
RESEND_NS_MAX = 8 * RESEND_NS
STORM_RESEND_NS = 15 * MS
RECONNECT_NS_MIN = 20 * MS
RECONNECT_NS_MAX = 1_000 * MS
SILENCE_RESENDS = 2  # resends without any answer before the connection is given up
REPLIES_MAX = 64
SIZE_AT = 96  # of a frame's header

ACCOUNT_CODES = {int(one): one.name.lower() for one in schema.AccountStatus}
TRANSFER_CODES = {int(one): one.name.lower() for one in schema.TransferStatus}

_FORMATS = {8: "Q", 4: "I", 2: "H", 1: "B"}
_BASES = [schema.REPLY[name] for name in schema.REPLY.names or ()]
_UNPACK = struct.Struct(
    "<" + "".join(f"{x.itemsize}s" if x.subdtype else _FORMATS[x.itemsize] for x in _BASES)
)
_AT = {name: index for index, name in enumerate(schema.REPLY.names or ())}


@dataclass(eq=False)
class Request:
    """What one session asked, and what became of it. Times are the world's, ns."""

    entry: int  # of the plan; -1 for a register or a closing read
    operation: int
    batches: list[list[Any]]  # the model's records, or ids
    give_up_ns: int = 0
    client: int = 0  # the protocol's client id
    number: int = 0
    frame: bytes = b""
    invoked_ns: int = 0
    returned_ns: int | None = None
    position: int = 0
    epoch: int = 0  # rollbacks of the server before it returned
    timestamp: int = 0
    results: list[bytes] = field(default_factory=list)
    abandoned: bool = False
    sends: int = 0

    @property
    def creates(self) -> bool:
        return self.operation >= Operation.CREATE_ACCOUNTS

    def lost(self, rollbacks: list[int]) -> bool:
        """Whether the server was put back since to before what this saw, each time to one of the
        positions given."""
        since = rollbacks[self.epoch :]
        return self.returned_ns is not None and any(self.position > kept for kept in since)

    def encoded(self) -> list[bytes]:
        return [
            b"".join(
                one.to_bytes(16, "little") if isinstance(one, int) else model.encode(one)
                for one in batch
            )
            for batch in self.batches
        ]


class Session:
    """A client id of the protocol; a queue of what its plan asks."""

    def __init__(self, owner: Client, name: str) -> None:
        self.owner, self.name = owner, name
        self.queue: deque[Request] = deque()
        self.flight: Request | None = None
        self.interval_ns = RESEND_NS
        self.generation = 0
        self.renew()

    def renew(self) -> None:
        """A new client id: what was under way is nobody's any more."""
        self.generation += 1
        self.client = self.owner.world.draw.bits(self.name, self.generation, 127) | 1
        self.session = self.number = self.parent = 0
        self.owner.by_client[self.client] = self


class Client:
    """One client process. An end of the network."""

    def __init__(self, world: World, network: Network, server: Server, index: int) -> None:
        self.world, self.network, self.server, self.index = world, network, server, index
        self.codec = _codec.ClientCodec(CLUSTER, RELEASE)
        self.by_client: dict[int, Session] = {}
        self.sessions: list[Session] = []
        self.history: list[Request] = []
        self.registers: list[Request] = []
        self.evicted: dict[int, int] = {}  # rollbacks of the server before it was
        self.storming = 0
        self._replies = np.zeros(REPLIES_MAX, schema.REPLY)
        self._lines: dict[Connection, Buffer] = {}  # alive, the newest last
        self._main: Connection | None = None
        self._connects = self._failures = self._silent = 0
        self._first: dict[bytes, tuple[Request, bytes]] = {}  # by checksum: the reply's frame

    def add_session(self) -> Session:
        session = Session(self, f"c{self.index}/session{len(self.sessions)}")
        self.sessions.append(session)
        return session

    @property
    def busy(self) -> bool:
        return any(one.flight is not None or one.queue for one in self.sessions)

    # ---- asking ---------------------------------------------------------------------------------

    def ask(self, session: Session, request: Request) -> None:
        session.queue.append(request)
        self._next(session)

    def _next(self, session: Session) -> None:
        if session.flight is not None or not session.queue:
            return
        if session.session == 0:
            request = Request(-1, int(Operation.REGISTER), [])
            request.frame = self.codec.encode_register(session.client)
            self.registers.append(request)
        else:
            request = session.queue.popleft()
            batches = request.encoded()
            size = SHAPES[Operation(request.operation)].event.itemsize
            counts = np.array([len(batch) // size for batch in batches], np.uint16)
            session.number += 1
            request.number = session.number
            request.frame = self.codec.encode_request(
                session.client, session.session, session.number, session.parent,
                request.operation, b"".join(batches), counts,
            )  # fmt: skip
            self.history.append(request)
        request.client, request.invoked_ns = session.client, self.world.now_ns
        session.flight, session.interval_ns = request, RESEND_NS
        if request.give_up_ns:
            self.world.after(request.give_up_ns, self._give_up, session, request)
        self.world.note(f"c{self.index} asks {request.entry} {request.operation}")
        self._send(session, request)

    def _send(self, session: Session, request: Request) -> None:
        request.sends += 1
        interval = STORM_RESEND_NS if self.storming else session.interval_ns
        self.world.after(interval, self._resend, session, request, request.sends)
        if self._main is None:
            self._connect()
        elif self._main.established:
            self._main.up.send(request.frame)

    def _resend(self, session: Session, request: Request, sends: int) -> None:
        if session.flight is not request or request.sends != sends:
            return
        self.world.count("resend")
        self._silent += 1
        session.interval_ns = min(2 * session.interval_ns, RESEND_NS_MAX)
        main = self._main
        asking = sum(one.flight is not None for one in self.sessions)
        if self._silent > SILENCE_RESENDS * asking and not self.storming and main:
            tells = self.world.draw.chance(0.5, main.name + "/leaves")
            self.drop(tells)
        self._send(session, request)

    def _give_up(self, session: Session, request: Request) -> None:
        """The caller has left. The outcome is unknown, and the session is not used again."""
        if session.flight is request:
            self.world.note(f"c{self.index} gives up {request.entry}")
            self.world.count("give-up")
            request.abandoned = True
            session.flight = None
            session.renew()
            self._next(session)

    # ---- the connection -------------------------------------------------------------------------

    def _connect(self) -> None:
        self._connects += 1
        name = f"c{self.index}.k{self._connects}"
        self._main = self.network.connect(self.index, name, self)
        self._silent = 0

    def second_connection(self) -> None:
        """Connect again while the first connection is still there, and ask all again."""
        if self._main is not None:
            self.world.count("duplicate-connection")
            self._connect()

    def drop(self, tells: bool) -> None:
        """Leave the connection; a server that is not told keeps its half."""
        main, self._main = self._main, None
        if main is not None:
            self._lines.pop(main, None)
            main.leave(tells)

    def opened(self, connection: Connection) -> None:
        self._lines[connection] = Buffer()
        if connection is not self._main:
            return
        for session in self.sessions:
            if session.flight is not None:
                self._send(session, session.flight)

    def lost(self, connection: Connection) -> None:
        self._lines.pop(connection, None)
        if connection is not self._main:
            return
        self._main = None
        self._failures += 1
        if self.busy:
            most = min(RECONNECT_NS_MIN << min(self._failures, 16), RECONNECT_NS_MAX)
            delay = self.world.draw.between(
                most // 2, most, f"c{self.index}/reconnect", self._connects
            )
            self.world.after(delay, self._reconnect)

    def _reconnect(self) -> None:
        if self._main is None and self.busy:
            self._connect()

    # ---- what comes back ------------------------------------------------------------------------

    def received(self, connection: Connection, data: bytes, durable: int) -> None:
        """`durable` is where the journal ended when these bytes left the server."""
        buffer = self._lines.get(connection)
        if buffer is None:
            return
        buffer.add(data, durable)
        while connection in self._lines:
            count, consumed, needed, error = self.codec.parse_replies(
                buffer.bytes, 0, len(buffer.bytes), self._replies
            )
            if error:
                self.world.breaks("original-reply", f"a frame that is none: error {error}")
                return
            for index in range(count):
                fields = _UNPACK.unpack(self._replies[index].tobytes())
                # The last byte of the header is the frame's own, whatever its body holds.
                self._one(fields, buffer.bytes, buffer.mark(fields[_AT["payload_offset"]] - 1))
            buffer.consume(consumed)
            if needed == 0 or needed > len(buffer.bytes):
                return

    def _one(self, fields: tuple[Any, ...], data: bytes, durable: int) -> None:
        self._failures = self._silent = 0
        verdict = fields[_AT["verdict"]]
        client = int.from_bytes(fields[_AT["client"]], "little")
        session = self.by_client.get(client)
        if verdict == Verdict.EVICT:
            self._evicted(client, EvictionReason(fields[_AT["reason"]]))
            return
        if verdict != Verdict.REPLY or session is None:
            return
        position = fields[_AT["position"]]
        self.server.acknowledged = max(self.server.acknowledged, position)
        if position > durable:
            self.world.breaks(
                "behind-the-line",
                f"a reply at position {position} left while the journal ended at {durable}",
            )
        checksum = fields[_AT["checksum"]]
        before = self._first.get(checksum)
        if before is not None:
            self._compare(before[0], before[1], fields, _frame(fields, data))
            return
        request = session.flight
        if request is None or request.frame[:16] != checksum:
            return
        self._return(session, request, fields, data)

    def _evicted(self, client: int, reason: EvictionReason) -> None:
        """The server has ended a session; the judge looks for where the journal says so."""
        session = self.by_client[client]
        # A copy of the register that arrives after the end of its session opens a later one.
        if reason not in (EvictionReason.NO_SESSION, EvictionReason.SESSION_TOO_LOW):
            self.world.breaks("durable", f"client {client:x} was evicted: {reason.name.lower()}")
        self.evicted[client] = len(self.server.rollbacks)
        if session.client != client or session.session == 0:
            return
        self.world.count("evicted")
        self.world.note(f"c{self.index} is evicted")
        request, session.flight = session.flight, None
        if request is not None:
            request.abandoned = True
        session.renew()
        self._next(session)

    def _compare(
        self, request: Request, first: bytes, fields: tuple[Any, ...], frame: bytes
    ) -> None:
        """A second reply to a request that creates says what the first one said."""
        self.world.count("second-reply")
        if first == frame or request.lost(self.server.rollbacks):
            return
        if request.operation == Operation.REGISTER:
            # Only after its session's end is this right.
            self.evicted[request.client] = len(self.server.rollbacks)
        elif request.creates:
            what = (request.position, request.timestamp)
            again = (fields[_AT["position"]], fields[_AT["timestamp"]])
            self.world.breaks(
                "original-reply",
                f"request {request.entry} was answered {what}, then {again} or otherwise",
            )

    def _return(
        self, session: Session, request: Request, fields: tuple[Any, ...], data: bytes
    ) -> None:
        request.returned_ns, request.epoch = self.world.now_ns, len(self.server.rollbacks)
        request.position = fields[_AT["position"]]
        request.timestamp = fields[_AT["timestamp"]]
        frame = _frame(fields, data)
        self._first[fields[_AT["checksum"]]] = (request, frame)
        if request.operation == Operation.REGISTER:
            session.session = request.position
        else:
            start = fields[_AT["payload_offset"]]
            size = SHAPES[Operation(request.operation)].result.itemsize
            for batch in range(fields[_AT["batch_count"]]):
                at = fields[_AT["batches_offset"]] - 2 * batch
                count = int.from_bytes(data[at : at + 2], "little")
                request.results.append(bytes(data[start : start + count * size]))
                start += count * size
        if request.creates:
            self._count_codes(request)
        session.parent = int.from_bytes(fields[_AT["context"]], "little")
        session.flight = None
        self.world.note(
            f"c{self.index} returns {request.entry} at {request.position} {request.timestamp}"
            f" {sha256(frame).hexdigest()[:32]}"
        )
        self._next(session)

    def _count_codes(self, request: Request) -> None:
        accounts = request.operation == Operation.CREATE_ACCOUNTS
        names, what = (ACCOUNT_CODES, "account") if accounts else (TRANSFER_CODES, "transfer")
        codes = self.world.codes
        for result in np.frombuffer(b"".join(request.results), schema.CREATE_RESULT):
            name = f"{what} {names[int(result['status'])]}"
            codes[name] = codes.get(name, 0) + 1


def _frame(fields: tuple[Any, ...], data: bytes) -> bytes:
    """All bytes of a reply."""
    start = fields[_AT["payload_offset"]] - MESSAGE_HEADER_BYTES
    return bytes(data[start : start + int.from_bytes(data[start + SIZE_AT :][:4], "little")])


class Buffer:
    """Bytes that have arrived, with the mark of the chunk that each came in."""

    def __init__(self) -> None:
        self.bytes = b""
        self._marks: deque[tuple[int, int]] = deque()  # (end, mark)
        self._start = self._end = 0

    def add(self, data: bytes, mark: int) -> None:
        self.bytes += data
        self._end += len(data)
        self._marks.append((self._end, mark))

    def mark(self, offset: int) -> int:
        """The mark of the byte at `offset`, or of the last before it."""
        at = self._start + offset
        for end, mark in self._marks:
            if at < end:
                return mark
        return self._marks[-1][1]

    def consume(self, count: int) -> None:
        self.bytes = self.bytes[count:]
        self._start += count
        while self._marks and self._marks[0][0] <= self._start:
            self._marks.popleft()
