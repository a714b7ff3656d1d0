"""Scenarios: TOML data that composes load and faults, in folders by cost.

A file is read strictly: a word that is not known is refused with the file's name, so that a typing
error does not quietly test nothing. Here a scenario and a seed become a plan, which is explicit:
every request and every fault with its time. A plan is plain data that goes to a file and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from chaos import strict
from chaos.draw import Draw
from chaos.model import Operation
from chaos.strict import Count, Counts, Positive, Positives, Share, ascends
from chaos.strict import Refused as Refused
from chaos.strict import Strict as Strict
from chaos.workload import Workload

FOLDER = Path(__file__).parent / "scenarios"
FORMAT = 1
SECOND = 1_000_000_000
MS = 1_000_000
SEED_MAX = 2**63
SECONDS_MAX = 3600.0
TIERS = ("sim", "disk", "process", "network")
WALL_NS = 1_700_000_000 * SECOND
LATE_NS = 5_000_000_000 * SECOND  # 2128: the longest holds now end after the last timestamp
BURSTS = 5
BURST_NS = 10 * MS
MIX = {
    "account": 2, "pay": 40, "hold": 15, "settle": 12, "chain": 8, "repeat": 8, "wrong": 5,
    "read": 15,
}  # fmt: skip


Accounts = Annotated[int, msgspec.Meta(ge=2)]  # who pays and who is paid
Value = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Values = Annotated[tuple[Value, ...], msgspec.Meta(min_length=1)]


class Head(Strict):
    """[scenario]: what it is. `seeds` is how many a run takes unless told."""

    name: str
    format: int
    tier: str
    about: str
    seeds: Positive = 100


class Load(Strict):
    """[workload]: ranges are [low, high], both included, drawn for each seed."""

    seconds: Annotated[float, msgspec.Meta(ge=0.01, le=SECONDS_MAX)] = 4.0
    clients: Positives = (1, 4)
    sessions: Positives = (1, 6)
    requests: Counts = (20, 60)
    accounts: tuple[Accounts, Accounts] = (3, 10)
    hot_share: Share = 0.2
    give_up_share: Share = 0.03
    bursts_share: Share = 0.5  # of the seeds: requests come in a few bursts
    late_share: Share = 0.0  # of the seeds: in the year 2128 (sim)
    herds: Counts = (0, 0)  # times at which every session asks for one old transfer
    mix: dict[str, Count] = msgspec.field(default_factory=lambda: dict(MIX))

    def __post_init__(self) -> None:
        ascends(self, "clients", "sessions", "requests", "accounts", "herds")
        if unknown := self.mix.keys() - MIX.keys() - {"late", "again", "past"}:
            raise ValueError(f"mix: there is no kind of request {min(unknown)!r}")
        if not any(self.mix.values()):
            raise ValueError("mix: nothing has a share")


class Weather(Strict):
    """[network]: delay of each piece, and the share of chunks that are cut in two."""

    delay_us: Counts = (50, 3_000)
    cut_share: Share = 0.1

    def __post_init__(self) -> None:
        ascends(self, "delay_us")


class Disk(Strict):
    """[disk]: how long an append takes until it is durable; `images` is the disk tier's."""

    sync_us: Counts = (200, 5_000)
    images: Positive = 600  # of each seed

    def __post_init__(self) -> None:
        ascends(self, "sync_us")


class Swarm(Strict):
    """[swarm]: each seed turns a drawn subset of `faults` on, some seeds none."""

    quiet_share: Share = 0.25
    faults: tuple[str, ...] = ()
    each: Counts = (1, 3)  # how many of each fault that is on
    small_bounds_share: Share = 0.5  # of the seeds: each bound is made small or left

    def __post_init__(self) -> None:
        ascends(self, "each")


# Bounds of the server that a run may make small, with the values drawn from. Each is lawful: work
# goes on, only in smaller pieces and with less patience.
BOUNDS: dict[str, tuple[float, ...]] = {
    "GROUP_BYTES_MAX": (16_384, 65_536),
    "ANSWERS_MAX": (1, 2, 8),
    "REPLY_BYTES_IN_FLIGHT_MAX": (1_000, 20_000),
    "SEND_BYTES_MAX": (1_000, 20_000),
    "UNREAD_BYTES_MAX": (5_000, 100_000),
    "UNREAD_RESERVE_BYTES": (1_000, 10_000),
    "RECEIVE_BYTES_MAX": (20_000, 100_000),
    "RECEIVE_BYTES_MIN": (256, 1_000),
    "READS_LITTLE": (0, 4),
    "READS_SHARE": (1, 100),
    "READS_A_TURN": (1, 1_000),
    "READS_RESUMED": (1, 1_000),
    "TURN_BUFFER_BYTES": (1_200, 10_000),
    "TURN_READ_BYTES": (300, 10_000),
    "SESSIONS_MAX": (3, 8),
    "HEAD_NS": (1, 50_000_000),
    "FRAME_SECONDS_MAX": (0.05, 0.5),
    "SEND_SECONDS_MAX": (0.05, 0.5),
    "IDLE_SECONDS_MAX": (0.3, 2.0),
    "SWEEP_SECONDS": (0.05, 0.2),
    "WINDOW_EVENTS": (1, 6, 40),
    "WINDOWS_CLOSED_MAX": (1, 2),
    "MERGED_AT_ONCE": (2, 4),
    "CHECKPOINT_WINDOWS_MIN": (1, 2),
    "CHECKPOINT_BYTES_A_WINDOW": (200, 2_000),
    "CHECKPOINT_STEP_BYTES": (512, 4_096),
    "COLD_REQUESTS_MAX": (1, 3),
}


ARMS = ("failpoint", "call", "recovery", "time", "state")


class Lives(Strict):
    """[lives]: how often the process of a live tier is ended, and the ways; each is a kill point.

    `failpoint`: at a named stage of a group; `call`: at the n-th call that touches its files, by
    SIGKILL or, `error_share` of them, by an error of the disk; `state`: the same of files in
    DIR/state only, where a lack of space ends nothing; `recovery`: as `call`, counted from the
    start of the process; `time`: at a moment.
    """

    each: Counts = (0, 0)
    arms: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ARMS[:4]
    error_share: Share = 0.25

    def __post_init__(self) -> None:
        ascends(self, "each")


class Cuts(Strict):
    """[cuts]: connections are reset after each byte 1 .. `bytes_max` of what clients send, `each`
    of them in a run; the next seed goes on where one ends."""

    each: Count = 0
    bytes_max: Positive = 768


class Fault(Strict):
    """[[fault]]: one that happens in every run. `at` in ms, or at the `append`-th append, or when
    the fault whose `id` is `after` has ended and `at_ms` more have passed."""

    do: str
    id: str = ""
    after: str = ""
    at_ms: Count | None = None
    append: Positive | None = None
    for_ms: Count = 300
    stage: Literal["before", "after"] = "before"
    client: Count = 0
    by_ms: int = 0


class Scenario(Strict):
    scenario: Head
    workload: Load = msgspec.field(default_factory=Load)
    network: Weather = msgspec.field(default_factory=Weather)
    disk: Disk = msgspec.field(default_factory=Disk)
    swarm: Swarm = msgspec.field(default_factory=Swarm)
    lives: Lives = msgspec.field(default_factory=Lives)
    cuts: Cuts = msgspec.field(default_factory=Cuts)
    fault: tuple[Fault, ...] = ()
    bounds: dict[str, Values] = msgspec.field(default_factory=dict)
    """Bounds that every run makes small, with the values drawn from."""


_LINE = ("delay", "reset", "half-open", "partition", "stall", "duplicate", "storm")
_LIVE = ("crash", "freeze", "slow-disk", "terminate", "cut", "lose-reply", *_LINE)
FAULTS = {
    "sim": (
        "crash", "crash-append", "fail-append", "crash-aside", "fail-aside", "rot", "freeze",
        "slow-disk", "disk-full", "clock-step", "roll-back", *_LINE,
    ),
    "disk": (),
    "process": _LIVE,
    "network": _LIVE,
}  # fmt: skip
STAGES = ("applied", "encoded", "appended", "released")
CALLS = ("any", "sync", "dsync", "all")
NTH_MAX = {"failpoint": 40, "call": 30, "recovery": 45, "time": 1, "state": 90}
ERRORS = ("eio", "enospc", "short")
STATE_ERRORS = {
    "eio": ("any", "sync", "open", "rename", "unlink", "pread"), "enospc": ("any", "sync", "open"),
    "short": ("any",),
}  # fmt: skip
STATE_NTH_MAX = 12  # of the calls that fail
COLD_LANES = ("past", "reads")  # where the sealed past is read
LANES = ("seal", "merge", "checkpoint", *COLD_LANES)  # of what is done beside the order
NTH_ASIDE_MAX = 12


class Plan(Strict):
    """What a run does: each entry is a request (`ask`) or a fault (`do`), with its `at_ns`."""

    format: int
    scenario: str
    tier: str
    seed: int
    seconds: float
    delay_us: tuple[int, int]
    cut_share: float
    sync_us: tuple[int, int]
    sessions: tuple[int, ...]  # of each client
    bounds: dict[str, float]  # what differs from the server's configuration
    wall_ns: int  # the wall clock when the run begins
    entries: list[dict[str, Any]]


def read(path: Path) -> Scenario:
    """The scenario in a file. Refused says what is wrong with it."""
    found = strict.read(path, Scenario)
    if found.scenario.format != FORMAT:
        raise Refused(f"{path}: format {found.scenario.format}, this software reads {FORMAT}")
    if found.scenario.tier not in TIERS:
        raise Refused(f"{path}: there is no tier {found.scenario.tier!r}")
    faults = FAULTS[found.scenario.tier]
    for name in (*found.swarm.faults, *(one.do for one in found.fault)):
        if name not in faults:
            raise Refused(
                f"{path}: the {found.scenario.tier} tier has no fault {name!r}; it has"
                f" {', '.join(faults) or 'none'}"
            )
    for name in found.bounds:
        if name not in BOUNDS:
            raise Refused(f"{path}: there is no bound {name!r}; there are {', '.join(BOUNDS)}")
    for arm in found.lives.arms:
        if arm not in ARMS:
            raise Refused(f"{path}: there is no arm {arm!r}; there are {', '.join(ARMS)}")
    if found.scenario.tier in ("sim", "disk") and (found.lives.each[1] or found.cuts.each):
        raise Refused(f"{path}: lives and cuts are of the live tiers, process and network")
    known: set[str] = set()
    for one in found.fault:
        if one.after and one.after not in known:
            raise Refused(f"{path}: no fault before {one.do!r} has the id {one.after!r}")
        known.add(one.id)
    return found


def find(name: str) -> Scenario:
    """A scenario that comes with the software, by its name."""
    for path in sorted(FOLDER.glob(f"*/{name}.toml")):
        return read(path)
    raise Refused(f"there is no scenario {name!r}")


def expand(scenario: Scenario, seed: int) -> Plan:
    """The plan of one seed."""
    draw = Draw(seed, scenario.scenario.name)
    load = scenario.workload
    horizon = int(load.seconds * SECOND)
    clients = draw.between(*load.clients, "clients")
    sessions = tuple(draw.between(*load.sessions, "sessions", n) for n in range(clients))
    entries = [*_requests(load, draw, sessions, horizon), *_faults(scenario, draw, clients)]
    entries.sort(key=lambda entry: entry["at_ns"])
    for number, entry in enumerate(entries):
        entry["entry"] = number
    return Plan(
        format=FORMAT,
        scenario=scenario.scenario.name,
        tier=scenario.scenario.tier,
        seed=seed,
        seconds=load.seconds,
        delay_us=scenario.network.delay_us,
        cut_share=scenario.network.cut_share,
        sync_us=scenario.disk.sync_us,
        sessions=sessions,
        bounds=_bounds(scenario, draw),
        wall_ns=LATE_NS if draw.chance(scenario.workload.late_share, "late") else WALL_NS,
        entries=entries,
    )


def _bounds(scenario: Scenario, draw: Draw) -> dict[str, float]:
    always = scenario.bounds
    small = draw.chance(scenario.swarm.small_bounds_share, "bounds")
    return {
        name: draw.choice(always.get(name, values), f"bounds/{name}")
        for name, values in BOUNDS.items()
        if name in always or (small and draw.chance(0.5, f"bounds/{name}/small"))
    }


def _requests(
    load: Load, draw: Draw, sessions: tuple[int, ...], horizon: int
) -> Iterator[dict[str, Any]]:
    work = Workload(
        draw.stream("workload"), draw.between(*load.accounts, "accounts"), load.mix,
        load.hot_share, (WALL_NS, WALL_NS + horizon),
    )  # fmt: skip
    asked = work.opening()
    opening = len(asked)
    asked += [work.next() for _ in range(draw.between(*load.requests, "requests"))]
    in_bursts = draw.chance(load.bursts_share, "asks/in-bursts")
    for n, (operation, batches) in enumerate(asked):
        early = n < opening
        at = draw.between(0, horizon // 8 if early else horizon, "asks/at", n)
        if in_bursts and not early:
            burst = draw.between(1, BURSTS, "asks/burst", n)
            at = horizon * burst // (BURSTS + 1) + at % BURST_NS
        client = draw.between(0, len(sessions) - 1, "asks/client", n)
        entry: dict[str, Any] = {
            "at_ns": at,
            "client": client,
            "session": draw.between(0, sessions[client] - 1, "asks/session", n),
            "ask": int(operation),
            "batches": batches,
        }
        if not early and draw.chance(load.give_up_share, "asks/gives-up", n):
            entry["give_up_ns"] = draw.between(1, 900, "asks/give-up", n) * MS
        yield entry
    yield from _herds(load, draw, sessions, horizon, work)


def _herds(
    load: Load, draw: Draw, sessions: tuple[int, ...], horizon: int, work: Workload
) -> Iterator[dict[str, Any]]:
    """Every session of every client asks for the same old transfer at the same moment."""
    for n in range(draw.between(*load.herds, "herds")):
        at = draw.between(horizon * 3 // 4, horizon, "herds/at", n)
        event = work.old(draw.stream(f"herds/{n}"))
        for client, count in enumerate(sessions):
            for session in range(count):
                looks = draw.chance(0.5, f"herds/{n}/looks/{client}", session)
                operation = Operation.lookup_transfers if looks else Operation.create_transfers
                yield {
                    "at_ns": at,
                    "client": client,
                    "session": session,
                    "ask": int(operation),
                    "batches": [[event["id"] if looks else event]],
                    "herd": n,
                }


def _faults(scenario: Scenario, draw: Draw, clients: int) -> Iterator[dict[str, Any]]:
    horizon_ms = int(scenario.workload.seconds * 1000)
    ends_ms: dict[str, int] = {}
    for one in scenario.fault:
        at = 0 if one.append is not None or one.after else horizon_ms // 2
        at = ends_ms.get(one.after, 0) + (at if one.at_ms is None else one.at_ms)
        ends_ms[one.id] = at + one.for_ms
        yield {
            "do": one.do, "at_ns": at * MS, "for_ns": one.for_ms * MS, "append": one.append or 0,
            "stage": one.stage, "client": one.client, "by_ns": one.by_ms * MS, "bytes": 300,
        }  # fmt: skip
    yield from _lives(scenario.lives, draw, horizon_ms)
    cuts = scenario.cuts
    for n in range(cuts.each):
        yield {
            "do": "cut", "at_ns": draw.between(0, horizon_ms * 1000, "cuts/at", n) * 1000,
            "for_ns": MS, "client": n % clients,
            "bytes": 1 + (draw.seed * cuts.each + n) % cuts.bytes_max,
        }  # fmt: skip
    swarm = scenario.swarm
    if draw.chance(swarm.quiet_share, "swarm/quiet"):
        return
    for name in swarm.faults:
        own = f"swarm/{name}"
        if not draw.chance(0.5, own):
            continue
        for n in range(draw.between(*swarm.each, own + "/count")):
            by = draw.between(-7_200_000, 7_200_000, own + "/by", n)
            yield {
                "do": name,
                "at_ns": draw.between(0, horizon_ms * 1000, own + "/at", n) * 1000,
                "for_ns": draw.between(1, 800, own + "/for", n) * MS,
                "append": draw.between(2, 60, own + "/append", n),
                "stage": draw.choice(("before", "after"), own + "/stage", n),
                "client": draw.between(0, clients - 1, own + "/client", n),
                "by_ns": by * MS if draw.chance(0.5, own + "/far", n) else by * 1000,
                "bytes": draw.between(1, 700, own + "/bytes", n),
                **_derived(name, draw, own, n),
            }


def _derived(name: str, draw: Draw, own: str, n: int) -> dict[str, Any]:
    """What else a fault of derived data says."""
    if name == "rot":
        return {"place": draw.bits(own + "/place", n)}
    if name not in ("crash-aside", "fail-aside"):
        return {}
    lane = draw.choice(LANES, own + "/lane", n)
    reads = lane in COLD_LANES
    return {
        "lane": lane,
        "nth": draw.between(1, NTH_ASIDE_MAX, own + "/nth", n),
        "stage": draw.choice(("before", "within", "after"), own + "/within", n),
        "error": "eio" if reads else draw.choice(("eio", "enospc"), own + "/error", n),
    }


def _lives(lives: Lives, draw: Draw, horizon_ms: int) -> Iterator[dict[str, Any]]:
    """How each run of the process ends, in their order."""
    count = draw.between(*lives.each, "lives")
    for n in range(count):
        arm = draw.choice(lives.arms, "lives/arm", n)
        fails = arm in ("call", "recovery") and draw.chance(lives.error_share, "lives/fails", n)
        actions = ERRORS if fails else ("kill", "kill-after")
        action = draw.choice(actions, "lives/action", n)
        calls = draw.choice(CALLS, "lives/calls", n)
        if fails:
            calls = "any" if action == "short" else draw.choice(("any", "sync"), "lives/of", n)
        elif arm == "recovery":
            calls = "all"
        if arm == "state":
            yield _state_life(lives, draw, n) | {"at_ns": horizon_ms * MS * n // count}
            continue
        yield {
            "do": "life", "at_ns": horizon_ms * MS * n // count, "arm": arm, "action": action,
            "stage": draw.choice(STAGES, "lives/stage", n), "calls": calls,
            "nth": draw.between(1, NTH_MAX[arm], "lives/nth", n),
            "after_ns": draw.between(1, 300, "lives/after", n) * MS,
            "for_ns": MS, "client": 0,
        }  # fmt: skip


def _state_life(lives: Lives, draw: Draw, n: int) -> dict[str, Any]:
    """A life that ends at a call that touches column files, or has to do with such a call."""
    life = {"do": "life", "arm": "state", "after_ns": 0, "for_ns": MS, "client": 0}
    if not draw.chance(lives.error_share, "lives/fails", n):
        nth = draw.between(1, NTH_MAX["state"], "lives/nth", n)
        action = draw.choice(("kill", "kill-after"), "lives/action", n)
        return life | {"action": action, "calls": "all", "nth": nth, "where": "/state"}
    action = draw.choice(ERRORS, "lives/action", n)
    nth = draw.between(1, STATE_NTH_MAX, "lives/nth", n)
    lasts = action == "enospc" and draw.chance(0.5, "lives/lasts", n)
    return life | {
        "action": action,
        "calls": draw.choice(STATE_ERRORS[action], "lives/of", n),
        "nth": f"from:{nth}" if lasts else nth,
        # The stamp is not written under a temporary name: it may not be short of space.
        "where": "/state" if action == "eio" else "/state/.",
    }
