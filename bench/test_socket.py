"""How many payments a second a real server takes over loopback, durably, from our own clients.

The server is a process of its own with a new book on the disk of tmp_path. Single payments come
from the load generator, whose sessions cost nothing in Python; batches from Client and AsyncClient
as a program would send them. It knows nothing of what happens inside the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from bench import workload
from bench.conftest import Measure
from bench.workload import CREATED, EVENTS
from ledger import load
from ledger.client import AsyncClient, Client, new_loop
from tests.conftest import Server

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
    measure: Measure, server: Start, tiny: bool, sessions: int
) -> None:
    transfers = sessions if tiny else min(200_000, sessions * 1_000)
    address = server().address
    seeds = iter(range(1_000))

    def prepare() -> tuple[load.Options]:
        options = load.Options(
            address=address,
            accounts=workload.ACCOUNTS,
            transfers=transfers,
            batch=1,
            sessions=sessions,
            id_order="random",
            seed=next(seeds),
        )
        return (options,)

    def pay(options: load.Options) -> None:
        report = load.run(options)
        assert report.accepted == transfers, report

    measure(pay, prepare, count=transfers, rounds=3)
