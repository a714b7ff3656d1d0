"""A failing run as a file: all that is needed to see it again, and to make it smaller.

The file holds the plan, which check failed, the end of the trace and the commit it happened at.
Shrinking leaves out entries, then events, as long as the same check fails; it knows plans only as
lists and a run only as a function of a plan.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from chaos.scenario import FORMAT, Plan, Refused, Strict

T = TypeVar("T")
RUNS_MAX = 2_000  # tries of one shrinking
ROUNDS_MAX = 4
ROUND_NS = (1_000_000_000, 100_000_000, 10_000_000, 1_000_000)


class Ran(Protocol):
    """What a run came to."""

    plan: Plan
    broken: tuple[str, str] | None
    trace_hash: str
    tail: list[str]


class Failure(Strict):
    """FAILURE.json. `check` is the invariant's name, `what` what was seen."""

    format: int
    check: str
    what: str
    commit: str
    trace_hash: str
    plan: Plan
    trace_tail: list[str]


def commit() -> str:
    """The commit of this tree, "unknown" where that cannot be told; "+" when files differ."""
    root = Path(__file__).parent
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def of(ran: Ran) -> Failure:
    """The failure that a run came to."""
    assert ran.broken is not None
    check, what = ran.broken
    return Failure(
        format=FORMAT, check=check, what=what, commit=commit(), trace_hash=ran.trace_hash,
        plan=ran.plan, trace_tail=ran.tail,
    )  # fmt: skip


def write(path: Path, failure: Failure) -> None:
    # The standard library's writer, because amounts have 128 bits.
    text = json.dumps(msgspec.to_builtins(failure), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Failure:
    """A failure file. Refused says what is wrong with it."""
    try:
        failure = msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Failure)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise Refused(f"{path}: {error}") from error
    if failure.format != FORMAT or failure.plan.format != FORMAT:
        raise Refused(f"{path}: format {failure.format}, this software reads {FORMAT}")
    return failure


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of `items`, in their order, that still fails and none of whose pieces can go."""
    kept, pieces = list(items), 2
    while len(kept) >= 2:
        size = -(-len(kept) // pieces)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if rest and fails(rest):
                kept, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(len(kept), 2 * pieces)
    return kept


class Shrinker:
    """Makes a failing plan smaller while the same check fails."""

    def __init__(self, run: Callable[[Plan], Ran], check: str) -> None:
        self._run, self._check = run, check
        self.runs = 0
        self.last: Ran | None = None  # the last run that failed the same way

    def _fails(self, plan: Plan) -> bool:
        if self.runs >= RUNS_MAX:
            return False
        self.runs += 1
        ran = self._run(plan)
        if ran.broken is None or ran.broken[0] != self._check:
            return False
        self.last = ran
        return True

    def shrink(self, plan: Plan) -> Plan:
        """The smallest plan found: faults go first, then clients, requests, events, and times."""
        if not self._fails(plan):
            raise Refused(f"the plan does not break {self._check!r} here")
        for _ in range(ROUNDS_MAX):
            before = plan
            plan = self._simpler(self._fewer_entries(plan))
            if plan == before:
                break
        entries = list(plan.entries)
        for index, entry in enumerate(entries):
            if "ask" in entry:
                entries[index] = self._fewer(plan, entries, index)
        return msgspec.structs.replace(plan, entries=entries)

    def _fewer_entries(self, plan: Plan) -> Plan:
        def kept(entries: list[dict[str, Any]]) -> Plan:
            return msgspec.structs.replace(plan, entries=entries)

        asks = [entry for entry in plan.entries if "ask" in entry]
        faults = [entry for entry in plan.entries if "ask" not in entry]
        if faults and asks and self._fails(kept(asks)):
            faults = []
        elif faults:
            faults = ddmin(faults, lambda some: self._fails(kept(_merge(asks, some))))
        return kept(ddmin(_merge(asks, faults), lambda some: self._fails(kept(some))))

    def _simpler(self, plan: Plan) -> Plan:
        """Usual bounds, one client with one session, earlier appends, round times: whatever still
        fails."""
        for name in plan.bounds:
            left = {other: value for other, value in plan.bounds.items() if other != name}
            usual = msgspec.structs.replace(plan, bounds=left)
            if self._fails(usual):
                plan = usual
        one = [
            entry | {"client": 0, "session": 0} if "ask" in entry else entry | {"client": 0}
            for entry in plan.entries
        ]
        alone = msgspec.structs.replace(plan, entries=one, sessions=(1,))
        if plan.sessions != (1,) and self._fails(alone):
            plan = alone
        for index, entry in enumerate(plan.entries):
            for other in _simpler_entries(entry):
                entries = [*plan.entries[:index], other, *plan.entries[index + 1 :]]
                tried = msgspec.structs.replace(plan, entries=entries)
                if self._fails(tried):
                    plan = tried
                    break
        return plan

    def _fewer(self, plan: Plan, entries: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """The request with as few batches and events as still fail."""
        entry = entries[index]

        def with_events(events: list[tuple[int, Any]]) -> dict[str, Any]:
            numbers = sorted({batch for batch, _ in events})
            batches = [[one for batch, one in events if batch == n] for n in numbers]
            return entry | {"batches": batches}

        def fails(events: list[tuple[int, Any]]) -> bool:
            fewer = [*entries[:index], with_events(events), *entries[index + 1 :]]
            return self._fails(msgspec.structs.replace(plan, entries=fewer))

        events = [(n, one) for n, batch in enumerate(entry["batches"]) for one in batch]
        return with_events(ddmin(events, fails))


def _simpler_entries(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entry with an earlier append or a rounder time, the simplest first."""
    append = entry.get("append", 0)
    for earlier in (2, 3, 4, 6, 8, append // 2, append - 1):
        if 2 <= earlier < append:
            yield entry | {"append": earlier}
    for unit in ROUND_NS:
        at = entry["at_ns"] // unit * unit
        if at != entry["at_ns"]:
            yield entry | {"at_ns": at}


def _merge(asks: list[dict[str, Any]], faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(asks + faults, key=lambda entry: entry["entry"])
