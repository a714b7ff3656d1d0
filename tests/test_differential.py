"""The core against the oracle: the same requests to both, and every answer and state compared.

Two sources of requests: the seeded generator, in bulk, and a hypothesis machine that composes small
steps and shrinks what fails. Both crash now and then: a second core that went through the groups
goes on in the place of the first, so replay is judged by all that comes after it. A failure names
its seed; `LEDGER_SEED=n pytest tests/test_differential.py -k replayed` runs that conversation.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from chaos.generate import Generator
from chaos.model import (
    NS_PER_S,
    U128_MAX,
    AccountFilter,
    AccountStatus,
    Id,
    Model,
    Operation,
    QueryFilter,
    Result,
    Transfer,
    TransferFlag,
    TransferStatus,
    decode,
    decode_all,
    encode,
)
from ledger import schema
from tests.core_book import account, hold, linked, pay, post, void
from tests.core_driver import Driver

SEEDS = range(400)
BATCHES_EACH = 60
CHECK_EVERY = 25  # requests


class Pair:
    """A core and an oracle that are asked the same."""

    def __init__(self, group_records_max: int = 200) -> None:
        self.driver = Driver(group_records_max=group_records_max)
        self.model = Model()
        self.requests = self.batches = 0
        self.statuses: set[tuple[Operation, int]] = set()

    def execute(self, operation: int, batches: list[bytes], now: int) -> list[bytes]:
        expected = self.model.execute(operation, batches, now)
        found = self.driver.execute(operation, batches, now)
        assert found[0] == expected[0], "timestamp of the reply"
        for batch, (core, oracle) in enumerate(zip(found[1], expected[1], strict=True)):
            if core != oracle:
                pytest.fail(self._difference(Operation(operation), batches, batch, core, oracle))
        if operation in (Operation.create_accounts, Operation.create_transfers):
            for reply in found[1]:
                self.statuses |= {(operation, r.status) for r in decode_all(Result, reply)}
        self.requests += 1
        self.batches += len(batches)
        return found[1]

    @staticmethod
    def _difference(operation, batches, batch, core, oracle) -> str:
        if operation not in (Operation.create_accounts, Operation.create_transfers):
            return f"{operation.name}, batch {batch}: {len(core)} bytes, not {len(oracle)}"
        names = AccountStatus if operation == Operation.create_accounts else TransferStatus
        results = zip(decode_all(Result, core), decode_all(Result, oracle), strict=True)
        for event, (found, expected) in enumerate(results):
            if found != expected:
                sent = batches[batch][event * 128 : event * 128 + 128]
                what = decode(Transfer, sent) if names is TransferStatus else sent.hex()
                return (
                    f"batch {batch}, event {event}: {names(found.status).name} at"
                    f" {found.timestamp}, not {names(expected.status).name} at"
                    f" {expected.timestamp}: {what}"
                )
        raise AssertionError("the replies differ and their results do not")

    def compare(self) -> None:
        """All of both states, and of a core that went through the groups."""
        core, model = self.driver.core, self.model
        assert core.accounts() == b"".join(model.accounts_state())
        assert core.counts_by_kind["transfers"] == len(model.transfers)
        assert core.counts_by_kind["burned_ids"] == len(model.burned())
        holds = model.open_holds()
        assert core.counts_by_kind["open_holds"] == len(holds)
        assert core.open_holds()[:, 1].tolist() == [expires_at for _, _, expires_at in holds]
        assert core.next_expiry_ns == min((at for _, _, at in holds if at), default=0)
        replayed = self.driver.replayed()
        assert replayed.core.state_hash() == core.state_hash(), "replay-equal"
        assert np.array_equal(replayed.core.open_holds(), core.open_holds())
        self._spare = replayed

    def compare_expiries(self) -> None:
        """Which holds ran out, in which order, stamped how."""
        self.driver.close_group()
        ids = {
            position + n: schema.int_of(record["id"])
            for kind, position, records in self.driver.runs()
            if kind == schema.JournalKind.TRANSFER
            for n, record in enumerate(records)
        }
        found = [(stamp, ids[position]) for stamp, position in self.driver.expiries()]
        assert found == self.model.expired

    def crash(self) -> None:
        """Go on with the core that was brought back from the groups."""
        self.compare()
        self._spare.groups = self.driver.groups
        self.driver = self._spare

    def compare_records(self, now: int) -> None:
        """Every transfer, and that burned ids are burned."""
        ids = list(self.model.transfers)
        for first in range(0, len(ids), 8000):
            wanted = b"".join(encode(Id(id)) for id in ids[first : first + 8000])
            self.execute(Operation.lookup_transfers, [wanted], now)
        for id in sorted(self.model.burned()):
            self.execute(Operation.create_transfers, [encode(Transfer(id=id))], now)


def converse(seed: int) -> Pair:
    """One conversation of the generator with both, crashes included."""
    pair = Pair(group_records_max=(1, 40, 200, 2000)[seed % 4])
    now = 0
    requests = iter(Generator(seed))
    while pair.batches < BATCHES_EACH:
        operation, batches, now = next(requests)
        pair.execute(operation, batches, now)
        if pair.requests % CHECK_EVERY == 0:
            pair.crash() if seed % 3 == 0 else pair.compare()
    pair.compare()
    pair.compare_expiries()
    pair.model.check()
    pair.compare_records(now)
    return pair


def named(seed: int) -> Pair:
    try:
        return converse(seed)
    except BaseException as error:
        error.add_note(f"seed {seed}: LEDGER_SEED={seed} pytest {__file__} -k replayed")
        raise


def test_twenty_thousand_random_batches_and_every_status():
    batches = 0
    statuses: set[tuple[Operation, int]] = set()
    for seed in SEEDS:
        pair = named(seed)
        batches += pair.batches
        statuses |= pair.statuses
    assert batches >= 20_000
    wanted = {(Operation.create_accounts, status) for status in AccountStatus}
    wanted |= {(Operation.create_transfers, status) for status in TransferStatus}
    missing = {status.name for operation, status in wanted - statuses}
    assert not missing, "a status that the generator never reached"


@pytest.mark.parametrize("seed", [int(os.environ.get("LEDGER_SEED", "7"))])
def test_one_conversation_replayed_by_its_seed(seed):
    again = named(seed)
    assert again.driver.core.state_hash() == named(seed).driver.core.state_hash()


# ---- the machine ---------------------------------------------------------------------------------

ACCOUNTS = range(1, 7)
amounts = st.sampled_from([0, 1, 5, 10, 2**64, 2**127, U128_MAX])
ids = st.integers(0, 30)
account_ids = st.sampled_from([*ACCOUNTS, 7])
flags_of_accounts = st.sampled_from([0, 2, 4, 8, 8 | 2, 32])
opening = {
    "debit_account_id": account_ids,
    "credit_account_id": account_ids,
    "amount": amounts,
    "user_data_64": st.sampled_from([0, 1]),
}
payments = st.builds(pay, ids, flags=st.sampled_from([0, 0, 16, 32, 48]), **opening)
holds = st.builds(
    hold, ids, flags=st.sampled_from([2, 2, 2, 2 | 16, 2 | 64, 2 | 128, 2 | 64 | 128]),
    timeout=st.sampled_from([0, 1, 1, 3]), **opening,
)  # fmt: skip
ends = st.one_of(
    st.builds(post, ids, ids, st.sampled_from([0, 1, 5, U128_MAX])),
    st.builds(void, ids, ids, st.sampled_from([0, 0, 1])),
)
transfers = st.one_of(payments, holds, ends)


class Machine(RuleBasedStateMachine):
    """Small steps over few accounts and few ids, so that everything meets everything."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(group_records_max=20)
        self.now = 1_000 * NS_PER_S
        self.sent: list[list[Transfer]] = []

    def _create(self, *batches: list[Transfer]) -> None:
        encoded = [b"".join(map(encode, batch)) for batch in batches]
        self.pair.execute(Operation.create_transfers, encoded, self.now)

    @initialize(flags=st.lists(flags_of_accounts, min_size=6, max_size=6))
    def open_accounts(self, flags):
        events = [account(id, flags=f) for id, f in zip(ACCOUNTS, flags, strict=True)]
        self.pair.execute(Operation.create_accounts, [b"".join(map(encode, events))], self.now)

    @rule(batches=st.lists(st.lists(transfers, max_size=4), min_size=1, max_size=3))
    def create(self, batches):
        self.sent += [batch for batch in batches if batch]
        self._create(*batches)

    @rule(events=st.lists(transfers, min_size=2, max_size=6), open_end=st.booleans())
    def chain(self, events, open_end):
        last = linked(events[-1]) if open_end else events[-1]
        chain = [*map(linked, events[:-1]), last]
        self.sent.append(chain)
        self._create(chain)

    @rule(id=ids, opened=holds, end=ends)
    def hold_and_end(self, id, opened, end):
        self._create([opened._replace(id=id), end._replace(pending_id=id)])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data):
        self._create(data.draw(st.sampled_from(self.sent)))

    @rule(events=st.lists(st.tuples(transfers, st.integers(-3, 40)), min_size=1, max_size=4))
    def bring_in(self, events):
        flag = TransferFlag.imported
        last = self.pair.model.transfer_timestamp_max
        self.now += 100
        self._create(
            [t._replace(flags=t.flags | flag, timestamp=max(0, last + n)) for t, n in events]
        )

    @rule(ns=st.sampled_from([0, 1, 1000, NS_PER_S // 2, NS_PER_S, 3 * NS_PER_S, -NS_PER_S]))
    def advance(self, ns):
        self.now = max(1, self.now + ns)

    @rule(n=st.integers(-6, 1))
    def advance_to_a_deadline(self, n):
        deadlines = [at for _, _, at in self.pair.model.open_holds() if at]
        if deadlines:
            self.now = max(self.now, min(deadlines) + n)

    @rule(id=account_ids, flags=st.integers(0, 7), limit=st.sampled_from([1, 3, 8189]))
    def query_an_account(self, id, flags, limit):
        request = encode(AccountFilter(account_id=id, limit=limit, flags=flags))
        for operation in (Operation.get_account_transfers, Operation.get_account_balances):
            self.pair.execute(operation, [request], self.now)

    @rule(flags=st.integers(0, 1), limit=st.sampled_from([1, 3, 8189]), user_data=st.integers(0, 1))
    def query_all(self, flags, limit, user_data):
        request = encode(QueryFilter(limit=limit, flags=flags, user_data_64=user_data))
        for operation in (Operation.query_transfers, Operation.query_accounts):
            self.pair.execute(operation, [request], self.now)

    @rule()
    def crash_and_recover(self):
        self.pair.crash()

    def teardown(self):
        self.pair.compare()
        self.pair.compare_expiries()
        self.pair.model.check()
        self.pair.compare_records(self.now)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
