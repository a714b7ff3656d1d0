"""A server whose journal's writes and syncs are watched: what they were, when, and with what end.

The fault library is loaded before the process begins; it logs the calls and can delay them or make
them fail. Server and test read the same monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np

from chaos import shim
from chaos.process import Server
from ledger.journal.journal import Journal


class Watched:
    """A server whose journal's writes and syncs are logged, and delayed at will."""

    def __init__(self, start: Callable[..., Server], place: Path) -> None:
        self.control, self._log = place / "control", place / "log"
        self.control.touch()
        directory = place / "book"
        env = shim.environment(directory / "journal", control=self.control, log=self._log)
        self.server = start(directory, env=env)
        self.address = self.server.address
        with Journal.open(directory, readonly=True, locked=False) as journal:
            self._group_first = journal.group + 1 - len(self.durable())

    def delay(self, ms: int) -> None:
        self.fault(f"fdatasync 0 delay:{ms}" if ms else "")

    def fault(self, rule: str) -> None:
        """Put a rule of the fault library in force; its calls count from now."""
        shim.switch(self.control, rule)

    def syncs(self) -> list[int]:
        """When each append's sync began; ns."""
        events = shim.events(self._log)
        return [event.ns for event in events if event[:2] == ("begin", "fdatasync")]

    def durable(self) -> list[int]:
        """When each append was durable, data and the page that says so; ns."""
        pages: list[shim.Event] = []
        synced = False
        for event in shim.events(self._log):
            if event.what != "end":
                continue
            if synced and event.call in ("write", "pwrite"):
                pages.append(event)
            synced = event.call == "fdatasync" and event.result == 0
        whole = max((event.result for event in pages), default=0)
        return [event.ns for event in pages if event.result == whole]

    def wait_sync(self, count: int) -> None:
        """Until so many syncs have begun."""
        while len(self.syncs()) < count:
            Event().wait(0.005)

    def durable_by_position(self) -> tuple[np.ndarray, np.ndarray]:
        """Last position of each group that this process made durable, and when that was; ns."""
        with Journal.open(self.server.directory, readonly=True, locked=False) as journal:
            lasts = [header.position_last for header, _ in journal.read(self._group_first)]
        ends = self.durable()
        count = min(len(lasts), len(ends))
        return np.array(lasts[:count]), np.array(ends[:count])
