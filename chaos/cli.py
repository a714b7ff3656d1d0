"""The command line: list, run, replay and shrink. People get tables, programs get `--json`.

Exit codes: 0 every check held, 1 one did not, 2 wrong usage or a file that cannot be used. What a
tier cannot do on this machine is said, never left out in silence.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos import disk, failure, scenario
from chaos.failure import Failure
from chaos.scenario import Refused, Scenario
from chaos.sim.run import Runs
from ledger import schema

TWICE_EVERY = 100  # of so many seeds one is run twice, and must leave the same trace
CODES = len(schema.AccountStatus) + len(schema.TransferStatus)
PARTS = 8  # pieces of work of each process
FAILURES_MAX = 10  # files written by one scenario of a run

console = Console()


@click.group()
def main() -> None:
    """Scenarios that hurt the ledger on purpose, and checks that need no trust in it."""


def _say(as_json: bool, data: dict[str, Any], text: str) -> None:
    if as_json:
        click.echo(json.dumps(data))
    else:
        console.print(text, highlight=False)


def _refused(error: Refused) -> None:
    click.echo(f"chaos: {error}", err=True)
    sys.exit(2)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def list_command(as_json: bool) -> None:
    """Show the scenarios there are."""
    try:
        found = list(scenario.known())
    except Refused as error:
        _refused(error)
    if as_json:
        rows = [
            {"name": one.scenario.name, "folder": folder, "tier": one.scenario.tier,
             "seeds": one.scenario.seeds, "about": one.scenario.about}
            for folder, one in found
        ]  # fmt: skip
        click.echo(json.dumps({"scenarios": rows}))
        return
    table = Table("name", "folder", "tier", "seeds", "about", box=None)
    for folder, one in found:
        head = one.scenario
        table.add_row(head.name, folder, head.tier, str(head.seeds), head.about)
    console.print(table)


def _chosen(names: tuple[str, ...]) -> list[Scenario]:
    """The scenarios that are meant: by name, by file, or all of a folder."""
    by_folder: dict[str, list[Scenario]] = {}
    for folder, one in scenario.known():
        by_folder.setdefault(folder, []).append(one)
    chosen: list[Scenario] = []
    for name in names:
        chosen += by_folder[name] if name in by_folder else [scenario.find(name)]
    return chosen


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--seed", type=click.IntRange(0, scenario.SEED_MAX), help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), help="How many seeds; one when --seed is given.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="How many processes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scenario.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(),
    help="Where files of failures go.",
)  # fmt: skip
def run(
    names: tuple[str, ...], seed: int | None, seeds: int | None, jobs: int, as_json: bool,
    out: Path,
) -> None:  # fmt: skip
    """Run scenarios by NAME, by file, or all of a folder (fast, slow)."""
    try:
        chosen = _chosen(names)
    except Refused as error:
        _refused(error)
    broken = 0
    for one in chosen:
        count = seeds or (one.scenario.seeds if seed is None else 1)
        broken += _run_one(one, seed or 0, count, jobs, as_json, out)
    sys.exit(1 if broken else 0)


class Tally:
    """What the seeds of one scenario came to, added up."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.virtual_ns = 0
        self.failures: list[Failure] = []

    def add(self, other: Tally) -> None:
        self.seen += other.seen
        self.codes += other.codes
        self.virtual_ns += other.virtual_ns
        self.failures += other.failures


def _run_some(one: Scenario, seeds: range) -> Tally:
    """Run seeds of one scenario, now and then one of them twice."""
    tally = Tally()
    with Runs() as runs:
        for seed in seeds:
            plan = scenario.expand(one, seed)
            outcome = runs.run(plan)
            if outcome.broken is None and seed % TWICE_EVERY == 0:
                again = runs.run(plan)
                if again.trace_hash != outcome.trace_hash:
                    what = f"seed {seed} left {outcome.trace_hash}, then {again.trace_hash}"
                    outcome.broken = ("repeatable", what)
            tally.seen.update(outcome.seen)
            tally.codes.update(outcome.codes)
            tally.virtual_ns += outcome.virtual_ns
            if outcome.broken is not None:
                tally.failures.append(failure.of(outcome))
    return tally


def _tally(one: Scenario, first: int, count: int, jobs: int) -> Tally:
    """All seeds, in `jobs` processes. A seed's run does not depend on where it runs."""
    if jobs == 1:
        return _run_some(one, range(first, first + count))
    tally = Tally()
    parts = [range(first + n, first + count, jobs * PARTS) for n in range(jobs * PARTS)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for part in pool.map(_run_some, [one] * len(parts), parts):
            tally.add(part)
    tally.failures.sort(key=lambda found: found.plan.seed)
    return tally


def _run_one(
    one: Scenario, first: int, count: int, jobs: int, as_json: bool, out: Path
) -> int:
    """Run seeds of one scenario, tell what they came to; how many broke an invariant."""
    if one.scenario.tier == "disk":
        return sum(_run_disk(one, first + n, jobs, as_json, out) for n in range(count))
    began = time.monotonic()
    tally = _tally(one, first, count, jobs)
    seconds = time.monotonic() - began
    failures = [_keep(found, out, n) for n, found in enumerate(tally.failures)]
    name, rate, virtual = one.scenario.name, round(count / seconds * 60), tally.virtual_ns // 10**9
    report = {
        "scenario": name, "first_seed": first, "seeds": count, "broken": len(failures),
        "seconds": round(seconds, 3), "seeds_per_minute": rate, "virtual_seconds": virtual,
        "seen": dict(sorted(tally.seen.items())), "codes": dict(sorted(tally.codes.items())),
        "failures": failures,
    }  # fmt: skip
    verdict = "[green]held[/]" if not failures else f"[red]{len(failures)} broken[/]"
    lines = [
        f"[bold]{name}[/]: {verdict}; {count} seeds in {seconds:.1f} s ({rate}/min), {virtual} s"
        f" of virtual time, {len(tally.codes)} of {CODES} result codes",
        "  " + ", ".join(f"{what} {times}" for what, times in sorted(tally.seen.items())),
    ]
    lines += [f"  [red]{row['check']}[/] seed {row['seed']}: {row['file']}" for row in failures]
    _say(as_json, report, "\n".join(lines))
    return len(failures)


def _run_disk(one: Scenario, seed: int, jobs: int, as_json: bool, out: Path) -> int:
    """One seed of the disk tier; how many images broke an invariant."""
    name, why = one.scenario.name, disk.missing()
    if why is not None:
        skipped = {"scenario": name, "seed": seed, "skipped": why}
        _say(as_json, skipped, f"[bold]{name}[/]: [yellow]skipped[/]: {why}")
        return 0
    report = disk.run(seed, one.disk.images, jobs=jobs)
    files = []
    for number, found in enumerate(report.found[:FAILURES_MAX]):
        out.mkdir(parents=True, exist_ok=True)
        files.append(str(out / f"FAILURE-{name}-{seed}-{number}.json"))
        disk.keep(report, found, Path(files[-1]))
    data = {"scenario": name, "files": files, **msgspec.to_builtins(report)}
    told = [f"[bold]{name}[/]: {escape(line)}" for line in report.lines()]
    _say(as_json, data, "\n".join([*told, *files]))
    return report.violations


def _keep(found: Failure, out: Path, written: int) -> dict[str, Any]:
    """Write the failure's file, the first few of them."""
    path = out / f"FAILURE-{found.plan.scenario}-{found.plan.seed}.json"
    if written < FAILURES_MAX:
        out.mkdir(parents=True, exist_ok=True)
        failure.write(path, found)
    return {"seed": found.plan.seed, "check": found.check, "what": found.what, "file": str(path)}


@main.command()
@click.argument("path", metavar="FAILURE.json", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
@click.option("--trace", "with_trace", is_flag=True, help="Show the whole trace.")
def replay(path: Path, as_json: bool, with_trace: bool) -> None:
    """Run a failure's plan again and say whether the same happens."""
    if disk.is_failure(path):
        seen = disk.replay(path)
        why = seen.why if seen else "held: it is not seen any more"
        _say(as_json, {"check": why.partition(":")[0] if seen else None, "what": why}, escape(why))
        sys.exit(1 if seen else 0)
    try:
        kept = failure.read(path)
    except Refused as error:
        _refused(error)
    with Runs() as runs:
        outcome = runs.run(kept.plan)
    same = outcome.trace_hash == kept.trace_hash
    check, what = outcome.broken or (None, "every check held")
    if with_trace and not as_json:
        click.echo("\n".join(outcome.trace))
    data: dict[str, Any] = {"check": check, "what": what, "same_trace": same}
    data["trace_hash"] = outcome.trace_hash
    if with_trace:
        data["trace"] = outcome.trace
    tells = "the same trace" if same else f"another trace than at {kept.commit}"
    _say(as_json, data, f"[bold]{check or 'held'}[/]: {what}\n{tells} ({outcome.trace_hash[:16]})")
    sys.exit(0 if outcome.broken is None else 1)


@main.command()
@click.argument("path", metavar="FAILURE.json", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the small one goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def shrink(path: Path, out: Path | None, as_json: bool) -> None:
    """Leave out what is not needed for the same check to fail."""
    began = time.monotonic()
    if disk.is_failure(path):
        _refused(Refused(f"{path}: one image of one moment has nothing to leave out"))
    try:
        kept = failure.read(path)
        with Runs() as runs:
            shrinker = failure.Shrinker(runs.run, kept.check)
            plan = shrinker.shrink(kept.plan)
            small = failure.of(runs.run(plan))
    except Refused as error:
        _refused(error)
    out = out or path.with_name(path.stem + "-small.json")
    failure.write(out, small)
    data = {
        "file": str(out), "check": small.check, "what": small.what, "runs": shrinker.runs,
        "entries_before": len(kept.plan.entries), "entries": len(plan.entries),
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _say(
        as_json,
        data,
        f"[bold]{small.check}[/]: {small.what}\n{len(kept.plan.entries)} entries became"
        f" {len(plan.entries)} in {shrinker.runs} runs: {out}",
    )
