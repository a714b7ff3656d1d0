"""Test tool: the parts an engine is built from, every one of them moved by hand.

What lives here: a runner that does nothing until a test says so, a log in memory, a clock that is
set, a stamp that remembers, a submitter that keeps what it was handed and when. They know nothing
of what an engine should do with them.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np

from chaos.model import encode
from ledger import _core
from ledger.engine.engine import Engine
from ledger.engine.ports import Answers
from ledger.facts import limits, schema
from ledger.facts.schema import Operation, Verdict
from ledger.journal.journal import Room
from tests.support.core_book import NOW

ROOM = Room(1 << 40, 1, 0, None)


class Clock:
    def __init__(self) -> None:
        self.ns = NOW
        self.readings = 0

    def now_ns(self) -> int:
        self.readings += 1
        return self.ns


class Log:
    """Groups in a list. `fail` is raised by the next append; `full` is the reason of a refusal,
    `shut` of one of everything that writes."""

    cluster = 0

    def __init__(self) -> None:
        self.groups: list[tuple[Any, bytes]] = []
        self.position = 0
        self.fail: BaseException | None = None
        self.full: str | None = None
        self.shut: str | None = None
        self.looks = 0

    @property
    def group(self) -> int:
        return len(self.groups)

    def append(self, expected_position: int, group: Any) -> int:
        if self.fail is not None:
            raise self.fail
        assert expected_position == self.position, "groups follow each other"
        assert group.position_first == self.position + 1
        self.groups.append((group._replace(body=None), bytes(group.body)))
        self.position += group.position_count
        return len(self.groups)

    def one(self, number: int) -> tuple[Any, bytes]:
        return self.groups[number - 1]

    def room(self) -> Room:
        self.looks += 1
        return ROOM._replace(refusal=self.full, shut=self.shut)

    def digest(self) -> bytes:
        return bytes(32)


class Stamp:
    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.fail: BaseException | None = None

    def write(self, cluster: int, group: int, position: int, digest: bytes) -> None:
        if self.fail is not None:
            raise self.fail
        self.written.append((group, position))


class Turnstile:
    """Of one thread: whether an append finds it free is said by the test."""

    def __init__(self) -> None:
        self.free, self.held = False, 0

    def acquire(self, blocking: bool = True) -> bool:
        if not blocking and not self.free:
            return False
        self.held += 1
        return True

    def release(self) -> None:
        self.held -= 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Runner:
    """Nothing happens until it is told to: `turn` runs what should be soon, `sync` one append,
    `finish` what is first on a lane."""

    def __init__(self) -> None:
        self.turnstile = Turnstile()
        self.jobs: list[Any] = []
        self.callbacks: list[Any] = []
        self.wakes: list[Any] = []
        self.laters: list[Any] = []
        self.lanes: dict[str, list[Any]] = defaultdict(list)

    def run(self, job: Any, done: Any) -> None:
        assert self.turnstile.held, "who hands a group over holds the turnstile"
        self.jobs.append((job, done))

    def soon(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def wake(self, delay_ns: int, callback: Any) -> None:
        self.wakes.append((delay_ns, callback))

    def later(self, delay_ns: int, callback: Any) -> None:
        self.laters.append((delay_ns, callback))

    def aside(self, lane: str, job: Any, done: Any) -> None:
        self.lanes[lane].append((job, done))

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            self._here(callback)

    def write(self) -> Any:
        """Do the append without telling the engine yet; what to call to tell it."""
        return self._do(*self.jobs.pop(0))

    def sync(self) -> None:
        self.write()()

    def work(self, lane: str) -> Any:
        """Do the first job of a lane without telling the engine yet; what to call to tell it."""
        return self._do(*self.lanes[lane].pop(0))

    def finish(self, lane: str) -> None:
        self.work(lane)()

    def _do(self, job: Any, done: Any) -> Any:
        error = None
        try:
            job()
        except BaseException as raised:
            error = raised
        return lambda: self._here(done, error)

    def _here(self, callback: Any, *arguments: Any) -> None:
        with self.turnstile:
            callback(*arguments)


class Submitter:
    def __init__(self, route: int = 0) -> None:
        self.route = route
        self.got: list[SimpleNamespace] = []
        self.resumed = 0
        self.refusals: list[Any] = []
        self.causes: list[Any] = []
        self.is_full = False
        self.on_resume: Any = None
        self.fail: BaseException | None = None

    def of(self, arrival: int) -> Submitter:
        return self

    def take(self, answers: Any, made: int) -> tuple[Any, int]:
        assert answers.turnstile.held, "who executes holds the turnstile"
        taken = []
        for answer in answers.records[:made]:
            if answer["verdict"] == Verdict.RESEND:
                continue
            start, size = int(answer["payload_offset"]), int(answer["payload_bytes"])
            taken.append(
                SimpleNamespace(
                    verdict=Verdict(answer["verdict"]).name,
                    position=int(answer["position"]),
                    timestamp=int(answer["timestamp"]),
                    payload=answers.payload[start : start + size].tobytes(),
                )
            )
        return taken, sum(112 + len(one.payload) for one in taken)

    def deliver(self, taken: Any) -> None:
        if self.fail is not None:
            raise self.fail
        self.got += taken

    def full(self) -> bool:
        return self.is_full

    def resume(self) -> None:
        self.resumed += 1
        if self.on_resume is not None:
            self.on_resume()

    def refused(self, why: Any) -> None:
        self.refusals.append(why)

    def unanswered(self, why: Any) -> None:
        self.refusals.append(why)

    def stopped(self, cause: Any) -> None:
        self.causes.append(cause)


def requests(*wanted: tuple[int, list[Any]], **fields: Any) -> tuple[np.ndarray, bytes]:
    """Arrivals of one batch each, and the buffer their events lie in."""
    arrivals, buffer = np.zeros(len(wanted), schema.ARRIVAL), b""
    for arrival, (operation, events) in zip(arrivals, wanted, strict=True):
        arrival["operation"], arrival["verdict"] = operation, Verdict.REPLY
        arrival["events_offset"], arrival["event_count"] = len(buffer), len(events)
        arrival["batch_count"] = 1
        for name, value in fields.items():
            arrival[name] = value
        for event in events:
            buffer += event.to_bytes(16, "little") if isinstance(event, int) else encode(event)
    return arrivals, buffer


class Bench:
    """An engine whose first group, the start record, is durable unless `started` is False."""

    def __init__(self, started: bool = True, **options: Any) -> None:
        self.buffers = Answers()
        self.core = _core.Core(
            limits.GROUP_BYTES_MAX, 100, b"k" * 16,
            self.buffers.records, self.buffers.payload, self.buffers.counts,
        )  # fmt: skip
        self.log, self.clock, self.runner, self.stamp = Log(), Clock(), Runner(), Stamp()
        self.told: list[Any] = []
        self.engine = Engine(
            self.core, self.buffers, self.log, self.clock, self.runner,
            stamp=self.stamp, on_stopped=self.told.append, **options,
        )  # fmt: skip
        self.buffers.turnstile = self.runner.turnstile
        self.engine.start(NOW, limits.RELEASE, 1)
        if started:
            self.settle()

    def submit(self, submitter: Submitter, *wanted: tuple[int, list[Any]], **fields: Any) -> int:
        arrivals, buffer = requests(*wanted, route=submitter.route, **fields)
        return self.engine.submit(submitter, buffer, arrivals, len(arrivals))

    def accounts(self, submitter: Submitter, *events: Any, **fields: Any) -> int:
        return self.submit(submitter, (Operation.CREATE_ACCOUNTS, list(events)), **fields)

    def transfers(self, submitter: Submitter, *events: Any, **fields: Any) -> int:
        return self.submit(submitter, (Operation.CREATE_TRANSFERS, list(events)), **fields)

    def lookup(self, submitter: Submitter, *ids: int, **fields: Any) -> int:
        return self.submit(submitter, (Operation.LOOKUP_ACCOUNTS, list(ids)), **fields)

    def settle(self) -> None:
        """Until nothing is under way."""
        for _ in range(100):
            self.runner.turn()
            if not self.runner.jobs:
                return
            self.runner.sync()
        raise AssertionError("the engine never comes to rest")

    def replayed(self) -> bytes:
        """The state hash of a core that went through the log."""
        other = Answers()
        core = _core.Core(
            limits.GROUP_BYTES_MAX, 100, b"q" * 16, other.records, other.payload, other.counts
        )
        for number, (group, body) in enumerate(self.log.groups, 1):
            core.replay(
                body, number, group.position_first, group.position_count,
                group.clock_before, group.clock_after,
            )  # fmt: skip
        return core.state_hash()


def with_accounts(*accounts: Any) -> Bench:
    """A bench whose book has these accounts and nothing under way."""
    bench = Bench()
    bench.accounts(Submitter(), *accounts)
    bench.settle()
    return bench


REGISTER = 2


def session_of(bench, client=7):
    submitter = Submitter(1)
    bench.submit(submitter, (REGISTER, []), client=(client, 0), number=0, checksum=(1, 0),
                 release=limits.RELEASE)  # fmt: skip
    bench.settle()
    return {"client": (client, 0), "session": submitter.got[0].position, "release": limits.RELEASE}
