"""How many payments a second a real server takes over loopback, durably, from our own clients.

The server is a process of its own with a new book on the disk of tmp_path. Single payments come
from the load generator, whose sessions cost nothing in Python; batches from Client and AsyncClient
as a program would send them. It knows nothing of what happens inside the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import workload
from bench.conftest import Measure
from bench.workload import ACCOUNTS, CREATED, EVENTS
from chaos.process import Server
from ledger.client.client import AsyncClient, Client, new_loop
from ledger.load import run

Start = Callable[..., Server]


def test_full_requests_one_after_the_other(measure: Measure, server: Start) -> None:
    with Client(server().address) as client:
        client.create_many(np.concatenate(list(workload.accounts())))
        numbers = iter(range(1_000_000))

        def pay(rows: workload.Rows) -> None:
            assert (client.create_transfers(rows)["status"] == CREATED).all()

        measure(pay, lambda: (workload.transfers(next(numbers)),), count=EVENTS, rounds=100)


def test_full_requests_from_eight_sessions(measure: Measure, server: Start, tiny: bool) -> None:
    requests = 2 if tiny else 64
    with Client(server().address, sessions=8) as client:
        client.create_many(np.concatenate(list(workload.accounts())))
        numbers = iter(range(1_000_000))

        def prepare() -> tuple[workload.Rows]:
            return (np.concatenate([workload.transfers(next(numbers)) for _ in range(requests)]),)

        def pay(rows: workload.Rows) -> None:
            assert (client.create_many(rows)["status"] == CREATED).all()

        measure(pay, prepare, count=requests * EVENTS, rounds=3)


def test_singles_of_many_callers_in_python(measure: Measure, server: Start, tiny: bool) -> None:
    """Each caller waits for its payment before its next one, as a web server's requests do."""
    callers, payments = (8, 16) if tiny else (256, 5_120)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        client = AsyncClient(server().address, sessions=callers)

        async def begin() -> None:
            await client.create_many(np.concatenate(list(workload.accounts())))

        async def pay(rows: workload.Rows) -> None:
            async def caller(first: int) -> None:
                for place in range(first, payments, callers):
                    [result] = await client.create_transfers(rows[place : place + 1])
                    assert result["status"] == CREATED

            await asyncio.gather(*map(caller, range(callers)))

        runner.run(begin())
        numbers = iter(range(1_000_000))
        measure(
            lambda rows: runner.run(pay(rows)),
            lambda: (workload.transfers(next(numbers), payments),),
            count=payments,
            rounds=5,
        )
        runner.run(client.close())


@pytest.mark.parametrize("sessions", [1, 64, 1_000], ids="{} sessions".format)
def test_singles_of_the_load_generator(
    benchmark: BenchmarkFixture, measure: Measure, server: Start, tiny: bool, sessions: int
) -> None:
    """The rate and the latencies are the generator's, of its payments without the accounts."""
    transfers = sessions if tiny else min(200_000, sessions * 1_000)
    address = server().address
    seeds = iter(range(1_000))
    reports: list[run.Report] = []

    def prepare() -> tuple[run.Options]:
        options = run.Options(
            address=address,
            accounts=min(ACCOUNTS, 10 * sessions),
            transfers=transfers,
            batch=1,
            sessions=sessions,
            id_order="random",
            seed=next(seeds),
        )
        return (options,)

    def pay(options: run.Options) -> None:
        reports.append(run.run(options))
        assert reports[-1].ok and reports[-1].accepted == transfers, reports[-1]

    def rate() -> float:
        return median(report.payments_per_second for report in reports)

    measure(pay, prepare, count=transfers, rounds=3, rate=rate)
    benchmark.extra_info["us p50"] = median(report.latency.p50_ns // 1000 for report in reports)
    benchmark.extra_info["us p99"] = median(report.latency.p99_ns // 1000 for report in reports)
