"""A book whose host ends, or was started without standard descriptors: real processes.

After the main thread has returned no pool takes work and newer interpreters start no thread, while
a host's other threads and its handlers of the exit go on paying; an open book at the end must
neither hang nor crash. Nothing here looks inside the book.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ledger
from tests.support.book_calls import posted

ROOT = Path(__file__).resolve().parents[2]

PAYS = """
import asyncio, atexit, os, sys, threading
import ledger
from ledger.facts import limits as config
from tests.support.book_calls import account, pay, rows
config.WINDOW_EVENTS = 64
directory, where, how = sys.argv[1:]
lines = []

def check(found, count):
    assert (found["status"] == ledger.TransferStatus.CREATED).all() and len(found) == count

def pays(book):
    check(book.create_transfers(rows([1])), 1)
    check(book.create_transfers(rows(range(1001, 2001))), 1000)
    for first in range(10_000, 10_300, 100):  # windows are cut, sealed and dropped
        check(book.create_transfers(rows(range(first, first + 100))), 100)
    every = ledger.AccountFilter(account_id=1, limit=8189, flags=3)
    assert len(book.get_account_transfers(every)) == 1301
    assert len(book.lookup_transfers([1, 1001])) == 2
    check(book.create_many(rows(range(20_000, 40_000))), 20_000)
    book.state_hash()
    book.close()
    print("paid", flush=True)

async def pays_in_a_loop(begun, returned):
    async with ledger.open_async(directory) as book:
        await book.create_accounts([account(1), account(2)])
        begun.set()
        while not returned():
            await asyncio.sleep(0.01)
        check(await book.create_transfers(rows([1])), 1)
        check(await book.create_transfers(rows(range(1001, 2001))), 1000)
        for first in range(10_000, 10_300, 100):
            check(await book.create_transfers(rows(range(first, first + 100))), 100)
        every = ledger.AccountFilter(account_id=1, limit=8189, flags=3)
        assert len(await book.get_account_transfers(every)) == 1301
        check(await book.create_many(rows(range(20_000, 40_000))), 20_000)
        await book.state_hash()
    print("paid", flush=True)

def main_returned():
    return not threading.main_thread().is_alive()

def after_main(work):
    def wait():
        threading.main_thread().join()
        work()
    threading.Thread(target=wait).start()

if how == "loop":
    begun = threading.Event()
    if where == "thread":
        threading.Thread(
            target=lambda: asyncio.run(pays_in_a_loop(begun, main_returned))
        ).start()
        begun.wait()
    else:
        loop = asyncio.new_event_loop()
        opening = ledger.open_async(directory)
        book = loop.run_until_complete(opening.__aenter__())
        loop.run_until_complete(book.create_accounts([account(1), account(2)]))
        def last():
            async def all():
                check(await book.create_transfers(rows([1])), 1)
                check(await book.create_transfers(rows(range(1001, 2001))), 1000)
                check(await book.create_many(rows(range(20_000, 40_300))), 20_300)
                await book.close()
            loop.run_until_complete(all())
            print("paid", flush=True)
        atexit.register(last)
else:
    book = ledger.open(directory)
    book.create_accounts([account(1), account(2)])
    if where == "thread":
        after_main(lambda: pays(book))
    else:
        atexit.register(pays, book)
"""


def run(program, *arguments, **named):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", program, *map(str, arguments)],
        cwd=ROOT, env=dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT}/tests"), capture_output=True,
        text=True, timeout=120, **named,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["calls", "loop"])
@pytest.mark.parametrize("where", ["thread", "atexit"])
def test_who_pays_after_the_main_thread_has_returned_pays(tmp_path, where, how):
    done = run(PAYS, tmp_path / "book", where, how)
    assert (done.stdout, done.stderr, done.returncode) == ("paid\n", "", 0)
    with ledger.open(tmp_path / "book") as book:
        assert posted(book) == 21_301


LEFT = """
import atexit, sys, threading
import ledger
from tests.support.book_calls import account, rows
book = ledger.open(sys.argv[1])
book.create_accounts([account(1), account(2)])
paid = 0
def work(first):
    global paid
    try:
        for id in range(first, first + 10**6):
            book.create_transfers(rows([id]))
    finally:
        print("a call ended with the process", flush=True)
for n in range(1, 4):
    threading.Thread(target=work, args=(n * 10**7,), daemon=True).start()
for id in range(1, 101):
    book.create_transfers(rows([id]))
book.create_many(rows(range(1000, 21_000)))
"""


@pytest.mark.parametrize("how", ["returns", "drops"])
def test_a_book_that_is_open_at_the_end_is_as_after_a_kill(tmp_path, how):
    ending = {"returns": "", "drops": "\nthis = [book]; this.append(this); del book, this\n"}
    done = run(LEFT + ending[how], tmp_path / "book")
    assert done.returncode == 0 and "Fatal" not in done.stderr, done.stderr
    with ledger.open(tmp_path / "book") as book:
        assert len(book.lookup_transfers(list(range(1, 101)))) == 100
        assert posted(book) >= 20_100


WITHOUT = """
import os, sys
import ledger
from ledger.facts import limits as config
from tests.support.book_calls import account, rows
config.WINDOW_EVENTS = 64
directory, told, closed = sys.argv[1], sys.argv[2], [int(one) for one in sys.argv[3]]
late = sys.argv[4] == "late"
for one in closed:
    os.close(one)
with ledger.open(directory) as book:
    book.create_accounts([account(1), account(2)])
    for one in closed if late else ():
        os.close(one)
    for first in range(1, 1001, 100):
        book.create_transfers(rows(range(first, first + 100)))
    book.lookup_transfers([1])
    os.write(2, b"a library's last words")
    links = {one: os.readlink(f"/proc/self/fd/{one}") for one in range(3)}
    mine = [int(one) for one in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{one}")
            and os.readlink(f"/proc/self/fd/{one}").startswith(os.path.realpath(directory))]
with open(told, "w") as file:
    print([links[one] == "/dev/null" for one in closed], bool(mine) and min(mine) > 2, file=file)
"""


@pytest.mark.parametrize("when", ["before", "late"])
@pytest.mark.parametrize("closed", ["0", "2", "012"])
def test_no_file_of_a_book_becomes_a_standard_descriptor(tmp_path, closed, when):
    done = run(WITHOUT, tmp_path / "book", tmp_path / "told", closed, when)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "told").read_text() == f"{[True] * len(closed)} True\n"
    with ledger.open(tmp_path / "book") as book:
        assert posted(book) == 1000
