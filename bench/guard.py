"""Guards against slow-down: ratios to a C loop that runs beside, which noise cannot blur.

The time of a part says little on a machine that others use; its ratio to a loop of plain C, built
by the same compiler and run in turn with it, says whether the part's own code became slower. Time
is processor time of one process whose memory is warm, of books so small that they stay in the
cache, a sample of each in turn, the median of seven. A neighbour that pollutes a cache can only
spoil a try, so a ratio is above its limit only when it is in every try. The limits are in
limits.json; `python -m bench.guard --store` measures and writes them again, which is right only
when the change was meant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import numpy as np

from bench import allocations, reference, workload
from bench.parts import (
    FULL,
    SINGLES,
    ClientReads,
    ClientWrites,
    Desk,
    Judges,
    Part,
    ServerReads,
    ServerWrites,
)  # fmt: skip

LIMITS = Path(__file__).resolve().parent / "limits.json"
SAMPLES = 7
TRIES_MAX = 4
MARGIN = 1.25
SAMPLE_NS = 3_000_000  # rounds are repeated until one sample takes about as long
ROUNDS_MAX = 400
ACCOUNTS = 256
BOOK_PAYMENTS_MAX = 6 * FULL.payments
WARM_UP_ROUNDS = 2
KEEP_MEMORY = {
    f"MALLOC_{name}_": str(1 << 28) for name in ("MMAP_THRESHOLD", "TOP_PAD", "TRIM_THRESHOLD")
}
WARM_CHUNKS = 64  # of 2 MiB: more than the core keeps of such a book


class Ratio(NamedTuple):
    """What the tries found, the lowest first."""

    name: str
    found: list[float]
    limit: float

    @property
    def held(self) -> bool:
        return self.found[0] <= self.limit

    def told(self) -> str:
        tries = ", ".join(f"{ratio:.2f}" for ratio in self.found)
        return f"{self.name}: {tries} times the reference, at most {self.limit:.2f}"


class JudgesSmall(Judges):
    """The core with a book that begins anew before it leaves the cache, and both groups touched."""

    def prepare(self) -> None:
        if (self.desk.rounds + 1) * self.desk.shape.payments > BOOK_PAYMENTS_MAX:
            self.desk = Desk(self.desk.shape, ACCOUNTS)
        while self.desk.rounds < WARM_UP_ROUNDS:
            super().prepare()
            self.run()
        super().prepare()


class AppliesPlainly(Part):
    """The reference's transfers, as many a round as the core's, and its book as small."""

    def __init__(self, payments: int) -> None:
        self.payments = payments
        self.rounds = 0
        self.book = reference.Reference(ACCOUNTS, BOOK_PAYMENTS_MAX)

    def prepare(self) -> None:
        self.rounds += 1
        if (self.rounds + 1) * self.payments > BOOK_PAYMENTS_MAX:
            self.rounds = 1
            self.book.close()
            self.book = reference.Reference(ACCOUNTS, BOOK_PAYMENTS_MAX)
        self.rows = workload.transfers(self.rounds, self.payments, ACCOUNTS)

    def run(self) -> None:
        assert self.book.apply(self.rows) == self.payments

    def close(self) -> None:
        self.book.close()


class MixesPlainly(Part):
    """The reference's pass over as many bytes as the codec's."""

    def __init__(self, count: int) -> None:
        self.bytes = count
        self.buffer = np.random.default_rng(1).integers(0, 256, count, np.uint8)

    def run(self) -> None:
        reference.mix(self.buffer)


def judging() -> tuple[Part, Part]:
    return JudgesSmall(Desk(FULL, ACCOUNTS)), AppliesPlainly(FULL.payments)


def judging_singles() -> tuple[Part, Part]:
    return JudgesSmall(Desk(SINGLES, ACCOUNTS)), AppliesPlainly(SINGLES.payments)


def reading() -> tuple[Part, Part]:
    part = ServerReads(Desk(FULL))
    return part, MixesPlainly(part.bytes)


def reading_singles() -> tuple[Part, Part]:
    part = ServerReads(Desk(SINGLES))
    return part, MixesPlainly(part.bytes)


def writing() -> tuple[Part, Part]:
    part = ServerWrites(Desk(FULL))
    return part, MixesPlainly(part.bytes)


def writing_singles() -> tuple[Part, Part]:
    part = ServerWrites(Desk(SINGLES))
    return part, MixesPlainly(part.bytes)


def client_writing() -> tuple[Part, Part]:
    part = ClientWrites(Desk(FULL))
    return part, MixesPlainly(part.bytes)


def client_reading() -> tuple[Part, Part]:
    part = ClientReads(Desk(SINGLES))
    return part, MixesPlainly(part.bytes)


CONTESTS: dict[str, Callable[[], tuple[Part, Part]]] = {
    "core, full requests": judging,
    "core, single payments": judging_singles,
    "codec reads full requests": reading,
    "codec reads single payments": reading_singles,
    "codec writes full replies": writing,
    "codec writes single replies": writing_singles,
    "client writes full requests": client_writing,
    "client reads single replies": client_reading,
}


def _repeats(part: Part) -> int:
    """How many rounds make a sample; the first round is not looked at, it warms up."""
    part.cpu_ns()
    return max(1, min(SAMPLE_NS // max(1, part.cpu_ns()), ROUNDS_MAX))


def contest(part: Part, plain: Part, repeats: tuple[int, int]) -> float:
    """The ratio of the medians of SAMPLES samples of each, in turn, for one round of each."""
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(2 * SAMPLES):
        one, count = (part, plain)[turn % 2], repeats[turn % 2]
        samples[turn % 2].append(sum(one.cpu_ns() for _ in range(count)) / count)
    return median(samples[0]) / median(samples[1])


def measure(name: str, limit: float) -> Ratio:
    """Try until the ratio is within its limit, TRIES_MAX times at most."""
    part, plain = CONTESTS[name]()
    found: list[float] = []
    try:
        repeats = _repeats(part), _repeats(plain)
        for _ in range(TRIES_MAX):
            found.append(contest(part, plain, repeats))
            if found[-1] <= limit:
                break
    finally:
        part.close()
        plain.close()
    return Ratio(name, sorted(found), limit)


def limits() -> dict[str, float]:
    """The ratio that each contest may have: what was stored, and the margin."""
    stored: dict[str, float] = json.loads(LIMITS.read_text())["ratios"]
    return {name: ratio * MARGIN for name, ratio in stored.items()}


def store(section: str, figures: dict[str, float]) -> None:
    """Keep figures of one section of limits.json, the others as they are."""
    kept = json.loads(LIMITS.read_text()) if LIMITS.exists() else {}
    kept[section] = figures
    LIMITS.write_text(json.dumps(kept, indent=2) + "\n")


def measure_all(allowed: dict[str, float]) -> list[Ratio]:
    """Every contest, in a process of its own whose memory is warm. `allowed` limits, by name."""
    with tempfile.TemporaryDirectory(prefix="ledger-guard-") as folder:
        warm = allocations.missing() is None
        env = allocations.preloaded(Path(folder), WARM_CHUNKS) if warm else dict(os.environ)
        env |= KEEP_MEMORY
        found = subprocess.run(
            [sys.executable, "-m", "bench.guard", "--child", json.dumps(allowed)],
            cwd=LIMITS.parent.parent, env=env, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    if found.returncode:
        raise RuntimeError(found.stderr)
    return [Ratio(*one) for one in json.loads(found.stdout)]


@click.command()
@click.option("--store", "stores", is_flag=True, help="Keep what is found as what may be.")
@click.option("--child", hidden=True, help="Measure in this process.")
def main(stores: bool, child: str | None) -> None:
    """Each part's time as a ratio to a C loop beside it; 5 to 20 seconds."""
    if child is not None:
        allowed = json.loads(child)
        click.echo(json.dumps([measure(name, allowed.get(name, 0.0)) for name in CONTESTS]))
        return
    click.echo(f"{len(CONTESTS)} ratios, 5 to 20 seconds", err=True)
    found = measure_all({} if stores else limits())
    for ratio in found:
        click.echo(ratio.told())
    if stores:
        store("ratios", {one.name: round(median(one.found), 3) for one in found})
    elif not all(ratio.held for ratio in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
