"""The command line: list, run, replay and shrink. People get tables, programs get `--json`.

Exit codes: 0 every check held, 1 one did not, 2 wrong usage or a file that cannot be used. What a
tier cannot do on this machine is said, never left out in silence.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from chaos import failure, scenario
from chaos.scenario import Refused, Scenario
from chaos.sim.run import Outcome, Runs

TWICE_EVERY = 100  # of so many seeds one is run twice, and must leave the same trace
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
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scenario.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(),
    help="Where files of failures go.",
)  # fmt: skip
def run(
    names: tuple[str, ...], seed: int | None, seeds: int | None, as_json: bool, out: Path
) -> None:
    """Run scenarios by NAME, by file, or all of a folder (fast, slow)."""
    try:
        chosen = _chosen(names)
    except Refused as error:
        _refused(error)
    broken = 0
    with Runs() as runs:
        for one in chosen:
            count = seeds or (one.scenario.seeds if seed is None else 1)
            broken += _run_one(runs, one, seed or 0, count, as_json, out)
    sys.exit(1 if broken else 0)


def _run_one(
    runs: Runs, one: Scenario, first: int, count: int, as_json: bool, out: Path
) -> int:
    """Run seeds of one scenario, tell what they came to; how many broke an invariant."""
    began = time.monotonic()
    seen: dict[str, int] = {}
    failures: list[dict[str, Any]] = []
    virtual_ns = 0
    for seed in range(first, first + count):
        plan = scenario.expand(one, seed)
        outcome = runs.run(plan)
        if outcome.broken is None and (seed - first) % TWICE_EVERY == 0:
            again = runs.run(plan)
            if again.trace_hash != outcome.trace_hash:
                what = f"seed {seed} left {outcome.trace_hash}, then {again.trace_hash}"
                outcome.broken = ("repeatable", what)
        virtual_ns += outcome.virtual_ns
        for name, times in outcome.seen.items():
            seen[name] = seen.get(name, 0) + times
        if outcome.broken is not None:
            failures.append(_keep(outcome, out, len(failures)))
    seconds = time.monotonic() - began
    report = {
        "scenario": one.scenario.name,
        "first_seed": first,
        "seeds": count,
        "broken": len(failures),
        "seconds": round(seconds, 3),
        "seeds_per_minute": round(count / seconds * 60),
        "virtual_seconds": virtual_ns // 10**9,
        "seen": dict(sorted(seen.items())),
        "failures": failures,
    }
    verdict = "[green]held[/]" if not failures else f"[red]{len(failures)} broken[/]"
    lines = [
        f"[bold]{one.scenario.name}[/]: {verdict}; {count} seeds in {seconds:.1f} s"
        f" ({report['seeds_per_minute']}/min), {report['virtual_seconds']} s of virtual time",
        "  " + ", ".join(f"{name} {times}" for name, times in sorted(seen.items())),
    ]
    lines += [f"  [red]{row['check']}[/] seed {row['seed']}: {row['file']}" for row in failures]
    _say(as_json, report, "\n".join(lines))
    return len(failures)


def _keep(outcome: Outcome, out: Path, written: int) -> dict[str, Any]:
    """Write the failure's file, the first few of them."""
    found = failure.of(outcome)
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
