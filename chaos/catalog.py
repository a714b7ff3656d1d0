"""The scenarios there are, whatever runs them: by name, by file, or all of a folder.

A file is one of four kinds: a plan made from seeds (chaos/scenario.py), hosts that embed a book
(chaos/host/), a sale that an operator would recognise (chaos/sale/), or a comparison with another
system (chaos/control/). Here a file is only found and told apart; whoever runs it reads it
strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chaos import scenario, strict
from chaos.scenario import FOLDER, Refused
from chaos.verdict import Verdict

KINDS = ("plan", "host", "sale", "control")  # a table [control], [load] or [host] says which


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
    tables = {"control": "control", "load": "sale", "host": "host"}
    kind = next((tables[name] for name in tables if name in found), "plan")
    head = scenario.read(path).scenario if kind == "plan" else reader(kind)(path).scenario
    seeds = getattr(head, "seeds", 1)
    return Entry(path, path.parent.name, kind, head.name, head.tier, seeds, head.about)


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
    if kind == "host":
        from chaos.host import run as host

        return host
    from chaos.control import run as control

    return control


def reader(kind: str) -> Callable[[Path], Any]:
    read: Callable[[Path], Any] = _room(kind).read
    return read


def run(
    one: Entry, seed: int, out: Path, on_progress: Callable[[str], None] | None = None
) -> Verdict:
    """Run hosts, a sale or a comparison."""
    verdict: Verdict = _room(one.kind).run(one.path, seed, out, on_progress)
    return verdict


def replay(path: Path) -> Verdict | None:
    """Run the failure of hosts or of a sale again; None for a file that is not one of them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    scenario = found.get("scenario", {})
    kind = "host" if "hosts" in found else "sale" if "load" in scenario else ""
    verdict: Verdict | None = _room(kind).replay(path) if kind else None
    return verdict
