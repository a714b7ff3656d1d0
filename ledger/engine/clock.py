"""The engine's clock, nanoseconds since 1970, that runs on when the wall clock jumps.

It is monotonic time, anchored to the wall clock at start and slewed toward it by at most
CLOCK_SLEW_MAX of the time that passes: a step of the wall clock never enters as a step, it raises
the alarm and is walked off. Here too is the rule for the start of a book whose journal ends before
or after now. This file knows nothing of what is stamped; that stamps increase is the core's work.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ledger.facts.errors import ClockRefused
from ledger.facts.limits import CLOCK_GAP_MAX_NS, CLOCK_SLEW_MAX, CLOCK_STEP_ALARM_NS

_NS = 1_000_000_000
_SLEW_DIVISOR = round(1 / CLOCK_SLEW_MAX)


class Clock:
    """Time for one book. `wall` and `monotonic` are the raw sources and return ns.

    Not safe for several threads at once: the engine takes one reading a group.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._read_at = monotonic()
        self._now = wall()
        self._offset = 0

    def now_ns(self) -> int:
        """The time; never less than the reading before."""
        monotonic = self._monotonic()
        elapsed = max(0, monotonic - self._read_at)
        self._read_at = max(self._read_at, monotonic)
        self._now += elapsed
        offset = self._wall() - self._now
        slew_max = elapsed // _SLEW_DIVISOR
        slew = max(-slew_max, min(slew_max, offset))
        self._now += slew
        self._offset = offset - slew
        return self._now

    @property
    def offset_ns(self) -> int:
        """Wall clock minus this clock at the last reading."""
        return self._offset

    @property
    def alarm(self) -> bool:
        """Whether the wall clock was more than CLOCK_STEP_ALARM_NS away at the last reading."""
        return abs(self._offset) > CLOCK_STEP_ALARM_NS

    def check_start(self, last_ns: int, accept: bool = False) -> str | None:
        """Anchor the clock for a journal that ends at `last_ns` (0 for a new book).

        A warning to show, or None. ClockRefused when the wall clock is ahead of `last_ns` by more
        than CLOCK_GAP_MAX_NS and `accept` is not given: taking a wrong year for granted would
        expire every hold, and the ledger could not go back.
        """
        wall = self._wall()
        self._read_at = self._monotonic()
        self._now = max(wall, last_ns)
        self._offset = wall - self._now
        if wall < last_ns:
            return (
                f"the wall clock ({_date(wall)}) is {(last_ns - wall) / _NS:.3f} s behind the "
                f"journal's last time ({_date(last_ns)}): the ledger continues from the journal's"
            )
        if last_ns == 0 or wall - last_ns <= CLOCK_GAP_MAX_NS:
            return None
        days = (wall - last_ns) // (24 * 3600 * _NS)
        ahead = (
            f"the wall clock ({_date(wall)}) is {days} days ahead of the journal's last time "
            f"({_date(last_ns)})"
        )
        if not accept:
            raise ClockRefused(
                f"{ahead}: if the wall clock is right, accept it with --accept-clock, or in a"
                " program with accept_clock=True"
            )
        return f"{ahead}: accepted"


def _date(ns: int) -> str:
    """UTC to the second, or the number itself where the calendar ends."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ns // _NS))
    except (OverflowError, OSError, ValueError):
        return f"{ns} ns"
