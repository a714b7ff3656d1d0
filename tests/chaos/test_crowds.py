"""Troubles of files and crowds in a sale, herds in the sim: small ones hold, each can break."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import scenario
from chaos.coverage import Coverage
from chaos.sale import checks, run
from chaos.scenario import Refused
from chaos.sim.run import QUIET_NS_MAX, Runs

HEAD = """
[scenario]
name = "tiny"
format = 1
tier = "process"
about = "a small sale"
rto_max_seconds = 5.0

[load]
rate = 500
duration_seconds = 3.0
accounts = 50
batch = 2
sessions = 10
connections = 2

[[fault]]
at_seconds = 0.7
"""
CROWD = """
do = "slow-readers"
for_seconds = 1.0
connections = 3
pipelined = 2
wait_ms_max = 60_000.0
"""
HERD = """
do = "herd"
for_seconds = 1.0
callers = 12
window_events = 200
rounds = 2
answer_seconds_max = 30.0
"""
WATCHED = """
do = "watch-files"
for_seconds = 1.5
watchers = ["opens", "checks-readers"]
"""


def sale(tmp_path: Path, fault: str) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(HEAD + fault)
    return path


def test_a_watched_book_is_served(tmp_path: Path) -> None:
    verdict = run.run(sale(tmp_path, WATCHED), 1, tmp_path)
    assert verdict.held, verdict.lines()
    assert verdict.figures["copies"] > 0 and min(verdict.figures["looked"].values()) > 0


def test_a_small_herd_is_answered(tmp_path: Path) -> None:
    verdict = run.run(sale(tmp_path, HERD), 2, tmp_path)
    assert verdict.held, verdict.lines()
    assert verdict.figures["answered"] == [12, 12]


@pytest.mark.parametrize(
    ("change", "check"),
    [("", None), ("more_bytes_max = 1", "bounded"), ("wait_ms_max = 0.001", "live")],
)
def test_a_crowd_that_does_not_read_is_measured(
    tmp_path: Path, change: str, check: str | None
) -> None:
    fault = CROWD.replace("wait_ms_max = 60_000.0", "") if "wait" in change else CROWD
    verdict = run.run(sale(tmp_path, fault + change + "\n"), 3, tmp_path)
    assert {name for name, _ in verdict.broken} == ({check} if check else set()), verdict.lines()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (CROWD.replace("connections = 3", "connections = -1"), "above 0"),
        (CROWD.replace("for_seconds = 1.0", "for_seconds = 0.0"), "at least 1"),
        (HERD.replace("callers = 12", "callers = 0"), "above 0"),
        (WATCHED.replace('"opens"', '"closes"'), "closes"),
        ('do = "roll-back"\nvia = "hope"\nfor_seconds = 1.0', "hope"),
        ('do = "deaf-log"\nhow = "loud"', "loud"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_files_name(
    tmp_path: Path, fault: str, said: str
) -> None:
    with pytest.raises(Refused) as refusal:
        run.read(sale(tmp_path, fault))
    assert said in str(refusal.value) and "tiny.toml" in str(refusal.value)


def test_a_journal_that_is_put_back_is_judged_by_who_is_evicted() -> None:
    def broken(expect: str, rolled_back: bool) -> list[str]:
        found = checks.expectation(
            expect, failed_stop=False, refused=False, serves=True, rolled_back=rolled_back
        )
        return [name for name, _ in found]

    assert broken("evict", True) == broken("survive", False) == []
    assert broken("evict", False) == broken("survive", True) == ["evicted"]
    facts = {"clean": True, "ledgers": [], "records": {"transfer": 9}}
    assert list(checks.book(0, facts, "", [], counted=False)) == []
    assert [name for name, _ in checks.book(0, facts, "", [])] == ["one-effect"]


# ---- on virtual time -----------------------------------------------------------------------------


def test_a_herd_is_every_session_at_once() -> None:
    plan = scenario.expand(scenario.find("herds"), 1)
    herds: dict[int, list[dict[str, object]]] = {}
    for entry in plan.entries:
        if "herd" in entry:
            herds.setdefault(entry["herd"], []).append(entry)
    assert 2 <= len(herds) <= 4
    for those in herds.values():
        assert len(those) == sum(plan.sessions) and len({one["at_ns"] for one in those}) == 1
    with_herds = scenario.find("swarm")
    assert not any("herd" in entry for entry in scenario.expand(with_herds, 1).entries)


def test_a_herd_that_never_came_is_named() -> None:
    covered, found = Coverage(), scenario.find("herds")
    with Runs() as runs:
        outcome = runs.run(scenario.expand(found, 0))
    covered.add(found, outcome.seen, outcome.codes)
    assert "sim: herd" not in covered.missing()
    outcome.seen["herd"] = 0
    again = Coverage()
    again.add(found, outcome.seen, outcome.codes)
    assert "sim: herd" in again.missing()


def test_who_waits_although_nothing_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert QUIET_NS_MAX > 0
    plan = scenario.expand(scenario.find("herds"), 0)
    with Runs() as runs:
        monkeypatch.setattr("chaos.sim.run.Run.quiet_ns_max", 1)
        outcome = runs.run(plan)
        assert outcome.broken is not None and outcome.broken[0] == "live"
        assert "without any fault" in outcome.broken[1]
