"""The scenarios there are, whatever runs them: by name, by file, or all of a folder.

A file is one of three kinds: a plan made from seeds (chaos/scenario.py), a sale that an operator
would recognise (chaos/sale/), or a comparison with another system (chaos/control/). Here a file is
only found and told apart; whoever runs it reads it strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chaos import scenario, strict
from chaos.scenario import FOLDER, Refused
from chaos.verdict import Verdict

KINDS = ("plan", "sale", "control")  # a table [control] or [load] says which


class Entry(NamedTuple):
    """A scenario's file and what its head says."""

    path: Path
    folder: str
    kind: str
    name: str
    tier: str
    seeds: int
    about: str


def entry(path: Path) -> Entry:
    """What a file is. Refused when it cannot be read or is no scenario."""
    found = strict.tables(path)
    kind = "control" if "control" in found else "sale" if "load" in found else "plan"
    if kind == "plan":
        head = scenario.read(path).scenario
        seeds, name, tier, about = head.seeds, head.name, head.tier, head.about
    else:
        said = reader(kind)(path).scenario
        seeds, name, tier, about = 1, said.name, said.tier, said.about
    return Entry(path, path.parent.name, kind, name, tier, seeds, about)


def known() -> list[Entry]:
    """Every scenario that comes with the software."""
    return [entry(path) for path in sorted(FOLDER.glob("*/*.toml"))]


def chosen(names: tuple[str, ...]) -> list[Entry]:
    """The scenarios that are meant by names, files and folders."""
    there = known()
    folders = {one.folder for one in there}
    by_name = {one.name: one for one in there}
    found: list[Entry] = []
    for name in names:
        if name in folders:
            found += [one for one in there if one.folder == name]
        elif name.endswith(".toml"):
            found.append(entry(Path(name)))
        elif name in by_name:
            found.append(by_name[name])
        else:
            what = ", ".join(sorted(by_name))
            raise Refused(f"there is no scenario {name!r}; there are {what}")
    return found


def _room(kind: str) -> Any:
    """What reads and runs the scenarios of a kind; loaded only when it is needed."""
    if kind == "sale":
        from chaos.sale import run as sale

        return sale
    from chaos.control import run as control

    return control


def reader(kind: str) -> Callable[[Path], Any]:
    read: Callable[[Path], Any] = _room(kind).read
    return read


def run(
    one: Entry, seed: int, out: Path, on_progress: Callable[[str], None] | None = None
) -> Verdict:
    """Run a sale or a comparison."""
    verdict: Verdict = _room(one.kind).run(one.path, seed, out, on_progress)
    return verdict


def replay(path: Path) -> Verdict | None:
    """Run the failure of a sale or a comparison again; None for a file that is not one of them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or "load" not in found.get("scenario", {}):
        return None
    verdict: Verdict = _room("sale").replay(path)
    return verdict
