"""One run of a plan on a real process: the sim tier's run, with real parts and their faults.

The same plan always asks and hurts the same; when exactly the process dies is the machine's. What a
network or a client can do wrong is done as in the sim tier; what a process can do wrong is a life
of it (see server.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from chaos import shim
from chaos.altered import before, configured, lines
from chaos.live.network import Network
from chaos.live.server import Server
from chaos.live.world import World
from chaos.scenario import MS, SECOND, WALL_NS, Plan
from chaos.sim.run import Outcome, Run, Troubles
from chaos.sim.server import empty_book, memory

HEAL_NS_MAX = 40 * SECOND
SLOW_SYNC_MS = 60
LATE_TIMES_MAX = 4  # how many times the plan's time its lives may take beyond it


def missing() -> str | None:
    """Why the live tiers cannot run on this machine, or None."""
    if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        return "processes are watched by descriptors, which only Linux has"
    try:
        shim.built()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the fault library cannot be built: {error}"
    return None


class LiveRuns:
    """Runs plans on real processes, one after the other. Use it as a context.

    `first` is lines of Python that the server's process runs before the unmodified command.
    """

    def __init__(self, first: str = "") -> None:
        self._first = first

    def __enter__(self) -> LiveRuns:
        self._root = Path(tempfile.mkdtemp(prefix="chaos-template-", dir=memory()))
        self._template = self._root / "book"
        empty_book(self._template, WALL_NS)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def run(self, plan: Plan) -> Outcome:
        altering = lines(plan.bounds) + self._first
        environment = before(self._root, altering) if altering else {}
        with World(plan.seed) as world, configured(plan.bounds):
            low, high = plan.delay_us
            network = Network(world, (low * 1000, high * 1000), plan.cut_share)
            server = Server(world, network, self._template, environment)
            run = _LiveRun(world, plan, network, server)
            run.troubles = _Troubles(run)
            return run.outcome()


class _LiveRun(Run):
    heal_ns_max = HEAL_NS_MAX
    quiet_ns_max = None  # a machine that is busy is slow without any fault

    def all(self) -> None:
        self.server.first()
        super().all()

    def _rest(self) -> None:
        """Real time is too dear to be waited for."""

    def rested_ns(self) -> int:
        return 0

    def _last_troubles(self, horizon_ns: int) -> None:
        """A slow machine needs longer for as many lives."""
        world = self.world
        world.run(lambda: not self.server.harmed, world.now_ns + LATE_TIMES_MAX * horizon_ns)


class _Troubles(Troubles):
    """What the sim tier's faults are on a real process, and those that only it has."""

    _network: Network

    def plan(self, entry: dict[str, Any]) -> None:
        if entry["do"] == "life":
            self._server.lives.append(entry)
        else:
            self._world.at(entry["at_ns"], self._begin, entry)

    def heal(self) -> None:
        self._world.note("heal")
        self._server.heal()
        for end in self._ends:
            end()
        for cuts in self._network.cuts.values():
            cuts.clear()
        self._network.losing.clear()

    # ---- each fault begins something and returns how it ends ------------------------------------

    def _slow_disk(self, entry: dict[str, Any]) -> Any:
        self._server.slow(SLOW_SYNC_MS)
        return lambda: self._server.slow(0)

    def _terminate(self, entry: dict[str, Any]) -> None:
        self._server.terminate()

    def _cut(self, entry: dict[str, Any]) -> None:
        """Reset the connection once so many more bytes of the client have reached the server."""
        cuts = self._network.cuts.setdefault(f"c{entry['client']}", deque())
        cuts.append(entry["bytes"])

    def _lose_reply(self, entry: dict[str, Any]) -> None:
        """The client's next reply leaves the server and never arrives; its connection is reset."""
        self._network.losing.add(f"c{entry['client']}")

    def _freeze(self, entry: dict[str, Any]) -> None:
        self._server.freeze(self._world.now_ns + min(entry["for_ns"], 800 * MS))
