"""The sim tier: it repeats itself exactly, holds, and finds what is planted in the ledger.

Each bug is planted in the real engine, journal or recovery for the time of one test. It must be
found among a bounded number of seeds, by a check that names what is wrong, made small, kept in a
file and seen again from there.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chaos import cli, failure, model, scenario
from chaos.sim import checks
from chaos.sim.client import Request
from chaos.sim.run import Outcome, Runs
from chaos.sim.server import SimJournal
from ledger.engine import recovery
from ledger.engine.engine import Engine
from ledger.engine.memtables import Memtables
from ledger.facts import schema
from ledger.facts.errors import ColumnDamaged, LedgerStopped
from ledger.facts.schema import JournalKind, Operation, Verdict
from ledger.history import lookup
from ledger.journal.body import UNIT_BYTES, read_runs
from ledger.journal.group import Header
from ledger.journal.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
SEEDS_MAX = 300  # within which a planted bug is found
ENTRIES_MAX = 12  # what is left of its plan has fewer


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with Runs() as made:
        yield made


# ---- what a run is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seeds"), [("swarm", 60), ("power-cuts", 60), ("retry-storm", 60), ("seals", 30)]
)
def test_every_check_holds(runs: Runs, name: str, seeds: int) -> None:
    found = scenario.find(name)
    seen: set[str] = set()
    for seed in range(5_000, 5_000 + seeds):
        outcome = runs.run(scenario.expand(found, seed))
        assert outcome.broken is None, f"seed {seed}: {outcome.broken}"
        seen |= outcome.seen.keys()
    names = {one.replace("crash-append", "crash") for one in found.swarm.faults}
    assert {one for one in names if one != "fail-append"} <= seen, "every fault happened"
    assert ("fail-append" in names) == ("fail-append-before" in seen)


def test_a_long_day(runs: Runs) -> None:
    found = scenario.find("long-day")
    for seed in range(3):
        outcome = runs.run(scenario.expand(found, seed))
        assert outcome.broken is None, f"seed {seed}: {outcome.broken}"


def test_the_same_seed_leaves_the_same_trace(runs: Runs) -> None:
    found = scenario.find("swarm")
    hashes = []
    for seed in range(20):
        plan = scenario.expand(found, seed)
        first, second = runs.run(plan), runs.run(plan)
        assert first.trace == second.trace
        assert len(first.trace) > 50
        hashes.append(first.trace_hash)
    assert len(set(hashes)) == len(hashes)


def test_a_trace_depends_on_no_process() -> None:
    program = (
        "from chaos import scenario\nfrom chaos.sim.run import Runs\n"
        "with Runs() as runs:\n"
        "    for seed in range(5):\n"
        "        plan = scenario.expand(scenario.find('swarm'), seed)\n"
        "        print(runs.run(plan).trace_hash)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1", "4217")
    }  # fmt: skip
    assert len(told) == 1 and len(told.pop().split()) == 5


def test_taking_a_fault_out_leaves_other_draws_alone() -> None:
    found = scenario.find("swarm")
    plan = next(
        plan
        for plan in (scenario.expand(found, seed) for seed in range(100))
        if len({entry["do"] for entry in plan.entries if "do" in entry}) > 3
    )
    fewer = [name for name in found.swarm.faults if name != "reset"]
    head = found.swarm
    found.swarm = scenario.Swarm(
        quiet_share=head.quiet_share, faults=tuple(fewer), each=head.each
    )
    other = scenario.expand(found, plan.seed)

    def entries(one: scenario.Plan) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in entry.items() if name != "entry"}
            for entry in one.entries
            if entry.get("do") != "reset"
        ]

    assert entries(plan) == entries(other)


def test_a_plan_survives_its_file(runs: Runs, tmp_path: Path) -> None:
    outcome = runs.run(scenario.expand(scenario.find("swarm"), 4))
    outcome.broken = ("live", "as if")
    failure.write(tmp_path / "F.json", failure.of(outcome))
    kept = failure.read(tmp_path / "F.json")
    assert runs.run(kept.plan).trace_hash == outcome.trace_hash == kept.trace_hash


# ---- planted bugs --------------------------------------------------------------------------------


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    def wait(self: Engine, group: int, submitter: Any, taken: Any, size: int) -> None:
        if size:
            submitter.deliver(taken)

    patch.setattr(Engine, "_release_after", wait)


def answer_reads_before_the_line(patch: pytest.MonkeyPatch) -> None:
    real = Engine._hold

    def hold(self: Engine, submitter: Any, made: int) -> None:
        answers = self.answers.records[:made]
        reads = (answers["operation"] >= 140) & (answers["operation"] < 146)
        if reads.all() and (answers["verdict"] == Verdict.REPLY).all():
            taken, _ = submitter.take(self.answers, made)
            submitter.deliver(taken)
        else:
            real(self, submitter, made)

    patch.setattr(Engine, "_hold", hold)


def swallow_a_failed_append(patch: pytest.MonkeyPatch) -> None:
    real = Journal.append

    def append(self: Journal, expected_position: int, group: Any) -> int:
        number = self.group + 1
        try:
            return real(self, expected_position, group)
        except LedgerStopped:
            self._cause = None
            return number

    patch.setattr(Journal, "append", append)


def altered(kind: JournalKind, change: Callable[[np.ndarray[Any, Any]], None]) -> Any:
    """A replay that changes each record of a kind before it is applied."""

    def replay(
        journal: Journal, core: Any, progress: Any = None, from_group: int = 1, after: Any = None
    ) -> None:
        for header, body in journal.read(from_group, chain=True):
            changed = np.frombuffer(bytearray(body), np.uint8)
            _change(changed, header, kind, change)
            core.replay(
                changed, header.group, header.position_first, header.position_count,
                header.clock_before, header.clock_after,
            )  # fmt: skip
            if after is not None:
                after()

    return replay


def _change(body: Any, header: Header, kind: JournalKind, change: Any) -> None:
    found = read_runs(body, [header])
    dtype = schema.RECORDS[kind.name.lower()]
    for run in np.flatnonzero(found.kinds == int(kind)):
        start = int(found.units[run]) * UNIT_BYTES
        count = int(found.counts[run])
        change(body[start : start + count * dtype.itemsize].view(dtype))


def forget_burned_ids(patch: pytest.MonkeyPatch) -> None:
    def change(rows: Any) -> None:
        rows["id"][:, 1] ^= 1 << 63

    patch.setattr(recovery, "replay", altered(JournalKind.BURNED_ID, change))


def forget_the_last_request(patch: pytest.MonkeyPatch) -> None:
    def change(rows: Any) -> None:
        rows["client"] = 0

    patch.setattr(recovery, "replay", altered(JournalKind.REQUEST, change))


def take_money_when_replaying(patch: pytest.MonkeyPatch) -> None:
    def change(rows: Any) -> None:
        rows["amount"][rows["amount"][:, 0] == 5] = (4, 0)

    patch.setattr(recovery, "replay", altered(JournalKind.TRANSFER, change))


def resend_another_reply(patch: pytest.MonkeyPatch) -> None:
    real = Engine._resend

    def resend(self: Engine, submitter: Any, group: int, offset: int) -> None:
        header, body = self._log.one(group)
        self.core.original_answer(body, header.position_first, offset)
        answer = self.answers.records[0]
        answer["timestamp"] += answer["operation"] == Operation.CREATE_TRANSFERS
        taken, size = submitter.take(self.answers, 1)
        if size:
            submitter.deliver(taken)

    assert real is not resend
    patch.setattr(Engine, "_resend", resend)


def forget_who_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_release", lambda self: self._releasing.clear())


def answer_after_the_end(patch: pytest.MonkeyPatch) -> None:
    real = Engine._fail

    def fail(self: Engine, error: BaseException) -> None:
        waits = [one for those in self._waits.values() for one in those]
        real(self, error)
        for submitter, taken, size in waits:
            if size:
                parts = taken if isinstance(taken, list) else [(submitter, taken)]
                for connection, frames in parts:
                    connection._transport.write(frames)

    patch.setattr(Engine, "_fail", fail)


def lose_the_last_group_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A disk that says it has synced, and has not."""
    real = SimJournal.crash

    def crash(self: SimJournal) -> None:
        if self.group > 2:
            with self._env.begin(write=True) as transaction:
                transaction.delete(self.group.to_bytes(8, "big"))
        real(self)

    patch.setattr(SimJournal, "crash", crash)


def take_a_sealed_id_for_a_new_one(patch: pytest.MonkeyPatch) -> None:
    def write(self: Memtables, first: int, last: int) -> Any:
        columns = self._core.memtable_columns(self._history.hash_key, first)
        return self._history.write(columns, first, last, *self._ends.end_of(last))

    patch.setattr(Memtables, "_write", write)


def serve_a_page_that_rots(patch: pytest.MonkeyPatch) -> None:
    """A column that is not checked: what an id's hash leads to is forgotten in silence."""
    real = lookup._Ids._candidates

    def candidates(self: Any, segment: Any, hashes: Any) -> Iterator[Any]:
        try:
            yield from real(self, segment, hashes)
        except ColumnDamaged:
            return

    patch.setattr(lookup._Ids, "_candidates", candidates)


# The scenario that finds it, and the checks that may name it.
BUGS = {
    acknowledge_before_the_sync: ("power-cuts", "behind-the-line"),
    answer_reads_before_the_line: ("swarm", "behind-the-line"),
    swallow_a_failed_append: ("power-cuts", "behind-the-line"),
    forget_burned_ids: ("power-cuts", "chain replay-equal"),
    forget_the_last_request: ("retry-storm", "replay-equal"),
    take_money_when_replaying: ("power-cuts", "replay-equal chain"),
    resend_another_reply: ("retry-storm", "original-reply"),
    forget_who_waits: ("swarm", "bounded live"),
    answer_after_the_end: ("power-cuts", "fail-stop"),
    lose_the_last_group_in_a_crash: ("power-cuts", "durable chain"),
    take_a_sealed_id_for_a_new_one: ("seals", "judged durable"),
    serve_a_page_that_rots: ("seals", "judged durable"),
}


def first_broken(runs: Runs, name: str, checks: list[str]) -> Outcome:
    """Of the first seed that one of the checks finds; another may find the bug in another seed."""
    found = scenario.find(name)
    for seed in range(SEEDS_MAX):
        outcome = runs.run(scenario.expand(found, seed))
        if outcome.broken is not None and outcome.broken[0] in checks:
            return outcome
    raise AssertionError(f"{SEEDS_MAX} seeds found nothing")


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_shrunk_and_replayed(
    runs: Runs, plant: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, names = BUGS[plant]
    with monkeypatch.context() as patch:
        plant(patch)
        outcome = first_broken(runs, name, names.split())
        assert outcome.broken is not None
        shrinker = failure.Shrinker(runs.run, outcome.broken[0])
        plan = shrinker.shrink(outcome.plan)
        small = runs.run(plan)
        path = tmp_path / "FAILURE.json"
        failure.write(path, failure.of(small))
        kept = failure.read(path)
        again = runs.run(kept.plan)
        assert again.broken == (kept.check, kept.what) == small.broken
        assert again.trace_hash == kept.trace_hash
    assert len(plan.entries) < ENTRIES_MAX, plan.entries
    assert runs.run(plan).broken is None, "without the bug the same plan holds"


# ---- the judge ----------------------------------------------------------------------------------

History = list[Request]


def answered(history: History, creates: bool) -> Request:
    """A request with results, neither the first nor the last of its kind."""
    found = [one for one in history if one.creates == creates and any(one.results)]
    return found[len(found) // 2]


def another_result(history: History) -> None:
    one = answered(history, True)
    one.results[0] = one.results[0][:8] + b"\x63\0\0\0" + one.results[0][12:]


def another_balance(history: History) -> None:
    one = answered(history, False)
    one.results[0] = one.results[0][:32] + b"\x01" + one.results[0][33:]


def never_asked(history: History) -> None:
    history.remove(answered(history, True))


def never_kept(history: History) -> None:
    one = copy.copy(answered(history, True))
    one.number += 1_000
    history.append(one)


def another_position(history: History) -> None:
    answered(history, True).position += 1


def a_read_ahead(history: History) -> None:
    answered(history, False).position += 1


def asked_before_it_was(history: History) -> None:
    """The last of all returned before the first was asked."""
    last = max((one for one in history if one.creates), key=lambda one: one.position)
    last.invoked_ns = last.returned_ns = -2
    history[0].invoked_ns = max(history[0].invoked_ns, 0)


ALTERED = {
    another_result: "judged",
    another_balance: "judged",
    never_asked: "one-effect",
    never_kept: "durable",
    another_position: "durable",
    a_read_ahead: "behind-the-line",
    asked_before_it_was: "real-time",
}


@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_the_judge_sees_what_was_altered(
    runs: Runs, alter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checks.judge

    def judge(directory: Path, histories: list[History], *rest: Any) -> Any:
        history = [one for some in histories for one in some]
        alter(history)
        return real(directory, [history], *rest)

    plan = scenario.expand(scenario.find("swarm"), 1)
    assert runs.run(plan).broken is None
    monkeypatch.setattr(checks, "judge", judge)
    broken = runs.run(plan).broken
    assert broken is not None and broken[0] == ALTERED[alter], broken


def account(**fields: int) -> bytes:
    return model.encode(model.Account(id=1, ledger=1, code=1, **fields))


def test_the_totals_are_added_up_by_nobody_else() -> None:
    checks.totals(account(debits_posted=5) + account(credits_posted=5))
    with pytest.raises(checks.Broken, match="conserved"):
        checks.totals(account(debits_posted=5) + account(credits_posted=4))
    limited = model.AccountFlag.debits_must_not_exceed_credits
    with pytest.raises(checks.Broken, match="limits"):
        checks.totals(account(debits_posted=5, flags=limited) + account(credits_posted=5))


# ---- files and commands --------------------------------------------------------------------------


def test_ddmin_keeps_what_is_needed_and_nothing_else() -> None:
    tries = []

    def fails(some: list[int]) -> bool:
        tries.append(some)
        return {3, 17, 60} <= set(some)

    assert failure.ddmin(range(64), fails) == [3, 17, 60]
    assert len(tries) < 200
    assert failure.ddmin([1], lambda some: True) == [1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[scenario]\nname = 'x'\nformat = 1\ntier = 'sim'\nabout = ''\nsedes = 3", "sedes"),
        ("[scenario]\nname = 'x'\nformat = 2\ntier = 'sim'\nabout = ''", "format 2"),
        ("[scenario]\nname = 'x'\nformat = 1\ntier = 'moon'\nabout = ''", "moon"),
        ("[scenario]\nname = 'x'\nformat = 1\ntier = 'sim'\nabout = ''\n"
         "[swarm]\nfaults = ['flood']", "flood"),
        ("[scenario]\nname = 'x'\nformat = 1\ntier = 'sim'\nabout = ''\n"
         "[bounds]\nWINDOW_EVENT = [1]", "WINDOW_EVENT"),
        ("[scenario", "[scenario"),
    ],
)  # fmt: skip
def test_a_wrong_scenario_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(cli.main, ["run", str(path)])
    assert done.exit_code == 2
    assert "wrong.toml" in done.output and (why in done.output or why == "[scenario")


def test_the_commands_find_replay_and_shrink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def call(code: int, *words: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli.main, [*words, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.output)

    names = {one["name"] for one in call(0, "list")["scenarios"]}
    assert {"swarm", "power-cuts", "retry-storm", "long-day"} <= names
    assert call(0, "run", "swarm", "--seeds", "2", "--out", str(tmp_path))["broken"] == 0
    with monkeypatch.context() as patch:
        acknowledge_before_the_sync(patch)
        told = call(1, "run", "power-cuts", "--seed", "1", "--out", str(tmp_path))
        [found] = told["failures"]
        assert found["check"] == "behind-the-line"
        assert call(1, "replay", found["file"])["same_trace"] is True
        small = call(0, "shrink", found["file"])
        assert small["entries"] < small["entries_before"]
        assert call(1, "replay", small["file"])["check"] == "behind-the-line"
    assert call(0, "replay", small["file"])["check"] is None
    assert CliRunner().invoke(cli.main, ["replay", str(tmp_path / "none.json")]).exit_code == 2
