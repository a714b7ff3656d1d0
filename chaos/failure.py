"""A failing run as a file: all that is needed to see it again, and to make it smaller.

The file holds the plan, which check failed, the end of the trace and the commit it happened at.
Shrinking leaves out entries, then events, as long as the same check fails; it knows plans only as
lists and a run only as a function of a plan.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from chaos.scenario import FORMAT, Plan, Refused, Strict

T = TypeVar("T")
RUNS_MAX = 2_000  # tries of one shrinking


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
        """The smallest plan found: faults go first, then requests, then their events."""

        def kept(entries: list[dict[str, Any]]) -> Plan:
            return msgspec.structs.replace(plan, entries=entries)

        if not self._fails(plan):
            raise Refused(f"the plan does not break {self._check!r} here")
        asks = [entry for entry in plan.entries if "ask" in entry]
        faults = [entry for entry in plan.entries if "ask" not in entry]
        if self._fails(kept(asks)):
            faults = []
        elif faults:
            faults = ddmin(faults, lambda some: self._fails(kept(_merge(asks, some))))
        entries = ddmin(_merge(asks, faults), lambda some: self._fails(kept(some)))
        for index, entry in enumerate(entries):
            if "ask" in entry:
                entries[index] = self._fewer(entry, entries, index, kept)
        return kept(entries)

    def _fewer(
        self,
        entry: dict[str, Any],
        entries: list[dict[str, Any]],
        index: int,
        kept: Callable[[list[dict[str, Any]]], Plan],
    ) -> dict[str, Any]:
        """The request with as few batches and events as still fail."""

        def with_events(events: list[tuple[int, Any]]) -> dict[str, Any]:
            numbers = sorted({batch for batch, _ in events})
            batches = [[one for batch, one in events if batch == n] for n in numbers]
            return entry | {"batches": batches}

        def fails(events: list[tuple[int, Any]]) -> bool:
            return self._fails(
                kept([*entries[:index], with_events(events), *entries[index + 1 :]])
            )

        events = [(n, one) for n, batch in enumerate(entry["batches"]) for one in batch]
        return with_events(ddmin(events, fails))


def _merge(asks: list[dict[str, Any]], faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(asks + faults, key=lambda entry: entry["entry"])
