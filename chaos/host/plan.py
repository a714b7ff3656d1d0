"""A scenario of hosts as a file, and the plan that a seed makes of it: explicit, plain data.

Habits are dealt like cards, so that each is in some life once there are as many lives as habits:
the next seed goes on where one ends. Everything else is drawn by name. Nothing here runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from chaos import strict
from chaos.draw import Draw
from chaos.scenario import Refused, Strict

FORMAT = 1
LIVES_MAX = 200
SECONDS_MAX = 60.0
KILL_MS_MIN = 100
# What a host does beside paying, and the kind of book that it does it with.
HABITS: dict[str, str] = {
    "copies-its-book": "threads",
    "opens-its-lock-files": "threads",
    "cancels-calls": "loop",
    "interrupted": "threads",
    "calls-from-a-handler": "threads",
    "pays-at-exit": "threads",
    "closes-descriptors": "threads",
    "forks": "threads",
    "async-exceptions": "threads",
    "calls-from-another-loop": "loop",
    "pays-after-main": "threads",
    "calls-from-a-finalizer": "threads",
    "interrupted-open": "threads",
    "cancelled-open": "loop",
    "drops-its-book": "threads",
    "many-threads": "threads",
    "many-tasks": "loop",
}
ENDS_BY_ITSELF = ("pays-at-exit", "pays-after-main")
# What others do to the files meanwhile.
HOLDS_READERS, SAME_PID = "holds-readers", "same-pid"
OUTSIDE = ("opens", "inspects", "checks-readers", HOLDS_READERS, SAME_PID)
# Who opens its book again and again would only be told that there is no slot for a reader.
OPEN_AGAIN = ("interrupted-open", "cancelled-open", "drops-its-book")
# Whoever touches its lock files is in danger only when somebody else opens the book then.
OUTSIDE_OF = {"copies-its-book": "opens", "opens-its-lock-files": "opens"}


class Head(Strict):
    """[scenario]: what it is. `seeds` is how many a run takes unless told."""

    name: str
    format: int
    tier: Literal["host"]
    about: str
    seeds: int = 1


class Hosts(Strict):
    """[host]: ranges are [low, high], both included, drawn for each life.

    `kill_share` of the lives end by SIGKILL, `outside_share` have others at their files. A life
    lasts so many `ms` and asks for at most `payments_max` payments, in calls of at most one of
    `batch_max`; the book seals after `window_events`.
    """

    lives: int = 6
    habits: tuple[str, ...] = tuple(HABITS)
    outside: tuple[str, ...] = OUTSIDE
    outside_share: float = 0.4
    kill_share: float = 0.3
    ms: tuple[int, int] = (500, 900)
    threads: tuple[int, int] = (1, 4)
    batch_max: tuple[int, ...] = (1, 8, 300)
    payments_max: int = 20_000
    window_events: tuple[int, ...] = (1 << 18, 5_000)


class HostScenario(Strict):
    """A whole file."""

    scenario: Head
    host: Hosts


class Life(Strict):
    """One run of the host. `kill_after_ms` counts from the moment the book is open; 0: it ends by
    itself. At most `payments_max` payments are asked for.
    """

    number: int
    habit: str
    door: Literal["threads", "loop"]
    outside: str  # "" for nobody
    ms: int
    kill_after_ms: int
    threads: int
    batch_max: int
    payments_max: int
    seed: int


class Plan(Strict):
    """What a run does to one book."""

    format: int
    scenario: str
    seed: int
    window_events: int
    lives: list[Life]


def read(path: Path) -> HostScenario:
    """The scenario in a file. Refused says what is wrong with it."""
    found = strict.read(path, HostScenario)
    try:
        _check(found)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from error
    return found


def _check(found: HostScenario) -> None:
    """ValueError for words that are known and do not go together."""
    host = found.host
    if found.scenario.format != FORMAT:
        raise ValueError(f"format {found.scenario.format}, this software reads {FORMAT}")
    for what, names, known in (
        ("habit", host.habits, tuple(HABITS)), ("trouble outside", host.outside, OUTSIDE),
    ):  # fmt: skip
        for name in names:
            if name not in known:
                raise ValueError(f"there is no {what} {name!r}; there are {', '.join(known)}")
    for name in ("ms", "threads"):
        low, high = getattr(host, name)
        if not 0 < low <= high:
            raise ValueError(f"{name}: [{low}, {high}] is no range above 0")
    if not KILL_MS_MIN <= host.ms[0] <= host.ms[1] <= SECONDS_MAX * 1000:
        raise ValueError(f"ms: a life lasts {KILL_MS_MIN} to {SECONDS_MAX * 1000:.0f} ms")
    if not 1 <= host.lives <= LIVES_MAX or found.scenario.seeds < 1:
        raise ValueError(f"lives: {host.lives} is not within 1 .. {LIVES_MAX}, or there is no seed")
    for name in ("outside_share", "kill_share"):
        if not 0 <= getattr(host, name) <= 1:
            raise ValueError(f"{name}: {getattr(host, name)} is not within 0 .. 1")
    if not host.habits or not host.window_events or not host.batch_max:
        raise ValueError("habits, window_events and batch_max name at least one each")
    if min(*host.window_events, *host.batch_max, host.payments_max) < 1:
        raise ValueError("window_events, batch_max and payments_max are above 0")


def expand(found: HostScenario, seed: int) -> Plan:
    """The plan of one seed."""
    host, draw = found.host, Draw(seed, found.scenario.name)
    return Plan(
        format=FORMAT,
        scenario=found.scenario.name,
        seed=seed,
        window_events=draw.choice(host.window_events, "window-events"),
        lives=[_life(host, draw, n) for n in range(host.lives)],
    )


def _life(host: Hosts, draw: Draw, n: int) -> Life:
    habit = host.habits[(draw.seed * host.lives + n) % len(host.habits)]
    ms = draw.between(*host.ms, "ms", n)
    outside = ""
    if host.outside and draw.chance(host.outside_share, "outside", n):
        outside = host.outside[(draw.seed * host.lives + n) % len(host.outside)]
    if habit in OPEN_AGAIN and outside == HOLDS_READERS:
        outside = ""
    killed = habit not in ENDS_BY_ITSELF and draw.chance(host.kill_share, "killed", n)
    return Life(
        number=n,
        habit=habit,
        door=HABITS[habit],  # type: ignore[arg-type]
        outside=OUTSIDE_OF.get(habit, outside) if host.outside else "",
        ms=ms,
        kill_after_ms=draw.between(KILL_MS_MIN, ms, "kill-after", n) if killed else 0,
        threads=draw.between(*host.threads, "threads", n),
        batch_max=draw.choice(host.batch_max, "batch-max", n),
        payments_max=host.payments_max,
        seed=draw.bits("life", n, 63),
    )


def of(data: bytes) -> Plan:
    """The plan that JSON is. msgspec.ValidationError says what is wrong with it."""
    return msgspec.json.decode(data, type=Plan)
