"""The live tiers: real processes and sockets hold, and what is planted in a server is found there.

A bug is planted in the server's process by lines that Python runs before the unmodified command.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from chaos import batch, catalog, cli, failure, scenario
from chaos.coverage import Coverage
from chaos.live import run as live
from chaos.live.run import LiveRuns
from chaos.scenario import Cuts, Lives, Refused, Scenario

ROOT = Path(__file__).resolve().parents[2]
LIVE = ("kill-points", "seal-points", "process-swarm", "every-byte", "bad-line")
HEAD = "[scenario]\nname = 'x'\nformat = 1\ntier = '{tier}'\nabout = ''\n"

# The real step comes a turn of the loop later: by then what was delivered has left, so that a life
# which ends there has always told somebody what it did not keep.
EARLY = """
from ledger.engine.engine import Engine
real = Engine.flush
def flush(self):
    if not self._appending:
        for submitter, taken, size in self._waits.get(self.core.group, []):
            if size:
                submitter.deliver(taken)
    self._runner.soon(lambda: real(self))
Engine.flush = flush
"""
DIES = """
import os
from ledger.engine.engine import Engine
real, left = Engine._execute, [40]
def execute(self, *arguments):
    left[0] -= 1
    if left[0] == 0:
        os._exit(3)
    return real(self, *arguments)
Engine._execute = execute
"""


def short(name: str, seconds: float, requests: int) -> Scenario:
    """A scenario that comes with the software, made small."""
    found = scenario.find(name)
    found.workload.seconds, found.workload.requests = seconds, (requests, requests)
    return found


def test_the_live_tiers_run_here() -> None:
    assert live.missing() is None


@pytest.mark.parametrize("name", LIVE)
def test_every_check_holds(name: str) -> None:
    found = short(name, 2.5, 60)
    if found.lives.each[1] > 2:
        found.lives = msgspec.structs.replace(found.lives, each=(4, 4))
    if found.cuts.each:
        found.cuts = Cuts(each=24, bytes_max=24)
    with LiveRuns() as runs:
        outcome = runs.run(scenario.expand(found, 5_000))
    assert outcome.broken is None, (outcome.broken, outcome.tail)
    if name == "kill-points":
        assert outcome.seen["kill-point"] + outcome.seen.get("fail-stop", 0) >= 4
    if name == "seal-points":
        assert sum(times for what, times in outcome.seen.items() if what.endswith("in state")) >= 2
    if name == "every-byte":
        assert outcome.seen["line-cut"] >= 1


def test_an_answer_before_the_line_is_found_kept_and_seen_again(tmp_path: Path) -> None:
    found = short("kill-points", 3.0, 80)
    found.lives = Lives(each=(3, 3), arms=("failpoint",))
    plan = scenario.expand(found, 1)
    for entry in plan.entries:
        if entry.get("do") == "life":
            entry |= {"stage": "encoded", "nth": 12}
    with LiveRuns(EARLY) as runs:
        outcome = runs.run(plan)
        assert outcome.broken is not None and outcome.broken[0] == "durable", outcome.tail
        failure.write(tmp_path / "F.json", failure.of(outcome))
        again = runs.run(failure.read(tmp_path / "F.json").plan)
        assert again.broken is not None and again.broken[0] == "durable"
    told = CliRunner().invoke(cli.main, ["replay", str(tmp_path / "F.json"), "--json"])
    assert told.exit_code == 0 and json.loads(told.output)["check"] is None, "without the bug"


def test_a_server_that_ends_by_itself_is_found(tmp_path: Path) -> None:
    with LiveRuns(DIES) as runs:
        outcome = runs.run(scenario.expand(short("bad-line", 2.0, 60), 1))
    assert outcome.broken is not None and outcome.broken[0] == "live"
    assert "ended with 3" in outcome.broken[1]


# ---- scenarios and plans -------------------------------------------------------------------------


def test_a_seed_is_always_the_same_plan_and_every_byte_is_cut() -> None:
    for name in LIVE:
        found = scenario.find(name)
        assert scenario.expand(found, 3) == scenario.expand(found, 3)
        assert scenario.expand(found, 3) != scenario.expand(found, 4)
    found = scenario.find("every-byte")
    plans = [scenario.expand(found, seed) for seed in range(found.scenario.seeds)]
    cut = {one["bytes"] for plan in plans for one in plan.entries if one.get("do") == "cut"}
    assert cut == set(range(1, found.cuts.bytes_max + 1))


@pytest.mark.parametrize(
    ("tier", "rest", "why"),
    [
        ("sim", "[lives]\neach = [1, 2]", "lives and cuts are of the live tiers"),
        ("process", "[swarm]\nfaults = ['disk-full']", "no fault 'disk-full'"),
        ("process", "[lives]\narms = ['lightning']", "no arm 'lightning'"),
        ("sim", "[[fault]]\ndo = 'reset'\nafter = 'nothing'", "has the id 'nothing'"),
        ("sim", "[workload]\nseconds = -1", r"float. >= 0.01 - at `\$.workload.seconds"),
        ("sim", "[workload]\nseconds = nan", r"float. >= 0.01 - at `\$.workload.seconds"),
        ("sim", "[workload]\nclients = [5, 1]", r"clients = \[5, 1\]: the first is above"),
        ("sim", "[workload]\nclients = [0, 1]", r">= 1 - at `\$.workload.clients\[0\]"),
        ("sim", "[workload]\nmix = {pay = 0}", "mix: nothing has a share"),
        ("sim", "[workload]\nmix = {pray = 1}", "mix: there is no kind of request 'pray'"),
        ("sim", "[network]\ndelay_us = [2, 1]", r"delay_us = \[2, 1\]"),
        ("disk", "[disk]\nimages = 0", r">= 1 - at `\$.disk.images"),
        ("sim", "[swarm]\nquiet_share = 1.5", r"<= 1.0 - at `\$.swarm.quiet_share"),
        ("process", "[lives]\neach = [-1, 2]", r">= 0 - at `\$.lives.each\[0\]"),
        ("sim", "[[fault]]\ndo = 'reset'\nfor_ms = -5", r">= 0 - at `\$.fault\[0\].for_ms"),
        ("sim", "[bounds]\nHEAD_NS = []", r"length >= 1 - at `\$.bounds"),
    ],
)
def test_what_a_tier_cannot_do_is_refused(tmp_path: Path, tier: str, rest: str, why: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(HEAD.format(tier=tier) + rest)
    with pytest.raises(Refused, match=why):
        scenario.read(path)


def test_a_fault_comes_after_another_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "in-order.toml"
    path.write_text(
        HEAD.format(tier="sim") + "[[fault]]\nid = 'cut-off'\ndo = 'partition'\nat_ms = 100\n"
        "for_ms = 50\n[[fault]]\ndo = 'reset'\nafter = 'cut-off'\nat_ms = 7"
    )
    plan = scenario.expand(scenario.read(path), 0)
    faults: dict[str, Any] = {one["do"]: one for one in plan.entries if "do" in one}
    assert faults["partition"]["at_ns"] == 100 * scenario.MS
    assert faults["reset"]["at_ns"] == 157 * scenario.MS


def test_scenarios_are_found_by_name_file_and_folder() -> None:
    fast = catalog.chosen(("fast",))
    assert set(LIVE) < {one.name for one in fast}
    assert catalog.chosen(("swarm", str(fast[0].path))) == [
        next(one for one in fast if one.name == "swarm"), fast[0],
    ]  # fmt: skip
    with pytest.raises(Refused, match="no scenario 'nothing'"):
        catalog.chosen(("nothing",))


def test_what_never_fired_is_told() -> None:
    covered = Coverage()
    found = scenario.find("kill-points")
    covered.add(found, Counter({"kill-point": 3}), Counter({"transfer created": 1}))
    missing = covered.missing()
    assert "process: fail-stop" in missing and "process: kill-point" not in missing
    assert "code: transfer exists" in missing and "code: transfer created" not in missing
    assert covered.table().row_count == 2
    covered.add(scenario.find("seals"), Counter({"seal": 5, "rebuilt": 1}), Counter())
    missing = covered.missing()
    assert {"sim: merge", "sim: fail-merge-enospc", "sim: crash-after-seal"} <= set(missing)
    assert not {"sim: seal", "sim: rebuilt", "sim: fail-past-enospc"} & set(missing)
    assert covered.table().row_count == 4


def test_a_batch_of_seeds_is_the_same_in_several_processes() -> None:
    found = scenario.find("retry-storm")
    alone, shared = batch.run(found, 40, 40, 1), batch.run(found, 40, 40, 2)
    assert (alone.seen, alone.codes, alone.run_ns) == (shared.seen, shared.codes, shared.run_ns)
    assert alone.trace_hash() == shared.trace_hash() and len(alone.traces) == 40
    assert alone.seeds == shared.seeds == 40 and not alone.failures


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_ends_a_run_ends_all_of_it(number: signal.Signals, tmp_path: Path) -> None:
    """No server and no worker is left, whether the command is asked to end or killed."""
    words = ["run", "kill-points", "--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    command = subprocess.Popen(
        [sys.executable, "-m", "chaos", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def running() -> list[bytes]:
        return [one for one in _commands(command.pid) if b"ledger" in one]

    _until(lambda: bool(running()))
    command.send_signal(number)
    command.wait(60)
    _until(lambda: not _commands(command.pid))


def _commands(session: int) -> list[bytes]:
    """The command lines of the processes of a session that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append((path / "cmdline").read_bytes())
    return found


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        Event().wait(0.01)


@pytest.mark.parametrize(
    "text", ['{"a":', '{"tier": "disk"}', '{"scenario": {"load": {}}}', '{"format": 9}', "\0\1"]
)
def test_a_file_that_is_no_failure_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "F.json"
    path.write_text(text)
    done = CliRunner().invoke(cli.main, ["replay", str(path)])
    assert done.exit_code == 2 and done.output.count(str(path)) == 1, done.output
    assert done.output.startswith("chaos: ") and done.output.count("\n") == 1


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs() -> None:
    done = CliRunner().invoke(cli.main, ["run", "swarm", "--out", "/proc/nowhere"])
    assert done.exit_code == 2 and "/proc/nowhere" in done.output
