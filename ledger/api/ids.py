"""Ids that sort by the time they were made.

48 bits of milliseconds since 1970, then 80 random bits that count up within a millisecond: unique
without coordination, and neighbours in time are neighbours in every index. Never 0 nor 2^128-1.
Safe from several threads, and from a signal's handler or a finalizer that interrupts it. Nothing
else in the ledger asks for ids.
"""

from __future__ import annotations

import os
import threading
import time

import numpy as np
from numpy.typing import NDArray

from ledger.facts import schema

_RANDOM_BITS = 80
_lock = threading.RLock()  # the same thread may come twice: a handler interrupts it anywhere
_last = 0


def _take(count: int) -> int:
    global _last
    fresh = int.from_bytes(os.urandom(_RANDOM_BITS // 8), "little")
    with _lock:
        while True:
            before = _last
            first = max(before + 1, (time.time_ns() // 1_000_000 << _RANDOM_BITS) | fresh)
            last = first + count - 1
            # Nothing is called between these two, so no handler that makes ids comes between them.
            if _last == before:
                _last = last
                return first


def id() -> int:
    """One new id, an integer above 0 and below 2^128-1, greater than all this process made before.
    """
    return _take(1)


def ids(count: int) -> NDArray[np.uint64]:
    """`count` new ids in rising order: uint64, (count, 2), low limb first.

    ValueError for a count that is none.
    """
    count = schema.whole("count", count, 32)
    first = _take(count)
    limbs = np.empty((count, 2), np.uint64)
    limbs[:, 0] = np.arange(count, dtype=np.uint64) + np.uint64(first & 0xFFFF_FFFF_FFFF_FFFF)
    wrapped = limbs[:, 0] < np.uint64(first & 0xFFFF_FFFF_FFFF_FFFF)
    limbs[:, 1] = np.uint64(first >> 64) + wrapped.astype(np.uint64)
    return limbs


def _forget_in_child() -> None:
    """A forked child has the parent's count and would make its ids again; the lock may be held."""
    global _last, _lock
    _lock = threading.RLock()
    _last = 0


os.register_at_fork(after_in_child=_forget_in_child)
