"""What clients ask, drawn from a seed: payments, holds, chains, repeats, refusals and reads.

Written apart from the tests' own generator, because two generators do not share a blind spot. An
event is a dict of the fields that are not zero, so that a plan is plain data; `records` makes the
model's records of it. Nothing here knows whether an event succeeds.
"""

from __future__ import annotations

from random import Random
from typing import Any

from chaos import model
from chaos.model import AccountFlag as A
from chaos.model import FilterFlag, Operation
from chaos.model import TransferFlag as F

Event = dict[str, int]
LIMITED = 2**100
ALL = model.U128_MAX
BOTH = int(FilterFlag.debits | FilterFlag.credits)

_KINDS = {
    Operation.create_accounts: model.Account,
    Operation.create_transfers: model.Transfer,
    Operation.get_account_transfers: model.AccountFilter,
    Operation.get_account_balances: model.AccountFilter,
    Operation.query_accounts: model.QueryFilter,
    Operation.query_transfers: model.QueryFilter,
}


# One thing that is wrong, or different from what is stored.
WRONG_ACCOUNTS: tuple[Event, ...] = (
    {"id": 0}, {"id": ALL}, {"reserved": 1}, {"flags": 1 << 9}, {"flags": int(A.linked)},
    {"timestamp": 1}, {"flags": int(A.imported)}, {"flags": int(A.imported), "timestamp": 1},
    {"flags": int(A.imported), "timestamp": model.TIMESTAMP_MAX}, {"user_data_128": 1},
    {"user_data_64": 1}, {"user_data_32": 1}, {"ledger": 7}, {"flags": int(A.history)},
    {"id": 77, "flags": 6}, {"id": 77, "debits_pending": 1}, {"id": 77, "debits_posted": 1},
    {"id": 77, "credits_pending": 1}, {"id": 77, "credits_posted": 1}, {"id": 77, "ledger": 0},
    {"id": 77, "code": 0}, {"id": 77, "flags": int(A.imported), "timestamp": 1},
)  # fmt: skip
FIRST_ACCOUNTS: tuple[Event, ...] = (
    {}, {"flags": int(A.linked)}, {"flags": int(A.imported), "timestamp": 2},
)  # fmt: skip
WRONG_TRANSFERS: tuple[Event, ...] = (
    {"ledger": 9}, {"ledger": 0}, {"code": 0}, {"id": 0}, {"id": ALL}, {"amount": LIMITED},
    {"debit_account_id": 0}, {"debit_account_id": ALL}, {"debit_account_id": 998},
    {"credit_account_id": 0}, {"credit_account_id": ALL}, {"credit_account_id": 999},
    {"flags": int(F.balancing_debit), "amount": ALL},
    {"flags": int(F.balancing_credit), "amount": ALL}, {"flags": 1 << 12},
    {"pending_id": 5}, {"timeout": 5}, {"flags": int(F.closing_debit)}, {"timestamp": 1},
    {"flags": int(F.imported)}, {"flags": int(F.imported), "timestamp": 1},
    {"flags": int(F.imported), "timestamp": model.TIMESTAMP_MAX},
    {"flags": int(F.pending), "timeout": 2**32 - 1}, {"amount": ALL}, {"amount": ALL - 1},
    {"flags": int(F.pending), "amount": ALL}, {"flags": int(F.linked)},
)  # fmt: skip
# Books that begin with imports: accounts of the first moments, then transfers that are too early
# for one of their accounts, or hold money for a time.
IMPORTED_ACCOUNTS: tuple[Event, ...] = tuple(
    {"id": 79 + n, "ledger": 1, "code": 1, "flags": int(A.imported), "timestamp": 1 + n}
    for n in range(2)
)
IMPORTED_TRANSFERS: tuple[Event, ...] = (
    {"id": 901, "debit_account_id": 79, "credit_account_id": 1},
    {"id": 902, "debit_account_id": 1, "credit_account_id": 79},
    {"id": 903, "debit_account_id": 79, "credit_account_id": 80, "timeout": 5,
     "flags": int(F.imported | F.pending)},
)  # fmt: skip
IMPORTS_SHARE = 0.25
# What payments carry beside what they need, in seeds that ask for it; half of them nothing.
TOLD: tuple[Event, ...] = (
    {}, {}, {}, {}, {"user_data_64": 1}, {"user_data_128": 2**100 + 1}, {"user_data_32": 7},
    {"code": 9, "user_data_64": 2},
)  # fmt: skip
OLD_PART = 4  # of the transfers of a plan one in so many is old
WRONG_SETTLES: tuple[Event, ...] = (
    {"flags": int(F.post_pending | F.void_pending)}, {"pending_id": 0}, {"pending_id": ALL},
    {"pending_id": 12_345}, {"timeout": 1}, {"debit_account_id": 998}, {"ledger": 9}, {"code": 9},
    {"credit_account_id": 999}, {"flags": int(F.post_pending), "amount": LIMITED},
    {"flags": int(F.void_pending), "amount": 1},
)  # fmt: skip


def records(operation: int, batches: list[list[Any]]) -> list[list[Any]]:
    """The model's records, or plain ids for a lookup."""
    kind = _KINDS.get(Operation(operation))
    return [[one if kind is None else kind(**one) for one in batch] for batch in batches]


class Workload:
    """One seed's requests. `mix` weighs the kinds: account, pay, hold, settle, chain, repeat,
    wrong, read; and those that look far back: late (a settle of any hold), again (a repeat of any
    event), past (reads by time, side and what events carry). `times` is when events may happen."""

    def __init__(
        self, random: Random, accounts: int, mix: dict[str, int], hot_share: float,
        times: tuple[int, int] = (1, 2),
    ) -> None:  # fmt: skip
        self.random, self.hot_share, self._times = random, hot_share, times
        self._tells = "past" in mix  # whether payments carry what reads select by
        self.kinds, self.weights = list(mix), list(mix.values())
        self.accounts: list[Event] = []
        self.transfers: list[Event] = []
        self.holds: list[Event] = []
        for n in range(accounts):
            self.accounts.append(self._account(n))
        self._ids = 1_000
        self._batch_max = random.choice((1, 3, 8))

    def _account(self, n: int) -> Event:
        draw = self.random
        limits = (A.debits_must_not_exceed_credits, A.credits_must_not_exceed_debits)
        flags = draw.choice((0, 0, 0, A.history, A.history, *limits))
        if flags in limits and n == 0:
            flags = 0
        account = {"id": n + 1, "ledger": 1 + n % 5 // 4, "code": 10, "flags": int(flags)}
        return {name: value for name, value in account.items() if value}

    def opening(self) -> list[tuple[Operation, list[list[Event]]]]:
        """The requests that create the accounts."""
        half = len(self.accounts) // 2
        parts = [self.accounts[:half], self.accounts[half:]]
        asked = [(Operation.create_accounts, [part]) for part in parts if part]
        if self.random.random() >= IMPORTS_SHARE:
            return asked
        early = {"ledger": 1, "code": 1, "amount": 1, "timestamp": 3, "flags": int(F.imported)}
        imports = [early | one for one in IMPORTED_TRANSFERS]
        return [
            (Operation.create_accounts, [list(IMPORTED_ACCOUNTS)]), *asked,
            (Operation.create_transfers, [imports]),
        ]  # fmt: skip

    def next(self) -> tuple[Operation, list[list[Any]]]:
        kind = self.random.choices(self.kinds, self.weights)[0]
        if kind == "read":
            return self._read()
        if kind == "past":
            return self._past()
        if kind == "account":
            account = self.random.choice(self.accounts) | {"code": self.random.choice((10, 11))}
            if self.random.random() < 0.6:
                account |= self.random.choice(WRONG_ACCOUNTS)
            batch = [account]
            if self.random.random() < 0.4:
                first = {"id": 78, "ledger": 1, "code": 1}
                batch.insert(0, first | self.random.choice(FIRST_ACCOUNTS))
            return Operation.create_accounts, [batch]
        count = self.random.randint(1, self._batch_max)
        batches = [[self._event(kind) for _ in range(count)]]
        if kind == "chain":
            batches = [self._chain()]
        elif self.random.random() < 0.1:
            batches.append([self._event(kind)])
        for batch in batches:
            self.transfers += batch
            self.holds += [one for one in batch if one.get("flags", 0) & F.pending]
        return Operation.create_transfers, batches

    def old(self, random: Random) -> Event:
        """One of the oldest transfers, which everybody may want at the same moment."""
        known = self.transfers[: max(1, len(self.transfers) // OLD_PART)]
        return random.choice(known) if known else {"id": 1}

    def _event(self, kind: str) -> Event:
        draw = self.random
        if kind in ("settle", "late") and self.holds:
            return self._settle(-12 if kind == "settle" else 0)
        if kind in ("repeat", "again") and self.transfers:
            event = draw.choice(self.transfers[-40 if kind == "repeat" else 0 :])
            if draw.random() < 0.7:
                return event
            event |= draw.choice(self._others(event))
            # The first difference in the order of the rules is the one that must be told.
            return event | draw.choice(self._others(event)) if draw.random() < 0.3 else event
        event = self._pay()
        if kind == "hold":
            event["flags"] = int(F.pending)
            if draw.random() < 0.7:
                event["timeout"] = draw.choice((1, 1, 2, 3))
            if draw.random() < 0.1:
                event["flags"] |= draw.choice((F.closing_debit, F.closing_credit))
        elif kind == "wrong":
            event |= draw.choice(WRONG_TRANSFERS)
            if draw.random() < 0.1:
                event["credit_account_id"] = event["debit_account_id"]
            if draw.random() < 0.1 and self.holds:
                event = self._settle() | draw.choice(WRONG_SETTLES)
                if draw.random() < 0.1:
                    event["pending_id"] = event["id"]
        return event

    @staticmethod
    def _others(event: Event) -> tuple[Event, ...]:
        """What can differ from what is stored."""
        return (
            {"amount": min(ALL, event.get("amount", 0) + 1)}, {"code": 8}, {"ledger": 8},
            {"flags": event.get("flags", 0) ^ F.pending}, {"user_data_128": 1},
            {"user_data_64": 1}, {"user_data_32": 1}, {"debit_account_id": 998},
            {"credit_account_id": 999}, {"pending_id": 998}, {"timeout": 9},
        )  # fmt: skip

    def _pay(self) -> Event:
        draw = self.random
        debit = draw.choice(self.accounts)
        peers = [one for one in self.accounts if one["ledger"] == debit["ledger"]]
        credit = draw.choice(peers if len(peers) > 1 else self.accounts)
        if draw.random() < self.hot_share:
            credit = self.accounts[0]
        if credit is debit:
            credit = self.accounts[(self.accounts.index(debit) + 1) % len(self.accounts)]
        self._ids += 1
        event = {
            "id": self._ids,
            "debit_account_id": debit["id"],
            "credit_account_id": credit["id"],
            "amount": draw.choice((1, 5, 100, draw.randint(1, 10_000))),
            "ledger": debit["ledger"],
            "code": 1,
        }
        return event | draw.choice(TOLD) if self._tells else event

    def _settle(self, first: int = -12) -> Event:
        draw = self.random
        hold = draw.choice(self.holds[first:])
        self._ids += 1
        posts = draw.random() < 0.6
        amount = draw.choice((ALL, hold.get("amount", 0) // 2)) if posts else 0
        return {
            "id": self._ids,
            "pending_id": hold["id"],
            "amount": amount,
            "flags": int(F.post_pending if posts else F.void_pending),
        }

    def _chain(self) -> list[Event]:
        draw = self.random
        events = [self._event("pay") for _ in range(draw.randint(2, 5))]
        if self.holds and draw.random() < 0.3:
            events[draw.randrange(len(events))] = self._settle()
        if draw.random() < 0.4:
            events[draw.randrange(len(events))] |= {"ledger": 9}
        for event in events[:-1]:
            event["flags"] = event.get("flags", 0) | F.linked
        return events

    def _read(self) -> tuple[Operation, list[list[Any]]]:
        draw = self.random
        kind = draw.randrange(6)
        account = draw.choice(self.accounts)["id"]
        if kind in (0, 1):
            count = draw.randint(1, len(self.accounts))
            ids = draw.sample([one["id"] for one in self.accounts], count)
            return Operation.lookup_accounts, [ids]
        if kind == 2:
            known = [one["id"] for one in self.transfers[-20:]] or [1]
            return Operation.lookup_transfers, [draw.choices(known, k=5)]
        one = {"account_id": account, "limit": draw.choice((3, 8_189)), "flags": BOTH}
        if kind == 3:
            return Operation.get_account_transfers, [[one]]
        if kind == 4:
            return Operation.get_account_balances, [[one]]
        limit = draw.choice((5, 8_189))
        operation = draw.choice((Operation.query_accounts, Operation.query_transfers))
        return operation, [[{"limit": limit, "flags": draw.choice((0, 1))}]]

    def _past(self) -> tuple[Operation, list[list[Any]]]:
        draw = self.random
        kind = draw.randrange(4)
        if kind == 0:
            ids = [one["id"] for one in self.transfers] or [1]
            ids += [one["id"] for one in self.holds] + [self._ids + 1]  # that one is not there yet
            return Operation.lookup_transfers, [draw.choices(ids, k=draw.randint(1, 20))]
        chosen = draw.choice(({}, {}, {}, *TOLD[4:]))
        asked = chosen | self._stretch() | {"limit": draw.choice((1, 3, 10, 8_189))}
        backwards = draw.random() < 0.5
        if kind == 1:
            if draw.random() < 0.3:
                asked["ledger"] = draw.choice((1, 2))
            return Operation.query_transfers, [[asked | {"flags": int(backwards)}]]
        sides = draw.choice((int(FilterFlag.debits), int(FilterFlag.credits), BOTH, BOTH))
        asked["flags"] = sides | int(FilterFlag.reversed) if backwards else sides
        asked["account_id"] = draw.choice(self.accounts)["id"]
        balances = kind == 2
        return (
            Operation.get_account_balances if balances else Operation.get_account_transfers,
            [[asked]],
        )

    def _stretch(self) -> Event:
        """A stretch of time: all of it, its beginning, its end, or a part."""
        draw = self.random
        first, last = sorted(draw.randint(*self._times) for _ in range(2))
        return draw.choice(
            (
                {}, {"timestamp_min": first}, {"timestamp_max": last},
                {"timestamp_min": first, "timestamp_max": last},
            )
        )  # fmt: skip
