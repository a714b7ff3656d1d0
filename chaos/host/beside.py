"""A process beside the one that has a book open, as whoever runs the two sees it.

It is begun and ended here; what it does to the files is outside.py. Where the system lets it, it is
process 1 of a namespace of its own, as in a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.machine import command

OUTSIDE = [sys.executable, "-m", "chaos.host.outside"]
# A process that is number 1 in a namespace of its own; it dies with who started it.
OWN_NUMBERS = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
UNPRIVILEGED = ["unshare", "--user", "--map-root-user", *OWN_NUMBERS[1:]]
STOP_SECONDS_MAX = 20.0


def own_numbers() -> list[str] | None:
    """What goes before a command so that it is process 1 of a namespace, or None."""
    for prefix in (OWN_NUMBERS, UNPRIVILEGED):
        with contextlib.suppress(command.Refused):
            command.run(*prefix, "true")
            return prefix
    return None


def behind(pid: int, prefix: Sequence[str]) -> list[int]:
    """The process that a prefix stands before: what it has started, or itself without one."""
    if not prefix:
        return [pid]
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Beside:
    """The process at the files, if there is to be one."""

    def __init__(self, kind: str, directory: Path, prefix: Sequence[str] = ()) -> None:
        self._kind, self._directory, self._prefix = kind, directory, prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._kind and self._process is None:
            command = [*self._prefix, *OUTSIDE, self._kind, str(self._directory)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )

    def wait_held(self) -> int:
        """How many slots for readers are held, once none is left."""
        assert self._process is not None and self._process.stdout is not None
        held: dict[str, int] = json.loads(self._process.stdout.readline() or b"{}")
        return held.get("held", 0)

    def stop(self) -> Counter[str]:
        """What it did."""
        if self._process is None:
            return Counter()
        try:
            told, _ = self._process.communicate(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            for pid in behind(self._process.pid, self._prefix):
                os.kill(pid, signal.SIGKILL)
            told, _ = self._process.communicate()
        done: dict[str, Any] = json.loads(told) if told.strip() else {"ended early": 1}
        seen = Counter({f"{self._kind}: {what}": count for what, count in done.items()})
        seen[self._kind] += done.get("done", 0) > 0
        return seen
