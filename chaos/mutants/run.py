"""One mutant after the other on its tier: caught, and by which check, or not.

A tier is run as anybody runs it, in the copy: scenarios by their command line, a few seeds first
and more only when those saw nothing; the disk tier's images; a file of tests. Only what a check
says counts: a run that falls over by itself is told as that, and is no catch. This file
knows no mutant by name.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from chaos.mutants import patch
from chaos.mutants.patch import Mutant, Refused
from chaos.mutants.tree import Ended, Tree

# Seeds of a scenario by its tier, one step after the other until something is seen.
SEEDS = {"sim": (40, 160, 1_800), "process": (1, 2, 4), "network": (1, 2, 4)}
HOST_SEEDS = 3  # as many as have every habit
IMAGES_AGAIN = 4  # times as many images, when the first ones show nothing
DISK_SEED = 7
DEATHS = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)  # by which code ends its own process
WHAT_MAX = 300
EXCEPTION = "an exception:"  # how a tier begins to tell of an error of its own
IMAGES = """
import sys, msgspec
from chaos import disk
seed, images, mutant = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
why = disk.missing()
if why is not None:
    sys.exit(why)
print(msgspec.json.encode(disk.run(seed, images, mutant=mutant, jobs=1)).decode())
"""


class Seen(msgspec.Struct, frozen=True):
    """What one step of a tier saw: how much was tried, how much of it broke, the first of it."""

    tried: int
    broken: int = 0
    check: str = ""
    what: str = ""


class Row(msgspec.Struct):
    """A line of the table. `tried` and `broken` are seeds, images or runs of tests.

    `broken` counts those of the step that saw something, which tried `of`. `error` is why it could
    not be run at all.
    """

    name: str
    tier: str
    run: str
    caught: bool = False
    tried: int = 0
    broken: int = 0
    of: int = 0
    check: str = ""
    what: str = ""
    error: str = ""
    seconds: float = 0.0
    control: bool = False

    @property
    def right(self) -> bool:
        """A mutant is caught, and what is not a mutant holds."""
        return self.caught != self.control and not self.error


def controls(mutants: list[Mutant]) -> list[Mutant]:
    """What is run of the tree as it is: whatever the mutants are run on, once each."""
    wanted = sorted({(one.tier, one.run) for one in mutants})
    return [
        Mutant(name=f"as it is: {run}", about="nothing is changed", tier=tier, run=run)
        for tier, run in wanted
    ]


def one(mutant: Mutant, base: Tree, place: str, control: bool = False) -> Row:
    """Make a mutant in a copy of `base` and run its tier until it is caught, or nothing is left.

    For a control the base itself is run, by the first step only.
    """
    row = Row(mutant.name, mutant.tier, mutant.run, control=control)
    began = time.monotonic()
    tree = base
    try:
        if mutant.edit:
            tree = base.copy(place)
            tree.build(patch.apply(mutant, tree.root))
            tree.check()
        for seen in _steps(mutant, tree):
            row.tried += seen.tried
            if seen.broken:
                row.caught, row.broken, row.of = True, seen.broken, seen.tried
                row.check, row.what = seen.check, seen.what
            if seen.broken or control:
                break
    except Refused as error:
        row.error = str(error)
    finally:
        if tree is not base:
            tree.remove()
    row.seconds = round(time.monotonic() - began, 1)
    return row


def _steps(mutant: Mutant, tree: Tree) -> Iterator[Seen]:
    if mutant.tier in SEEDS:
        first = 0
        for seeds in SEEDS[mutant.tier]:
            yield _plans(tree, mutant.run, first, seeds)
            first += seeds
    elif mutant.tier == "host":
        for seed in range(HOST_SEEDS):
            yield _hosts(tree, mutant.run, seed)
    elif mutant.tier == "disk":
        yield _disk(tree, DISK_SEED, mutant.images, mutant.runtime)
        yield _disk(tree, DISK_SEED + 1, mutant.images * IMAGES_AGAIN, mutant.runtime)
    else:
        yield _tests(tree, mutant.run)


def _plans(tree: Tree, scenario: str, first: int, seeds: int) -> Seen:
    out = tree.root / "failures"
    ended = tree.run(
        "-m", "chaos", "run", scenario, "--seed", str(first), "--seeds", str(seeds), "--json",
        "--out", str(out),
    )  # fmt: skip
    stopped = _invariant(ended)
    if stopped is not None:
        return Seen(seeds, 1, "invariant", stopped)
    report = _json(ended)
    if "skipped" in report:
        raise Refused(f"{scenario} was skipped: {report['skipped']}")
    told = [row for row in report["failures"] if not row["what"].startswith(EXCEPTION)]
    if not told and report["failures"]:
        row = report["failures"][0]
        raise Refused(f"seed {row['seed']} fell over: {row['what'][-WHAT_MAX:]}")
    if not told:
        return Seen(seeds)
    return Seen(seeds, len(told), told[0]["check"], f"seed {told[0]['seed']}: {told[0]['what']}")


def _hosts(tree: Tree, scenario: str, seed: int) -> Seen:
    ended = tree.run(
        "-m", "chaos", "run", scenario, "--seed", str(seed), "--json", "--out",
        str(tree.root / "failures"),
    )  # fmt: skip
    report = _json(ended)
    if "broken" not in report:
        raise Refused(f"{scenario} was skipped: {report.get('skipped')}")
    if not report["broken"]:
        return Seen(1)
    check, what = report["broken"][0]
    return Seen(1, 1, check, f"seed {seed}: {what}"[:WHAT_MAX])


def _disk(tree: Tree, seed: int, images: int, runtime: str) -> Seen:
    ended = tree.run("-c", IMAGES, str(seed), str(images), runtime)
    stopped = _invariant(ended)
    if stopped is not None:
        return Seen(images, 1, "invariant", stopped)
    report = _json(ended)
    if not report["violations"]:
        return Seen(report["images"])
    check, _, what = report["found"][0]["why"].partition(": ")
    return Seen(report["images"], report["violations"], check, what)


def _tests(tree: Tree, file: str) -> Seen:
    ended = tree.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=120", "--rootdir", ".",
        "--tb", "no", "-rf", file,
    )  # fmt: skip
    if -ended.code in DEATHS:
        # The tests hold in the tree as it is, so what they died of is the mutant.
        return Seen(1, 1, "died", f"the tests ended with {signal.Signals(-ended.code).name}")
    failed = re.findall(r"^FAILED (\S+)", ended.out, re.MULTILINE)
    passed = re.search(r"(\d+) passed", ended.out)
    tried = len(failed) + (int(passed[1]) if passed else 0)
    if ended.code not in (0, 1) or tried == 0 or (ended.code == 1 and not failed):
        raise Refused(f"{file} ended with {ended.code}: {(ended.out + ended.err)[-WHAT_MAX:]}")
    if not failed:
        return Seen(tried)
    return Seen(tried, len(failed), "tests", failed[0].partition("::")[2])


def _invariant(ended: Ended) -> str | None:
    """What the core says when it stops its process, which is how it keeps its own invariants."""
    if ended.code != -signal.SIGABRT and "invariant broken" not in ended.err:
        return None
    return next((line for line in ended.err.splitlines() if "invariant broken" in line), None)


def _json(ended: Ended) -> dict[str, Any]:
    try:
        found = json.loads(ended.out.splitlines()[-1])
    except (IndexError, ValueError) as error:
        what = (ended.out + ended.err)[-WHAT_MAX:]
        raise Refused(f"ended with {ended.code} and no report: {what}") from error
    assert isinstance(found, dict)
    return found
