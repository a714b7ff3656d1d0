"""Crowds that mean no good: peers that ask for much and read nothing, that begin frames and never
end them, that ask a thousand questions in one breath. Memory stays within its bound, and an honest
client is answered soon.

CROWD_CONNECTIONS sets how many connections the slow readers have (the issue's attack has 900).
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from chaos.altered import altered
from chaos.process import Server
from ledger.facts import limits, schema
from ledger.facts.schema import Operation
from tests.support.door_loads import full_queries, memory_bytes, with_megabyte
from tests.support.raw import Peer, Session, command_of, opened, posted, transfers, with_accounts

Start = Callable[..., Server]
MIB = 1 << 20
SLOW = int(os.environ.get("CROWD_CONNECTIONS", "300"))
EACH = 8  # statements of each
WAIT_SECONDS_MAX = 1.0
TRANSFERS = Operation.CREATE_TRANSFERS
CREATED = schema.TransferStatus.CREATED


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as the system allows, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Honest:
    """Pays and reads a balance again and again, and remembers how long each took."""

    def __init__(self, address: str, first: int) -> None:
        self.peer, self.session = opened(address)
        self._next = first
        self.waits: list[float] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.error: BaseException | None = None

    def __enter__(self) -> Honest:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join()
        self.peer.close()

    def _work(self) -> None:
        try:
            while not self._ends.is_set():
                began = time.monotonic()
                made = self.session.ask(self.peer, TRANSFERS, transfers(self._next, 1))
                assert made["status"].tolist() == [CREATED]
                posted(self.peer, self.session)
                self.waits.append((time.monotonic() - began) / 2)
                self._next += 1
        except BaseException as error:
            self.error = error
            raise

    @property
    def worst_seconds(self) -> float:
        assert self.error is None and self.waits
        return max(self.waits)


class Memory:
    """The most that a server's process had, looked at all the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.most = memory_bytes(server)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ends.wait(0.005):
            self.most = max(self.most, memory_bytes(self._server))


@pytest.mark.parametrize("bound", [64 * MIB, 512 * MIB])
def test_slow_readers_pass_no_bound_and_starve_nobody(
    server: Start, tmp_path: Path, bound: int
) -> None:
    running = server(env=altered(tmp_path, UNREAD_BYTES_MAX=bound, CONNECTIONS_MAX=4096))
    peer, _ = with_megabyte(running.address)
    slow = [Peer(running.address, receive_bytes=4096) for _ in range(SLOW)]
    asked = [full_queries(one, Session().register(one), EACH) for one in slow]
    before = memory_bytes(running)
    with Memory(running) as memory, Honest(running.address, 10**6) as honest:
        for one, frames in zip(slow, asked, strict=True):
            one.send(frames)
        if 2 * bound < SLOW * EACH * MIB:
            running.wait_line("it reads too little, and so do others")
        # Until nobody waits for a share any more: a statement of an honest client has its turn.
        other, reader = opened(running.address)
        other.send(full_queries(other, reader, 1))
        assert len(other.frame()) == MIB
        other.close()
    more = memory.most - before
    print(f"worst {honest.worst_seconds:.3f} s of {len(honest.waits)}, {more / MIB:.0f} MiB more")
    assert honest.worst_seconds < WAIT_SECONDS_MAX
    assert more < bound + limits.UNREAD_RESERVE_BYTES + limits.REPLY_BYTES_IN_FLIGHT_MAX
    for one in slow:
        one.close()
    peer.close()
    assert running.terminate() == 0


def test_frames_that_have_only_begun_stop_nobody(server: Start, tmp_path: Path) -> None:
    """What counts is what has arrived, not what a header promises."""
    running = server(env=altered(tmp_path, LOG_LINES_MAX=10_000))
    peer, session = with_accounts(running.address)
    crowd = [Peer(running.address) for _ in range(1100)]
    frame = session.request_frame(TRANSFERS, transfers(1, 8189).tobytes())
    before = memory_bytes(running)
    for one in crowd:
        one.send(frame[:300])
    with Honest(running.address, 10**6) as honest:
        late, payer = opened(running.address)
        made = payer.ask(late, TRANSFERS, transfers(10_000, 8189))
        assert set(made["status"].tolist()) == {CREATED}
        late.close()
    assert honest.worst_seconds < WAIT_SECONDS_MAX
    assert memory_bytes(running) - before < 32 * MIB
    assert not [line for line in running.log if "half arrived" in line or "refused" in line]
    crowd[7].send(frame[300:])  # and each can still end it
    assert len(session.results(crowd[7].frame())) == 8189
    for one in crowd:
        one.close()
    peer.close()
    assert running.terminate() == 0


def queries(session: Session, count: int) -> bytes:
    """Questions that walk over all transfers and find none."""
    filter = np.zeros(1, schema.QUERY_FILTER)
    filter["user_data_64"], filter["limit"] = 12345, 8189
    return b"".join(
        session.request_frame(Operation.QUERY_TRANSFERS, filter.tobytes()) for _ in range(count)
    )


def test_questions_in_one_breath_let_payments_through(server: Start) -> None:
    """They are answered all the same, in their order."""
    running = server()
    peer, session = with_accounts(running.address)
    for first in range(1, 100_000, 8189):
        session.ask(peer, TRANSFERS, transfers(first, 8189))
    asks, reader = opened(running.address)
    count = 2000
    with Honest(running.address, 10**6) as honest:
        data = queries(reader, count)
        sender = threading.Thread(target=asks.send, args=(data,))
        sender.start()
        for at in range(0, len(data), len(data) // count):
            frame = asks.frame()
            assert frame[128:144] == data[at : at + 16], "in order, and none is missing"
        sender.join()
    print(f"worst {honest.worst_seconds:.3f} s of {len(honest.waits)}")
    assert len(honest.waits) > 20, "payments are answered between them"
    assert honest.worst_seconds < WAIT_SECONDS_MAX
    asks.close()
    peer.close()
    assert running.terminate() == 0


def test_questions_of_many_connections_have_their_turns(server: Start) -> None:
    """Who asks one thing is not kept behind all that another has asked before."""
    running = server()
    peer, session = with_accounts(running.address)
    for first in range(1, 100_000, 8189):
        session.ask(peer, TRANSFERS, transfers(first, 8189))
    greedy, others = opened(running.address), [opened(running.address) for _ in range(20)]
    data = queries(greedy[1], 1000)
    greedy[0].send(data)
    for one, its in others:
        one.send(queries(its, 1))
    for one, its in others:
        assert len(its.results(one.frame())) == 0
        one.close()
    running_answers = 0
    greedy[0].socket.setblocking(False)
    try:
        while True:
            running_answers += len(greedy[0].frames())
    except BlockingIOError:
        pass
    assert running_answers < 1000, "the others did not wait for all of them"
    greedy[0].socket.settimeout(60)
    for _ in range(1000 - running_answers):
        assert command_of(greedy[0].frame()) == schema.Command.REPLY
    greedy[0].close()
    peer.close()


def test_the_same_question_of_the_past_a_thousand_times_in_one_turn(
    server: Start, tmp_path: Path
) -> None:
    """A herd whose statement is attached already is answered share by share."""
    running = server(env=altered(tmp_path, WINDOW_EVENTS=2000))
    peer, session = with_accounts(running.address)
    for first in range(1, 20_000, 1000):
        session.ask(peer, TRANSFERS, transfers(first, 1000))
    herd = [opened(running.address) for _ in range(100)]
    with Honest(running.address, 10**6) as honest:
        for one, its in herd:
            one.send(full_queries(one, its, 1))
        for one, its in herd:
            assert len(its.results(one.frame())) == 8189
            one.close()
    assert honest.worst_seconds < WAIT_SECONDS_MAX
    peer.close()
