"""Random requests that reach the far corners of a ledger: every status, in deep states.

What lives here: one seed is one endless conversation. A seed draws a profile (which features are in
play and how strongly), so that one seed is all holds and expiries while another is all chains.

What it must not know: whether an event succeeds. It keeps only what it has sent (ids, events and
guesses of timestamps), takes the shape of records from the oracle, and asks nothing of any ledger.
"""

import random
from collections.abc import Iterator

from chaos.model import (
    NS_PER_S,
    QUERY_LIMIT_MAX,
    TIMESTAMP_MAX,
    U128_MAX,
    Account,
    AccountFilter,
    AccountFlag,
    FilterFlag,
    Operation,
    QueryFilter,
    Transfer,
    TransferFlag,
    encode,
)

A, F = AccountFlag, TransferFlag

STRENGTHS = (0, 0.03, 0.1, 0.3, 0.6)
FEATURES = (
    "chain", "pending", "settle", "timeout", "balancing", "closing", "imported", "limits",
    "history", "multi_batch", "jump", "deadline", "other_fields",
)  # fmt: skip
# What spoils a request must stay the exception, or no deep state is ever reached.
SPOILERS = ("sour", "duplicate", "stray")
SPOILER_STRENGTHS = (0, 0.02, 0.05, 0.15)

# Few values of each, so that filters select some and not all; high bits so that none is cut short.
USER_DATA_128 = (0, 1, 2, 2**64, 2**127 + 1, U128_MAX)
USER_DATA_64 = (0, 1, 2**32, 2**63 + 1, 2**64 - 1)
USER_DATA_32 = (0, 1, 2**31, 2**32 - 1)
LEDGERS = (1, 2, 2**32 - 1)
CODES = (1, 2, 2**16 - 1)

LIMITS = (A.debits_must_not_exceed_credits, A.credits_must_not_exceed_debits)

SOUR_ACCOUNTS = (
    {"reserved": 1},
    {"flags": 1 << 6},
    {"flags": 1 << 15},
    {"id": 0},
    {"id": U128_MAX},
    {"flags": LIMITS[0] | LIMITS[1]},
    {"debits_pending": 1},
    {"debits_posted": U128_MAX},
    {"credits_pending": 2**64},
    {"credits_posted": 1},
    {"ledger": 0},
    {"code": 0},
    {"timestamp": 1},
    {"flags": A.imported, "timestamp": 0},
    {"flags": A.imported, "timestamp": TIMESTAMP_MAX + 1},
    {"flags": A.imported, "timestamp": TIMESTAMP_MAX},
    {"flags": A.imported, "timestamp": 1},
)
SOUR_TRANSFERS = (
    {"flags": 1 << 9},
    {"flags": 1 << 15},
    {"id": 0},
    {"id": U128_MAX},
    {"flags": F.post_pending},
    {"flags": F.void_pending},
    {"flags": F.post_pending | F.void_pending},
    {"flags": F.pending | F.post_pending},
    {"flags": F.void_pending | F.balancing_debit},
    {"debit_account_id": 0},
    {"debit_account_id": U128_MAX},
    {"debit_account_id": 2**127 + 12345},
    {"credit_account_id": 0},
    {"credit_account_id": U128_MAX},
    {"credit_account_id": 2**127 + 12345},
    {"pending_id": 0},
    {"pending_id": U128_MAX},
    {"pending_id": 2**127 + 54321},
    {"timeout": 1},
    {"timeout": 2**32 - 1},
    {"flags": F.closing_debit},
    {"flags": F.closing_credit},
    {"ledger": 0},
    {"ledger": 77},
    {"code": 0},
    {"code": 77},
    {"amount": U128_MAX - 1},
    {"timestamp": 1},
    {"flags": F.imported, "timestamp": 0},
    {"flags": F.imported, "timestamp": TIMESTAMP_MAX + 1},
    {"flags": F.imported, "timestamp": TIMESTAMP_MAX},
    {"flags": F.imported, "timestamp": 1},
)


class Generator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        draw = self.random
        self.rate = {name: draw.choice(STRENGTHS) for name in FEATURES}
        # These undo or refuse much of what else is sent, so they are weaker than they are drawn.
        for name, part in (("chain", 0.4), ("closing", 0.4), ("settle", 0.7)):
            self.rate[name] *= part
        self.rate |= {name: draw.choice(SPOILER_STRENGTHS) for name in SPOILERS}
        self.reads = draw.choice((0.1, 0.25, 0.25, 0.4))
        self.account_target = draw.choice((3, 6, 12, 40))
        self.events_max = draw.choice((1, 5, 12, 30))
        self.ledgers = LEDGERS[: draw.choice((1, 1, 2, 3))]
        self.huge_amounts = draw.choice((0, 0, 0, 0, 0, 0.02, 0.1, 0.5))
        self.pace = draw.choice((10**3, 10**6, 10**8, NS_PER_S))
        self.id_shape = draw.choice(("small", "high", "both", "random", "descending"))

        era = draw.choice(("young", "present", "present", "present", "end"))
        self.now = {
            "young": draw.randint(1, 1000),
            "present": 1_700_000_000 * NS_PER_S + draw.randrange(NS_PER_S),
            "end": TIMESTAMP_MAX - draw.randint(3, 600) * NS_PER_S,
        }[era]
        self.last = 0  # a guess: expiries may have carried the ledger's clock further
        self.import_requests = draw.choice((0, 0, 0, 5, 40))  # a phase of imports to begin with
        self.import_clock = draw.choice((0, self.now // 2, max(0, self.now - 10**6)))
        if self.import_requests:
            self.now += 10**6

        self.ids_used = 0
        self.accounts: list[Account] = []  # as they were before they were spoilt
        self.transfers: list[Transfer] = []
        self.holds: list[Transfer] = []
        self.deadlines: list[tuple[int, Transfer]] = []
        self.urgent: Transfer | None = None

    def __iter__(self) -> Iterator[tuple[int, list[bytes], int]]:
        while True:
            self.tick()
            operation, batches = self._request()
            events = 0
            if operation in (Operation.create_accounts, Operation.create_transfers):
                events = sum(map(len, batches))
                timestamp = max(self.last + 1, self.now)
                for event in (event for batch in batches for event in batch):
                    timestamp += 1
                    if event.timestamp == 0 and isinstance(event, Transfer):
                        self._note_deadline(event, timestamp)
                self.last = max(self.last + 1, self.now) + events
            yield operation, [b"".join(map(self._bytes, batch)) for batch in batches], self.now

    @staticmethod
    def _bytes(record) -> bytes:
        return record.to_bytes(16, "little") if isinstance(record, int) else encode(record)

    def _chance(self, feature: str) -> bool:
        return self.random.random() < self.rate[feature]

    def tick(self) -> None:
        """Move the clock as clocks do: by a little, by a lot, not at all, or back."""
        draw = self.random
        self.urgent = None
        deadlines = [d for d in self.deadlines if d[0] > self.now]
        if deadlines and self._chance("deadline"):
            # Near a deadline a nanosecond decides between "expired" and "posted".
            deadline, self.urgent = draw.choice(deadlines)
            self.now = deadline + draw.choice((-1000, -30, -10, -5, -2, -1, 0, 1))
        elif self._chance("jump"):
            self.now += draw.choice((NS_PER_S, 3 * NS_PER_S, 6 * NS_PER_S, -NS_PER_S, -10))
        elif draw.random() < 0.8:
            self.now += draw.randrange(self.pace)
        # What a request adds to the clock must not carry it over the end of time.
        self.now = max(1, min(self.now, TIMESTAMP_MAX - NS_PER_S))

    def _note_deadline(self, transfer: Transfer, timestamp: int) -> None:
        deadline = timestamp + transfer.timeout * NS_PER_S
        if transfer.timeout and transfer.flags & F.pending and deadline < TIMESTAMP_MAX - NS_PER_S:
            self.deadlines = [*self.deadlines[-20:], (deadline, transfer)]

    def _request(self) -> tuple[Operation, list[list]]:
        draw = self.random
        importing = self.import_requests > 0
        self.import_requests -= importing
        if draw.random() < self.reads and not (importing and not self.accounts):
            return self._read()
        wanting = len(self.accounts) < self.account_target
        accounts = draw.random() < (0.5 if wanting and self.accounts else 1.0 if wanting else 0.1)
        batches = []
        for _ in range(draw.randint(2, 5) if self._chance("multi_batch") else 1):
            count = 0 if draw.random() < 0.04 else draw.randint(1, self.events_max)
            if accounts:
                count = min(count, max(3, self.account_target // 2))
            imported = draw.random() < (0.9 if importing else self.rate["imported"] / 3)
            batches.append(self._batch(accounts, count, imported))
        return Operation.create_accounts if accounts else Operation.create_transfers, batches

    def _batch(self, accounts: bool, count: int, imported: bool) -> list:
        draw = self.random
        if imported:
            # An import needs room between the last timestamp and the clock.
            self.import_clock = max(self.import_clock, draw.choice((0, self.last)))
            self.now = min(self.now + draw.choice((0, 100, 10**5)), TIMESTAMP_MAX - NS_PER_S)
        batch = []
        for _ in range(count):
            event = self._account() if accounts else self._transfer()
            if accounts and self.accounts and draw.random() < 0.3:
                # Whatever failed in a chain the first time must not be missing for ever.
                event = draw.choice(self.accounts)
                event = event._replace(flags=event.flags & ~(A.linked | A.imported), timestamp=0)
            if imported != (self._chance("stray") and draw.random() < 0.2):
                flag = A.imported if accounts else F.imported
                timestamp = self._import_timestamp()
                event = event._replace(flags=event.flags | flag, timestamp=timestamp)
                if not accounts and draw.random() < 0.9:
                    event = event._replace(timeout=0)
            good = event
            if self._chance("sour"):
                event = self._soured(event)
            elif self._chance("duplicate"):
                event = self._duplicate(accounts) or event
            batch.append(event)
            # Noted at once, so that the next event of the batch may repeat or settle this one.
            if accounts:
                self.accounts.append(good)
            else:
                self.transfers.append(event)
                if event.flags & F.pending:
                    self.holds = [*self.holds[-60:], event]
        self._link(batch)
        if batch and not accounts:
            self.transfers[-len(batch) :] = batch
        return batch

    def _import_timestamp(self) -> int:
        draw = self.random
        kind = draw.random()
        others = draw.choice((self.accounts, self.transfers))
        if kind < 0.08 and others:
            near = draw.choice(others[-8:]).timestamp
            return max(0, near + draw.choice((-1, 0, 1)))
        if kind < 0.11:
            return draw.choice((0, 1, self.now, self.last, TIMESTAMP_MAX, TIMESTAMP_MAX + 1))
        if kind < 0.14:
            return max(0, self.import_clock - draw.randint(1, 50))
        self.import_clock += draw.choice((1, 1, 2, 50))
        return self.import_clock

    def _link(self, batch: list) -> None:
        """Make runs of the batch into chains; now and then the last one is left open."""
        draw = self.random
        index = 0
        while index < len(batch):
            if not self._chance("chain"):
                index += 1
                continue
            end = min(len(batch) - 1, index + draw.randint(1, 6))
            if draw.random() < 0.05:
                end = len(batch)
            for n in range(index, end):
                batch[n] = batch[n]._replace(flags=batch[n].flags | A.linked)
            if index < end and draw.random() < 0.25:
                n = draw.randrange(index, min(end + 1, len(batch)))
                batch[n] = self._soured(batch[n])
            index = end + 1

    def _soured(self, event):
        """The event with one thing wrong."""
        table = SOUR_ACCOUNTS if isinstance(event, Account) else SOUR_TRANSFERS
        change = dict(self.random.choice(table))
        if "flags" in change:
            change["flags"] |= event.flags
        return event._replace(**change)

    def _duplicate(self, accounts: bool):
        """An event sent before: exactly, or with one field changed."""
        draw = self.random
        sent = self.accounts if accounts else self.transfers
        if not sent:
            return None
        event = draw.choice(sent[-30:])
        if draw.random() < 0.25:
            return event
        field = draw.choice([name for name in event._fields if name not in ("id", "timestamp")])
        if field == "flags":
            return event._replace(flags=event.flags ^ (1 << draw.randrange(6 if accounts else 9)))
        other = draw.choice(sent)
        value = draw.choice((0, 1, getattr(event, field) + 1, getattr(other, field)))
        if field == "amount":
            value = draw.choice((value, max(0, event.amount - 1), U128_MAX))
        width = event.widths[event._fields.index(field)]
        return event._replace(**{field: value % 2 ** (8 * width)})

    def _new_id(self) -> int:
        self.ids_used += 1
        n = self.ids_used
        if self.id_shape == "high":
            return n << 64
        if self.id_shape == "both":
            return (n << 96) | (n % 3) + 1  # ids that share their low halves
        if self.id_shape == "random":
            return self.random.randrange(1, U128_MAX)
        if self.id_shape == "descending":
            return U128_MAX - n
        return n

    def _user_data(self) -> dict:
        draw = self.random
        if not self._chance("other_fields"):
            return {}
        return {
            "user_data_128": draw.choice(USER_DATA_128),
            "user_data_64": draw.choice(USER_DATA_64),
            "user_data_32": draw.choice(USER_DATA_32),
        }

    def _account(self) -> Account:
        draw = self.random
        flags = 0
        if self._chance("limits"):
            flags |= draw.choice(LIMITS)
        if self._chance("history"):
            flags |= A.history
        if draw.random() < self.rate["closing"] / 5:
            flags |= A.closed
        return Account(
            id=self._new_id(),
            ledger=draw.choice(self.ledgers),
            code=draw.choice(CODES),
            flags=flags,
            **self._user_data(),
        )

    def _amount(self) -> int:
        draw = self.random
        if draw.random() < self.huge_amounts:
            part = draw.choice((1, 1, 2, 3, 4))
            return min(U128_MAX, max(0, part * 2**126 + draw.choice((-2, -1, 0, 0, 1))))
        return draw.choice((0, 1, 2, 3, 10, 100, 2**64, draw.randrange(1000)))

    def _transfer(self) -> Transfer:
        draw = self.random
        if self.urgent or (self.holds and self._chance("settle")):
            return self._settle()
        if len(self.accounts) < 2:
            debit, credit = Account(id=1, ledger=1), Account(id=2, ledger=1)
        else:
            debit = draw.choice(self.accounts)
            peers = [a for a in self.accounts if a.ledger == debit.ledger and a.id != debit.id]
            credit = draw.choice(self.accounts if self._chance("stray") else peers or self.accounts)
        flags = 0
        amount = self._amount()
        timeout = 0
        if self._chance("balancing"):
            flags |= draw.choice((F.balancing_debit, F.balancing_credit, 48))
            amount = draw.choice((amount, U128_MAX, U128_MAX))
        if self._chance("pending"):
            flags |= F.pending
            if self._chance("timeout"):
                timeout = draw.choice((1, 1, 2, 3, 5, 5, 5, 1000))
            if self._chance("closing"):
                flags |= draw.choice((F.closing_debit, F.closing_credit, 192))
        return Transfer(
            id=self._new_id(),
            debit_account_id=debit.id,
            credit_account_id=credit.id,
            amount=amount,
            timeout=timeout,
            ledger=debit.ledger or 1,
            code=draw.choice(CODES),
            flags=flags,
            **self._user_data(),
        )

    def _settle(self) -> Transfer:
        """A post or a void of a hold, old or new, whole or in part."""
        draw = self.random
        hold = self.urgent or draw.choice(self.holds[-draw.choice((1, 3, 10, 60)) :])
        self.urgent = None
        if self._chance("stray") and self.transfers:
            hold = draw.choice(self.transfers)
        posting = draw.random() < 0.6
        if posting:
            part = draw.randint(0, hold.amount)
            amount = draw.choice((U128_MAX, U128_MAX, hold.amount, 0, part, hold.amount + 1))
        else:
            amount = draw.choice((0, 0, hold.amount, max(0, hold.amount - 1), hold.amount + 1))
        copied = {"ledger": hold.ledger, "code": hold.code}
        copied |= {name: getattr(hold, name) for name in ("debit_account_id", "credit_account_id")}
        copied = {name: draw.choice((0, value)) for name, value in copied.items()}
        if self._chance("stray"):
            name = draw.choice(tuple(copied))
            copied[name] = draw.choice((1, 2, 3, getattr(draw.choice(self.transfers), name)))
        id = self._new_id()
        return Transfer(
            id=id,
            pending_id=id if draw.random() < 0.01 else hold.id,
            amount=min(amount, U128_MAX),
            flags=F.post_pending if posting else F.void_pending,
            **copied,
            **self._user_data(),
        )

    def _read(self) -> tuple[Operation, list[list]]:
        draw = self.random
        operation = draw.choice([o for o in Operation if o < Operation.create_accounts])
        # A request whose batches could together outgrow one reply is not a valid request.
        count = draw.randint(2, 5) if self._chance("multi_batch") else 1
        makers = {
            Operation.lookup_accounts: lambda: self._ids(self.accounts),
            Operation.lookup_transfers: lambda: self._ids(self.transfers),
            Operation.get_account_transfers: lambda: [self._account_filter()],
            Operation.get_account_balances: lambda: [self._account_filter()],
            Operation.query_accounts: lambda: [self._query_filter(self.accounts)],
            Operation.query_transfers: lambda: [self._query_filter(self.transfers)],
        }
        batches = [makers[operation]() for _ in range(count)]
        for n, batch in enumerate(batches):
            if count > 1 and batch and not isinstance(batch[0], int):
                limit = min(batch[0].limit, QUERY_LIMIT_MAX // count)
                batches[n] = [batch[0]._replace(limit=limit)]
        return operation, batches

    def _ids(self, sent: list) -> list[int]:
        draw = self.random
        known = [event.id for event in sent[-40:]] or [1]
        missing = (0, U128_MAX, 7, draw.randrange(U128_MAX))
        return [
            draw.choice(missing if draw.random() < 0.1 else known)
            for _ in range(draw.choice((0, 1, 3, 10)))
        ]

    def _bounds(self, sent: list) -> dict:
        draw = self.random
        if draw.random() < 0.5:
            return {}
        imports = [event.timestamp for event in sent[-20:] if event.timestamp] or [0]
        times = (0, 1, self.now, self.last, self.last - 5, draw.choice(imports), TIMESTAMP_MAX)
        low, high = (max(0, draw.choice(times) + draw.choice((-1, 0, 1))) for _ in range(2))
        if draw.random() < 0.8 and high:
            low, high = min(low, high), max(low, high)
        if draw.random() < 0.03:
            high = draw.choice((TIMESTAMP_MAX + 1, 2**64 - 1))
        return {"timestamp_min": low, "timestamp_max": high}

    def _selection(self, sent: list, names: tuple) -> dict:
        """Now and then require the fields of something that was sent."""
        draw = self.random
        if not sent or draw.random() < 0.5:
            return {}
        event = draw.choice(sent)
        return {name: getattr(event, name) for name in names if draw.random() < 0.4}

    def _account_filter(self) -> AccountFilter:
        draw = self.random
        known = [a.id for a in self.accounts] or [1]
        names = ("user_data_128", "user_data_64", "user_data_32", "code")
        sides = draw.choice((FilterFlag.debits, FilterFlag.credits, 3, 3))
        request = AccountFilter(
            account_id=draw.choice(known),
            limit=draw.choice((1, 2, 10, 8189, 8190, 2**32 - 1)),
            flags=sides | draw.choice((0, FilterFlag.reversed)),
            **self._bounds(self.transfers),
            **self._selection(self.transfers, names),
        )
        wrong = ({"account_id": 0}, {"account_id": U128_MAX}, {"account_id": 2**127 + 12345},
                 {"limit": 0}, {"flags": 0}, {"flags": 4}, {"flags": 11}, {"reserved": 1},
                 {"reserved": 2**463})
        return request._replace(**draw.choice(wrong)) if draw.random() < 0.1 else request

    def _query_filter(self, sent: list) -> QueryFilter:
        draw = self.random
        names = ("user_data_128", "user_data_64", "user_data_32", "ledger", "code")
        request = QueryFilter(
            limit=draw.choice((1, 2, 10, 8189, 8190, 2**32 - 1)),
            flags=draw.choice((0, 1)),
            **self._bounds(sent),
            **self._selection(sent, names),
        )
        wrong = ({"limit": 0}, {"flags": 2}, {"flags": 1 << 31}, {"reserved": 1},
                 {"reserved": 2**47})
        return request._replace(**draw.choice(wrong)) if draw.random() < 0.1 else request
