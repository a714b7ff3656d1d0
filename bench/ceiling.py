"""Ceilings: each part of the way beside the raw machine in the same run, as a share of its limit.

The raw machine is what no ledger can do without: a loop of plain C for judging and looking up, the
check and the hash alone over the same bytes, LMDB alone making the same bytes durable, a socket
with frames of the same size. Ours and the limit run in turn, and medians are compared. The whole
path is held against the lowest of the limits that stand in its way, and against what two cores have
to give to the sum of them. The same run makes the budget: microseconds of one core a payment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import lmdb
import numpy as np

from bench import curve, loopback, reference, workload
from bench.environment import RESULTS_OPTION, SCRATCH_OPTION, Steps, environment, scratch_folder
from bench.parts import (
    FULL,
    HUNDREDS,
    SINGLES,
    Appends,
    ClientReads,
    ClientWrites,
    Desk,
    Digests,
    Judges,
    Part,
    ServerReads,
    ServerWrites,
    Shape,
    body_of,
)  # fmt: skip
from ledger.facts import limits as config
from ledger.facts import schema
from ledger.journal import _check

NAME = "ceiling"
MAP_BYTES = 1 << 36
KIB = 1024
APPEND_KIB = (4, 16, 64, 256, 1_024)
SHAPES: dict[str, tuple[Shape, curve.Point]] = {
    "8,189 a request": (FULL, curve.Point(config.EVENTS_MAX, 4)),
    "100 a request": (HUNDREDS, curve.Point(100, 10)),
    "1 a request": (SINGLES, curve.Point(1, 50, 20)),
}
SECONDS_EACH = 4.0  # of one shape, without the whole path


class Checks(Part):
    """The limit of the codec: the check alone, in one pass over the bytes of the frames."""

    def __init__(self, count: int) -> None:
        self.buffer = np.random.default_rng(1).bytes(count)
        self.bytes = count

    def run(self) -> None:
        _check.aegis(self.buffer)


class Hashes(Part):
    """The limit of the digest."""

    def __init__(self, count: int) -> None:
        self.buffer = np.random.default_rng(1).bytes(count)
        self.bytes = count

    def run(self) -> None:
        hashlib.sha256(self.buffer).digest()


class Copies(Part):
    """One pass of memory over as many bytes: what nothing that reads them can be faster than."""

    def __init__(self, count: int) -> None:
        self.source = np.random.default_rng(1).integers(0, 256, count, np.uint8)
        self.to = np.zeros_like(self.source)
        self.bytes = count

    def run(self) -> None:
        reference.copy(self.to, self.source)


class Puts(Part):
    """The limit of an append: LMDB alone, one value of the same bytes, one durable commit."""

    def __init__(self, folder: Path, count: int) -> None:
        self.value = np.random.default_rng(1).bytes(count)
        self.bytes = count
        self.number = 0
        self.env = lmdb.open(str(folder), map_size=MAP_BYTES, sync=True, metasync=True)

    def run(self) -> None:
        self.number += 1
        with self.env.begin(write=True) as transaction:
            transaction.put(self.number.to_bytes(8, "big"), self.value, append=True)

    def close(self) -> None:
        self.env.close()


class Applies(Part):
    """The limit of judging: ids, accounts, balances, records, and no rule."""

    def __init__(self, payments: int, rounds_max: int) -> None:
        self.payments, self.rounds = payments, 0
        self.book = reference.Reference(workload.ACCOUNTS, payments * rounds_max)

    def prepare(self) -> None:
        self.rounds += 1
        self.rows = workload.transfers(self.rounds, self.payments)

    def run(self) -> None:
        assert self.book.apply(self.rows) == self.payments

    def close(self) -> None:
        self.book.close()


class LooksUp(Part):
    """Transfers by id, of a history of `transfers`, in full requests."""

    def __init__(self, transfers: int) -> None:
        self.desk = Desk(FULL)
        self.rounds = max(1, transfers // FULL.payments)
        judges = Judges(self.desk)
        for _ in range(self.rounds):
            judges.wall_ns()
        self.random = np.random.default_rng(2)
        self.ids = np.zeros(FULL.payments, schema.ID)

    def prepare(self) -> None:
        self.ids["id"][:, 0] = self.random.integers(0, FULL.payments, FULL.payments)
        self.ids["id"][:, 1] = 1 + self.random.integers(1, self.rounds + 1, FULL.payments)
        self.arrivals = np.zeros(1, schema.ARRIVAL)
        self.arrivals["operation"] = schema.Operation.LOOKUP_TRANSFERS
        self.arrivals["verdict"] = schema.Verdict.REPLY
        self.arrivals["event_count"], self.arrivals["batch_count"] = len(self.ids), 1
        self.buffer = self.ids.tobytes()

    def run(self) -> None:
        self.desk.execute(self.buffer, self.arrivals)
        assert self.desk.buffers.records[0]["payload_bytes"] == FULL.payments * 128


class Finds(LooksUp):
    """The same ids, in the reference's book of the same transfers."""

    def __init__(self, transfers: int) -> None:
        self.rounds = max(1, transfers // FULL.payments)
        self.book = reference.Reference(workload.ACCOUNTS, self.rounds * FULL.payments)
        for number in range(1, self.rounds + 1):
            self.book.apply(workload.transfers(number))
        self.random = np.random.default_rng(2)
        self.ids = np.zeros(FULL.payments, schema.ID)
        self.found = np.zeros(FULL.payments, schema.TRANSFER)

    def run(self) -> None:
        assert self.book.find(self.ids, self.found) == FULL.payments

    def close(self) -> None:
        self.book.close()


def pair(ours: Part, limit: Part, rounds: int, ns: Callable[[Part], int]) -> tuple[float, float]:
    """The medians of both, in turn; in ns a round."""
    found: tuple[list[int], list[int]] = ([], [])
    try:
        for one in (ours, limit):
            ns(one)
        for _ in range(rounds):
            found[0].append(ns(ours))
            found[1].append(ns(limit))
    finally:
        ours.close()
        limit.close()
    return median(found[0]), median(found[1])


def row(
    name: str, limit: str, ours: Part, raw: Part, payments: int, rounds: int, cpu: bool = True
) -> dict[str, Any]:
    """One part beside its limit."""
    ns = pair(ours, raw, rounds, Part.thread_ns if cpu else Part.wall_ns)
    return {
        "part": name,
        "limit": limit,
        "ns": ns[0] / payments,
        "limit_ns": ns[1] / payments,
        "share": ns[1] / ns[0],
    }


def parts_of(shape: Shape, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Every part of one shape beside its limit."""
    count, found = shape.payments, []
    for name, kind in (
        ("client writes requests", ClientWrites),
        ("server checks requests", ServerReads),
        ("server writes replies", ServerWrites),
        ("client checks replies", ClientReads),
    ):
        ours = kind(Desk(shape))
        raw = Checks(ours.bytes)
        found.append(row(name, "the check alone", ours, raw, count, rounds))
    applies = Applies(count, rounds + 1)
    found.append(row("judges", "plain C", Judges(Desk(shape)), applies, count, rounds))
    body = body_of(Desk(shape))
    size = len(body)
    found.append(row("digest", "SHA-256 alone", Digests(body), Hashes(size), count, rounds))
    for name, cpu in (("append, processor", True), ("append, until durable", False)):
        place = made(folder / str(len(found)))
        log, bare = Appends(place / "ours", body), Puts(made(place / "raw"), size)
        found.append(row(name, "LMDB alone", log, bare, count, rounds, cpu))
    return found


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def transport(shape: Shape, point: curve.Point, requests: int) -> dict[str, float]:
    """The socket alone with the frames of this shape; figures a payment."""
    header = config.MESSAGE_HEADER_BYTES
    trailer = 16 if shape.events > 1 else 0
    found = loopback.measure(
        header + shape.events * schema.TRANSFER.itemsize,
        header + shape.events * schema.CREATE_RESULT.itemsize + trailer,
        connections=point.connections, under_way=point.sessions, requests=requests,
    )  # fmt: skip
    payments = found.requests * shape.events
    return {
        "payments_per_second": payments / found.seconds,
        "server_us": found.server_cpu_seconds * 1e6 / payments,
        "client_us": found.client_cpu_seconds * 1e6 / payments,
    }


def summed(parts: list[dict[str, Any]], raw: dict[str, float], key: str) -> dict[str, float]:
    """The budget: microseconds of one core a payment, by part of the way."""
    ns = {one["part"]: one[key] for one in parts}
    return {
        "transport": raw["server_us"],
        "checks": (ns["server checks requests"] + ns["server writes replies"]) / 1000,
        "judging": ns["judges"] / 1000,
        "digest": ns["digest"] / 1000,
        "append": ns["append, processor"] / 1000,
        "client": raw["client_us"]
        + (ns["client writes requests"] + ns["client checks replies"]) / 1000,
    }


def bounds(parts: list[dict[str, Any]], raw: dict[str, float], cores: int) -> dict[str, float]:
    """The most payments a second that each limit leaves to the whole path."""
    ns = {one["part"]: one["limit_ns"] for one in parts}
    budget = summed(parts, raw, "limit_ns")
    return {
        "the socket alone": raw["payments_per_second"],
        "LMDB alone, one append after the other": 1e9 / ns["append, until durable"],
        "judging in plain C, one core": 1e9 / ns["judges"],
        "the digest, one core": 1e9 / ns["digest"],
        f"{cores} cores for all of it, client included": cores * 1e6 / sum(budget.values()),
    }


def shape_of(name: str, seconds: float, disk: Path, rounds: int) -> dict[str, Any]:
    """All figures of one shape."""
    shape, point = SHAPES[name]
    with scratch_folder(disk) as folder:
        parts = parts_of(shape, folder, rounds)
    # Enough for processor time that the kernel counts in hundredths of a second.
    requests = max(point.connections * point.sessions, rounds * 50, rounds * 4_000 // shape.events)
    raw = transport(shape, point, requests)
    whole = curve.run(point, seconds, disk)
    limits = bounds(parts, raw, os.cpu_count() or 1)
    lowest = min(limits, key=lambda one: limits[one])
    budget = summed(parts, raw, "ns")
    return {
        "shape": name,
        "client": point.told,
        "parts": parts,
        "transport": raw,
        "whole": {key: whole[key] for key in whole if key != "histogram"},
        "limits": limits,
        "bound": lowest,
        "share": whole["payments_per_second"] / limits[lowest],
        "budget": budget,
        "server_us": whole["server_cpu_us"],
        "client_us": whole["client_cpu_us"],
    }


def by_size(disk: Path, rounds: int) -> list[dict[str, Any]]:
    """The journal beside LMDB alone, by the size of a group."""
    found = []
    for kib in APPEND_KIB:
        body = np.random.default_rng(kib).bytes(kib * KIB)
        with scratch_folder(disk) as folder:
            ours, raw = Appends(folder / "ours", body), Puts(made(folder / "raw"), len(body))
            one = row("append", "LMDB alone", ours, raw, 1, rounds, cpu=False)
        found.append(one | {"kib": kib})
    return found


def measure(seconds: float, rounds: int, lookups: tuple[int, ...], out: Path, disk: Path) -> Path:
    """All shapes; the file of the results."""
    facts = environment(disk)
    expected = len(SHAPES) * (seconds + SECONDS_EACH * rounds / 30) + 4 + 4 * len(lookups)
    steps = Steps("the ceilings", len(SHAPES) + 2 + len(lookups), expected)
    shapes = []
    for name in SHAPES:
        steps.step(f"{name}: each part, the socket, the whole path")
        shapes.append(shape_of(name, seconds, disk, rounds))
    steps.step("append by size")
    sizes = by_size(disk, rounds)
    found = []
    for transfers in lookups:
        steps.step(f"look-ups in a history of {transfers:,}")
        ours, raw = LooksUp(transfers), Finds(transfers)
        one = row("look-up by id", "plain C", ours, raw, FULL.payments, rounds)
        found.append(one | {"transfers": transfers})
    steps.step("one pass of memory")
    copies = Copies(FULL.payments * schema.TRANSFER.itemsize)
    nothing = Checks(copies.bytes)
    copy = row("the check", "memory copy", nothing, copies, FULL.payments, rounds)
    figures = {"shapes": shapes, "append": sizes, "lookups": found, "copy": copy}
    return steps.save(out, NAME, facts, figures)


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="Of each run of the whole path.")
@click.option("--rounds", default=30, show_default=True, help="Of each part and its limit.")
@click.option(
    "--history", "lookups", multiple=True, type=int, default=(10_000, 1_000_000), show_default=True
)
@RESULTS_OPTION
@SCRATCH_OPTION
def main(seconds: float, rounds: int, lookups: tuple[int, ...], out: Path, scratch: Path) -> None:
    """Each part of the way as a share of what the raw machine does in the same run."""
    measure(seconds, rounds, lookups, out, scratch)


if __name__ == "__main__":
    main()
