"""How many blocks of memory a part asks for, by how many payments a round has.

Each part runs in a process of its own under allocations.c, in which every Python object is a block
of the C library as well. What a call costs once (a tuple, a few numbers) is the same for a small
and a large round, so the difference between the two is what payments cost: none, on the hot path.
Growth is another thing: arrays grow by chunks of 2 MiB and tables by parts of a page and more,
which are counted apart and spread over thousands of payments.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.parts import ClientReads, Desk, Judges, Part, ServerReads, ServerWrites, Shape
from bench.reference import compiled
from ledger.facts import limits

ROUNDS = 40
WARM_UP_ROUNDS = 8


class Keeps(Part):
    """What the counter is tried on: an object for each payment."""

    def __init__(self, desk: Desk) -> None:
        self.payments = desk.shape.payments

    def run(self) -> None:
        [object() for _ in range(self.payments)]


PARTS: dict[str, type[Part]] = {
    "reads": ServerReads, "judges": Judges, "writes": ServerWrites, "client reads": ClientReads,
}  # fmt: skip
SHAPES: dict[str, tuple[Shape, Shape]] = {
    "events": (Shape(1, 8), Shape(1, limits.EVENTS_MAX)),  # more payments in a request
    "requests": (Shape(2, 1), Shape(1_000, 1)),  # more requests of one payment in a call
}


class Allocations(NamedTuple):
    """Blocks of a small round, of a large one; and growth in pages and more, over payments."""

    small_round: float
    large_round: float
    payments: int  # that a large round has more than a small one
    grown: float  # blocks and mappings of a page and more, for each payment

    @property
    def each(self) -> float:
        """Small blocks for each payment."""
        return (self.large_round - self.small_round) / self.payments


def missing() -> str | None:
    """Why allocations cannot be counted here; None when they can."""
    if platform.libc_ver()[0] != "glibc":
        return "allocations are counted under glibc only"
    return None


def measure(part: str, shape: str) -> Allocations:
    """Count in a process of its own."""
    small, large = SHAPES[shape]
    rounds = [child(part, one) for one in (small, large)]
    payments = large.payments - small.payments
    grown = (rounds[1][1] + rounds[1][2]) / large.payments
    return Allocations(rounds[0][0], rounds[1][0], payments, grown)


def preloaded(folder: Path, warm_chunks: int = 0) -> dict[str, str]:
    """The environment of a process that runs under allocations.c."""
    library = compiled("allocations.c", folder)
    return os.environ | {"LD_PRELOAD": str(library), "LEDGER_WARM_CHUNKS": str(warm_chunks)}


def child(part: str, shape: Shape) -> list[float]:
    """Small blocks, large ones and mappings of one round, counted in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ledger-allocations-") as folder:
        env = preloaded(Path(folder)) | {"PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-m", "bench.allocations", part, *map(str, shape)]
        found = subprocess.run(
            command, env=env, cwd=Path(__file__).resolve().parent.parent,
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
    counts: list[float] = json.loads(found.stdout)
    return counts


def _count(part: Part) -> list[float]:
    """Small blocks, large ones and mappings of one round, the mean of ROUNDS."""
    read = ctypes.CDLL(None).allocations_read
    before, after = (ctypes.c_uint64 * 3)(), (ctypes.c_uint64 * 3)()
    totals = [0, 0, 0]
    for turn in range(WARM_UP_ROUNDS + ROUNDS):
        part.prepare()
        read(before)
        part.run()
        read(after)
        if turn >= WARM_UP_ROUNDS:
            for kind in range(3):
                totals[kind] += after[kind] - before[kind]
    return [total / ROUNDS for total in totals]


if __name__ == "__main__":
    desk = Desk(Shape(int(sys.argv[2]), int(sys.argv[3])))
    part = (PARTS | {"keeps": Keeps})[sys.argv[1]](desk)  # type: ignore[call-arg]
    sys.stdout.write(json.dumps(_count(part)))
