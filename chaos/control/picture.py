"""The comparison as a picture: what became of every payment, and how long those done took.

Drawn by matplotlib without a display, which is imported only here and only when a picture is made.
It reads arms and knows no system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chaos.control.arm import DEADLINE_SECONDS, Arm

FATES = (
    ("done in time", "#3a7d44"),
    ("no free connection in time", "#e0a030"),
    ("lock_timeout", "#c0392b"),
    ("done too late", "#8e5ea2"),
)
INK = "#334455"
INCHES_WIDE, INCHES_EACH, INCHES_AROUND = 13.0, 0.6, 1.9
ROOM_FOR_LABELS = 4  # times the highest value


def draw(path: Path, title: str, arms: list[Arm]) -> None:
    """Write the picture of the arms, from top to bottom in their order."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    size = (INCHES_WIDE, INCHES_AROUND + INCHES_EACH * len(arms))
    figure, (shares, times) = plt.subplots(
        1, 2, figsize=size, sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    figure.suptitle(title, fontsize=12)
    places = list(range(len(arms)))
    begun = [0.0] * len(arms)
    for fate, (label, colour) in enumerate(FATES):
        parts = [_parts(arm)[fate] for arm in arms]
        shares.barh(places, parts, left=begun, height=0.7, color=colour, label=label)
        begun = [sum(pair) for pair in zip(begun, parts, strict=True)]
    for place, arm in enumerate(arms):
        told = f"{arm.timed_out_share:.1%} timed out\n{arm.done_per_second:,.0f}/s done"
        shares.text(101, place, told, va="center", fontsize=9)
        if arm.done:
            _times(times, place, arm.p50_ns / 1e6, arm.p99_ns / 1e6)
    names = [f"{arm.title()}\n{arm.rate:,.0f}/s offered" for arm in arms]
    shares.set_yticks(places, names, fontsize=9)
    shares.set_ylim(len(arms) - 0.4, -0.6)
    shares.set_xlim(0, 100)
    shares.set_xlabel("% of the payments offered")
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    times.set_xscale("log")
    times.set_xlabel("ms from due to done: p50 and p99")
    low, high = times.get_xlim()
    times.set_xlim(low, high * ROOM_FOR_LABELS)
    times.axvline(DEADLINE_SECONDS * 1000, color="#c0392b", linestyle="--", linewidth=1)
    times.grid(axis="x", which="major", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _times(axes: Any, place: int, p50_ms: float, p99_ms: float) -> None:
    axes.plot([p50_ms, p99_ms], [place, place], color=INK, linewidth=5, alpha=0.35)
    axes.plot([p50_ms], [place], "o", color=INK)
    axes.plot([p99_ms], [place], "D", color=INK)
    axes.annotate(
        f"{p50_ms:,.1f} / {p99_ms:,.1f}", (p50_ms, place), xytext=(0, 9),
        textcoords="offset points", fontsize=8, color=INK,
    )  # fmt: skip


def _parts(arm: Arm) -> tuple[float, ...]:
    """The shares of FATES, in percent."""
    counts = (arm.done - arm.late, arm.given_up, arm.lock_timeouts, arm.late)
    return tuple(100 * count / max(arm.offered, 1) for count in counts)
