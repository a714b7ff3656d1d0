"""A process in which something is altered before it begins: a limit, or what time it is.

The unmodified command is run; Python imports the altering lines first, by its own hook for that.
So a test need not wait out a deadline of minutes, and the program needs no option for tests. In
this process limits are altered for a while.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ledger
from ledger.facts import limits
from ledger.history import segments


def altered(directory: Path, **constants: object) -> dict[str, str]:
    """The environment of a process in which constants of the ledger have other values."""
    return before(directory, lines(constants))


def lines(constants: Mapping[str, Any]) -> str:
    """What gives constants of the ledger other values, as lines of Python."""
    made = ""
    for name, value in constants.items():
        owner = _owner(name)
        made += f"import {owner.__name__}\n{owner.__name__}.{name} = {_typed(name, value)!r}\n"
    return made


def _owner(name: str) -> ModuleType:
    """The module whose constant that is."""
    return segments if name == "MERGED_AT_ONCE" else limits


def _typed(name: str, value: Any) -> Any:
    """The value as its module has it: a file may have made a float of it."""
    return type(getattr(_owner(name), name))(value)


@contextmanager
def configured(bounds: Mapping[str, float]) -> Iterator[None]:
    """This process with other bounds."""
    kept = {name: getattr(_owner(name), name) for name in bounds}
    for name, value in bounds.items():
        setattr(_owner(name), name, _typed(name, value))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(_owner(name), name, value)


def days_ahead(directory: Path, days: int) -> dict[str, str]:
    """The environment of a process whose wall clock is so many days ahead."""
    return before(
        directory,
        "import time\n"
        "true_time_ns = time.time_ns\n"
        f"time.time_ns = lambda: true_time_ns() + {days} * 24 * 3600 * 10**9\n",
    )


def before(directory: Path, lines: str) -> dict[str, str]:
    """The environment of a process that runs `lines` first; they are kept in `directory`."""
    hook = directory / "before"
    hook.mkdir(parents=True, exist_ok=True)
    (hook / "sitecustomize.py").write_text(lines)
    package = Path(ledger.__file__).parents[1]
    return {"PYTHONPATH": os.pathsep.join([str(hook), str(package)])}
