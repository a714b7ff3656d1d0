"""Troubles that many clients are together: a herd that asks for one record of the sealed past at
once, and a crowd that asks for statements and reads none of them.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
from pathlib import Path
from typing import Any

import numpy as np

import ledger
from chaos.sale.stage import Stage
from chaos.sale.trouble import Trouble
from ledger.client.client import new_loop
from ledger.client.connection import parse_address
from ledger.facts import schema
from ledger.facts.limits import (
    EVENTS_MAX,
    MESSAGE_BYTES_MAX,
    RELEASE,
    REPLY_BYTES_IN_FLIGHT_MAX,
    UNREAD_BYTES_MAX,
)
from ledger.facts.schema import Operation
from ledger.load.report import BUCKETS
from ledger.wire._codec import ClientCodec

RECEIVE_BYTES = 4096
REGISTER_SECONDS_MAX = 60.0
MIB = 1 << 20
OTHER_DESCRIPTORS = 256


class Herd(Trouble, tag="herd", kw_only=True):
    """The oldest payments are noted; `for_seconds` later, when they are sealed, `callers` ask for
    one of them at once: half look it up, half pay it again. All are answered within
    `answer_seconds_max`. Each of `rounds` is for another payment."""

    callers: int = 1000  # each with a connection of its own
    window_events: int = 2000
    rounds: int = 3
    answer_seconds_max: float = 2.0

    EXPECTS = "however many ask for one record of the sealed past at once, all are answered"

    def wrong(self) -> str | None:
        if self.callers < 1 or self.rounds < 1:
            return "needs callers and rounds above 0"
        return super().wrong()

    def missing(self) -> str | None:
        return few_descriptors(self.callers)

    def prepare(self, stage: Stage) -> None:
        stage.alter(WINDOW_EVENTS=self.window_events)

    def begin(self, stage: Stage) -> None:
        with ledger.Client(stage.server.address, sessions=1) as client:
            self.oldest = client.query_transfers(ledger.QueryFilter(limit=self.rounds))

    def end(self, stage: Stage) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            rows = [self.oldest[n : n + 1] for n in range(self.rounds)]
            try:
                answered = [runner.run(self._ask(stage, row)) for row in rows]
            except (ledger.LedgerError, OSError, RuntimeError) as error:
                said = stage.server.log[-1:]
                stage.broken.append(("live", f"a caller was told {error!r}; the server: {said}"))
                return
        if min(answered) < self.callers:
            what = f"{answered} of {self.callers} callers were answered"
            stage.broken.append(("live", f"{what} within {self.answer_seconds_max:g} s"))
        stage.seen.append(f"{answered} of {self.callers} callers of one sealed record answered")
        stage.figures["answered"] = answered

    async def _ask(self, stage: Stage, oldest: Any) -> int:
        address = stage.server.address
        clients = [
            ledger.AsyncClient(address, sessions=1, timeout=REGISTER_SECONDS_MAX)
            for _ in range(self.callers)
        ]
        try:
            again = oldest.copy()
            again["timestamp"] = 0
            # Sessions are registered first, so that all ask at the same moment.
            account = oldest["debit_account_id"]
            await asyncio.gather(*[one.lookup_accounts(account) for one in clients])
            tasks = [
                asyncio.ensure_future(
                    one.create_transfers(again) if n % 2 else one.lookup_transfers(oldest["id"])
                )
                for n, one in enumerate(clients)
            ]
            done, late = await asyncio.wait(tasks, timeout=self.answer_seconds_max)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            self._judge(stage, oldest, [task.result() for task in done])
            return len(done)
        finally:
            for one in clients:
                await one.close()

    def _judge(self, stage: Stage, oldest: Any, results: list[Any]) -> None:
        for found in results:
            if found.dtype == ledger.TRANSFER:
                right = found.tobytes() == oldest.tobytes()
            else:
                right = (
                    found["status"][0] == ledger.TransferStatus.EXISTS
                    and found["timestamp"][0] == oldest["timestamp"][0]
                )
            if not right:
                stage.broken.append(("judged", f"the oldest payment was answered {found}"))
                return


class SlowReaders(Trouble, tag="slow-readers", kw_only=True):
    """`connections` with `pipelined` sessions each ask for the longest statement there is, all at
    once, and read nothing. The server's memory and the wait of who pays stay bounded."""

    connections: int
    pipelined: int
    more_bytes_max: int = UNREAD_BYTES_MAX + 2 * REPLY_BYTES_IN_FLIGHT_MAX
    wait_ms_max: float = 1000.0
    FOR_SECONDS_MIN = 1.0

    EXPECTS = "who reads nothing takes bounded memory, and who pays hardly waits"

    def wrong(self) -> str | None:
        if self.connections < 1 or self.pipelined < 1:
            return "connections and pipelined must be above 0"
        return super().wrong()

    def missing(self) -> str | None:
        return few_descriptors(self.connections)

    def begin(self, stage: Stage) -> None:
        codec = ClientCodec(0, RELEASE)
        self.open = [_Reader(codec, stage, self.pipelined) for _ in range(self.connections)]
        for one in self.open:
            one.register()
        for one in self.open:
            one.registered()
        self.bytes_before = memory_bytes(stage, "VmRSS")
        self.step = len(stage.payers[0].steps)
        for one in self.open:
            one.ask()

    def end(self, stage: Stage) -> None:
        more = memory_bytes(stage, "VmHWM") - self.bytes_before
        for one in self.open:
            one.socket.close()
        count = self.connections * self.pipelined
        if more > self.more_bytes_max:
            what = f"{more / MIB:,.0f} MiB for {count:,} statements that nobody reads"
            stage.broken.append(("bounded", f"{what}, at most {self.more_bytes_max / MIB:,.0f}"))
        stage.seen.append(f"{count:,} statements not read: {more / MIB:,.0f} MiB more")
        stage.figures["more_mib"] = round(more / MIB)

    def stopped(self, stage: Stage) -> None:
        """Who was made to wait is answered later, and counted here."""
        steps = [one for one in stage.payers[0].steps[self.step :] if one.buckets]
        worst = max((float(BUCKETS[one.buckets[-1][0]]) / 1e6 for one in steps), default=-1.0)
        if not 0 <= worst <= self.wait_ms_max:
            what = f"who paid waited {worst:,.0f} ms, at most {self.wait_ms_max:,.0f}"
            stage.broken.append(("live", what if steps else "nobody was answered"))
        stage.seen.append(f"the worst wait of who paid was {worst:,.0f} ms")
        stage.figures["worst_wait_ms"] = round(worst)


class _Reader:
    """One connection that asks and does not read, once its sessions are there."""

    def __init__(self, codec: ClientCodec, stage: Stage, sessions: int) -> None:
        self._codec = codec
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.socket.settimeout(REGISTER_SECONDS_MAX)
        self.socket.connect(parse_address(stage.server.address))
        self._clients = [secrets.randbits(127) | 1 for _ in range(sessions)]
        self._replies: list[tuple[int, int, int]] = []  # client, session, context

    def register(self) -> None:
        frames = [self._codec.encode_register(client) for client in self._clients]
        self.socket.sendall(b"".join(frames))

    def registered(self) -> None:
        """Read the answers to the registers."""
        buffer, end = bytearray(MESSAGE_BYTES_MAX), 0
        replies = np.zeros(len(self._clients), schema.REPLY)
        start = 0
        while len(self._replies) < len(self._clients):
            count = self.socket.recv_into(memoryview(buffer)[end:])
            assert count, "the server closed a connection that has read all"
            end += count
            parsed, start, _, _ = self._codec.parse_replies(buffer, start, end, replies)
            for reply in replies[:parsed]:
                client = int.from_bytes(reply["client"].tobytes(), "little")
                context = int.from_bytes(reply["context"].tobytes(), "little")
                self._replies.append((client, int(reply["position"]), context))

    def ask(self) -> None:
        """Ask for statements, as far as the server takes it."""
        events = schema.records(ledger.QueryFilter(limit=EVENTS_MAX), schema.QUERY_FILTER)
        counts = np.array([1], np.uint16)
        frames = [
            self._codec.encode_request(
                client, session, 1, context, Operation.QUERY_TRANSFERS, events.data, counts
            )
            for client, session, context in self._replies
        ]
        self.socket.setblocking(False)
        self.socket.send(b"".join(frames))


def few_descriptors(count: int) -> str | None:
    """Why this process cannot have so many connections, or None. It may have all it can from here
    on, and so may the server that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, count + OTHER_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < count + OTHER_DESCRIPTORS:
        return f"a process may have {most} descriptors, {count + OTHER_DESCRIPTORS} are needed"
    return None


def memory_bytes(stage: Stage, name: str) -> int:
    """Memory of the server: what it has now (VmRSS), or had at most (VmHWM)."""
    for line in Path(f"/proc/{stage.server.pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
