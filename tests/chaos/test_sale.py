"""The sale and its troubles: what a run leaves, what is refused, and what breaks one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from chaos import catalog
from chaos.sale import checks, picture, run, scenario
from chaos.scenario import Refused
from ledger.load.report import Latency, Options, Report

TINY = """
[scenario]
name = "tiny"
format = 1
tier = "process"
about = "a death in a small sale"
rto_max_seconds = 5.0

[load]
rate = 500
duration_seconds = 2.0
accounts = 50
batch = 2
sessions = 10
connections = 2
duplicate_share = 0.1
pending_share = 0.2
resolved_share = 0.5

[[fault]]
id = "death"
do = "kill"
at_seconds = 0.7
for_seconds = 0.1
"""
BROKEN_DISK = TINY.replace('do = "kill"', 'do = "fail-disk"\nfor_good = true').replace(
    "[load]", "[load]\npatience_seconds = 1.0"
)


def file(place: Path, text: str = TINY) -> Path:
    path = place / "tiny.toml"
    path.write_text(text)
    return path


def test_a_sale_survives_a_death_and_leaves_a_report(tmp_path: Path) -> None:
    told: list[str] = []
    verdict = run.run(file(tmp_path), 3, tmp_path, told.append)
    assert verdict.held and verdict.skipped is None, verdict.lines()
    figures = verdict.figures
    fates = ("accepted", "refused", "unanswered", "due_and_never_sent")
    assert figures["offered"] == sum(figures[name] for name in fates)
    assert 900 <= figures["offered"] <= 1_010
    assert figures["looked_up"] == figures["accepted"] > 0
    assert figures["reconnects"] >= 2 and len(figures["restart_seconds"]) == 1
    assert figures["longest_pause_seconds"] > 0.1 and figures["exit_code"] == 0
    assert 0 < figures["p99_before_ms"] < figures["p99_during_ms"]
    assert "kill -9" in verdict.expected and "looked up" in verdict.seen
    assert told and told[0].startswith("tiny: ")
    report = Path(verdict.report)
    drawn = json.loads((report / "timeline.json").read_text())
    assert [one["name"] for one in drawn["faults"]] == ["kill death"]
    # What lies between the last step and the end of the sending is in no point; on a busy machine
    # that is much.
    paid = sum(one["accepted_per_second"] for one in drawn["points"]) * 0.25
    assert 0 < paid <= 1.01 * figures["accepted"]
    kept = json.loads((report / "verdict.json").read_text())
    assert kept["broken"] == [] and kept["figures"] == figures
    assert (report / "timeline.png").exists() == (picture.missing() is None)
    assert not list(tmp_path.glob("FAILURE*"))


def test_a_disk_that_fails_for_good_is_not_survived(tmp_path: Path) -> None:
    verdict = run.run(file(tmp_path, BROKEN_DISK), 4, tmp_path)
    assert not verdict.held
    assert {check for check, _ in verdict.broken} == {"live"}, verdict.broken
    assert verdict.figures["unanswered"] > 0
    kept = Path(verdict.file)
    assert kept.name == "FAILURE-tiny-4.json" and run.is_failure(kept)
    assert not run.is_failure(Path(verdict.report) / "verdict.json")
    file(tmp_path).unlink()
    again = run.replay(kept)
    assert [check for check, _ in again.broken] == [check for check, _ in verdict.broken]


def test_a_failure_file_is_read_strictly(tmp_path: Path) -> None:
    sale = run.read(file(tmp_path))
    plain = {
        "format": 1, "scenario": msgspec.to_builtins(sale), "seed": 1, "commit": "", "rate": None,
        "broken": [],
    }  # fmt: skip
    path = tmp_path / "FAILURE.json"
    path.write_text(json.dumps(plain))
    assert run.is_failure(path)
    for change in ({"format": 2}, {"seed": "one"}, {"scenario": {}}):
        path.write_text(json.dumps(plain | change))
        assert not run.is_failure(path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("rate = 500", "rates = 500", "rates"),
        ("rate = 500", 'rate = "much"', "rate"),
        ("rate = 500", "rate = -1", "rate"),
        ("duration_seconds = 2.0", "", "duration_seconds"),
        ('do = "kill"', 'do = "kil"', "kil"),
        ('do = "kill"', 'do = "kill"\ndelay_ms = 3', "delay_ms"),
        ('do = "kill"', 'do = "slow-disk"', "delay_ms"),
        ('do = "kill"', 'do = "kill"\nafter = "death"', "either at_seconds or after"),
        ("at_seconds = 0.7", 'after = "life"', "no fault before 'kill death' has the id 'life'"),
        ("at_seconds = 0.7", "at_seconds = -1", "less than 0"),
        ('tier = "process"', 'tier = "sim"', "sim"),
        ('tier = "process"', 'tier = "process"\nexpect = "hope"', "hope"),
        ("format = 1", "format = 2", "format 2"),
        ("[load]", "[compare]\nrounds = 1\nbatch = 3\n[load]", "comparison has no faults"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_files_name(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in TINY
    with pytest.raises(Refused) as refusal:
        run.read(file(tmp_path, TINY.replace(before, after, 1)))
    assert said in str(refusal.value) and "tiny.toml" in str(refusal.value)


def test_the_sales_that_come_with_the_software() -> None:
    paths = [one.path for one in catalog.known() if one.kind == "sale"]
    sales = [run.read(path) for path in paths]
    assert len(sales) >= 14
    assert [one.scenario.name for one in sales] == [path.stem for path in paths]
    used = {fault.__struct_config__.tag for one in sales for fault in one.fault}
    assert used == set(scenario.TROUBLES), "each trouble is in a sale"


# ---- the checks, each of which must be able to fail ---------------------------------------------


class Paid(NamedTuple):
    name: str = "the sale"
    error: str = ""
    report: Report | None = None


REPORT = Report(
    options=Options(), seconds=1.0, accounts_created=2, accounts_existed=0, sent=100, accepted=90,
    refused={"exceeds_credits": 10}, unanswered=0, overdue=0, duplicates=0,
    payments_per_second=90.0, latency=Latency(100, 1, 1, 1, 1, 1, 0), longest_pause_seconds=0.0,
    requests=10, resent=0, reconnects=0, evictions={}, found=90, debits_posted=9, credits_posted=9,
    faults={}, stopped="",
)  # fmt: skip
LEDGERS = [{"debits_posted": 9, "credits_posted": 9, "debits_pending": 0, "credits_pending": 0}]
FACTS = {"clean": True, "ledgers": LEDGERS, "records": {"transfer": 90}}


def test_a_sale_in_which_all_is_well() -> None:
    paid = [Paid(report=REPORT)]
    assert list(checks.payments(paid, gave_up=False)) == []
    assert list(checks.book(0, FACTS, "", paid)) == []


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"sent": 101}, "accounted"),
        ({"refused": {}}, "accounted"),
        ({"found": 89}, "durable"),
        ({"faults": {"missing": 1}}, "durable"),
        ({"faults": {"unbalanced": 1}}, "conserved"),
        ({"faults": {"duplicate_faults": 1}}, "one-effect"),
        ({"faults": {"reply_faults": 1}}, "original-reply"),
        ({"evictions": {"no_session": 1}}, "durable"),
        ({"unanswered": 3, "sent": 103}, "live"),
        ({"stopped": "no reply for 9 s"}, "live"),
    ],
)
def test_what_a_payer_saw_can_break_a_sale(changes: dict[str, Any], check: str) -> None:
    paid = [Paid(report=msgspec.structs.replace(REPORT, **changes))]
    assert {name for name, _ in checks.payments(paid, gave_up=False)} == {check}


def test_a_payer_without_a_report_breaks_a_sale() -> None:
    assert list(checks.payments([Paid(error="no server")], False)) == [
        ("live", "the sale: no server")
    ]


@pytest.mark.parametrize(
    ("code", "changes", "check"),
    [
        (1, {"clean": False, "fault": "group 3"}, "chain"),
        (65, {}, "chain"),
        (0, {"records": {"transfer": 89}}, "durable"),
        (0, {"records": {"transfer": 91}}, "one-effect"),
        (0, {"ledgers": [LEDGERS[0] | {"debits_pending": 1}]}, "conserved"),
    ],
)
def test_what_the_book_holds_can_break_a_sale(
    code: int, changes: dict[str, Any], check: str
) -> None:
    found = checks.book(code, FACTS | changes, "", [Paid(report=REPORT)])
    assert [name for name, _ in found] == [check]


def test_what_was_expected_must_have_happened() -> None:
    def broken(expect: str, **seen: bool) -> list[str]:
        usual = {"failed_stop": False, "refused": False, "serves": True}
        return [name for name, _ in checks.expectation(expect, **(usual | seen))]

    assert broken("survive") == []
    assert broken("survive", serves=False) == ["live"]
    assert broken("fail-stop") == ["fail-stop"]
    assert broken("fail-stop", failed_stop=True, serves=False) == []
    assert broken("refuse") == ["refuse"] and broken("refuse", refused=True) == []
