"""The official client while its server is killed, stopped, replaced, or is the wrong one.

Whatever happens to the server, the application sees a pause and results that are true; what cannot
go on is said once and clearly. Clients whose host process might be aborted by a wrong frame run in
processes of their own, so that such an abort is seen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tigerbeetle as tb

from chaos.altered import altered
from chaos.process import Server
from ledger.facts.schema import EvictionReason, Operation
from tests.support.raw import (
    Peer,
    Session,
    accounts,
    altered_frame,
    ids,
    opened,
    posted,
    transfers,
    with_accounts,
)

Start = Callable[..., Server]
CREATED = tb.CreateTransferStatus.CREATED

# Pays from several threads until told to stop; says how many calls each thread has made.
PAYER = """
import sys, threading
import tigerbeetle as tb
address, threads = sys.argv[1], int(sys.argv[2])
client = tb.ClientSync(0, address)
stop = threading.Event()
made = [0] * threads
def pay(thread):
    while not stop.is_set():
        rows = [tb.Transfer(
            id=tb.id(), debit_account_id=1, credit_account_id=2, amount=1, pending_id=0,
            user_data_128=0, user_data_64=0, user_data_32=0, timeout=0, ledger=1, code=1,
            flags=tb.TransferFlags.NONE, timestamp=0) for _ in range(thread + 1)]
        for result in client.create_transfers(rows):
            assert result.status == tb.CreateTransferStatus.CREATED, result
        made[thread] += len(rows)
workers = [threading.Thread(target=pay, args=(number,)) for number in range(threads)]
for worker in workers: worker.start()
for line in sys.stdin:
    if line == "stop\\n": break
    goal = [count + 20 for count in made]
    while any(count < wanted for count, wanted in zip(made, goal)): threading.Event().wait(0.005)
    print("paid", flush=True)
stop.set()
for worker in workers: worker.join()
client.close()
print(sum(made), flush=True)
"""

# Looks an account up each time a line comes; says what became of it.
CALLER = """
import sys
import tigerbeetle as tb
client = tb.ClientSync(int(sys.argv[2]), sys.argv[1])
for line in sys.stdin:
    try:
        print(client.lookup_accounts([1]), flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


class Program:
    """A client in a process of its own, spoken to by lines."""

    def __init__(self, source: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        assert line, f"the client's process ended with {self.process.wait(10)}"
        return line

    def end(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_restart_under_load_is_only_a_pause(server: Start, how: str) -> None:
    """Several processes, several threads each: every call is made exactly once."""
    running = server()
    peer, session = with_accounts(running.address)
    payers = [Program(PAYER, running.address, "4") for _ in range(2)]
    for _ in range(3):
        for payer in payers:
            payer.say("pay")
        assert [payer.hear() for payer in payers] == ["paid"] * 2
        code = getattr(running, how)()
        assert code == (0 if how == "terminate" else -9)
        running.restart()
    for payer in payers:
        payer.say("pay")
    assert [payer.hear() for payer in payers] == ["paid"] * 2
    for payer in payers:
        payer.say("stop")
    made = sum(int(payer.hear()) for payer in payers)
    assert [payer.end() for payer in payers] == [0, 0]
    peer.close()
    with Peer(running.address) as again:
        assert posted(again, session) == made


def test_a_client_that_sends_everything_twice_pays_once(server: Start) -> None:
    """With two addresses a client sends each request to both: here they are one server."""
    running = server()
    peer, session = with_accounts(running.address)
    payer = Program(PAYER, f"{running.address},{running.address}", "4")
    for _ in range(3):
        payer.say("pay")
        assert payer.hear() == "paid"
    payer.say("stop")
    made = int(payer.hear())
    assert payer.end() == 0
    assert posted(peer, session) == made
    peer.close()


def test_a_closed_connection_is_made_again(server: Start, tmp_path: Path) -> None:
    """The server ends silent connections; the client comes back with the same session."""
    env = altered(tmp_path, IDLE_SECONDS_MAX=0.2, SWEEP_SECONDS=0.05)
    running = server(env=env)
    with tb.ClientSync(0, running.address) as client:
        assert client.lookup_accounts([1]) == []
        running.wait_line("it says nothing")
        assert client.lookup_accounts([1]) == []


def test_a_client_of_another_cluster_waits_and_the_log_says_why(server: Start) -> None:
    running = server(cluster=5)
    stranger = Program(CALLER, running.address, "6")
    stranger.say("")
    assert "cluster" in running.wait_line("closed:")
    with tb.ClientSync(cluster_id=5, replica_addresses=running.address) as client:
        assert client.lookup_accounts([1]) == []
    assert stranger.process.poll() is None
    stranger.process.kill()
    stranger.end()
    assert running.terminate() == 0


def test_a_server_that_lost_its_data_is_noticed(server: Start) -> None:
    """The client's process is told, once, and is not aborted."""
    running = server()
    caller = Program(CALLER, running.address, "0")
    caller.say("")
    assert caller.hear() == "[]"
    running.kill()
    shutil.rmtree(running.directory)
    running.restart()
    for expected in ("ClientEvictedError", "ClientClosedError"):
        caller.say("")
        assert caller.hear() == expected
    assert caller.end() == 0
    assert "no_session" in running.wait_line("evicted")


def test_a_client_of_an_old_release_is_told(server: Start, tmp_path: Path) -> None:
    """Seen with a server that asks for more than there is."""
    env = altered(tmp_path, RELEASE=0x1200, RELEASE_MIN=0x1200)
    with tb.ClientSync(0, server(env=env).address) as client:
        with pytest.raises(tb.ClientReleaseTooLowError):
            client.lookup_accounts([1])
        with pytest.raises(tb.ClientClosedError):
            client.lookup_accounts([1])


# ---- the reasons of an eviction, by hand --------------------------------------------------------


def test_every_reason_of_an_eviction(server: Start) -> None:
    """All but client_release_too_high: there is no release too high for this server."""
    running = server()
    peer, session = opened(running.address)
    lookup = Operation.LOOKUP_ACCOUNTS

    def evicted(frame: bytes, by: Session) -> str:
        reason = by.reason(peer, frame)
        name = EvictionReason(reason).name
        assert name.lower() in running.wait_line(name.lower())
        return name

    stranger = Session()
    stranger.session = session.session
    assert evicted(stranger.request_frame(lookup, ids(1)), stranger) == "NO_SESSION"

    old = Session(release=0x1004)
    assert evicted(old.register_frame(), old) == "CLIENT_RELEASE_TOO_LOW"

    frame = altered_frame(session.request_frame(lookup, ids(1)), 196, b"\x80")
    assert evicted(frame, session) == "INVALID_REQUEST_OPERATION"

    frame = altered_frame(session.request_frame(lookup, ids(1, 2)), -2, b"\x00\x00")
    assert evicted(frame, session) == "INVALID_REQUEST_BODY"

    bare = Session()
    frame = altered_frame(bare.register_frame()[:256], 96, (256).to_bytes(4, "little"))
    assert evicted(frame, bare) == "INVALID_REQUEST_BODY_SIZE"

    one = (1).to_bytes(8, "little")
    frame = altered_frame(session.request_frame(lookup, ids(1)), 176, one)
    assert session.session > 1
    assert evicted(frame, session) == "SESSION_TOO_LOW"

    newer = Session(release=0x1200, client=session.client)
    newer.session = session.session
    newer.number = session.number
    assert evicted(newer.request_frame(lookup, ids(1)), newer) == "SESSION_RELEASE_MISMATCH"

    high = Session(release=0xFFFF_0000).register(peer)
    assert len(high.ask(peer, lookup, ids(1))) == 0
    # None of it cost the session anything.
    session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(1, 2))
    made = session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1, 1))
    assert made["status"].tolist() == [CREATED]
    peer.close()
