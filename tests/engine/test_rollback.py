"""Clients that outlive a rollback: the journal under them was put back from an earlier copy.

A client that was answered by what the copy does not hold must be told, always, and a client that
saw nothing of it must never be: not by restarts, kills, resends, reads or evictions of others. The
servers are real processes, the clients the official one, ours, and a peer by hand.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import tigerbeetle as tb

import ledger
from chaos.process import Server
from ledger.commands.cli import main
from ledger.facts.schema import EvictionReason, Operation
from tests.support.raw import Peer, ids, opened, posted, transfers, with_accounts

Start = Callable[..., Server]
Test = Callable[..., None]
CREATED = tb.CreateTransferStatus.CREATED
NO_SESSION = EvictionReason.NO_SESSION
RESTARTS = int(os.environ.get("ROLLBACK_RESTARTS", "4"))
SEED = int(os.environ.get("ROLLBACK_SEED", "13"))


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Test:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def official_account(id: int) -> tb.Account:
    return tb.Account(
        id=id, debits_pending=0, debits_posted=0, credits_pending=0, credits_posted=0,
        user_data_128=0, user_data_64=0, user_data_32=0, ledger=1, code=1,
        flags=tb.AccountFlags.NONE, timestamp=0,
    )  # fmt: skip


def pay(client: tb.ClientSync, amount: int) -> None:
    transfer = tb.Transfer(
        id=tb.id(), debit_account_id=1, credit_account_id=2, amount=amount, pending_id=0,
        user_data_128=0, user_data_64=0, user_data_32=0, timeout=0, ledger=1, code=1,
        flags=tb.TransferFlags.NONE, timestamp=0,
    )  # fmt: skip
    [result] = client.create_transfers([transfer])
    assert result.status == CREATED


def copied(running: Server, place: Path, *, whole: bool = True) -> Path:
    """A copy of the directory, or of the journal alone, of a server that has ended."""
    copy = place / "copy"
    shutil.copytree(running.directory if whole else running.directory / "journal", copy)
    return copy


def put_back(running: Server, copy: Path, *, whole: bool = True) -> None:
    target = running.directory if whole else running.directory / "journal"
    shutil.rmtree(target)
    shutil.copytree(copy, target)
    if not whole:
        with pytest.raises(SystemExit, match="0"):
            main(["rebuild", str(running.directory), "--trust-journal"])


def ended(running: Server, how: str) -> None:
    assert getattr(running, how)() == (0 if how == "terminate" else -9)


# ---- the official client ------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "journal"])
def test_the_official_client_is_evicted(server: Start, tmp_path: Path, whole: bool) -> None:
    running, how = server(), "kill" if whole else "terminate"
    with tb.ClientSync(0, running.address) as client:
        client.create_accounts([official_account(1), official_account(2)])
        pay(client, 100)
        ended(running, how)
        copy = copied(running, tmp_path, whole=whole)
        running.restart()
        pay(client, 200)
        ended(running, how)
        put_back(running, copy, whole=whole)
        running.restart()
        with pytest.raises(tb.ClientEvictedError):
            pay(client, 300)
    assert "no_session" in running.wait_line("evicted")
    with tb.ClientSync(0, running.address) as fresh:
        pay(fresh, 50)
        [account] = fresh.lookup_accounts([1])
        assert account.debits_posted == 150


def test_a_read_is_enough_to_have_seen_the_future(server: Start, tmp_path: Path) -> None:
    """A client that only read what was lost, and only reads again, is told too."""
    running = server()
    peer, session = with_accounts(running.address)
    with tb.ClientSync(0, running.address) as reader:
        assert len(reader.lookup_accounts([1])) == 1
        ended(running, "kill")
        copy = copied(running, tmp_path)
        running.restart()
        with Peer(running.address) as again:
            session.ask(again, Operation.CREATE_TRANSFERS, transfers(1, 1, amount=7))
        [account] = reader.lookup_accounts([1])
        assert account.debits_posted == 7
        ended(running, "kill")
        put_back(running, copy)
        running.restart()
        with pytest.raises(tb.ClientEvictedError):
            reader.lookup_accounts([1])
    peer.close()


def test_official_clients_are_never_evicted_by_restarts(server: Start) -> None:
    """Restarts and kills with payments and reads in between; then one rollback."""
    rng = random.Random(SEED)
    running = server()
    paid = 0
    with tb.ClientSync(0, running.address) as one, tb.ClientSync(0, running.address) as other:
        one.create_accounts([official_account(1), official_account(2)])
        for _ in range(RESTARTS):
            for _ in range(rng.randrange(1, 6)):
                client = rng.choice([one, other])
                if rng.random() < 0.5:
                    pay(client, 1)
                    paid += 1
                else:
                    [account] = client.lookup_accounts([1])
                    assert account.debits_posted == paid
            ended(running, rng.choice(["terminate", "kill"]))
            running.restart()
        assert [len(client.lookup_accounts([1, 2])) for client in (one, other)] == [2, 2]
    assert not [line for line in running.log if "evicted" in line]


# ---- a client by hand ---------------------------------------------------------------------------


def test_who_saw_nothing_of_it_goes_on(server: Start, tmp_path: Path) -> None:
    """Beside a client that is evicted, one whose last answer the copy holds is served."""
    running = server()
    peer, session = with_accounts(running.address)
    quiet_peer, quiet = opened(running.address)
    assert posted(quiet_peer, quiet) == 0
    for one in (peer, quiet_peer):
        one.close()
    ended(running, "kill")
    copy = copied(running, tmp_path)
    running.restart()
    with Peer(running.address) as again:
        session.ask(again, Operation.CREATE_TRANSFERS, transfers(1, 1))
        newcomer_peer, newcomer = opened(running.address)
    ended(running, "kill")
    newcomer_peer.close()
    put_back(running, copy)
    running.restart()
    with Peer(running.address) as again:
        made = quiet.ask(again, Operation.CREATE_TRANSFERS, transfers(1, 1))
        assert made["status"].tolist() == [CREATED]
        # Positions have been passed again by now: it is the start that tells.
        for lost in (session, newcomer):
            frame = lost.request_frame(Operation.CREATE_TRANSFERS, transfers(2, 1).tobytes())
            assert lost.reason(again, frame) == NO_SESSION
            assert lost.reason(again, frame) == NO_SESSION, "as often as it asks"
        assert posted(again, quiet) == 1
    assert len([line for line in running.log if "evicted" in line]) == 4


def test_a_copy_of_a_living_start_put_back_under_the_next(server: Start, tmp_path: Path) -> None:
    """The start is known, but it ended earlier than the client's last answer."""
    running = server()
    peer, session = with_accounts(running.address)
    ended(running, "kill")
    peer.close()
    running.restart()
    with Peer(running.address) as again:
        session.ask(again, Operation.CREATE_TRANSFERS, transfers(1, 1))
        copy = copied(running, tmp_path)  # nothing is under way: the copy is whole
        session.ask(again, Operation.CREATE_TRANSFERS, transfers(2, 1))
        ended(running, "kill")
    put_back(running, copy)
    running.restart()
    with Peer(running.address) as again:
        fresh_peer, fresh = opened(running.address)
        for id in range(10, 20):
            fresh.ask(fresh_peer, Operation.CREATE_TRANSFERS, transfers(id, 1))
        fresh_peer.close()
        frame = session.request_frame(Operation.LOOKUP_ACCOUNTS, ids(1))
        assert session.reason(again, frame) == NO_SESSION


def test_original_replies_are_the_same_bytes_in_every_start(server: Start) -> None:
    """Also the context, which names the start that answered first; and it is a good parent."""
    running = server()
    peer, session = with_accounts(running.address)
    registered, _ = opened(running.address)
    registered.close()
    session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1, 3))
    original, contexts = session.reply, set()
    peer.close()
    for how in ("kill", "terminate", "kill"):
        ended(running, how)
        running.restart()
        with Peer(running.address) as again:
            assert session.resend(again) == original
            reader_peer, reader = opened(running.address)
            with reader_peer:
                first = reader.reply
                reader_peer.send(reader.codec.encode_register(reader.client))
                assert reader_peer.frame() == first
                contexts.add(reader.parent >> 64)
    assert len(contexts) == 3, "each start has an identity of its own"
    with Peer(running.address) as again:
        assert posted(again, session) == 3


def test_a_client_that_names_no_parent_is_served(server: Start) -> None:
    """Of one that keeps nothing of a reply nothing can be told."""
    running = server()
    peer, session = with_accounts(running.address)
    ended(running, "kill")
    peer.close()
    running.restart()
    session.parent = 0
    with Peer(running.address) as again:
        assert posted(again, session) == 0


# ---- our own client -----------------------------------------------------------------------------


@in_a_loop
async def test_our_client_is_evicted_too(server: Start, tmp_path: Path) -> None:
    running = server()
    with_accounts(running.address)[0].close()
    async with ledger.AsyncClient(running.address, sessions=1) as client:
        await client.lookup_accounts([1])
        ended(running, "kill")
        copy = copied(running, tmp_path)
        running.restart()
        await client.create_transfers(transfers(1, 1))
        ended(running, "kill")
        put_back(running, copy)
        running.restart()
        for _ in range(2):
            with pytest.raises(ledger.SessionEvicted, match="no_session"):
                await client.create_transfers(transfers(2, 1))


@pytest.mark.parametrize("registers", [True, False])
@in_a_loop
async def test_our_client_notices_what_another_of_its_sessions_saw(
    server: Start, tmp_path: Path, registers: bool
) -> None:
    """The server has no reason to evict a session that saw nothing: the client knows better."""
    running = server()
    with_accounts(running.address)[0].close()
    async with ledger.AsyncClient(running.address, sessions=2) as client:
        together = 1 if registers else 2
        await asyncio.gather(*[client.lookup_accounts([1]) for _ in range(together)])
        ended(running, "kill")
        copy = copied(running, tmp_path)
        running.restart()
        for number in range(1, 9):
            await client.create_transfers(transfers(number, 1))
        seen = client.position
        ended(running, "kill")
        put_back(running, copy)
        running.restart()
        if registers:
            client._link._free.clear()  # as if it were at work: another session is opened
        else:
            client._link._free.reverse()
        for _ in range(2):
            with pytest.raises(ledger.HistoryLost, match="lost history") as caught:
                await client.create_transfers(transfers(20, 1))
            assert caught.value.seen == seen > caught.value.position > 0


@in_a_loop
async def test_replies_that_cross_are_no_lost_history(server: Start) -> None:
    """What is asked at the same time is answered at any positions."""
    running = server()
    with_accounts(running.address)[0].close()
    async with ledger.AsyncClient(running.address, sessions=8) as client:
        for _ in range(20):
            await asyncio.gather(*[
                client.create_transfers([ledger.Transfer(
                    id=ledger.id(), debit_account_id=1, credit_account_id=2, amount=1, ledger=1,
                    code=1,
                )]) if number % 2 else client.lookup_accounts([1])
                for number in range(16)
            ])  # fmt: skip
