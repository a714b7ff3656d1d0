"""Virtual time: what happens next, when, and the record of what happened.

Callbacks wait in a heap by time and order of arrival. The clock jumps from one to the next, so a
second of waiting costs nothing. The world also holds the trace and the first broken invariant; it
does not know what it moves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from chaos.draw import Draw

MS = 1_000_000
SECOND = 1_000_000_000
EVENTS_MAX = 400_000  # a run that does more than this will never end


class World:
    """The time of one run, ns since its beginning."""

    def __init__(self, seed: int) -> None:
        self.draw = Draw(seed)
        self.now_ns = 0
        self.trace: list[str] = []
        self.broken: tuple[str, str] | None = None  # (invariant, what was seen)
        self.seen: dict[str, int] = {}  # how often each fault and each event happened
        self.codes: dict[str, int] = {}  # how often clients were told each result code
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when_ns: int, callback: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        event = (max(when_ns, self.now_ns), self._order, callback, arguments)
        heapq.heappush(self._heap, event)

    def after(self, delay_ns: int, callback: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_ns + delay_ns, callback, *arguments)

    def run(self, done: Callable[[], bool], until_ns: int) -> None:
        """Let things happen until `done`, a broken invariant, or the end of time."""
        for _ in range(EVENTS_MAX):
            if self.broken is not None or not self._heap or done():
                return
            if self._heap[0][0] > until_ns:
                self.now_ns = until_ns
                return
            when, _, callback, arguments = heapq.heappop(self._heap)
            self.now_ns = when
            callback(*arguments)
        self.breaks("live", f"nothing settles: {EVENTS_MAX} events")

    def note(self, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.now_ns} {what}")

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def breaks(self, check: str, what: str) -> None:
        """An invariant does not hold. The first one counts."""
        if self.broken is None:
            self.broken = (check, what)
            self.note(f"BROKEN {check}: {what}")

    def trace_hash(self) -> str:
        return sha256("\n".join(self.trace).encode()).hexdigest()
