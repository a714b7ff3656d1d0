"""Test tool: builds the fault library `shim.c` when it is first needed and sets it up for a child.

The library is kept in the user's cache, under a name made from its source. See `shim.c` for the
faults and what the log says. This file knows nothing of what is tested.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")


class Event(NamedTuple):
    """One line of the log: `what` is begin or end, `ns` of the monotonic clock."""

    what: str
    call: str
    ns: int
    result: int


def library() -> Path:
    """The built library. CalledProcessError when there is no working `cc`."""
    name = f"shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledger-tests"
    path = cache / name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            built = Path(directory) / name
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run(["cc", *flags, SOURCE, "-o", built, "-ldl"], check=True)
            built.replace(path)
    return path


def environment(
    match: Path | str,
    rule: str = "",
    *,
    control: Path | None = None,
    log: Path | None = None,
) -> dict[str, str]:
    """The environment of a child that gets faults on paths that contain `match`.

    `rule` is "calls nth action". With `control` the child reads its rule from that file instead.
    """
    variables = dict(os.environ, LD_PRELOAD=str(library()), SHIM_MATCH=str(match))
    if rule:
        names = ("SHIM_CALL", "SHIM_NTH", "SHIM_ACTION")
        variables.update(zip(names, rule.split(), strict=True))
    if control is not None:
        variables["SHIM_CONTROL"] = str(control)
    if log is not None:
        variables["SHIM_LOG"] = str(log)
    return variables


def switch(control: Path, rule: str = "") -> None:
    """Put `rule` in force in every process that reads `control`; none by default."""
    new = control.with_suffix(".new")
    new.write_text(rule)
    new.replace(control)


def events(log: Path) -> list[Event]:
    """What the log holds so far."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [Event(what, call, int(ns), int(result)) for what, call, ns, result in lines]
