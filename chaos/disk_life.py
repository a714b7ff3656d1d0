"""The disk tier: one life of a book: recovered, worked on by the real engine, ended.

A life says in the recording what it promises: which groups are about to be appended and what the
book then holds, which positions were acknowledged, how far the head is stamped, what is sealed and
of which group there is a checkpoint. Its requests come from the tests' generator; its clock and its
runner are moved by hand, so that a seed is always the same life. It knows nothing of crashes:
whoever starts it decides how it ends.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np

from chaos.generate import Generator
from chaos.model import EVENT_BYTES
from ledger.engine import recovery
from ledger.engine.assembly import Parts
from ledger.engine.engine import Engine
from ledger.engine.ports import Answers
from ledger.facts import limits, schema
from ledger.history._columns import ColumnFile
from ledger.history.segments import History
from ledger.journal.group import Group

Mark = Callable[[dict[str, Any]], None]
Done = Callable[[BaseException | None], None]

START_NS = 1_700_000_000 * 10**9
REQUESTS_MAX = 4  # requests of the generator in one turn
BULKS = (200, 1_500, 6_000)  # transfers of one bulk request
BULK_SHARE = 0.12
AHEAD_NS_MAX = 24 * 3600 * 10**9  # a life lasts a day: the generator's time may end with the world
SOON_MAX = 1_000
TRIES_MAX = 10
ASIDE_SHARE = 0.7  # of what may be done beside the order at the end of a turn
SETTLED_SHARE = 0.7  # of the lives: all of it is done at their end


class Script(NamedTuple):
    """What a life does: turns of requests from `seed`, from the generator's request `first` on."""

    seed: int
    first: int
    turns: int
    stamps: bool = True  # the clock runs fast enough to renew the head stamp


def digest(body: bytes | memoryview) -> str:
    return hashlib.sha256(body).hexdigest()


class _Log:
    """The real journal, and before each append the word of what is about to be in it."""

    def __init__(self, parts: Parts, mark: Mark) -> None:
        self._parts, self._journal, self._mark = parts, parts.journal, mark
        self.one, self.room, self.digest = parts.journal.one, parts.journal.room, self._digest

    @property
    def cluster(self) -> int:
        return self._journal.cluster

    @property
    def group(self) -> int:
        return self._journal.group

    @property
    def position(self) -> int:
        return self._journal.position

    def _digest(self) -> bytes:
        return self._journal.digest()

    def append(self, expected_position: int, group: Group) -> int:
        self._mark(
            {
                "what": "append",
                "group": self._journal.group + 1,
                "position": expected_position + group.position_count,
                "state": self._parts.core.state_hash().hex(),
                "body": digest(bytes(group.body)),
            }
        )
        return self._journal.append(expected_position, group)


class _Stamp:
    """The real head stamp, and the word that it was written."""

    def __init__(self, parts: Parts, mark: Mark) -> None:
        self._checkpoint, self._mark = parts.checkpoint, mark

    def write(self, cluster: int, group: int, position: int, digest: bytes) -> None:
        assert self._checkpoint is not None
        self._checkpoint.write(cluster, group, position, digest)
        self._mark({"what": "stamped", "group": group})


class _Clock:
    def __init__(self, ns: int) -> None:
        self.ns = ns

    def now_ns(self) -> int:
        return self.ns


class _Runner:
    """Appends happen where they are asked for; the rest when the life takes its turn.

    What is done beside the order may wait for several turns; each job is done in one go.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.turnstile = threading.RLock()
        self._soon: list[Callable[[], None]] = []
        self._asides: list[tuple[Callable[[], None], Done]] = []

    def run(self, job: Callable[[], None], done: Done) -> None:
        error: BaseException | None = None
        try:
            job()
        except BaseException as raised:
            error = raised
        done(error)

    def soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def wake(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Expiries that are due come with the next request."""

    def later(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Nothing is short of space here."""

    def aside(self, lane: str, job: Callable[[], None], done: Done) -> None:
        self._asides.append((job, done))

    def turn(self, everything: bool = False) -> None:
        """What is to be done soon, and of what is beside the order some, or everything."""
        for _ in range(SOON_MAX):
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                callback()
            if self._soon:
                continue
            if not self._asides or not (everything or self._random.random() < ASIDE_SHARE):
                return
            self.run(*self._asides.pop(0))
        raise AssertionError("the engine never comes to rest")


class _Submitter:
    """Says which position was acknowledged, at the moment its answer may leave."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark

    def of(self, arrival: int) -> _Submitter:
        return self

    def take(self, answers: Answers, made: int) -> tuple[int, int]:
        return int(answers.records["position"][:made].max()), 128

    def deliver(self, taken: int) -> None:
        self._mark({"what": "acknowledged", "position": taken})

    def full(self) -> bool:
        return False

    def resume(self) -> None:
        """Who asked tries again by itself."""

    def refused(self, why: BaseException) -> None:
        raise why

    def stopped(self, cause: BaseException) -> None:
        """The life ends by itself: its next request raises."""


def arrival(operation: int, batches: list[bytes]) -> tuple[np.ndarray[Any, Any], bytes]:
    """One arrival record and the buffer its events lie in."""
    size = EVENT_BYTES[operation]
    events = b"".join(batches)
    counts = [len(batch) // size for batch in batches]
    trailer = np.array(counts[::-1], "<u2").tobytes()
    arrivals = np.zeros(1, schema.ARRIVAL)
    arrivals["operation"], arrivals["verdict"] = operation, schema.Verdict.REPLY
    arrivals["event_count"], arrivals["batch_count"] = sum(counts), len(batches)
    arrivals["batches_offset"] = len(events) + len(trailer) - 2
    return arrivals, events + trailer


def _bulk(random: Random) -> tuple[int, list[bytes]]:
    """Many payments between two accounts of their own, or those accounts."""
    rows = np.zeros(random.choice(BULKS), schema.TRANSFER)
    rows["id"][:, 0] = random.getrandbits(63) + np.arange(len(rows))
    rows["id"][:, 1] = 1 << 40
    rows["debit_account_id"][:, 0], rows["credit_account_id"][:, 0] = 1 << 50, (1 << 50) + 1
    rows["amount"][:, 0] = random.randrange(1, 1000)
    rows["ledger"], rows["code"] = 5, 1
    return int(schema.Operation.CREATE_TRANSFERS), [rows.tobytes()]


def _bulk_accounts() -> tuple[int, list[bytes]]:
    accounts = [schema.Account(id=(1 << 50) + n, ledger=5, code=1) for n in range(2)]
    return int(schema.Operation.CREATE_ACCOUNTS), [schema.pack_accounts(accounts).tobytes()]


def _telling(mark: Mark) -> type[History]:
    """A History that says what is durable of it; `found` is what it found: the last groups that
    segments and the checkpoint cover, 0 for none."""

    class Telling(History):
        def __init__(self, directory: Path, journal: Any) -> None:
            super().__init__(directory, journal)
            of_checkpoint = self.checkpoint.group_last if self.checkpoint is not None else 0
            self.found = (self.group, of_checkpoint)

        def write(self, *arguments: Any) -> ColumnFile:
            segment = super().write(*arguments)
            mark({"what": "sealed", "group": segment.group_last})
            return segment

        def _replace_checkpoint(self, file: ColumnFile) -> None:
            mark({"what": "checkpointed", "group": file.group_last})
            super()._replace_checkpoint(file)

    return Telling


def recover(book: Path, mark: Mark) -> Parts:
    """The real recovery, with the wall clock standing still and nothing by chance."""
    cast(Any, recovery).time = SimpleNamespace(time_ns=lambda: START_NS)
    cast(Any, recovery).start_id = lambda: 1  # of a new book's first start
    cast(Any, recovery).History = _telling(mark)
    return recovery.recover(book, accept_clock=True)


def live(book: Path, script: Script, mark: Mark) -> None:
    """Recover the book and work on it; LedgerError as the parts raise them."""
    parts = recover(book, mark)
    try:
        tell_recovered(parts, mark)
        work(parts, script, mark)
    finally:
        parts.close()


def tell_recovered(parts: Parts, mark: Mark) -> None:
    """Say what was found: from now on it may have been shown to somebody."""
    journal = parts.journal
    mark(
        {
            "what": "recovered",
            "group": journal.group,
            "position": journal.position,
            "state": parts.core.state_hash().hex(),
            "body": digest(journal.one(journal.group)[1]),
        }
    )


def work(parts: Parts, script: Script, mark: Mark) -> None:
    """Put the script through the real engine, group by group, and stamp the head at the end."""
    random = Random(f"{script.seed}/{script.first}")
    clock, runner, submitter = _Clock(parts.core.clock_ns + 1), _Runner(random), _Submitter(mark)
    stamp, log = _Stamp(parts, mark), cast(Any, _Log(parts, mark))
    engine = Engine(
        parts.core, parts.buffers, log, clock, runner, stamp=stamp, keeper=parts.keeper
    )
    engine.start(START_NS, limits.RELEASE, random.getrandbits(64))
    runner.turn()
    base_ns = clock.ns
    requests = itertools.islice(Generator(script.seed), script.first, None)
    for _ in range(script.turns):
        turn = [_bulk_accounts(), _bulk(random)] if random.random() < BULK_SHARE else []
        for operation, batches, now_ns in itertools.islice(
            requests, random.randint(1, REQUESTS_MAX)
        ):
            clock.ns = max(clock.ns, base_ns + min(now_ns, AHEAD_NS_MAX))
            clock.ns += limits.HEAD_NS if script.stamps else 1
            turn.append((int(operation), batches))
        for operation, batches in turn:
            _ask(engine, runner, submitter, *arrival(operation, batches))
        runner.turn()
        engine.check()
    runner.turn(everything=random.random() < SETTLED_SHARE)
    engine.check()
    if script.stamps:
        engine.write_stamp()


def _ask(
    engine: Engine, runner: _Runner, submitter: _Submitter, arrivals: Any, buffer: bytes
) -> None:
    """One request, which may have to wait until a window is sealed, or for what is."""
    for _ in range(TRIES_MAX):
        if engine.submit(cast(Any, submitter), buffer, arrivals, 1) == 1:
            return
        runner.turn(everything=True)
    raise AssertionError("a request is never taken")
