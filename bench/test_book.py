"""How many payments a second a book takes in the process that embeds it, durably.

In full requests, one by one, and as one large call. Threads pay at once and each waits for its
request before its next one, as a platform's workers do. The book is a new one on the disk of
tmp_path. It knows nothing of what happens inside the book.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ledger
from bench import workload
from bench.conftest import Measure
from bench.workload import CREATED, EVENTS


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_full_requests_of_threads(
    measure: Measure, tmp_path: Path, tiny: bool, threads: int
) -> None:
    requests = 1 if tiny else 40  # of each thread in a round
    numbers = iter(range(1_000_000))
    with ledger.open(tmp_path / "book") as book, ThreadPoolExecutor(threads) as pool:
        book.create_many(np.concatenate(list(workload.accounts())))

        def prepare() -> tuple[list[list[workload.Rows]]]:
            return ([[workload.transfers(next(numbers)) for _ in range(requests)]
                     for _ in range(threads)],)  # fmt: skip

        def worker(batches: list[workload.Rows]) -> None:
            for rows in batches:
                assert (book.create_transfers(rows)["status"] == CREATED).all()

        def pay(shares: list[list[workload.Rows]]) -> None:
            list(pool.map(worker, shares))

        measure(pay, prepare, count=threads * requests * EVENTS, rounds=15)


@pytest.mark.parametrize("threads", [1, 8])
def test_single_payments_of_threads(
    measure: Measure, tmp_path: Path, tiny: bool, threads: int
) -> None:
    payments = 1 if tiny else 400  # of each thread in a round
    numbers = iter(range(1_000_000))
    with ledger.open(tmp_path / "book") as book, ThreadPoolExecutor(threads) as pool:
        book.create_many(np.concatenate(list(workload.accounts())))

        def prepare() -> tuple[list[workload.Rows]]:
            return ([workload.transfers(next(numbers))[:payments] for _ in range(threads)],)

        def worker(rows: workload.Rows) -> None:
            for at in range(payments):
                assert book.create_transfers(rows[at : at + 1])["status"][0] == CREATED

        def pay(shares: list[workload.Rows]) -> None:
            list(pool.map(worker, shares))

        measure(pay, prepare, count=threads * payments, rounds=10)


def test_one_large_call(measure: Measure, tmp_path: Path, tiny: bool) -> None:
    requests = 1 if tiny else 50
    numbers = iter(range(1_000_000))
    with ledger.open(tmp_path / "book") as book:
        book.create_many(np.concatenate(list(workload.accounts())))

        def prepare() -> tuple[workload.Rows]:
            return (np.concatenate([workload.transfers(next(numbers)) for _ in range(requests)]),)

        def pay(rows: workload.Rows) -> None:
            assert (book.create_many(rows)["status"] == CREATED).all()

        measure(pay, prepare, count=requests * EVENTS, rounds=10)
