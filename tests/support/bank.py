"""Tellers at work: sessions that pay, hold, resolve and are refused while a server is broken.

Each teller's session outlives every server. It keeps what it was told, and after a restart
everything that was ever acknowledged must be there, once, with the result that was acknowledged,
and what a request did not finish must not be there in part. How the server is broken is the test's.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chaos.process import Server
from ledger.audit.verify import verify
from ledger.engine import assembly, recovery
from ledger.facts import schema
from ledger.facts.schema import AccountFlags, Operation, TransferFlags, TransferStatus
from ledger.journal.journal import Journal
from tests.support.raw import Closed, Peer, Rows, Session, accounts, ids, transfers

CREATED, EXISTS = int(TransferStatus.CREATED), int(TransferStatus.EXISTS)
BURNED = {int(status) for status in schema.TRANSIENT}
LINKED, PENDING = int(TransferFlags.LINKED), int(TransferFlags.PENDING)
POST, VOID = int(TransferFlags.POST_PENDING_TRANSFER), int(TransferFlags.VOID_PENDING_TRANSFER)
TELLERS = 6
MONEY = 10**6
LIMITED = 5  # an account that has nothing and may owe nothing
NOBODY = 999  # an account that is not there


def amounts(rows: Rows) -> list[int]:
    return [int(low) | int(high) << 64 for low, high in rows["amount"]]


class Teller:
    """One session, what it asked, and what it was told."""

    def __init__(self, number: int, refused_only: bool) -> None:
        self.session = Session()
        self.chance = random.Random(number)
        self.refused_only = refused_only
        self.next_id = (number + 1) << 32
        self.holds: list[int] = []
        self.sent: Rows = transfers(0, 0)
        self.told: dict[int, tuple[np.void, int, int]] = {}  # id: (event, timestamp, status)
        self.position = 0  # highest that a reply saw

    # ---- asking ---------------------------------------------------------------------------------

    def events(self) -> Rows:
        """The next request: up to twenty events of every kind, or some that must all fail."""
        rows = transfers(self.next_id, self.chance.choice((1, 1, 1, 3, 20)), 1, 2, MONEY)
        self.next_id += len(rows)
        for row in rows:
            kind = self.chance.random()
            if self.refused_only or kind < 0.15:
                self._spoil(row)
            elif kind < 0.35:
                row["flags"] = PENDING
                self.holds.append(schema.int_of(row["id"]))
            elif kind < 0.5 and self.holds:
                hold = self.holds.pop(self.chance.randrange(len(self.holds)))
                row["pending_id"] = schema.u128(hold)
                row["flags"] = self.chance.choice((POST, VOID))
                row["amount"][0] = MONEY // 2 if row["flags"] == POST else 0
            if self.chance.random() < 0.3:
                row["flags"] |= LINKED
        rows["flags"][-1] &= ~np.uint16(LINKED)
        return rows

    def _spoil(self, row: np.void) -> None:
        spoiled = self.chance.randrange(4)
        if spoiled == 0:
            row["debit_account_id"][0] = NOBODY  # burns the id
        elif spoiled == 1:
            row["debit_account_id"][0] = LIMITED  # burns it too
        elif spoiled == 2:
            row["code"] = 0
        else:
            row["credit_account_id"] = row["debit_account_id"]

    def work(self, address: str) -> None:
        """Ask until the server is gone."""
        try:
            with Peer(address) as peer:
                while True:
                    self.ask(peer, self.events())
        except Closed:
            pass

    def ask(self, peer: Peer, rows: Rows) -> None:
        self.sent = rows
        peer.send(self.session.request_frame(Operation.CREATE_TRANSFERS, rows.tobytes()))
        self._hear(peer.frame())

    def _hear(self, frame: bytes) -> None:
        results = self.session.results(frame)
        assert len(results) == len(self.sent)
        self.position = int.from_bytes(frame[208:216], "little")
        for row, result in zip(self.sent, results, strict=True):
            self.told[schema.int_of(row["id"])] = (
                row, int(result["timestamp"]), int(result["status"])
            )  # fmt: skip

    # ---- after a restart ------------------------------------------------------------------------

    def resend(self, peer: Peer) -> None:
        """The last request again: its original reply if there was one, else its first."""
        answered = self.session.reply[128:144] == self.session.request[:16]
        original = self.session.reply
        again = self.session.resend(peer)
        if answered:
            assert again == original, "another reply than the original one"
        else:
            self._hear(again)
        assert self.session.resend(peer) == again

    def of(self, *statuses: int) -> list[int]:
        return [id for id, (_, _, status) in self.told.items() if status in statuses]

    def check_records(self, peer: Peer, auditor: Session) -> None:
        """Each payment that was told created is there as it was told, and no other is."""
        wanted = list(self.told)
        for at in range(0, len(wanted), 8189):
            part = wanted[at : at + 8189]
            found = {
                schema.int_of(row["id"]): row
                for row in auditor.ask(peer, Operation.LOOKUP_TRANSFERS, ids(*part))
            }
            for id in part:
                event, timestamp, status = self.told[id]
                assert (id in found) == (status == CREATED), f"{id} was told {status}"
                if id in found:
                    assert found[id]["timestamp"] == timestamp
                    assert found[id]["flags"] == event["flags"]

    def check_again(self, peer: Peer, auditor: Session, most: int) -> None:
        """Created once more they exist with their own time; burned ids stay burned."""
        for statuses, expected in (((CREATED,), EXISTS), (tuple(BURNED), 68)):
            some = self.of(*statuses)
            some = self.chance.sample(some, min(most, len(some)))
            if not some:
                continue
            rows = np.array([self.told[id][0] for id in some], schema.TRANSFER)
            if expected != EXISTS:
                rows["flags"] &= ~np.uint16(LINKED)
            # One a batch: so an open chain of one does not matter, nor what failed beside it.
            results = auditor.ask(peer, Operation.CREATE_TRANSFERS, rows, [1] * len(rows))
            for id, row, result in zip(some, rows, results, strict=True):
                if row["flags"] & LINKED:
                    continue
                assert result["status"] == expected, f"{id} was told {self.told[id][2]}"
                if expected == EXISTS:
                    assert result["timestamp"] == self.told[id][1]


def expected_balances(tellers: list[Teller]) -> tuple[int, int]:
    """What account 1 must have pending and posted, from what was told alone."""
    pending = posted = 0
    for teller in tellers:
        for event, _, status in teller.told.values():
            amount = schema.int_of(event["amount"])
            if status != CREATED:
                continue
            if event["flags"] & PENDING:
                pending += amount
            elif event["flags"] & (POST | VOID):
                pending -= MONEY
                posted += amount
            else:
                posted += amount
    return pending, posted


class Bank:
    """A directory, its server, and those who work with it."""

    def __init__(self, server: Server, seed: int, refused_only: bool = False) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.refused_only = refused_only
        self.tellers = [Teller(100 * seed + number, refused_only) for number in range(TELLERS)]
        self.auditor = Session()
        with Peer(self.server.address) as peer:
            self.auditor.register(peer)
            made = accounts(1, 4)
            self.auditor.ask(peer, Operation.CREATE_ACCOUNTS, made)
            limited = accounts(LIMITED, 1, flags=AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
            self.auditor.ask(peer, Operation.CREATE_ACCOUNTS, limited)
            for teller in self.tellers:
                teller.session.register(peer)

    def work_until(self, over: Callable[[], object]) -> None:
        """All tellers work until the server is gone, which `over` sees to."""
        failures: list[BaseException] = []

        def work(teller: Teller) -> None:
            try:
                teller.work(self.server.address)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(teller,)) for teller in self.tellers]
        for thread in threads:
            thread.start()
        over()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def kill_at_some_moment(self) -> None:
        threading.Event().wait(self.chance.uniform(0.0, 0.15))
        assert self.server.kill() == -9

    def check(self, most: int = 50) -> None:
        with Peer(self.server.address) as peer:
            for teller in self.tellers:
                if teller.session.number:
                    teller.resend(peer)
            for teller in self.tellers:
                teller.check_records(peer, self.auditor)
                teller.check_again(peer, self.auditor, most)
            [one] = self.auditor.ask(peer, Operation.LOOKUP_ACCOUNTS, ids(1))
            found = schema.int_of(one["debits_pending"]), schema.int_of(one["debits_posted"])
            assert found == expected_balances(self.tellers)

    def check_offline(self) -> None:
        """The books verify, and replay ends in one state however often it is done."""
        directory = self.server.directory
        assert verify(directory).clean
        assert state_hash(directory) == state_hash(directory)


def state_hash(directory: Path) -> bytes:
    """Each time with another hash key: the state must not depend on it."""
    core, _ = assembly.new_core()
    with Journal.open(directory, readonly=True) as journal:
        recovery.replay(journal, core)
    return core.state_hash()
