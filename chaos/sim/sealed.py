"""What a plan does to sealing: jobs that fail or never end, and files that rot; and what was seen.

The column files are real, in a directory of memory. A job beside the order can be told to fail as a
disk would have it: before a file is made, before its header, after it has its name. Bits of a file
may change under the process or between two of them. Counted is what coverage asks for: windows
sealed and merged, checkpoints, cold answers, starts from a checkpoint, files built again.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos import derived
from chaos.scenario import COLD_LANES
from chaos.sim.world import World
from ledger.engine import recovery
from ledger.history import _columns, new_file, segments
from ledger.history._columns import ColumnFile
from ledger.history.segments import History

STAGES = ("before", "within", "after")  # of a file that fails to be made
ERRORS = {"eio": errno.EIO, "enospc": errno.ENOSPC}


class Sealed:
    """The harm to one book's column files, over all incarnations of its server."""

    def __init__(self, world: World, directory: Path) -> None:
        self._world, self._directory = world, directory
        self._jobs: Counter[str] = Counter()  # begun, by lane
        self.crash_at: dict[tuple[str, int], str] = {}  # before or after the n-th job of a lane
        self.fail_at: dict[tuple[str, int], tuple[str, str]] = {}  # stage and error of that job
        self._due: tuple[str, OSError] | None = None  # where the job under way fails
        self._where = ""  # what goes on while files are made, for who counts
        self.rotten = False  # whether a bit was ever changed
        self._opened: list[bool] = []  # whether there was a checkpoint, each time a start looked
        self._warnings: list[str] = []

    def plan(self, entry: dict[str, Any]) -> None:
        """Note a fault of the plan that comes with the n-th job of a lane."""
        place = (entry["lane"], entry["nth"])
        if entry["do"] == "crash-aside":
            self.crash_at.setdefault(place, "before" if entry["stage"] == "before" else "after")
        else:
            self.fail_at.setdefault(place, (entry["stage"], entry["error"]))

    def heal(self) -> None:
        self.crash_at.clear()
        self.fail_at.clear()

    # ---- jobs -----------------------------------------------------------------------------------

    def begin(self, lane: str) -> str | None:
        """A job of the lane is about to run: when its process dies, "before" or "after" it."""
        self._jobs[lane] += 1
        stage = self.crash_at.get((lane, self._jobs[lane]))
        if stage is not None:
            self._world.count("crash-aside")
            self._world.count(f"crash-{stage}-{lane}")
        return stage

    def run(self, lane: str, job: Callable[[], None]) -> BaseException | None:
        """Run the job, which fails where the plan says so; what it raised."""
        stage, name = self.fail_at.get((lane, self._jobs[lane]), ("", ""))
        error = None
        if name:
            error = OSError(ERRORS[name], f"{name} in {lane}")
            self._due = (stage, error)
        self._where = "aside"
        try:
            if lane in COLD_LANES:  # they make no file: the read itself fails
                self._due = None
                if error is not None:
                    raise error
            job()
        except BaseException as raised:
            if raised is error:
                self._world.count("fail-aside")
                self._world.count(f"fail-{lane}-{name}")
            return raised
        finally:
            self._due, self._where = None, ""
        if lane in COLD_LANES:
            self._world.count("cold-answer")
        return None

    def reach(self, stage: str) -> None:
        """A file that is being made is at this stage: fail, if it is to."""
        if self._due is not None and self._due[0] == stage:
            raise self._due[1]

    def made(self, file: ColumnFile) -> None:
        """A file is there."""
        if self._where:
            what = "seal" if file.windows == 1 else "merge"
            what = "checkpoint" if file.kind == _columns.CHECKPOINT else what
            self._world.count(what if self._where == "aside" else f"{what}-at-start")

    # ---- rot ------------------------------------------------------------------------------------

    def rot(self, which: int, bit: int) -> None:
        """Change a bit of one of the files that are there."""
        names = derived.file_names(self._directory)
        if names:
            self.rotten = True
            name = names[which % len(names)]
            derived.flip(self._directory / "state" / name, bit)
            self._world.note(f"a bit of {name} changes")
            self._world.count("rot")

    # ---- starts ---------------------------------------------------------------------------------

    def begin_start(self) -> None:
        self._where, self._opened = "start", []

    def opened(self, found: History) -> None:
        """A start looks at what there is; when it does so again, the first look was no good."""
        self._opened.append(found.checkpoint is not None)
        self._warnings = found.warnings

    def end_start(self) -> None:
        """Tell what a start did with what it found."""
        self._where = ""
        if len(self._opened) > 1 or self._warnings:
            self._world.count("rebuilt")
            if not self.rotten:
                why = str(self._warnings).replace(str(self._directory), "the book")
                self._world.breaks("derived", f"what nobody damaged is built again: {why}")
        elif self._opened[0]:
            self._world.count("start-from-checkpoint")


@contextmanager
def told_by(sealed: Sealed) -> Iterator[None]:
    """Column files are made as `sealed` has it."""
    real = new_file.NewFile

    class NewFile(new_file.NewFile):
        def __init__(self, folder: Path, **header: Any) -> None:
            sealed.reach("before")
            super().__init__(folder, **header)

        def commit(self, facts: bytes = b"") -> ColumnFile:
            sealed.reach("within")
            file = super().commit(facts)
            try:
                sealed.reach("after")
            except OSError:
                file.close()
                raise
            sealed.made(file)
            return file

    class Seen(History):
        def __init__(self, directory: Path, journal: Any) -> None:
            super().__init__(directory, journal)
            sealed.opened(self)

    setattr(segments, "NewFile", NewFile)  # noqa: B010
    setattr(recovery, "History", Seen)  # noqa: B010
    try:
        yield
    finally:
        setattr(segments, "NewFile", real)  # noqa: B010
        setattr(recovery, "History", History)  # noqa: B010
