"""What can be asked of the load generator, and what it reports: options, figures, tables.

Latencies are read from histograms whose buckets are _swarm.pyx's. This file opens no socket and
reads no clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ledger.client.connection import parse_address
from ledger.facts import limits
from ledger.load._swarm import bucket_values

FRAME_BYTES_TOTAL_MAX = 4 << 30
ACCOUNTS_MAX = 1 << 32
TRANSFERS_MAX = 1 << 34
BUCKETS = np.array(bucket_values(), np.uint64)
DISTRIBUTIONS = ("uniform", "zipf", "hot")
ID_ORDERS = ("ordered", "random")
LATE_NS = 1_000_000_000  # when who pays has given up waiting

Counts = NDArray[np.uint64]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What load to make. ValueError names the first option that cannot be.

    With neither `transfers` nor `duration_seconds` a million transfers are sent; with both, the
    first to be reached ends the run. `rate` is payments a second in all (open loop: due whether
    or not the server keeps up); without it each session sends as soon as it is answered.
    `sessions` is per connection. Of all transfers `pending_share` open holds, of which
    `resolved_share` are posted or voided by the next transfer; the others expire after
    `hold_seconds` (0: never). `duplicate_share` of the events are ids sent and acknowledged
    before. A run ends when no reply came for `patience_seconds`. The same `seed` makes the same
    accounts and transfers; without it a run has its own, and its report says which. Of the seed's
    transfers the first `skip` are left out, such as those of an earlier run.
    """

    address: str = "127.0.0.1:3000"
    cluster: int = 0
    accounts: int = 10_000
    transfers: int | None = None
    duration_seconds: float | None = None
    batch: int = limits.EVENTS_MAX
    sessions: int = 4
    connections: int = 1
    rate: float | None = None
    distribution: Literal["uniform", "zipf", "hot"] = "uniform"
    zipf_exponent: float = 1.0
    hot_share: float = 0.9
    pending_share: float = 0.0
    resolved_share: float = 0.0
    hold_seconds: int = 0
    duplicate_share: float = 0.0
    id_order: Literal["ordered", "random"] = "ordered"
    seed: int | None = None
    skip: int = 0
    ledger: int = 1
    history: bool = False
    check: bool = False
    patience_seconds: float = 60.0

    def __post_init__(self) -> None:
        parse_address(self.address)
        for name, low, high in (
            ("cluster", 0, (1 << 128) - 1),
            ("accounts", 2, ACCOUNTS_MAX),
            ("transfers", 1, TRANSFERS_MAX),
            ("duration_seconds", 0.001, 1e7),
            ("batch", 1, limits.EVENTS_MAX),
            ("sessions", 1, limits.SESSIONS_MAX),
            ("connections", 1, limits.CONNECTIONS_MAX),
            ("rate", 0.001, 1e9),
            ("zipf_exponent", 0.01, 10),
            ("hot_share", 0, 1),
            ("pending_share", 0, 0.5 if self.resolved_share else 1),
            ("resolved_share", 0, 1),
            ("hold_seconds", 0, (1 << 32) - 1),
            ("duplicate_share", 0, 0.9),
            ("seed", 0, (1 << 64) - 1),
            ("skip", 0, TRANSFERS_MAX),
            ("ledger", 1, (1 << 32) - 1),
            ("patience_seconds", 0.1, 1e7),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}: {value} is not within {low} .. {high}")
        for name, value, values in (
            ("distribution", self.distribution, DISTRIBUTIONS),
            ("id_order", self.id_order, ID_ORDERS),
        ):
            if value not in values:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(values)}")
        total = self.sessions * self.connections
        if total > limits.SESSIONS_MAX or total * self.batch * 128 > FRAME_BYTES_TOTAL_MAX:
            raise ValueError(
                f"sessions: {total} with {self.batch} a batch need more than"
                f" {FRAME_BYTES_TOTAL_MAX >> 30} GiB, or are more than {limits.SESSIONS_MAX}"
            )

    @property
    def number_first(self) -> int:
        """The first number of each connection; even, so that no hold parts from its resolution."""
        return 2 * -(-self.skip // (2 * self.connections))


class Latency(msgspec.Struct, frozen=True):
    """Latencies of `payments` payments, each from when it was due to its reply; ns, within 1%.

    `late` of them took longer than LATE_NS.
    """

    payments: int
    p50_ns: int
    p99_ns: int
    p99_9_ns: int
    p99_99_ns: int
    max_ns: int
    late: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands; `recent` and `payments_per_second` are of the time since the last one,
    and so are `recent_counts`, payments by latency over BUCKETS.
    """

    phase: str
    seconds: float
    accepted: int
    refused: int
    payments_per_second: float
    recent: Latency
    recent_counts: Counts
    total: Latency
    requests_waiting: int
    resent: int
    connections: int
    silent_seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run saw. `faults` holds only what must not happen; `stopped` says why it ended early.

    Refusals are by name of TransferStatus, evictions by name of EvictionReason. `unanswered`
    transfers may or may not have been executed; `overdue` ones were due by the end of a run with a
    rate and never sent, so no latency speaks of them. `found` acknowledged transfers were looked up
    and are what was sent, when the run was asked to check.
    """

    options: Options
    seconds: float
    accounts_created: int
    accounts_existed: int
    sent: int
    accepted: int
    refused: dict[str, int]
    unanswered: int
    overdue: int
    duplicates: int
    payments_per_second: float
    latency: Latency
    longest_pause_seconds: float
    requests: int
    resent: int
    reconnects: int
    evictions: dict[str, int]
    found: int
    debits_posted: int
    credits_posted: int
    faults: dict[str, int]
    stopped: str

    @property
    def ok(self) -> bool:
        """Whether everything sent was answered and nothing is wrong. Refusals are not wrong."""
        return not (self.faults or self.unanswered or self.evictions or self.stopped)


def latency(histogram: Counts) -> Latency:
    """Percentiles of a histogram over BUCKETS."""
    cumulative = np.cumsum(histogram)
    count = int(cumulative[-1])
    if count == 0:
        return Latency(0, 0, 0, 0, 0, 0, 0)
    ranks = [-(-count * share // 10_000) for share in (5_000, 9_900, 9_990, 9_999, 10_000)]
    figures = [int(BUCKETS[np.searchsorted(cumulative, rank)]) for rank in ranks]
    figures.append(int(histogram[BUCKETS > LATE_NS].sum()))
    return Latency(count, *figures)


# ---- for people ---------------------------------------------------------------------------------


def _milliseconds(value: Latency) -> str:
    if not value.payments:
        return "-"
    figures = (value.p50_ns, value.p99_ns, value.p99_9_ns, value.p99_99_ns, value.max_ns)
    return " / ".join(f"{figure / 1e6:,.2f}" for figure in figures)


def view(progress: Progress) -> Table:
    """A run as it stands, for people."""
    table = Table.grid(padding=(0, 2))
    rows = (
        (progress.phase, f"{progress.seconds:,.0f} s"),
        ("payments accepted", f"{progress.accepted:,}"),
        ("payments a second", f"{progress.payments_per_second:,.0f}"),
        ("refused", f"{progress.refused:,}"),
        ("ms, last second: p50 / 99 / 99.9 / 99.99 / max", _milliseconds(progress.recent)),
        ("ms, since the start", _milliseconds(progress.total)),
        ("requests waiting", f"{progress.requests_waiting:,}"),
        ("resent, connections", f"{progress.resent:,}, {progress.connections:,}"),
        ("without a reply for", f"{progress.silent_seconds:.1f} s"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def summary(report: Report) -> Table:
    """A run that has ended, for people."""
    table = Table.grid(padding=(0, 2))
    rows = [
        ("payments accepted", f"{report.accepted:,} in {report.seconds:,.2f} s"),
        ("payments a second", f"{report.payments_per_second:,.0f}"),
        ("ms: p50 / 99 / 99.9 / 99.99 / max", _milliseconds(report.latency)),
        ("longest pause", f"{report.longest_pause_seconds:.3f} s"),
        ("requests, resent, reconnects",
         f"{report.requests:,}, {report.resent:,}, {report.reconnects:,}"),
        ("unanswered", f"{report.unanswered:,}"),
        *((f"refused: {name}", f"{count:,}") for name, count in report.refused.items()),
        *((f"sessions ended: {name}", f"{count:,}") for name, count in report.evictions.items()),
    ]
    if report.overdue:
        rows.append(("due at the end, never sent", f"{report.overdue:,}"))
    if report.options.duplicate_share:
        rows.append(("sent once more, there already", f"{report.duplicates:,}"))
    if report.options.check:
        rows.append(("looked up and as sent", f"{report.found:,}"))
        rows.append(("debits posted, credits posted",
                     f"{report.debits_posted:,}, {report.credits_posted:,}"))
    rows.extend((f"FAULT: {name}", f"{count:,}") for name, count in report.faults.items())
    if report.stopped:
        rows.append(("STOPPED EARLY", report.stopped))
    for row in rows:
        table.add_row(*row)
    return table
