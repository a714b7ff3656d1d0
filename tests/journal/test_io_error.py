"""The disk fails, or is full, while payments are on their way.

After an error of the journal nothing is acknowledged any more: a server ends with the exit code for
it, a host process lives on with a ledger that has stopped. A full disk is no error: what would
create is not taken until there is space again, and everything else goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from chaos import shim
from chaos.process import SERVE, Server
from chaos.small_disk import CREATES_WAIT, NOTHING_STARTS, SmallDisk
from ledger.facts import schema
from ledger.facts.errors import OutcomeUnknown
from ledger.facts.limits import Exit
from ledger.facts.schema import Operation
from tests.support.bank import Bank
from tests.support.raw import Peer, Session, command_of, opened, posted, transfers, with_accounts
from tests.support.watched import Watched

Start = Callable[..., Server]
LOOKUP, TRANSFERS = Operation.LOOKUP_ACCOUNTS, Operation.CREATE_TRANSFERS


# ---- errors -------------------------------------------------------------------------------------

FAULTS = [
    *(f"any {nth} {action}" for action in ("eio", "enospc", "short") for nth in (1, 2, 3, 8)),
    *(f"sync {nth} eio" for nth in (1, 2, 7)),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_acknowledged_after_an_error(server: Start, tmp_path: Path, fault: str) -> None:
    watched = Watched(server, tmp_path)
    bank = Bank(watched.server, 3)
    bank.work_until(lambda: watched.fault(fault))
    assert watched.server.wait() == Exit.IO_ERROR
    assert "the ledger has stopped" in watched.server.wait_line("stopped")
    lasts, _ = watched.durable_by_position()
    assert max(teller.position for teller in bank.tellers) <= lasts[-1]
    watched.fault("")
    watched.server.restart()
    bank.check()
    watched.server.terminate()
    bank.check_offline()


def test_an_error_of_the_head_stamp_stops_too(server: Start, tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.touch()
    book = tmp_path / "book"
    env = shim.environment(book / "state", control=control)
    bank = Bank(server(book, env=env), 4)
    shim.switch(control, "any 1 eio")
    assert bank.server.terminate() == Exit.OK, "all was durable, only the stamp is older"
    assert "the head stamp was not written" in bank.server.wait_line("stamp")
    shim.switch(control)
    bank.server.restart()
    bank.check()


IN_PROCESS = """
import asyncio, sys, threading
from pathlib import Path
import ledger

control, book_path, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
accounts = [ledger.Account(id=id, ledger=1, code=1) for id in (1, 2)]
pay = lambda: [ledger.Transfer(id=ledger.id(), debit_account_id=1, credit_account_id=2, amount=1,
                               ledger=1, code=1)]
stopped = []

def calls(book):
    filter = ledger.AccountFilter(account_id=1, limit=1, flags=1)
    return [lambda: book.create_transfers(pay()), lambda: book.create_accounts(accounts),
            lambda: book.lookup_accounts([1]), lambda: book.get_account_transfers(filter),
            lambda: book.create_many(pay()), book.state_hash]

def threads():
    book = ledger.open(book_path)
    book.create_accounts(accounts)
    def work():
        try:
            while True:
                book.create_transfers(pay())
        except ledger.LedgerStopped as error:
            stopped.append(error)
    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers: worker.start()
    control.write_text("any 5 eio")
    for worker in workers: worker.join()
    for call in calls(book):
        try:
            call()
        except ledger.LedgerStopped as error:
            stopped.append(error)
    book.close()

async def tasks():
    async with ledger.open_async(book_path) as book:
        await book.create_accounts(accounts)
        async def work():
            while True:
                await book.create_transfers(pay())
        waiting = [asyncio.ensure_future(work()) for _ in range(8)]
        await asyncio.sleep(0)
        control.write_text("sync 1 eio")
        stopped.extend(await asyncio.gather(*waiting, return_exceptions=True))
        more = (call() for call in calls(book))
        stopped.extend(await asyncio.gather(*more, return_exceptions=True))

threads() if how == "threads" else asyncio.run(tasks())
assert [type(error) for error in stopped] == [ledger.LedgerStopped] * 14, stopped
control.write_text("")
with ledger.open(book_path) as book:
    assert book.create_transfers(pay())["status"][0] == ledger.TransferStatus.CREATED
print("the host lives")
"""


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_a_host_outlives_its_ledger(tmp_path: Path, how: str) -> None:
    control, book = tmp_path / "control", tmp_path / "book"
    control.touch()
    env = shim.environment(book / "journal", control=control)
    run = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, control, book, how],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "the host lives\n"), run.stderr


# ---- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path)
    yield made
    made.end()


def test_while_the_disk_is_full_only_what_creates_waits(server: Start, disk: SmallDisk) -> None:
    """A new client reads, and one whose payment was given up reads on with a new session."""
    running = server(disk.directory / "book", env=disk.env)
    peer, session = with_accounts(running.address)
    disk.fill()
    peer.send(session.request_frame(TRANSFERS, transfers(1, 1).tobytes()))
    peer.send(session.codec.encode_ping(session.client, session.session, 9))
    assert command_of(peer.frame()) == schema.Command.PONG_CLIENT
    other, reader = opened(running.address)
    assert posted(other, reader) == 0
    with ledger.Client(running.address) as client:
        with pytest.raises(OutcomeUnknown):
            client.create_transfers(transfers(2, 1), timeout=0.2)
        assert client.lookup_accounts([1])["debits_posted"][:, 0].tolist() == [0]
    assert "bytes left" in running.wait_line("what would create is not taken")
    disk.free()
    results = session.results(session.resend(peer))  # as clients do by themselves
    assert results["status"].tolist() == [schema.TransferStatus.CREATED]
    assert posted(other, reader) == 1
    running.wait_line("there is space again")
    assert running.terminate() == Exit.OK
    assert len([line for line in running.log if "is not taken" in line]) == 1
    peer.close()
    other.close()


def test_with_half_of_the_reserve_nothing_is_written_and_who_is_there_reads(
    server: Start, disk: SmallDisk
) -> None:
    running = server(disk.directory / "book", env=disk.env)
    peer, session = with_accounts(running.address)
    disk.fill(NOTHING_STARTS)
    with Peer(running.address) as late:
        register = Session()
        late.send(register.register_frame())
        late.send(session.codec.encode_ping(session.client, session.session, 9))
        assert command_of(late.frame()) == schema.Command.PONG_CLIENT, "and no reply before"
        assert posted(peer, session) == 0
        disk.free()
        late.send(register.request)
        assert register.read(late.frame())["verdict"] == schema.Verdict.REPLY
    assert running.terminate() == Exit.OK
    peer.close()


def test_a_disk_that_fills_up_under_load(server: Start, disk: SmallDisk) -> None:
    """Whether the reserve is left or nothing at all: what was acknowledged is there."""
    for left in (CREATES_WAIT, NOTHING_STARTS, 0):
        running = server(disk.directory / f"book-{left}", env=disk.env)
        bank = Bank(running, 5)
        bank.work_until(lambda left=left, running=running: (disk.fill(left), running.terminate()))
        disk.free()
        running.restart()
        bank.check()
        assert running.terminate() == Exit.OK
        bank.check_offline()


def test_a_start_on_a_full_disk_serves_readers(server: Start, disk: SmallDisk) -> None:
    book = disk.directory / "book"
    running = server(book, env=disk.env)
    peer, _ = with_accounts(running.address)
    peer.close()
    running.terminate()
    disk.fill()
    running.restart()
    reads, reader = opened(running.address)
    assert posted(reads, reader) == 0
    reads.close()
    assert running.terminate() == Exit.OK
    host = embedded(book, disk)
    assert "DiskFull" in host and "1 account" in host
    disk.free()


def test_a_start_needs_half_of_the_reserve_served_or_embedded(
    server: Start, disk: SmallDisk
) -> None:
    book = disk.directory / "book"
    running = server(book, env=disk.env)
    running.terminate()
    disk.fill(NOTHING_STARTS)
    running.begin()
    assert running.wait() == Exit.IO_ERROR
    assert f"{book}: " in running.log[-1] and "are needed to start" in running.log[-1]
    assert "open: DiskFull" in embedded(book, disk)
    disk.free()
    running.restart()
    assert running.terminate() == Exit.OK


HOST = """
import sys, ledger
try:
    book = ledger.open(sys.argv[1])
except ledger.DiskFull as error:
    print("open: DiskFull:", error)
    sys.exit()
print(len(book.lookup_accounts([1])), "account")
try:
    book.create_accounts([ledger.Account(id=9, ledger=1, code=1)])
except ledger.DiskFull as error:
    print("DiskFull:", error)
book.close()
"""


def embedded(book: Path, disk: SmallDisk) -> str:
    """What a host prints that opens the book, reads, and creates."""
    run = subprocess.run(
        [sys.executable, "-c", HOST, book],
        env=dict(os.environ) | disk.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_book_is_not_made_on_a_full_disk(disk: SmallDisk) -> None:
    """Nor is anything left behind."""
    book = disk.directory / "book"
    env = shim.environment(disk.directory, "" if disk.is_real else "any 1 enospc")
    disk.fill(left=0)
    run = subprocess.run(
        [*SERVE, book, "--address", "127.0.0.1:0"],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == Exit.IO_ERROR
    assert f"cannot create {book}" in run.stderr and run.stderr.count("\n") == 1
    assert [path.name for path in disk.directory.iterdir() if path.name != "ballast"] == []
