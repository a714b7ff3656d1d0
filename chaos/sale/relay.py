"""A relay between payers and server: loses replies, cuts every connection at once, and takes down
the highest position that any reply named.

It reads the headers of replies itself, by the offsets of the protocol, so that what it says of
them rests on no code of server or load generator. It knows no scenario.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

from ledger.client.client import new_loop
from ledger.client.connection import parse_address, prepare
from ledger.facts.limits import MESSAGE_HEADER_BYTES

SIZE_AT, COMMAND_AT, OP_AT = 96, 114, 208
REPLY = 8
START_SECONDS_MAX = 10.0
BEHIND_BYTES = 1 << 20


class Relay:
    """Listens on a port of its own, in a thread of its own, before the server at `upstream`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = parse_address(upstream)
        self.address = ""
        self.position_max = 0
        self.replies = self.replies_lost = 0
        self.lossy = False  # replies are read and forgotten
        self._lines: set[_Line] = set()
        self._loop = new_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(START_SECONDS_MAX), "the relay did not start"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        make = self._loop.create_server(lambda: _Near(self), "127.0.0.1", 0, backlog=1024)
        server = self._loop.run_until_complete(make)
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.close()

    def cut(self) -> int:
        """Reset every connection at once; how many there were."""
        count = len(self._lines)
        self._call(self._cut_all)
        return count

    def _cut_all(self) -> None:
        for line in list(self._lines):
            line.cut()

    def close(self) -> None:
        if self._thread.is_alive():
            self.cut()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(START_SECONDS_MAX)

    def _call(self, what: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(what)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(START_SECONDS_MAX), "the relay does not answer"

    def connect(self, near: _Near) -> None:
        line = _Line(self, near)
        near.line = line
        self._lines.add(line)
        line.task = self._loop.create_task(line.open(self._upstream))

    def forget(self, line: _Line) -> None:
        self._lines.discard(line)


class _Line:
    """One connection: its near end to the payer, its far end to the server."""

    def __init__(self, relay: Relay, near: _Near) -> None:
        self.relay, self.near = relay, near
        self.far: _Far | None = None
        self.early = b""  # what came before there was a far end
        self.task: asyncio.Task[None] | None = None
        self.closed = False

    async def open(self, upstream: tuple[str, int]) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, far = await loop.create_connection(lambda: _Far(self), *upstream)
        except OSError:
            self.cut()
            return
        self.far = far
        if self.closed:
            far.transport.abort()
        else:
            far.transport.write(self.early)

    def cut(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.relay.forget(self)
        self.near.transport.abort()
        if self.far is not None:
            self.far.transport.abort()


class _End(asyncio.Protocol):
    transport: asyncio.Transport
    line: _Line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(BEHIND_BYTES)
        prepare(transport.get_extra_info("socket"))

    def connection_lost(self, error: Exception | None) -> None:
        self.line.cut()


class _Near(_End):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.connect(self)

    def data_received(self, data: bytes) -> None:
        if self.line.far is None:
            self.line.early += data
        else:
            self.line.far.transport.write(data)

    def pause_writing(self) -> None:
        if self.line.far is not None:
            self.line.far.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.line.far is not None:
            self.line.far.transport.resume_reading()


class _Far(_End):
    """The server's side: frames are followed, so that each reply's position is seen."""

    def __init__(self, line: _Line) -> None:
        self.line = line
        self._header = bytearray()
        self._body_left = 0

    def data_received(self, data: bytes) -> None:
        replies = self._follow(data)
        relay = self.line.relay
        if relay.lossy:
            relay.replies_lost += replies
        else:
            relay.replies += replies
            self.line.near.transport.write(data)

    def pause_writing(self) -> None:
        self.line.near.transport.pause_reading()

    def resume_writing(self) -> None:
        self.line.near.transport.resume_reading()

    def _follow(self, data: bytes) -> int:
        """How many replies began here; their positions are taken down."""
        start, replies = 0, 0
        while start < len(data):
            step = min(self._body_left, len(data) - start)
            self._body_left -= step
            start += step
            taken = data[start : start + MESSAGE_HEADER_BYTES - len(self._header)]
            self._header += taken
            start += len(taken)
            if len(self._header) == MESSAGE_HEADER_BYTES:
                replies += self._read_header()
        return replies

    def _read_header(self) -> bool:
        header = bytes(self._header)
        self._header.clear()
        size = int.from_bytes(header[SIZE_AT : SIZE_AT + 4], "little")
        self._body_left = max(0, size - MESSAGE_HEADER_BYTES)
        if header[COMMAND_AT] != REPLY:
            return False
        position = int.from_bytes(header[OP_AT : OP_AT + 8], "little")
        relay = self.line.relay
        relay.position_max = max(relay.position_max, position)
        return True
