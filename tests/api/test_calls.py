"""Arguments of the calls: what is wrong is a ValueError that says what, before anything is done.

Also what a type checker says of a wrong kind, and what `import *` brings along.
"""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from mypy import api as mypy

import ledger
from tests.support.book_calls import CREATED, account, call, fill, held, pay, rows, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def book():
    with ledger.open_temporary() as book:
        book.create_accounts([account(1), account(2)])
        yield book


# ---- values of fields, ids -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([5]), r"array\(\[5\]\)"),
        (np.array([1, 2]), r"array\(\[1, 2\]\)"),
        (True, "True is not an integer"),
        (np.True_, "np.True_ is not an integer"),
        (5.0, "5.0 is not an integer"),
        (Decimal(5), r"Decimal\('5'\) is not an integer"),
        ("5", "'5' is not an integer"),
        (None, "None is not an integer"),
        (2**128, f"{2**128} is not within"),
        (-1, "-1 is not within"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_record_and_field(book, value, said):
    position = book.position
    for field in ("amount", "id", "user_data_128"):
        with pytest.raises(ValueError, match=rf"transfers\[1\]\.{field}: {said}"):
            book.create_transfers([pay(1), ledger.Transfer(**{field: value})])
    with pytest.raises(ValueError, match=rf"accounts\[0\]\.code: {said}.* 0 \.\. 2\^16-1"):
        book.create_accounts([account(9, code=value)])
    with pytest.raises(ValueError, match=rf"ids\[1\]: {said}"):
        book.lookup_accounts([1, value])
    with pytest.raises(ValueError, match=rf"u128: {said}"):
        ledger.u128(value)
    assert book.position == position


def test_a_long_value_is_told_in_short(book):
    with pytest.raises(ValueError, match=r"amount: .{0,110} is not an integer"):
        book.create_transfers([pay(1, amount="x" * 100_000)])


def test_integers_of_numpy_and_rows_of_ids_are_numbers(book):
    [row] = ledger.ids(1)
    amount = np.int64(7)
    payment = pay(row, amount=amount, code=np.uint16(3), debit_account_id=np.array([1, 0], "<u8"))
    assert book.create_transfers([payment])["status"].tolist() == [CREATED]
    for asked in ([row], [ledger.int_of(row)], ledger.int_of(row), row.reshape(1, 2)):
        [found] = book.lookup_transfers(asked)
        assert (ledger.int_of(found["amount"]), found["code"]) == (7, 3)
    assert len(book.lookup_accounts([np.int64(1), 2])) == 2
    assert len(book.lookup_accounts(np.int64(1))) == 1


@pytest.mark.parametrize("asked", [np.array([1, 2], np.uint64), np.array([1, 2, 3])])
def test_an_array_that_may_be_one_id_or_several_is_refused_with_what_to_give(book, asked):
    with pytest.raises(ValueError, match=r"a list of integers, or uint64 of shape \(n, 2\)"):
        book.lookup_accounts(asked)


def test_too_many_ids_are_asked_for_in_parts(book):
    with pytest.raises(ValueError, match=r"8190 events .*, 8189: ask for them in parts"):
        book.lookup_accounts(list(range(8190)))
    with pytest.raises(ValueError, match=r"8190 events .*, 8189: create_many splits them"):
        book.create_transfers(np.zeros(8190, ledger.TRANSFER))


@pytest.mark.parametrize(
    "records", [np.zeros(3), np.zeros(0), b"", "", {}, None, np.zeros((2, 2), ledger.TRANSFER)]
)
def test_create_many_takes_accounts_or_transfers(book, records):
    with pytest.raises(ValueError, match=r"neither accounts nor transfers|is no row of"):
        book.create_many(records)
    assert len(book.create_many(())) == 0


# ---- cluster, address, path, timeout -------------------------------------------------------------

NO_CLUSTERS = ["prod", -1, 2**128, 1.0, None, True]


@pytest.mark.parametrize("cluster", NO_CLUSTERS)
def test_a_cluster_is_a_number(tmp_path, cluster):
    async def loop() -> None:
        async with ledger.open_async(tmp_path / "book", cluster):
            raise AssertionError

    for make in (
        lambda: ledger.open(tmp_path / "book", cluster),
        lambda: asyncio.run(loop()),
        lambda: ledger.Client("127.0.0.1:3000", cluster),
        lambda: ledger.AsyncClient("127.0.0.1:3000", cluster),
    ):
        with pytest.raises(ValueError, match=r"cluster: .* is not "):
            make()
    assert not (tmp_path / "book").exists()


@pytest.mark.parametrize("address", [3000, None, b"127.0.0.1:3000", "3000", ":3000", "host:"])
def test_an_address_is_a_host_and_a_port(address):
    for client in (ledger.Client, ledger.AsyncClient):
        with pytest.raises(ValueError, match="is not HOST:PORT"):
            client(address)


@pytest.mark.parametrize("sessions", [0, -1, "8", 1.5, None, 10**6])
def test_sessions_are_a_number(sessions):
    with pytest.raises(ValueError, match="sessions: "):
        ledger.Client("127.0.0.1:3000", sessions=sessions)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "'' names no directory"),
        (5, "5 names no directory"),
        (None, "None names no directory"),
        (":memory:", r"ledger.open_temporary\(\)"),
        ("with\0nul", "null"),
    ],
)
def test_a_path_names_a_directory(tmp_path, monkeypatch, path, why):
    async def loop() -> None:
        async with ledger.open_async(path):
            raise AssertionError

    monkeypatch.chdir(tmp_path)
    for make in (lambda: ledger.open(path), lambda: asyncio.run(loop())):
        with pytest.raises(ValueError, match=why):
            make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "x" * 250])
def test_a_name_that_is_too_long_is_no_directory_to_write(tmp_path, path):
    with pytest.raises(ledger.DirectoryNotWritable, match="File name too long"):
        ledger.open(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


NO_TIMEOUTS = ["5", -1, -0.001, math.nan, -math.inf, True, [1], 1j, -(10**400)]


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
def test_a_timeout_is_a_number_of_seconds(book, timeout):
    for ask in (
        lambda: book.lookup_accounts([1], timeout=timeout),
        lambda: book.create_transfers([pay(1)], timeout=timeout),
        lambda: list(book.iter_query_accounts(ledger.QueryFilter(), timeout=timeout)),
        lambda: ledger.Client("127.0.0.1:3000", timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout: "):
            ask()


FOR_EVER = [math.inf, 1e300, 10**12, np.float64(math.inf)]
FOR_EVER += [10**400, Fraction(10**400, 3)]


@pytest.mark.parametrize("timeout", FOR_EVER)
def test_an_infinite_timeout_waits_for_ever_also_under_load(timeout):
    """Only a call that finds no room waits, so only under load did the clock see the number."""
    with ledger.open_temporary() as book:
        book.create_accounts([account(1), account(2)])
        with held(book) as event:
            waiting = fill(book)
            waiting.append(call(book.create_transfers, rows(range(50_000, 58_189)), timeout))
            until(book, lambda: book._engine._refused or waiting[-1][1])
            event.set()
            for thread, _ in waiting:
                thread.join()
        assert all(set(got[0]["status"].tolist()) == {CREATED} for _, got in waiting), waiting


@pytest.mark.parametrize("timeout", FOR_EVER)
def test_a_client_waits_for_ever_too(server, timeout):
    with ledger.Client(server().address, timeout=timeout) as client:
        assert len(client.create_accounts([account(1)], timeout=timeout)) == 1
        assert len(client.lookup_accounts([1])) == 1


# ---- what tools see ------------------------------------------------------------------------------


def test_import_star_hides_nothing_of_pythons():
    names: dict[str, object] = {}
    exec("from ledger import *", names)
    assert {"open", "id", "ids"}.isdisjoint(names)
    assert {"Book", "Transfer", "open_temporary", "columns"} <= set(names)
    assert sorted(ledger.__all__) == sorted(set(ledger.__all__))
    assert all(hasattr(ledger, name) for name in ["open", "id", "ids", *ledger.__all__])


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (ledger.Transfer, "amount: u128 -- in the ledger's smallest unit"),
        (ledger.Account, "ledger: u32 -- what is counted (a currency)"),
        (ledger.AccountFilter, "timestamp_max: u64 -- inclusive; 0 for open"),
        (ledger.AccountBalance, "debits_posted: u128 -- right after the transfer"),
        (ledger.TransferFlags, "LINKED: succeeds or fails with the next event"),
    ],
)
def test_help_tells_of_each_field(thing, said):
    assert said in thing.__doc__
    stub = (ROOT / "ledger" / "facts" / "schema.pyi").read_text()
    assert said in stub.partition(f"class {thing.__name__}(")[2].partition("\nclass ")[0]


# The numbers of the lines that a type checker must not accept, each with its reason.
PROGRAM = '''
import ledger
import numpy as np

payment = ledger.Transfer(id=1, debit_account_id=1, credit_account_id=2, amount=5)
book = ledger.open("books/main")
book.create_transfers([payment])
book.create_transfers(payment)
book.create_transfers(ledger.rows([payment]))
book.create_transfers(np.zeros(3, ledger.TRANSFER))
book.create_many([payment])
book.lookup_transfers([1, 2])
book.lookup_transfers(ledger.ids(2))
book.lookup_transfers([ledger.ids(1)[0], ledger.id()])
filter = ledger.AccountFilter(account_id=1, limit=5, flags=ledger.AccountFilterFlags.DEBITS)
for page in book.iter_account_transfers(filter):
    print(ledger.ints(page["id"]), ledger.columns(page, str), len(page))
ledger.raise_for_status(book.create_transfers([payment]), [payment])
with ledger.open_temporary() as temporary, ledger.Client("127.0.0.1:3000") as client:
    client.create_transfers([payment])["status"].tolist()

async def pays(book: ledger.AsyncBook, client: ledger.AsyncClient) -> None:
    results = await book.create_transfers([payment], timeout=5)
    print(results["status"])
    async for page in client.iter_account_transfers(filter):
        print(page["id"])

book.create_accounts([payment])  # red: a transfer is no account
book.create_transfers(["1"])  # red: text
book.create_transfers(7)  # red: a number
book.lookup_accounts(["1"])  # red: text
book.lookup_accounts([payment])  # red: a record
book.get_account_transfers(ledger.QueryFilter(limit=1))  # red: the other filter
book.query_accounts(filter)  # red: the other filter
book.create_many("1")  # red: text
book.lookup_accounts([1], timeout="5")  # red: text
ledger.Transfer(amount="5")  # red: text
ledger.Transfer(amounts=5)  # red: no such field
ledger.open(5)  # red: a number
ledger.Client(3000)  # red: a number

async def forgets(book: ledger.AsyncBook, client: ledger.AsyncClient) -> None:
    book.create_transfers([payment])  # red: no await
    client.create_transfers([payment])  # red: no await
    book.create_many([payment])  # red: no await
    book.create_transfers([payment])["status"]  # red: no await
    for page in book.iter_account_transfers(filter):  # red: no async
        pass
'''


def test_a_type_checker_sees_a_wrong_kind_and_a_forgotten_await(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT}\n")
    out, error, _ = mypy.run(
        ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache"),
         "--no-error-summary", "--hide-error-context", str(program)]
    )  # fmt: skip
    assert error == ""
    found = {int(line.split(":")[1]) for line in out.splitlines() if "program.py:" in line}
    lines = enumerate(PROGRAM.splitlines(), 1)
    wanted = {number for number, line in lines if "# red: " in line}
    assert found == wanted, out


@pytest.mark.parametrize("optimized", ["1", "2"])
def test_the_commands_help_themselves_without_docstrings(optimized):
    for words, said in (
        ([], "Tell what the book in DIRECTORY holds"),
        (["serve"], "until SIGTERM or SIGINT"),
        (["verify"], "Exit code 1 and the first wrong position"),
        (["inspect"], "it may be served meanwhile"),
        (["rebuild"], "With --trust-journal"),
        (["load"], "as fast as it takes it"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ledger", *words, "--help"],
            env={"PYTHONOPTIMIZE": optimized, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout, words


def test_a_record_of_another_kind_names_its_argument(book):
    for ask, why in (
        (lambda: book.create_transfers([{}]), r"transfers\[0\]: a dict, not a Transfer"),
        (lambda: book.create_accounts([pay(1)]), r"accounts\[0\]: a Transfer, not an Account"),
        (lambda: book.create_transfers(rows([1])[0]), r"transfers: one row .* rows\[0:1\]"),
        (lambda: book.create_many(rows([1])[0]), r"records: one row .* rows\[0:1\]"),
        (lambda: book.create_many(one for one in ()), "records: a generator is no array or list"),
        (lambda: book.create_transfers(one for one in ()), "transfers: a generator is no Trans"),
        (lambda: book.query_accounts([account(1)]), "filter: an Account, not a QueryFilter"),
    ):
        with pytest.raises(ValueError, match=why):
            ask()


def test_a_book_and_a_client_say_that_they_belong_to_one_process(book):
    client = ledger.Client("127.0.0.1:1")
    for one, what in ((book, "book"), (client, "client"), (client._client, "client")):
        for ask in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match=f"a {what} belongs to the process that"):
                ask(one)
    client.close()


def test_a_book_names_its_directory(tmp_path):
    with ledger.open(tmp_path / "book") as book:
        assert book.path == tmp_path / "book"
        assert repr(book) == f"<ledger.Book in {str(tmp_path / 'book')!r}>"
    assert repr(book) == f"<ledger.Book in {str(tmp_path / 'book')!r}, closed>"

    async def work():
        async with ledger.open_async(str(tmp_path / "book")) as book:
            assert book.path == tmp_path / "book"
            assert repr(book) == f"<ledger.AsyncBook in {str(tmp_path / 'book')!r}>"

    asyncio.run(work())
