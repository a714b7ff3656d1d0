"""Where an engine's work happens on virtual time: appends, wakes, what is done beside the order.

A job of an append or of a lane happens at one drawn moment, and its engine hears of it at a later
one. In between, or right before, a plan may kill the process; or a job fails, as a disk would have
it. Nothing of a dead incarnation happens any more.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chaos.sim.world import MS

if TYPE_CHECKING:
    from chaos.sim.server import Server

ASIDE_NS = (100_000, 20 * MS)  # how long what is done beside the order takes

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class _Place:
    """Nothing happens at the same time here; but an append may find the engine at work."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def acquire(self, blocking: bool = True) -> bool:
        server = self._server
        return blocking or not server.world.draw.chance(0.5, "disk/busy", server.appends)

    def release(self) -> None:
        """There is nobody to wait for it."""

    def __enter__(self) -> None:
        """As acquire(), which takes no time here."""

    def __exit__(self, *exception: object) -> None:
        """As release()."""


class Runner:
    """What runs the jobs of one incarnation of the server."""

    def __init__(self, server: Server) -> None:
        self._server, self._world = server, server.world
        self.place = _Place(server)
        self._wakes = self._asides = 0
        self._lanes: dict[str, int] = {}  # when the last job of each is done
        # When the last append was handed over, is on disk, and is told.
        self._handed_ns = self._written_ns = self._told_ns = 0
        self.alive = True

    def _place(self, callback: Callable[..., None], *arguments: Any) -> None:
        if not self.alive:
            return
        if self._world.now_ns < self._server.frozen_until_ns:
            self._world.at(self._server.frozen_until_ns, self._place, callback, *arguments)
        else:
            callback(*arguments)

    # ---- appends --------------------------------------------------------------------------------

    def run(self, job: Job, done: Done) -> None:
        server = self._server
        server.appends += 1
        low, high = server.sync_ns
        world, number = self._world, server.appends
        took = world.draw.between(low, high, "disk/sync", number) * server.slowness
        self._written_ns = max(world.now_ns, self._written_ns) + took
        taken_since_ns, self._handed_ns = self._handed_ns, world.now_ns
        world.at(self._written_ns, self._place, self._reach, job, done, number, taken_since_ns)

    def _reach(self, job: Job, done: Done, number: int, taken_since_ns: int) -> None:
        """The moment at which the append is on disk."""
        server, world = self._server, self._world
        if server.crash_at.get(number) == "before":
            server.crash(f"before append {number} reached the journal", server.down_ns)
            return
        fail = server.fail_at.get(number)
        if fail is not None and server.journal is not None:
            server.journal.fail, server.hurt = fail, True
            world.count(f"fail-append-{fail}")
        server.taken_since_ns = taken_since_ns
        error = _run(job)
        world.note(f"append {number} {'failed' if error else 'is durable'}")
        if server.crash_at.get(number) == "after":
            server.crash(f"after append {number} reached the journal", server.down_ns)
            return
        told = world.draw.between(1_000, 200_000, "disk/told", number)
        self._told_ns = max(world.now_ns + told, self._told_ns)
        world.at(self._told_ns, self._place, done, error)

    def soon(self, callback: Job) -> None:
        self._world.after(0, self._place, callback)

    def wake(self, delay_ns: int, callback: Job) -> None:
        self._wakes += 1
        self._world.after(delay_ns, self._woken, self._wakes, callback)

    def _woken(self, number: int, callback: Job) -> None:
        if number == self._wakes:
            self._place(callback)

    def later(self, delay_ns: int, callback: Job) -> None:
        self._world.after(delay_ns, self._place, callback)

    # ---- beside the order -----------------------------------------------------------------------

    def aside(self, lane: str, job: Job, done: Done) -> None:
        """A job of a lane is done at one moment, some time after the one before it."""
        world = self._world
        self._asides += 1
        took = world.draw.between(*ASIDE_NS, f"aside/{lane}", self._asides)
        until = max(world.now_ns, self._lanes.get(lane, 0)) + took * self._server.slowness
        self._lanes[lane] = until
        world.at(until, self._place, self._aside, lane, job, done)

    def _aside(self, lane: str, job: Job, done: Done) -> None:
        server, world = self._server, self._world
        stage = server.sealed.begin(lane)
        if stage == "before":
            server.crash(f"before a job of {lane}", server.down_ns)
            return
        error = server.sealed.run(lane, job)
        world.note(f"{lane} {'failed' if error else 'done'}")
        if stage == "after":
            server.crash(f"after a job of {lane}", server.down_ns)
            return
        if isinstance(error, OSError) and error.errno == errno.EIO:
            server.hurt = True
        told = world.draw.between(1_000, 2 * MS, f"aside/{lane}/told", self._asides)
        world.after(told, self._place, self._tell, lane, done, error)

    def _tell(self, lane: str, done: Done, error: BaseException | None) -> None:
        engine = self._server.engine
        assert engine is not None
        had_stopped = engine.cause is not None
        done(error)
        if isinstance(error, OSError) and not had_stopped:
            stops = error.errno == errno.EIO
            if stops != (engine.cause is not None):
                does = "goes on" if stops else "stops"
                self._world.breaks("fail-stop", f"{lane} failed with {error}, the engine {does}")


def _run(job: Job) -> BaseException | None:
    try:
        job()
    except BaseException as raised:
        return raised
    return None
