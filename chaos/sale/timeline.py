"""The sale over time: payments a second and their latency, in steps that all payers share.

Percentiles of several steps come from the payments by latency, not from percentiles of parts. A
sale has a time before its first trouble, a time of it, and a time after: it is over when payments
are as fast as twice the latency before, or with the sale. It reads no clock and knows no fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from chaos.sale.payer import Step
from chaos.sale.paying import STEP_SECONDS, TRANSFERS, Payer
from chaos.sale.stage import Mark
from ledger.load.report import BUCKETS, Counts, Latency, latency

POINT_SECONDS = 0.25
POINT_NS = POINT_SECONDS * 1e9
SETTLED_FACTOR = 2  # of the p99 before the trouble
SETTLED_STEPS = 5


class Point(msgspec.Struct, kw_only=True):
    """`seconds` from the first payment to the end of the point. Latencies are None without any."""

    seconds: float
    accepted_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    late: int
    resent: int


class Span(msgspec.Struct, kw_only=True):
    """A trouble in the picture."""

    name: str
    begin_seconds: float
    end_seconds: float


class Timeline(msgspec.Struct, kw_only=True):
    points: list[Point]
    faults: list[Span]


def begun_ns(payers: Sequence[Payer]) -> int:
    """When the first payment was due."""
    return min((one.begun_ns for one in payers if one.begun_ns), default=0)


def drawn(payers: Sequence[Payer], marks: Sequence[Mark]) -> Timeline:
    """The timeline of those payers who are pictured."""
    pictured = [one for one in payers if one.is_pictured]
    start = begun_ns(pictured)
    last = max((one.steps[-1].at_ns for one in pictured if one.steps), default=start)
    counts: dict[int, Counts] = {}
    accepted = resent = np.zeros(int((last - start) / POINT_NS) + 1)
    until = 0
    for payer in pictured:
        steps = of_transfers(payer)
        if not steps:
            continue
        for step in steps:
            place = int((step.at_ns - start) / POINT_NS)
            counts[place] = counts.get(place, _none()) + histogram([step])
            until = max(until, place)
        accepted = accepted + _spread(steps, "accepted", start, len(accepted))
        resent = resent + _spread(steps, "resent", start, len(resent))
    points = [
        _point(place, counts.get(place, _none()), float(accepted[place]), float(resent[place]))
        for place in range(until + 1 if counts else 0)
    ]
    spans = [
        Span(
            name=one.name,
            begin_seconds=round((one.begun_ns - start) / 1e9, 3),
            end_seconds=round((one.ended_ns - start) / 1e9, 3),
        )
        for one in marks
    ]
    return Timeline(points=points, faults=spans)


def of_transfers(payer: Payer) -> list[Step]:
    """The steps in which payments were answered or awaited."""
    steps = [one for one in payer.steps if payer.begun_ns and one.at_ns >= payer.begun_ns]
    most = steps[-1].accepted if steps else 0
    until = next((n for n, one in enumerate(steps) if one.accepted == most), 0)
    return [one for n, one in enumerate(steps) if n <= until or one.phase == TRANSFERS]


def _spread(steps: Sequence[Step], name: str, start: int, count: int) -> NDArray[np.float64]:
    """What was counted, in each point: a step's part lies evenly over its time."""
    times = [steps[0].at_ns - STEP_SECONDS * 1e9, *(one.at_ns for one in steps)]
    values = [0, *(getattr(one, name) for one in steps)]
    edges = start + POINT_NS * np.arange(count + 1)
    return np.diff(np.interp(edges, times, values))


def _point(place: int, counts: Counts, accepted: float, resent: float) -> Point:
    found = latency(counts)
    return Point(
        seconds=(place + 1) * POINT_SECONDS,
        accepted_per_second=round(accepted / POINT_SECONDS, 1),
        p50_ms=ms(found.p50_ns) if found.payments else None,
        p99_ms=ms(found.p99_ns) if found.payments else None,
        late=found.late,
        resent=round(resent),
    )


def ms(ns: int) -> float:
    return round(ns / 1e6, 2)


def _none() -> Counts:
    return np.zeros(len(BUCKETS), np.uint64)


def histogram(steps: Iterable[Step]) -> Counts:
    """Payments by latency over BUCKETS, of all these steps."""
    total = _none()
    for step in steps:
        for index, count in step.buckets:
            total[index] += np.uint64(count)
    return total


class Phases:
    """What a payer's payments were like before, during and after the troubles.

    `rto_seconds` is how long after the end of a trouble a payment was acknowledged again, for the
    slowest; None when that never was. `settled_seconds` is how long after the last end latencies
    were as before, None when they never were.
    """

    def __init__(self, payer: Payer, marks: Sequence[Mark]) -> None:
        self.before = self.during = self.after = latency(_none())
        self.rto_seconds: float | None = 0.0
        self.settled_seconds: float | None = None
        steps = of_transfers(payer)
        if not marks:
            self.before = latency(histogram(steps))
            return
        if not steps:
            return
        begun, ended = min(one.begun_ns for one in marks), max(one.ended_ns for one in marks)
        self.before = latency(histogram(one for one in steps if one.at_ns <= begun))
        over = self._settled(steps, ended)
        if over:
            self.settled_seconds = (over - ended) / 1e9
        until = over or steps[-1].at_ns
        self.during = latency(histogram(one for one in steps if begun < one.at_ns <= until))
        self.after = latency(histogram(one for one in steps if one.at_ns > until))
        backs = [_back(steps, one.ended_ns) for one in marks]
        known = [one for one in backs if one is not None]
        self.rto_seconds = max(known) if len(known) == len(backs) else None

    def _settled(self, steps: Sequence[Step], ended: int) -> int:
        """When it was over, for a while and not by chance; 0 for never."""
        limit = SETTLED_FACTOR * self.before.p99_ns
        began = calm = 0
        for step in steps:
            found = latency(histogram([step]))
            if step.at_ns <= ended or not found.payments:
                continue
            calm = calm + 1 if found.p99_ns <= limit else 0
            began = step.at_ns if calm == 1 else began
            if calm == SETTLED_STEPS:
                return began
        return 0

    def figures(self) -> dict[str, float | str | None]:
        told: dict[str, float | str | None] = {}
        for name in ("before", "during", "after"):
            found: Latency = getattr(self, name)
            if found.payments:
                told[f"p50_{name}_ms"] = ms(found.p50_ns)
                told[f"p99_{name}_ms"] = ms(found.p99_ns)
        return told


def _back(steps: Sequence[Step], ended: int) -> float | None:
    """Seconds from `ended` until the first step in which a payment was acknowledged."""
    before = max((one.accepted for one in steps if one.at_ns <= ended), default=0)
    for step in steps:
        if step.at_ns > ended and step.accepted > before:
            return max(0.0, (step.at_ns - ended) / 1e9)
    return None
