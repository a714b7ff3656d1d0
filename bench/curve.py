"""End to end: payments a second and latencies over batch size and connections, closed and open.

Each point is a real `ledger serve` on a book of its own and our load generator, both on this
machine, bounded in time and in count. In the closed loop every connection has one request under
way. In the open loop payments are due at a fixed rate whether or not the server keeps up, and a
latency counts from when its payment was due, so that a stall is charged to all who waited. A point
that would need more payments under way than can be answered in its time is left out and told.
"""

from __future__ import annotations

import gc
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import numpy as np

from bench.environment import (
    RESULTS_OPTION,
    SCRATCH_OPTION,
    Steps,
    cpu_seconds,
    environment,
    scratch_folder,
)
from bench.parts import disk_bytes
from chaos.process import Server
from ledger.facts import limits
from ledger.load import run as load
from ledger.load.report import BUCKETS

NAME = "curve"
BATCHES = (1, 8, 64, 512, 4_096, limits.EVENTS_MAX)
CONNECTIONS = (1, 4, 16, 64, 250, 1_000, 4_000)
OPEN_SHARES = (0.25, 0.5, 0.75, 0.9)  # of the closed loop's rate of the same connections
OPEN_CONNECTIONS, OPEN_SESSIONS = 50, 20
UNDER_WAY_MAX = 600_000  # payments
PAYMENTS_EACH_MAX = 8_000_000
CONNECTION_BYTES = 2_300_000  # of the load generator, for each
ACCOUNTS = 10_000
SECONDS_AROUND = 2.0  # starting a server, its accounts, ending it
CONNECTION_SECONDS = 0.004
PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class Point:
    """What one run asks for; `rate` None is a closed loop."""

    batch: int
    connections: int
    sessions: int = 1
    rate: float | None = None

    @property
    def told(self) -> str:
        loop = "closed loop" if self.rate is None else f"open loop, {self.rate:,.0f}/s"
        sessions = f" of {self.sessions} sessions" if self.sessions > 1 else ""
        return f"{self.batch:,} a request, {self.connections:,} connections{sessions}, {loop}"


def points(batches: tuple[int, ...], connections: tuple[int, ...]) -> tuple[list[Point], list[str]]:
    """The closed loop's points, and those left out, with the reason."""
    kept, left_out = [], []
    memory = available_bytes()
    for one in (Point(batch, count) for batch in batches for count in connections):
        if one.batch * one.connections > UNDER_WAY_MAX:
            left_out.append(f"{one.told}: too many payments under way")
        elif one.connections * CONNECTION_BYTES > memory / 2:
            left_out.append(f"{one.told}: too little memory for the load generator")
        else:
            kept.append(one)
    return kept, left_out


def available_bytes() -> int:
    """Memory that can be had now, as the kernel says; without it, all that there is."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Used(NamedTuple):
    """What the two processes and the disk have used so far."""

    server: float
    client: float
    disk: int

    def less(self, other: Used) -> Used:
        return Used(
            self.server - other.server, self.client - other.client, self.disk - other.disk
        )


def used(server: Server) -> Used:
    return Used(cpu_seconds(server.pid), own_cpu_seconds(), disk_bytes(server.directory).allocated)


def run(point: Point, seconds: float, disk: Path, accounts: int = ACCOUNTS) -> dict[str, Any]:
    """One point's figures. RuntimeError when anything that must not happen was seen.

    What registers and creates accounts is the same in a run of one payment, which is made first
    and taken off, so that processor time and disk are of the payments alone.
    """
    counts = np.zeros(len(BUCKETS), np.uint64)

    def add(progress: load.Progress) -> None:
        counts[:] += progress.recent_counts

    with scratch_folder(disk) as folder:
        server = Server(folder / "book")
        try:
            server.start()
            asked = options(point, seconds, server.address, accounts)
            begun = used(server)
            load.run(msgspec.structs.replace(asked, transfers=1, rate=None, seed=2))
            gc.collect()  # a run's connections and itself hold each other, and are large
            around = used(server).less(begun)
            begun = used(server)
            report = load.run(asked, add, progress_seconds=PROGRESS_SECONDS)
            spent = used(server).less(begun).less(around)
            code = server.terminate()
        finally:
            server.close()
            gc.collect()
    if code or not report.ok or report.refused:
        raise RuntimeError(f"{point.told}: exit {code}, {report}")
    return figures_of(point, report, spent) | {"histogram": histogram(counts)}


def figures_of(point: Point, report: load.Report, spent: Used) -> dict[str, Any]:
    payments, latency = max(report.accepted, 1), report.latency
    return {
        "batch": point.batch,
        "connections": point.connections,
        "sessions": point.sessions,
        "rate": point.rate,
        "seconds": report.seconds,
        "payments": report.accepted,
        "payments_per_second": report.payments_per_second,
        "overdue": report.overdue,
        "p50_ns": latency.p50_ns,
        "p99_ns": latency.p99_ns,
        "p99_9_ns": latency.p99_9_ns,
        "max_ns": latency.max_ns,
        "server_cpu_us": max(0.0, spent.server) * 1e6 / payments,
        "client_cpu_us": max(0.0, spent.client) * 1e6 / payments,
        "disk_bytes": max(0, spent.disk) / payments,
    }


def options(point: Point, seconds: float, address: str, accounts: int) -> load.Options:
    """What the load generator is asked for."""
    most = PAYMENTS_EACH_MAX
    if point.rate is not None:
        most = max(1, int(point.rate * seconds))
    return load.Options(
        address=address,
        accounts=max(accounts, 2),
        transfers=most,
        duration_seconds=seconds if point.rate is None else 3 * seconds,
        batch=point.batch,
        sessions=point.sessions,
        connections=point.connections,
        rate=point.rate,
        seed=1,
    )


def histogram(counts: np.ndarray) -> list[tuple[int, int]]:
    """(latency in ns, payments) of the buckets that hold any."""
    return [(int(BUCKETS[at]), int(counts[at])) for at in np.flatnonzero(counts)]


def raise_descriptor_limit() -> None:
    """As many connections as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(CONNECTIONS) + limits.DESCRIPTORS_KEPT
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def measure(
    batches: tuple[int, ...], connections: tuple[int, ...], seconds: float, out: Path, disk: Path
) -> Path:
    """The whole curve; the file of its results."""
    raise_descriptor_limit()
    facts = environment(disk)
    closed, left_out = points(batches, connections)
    many = [one for one in connections if one >= OPEN_CONNECTIONS] or [max(connections)]
    open_point = Point(1, min(OPEN_CONNECTIONS, *many), OPEN_SESSIONS)
    runs = len(closed) + 1 + len(OPEN_SHARES)
    around = sum(one.connections * CONNECTION_SECONDS for one in closed)
    steps = Steps("the curve", runs, runs * (seconds + SECONDS_AROUND) + around)
    for told in left_out:
        click.echo(f"left out: {told}", err=True)
    found = []
    for point in (*closed, open_point):
        steps.step(point.told)
        found.append(run(point, seconds, disk))
    closed_rate = found[-1]["payments_per_second"]
    opened = []
    for share in OPEN_SHARES:
        rate = float(max(1, round(closed_rate * share)))
        point = Point(1, open_point.connections, OPEN_SESSIONS, rate)
        steps.step(point.told)
        opened.append(run(point, seconds, disk) | {"share": share})
    figures = {
        "closed": found[:-1],
        "sessions": found[-1],
        "open": opened,
        "left_out": left_out,
        "accounts": ACCOUNTS,
        "seconds_each": seconds,
    }
    return steps.save(out, NAME, facts, figures)


@click.command()
@click.option("--seconds", default=3.0, show_default=True, help="Of each point.")
@click.option("--batch", "batches", multiple=True, type=int, default=BATCHES, show_default=True)
@click.option(
    "--connections", multiple=True, type=int, default=CONNECTIONS, show_default=True
)
@RESULTS_OPTION
@SCRATCH_OPTION
def main(
    seconds: float, batches: tuple[int, ...], connections: tuple[int, ...], out: Path, scratch: Path
) -> None:
    """Payments a second and latencies over batch size and connections."""
    measure(batches, connections, seconds, out, scratch)


if __name__ == "__main__":
    main()
