"""A server process in which something is altered before it begins: a limit, or what time it is.

The unmodified command is run; Python imports the altering lines first, by its own hook for that.
So a test need not wait out a deadline of minutes, and the program needs no option for tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import ledger


def altered(directory: Path, **constants: object) -> dict[str, str]:
    """The environment of a process in which constants of ledger.config have other values."""
    lines = [f"config.{name} = {value!r}" for name, value in constants.items()]
    return before(directory, "\n".join(["from ledger import config", *lines]))


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
