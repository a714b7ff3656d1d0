"""The oracle: a double-entry ledger in the plainest Python that is right.

What lives here: the operations, records, statuses and rules of the ledger, typed from the protocol
specification and executed one event at a time over dictionaries of immutable records, slowly.

What it must not know: the package it judges. It imports nothing of it and shares no code, table or
constant with it, so a mistake made there is not repeated here. It knows no frames, no checksums, no
sessions, no multi-batch trailer: a request is an operation, a list of batches and a clock reading.
"""

from collections import namedtuple
from copy import copy
from enum import IntEnum
from typing import Any

U128_MAX = 2**128 - 1
TIMESTAMP_MAX = 2**63 - 1
NS_PER_S = 10**9
QUERY_LIMIT_MAX = 8189
EXPIRIES_PER_STEP = 8190


def numbered(name: str, table: str) -> Any:
    words = table.split()
    return IntEnum(name, [(words[n + 1], int(words[n])) for n in range(0, len(words), 2)])


Operation = numbered("Operation", """
    140 lookup_accounts  141 lookup_transfers  142 get_account_transfers  143 get_account_balances
    144 query_accounts  145 query_transfers  146 create_accounts  147 create_transfers
""")

EVENT_BYTES = {140: 16, 141: 16, 142: 128, 143: 128, 144: 64, 145: 64, 146: 128, 147: 128}

AccountFlag = numbered("AccountFlag", """
    1 linked  2 debits_must_not_exceed_credits  4 credits_must_not_exceed_debits  8 history
    16 imported  32 closed
""")
TransferFlag = numbered("TransferFlag", """
    1 linked  2 pending  4 post_pending  8 void_pending  16 balancing_debit  32 balancing_credit
    64 closing_debit  128 closing_credit  256 imported
""")
FilterFlag = numbered("FilterFlag", "1 debits  2 credits  4 reversed")

# In the order of evaluation, not of the numbers: read each line before the next.
AccountStatus = numbered("AccountStatus", """
    4294967295 created  1 linked_event_failed  2 linked_event_chain_open  22 imported_event_expected
    23 imported_event_not_expected  3 timestamp_must_be_zero
    24 imported_event_timestamp_out_of_range  25 imported_event_timestamp_must_not_advance
    4 reserved_field  5 reserved_flag  6 id_must_not_be_zero  7 id_must_not_be_int_max
    15 exists_with_different_flags  16 exists_with_different_user_data_128
    17 exists_with_different_user_data_64  18 exists_with_different_user_data_32
    19 exists_with_different_ledger  20 exists_with_different_code  21 exists
    8 flags_are_mutually_exclusive  9 debits_pending_must_be_zero  10 debits_posted_must_be_zero
    11 credits_pending_must_be_zero  12 credits_posted_must_be_zero  13 ledger_must_not_be_zero
    14 code_must_not_be_zero  26 imported_event_timestamp_must_not_regress
""")

TransferStatus = numbered("TransferStatus", """
    4294967295 created  1 linked_event_failed  2 linked_event_chain_open  56 imported_event_expected
    57 imported_event_not_expected  3 timestamp_must_be_zero
    58 imported_event_timestamp_out_of_range  59 imported_event_timestamp_must_not_advance
    4 reserved_flag  5 id_must_not_be_zero  6 id_must_not_be_int_max  36 exists_with_different_flags
    40 exists_with_different_pending_id  44 exists_with_different_timeout
    37 exists_with_different_debit_account_id  38 exists_with_different_credit_account_id
    39 exists_with_different_amount  41 exists_with_different_user_data_128
    42 exists_with_different_user_data_64  43 exists_with_different_user_data_32
    67 exists_with_different_ledger  45 exists_with_different_code  46 exists  68 id_already_failed
    7 flags_are_mutually_exclusive  8 debit_account_id_must_not_be_zero
    9 debit_account_id_must_not_be_int_max  10 credit_account_id_must_not_be_zero
    11 credit_account_id_must_not_be_int_max  12 accounts_must_be_different
    13 pending_id_must_be_zero  14 pending_id_must_not_be_zero  15 pending_id_must_not_be_int_max
    16 pending_id_must_be_different  17 timeout_reserved_for_pending_transfer
    64 closing_transfer_must_be_pending  19 ledger_must_not_be_zero  20 code_must_not_be_zero
    21 debit_account_not_found  22 credit_account_not_found  23 accounts_must_have_the_same_ledger
    24 transfer_must_have_the_same_ledger_as_accounts  25 pending_transfer_not_found
    26 pending_transfer_not_pending  27 pending_transfer_has_different_debit_account_id
    28 pending_transfer_has_different_credit_account_id  29 pending_transfer_has_different_ledger
    30 pending_transfer_has_different_code  31 exceeds_pending_transfer_amount
    32 pending_transfer_has_different_amount  33 pending_transfer_already_posted
    34 pending_transfer_already_voided  35 pending_transfer_expired
    60 imported_event_timestamp_must_not_regress
    61 imported_event_timestamp_must_postdate_debit_account
    62 imported_event_timestamp_must_postdate_credit_account  63 imported_event_timeout_must_be_zero
    65 debit_account_already_closed  66 credit_account_already_closed  47 overflows_debits_pending
    48 overflows_credits_pending  49 overflows_debits_posted  50 overflows_credits_posted
    51 overflows_debits  52 overflows_credits  53 overflows_timeout  54 exceeds_credits
    55 exceeds_debits
""")

# A transfer refused for a reason that time may cure burns its id, so that a late resend of it can
# never succeed after its sender was told it had failed.
TRANSIENT = frozenset(TransferStatus(n) for n in (21, 22, 25, 54, 55, 65, 66))

Hold = numbered("Hold", "1 pending  2 posted  3 voided  4 expired")


def record(name: str, table: str):
    """An immutable record: each field followed by its width in bytes, none padded."""
    words = table.split()
    kind = namedtuple(name, words[::2], defaults=[0] * len(words[::2]))
    kind.widths = tuple(map(int, words[1::2]))
    return kind


Account = record("Account", """
    id 16  debits_pending 16  debits_posted 16  credits_pending 16  credits_posted 16
    user_data_128 16  user_data_64 8  user_data_32 4
    reserved 4  ledger 4  code 2  flags 2  timestamp 8
""")
Transfer = record("Transfer", """
    id 16  debit_account_id 16  credit_account_id 16  amount 16  pending_id 16
    user_data_128 16  user_data_64 8  user_data_32 4
    timeout 4  ledger 4  code 2  flags 2  timestamp 8
""")
AccountFilter = record("AccountFilter", """
    account_id 16  user_data_128 16  user_data_64 8  user_data_32 4  code 2  reserved 58
    timestamp_min 8  timestamp_max 8  limit 4  flags 4
""")
QueryFilter = record("QueryFilter", """
    user_data_128 16  user_data_64 8  user_data_32 4  ledger 4  code 2  reserved 6
    timestamp_min 8  timestamp_max 8  limit 4  flags 4
""")
AccountBalance = record("AccountBalance", """
    debits_pending 16  debits_posted 16  credits_pending 16  credits_posted 16  timestamp 8  zero 56
""")
Id = record("Id", "id 16")
Result = record("Result", "timestamp 8  status 4  reserved 4")


def encode(fields) -> bytes:
    return b"".join(f.to_bytes(w, "little") for f, w in zip(fields, fields.widths, strict=True))


def decode(kind, data: bytes):
    fields, at = [], 0
    for width in kind.widths:
        fields.append(int.from_bytes(data[at : at + width], "little"))
        at += width
    return kind(*fields)


def decode_all(kind, batch: bytes) -> list:
    size = sum(kind.widths)
    assert len(batch) % size == 0, "a batch is whole records"
    return [decode(kind, batch[at : at + size]) for at in range(0, len(batch), size)]


def first(*rules):
    """The status of the first rule that is broken, or None."""
    return next((status for broken, status in rules if broken), None)


def first_difference(statuses, prefix: str, order: str, a, b):
    """The status of the first field, in that order, in which two records differ, or None."""
    return first(*((getattr(a, n) != getattr(b, n), statuses[prefix + n]) for n in order.split()))


def filled_in(t: Transfer, p: Transfer) -> Transfer:
    """A post or void with what it left open taken from its hold."""
    names = "debit_account_id credit_account_id user_data_128 user_data_64 user_data_32 ledger code"
    # What means "all of it" differs: a post of zero posts zero, a void of zero voids all.
    all_of_it = t.amount == (0 if t.flags & TransferFlag.void_pending else U128_MAX)
    return t._replace(
        amount=p.amount if all_of_it else t.amount,
        **{n: getattr(t, n) or getattr(p, n) for n in names.split()},
    )


def select(stored: list, f, fields: str, flags_known: int) -> list:
    """What both kinds of filter share: `stored` is in the order of timestamps, zero is "any"."""
    timestamp_max = f.timestamp_max or TIMESTAMP_MAX
    in_order = f.timestamp_min <= timestamp_max <= TIMESTAMP_MAX
    if not in_order or f.limit == 0 or f.flags & ~flags_known or f.reserved:
        return []
    selected = [
        r
        for r in stored
        if f.timestamp_min <= r.timestamp <= timestamp_max
        and all(getattr(f, n) in (0, getattr(r, n)) for n in fields.split())
    ]
    reverse = 1 if isinstance(f, QueryFilter) else FilterFlag.reversed
    if f.flags & reverse:
        selected.reverse()
    return selected[: min(f.limit, QUERY_LIMIT_MAX)]


class Model:
    def __init__(self, last: int = 0) -> None:
        # Dictionaries keep the order of creation, which is also the order of timestamps.
        self.accounts: dict[int, Account] = {}
        self.transfers: dict[int, Transfer] = {}
        self.holds: dict[int, Hold] = {}
        self.expiries: dict[int, int] = {}
        # Transfer id -> the debit and the credit account as they were right after that transfer.
        self.history: dict[int, tuple[Account, Account]] = {}
        self.account_timestamp_max = 0
        self.transfer_timestamp_max = 0
        # What follows is outside any chain: a rollback does not touch it.
        self.burned_ids: set[int] = set()
        self.expired: list[tuple[int, int]] = []  # (the expiry's own timestamp, pending id)
        self.last = last

    def execute(self, operation: int, batches: list[bytes], now: int) -> tuple[int, list[bytes]]:
        self._expire_due(now)
        operation = Operation(operation)
        if operation not in (Operation.create_accounts, Operation.create_transfers):
            # A read orders nothing, so it does not advance the clock.
            read = getattr(self, "_" + operation.name)
            return self.last, [b"".join(map(encode, read(batch))) for batch in batches]
        kind = Account if operation == Operation.create_accounts else Transfer
        # Timestamps run on through the batches; each batch ends at one of its own.
        batch_end = max(self.last + 1, now)
        replies = []
        for batch in batches:
            events = decode_all(kind, batch)
            batch_end += len(events)
            results = self._create(kind, events, batch_end)
            replies.append(b"".join(map(encode, results)))
        self.last = batch_end
        return batch_end, replies

    def _expire_due(self, now: int) -> None:
        while True:
            clock = max(self.last, now)
            due = sorted(
                (expires_at, self.transfers[id].timestamp, id)
                for id, expires_at in self.expiries.items()
                if expires_at <= clock
            )[:EXPIRIES_PER_STEP]
            if not due:
                return
            self.last = max(self.last + len(due), now)
            for n, (_, _, id) in enumerate(due):
                self.expired.append((self.last - len(due) + n + 1, id))
                self._release(self.transfers[id], Hold.expired)

    def _create(self, kind, events: list, batch_end: int) -> list[Result]:
        statuses = AccountStatus if kind is Account else TransferStatus
        judge = self._create_account if kind is Account else self._create_transfer
        results: list[Result] = []
        chain = None  # index of the first event of the open chain
        broken = False
        for index, event in enumerate(events):
            timestamp_event = batch_end - len(events) + index + 1
            linked = event.flags & 1
            if linked and chain is None:
                chain, broken, savepoint = index, False, self._savepoint()
            if linked and index == len(events) - 1:
                status = statuses.linked_event_chain_open
            elif broken:
                status = statuses.linked_event_failed
            else:
                status = self._common(kind, events[0], event, batch_end)
                status = status or judge(event, timestamp_event)

            timestamp = timestamp_event
            if status in (statuses.created, statuses.exists):
                stored = self.accounts if kind is Account else self.transfers
                timestamp = stored[event.id].timestamp
            results.append(Result(timestamp, status))

            if chain is not None and not broken and status != statuses.created:
                self._restore(savepoint)
                for n in range(chain, index):
                    results[n] = results[n]._replace(status=statuses.linked_event_failed)
                broken = True
            if kind is Transfer and status in TRANSIENT:
                self.burned_ids.add(event.id)
            if not linked or status == statuses.linked_event_chain_open:
                chain, broken = None, False
        return results

    # All that a chain can change. Records are immutable, so copies of the dictionaries suffice.
    CHAIN_STATE = (
        "accounts", "transfers", "holds", "expiries", "history", "account_timestamp_max",
        "transfer_timestamp_max",
    )

    def _savepoint(self) -> list:
        return [copy(getattr(self, name)) for name in self.CHAIN_STATE]

    def _restore(self, savepoint: list) -> None:
        for name, value in zip(self.CHAIN_STATE, savepoint, strict=True):
            setattr(self, name, value)

    @staticmethod
    def _common(kind, first_event, event, batch_end: int):
        S = AccountStatus if kind is Account else TransferStatus
        flag = AccountFlag.imported if kind is Account else TransferFlag.imported
        imported, expected = bool(event.flags & flag), bool(first_event.flags & flag)
        out_of_range = not 1 <= event.timestamp <= TIMESTAMP_MAX
        return first(
            (imported and not expected, S.imported_event_not_expected),
            (expected and not imported, S.imported_event_expected),
            (imported and out_of_range, S.imported_event_timestamp_out_of_range),
            (imported and event.timestamp >= batch_end,
             S.imported_event_timestamp_must_not_advance),
            (not imported and event.timestamp != 0, S.timestamp_must_be_zero),
        )

    def _create_account(self, a: Account, timestamp_event: int):
        S, F = AccountStatus, AccountFlag
        if status := first(
            (a.reserved != 0, S.reserved_field),
            (a.flags >> 6, S.reserved_flag),
            (a.id == 0, S.id_must_not_be_zero),
            (a.id == U128_MAX, S.id_must_not_be_int_max),
        ):
            return status
        if a.id in self.accounts:
            e = self.accounts[a.id]
            order = "flags user_data_128 user_data_64 user_data_32 ledger code"
            return first_difference(S, "exists_with_different_", order, a, e) or S.exists
        both_limits = F.debits_must_not_exceed_credits | F.credits_must_not_exceed_debits
        imported = bool(a.flags & F.imported)
        timestamp = a.timestamp if imported else timestamp_event
        regresses = imported and (
            timestamp <= self.account_timestamp_max
            or timestamp in (t.timestamp for t in self.transfers.values())
        )
        if status := first(
            (a.flags & both_limits == both_limits, S.flags_are_mutually_exclusive),
            (a.debits_pending != 0, S.debits_pending_must_be_zero),
            (a.debits_posted != 0, S.debits_posted_must_be_zero),
            (a.credits_pending != 0, S.credits_pending_must_be_zero),
            (a.credits_posted != 0, S.credits_posted_must_be_zero),
            (a.ledger == 0, S.ledger_must_not_be_zero),
            (a.code == 0, S.code_must_not_be_zero),
            (regresses, S.imported_event_timestamp_must_not_regress),
        ):
            return status
        self.accounts[a.id] = a._replace(timestamp=timestamp)
        self.account_timestamp_max = timestamp
        return S.created

    def _create_transfer(self, t: Transfer, timestamp_event: int):
        S, F, A = TransferStatus, TransferFlag, AccountFlag
        if status := first(
            (t.flags >> 9, S.reserved_flag),
            (t.id == 0, S.id_must_not_be_zero),
            (t.id == U128_MAX, S.id_must_not_be_int_max),
        ):
            return status
        if t.id in self.transfers:
            return self._transfer_exists(t, self.transfers[t.id])
        if t.id in self.burned_ids:
            return S.id_already_failed
        if t.flags & (F.post_pending | F.void_pending):
            return self._settle(t, timestamp_event)

        pending = bool(t.flags & F.pending)
        closing = bool(t.flags & (F.closing_debit | F.closing_credit))
        dr = self.accounts.get(t.debit_account_id)
        cr = self.accounts.get(t.credit_account_id)
        if status := first(
            (t.debit_account_id == 0, S.debit_account_id_must_not_be_zero),
            (t.debit_account_id == U128_MAX, S.debit_account_id_must_not_be_int_max),
            (t.credit_account_id == 0, S.credit_account_id_must_not_be_zero),
            (t.credit_account_id == U128_MAX, S.credit_account_id_must_not_be_int_max),
            (t.debit_account_id == t.credit_account_id, S.accounts_must_be_different),
            (t.pending_id != 0, S.pending_id_must_be_zero),
            (not pending and t.timeout != 0, S.timeout_reserved_for_pending_transfer),
            (not pending and closing, S.closing_transfer_must_be_pending),
            (t.ledger == 0, S.ledger_must_not_be_zero),
            (t.code == 0, S.code_must_not_be_zero),
            (dr is None, S.debit_account_not_found),
            (cr is None, S.credit_account_not_found),
        ):
            return status

        imported = bool(t.flags & F.imported)
        timestamp = t.timestamp if imported else timestamp_event
        if status := first(
            (dr.ledger != cr.ledger, S.accounts_must_have_the_same_ledger),
            (t.ledger != dr.ledger, S.transfer_must_have_the_same_ledger_as_accounts),
            (imported and self._regresses(timestamp), S.imported_event_timestamp_must_not_regress),
            (imported and timestamp <= dr.timestamp,
             S.imported_event_timestamp_must_postdate_debit_account),
            (imported and timestamp <= cr.timestamp,
             S.imported_event_timestamp_must_postdate_credit_account),
            (imported and t.timeout != 0, S.imported_event_timeout_must_be_zero),
            (dr.flags & A.closed, S.debit_account_already_closed),
            (cr.flags & A.closed, S.credit_account_already_closed),
        ):
            return status

        amount = t.amount
        dr_debits = dr.debits_pending + dr.debits_posted
        cr_credits = cr.credits_pending + cr.credits_posted
        if t.flags & F.balancing_debit:
            amount = min(amount, max(0, dr.credits_posted - dr_debits))
        if t.flags & F.balancing_credit:
            amount = min(amount, max(0, cr.debits_posted - cr_credits))
        expires_at = timestamp + t.timeout * NS_PER_S
        dr_limited = dr.flags & A.debits_must_not_exceed_credits
        cr_limited = cr.flags & A.credits_must_not_exceed_debits
        if status := first(
            (pending and amount + dr.debits_pending > U128_MAX, S.overflows_debits_pending),
            (pending and amount + cr.credits_pending > U128_MAX, S.overflows_credits_pending),
            (amount + dr.debits_posted > U128_MAX, S.overflows_debits_posted),
            (amount + cr.credits_posted > U128_MAX, S.overflows_credits_posted),
            (amount + dr_debits > U128_MAX, S.overflows_debits),
            (amount + cr_credits > U128_MAX, S.overflows_credits),
            (expires_at > TIMESTAMP_MAX, S.overflows_timeout),
            (dr_limited and dr_debits + amount > dr.credits_posted, S.exceeds_credits),
            (cr_limited and cr_credits + amount > cr.debits_posted, S.exceeds_debits),
        ):
            return status

        if pending:
            dr = dr._replace(debits_pending=dr.debits_pending + amount)
            cr = cr._replace(credits_pending=cr.credits_pending + amount)
            self.holds[t.id] = Hold.pending
            if t.timeout:
                self.expiries[t.id] = expires_at
        else:
            dr = dr._replace(debits_posted=dr.debits_posted + amount)
            cr = cr._replace(credits_posted=cr.credits_posted + amount)
        if t.flags & F.closing_debit:
            dr = dr._replace(flags=dr.flags | A.closed)
        if t.flags & F.closing_credit:
            cr = cr._replace(flags=cr.flags | A.closed)
        self.accounts[dr.id] = dr
        self.accounts[cr.id] = cr
        self._store_transfer(t._replace(amount=amount, timestamp=timestamp))
        return S.created

    def _settle(self, t: Transfer, timestamp_event: int):
        S, F = TransferStatus, TransferFlag
        post, void = bool(t.flags & F.post_pending), bool(t.flags & F.void_pending)
        excluded = F.pending | F.balancing_debit | F.balancing_credit
        excluded |= F.closing_debit | F.closing_credit
        p = self.transfers.get(t.pending_id)
        if status := first(
            ((post and void) or t.flags & excluded, S.flags_are_mutually_exclusive),
            (t.pending_id == 0, S.pending_id_must_not_be_zero),
            (t.pending_id == U128_MAX, S.pending_id_must_not_be_int_max),
            (t.pending_id == t.id, S.pending_id_must_be_different),
            (t.timeout != 0, S.timeout_reserved_for_pending_transfer),
            (p is None, S.pending_transfer_not_found),
            (p and not p.flags & F.pending, S.pending_transfer_not_pending),
        ):
            return status

        t = filled_in(t, p)
        order = "debit_account_id credit_account_id ledger code"
        if status := first_difference(S, "pending_transfer_has_different_", order, t, p):
            return status
        dr, cr = self.accounts[p.debit_account_id], self.accounts[p.credit_account_id]
        overdue = p.timeout and p.timestamp + p.timeout * NS_PER_S <= timestamp_event
        imported = bool(t.flags & F.imported)
        timestamp = t.timestamp if imported else timestamp_event
        if status := first(
            (t.amount > p.amount, S.exceeds_pending_transfer_amount),
            (void and t.amount < p.amount, S.pending_transfer_has_different_amount),
            (self.holds[p.id] == Hold.posted, S.pending_transfer_already_posted),
            (self.holds[p.id] == Hold.voided, S.pending_transfer_already_voided),
            (self.holds[p.id] == Hold.expired, S.pending_transfer_expired),
            (overdue, S.pending_transfer_expired),
            (imported and self._regresses(timestamp), S.imported_event_timestamp_must_not_regress),
            (post and dr.flags & AccountFlag.closed, S.debit_account_already_closed),
            (post and cr.flags & AccountFlag.closed, S.credit_account_already_closed),
        ):
            return status

        self._release(p, Hold.posted if post else Hold.voided, posted=t.amount if post else 0)
        self._store_transfer(t._replace(timestamp=timestamp))
        return S.created

    def _release(self, p: Transfer, outcome: Hold, posted: int = 0) -> None:
        """End a hold: all of it leaves the pending balances, what is posted enters the posted."""
        dr, cr = self.accounts[p.debit_account_id], self.accounts[p.credit_account_id]
        dr = dr._replace(debits_pending=dr.debits_pending - p.amount)
        cr = cr._replace(credits_pending=cr.credits_pending - p.amount)
        dr = dr._replace(debits_posted=dr.debits_posted + posted)
        cr = cr._replace(credits_posted=cr.credits_posted + posted)
        # The post of a closing hold is refused, so whatever ends one reopens what it closed.
        if p.flags & TransferFlag.closing_debit:
            dr = dr._replace(flags=dr.flags & ~AccountFlag.closed)
        if p.flags & TransferFlag.closing_credit:
            cr = cr._replace(flags=cr.flags & ~AccountFlag.closed)
        self.accounts[dr.id] = dr
        self.accounts[cr.id] = cr
        self.holds[p.id] = outcome
        self.expiries.pop(p.id, None)

    def _store_transfer(self, t: Transfer) -> None:
        self.transfers[t.id] = t
        self.transfer_timestamp_max = t.timestamp
        dr, cr = self.accounts[t.debit_account_id], self.accounts[t.credit_account_id]
        self.history[t.id] = (dr, cr)

    def _regresses(self, timestamp: int) -> bool:
        return timestamp <= self.transfer_timestamp_max or timestamp in (
            a.timestamp for a in self.accounts.values()
        )

    def _transfer_exists(self, t: Transfer, e: Transfer):
        S, F = TransferStatus, TransferFlag
        want = t  # with what the request left open filled in from what happened
        if t.flags & (F.balancing_debit | F.balancing_credit):
            want = want._replace(amount=min(t.amount, e.amount))  # it was an upper limit
        if t.flags == e.flags and t.flags & (F.post_pending | F.void_pending):
            want = filled_in(t, self.transfers[e.pending_id])
        order = "flags pending_id timeout debit_account_id credit_account_id amount"
        order += " user_data_128 user_data_64 user_data_32 ledger code"
        return first_difference(S, "exists_with_different_", order, want, e) or S.exists

    def _lookup_accounts(self, batch: bytes) -> list[Account]:
        ids = (wanted.id for wanted in decode_all(Id, batch))
        return [self.accounts[id] for id in ids if id in self.accounts]

    def _lookup_transfers(self, batch: bytes) -> list[Transfer]:
        ids = (wanted.id for wanted in decode_all(Id, batch))
        return [self.transfers[id] for id in ids if id in self.transfers]

    def _get_account_transfers(self, batch: bytes) -> list[Transfer]:
        f = decode(AccountFilter, batch)
        if f.account_id in (0, U128_MAX) or not f.flags & (FilterFlag.debits | FilterFlag.credits):
            return []
        sides = [
            t
            for t in self.transfers.values()
            if (f.flags & FilterFlag.debits and t.debit_account_id == f.account_id)
            or (f.flags & FilterFlag.credits and t.credit_account_id == f.account_id)
        ]
        return select(sides, f, "user_data_128 user_data_64 user_data_32 code", flags_known=7)

    def _get_account_balances(self, batch: bytes) -> list[AccountBalance]:
        account = self.accounts.get(decode(AccountFilter, batch).account_id)
        if account is None or not account.flags & AccountFlag.history:
            return []
        rows = []
        for t in self._get_account_transfers(batch):
            dr, cr = self.history[t.id]
            rows.append(AccountBalance(*(dr if dr.id == account.id else cr)[1:5], t.timestamp))
        return rows

    def _query_accounts(self, batch: bytes) -> list[Account]:
        return self._query(self.accounts, batch)

    def _query_transfers(self, batch: bytes) -> list[Transfer]:
        return self._query(self.transfers, batch)

    @staticmethod
    def _query(stored: dict, batch: bytes) -> list:
        f = decode(QueryFilter, batch)
        fields = "user_data_128 user_data_64 user_data_32 ledger code"
        return select(list(stored.values()), f, fields, flags_known=1)

    def accounts_state(self) -> list[bytes]:
        return [encode(a) for a in self.accounts.values()]

    def open_holds(self) -> list[tuple[int, int, int]]:
        """Each (pending transfer id, amount, expiry time or 0), in the order of creation."""
        return [
            (id, self.transfers[id].amount, self.expiries.get(id, 0))
            for id, hold in self.holds.items()
            if hold == Hold.pending
        ]

    def burned(self) -> set[int]:
        return set(self.burned_ids)

    def check(self) -> None:
        """Recompute every balance from the transfers alone, then the rules that always hold."""
        names = Account._fields[1:5]
        balances = {id: dict.fromkeys(names, 0) for id in self.accounts}
        for t in self.transfers.values():
            hold = self.holds.get(t.id)
            if hold in (None, Hold.pending) and not t.flags & TransferFlag.void_pending:
                kind = "posted" if hold is None else "pending"
                balances[t.debit_account_id]["debits_" + kind] += t.amount
                balances[t.credit_account_id]["credits_" + kind] += t.amount
            if hold == Hold.pending and t.flags & TransferFlag.closing_debit:
                assert self.accounts[t.debit_account_id].flags & AccountFlag.closed
            if hold == Hold.pending and t.flags & TransferFlag.closing_credit:
                assert self.accounts[t.credit_account_id].flags & AccountFlag.closed
        sums = {a.ledger: [0, 0, 0, 0] for a in self.accounts.values()}
        for a in self.accounts.values():
            assert a[1:5] == tuple(balances[a.id].values()), a
            debits = a.debits_pending + a.debits_posted
            credits = a.credits_pending + a.credits_posted
            assert max(debits, credits) <= U128_MAX, a
            if a.flags & AccountFlag.debits_must_not_exceed_credits:
                assert debits <= a.credits_posted, a
            if a.flags & AccountFlag.credits_must_not_exceed_debits:
                assert credits <= a.debits_posted, a
            sums[a.ledger] = [x + y for x, y in zip(sums[a.ledger], a[1:5], strict=True)]
        for ledger, (dr_pending, dr_posted, cr_pending, cr_posted) in sums.items():
            assert (dr_pending, dr_posted) == (cr_pending, cr_posted), ledger
        for stored in (self.accounts, self.transfers):
            timestamps = [r.timestamp for r in stored.values()]
            assert timestamps == sorted(set(timestamps))
        assert not self.burned_ids & self.transfers.keys()
        assert all(self.holds[id] == Hold.pending for id in self.expiries)
