"""Each benchmark command runs in little, and what it says can be written into the page.

How fast anything is, is nobody's affair here: that the figures are whole, that shares and budgets
add up, and that a page takes them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench import (
    ceiling,
    curve,
    environment,
    loopback,
    payer,
    peers,
    picture,
    reference,
    report,
    scale,
    scale_asks,
    scale_book,
    scale_goals,
    workload,
)
from bench.parts import Shape
from chaos.altered import altered
from chaos.control import postgres
from ledger.facts import schema
from ledger.facts.errors import OutcomeUnknown
from ledger.facts.limits import EVENTS_MAX
from ledger.load import run as load

PRINTED = """1222 batches in 5.22 s
transfer batch size = 8189 txs
transfer batch delay = 0 us
load accepted = 1_915_708 tx/s
batch latency p1   = 3 ms
batch latency p50  = 4 ms
batch latency p100 = 1_021 ms

100 queries in 0.2 s
query latency p50 = 1 ms
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a little curve and of little ceilings."""
    out, disk = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "OPEN_SHARES", (0.25, 0.5))
        curve.measure((1, 64), (2,), 0.1, out, disk)
        little = {
            "full": (Shape(1, 64), curve.Point(64, 2)),
            "single": (Shape(8, 1), curve.Point(1, 2, 4)),
        }
        patch.setattr(ceiling, "SHAPES", little)
        patch.setattr(ceiling, "APPEND_KIB", (4,))
        ceiling.measure(0.1, 2, (8_189,), out, disk)
    return out


PAYMENTS, WINDOW = 100_000, 8_000


@pytest.fixture(scope="module")
def history(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a little history in little windows, beside the others."""
    disk = tmp_path_factory.mktemp("disk")
    asked = scale.Asked(PAYMENTS, 100, connections=2, batch=500, rounds=2, seconds=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "SLICES", 20)
        patch.setattr(scale, "RESTARTS", {"warm": 1, "cold": 1})
        patch.setattr(scale_asks, "ROUNDS_MIN", 2)
        patch.setattr(scale_book, "PROGRESS_SECONDS", 0.02)
        patch.setattr(scale_book, "SECONDS_BEFORE_KILL", 0.2)
        path = scale.measure(asked, disk, results, altered(disk, WINDOW_EVENTS=WINDOW))
    assert list(disk.iterdir()) == [disk / "before"]
    return figures(results, path.stem)


def figures(results: Path, name: str) -> dict[str, Any]:
    found = environment.load(results / f"{name}.json")
    assert found is not None and found.name == name
    assert {"processor", "kernel", "commit", "file_system", "sync"} <= set(found.environment)
    return found.figures


def test_a_curve_has_every_point(results: Path) -> None:
    found = figures(results, "curve")
    points = {(one["batch"], one["connections"]) for one in found["closed"]}
    assert points == {(1, 2), (64, 2)}
    for one in (*found["closed"], found["sessions"], *found["open"]):
        assert one["payments"] > 0 and one["payments_per_second"] > 0
        assert 0 < one["p50_ns"] <= one["p99_ns"] <= one["max_ns"]
        assert 0 < sum(count for _, count in one["histogram"]) <= one["payments"]
    assert [one["share"] for one in found["open"]] == [0.25, 0.5]


def test_too_much_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "available_bytes", lambda: 1 << 40)
    kept, left_out = curve.points((1, 8_189), (1, 4_000))
    assert [(one.batch, one.connections) for one in kept] == [(1, 1), (1, 4_000), (8_189, 1)]
    told = "8,189 a request, 4,000 connections, closed loop: too many payments under way"
    assert left_out == [told]
    monkeypatch.setattr(curve, "available_bytes", lambda: 1 << 30)
    kept, left_out = curve.points((1,), (1, 4_000))
    assert (len(kept), len(left_out)) == (1, 1) and "too little memory" in left_out[0]


def test_a_run_that_saw_a_fault_is_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed:
        ok, refused = False, {}

    monkeypatch.setattr(curve.load, "run", lambda *_, **__: Failed())
    with pytest.raises(RuntimeError, match="closed loop: exit 0"):
        curve.run(curve.Point(1, 1), 0.1, tmp_path, accounts=2)


def test_shares_and_budgets_add_up(results: Path) -> None:
    found = figures(results, "ceiling")
    assert [one["shape"] for one in found["shapes"]] == ["full", "single"]
    for one in found["shapes"]:
        for part in one["parts"]:
            assert part["share"] == pytest.approx(part["limit_ns"] / part["ns"])
        lowest = min(one["limits"].values())
        assert one["limits"][one["bound"]] == lowest
        assert one["share"] == pytest.approx(one["whole"]["payments_per_second"] / lowest)
        assert set(one["budget"]) == set(picture.PARTS)
        assert all(figure >= 0 for figure in one["budget"].values())
    assert found["lookups"][0]["transfers"] == 8_189 and found["append"][0]["kib"] == 4


def test_the_reference_pays_once_and_only_between_accounts() -> None:
    book = reference.Reference(workload.ACCOUNTS, 64)
    rows = workload.transfers(1, 32)
    assert (book.apply(rows), book.apply(rows)) == (32, 0)
    strange = workload.transfers(2, 32)
    strange["credit_account_id"][:, 0] = workload.ACCOUNTS + 1
    assert book.apply(strange) == 0
    found = np.zeros(32, rows.dtype)
    assert book.find(np.ascontiguousarray(rows[["id"]].astype([("id", "<u8", 2)])), found) == 32
    assert (found == rows).all()
    book.close()


def test_the_raw_socket_counts_what_it_sent() -> None:
    found = loopback.measure(400, 272, connections=2, under_way=3, requests=50)
    assert found.requests == 50 and found.seconds > 0


def test_what_a_benchmark_printed_is_read() -> None:
    seen = peers.read(PRINTED)
    assert seen.per_second == 1_915_708
    assert seen.latency_ms == {1: 3, 50: 4, 100: 1021}
    with pytest.raises(ValueError, match="no rate"):
        peers.read("error: connection refused")


def test_pairs_change_their_order_and_medians_are_of_ratios() -> None:
    asked: list[str] = []
    rates = {"ours": iter((10.0, 30.0, 20.0)), "theirs": iter((5.0, 5.0, 5.0))}

    def run(name: str) -> dict[str, Any]:
        asked.append(name)
        return {"payments_per_second": next(rates[name])}

    found = peers.pairs_of(lambda: run("ours"), lambda: run("theirs"), 3, lambda _: None)
    assert asked == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert (found["ratios"], found["ratio_median"]) == ([2.0, 6.0, 4.0], 4.0)
    assert (found["ours_median"], found["theirs_median"]) == (20.0, 5.0)


STAND_IN = """#!{python}
# A stand-in for a binary that is not on every machine: its command line, and nothing behind it.
import pathlib, socket, sys
act, *rest = sys.argv[1:]
if act == "version":
    print("TigerBeetle version 0.0.0")
elif act == "format":
    pathlib.Path(rest[-1]).write_bytes(bytes(1 << 16))
elif act == "start":
    listener = socket.create_server(("127.0.0.1", int(rest[0].rpartition(":")[2])))
    while True:
        listener.accept()[0].close()
elif rest == ["--help"]:
    print("  --transfer-batch-size=<integer>")
else:
    port = rest[0].partition("=")[2]
    socket.create_connection(("127.0.0.1", int(port))).close()
    assert rest[1:] == ["--transfer-count=100", "--transfer-batch-size=100", "--clients=10"], rest
    print({printed!r})
"""


def test_both_servers_are_driven_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "bin" / "tigerbeetle"
    binary.parent.mkdir()
    binary.write_text(STAND_IN.format(python=sys.executable, printed=PRINTED))
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(binary.parent), prepend=os.pathsep)
    monkeypatch.setattr(postgres, "FOLDER", tmp_path / "none")
    name = "100 a request, 10 clients"
    asked = ["--pairs", "1", "--scale", "0.0001", "--load", name]
    ran = CliRunner().invoke(
        peers.main, [*asked, "--out", str(tmp_path), "--scratch", str(tmp_path)]
    )
    assert ran.exit_code == 0, ran.output
    result = environment.load(tmp_path / "peers.json")
    assert result is not None
    [row] = result.figures["tigerbeetle"]["rows"]
    assert (row["ours_median"], row["theirs_median"], row["ratios"]) == (1915708, 1915708, [1.0])
    text = report.peers(result, tmp_path)
    assert f"| {name} | 1,915,708 | 1,915,708 | 1.0 | 1.0 | ≥ 9 | ≥ 550,000 |" in text
    assert "--transfer-batch-size=100 --clients=10`" in text


def test_peers_that_are_not_installed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(peers, "BINARY", "tigerbeetle-that-nobody-has")
    monkeypatch.setattr(postgres, "FOLDER", tmp_path / "none")
    ran = CliRunner().invoke(
        peers.main, ["--pairs", "1", "--out", str(tmp_path), "--scratch", str(tmp_path)]
    )
    assert ran.exit_code == 0, ran.output
    assert "no tigerbeetle-that-nobody-has on PATH" in ran.output
    assert "no PostgreSQL server" in ran.output
    result = environment.load(tmp_path / "peers.json")
    assert result is not None
    text = report.peers(result, tmp_path)
    assert "not compared: no tigerbeetle-that-nobody-has on PATH" in text


def test_every_load_asks_for_whole_batches() -> None:
    for one in peers.LOADS:
        arguments = one.arguments("--transfer-batch-count", 1e-9)
        assert arguments[:2] == [
            f"--transfer-count={one.batch}", f"--transfer-batch-count={one.batch}",
        ]  # fmt: skip


def test_a_history_is_measured_slice_by_slice(history: dict[str, Any]) -> None:
    slices = history["slices"]
    assert len(slices) > 2 and sum(one["payments"] for one in slices) <= PAYMENTS
    assert [one["at"] for one in slices] == list(np.cumsum([one["payments"] for one in slices]))
    for one in slices:
        assert 0 < one["p50_ns"] <= one["p99_9_ns"] <= one["max_ns"] and one["seconds"] > 0
        assert one["rss_anon_bytes"] > 1 << 20 and one["journal_bytes"] > 128 * one["at"]
    growth = history["growth"]
    assert growth["payments"] == PAYMENTS
    assert growth["columns"]["rows of accounts"] > growth["columns"]["ids"] > WINDOW * 16
    assert growth["columns"]["balances"] > 0  # the hot account's


def test_all_that_is_asked_of_a_history_is_answered(history: dict[str, Any]) -> None:
    asks = history["asks"]
    assert {one["phase"] for one in asks} == set(scale.ASKED)
    assert all(one["unanswered"] == 0 and one["asked"] >= 2 for one in asks)
    records = {one["ask"]: one["records"] for one in asks}
    assert records["sent again: of all the history, scattered"] == EVENTS_MAX
    assert records["hot account, balances: the last"] == EVENTS_MAX
    assert records[f"look-up of {EVENTS_MAX:,} payments"] == EVENTS_MAX
    assert 0 < records["by code"] == records["by ledger"] < 100
    beside = [one["beside"] for one in history["payers"]]
    assert beside == ["nothing", *scale.ASKED, "a kill, warm", "a kill, cold"]
    assert all(one["payments"] > 0 for one in history["payers"])
    restarts = {(one["after"], one["cache"]) for one in history["restarts"]}
    assert len(restarts) == 4
    assert history["verify"]["transfers"] > PAYMENTS and history["verify"]["exit"] == 0


def test_goals_are_told_beside_what_was_found(history: dict[str, Any]) -> None:
    rows = {one["figure"]: one for one in history["goals"]}
    assert len(rows) == len(history["goals"])
    disk = rows["disk a payment"]
    assert (disk["goal"], disk["met"]) == ("≤ 200 bytes", disk["found"] <= 200)
    assert rows["by a code in every block, p99"]["goal"] is None
    assert rows["restart after a kill, cold"]["goal"] is None
    slow = history["slices"][-1] | {"seconds": 1e6}
    worse = history | {"slices": [*history["slices"][:-1], slow]}
    rows = {one["figure"]: one for one in scale_goals.goals(worse)}
    assert rows["rate of the last tenth to the first"]["met"] is False
    rows = {one["figure"]: one for one in scale_goals.goals(worse | {"accounts": 10_000_000})}
    assert rows["rate of the last tenth to the first"]["met"] is True
    assert rows["look-up of one payment, p99"]["goal"] == "≤ 20 ms"
    assert rows["restart after a kill, warm"]["goal"] == "≤ 15 s"


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path: Path) -> None:
    asked = ["--transfers", str(10**15), "--dir", str(tmp_path), "--out", str(tmp_path)]
    ran = CliRunner().invoke(scale.main, asked)
    assert ran.exit_code == 1 and "GB are free: too little" in ran.output
    assert list(tmp_path.iterdir()) == []


class Silent:
    """A book whose server answers only look-ups, and those wrongly."""

    def __init__(self) -> None:
        self.client = self
        self.hung_up = 0

    def hang_up(self) -> None:
        self.hung_up += 1

    def late(self) -> np.ndarray:
        raise OutcomeUnknown("not answered in 30 s")

    def wrong(self) -> np.ndarray:
        return np.zeros(2, schema.TRANSFER)


def test_what_is_not_answered_counts_and_what_is_wrong_raises() -> None:
    book: Any = Silent()
    late = scale_asks.Ask("late", lambda _: book.late, lambda rows: None)
    [found] = scale_asks.sample(book, [late], 5, 0.0, lambda _: None)
    assert (found["asked"], found["unanswered"], book.hung_up) == (3, 3, 3)
    wrong = scale_asks.Ask("wrong", lambda _: book.wrong, scale_asks._found(3))
    with pytest.raises(RuntimeError, match="wrong, 1: a wrong answer: 2 of 3 found"):
        scale_asks.sample(book, [wrong], 5, 0.0, lambda _: None)


def test_percentiles_are_times_that_were_seen() -> None:
    assert scale_asks.of([5, 1, 4, 2, 3]) == {"asked": 5, "p50_ns": 3, "p99_ns": 5, "max_ns": 5}
    assert scale_asks.of(list(range(1, 201)))["p99_ns"] == 198


def test_payers_are_asked_for_what_their_options_say() -> None:
    options = load.Options(address="127.0.0.1:1", rate=5.0, skip=7, seed=1, id_order="random")
    command = payer.command(options)
    assert command[3:6] == ["load", "127.0.0.1:1", "--json"]
    assert command[6:] == ["--rate", "5.0", "--id-order", "random", "--seed", "1", "--skip", "7"]


def test_the_page_takes_what_was_measured(
    results: Path, history: dict[str, Any], tmp_path: Path
) -> None:
    page = tmp_path / "measure.md"
    page.write_text(report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):  # and takes it again
        ran = CliRunner().invoke(report.main, ["--from", str(results), "--page", str(page)])
        assert ran.exit_code == 0, ran.output
    text = page.read_text(encoding="utf-8")
    closed = figures(results, "curve")["closed"]
    assert f"{closed[0]['payments_per_second']:,.0f}" in text
    assert text.count("python -m") and text.count("<!-- measured:") == 7
    images = {path.name for path in (tmp_path / "images").glob("*.png")}
    assert images == {"throughput.png", "latency.png", "disk.png", "budget.png", "scale.png"}
    assert f"{history['growth']['payments_per_second']:,.0f} payments/s" in text
    assert all(f"images/{name}" in text for name in images)


def test_a_page_without_marks_is_refused(results: Path) -> None:
    with pytest.raises(ValueError, match="no marks"):
        report.render("# Performance", results, results)


def test_the_images_of_the_page_are_small_and_there() -> None:
    images = report.PAGE.parent / "images"
    named = set(report.PAGE.read_text(encoding="utf-8").split("(images/")[1:])
    for name in {one.partition(")")[0] for one in named}:
        assert (images / name).stat().st_size < 120_000


def test_a_result_says_its_command_without_where_it_went() -> None:
    asked = "python -m bench.curve --seconds 1 --out somewhere --batch 8"
    assert report.plain(asked) == "python -m bench.curve --seconds 1 --batch 8"
