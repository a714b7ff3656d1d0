"""The audit's first kernel: every record judged, balances added up; see _records.pyx."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

HEADER: tuple[str, ...]  # what a row of `headers` holds of a group's header

class Fold:
    """The fold over a journal's groups, from group 1 on.

    hash_key: 16 secret bytes, so that nobody can choose ids that share a hash. Not safe from
    several threads at once. Heavy work is done without the GIL.
    """

    def __init__(self, hash_key: bytes) -> None: ...
    @property
    def counts(self) -> list[int]:
        """Records by kind, of all groups that were taken, the one with a fault included."""
    def take(
        self, bodies: Buffer, headers: NDArray[np.uint64]
    ) -> tuple[int, int, int, str | None] | None:
        """Judge and add up the next groups, whose bodies follow each other in `bodies`.

        headers: (n, len(HEADER)), C-contiguous. None when nothing is wrong, else the index of the
        group with the first fault, its position, the kind of its record (0 when it is the group's)
        and why, where "{kind}" stands for the kind's name; None for a run that is none or runs that
        are not what the header says, which body.py has words for. Nothing can be taken then.
        ValueError for bodies that are not those of the headers or not aligned to 16 bytes.
        """
    def accounts(self) -> NDArray[np.uint8]:
        """Every account as it must stand, in order of creation: bytes of ACCOUNT records."""
    def beyond(self) -> tuple[int, int, int] | None:
        """The first account with a balance below 0 or beyond 2^128-1: id, balance 0..3, value."""
    def open_holds(self) -> NDArray[np.uint64]:
        """Open holds in order of creation: (position, expires_at ns or 0), shape (n, 2)."""
    def totals(self) -> list[tuple[int, ...]]:
        """Each ledger, lowest first: ledger, accounts, four balances, held, captured, released,
        open."""
    def repeated(self) -> NDArray[np.uint64]:
        """The hashes that more than one transfer or burned id has, ascending, each once."""
    def hashes(self, ids: Buffer) -> NDArray[np.uint64]:
        """The hash of each of `ids`, 16 bytes each."""
