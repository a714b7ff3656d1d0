"""Every account of bytes in the door and the engine says what is really held, after each step of
connections that do whatever peers do: half frames, bursts, not reading, leaving, asking for what is
damaged. Real sockets and transports; groups become durable when a test says so.

A seed replays a run; ACCOUNT_STEPS sets how long each is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket

import numpy as np
import pytest
import uvloop

from ledger.doors.binary.door import Connection, Door
from ledger.facts import limits, schema
from ledger.facts.errors import DataRefused
from ledger.facts.schema import Operation
from tests.support.engine_parts import Bench
from tests.support.raw import Session, accounts, ids, size_of, transfers

CLUSTER = 7
STEPS = int(os.environ.get("ACCOUNT_STEPS", "400"))
MIB = 1 << 20
FILTER = np.zeros(1, schema.ACCOUNT_FILTER)
FILTER["account_id"][:, 0], FILTER["limit"], FILTER["flags"] = 1, 8189, 1


class Audited(Door):
    """A door that remembers all its connections, also those that are gone."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.engine, CLUSTER)
        self.all: list[Connection] = []
        self.lines: list[str] = []

    def connect(self) -> Connection:
        connection = super().connect()
        self.all.append(connection)
        return connection

    def tell(self, peer: str, what: str) -> None:
        self.lines.append(what)


def audit(door: Audited, bench: Bench) -> None:
    """Recompute each account from what is held."""
    kept = held = unread = lost = 0
    for one in door.all:
        kept += 0 if one._kept is None else one._kept.nbytes
        held += one._held_bytes
        unread += one._unread_bytes
        lost += one._lost_bytes
        assert one._held_bytes >= 0
        # Also of a connection that was given up: its transport has it until the turn after its end.
        assert one.unwritten_bytes <= one._unread_bytes + one._lost_bytes
        assert one._behind == (one in door.behind) and (one._unread_bytes == 0 or one._behind)
        half = one._kept is not None and not one._stuck
        assert half == (one in door.half)
        if one._kept is not None:
            assert 0 <= one._start <= one._filled <= one._kept.nbytes
            if half:
                arrived = one._filled - one._start
                assert one._kept.nbytes <= max(limits.RECEIVE_BYTES_MIN, 2 * arrived)
        if one._transport is None or one._aborted:
            assert one._kept is None and one._unread_bytes == 0 and one not in door.waiting
        else:
            assert one._stuck or one not in door.waiting
    assert door.kept_bytes == kept
    assert (door.reply_bytes, door.lost_bytes) == (held + unread + lost, lost)
    waits = [*bench.engine._releasing, *(w for some in bench.engine._waits.values() for w in some)]
    assert bench.engine._held_bytes == sum(size + limits.HELD_BYTES_EACH for _, _, size in waits)
    frames = sum(size for _, _, size in waits)
    assert held == frames, "what connections hold is what the engine holds for them"


class Wire:
    """A client's end, which sends and reads as much as it is told to."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.session = Session(CLUSTER)
        self.rest = b""  # of frames that were begun
        self.buffer = b""
        self.gone = False

    def send(self, data: bytes) -> None:
        self.rest += data
        with contextlib.suppress(OSError):
            sent = self.socket.send(self.rest)
            self.rest = self.rest[sent:]

    def read(self, most: int) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            data = self.socket.recv(most)
            self.buffer += data
            self.gone = not data


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench()
        self.bench.log.cluster = CLUSTER
        self.door = Audited(self.bench)
        self.wires: list[Wire] = []
        self.next_id = 1

    async def connect(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await asyncio.get_running_loop().create_connection(self.door.connect, sock=theirs)
        wire = Wire(ours)
        wire.send(wire.session.register_frame())
        for _ in range(50):
            await self.turn()
            wire.read(512)
            if len(wire.buffer) >= 256 and len(wire.buffer) >= size_of(bytearray(wire.buffer)):
                wire.session.read(wire.buffer)
                self.wires.append(wire)
                return
        ours.close()

    async def turn(self) -> None:
        """The loop reads and writes; what should be soon happens; all adds up in between."""
        await asyncio.sleep(0)
        audit(self.door, self.bench)
        self.bench.runner.turn()
        audit(self.door, self.bench)
        if self.bench.runner.jobs and self.random.random() < 0.6:
            self.bench.runner.sync()
            audit(self.door, self.bench)

    def frames(self, wire: Wire) -> bytes:
        draw, session = self.random, wire.session
        kind = draw.randrange(6)
        if kind == 0:
            self.next_id += 300
            events = transfers(self.next_id, draw.choice((1, 3, 300)))
            return session.request_frame(Operation.CREATE_TRANSFERS, events.tobytes())
        if kind == 1:
            return session.request_frame(Operation.LOOKUP_ACCOUNTS, ids(1, 2))
        if kind == 2:
            some = ids(*range(1, draw.choice((2, 100, 4000))))
            return session.request_frame(Operation.LOOKUP_TRANSFERS, some)
        if kind == 3:
            return b"".join(
                session.request_frame(Operation.GET_ACCOUNT_TRANSFERS, FILTER.tobytes())
                for _ in range(draw.choice((1, 3, 12)))
            )
        if kind == 4:
            return session.codec.encode_ping(session.client, session.session, 9)
        self.next_id += 8189
        return session.request_frame(
            Operation.CREATE_TRANSFERS, transfers(self.next_id, 8189).tobytes()
        )

    async def step(self) -> None:
        draw = self.random
        self.wires = [one for one in self.wires if not one.gone]
        if len(self.wires) < 4 or len(self.door.connections) < 4 or draw.random() < 0.03:
            await self.connect()
            return
        wire = draw.choice(self.wires)
        what = draw.random()
        if what < 0.45:
            data = self.frames(wire)
            if draw.random() < 0.3:
                cut = draw.randrange(1, len(data))
                wire.send(data[:cut])
                wire.rest += data[cut:]
            else:
                wire.send(data)
        elif what < 0.75:
            wire.send(b"")
            wire.read(draw.choice((100, 10_000, MIB)))
        elif what < 0.79:
            wire.socket.close()
            self.wires.remove(wire)
        elif what < 0.81:
            wire.send(b"\0" * 256)
        elif what < 0.85:
            for connection in draw.sample(list(self.door.connections.values()), 1):
                connection.cut("a test says so")
        elif what < 0.90:
            # What is stuck may turn out to need what is damaged.
            for connection in list(self.door.connections.values()):
                if connection._stuck:
                    self.bench.engine.forget(connection)
                    connection.refused(DataRefused("group 3: block 0 check failed"))
                    break
        elif what < 0.92:
            with contextlib.suppress(OSError):
                wire.socket.shutdown(socket.SHUT_WR)
        elif what < 0.94:
            self.bench.engine._held_bytes += 1 << 40  # no room for anybody, for a moment
            for _ in range(2):
                await asyncio.sleep(0)
                self.bench.runner.turn()
            self.bench.engine._held_bytes -= 1 << 40
            self.bench.engine.resume()
        audit(self.door, self.bench)
        await self.turn()


async def run(seed: int) -> None:
    world = World(seed)
    try:
        await world.connect()
        first = world.wires[0]
        first.send(
            first.session.request_frame(Operation.CREATE_ACCOUNTS, accounts(1, 2).tobytes())
        )
        for _ in range(STEPS):
            await world.step()
        for wire in world.wires:
            wire.socket.close()
        for _ in range(50):
            await world.turn()
            world.bench.settle()
    finally:
        world.door.close()
    for _ in range(5):
        await asyncio.sleep(0.001)
        world.bench.settle()
    audit(world.door, world.bench)
    door = world.door
    assert world.bench.runner.callbacks == [], "nobody is told of turns for nothing"
    assert door.connections == {} and world.bench.told == []
    assert (door.kept_bytes, door.reply_bytes, door.lost_bytes) == (0, 0, 0)
    assert world.bench.replayed() == world.bench.core.state_hash()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("seed", range(4))
def test_all_accounts_say_what_is_held(
    seed: int, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # small bounds, so that each is met
        monkeypatch.setattr(limits, "UNREAD_BYTES_MAX", 4 * MIB)
        monkeypatch.setattr(limits, "UNREAD_RESERVE_BYTES", MIB)
        monkeypatch.setattr(limits, "RECEIVE_BYTES_MAX", MIB // 2)
        monkeypatch.setattr(limits, "SEND_BYTES_MAX", MIB)
    (uvloop.run if loop == "uvloop" else asyncio.run)(run(seed))
