"""The timeline of a sale as a picture: payments a second, latency, and the troubles on both.

The plotting library is loaded only here; without it the report says so.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from chaos.sale.timeline import POINT_SECONDS, Timeline

INK, PALE, ALARM = "#1f3b57", "#7fa3c7", "#c0392b"
SHADE_SECONDS_MIN = 0.06  # a trouble of a moment is still seen
CHARACTER_SHARE = 0.0095  # of the width
LATE_MS = 1000.0


def missing() -> str | None:
    """Why there will be no picture, or None."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "matplotlib is not installed (it is in the extra 'chaos')"
    return None


def draw(timeline: Timeline, title: str, verdict: str, path: Path) -> None:
    """Write the picture, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    seconds = [one.seconds - POINT_SECONDS / 2 for one in timeline.points]
    rates = [one.accepted_per_second for one in timeline.points]
    above.fill_between(seconds, rates, step="mid", color=PALE, alpha=0.35, linewidth=0)
    above.step(seconds, rates, where="mid", color=INK, linewidth=1.4)
    above.set_ylabel("payments acknowledged / s")
    above.set_ylim(0, max([1.0, *rates]) * 1.3)
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for name, label, color in (("p50_ms", "p50", PALE), ("p99_ms", "p99", INK)):
        _gapped(below, timeline, name, label, color)
    below.axhline(LATE_MS, color=ALARM, linewidth=0.8, linestyle=":")
    below.annotate(
        "1 s", (1, LATE_MS), xycoords=("axes fraction", "data"), color=ALARM, fontsize=8,
        xytext=(3, 0), textcoords="offset points", va="center",
    )  # fmt: skip
    below.set_yscale("log")
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    below.set_ylabel("latency, ms (from when due)")
    below.set_xlabel("seconds of the sale")
    below.legend(loc="upper left", frameon=False, ncols=2, fontsize=9)
    last = max([1.0, *seconds, *(one.end_seconds for one in timeline.faults)])
    below.set_xlim(0, last + POINT_SECONDS)
    for axes in (above, below):
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        for fault in timeline.faults:
            end = max(fault.end_seconds, fault.begin_seconds + SHADE_SECONDS_MIN)
            axes.axvspan(fault.begin_seconds, end, color=ALARM, alpha=0.16, linewidth=0)
    _names(above, timeline, last)
    above.set_title(f"{title}\n{verdict}", loc="left", fontsize=10.5)
    figure.savefig(path, dpi=110)


def _gapped(axes: object, timeline: Timeline, name: str, label: str, color: str) -> None:
    """A line that is broken where nothing was answered, with dots where it would be too short."""
    indices = [n for n, one in enumerate(timeline.points) if getattr(one, name) is not None]
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        part = [timeline.points[index] for _, index in run]
        xs = [one.seconds - POINT_SECONDS / 2 for one in part]
        ys = [getattr(one, name) for one in part]
        axes.plot(  # type: ignore[attr-defined]
            xs, ys, color=color, linewidth=1.4, label=label, marker="o" if len(xs) < 3 else None,
            markersize=3,
        )  # fmt: skip
        label = "_"


def _names(axes: object, timeline: Timeline, last: float) -> None:
    """Each trouble's name over its beginning, one line lower when the one before is near."""
    row, free = 0, 0.0
    for fault in sorted(timeline.faults, key=lambda one: one.begin_seconds):
        wide = (len(fault.name) + 2) * CHARACTER_SHARE * last
        right = fault.begin_seconds + wide > last
        row = (row + 1) % 3 if fault.begin_seconds - wide * right < free else 0
        free = fault.begin_seconds + wide * (not right)
        axes.annotate(  # type: ignore[attr-defined]
            fault.name, (fault.begin_seconds, 0.97 - 0.08 * row),
            xycoords=("data", "axes fraction"), xytext=(-4 if right else 4, 0),
            textcoords="offset points", color=ALARM, fontsize=9, va="top",
            ha="right" if right else "left",
        )  # fmt: skip
