"""Where an engine's work happens on virtual time: appends, wakes, what is done beside the order.

A job of an append or of a lane happens at one drawn moment, and its engine hears of it at a later
one. In between, or right before, a plan may kill the process; or a job fails, as a disk would have
it. Nothing of a dead incarnation happens any more.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from chaos.sim.harm import Harm
from chaos.sim.sealed import Sealed
from chaos.sim.world import MS, World

ASIDE_NS = (100_000, 20 * MS)  # how long what is done beside the order takes

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class _Turnstile:
    """Nothing happens at the same time here; but an append may find the engine at work."""

    def __init__(self, world: World, harm: Harm) -> None:
        self._world, self._harm = world, harm

    def acquire(self, blocking: bool = True) -> bool:
        return blocking or not self._world.draw.chance(0.5, "disk/busy", self._harm.appends)

    def release(self) -> None:
        """There is nobody to wait for it."""

    def __enter__(self) -> None:
        """As acquire(), which takes no time here."""

    def __exit__(self, *exception: object) -> None:
        """As release()."""


class Runner:
    """What runs the jobs of one incarnation of the server.

    crash(why) kills the process, fail_append(stage) has its next append fail there, and stopped()
    says whether its engine has stopped.
    """

    def __init__(
        self,
        world: World,
        harm: Harm,
        sealed: Sealed,
        *,
        crash: Callable[[str], None],
        fail_append: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._world, self._harm, self._sealed = world, harm, sealed
        self._crash, self._fail_append, self._stopped = crash, fail_append, stopped
        self.turnstile = _Turnstile(world, harm)
        self._wakes = self._asides = 0
        self._lanes: dict[str, int] = {}  # when the last job of each is done
        # When the last append was handed over, is on disk, and is told.
        self._handed_ns = self._written_ns = self._told_ns = 0
        self.alive = True

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        if not self.alive:
            return
        if self._world.now_ns < self._harm.frozen_until_ns:
            self._world.at(self._harm.frozen_until_ns, self._post, callback, *arguments)
        else:
            callback(*arguments)

    # ---- appends --------------------------------------------------------------------------------

    def run(self, job: Job, done: Done) -> None:
        world, harm = self._world, self._harm
        harm.appends += 1
        number = harm.appends
        took = world.draw.between(*harm.sync_ns, "disk/sync", number) * harm.slowness
        self._written_ns = max(world.now_ns, self._written_ns) + took
        taken_since_ns, self._handed_ns = self._handed_ns, world.now_ns
        world.at(self._written_ns, self._post, self._reach, job, done, number, taken_since_ns)

    def _reach(self, job: Job, done: Done, number: int, taken_since_ns: int) -> None:
        """The moment at which the append is on disk."""
        world, harm = self._world, self._harm
        if harm.crash_at.get(number) == "before":
            self._crash(f"before append {number} reached the journal")
            return
        fail = harm.fail_at.get(number)
        if fail is not None:
            self._fail_append(fail)
            harm.hurt = True
            world.count(f"fail-append-{fail}")
        harm.taken_since_ns = taken_since_ns
        error = _run(job)
        world.note(f"append {number} {'failed' if error else 'is durable'}")
        if harm.crash_at.get(number) == "after":
            self._crash(f"after append {number} reached the journal")
            return
        told = world.draw.between(1_000, 200_000, "disk/told", number)
        self._told_ns = max(world.now_ns + told, self._told_ns)
        world.at(self._told_ns, self._post, done, error)

    def soon(self, callback: Job) -> None:
        self._world.after(0, self._post, callback)

    def wake(self, delay_ns: int, callback: Job) -> None:
        self._wakes += 1
        self._world.after(delay_ns, self._woken, self._wakes, callback)

    def _woken(self, number: int, callback: Job) -> None:
        if number == self._wakes:
            self._post(callback)

    def later(self, delay_ns: int, callback: Job) -> None:
        self._world.after(delay_ns, self._post, callback)

    # ---- beside the order -----------------------------------------------------------------------

    def aside(self, lane: str, job: Job, done: Done) -> None:
        """A job of a lane is done at one moment, some time after the one before it."""
        world = self._world
        self._asides += 1
        took = world.draw.between(*ASIDE_NS, f"aside/{lane}", self._asides)
        until = max(world.now_ns, self._lanes.get(lane, 0)) + took * self._harm.slowness
        self._lanes[lane] = until
        world.at(until, self._post, self._aside, lane, job, done)

    def _aside(self, lane: str, job: Job, done: Done) -> None:
        world = self._world
        stage = self._sealed.begin(lane)
        if stage == "before":
            self._crash(f"before a job of {lane}")
            return
        error = self._sealed.run(lane, job)
        world.note(f"{lane} {'failed' if error else 'done'}")
        if stage == "after":
            self._crash(f"after a job of {lane}")
            return
        if isinstance(error, OSError) and error.errno == errno.EIO:
            self._harm.hurt = True
        told = world.draw.between(1_000, 2 * MS, f"aside/{lane}/told", self._asides)
        world.after(told, self._post, self._tell, lane, done, error)

    def _tell(self, lane: str, done: Done, error: BaseException | None) -> None:
        had_stopped = self._stopped()
        done(error)
        if isinstance(error, OSError) and not had_stopped:
            stops = error.errno == errno.EIO
            if stops != self._stopped():
                does = "goes on" if stops else "stops"
                self._world.breaks("fail-stop", f"{lane} failed with {error}, the engine {does}")


def _run(job: Job) -> BaseException | None:
    try:
        job()
    except BaseException as raised:
        return raised
    return None
