"""A ledger at work: payments over a socket, kill -9 in the middle, every payment accounted for.

A server is started on a fresh book under demo/, paid at for ten seconds, killed without warning and
started again while the payers wait; then every acknowledged payment is looked up, the server is
ended, and the book is verified offline. Ends with 0 only when nothing is wrong. It uses the
commands and the load generator as anybody would.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from ledger.load import run
from ledger.load.report import view

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "demo" / "book"
SECONDS = 10.0
KILL_AFTER = 0.4  # of the time
RATE = 100_000
READY_SECONDS_MAX = 60.0
LEDGER = [sys.executable, "-m", "ledger"]
LISTENING = "listening on "


class Server:
    """`ledger serve`, which can be killed and started again at the same address."""

    def __init__(self, book: Path) -> None:
        self._book = book
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin; whoever needs it to be ready waits for it."""
        command = [*LEDGER, "serve", str(self._book), "--address", self.address]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def wait_ready(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if LISTENING not in line:
            raise SystemExit(f"the server did not start (exit code {self._process.wait()})")
        self.address = line.split(LISTENING)[1].strip()

    def end(self, number: signal.Signals) -> int:
        """Send the signal and wait; the exit code, 0 when it never ran."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self._process.wait(READY_SECONDS_MAX)


class Show:
    """What is on the screen meanwhile, and the moment of the kill."""

    def __init__(self, server: Server, live: Live, kill_after_seconds: float) -> None:
        self._server = server
        self._live = live
        self._kill_after_seconds = kill_after_seconds
        self.killed_at_seconds = 0.0
        self.accepted_before = 0

    def step(self, progress: run.Progress) -> None:
        paying = progress.phase == "transfers" and progress.seconds >= self._kill_after_seconds
        if paying and not self.killed_at_seconds:
            self._server.end(signal.SIGKILL)
            self._server.start()
            self.killed_at_seconds = progress.seconds
            self.accepted_before = progress.accepted
        lines: list[Table | str] = [view(progress)]
        if self.killed_at_seconds:
            lines.append(
                f"[red]server killed with -9 after {self.killed_at_seconds:.1f} s and "
                f"{self.accepted_before:,} payments[/red], started again at once"
            )
        self._live.update(Group(*lines), refresh=True)


def pay(server: Server, console: Console, seconds: float) -> tuple[run.Report, Show]:
    options = run.Options(
        address=server.address,
        accounts=10_000,
        duration_seconds=seconds,
        rate=RATE,
        batch=100,
        sessions=8,
        connections=4,
        pending_share=0.1,
        resolved_share=0.8,
        hold_seconds=3600,
        check=True,
    )
    with Live(console=console, auto_refresh=False, transient=True) as live:
        show = Show(server, live, seconds * KILL_AFTER)
        return run.run(options, show.step), show


def verify(book: Path) -> dict[str, Any]:
    command = [*LEDGER, "verify", str(book), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def summary(report: run.Report, facts: dict[str, Any], book: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    lost = report.accepted - report.found
    p50, p99 = report.latency.p50_ns / 1e6, report.latency.p99_ns / 1e6
    balanced = all(
        one["debits_posted"] == one["credits_posted"]
        and one["debits_pending"] == one["credits_pending"]
        for one in facts["ledgers"]
    )
    disk_bytes = (book / "journal" / "data.mdb").stat().st_blocks * 512
    transfers = facts["records"].get("transfer", 0)
    for row in (
        ("payments accepted", f"{report.accepted:,} in {report.seconds:.1f} s"),
        ("payments a second", f"{report.payments_per_second:,.0f}, the restart included"),
        ("latency p50 / p99", f"{p50:,.1f} / {p99:,.1f} ms from when a payment was due"),
        ("pause at the restart", f"{report.longest_pause_seconds:.2f} s without a reply"),
        ("looked up, as it was sent", f"{report.found:,}; lost: {lost:,}"),
        ("unanswered, evicted", f"{report.unanswered:,}, {sum(report.evictions.values()):,}"),
        ("debits = credits", "yes, posted and pending" if balanced else "NO"),
        ("ledger verify", _verdict(facts)),
        ("disk", f"{disk_bytes / max(transfers, 1):.0f} bytes a payment"),
    ):
        table.add_row(*row)
    return table


def _verdict(facts: dict[str, Any]) -> str:
    if facts["clean"]:
        return f"clean, {int(facts['position']):,} records in {facts['seconds']:.1f} s"
    return f"FAULT: {facts['fault'] or facts['stamp_fault']}"


def main(book: Path = BOOK, seconds: float = SECONDS) -> int:
    """The demonstration on a fresh book for so long; 0 when all is well, else 1."""
    console = Console(highlight=False)
    shutil.rmtree(book, ignore_errors=True)
    book.parent.mkdir(exist_ok=True)
    server = Server(book)
    try:
        server.start()
        server.wait_ready()
        console.print(
            f"paying at {server.address}: {RATE:,} payments a second for {seconds:.0f} s, "
            f"kill -9 after {seconds * KILL_AFTER:.0f} s"
        )
        report, show = pay(server, console, seconds)
    finally:
        code = server.end(signal.SIGTERM)
    console.print(f"paid and checked; server ended with {code}; verifying the book ...")
    facts = verify(book)
    console.print(summary(report, facts, book))
    well = report.ok and report.found == report.accepted and facts["clean"] and code == 0
    console.print("all is well" if well and show.killed_at_seconds else "SOMETHING IS WRONG")
    return 0 if well and show.killed_at_seconds else 1


if __name__ == "__main__":
    sys.exit(main())
