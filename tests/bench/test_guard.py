"""Slow-down that a noisy machine cannot blur: ratios to a C loop, and no allocation for a payment.

A ratio is above its limit only when it was in every try; the guards themselves are shown to see a
part that does its work twice, and one that keeps an object for each payment.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from bench import allocations, guard, instructions
from bench.parts import Desk, ServerReads, Shape

SHAPES = sorted(allocations.SHAPES)
ONCE_A_CALL_MAX = 8  # a number above the small ones, a tuple: what one call makes whatever it holds
GROWN_MAX = 0.002  # blocks of a page and more for each payment: chunks and parts of tables


def test_each_part_keeps_its_ratio_to_plain_c() -> None:
    limits = guard.limits()
    assert set(limits) == set(guard.CONTESTS)
    slow = [ratio.told() for ratio in guard.measure_all(limits) if not ratio.held]
    assert not slow, "\n".join(slow)


def test_a_part_that_does_its_work_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadsTwice(ServerReads):
        def run(self) -> None:
            super().run()
            super().run()

    name = "codec reads full requests"
    part = ReadsTwice(Desk(guard.FULL))
    monkeypatch.setitem(guard.CONTESTS, name, lambda: (part, guard.MixesPlainly(part.bytes)))
    found = guard.measure(name, guard.limits()[name])
    assert not found.held and len(found.found) == guard.TRIES_MAX, found.told()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", sorted(allocations.PARTS))
def test_nothing_is_allocated_for_a_payment(part: str, shape: str) -> None:
    why = allocations.missing()
    if why is not None:
        warnings.warn(why, stacklevel=1)
        return
    found = allocations.measure(part, shape)
    assert abs(found.large_round - found.small_round) <= ONCE_A_CALL_MAX, found
    assert found.grown < GROWN_MAX, found
    assert found.small_round > 0, "the calls' own objects are counted, so the counter counts"


def test_an_object_for_each_payment_is_counted() -> None:
    why = allocations.missing()
    if why is not None:
        warnings.warn(why, stacklevel=1)
        return
    few, many = allocations.child("keeps", Shape(1, 8)), allocations.child("keeps", Shape(1, 800))
    assert many[0] - few[0] >= 800 - 8


def test_budgets_are_stored_for_each_part(tmp_path: Path) -> None:
    stored = json.loads(guard.LIMITS.read_text())["instructions"]
    assert set(stored) == set(instructions.PARTS)
    assert all(0 < figure < 10_000 for figure in stored.values())


def test_instructions_are_read_from_a_profile(tmp_path: Path) -> None:
    profile = tmp_path / "callgrind.out"
    profile.write_text("version: 1\nevents: Ir\nsummary: 8189000\ntotals: 8189000\n")
    assert instructions.total(profile) == 8_189_000


def test_an_instruction_count_above_its_budget_is_told() -> None:
    judged = instructions.judged({"core": 1_080.0, "codec": 50.0}, {"core": 1_000.0, "codec": 50.0})
    assert [told for told in judged if "ABOVE" in told] == [judged[0]]
    assert instructions.above({"core": 1_080.0}, {"core": 1_000.0}) == ["core"]
    assert not instructions.above({"core": 1_040.0}, {"core": 1_000.0})
