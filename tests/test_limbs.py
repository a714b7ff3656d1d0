"""128-bit arithmetic in numpy, held to Python's integers, and the index of ids to a dict."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ledger import limbs

NUMBERS = st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 3))


def packed(numbers: list[int]) -> np.ndarray:
    return np.array([[n & 2**64 - 1, n >> 64] for n in numbers], np.uint64).reshape(-1, 2)


@given(st.lists(st.tuples(st.integers(0, 4), NUMBERS, st.sampled_from((1, -1))), max_size=60))
def test_sums_are_exact(changes):
    sums, expected = np.zeros((5, 4), np.int64), [0] * 5
    for key, number, sign in changes:
        limbs.add_at(sums, np.array([key]), limbs.sums_of(packed([number])), sign)
        expected[key] += sign * number
    assert [limbs.int_of(row) for row in sums] == expected
    carried = limbs.carried(sums)
    assert [limbs.int_of(row) for row in carried] == expected
    assert limbs.fits(carried).tolist() == [0 <= n < 2**128 for n in expected]
    good = [n for n in expected if 0 <= n < 2**128]
    assert (limbs.numbers_of(carried[limbs.fits(carried)]) == packed(good)).all()


def test_a_key_may_come_many_times_at_once():
    sums = np.zeros((2, 4), np.int64)
    limbs.add_at(sums, np.array([1, 1, 1]), limbs.sums_of(packed([2**128 - 1] * 3)))
    assert limbs.int_of(sums[1]) == 3 * (2**128 - 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-(2**100), 2**100)), min_size=1))
def test_running_sums(changes):
    starts = [10, -5, 2**90, 0]

    def rows(numbers):
        signs = np.array([[1 if n >= 0 else -1] for n in numbers])
        return limbs.sums_of(packed([abs(n) for n in numbers])) * signs

    keys = np.array([key for key, _ in changes])
    after, before = limbs.running(
        keys, rows([n for _, n in changes]), rows([starts[key] for key in keys])
    )
    now = list(starts)
    for place, (key, number) in enumerate(changes):
        assert limbs.int_of(before[place]) == now[key]
        now[key] += number
        assert limbs.int_of(after[place]) == now[key]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1))
def test_comparisons(pairs):
    a, b = (packed([pair[side] for pair in pairs]) for side in (0, 1))
    assert limbs.at_most(a, b).tolist() == [x <= y for x, y in pairs]
    assert limbs.equal(a, b).tolist() == [x == y for x, y in pairs]
    assert limbs.is_zero(a).tolist() == [x == 0 for x, _ in pairs]
    assert limbs.is_max(a).tolist() == [x == 2**128 - 1 for x, _ in pairs]


@given(st.lists(NUMBERS, unique=True, max_size=200), st.integers(0, 200), st.lists(NUMBERS))
def test_the_index_finds_what_was_added(ids, cut, others):
    index = limbs.Index()
    index.add(packed(ids[:cut]))
    index.add(packed(ids[cut:]))
    places = {id: place for place, id in enumerate(ids)}
    asked = ids + others
    assert index.find(packed(asked)).tolist() == [places.get(id, -1) for id in asked]


def test_the_index_grows():
    index = limbs.Index()
    ids = np.stack([np.arange(50_000), np.arange(50_000) % 7], axis=1).astype(np.uint64)
    for first in range(0, 50_000, 1000):
        index.add(ids[first : first + 1000])
    assert (index.find(ids) == np.arange(50_000)).all()
    assert (index.find(ids + np.uint64(60_000)) == -1).all()
