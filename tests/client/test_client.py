"""The client against a real server process: every call, many at once, and everything that breaks.

Servers are killed, stopped, replaced by an empty one, and cut off in the middle of a frame; what a
call returns must be what the ledger did. A proxy of real sockets does the cutting.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chaos.process import Server
from ledger.client import connection
from ledger.client.client import AsyncClient, Client, new_loop
from ledger.facts import schema
from ledger.facts.errors import Busy, LedgerError, OutcomeUnknown, SessionEvicted, WrongProcess
from ledger.facts.schema import Account, AccountFilter, QueryFilter, Transfer, TransferStatus

Start = Callable[..., Server]
CREATED = TransferStatus.CREATED


def transfer(number: int, **fields: int) -> Transfer:
    values = {"debit_account_id": 1, "credit_account_id": 2, "amount": 1, "ledger": 1, "code": 1}
    return Transfer(id=number, **(values | fields))


def transfers(first: int, count: int) -> np.ndarray:
    rows = np.zeros(count, schema.TRANSFER)
    rows["id"][:, 0] = np.arange(first, first + count)
    rows["debit_account_id"][:, 0], rows["credit_account_id"][:, 0] = 1, 2
    rows["amount"][:, 0] = rows["ledger"] = rows["code"] = 1
    return rows


def accounts() -> list[Account]:
    return [Account(id=number, ledger=1, code=1, flags=8) for number in (1, 2)]


def posted(client: Client) -> int:
    return int(client.lookup_accounts([1])["debits_posted"][0, 0])


# ---- calls --------------------------------------------------------------------------------------


def test_every_call(server: Start) -> None:
    with Client(server().address) as client:
        created = client.create_accounts(accounts())
        assert created.dtype == schema.CREATE_RESULT
        assert created["status"].tolist() == [schema.AccountStatus.CREATED] * 2
        made = client.create_transfers([transfer(10), transfer(11, amount=5), transfer(10)])
        assert made["status"].tolist() == [CREATED, CREATED, TransferStatus.EXISTS]
        assert made["timestamp"][0] < made["timestamp"][1]

        rows = client.lookup_accounts([2, 99, 1])
        assert rows.dtype == schema.ACCOUNT and rows["id"][:, 0].tolist() == [2, 1]
        assert rows["credits_posted"][0, 0] == rows["debits_posted"][1, 0] == 6
        assert client.lookup_transfers([11])["amount"][0, 0] == 5
        filter = AccountFilter(account_id=1, limit=10, flags=3)
        assert client.get_account_transfers(filter)["id"][:, 0].tolist() == [10, 11]
        balances = client.get_account_balances(filter)
        assert balances.dtype == schema.ACCOUNT_BALANCE
        assert balances["debits_posted"][:, 0].tolist() == [1, 6]
        assert len(client.query_accounts(QueryFilter(ledger=1, limit=10))) == 2
        newest = client.query_transfers(QueryFilter(ledger=1, limit=1, flags=1))
        assert newest["id"][:, 0].tolist() == [11]
        assert client.lookup_accounts([77]).shape == (0,)
        assert client.position > 0


def test_records_may_come_as_structs_arrays_or_bytes(server: Start) -> None:
    with Client(server().address) as client:
        client.create_accounts(schema.pack_accounts(accounts()).tobytes())
        client.create_transfers([transfer(10)])
        client.create_transfers(transfers(11, 1))
        client.create_transfers(memoryview(transfers(12, 1).tobytes()))
        ids = np.array([[10, 0], [11, 0], [12, 0]], np.uint64)
        for form in (ids, ids.tobytes(), [10, 11, 12], schema.pack_ids([10, 11, 12])):
            assert client.lookup_transfers(form)["id"][:, 0].tolist() == [10, 11, 12]
        assert len(client.query_accounts(schema.pack_query_filters([QueryFilter(limit=9)]))) == 2


@pytest.mark.parametrize(
    ("call", "value", "message"),
    [
        ("create_transfers", b"abc", "3 bytes are not whole records of 128"),
        ("create_transfers", [Account()], r"transfers\[0\]: an Account, not a Transfer"),
        ("create_transfers", [Transfer(code=1 << 16)], r"transfers\[0\].code"),
        ("create_transfers", 7, "transfers: an int is no Transfer"),
        ("create_transfers", np.zeros(8190, schema.TRANSFER), "8190 events are more than one"),
        ("create_transfers", np.zeros(3, schema.ACCOUNT), "is no row of"),
        ("create_many", b"", "neither accounts nor transfers"),
        ("lookup_accounts", [-1], r"ids\[0\]: -1 is not within"),
        ("get_account_transfers", [AccountFilter()] * 2, "exactly one, not 2"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    call: str, value: object, message: str
) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match=message):
        getattr(client, call)(value)


@pytest.mark.parametrize("address", ["", "localhost", ":3000", "h:0", "h:65536", "h:x"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        AsyncClient(address)


def test_create_many_cuts_where_chains_end_and_keeps_order(server: Start) -> None:
    rows = transfers(1000, 30_000)
    rows["flags"][8_000:8_400] = schema.TransferFlags.LINKED  # 8,000 .. 8,400 is one chain
    rows["ledger"][8_200] = 2  # which fails
    rows["flags"][29_000:] = schema.TransferFlags.LINKED  # left open
    with Client(server().address) as client:
        client.create_many(accounts())
        status = client.create_many(rows)["status"]
        assert len(status) == 30_000
        wrong = TransferStatus.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS
        expected = np.full(30_000, CREATED, np.uint32)
        expected[8_000:8_401] = TransferStatus.LINKED_EVENT_FAILED
        expected[8_200] = wrong
        expected[29_000:] = TransferStatus.LINKED_EVENT_FAILED
        expected[29_999] = TransferStatus.LINKED_EVENT_CHAIN_OPEN
        assert np.array_equal(status, expected)
        assert posted(client) == 30_000 - 401 - 1_000
        assert client.create_many(rows[:0]).shape == (0,)


def test_a_chain_longer_than_a_request_is_refused_whole(server: Start) -> None:
    rows = transfers(1000, 20_000)
    rows["flags"][9_000:18_000] = schema.TransferFlags.LINKED
    with Client(server().address) as client:
        client.create_accounts(accounts())
        with pytest.raises(ValueError, match=r"records\[9000\]: a chain of more than 8189"):
            client.create_many(rows)
        assert posted(client) == 0


# ---- many at once -------------------------------------------------------------------------------


def test_many_calls_share_few_sessions(server: Start) -> None:
    async def run(address: str) -> None:
        async with AsyncClient(address, sessions=4) as client:
            await client.create_accounts(accounts())
            answers = await asyncio.gather(
                *(client.create_transfers(transfers(10 * n, n % 7 + 1)) for n in range(1, 501))
            )
            for n, answer in enumerate(answers, 1):
                assert answer["status"].tolist() == [CREATED] * (n % 7 + 1)

    asyncio.run(run(server().address))


def test_threads_share_a_client(server: Start) -> None:
    with Client(server().address) as client, ThreadPoolExecutor(8) as pool:
        client.create_accounts(accounts())

        def pay(first: int) -> list[int]:
            return [int(client.create_transfers([transfer(first + n)])["status"][0])
                    for n in range(50)]

        statuses = [status for one in pool.map(pay, range(1000, 9000, 1000)) for status in one]
        assert statuses == [CREATED] * 400
        assert posted(client) == 400


# ---- what breaks --------------------------------------------------------------------------------


def test_nobody_there_is_a_connection_error() -> None:
    with Client("127.0.0.1:1", timeout=0.2) as client, pytest.raises(
        ConnectionError, match=r"no answer within 0\.2 s \(.*; nothing was executed"
    ):
        client.lookup_accounts([1])


def test_a_connection_made_as_its_time_is_over_is_made_again(
    server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop then closes the transport without a word to its protocol; to write to it raises."""
    late: list[asyncio.Task[np.ndarray]] = []

    async def calls() -> None:
        async with AsyncClient(server().address, sessions=2) as client:

            async def call_after() -> np.ndarray:
                await asyncio.sleep(0.01)
                return await client.lookup_accounts([2])

            def prepare(sock: object) -> None:
                if not late:
                    time.sleep(0.2)
                    late.append(asyncio.ensure_future(call_after()))

            monkeypatch.setattr(connection, "prepare", prepare)
            assert (await client.lookup_accounts([1])).size == 0
            assert (await late[0]).size == 0

    monkeypatch.setattr(connection, "CONNECT_SECONDS_MAX", 0.1)
    monkeypatch.setattr(connection, "RECONNECT_SECONDS_MIN", 0.5)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(calls())


def test_another_cluster_is_told_early(server: Start) -> None:
    with Client(server(cluster=5).address, cluster=6) as client, pytest.raises(
        ConnectionError, match="is it a server of cluster 6"
    ):
        client.lookup_accounts([1])


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_calls_under_way_survive_a_restart_exactly_once(server: Start, how: str) -> None:
    one = server()

    async def run() -> list[int]:
        async with AsyncClient(one.address, sessions=8) as client:
            await client.create_accounts(accounts())
            statuses: list[int] = []
            third = asyncio.Event()

            async def pay(first: int) -> None:
                for n in range(100):
                    answer = await client.create_transfers([transfer(first + n)])
                    statuses.append(int(answer["status"][0]))
                    if len(statuses) > 300:
                        third.set()

            async def restart() -> None:
                await third.wait()
                await asyncio.to_thread(getattr(one, how))
                await asyncio.to_thread(one.restart)

            await asyncio.gather(restart(), *(pay(1000 * n) for n in range(1, 11)))
            assert (await client.lookup_accounts([1]))["debits_posted"][0, 0] == 1000
        return statuses

    # The same sessions go on, so a request that was executed before the end is not EXISTS now.
    assert asyncio.run(run()) == [CREATED] * 1000


def test_a_call_given_up_is_unknown_and_its_late_reply_is_nobodys(server: Start) -> None:
    one = server()
    with Client(one.address, sessions=1, timeout=0.5) as client:
        client.create_accounts(accounts())
        client.create_transfers([transfer(9)])
        one.pause()
        with pytest.raises(OutcomeUnknown, match="outcome unknown, retry with the same ids"):
            client.create_transfers(transfers(10, 3))
        one.resume()
        again = client.create_transfers(transfers(10, 3))["status"]
        assert set(again.tolist()) <= {CREATED, TransferStatus.EXISTS} and len(again) == 3
        for n in range(20, 60):
            assert client.create_transfers([transfer(n)])["status"].tolist() == [CREATED]
        assert posted(client) == 44


def test_no_session_free_in_time_is_busy(server: Start) -> None:
    one = server()

    async def run() -> None:
        async with AsyncClient(one.address, sessions=1, timeout=0.3) as client:
            await client.lookup_accounts([1])
            one.pause()
            first = asyncio.create_task(client.lookup_accounts([1]))
            await asyncio.sleep(0)
            second = asyncio.create_task(client.lookup_accounts([1]))
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert isinstance(results[0], OutcomeUnknown) and isinstance(results[1], Busy)

    asyncio.run(run())
    one.resume()


def test_a_cancelled_call_leaves_the_others_their_own_answers(server: Start) -> None:
    async def run(address: str) -> None:
        async with AsyncClient(address, sessions=2) as client:
            await client.create_accounts(accounts())
            for n in range(100):
                doomed = asyncio.create_task(client.create_transfers(transfers(1000 + 10 * n, 5)))
                await asyncio.sleep(0)
                doomed.cancel()
                answer = await client.create_transfers(transfers(5000 + n, 1))
                assert answer["status"].tolist() == [CREATED]
                with pytest.raises(asyncio.CancelledError):
                    await doomed

    asyncio.run(run(server().address))


def test_a_server_that_lost_its_history_evicts_the_client(server: Start) -> None:
    one = server()
    with Client(one.address) as client:
        client.create_accounts(accounts())
        one.kill()
        one.directory = one.directory.with_name("empty")
        one.restart()
        for _ in range(2):
            with pytest.raises(SessionEvicted, match="no_session") as caught:
                client.create_transfers([transfer(1)])
            assert caught.value.reason == "no_session"
    with Client(one.address) as client:
        assert len(client.lookup_accounts([1])) == 0


class Proxy:
    """Passes bytes on, and ruins one connection after another: `ruin(connection, reply bytes)`."""

    def __init__(self, target: str, ruin: Callable[[int, bytes], bytes | None]) -> None:
        self.target = target
        self.ruin = ruin
        self.connections = 0

    async def __aenter__(self) -> str:
        self.listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.listener.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        host, port = self.target.split(":")
        there, back = await asyncio.open_connection(host, int(port))
        forward = asyncio.create_task(self._pass(reader, back, lambda chunk: chunk))
        await self._pass(there, writer, lambda chunk: self.ruin(number, chunk))
        forward.cancel()
        back.transport.abort()
        writer.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter,
                    change: Callable[[bytes], bytes | None]) -> None:
        while chunk := await source.read(1 << 16):
            changed = change(chunk)
            sink.write(changed if changed is not None else chunk[: len(chunk) // 2])
            if changed is None:
                return


def cut(number: int, chunk: bytes) -> bytes | None:
    return None if number % 2 else chunk


def flip(number: int, chunk: bytes) -> bytes | None:
    return bytes([chunk[0] ^ 1]) + chunk[1:] if number % 2 else chunk


@pytest.mark.parametrize("ruin", [cut, flip])
def test_replies_cut_or_flipped_on_the_way_are_asked_for_again(
    server: Start, ruin: Callable[[int, bytes], bytes | None]
) -> None:
    one = server()

    async def run() -> None:
        limit = 3

        def ruined(number: int, chunk: bytes) -> bytes | None:
            return ruin(number, chunk) if number <= 2 * limit else chunk

        proxy = Proxy(one.address, ruined)
        async with proxy as address, AsyncClient(address, sessions=4) as client:
            await client.create_accounts(accounts())
            statuses = await asyncio.gather(
                *(client.create_transfers([transfer(n)]) for n in range(10, 60))
            )
            assert [int(one["status"][0]) for one in statuses] == [CREATED] * 50
            assert proxy.connections > 1

    asyncio.run(run())


def test_a_reply_that_comes_again_is_not_taken_for_the_next(server: Start) -> None:
    one = server()

    async def run() -> None:
        last = [b""]

        def again(number: int, chunk: bytes) -> bytes:
            before, last[0] = last[0], chunk
            return before + chunk

        proxy = Proxy(one.address, again)
        async with proxy as address, AsyncClient(address, sessions=1) as client:
            await client.create_accounts(accounts())
            for n in range(10, 110):
                count = n % 5 + 1
                assert len(await client.create_transfers(transfers(10 * n, count))) == count
                rows = await client.lookup_transfers([10 * n])
                assert rows["id"][:, 0].tolist() == [10 * n]

    asyncio.run(run())


def test_closing_ends_what_is_under_way(server: Start) -> None:
    one = server()
    client = Client(one.address)
    client.create_accounts(accounts())
    one.pause()
    begun = threading.Event()
    caught: list[BaseException] = []

    def ask() -> None:
        begun.set()
        try:
            client.create_transfers([transfer(1)])
        except (LedgerError, ValueError) as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    begun.wait()
    client.close()
    thread.join()
    one.resume()
    assert isinstance(caught[0], LedgerError) or "the client is closed" in str(caught[0])
    with pytest.raises(ValueError, match="the client is closed"):
        client.lookup_accounts([1])
    client.close()


def test_a_client_is_of_one_process(server: Start) -> None:
    with Client(server().address) as client:
        client.lookup_accounts([1])
        child = os.fork()
        if child == 0:
            try:
                client.lookup_accounts([1])
            except WrongProcess:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# ---- where it is called --------------------------------------------------------------------------


def test_an_async_client_is_called_in_one_loop_alone(server: Start) -> None:
    """In another one its request would be sent and executed, and its caller told of an error."""
    address = server().address

    async def run() -> None:
        async with AsyncClient(address) as client:
            await client.create_accounts(accounts())
            for ask in (
                lambda: client.create_transfers([transfer(1)]),
                lambda: client.create_many([transfer(2)]),
                client.close,
            ):
                with pytest.raises(RuntimeError, match="nothing was sent"):
                    await asyncio.to_thread(lambda ask=ask: asyncio.run(ask()))
            assert len(await client.lookup_transfers([1, 2])) == 0

    asyncio.run(run())


def test_a_finalizer_in_the_client_s_thread_gets_a_clear_error(server: Start) -> None:
    said: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            client.lookup_accounts([1])
        except RuntimeError as error:
            said.append(str(error))
        done.set()

    with Client(server().address) as client:
        client.create_accounts(accounts())
        client._service.loop.call_soon_threadsafe(ask)
        assert done.wait(30)
        assert said and said[0].startswith("called from inside a call")
        assert posted(client) == 0


def test_every_call_ends_when_another_thread_closes_the_client(server: Start) -> None:
    address = server().address
    numbers = itertools.count(1)
    with Client(address) as client:
        client.create_accounts(accounts())
    for _ in range(10):
        client = Client(address)
        began = threading.Semaphore(0)

        def pay(client: Client = client, began: threading.Semaphore = began) -> None:
            with contextlib.suppress(LedgerError, ConnectionError):
                while True:
                    began.release()
                    client.create_transfers(transfers(next(numbers) * 1_000, 500))

        payers = [threading.Thread(target=pay, daemon=True) for _ in range(12)]
        for payer in payers:
            payer.start()
        for _ in range(24):
            began.acquire()
        client.close()
        for payer in payers:
            payer.join(30)
        assert not [payer for payer in payers if payer.is_alive()]


def test_a_dropped_client_ends_its_thread_with_a_warning(server: Start) -> None:
    client = Client(server().address)
    client.create_accounts(accounts())
    thread = client._service.thread
    with pytest.warns(ResourceWarning, match="dropped and not closed"):
        del client
    thread.join(30)
    assert not thread.is_alive()


def test_a_signal_handler_may_call_the_client_inside_a_call(server: Start) -> None:
    handled: list[int] = []
    with Client(server().address) as client:
        client.create_accounts(accounts())
        again = threading.Semaphore()

        def handle(*_: object) -> None:
            handled.append(len(client.lookup_accounts([1])))
            again.release()

        def interrupt() -> None:
            for _ in range(10):
                again.acquire()
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            while len(handled) < 10:
                assert len(client.lookup_accounts([1, 2])) == 2
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)
    assert set(handled) == {1}


def test_a_timeout_of_0_sends_and_does_not_wait(server: Start) -> None:
    with Client(server().address) as client:
        with pytest.raises(ConnectionError, match="nothing was executed"):
            client.create_accounts(accounts(), timeout=0)
        client.create_accounts(accounts())
        with pytest.raises(OutcomeUnknown):
            client.create_transfers([transfer(10)], timeout=0)
        assert len(client.lookup_transfers([10])) == 1
