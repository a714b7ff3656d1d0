"""The wall clock of one process, stepped while it runs.

libfaketime is loaded before the C library and reads, at each call, how far the clock is off from a
small file. The monotonic clock stays true, so that timers and deadlines go on as they were: that
is what a machine whose administrator sets the date looks like. A program that asks the kernel
without the C library is not fooled.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from chaos.machine.command import Refused, run, why_not

# For programs with threads first; where distributions and builds from source put it.
_NAMES = ("libfaketimeMT.so.1", "libfaketime.so.1")
_FOLDERS = ("lib/*/faketime", "lib/faketime", "lib64/faketime", "local/lib/faketime")
PROBE_SECONDS = 7 * 24 * 3600
PROBE_SLACK_SECONDS = 60
NS = 10**9


def shared_object() -> Path | None:
    """libfaketime, when this machine has it."""
    for name in _NAMES:
        for folder in _FOLDERS:
            for path in sorted(Path("/usr").glob(f"{folder}/{name}")):
                return path
    return None


def _shared() -> set[Path]:
    return set(Path("/dev/shm").glob("*faketime_s*_*"))


class SteppedClock:
    """A clock that is `offset_ns` ahead of the true one, for processes started with `env()`.

    They must have ended before the `with` does.
    """

    def __init__(self, scratch: Path) -> None:
        found = shared_object()
        if found is None:
            raise Refused(f"{_NAMES[1]} is not installed")
        self.offset_ns = 0
        self._library = found
        self._file = scratch / "faketime"
        self._others: set[Path] = set()

    def __enter__(self) -> SteppedClock:
        self._others = _shared()
        self.set(0)
        return self

    def __exit__(self, *exception: object) -> None:
        """libfaketime's shared memory stays behind when its process is killed, under its id."""
        self._file.unlink(missing_ok=True)
        for path in _shared() - self._others:
            if not Path("/proc", path.name.rpartition("_")[2]).exists():
                path.unlink(missing_ok=True)

    def env(self, others: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a process needs in its environment; `others` may have a library to load as well."""
        also = (others or {}).get("LD_PRELOAD", "")
        return {
            **(others or {}),
            "LD_PRELOAD": f"{self._library} {also}".rstrip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_ns: int) -> None:
        """From now on the clock is so far ahead of the true one, or behind it."""
        sign, (seconds, ns) = "-" if offset_ns < 0 else "+", divmod(abs(offset_ns), NS)
        # Renamed into place: a reader must never see half of it.
        new = self._file.with_suffix(".new")
        new.write_text(f"{sign}{seconds}.{ns:09d}\n")
        new.replace(self._file)
        self.offset_ns = offset_ns

    def step(self, step_ns: int) -> None:
        """The clock jumps by so much, either way."""
        self.set(self.offset_ns + step_ns)


def _attempt() -> None:
    with tempfile.TemporaryDirectory() as scratch, SteppedClock(Path(scratch)) as clock:
        clock.set(PROBE_SECONDS * NS)
        words = [f"{name}={value}" for name, value in clock.env().items()]
        show = "import time; print(time.time(), time.monotonic())"
        wall, monotonic = run("env", *words, sys.executable, "-I", "-S", "-c", show).split()
    if abs(float(wall) - time.time() - PROBE_SECONDS) > PROBE_SLACK_SECONDS:
        raise Refused(f"{shared_object()} does not change what time it is")
    if abs(float(monotonic) - time.monotonic()) > PROBE_SLACK_SECONDS:
        raise Refused(f"{shared_object()} changes the monotonic clock too")


def missing() -> str | None:
    """Why no process can have another time here: one is asked what time it is."""
    return why_not("stepped wall clock", _attempt)
