"""The state machine of the ledger; see _core.pyx for what it knows and what it must not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview | NDArray[Any]

DONE: int
GROUP_FULL: int
ANSWERS_FULL: int
NO_MEMORY: int
COLD: int
VERIFYING: bool  # the verify build: every verify() is checked

class Core:
    """One book's state machine. Not safe from several threads at once: its engine serialises.

    group_bytes_max: most bytes of a group's body; sessions_max: most sessions at once; hash_key: 16
    secret bytes, so that nobody can choose ids that collide (no effect on what the ledger does).
    memtable_events: how much a memtable takes (transfers, burned ids and ends of holds together);
    0: one for ever, all history in memory.
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
        memtable_events: int = 0,
        starts_max: int = ...,
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
    def start(self, now_ns: int, wall_ns: int, release: int, id: int = 0) -> None:
        """Open a run of the server: a start record at ledger time max(clock + 1, now_ns).

        id: 64 bits that no other start of any copy of this book has, at random. The replies of
        this run say it; of 0 they say the start's ledger time instead.
        """
    def execute(
        self,
        buffer: Bytes,
        arrivals: NDArray[Any],
        first: int,
        count: int,
        now_ns: int,
        takes_creates: bool = True,
        takes_registers: bool = True,
    ) -> tuple[int, int, int]:
        """Answer arrivals[first:count], whose events lie in `buffer`, as far as room goes.

        arrivals: array of ARRIVAL, (n,). What creates, or registers, and is not taken now is
        dropped unanswered; without creates no expiry runs. Returns (arrivals done,
        answers written from 0 on, why it stopped: DONE, GROUP_FULL, ANSWERS_FULL, NO_MEMORY or
        COLD).
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
    @property
    def memtable_full(self) -> bool:
        """Whether the open memtable is to be rotated; to be asked at the end of a group."""
    @property
    def memtables(self) -> list[tuple[int, int]]:
        """Closed memtables still in memory, oldest first: (first group, last group) of each."""
    @property
    def group_first(self) -> int:
        """The first group whose transfers are in memory."""
    @property
    def generation(self) -> int:
        """Rises when a memtable is evicted: what was asked of the sealed past before is stale."""
    def rotate(self) -> None:
        """Close the open memtable with the last group. At most three may be closed."""
    def evict(self) -> None:
        """Forget the oldest closed memtable; its ids are in the filter, its transfers sealed."""
    def memtable_columns(self, hash_key: bytes, group_first: int) -> dict[int, NDArray[Any]]:
        """What a segment holds of the closed memtable that begins with this group: a dict of column
        to array. ValueError when there is none.

        Rows of uint64; ids and rows are in the order of the journal. They are valid until the next
        call. For a thread of its own: it reads only what changes no more, and the memtable must not
        be evicted meanwhile.
        """
    def use_hash_key(self, key: bytes) -> None:
        """The key that the sealed ids are hashed with: 16 bytes, before the first filter_insert."""
    def filter_expect(self, count: int) -> None:
        """So many hashes are coming, sorted by stretches; before the first filter_insert."""
    def filter_insert(self, hashes: NDArray[np.uint64]) -> None:
        """Put the hashes of sealed ids, (n,), into the filter; they may lie apart. Any thread."""
    def take_wanted(self) -> tuple[bytes, list[tuple[int, bytes, int]], NDArray[np.uint64]]:
        """What the request that ended with COLD needs to know of the sealed past.

        Returns (ids, 16 bytes each; reads, a list of (operation, filter, account index);
        timestamps, uint64 (n,)).
        """
    def attach(
        self,
        ids: bytes,
        kinds: NDArray[np.uint8],
        records: NDArray[np.uint8],
        outcomes: NDArray[np.uint8],
        reads: list[tuple[int, bytes, bytes]],
        timestamps: NDArray[np.uint64],
        found: NDArray[np.bool_],
    ) -> None:
        """Attach what the sealed past says, for the requests that wanted it.

        kinds: uint8, (n,), of each id of `ids`: 0 absent, 1 a transfer, 2 burned; records: uint8,
        (n, 128); outcomes: uint8, (n,), how a sealed hold ended; reads: list of (operation, filter,
        results); timestamps: uint64, (m,), with found: bool, (m,). Kept until newer ones need the
        room or a memtable is evicted. DataRefused for a hold without an end: an open one is never
        asked for.
        """
    def open_snapshot(self) -> tuple[dict[int, NDArray[np.uint8]], dict[str, Any]]:
        """Begin to copy the state as it is now, at the end of a group.

        Returns its sessions and starts, uint8 by column, and a dict of the numbers.
        """
    def copy_snapshot(self, out: NDArray[np.uint8]) -> tuple[int, int]:
        """Copy the next accounts, then the next open holds, into `out`, uint8, (n,).

        Returns (column, records copied); (0, 0) when all is copied, and the snapshot is closed.
        """
    def close_snapshot(self) -> None:
        """Give up what is not copied yet."""
    def restore(self, column: int, records: NDArray[np.uint8]) -> None:
        """Put back what a checkpoint holds: starts, accounts, holds, then all sessions at once;
        into an empty core. records: uint8, (n, record bytes). DataRefused when they do not fit.
        """
    def restore_numbers(self, numbers: dict[str, Any]) -> None:
        """The numbers that open_snapshot gave, when all columns are back."""
