"""How fast the state machine judges: full requests into a bare core, nothing made durable.

It reports and asserts nothing timed. It knows no journal, no door and no socket.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ledger import config, schema
from tests.books import NOW
from tests.core_driver import Driver

ACCOUNTS = 10_000


@pytest.mark.benchmark(group="core")
def test_plain_transfers(benchmark: BenchmarkFixture) -> None:
    """One full request of plain transfers between 10,000 accounts."""
    driver = Driver()
    driver.core.start(NOW, NOW, config.RELEASE)
    clock = iter(range(NOW, NOW + 10**18, 10**6))
    for first in range(1, ACCOUNTS + 1, config.EVENTS_MAX):
        rows = np.zeros(min(config.EVENTS_MAX, ACCOUNTS + 1 - first), schema.ACCOUNT)
        rows["id"][:, 0] = np.arange(first, first + len(rows))
        rows["ledger"] = rows["code"] = 1
        driver.execute(schema.Operation.CREATE_ACCOUNTS, [rows.tobytes()], next(clock))
    random = np.random.default_rng(1)
    numbers = iter(range(1, 1 << 40))

    def prepare() -> tuple[tuple[bytes], dict[str, object]]:
        rows = np.zeros(config.EVENTS_MAX, schema.TRANSFER)
        rows["id"][:, 1] = next(numbers)
        rows["id"][:, 0] = np.arange(config.EVENTS_MAX)
        rows["debit_account_id"][:, 0] = random.integers(1, ACCOUNTS // 2, config.EVENTS_MAX)
        rows["credit_account_id"][:, 0] = random.integers(ACCOUNTS // 2, ACCOUNTS, len(rows))
        rows["amount"][:, 0] = rows["ledger"] = rows["code"] = 1
        driver.groups.clear()
        return (rows.tobytes(),), {}

    def apply(events: bytes) -> None:
        driver.execute(schema.Operation.CREATE_TRANSFERS, [events], next(clock))

    benchmark.pedantic(apply, setup=prepare, rounds=50)
    if benchmark.stats:
        benchmark.extra_info["payments/s"] = round(config.EVENTS_MAX / benchmark.stats["median"])
