"""Many who want the same sealed transfer at once, as a look-up or as a retry of the old payment:
all are answered, in a book and over sockets, also when nothing else happens afterwards.

HERD_CALLERS sets how many there are at the most.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ledger
from chaos.altered import altered
from chaos.process import Server
from ledger.facts import limits, schema
from ledger.facts.schema import Operation
from tests.support.book_calls import account, rows
from tests.support.raw import Peer, Session, ids, transfers, with_accounts

CALLERS = sorted({300, int(os.environ.get("HERD_CALLERS", "1000"))})
EXISTS = schema.TransferStatus.EXISTS
WINDOWS_OF = 40  # transfers
WANTED = 1010  # in the first window
SECONDS = 30.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW_EVENTS", WINDOWS_OF)


def firsts() -> range:
    """Payments that fill many windows begin here."""
    return range(1000, 1500, 50)


# ---- in a process -------------------------------------------------------------------------------


def fill(book: ledger.Book) -> None:
    book.create_accounts([account(1), account(2)])
    for first in firsts():
        book.create_transfers(rows(range(first, first + 50)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("callers", CALLERS)
def test_a_herd_of_tasks(tmp_path: Path, callers: int) -> None:
    with ledger.open(tmp_path / "book") as book:
        fill(book)

    async def herd() -> None:
        async with ledger.open_async(tmp_path / "book") as book, asyncio.timeout(SECONDS):
            found = await asyncio.gather(
                *(book.lookup_transfers([WANTED]) for _ in range(callers))
            )
            made = await asyncio.gather(
                *(book.create_transfers(rows([WANTED + 1])) for _ in range(callers))
            )
            assert [row["id"][0, 0] for row in found] == [WANTED] * callers
            assert [row["status"][0] for row in made] == [EXISTS] * callers

    asyncio.run(herd())


@pytest.mark.usefixtures("small")
def test_a_herd_of_threads(tmp_path: Path) -> None:
    callers = CALLERS[0]
    with ledger.open(tmp_path / "book") as book, ThreadPoolExecutor(callers) as pool:
        fill(book)

        def ask(caller: int) -> int:
            if caller % 2:
                return int(book.create_transfers(rows([WANTED]), timeout=SECONDS)["status"][0])
            return int(book.lookup_transfers([WANTED], timeout=SECONDS)["id"][0, 0])

        answers = list(pool.map(ask, range(callers)))
        assert answers == [EXISTS if caller % 2 else WANTED for caller in range(callers)]


# ---- over sockets -------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", CALLERS)
def test_a_herd_over_sockets(
    server: Callable[..., Server], tmp_path: Path, callers: int
) -> None:
    running = server(env=altered(tmp_path, WINDOW_EVENTS=WINDOWS_OF))
    peer, session = with_accounts(running.address)
    for first in firsts():
        session.ask(peer, Operation.CREATE_TRANSFERS, transfers(first, 50))
    herd = [Peer(running.address) for _ in range(callers)]
    sessions = [Session() for _ in herd]
    for one, its in zip(herd, sessions, strict=True):
        one.send(its.register_frame())
    for one, its in zip(herd, sessions, strict=True):
        its.read(one.frame())
    for one, its in zip(herd, sessions, strict=True):
        one.send(its.request_frame(Operation.LOOKUP_TRANSFERS, ids(WANTED)))
    for one, its in zip(herd, sessions, strict=True):
        assert its.results(one.frame())["id"][:, 0].tolist() == [WANTED]
    again = transfers(WANTED + 1, 1).tobytes()
    for one, its in zip(herd, sessions, strict=True):
        one.send(its.request_frame(Operation.CREATE_TRANSFERS, again))
    for one, its in zip(herd, sessions, strict=True):
        assert its.results(one.frame())["status"].tolist() == [EXISTS]
        one.close()
    peer.close()
    assert running.terminate() == 0
