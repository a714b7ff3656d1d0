"""The raw socket: as many bytes there and back as requests and replies have, and nothing else.

A process of its own answers each `request_bytes` it has read with `reply_bytes`, looking at none of
them; the client has as many requests under way as it is told. Both are uvloop with one buffer, as
the ledger's own two ends are. What they reach is the ceiling of the path over a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

from bench.environment import cpu_seconds

BUFFER_BYTES = 1 << 20
SECONDS_MAX = 60.0


class Raw(NamedTuple):
    """What went through, and the processor time of both ends."""

    requests: int
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float


class Counting(asyncio.BufferedProtocol):
    """Sends `send_bytes` for each `receive_bytes` that came, at most `left` times."""

    def __init__(self, receive_bytes: int, send_bytes: int, left: int | None = None) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.receive_bytes, self.frame = receive_bytes, bytes(send_bytes)
        self.left = left
        self.waiting = 0  # bytes of a message that has not all come
        self.received = 0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.waiting += count
        messages, self.waiting = divmod(self.waiting, self.receive_bytes)
        self.received += messages
        self.send(messages)

    def send(self, messages: int) -> None:
        if self.left is not None:
            messages = min(messages, self.left)
            self.left -= messages
        if messages:
            self.transport.write(self.frame if messages == 1 else self.frame * messages)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Asking(Counting):
    """The client's end: done when `wanted` replies have come."""

    wanted = 0

    def buffer_updated(self, count: int) -> None:
        super().buffer_updated(count)
        if self.received >= self.wanted and not self.ended.done():
            self.ended.set_result(None)


async def _serve(request_bytes: int, reply_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    ends: list[Counting] = []

    def connected() -> Counting:
        ends.append(Counting(request_bytes, reply_bytes))
        return ends[-1]

    server = await loop.create_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    await asked.read()  # until the one who started this ends it
    server.close()


async def _ask(
    port: int, connections: int, under_way: int, requests: int, sizes: tuple[int, int]
) -> None:
    """`requests` over `connections`, `under_way` on each."""
    loop = asyncio.get_running_loop()
    request_bytes, reply_bytes = sizes
    ends = []
    each = max(requests // connections, under_way)
    for _ in range(connections):
        _, end = await loop.create_connection(
            lambda: Asking(reply_bytes, request_bytes, each), "127.0.0.1", port
        )
        end.wanted = each
        ends.append(end)
    for end in ends:
        end.send(under_way)
    async with asyncio.timeout(SECONDS_MAX):
        await asyncio.gather(*(end.ended for end in ends))
    for end in ends:
        end.transport.abort()


def measure(
    request_bytes: int, reply_bytes: int, *, connections: int, under_way: int, requests: int
) -> Raw:
    """So many requests there and back."""
    command = [sys.executable, "-m", "bench.loopback", str(request_bytes), str(reply_bytes)]
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert server.stdin is not None and server.stdout is not None
    try:
        port = int(server.stdout.readline())
        server_cpu, own = cpu_seconds(server.pid), time.process_time()
        begun = time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sizes = (request_bytes, reply_bytes)
            runner.run(_ask(port, connections, under_way, requests, sizes))
        seconds = time.perf_counter() - begun
        own = time.process_time() - own
        server_cpu = cpu_seconds(server.pid) - server_cpu
    finally:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        server.wait(SECONDS_MAX)
    sent = max(requests // connections, under_way) * connections
    return Raw(sent, seconds, server_cpu, own)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
