"""The parts of a payment's way, each alone: what the ceilings, the guards and the budgets measure.

A part does one round of work of a given shape: `requests` requests of `events` payments. What is
not of the part is done by prepare(), outside of what is measured. The records, frames and groups
are those of a real run: requests are written by the client's codec, read by the server's, judged
by the core, and its answers and its groups go on. It knows no socket.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import workload
from ledger import _core
from ledger.engine.ports import Answers
from ledger.facts import limits, schema
from ledger.facts.schema import Operation, Verdict
from ledger.journal.group import Group, digest_group
from ledger.journal.journal import Journal
from ledger.wire._codec import ClientCodec, Codec

CLUSTER = 0
NOW_NS = 1_000_000_000_000
CLIENT = 1
HEADER = limits.MESSAGE_HEADER_BYTES


class Shape(NamedTuple):
    """What a client sends: `requests` at once, each of `events` payments."""

    requests: int
    events: int

    @property
    def payments(self) -> int:
        return self.requests * self.events


FULL = Shape(1, limits.EVENTS_MAX)
HUNDREDS = Shape(10, 100)
SINGLES = Shape(500, 1)


class Part(ABC):
    """One part of the way; `bytes` is what one round goes through, where that means anything."""

    bytes = 0

    def prepare(self) -> None:  # noqa: B027
        """What a round needs and is not of the part."""

    @abstractmethod
    def run(self) -> None:
        """One round."""

    def close(self) -> None:  # noqa: B027
        """Give back what the part holds."""

    def cpu_ns(self) -> int:
        """The processor time of one round, of this process, threads of the part included."""
        self.prepare()
        begun = time.process_time_ns()
        self.run()
        return time.process_time_ns() - begun

    def thread_ns(self) -> int:
        """The processor time of one round, of this thread alone."""
        self.prepare()
        begun = time.thread_time_ns()
        self.run()
        return time.thread_time_ns() - begun

    def wall_ns(self) -> int:
        """The time of one round."""
        self.prepare()
        begun = time.perf_counter_ns()
        self.run()
        return time.perf_counter_ns() - begun


class Desk:
    """A core with accounts and sessions, and the frames that go in and out of it."""

    def __init__(self, shape: Shape, accounts: int = workload.ACCOUNTS) -> None:
        self.shape = shape
        self.accounts = accounts
        self.buffers = Answers()
        self.core = _core.Core(
            limits.GROUP_BYTES_MAX, shape.requests + 1, b"k" * 16,
            self.buffers.records, self.buffers.payload, self.buffers.counts,
        )  # fmt: skip
        self.server = Codec(CLUSTER, limits.RELEASE, limits.RELEASE_MIN)
        self.client = ClientCodec(CLUSTER, limits.RELEASE)
        self.arrivals = np.zeros(shape.requests, schema.ARRIVAL)
        self.now_ns = NOW_NS
        self.rounds = 0
        self.core.start(NOW_NS, NOW_NS, limits.RELEASE)
        for rows in workload.accounts(accounts=accounts):
            self._alone(Operation.CREATE_ACCOUNTS, rows)
        self.sessions = [self._register(CLIENT + index) for index in range(shape.requests)]
        self.numbers = [0] * shape.requests
        self.close_group()

    def _alone(self, operation: Operation, rows: workload.Rows) -> None:
        """One request of the process itself, which has no session."""
        arrivals = np.zeros(1, schema.ARRIVAL)
        arrivals["operation"], arrivals["verdict"] = operation, Verdict.REPLY
        arrivals["event_count"], arrivals["batch_count"] = len(rows), 1
        self.close_group()
        self.execute(rows.tobytes(), arrivals)

    def _register(self, client: int) -> int:
        arrivals = np.zeros(1, schema.ARRIVAL)
        frame = self.client.encode_register(client)
        count, *_ = self.server.parse(frame, 0, len(frame), arrivals)
        assert count == 1
        self.execute(frame, arrivals)
        return int(self.buffers.records[0]["position"])

    def close_group(self) -> tuple[dict[str, int], memoryview] | None:
        """Close the open group and call it durable."""
        if not self.core.group_records:
            return None
        fields, body = self.core.take_group()
        self.core.made_durable(fields["group"])
        return fields, body

    def rows(self) -> workload.Rows:
        """New payments for one round."""
        self.rounds += 1
        return workload.transfers(self.rounds, self.shape.payments, self.accounts)

    def frames(self) -> bytes:
        """One round of requests with new payments, each of its own session."""
        rows, events = self.rows(), self.shape.events
        counts = np.array([events], np.uint16)
        made = []
        for index, session in enumerate(self.sessions):
            self.numbers[index] += 1
            some = rows[index * events : (index + 1) * events].tobytes()
            made.append(
                self.client.encode_request(
                    CLIENT + index, session, self.numbers[index], 0,
                    Operation.CREATE_TRANSFERS, some, counts,
                )
            )  # fmt: skip
        return b"".join(made)

    def parse(self, buffer: bytes) -> None:
        count, _, _, error = self.server.parse(buffer, 0, len(buffer), self.arrivals)
        assert (count, error) == (self.shape.requests, 0)

    def execute(self, buffer: bytes, arrivals: np.ndarray) -> None:
        self.now_ns += 1_000_000
        count = len(arrivals)
        done, made, why = self.core.execute(buffer, arrivals, 0, count, self.now_ns)
        assert (done, made, why) == (count, count, _core.DONE)

    def replies(self) -> bytes:
        buffers = self.buffers
        count = self.shape.requests
        return self.server.encode(buffers.records, count, buffers.payload, buffers.counts)

    def created(self) -> int:
        """How many payments of the last round were created."""
        results = self.buffers.payload[: self.shape.payments * 16].view(schema.CREATE_RESULT)
        return int((results["status"] == workload.CREATED).sum())


class ClientWrites(Part):
    """A client makes its requests: records to frames."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.some = desk.rows()[: desk.shape.events].tobytes()
        self.counts = np.array([desk.shape.events], np.uint16)
        self.bytes = desk.shape.requests * (HEADER + len(self.some))

    def run(self) -> None:
        encode = self.desk.client.encode_request
        for _ in range(self.desk.shape.requests):
            encode(CLIENT, 1, 1, 0, Operation.CREATE_TRANSFERS, self.some, self.counts)


class ServerReads(Part):
    """The codec checks frames and describes them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.buffer = desk.frames()
        self.bytes = len(self.buffer)

    def run(self) -> None:
        self.desk.parse(self.buffer)


class Judges(Part):
    """The core decides, changes balances and writes the open group."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.bytes = desk.shape.payments * schema.TRANSFER.itemsize

    def prepare(self) -> None:
        self.desk.close_group()
        self.buffer = self.desk.frames()
        self.desk.parse(self.buffer)

    def run(self) -> None:
        self.desk.execute(self.buffer, self.desk.arrivals)


class ServerWrites(Part):
    """The codec makes frames of answers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        Judges(desk).wall_ns()
        self.bytes = len(desk.replies())

    def run(self) -> None:
        self.desk.replies()


class ClientReads(Part):
    """A client checks the replies."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        Judges(desk).wall_ns()
        self.buffer = desk.replies()
        self.found = np.zeros(desk.shape.requests, schema.REPLY)
        self.bytes = len(self.buffer)

    def run(self) -> None:
        count, *_ = self.desk.client.parse_replies(self.buffer, 0, self.bytes, self.found)
        assert count == self.desk.shape.requests


def body_of(desk: Desk) -> bytes:
    """The body of the group that one round of payments makes."""
    Judges(desk).wall_ns()
    closed = desk.close_group()
    assert closed is not None
    return bytes(closed[1])


class Digests(Part):
    """The digest of a group."""

    def __init__(self, body: bytes) -> None:
        self.header, self.body = memoryview(bytes(HEADER)), memoryview(body)
        self.bytes = HEADER + len(body)

    def run(self) -> None:
        digest_group(self.header, self.body)


class Appends(Part):
    """The journal makes a group durable: checks, LMDB's put and sync; its digest elsewhere."""

    def __init__(self, folder: Path, body: bytes) -> None:
        self.body = body
        self.bytes = len(body)
        self.worker = ThreadPoolExecutor(1)
        Journal.create(folder, CLUSTER, Group(bytes(48), 1, 1, 1, 0, 1))
        self.journal = Journal.open(folder, CLUSTER, digest_executor=self.worker)

    def prepare(self) -> None:
        self.journal.digest()
        clock = self.journal.clock
        self.group = Group(self.body, self.journal.position + 1, 1, 1, clock, clock + 1)

    def run(self) -> None:
        self.journal.append(self.journal.position, self.group)

    def close(self) -> None:
        self.journal.close()
        self.worker.shutdown()


class DiskBytes(NamedTuple):
    """What a folder takes on its disk."""

    allocated: int
    files: int


def disk_bytes(folder: Path) -> DiskBytes:
    """The blocks of all files below a folder, in which files may come and go meanwhile."""
    sizes = []
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append((Path(root) / name).stat().st_blocks * 512)
    return DiskBytes(sum(sizes), len(sizes))
