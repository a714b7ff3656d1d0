"""The command line: list, run, replay and shrink. People get tables, programs get `--json`.

Exit codes: 0 every check held, 1 one did not, 2 wrong usage or a file that cannot be used. What a
tier cannot do on this machine is said, never left out in silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from chaos import batch, catalog, disk, failure, scenario
from chaos.catalog import Entry
from chaos.coverage import Coverage
from chaos.scenario import Refused
from ledger.facts import schema

CODES = len(schema.AccountStatus) + len(schema.TransferStatus)

console = Console()


@click.group()
def main() -> None:
    """Scenarios that hurt the ledger on purpose, and checks that need no trust in it."""


def _say(as_json: bool, data: dict[str, Any], text: str) -> None:
    if as_json:
        click.echo(json.dumps(data))
    else:
        console.print(text, highlight=False)


def _refused(error: Exception) -> None:
    click.echo(f"chaos: {error}", err=True)
    sys.exit(2)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
def list_command(as_json: bool) -> None:
    """Show the scenarios there are, and what this machine cannot run."""
    try:
        found = catalog.known()
    except Refused as error:
        _refused(error)
    if as_json:
        rows = [
            {"name": one.name, "folder": one.folder, "tier": one.tier, "kind": one.kind,
             "seeds": one.seeds, "about": one.about}
            for one in found
        ]  # fmt: skip
        click.echo(json.dumps({"scenarios": rows}))
        return
    table = Table("name", "folder", "tier", "seeds", "about", box=None)
    for one in found:
        table.add_row(one.name, one.folder, one.tier, str(one.seeds), one.about)
    console.print(table)
    for tier in ("disk", "process", "network", "host"):
        why = _missing(tier)
        if why is not None:
            console.print(f"not here: {tier}: {why}", highlight=False)


def _missing(tier: str) -> str | None:
    return disk.missing() if tier == "disk" else batch.missing(tier)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--seed", type=click.IntRange(0, scenario.SEED_MAX), help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), help="How many seeds; one when --seed is given.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="How many processes.")
@click.option("--minutes", type=click.FloatRange(0.01, 10_000), help="With new seeds for so long.")
@click.option("--coverage", is_flag=True, help="Fail for a code or a fault that was never seen.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scenario.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(),
    help="Where files of failures and reports go.",
)  # fmt: skip
def run(
    names: tuple[str, ...], seed: int | None, seeds: int | None, jobs: int,
    minutes: float | None, coverage: bool, as_json: bool, out: Path,
) -> None:  # fmt: skip
    """Run scenarios by NAME, by file, or all of a folder (fast, slow, sale)."""
    try:
        chosen = catalog.chosen(names)
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise Refused(f"{out}: not writable")
    except (OSError, Refused) as error:
        _refused(error)
    began, covered, broken, first = time.monotonic(), Coverage(), 0, seed or 0
    while True:
        most = 0
        for one in chosen:
            count = seeds or (one.seeds if seed is None else 1)
            most = max(most, count)
            try:
                broken += _run_one(one, range(first, first + count), jobs, covered, as_json, out)
            except (OSError, Refused) as error:
                _refused(error)
        first += most
        if minutes is None or time.monotonic() - began >= minutes * 60:
            break
    broken += _covered(covered, as_json) if coverage else 0
    if minutes is not None:
        _say(as_json, {"minutes": (time.monotonic() - began) / 60, "broken": broken},
             f"{(time.monotonic() - began) / 60:.1f} minutes, {broken} broken")  # fmt: skip
    sys.exit(1 if broken else 0)


def _covered(covered: Coverage, as_json: bool) -> int:
    missing = covered.missing()
    if as_json:
        codes, fired = dict(covered.codes), {k: dict(v) for k, v in covered.fired.items()}
        click.echo(json.dumps({"coverage": {"codes": codes, "fired": fired, "missing": missing}}))
        return len(missing)
    console.print(covered.table())
    for name in missing:
        console.print(f"[red]never seen[/]: {name}", highlight=False)
    return len(missing)


def _run_one(
    one: Entry, numbers: range, jobs: int, covered: Coverage, as_json: bool, out: Path
) -> int:
    """Run seeds of one scenario, tell what they came to; how many broke an invariant."""
    why = _missing(one.tier)
    if why is not None:
        skipped = {"scenario": one.name, "skipped": why}
        _say(as_json, skipped, f"[bold]{one.name}[/]: [yellow]skipped[/]: {escape(why)}")
        return 0
    if one.kind == "host":
        return _run_hosts(one, numbers, jobs, covered, as_json, out)
    if one.kind != "plan":
        return sum(_run_real(one, seed, as_json, out) for seed in numbers)
    if one.tier == "disk":
        return sum(_run_disk(one, seed, jobs, as_json, out) for seed in numbers)
    return _run_plans(one, numbers, jobs, covered, as_json, out)


def _run_plans(
    one: Entry, numbers: range, jobs: int, covered: Coverage, as_json: bool, out: Path
) -> int:
    read = scenario.read(one.path)
    with _progress(one.name) as progress:
        tally = batch.run(read, numbers.start, len(numbers), jobs, progress)
    covered.add(read, tally.seen, tally.codes)
    failures = [batch.keep(found, out, n) for n, found in enumerate(tally.failures)]
    rate, ran = round(tally.seeds / tally.seconds * 60), tally.run_ns // 10**9
    report = {
        "scenario": one.name, "tier": one.tier, "first_seed": numbers.start, "seeds": tally.seeds,
        "broken": len(failures), "seconds": round(tally.seconds, 3), "seeds_per_minute": rate,
        "virtual_seconds": ran, "seen": dict(sorted(tally.seen.items())),
        "codes": dict(sorted(tally.codes.items())), "failures": failures,
    }  # fmt: skip
    if one.tier == "sim":
        report["trace_hash"] = tally.trace_hash()
    verdict = "[green]held[/]" if not failures else f"[red]{len(failures)} broken[/]"
    lines = [
        f"[bold]{one.name}[/]: {verdict}; {tally.seeds} seeds in {tally.seconds:.1f} s"
        f" ({rate}/min), {ran} s of {'virtual' if one.tier == 'sim' else 'real'} time,"
        f" {len(tally.codes)} of {CODES} result codes"
        + (f", traces {tally.trace_hash()[:16]}" if one.tier == "sim" else ""),
        "  " + ", ".join(f"{what} {times}" for what, times in sorted(tally.seen.items())),
    ]
    shown = failures[: batch.FAILURES_MAX]
    lines += [f"  [red]{row['check']}[/] seed {row['seed']}: {row['file']}" for row in shown]
    if len(failures) > len(shown):
        lines.append(f"  and {len(failures) - len(shown)} more, of which no file is kept")
    _say(as_json, report, "\n".join(lines))
    return len(failures)


def _run_disk(one: Entry, seed: int, jobs: int, as_json: bool, out: Path) -> int:
    """One seed of the disk tier; how many images broke an invariant."""
    with _progress(one.name) as progress:
        report = disk.run(seed, scenario.read(one.path).disk.images, progress, jobs=jobs)
    files = []
    for number, found in enumerate(report.found[: batch.FAILURES_MAX]):
        out.mkdir(parents=True, exist_ok=True)
        files.append(str(out / f"FAILURE-{one.name}-{seed}-{number}.json"))
        disk.keep(report, found, Path(files[-1]))
    data = {"scenario": one.name, "files": files, **msgspec.to_builtins(report)}
    told = [f"[bold]{one.name}[/]: {escape(line)}" for line in report.lines()]
    _say(as_json, data, "\n".join([*told, *files]))
    return report.violations


def _run_real(one: Entry, seed: int, as_json: bool, out: Path) -> int:
    """One run of a sale or a comparison on real processes; whether it is broken."""
    tells = Console(stderr=True)
    with tells.status(one.name) as status:
        verdict = catalog.run(one, seed, out, lambda what: status.update(f"{one.name}: {what}"))
    _say(as_json, msgspec.to_builtins(verdict), escape("\n".join(verdict.lines())))
    return 0 if verdict.held else 1


def _run_hosts(
    one: Entry, numbers: range, jobs: int, covered: Coverage, as_json: bool, out: Path
) -> int:
    """Seeds of hosts; how many are broken."""
    from chaos.host import run as hosts

    found, broken = hosts.read(one.path), 0
    with _progress(one.name) as progress:
        for done, verdict in enumerate(hosts.seeds(found, numbers, jobs, out), 1):
            covered.add_hosts(found, verdict)
            _say(as_json, msgspec.to_builtins(verdict), escape("\n".join(verdict.lines())))
            broken += not verdict.held
            progress(done, len(numbers))
    return broken


@main.command()
@click.argument("path", metavar="FAILURE.json", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
@click.option("--trace", "with_trace", is_flag=True, help="Show the whole trace.")
def replay(path: Path, as_json: bool, with_trace: bool) -> None:
    """Run a failure's plan again and say whether the same happens."""
    try:
        of_disk = disk.is_failure(path)
        seen = disk.replay(path) if of_disk else None
        again = catalog.replay(path)
    except (OSError, Refused, msgspec.ValidationError) as error:
        _refused(Refused(f"{path}: {str(error).removeprefix(f'{path}: ')}"))
    if of_disk:
        why = seen.why if seen else "held: it is not seen any more"
        _say(as_json, {"check": why.partition(":")[0] if seen else None, "what": why}, escape(why))
        sys.exit(1 if seen else 0)
    if again is not None:
        _say(as_json, msgspec.to_builtins(again), escape("\n".join(again.lines())))
        sys.exit(0 if again.held else 1)
    try:
        kept = failure.read(path)
    except Refused as error:
        _refused(error)
    with batch.runs(kept.plan.tier) as runs:
        outcome = runs.run(kept.plan)
    check, what = outcome.broken or (None, "every check held")
    if with_trace and not as_json:
        click.echo("\n".join(outcome.trace))
    data: dict[str, Any] = {"check": check, "what": what, "trace_hash": outcome.trace_hash}
    told = f"[bold]{check or 'held'}[/]: {escape(what)}"
    if kept.plan.tier == "sim":
        same = data["same_trace"] = outcome.trace_hash == kept.trace_hash
        tells = "the same trace" if same else f"another trace than at {kept.commit}"
        told += f"\n{tells} ({outcome.trace_hash[:16]})"
    if with_trace:
        data["trace"] = outcome.trace
    _say(as_json, data, told)
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
        with batch.runs(kept.plan.tier) as runs:
            shrinker = failure.Shrinker(runs.run, kept.check)
            plan = shrinker.shrink(kept.plan)
            last = shrinker.last
    except Refused as error:
        _refused(error)
    assert last is not None
    small = msgspec.structs.replace(failure.of(last), plan=plan)
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
        f"[bold]{small.check}[/]: {escape(small.what)}\n{len(kept.plan.entries)} entries became"
        f" {len(plan.entries)} in {shrinker.runs} runs: {out}",
    )
