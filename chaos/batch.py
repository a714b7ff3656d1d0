"""Many seeds of one scenario that has plans: sim, process and network, in one process or several.

A seed's plan does not depend on where it runs; on virtual time its run does not either, and one
seed in a hundred is run twice to see that. It knows no command line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from chaos import failure, scenario
from chaos.failure import Failure
from chaos.live import run as live
from chaos.scenario import Plan, Scenario
from chaos.sim.run import Outcome, Runs

TWICE_EVERY = 100  # of so many seeds one is run twice, and must leave the same trace
PART_SEEDS = {"sim": 32, "process": 1, "network": 1}  # seeds of one piece of work
PR_SET_PDEATHSIG = 1
FAILURES_MAX = 10  # files written by one scenario of a run

Progress = Callable[[int, int], None]  # seeds done, seeds in all


def missing(tier: str) -> str | None:
    """Why the tier cannot run on this machine, or None."""
    if tier == "host":
        return None if sys.platform.startswith("linux") else "processes are watched by /proc"
    return live.missing() if tier in ("process", "network") else None


def runs(tier: str) -> Runs | live.LiveRuns:
    """What runs the plans of the tier; a context."""
    return Runs() if tier == "sim" else live.LiveRuns()


class Tally:
    """What the seeds of one scenario came to, added up."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.run_ns = 0  # by the clock of the runs
        self.failures: list[Failure] = []
        self.traces: dict[int, str] = {}  # the hash of each seed's trace
        self.seeds = 0
        self.seconds = 0.0

    def take(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.seen.update(outcome.seen)
        self.codes.update(outcome.codes)
        self.run_ns += outcome.virtual_ns
        self.traces[outcome.plan.seed] = outcome.trace_hash
        if outcome.broken is not None:
            self.failures.append(failure.of(outcome))

    def add(self, other: Tally) -> None:
        self.seen += other.seen
        self.codes += other.codes
        self.run_ns += other.run_ns
        self.failures += other.failures
        self.traces |= other.traces
        self.seeds += other.seeds

    def trace_hash(self) -> str:
        """One hash of all traces: the same wherever the same seeds of the sim tier run."""
        told = "\n".join(f"{seed} {trace}" for seed, trace in sorted(self.traces.items()))
        return sha256(told.encode()).hexdigest()


def _some(one: Scenario, seeds: range) -> Tally:
    tally, tier = Tally(), one.scenario.tier
    with runs(tier) as runner:
        for seed in seeds:
            plan: Plan = scenario.expand(one, seed)
            outcome = runner.run(plan)
            if outcome.broken is None and tier == "sim" and seed % TWICE_EVERY == 0:
                again = runner.run(plan)
                if again.trace_hash != outcome.trace_hash:
                    what = f"seed {seed} left {outcome.trace_hash}, then {again.trace_hash}"
                    outcome.broken = ("repeatable", what)
            tally.take(outcome)
    return tally


def _part(one: Scenario, seeds: range) -> Tally:
    """What a worker does; one that is told to end does so once all is put away."""
    try:
        return _some(one, seeds)
    except SystemExit:
        os._exit(128 + signal.SIGTERM)  # the pool would take an exception for a result


def _begin_worker(parent: int) -> None:
    """A worker that is told to end, or whose parent has died, puts away what it has."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died before that
        sys.exit(128 + signal.SIGTERM)


@contextmanager
def pool_of(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, which put away what they have when this one gives up."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker, (os.getpid(),)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def run(
    one: Scenario, first: int, count: int, jobs: int, on_progress: Progress | None = None
) -> Tally:
    """All seeds from `first` on, in `jobs` processes."""
    began = time.monotonic()
    size = PART_SEEDS[one.scenario.tier]
    starts = range(first, first + count, size)
    parts = [range(start, min(start + size, first + count)) for start in starts]
    tally = Tally()

    def take(part: Tally) -> None:
        tally.add(part)
        if on_progress is not None:
            on_progress(tally.seeds, count)

    if jobs == 1:
        for part in parts:
            take(_some(one, part))
    else:
        with pool_of(jobs) as pool:
            for done in pool.map(_part, [one] * len(parts), parts):
                take(done)
    tally.failures.sort(key=lambda found: found.plan.seed)
    tally.seconds = time.monotonic() - began
    return tally


def keep(found: Failure, out: Path, written: int) -> dict[str, Any]:
    """Write the failure's file, the first few of them."""
    path = out / f"FAILURE-{found.plan.scenario}-{found.plan.seed}.json"
    if written < FAILURES_MAX:
        out.mkdir(parents=True, exist_ok=True)
        failure.write(path, found)
    return {"seed": found.plan.seed, "check": found.check, "what": found.what, "file": str(path)}
