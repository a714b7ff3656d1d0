"""What several connections send in one turn of the loop: executed in one call of the engine, each
answered its own, in order; what cannot take part is handled by its connection and nothing is lost.

Real sockets and asyncio's transports; the engine's turns and syncs happen when a test says so.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from ledger.doors.binary.door import Door
from ledger.facts import limits, schema
from ledger.facts.schema import Operation, Verdict
from tests.support.engine_parts import Bench
from tests.support.raw import RELEASE, Session, size_of, transfers
from tests.support.raw import accounts as account_rows

TRANSFERS = Operation.CREATE_TRANSFERS
CREATED = schema.TransferStatus.CREATED
CLUSTER = 7
ANSWERED = slice(128, 144)  # of a reply: the checksum of its request


class Wire:
    """A client's end of a connection, read by the loop that is running."""

    def __init__(self, room: Room, ours: socket.socket) -> None:
        self.room, self.socket = room, ours
        self.session = Session(CLUSTER)
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        """Send, and wait until the door has read it."""
        await self._send(data, self.room.read)

    async def send_rest(self, data: bytes) -> None:
        """Send what completes a frame, which is not read for the turn, and wait for its call."""
        await self._send(data, self.room.called)

    async def _send(self, data: bytes, seen: asyncio.Event) -> None:
        seen.clear()
        await asyncio.get_running_loop().sock_sendall(self.socket, data)
        await asyncio.wait_for(seen.wait(), 10)

    async def frame(self) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self.buffer) < 256 or len(self.buffer) < size_of(bytearray(self.buffer)):
            data = await asyncio.wait_for(loop.sock_recv(self.socket, 1 << 20), 10)
            assert data, "closed"
            self.buffer += data
        size = size_of(bytearray(self.buffer))
        frame, self.buffer = self.buffer[:size], self.buffer[size:]
        return frame

    async def paid(self) -> list[int]:
        return [int(status) for status in self.session.results(await self.frame())["status"]]

    def payment(self, first: int, count: int = 1) -> bytes:
        return self.session.request_frame(TRANSFERS, transfers(first, count).tobytes())


class Room:
    """A door, its engine, and how often that was called."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.log.cluster = CLUSTER
        self.door = Door(self.bench.engine, CLUSTER)
        self.read, self.called, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.calls: list[int] = []  # arrivals of each call of the core
        self.lines: list[str] = []
        self.door.tell = lambda peer, what: self.lines.append(what)  # type: ignore[method-assign]
        add, execute = self.door.turn.add, self.bench.engine._execute
        forget = self.bench.engine.forget

        def counted(connection: Any, count: int) -> None:
            add(connection, count)
            self.read.set()

        def executed(submitter: Any, buffer: Any, arrivals: Any, count: int) -> Any:
            self.calls.append(count)
            self.called.set()
            return execute(submitter, buffer, arrivals, count)

        def forgotten(submitter: Any) -> None:
            forget(submitter)
            self.gone.set()

        self.bench.engine.forget = forgotten  # type: ignore[method-assign]
        self.door.turn.add = counted  # type: ignore[method-assign]
        self.bench.engine._execute = executed  # type: ignore[method-assign]

    async def wire(self) -> Wire:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(self.door.connect, sock=theirs)
        wire = Wire(self, ours)
        await wire.send(wire.session.register_frame())
        self.bench.settle()
        wire.session.read(await wire.frame())
        return wire

    async def wires(self, count: int) -> list[Wire]:
        wires = [await self.wire() for _ in range(count)]
        events = account_rows(1, 2).tobytes()
        await wires[0].send(wires[0].session.request_frame(Operation.CREATE_ACCOUNTS, events))
        self.bench.settle()
        wires[0].session.read(await wires[0].frame())
        self.calls.clear()
        return wires


def in_a_room(test: Callable[[Room], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def inside() -> None:
            room = Room()
            try:
                await test(room)
            finally:
                room.door.close()
            assert room.bench.replayed() == room.bench.core.state_hash()

        asyncio.run(inside())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_a_room
async def test_what_many_send_in_one_turn_is_one_call(room: Room) -> None:
    wires = await room.wires(5)
    for n, wire in enumerate(wires):
        await wire.send(wire.payment(10 * n + 1) if n else wire.payment(1, 3))
    assert room.calls == [], "nothing before the turn ends"
    room.bench.settle()
    assert room.calls == [5]
    for n, wire in enumerate(wires):
        assert await wire.paid() == [CREATED] * (3 if n == 0 else 1)


@in_a_room
async def test_half_a_frame_waits_for_the_rest_and_nobody_for_it(room: Room) -> None:
    one, two, three = await room.wires(3)
    frame = two.payment(20)
    await one.send(one.payment(10))
    await two.send(frame[:300])
    await three.send(three.payment(30))
    room.bench.settle()
    assert room.calls == [1, 1] and await one.paid() == await three.paid() == [CREATED]
    await two.send_rest(frame[300:])
    room.bench.settle()
    assert await two.paid() == [CREATED]


@in_a_room
async def test_a_large_read_ends_the_turn_and_comes_after_it(room: Room) -> None:
    one, two = await room.wires(2)
    await one.send(one.payment(10))
    await two.send(two.payment(20, limits.TURN_READ_BYTES // 128 + 1))
    assert room.calls == [1, 1]
    room.bench.settle()
    assert await one.paid() == [CREATED]
    assert set(await two.paid()) == {CREATED}


@in_a_room
async def test_what_finds_no_room_is_asked_by_its_connection(room: Room) -> None:
    wires = await room.wires(4)
    for n, wire in enumerate(wires):
        await wire.send(wire.payment(n + 1))
    room.bench.engine._held_bytes += limits.REPLY_BYTES_IN_FLIGHT_MAX + 1
    room.bench.runner.turn()
    assert room.calls == [4, 1, 1, 1, 1], "refused together, then each for itself"
    room.bench.engine._held_bytes -= limits.REPLY_BYTES_IN_FLIGHT_MAX + 1
    room.bench.engine.resume()
    room.bench.settle()
    for wire in wires:
        assert await wire.paid() == [CREATED]


@in_a_room
async def test_the_rest_of_a_frame_that_comes_in_the_same_turn_is_put_behind_it(room: Room) -> None:
    one, two = await room.wires(2)
    first, second = one.payment(1), one.payment(2)
    await one.send(first[:300])
    await one.send(first[300:] + second)
    await two.send(two.payment(3))
    room.bench.settle()
    assert room.lines == []
    for request in (first, second):
        assert (await one.frame())[ANSWERED] == request[:16]
    assert await two.paid() == [CREATED]
    assert room.door.kept_bytes == 0


@in_a_room
async def test_what_comes_behind_frames_without_room_waits_with_them(room: Room) -> None:
    [one] = await room.wires(1)
    room.bench.engine._held_bytes += limits.REPLY_BYTES_IN_FLIGHT_MAX + 1
    first, second = one.payment(1), one.payment(2)
    await one.send(first)
    await one.send(second)
    room.bench.engine._held_bytes -= limits.REPLY_BYTES_IN_FLIGHT_MAX + 1
    room.bench.engine.resume()
    room.bench.settle()
    for request in (first, second):
        assert (await one.frame())[ANSWERED] == request[:16]
    assert room.door.kept_bytes == 0


@in_a_room
async def test_who_is_gone_before_the_turn_ends_is_not_executed(room: Room) -> None:
    one, two = await room.wires(2)
    await one.send(one.payment(1))
    await two.send(two.payment(2))
    one.socket.close()
    connection = room.door.connections[1]
    connection.close(at_once=True)
    await asyncio.wait_for(room.gone.wait(), 10)
    assert 1 not in room.door.connections
    room.bench.settle()
    assert room.calls == [1] and await two.paid() == [CREATED]


@in_a_room
async def test_a_request_that_comes_again_in_a_turn_is_answered_where_it_came(room: Room) -> None:
    one, two, three = await room.wires(3)
    frame = one.payment(1)
    await one.send(frame)
    room.bench.settle()
    reply = await one.frame()
    await three.send(three.payment(3))
    two.session = one.session
    await two.send(frame)
    room.bench.settle()
    assert await two.frame() == reply
    assert await three.paid() == [CREATED]


@in_a_room
async def test_what_is_wrong_is_told_of_who_sent_it(room: Room) -> None:
    """A frame nobody knows and a session that was never registered, between payments."""
    one, two, three = await room.wires(3)
    stranger = Session(CLUSTER, client=99)
    stranger.session = 5
    await one.send(one.payment(1))
    await two.send(stranger.request_frame(TRANSFERS, transfers(2, 1).tobytes()))
    await three.send(three.session.codec.encode_ping(1, 0, 7))
    room.bench.settle()
    assert await one.paid() == [CREATED]
    assert stranger.read(await two.frame())["verdict"] == Verdict.EVICT
    assert (await three.frame())[114] == schema.Command.PONG_CLIENT
    assert len(room.calls) == 1
    assert [line for line in room.lines if "evicted: client 99" in line]


@in_a_room
async def test_a_turn_that_fills_its_buffer_ends(room: Room) -> None:
    one, two = await room.wires(2)
    turn = room.door.turn
    turn.buffer = bytearray(3000)
    turn._view = memoryview(turn.buffer)
    await one.send(one.payment(1))
    assert room.calls == []
    await two.send(two.payment(2, 9))
    assert room.calls == [2], "more than half of the buffer is taken"
    room.bench.settle()
    assert await one.paid() == [CREATED] and await two.paid() == [CREATED] * 9


def test_frames_by_route_are_those_of_one_call() -> None:
    """Whatever the runs of routes, one after the other they are what encode() makes."""
    codec = Door(Bench().engine, CLUSTER).codec
    rng = np.random.default_rng(5)
    for _ in range(50):
        count = int(rng.integers(1, 30))
        answers, arrivals = np.zeros(count, schema.ANSWER), np.zeros(count, schema.ARRIVAL)
        arrivals["route"] = np.sort(rng.integers(0, 5, count))
        answers["arrival"] = np.arange(count)
        answers["verdict"] = rng.choice([Verdict.PONG, Verdict.EVICT, Verdict.RESEND], count)
        answers["client"][:, 0], answers["reason"], answers["release"] = 3, 1, RELEASE
        payload, counts = np.zeros(16, np.uint8), np.zeros(1, np.uint16)
        parts = codec.encode_by_route(answers, count, payload, counts, arrivals)
        assert b"".join(frames for _, frames in parts) == codec.encode(
            answers, count, payload, counts
        )
        routes = [route for route, _ in parts]
        assert routes == sorted(set(routes))
        for route, frames in parts:
            own = answers[arrivals["route"] == route]
            assert frames == codec.encode(own.copy(), len(own), payload, counts)
    answers["arrival"][0] = count
    with pytest.raises(ValueError, match=r"answers\[0\]: it answers none of"):
        codec.encode_by_route(answers, count, payload, counts, arrivals)
