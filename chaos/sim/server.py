"""The server under test, on virtual time: real journal, recovery, core, engine and door.

An incarnation is what a process would be. A crash throws it away with the group that had not
reached the journal; the next one opens the same directory, replays it into a new core and goes on.
The journal is real LMDB in a directory of memory: an append either happened at its drawn moment or
it did not, so a crash on either side of that moment leaves exactly what a power cut could leave.
What must hold at each start and each stop is checked here, against the journal and not by asking.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.altered import configured as configured
from chaos.sim.harm import BACK_AFTER_NS, Harm
from chaos.sim.network import Connection as Line
from chaos.sim.network import Network, Transport
from chaos.sim.runner import Runner
from chaos.sim.sealed import Sealed
from chaos.sim.world import MS, SECOND, World
from ledger import _core
from ledger.doors.binary import door as binary
from ledger.engine import recovery
from ledger.engine.clock import Clock
from ledger.engine.engine import Engine
from ledger.engine.keeper import HistoryKeeper
from ledger.engine.ports import Answers
from ledger.facts import limits
from ledger.facts.errors import ColumnDamaged, LedgerError, LedgerStopped
from ledger.history.segments import History
from ledger.journal.group import Group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from ledger.journal.ports import Room

CLUSTER = 7
RELEASE = limits.RELEASE
CLOCK_SLACK_NS = 10 * MS  # each event takes a nanosecond of its own


class SimJournal(Journal):
    """The real journal, whose appends can be told to fail and whose disk can be full."""

    fail: str | None = None  # the next append fails "before" or "after" it reached the disk
    full: Callable[[], bool] = staticmethod(lambda: False)  # of what creates
    shut: Callable[[], bool] = staticmethod(lambda: False)  # of what starts and registers
    witness: Callable[[Group], None] = staticmethod(lambda group: None)  # sees each group

    def _append(self, expected_position: int, group: Group) -> int:
        self.witness(group)
        fail, self.fail = self.fail, None
        if fail == "before":
            raise OSError(errno.EIO, "input/output error")
        number = super()._append(expected_position, group)
        if fail == "after":
            raise OSError(errno.EIO, "input/output error")
        return number

    def room(self) -> Room:
        room = super().room()
        if self.full():
            room = room._replace(refusal="the disk is full")
        return room._replace(shut="the disk is shut") if self.shut() else room

    def crash(self) -> None:
        """Close as a killed process does: the lock's text stays."""
        self._cause = self._cause or OSError("crashed")
        self.close()


class SimDoor(binary.Door):
    """The real door, swept on virtual time."""

    def __init__(self, engine: Engine, runner: Runner, world: World) -> None:
        self._runner, self._world = runner, world
        super().__init__(engine, CLUSTER)
        self._schedule_sweep()

    def _schedule_sweep(self) -> None:
        delay = int(limits.SWEEP_SECONDS * SECOND)
        self._world.after(delay, self._runner._post, self._look_around)

    def connect(self) -> binary.Connection:
        self._route += 1
        return binary.Connection(self, self._route)


class VirtualTime:
    """What the door takes for the module `time`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.now_ns / SECOND


@contextmanager
def virtual_door(world: World) -> Iterator[None]:
    """The door reads virtual time, and what it would log about peers is not printed."""
    real, was = vars(binary)["time"], binary.log.disabled
    setattr(binary, "time", VirtualTime(world))  # noqa: B010
    binary.log.disabled = True
    try:
        yield
    finally:
        setattr(binary, "time", real)  # noqa: B010
        binary.log.disabled = was


def empty_book(directory: Path, wall_ns: int) -> None:
    """A new book whose one group holds the start record of the run's first moment."""
    core, _ = new_core()
    core.start(wall_ns, wall_ns, RELEASE)
    fields, body = core.take_group()
    del fields["group"]
    Journal.create(directory, CLUSTER, Group(body, **fields))


def new_core(window_events: int = 0) -> tuple[_core.Core, Answers]:
    """As assembly.new_core(), with a known key: it changes no result, but must not vary."""
    buffers = Answers()
    core = _core.Core(
        limits.GROUP_BYTES_MAX, limits.SESSIONS_MAX, b"chaos sim tables",
        buffers.records, buffers.payload, buffers.counts, window_events,
    )  # fmt: skip
    return core, buffers


def memory() -> Path:
    """Where books of the sim tier lie: memory, where there is some."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())


class Server:
    """The process that is killed and started again, and the disk and clocks it stands on."""

    def __init__(
        self, world: World, network: Network, template: Path, sync_ns: tuple[int, int],
        wall_ns: int,
    ) -> None:  # fmt: skip
        self.world, self.network = world, network
        self.harm = Harm(sync_ns)
        self._wall_ns = wall_ns
        self.root = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory()))
        self.directory = self.root / "book"
        shutil.copytree(template, self.directory)
        self.journal: SimJournal | None = None
        self.engine: Engine | None = None
        self.core: _core.Core | None = None
        self.sealed = Sealed(world, self.directory)
        self.full = 0  # how many faults keep the disk full
        self.shut = 0  # how many of them leave no space for a start or a new session, either
        self.full_since_ns = 0
        self.wall_step_ns = 0
        self.acknowledged = 0  # the highest position a client was told of
        self.rollbacks: list[int] = []  # where the journal ended, each time it was put back
        self.starts = 0
        self._group_first = 0  # the group before this incarnation's start record
        self._began_ns = self._clock_first_ns = 0  # of this incarnation
        self._checkpoint: Checkpoint | None = None
        self._history: History | None = None
        self._keeper: HistoryKeeper | None = None
        self._runner: Runner | None = None
        self._door: SimDoor | None = None
        network.accept = self._accept
        network.frozen_ns = lambda: self.harm.frozen_until_ns

    def remove(self) -> None:
        """Close whatever is open and delete the book."""
        self._close(clean=False)
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- clocks ---------------------------------------------------------------------------------

    def wall_ns(self) -> int:
        return self._wall_ns + self.world.now_ns + self.wall_step_ns

    # ---- the life of a process ------------------------------------------------------------------

    def start(self) -> None:
        """Open the book as `ledger serve` does, and let nobody in before the first group."""
        if self.engine is not None:
            return
        world = self.world
        self.starts += 1
        self.harm.hurt = False
        try:
            journal = self.journal = SimJournal.open(self.directory, CLUSTER)
            journal.full, journal.shut = lambda: self.full > 0, lambda: self.shut > 0
            if journal.room().shut is not None:
                self._close(clean=True)
                world.after(BACK_AFTER_NS, self.start)
                return
            self._checkpoint = Checkpoint(self.directory)
            self._checkpoint.verify_against(journal)
            self.sealed.begin_start()
            self.core, buffers, self._history, self._keeper = recovery.bring_back(
                self.directory, journal, lambda: new_core(limits.WINDOW_EVENTS)
            )
            self.sealed.end_start()
            clock = Clock(self.wall_ns, lambda: world.now_ns)
            clock.check_start(self.core.clock_ns)
        except LedgerStopped as error:
            world.breaks("live", f"the book cannot be opened: {self._told(error)}")
            return
        except LedgerError as error:
            world.breaks("chain", f"the book is refused: {self._told(error)}")
            return
        world.note(f"start {self.starts}: position {journal.position}")
        if journal.position < self.acknowledged:
            world.breaks(
                "durable",
                f"position {self.acknowledged} was acknowledged, the journal ends at"
                f" {journal.position}",
            )
        self._group_first = journal.group
        self._began_ns = world.now_ns
        self._clock_first_ns = max(self.core.clock_ns, self.wall_ns())
        journal.witness = self._witness
        self._runner = Runner(
            world,
            self.harm,
            self.sealed,
            crash=lambda why: self.crash(why, self.harm.down_ns),
            fail_append=self._fail_append,
            stopped=lambda: self.engine is None or self.engine.cause is not None,
        )
        self.engine = Engine(
            self.core, buffers, journal, clock, self._runner,
            stamp=self._checkpoint, keeper=self._keeper, on_stopped=self._stopped,
        )  # fmt: skip
        self.engine.start(self.wall_ns(), RELEASE, world.draw.bits("start", self.starts))
        self._door = SimDoor(self.engine, self._runner, world)

    def _told(self, error: LedgerError) -> str:
        """What an error says, without the scratch folder's name, which is another in each run."""
        return str(error).replace(str(self.directory), "the book")

    def _fail_append(self, stage: str) -> None:
        if self.journal is not None:
            self.journal.fail = stage

    def _witness(self, group: Group) -> None:
        """What a group shows before it is appended: its clock, and whether it may be there."""
        elapsed_ns = self.world.now_ns - self._began_ns
        latest_ns = self._clock_first_ns + elapsed_ns * 11 // 10 + CLOCK_SLACK_NS
        if group.clock_after > latest_ns:
            self.world.breaks(
                "clock-increases",
                f"the ledger clock is at {group.clock_after}, a slewed one is at most {latest_ns}",
            )
        taken_since_ns = self.harm.taken_since_ns
        if self.full and self.full_since_ns < taken_since_ns and group.transfer_timestamp_max:
            self.world.breaks("bounded", "a transfer was taken while the disk was full")

    def fill(self, shut: bool) -> None:
        """The disk is full, until as many calls of free()."""
        self.shut += shut
        self.full_since_ns = self.full_since_ns if self.full else self.world.now_ns
        self.full += 1

    def free(self, shut: bool) -> None:
        self.shut -= shut
        self.full -= 1

    def _stopped(self, cause: LedgerStopped) -> None:
        """The engine has stopped for good: the process ends and is started again."""
        rotten = self.sealed.rotten and isinstance(cause.cause, ColumnDamaged)
        if rotten:
            self.world.count("damage-noticed")
        if not (self.harm.hurt or rotten):
            self.world.breaks("live", f"the engine stopped by itself: {self._told(cause)}")
        self.world.after(0, self.crash, f"stopped: {type(cause.cause).__name__}", BACK_AFTER_NS)

    def crash(self, why: str, down_ns: int) -> None:
        """Kill the process; it is started again after `down_ns`."""
        world = self.world
        if self.engine is None:
            return
        world.note(f"crash: {why}")
        world.count("crash")
        lines = [one for one in self.network.connections.values() if not one.up.dead]
        for line in lines:
            if line.transport is not None:
                line.transport.forget()
            # A machine that loses power says nothing to its peers, a process that dies does.
            line.kill(
                client_told=not world.draw.chance(0.3, "crash/" + line.name), server_told=False
            )
        self._close(clean=False)
        self.harm.frozen_until_ns = 0
        world.after(down_ns, self.start)

    def copy(self) -> bytes:
        """The journal as it lies on the disk, also while it is served: nothing is half written."""
        return (self.directory / "journal" / "data.mdb").read_bytes()

    def roll_back(self, copy: bytes) -> None:
        """Kill the process, put the journal back as it was, and give up what is derived."""
        self.crash("to be rolled back", BACK_AFTER_NS)
        (self.directory / "journal" / "lock.mdb").unlink(missing_ok=True)
        (self.directory / "journal" / "data.mdb").write_bytes(copy)
        shutil.rmtree(self.directory / "state", ignore_errors=True)
        with SimJournal.open(self.directory, CLUSTER) as journal:
            kept = journal.position
        self.world.note(f"rolled back to {kept}, {self.acknowledged} was acknowledged")
        self.world.count("rolled-back" if kept < self.acknowledged else "rolled-back-nothing")
        self.rollbacks.append(kept)
        self.acknowledged = min(self.acknowledged, kept)

    def freeze(self, until_ns: int) -> None:
        """Stop the process without killing it: its sockets stay, and nobody reads them."""
        self.harm.frozen_until_ns = max(self.harm.frozen_until_ns, until_ns)

    def _close(self, clean: bool) -> None:
        if self._runner is not None:
            self._runner.alive = False
        if self._keeper is not None:
            self._keeper.release()
        if self._history is not None:
            self._history.close()
        if self._checkpoint is not None:
            self._checkpoint.close()
        if self.journal is not None:
            if clean:
                self.journal.close()
            else:
                self.journal.crash()
        self.engine = self.core = self._runner = self._door = None
        self.journal = self._checkpoint = self._history = self._keeper = None

    def stop(self) -> bytes:
        """End in good order; the hash of the live state."""
        assert self.core is not None
        live = self.core.state_hash()
        self._close(clean=True)
        return live

    @property
    def rotten(self) -> bool:
        """Whether a bit of derived data was ever changed under the server."""
        return self.sealed.rotten

    @property
    def idle(self) -> bool:
        return self.engine is not None and self.engine.idle

    def clock_ns(self) -> int:
        """What the engine's clock says; 0 when there is none."""
        return self.engine._clock.now_ns() if self.engine is not None else 0

    # ---- connections ----------------------------------------------------------------------------

    def _accept(self, line: Line) -> bool:
        """A connection reaches the listener, which is not there until the first group is."""
        engine, door, journal = self.engine, self._door, self.journal
        if engine is None or door is None or journal is None or journal.group <= self._group_first:
            return False
        transport = line.transport = Transport(line, lambda: journal.position)
        transport.silent = lambda: engine.cause is not None
        transport.begin(door.connect())
        return True

    # ---- what is bounded ------------------------------------------------------------------------

    def check_bounds(self) -> None:
        """Nothing is kept once nothing is under way."""
        engine, door = self.engine, self._door
        if engine is None or door is None or not engine.idle:
            return
        if engine._held_bytes:
            self.world.breaks("bounded", f"idle, and {engine._held_bytes} bytes are held")
        living = sum(
            one.transport is not None and one.transport.open
            for one in self.network.connections.values()
        )
        if len(door.connections) > living:
            self.world.breaks("bounded", f"{len(door.connections)} connections for {living} peers")
