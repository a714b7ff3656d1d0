"""The core against the oracle: the same requests to both, and every answer and state compared.

The requests come from the seeded generator, in bulk; a machine that composes small steps and
shrinks what fails is in test_properties_core. A failure names its seed;
`LEDGER_SEED=n pytest tests/core/test_differential.py -k replayed` runs that conversation.
"""

from __future__ import annotations

import os

import pytest

from chaos.generate import Generator
from chaos.model import AccountStatus, Operation, TransferStatus
from tests.support.pair import Pair

SEEDS = range(400)
BATCHES_EACH = 60
CHECK_EVERY = 25  # requests


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
