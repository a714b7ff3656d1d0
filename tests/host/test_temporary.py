"""Temporary books: real ones that leave nothing behind, also when the host forks or fails."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import ledger
from tests.support.book_calls import account, pay


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Where temporary directories are made, of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_a_real_book_until_it_is_closed(place):
    book = ledger.open_temporary(cluster=7)
    [directory] = place.iterdir()
    assert (directory / "journal" / "data.mdb").stat().st_size > 0
    assert book.cluster == 7
    book.create_accounts([account(1), account(2)])
    assert book.create_transfers([pay(1)])["status"].tolist() == [ledger.TransferStatus.CREATED]
    with pytest.raises(ledger.DirectoryInUse):
        ledger.open(directory)
    for _ in range(2):
        book.close()
        assert list(place.iterdir()) == []
    with pytest.raises(ValueError, match="the book is closed"):
        book.lookup_accounts([1])


def test_with_closes_it_also_after_an_error(place):
    with pytest.raises(RuntimeError), ledger.open_temporary():
        raise RuntimeError
    assert list(place.iterdir()) == []


def test_two_at_once_are_two(place):
    with ledger.open_temporary() as one, ledger.open_temporary() as other:
        one.create_accounts([account(1)])
        assert len(other.lookup_accounts([1])) == 0
        assert len(list(place.iterdir())) == 2


def test_what_cannot_be_opened_leaves_nothing(place):
    with pytest.raises(ValueError, match="cluster"):
        ledger.open_temporary(cluster=-1)
    assert list(place.iterdir()) == []


def test_a_forked_child_that_closes_it_leaves_it_to_its_parent(place):
    with ledger.open_temporary() as book:
        book.create_accounts([account(1)])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                book.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        [directory] = place.iterdir()
        assert (directory / "journal" / "data.mdb").exists()
        assert len(book.lookup_accounts([1])) == 1


def test_in_a_loop(place):
    async def work() -> None:
        async with ledger.open_temporary_async(cluster=3) as book:
            assert book.cluster == 3
            await book.create_accounts([account(1)])
            assert len(await book.lookup_accounts([1])) == 1
            assert len(list(place.iterdir())) == 1
        with pytest.raises(RuntimeError):
            async with ledger.open_temporary_async():
                raise RuntimeError

    asyncio.run(work())
    assert list(place.iterdir()) == []


def test_one_that_is_dropped_leaves_nothing(place):
    book = ledger.open_temporary()
    book.create_accounts([account(1)])
    with pytest.warns(ResourceWarning, match="was dropped and not closed"):
        del book
        gc.collect()
    assert list(place.iterdir()) == []


ENDS = """
import asyncio, sys, tempfile
import ledger
tempfile.tempdir = sys.argv[1]
book = ledger.open_temporary()
book.create_accounts([ledger.Account(id=1, ledger=1, code=1)])
opening = ledger.open_temporary_async()
loop = asyncio.new_event_loop()
other = loop.run_until_complete(opening.__aenter__())
if sys.argv[2] == "error":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 3)])
def test_those_that_are_open_when_the_interpreter_ends_leave_nothing(place, how, code):
    done = subprocess.run([sys.executable, "-c", ENDS, str(place), how], timeout=60, check=False)
    assert done.returncode == code
    assert list(place.iterdir()) == []
