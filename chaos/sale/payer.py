"""The load generator in a process of its own, which says on its standard output how it goes.

    python -m chaos.sale.payer < options.json

One line of JSON for each step of time, with payments by latency so that steps can be added up, and
one with the report in the end. A process of its own can be paused, put into a network of its own
and takes no time from whoever makes the trouble. It knows no fault.
"""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np

from ledger.facts.errors import LedgerError
from ledger.load import run


class Step(msgspec.Struct, kw_only=True):
    """What happened since the step before. Times are of the monotonic clock that all share.

    `accepted` and `refused` count from the start; `buckets` holds (index of load_report.BUCKETS,
    payments answered with that latency).
    """

    at_ns: int
    phase: str
    accepted: int
    refused: int
    buckets: list[tuple[int, int]]
    waiting: int
    resent: int
    connections: int


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of output: a step, the report, or why there is none."""

    step: Step | None = None
    report: run.Report | None = None
    error: str = ""


class Asked(msgspec.Struct, kw_only=True):
    """What is asked of a payer, on its standard input."""

    options: run.Options
    step_seconds: float


def _say(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _step(progress: run.Progress) -> None:
    counts = progress.recent_counts
    where = np.flatnonzero(counts)
    step = Step(
        at_ns=time.monotonic_ns(),
        phase=progress.phase,
        accepted=progress.accepted,
        refused=progress.refused,
        buckets=list(zip(where.tolist(), counts[where].tolist(), strict=True)),
        waiting=progress.requests_waiting,
        resent=progress.resent,
        connections=progress.connections,
    )
    _say(Line(step=step))


def main() -> int:
    """Pay as asked; 0 when there is a report, whatever it says."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    try:
        report = run.run(
            asked.options, _step, interruptible=True, progress_seconds=asked.step_seconds
        )
    except LedgerError as error:
        _say(Line(error=str(error)))
        return 1
    _say(Line(report=report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
