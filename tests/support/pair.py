"""Test tool: a core and the oracle that are asked the same, and compared answer by answer.

What lives here: the pair, its comparison of answers, states, expiries and records, and its crash: a
second core that went through the groups goes on in the place of the first, so that replay is judged
by all that comes after it. It knows nothing of who asks what: that is drawn by a seed
(test_differential) or by a machine (test_properties_core).
"""

from __future__ import annotations

import numpy as np
import pytest

from chaos.core_driver import Driver
from chaos.model import (
    AccountStatus,
    Id,
    Model,
    Operation,
    Result,
    Transfer,
    TransferStatus,
    decode,
    decode_all,
    encode,
)
from ledger.facts import schema


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
