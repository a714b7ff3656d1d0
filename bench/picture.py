"""The results as pictures: throughput, latencies, disk, a long history, the budget of a payment.

Drawn by matplotlib without a display, which is imported only here and only when a picture is made.
It reads figures and measures nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

INK = "#334455"
COLOURS = ("#2c6e9b", "#3a7d44", "#e0a030", "#c0392b", "#8e5ea2", "#7f8c8d", "#334455")
DPI = 80
INCHES = (8.0, 4.2)
INCHES_OF_FOUR = (8.0, 6.4)
PARTS = ("transport", "checks", "judging", "digest", "append", "client")


def _figure(rows: int = 1, columns: int = 1) -> tuple[Any, Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=INCHES if rows == 1 else INCHES_OF_FOUR, layout="constrained"
    )
    return plt, figure, axes


def _save(plt: Any, figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return path


def _grid(axes: Any) -> None:
    axes.grid(which="major", alpha=0.3)
    axes.tick_params(colors=INK)


def throughput(path: Path, closed: list[dict[str, Any]], title: str) -> Path:
    """Payments a second over connections, a line for each batch size."""
    plt, figure, axes = _figure()
    batches = sorted({one["batch"] for one in closed})
    for place, batch in enumerate(batches):
        points = sorted(
            (one["connections"], one["payments_per_second"])
            for one in closed
            if one["batch"] == batch
        )
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{batch:,} a request")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("connections, each with one request under way")
    axes.set_ylabel("durable payments a second")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    _grid(axes)
    return _save(plt, figure, path)


def latency(path: Path, opened: list[dict[str, Any]], title: str) -> Path:
    """The share of payments that took longer, over latency, a line for each rate."""
    plt, figure, axes = _figure()
    for place, one in enumerate(opened):
        if not one["histogram"]:
            continue
        ns, counts = np.array(one["histogram"], float).T
        longer = 1 - np.cumsum(counts) / counts.sum()
        colour = COLOURS[place % len(COLOURS)]
        label = f"{one['rate']:,.0f}/s ({one['share']:.0%} of the most)"
        axes.step(ns[:-1] / 1e6, longer[:-1], where="post", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("ms from when a payment was due to its reply")
    axes.set_ylabel("share of payments that took longer")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    _grid(axes)
    return _save(plt, figure, path)


def disk(path: Path, closed: list[dict[str, Any]], title: str) -> Path:
    """Bytes of disk a payment, by batch size: the least and the most over connections."""
    plt, figure, axes = _figure()
    batches = sorted({one["batch"] for one in closed})
    places = list(range(len(batches)))
    for place, batch in zip(places, batches, strict=True):
        found = [one["disk_bytes"] for one in closed if one["batch"] == batch]
        axes.plot([place, place], [min(found), max(found)], color=INK, linewidth=6, alpha=0.3)
        axes.plot([place], [min(found)], "o", color=INK)
        axes.annotate(f"{min(found):,.0f}", (place, min(found)), xytext=(8, -3),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xticks(places, [f"{batch:,}" for batch in batches])
    axes.set_yscale("log")
    axes.set_xlabel("payments a request")
    axes.set_ylabel("bytes of disk a payment, over connections")
    axes.set_title(title, fontsize=10)
    _grid(axes)
    return _save(plt, figure, path)


def scale(path: Path, slices: list[dict[str, Any]], title: str) -> Path:
    """Rate, latencies, memory and disk over the history, each slice of it a point."""
    plt, figure, axes = _figure(2, 2)
    (rate, times), (memory, disk) = axes
    at = [one["at"] / 1e6 for one in slices]

    def line(where: Any, values: list[float], colour: int, label: str | None = None) -> None:
        where.plot(at, values, color=COLOURS[colour], linewidth=1.2, label=label)

    line(rate, [one["payments_per_second"] / 1e6 for one in slices], 0)
    rate.set_ylabel("million payments a second")
    for colour, (field, label) in enumerate(
        (("p50_ns", "p50"), ("p99_ns", "p99"), ("p99_9_ns", "p99.9"), ("max_ns", "worst"))
    ):
        line(times, [one[field] / 1e6 for one in slices], colour, label)
    times.set_yscale("log")
    times.set_ylabel("ms of a request")
    times.legend(fontsize=8, ncols=2)
    line(memory, [one["rss_anon_bytes"] / 2**30 for one in slices], 0)
    memory.set_ylabel("GiB of the server's own memory")
    for colour, part in enumerate(("journal", "derived")):
        line(disk, [one[f"{part}_bytes"] / one["at"] for one in slices], colour, part)
    disk.set_ylabel("bytes of disk a payment")
    disk.legend(fontsize=8)
    for where in (rate, memory, disk):
        where.set_ylim(bottom=0)
    for where in (rate, times, memory, disk):
        where.set_xlabel("million payments in the book", fontsize=8)
        _grid(where)
    figure.suptitle(title, fontsize=10)
    return _save(plt, figure, path)


def budget(path: Path, shapes: list[dict[str, Any]], title: str) -> Path:
    """Where the processor time of a payment goes, in shares, a bar for each shape."""
    plt, figure, axes = _figure()
    names = [shape["shape"] for shape in shapes]
    begun = [0.0] * len(shapes)
    for place, part in enumerate(PARTS):
        shares = [100 * one["budget"][part] / sum(one["budget"].values()) for one in shapes]
        axes.barh(names, shares, left=begun, color=COLOURS[place], height=0.6, label=part)
        begun = [sum(pair) for pair in zip(begun, shares, strict=True)]
    for place, shape in enumerate(shapes):
        axes.text(101, place, f"{sum(shape['budget'].values()):.2f} µs", va="center", fontsize=9)
    axes.set_xlim(0, 112)
    axes.invert_yaxis()
    axes.set_xlabel("% of the parts' processor time of a payment")
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(PARTS), fontsize=8)
    return _save(plt, figure, path)
