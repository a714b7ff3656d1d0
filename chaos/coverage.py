"""What a set of runs has seen happen: every result code, every fault, every way to die.

A check that never met what it is for proves nothing, so what never fired is named and is a failure
of the run that asked for coverage. It knows scenarios only by what they say they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from chaos.host.plan import HostScenario
from chaos.scenario import COLD_LANES, ERRORS, LANES, STAGES, Scenario
from chaos.sim.client import ACCOUNT_CODES, TRANSFER_CODES
from chaos.verdict import Verdict

# How a fault tells that it has fired, where that is not its own name.
FIRED = {
    "crash-append": "crash",
    "fail-append": "fail-append-before",
    "cut": "line-cut",
    "lose-reply": "reply-lost",
    "duplicate": "duplicate-connection",
}
EVENTS = (
    "resend", "second-reply", "give-up", "evicted", "peer-is-behind", "server-reads-no-more",
    "server-closes",
)  # fmt: skip
# What happens to the past once windows are small, and how it is hurt.
SEALING = ("seal", "merge", "checkpoint", "cold-answer", "start-from-checkpoint")
SEALING_HURT = {
    "crash-aside": tuple(f"crash-{when}-{lane}" for when in ("before", "after") for lane in LANES),
    "fail-aside": tuple(
        f"fail-{lane}-{error}"
        for lane in LANES
        for error in ("eio", "enospc")
        if lane not in COLD_LANES or error != "enospc"  # a read needs no space
    ),
    "rot": ("damage-noticed", "rebuilt"),
}
KILLED = (
    "kill-point", "fail-stop", "life at a moment", *(f"life at {stage}" for stage in STAGES),
    "life kill of all in recovery", "life kill-after of all in recovery",
)  # fmt: skip


KILLED_IN_STATE = tuple(f"life {how} in state" for how in ("kill", "kill-after", *ERRORS))
# What a habit of a host is nothing without.
HOSTS_DO = {
    "copies-its-book": ("copy",),
    "opens-its-lock-files": ("own file opened",),
    "cancels-calls": ("cancelled", "timed out"),
    "interrupted": ("interrupt",),
    "calls-from-a-handler": ("call inside",),
    "calls-from-a-finalizer": ("call inside",),
    "pays-at-exit": ("late call",),
    "pays-after-main": ("late call",),
    "closes-descriptors": ("descriptor closed",),
    "forks": ("fork",),
    "async-exceptions": ("async exception",),
    "calls-from-another-loop": ("call from another loop",),
    "interrupted-open": ("interrupted open or close",),
    "cancelled-open": ("cancelled open",),
    "drops-its-book": ("book dropped",),
}
NO_NAMESPACES = "same-pid is not possible here"


class Coverage:
    """What was hoped for, and how often it was seen, over several scenarios."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.fired: dict[str, Counter[str]] = {}  # by tier
        self._hoped: dict[str, set[str]] = {}
        self._sealing: dict[str, set[str]] = {}
        self._not_here: set[str] = set()  # what this machine cannot do

    def add(self, one: Scenario, seen: Counter[str], codes: Counter[str]) -> None:
        tier = one.scenario.tier
        self.codes += codes
        self.fired.setdefault(tier, Counter()).update(seen)
        hoped = self._hoped.setdefault(tier, set())
        hoped |= {FIRED.get(name, name) for name in one.swarm.faults}
        hoped |= {FIRED.get(fault.do, fault.do) for fault in one.fault}
        hoped |= {"herd"} if one.workload.herds[1] else set()
        hoped |= {"line-cut"} if one.cuts.each else set()
        hoped |= set(EVENTS) if tier == "sim" else set()
        if one.lives.each[0]:
            arms = set(one.lives.arms)
            hoped |= set(KILLED) if arms >= {"failpoint", "recovery", "time"} else {"kill-point"}
            hoped |= set(KILLED_IN_STATE) if "state" in arms else set()
        if tier == "sim" and "WINDOW_EVENTS" in one.bounds:
            sealing = self._sealing.setdefault(tier, set())
            sealing |= set(SEALING)
            for name in one.swarm.faults:
                sealing |= set(SEALING_HURT.get(name, ()))

    def add_hosts(self, one: HostScenario, verdict: Verdict) -> None:
        """What hosts did, and what others did to their files where that is possible here."""
        happened = Counter(verdict.figures["happened"])
        self.fired.setdefault("host", Counter()).update(happened)
        hoped = self._hoped.setdefault("host", set())
        hoped |= set(one.host.habits) | set(one.host.outside if one.host.outside_share else ())
        hoped |= {"killed"} if one.host.kill_share else set()
        hoped |= {what for habit in one.host.habits for what in HOSTS_DO.get(habit, ())}
        self._not_here |= {"same-pid"} if happened[NO_NAMESPACES] else set()

    @property
    def _tells_codes(self) -> bool:
        """Whether there was anybody who was told result codes: hosts do not write them down."""
        return set(self.fired) != {"host"}

    def missing(self) -> list[str]:
        """What never happened."""
        names = [f"account {name}" for name in ACCOUNT_CODES.values()]
        names += [f"transfer {name}" for name in TRANSFER_CODES.values()]
        unseen = [f"code: {name}" for name in names if self._tells_codes and not self.codes[name]]
        for _, tier, hoped in self._rows():
            fired = self.fired[tier]
            unseen += [f"{tier}: {name}" for name in sorted(hoped) if not fired[name]]
        return unseen

    def table(self) -> Table:
        table = Table("what", "seen", "times", box=None)
        seen = sum(1 for times in self.codes.values() if times)
        codes = len(ACCOUNT_CODES) + len(TRANSFER_CODES)
        rarest = ", ".join(f"{name} {n}" for name, n in self.codes.most_common()[:-4:-1])
        if self._tells_codes:
            table.add_row("result codes", f"{seen} of {codes}", f"the rarest: {rarest}")
        for what, tier, hoped in self._rows():
            fired = self.fired[tier]
            there = sorted(name for name in hoped if fired[name])
            told = ", ".join(f"{name} {fired[name]}" for name in there)
            table.add_row(what, f"{len(there)} of {len(hoped)}", told)
        return table

    def _rows(self) -> Iterator[tuple[str, str, set[str]]]:
        """What the row is of, its tier, and what was hoped for."""
        for what, rows in (("faults", self._hoped), ("sealed past", self._sealing)):
            for tier, hoped in sorted(rows.items()):
                yield f"{tier} {what}", tier, hoped - self._not_here
