"""What this project wants of a long history, and what was found beside it.

A goal is told and judged here only; the run goes on whatever is missed. It reads figures and
measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MANY_ACCOUNTS = 1_000_000  # from which on other goals hold
GIB = 1 << 30
TENTHS = 10


class Wanted(NamedTuple):
    """Goals of books with few accounts, and of books with many; None where there is none."""

    rate_kept_min: float | None = 0.8
    p99_9_ms_max: float | None = 100
    worst_ms_max: float | None = 250
    memory_gib_max: float | None = 4
    disk_bytes_max: float | None = 200
    sent_again_ms_max: float | None = 100
    restart_seconds_max: float | None = 5
    statement_ms_max: float | None = 50
    query_ms_max: float | None = 100
    lookup_ms_max: float | None = None


FEW = Wanted()
MANY = Wanted(
    rate_kept_min=None, p99_9_ms_max=None, worst_ms_max=None, memory_gib_max=3,
    disk_bytes_max=None, sent_again_ms_max=None, restart_seconds_max=15, statement_ms_max=None,
    query_ms_max=None, lookup_ms_max=20,
)  # fmt: skip


def goals(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that people ask for: its name, what was found, the goal (or None), and `met`."""
    wanted = FEW if figures["accounts"] < MANY_ACCOUNTS else MANY
    return [
        *_of_growth(figures, wanted),
        *_of_asks(figures, wanted),
        *_of_restarts(figures, wanted),
        *_of_verify(figures),
    ]


def _row(
    figure: str, found: float, unit: str, most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    goal = None
    if most is not None:
        goal = f"≤ {most:g} {unit}".rstrip()
    elif least is not None:
        goal = f"≥ {least:g} {unit}".rstrip()
    met = (most is None or found <= most) and (least is None or found >= least)
    told = f"{found:,.2f} {unit}" if abs(found) < 100 else f"{found:,.0f} {unit}"
    return {"figure": figure, "found": found, "told": told.rstrip(), "goal": goal, "met": met}


def _of_growth(figures: dict[str, Any], wanted: Wanted) -> Iterator[dict[str, Any]]:
    growth, slices = figures["growth"], figures["slices"]
    payments = growth["payments"]
    yield _row("accounts opened", growth["accounts_per_second"], "accounts/s")
    yield _row("rate over all", growth["payments_per_second"], "payments/s")
    yield _row("rate of the last tenth to the first", rate_kept(slices), "",
               least=wanted.rate_kept_min)  # fmt: skip
    yield _row("request, p99.9", growth["p99_9_ns"] / 1e6, "ms", wanted.p99_9_ms_max)
    yield _row("request, the worst", growth["max_ns"] / 1e6, "ms", wanted.worst_ms_max)
    yield _row("end of the server after them", growth["stop_seconds"], "s")
    memory = max(one["rss_anon_bytes"] for one in slices) / GIB
    yield _row("memory of the server's own, the most", memory, "GiB", wanted.memory_gib_max)
    journal, derived = growth["journal_bytes"] / payments, growth["derived_bytes"] / payments
    yield _row("disk a payment: journal", journal, "bytes")
    yield _row("disk a payment: derived", derived, "bytes")
    yield _row("disk a payment", journal + derived, "bytes", wanted.disk_bytes_max)


def rate_kept(slices: list[dict[str, Any]]) -> float:
    """The rate of the last tenth of the slices as a share of that of the first."""
    tenth = max(1, len(slices) // TENTHS)
    first, last = (
        sum(one["payments"] for one in some) / sum(one["seconds"] for one in some)
        for some in (slices[:tenth], slices[-tenth:])
    )
    return float(last / first)


def _of_asks(figures: dict[str, Any], wanted: Wanted) -> Iterator[dict[str, Any]]:
    goal = {
        "duplicates": wanted.sent_again_ms_max,
        "statements": wanted.statement_ms_max,
        "queries": wanted.query_ms_max,
        "worst queries": None,
        "look-ups": wanted.lookup_ms_max,
    }
    for one in figures["asks"]:
        # A payment sent again has a bound for each time, a read for all but one in a hundred.
        worst = one["phase"] == "duplicates"
        found = one["max_ns" if worst else "p99_ns"] / 1e6
        what = "the worst" if worst else "p99"
        yield _row(f"{one['ask']}, {what}", found, "ms", goal[one["phase"]])
    for one in figures["payers"]:
        yield _row(f"payment beside {one['beside']}, the worst", one["max_ns"] / 1e6, "ms")


def _of_restarts(figures: dict[str, Any], wanted: Wanted) -> Iterator[dict[str, Any]]:
    for one in figures["restarts"]:
        found = max(run["answered_seconds"] for run in one["runs"])
        most = wanted.restart_seconds_max if one["cache"] == "warm" else None
        yield _row(f"restart after {one['after']}, {one['cache']}", found, "s", most)


def _of_verify(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found = figures.get("verify")
    if found is not None:
        rate = found.get("transfers_per_second", 0.0)
        row = _row("verify", rate, "payments/s")
        yield row | {"met": found["exit"] == 0}
        yield _row("verify: memory of its own", found["rss_anon_bytes"] / GIB, "GiB")
