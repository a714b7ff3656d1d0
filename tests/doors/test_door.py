"""Peers that do wrong: whatever comes over a socket, the server lives, says what was wrong, keeps
its memory bounded, and loses nothing of what others sent.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from chaos.altered import altered
from chaos.process import Server
from ledger.facts import schema
from ledger.facts.schema import EvictionReason, Operation, Verdict
from tests.support.door_loads import full_queries, memory_bytes, with_megabyte
from tests.support.raw import (
    RELEASE,
    Closed,
    Peer,
    Session,
    accounts,
    altered_frame,
    command_of,
    ids,
    opened,
    posted,
    serves,
    transfers,
    with_accounts,
)

Start = Callable[..., Server]
MIB = 1 << 20
LOOKUP, TRANSFERS = Operation.LOOKUP_ACCOUNTS, Operation.CREATE_TRANSFERS
CREATED = schema.TransferStatus.CREATED


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that does not end it; every line of its log is wanted here."""
    place = tmp_path_factory.mktemp("door")
    server = Server(place / "book", env=altered(place, LOG_LINES_MAX=10_000))
    yield server.start()
    assert server.terminate() == 0, server.log


@pytest.fixture
def good(running: Server) -> Iterator[tuple[Peer, Session]]:
    """A client that does nothing wrong, and is served before and after."""
    peer, session = with_accounts(running.address)
    with peer:
        yield peer, session
        first = random.getrandbits(60)
        made = session.ask(peer, TRANSFERS, transfers(first, 1))
        assert made["status"].tolist() == [CREATED]
    assert serves(running.address)


# ---- frames that are wrong ----------------------------------------------------------------------

ping = Session().codec.encode_ping(1, 0, 7)
lookup = Session().codec.encode_request(1, 1, 1, 0, LOOKUP, ids(1), np.array([1], np.uint16))
BROKEN = {
    "garbage": (random.Random(1).randbytes(4096), "header is not what"),
    "zeros": (bytes(4096), "header is not what"),
    "header check": (altered_frame(ping, 150, b"\xff", seal=False), "header is not what"),
    "body check": (altered_frame(lookup, 256, b"\xff", seal=False), "body is not what"),
    "cluster": (altered_frame(ping, 80, b"\x01"), "another cluster"),
    "no size": (altered_frame(ping, 96, bytes(4)), "shorter than its header"),
    "undersized": (altered_frame(ping, 96, (255).to_bytes(4, "little")), "shorter than its header"),
    "oversized": (altered_frame(ping, 96, (MIB + 1).to_bytes(4, "little")), "longer than a mess"),
    "huge": (altered_frame(ping, 96, b"\xff" * 4), "longer than a message"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_frame_ends_its_connection(
    running: Server, good: tuple[Peer, Session], kind: str
) -> None:
    """What came before it is answered, also when it came in the same segment."""
    data, why = BROKEN[kind]
    peer, session = opened(running.address)
    pay = session.request_frame(TRANSFERS, transfers(random.getrandbits(60), 1).tobytes())
    peer.send(pay + data)
    assert session.results(peer.frame())["status"].tolist() == [CREATED]
    with pytest.raises(Closed):
        peer.frame()
    host, port = peer.socket.getsockname()
    assert why in running.wait_line(f"('{host}', {port}): closed")
    peer.close()


IGNORED = {
    "unknown command": altered_frame(ping, 114, b"\xc8"),
    "command 0": altered_frame(ping, 114, b"\x00"),
    "of replicas": altered_frame(ping, 114, b"\x06"),
    "of servers": altered_frame(ping, 114, b"\x08"),
    "reserved bytes": altered_frame(ping, 255, b"\x01"),
    "replica": altered_frame(ping, 115, b"\x01"),
    "no client": altered_frame(ping, 128, bytes(16)),
    "no release": altered_frame(ping, 108, bytes(4)),
    "no session": altered_frame(lookup, 176, bytes(8)),
    "no number": altered_frame(lookup, 192, bytes(4)),
    "a timestamp": altered_frame(lookup, 184, b"\x01"),
    "operation of replicas": altered_frame(lookup, 196, b"\x05"),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_a_frame_that_breaks_a_rule_is_ignored(
    running: Server, good: tuple[Peer, Session], kind: str
) -> None:
    """The log says so once, and the connection goes on."""
    frame = IGNORED[kind]
    with Peer(running.address) as peer:
        peer.send(frame + frame + ping)
        assert command_of(peer.frame()) == schema.Command.PONG_CLIENT
        host, port = peer.socket.getsockname()
        line = running.wait_line(f"('{host}', {port}): ignored")
        assert f"command {command_of(frame)}" in line
        assert sum(f"('{host}', {port})" in line for line in running.log) == 1


@pytest.mark.parametrize("operation", [128, *range(129, 140), 148, 199, 200, 255])
def test_an_unknown_operation_is_evicted(running: Server, operation: int) -> None:
    peer, session = opened(running.address)
    frame = altered_frame(session.request_frame(LOOKUP, ids(1)), 196, bytes([operation]))
    assert session.reason(peer, frame) == EvictionReason.INVALID_REQUEST_OPERATION
    assert len(session.ask(peer, LOOKUP, ids(1))) <= 1
    peer.close()


def test_a_frame_cut_anywhere_is_never_executed(
    running: Server, good: tuple[Peer, Session]
) -> None:
    peer, session = good
    before, memory = posted(peer, session), memory_bytes(running)
    cut = Session().register(peer)
    frame = cut.request_frame(TRANSFERS, transfers(777, 1, amount=5).tobytes())
    assert len(frame) == 512
    for length in range(len(frame)):
        with Peer(running.address) as other:
            other.send(frame[:length])
    assert posted(peer, session) == before
    assert len(session.ask(peer, Operation.LOOKUP_TRANSFERS, ids(777))) == 0
    assert memory_bytes(running) - memory < 8 * MIB
    with Peer(running.address) as other:
        assert cut.results(cut.resend(other))["status"].tolist() == [CREATED]


def test_frames_arrive_byte_by_byte(running: Server, good: tuple[Peer, Session]) -> None:
    with Peer(running.address) as peer:
        session = Session()
        for byte in session.register_frame():
            peer.send(bytes([byte]))
        session.read(peer.frame())
        frames = [session.request_frame(TRANSFERS, transfers(1000 + n, 1).tobytes())
                  for n in range(3)]  # fmt: skip
        data = b"".join(frames) + ping
        for at in range(0, len(data), 97):  # never at the end of a frame
            peer.send(data[at : at + 97])
        found = [peer.frame() for _ in range(4)]
        assert [frame[128:144] for frame in found[:3]] == [frame[:16] for frame in frames]
        assert command_of(found[3]) == schema.Command.PONG_CLIENT


# ---- peers that take their time -----------------------------------------------------------------


@pytest.mark.parametrize("at_once", [0, 216, 300])
def test_a_frame_that_takes_too_long_is_given_up(
    server: Start, tmp_path: Path, at_once: int
) -> None:
    """Its time runs from its first byte, not from each, nor from the end of its header."""
    limit = 1.0
    hurried = server(env=altered(tmp_path, FRAME_SECONDS_MAX=limit, SWEEP_SECONDS=0.05))
    peer, session = with_accounts(hurried.address)
    frame = Session().register(peer).request_frame(TRANSFERS, transfers(1, 1).tobytes())
    with Peer(hurried.address) as slow:
        began = time.monotonic()
        slow.send(frame[:at_once])
        rest = iter(frame[at_once:])
        with pytest.raises(Closed):
            while time.monotonic() - began < 10:
                slow.send(bytes([next(rest)]))
                Event().wait(0.02)
        assert limit <= time.monotonic() - began < 1.75
    assert "a frame took too long" in hurried.wait_line("closed")
    assert posted(peer, session) == 0
    peer.close()


def test_who_never_reads_is_not_read_and_then_closed(server: Start, tmp_path: Path) -> None:
    env = altered(tmp_path, SEND_SECONDS_MAX=1.0, SWEEP_SECONDS=0.05)
    patient = server(env=env)
    peer, session = with_megabyte(patient.address)
    memory = memory_bytes(patient)
    with Peer(patient.address, receive_bytes=4096) as deaf:
        deaf.send(full_queries(deaf, Session().register(deaf), 300))
        for _ in range(20):  # others are served meanwhile
            posted(peer, session)
        assert memory_bytes(patient) - memory < 48 * MIB
        assert "it reads nothing" in patient.wait_line("closed")
    assert memory_bytes(patient) - memory < 48 * MIB
    peer.close()


def test_many_who_never_read_are_bounded_together(server: Start, tmp_path: Path) -> None:
    """What all of them leave unread has one bound; whoever is behind longest pays for it."""
    patient = server(env=altered(tmp_path, UNREAD_BYTES_MAX=128 * MIB))
    peer, session = with_megabyte(patient.address)
    memory = memory_bytes(patient)
    deaf = []
    for _ in range(60):
        one = Peer(patient.address, receive_bytes=4096)
        one.send(full_queries(one, Session().register(one), 20))
        deaf.append(one)
    assert posted(peer, session) == 8189
    assert memory_bytes(patient) - memory < (128 + 64 + 32) * MIB
    assert "it reads too little, and so do others" in patient.wait_line("closed")
    for one in deaf:
        one.close()
    peer.close()
    assert patient.terminate() == 0


def test_frames_that_never_end_are_bounded_together(server: Start, tmp_path: Path) -> None:
    """Who began first and is not done pays for it; nobody else notices."""
    env = altered(tmp_path, RECEIVE_BYTES_MAX=32 * MIB, SWEEP_SECONDS=0.05)
    crowded = server(env=env)
    peer, session = with_megabyte(crowded.address)
    memory = memory_bytes(crowded)
    honest, payer = opened(crowded.address)
    crowd = [Peer(crowded.address) for _ in range(200)]
    frame = payer.request_frame(TRANSFERS, transfers(10_000, 8189).tobytes())
    for one in crowd:
        one.socket.setblocking(False)
        one.socket.send(frame[: MIB - 1])  # as much as the system takes of it
    honest.send(frame)
    assert len(payer.results(honest.frame())) == 8189
    assert "its frame is slow, and too much has half arrived" in crowded.wait_line("closed")
    with Peer(crowded.address) as late:
        late.send(ping)
        assert command_of(late.frame()) == schema.Command.PONG_CLIENT
    assert posted(peer, session) == 2 * 8189
    # What is counted, and as much again for the holes that growing leaves.
    assert memory_bytes(crowded) - memory < (2 * 32 + 24) * MIB
    for one in (*crowd, honest):
        one.close()
    peer.close()
    assert crowded.terminate() == 0


def test_who_reads_late_gets_everything(server: Start) -> None:
    running = server()
    peer, session = with_megabyte(running.address)
    reader = Session().register(peer)
    data = full_queries(peer, reader, 60)
    peer.send(data)
    with Peer(running.address) as other:  # by now the server holds all it may
        assert posted(other, Session().register(other)) == 8189
    for at in range(0, len(data), len(data) // 60):
        frame = peer.frame()
        assert len(frame) == MIB
        assert frame[128:144] == data[at : at + 16], "in order, and none is missing"
    assert posted(peer, session) == 8189
    peer.close()


def test_a_server_ends_although_nobody_reads(server: Start, tmp_path: Path) -> None:
    running = server(env=altered(tmp_path, DRAIN_SECONDS_MAX=0.5))
    peer, _ = with_megabyte(running.address)
    with Peer(running.address, receive_bytes=4096) as deaf:
        deaf.send(full_queries(deaf, Session().register(deaf), 30) + b"x" * 256)
        assert serves(running.address)
        assert running.terminate() == 0
    peer.close()


# ---- many ---------------------------------------------------------------------------------------


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as the system allows, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_thousand_connections(descriptors: None, server: Start) -> None:
    """Silent ones, ones with half a frame, and one that pays among them."""
    running = server()
    memory = memory_bytes(running)
    session = Session()
    frame = session.register_frame()
    crowd = []
    for number in range(5000):
        peer = Peer(running.address)
        peer.send(frame[: number % 3 * 200])
        crowd.append(peer)
    assert serves(running.address)
    assert memory_bytes(running) - memory < 64 * MIB
    for number in (2, 1502, 4997):  # and each of them can still go on
        crowd[number].send(frame[number % 3 * 200 :])
        assert command_of(crowd[number].frame()) == schema.Command.REPLY
    for peer in crowd:
        peer.close()
    assert running.terminate() == 0


def test_more_connections_than_there_may_be(server: Start, tmp_path: Path) -> None:
    running = server(env=altered(tmp_path, CONNECTIONS_MAX=10))
    crowd = [opened(running.address) for _ in range(10)]
    with Peer(running.address) as late:
        assert late.wait_closed() == b""
    assert "10 connections" in running.wait_line("refused")
    for peer, session in crowd:
        assert len(session.ask(peer, LOOKUP, ids(1))) == 0
    crowd.pop()[0].close()
    while True:  # until the server has noticed
        with Peer(running.address) as late:
            late.send(ping)
            if late.wait_answer():
                break
    for peer, _ in crowd:
        peer.close()


def test_wrong_peers_do_not_fill_the_log(server: Start) -> None:
    running = server()
    for _ in range(1000):
        with Peer(running.address) as peer:
            peer.send(bytes(256))
            peer.wait_closed()
    running.wait_line("more lines like these")
    assert len(running.log) < 500


def test_ten_thousand_sessions(server: Start) -> None:
    """Over a few connections; each pays, and each is remembered by the next process."""
    running = server()
    peer, session = with_accounts(running.address)
    sessions = [Session() for _ in range(10_000)]
    for part in range(0, len(sessions), 1000):
        some = sessions[part : part + 1000]
        peer.send(b"".join(one.register_frame() for one in some))
        for one in some:
            assert one.read(peer.frame())["verdict"] == Verdict.REPLY
    events = transfers(1, len(sessions))
    frames = [
        one.request_frame(TRANSFERS, row.tobytes())
        for one, row in zip(sessions, events, strict=True)
    ]
    replies = []
    for part in range(0, len(frames), 1000):
        peer.send(b"".join(frames[part : part + 1000]))
        replies += [peer.frame() for _ in frames[part : part + 1000]]
    assert all(one.results(reply)["status"][0] == CREATED
               for one, reply in zip(sessions, replies, strict=True))  # fmt: skip
    running.kill()
    running.restart()
    with Peer(running.address) as again:
        for part in range(0, len(frames), 1000):
            again.send(b"".join(frames[part : part + 1000]))
            assert [again.frame() for _ in range(1000)] == replies[part : part + 1000]
        assert posted(again, session) == 10_000
    peer.close()


def test_a_session_of_another_release_is_its_own(running: Server) -> None:
    """Any release from the oldest served on: each reply carries its client's."""
    for release in (0x1100, RELEASE, 0xFFFF_0000):
        with Peer(running.address) as peer:
            session = Session(release=release).register(peer)
            peer.send(session.request_frame(LOOKUP, ids(1)))
            assert peer.frame()[108:112] == release.to_bytes(4, "little")


def test_accounts_of_many_batches(running: Server) -> None:
    """A request of as many batches as fit, most of them empty."""
    peer, session = opened(running.address)
    counts = [0] * 60_000
    counts[1], counts[59_999] = 2, 1
    made = session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(1 << 50, 3), counts)
    assert made["status"].tolist() == [schema.AccountStatus.CREATED] * 3
    assert session.resend(peer) == session.reply
    peer.close()


def test_who_ends_it_twice_ends_it_well(server: Start) -> None:
    """SIGTERM again and again, until the process has gone."""
    for _ in range(5):
        running = server()
        peer, _ = with_accounts(running.address)
        process = os.pidfd_open(running.pid)
        with contextlib.suppress(ProcessLookupError):
            while True:
                signal.pidfd_send_signal(process, signal.SIGTERM)
        os.close(process)
        assert running.wait() == 0, running.log
        peer.close()
