"""The load generator: what it sends, what it believes, and what it says of servers good and bad.

`Ledger` below is the other end without a socket: it takes a swarm's bytes through the server's
codec, keeps what it is sent in a dict, and can be told to lie. The runs are against a real server.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from chaos.process import Server
from ledger.facts import limits, schema
from ledger.facts.errors import LedgerError
from ledger.facts.schema import Operation, TransferStatus, Verdict
from ledger.load import report as load_report
from ledger.load import run
from ledger.load._swarm import Swarm, bucket_values
from ledger.wire._codec import Codec

Start = Callable[..., Server]
ACCOUNTS, TRANSFERS, LOOK_TRANSFERS, LOOK_ACCOUNTS = 1, 2, 3, 4
SECOND = 1_000_000_000


def swarm(**options: Any) -> Swarm:
    values: dict[str, Any] = {
        "cluster": bytes(16), "client": bytes(15) + b"\x01", "release": limits.RELEASE,
        "sessions": 3, "batch": 100, "seed": 7, "accounts": 500, "account_first": 0,
        "account_end": 500, "account_flags": 0, "connection": 0, "connections": 1, "ledger": 1,
        "distribution": 0, "zipf_exponent": 1.0, "hot_share": 0.0, "pending_share": 0.0,
        "resolved_share": 0.0, "hold_seconds": 0, "duplicate_share": 0.0, "id_order": 0,
        "first": 0, "transfers": 5_000, "transfers_max": 5_000, "requests_per_second": 0.0,
        "resend_seconds": 0.6,
    }  # fmt: skip
    return Swarm(**(values | options))


def population(count: int, **options: Any) -> np.ndarray:
    one = swarm(**options)
    return np.frombuffer(b"".join(one.transfer(n) for n in range(count)), schema.TRANSFER)


class Ledger:
    """A server's end without rules: stores what has a new id. `lie` may change what it answers."""

    def __init__(self) -> None:
        self.codec = Codec(0, limits.RELEASE, limits.RELEASE_MIN)
        self.stored: dict[bytes, bytes] = {}
        self.position = 100
        self.requests = 0
        self.lie: Callable[[int, np.ndarray], np.ndarray] = lambda operation, results: results

    def exchange(self, frames: bytes) -> bytes:
        arrivals = np.zeros(64, schema.ARRIVAL)
        offset, replies = 0, b""
        while offset < len(frames):
            count, offset, _, error = self.codec.parse(frames, offset, len(frames), arrivals)
            assert error == 0 and count > 0
            replies += b"".join(self.answer(frames, arrivals[index]) for index in range(count))
        return replies

    def answer(self, frames: bytes, arrival: np.void) -> bytes:
        assert arrival["verdict"] == Verdict.REPLY
        self.position += 1
        self.requests += 1
        answers = np.zeros(1, schema.ANSWER)
        for name in ("client", "checksum", "number", "release", "operation", "batch_count"):
            answers[name] = arrival[name]
        answers["position"] = answers["timestamp"] = self.position
        answers["verdict"] = Verdict.REPLY
        payload, counts = b"", np.zeros(1, np.uint16)
        if arrival["operation"] != Operation.REGISTER:
            shape = schema.SHAPES[Operation(arrival["operation"])]
            events = np.frombuffer(
                frames, shape.event, int(arrival["event_count"]), int(arrival["events_offset"])
            )
            results = self.execute(int(arrival["operation"]), events)
            payload, counts[0] = results.tobytes(), len(results)
        answers["payload_bytes"] = len(payload)
        return self.codec.encode(answers, 1, np.frombuffer(payload, np.uint8), counts)

    def execute(self, operation: int, events: np.ndarray) -> np.ndarray:
        shape = schema.SHAPES[Operation(operation)]
        if not shape.creates:
            found = [self.stored.get(row["id"].tobytes()) for row in events]
            raw = b"".join(record for record in found if record is not None)
            return self.lie(operation, np.frombuffer(raw, shape.result).copy())
        results = np.zeros(len(events), schema.CREATE_RESULT)
        results["status"] = TransferStatus.CREATED
        results["timestamp"] = self.position
        for index, event in enumerate(events):
            record = event.copy()
            record["timestamp"] = self.position
            if self.stored.setdefault(event["id"].tobytes(), record.tobytes()) != record.tobytes():
                results["status"][index] = TransferStatus.EXISTS
        return self.lie(operation, results)


def feed(one: Swarm, replies: bytes, now: int) -> bytes:
    """Hand over in pieces no longer than the swarm has space for."""
    out = b""
    while replies:
        space = one.space()
        count = min(len(space), len(replies))
        space[:count] = replies[:count]
        replies = replies[count:]
        out += one.feed(count, now)
    return out


def converse(one: Swarm, ledger: Ledger, frames: bytes, now: int = SECOND) -> None:
    while frames:
        frames = feed(one, ledger.exchange(frames), now)


def split(frames: bytes) -> list[bytes]:
    """The frames one by one, in no order of theirs."""
    found = []
    while frames:
        size = int.from_bytes(frames[96:100], "little")
        found.append(frames[:size])
        frames = frames[size:]
    return sorted(found)


def run_all(one: Swarm, ledger: Ledger, last: int = LOOK_ACCOUNTS) -> dict[str, int]:
    converse(one, ledger, one.connect(SECOND))
    for phase in range(ACCOUNTS, last + 1):
        converse(one, ledger, one.begin(phase, SECOND))
        assert one.done
    return one.counters()


# ---- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 100, 8189])
@pytest.mark.parametrize("id_order", [0, 1])
def test_everything_is_sent_once_counted_and_found(batch: int, id_order: int) -> None:
    ledger = Ledger()
    counters = run_all(swarm(batch=batch, id_order=id_order), ledger)
    assert counters["accounts_created"] == counters["accounts_found"] == 500
    assert counters["sent"] == counters["accepted"] == counters["found"] == 5_000
    assert len(ledger.stored) == 5_500
    assert counters["flying"] == counters["missing"] == counters["different"] == 0


def test_a_record_is_a_function_of_seed_and_number() -> None:
    assert population(300).tobytes() == population(300, sessions=9, batch=3).tobytes()
    assert population(300).tobytes() != population(300, seed=8).tobytes()
    for id_order in (0, 1):
        parts = [population(400, id_order=id_order, connection=n, connections=3) for n in range(3)]
        ids = np.concatenate([part["id"] for part in parts])
        assert len(np.unique(ids, axis=0)) == 1_200
    ids = population(400)["id"][:, 0]
    assert np.all(np.diff(ids.astype(np.int64)) > 0)


def test_transfers_are_lawful_and_spread() -> None:
    rows = population(20_000)
    assert np.all(np.any(rows["debit_account_id"] != rows["credit_account_id"], axis=1))
    index = rows["credit_account_id"][:, 0] - 1
    assert index.max() == 499 and index.min() == 0
    assert 20 < np.bincount(index.astype(int)).std() ** 2 < 80  # Poisson of mean 40
    assert rows["amount"][:, 0].min() >= 1 and rows["amount"][:, 0].max() <= 10_000
    assert not rows["flags"].any() and rows["code"].min() >= 1


def test_the_hot_account_gets_its_share() -> None:
    rows = population(20_000, distribution=2, hot_share=0.3)
    assert 0.28 < np.mean(rows["credit_account_id"][:, 0] == 1) < 0.32


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_zipf_falls_as_its_exponent_says(exponent: float) -> None:
    rows = population(40_000, distribution=1, zipf_exponent=exponent)
    seen = np.bincount(rows["credit_account_id"][:, 0].astype(int) - 1, minlength=500) / 40_000
    weights = np.arange(1, 501) ** -exponent
    expected = weights / weights.sum()
    error = 5 * np.sqrt(expected / 40_000)
    assert np.all(np.abs(seen - expected)[:50] < error[:50])


def test_holds_and_their_resolutions() -> None:
    rows = population(40_000, pending_share=0.25, resolved_share=0.5, hold_seconds=9)
    flags = rows["flags"]
    assert 0.24 < np.mean(flags == schema.TransferFlags.PENDING) < 0.26
    assert np.all(rows["timeout"][flags == schema.TransferFlags.PENDING] == 9)
    resolving = np.flatnonzero(flags & (4 | 8))
    assert 0.11 < len(resolving) / 40_000 < 0.14
    assert np.array_equal(rows["pending_id"][resolving], rows["id"][resolving - 1])
    assert np.all(flags[resolving - 1] == schema.TransferFlags.PENDING)
    assert {4, 8} == set(flags[resolving].tolist())
    assert not rows["debit_account_id"][resolving].any()


def test_a_pair_never_leaves_its_session() -> None:
    """Whatever the batch, a resolution follows its hold in one session: in order, then."""
    for batch in (1, 2, 3, 101):
        ledger = Ledger()
        senders: dict[bytes, bytes] = {}
        real = ledger.answer

        def answer(frames: bytes, arrival: np.void, real=real, senders=senders) -> bytes:
            if arrival["operation"] == Operation.CREATE_TRANSFERS:
                offset, count = int(arrival["events_offset"]), int(arrival["event_count"])
                for row in np.frombuffer(frames, schema.TRANSFER, count, offset):
                    senders[row["id"].tobytes()] = arrival["client"].tobytes()
                    if row["pending_id"].any():
                        assert senders[row["pending_id"].tobytes()] == senders[row["id"].tobytes()]
            return real(frames, arrival)

        ledger.answer = answer  # type: ignore[method-assign]
        one = swarm(batch=batch, pending_share=0.5, resolved_share=1.0)
        assert run_all(one, ledger, TRANSFERS)["accepted"] == 5_000


def test_duplicates_are_of_what_was_acknowledged() -> None:
    ledger = Ledger()
    counters = run_all(swarm(duplicate_share=0.3), ledger)
    assert counters["duplicates"] == counters["duplicates_sent"] > 1_500
    assert counters["accepted"] == counters["found"] == 5_000
    assert counters["duplicate_faults"] == counters["refused"] == 0


def test_connections_take_turns_so_that_all_they_send_is_due_evenly() -> None:
    ledger, due_ns = Ledger(), []
    for index in range(4):
        one = swarm(sessions=1, batch=10, requests_per_second=100, transfers=1_000,
                    connection=index, connections=4)  # fmt: skip
        run_all(one, ledger, ACCOUNTS)
        frames = one.begin(TRANSFERS, 10 * SECOND)
        assert bool(frames) == (index == 0), "the first is due at once"
        due_ns.append(0 if frames else one.due_in_ns(10 * SECOND))
    assert due_ns == [SECOND // 100 * index // 4 for index in range(4)]


def test_requests_are_sent_when_due_and_latency_counts_from_then() -> None:
    ledger, one = Ledger(), swarm(sessions=1, batch=10, requests_per_second=100, transfers=1_000)
    run_all(one, ledger, ACCOUNTS)
    one.take_histograms()
    before = ledger.requests
    frames = one.begin(TRANSFERS, 10 * SECOND)
    assert one.due_in_ns(10 * SECOND) == SECOND // 100
    assert ledger.exchange(frames) and ledger.requests == before + 1
    stalled = 11 * SECOND  # the first reply takes a second: the next hundred requests are late
    frames = feed(one, ledger.exchange(frames), stalled)
    while frames:
        frames = feed(one, ledger.exchange(frames), stalled)
    total = np.frombuffer(one.take_histograms()[0], np.uint64)
    figures = load_report.latency(total)
    assert figures.payments == 1_000
    assert figures.max_ns == pytest.approx(SECOND, rel=0.01)
    assert figures.p50_ns == pytest.approx(SECOND // 2, rel=0.03)


# ---- what is believed ---------------------------------------------------------------------------


def forget(operation: int, results: np.ndarray) -> np.ndarray:
    return results[1:] if operation == Operation.LOOKUP_TRANSFERS else results


def alter(operation: int, results: np.ndarray) -> np.ndarray:
    if operation == Operation.LOOKUP_TRANSFERS:
        results["amount"][0, 0] += 1
    return results


def pay_twice(operation: int, results: np.ndarray) -> np.ndarray:
    if operation == Operation.CREATE_TRANSFERS:
        results["status"] = TransferStatus.CREATED
    return results


def refuse(operation: int, results: np.ndarray) -> np.ndarray:
    if operation == Operation.CREATE_TRANSFERS:
        results["status"][0] = TransferStatus.EXCEEDS_CREDITS
    return results


def miscount(operation: int, results: np.ndarray) -> np.ndarray:
    if operation == Operation.LOOKUP_ACCOUNTS:
        results["debits_posted"][0, 0] += 1
    return results


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        (forget, {"missing": 50, "found": 4_950}),
        (alter, {"different": 50, "found": 4_950}),
        (pay_twice, {"duplicates": 0}),
        (refuse, {"refused": 50, "accepted": 4_950, "found": 4_950, "missing": 0}),
        (miscount, {"debits_posted": 5, "credits_posted": 0}),
    ],
)
def test_a_lie_is_noticed(
    lie: Callable[[int, np.ndarray], np.ndarray], expected: dict[str, int]
) -> None:
    ledger = Ledger()
    ledger.lie = lie
    counters = run_all(swarm(duplicate_share=0.2 if lie is pay_twice else 0.0), ledger)
    assert {name: counters[name] for name in expected} == expected
    if lie is pay_twice:
        assert counters["duplicate_faults"] == counters["duplicates_sent"] > 0


def test_a_new_connection_repeats_what_is_unanswered_and_a_resend_is_the_same() -> None:
    ledger, one = Ledger(), swarm()
    run_all(one, ledger, ACCOUNTS)
    frames = one.begin(TRANSFERS, SECOND)
    assert one.tick(SECOND + 500_000_000, True) == b""
    assert one.tick(2 * SECOND, False) == b""  # the first copy has not even left
    assert split(one.tick(2 * SECOND, True)) == split(frames)
    one.disconnect()
    assert one.tick(9 * SECOND, True) == b""
    assert split(one.connect(10 * SECOND)) == split(frames)
    assert one.counters()["resent"] == 6
    replies = ledger.exchange(frames)
    frames = feed(one, replies, 10 * SECOND)
    assert feed(one, replies, 10 * SECOND) == b""  # answered twice: counted once
    converse(one, ledger, frames)
    assert one.counters()["accepted"] == 5_000 and one.counters()["reply_faults"] == 0


def test_replies_arrive_byte_by_byte() -> None:
    ledger, one = Ledger(), swarm(transfers=300)
    frames = one.connect(SECOND)
    for phase in range(ACCOUNTS, LOOK_ACCOUNTS + 1):
        while frames:
            replies, frames = ledger.exchange(frames), b""
            for byte in replies:
                frames += feed(one, bytes([byte]), SECOND)
        frames = one.begin(phase, SECOND)
    converse(one, ledger, frames)
    assert one.counters()["found"] == 300


def test_a_flipped_byte_ends_the_connection() -> None:
    ledger, one = Ledger(), swarm()
    replies = bytearray(ledger.exchange(one.connect(SECOND)))
    replies[20] ^= 1
    assert feed(one, bytes(replies), SECOND) == b""
    assert one.error == schema.WireError.HEADER_CHECK and not one.done


def test_giving_up_says_how_many_are_unanswered() -> None:
    ledger, one = Ledger(), swarm(sessions=2, batch=30)
    run_all(one, ledger, ACCOUNTS)
    one.begin(TRANSFERS, SECOND)
    one.give_up()
    assert one.done and one.counters()["unanswered"] == 60


# ---- figures ------------------------------------------------------------------------------------


def test_percentiles_are_within_one_percent() -> None:
    values = np.array(bucket_values(), np.uint64)
    assert np.all(np.diff(values.astype(float)) > 0) and values[-1] == (1 << 64) - 1
    samples = np.random.default_rng(1).lognormal(13, 1.5, 100_000).astype(np.uint64)
    histogram = np.bincount(np.searchsorted(values, samples), minlength=len(values))
    figures = load_report.latency(histogram.astype(np.uint64))
    exact = np.percentile(samples, [50, 99, 99.9, 99.99, 100], method="inverted_cdf")
    got = [figures.p50_ns, figures.p99_ns, figures.p99_9_ns, figures.p99_99_ns, figures.max_ns]
    assert np.all(np.abs(np.array(got) / exact - 1) < 0.01)
    assert load_report.latency(np.zeros(len(values), np.uint64)).max_ns == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "here"}, "HOST:PORT"),
        ({"accounts": 1}, "accounts: 1 is not within 2"),
        ({"batch": 8190}, "batch: 8190 is not within 1 .. 8189"),
        ({"rate": 0}, "rate: 0 is not within"),
        ({"pending_share": 0.6, "resolved_share": 0.1}, "0.6 is not within 0 .. 0.5"),
        ({"duplicate_share": 1}, "duplicate_share"),
        ({"distribution": "round"}, "'round' is none of uniform, zipf, hot"),
        ({"sessions": 10_000}, "need more than 4 GiB"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run.Options(**options)


# ---- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"transfers": 60_000},
        {"transfers": 20_000, "batch": 1, "sessions": 100, "connections": 3},
        {"transfers": 30_000, "batch": 50, "sessions": 5, "connections": 2, "distribution": "zipf",
         "pending_share": 0.4, "resolved_share": 0.7, "duplicate_share": 0.2, "history": True,
         "id_order": "random"},
        {"duration_seconds": 0.3, "batch": 10, "distribution": "hot", "pending_share": 0.5,
         "hold_seconds": 1},
    ],
)  # fmt: skip
def test_a_run_accounts_for_every_payment(server: Start, options: dict[str, Any]) -> None:
    report = run.run(run.Options(address=server().address, accounts=300, check=True, **options))
    assert report.ok, report
    assert report.accounts_created == 300
    assert report.accepted == report.sent == report.found == options.get("transfers", report.sent)
    assert report.debits_posted == report.credits_posted > 0
    assert (report.duplicates > 0) == ("duplicate_share" in options)


def test_a_run_goes_on_where_an_earlier_one_of_its_seed_ended(server: Start) -> None:
    options = run.Options(
        address=server().address, accounts=300, transfers=6_001, batch=100, connections=3, seed=5,
        id_order="random",
    )  # fmt: skip
    assert run.run(options).accepted == 6_001
    again = run.run(options)
    assert (again.accepted, again.refused) == (0, {"exists": 6_001})
    on = run.run(msgspec.structs.replace(options, skip=8_000, connections=2, check=True))
    assert on.ok and (on.accepted, on.found, on.refused) == (6_001, 6_001, {})


def test_a_run_goes_on_after_the_server_was_killed(server: Start) -> None:
    one = server()
    first = threading.Event()
    seen: list[run.Progress] = []

    def on_progress(progress: run.Progress) -> None:
        seen.append(progress)
        if progress.accepted:
            first.set()

    def crash() -> None:
        first.wait()
        one.kill()
        one.restart()

    crasher = threading.Thread(target=crash)
    crasher.start()
    report = run.run(
        run.Options(address=one.address, accounts=100, duration_seconds=3.0, batch=20, sessions=20,
                     connections=2, check=True, duplicate_share=0.1, pending_share=0.2,
                     resolved_share=0.5),
        on_progress,
    )  # fmt: skip
    crasher.join()
    assert report.ok, report
    assert report.found == report.accepted == report.sent > 0
    assert report.reconnects >= 2 and report.resent > 0
    assert report.longest_pause_seconds > 0.05
    assert len(seen) >= 3 and seen[0].payments_per_second > 0 and seen[0].total.payments > 0


def test_at_a_fixed_rate_a_stall_is_charged_to_all_who_waited(server: Start) -> None:
    one = server()
    paused = threading.Event()

    def on_progress(progress: run.Progress) -> None:
        if progress.accepted and not paused.is_set():
            paused.set()
            one.pause()
            threading.Timer(0.6, one.resume).start()

    options = run.Options(
        address=one.address, accounts=10, rate=1_000, duration_seconds=3, batch=1, sessions=50
    )
    report = run.run(options, on_progress)
    assert report.ok and 2_950 <= report.sent + report.overdue <= 3_010
    assert report.longest_pause_seconds > 0.5
    # Of 3,000 payments 600 were due in the pause; a closed loop would have charged it to fifty.
    assert report.latency.max_ns > 500_000_000 and report.latency.p99_ns > 300_000_000


def test_progress_is_told_as_often_as_asked_and_adds_up(server: Start) -> None:
    one = server()
    seen: list[run.Progress] = []

    def on_progress(progress: run.Progress) -> None:
        if progress.accepted and not any(before.accepted for before in seen):
            one.pause()
            threading.Timer(1.2, one.resume).start()
        seen.append(progress)

    options = run.Options(
        address=one.address, accounts=10, rate=1_000, duration_seconds=2, batch=1, sessions=50
    )
    report = run.run(options, on_progress, progress_seconds=0.1)
    assert report.ok and len(seen) >= 15
    assert [int(one.recent_counts.sum()) for one in seen] == [one.recent.payments for one in seen]
    assert 0 < sum(one.recent.payments for one in seen) <= report.accepted
    assert 0 < sum(one.recent.late for one in seen) <= report.latency.late < report.accepted


def test_what_is_due_and_never_sent_is_told(server: Start) -> None:
    options = run.Options(
        address=server().address, accounts=10, rate=10_000_000, duration_seconds=0.2, batch=1,
        sessions=1,
    )
    report = run.run(options)
    assert report.sent + report.overdue == pytest.approx(2_000_000, rel=0.5)
    assert report.overdue > report.sent > 0


def test_servers_that_cannot_be_used_are_told(server: Start) -> None:
    nobody = run.run(run.Options(address="127.0.0.1:1", patience_seconds=0.2))
    assert not nobody.ok and nobody.reconnects == 0
    assert nobody.stopped.startswith("no connection to 127.0.0.1:1 for 0.")
    assert nobody.stopped.endswith("Connection refused")
    with pytest.raises(LedgerError, match="is it a server of cluster 0"):
        run.run(run.Options(address=server(cluster=3).address))


def test_a_server_that_lost_its_history_is_told(server: Start) -> None:
    one = server()
    gone = threading.Event()

    def on_progress(progress: run.Progress) -> None:
        if progress.accepted and not gone.is_set():
            gone.set()
            one.kill()
            one.directory = one.directory.with_name("empty")
            one.restart()

    report = run.run(
        run.Options(address=one.address, accounts=10, duration_seconds=30, batch=10), on_progress
    )
    assert not report.ok and report.evictions == {"no_session": 4} and report.unanswered > 0


def test_an_interrupt_ends_the_sending_and_waits_for_the_rest(server: Start) -> None:
    report = run.run(
        run.Options(address=server().address, accounts=10, duration_seconds=60, check=True),
        lambda progress: os.kill(os.getpid(), signal.SIGINT),
        interruptible=True,
    )
    assert report.ok and report.accepted == report.found > 0 and report.seconds < 30


def test_the_command_writes_its_report(
    server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    options = run.Options(address=server().address, accounts=10, transfers=1_000, check=True)
    assert run.main(options, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"] == report["found"] == 1_000 and report["faults"] == {}
    assert (report["debits_posted"], report["options"]["cluster"]) != (0, 0), "strings of digits"
    asked = report["options"] | {name: int(report["options"][name]) for name in ("seed", "cluster")}
    again = run.Options(**(asked | {"check": False}))
    assert run.main(again) == 0  # the same seed: every id is there already, and that is no fault
    out = capsys.readouterr().out
    assert "refused: exists" in out and "1,000" in out
