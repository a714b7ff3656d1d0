"""A long history: what the rate, memory, disk, restarts and reads of one book come to as it grows.

A real `ledger serve` is paid by the load generator until the book holds what was asked for; figures
of each slice of that come first. Then, beside payments at half the rate that was measured: payments
of the beginning sent again, statements, queries and look-ups; then restarts, warm and cold, after a
good end and after a kill; then `ledger verify`. Every figure that has a goal is told beside it.
What is asked is in scale_asks.py, what the book is in scale_book.py, payers in payer.py.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np

from bench import payer, scale_asks
from bench.curve import available_bytes
from bench.environment import RESULTS_OPTION, ROOT, SCRATCH, Steps, environment, scratch_folder
from bench.scale_book import Book, restart_killed, restart_stopped, rss_anon_bytes
from bench.scale_goals import goals
from ledger.facts import limits
from ledger.load import run as load
from ledger.load.report import ID_ORDERS

NAME = "scale"
SLICES = 100
RESTARTS = {"warm": 3, "cold": 1}  # of each kind
WORST_ROUNDS = 4  # of questions that read all
ALONE_SECONDS_MAX = 5.0
VERIFY_POLL_SECONDS = 0.2
MEMORY_SHARE_MAX = 0.9  # of what is there, that verify may have
ASKED = ("duplicates", "statements", "queries", "worst queries", "look-ups")
PHASES = (*ASKED, "restarts", "verify")
SEED = 1

# For what is told before: guesses, on the high side.
JOURNAL_BYTES, DERIVED_BYTES = 135, 62  # a payment
ACCOUNT_BYTES = 135 + 2 * 165  # in the journal, and in two checkpoints
GUESS_PER_SECOND, ACCOUNTS_PER_SECOND, VERIFIED_PER_SECOND = 700_000, 200_000, 1_500_000
HALF_PER_SECOND_MAX = 1_000_000
AROUND_SECONDS, RESTART_SECONDS = 4.0, 8.0


class Asked(NamedTuple):
    """What is measured."""

    transfers: int
    accounts: int
    id_order: Literal["ordered", "random"] = "random"
    hot_share: float = 0.5
    connections: int = 4
    batch: int = limits.EVENTS_MAX
    rounds: int = 100  # of each question
    seconds: float = 15.0  # of each kind of questions, at most
    phases: tuple[str, ...] = PHASES

    @property
    def population(self) -> load.Options:
        return load.Options(
            accounts=self.accounts, transfers=self.transfers, batch=self.batch, sessions=1,
            connections=self.connections, distribution="hot", hot_share=self.hot_share,
            id_order=self.id_order, seed=SEED,
        )  # fmt: skip


class Needs(NamedTuple):
    seconds: float
    disk_bytes: int


def needs(asked: Asked) -> Needs:
    """What it will take, at most."""
    transfers, accounts = asked.transfers, asked.accounts
    beside = sum(phase in asked.phases for phase in ASKED)
    restarts = 2 * sum(RESTARTS.values()) if "restarts" in asked.phases else 0
    paid_beside = (beside + 1) * asked.seconds + restarts / 2 * RESTART_SECONDS
    # A merge has what it merges and what it makes on the disk at the same time.
    each = JOURNAL_BYTES + 2 * DERIVED_BYTES
    disk = each * (transfers + paid_beside * HALF_PER_SECOND_MAX) + accounts * ACCOUNT_BYTES
    opening = accounts / ACCOUNTS_PER_SECOND
    seconds = transfers / GUESS_PER_SECOND + opening
    seconds += (beside + 1) * (asked.seconds + AROUND_SECONDS + opening)
    seconds += restarts * (RESTART_SECONDS + opening / 2)
    if "verify" in asked.phases:
        paid = transfers + paid_beside * HALF_PER_SECOND_MAX / 2
        seconds += paid / VERIFIED_PER_SECOND
    return Needs(seconds, round(disk))


def check_room(folder: Path, disk_bytes: int) -> None:
    """Say what it will take of the disk; click.ClickException when there is not so much."""
    free = shutil.disk_usage(folder).free
    told = f"{disk_bytes / 1e9:,.1f} GB of disk at most, {free / 1e9:,.1f} GB are free"
    if disk_bytes > free:
        raise click.ClickException(f"{told}: too little")
    click.echo(told, err=True)


@contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, on a terminal only: tell(done)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


# ---- phases -------------------------------------------------------------------------------------


class Measurement:
    """One book from its first payment to its verification; `figures` grows phase by phase."""

    def __init__(self, asked: Asked, book: Book, steps: Steps) -> None:
        self.asked, self.book, self.steps = asked, book, steps
        self.random = np.random.default_rng(SEED)
        self.rate = 0.0  # of the payers beside, payments/s
        self.figures: dict[str, Any] = {
            "transfers": asked.transfers,
            "accounts": asked.accounts,
            "hot_share": asked.hot_share,
            "id_order": asked.id_order,
            "seconds_each": asked.seconds,
            "asks": [],
            "payers": [],
            "restarts": [],
        }

    def run(self) -> None:
        asked = self.asked
        self.grow()
        if any(phase in asked.phases for phase in ASKED):
            self.payers_alone()
        for phase in ASKED:
            if phase in asked.phases:
                self.ask(phase)
        if "restarts" in asked.phases:
            self.restart()
        self.book.stop()
        if "verify" in asked.phases:
            self.steps.step("ledger verify")
            self.figures["verify"] = verify(self.book.directory)

    def grow(self) -> None:
        asked, book = self.asked, self.book
        told = f"{asked.transfers:,} payments between {asked.accounts:,} accounts"
        self.steps.step(told)
        book.start()
        opened_per_second = book.open_accounts()
        with bar(told, asked.transfers) as tell:
            report, slices = book.grow(max(1, asked.transfers // SLICES), tell)
        self.rate = report.payments_per_second / 2
        stop_seconds = book.stop()
        at_rest = {**book.disk(), "columns": book.columns()}
        book.start()
        self.figures["slices"] = slices
        self.figures["growth"] = {
            "payments": report.accepted,
            "seconds": report.seconds,
            "payments_per_second": report.payments_per_second,
            "p50_ns": report.latency.p50_ns,
            "p99_ns": report.latency.p99_ns,
            "p99_9_ns": report.latency.p99_9_ns,
            "max_ns": report.latency.max_ns,
            "accounts_per_second": opened_per_second,
            "stop_seconds": stop_seconds,
            **at_rest,
        }

    def payers_alone(self) -> None:
        self.steps.step(f"payments alone, {self.rate:,.0f} a second")
        with self.book.payers(self.rate) as payers:
            threading.Event().wait(min(self.asked.seconds, ALONE_SECONDS_MAX))
        self.figures["payers"].append(payer.figures("nothing", payers.report))

    def ask(self, phase: str) -> None:
        """The questions of a phase, beside payments at half the rate that was measured."""
        self.steps.step(phase)
        asks = scale_asks.KINDS[phase](self.book, self.random)
        rounds = WORST_ROUNDS if phase == "worst queries" else self.asked.rounds
        with self.book.payers(self.rate) as payers, bar(phase, rounds) as tell:
            found = scale_asks.sample(self.book, asks, rounds, self.asked.seconds, tell)
        self.figures["asks"] += [{"phase": phase, **one} for one in found]
        self.figures["payers"].append(payer.figures(phase, payers.report))

    def restart(self) -> None:
        for cache, times in RESTARTS.items():
            self.steps.step(f"{times} restarts after a good end, {cache}")
            found = [restart_stopped(self.book, cache == "cold") for _ in range(times)]
            self.figures["restarts"].append({"after": "a good end", "cache": cache, "runs": found})
        for cache, times in RESTARTS.items():
            self.steps.step(f"{times} restarts after a kill, {cache}")
            found = []
            for _ in range(times):
                one, report = restart_killed(self.book, cache == "cold", self.rate)
                found.append(one)
                self.figures["payers"].append(payer.figures(f"a kill, {cache}", report))
            self.figures["restarts"].append({"after": "a kill", "cache": cache, "runs": found})


def verify(directory: Path) -> dict[str, Any]:
    """`ledger verify`: how fast, and how much memory of its own it took at most.

    It may not take what the machine does not have: what it says then is the figure.
    """
    most = int(available_bytes() * MEMORY_SHARE_MAX)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", "verify", str(directory), "--json"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)),
        )  # fmt: skip
        memory = 0
        while process.poll() is None:
            memory = max(memory, *map(_memory_of, _family(process.pid)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(VERIFY_POLL_SECONDS)
        said.seek(0)
        text = said.read()
    found: dict[str, Any] = {"exit": process.returncode, "rss_anon_bytes": memory}
    if process.returncode:
        return found | {"said": text[-500:]}
    report = json.loads(text)
    transfers = report["records"]["transfer"]
    seconds = report["seconds"]
    rate = transfers / seconds
    return found | {"transfers": transfers, "seconds": seconds, "transfers_per_second": rate}


def _family(pid: int) -> list[int]:
    """A process and its children, as far as the system tells."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with suppress(OSError):
        return [pid, *map(int, children.read_text().split())]
    return [pid]


def _memory_of(pid: int) -> int:
    with suppress(OSError, RuntimeError):  # it has ended
        return rss_anon_bytes(pid)
    return 0


# ---- the command --------------------------------------------------------------------------------


def measure(
    asked: Asked, folder: Path, out: Path, env: Mapping[str, str] | None = None, keep: bool = False
) -> Path:
    """All phases that were asked for; the file of the results, which is kept when one fails, too.

    env: what the server's process has beside this one's; keep: leave the book in `folder`.
    """
    facts = environment(folder)
    seconds, disk = needs(asked)
    count = 1 + sum(phase in asked.phases for phase in (*ASKED, "verify"))
    count += any(phase in asked.phases for phase in ASKED)
    count += 2 * len(RESTARTS) * ("restarts" in asked.phases)
    steps = Steps(NAME, count, seconds)
    check_room(folder, disk)
    with scratch_folder(folder, keep) as place:
        book = Book(place, asked.population, env)
        measurement = Measurement(asked, book, steps)
        figures = measurement.figures
        try:
            measurement.run()
        except Exception as error:
            figures["stopped"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            book.close()
            if "growth" in figures:
                figures["goals"] = goals(figures)
                path = steps.save(out, NAME, facts, figures, file_of(asked.accounts))
    for one in figures["goals"]:
        click.echo(f"{one['figure']}: {one['told']}{'' if one['met'] else ', MISSED'}")
    return path


def file_of(accounts: int) -> str:
    """The results of many accounts do not replace those of few."""
    return NAME if accounts < 1_000_000 else f"{NAME}-accounts"


@click.command()
@click.option("--transfers", default=100_000_000, show_default=True, help="Payments in all.")
@click.option("--accounts", default=10_000, show_default=True, help="Accounts to pay between.")
@click.option("--id-order", type=click.Choice(ID_ORDERS), default="random", show_default=True)
@click.option("--hot-share", default=0.5, show_default=True, help="Of payments, to one account.")
@click.option("--connections", default=4, show_default=True, help="Each with one request.")
@click.option("--rounds", default=100, show_default=True, help="Of each question.")
@click.option("--seconds", default=15.0, show_default=True, help="Of each kind of questions.")
@click.option(
    "--phase", "phases", multiple=True, type=click.Choice(PHASES), default=PHASES,
    show_default="all", help="Only these, after the payments.",
)  # fmt: skip
@click.option(
    "--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SCRATCH if SCRATCH.is_dir() else Path(tempfile.gettempdir()),
    show_default="/var/tmp", help="The disk that is measured.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the book there.")
@RESULTS_OPTION
def main(
    transfers: int, accounts: int, id_order: Any, hot_share: float, connections: int, rounds: int,
    seconds: float, phases: tuple[str, ...], folder: Path, keep: bool, out: Path,
) -> None:  # fmt: skip
    """Rate, memory, disk, reads and restarts of one book as it grows."""
    asked = Asked(
        transfers, accounts, id_order, hot_share, connections, rounds=rounds, seconds=seconds,
        phases=phases,
    )  # fmt: skip
    measure(asked, folder, out, keep=keep)


if __name__ == "__main__":
    main()
