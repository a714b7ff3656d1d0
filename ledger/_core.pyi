"""The state machine of the ledger; see _core.pyx for what it knows and what it must not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview | NDArray[Any]

DONE: int
GROUP_FULL: int
ANSWERS_FULL: int
NO_MEMORY: int

class Core:
    """One book's state machine. Not safe from several threads at once: its engine serialises.

    group_bytes_max: most bytes of a group's body; sessions_max: most sessions at once; hash_key: 16
    secret bytes, so that nobody can choose ids that collide (no effect on what the ledger does).
    answers: writable array of ANSWER, (n,); payload: writable bytes for results; counts: writable
    uint16, (m,), results of each batch. execute() and original_answer() fill them. ValueError for
    buffers that are not aligned to 16 bytes, MemoryError when there is none.
    """

    resends: int  # answers of the last execute() that the journal must rebuild

    def __init__(
        self,
        group_bytes_max: int,
        sessions_max: int,
        hash_key: bytes,
        answers: NDArray[Any],
        payload: NDArray[np.uint8],
        counts: NDArray[np.uint16],
    ) -> None: ...
    @property
    def position(self) -> int:
        """Last position taken, that of the newest record; 0 in an empty book."""
    @property
    def clock_ns(self) -> int:
        """The ledger clock: the highest timestamp given to a request; ns since 1970."""
    @property
    def group(self) -> int:
        """Number of the open group."""
    @property
    def group_records(self) -> int:
        """Records in the open group; 0 when nothing waits to be made durable."""
    @property
    def next_expiry_ns(self) -> int:
        """When the next hold runs out, ns since 1970; 0 when none will."""
    @property
    def counts_by_kind(self) -> dict[str, int]:
        """How much the book holds, by name."""
    def start(self, now_ns: int, wall_ns: int, release: int) -> None:
        """Open a run of the server: a start record at ledger time max(clock + 1, now_ns)."""
    def execute(
        self,
        buffer: Bytes,
        arrivals: NDArray[Any],
        first: int,
        count: int,
        now_ns: int,
        route: int,
        takes_creates: bool = True,
    ) -> tuple[int, int, int]:
        """Answer arrivals[first:count], whose events lie in `buffer`, as far as room goes.

        arrivals: array of ARRIVAL, (n,); route: who asks, for a resend. With takes_creates False
        what would write is dropped unanswered. Returns (arrivals done, answers written from 0 on,
        why it stopped: DONE, GROUP_FULL, ANSWERS_FULL or NO_MEMORY).
        """
    def expire(self, now_ns: int) -> bool:
        """Run due expiries. True when more are due but the open group is full."""
    def newest_group(self) -> int:
        """The group that an answer given now must wait for: it is durable or it will be."""
    def take_group(self) -> tuple[dict[str, Any], memoryview]:
        """Close the open group and begin the next: the header's fields, and the body.

        The body is valid until the group after the next is begun.
        """
    def made_durable(self, group: int) -> None:
        """Groups up to this one are durable."""
    def replay(
        self,
        body: Bytes,
        group: int,
        position_first: int,
        position_count: int,
        clock_before: int,
        clock_after: int,
    ) -> list[int]:
        """Apply a durable group's body without judging. Returns counts of records by kind.

        DataRefused, naming group and position, when a record does not fit the state; the core must
        be thrown away then.
        """
    def original_answer(self, body: Bytes, position_first: int, record_offset: int) -> None:
        """Rebuild the answer to the register or request whose record lies there, as answers[0].

        DataRefused when the group holds no such record.
        """
    def accounts(self) -> bytes:
        """All accounts as stored, in order of creation: bytes of ACCOUNT records."""
    def open_holds(self) -> NDArray[np.uint64]:
        """Open holds in order of creation: (position, expires_at ns), shape (n, 2)."""
    def state_hash(self) -> bytes:
        """SHA-256 over accounts in creation order, open holds, burned ids, sessions, and clocks.

        Two cores that went through the same groups, live or by replay, have the same. 32 bytes.
        """
