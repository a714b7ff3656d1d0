"""Real time: callbacks at their moments, and sockets that have something to say.

It stands where the sim tier's virtual time stands, with one thread and one selector. The plan of a
seed is always the same; what happens between two of its moments is the machine's.
"""

from __future__ import annotations

import heapq
import selectors
import time
from collections.abc import Callable
from typing import Any

from chaos.sim import world
from chaos.sim.world import SECOND

SELECT_SECONDS_MAX = 0.5  # so that `done` is asked now and then


class World(world.World):
    """The time of one run, ns since its beginning. Use it as a context."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._began_ns = time.monotonic_ns()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exception: object) -> None:
        self._selector.close()

    def watch(self, what: Any, events: int, callback: Callable[[int], None]) -> None:
        """Call when a descriptor is ready for `events` (of selectors); 0 watches no more."""
        known = what in self._selector.get_map()
        if events and known:
            self._selector.modify(what, events, callback)
        elif events:
            self._selector.register(what, events, callback)
        elif known:
            self._selector.unregister(what)

    def run(self, done: Callable[[], bool], until_ns: int) -> None:
        """Let things happen until `done`, a broken invariant, or `until_ns`."""
        while True:
            # First what is due: a machine that is late must not leave any of it out.
            self._due()
            if self.broken is not None or done() or self.now_ns >= until_ns:
                return
            next_ns = min(self._heap[0][0], until_ns) if self._heap else until_ns
            wait = min(SELECT_SECONDS_MAX, max(0, next_ns - self._now()) / SECOND)
            for key, events in self._selector.select(wait):
                self._now()
                key.data(events)

    def _now(self) -> int:
        self.now_ns = time.monotonic_ns() - self._began_ns
        return self.now_ns

    def _due(self) -> None:
        """All that is due by now; what it asks for in turn waits for the sockets to be seen."""
        until_ns = self._now()
        while self._heap and self._heap[0][0] <= until_ns and self.broken is None:
            _, _, callback, arguments = heapq.heappop(self._heap)
            callback(*arguments)
