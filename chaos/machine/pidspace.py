"""A process with the number 1 in a pid namespace of its own, as the first of a container has it.

Files are shared with everybody else, process numbers are not: two such processes have the same one.
"""

from __future__ import annotations

import sys

from chaos.machine.command import Refused, run, why_not


def prefix() -> list[str]:
    """What goes before a command. Whoever kills what is started kills the command; no other signal
    reaches it."""
    return ["unshare", "--pid", "--fork", "--kill-child"]


def _attempt() -> None:
    said = run(*prefix(), sys.executable, "-I", "-S", "-c", "import os; print(os.getpid())")
    if int(said) != 1:
        raise Refused(f"the first process has the number {said.strip()}")


def missing() -> str | None:
    """None where this machine has pid namespaces, else one line with what it lacks."""
    return why_not("pid namespace", _attempt)
