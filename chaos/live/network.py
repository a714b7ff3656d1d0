"""Real sockets behind a seeded link: what the sim tier's network does to streams, done to TCP.

A client's bytes go through a link of the seed's making (delays, cuts, partitions, stalls) into a
real connection to the real server, and back. Beside what the sim tier can do a connection can be
reset after a given byte of what the client sends, or as soon as a reply has left the server. Packet
loss below TCP is the machine's part, not this file's. Nothing here reads a frame.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
from collections import deque

from chaos.live.world import World
from chaos.sim import network
from chaos.sim.network import Connection
from chaos.sim.world import MS

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
CHUNK_BYTES = 1 << 16
UNKNOWN = 1 << 62  # where the journal ended when bytes left: a process does not say
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends a reset


class Wire:
    """The socket of one connection, in the place of the sim tier's transport."""

    def __init__(self, link: Network, line: Connection) -> None:
        self._network, self._line = link, line
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting = b""
        self._client = line.name.partition(".")[0]
        self._cuts = link.cuts.setdefault(self._client, deque())
        self._cut_after: int | None = None  # bytes of the client that still reach the server
        self.open = True

    def connect(self, address: tuple[str, int]) -> None:
        why = self._socket.connect_ex(address)
        if why not in (0, errno.EINPROGRESS):
            self._gone()
        else:
            self._network.real.watch(self._socket, WRITE, self._connected)

    def _connected(self, events: int) -> None:
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            self._gone()
            return
        self._watch()
        if self._line.end is not None:
            self._line.established = True
            self._line.end.opened(self._line)

    def _watch(self) -> None:
        """A client that is held does not read; the kernel's buffers fill, then the server's."""
        down = self._line.down
        reads = 0 if down.held or down.dead else READ
        events = reads | (WRITE if self._waiting else 0)
        self._network.real.watch(self._socket, events if self.open else 0, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._push()
        if events & READ and self.open:
            self._pull()

    def _pull(self) -> None:
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
        elif self._client in self._network.losing:
            self._network.losing.remove(self._client)
            self._network.world.count("reply-lost")
            self._break()
        else:
            self._line.down.send(data, UNKNOWN)

    def feed(self, data: bytes) -> None:
        """Bytes of the client arrive at the machine of the server."""
        if not self.open:
            return
        if self._cut_after is None and self._cuts:
            self._cut_after = self._cuts.popleft()
        if self._cut_after is not None and len(data) >= self._cut_after:
            self._waiting += data[: self._cut_after]
            self._push()
            self._network.world.count("line-cut")
            self._break()
            return
        if self._cut_after is not None:
            self._cut_after -= len(data)
        self._waiting += data
        self._push()

    def _push(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._socket.send(self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self._gone()
            return
        if self.open:
            self._watch()

    def caught_up(self) -> None:
        """The client reads again."""
        if self.open:
            self._watch()

    def forget(self) -> None:
        """The process that held the other end is gone: the kernel says so by itself."""

    def lose(self) -> None:
        """Reset the connection: the server is told, and nothing more arrives there."""
        if self.open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._network.real.watch(self._socket, 0, self._ready)
            self._socket.close()

    def _break(self) -> None:
        """The link resets both sides."""
        self.lose()
        self._line.kill(server_told=False)

    def _gone(self) -> None:
        """The server has closed, or is not there."""
        self.close()
        self._line.kill(server_told=False)


class Network(network.Network):
    """All connections to the server at `address`."""

    def __init__(self, real: World, delay_ns: tuple[int, int], cut_share: float) -> None:
        super().__init__(real, delay_ns, cut_share)
        self.real = real
        self.address = ("127.0.0.1", 0)
        self.cuts: dict[str, deque[int]] = {}  # of each client: after how many bytes to reset
        self.losing: set[str] = set()  # clients whose next reply is lost

    def _reach(self, connection: Connection) -> None:
        """The first packet arrives at the machine."""
        if connection.end is None:
            return
        if "partition" in connection.up.held:
            self.world.after(50 * MS, self._reach, connection)
            return
        wire = Wire(self, connection)
        connection.transport = wire  # type: ignore[assignment]
        wire.connect(self.address)

    def stall(self, client: int, on: bool) -> None:
        super().stall(client, on)
        for wire in self.wires(client):
            wire.caught_up()

    def partition(self, client: int, on: bool) -> None:
        super().partition(client, on)
        for wire in self.wires(client):
            wire.caught_up()

    def wires(self, client: int) -> list[Wire]:
        """The living sockets of a client."""
        found: list[object] = [line.transport for line in self.of(client)]
        return [one for one in found if isinstance(one, Wire) and one.open]

    def close(self) -> None:
        """Close every socket, the half-open ones too."""
        for line in self.connections.values():
            if isinstance(line.transport, Wire):
                line.transport.close()
