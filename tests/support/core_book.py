"""Test tool: a bare core asked in the domain's words: events in, names of statuses out.

What lives here: a book over one core, without journal or engine, and short ways to write events in
the record shapes of the oracle, which were typed from the protocol alone. It knows nothing of what
statuses should be; check() knows what must hold at any time: debits equal credits in every ledger,
and a second core that goes through the same groups ends in the same state.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from chaos.core_driver import Driver
from chaos.model import (
    NS_PER_S,
    U128_MAX,
    Account,
    AccountBalance,
    AccountFilter,
    AccountFlag,
    Operation,
    QueryFilter,
    Result,
    Transfer,
    TransferFlag,
    decode_all,
    encode,
)
from ledger.facts import schema

A, F = AccountFlag, TransferFlag
NOW = 1_000 * NS_PER_S
CREATED = "created"
FAILED = "linked_event_failed"
OPEN = "linked_event_chain_open"


def account(id: int, **fields: int) -> Account:
    return Account(**{"id": id, "ledger": 1, "code": 1} | fields)


def pay(id: int, **fields: int) -> Transfer:
    common = {"debit_account_id": 1, "credit_account_id": 2, "amount": 10, "ledger": 1, "code": 1}
    return Transfer(**{"id": id} | common | fields)


def hold(id: int, **fields: int) -> Transfer:
    return pay(id, **{"flags": F.pending} | fields)


def post(id: int, pending_id: int, amount: int = U128_MAX, **fields: int) -> Transfer:
    flags = F.post_pending | fields.pop("flags", 0)
    return Transfer(id=id, pending_id=pending_id, amount=amount, flags=flags, **fields)


def void(id: int, pending_id: int, amount: int = 0, **fields: int) -> Transfer:
    flags = F.void_pending | fields.pop("flags", 0)
    return Transfer(id=id, pending_id=pending_id, amount=amount, flags=flags, **fields)


def linked(event: Any) -> Any:
    return event._replace(flags=event.flags | 1)


def imported(event: Any, timestamp: int) -> Any:
    flag = A.imported if isinstance(event, Account) else F.imported
    return event._replace(flags=event.flags | flag, timestamp=timestamp)


class Book:
    """A core with accounts 1 to 4 in ledger 1 and account 9 in ledger 2.

    `flags` are those of some of them, by id. `now` is what the clock says.
    """

    def __init__(self, flags: dict[int, int] | None = None) -> None:
        self.driver = Driver()
        self.core = self.driver.core
        self.now = NOW
        self.timestamp = 0  # of the last reply
        self.results: list[Result] = []
        flags = flags or {}
        accounts = [account(n, flags=flags.get(n, 0)) for n in (1, 2, 3, 4)]
        assert self.accounts(*accounts, account(9, ledger=2)) == [CREATED] * 5

    # ---- asking ---------------------------------------------------------------------------------

    def execute(self, operation: Operation, *batches: list[Any]) -> list[bytes]:
        encoded = [b"".join(map(encode, batch)) for batch in batches]
        self.timestamp, replies = self.driver.execute(operation, encoded, self.now)
        return replies

    def accounts(self, *events: Account) -> list[str]:
        [reply] = self.execute(Operation.create_accounts, list(events))
        self.results = decode_all(Result, reply)
        return [schema.AccountStatus(result.status).name.lower() for result in self.results]

    def batches(self, *batches: list[Transfer]) -> list[list[str]]:
        """Several batches of transfers in one request."""
        encoded = self.execute(Operation.create_transfers, *batches)
        replies = [decode_all(Result, reply) for reply in encoded]
        self.results = [result for reply in replies for result in reply]
        names = schema.TransferStatus
        return [[names(result.status).name.lower() for result in reply] for reply in replies]

    def transfers(self, *events: Transfer) -> list[str]:
        return self.batches(list(events))[0]

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * NS_PER_S)

    def fund(self, id: int, amount: int) -> None:
        """Credit the account; the transfer's id is out of the way of others."""
        source = 4 if id != 4 else 3
        transfer = pay(10**6 + id, debit_account_id=source, credit_account_id=id, amount=amount)
        assert self.transfers(transfer) == [CREATED]

    def burned(self, id: int) -> bool:
        """Whether the id is burned; asked with an event that can do nothing."""
        return self.transfers(Transfer(id=id)) == ["id_already_failed"]

    # ---- reading --------------------------------------------------------------------------------

    def read(self, operation: Operation, kind: Any, request: Any) -> list[Any]:
        if isinstance(request, int):
            request = [request]
        if isinstance(request, list):
            encoded = b"".join(id.to_bytes(16, "little") for id in request)
        else:
            encoded = encode(request)
        return decode_all(kind, self.driver.execute(operation, [encoded], self.now)[1][0])

    def account(self, id: int) -> Account:
        [found] = self.read(Operation.lookup_accounts, Account, id)
        return found

    def transfer(self, id: int) -> Transfer | None:
        found = self.read(Operation.lookup_transfers, Transfer, id)
        return found[0] if found else None

    def balances(self, id: int) -> tuple[int, ...]:
        """Debits pending and posted, credits pending and posted."""
        return tuple(self.account(id)[1:5])

    def closed(self, id: int) -> bool:
        return bool(self.account(id).flags & A.closed)

    def transfers_of(self, id: int, **fields: int) -> list[Transfer]:
        f = AccountFilter(**{"account_id": id, "limit": 8189, "flags": 3} | fields)
        return self.read(Operation.get_account_transfers, Transfer, f)

    def balances_of(self, id: int, **fields: int) -> list[AccountBalance]:
        f = AccountFilter(**{"account_id": id, "limit": 8189, "flags": 3} | fields)
        return self.read(Operation.get_account_balances, AccountBalance, f)

    def query(self, operation: Operation, **fields: int) -> list[Any]:
        kind = Account if operation == Operation.query_accounts else Transfer
        return self.read(operation, kind, QueryFilter(**{"limit": 8189} | fields))

    # ---- what must hold -------------------------------------------------------------------------

    def picture(self) -> tuple[Any, ...]:
        """Everything but clock and position, once what is due has expired: what a rollback must
        bring back."""
        postings = {id: self.transfers_of(id) for id in (1, 2, 3, 4, 9)}
        counts = dict(self.core.counts_by_kind)
        del counts["burned_ids"]
        holds = [tuple(row) for row in self.core.open_holds().tolist()]
        return self.core.accounts(), holds, counts, postings, self.core.next_expiry_ns

    def check(self) -> None:
        sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        for stored in decode_all(Account, self.core.accounts()):
            sums[stored.ledger][0] += stored.debits_pending - stored.credits_pending
            sums[stored.ledger][1] += stored.debits_posted - stored.credits_posted
        assert all(both == [0, 0] for both in sums.values()), "debits equal credits"
        live = self.core.state_hash()
        replayed = self.driver.replayed()
        assert replayed.core.state_hash() == live, "replay-equal"
        assert replayed.core.counts_by_kind == self.core.counts_by_kind
        assert np.array_equal(replayed.core.open_holds(), self.core.open_holds())


ORDER = [status.name.lower() for status in schema.TransferStatus]


def broken(event, *changes):
    """The event with all the changes made; None when two of them want one field otherwise."""
    fields: dict[str, int] = {}
    for change in changes:
        for name, value in change.items():
            if name == "flags":
                flags = event.flags & ~-value if value < 0 else event.flags | value
                event = event._replace(flags=flags)
            elif fields.setdefault(name, value) != value:
                return None
    return event._replace(**fields)
