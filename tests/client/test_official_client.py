"""The official client, as it comes from the package registry, against a real server.

Every operation it has is used, by its sync and its async client alike, and what it shows is
compared with what the ledger promises.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tigerbeetle as tb

from chaos.process import Server
from ledger.facts.schema import RUN, JournalKind
from ledger.journal.journal import Journal

CREATED = tb.CreateTransferStatus.CREATED
A, T, D = tb.AccountFlags, tb.TransferFlags, tb.AccountFilterFlags
MANY = 100
ALL = 2**128 - 1  # "as much as there is"


class AsyncCalls:
    """The async client with the sync client's calls."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = tb.ClientAsync(cluster_id=0, replica_addresses=address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *arguments: self._loop.run_until_complete(call(*arguments))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("official") / "book")
    yield server.start()
    server.close()


@pytest.fixture(scope="module", params=["sync", "async"])
def client(request: pytest.FixtureRequest, running: Server) -> Iterator[Any]:
    if request.param == "sync":
        made: Any = tb.ClientSync(cluster_id=0, replica_addresses=running.address)
    else:
        made = AsyncCalls(running.address)
    yield made
    made.close()


def account(flags: int = 0, **fields: Any) -> tb.Account:
    values: dict[str, Any] = dict.fromkeys(tb.Account.__dataclass_fields__, 0)
    values |= {"id": tb.id(), "ledger": 1, "code": 1, "flags": A(flags)}
    return tb.Account(**(values | fields))


def transfer(debit: int = 0, credit: int = 0, amount: int = 0, flags: int = 0, **fields: Any):
    values: dict[str, Any] = dict.fromkeys(tb.Transfer.__dataclass_fields__, 0)
    values |= {"id": tb.id(), "debit_account_id": debit, "credit_account_id": credit}
    values |= {"amount": amount, "ledger": 1, "code": 1, "flags": T(flags)}
    return tb.Transfer(**(values | fields))


def resolution(hold: int, flags: int, amount: int = 0) -> tb.Transfer:
    return transfer(0, 0, amount, flags, pending_id=hold, ledger=0, code=0)


def pair(client: Any, flags: int = 0) -> tuple[int, int]:
    """Ids of two new accounts."""
    made = [account(flags), account(flags)]
    assert statuses(client.create_accounts(made)) == ["CREATED"] * 2
    return made[0].id, made[1].id


def statuses(results: list[Any]) -> list[str]:
    return [result.status.name for result in results]


def make(client: Any, *transfers: tb.Transfer) -> list[str]:
    return statuses(client.create_transfers(list(transfers)))


def balances(client: Any, account: int) -> tuple[int, int, int, int]:
    [found] = client.lookup_accounts([account])
    return found.debits_pending, found.debits_posted, found.credits_pending, found.credits_posted


def account_filter(account: int, **fields: Any) -> tb.AccountFilter:
    values: dict[str, Any] = dict.fromkeys(tb.AccountFilter.__dataclass_fields__, 0)
    values |= {"account_id": account, "limit": MANY, "flags": D.DEBITS | D.CREDITS}
    return tb.AccountFilter(**(values | fields))


def query_filter(**fields: Any) -> tb.QueryFilter:
    values: dict[str, Any] = dict.fromkeys(tb.QueryFilter.__dataclass_fields__, 0)
    return tb.QueryFilter(**(values | {"limit": MANY} | fields))


# ---- creating -----------------------------------------------------------------------------------


def test_accounts_are_created_once_and_found(client: Any) -> None:
    made = account(A.HISTORY, user_data_128=2**127 + 5, user_data_64=2**63 + 1, user_data_32=7)
    [result] = client.create_accounts([made])
    assert result.status == tb.CreateAccountStatus.CREATED
    [again] = client.create_accounts([made])
    assert again.status == tb.CreateAccountStatus.EXISTS and again.timestamp == result.timestamp
    made.timestamp = result.timestamp
    assert client.lookup_accounts([made.id, tb.id()]) == [made]
    assert client.create_accounts([]) == []


def test_transfers_are_created_once_and_found(client: Any) -> None:
    debit, credit = pair(client)
    made = transfer(debit, credit, 2**100, user_data_128=9, user_data_64=8, user_data_32=7)
    [result] = client.create_transfers([made])
    [again] = client.create_transfers([made])
    assert again.status == tb.CreateTransferStatus.EXISTS and again.timestamp == result.timestamp
    made.timestamp = result.timestamp
    assert client.lookup_transfers([made.id, tb.id()]) == [made]
    assert balances(client, debit) == (0, 2**100, 0, 0)
    assert balances(client, credit) == (0, 0, 0, 2**100)


def test_a_chain_is_made_whole_or_not_at_all(client: Any) -> None:
    debit, credit = pair(client)
    good = [transfer(debit, credit, 1, T.LINKED), transfer(debit, credit, 2)]
    broken = [transfer(debit, credit, 4, T.LINKED), transfer(debit, tb.id(), 8, T.LINKED),
              transfer(debit, credit, 16)]  # fmt: skip
    single, last = transfer(debit, credit, 32), transfer(debit, credit, 64, T.LINKED)
    failed = "LINKED_EVENT_FAILED"
    assert make(client, *good, *broken, single, last) == [
        "CREATED", "CREATED", failed, "CREDIT_ACCOUNT_NOT_FOUND", failed, "CREATED",
        "LINKED_EVENT_CHAIN_OPEN",
    ]  # fmt: skip
    assert balances(client, debit)[1] == 1 + 2 + 32
    # What broke the chain is used up, what was rolled back is not.
    broken[0].flags = broken[1].flags = T(0)
    assert make(client, *broken) == ["CREATED", "ID_ALREADY_FAILED", "CREATED"]


def test_holds_are_posted_in_part_or_voided(client: Any) -> None:
    debit, credit = pair(client)
    first, second, third = (transfer(debit, credit, 100, T.PENDING) for _ in range(3))
    assert make(client, first, second, third) == ["CREATED"] * 3
    assert balances(client, debit) == (300, 0, 0, 0)
    assert make(
        client,
        resolution(first.id, T.POST_PENDING_TRANSFER, 30),
        resolution(second.id, T.VOID_PENDING_TRANSFER),
        resolution(third.id, T.POST_PENDING_TRANSFER, ALL),
        resolution(first.id, T.VOID_PENDING_TRANSFER),
    ) == ["CREATED"] * 3 + ["PENDING_TRANSFER_ALREADY_POSTED"]
    assert balances(client, debit) == (0, 130, 0, 0)
    assert balances(client, credit) == (0, 0, 0, 130)


def test_limits_and_balancing_transfers(client: Any) -> None:
    bank, shop = pair(client)
    limited = account(A.DEBITS_MUST_NOT_EXCEED_CREDITS)
    owing = account(A.CREDITS_MUST_NOT_EXCEED_DEBITS)
    client.create_accounts([limited, owing])
    assert make(
        client,
        transfer(bank, limited.id, 100),
        transfer(limited.id, shop, 101),
        transfer(limited.id, shop, ALL, T.BALANCING_DEBIT),
        transfer(limited.id, shop, ALL, T.BALANCING_DEBIT),
        transfer(owing.id, shop, 40),
        transfer(bank, owing.id, 41),
        transfer(bank, owing.id, 50, T.BALANCING_CREDIT | T.PENDING),
    ) == ["CREATED", "EXCEEDS_CREDITS", "CREATED", "CREATED", "CREATED", "EXCEEDS_DEBITS",
          "CREATED"]  # fmt: skip
    assert balances(client, limited.id) == (0, 100, 0, 100)
    assert balances(client, owing.id) == (0, 40, 40, 0)


def test_accounts_close_and_open_again(client: Any) -> None:
    debit, credit = pair(client)
    closing = transfer(debit, credit, 5, T.PENDING | T.CLOSING_DEBIT | T.CLOSING_CREDIT)
    refused = transfer(debit, credit, 1)
    assert make(client, closing, refused) == ["CREATED", "DEBIT_ACCOUNT_ALREADY_CLOSED"]
    assert [bool(found.flags & A.CLOSED) for found in client.lookup_accounts([debit, credit])] == [
        True, True,
    ]  # fmt: skip
    void = resolution(closing.id, T.VOID_PENDING_TRANSFER)
    assert make(client, void, transfer(debit, credit, 1)) == ["CREATED", "CREATED"]
    assert balances(client, debit) == (0, 1, 0, 0)


def test_imported_accounts_and_transfers_keep_their_time(client: Any) -> None:
    newest = query_filter(limit=1, flags=tb.QueryFilterFlags.REVERSED)
    pay = transfer(*pair(client), 1)
    client.create_transfers([pay])
    [last], [base] = client.query_accounts(newest), client.query_transfers(newest)
    base = max(last.timestamp, base.timestamp)
    made = [account(A.IMPORTED, timestamp=base + 10), account(A.IMPORTED, timestamp=base + 20)]
    results = client.create_accounts(made)
    assert statuses(results) == ["CREATED", "CREATED"]
    assert [result.timestamp for result in results] == [base + 10, base + 20]
    old = transfer(made[0].id, made[1].id, 3, T.IMPORTED, timestamp=base + 30)
    older = transfer(made[0].id, made[1].id, 3, T.IMPORTED, timestamp=base + 25)
    plain = transfer(made[0].id, made[1].id, 3)
    assert make(client, old, older, plain) == [
        "CREATED", "IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS", "IMPORTED_EVENT_EXPECTED",
    ]  # fmt: skip
    assert client.lookup_transfers([old.id]) == [old]


def test_a_hold_expires(client: Any) -> None:
    debit, credit = pair(client)
    hold = transfer(debit, credit, 7, T.PENDING, timeout=1)
    assert make(client, hold) == ["CREATED"]
    assert balances(client, debit)[0] == 7
    wait = threading.Event()  # nothing announces an expiry
    while balances(client, debit)[0]:
        wait.wait(0.02)
    late = resolution(hold.id, T.POST_PENDING_TRANSFER, ALL)
    assert make(client, late) == ["PENDING_TRANSFER_EXPIRED"]
    assert balances(client, debit) == balances(client, credit) == (0, 0, 0, 0)


# ---- reading ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(client: Any) -> tuple[int, int, list[tb.Transfer]]:
    """Two accounts with history and ten transfers between them, back and forth."""
    one, two = pair(client, A.HISTORY)
    made = [
        transfer(*((one, two) if n % 2 else (two, one)), n + 1, code=n % 3 + 1,
                 user_data_64=one >> 64, user_data_32=n % 2 + 1) for n in range(10)
    ]  # fmt: skip
    for each, result in zip(made, client.create_transfers(made), strict=True):
        assert result.status == CREATED
        each.timestamp = result.timestamp
    return one, two, made


def test_transfers_of_an_account(client: Any, busy: tuple[int, int, list[tb.Transfer]]) -> None:
    one, _, made = busy
    find = client.get_account_transfers
    assert find(account_filter(one)) == made
    assert find(account_filter(one, flags=D.DEBITS)) == made[1::2]
    assert find(account_filter(one, flags=D.CREDITS | D.REVERSED)) == made[8::-2]
    assert find(account_filter(one, limit=3)) == made[:3]
    assert find(account_filter(one, code=2)) == [t for t in made if t.code == 2]
    some = account_filter(
        one, timestamp_min=made[2].timestamp, timestamp_max=made[5].timestamp, user_data_32=1
    )
    assert find(some) == [t for t in made[2:6] if t.user_data_32 == 1]
    assert find(account_filter(tb.id())) == find(account_filter(one, limit=0)) == []


def test_balances_of_an_account(client: Any, busy: tuple[int, int, list[tb.Transfer]]) -> None:
    one, _, made = busy
    debits = credits = 0
    expected = []
    for each in made:
        debits += each.amount if each.debit_account_id == one else 0
        credits += each.amount if each.credit_account_id == one else 0
        expected.append((each.timestamp, debits, credits))
    shown = [(row.timestamp, row.debits_posted, row.credits_posted)
             for row in client.get_account_balances(account_filter(one))]  # fmt: skip
    assert shown == expected
    newest = client.get_account_balances(account_filter(one, flags=D.DEBITS | D.REVERSED, limit=2))
    assert [row.timestamp for row in newest] == [made[9].timestamp, made[7].timestamp]


def test_queries(client: Any, busy: tuple[int, int, list[tb.Transfer]]) -> None:
    one, _, made = busy
    mark = tb.id() >> 64
    tagged = [account(user_data_64=mark, code=n + 1) for n in range(3)]
    for each, result in zip(tagged, client.create_accounts(tagged), strict=True):
        each.timestamp = result.timestamp
    newest_first = {"flags": tb.QueryFilterFlags.REVERSED}
    find = client.query_accounts
    assert find(query_filter(user_data_64=mark)) == tagged
    assert find(query_filter(user_data_64=mark, **newest_first)) == tagged[::-1]
    assert find(query_filter(user_data_64=mark, code=2)) == tagged[1:2]
    assert find(query_filter(user_data_64=mark, ledger=2)) == []

    mine = {"user_data_64": one >> 64}
    assert client.query_transfers(query_filter(**mine)) == made
    assert client.query_transfers(query_filter(**mine, limit=4, **newest_first)) == made[:5:-1]
    assert client.query_transfers(query_filter(**mine, user_data_32=2)) == made[1::2]
    late = query_filter(**mine, timestamp_min=made[7].timestamp)
    assert client.query_transfers(late) == made[7:]


# ---- many, and as much as there may be ----------------------------------------------------------


def test_calls_of_many_threads_share_requests(running: Server, client: Any) -> None:
    """The client merges what waits into one request of several batches."""
    debit, credit = pair(client)
    with ThreadPoolExecutor(32) as pool, tb.ClientSync(0, running.address) as shared:

        def pay(number: int) -> list[str]:
            wrong = transfer(debit, tb.id(), 1)
            chain = [transfer(debit, credit, 1, T.LINKED) for _ in range(number % 3)]
            return make(shared, *chain, transfer(debit, credit, 1), wrong)

        answers = list(pool.map(pay, range(320)))
    for number, answer in enumerate(answers):
        assert answer == ["CREATED"] * (number % 3 + 1) + ["CREDIT_ACCOUNT_NOT_FOUND"]
    assert balances(client, debit)[1] == sum(number % 3 + 1 for number in range(320))
    assert merged_requests(running) > 0, "the client merged nothing: this test shows nothing"


def merged_requests(running: Server) -> int:
    """How many requests of several batches the journal holds."""
    found = 0
    with Journal.open(running.directory, readonly=True, locked=False) as journal:
        for _, body in journal.read():
            at = 0
            while at < len(body):
                run = np.frombuffer(body, RUN, 1, at)[0]
                found += bool(run["kind"] == JournalKind.BATCH)
                at += RUN.itemsize + int(run["bytes"])
            del body
    return found


def test_several_clients_at_once(running: Server, client: Any) -> None:
    debit, credit = pair(client)

    async def pay(clients: int, calls: int) -> None:
        made = [tb.ClientAsync(0, running.address) for _ in range(clients)]
        jobs = [each.create_transfers([transfer(debit, credit, 1)])
                for _ in range(calls) for each in made]  # fmt: skip
        for answer in await asyncio.gather(*jobs):
            assert statuses(answer) == ["CREATED"]
        for each in made:
            await each.close()

    asyncio.run(pay(clients=5, calls=40))
    assert balances(client, debit) == (0, 200, 0, 0)


def test_as_many_events_as_a_request_holds(client: Any) -> None:
    debit, credit = pair(client)
    made = [transfer(debit, credit, 1) for _ in range(8189)]
    assert make(client, *made) == ["CREATED"] * 8189
    assert len(client.lookup_transfers([each.id for each in made])) == 8189
    assert len(client.get_account_transfers(account_filter(debit, limit=8189))) == 8189
    with pytest.raises(tb.TooMuchDataError):
        client.create_transfers([*made, transfer(debit, credit, 1)])
    assert balances(client, debit)[1] == 8189
