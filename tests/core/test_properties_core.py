"""A machine that asks the core and the oracle the same in small steps, and shrinks what fails.

Few accounts and few ids, so that everything meets everything. After each step the core's own
accounts must balance, keep their limits and be the oracle's; every answer is compared as it comes.
The process dies in two ways: at rest, and with its open group, whose requests are then sent again.
The machine knows requests and when to die, not what an answer should be.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chaos.core_driver import Driver
from chaos.model import (
    NS_PER_S,
    U128_MAX,
    Account,
    AccountFilter,
    AccountFlag,
    Id,
    Operation,
    QueryFilter,
    Transfer,
    TransferFlag,
    decode_all,
    encode,
)
from tests.support.core_book import account, hold, linked, pay, post, void
from tests.support.pair import Pair
from tests.support.properties import bounded

Asked = tuple[int, list[bytes], int]  # operation, batches, the clock; operation 0 is a tick
TICK = 0
NEVER = 10**9
GROUP_RECORDS_MAX = 60  # a group is closed by the machine, and at the latest then


class FragilePair(Pair):
    """A pair whose core can die with its open group; the oracle then goes back to the last one."""

    def __init__(self) -> None:
        super().__init__(group_records_max=NEVER)
        self.durable = deepcopy(self.model)
        self.unsynced: list[Asked] = []

    def ask(self, operation: int, batches: list[bytes], now: int) -> None:
        """A request, or a tick: what is due expires without one."""
        if operation == TICK:
            assert not self.driver.core.expire(now), "one step is enough for a few holds"
            self.model.execute(Operation.lookup_accounts, [b""], now)
        else:
            self.execute(operation, batches, now)
        self.unsynced.append((operation, batches, now))
        if self.driver.core.group_records > GROUP_RECORDS_MAX:
            self.sync()

    def sync(self) -> None:
        self.driver.close_group()
        self.durable, self.unsynced = deepcopy(self.model), []

    def compare(self) -> None:
        self.sync()
        super().compare()

    def lose_open_group(self) -> list[Asked]:
        """Replay the closed groups into a new core; what was asked since the last of them."""
        lost, groups = self.unsynced, self.driver.groups
        closed = Driver(group_records_max=NEVER)
        closed.groups = groups
        self.driver = closed.replayed()
        self.driver.groups = groups
        self.model, self.unsynced = deepcopy(self.durable), []
        return lost


# ---- what is drawn -------------------------------------------------------------------------------

ACCOUNTS = range(1, 7)
amounts = st.sampled_from([0, 1, 5, 10, 2**64, 2**127, U128_MAX])
ids = st.integers(0, 30)
account_ids = st.sampled_from([*ACCOUNTS, *ACCOUNTS, 7, 8, 0, U128_MAX])
small = st.sampled_from([0, 0, 0, 1])
rarely = st.sampled_from([0] * 9 + [1])
mostly = st.sampled_from([1] * 9 + [0, 2])
opening_flags = st.sampled_from([0, 2, 4, 8, 8 | 2, 32])
opening = {
    "debit_account_id": account_ids,
    "credit_account_id": account_ids,
    "amount": amounts,
    "user_data_64": st.sampled_from([0, 1]),
    "pending_id": rarely,
    "ledger": mostly,
    "code": mostly,
}
payments = st.builds(
    pay, ids, flags=st.sampled_from([0] * 9 + [16, 32, 48, 64, 256, 512]), timeout=rarely,
    timestamp=rarely, **opening,
)  # fmt: skip
holds = st.builds(
    hold, ids, flags=st.sampled_from([2, 2, 2, 2 | 16, 2 | 64, 2 | 128, 2 | 64 | 128]),
    timeout=st.sampled_from([0, 1, 1, 3, 2**32 - 1]), **opening,
)  # fmt: skip
named_again = {
    "debit_account_id": rarely,
    "credit_account_id": rarely,
    "user_data_128": small,
    "ledger": st.sampled_from([0, 0, 1, 2]),
    "code": st.sampled_from([0, 0, 1, 2]),
    "timeout": rarely,
    "flags": st.sampled_from([0] * 9 + [2, 16]),
}
ends = st.one_of(
    st.builds(post, ids, ids, st.sampled_from([0, 1, 5, 11, U128_MAX]), **named_again),
    st.builds(void, ids, ids, st.sampled_from([0, 0, 1]), **named_again),
)
two = st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(ACCOUNTS)).filter(lambda t: t[0] != t[1])
plain_payments = st.builds(
    lambda id, two, amount: pay(id, debit_account_id=two[0], credit_account_id=two[1],
                                amount=amount), ids, two, st.integers(0, 12),
)  # fmt: skip
plain_holds = st.builds(
    lambda payment, timeout: payment._replace(flags=2, timeout=timeout),
    plain_payments, st.sampled_from([0, 1, 2]),
)  # fmt: skip
plain_ends = st.one_of(
    st.builds(post, ids, ids, st.sampled_from([0, 1, 5, 11, U128_MAX])),
    st.builds(void, ids, ids, st.sampled_from([0, 0, 1])),
)
transfers = st.one_of(plain_payments, plain_holds, payments, holds, ends)
new_accounts = st.builds(
    Account,
    id=st.sampled_from([*range(10), U128_MAX]),
    debits_posted=small,
    credits_pending=small,
    user_data_128=small,
    user_data_32=small,
    reserved=small,
    ledger=st.sampled_from([1, 1, 1, 2, 0]),
    code=st.sampled_from([1, 1, 1, 0]),
    flags=st.sampled_from([0, 0, 2, 4, 6, 8, 10, 12, 16, 32, 33, 1, 3, 64]),
    timestamp=rarely,
)
ANOTHER: dict[str, st.SearchStrategy[int]] = {
    "debit_account_id": account_ids,
    "credit_account_id": account_ids,
    "amount": amounts,
    "pending_id": ids,
    "user_data_128": small,
    "user_data_64": small,
    "user_data_32": small,
    "timeout": st.integers(0, 2),
    "ledger": st.integers(0, 2),
    "code": st.integers(0, 2),
    "flags": st.sampled_from([0, 2, 4, 8, 16, 32, 2 | 64, 2 | 128]),
}
limits = st.sampled_from([0, 1, 3, 8189])


class CoreMachine(RuleBasedStateMachine):
    """Small steps over few accounts and few ids."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = FragilePair()
        self.now = 1_000 * NS_PER_S
        self.sent: list[tuple[Operation, list[Any]]] = []
        self.last_id = 10**6

    @initialize(flags=st.lists(opening_flags, min_size=6, max_size=6))
    def open_accounts(self, flags: list[int]) -> None:
        events = [account(id, flags=f) for id, f in zip(ACCOUNTS, flags, strict=True)]
        self._ask(Operation.create_accounts, events)

    def _ask(self, operation: Operation, *batches: list[Any]) -> None:
        self.pair.ask(operation, [b"".join(map(encode, batch)) for batch in batches], self.now)

    def _create(self, *batches: list[Transfer]) -> None:
        self.sent += [(Operation.create_transfers, batch) for batch in batches if batch]
        self._ask(Operation.create_transfers, *batches)

    # ---- what writes ----------------------------------------------------------------------------

    @rule(batches=st.lists(st.lists(transfers, max_size=4), min_size=1, max_size=3))
    def create(self, batches: list[list[Transfer]]) -> None:
        self._create(*batches)

    @rule(events=st.lists(transfers, min_size=2, max_size=6), open_end=st.booleans())
    def chain(self, events: list[Transfer], open_end: bool) -> None:
        last = linked(events[-1]) if open_end else events[-1]
        self._create([*map(linked, events[:-1]), last])

    @rule(opened=st.one_of(plain_holds, holds),
          ended=st.lists(st.one_of(plain_ends, ends), min_size=1, max_size=3))  # fmt: skip
    def hold_and_end(self, opened: Transfer, ended: list[Transfer]) -> None:
        """The second end finds the hold ended."""
        id = self._new_id()
        tries = [end._replace(id=self._new_id(), pending_id=id) for end in ended]
        self._create([opened._replace(id=id), *tries])

    @rule(end=st.one_of(plain_ends, plain_ends, ends), data=st.data())
    def end_a_hold_that_is_there(self, end: Transfer, data: st.DataObject) -> None:
        """Open or ended already, by part, in full or by too much."""
        there = sorted(self.pair.model.holds)
        if there:
            pending_id = data.draw(st.sampled_from(there))
            self._create([end._replace(id=self._new_id(), pending_id=pending_id)])

    def _new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    @rule(events=st.lists(new_accounts, min_size=1, max_size=4))
    def open_more_accounts(self, events: list[Account]) -> None:
        self.sent.append((Operation.create_accounts, events))
        self._ask(Operation.create_accounts, events)

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        if self.sent:
            operation, events = data.draw(st.sampled_from(self.sent))
            self._ask(operation, events)

    @rule(data=st.data(), field=st.sampled_from(sorted(ANOTHER)))
    def send_another_under_its_id(self, data: st.DataObject, field: str) -> None:
        there = list(self.pair.model.transfers.values())
        if not there:
            return
        stored = data.draw(st.sampled_from(there))
        imported = stored.flags & TransferFlag.imported
        changed = stored._replace(timestamp=stored.timestamp if imported else 0)
        self._create([changed._replace(**{field: data.draw(ANOTHER[field])})])

    @rule(events=st.lists(st.tuples(transfers, st.integers(-3, 40)), min_size=1, max_size=4))
    def bring_in(self, events: list[tuple[Transfer, int]]) -> None:
        flag = TransferFlag.imported
        last = self.pair.model.transfer_timestamp_max
        self.now += 100
        self._ask(
            Operation.create_transfers,
            [t._replace(flags=t.flags | flag, timestamp=max(0, last + n)) for t, n in events],
        )

    @rule(events=st.lists(st.tuples(new_accounts, st.integers(-3, 9)), min_size=1, max_size=3))
    def bring_accounts_in(self, events: list[tuple[Account, int]]) -> None:
        last = self.pair.model.account_timestamp_max
        self.now += 100
        self._ask(
            Operation.create_accounts,
            [a._replace(flags=a.flags | AccountFlag.imported, timestamp=max(0, last + n))
             for a, n in events],
        )  # fmt: skip

    # ---- time -----------------------------------------------------------------------------------

    @rule(ns=st.sampled_from([0, 1, 1000, NS_PER_S // 2, NS_PER_S, 3 * NS_PER_S, -NS_PER_S]))
    def advance(self, ns: int) -> None:
        self.now = max(1, self.now + ns)

    @rule(n=st.integers(-6, 1))
    def advance_to_a_deadline(self, n: int) -> None:
        deadlines = [at for _, _, at in self.pair.model.open_holds() if at]
        if deadlines:
            self.now = max(self.now, min(deadlines) + n)

    @rule()
    def tick(self) -> None:
        self.pair.ask(TICK, [], self.now)

    # ---- what reads -----------------------------------------------------------------------------

    @rule(accounts=st.lists(account_ids, max_size=4), found=st.lists(ids, max_size=4))
    def look_up(self, accounts: list[int], found: list[int]) -> None:
        self._ask(Operation.lookup_accounts, list(map(Id, accounts)))
        self._ask(Operation.lookup_transfers, list(map(Id, found)), [])

    @rule(id=account_ids, flags=st.integers(0, 8), limit=limits, ends=st.booleans(), data=st.data())
    def query_an_account(
        self, id: int, flags: int, limit: int, ends: bool, data: st.DataObject
    ) -> None:
        low, high = self._stretch(data) if ends else (0, 0)
        wanted = AccountFilter(
            account_id=id, limit=limit, flags=flags, timestamp_min=low, timestamp_max=high
        )
        for operation in (Operation.get_account_transfers, Operation.get_account_balances):
            self._ask(operation, [wanted])

    @rule(flags=st.integers(0, 2), limit=limits, user_data=small, ends=st.booleans(),
          ledger=st.integers(0, 2), data=st.data())  # fmt: skip
    def query_all(self, flags: int, limit: int, user_data: int, ends: bool, ledger: int,
                  data: st.DataObject) -> None:  # fmt: skip
        low, high = self._stretch(data) if ends else (0, 0)
        wanted = QueryFilter(
            limit=limit, flags=flags, user_data_64=user_data, ledger=ledger, timestamp_min=low,
            timestamp_max=high,
        )  # fmt: skip
        for operation in (Operation.query_transfers, Operation.query_accounts):
            self._ask(operation, [wanted])

    def _stretch(self, data: st.DataObject) -> tuple[int, int]:
        """Two times near those of what is stored, in this order or the other."""
        model = self.pair.model
        stored = [*model.accounts.values(), *model.transfers.values()] or [Account()]
        times = st.sampled_from([record.timestamp for record in stored])
        near = st.builds(lambda time, off: max(0, time + off), times, st.integers(-1, 1))
        return data.draw(near), data.draw(near)

    # ---- the end of a process -------------------------------------------------------------------

    @rule()
    def sync(self) -> None:
        self.pair.sync()

    @rule()
    def crash_at_rest(self) -> None:
        self.pair.crash()

    @rule()
    def crash_and_resubmit(self) -> None:
        """What was lost is asked again at the same times: the same state comes of it."""
        live = self.pair.driver.core.state_hash()
        for operation, batches, now in self.pair.lose_open_group():
            self.pair.ask(operation, batches, now)
        assert self.pair.driver.core.state_hash() == live

    @rule(seconds=st.integers(0, 3), data=st.data())
    def crash_and_resubmit_later(self, seconds: int, data: st.DataObject) -> None:
        """In another order, some of it twice, with the time gone on."""
        lost = [one for one in self.pair.lose_open_group() if one[0] != TICK]
        self.now += seconds * NS_PER_S
        places = st.lists(st.integers(0, len(lost) - 1), max_size=len(lost) + 2)
        for place in data.draw(places) if lost else ():
            operation, batches, _ = lost[place]
            self.pair.ask(operation, batches, self.now)

    # ---- what must hold -------------------------------------------------------------------------

    @invariant()
    def conserved_and_limits(self) -> None:
        core = self.pair.driver.core
        stored = core.accounts()
        assert stored == b"".join(self.pair.model.accounts_state())
        sums: Counter[tuple[int, str]] = Counter()
        for a in decode_all(Account, stored):
            sums[a.ledger, "pending"] += a.debits_pending - a.credits_pending
            sums[a.ledger, "posted"] += a.debits_posted - a.credits_posted
            if a.flags & AccountFlag.debits_must_not_exceed_credits:
                assert a.debits_pending + a.debits_posted <= a.credits_posted, "limits"
            if a.flags & AccountFlag.credits_must_not_exceed_debits:
                assert a.credits_pending + a.credits_posted <= a.debits_posted, "limits"
        assert not any(sums.values()), "conserved"

    def teardown(self) -> None:
        self.pair.compare()
        self.pair.compare_expiries()
        self.pair.model.check()
        self.pair.compare_records(self.now)


TestCore = CoreMachine.TestCase
TestCore.settings = bounded(150, 40)
