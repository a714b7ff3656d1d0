"""Tests of the clock: with raw sources under the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.clock import Clock
from ledger.facts.errors import ClockRefused
from ledger.facts.limits import CLOCK_GAP_MAX_NS, CLOCK_STEP_ALARM_NS

SECOND = 1_000_000_000
NOON = 1_767_268_800 * SECOND  # 2026-01-01 12:00:00 UTC


class Sources:
    """A wall and a monotonic clock that only move when told to."""

    def __init__(self) -> None:
        self.wall_ns = NOON
        self.monotonic_ns = 77

    def pass_time(self, ns: int) -> None:
        self.wall_ns += ns
        self.monotonic_ns += ns

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_follows_the_wall() -> None:
    sources = Sources()
    clock = sources.clock()
    assert clock.now_ns() == NOON
    sources.pass_time(5 * SECOND)
    assert clock.now_ns() == NOON + 5 * SECOND
    assert not clock.alarm


@pytest.mark.parametrize("step", [-NOON, -24 * 3600 * SECOND, -2 * SECOND, 10**18, 3600 * SECOND])
def test_a_step_of_the_wall_does_not_enter_but_alarms(step: int) -> None:
    sources = Sources()
    clock = sources.clock()
    sources.wall_ns += step
    assert clock.now_ns() == NOON
    assert clock.alarm and clock.offset_ns == step
    sources.pass_time(10 * SECOND)
    slew = SECOND if step > 0 else -SECOND
    assert clock.now_ns() == NOON + 10 * SECOND + slew


def test_a_small_step_does_not_alarm_and_is_walked_off() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.wall_ns += CLOCK_STEP_ALARM_NS
    clock.now_ns()
    assert not clock.alarm
    for _ in range(100):
        sources.pass_time(SECOND)
        clock.now_ns()
    assert clock.offset_ns == 0


STEPS = st.lists(
    st.tuples(st.integers(0, 10**15), st.one_of(st.just(0), st.integers(-(10**19), 10**19)))
)


@given(STEPS)
def test_slew_is_bounded_whatever_the_wall_does(steps: list[tuple[int, int]]) -> None:
    sources = Sources()
    clock = sources.clock()
    now = clock.now_ns()
    for elapsed, step in steps:
        sources.pass_time(elapsed)
        sources.wall_ns += step
        later = clock.now_ns()
        assert abs(later - now - elapsed) * 10 <= elapsed
        assert clock.offset_ns == sources.wall_ns - later
        now = later


def test_monotonic_time_that_goes_back_stands_still() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.monotonic_ns -= 50
    assert clock.now_ns() == NOON
    sources.monotonic_ns += 60
    assert clock.now_ns() == NOON + 10 - 1


def test_start_of_a_new_book() -> None:
    assert Sources().clock().check_start(0) is None


def test_start_a_little_later() -> None:
    clock = Sources().clock()
    assert clock.check_start(NOON - CLOCK_GAP_MAX_NS) is None
    assert clock.now_ns() == NOON


def test_start_with_the_wall_behind_continues_from_the_journal() -> None:
    sources = Sources()
    clock = sources.clock()
    last = NOON + 90 * SECOND
    warning = clock.check_start(last)
    assert warning is not None and "90.000 s behind" in warning
    assert "2026-01-01 12:00:00 UTC" in warning and "12:01:30" in warning
    assert clock.now_ns() == last and clock.alarm
    sources.pass_time(10 * SECOND)
    assert clock.now_ns() == last + 9 * SECOND


def test_start_with_the_wall_far_ahead_is_refused_or_accepted() -> None:
    clock = Sources().clock()
    last = NOON - CLOCK_GAP_MAX_NS - 1
    with pytest.raises(ClockRefused, match=r"30 days ahead .* --accept-clock"):
        clock.check_start(last)
    warning = clock.check_start(last, accept=True)
    assert warning is not None and "accepted" in warning
    assert clock.now_ns() == NOON


def test_a_time_without_a_date_is_still_told() -> None:
    assert "ns" in str(Sources().clock().check_start(10**30))
