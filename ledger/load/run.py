"""The load generator: drives swarms of sessions against a server and reports what it saw.

The phases are: register, create accounts, send transfers, and, when asked to check, look up every
acknowledged transfer and add up the accounts. Requests and replies are _swarm.pyx's; here are the
sockets, the clock and reconnecting. A server that goes away is waited for: requests are sent again
by the same sessions over a new connection, so nothing is paid twice or lost. Latency counts from
the moment a payment was due, so a stall is charged to all that waited behind it. This file knows no
record and no frame; what is asked of it and what it reports are in report.py.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import msgspec
import numpy as np
from rich.console import Console
from rich.live import Live

from ledger.base import output
from ledger.client.client import new_loop
from ledger.client.connection import (
    CONNECT_SECONDS_MAX,
    RECONNECT_SECONDS_MIN,
    STRANGER_CLOSES_MAX,
    parse_address,
    prepare,
)
from ledger.facts import json_values, limits, schema
from ledger.facts.errors import LedgerError
from ledger.facts.limits import Exit
from ledger.load._swarm import Swarm
from ledger.load.report import (
    BUCKETS,
    DISTRIBUTIONS,
    ID_ORDERS,
    TRANSFERS_MAX,
    Counts,
    latency,
    summary,
    view,
)
from ledger.load.report import Options as Options
from ledger.load.report import Progress as Progress
from ledger.load.report import Report as Report

Key = TypeVar("Key")

PROGRESS_SECONDS = 1.0
TICK_SECONDS = 0.05
SUMMARY_COLUMNS_MAX = 1000
DUE_SECONDS_MIN = 0.001  # timers of the loop are no finer
CONNECTING_MAX = 64
PAYMENTS_PER_SECOND_MAX = 10_000_000  # bounds the memory of a run that is limited by time alone
TRANSFERS_DEFAULT = 1_000_000
PHASES = ("register", "accounts", "transfers", "check transfers", "check accounts")
FAULTS = (
    "missing",
    "different",
    "accounts_missing",
    "accounts_different",
    "accounts_refused",
    "duplicate_faults",
    "reply_faults",
)

def run(
    options: Options,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    interruptible: bool = False,
    progress_seconds: float = PROGRESS_SECONDS,
) -> Report:
    """Make the load and report. `on_progress` is called each `progress_seconds`, in the thread of
    the call.

    `interruptible`: SIGINT ends the sending, and what is under way is waited for. LedgerError when
    what listens is no server of this cluster. A server that is not there, or goes and does not
    come back within `patience_seconds`, is told by the report.
    """
    if options.seed is None:
        options = msgspec.structs.replace(options, seed=secrets.randbits(63))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_Run(options, on_progress, progress_seconds).go(interruptible))


class _Connection(asyncio.BufferedProtocol):
    """One swarm and the socket it has at the moment."""

    def __init__(self, owner: _Run, swarm: Swarm) -> None:
        self.owner = owner
        self.swarm = swarm
        self.transport: asyncio.Transport | None = None
        self.failures = 0
        self.made = 0  # connections in all

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made += 1
        self.transport = cast(asyncio.Transport, transport)
        prepare(transport.get_extra_info("socket"))
        self.write(self.swarm.connect(time.monotonic_ns()))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.swarm.disconnect()
        self.failures += 1
        self.owner.lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.swarm.space()

    def buffer_updated(self, count: int) -> None:
        now_ns = time.monotonic_ns()
        before = self.swarm.replies
        self.write(self.swarm.feed(count, now_ns))
        if self.swarm.replies != before:
            self.failures = 0
            self.owner.replied(now_ns)
        if self.swarm.error:
            self.owner.broken(self, schema.WireError(self.swarm.error))
        elif self.swarm.done:
            self.owner.look()

    def write(self, frames: bytes) -> None:
        if frames and self.transport is not None:
            self.transport.write(frames)

    def tick(self, now_ns: int) -> None:
        if self.transport is not None:
            self.write(self.swarm.tick(now_ns, self.transport.get_write_buffer_size() == 0))


class _Run:
    """One run: its connections, phases, timers and figures."""

    def __init__(
        self,
        options: Options,
        on_progress: Callable[[Progress], None] | None,
        progress_seconds: float,
    ) -> None:
        self.options = options
        self.on_progress = on_progress
        self.progress_seconds = min(progress_seconds, options.patience_seconds / 2)
        self.host, self.port = parse_address(options.address)
        self.connections = [
            _Connection(self, swarm(options, index)) for index in range(options.connections)
        ]
        self.phase = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.connecting = asyncio.Semaphore(CONNECTING_MAX)
        self.event = asyncio.Event()
        self.closing = False
        self.known = False
        self.stopped = ""
        self.refusal = "no answer"  # of the last connection that could not be made
        self.error: LedgerError | None = None
        self.last_reply_ns = self.begun_ns = self.ended_ns = time.monotonic_ns()
        self.longest_pause_ns = 0
        self.accepted_before = 0
        self.progress_ns = self.begun_ns
        self.interrupted = False
        self.overdue = 0

    async def go(self, interruptible: bool) -> Report:
        loop = asyncio.get_running_loop()
        if interruptible:
            loop.add_signal_handler(signal.SIGINT, self.interrupt)
        for connection in self.connections:
            self.connect(connection)
        timers = [loop.create_task(self.ticking()), loop.create_task(self.progressing())]
        try:
            await self.finish_phase()
            for phase in range(1, 5 if self.options.check else 3):
                await self.run_phase(phase)
        finally:
            self.closing = True
            for task in (*timers, *self.tasks):
                task.cancel()
            await asyncio.gather(*timers, *self.tasks, return_exceptions=True)
            for connection in self.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            if interruptible:
                loop.remove_signal_handler(signal.SIGINT)
        if self.error is not None:
            raise self.error
        return self.report()

    # ---- phases ---------------------------------------------------------------------------------

    async def run_phase(self, phase: int) -> None:
        if self.stopped or self.error or (self.interrupted and phase < 3):
            return
        loop = asyncio.get_running_loop()
        self.phase = phase
        self.event.clear()
        now_ns = time.monotonic_ns()
        self.last_reply_ns = now_ns
        timer = None
        if PHASES[phase] == "transfers":
            self.begun_ns = self.progress_ns = now_ns
            if self.options.duration_seconds is not None:
                timer = loop.call_later(self.options.duration_seconds, self.stop)
        for connection in self.connections:
            connection.write(connection.swarm.begin(phase, now_ns))
        await self.finish_phase()
        if PHASES[phase] == "transfers":
            self.ended_ns = time.monotonic_ns()
            self.longest_pause_ns = max(self.longest_pause_ns, self.ended_ns - self.last_reply_ns)
        if timer is not None:
            timer.cancel()

    async def finish_phase(self) -> None:
        self.look()
        await self.event.wait()

    def look(self) -> None:
        """End the phase when every swarm has."""
        if self.stopped or self.error or all(one.swarm.done for one in self.connections):
            self.event.set()

    def stop(self) -> None:
        """Send no more; what is due by now and not sent is counted."""
        if self.options.rate is not None and PHASES[self.phase] == "transfers":
            due = int(self.options.rate * (time.monotonic_ns() - self.begun_ns) / 1e9)
            counters = self.counters()
            self.overdue = max(0, due - counters["sent"] - counters["duplicates_sent"])
        for connection in self.connections:
            connection.swarm.stop()
        self.look()

    def interrupt(self) -> None:
        self.interrupted = True
        self.stop()

    def give_up(self, why: str) -> None:
        self.stopped = why
        for connection in self.connections:
            connection.swarm.give_up()
        self.event.set()

    def fail(self, why: str) -> None:
        self.error = LedgerError(why)
        self.event.set()

    # ---- connections ----------------------------------------------------------------------------

    def connect(self, connection: _Connection) -> None:
        task = asyncio.get_running_loop().create_task(self.keep_connecting(connection))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def keep_connecting(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        while not self.closing and not self.event_is_final():
            if connection.failures:
                delay = RECONNECT_SECONDS_MIN * 2 ** min(connection.failures, 16)
                delay = min(delay, limits.RECONNECT_SECONDS_MAX)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            try:
                async with self.connecting, asyncio.timeout(CONNECT_SECONDS_MAX):
                    await loop.create_connection(lambda: connection, self.host, self.port)
                return
            except (OSError, TimeoutError) as error:
                connection.failures += 1
                self.refusal = error.strerror or "no answer" if error.args else "no answer"

    def event_is_final(self) -> bool:
        return bool(self.stopped or self.error)

    def lost(self, connection: _Connection) -> None:
        if self.closing:
            return
        if connection.failures >= STRANGER_CLOSES_MAX and not self.known:
            self.fail(
                f"{self.options.address} closes each connection without an answer:"
                f" is it a server of cluster {self.options.cluster}?"
            )
        else:
            self.connect(connection)

    def broken(self, connection: _Connection, error: schema.WireError) -> None:
        if error in (schema.WireError.CLUSTER, schema.WireError.ANSWER):
            self.fail(
                f"{self.options.address} is no server of cluster {self.options.cluster} that the"
                f" load generator understands ({error.name.lower()})"
            )
        if connection.transport is not None:
            connection.transport.abort()

    def replied(self, now_ns: int) -> None:
        self.known = True
        if PHASES[self.phase] == "transfers":
            self.longest_pause_ns = max(self.longest_pause_ns, now_ns - self.last_reply_ns)
        self.last_reply_ns = now_ns

    # ---- timers ---------------------------------------------------------------------------------

    async def ticking(self) -> None:
        while True:
            now_ns = time.monotonic_ns()
            delay = TICK_SECONDS
            for connection in self.connections:
                connection.tick(now_ns)
                due_ns = connection.swarm.due_in_ns(now_ns)
                if due_ns >= 0:
                    delay = min(delay, max(due_ns / 1e9, DUE_SECONDS_MIN))
            await asyncio.sleep(delay)

    async def progressing(self) -> None:
        while True:
            await asyncio.sleep(self.progress_seconds)
            now_ns = time.monotonic_ns()
            progress = self.progress(now_ns)
            if self.on_progress is not None:
                self.on_progress(progress)
            waiting = progress.requests_waiting > 0 or progress.connections == 0
            if waiting and progress.silent_seconds > self.options.patience_seconds:
                self.give_up(self.silence(progress))

    def silence(self, progress: Progress) -> str:
        """Why it is silent."""
        for_so_long = f"for {progress.silent_seconds:.1f} s"
        if progress.connections:
            return f"no reply {for_so_long}"
        return f"no connection to {self.options.address} {for_so_long}: {self.refusal}"

    # ---- figures --------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return _sum(connection.swarm.counters() for connection in self.connections)

    def histograms(self) -> tuple[Counts, Counts]:
        """In all, and since the last call."""
        pairs = [connection.swarm.take_histograms() for connection in self.connections]
        return _add(total for total, _ in pairs), _add(recent for _, recent in pairs)

    def progress(self, now_ns: int) -> Progress:
        counters = self.counters()
        total, recent = self.histograms()
        seconds = max(now_ns - self.progress_ns, 1) / 1e9
        rate = (counters["accepted"] - self.accepted_before) / seconds
        self.accepted_before, self.progress_ns = counters["accepted"], now_ns
        return Progress(
            phase=PHASES[self.phase],
            seconds=(now_ns - self.begun_ns) / 1e9,
            accepted=counters["accepted"],
            refused=counters["refused"],
            payments_per_second=rate,
            recent=latency(recent),
            recent_counts=recent,
            total=latency(total),
            requests_waiting=counters["flying"],
            resent=counters["resent"],
            connections=sum(one.transport is not None for one in self.connections),
            silent_seconds=(now_ns - self.last_reply_ns) / 1e9,
        )

    def report(self) -> Report:
        counters = self.counters()
        tables = [one.swarm.statuses_by_number() for one in self.connections]
        _, refused, evictions = (_sum(table) for table in zip(*tables, strict=True))
        faults = {name: counters[name] for name in FAULTS if counters[name]}
        checked = self.options.check and not self.stopped
        if checked and counters["found"] != counters["accepted"]:
            faults["not_found"] = counters["accepted"] - counters["found"]
        if counters["debits_posted"] != counters["credits_posted"]:
            faults["unbalanced"] = counters["debits_posted"] - counters["credits_posted"]
        seconds = max(self.ended_ns - self.begun_ns, 1) / 1e9
        return Report(
            options=self.options,
            seconds=seconds,
            accounts_created=counters["accounts_created"],
            accounts_existed=counters["accounts_existed"],
            sent=counters["sent"],
            accepted=counters["accepted"],
            refused={_name(schema.TransferStatus, key): refused[key] for key in refused},
            unanswered=counters["unanswered"],
            overdue=self.overdue,
            duplicates=counters["duplicates"],
            payments_per_second=counters["accepted"] / seconds,
            latency=latency(self.histograms()[0]),
            longest_pause_seconds=self.longest_pause_ns / 1e9,
            requests=counters["requests"],
            resent=counters["resent"],
            reconnects=sum(max(0, one.made - 1) for one in self.connections),
            evictions={_name(schema.EvictionReason, key): evictions[key] for key in evictions},
            found=counters["found"],
            debits_posted=counters["debits_posted"],
            credits_posted=counters["credits_posted"],
            faults=faults,
            stopped=self.stopped,
        )


def swarm(options: Options, index: int) -> Swarm:
    """The sessions of one connection, which also know what each of its transfers looks like."""
    count = options.connections
    limit = options.transfers
    if limit is None and options.duration_seconds is None:
        limit = TRANSFERS_DEFAULT
    if limit is None:
        limit = min(int((options.duration_seconds or 0) * PAYMENTS_PER_SECOND_MAX), TRANSFERS_MAX)
    transfers = limit // count + (index < limit % count)
    flags = schema.AccountFlags.HISTORY if options.history else schema.AccountFlags.NONE
    return Swarm(
        cluster=options.cluster.to_bytes(16, "little"),
        client=bytes(8) + secrets.token_bytes(8),
        release=limits.RELEASE,
        sessions=options.sessions,
        batch=options.batch,
        seed=options.seed or 0,
        accounts=options.accounts,
        account_first=options.accounts * index // count,
        account_end=options.accounts * (index + 1) // count,
        account_flags=int(flags),
        connection=index,
        connections=count,
        ledger=options.ledger,
        distribution=DISTRIBUTIONS.index(options.distribution),
        zipf_exponent=options.zipf_exponent,
        hot_share=options.hot_share,
        pending_share=options.pending_share,
        resolved_share=options.resolved_share,
        hold_seconds=options.hold_seconds,
        duplicate_share=options.duplicate_share,
        id_order=ID_ORDERS.index(options.id_order),
        first=options.number_first,
        transfers=transfers,
        transfers_max=transfers,
        requests_per_second=(options.rate or 0) / options.batch / count,
        resend_seconds=limits.RESEND_SECONDS,
    )


def _sum(tables: Iterable[dict[Key, int]]) -> dict[Key, int]:
    total: dict[Key, int] = {}
    for table in tables:
        for key, value in table.items():
            total[key] = total.get(key, 0) + value
    return total


def _add(histograms: Iterable[bytes]) -> Counts:
    total = np.zeros(len(BUCKETS), np.uint64)
    for histogram in histograms:
        total += np.frombuffer(histogram, np.uint64)
    return total


def _name(names: type[schema.TransferStatus] | type[schema.EvictionReason], number: int) -> str:
    try:
        return names(number).name.lower()
    except ValueError:
        return f"unknown_{number}"


def show(options: Options, as_json: bool) -> Report:
    """Run with a live view on stderr, then write a summary, or the report as JSON, to stdout."""
    if as_json:
        report = run(options, interruptible=True)
        output.result(json_values.line(msgspec.to_builtins(report)))
        return report
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        report = run(
            options,
            lambda progress: live.update(view(progress), refresh=True),
            interruptible=True,
        )
    console = Console()
    # Where nobody looks at a terminal nothing is cut to the width of one.
    console.print(summary(report), width=None if console.is_terminal else SUMMARY_COLUMNS_MAX)
    return report


def main(options: Options, json: bool = False) -> int:
    """The command: 0 when all is well, 1 when anything is wrong or unanswered."""
    return int(Exit.OK if show(options, json).ok else Exit.FAULT_FOUND)
