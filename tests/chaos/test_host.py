"""The host tier: real host processes hold, what is planted in one is found, the judge can fail.

A bug is planted in the host's process by lines that Python runs before it begins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ledger
from chaos import catalog, cli
from chaos.coverage import HOSTS_DO, NO_NAMESPACES, Coverage
from chaos.host import payments, plan, run, worker
from chaos.host.diary import Diary, Told
from chaos.host.diary import read as read_diary
from chaos.host.host import Host
from chaos.host.judge import Judge
from chaos.host.plan import HABITS, OUTSIDE, HostScenario
from chaos.scenario import FOLDER, Refused

FAST = FOLDER / "fast" / "hosts.toml"
TINY = """
[scenario]
name = "tiny"
format = 1
tier = "host"
about = "a few short lives"
seeds = 2

[host]
lives = 2
habits = ["many-threads", "many-tasks", "forks"]
outside = ["opens"]
outside_share = 1.0
kill_share = 0.5
ms = [200, 300]
window_events = [500]
"""
# A host is told that its payments are made, and one call in five never was.
ACKNOWLEDGES_NOTHING = """
import numpy
from ledger.host import book; from ledger.facts import schema
real, calls = book.Book.create_transfers, []
def create_transfers(self, transfers, timeout=None):
    calls.append(1)
    if len(calls) % 5:
        return real(self, transfers, timeout)
    results = numpy.zeros(len(transfers), schema.CREATE_RESULT)
    results["status"], results["timestamp"] = schema.TransferStatus.CREATED, 1
    return results
book.Book.create_transfers = create_transfers
"""
# A call pays and then says that it was not able to.
REFUSES_WHAT_IT_DOES = """
from ledger.host import book
real, calls = book.Book.create_transfers, []
def create_transfers(self, transfers, timeout=None):
    results = real(self, transfers, timeout)
    calls.append(1)
    if len(calls) > 5:
        raise book.Busy("there is no room")
    return results
book.Book.create_transfers = create_transfers
"""
# A request is made in two parts; only the first is, when the host dies in between.
IN_TWO_PARTS = """
import os
from ledger.host import book
real, calls = book.Book.create_transfers, []
def create_transfers(self, transfers, timeout=None):
    results = real(self, transfers[: max(1, len(transfers) // 2)], timeout)
    if len(transfers) > 1:
        os.kill(os.getpid(), 9)
    return results
book.Book.create_transfers = create_transfers
"""
NEVER_RETURNS = """
import threading
from ledger.host import book
book.Book.create_transfers = lambda self, transfers, timeout=None: threading.Event().wait()
"""


def scenario(tmp_path: Path, text: str = TINY) -> HostScenario:
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return run.read(path)


def test_hosts_are_killed_and_looked_at_and_lose_nothing(tmp_path: Path) -> None:
    found = scenario(tmp_path, TINY.replace("lives = 2", "lives = 4"))
    verdict = run.run(found, 2, tmp_path)
    assert verdict.held, verdict.lines()
    figures = verdict.figures
    assert figures["payments"] > 0 and figures["happened"]["opens: done"] > 0
    assert {"many-threads", "many-tasks", "forks", "killed"} <= set(figures["happened"])
    assert not list(tmp_path.glob("FAILURE*"))


@pytest.mark.parametrize("outside", OUTSIDE)
def test_others_at_the_files_change_nothing(tmp_path: Path, outside: str) -> None:
    text = TINY.replace("lives = 2", "lives = 1").replace('["opens"]', f'["{outside}"]')
    verdict = run.run(scenario(tmp_path, text), 0, tmp_path)
    assert verdict.held, verdict.lines()
    happened = verdict.figures["happened"]
    assert any(what.startswith(f"{outside}: ") for what in happened) or NO_NAMESPACES in happened


@pytest.mark.parametrize(
    ("bug", "checks"),
    [
        (ACKNOWLEDGES_NOTHING, {"durable"}),
        (REFUSES_WHAT_IT_DOES, {"live"}),  # a call that raises for no reason, before all else
        (IN_TWO_PARTS, {"live", "whole"}),
    ],
)
def test_what_is_planted_is_found_kept_and_seen_again(
    tmp_path: Path, bug: str, checks: set[str]
) -> None:
    text = TINY.replace('"many-tasks", "forks"', "").replace("kill_share = 0.5", "kill_share = 0.0")
    text = text.replace("[host]", "[host]\nthreads = [1, 1]\nbatch_max = [300]")
    verdict = run.run(scenario(tmp_path, text), 0, tmp_path, first=bug)
    assert {name for name, _ in verdict.broken} == checks, verdict.broken
    told = CliRunner().invoke(cli.main, ["replay", verdict.file, "--json"])
    again = json.loads(told.output)
    assert told.exit_code == 0 and again["broken"] == [], "without the bug"
    assert again["scenario"] == "tiny" and again["seed"] == 0


def test_a_host_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HANG_SECONDS", 1.0)
    text = TINY.replace('"many-tasks", "forks"', "").replace("kill_share = 0.5", "kill_share = 0.0")
    verdict = run.run(scenario(tmp_path, text), 0, tmp_path, first=NEVER_RETURNS)
    assert [check for check, _ in verdict.broken] == ["live"] and "hangs" in verdict.broken[0][1]


# ---- the judge, of which each finding must be possible -------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book with the payments 10,000 .. 10,004 and 20,000 .. 20,001."""
    with ledger.open(tmp_path / "book") as made:
        made.create_accounts(payments.accounts())
        for first, count in ((10_000, 5), (20_000, 2)):
            made.create_transfers(payments.records(payments.numbers(first, count)))
    return tmp_path / "book"


def times(book: Path, first: int, count: int) -> list[int]:
    with ledger.open(book) as opened:
        ids = payments.id_rows(payments.numbers(first, count))
        return list(opened.lookup_transfers(ids)["timestamp"].tolist())


def told(**lists: Any) -> Told:
    made = Told()
    made.asked = {10_000: 5, 20_000: 2, 30_000: 3}
    for name, value in lists.items():
        setattr(made, name, value)
    return made


def test_a_book_in_which_all_is_well(book: Path) -> None:
    judge = Judge(book)
    acked = {10_000: times(book, 10_000, 5)}
    again = [(10_000, acked[10_000])]
    assert judge.after(told(acked=acked, again=again, refused={30_000: "Busy"})) == []
    assert set(judge.times) == {10_000, 20_000} and judge.absent == {30_000}
    with ledger.open(book) as opened:  # what was not there must not come
        opened.create_transfers(payments.records(payments.numbers(30_000, 3)))
    assert [check for check, _ in judge.after(told())] == ["one-effect"]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"acked": {30_000: [1, 2, 3]}}, "durable"),
        ({"acked": {10_000: [1, 2, 3, 4, 5]}}, "original-reply"),
        ({"again": [(10_000, [1, 2, 3, 4, 5])]}, "original-reply"),
        ({"again": [(30_000, [1, 2, 3])]}, "original-reply"),
        ({"refused": {10_000: "Busy"}}, "one-effect"),
        ({"asked": {10_000: 5, 20_000: 3}}, "whole"),
        ({"asked": {10_000: 5}}, "one-effect"),
        ({"broken": [("cancelled", "swallowed")]}, "cancelled"),
    ],
)
def test_what_a_diary_says_can_break_a_run(
    book: Path, changes: dict[str, Any], check: str
) -> None:
    assert [name for name, _ in Judge(book).after(told(**changes))] == [check]


def test_a_transfer_that_is_not_what_was_asked_for_is_seen(book: Path) -> None:
    rows = payments.records(payments.numbers(30_000, 3))
    rows["amount"][1, 0] += 1
    with ledger.open(book) as opened:
        opened.create_transfers(rows)
    assert [name for name, _ in Judge(book).after(told())] == ["judged"]


def test_a_book_that_does_not_verify_is_seen(book: Path) -> None:
    data = book / "journal" / "data.mdb"
    content = bytearray(data.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    data.write_bytes(content)
    assert [name for name, _ in Judge(book).after(told())] == ["chain"]


# ---- scenarios, plans, diaries -------------------------------------------------------------------


def test_the_quick_seeds_have_every_habit_and_all_that_others_do() -> None:
    found = run.read(FAST)
    lives = [
        life for seed in range(found.scenario.seeds) for life in plan.expand(found, seed).lives
    ]
    assert {life.habit for life in lives} == set(HABITS)
    assert {life.outside for life in lives} == {"", *OUTSIDE}
    assert any(life.kill_after_ms for life in lives)
    assert set(worker.THREADS) | set(worker.LOOPS) == set(HABITS) and set(HOSTS_DO) <= set(HABITS)


def test_a_seed_is_always_the_same_plan() -> None:
    found = run.read(FAST)
    assert plan.expand(found, 3) == plan.expand(found, 3) != plan.expand(found, 4)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"forks"', '"forsk"', "no habit 'forsk'"),
        ('["opens"]', '["closes"]', "no trouble outside 'closes'"),
        ("lives = 2", "lives = 0", "lives: 0"),
        ("lives = 2", "life = 2", "life"),
        ("ms = [200, 300]", "ms = [300, 200]", "ms"),
        ("ms = [200, 300]", "ms = [-1, 300]", "ms"),
        ("kill_share = 0.5", "kill_share = 1.5", "kill_share: 1.5"),
        ("window_events = [500]", "window_events = [0]", "above 0"),
        ("window_events = [500]", "window_events = []", "at least one"),
        ("format = 1", "format = 2", "format 2"),
        ('tier = "host"', 'tier = "sim"', "sim"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_files_name(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in TINY
    with pytest.raises(Refused) as refusal:
        scenario(tmp_path, TINY.replace(before, after, 1))
    assert said in str(refusal.value) and "tiny.toml" in str(refusal.value)


def test_the_command_runs_seeds_in_processes_and_counts_what_happened(tmp_path: Path) -> None:
    scenario(tmp_path)
    path = str(tmp_path / "tiny.toml")
    assert catalog.entry(Path(path)).kind == "host"
    words = ["run", path, "--jobs", "2", "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.main, words)
    verdicts = [json.loads(line) for line in done.output.splitlines() if line[:1] == "{"]
    assert done.exit_code == 0, done.output
    assert [one["seed"] for one in verdicts] == [0, 1]
    assert not any(one["broken"] for one in verdicts)


def test_a_habit_that_never_was_is_named(tmp_path: Path) -> None:
    covered, found = Coverage(), scenario(tmp_path)
    verdict = run.run(found, 0, tmp_path)
    covered.add_hosts(found, verdict)
    assert covered.missing() == ["host: forks", "host: fork"][::-1]
    assert "host faults" in [str(cell) for cell in covered.table().columns[0].cells]


def test_a_line_of_a_diary_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "diary"
    made = Diary(path)
    made.write("open")
    made.write("asked", 10_000, 2)
    made.write("acked", 10_000, 2, [7, 8])
    made.write("unknown", 20_000, 1, "Interrupted")
    found = read_diary(path)
    assert found.asked == {10_000: 2} and found.acked == {10_000: [7, 8]} and not found.ended
    assert found.opened == 1 and found.unknown["Interrupted"] == 1


def test_a_host_says_which_calls_did_nothing(tmp_path: Path) -> None:
    life = plan.expand(run.read(FAST), 0).lives[0]
    host = Host(tmp_path, life, Diary(tmp_path / "diary"))
    host.fell(ledger.Busy("no room"), 10_000, 1)
    host.fell(TimeoutError(), 20_000, 1)
    host.fell(ledger.LedgerStopped(OSError(5, "I/O error")), 30_000, 1)
    found = read_diary(tmp_path / "diary")
    assert found.refused == {10_000: "Busy: no room"} and found.unknown["TimeoutError"] == 1
    assert [check for check, _ in found.broken] == ["live"] and host.stopped
