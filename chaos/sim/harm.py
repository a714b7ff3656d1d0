"""What is done to a simulated server: when its appends are slow, fail or kill it.

A run's plan fills it in, the server and its runner look at it. It outlives the incarnations of the
server, and does nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.sim.world import MS

BACK_AFTER_NS = 200 * MS  # how long a supervisor takes to start a process again


@dataclass
class Harm:
    """What a plan asks for, and below it what has come of it."""

    sync_ns: tuple[int, int]  # how long an append takes
    slowness: int = 1  # a factor of it
    crash_at: dict[int, str] = field(default_factory=dict)  # before or after the n-th append
    fail_at: dict[int, str] = field(default_factory=dict)  # stage of the n-th append
    down_ns: int = BACK_AFTER_NS  # until a killed process is started again
    frozen_until_ns: int = 0  # a process that is stopped and not dead

    appends: int = 0  # of all incarnations
    taken_since_ns: int = 0  # when the group before the one being appended was handed over
    hurt: bool = False  # whether a storage error was made for this incarnation
