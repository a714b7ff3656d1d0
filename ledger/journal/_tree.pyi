"""LMDB's file as a whole, read without the library; see _tree.pyx for what it knows.

DataRefused says what is not as LMDB writes it, OSError what cannot be read. What a snapshot says is
good until the second commit after it.
"""

import numpy as np
from numpy.typing import NDArray

def newest(descriptor: int) -> tuple[int, int, int, int]:
    """Number of the newest snapshot, bytes of a page, number of the last page, keys in the tree."""

def last_key(descriptor: int, snapshot: int) -> bytes:
    """The last key of a tree that has one."""

def free_pages(descriptor: int, snapshot: int) -> NDArray[np.uint64]:
    """The numbers of the pages that LMDB holds for free, ascending.

    Both trees are walked: no page of theirs is free, and no page is used twice. For a file that
    nobody writes to. Whether a value is on a free page is left to who reads the values.
    """
