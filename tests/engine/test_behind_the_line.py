"""Behind the line: nothing leaves the server before what it saw is durable.

A preloaded library delays the syncs of the journal and logs when each ended; both processes read
the same monotonic clock, so the time of each reply's arrival can be held against the disk's.
"""

from __future__ import annotations

import random
import selectors
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from chaos.process import Server
from ledger.facts import schema
from ledger.facts.schema import Operation
from tests.support.raw import Peer, Session, command_of, ids, opened, transfers, with_accounts
from tests.support.watched import Watched

LOOKUP, TRANSFERS = Operation.LOOKUP_ACCOUNTS, Operation.CREATE_TRANSFERS
CREATED = schema.TransferStatus.CREATED
MS = 10**6


@pytest.fixture
def watched(server: Callable[..., Server], tmp_path: Path) -> Watched:
    return Watched(server, tmp_path)


def arrivals(peers: Iterable[Peer], frames: int) -> dict[Peer, list[tuple[int, bytes]]]:
    """At least so many frames of all peers together, with when each was there; ns."""
    found: dict[Peer, list[tuple[int, bytes]]] = {peer: [] for peer in peers}
    with selectors.DefaultSelector() as selector:
        for peer in found:
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        while frames > 0:
            ready = selector.select(timeout=30)
            assert ready, f"{frames} frames never came"
            now = time.monotonic_ns()
            for key, _ in ready:
                for frame in key.data.frames():
                    found[key.data].append((now, frame))
                    frames -= 1
    return found


def test_every_kind_of_answer_waits_for_a_sync_of_a_second(watched: Watched) -> None:
    payer, paying = with_accounts(watched.address)
    doors = {name: opened(watched.address) for name in
             ("early read", "refusal", "late read", "ping", "executing twice")}  # fmt: skip
    newcomer = Peer(watched.address)
    watched.delay(1000)
    before = len(watched.syncs())

    payer.send(paying.request_frame(TRANSFERS, transfers(1, 1).tobytes()))
    watched.wait_sync(before + 1)
    for name, operation, events in (
        ("early read", LOOKUP, ids(1)),  # sees the payment
        ("refusal", TRANSFERS, transfers(2, 1, debit=77).tobytes()),
        ("late read", LOOKUP, ids(1)),  # sees the group that holds the refusal
    ):
        peer, session = doors[name]
        peer.send(session.request_frame(operation, events))
        Event().wait(0.02)  # one after the other: they are different connections
    peer, _ = doors["ping"]
    peer.send(paying.codec.encode_ping(1, 0, 5))
    peer, _ = doors["executing twice"]
    peer.send(paying.request)
    newcomer.send(Session().register_frame())

    everybody = [payer, newcomer, *(peer for peer, _ in doors.values())]
    found = arrivals(everybody, len(everybody))
    first, second = watched.durable()[before : before + 2]
    assert second - watched.syncs()[before] > 1900 * MS, "the syncs were not delayed"
    at = {peer: ns for peer, [(ns, _)] in found.items()}
    frames = {peer: frame for peer, [(_, frame)] in found.items()}
    assert at[payer] >= first
    assert at[doors["executing twice"][0]] >= first
    assert first <= at[doors["early read"][0]] < second, "it saw the first group only"
    for late in (doors["refusal"][0], doors["late read"][0], doors["ping"][0], newcomer):
        assert at[late] >= second
    assert frames[doors["executing twice"][0]] == frames[payer]
    assert paying.results(frames[payer])["status"].tolist() == [CREATED]
    [account] = doors["early read"][1].results(frames[doors["early read"][0]])
    assert schema.int_of(account["debits_posted"]) == 1

    # What is durable already need not wait.
    peer, session = doors["late read"]
    began = time.monotonic_ns()
    assert len(session.ask(peer, LOOKUP, ids(1))) == 1
    assert time.monotonic_ns() - began < 500 * MS
    for peer in everybody:
        peer.close()
    watched.delay(0)
    assert watched.server.terminate() == 0


def test_no_reply_is_earlier_than_the_position_it_saw(watched: Watched) -> None:
    """Twenty sessions pay, are refused and read as fast as they are answered."""
    chance = random.Random(7)
    with_accounts(watched.address)
    doors = [opened(watched.address) for _ in range(20)]
    sessions = dict(doors)
    watched.delay(20)
    number = 0

    def next_request(session: Session) -> bytes:
        nonlocal number
        number += 10
        kind = chance.random()
        if kind < 0.4:
            return session.request_frame(TRANSFERS, transfers(number, 9).tobytes())
        if kind < 0.7:
            return session.request_frame(TRANSFERS, transfers(number, 9, debit=3).tobytes())
        return session.request_frame(LOOKUP, ids(1, 2))

    replies = []
    for peer, session in sessions.items():
        peer.send(next_request(session))
    while len(replies) < 1500:
        for peer, found in arrivals(sessions, 1).items():
            for ns, frame in found:
                replies.append((ns, int(sessions[peer].read(frame)["position"])))
                peer.send(next_request(sessions[peer]))
    arrivals(sessions, len(sessions))  # the last group's
    lasts, ends = watched.durable_by_position()
    times, positions = np.array(replies).T
    groups = np.searchsorted(lasts, positions)
    assert len(set(groups.tolist())) > 20, "too few groups to show anything"
    early = np.flatnonzero(times < ends[groups])
    assert len(early) == 0, f"{len(early)} replies left before their group was durable"
    for peer in sessions:
        peer.close()


def test_one_sync_carries_the_payments_of_many(watched: Watched) -> None:
    """500 connections, one payment a request, a disk that takes 20 ms: whatever arrives while one
    group is synced makes the next."""
    with_accounts(watched.address)
    sessions = dict(opened(watched.address) for _ in range(500))
    rows = iter(transfers(1, 1 << 16))
    watched.delay(20)
    syncs, paid = len(watched.syncs()), 0
    with selectors.DefaultSelector() as selector:
        for peer, session in sessions.items():
            selector.register(peer.socket, selectors.EVENT_READ, (peer, session))
            peer.send(session.request_frame(TRANSFERS, next(rows).tobytes()))
        while paid < 10_000:
            for key, _ in selector.select(timeout=30):
                peer, session = key.data
                for frame in peer.frames():
                    assert session.results(frame)["status"][0] == CREATED
                    paid += 1
                    peer.send(session.request_frame(TRANSFERS, next(rows).tobytes()))
    syncs = len(watched.syncs()) - syncs
    assert paid / syncs >= 50, f"{paid} payments took {syncs} syncs"
    for peer in sessions:
        peer.close()


def test_what_was_accepted_is_answered_before_the_end(watched: Watched) -> None:
    """SIGTERM while a payment is on its way to the disk."""
    peer, session = with_accounts(watched.address)
    watched.delay(300)
    before = len(watched.syncs())
    peer.send(session.request_frame(TRANSFERS, transfers(1, 1).tobytes()))
    watched.wait_sync(before + 1)
    assert watched.server.terminate() == 0
    frame = peer.frame()
    assert command_of(frame) == schema.Command.REPLY
    assert session.results(frame)["status"].tolist() == [CREATED]
    peer.close()
