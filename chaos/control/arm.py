"""One arm of the comparison: what was offered to one system at one rate, and what became of it.

Every payment offered has one fate, so the counts add up. It knows no system and draws nothing.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

DEADLINE_SECONDS = 1.0  # a payment that is not done by then has timed out, whatever comes later
HEADER = ("arm", "offered/s", "offered", "done/s", "in time", "timed out", "p50 ms", "p99 ms")


class Arm(msgspec.Struct, kw_only=True):
    """`seconds` is how long payments came due; latencies are of those done, from when each was due.

    `late` were done after the deadline, `lock_timeouts` refused by the server's lock_timeout,
    `given_up` never sent because no connection was free in time, `lost` have no answer at all.
    """

    system: str
    name: str
    rate: float  # 0: closed loop
    seconds: float
    offered: int
    done: int
    late: int = 0
    lock_timeouts: int = 0
    given_up: int = 0
    lost: int = 0
    p50_ns: int = 0
    p99_ns: int = 0
    max_ns: int = 0
    elapsed_seconds: float = 0.0  # to the last answer
    pool: int = 0  # connections, where their number is tried out
    merchant_offered: int = 0
    merchant_timed_out: int = 0

    @property
    def timed_out(self) -> int:
        return self.late + self.lock_timeouts + self.given_up

    @property
    def timed_out_share(self) -> float:
        return self.timed_out / self.offered if self.offered else 0.0

    @property
    def done_per_second(self) -> float:
        return self.done / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def title(self) -> str:
        """Its name for people; the ledger's connections are the same in all arms."""
        return f"{self.system}: {self.name}" + (f", pool of {self.pool}" if self.pool else "")

    def row(self) -> tuple[str, ...]:
        """Its line below HEADER."""
        return (
            self.title(),
            f"{self.rate:,.0f}" if self.rate else "closed",
            f"{self.offered:,}",
            f"{self.done_per_second:,.0f}",
            f"{self.done - self.late:,}",
            f"{self.timed_out:,} ({self.timed_out_share:.1%})",
            f"{self.p50_ns / 1e6:,.1f}",
            f"{self.p99_ns / 1e6:,.1f}",
        )

    def why(self) -> str:
        """Of what its time-outs are made."""
        told = (
            f"{self.lock_timeouts:,} by lock_timeout, {self.given_up:,} without a free connection,"
            f" {self.late:,} done too late"
        )
        others, merchant = self.offered - self.merchant_offered, self.merchant_offered
        if self.timed_out and merchant and others:
            own = self.merchant_timed_out
            told += (
                f"; of the merchant's {own / merchant:.1%},"
                f" of all others' {(self.timed_out - own) / others:.1%}"
            )
        return told


def percentiles(latencies_ns: NDArray[np.int64]) -> tuple[int, int, int]:
    """p50, p99 and the highest; zeros when there are none."""
    if not len(latencies_ns):
        return 0, 0, 0
    p50, p99, highest = np.percentile(latencies_ns, (50, 99, 100), method="inverted_cdf")
    return int(p50), int(p99), int(highest)


def table(arms: list[Arm]) -> str:
    """The arms as lines of text, one each."""
    rows = [HEADER, *(arm.row() for arm in arms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
