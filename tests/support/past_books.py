"""Test tool: books whose past is sealed, with the oracle that knows what it is.

What lives here: a journal on disk, its history with segments that the oracle built, cut into
windows of so many groups, and short ways to ask it. It knows nothing of what answers should be.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from chaos.generate import Generator
from ledger.facts import schema
from ledger.facts.schema import Operation
from ledger.history.lookup import Resolved, Wanted
from ledger.history.segments import History
from ledger.journal.journal import Journal
from tests.oracles.past_oracle import FIELDS, PastOracle
from tests.support import books

NO_TIMES = np.empty(0, np.uint64)
ANY = dict.fromkeys((*FIELDS, "timestamp_min", "timestamp_max", "flags"), 0) | {"limit": 8189}
BLOCK_TRANSFERS = 30


class Sealed:
    """A book's journal and history, and the oracle of its groups."""

    def __init__(self, directory: Path, groups: books.Groups, oracle: PastOracle) -> None:
        self.directory, self.groups, self.oracle = directory, groups, oracle
        self.journal = Journal.open(directory)
        self.history = History(directory, self.journal)

    @classmethod
    def of(cls, directory: Path, groups: books.Groups) -> Sealed:
        """A new book of these groups, nothing of it sealed."""
        return cls(books.write(directory, groups), groups, PastOracle(groups))

    @classmethod
    def generated(cls, directory: Path, seed: int, requests: int = 400) -> Sealed:
        return cls.of(directory, books.generated(seed, requests, 40))

    def columns(self, group_first: int, group_last: int) -> dict[int, np.ndarray]:
        return self.oracle.columns(
            self.history.hash_key, group_first, group_last, BLOCK_TRANSFERS, 2, 2
        )

    def seal(self, windows: int, window_groups: int = 5) -> int:
        """Seal the next windows of so many groups; the last group that is sealed now."""
        for _ in range(windows):
            first = self.history.group + 1
            last = min(first + window_groups - 1, self.journal.group)
            position, digest = self.journal.end_of(last)
            self.history.seal(self.columns(first, last), first, last, position, digest)
        return self.history.group

    def merge(self) -> int:
        """Do the merges that are due; how many they were."""
        return sum(1 for _ in iter(self.history.merge, False))

    def again(self) -> Sealed:
        """The same book after a restart."""
        self.close()
        return Sealed(self.directory, self.groups, self.oracle)

    def close(self) -> None:
        self.history.close()
        self.journal.close()

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def names(self) -> list[str]:
        """The column files, whatever they are, as the folder has them."""
        return sorted(p.name for p in self.state.iterdir() if not p.name.endswith(".mdb"))

    # ---- asking ---------------------------------------------------------------------------------

    def find(self, ids: list[int]) -> Resolved:
        return self.history.resolve(Wanted(packed(ids), [], NO_TIMES))

    def read(self, operation: Operation, wanted: dict[str, int]) -> bytes:
        """The sealed results of one filter."""
        account = self.oracle.accounts.get(wanted.get("account_id", 0), 0)
        asked = filter_of(operation, wanted)
        resolved = self.history.resolve(Wanted(b"", [(operation, asked, account)], NO_TIMES))
        [(_, _, results)] = resolved.reads
        return results

    def at(self, timestamps: list[int]) -> list[bool]:
        wanted = np.array(timestamps, np.uint64)
        resolved = self.history.resolve(Wanted(b"", [], wanted))
        assert resolved.timestamps.tolist() == timestamps
        return resolved.found.tolist()


def packed(ids: list[int]) -> bytes:
    return b"".join(id.to_bytes(16, "little") for id in ids)


def filter_of(operation: Operation, wanted: dict[str, int]) -> bytes:
    if operation == Operation.QUERY_TRANSFERS:
        return schema.pack_query_filters([schema.QueryFilter(**wanted)]).tobytes()
    named = {name: value for name, value in wanted.items() if name != "ledger"}  # it has none
    return schema.pack_account_filters([schema.AccountFilter(**named)]).tobytes()


def conversed(seed: int, requests: int) -> books.Writer:
    """A core that went through the generator's first requests of a seed."""
    writer = books.Writer(1, 40)
    for operation, batches, now in itertools.islice(Generator(seed), requests):
        writer.driver.execute(operation, batches, now)
        writer.now = now
    return writer


def busy(payments: int = 300) -> Any:
    """The groups of a small book with holds of each outcome and an account with history."""
    return books.paid(payments, 20)
