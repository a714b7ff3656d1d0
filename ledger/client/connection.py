"""One connection to a server, and the sessions that share it. The client's lower half.

Each session has one request under way, so a link has as many as it has sessions, and each happens
once. A request is resent with the same bytes, over a new connection too, until its reply comes or
its caller gives up. What a caller gave up is never sent again, and its session is replaced unless
the reply follows at once: a late reply finds nobody and cannot be taken for another's. Every wait
is bounded by the caller's time and every queue by a number below. It knows operations by number and
records by size, not by meaning.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections import namedtuple
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ledger.api import calls
from ledger.facts import limits, schema
from ledger.facts.errors import Busy, HistoryLost, LedgerError, OutcomeUnknown, SessionEvicted
from ledger.facts.schema import EvictionReason, Operation, Verdict, WireError
from ledger.wire._codec import ClientCodec

Rows = NDArray[np.void]

TICK_SECONDS = limits.RESEND_SECONDS / 6
RESEND_SECONDS_MAX = 8 * limits.RESEND_SECONDS
CONNECT_SECONDS_MAX = 5.0
RECONNECT_SECONDS_MIN = 0.02
UNACKNOWLEDGED_SECONDS_MAX = 10  # then the network is given up and a new connection made
STRANGER_CLOSES_MAX = 5  # connections ended without one answer before it is somebody else's server
RECEIVE_BYTES = 2 * limits.MESSAGE_BYTES_MAX
REPLIES_MAX = 256  # frames parsed in one call
WAITERS_MAX = 65_536  # calls that wait for a session
CHECKSUM_BYTES = 16

# A reply record as one tuple; the layout is the schema's.
_UNPACK = schema.packer(schema.REPLY)
_Reply: Any = namedtuple("_Reply", schema.REPLY.names or ())  # type: ignore[misc]


class _Flight(NamedTuple):
    """A request under way."""

    frame: bytes
    operation: int
    result: np.dtype[np.void]
    expected: int  # results of a request that creates; else -1
    done: asyncio.Future[Rows]
    seen: int  # the highest position that a reply had seen when it was sent first


class _Session:
    """A client id of the protocol: one request at a time, numbered."""

    __slots__ = ("abandoned_at", "body_bytes_max", "client", "flight", "interval", "number",
                 "parent", "resend_at", "session")

    def __init__(self) -> None:
        self.client = secrets.randbits(128) | 1
        self.session = 0  # until registered
        self.number = 0
        self.parent = 0
        self.body_bytes_max = limits.BODY_BYTES_MAX
        self.flight: _Flight | None = None
        self.abandoned_at = 0.0  # when its caller left while the request was under way
        self.resend_at = 0.0
        self.interval = 0.0


class _Connection(asyncio.BufferedProtocol):
    """Bytes to replies. One object a connection, so that a closed one cannot speak for the next."""

    def __init__(self, owner: Link) -> None:
        self.owner = owner
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.start = self.end = 0
        self.replies = np.zeros(REPLIES_MAX, schema.REPLY)
        self.transport: asyncio.Transport | None = None
        self.answered = False

    def itself(self) -> _Connection:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        prepare(transport.get_extra_info("socket"))
        self.owner._connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.owner._disconnected(self, error)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer[self.end :]

    def buffer_updated(self, count: int) -> None:
        self.end += count
        needed, error = 0, 0
        while self.transport is not None:
            parsed, self.start, needed, error = self.owner._codec.parse_replies(
                self.buffer, self.start, self.end, self.replies
            )
            self.answered = self.answered or parsed > 0
            for index in range(parsed):
                values = _UNPACK.unpack_from(self.replies.data, index * _UNPACK.size)
                self.owner._received(_Reply._make(values), self.buffer)
            if error or needed > self.end - self.start or needed == 0:
                break
        if error:
            self.owner._broken(self, WireError(error))
        elif self.start == self.end:
            self.start = self.end = 0
        elif self.start + needed > RECEIVE_BYTES:
            rest = self.end - self.start
            self.buffer[:rest] = bytes(self.buffer[self.start : self.end])
            self.start, self.end = 0, rest


def prepare(sock: socket.socket | None) -> None:
    """Small frames leave at once, and a network that swallows bytes is noticed."""
    if sock is None:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 4),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_SECONDS_MAX * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[HOST]:PORT". ValueError when it is neither."""
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"address: {address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Link:
    """Sessions over one connection; made by the first request and made again when it is lost.

    All calls come from one event loop.
    """

    def __init__(self, address: str, cluster: int, sessions_max: int, timeout: float) -> None:
        self.address = address
        self.cluster = schema.whole("cluster", cluster)
        self.position = 0  # highest position a reply has seen
        self._host, self._port = parse_address(address)
        self._sessions_max = schema.whole("sessions", sessions_max, 32)
        if not 1 <= self._sessions_max <= limits.SESSIONS_MAX:
            raise ValueError(f"sessions: {sessions_max} is not within 1 .. {limits.SESSIONS_MAX}")
        self._timeout = calls.seconds(timeout)
        if not self._timeout:
            raise ValueError(f"timeout: {timeout} is not above 0")
        self._codec = ClientCodec(self.cluster, limits.RELEASE)
        self._sessions: dict[bytes, _Session] = {}
        self._free: list[_Session] = []
        self._waiters: dict[asyncio.Future[_Session], None] = {}
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._failures = 0  # connections in a row that ended without an answer
        self._known = False  # has this server ever answered us
        self._why = "not connected yet"
        self._ended: LedgerError | ValueError | None = None

    # ---- one request ----------------------------------------------------------------------------

    async def request(
        self, operation: Operation, events: Rows, timeout: float | None = None
    ) -> Rows:
        """The results of one request, an array of the operation's result; writable, not shared."""
        shape = schema.SHAPES[operation]
        seconds = self._timeout if timeout is None else timeout
        expected = len(events) if shape.creates else -1
        sent = False
        try:
            async with asyncio.timeout(seconds):
                session = await self._acquire()
                try:
                    if not session.session:
                        await self._register(session)
                    frame = self._encode(session, operation, events)
                    sent = True
                    return await self._exchange(session, frame, operation, shape.result, expected)
                finally:
                    self._release(session)
        except TimeoutError:
            why = f"{self.address}: no answer within {seconds:g} s"
            if sent:
                raise OutcomeUnknown(why) from None
            if self._connection is not None and self._known:
                raise Busy(f"{self.address}: no session free within {seconds:g} s") from None
            raise ConnectionError(f"{why} ({self._why}); nothing was executed") from None

    async def close(self) -> None:
        """End the connection; what is under way fails."""
        self._end(ValueError("the client is closed"), "the client was closed")
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)

    async def _register(self, session: _Session) -> None:
        frame = self._codec.encode_register(session.client)
        await self._exchange(session, frame, Operation.REGISTER, schema.CREATE_RESULT, -1)

    def _encode(self, session: _Session, operation: Operation, events: Rows) -> bytes:
        counts = np.array([len(events)], np.uint16)
        frame = self._codec.encode_request(
            session.client, session.session, session.number + 1, session.parent, operation,
            events.data, counts,
        )
        if len(frame) - limits.MESSAGE_HEADER_BYTES > session.body_bytes_max:
            raise ValueError(
                f"{len(events)} events are more than this server takes in a request:"
                f" {session.body_bytes_max} bytes"
            )
        session.number += 1
        return frame

    async def _exchange(self, session: _Session, frame: bytes, operation: int,
                        result: np.dtype[np.void], expected: int) -> Rows:
        if self._ended is not None:
            raise self._ended
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Rows] = loop.create_future()
        session.flight = _Flight(frame, operation, result, expected, done, self.position)
        session.interval = limits.RESEND_SECONDS
        self._send(session, loop.time())
        if self._ticker is None:
            self._ticker = loop.call_later(TICK_SECONDS, self._tick)
        return await done

    def _send(self, session: _Session, now: float) -> None:
        assert session.flight is not None
        session.resend_at = now + session.interval
        if self._connection is None:
            self._connect()
        elif (transport := self._connection.transport) is not None and not transport.is_closing():
            # One that is closing was lost already: who is told of it sends all again.
            transport.write(session.flight.frame)

    # ---- the pool of sessions -------------------------------------------------------------------

    async def _acquire(self) -> _Session:
        if self._ended is not None:
            raise self._ended
        if self._free:
            return self._free.pop()
        if len(self._sessions) < self._sessions_max:
            return self._new_session()
        if len(self._waiters) >= WAITERS_MAX:
            raise Busy(f"{len(self._waiters)} calls already wait for a session")
        waiter: asyncio.Future[_Session] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result())
            raise

    def _new_session(self) -> _Session:
        session = _Session()
        self._sessions[session.client.to_bytes(16, "little")] = session
        return session

    def _release(self, session: _Session) -> None:
        if session.flight is not None and self._ended is None:
            session.abandoned_at = asyncio.get_running_loop().time()
        else:
            self._give(session)

    def _give(self, session: _Session) -> None:
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():
                waiter.set_result(session)
                return
        self._free.append(session)

    def _discard(self, session: _Session) -> None:
        del self._sessions[session.client.to_bytes(16, "little")]
        if self._waiters:
            self._give(self._new_session())

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._ticker = None
        for session in list(self._sessions.values()):
            if session.flight is None:
                continue
            self._ticker = self._ticker or loop.call_later(TICK_SECONDS, self._tick)
            if session.abandoned_at:
                if now > session.abandoned_at + limits.RESEND_SECONDS:
                    self._discard(session)
            elif now > session.resend_at and self._drained():
                session.interval = min(2 * session.interval, RESEND_SECONDS_MAX)
                self._send(session, now)

    def _drained(self) -> bool:
        """Whether all that was sent has left: bytes that still wait need no second copy."""
        transport = self._connection and self._connection.transport
        return not transport or transport.get_write_buffer_size() == 0

    # ---- what comes back ------------------------------------------------------------------------

    def _received(self, reply: Any, buffer: memoryview) -> None:
        self._failures = 0
        self._known = True
        session = self._sessions.get(reply.client)
        if session is None or session.flight is None:
            return
        if reply.verdict == Verdict.EVICT:
            reason = EvictionReason(reply.reason).name.lower()
            self._end(SessionEvicted(reason), f"the server ended the session ({reason})")
            return
        flight = session.flight
        if reply.verdict != Verdict.REPLY or reply.checksum != flight.frame[:CHECKSUM_BYTES]:
            return
        if reply.position < flight.seen:
            lost = HistoryLost(flight.seen, reply.position)
            self._end(lost, str(lost))
            return
        session.flight = None
        session.parent = int.from_bytes(reply.context, "little")
        self.position = max(self.position, reply.position)
        if reply.operation == Operation.REGISTER:
            session.session, session.body_bytes_max = reply.position, reply.body_bytes_max
        start, count = reply.payload_offset, reply.payload_bytes // flight.result.itemsize
        if flight.done.done():
            session.abandoned_at = 0.0
            self._give(session)
        elif not _lawful(reply, flight, count):
            flight.done.set_exception(OutcomeUnknown(f"{self.address} answered something else"))
        else:
            payload = bytearray(buffer[start : start + reply.payload_bytes])
            flight.done.set_result(np.frombuffer(payload, flight.result))

    def _broken(self, connection: _Connection, error: WireError) -> None:
        if error in (WireError.CLUSTER, WireError.ANSWER):
            self._fail_all(f"{self.address} is no server of cluster {self.cluster} that this"
                           f" client understands ({error.name.lower()})")
        if connection.transport is not None:
            connection.transport.abort()

    def _fail_all(self, why: str) -> None:
        """Fail what is under way: unknown when a request may have been executed."""
        for session in list(self._sessions.values()):
            if session.flight is None:
                continue
            register = session.flight.operation == Operation.REGISTER
            if not session.flight.done.done():
                session.flight.done.set_exception(
                    ConnectionError(f"{why}; nothing was executed") if register
                    else OutcomeUnknown(why)
                )

    def _end(self, error: LedgerError | ValueError, why: str) -> None:
        """Every later call raises `error`; calls under way do too if the server gave cause."""
        if self._ended is not None:
            return
        self._ended = error
        for session in self._sessions.values():
            flight, session.flight = session.flight, None
            if flight is None or flight.done.done():
                continue
            if isinstance(error, SessionEvicted | HistoryLost):
                flight.done.set_exception(error)
            elif flight.operation == Operation.REGISTER:
                flight.done.set_exception(ConnectionError(f"{why}; nothing was executed"))
            else:
                flight.done.set_exception(OutcomeUnknown(why))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.close()

    # ---- the connection -------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._connecting is None and self._ended is None:
            self._connecting = asyncio.get_running_loop().create_task(self._keep_connecting())

    async def _keep_connecting(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._ended is None and self._wanted():
                if self._failures:
                    delay = RECONNECT_SECONDS_MIN * 2 ** min(self._failures, 16)
                    delay = min(delay, limits.RECONNECT_SECONDS_MAX)
                    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                made = _Connection(self)
                try:
                    async with asyncio.timeout(CONNECT_SECONDS_MAX):
                        await loop.create_connection(made.itself, self._host, self._port)
                    if self._connection is not None:
                        return
                    self._failures = max(1, self._failures)
                except (OSError, TimeoutError) as error:
                    if self._connection is made:
                        # It was made in the moment in which the time was over: uvloop has closed
                        # the transport and does not call connection_lost.
                        self._connection = made.transport = None
                    self._failures += 1
                    self._why = str(error) or "the connection was not taken"
        finally:
            self._connecting = None

    def _wanted(self) -> bool:
        return any(x.flight is not None and not x.abandoned_at for x in self._sessions.values())

    def _connected(self, connection: _Connection) -> None:
        if self._ended is not None:
            assert connection.transport is not None
            connection.transport.abort()
            return
        self._connection = connection
        now = asyncio.get_running_loop().time()
        for session in self._sessions.values():
            if session.flight is not None and not session.abandoned_at:
                self._send(session, now)

    def _disconnected(self, connection: _Connection, error: Exception | None) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._why = f"the server closed the connection{f': {error}' if error else ''}"
        if not connection.answered:
            self._failures += 1
        if self._failures >= STRANGER_CLOSES_MAX and not self._known:
            self._fail_all(f"{self.address} closes each connection without an answer:"
                           f" is it a server of cluster {self.cluster}?")
        elif self._wanted():
            self._connect()


def _lawful(reply: Any, flight: _Flight, count: int) -> bool:
    """Whether a reply to our request answers it; results of reads are at most EVENTS_MAX."""
    if reply.operation != flight.operation:
        return False
    if reply.operation == Operation.REGISTER:
        return True
    if reply.batch_count != 1:
        return False
    return count == flight.expected if flight.expected >= 0 else count <= limits.EVENTS_MAX
