"""Starts: which run of the server a position is of, and what a client may have seen."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from chaos.core_driver import Driver
from ledger import _core
from ledger.engine import checkpointer, recovery
from ledger.engine.ports import Answers
from ledger.facts import limits, schema
from ledger.facts.errors import DataRefused
from ledger.facts.schema import EvictionReason, Operation, Verdict
from ledger.history import _columns
from tests.support.core_book import account
from tests.support.engine_parts import Submitter
from tests.support.sealing_parts import WINDOW, Sealing, made

CLIENT = 77
NOW = 10**18


def core_of(starts_max: int) -> _core.Core:
    buffers = Answers()
    return _core.Core(
        limits.GROUP_BYTES_MAX, 10, b"k" * 16, buffers.records, buffers.payload, buffers.counts,
        starts_max=starts_max,
    )  # fmt: skip


def started(driver: Driver, id: int) -> int:
    """Begin a start; the position of its record."""
    driver.core.start(NOW, NOW, limits.RELEASE, id)
    return driver.core.position


def registered(driver: Driver, client: int = CLIENT) -> np.void:
    identity = {"client": schema.u128(client), "checksum": (client, 1)}
    answer = driver.answer(
        *driver.arrival(Operation.REGISTER, [b""], release=limits.RELEASE, **identity), NOW
    )
    assert answer is not None and answer["verdict"] == Verdict.REPLY
    return answer


def ask(driver: Driver, session: int, number: int, parent: int, checksum: int = 5) -> np.void:
    """A look-up of nothing, or a create when the number is odd."""
    answer = driver.answer(
        *driver.arrival(
            Operation.CREATE_TRANSFERS if number % 2 else Operation.LOOKUP_ACCOUNTS, [b""],
            release=limits.RELEASE, client=schema.u128(CLIENT), checksum=(checksum, number),
            session=session, number=number, parent=schema.u128(parent),
        ),
        NOW,
    )  # fmt: skip
    assert answer is not None
    if answer["verdict"] == Verdict.RESEND:
        fields, body = driver.groups[int(answer["group"]) - 1]
        driver.core.original_answer(body, fields["position_first"], int(answer["record_offset"]))
        return driver.answers[0].copy()
    return answer


def context(answer: np.void) -> int:
    return int(answer["start_id"]) << 64 | int(answer["position"])


def test_an_answer_names_the_newest_start_and_what_is_known_is_served() -> None:
    driver = Driver()
    seen = []
    session = 0
    for id in (2**64 - 1, 8, 2**63):
        started(driver, id)
        if not session:
            first = registered(driver)
            session = int(first["position"])
            seen.append(first)
        for _ in range(3):
            seen.append(ask(driver, session, len(seen), context(seen[-1])))
            assert seen[-1]["verdict"] == Verdict.REPLY
            assert seen[-1]["start_id"] == id
    driver.close_group()
    for number, answer in enumerate(seen, len(seen)):
        again = ask(driver, session, number, context(answer))
        assert again["verdict"] == Verdict.REPLY, "whatever was seen is a good parent for ever"


@pytest.mark.parametrize(
    ("why", "id", "past"),
    [
        ("a start that is not here", 9, 0),
        ("no start", 0, 0),
        ("beyond the end of an earlier start", 7, 1),
        ("beyond the end of the newest", 8, 100),
        ("before its own start", 8, -1),
        ("far beyond", 8, 2**63),
    ],
)
def test_what_this_book_does_not_hold(why: str, id: int, past: int) -> None:
    driver = Driver()
    started(driver, 7)
    session = int(registered(driver)["position"])
    position = started(driver, 8) + (past - 1 if past > 0 and id == 7 else past)
    before = driver.core.state_hash(), driver.core.position
    answer = ask(driver, session, 1, id << 64 | position)
    assert (answer["verdict"], answer["reason"]) == (Verdict.EVICT, EvictionReason.NO_SESSION)
    assert answer["lost"] == 1, why
    assert (driver.core.state_hash(), driver.core.position) == before
    assert ask(driver, session, 1, 0)["verdict"] == Verdict.REPLY, "of no parent nothing is told"


def test_a_resend_is_never_judged() -> None:
    """It was judged when it was executed; its answer is what its client waits for."""
    driver = Driver()
    started(driver, 7)
    register = registered(driver)
    session = int(register["position"])
    assert ask(driver, session, 1, context(register))["verdict"] == Verdict.REPLY
    driver.close_group()
    again = ask(driver, session, 1, 99 << 64 | 99)
    assert again["verdict"] == Verdict.REPLY


def test_an_original_answer_names_the_start_that_gave_it() -> None:
    driver = Driver()
    started(driver, 7)
    register = registered(driver)
    session = int(register["position"])
    first = ask(driver, session, 1, context(register))
    driver.close_group()
    for id in (8, 9):
        started(driver, id)
        driver.close_group()
        again = ask(driver, session, 1, context(register))
        assert context(again) == context(first) != context(register)
        assert again["start_id"] == 7


def test_journals_of_before_name_their_starts_by_time() -> None:
    driver = Driver()
    driver.core.start(NOW + 5, NOW, limits.RELEASE)
    assert driver.core.starts().tolist() == [[driver.core.clock_ns, 1]]
    assert registered(driver)["start_id"] == driver.core.starts()[0, 0]
    driver.close_group()
    [[kind, _, records], *_] = list(driver.runs())
    assert (kind, records["id"].tolist()) == (schema.JournalKind.START, [0])


@pytest.mark.parametrize("starts_max", [1, 2, 7])
def test_the_newest_are_kept_and_what_was_seen_before_is_believed(starts_max: int) -> None:
    rng = random.Random(starts_max)
    core, plain = core_of(starts_max), list[list[int]]()
    for _ in range(3 * starts_max + 2):
        core.start(NOW, NOW, limits.RELEASE, id := rng.getrandbits(64) | 1)
        plain.append([id, core.position])
        assert core.starts().tolist() == plain[-starts_max:]
    fields, body = core.take_group()
    again = core_of(starts_max)
    again.replay(
        body, fields["group"], fields["position_first"], fields["position_count"],
        fields["clock_before"], fields["clock_after"],
    )  # fmt: skip
    assert again.starts().tolist() == plain[-starts_max:]
    assert again.state_hash() == core.state_hash()


def test_a_forgotten_start_is_believed() -> None:
    driver = Driver()
    driver.core.restore(
        _columns.STARTS, np.array([[5, 40], [6, 50]], np.uint64).view(np.uint8)
    )
    numbers = driver.core.open_snapshot()[1]
    driver.core.close_snapshot()
    driver.core.restore_numbers(numbers | {"position": 60})
    session = int(registered(driver)["position"])
    for number, (id, position, verdict) in enumerate((
        (1, 39, Verdict.REPLY), (5, 39, Verdict.REPLY), (1, 40, Verdict.EVICT),
        (5, 40, Verdict.REPLY), (5, 49, Verdict.REPLY), (5, 50, Verdict.EVICT),
        (6, 50, Verdict.REPLY), (6, 61, Verdict.REPLY), (6, 62, Verdict.EVICT),
    )):  # fmt: skip
        answer = ask(driver, session, 2 + 2 * number, id << 64 | position)
        assert answer["verdict"] == verdict, (id, position)


@pytest.mark.parametrize("positions", [[3, 3], [4, 3]])
def test_starts_out_of_order_are_refused(positions: list[int]) -> None:
    records = np.array([[1, at] for at in positions], np.uint64).view(np.uint8)
    with pytest.raises(DataRefused, match="record 1 of column 19 does not fit"):
        core_of(5).restore(_columns.STARTS, records)


# ---- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sealing:
    monkeypatch.setattr(limits, "WINDOW_EVENTS", WINDOW)
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    bench = Sealing(tmp_path / "book")
    bench.accounts(Submitter(), account(1), account(2))
    bench.rest()
    return bench


def segments_of(bench: Sealing) -> list[str]:
    return [name for name in made(bench.directory) if name.startswith("segment")]


def test_a_start_from_a_checkpoint_knows_the_starts_before_it(bench: Sealing) -> None:
    for first in (100, 200, 300):
        bench.windows(first)
        before, bench = bench.core.starts(), bench.again()
        assert bench.restored > 0, "from a checkpoint"
        assert np.array_equal(bench.core.starts()[:-1], before)
    bench.close()


def test_a_checkpoint_of_software_without_starts_is_made_again(
    bench: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(self: checkpointer.Snapshot, *arguments: object) -> None:
        self.few.pop(_columns.STARTS, None)
        write(self, *arguments)

    write = checkpointer.Snapshot.write
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer.Snapshot, "write", before)
        bench.windows(100)
    bench.close()
    live, segments = bench.core.state_hash(), segments_of(bench)
    parts = recovery.recover(bench.directory, accept_clock=True)
    assert any("software that kept no starts" in warning for warning in parts.warnings)
    assert parts.core.state_hash() == live
    assert segments_of(bench) == segments
    parts.close()
