"""Tests of the control arm: a real PostgreSQL where there is one, else the reason why not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chaos import scenario
from chaos.control import arm, load, ours, picture, postgres, run
from chaos.scenario import Refused

FILE = scenario.FOLDER / "sale" / "row-locks.toml"
ACCOUNTS = 50


def written(tmp_path: Path, control: str, **head: object) -> Path:
    """A scenario's file with these lines under [control]."""
    words = {"name": "row-locks", "format": 1, "tier": "process", "about": "", "expect": "survive"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in (words | head).items()]
    path = tmp_path / "one.toml"
    path.write_text("\n".join(["[scenario]", *lines, "[control]", control]))
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres | None]:
    """A server with open books, whose lock_timeout is short; None where there is no PostgreSQL."""
    binaries = postgres.find()
    if postgres.missing() is not None or binaries is None:
        yield None
        return
    with run.scratch_folder() as scratch, postgres.Postgres(binaries, scratch, 0.2, 20) as one:
        one.open_books(ACCOUNTS)
        yield one


def absent(server: postgres.Postgres | None) -> bool:
    if server is None:
        assert postgres.missing(), "a server that could be used is not"
    return server is None


def test_the_file_that_comes_with_it_is_read() -> None:
    found = run.read(FILE)
    assert found.scenario.name == "row-locks" and found.control.rate == "peak"
    assert found.control.hot_share == 0.3 and found.control.lock_timeout_seconds == 1.0


@pytest.mark.parametrize(
    ("control", "head", "word"),
    [
        ("secnds = 3", {}, "secnds"),
        ("", {"seeds": 3}, "seeds"),
        ("", {"format": 2}, "format 2"),
        ("", {"tier": "sim"}, "sim"),
        ("", {"expect": "fail-stop"}, "expect"),
        ("pools = []", {}, "pools"),
        ("hot_share = 1.5", {}, "hot_share"),
        ('rate = "most"', {}, "rate"),
        ("rate = 0", {}, "rate"),
        ("[faults]", {}, "faults"),
        ("seconds = ", {}, "one.toml"),
    ],
)
def test_what_is_not_known_is_refused(
    tmp_path: Path, control: str, head: dict[str, object], word: str
) -> None:
    with pytest.raises(Refused, match=word):
        run.read(written(tmp_path, control, **head))


def test_a_machine_without_postgresql_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "FOLDER", tmp_path / "none")
    verdict = run.run(FILE, 1, tmp_path / "out")
    assert verdict.skipped is not None and str(tmp_path / "none") in verdict.skipped
    assert verdict.lines() == [f"row-locks: skipped: {verdict.skipped}"]
    assert not (tmp_path / "out").exists()


def test_the_newest_version_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "FOLDER", tmp_path)
    for version, names in (("9.6", ("postgres", "initdb")), ("15", ("postgres", "initdb")),
                           ("17", ("postgres",))):  # fmt: skip
        (tmp_path / version / "bin").mkdir(parents=True)
        for name in names:
            (tmp_path / version / "bin" / name).touch()
    assert postgres.find() == tmp_path / "15" / "bin"


def test_the_whole_comparison(tmp_path: Path) -> None:
    control = "seconds = 0.5\naccounts = 200\npools = [4, 8]\nwide_pool = 0\nrate = 1500"
    said: list[str] = []
    verdict = run.run(written(tmp_path, control), 7, tmp_path / "out", said.append)
    if postgres.missing() is not None:
        assert verdict.skipped == postgres.missing()
        return
    assert verdict.held, verdict.broken
    folder = tmp_path / "out" / "row-locks-7"
    assert verdict.report == str(folder) and (folder / "control.png").stat().st_size > 10_000
    arms = json.loads((folder / "verdict.json").read_text())["arms"]
    for one in arms:
        fates = one["done"] + one["lock_timeouts"] + one["given_up"] + one["lost"]
        assert fates == one["offered"] > 0, one
    systems = [one["system"] for one in arms[:5]]
    assert systems == ["PostgreSQL", "PostgreSQL", "ledger", "PostgreSQL", "ledger"]
    rates = [one["rate"] for one in arms[:5]]
    assert rates[0] == rates[1] == rates[2] and rates[3] == rates[4] == 1500
    most = max(one["done"] / one["elapsed_seconds"] for one in arms if one["name"] == "uniform")
    assert rates[0] <= most * 0.81
    told = "\n".join(verdict.lines())
    for word in ("lock_timeout = 1s", "synchronous_commit = on", "read committed", "fsync = on",
                 "create function pay", "pool of", "version = ", "timed out"):  # fmt: skip
        assert word in told
    assert any(line.startswith("ledger") for line in said)


def test_a_locked_row_times_out_and_the_others_are_paid(server: postgres.Postgres | None) -> None:
    if absent(server):
        return
    assert server is not None
    import psycopg

    before = server.books()[0]
    payments = load.Payments(1, 1_000, 400, ACCOUNTS, 0.05)
    with psycopg.connect(server.conninfo) as holder:
        holder.execute(f"select 1 from accounts where id = {ACCOUNTS} for update".encode())
        with load.Pool(server.conninfo, 16) as pool:
            seen = pool.run("locked", payments, 400.0, 1.0)
    assert 0 < seen.merchant_offered == seen.merchant_timed_out
    assert seen.lock_timeouts >= seen.merchant_offered  # a payer's row is locked while he waits
    assert seen.done + seen.lock_timeouts + seen.given_up == seen.offered and seen.done > 0
    assert server.books() == (before + seen.done,) * 3
    assert f"{seen.lock_timeouts} by lock_timeout" in seen.why()


def test_more_than_the_pool_carries_is_given_up_and_counted(
    server: postgres.Postgres | None,
) -> None:
    if absent(server):
        return
    assert server is not None
    before, rate, seconds = server.books()[0], 100_000.0, 1.5
    payments = load.Payments(1, 10_000, load.payments_count(rate, seconds), ACCOUNTS, 0.0)
    with load.Pool(server.conninfo, 1) as pool:
        seen = pool.run("too much", payments, rate, seconds)
    assert seen.done + seen.given_up == seen.offered == 150_000 and seen.given_up > seen.done > 0
    assert seen.p99_ns > 0.5e9
    assert server.books()[0] == before + seen.done


def test_an_id_that_exists_is_not_paid_twice(server: postgres.Postgres | None) -> None:
    if absent(server):
        return
    assert server is not None
    before = server.books()
    assert server.execute("select pay(1, 2, 3, 5)") == [(True,)]
    assert server.execute("select pay(1, 2, 3, 5)") == [(False,)]
    assert server.books() == (before[0] + 1, before[1] + 5, before[2] + 5)
    with load.Pool(server.conninfo, 1) as pool, pytest.raises(postgres.PostgresFailed, match="new"):
        pool.run("again", load.Payments(1, 1, 1, ACCOUNTS, 0.0), 0.0, 1.0)


def test_payments_are_drawn_by_the_seed() -> None:
    drawn = [load.Payments(seed, 10, 5_000, 100, 0.3) for seed in (1, 1, 2)]
    rows = [[one.arguments(n) for n in range(5_000)] for one in drawn]
    assert rows[0] == rows[1] != rows[2]
    assert all(debit != credit and debit != b"100" for _, debit, credit in rows[0])
    assert 0.27 < np.mean([credit == b"100" for _, _, credit in rows[0]]) < 0.35
    assert rows[0][0][0] == b"10"


def test_the_ledger_breaks_it_when_payments_are_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "DEADLINE_SECONDS", 1e-6)
    seen = ours.pay(tmp_path, "hot", seed=1, rate=500.0, seconds=0.5, accounts=50, share=0.3)
    assert seen.arm.offered == seen.arm.done == seen.arm.timed_out == 250 and not seen.broken
    assert seen.verified > 250 and not (tmp_path / "book").exists()
    assert [check for check, _ in run.judged(seen)] == ["live"]
    monkeypatch.undo()
    assert run.judged(ours.Ours(arm=arm.Arm(
        system="ledger", name="", rate=1.0, seconds=1.0, offered=1, done=1))) == []  # fmt: skip


def test_figures_are_of_every_payment(tmp_path: Path) -> None:
    one = arm.Arm(
        system="PostgreSQL", name="hot", rate=100.0, seconds=10.0, offered=1_000, done=700, late=50,
        lock_timeouts=100, given_up=200, p50_ns=5_000_000, p99_ns=990_000_000, elapsed_seconds=10.0,
        pool=8, merchant_offered=300, merchant_timed_out=150,
    )  # fmt: skip
    assert one.timed_out == 350 and one.timed_out_share == 0.35 and one.done_per_second == 70
    assert "of the merchant's 50.0%, of all others' 28.6%" in one.why()
    lines = arm.table([one]).splitlines()
    assert len(lines) == 2 and len({len(line) for line in lines}) == 1
    assert "350 (35.0%)" in lines[1] and "650" in lines[1]
    assert arm.percentiles(np.arange(1, 101)) == (50, 99, 100)
    assert arm.percentiles(np.array([], np.int64)) == (0, 0, 0)
    picture.draw(tmp_path / "control.png", "one arm", [one])
    assert (tmp_path / "control.png").read_bytes().startswith(b"\x89PNG")


def test_the_server_is_ours_alone_and_ends(server: postgres.Postgres | None) -> None:
    if absent(server):
        return
    assert server is not None
    status = Path(f"/proc/{server.pid}/status").read_text()
    (uids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert "0" not in uids
    assert server.execute("show listen_addresses") == [("",)]
    assert server.facts()["lock_timeout"] == "200ms"
    pid = server.pid
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()
