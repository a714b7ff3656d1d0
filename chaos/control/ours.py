"""The ledger's arm: a real `ledger serve` on a fresh book, single payments, the book verified.

The load generator gives no payment up: all that came due are sent, however late, and its time-outs
are those answered after the deadline. It knows neither the other system nor the scenario.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from chaos.control.arm import DEADLINE_SECONDS, Arm
from chaos.process import Server
from ledger.audit.verify import verify
from ledger.load import report as load_report
from ledger.load import run

SESSIONS, CONNECTIONS = 20, 50  # each session has one payment under way
NS = 1_000_000_000
SENDING_SECONDS_MAX = 30.0  # beyond the time in which payments come due


class Ours(msgspec.Struct, kw_only=True):
    """An arm and what is wrong with it: (invariant, what was seen)."""

    arm: Arm
    broken: list[tuple[str, str]] = []
    verified: int = 0  # records that `verify` read


def pay(
    scratch: Path, name: str, *, seed: int, rate: float, seconds: float, accounts: int, share: float
) -> Ours:
    """Payments on a book in `scratch`, which is gone afterwards; `rate` 0 is a closed loop."""
    book = scratch / "book"
    limit = seconds + SENDING_SECONDS_MAX if rate else seconds
    server = Server(book)
    try:
        server.start()
        report = run.run(
            run.Options(
                address=server.address,
                accounts=accounts,
                transfers=max(1, int(rate * seconds)) if rate else None,
                duration_seconds=limit,
                batch=1,
                sessions=SESSIONS,
                connections=CONNECTIONS,
                rate=rate or None,
                distribution="hot",
                hot_share=share,
                seed=seed,
                check=True,
            )
        )
        code = server.terminate()
        facts = verify(book)
    finally:
        server.close()
        shutil.rmtree(book, ignore_errors=True)
    ours = Ours(arm=_arm(name, report, seconds), verified=facts.position)
    if code:
        ours.broken.append(("live", f"the server ended with {code}"))
    if not report.ok or report.refused:
        seen = {"faults": report.faults, "refused": report.refused, "stopped": report.stopped}
        ours.broken.append(("durable", f"{report.unanswered} unanswered, {seen}"))
    if report.found != report.accepted:
        ours.broken.append(("durable", f"{report.accepted - report.found} accepted, not found"))
    if not facts.clean:
        ours.broken.append(("conserved", str(facts.fault or facts.stamp_fault)))
    return ours


def _arm(name: str, report: run.Report, seconds: float) -> Arm:
    options = report.options
    return Arm(
        system="ledger",
        name=name,
        rate=options.rate or 0.0,
        seconds=seconds,
        offered=report.sent + report.overdue,
        done=report.accepted,
        late=_late_max(report.latency),
        given_up=report.overdue,
        lost=report.unanswered,
        p50_ns=report.latency.p50_ns,
        p99_ns=report.latency.p99_ns,
        max_ns=report.latency.max_ns,
        elapsed_seconds=report.seconds,
    )


def _late_max(latency: load_report.Latency) -> int:
    """How many were done after the deadline, at most: percentiles tell no more."""
    deadline_ns = DEADLINE_SECONDS * NS
    shares = ((latency.p50_ns, 1.0), (latency.p99_ns, 0.5), (latency.p99_9_ns, 0.01),
              (latency.p99_99_ns, 0.001), (latency.max_ns, 0.0001))  # fmt: skip
    late = [share for value, share in shares if value > deadline_ns]
    return -int(-latency.payments * late[0] // 1) if late else 0
