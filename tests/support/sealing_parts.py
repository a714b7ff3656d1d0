"""Test tool: an engine with its history on real files, moved by hand, and a disk that can fail.

What lives here: the bench of test_keeper.py and how its clients ask. It knows nothing of what a
test expects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chaos.model import AccountFilter
from ledger.engine import assembly, recovery
from ledger.engine.engine import Engine
from ledger.engine.keeper import HistoryKeeper
from ledger.facts import limits, schema
from ledger.facts.schema import Operation
from ledger.history.segments import History
from ledger.journal.journal import Journal
from tests.support import books
from tests.support.core_book import NOW, pay
from tests.support.engine_parts import Bench, Clock, Runner, Submitter, requests

CREATED = schema.TransferStatus.CREATED
WINDOW = 4  # transfers
STATEMENT = AccountFilter(account_id=1, limit=limits.EVENTS_MAX, flags=3)
Wanted = tuple[int, list[Any]]


class Disk(History):
    """The real files, and a disk that can fail: the next time a step of `fail` comes."""

    def __init__(self, directory: Path, journal: Journal) -> None:
        super().__init__(directory, journal)
        self.fail: dict[str, int] = {}
        self.in_merge: Callable[[], None] | None = None

    def reach(self, step: str) -> None:
        if number := self.fail.pop(step, 0):
            raise OSError(number, os.strerror(number))

    def write(self, *arguments: Any) -> Any:
        self.reach("seal")
        return super().write(*arguments)

    def merge(self) -> bool:
        self.reach("merge")
        merged = super().merge()
        if self.in_merge is not None:
            self.in_merge()
        return merged

    def checkpoint_writer(self, *arguments: Any) -> Any:
        self.reach("open")
        return DiskWriter(super().checkpoint_writer(*arguments), self)


class DiskWriter:
    """A checkpoint on such a disk."""

    def __init__(self, writer: Any, disk: Disk) -> None:
        self._disk = disk
        self._writer = writer
        self.column, self.abandon = writer.column, writer.abandon

    def append(self, records: Any) -> None:
        self._writer.append(records)
        self._disk.reach("append")

    def commit(self, facts: bytes) -> None:
        self._disk.reach("commit")
        self._writer.commit(facts)


class Sealing(Bench):
    """An engine over the book in `directory` with its history; it is made when there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not Journal.exists(directory):
            books.write(directory, books.Writer(NOW).groups())
            with Journal.open(directory) as journal:
                books.stamp(directory, journal)
        self.journal = Journal.open(directory)
        self.history = Disk(directory, self.journal)
        self.core, self.buffers = assembly.new_core(limits.WINDOW_EVENTS)
        self.keeper = HistoryKeeper(self.core, self.history, self.journal)
        self.restored = recovery.restore(self.history, self.core)
        recovery.replay(self.journal, self.core, None, self.restored + 1, self.keeper.replayed)
        self.keeper.check_replayed()
        self.found = self.core.state_hash()  # what was brought back
        self.clock, self.runner = Clock(), Runner()
        self.told: list[Any] = []
        self.engine = Engine(
            self.core, self.buffers, self.journal, self.clock, self.runner,
            keeper=self.keeper, on_stopped=self.told.append,
        )  # fmt: skip
        self.buffers.turnstile = self.runner.turnstile
        self.engine.start(NOW, limits.RELEASE, recovery.start_id())
        self.settle()

    def rest(self) -> None:
        """Until nothing is under way, beside the order neither."""
        for _ in range(1000):
            self.settle()
            lane = next((lane for lane, jobs in self.runner.lanes.items() if jobs), None)
            if lane is None:
                return
            self.runner.finish(lane)
        raise AssertionError("it never comes to rest")

    def window(self, first: int) -> None:
        """Pay a whole window, from this id on, in a group of its own."""
        assert self.transfers(Submitter(), *(pay(first + n) for n in range(WINDOW))) == 1
        self.settle()

    def windows(self, *firsts: int) -> None:
        """Windows that are sealed and dropped in the end."""
        for first in firsts:
            self.window(first)
            self.rest()
        assert self.core.memtables == [] and self.history.group == self.journal.group

    def waiting(self, lane: str) -> int:
        return len(self.runner.lanes[lane])

    def close(self) -> None:
        """As a process that is killed leaves it: nothing more is written."""
        self.history.close()
        self.journal.close()

    def again(self) -> Sealing:
        self.close()
        return Sealing(self.directory)


class Client(Submitter):
    """Asks what it wants, and what is left of it again whenever it is told to."""

    def __init__(self, bench: Bench, *wanted: Wanted) -> None:
        super().__init__()
        self._engine = bench.engine
        self._arrivals, self._buffer = requests(*wanted)
        self.on_resume = self.ask
        self.ask()

    def ask(self) -> None:
        left = self._arrivals
        self._arrivals = left[self._engine.submit(self, self._buffer, left, len(left)) :]

    @property
    def taken(self) -> bool:
        return len(self._arrivals) == 0

    def ids(self) -> list[int]:
        """Of the transfers in its one answer."""
        [answer] = self.got
        found: list[int] = np.frombuffer(answer.payload, schema.TRANSFER)["id"][:, 0].tolist()
        return found


def lookup(bench: Bench, *ids: int) -> Client:
    return Client(bench, (Operation.LOOKUP_TRANSFERS, list(ids)))


def statement(bench: Bench) -> Client:
    return Client(bench, (Operation.GET_ACCOUNT_TRANSFERS, [STATEMENT]))


def paid(*firsts: int) -> list[int]:
    """The ids of windows."""
    return [first + n for first in firsts for n in range(WINDOW)]


def statuses(client: Submitter) -> list[int]:
    found: list[int] = []
    for answer in client.got:
        found += np.frombuffer(answer.payload, schema.CREATE_RESULT)["status"].tolist()
    return found


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def flip_payment(directory: Path, id: int) -> None:
    """Flip a bit of a payment in the journal, wherever LMDB has left a copy of it."""
    [file] = [path for path in directory.rglob("data.mdb") if path.parent.name == "journal"]
    begins = id.to_bytes(16, "little") + (1).to_bytes(16, "little")
    copies = [match.start() for match in re.finditer(re.escape(begins), file.read_bytes())]
    assert copies
    for at in copies:
        flip(file, at + 48)


def made(directory: Path) -> list[str]:
    """Column files, whole or not."""
    return sorted(p.name for p in (directory / "state").iterdir() if not p.name.endswith(".mdb"))
