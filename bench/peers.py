"""Peers side by side on one machine, in alternating pairs: the ratio is what can be quoted.

TigerBeetle's own `benchmark` drives both its server and ours, each on a fresh file or book, with
its default settings. PostgreSQL runs one function call a payment, synchronously committed, from a
pool of connections; ours beside it gets the same single payments from our load generator. What is
not installed is told and left out. Absolute figures move from machine to machine and from hour to
hour; a ratio is of two runs that follow each other, and the order changes with each pair.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

from bench import curve
from bench.environment import RESULTS_OPTION, SCRATCH_OPTION, Steps, environment, scratch_folder
from bench.parts import disk_bytes
from chaos.control import ours as control
from chaos.control import postgres
from chaos.control.load import Payments, Pool, payments_count
from chaos.process import Server
from ledger.facts import limits

NAME = "peers"
BINARY = "tigerbeetle"
START_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 900.0
POLL_SECONDS = 0.02
ACCOUNTS = 10_000
POOL = 32
IDS_EACH_RUN = 10**12
BATCH_OPTIONS = ("--transfer-batch-count", "--transfer-batch-size")  # the newer name first
GUESS_PER_SECOND = 150_000  # only for the time that is told before


class Load(NamedTuple):
    """One line of the comparison: options of `benchmark`, and what this project wants of it."""

    name: str
    transfers: int
    batch: int
    options: tuple[str, ...]
    ratio_goal: float
    guide_per_second: int

    def arguments(self, batch_option: str, scale: float) -> list[str]:
        count = max(self.batch, round(self.transfers * scale))
        return [f"--transfer-count={count}", f"{batch_option}={self.batch}", *self.options]


FULL = limits.EVENTS_MAX
LOADS = (
    Load("8,189 a request, 1 client", 10_000_000, FULL, (), 4, 1_100_000),
    Load("8,189 a request, 4 clients", 10_000_000, FULL, ("--clients=4",), 6, 2_000_000),
    Load("8,189 a request, random ids", 4_000_000, FULL, ("--id-order=random",), 10, 1_000_000),
    Load(
        "8,189 a request, 1 M accounts", 4_000_000, FULL, ("--account-count=1000000",), 7, 900_000
    ),
    Load("100 a request, 10 clients", 1_000_000, 100, ("--clients=10",), 9, 550_000),
    Load("1 a request, 30 clients", 60_000, 1, ("--clients=30",), 10, 20_000),
    Load("8,189 a request, pending", 4_000_000, FULL, ("--transfer-pending",), 5, 1_000_000),
    Load(
        "8,189 a request, one hot account", 4_000_000, FULL,
        ("--account-count-hot=1", "--transfer-hot-percent=100"), 1, 1_045_000,
    ),
)  # fmt: skip


class Seen(NamedTuple):
    """What `benchmark` printed: its rate, and latencies of a batch in ms by percentile."""

    per_second: float
    latency_ms: dict[int, int]


def read(printed: str) -> Seen:
    """ValueError when it is not what `benchmark` prints."""
    rate = re.search(r"load accepted = ([\d_,]+) tx/s", printed)
    if rate is None:
        raise ValueError(f"no rate in what the benchmark printed: {printed[-500:]!r}")
    found = re.findall(r"batch latency p(\d+) += ([\d_,]+) ms", printed)
    number = str.maketrans("", "", "_,")
    latencies = {int(share): int(ms.translate(number)) for share, ms in found}
    return Seen(float(rate[1].translate(number)), latencies)


def batch_option(binary: str) -> str:
    """How this version calls the payments of a request."""
    found = subprocess.run(
        [binary, "benchmark", "--help"], capture_output=True, text=True, timeout=30
    )
    told = found.stdout + found.stderr
    return next((name for name in BATCH_OPTIONS if name in told), BATCH_OPTIONS[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tigerbeetle:
    """Its own server, single replica, default settings, on a fresh file."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.file = folder / "0_0.tigerbeetle"
        self.port = free_port()
        self.format = [
            binary, "format", "--cluster=0", "--replica=0", "--replica-count=1", str(self.file),
        ]  # fmt: skip
        self.command = [binary, "start", f"--addresses=127.0.0.1:{self.port}", str(self.file)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        subprocess.run(self.format, check=True, capture_output=True, timeout=RUN_SECONDS_MAX)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{shlex.join(self.command)} does not listen") from error
            threading.Event().wait(POLL_SECONDS)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(START_SECONDS_MAX)


def drive(binary: str, port: int | str, arguments: list[str]) -> Seen:
    """Its benchmark against whatever listens there."""
    command = [binary, "benchmark", f"--addresses={port}", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    if found.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {found.stderr[-500:]}")
    return read(found.stdout + found.stderr)


def theirs(binary: str, arguments: list[str], disk: Path) -> dict[str, Any]:
    with scratch_folder(disk) as folder:
        server = Tigerbeetle(binary, folder)
        try:
            server.start()
            before = disk_bytes(folder).allocated
            seen = drive(binary, server.port, arguments)
            used = disk_bytes(folder).allocated - before
        finally:
            server.close()
    return figures("TigerBeetle", seen, used)


def ours(binary: str, arguments: list[str], disk: Path) -> dict[str, Any]:
    with scratch_folder(disk) as folder:
        server = Server(folder / "book")
        try:
            server.start()
            before = disk_bytes(folder).allocated
            seen = drive(binary, server.address.rpartition(":")[2], arguments)
            if server.terminate():
                raise RuntimeError(f"the ledger's server failed: {server.log}")
            used = disk_bytes(folder).allocated - before
        finally:
            server.close()
    return figures("ledger", seen, used)


def figures(system: str, seen: Seen, disk_used: int) -> dict[str, Any]:
    return {
        "system": system,
        "payments_per_second": seen.per_second,
        "latency_ms": {str(share): ms for share, ms in seen.latency_ms.items()},
        "disk_bytes": disk_used,
    }


Run = Callable[[], dict[str, Any]]


def pairs_of(ours: Run, theirs: Run, pairs: int, step: Callable[[str], None]) -> dict[str, Any]:
    """Both in turn, the order changed with each pair; medians, and the ratio of each pair."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(pairs):
        for name in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            step(f"pair {number + 1}, {name}")
            found[name].append((ours if name == "ours" else theirs)())
    rates = {
        name: [float(one["payments_per_second"]) for one in runs] for name, runs in found.items()
    }
    ratios = [mine / its for mine, its in zip(rates["ours"], rates["theirs"], strict=True)]
    return {
        **found,
        "ours_median": median(rates["ours"]),
        "theirs_median": median(rates["theirs"]),
        "ratios": ratios,
        "ratio_median": median(ratios),
    }


def with_tigerbeetle(
    binary: str, loads: tuple[Load, ...], pairs: int, scale: float, disk: Path, steps: Steps
) -> dict[str, Any]:
    """Every load on both servers."""
    option = batch_option(binary)
    version = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=30)
    rows = []
    for load in loads:
        arguments = load.arguments(option, scale)
        row = pairs_of(
            lambda arguments=arguments: ours(binary, arguments, disk),  # type: ignore[misc]
            lambda arguments=arguments: theirs(binary, arguments, disk),  # type: ignore[misc]
            pairs,
            lambda what, load=load: steps.step(f"{load.name}, {what}"),  # type: ignore[misc]
        )
        command = shlex.join([BINARY, "benchmark", "--addresses=PORT", *arguments])
        goals = {"ratio_goal": load.ratio_goal, "guide_per_second": load.guide_per_second}
        rows.append({"load": load.name, "command": command, **goals, **row})
    return {
        "version": (version.stdout or version.stderr).strip(),
        "server": f"{BINARY} start --addresses=PORT FILE, one replica, default settings",
        "rows": rows,
    }


def with_postgres(pairs: int, seconds: float, disk: Path, steps: Steps) -> dict[str, Any]:
    """Single payments: spread over the accounts, then every one to the same account."""
    binaries = postgres.find()
    assert binaries is not None, "asked for by missing()"
    rows, runs = [], iter(range(1, 1_000_000))
    with (
        scratch_folder(disk) as folder,
        postgres.Postgres(binaries, enterable(folder), 30.0, POOL) as server,
    ):
        server.open_books(ACCOUNTS)
        for name, share in (("uniform", 0.0), ("all to one account", 1.0)):

            def theirs(name: str = name, share: float = share) -> dict[str, Any]:
                server.settle()
                first = next(runs) * IDS_EACH_RUN
                payments = Payments(1, first, payments_count(0.0, seconds), ACCOUNTS, share)
                with Pool(server.conninfo, POOL) as pool:
                    arm = pool.run(name, payments, 0.0, seconds)
                rate = arm.done_per_second
                return {"payments_per_second": rate, "p50_ns": arm.p50_ns, "p99_ns": arm.p99_ns}

            def mine(name: str = name, share: float = share) -> dict[str, Any]:
                with scratch_folder(disk) as place:
                    found = control.pay(
                        place, name, seed=next(runs), rate=0.0, seconds=seconds,
                        accounts=ACCOUNTS, share=share,
                    )  # fmt: skip
                if found.broken:
                    raise RuntimeError(f"{name}: {found.broken}")
                arm = found.arm
                rate = arm.done_per_second
                return {"payments_per_second": rate, "p50_ns": arm.p50_ns, "p99_ns": arm.p99_ns}

            row = pairs_of(
                mine, theirs, pairs,
                lambda what, name=name: steps.step(f"{name}, {what}"),  # type: ignore[misc]
            )  # fmt: skip
            rows.append({"load": f"1 a request, {name}", **row})
        facts = server.facts()
    return {
        "settings": facts,
        "statement": postgres.STATEMENT,
        "client": f"libpq, one process, a pool of {POOL}, nothing pipelined",
        "our_client": f"{control.CONNECTIONS} connections of {control.SESSIONS} sessions",
        "rows": rows,
    }


def enterable(folder: Path) -> Path:
    """The folder, which the server's own user may pass through."""
    folder.chmod(0o711)
    return folder


def measure(
    pairs: int, seconds: float, scale: float, names: tuple[str, ...], out: Path, disk: Path
) -> Path:
    """All that are installed; the file of the results."""
    facts = environment(disk)
    binary, no_postgres = shutil.which(BINARY), postgres.missing()
    loads = tuple(load for load in LOADS if not names or load.name in names)
    count, expected = 0, 0.0
    if binary is not None:
        payments = sum(max(load.batch, load.transfers * scale) for load in loads)
        count += 2 * pairs * len(loads)
        expected += 2 * pairs * (payments / GUESS_PER_SECOND + 6 * len(loads))
    if no_postgres is None:
        count += 4 * pairs
        expected += 4 * pairs * (seconds + 3) + 5
    steps = Steps("peers", count, expected)
    found: dict[str, Any] = {"pairs": pairs, "missing": []}
    if binary is None:
        found["missing"].append(f"no {BINARY} on PATH")
    else:
        found["tigerbeetle"] = with_tigerbeetle(binary, loads, pairs, scale, disk, steps)
    if no_postgres is not None:
        found["missing"].append(no_postgres)
    else:
        found["postgresql"] = with_postgres(pairs, seconds, disk, steps)
    for told in found["missing"]:
        click.echo(f"not installed, left out: {told}", err=True)
    return steps.save(out, NAME, facts, found)


@click.command()
@click.option("--pairs", default=3, show_default=True, help="Of each load.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each run beside PostgreSQL.")
@click.option("--scale", default=1.0, show_default=True, help="Of the transfers of each load.")
@click.option(
    "--load", "names", multiple=True, type=click.Choice([load.name for load in LOADS]),
    help="Only these loads of TigerBeetle.",
)  # fmt: skip
@RESULTS_OPTION
@SCRATCH_OPTION
def main(
    pairs: int, seconds: float, scale: float, names: tuple[str, ...], out: Path, scratch: Path
) -> None:
    """The ledger, TigerBeetle and PostgreSQL in alternating pairs, as far as installed."""
    curve.raise_descriptor_limit()
    measure(pairs, seconds, scale, names, out, scratch)


if __name__ == "__main__":
    main()
