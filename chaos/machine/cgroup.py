"""Processes that share a limit of memory, whose end is the OOM killer, or that are frozen together.

A control group is made below the one that this process is in, so that no limit that already holds
is left, and is taken away at the end with whoever is still in it. Version 1 of the interface has a
tree for memory and one for freezing; version 2 has one tree, and hands memory down only where
its administrator lets it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

from chaos.machine.command import Refused, run, until, why_not

MIB = 1 << 20
PROBE_BYTES = 64 * MIB
_numbers = itertools.count()
# Moves itself and becomes the command: the process id stays.
_ENTER = 'echo $$ > "$0" || exit 126; exec "$@"'


class Group:
    """A control group while the `with` lasts. Processes get in by `prefix()` or `add()`."""

    def __init__(self, memory_max_bytes: int | None = None) -> None:
        self._memory_max_bytes = memory_max_bytes
        self._memory = self._freezer = Path()
        self._is_v1 = False
        self._made: list[Path] = []

    def __enter__(self) -> Group:
        name = f"chaos-{os.getpid()}-{next(_numbers)}"
        own = _own()
        self._is_v1 = "memory" in own
        if not self._is_v1:
            own["memory"] = own["freezer"] = _handed_down(own)
        elif "freezer" not in own:
            raise Refused("no control group can freeze: the freezer tree is not mounted")
        self._memory, self._freezer = own["memory"] / name, own["freezer"] / name
        try:
            for place in dict.fromkeys((self._memory, self._freezer)):
                place.mkdir()
                self._made.append(place)
            if self._memory_max_bytes is not None:
                self.limit(self._memory_max_bytes)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._remove()

    def prefix(self) -> list[str]:
        """What goes before a command, so that it runs in the group; it keeps its process id."""
        words: list[str] = []
        for place in self._made:
            words += ["sh", "-c", _ENTER, str(place / "cgroup.procs")]
        return words

    def add(self, pid: int) -> None:
        """A running process joins; the memory that it has already stays counted elsewhere."""
        for place in self._made:
            (place / "cgroup.procs").write_text(str(pid))

    def limit(self, memory_max_bytes: int) -> None:
        """From now on the members have so much memory together, and no swap."""
        if self._is_v1:
            (self._memory / "memory.limit_in_bytes").write_text(str(memory_max_bytes))
            (self._memory / "memory.swappiness").write_text("0")
        else:
            (self._memory / "memory.max").write_text(str(memory_max_bytes))
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (self._memory / "memory.swap.max").write_text("0")

    def memory_bytes(self) -> int:
        """What the members have now, the cached pages of their files included."""
        name = "memory.usage_in_bytes" if self._is_v1 else "memory.current"
        return int((self._memory / name).read_text())

    def oom_kills(self) -> int:
        """How many members the OOM killer has ended."""
        name = "memory.oom_control" if self._is_v1 else "memory.events"
        return _counts(self._memory / name)["oom_kill"]

    def freeze(self) -> None:
        """No member runs any more, when this returns; their sockets stay and nobody reads them."""
        self._switch(True)

    def thaw(self) -> None:
        self._switch(False)

    def _switch(self, frozen: bool) -> None:
        if self._is_v1:
            state, wanted = self._freezer / "freezer.state", "FROZEN" if frozen else "THAWED"
            state.write_text(wanted)
            until(f"the group to be {wanted}", lambda: state.read_text().strip() == wanted)
        else:
            (self._freezer / "cgroup.freeze").write_text(str(int(frozen)))
            events = self._freezer / "cgroup.events"
            until(f"frozen to be {frozen}", lambda: _counts(events)["frozen"] == frozen)

    def _members(self) -> set[int]:
        texts = ((place / "cgroup.procs").read_text() for place in self._made)
        return {int(pid) for text in texts for pid in text.split()}

    def _end_members(self) -> bool:
        members = self._members()
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not members

    def _remove(self) -> None:
        if self._freezer in self._made:
            self.thaw()
        until("the members to end", self._end_members)
        while self._made:
            until(f"{self._made[-1]} to be empty", lambda: _removed(self._made[-1]))
            self._made.pop()


def _removed(place: Path) -> bool:
    """The kernel may count a member for a moment after its end."""
    try:
        place.rmdir()
    except OSError:
        return False
    return True


def _counts(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}


def _own() -> dict[str, Path]:
    """The group that this process is in, in each tree; version 2's by the name "".

    A tree may be mounted from some group downwards: the mount's root is not part of the path then.
    """
    mounted: dict[str, tuple[str, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(maxsplit=2)
        if kind == "cgroup":
            mounted.update(dict.fromkeys(options.split(","), (root, point)))
        elif kind == "cgroup2":
            mounted[""] = (root, point)
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in mounted:
                root, point = mounted[name]
                found[name] = Path(point, path.removeprefix(root.rstrip("/")).lstrip("/"))
    return found


def _handed_down(own: dict[str, Path]) -> Path:
    """The nearest group of version 2 that hands memory down to the groups in it."""
    if "" not in own:
        raise Refused("no tree of control groups is mounted")
    for place in (own[""], own[""].parent):
        handed = place / "cgroup.subtree_control"
        if handed.exists() and "memory" in handed.read_text().split():
            return place
    raise Refused(f"{own['']} does not hand memory down to the control groups in it")


def _attempt() -> None:
    with Group(PROBE_BYTES) as group:
        run(*group.prefix(), "true")
        process = subprocess.Popen(
            [*group.prefix(), sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE
        )
        try:
            group.freeze()
            group.thaw()
            group.oom_kills()
        finally:
            process.communicate(b"\n")


def missing() -> str | None:
    """Why no process can be limited and frozen here: one is."""
    return why_not("control group with a memory limit", _attempt)
