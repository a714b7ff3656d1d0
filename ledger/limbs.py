"""Leaves: 128-bit numbers in numpy: exact sums by many keys, comparisons, and an index of ids.

numpy has no 128-bit integer. A number arrives as two 64-bit limbs, low one first, (n, 2) uint64;
sums are kept as four limbs of 32 bits in int64, (n, 4), so that two thousand million of them add up
before a carry is due, and a difference may be negative meanwhile. This file knows nothing of what
is added up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMBS = 4
_MASK = np.int64(0xFFFF_FFFF)
_NONE = -1
_MULTIPLIERS = (
    np.uint64(0x9E37_79B9_7F4A_7C15),
    np.uint64(0xC2B2_AE3D_27D4_EB4F),
    np.uint64(0x1656_67B1_9E37_79F9),
)

Ids = NDArray[np.uint64]
Sums = NDArray[np.int64]
Mask = NDArray[np.bool_]


def sums_of(numbers: NDArray[np.uint64]) -> Sums:
    """(n, 2) uint64 as (n, 4) int64."""
    return np.ascontiguousarray(numbers).view("<u4").astype(np.int64)


def carried(sums: Sums) -> Sums:
    """The same numbers with every limb but the last within 32 bits; the last has the sign."""
    result = sums.copy()
    for limb in range(LIMBS - 1):
        carry = result[:, limb] >> 32
        result[:, limb] &= _MASK
        result[:, limb + 1] += carry
    return result


def fits(carried_sums: Sums) -> Mask:
    """Which numbers lie within 0 .. 2^128-1; they must be carried."""
    last = carried_sums[:, LIMBS - 1]
    return (last >= 0) & (last <= _MASK)


def numbers_of(carried_sums: Sums) -> NDArray[np.uint64]:
    """(n, 4) int64, carried and fitting, as (n, 2) uint64."""
    return carried_sums.astype("<u4").view("<u8").reshape(-1, 2)


def int_of(sums: Sums) -> int:
    """One number's four limbs as a Python integer; they need not be carried."""
    return sum(int(limb) << 32 * place for place, limb in enumerate(sums))


def add_at(sums: Sums, keys: NDArray[np.int64], amounts: Sums, sign: int = 1) -> None:
    """sums[key] += sign * amount for each key, also where a key comes several times.

    sums: (m, 4) int64, contiguous; keys: (n,); amounts: (n, 4).
    """
    flat = sums.reshape(-1)
    for limb in range(LIMBS):
        column = amounts[:, limb]
        if column.any():
            np.add.at(flat, keys * LIMBS + limb, column if sign > 0 else -column)


def running(keys: NDArray[np.int64], deltas: Sums, starts: Sums) -> tuple[Sums, Sums]:
    """The running sum of each key after each of its deltas, (n, 4), and before it; carried.

    Deltas are in order of time; starts: (n, 4), each key's sum before the first of them.
    """
    order = np.argsort(keys, kind="stable")
    sums = np.cumsum(deltas[order], axis=0)
    ordered = keys[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[firsts, len(ordered)])
    earlier = np.repeat(sums[firsts] - deltas[order][firsts], lengths, axis=0)
    after = np.empty_like(sums)
    after[order] = sums - earlier + starts[order]
    return carried(after), carried(after - deltas)


def equal(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Mask:
    """Row by row; both (n, 2), or one of them (2,)."""
    return np.asarray((a[..., 0] == b[..., 0]) & (a[..., 1] == b[..., 1]))


def at_most(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Mask:
    """Row by row whether a <= b; both (n, 2)."""
    return np.asarray((a[:, 1] < b[:, 1]) | ((a[:, 1] == b[:, 1]) & (a[:, 0] <= b[:, 0])))


def is_zero(numbers: NDArray[np.uint64]) -> Mask:
    return np.asarray((numbers[:, 0] | numbers[:, 1]) == 0)


def is_max(numbers: NDArray[np.uint64]) -> Mask:
    return np.asarray((numbers[:, 0] & numbers[:, 1]) == np.uint64(0xFFFF_FFFF_FFFF_FFFF))


def grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """`array` with room for `rows`: itself, or a copy twice as long with zeros at the end."""
    if rows <= len(array):
        return array
    result = np.zeros((max(rows, 2 * len(array)), *array.shape[1:]), array.dtype)
    result[: len(array)] = array
    return result


class Index:
    """Ids to the order they were added in, 0, 1, ...: open addressing, whole arrays at a time."""

    def __init__(self) -> None:
        self.count = 0
        self._ids: Ids = np.zeros((1024, 2), np.uint64)
        self._slots = np.full(4096, _NONE, np.int64)

    def _first_slots(self, ids: Ids) -> NDArray[np.int64]:
        low, high, last = _MULTIPLIERS
        mixed = ids[:, 0] * low ^ ids[:, 1] * high
        mixed = (mixed ^ mixed >> np.uint64(32)) * last
        bits = len(self._slots).bit_length() - 1
        return np.asarray(mixed >> np.uint64(64 - bits), np.int64)

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """The place of each of `ids`, (n, 2); -1 where it was never added."""
        result = np.full(len(ids), _NONE, np.int64)
        slots = self._first_slots(ids)
        left = np.arange(len(ids))
        while len(left):
            found = self._slots[slots]
            same = (found != _NONE) & equal(self._ids[found], ids[left])
            result[left[same]] = found[same]
            more = (found != _NONE) & ~same
            left = left[more]
            slots = slots[more] + 1 & len(self._slots) - 1
        return result

    def add(self, ids: Ids) -> None:
        """Add `ids`, (n, 2), none of which is there yet or comes twice."""
        first = self.count
        self.count += len(ids)
        self._ids = grown(self._ids, self.count)
        self._ids[first : self.count] = ids
        if 2 * self.count > len(self._slots):
            self._slots = np.full(4 << self.count.bit_length(), _NONE, np.int64)
            first = 0
        self._place(np.arange(first, self.count))

    def _place(self, places: NDArray[np.int64]) -> None:
        slots = self._first_slots(self._ids[places])
        while len(places):
            free = self._slots[slots] == _NONE
            self._slots[slots[free]] = places[free]
            more = self._slots[slots] != places
            places = places[more]
            slots = slots[more] + 1 & len(self._slots) - 1
