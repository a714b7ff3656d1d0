"""How many instructions a payment costs in the core and in the codec, counted by callgrind.

A count does not depend on how busy the machine is, so its budget is narrow. It is exact for one
compiler and one processor's paths (callgrind says which instructions it has), so the budgets in
limits.json are of the machine that stored them: `make budget` compares by hand, CI does not.
Each part runs under callgrind in a process of its own; only its own call is collected.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.allocations import PARTS as CALLS
from bench.guard import LIMITS, store
from bench.parts import FULL, SINGLES, Desk, Shape

ROOT = Path(__file__).resolve().parent.parent
MARGIN = 1.05
WARM_UP_ROUNDS, ROUNDS = 2, 6
SECONDS_EACH = 25
# The part, its shape, and the function that callgrind collects.
PARTS: dict[str, tuple[str, Shape, str]] = {
    "core, full requests": ("judges", FULL, "*_core_4Core_*execute"),
    "core, single payments": ("judges", SINGLES, "*_core_4Core_*execute"),
    "codec reads full requests": ("reads", FULL, "*_wire_5Codec_*parse"),
    "codec reads single payments": ("reads", SINGLES, "*_wire_5Codec_*parse"),
    "codec writes full replies": ("writes", FULL, "*_wire_5Codec_*encode"),
    "codec writes single replies": ("writes", SINGLES, "*_wire_5Codec_*encode"),
}


def total(profile: Path) -> int:
    """The instructions that a profile of callgrind collected."""
    for line in profile.read_text().splitlines():
        if line.startswith(("totals:", "summary:")):
            return int(line.split()[1])
    raise ValueError(f"{profile.name} is no profile of callgrind")


def measure(name: str) -> float:
    """Instructions for each payment of one part: what more rounds cost more."""
    counts = [_collected(name, rounds) for rounds in (WARM_UP_ROUNDS, WARM_UP_ROUNDS + ROUNDS)]
    return (counts[1] - counts[0]) / (ROUNDS * PARTS[name][1].payments)


def _collected(name: str, rounds: int) -> int:
    part, shape, function = PARTS[name]
    with tempfile.TemporaryDirectory(prefix="ledger-callgrind-") as folder:
        profile = Path(folder) / "profile"
        command = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}",
            "--collect-atstart=no", f"--toggle-collect={function}",
            sys.executable, "-m", "bench.instructions", "--child",
            part, *map(str, shape), str(rounds),
        ]  # fmt: skip
        env = os.environ | {"PYTHONHASHSEED": "0"}
        found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if found.returncode:
            raise RuntimeError(found.stderr[-2000:])
        return total(profile)


def above(found: dict[str, float], budgets: dict[str, float]) -> list[str]:
    """The parts that cost more than their budget and its margin."""
    return [name for name, figure in found.items() if figure > budgets[name] * MARGIN]


def judged(found: dict[str, float], budgets: dict[str, float]) -> list[str]:
    """A line for each part."""
    over = above(found, budgets)
    return [
        f"{name:<30} {figure:9,.1f} instructions a payment, budget {budgets[name]:9,.1f}"
        f" ({figure / budgets[name] - 1:+.1%}){' ABOVE' if name in over else ''}"
        for name, figure in found.items()
    ]


@click.command()
@click.option("--store", "stores", is_flag=True, help="Keep what is found as the budgets.")
def main(stores: bool) -> None:
    """Count instructions for each payment, and compare them with their budgets."""

    if shutil.which("valgrind") is None:
        click.echo("valgrind is not installed: no instructions are counted (Debian: valgrind)")
        return
    seconds = 2 * SECONDS_EACH * len(PARTS)
    click.echo(f"{len(PARTS)} parts under callgrind, about {seconds // 60} minutes", err=True)
    found: dict[str, float] = {}
    for name in PARTS:
        found[name] = round(measure(name), 1)
        click.echo(f"{name}: {found[name]:,}", err=True)
    if stores:
        store("instructions", found)
        return
    budgets = json.loads(LIMITS.read_text())["instructions"]
    for line in judged(found, budgets):
        click.echo(line)
    if above(found, budgets):
        raise SystemExit(1)


def _child(part: str, requests: int, events: int, rounds: int) -> None:
    one = CALLS[part](Desk(Shape(requests, events)))  # type: ignore[call-arg]
    for _ in range(rounds):
        one.prepare()
        one.run()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        main()
