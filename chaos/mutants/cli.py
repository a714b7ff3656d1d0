"""The command line: which mutants there are, and the table of who caught them.

Exit codes: 0 every mutant was caught and the tree as it is held, 1 not so, or a mutant does not fit
the tree any more, 2 wrong usage or a file of mutants that cannot be read.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from chaos.mutants import patch, run, tree
from chaos.mutants.patch import Mutant, Refused
from chaos.mutants.run import Row

WHAT_SHOWN = 70
WIDTH_MAX = 170  # of the table where nobody watches

console = Console()
if not console.is_terminal:
    console = Console(width=WIDTH_MAX)
aside = Console(stderr=True)  # how far it is, which no program reads


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, help="How many at the same time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs.")
@click.option("--list", "as_list", is_flag=True, help="Show the mutants and end.")
def main(names: tuple[str, ...], jobs: int, as_json: bool, as_list: bool) -> None:
    """Put each mutant (or those of NAME) into a copy of this tree and see whether it is caught."""
    try:
        chosen = _chosen(names)
        if as_list:
            _list(chosen, as_json)
            return
        rows, seconds = _all(chosen, jobs)
    except Refused as error:
        click.echo(f"mutants: {error}", err=True)
        sys.exit(2)
    _say(rows, seconds, as_json)
    sys.exit(0 if all(row.right for row in rows) else 1)


def _chosen(names: tuple[str, ...]) -> list[Mutant]:
    known = {one.name: one for one in patch.known()}
    for name in names:
        if name not in known:
            raise Refused(f"there is no mutant {name!r}; --list shows them")
    return [known[name] for name in names or known]


def _list(mutants: list[Mutant], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"mutants": msgspec.to_builtins(mutants)}))
        return
    table = Table("mutant", "tier", "run", "what is wrong with it", box=None)
    for one in mutants:
        table.add_row(one.name, one.tier, one.run, one.about)
    console.print(table)


def _all(mutants: list[Mutant], jobs: int) -> tuple[list[Row], float]:
    """The rows of the table: the tree as it is first, then the mutants in their order."""
    began = time.monotonic()
    controls = run.controls(mutants)
    wanted = [(one, True) for one in controls] + [(one, False) for one in mutants]
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=aside,
    )  # fmt: skip
    with tree.scratch() as place, progress, ThreadPoolExecutor(jobs) as threads:
        task = progress.add_task("a copy", total=len(wanted))
        base = tree.copy_of(tree.ROOT, Path(place))
        asked = {
            threads.submit(run.one, one, base, f"copy-{n}", control): n
            for n, (one, control) in enumerate(wanted)
        }
        rows: dict[int, Row] = {}
        try:
            for future in as_completed(asked):
                row = rows[asked[future]] = future.result()
                progress.console.print(_line(row), highlight=False)
                progress.update(task, advance=1, description=escape(row.name[:30]))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [rows[n] for n in range(len(wanted))], time.monotonic() - began


def _line(row: Row) -> str:
    colour = "green" if row.right else "red"
    return f"[{colour}]{_verdict(row)}[/] {escape(row.name)} ({row.seconds:.1f} s)"


def _short(run: str) -> str:
    """A scenario's name, or that of a file of tests."""
    return Path(run).stem


def _verdict(row: Row) -> str:
    if row.error:
        return "NOT RUN"
    if row.control:
        return "broken" if row.caught else "held"
    return "caught" if row.caught else "NOT CAUGHT"


def _say(rows: list[Row], seconds: float, as_json: bool) -> None:
    mutants = [row for row in rows if not row.control]
    caught = sum(row.caught for row in mutants)
    held = all(row.right for row in rows if row.control)
    if as_json:
        data = {
            "mutants": len(mutants), "caught": caught, "as_it_is_held": held,
            "seconds": round(seconds, 1), "rows": msgspec.to_builtins(rows),
        }  # fmt: skip
        click.echo(json.dumps(data))
        return
    name = Column("mutant", no_wrap=True)
    table = Table(name, "tier", "tried", "broken", "check", "first seen", "s", box=None)
    for row in rows:
        broken = f"{row.broken} of {row.of}" if row.caught else "0"
        what = row.error or " ".join(row.what.split())[:WHAT_SHOWN]
        verdict = row.check if row.right else f"[red]{_verdict(row)}[/]"
        table.add_row(
            escape(row.name), f"{row.tier}: {_short(row.run)}", str(row.tried), broken,
            verdict or "held", escape(what), f"{row.seconds:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{caught} of {len(mutants)} mutants caught, the tree as it is"
        f" {'held' if held else 'BROKE'}; {seconds:.0f} s",
        highlight=False,
    )
