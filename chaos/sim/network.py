"""A network of the seed's making: streams that are slow, torn, reset, half-open or stalled.

A connection is two ordered streams of bytes between a client's end and the server's. Chunks are cut
at drawn bytes and delayed by drawn times, so connections overtake each other and frames arrive in
pieces. A reset loses what is on the way; a half-open connection loses it without telling one side.
The server's end is what an asyncio transport is to the door. Nothing here reads a frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from chaos.sim.world import MS, World


class End(Protocol):
    """The client's end of a connection."""

    def opened(self, connection: Connection) -> None: ...
    def received(self, connection: Connection, data: bytes, durable: int) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Stream:
    """One direction: bytes leave in order and arrive in order, at times of their own."""

    def __init__(
        self, network: Network, name: str, arrive: Callable[[bytes, int], None],
        to_server: bool,
    ) -> None:  # fmt: skip
        self._network, self._name, self._arrive = network, name, arrive
        self._to_server = to_server
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._drawn = 0
        self._last_ns = 0
        self.held: set[str] = set()  # why nothing arrives at the moment
        self.dead = False

    def send(self, data: bytes, mark: int = 0) -> None:
        """`mark` arrives with the bytes."""
        if self.dead:
            return
        world, net = self._network.world, self._network
        self._drawn += 1
        if len(data) > 1 and world.draw.chance(net.cut_share, self._name + "/cut", self._drawn):
            at = world.draw.between(1, len(data) - 1, self._name + "/cut-at", self._drawn)
            pieces = [data[:at], data[at:]]
        else:
            pieces = [data]
        for piece in pieces:
            self._drawn += 1
            low, high = net.delay_ns
            delay = world.draw.between(low, high, self._name + "/delay", self._drawn)
            self._last_ns = max(self._last_ns, world.now_ns + delay)
            self._chunks.append((piece, mark))
            world.at(self._last_ns, self._one)
        net.bytes += len(data)

    def _one(self) -> None:
        """The time of one chunk has come."""
        frozen_ns = self._network.frozen_ns()
        if self._to_server and self._network.world.now_ns < frozen_ns:
            self._network.world.at(frozen_ns, self._one)
            return
        if self._chunks and not self.held and not self.dead:
            self._arrive(*self._chunks.popleft())

    def hold(self, why: str) -> None:
        self.held.add(why)

    def let_go(self, why: str) -> None:
        """What has waited arrives, in order."""
        self.held.discard(why)
        if not self.held:
            for _ in range(len(self._chunks)):
                self._network.world.after(0, self._one)

    def give_back(self, data: bytes, mark: int) -> None:
        """The receiver took only the beginning of a chunk."""
        self._chunks.appendleft((data, mark))

    @property
    def waiting_bytes(self) -> int:
        return sum(len(data) for data, _ in self._chunks)


class Connection:
    """A connection of a client to the server, from its first packet on."""

    def __init__(self, network: Network, name: str, end: End) -> None:
        self.name, self.network = name, network
        self.end: End | None = end
        self.up = Stream(network, name + "/up", self._to_server, True)
        self.down = Stream(network, name + "/down", self._to_client, False)
        self.transport: Transport | None = None
        self.established = False

    def _to_server(self, data: bytes, mark: int) -> None:
        if self.transport is not None:
            self.transport.feed(data)

    def _to_client(self, data: bytes, durable: int) -> None:
        if self.end is not None:
            self.end.received(self, data, durable)

    def kill(self, client_told: bool = True, server_told: bool = True) -> None:
        """All that is on the way is lost; each side is told unless its half stays open."""
        self.up.dead = self.down.dead = True
        world = self.network.world
        if client_told:
            world.after(self.network.delay_ns[0], self._tell_client)
        if server_told and self.transport is not None:
            world.after(self.network.delay_ns[0], self.transport.lose)

    def _tell_client(self) -> None:
        end, self.end = self.end, None
        if end is not None:
            end.lost(self)

    def leave(self, tells: bool) -> None:
        """The client goes away, with or without a word."""
        self.end = None
        self.kill(client_told=False, server_told=tells)


class Transport:
    """The server's end, as the door knows it."""

    def __init__(self, connection: Connection, durable: Callable[[], int]) -> None:
        self._connection, self._durable = connection, durable
        self._protocol: Any = None
        self._closing = False
        self._high = 1 << 16
        self._paused = False
        self.silent: Callable[[], bool] = lambda: False  # whether nothing may leave any more

    def begin(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    @property
    def open(self) -> bool:
        """Whether the door still has this connection, as far as it knows."""
        return self._protocol is not None

    def feed(self, data: bytes) -> None:
        """Bytes arrive; what the protocol does not take now waits in the stream."""
        stream = self._connection.up
        while data and self._protocol is not None and not self._closing:
            if stream.held:
                stream.give_back(data, 0)
                return
            room = memoryview(self._protocol.get_buffer(-1))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self._protocol.buffer_updated(count)

    def lose(self) -> None:
        """The connection is gone."""
        protocol, self._protocol = self._protocol, None
        self._closing = True
        if protocol is not None:
            protocol.connection_lost(None)

    def forget(self) -> None:
        """The process that held this end is gone."""
        self._protocol = None
        self._closing = True

    # ---- what the door calls --------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        world = self._connection.network.world
        if self.silent():
            world.breaks("fail-stop", f"{len(data)} bytes left a server that had stopped")
        if self._protocol is None:
            return
        self._connection.down.send(bytes(data), self._durable())
        if self.get_write_buffer_size() > self._high and not self._paused:
            self._paused = True
            world.count("peer-is-behind")
            self._protocol.pause_writing()

    def caught_up(self) -> None:
        """The peer reads again."""
        if self._paused and self._protocol is not None:
            self._paused = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        down = self._connection.down
        return down.waiting_bytes if down.held else 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high = high

    def get_extra_info(self, name: str) -> Any:
        return self._connection.name

    def pause_reading(self) -> None:
        self._connection.network.world.count("server-reads-no-more")
        self._connection.up.hold("reading")

    def resume_reading(self) -> None:
        self._connection.up.let_go("reading")

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end()

    def abort(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._closing:
            self._closing = True
            self._connection.network.world.count("server-closes")
            self._connection.kill(server_told=False)
            self._connection.network.world.after(0, self.lose)


class Network:
    """All connections, and how bad the weather is."""

    def __init__(self, world: World, delay_ns: tuple[int, int], cut_share: float) -> None:
        self.world = world
        self.delay_ns, self.cut_share = delay_ns, cut_share
        self.calm_delay_ns = delay_ns
        self.frozen_ns: Callable[[], int] = lambda: 0  # until when the server reads nothing
        self.accept: Callable[[Connection], bool] = lambda connection: False
        self.connections: dict[str, Connection] = {}
        self.cut_off: dict[int, str] = {}  # clients behind a partition
        self.bytes = 0

    def connect(self, client: int, name: str, end: End) -> Connection:
        connection = Connection(self, name, end)
        self.connections[name] = connection
        if client in self.cut_off:
            connection.up.hold("partition")
            connection.down.hold("partition")
        low, high = self.delay_ns
        delay = self.world.draw.between(low, high, name + "/connect")
        self.world.after(delay, self._reach, connection)
        return connection

    def _reach(self, connection: Connection) -> None:
        """The first packet arrives, or nobody is there."""
        if connection.end is None:
            return
        if "partition" in connection.up.held or self.world.now_ns < self.frozen_ns():
            self.world.after(50 * MS, self._reach, connection)
        elif self.accept(connection):
            connection.established = True
            connection.end.opened(connection)
        else:
            connection.kill(server_told=False)

    def of(self, client: int) -> list[Connection]:
        """The living connections of a client."""
        start = f"c{client}."
        return [
            one
            for name, one in self.connections.items()
            if name.startswith(start) and not one.up.dead
        ]

    def partition(self, client: int, on: bool) -> None:
        if on:
            self.cut_off[client] = "partition"
        else:
            self.cut_off.pop(client, None)
        for connection in self.of(client):
            for stream in (connection.up, connection.down):
                if on:
                    stream.hold("partition")
                else:
                    stream.let_go("partition")
            if not on and connection.transport is not None:
                connection.transport.caught_up()

    def stall(self, client: int, on: bool) -> None:
        """A client that does not read."""
        for connection in self.of(client):
            if on:
                connection.down.hold("stalled")
            else:
                connection.down.let_go("stalled")
                if connection.transport is not None:
                    connection.transport.caught_up()
