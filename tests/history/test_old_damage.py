"""Damage of one old group of the journal ends nothing but what needs that group: no start from a
checkpoint behind it, no server whose client asks again, no seal and no checkpoint that comes later.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from chaos.altered import altered
from chaos.process import Server
from ledger.engine import recovery
from ledger.facts import limits
from ledger.facts.errors import DataRefused
from ledger.facts.schema import Operation
from ledger.journal import _file
from ledger.journal.group import HEADER_BYTES
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from ledger.journal.reader import key_of
from tests.support import core_book
from tests.support.book_calls import CREATED, account, rows
from tests.support.engine_parts import Submitter
from tests.support.raw import Peer, Session, accounts, ids, opened, posted, transfers
from tests.support.sealing_parts import WINDOW, Sealing, flip, lookup, statement

WINDOWS_OF = 40  # transfers
PARTS = {"header": 40, "body": HEADER_BYTES + 48}


def damage(directory: Path, group: int, part: str) -> None:
    """Flip a bit of a group of a book that nobody has open."""
    with Journal.open(directory, readonly=True, locked=False) as journal:
        damage_of(journal, group, part)


def damage_of(journal: Journal, group: int, part: str) -> None:
    """Flip a bit of a group where it lies in the file."""
    with journal._snapshot() as (file, number):
        found = _file.Pages(file, number).find(key_of(group))
    assert found is not None
    flip(journal.directory / "journal" / "data.mdb", found[0] + PARTS[part])


@pytest.fixture(scope="module")
def covered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A book that was closed, and the group that its checkpoint covers all before."""
    directory = tmp_path_factory.mktemp("old") / "book"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WINDOW_EVENTS", WINDOWS_OF)
        patch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
        with ledger.open(directory) as book:
            book.create_accounts([account(1), account(2)])
            for first in range(1000, 1450, 50):
                book.create_transfers(rows(range(first, first + 50)))
        recovery.rebuild(directory)
        with ledger.open(directory) as book:
            checkpoint = book._parts.history.checkpoint
            assert checkpoint is not None and len(book._parts.history.segments) > 1
            for first in range(2000, 2003):
                book.create_transfers(rows([first]))
    return directory, checkpoint.group_last


def opens(directory: Path) -> None:
    """It is opened, pays, and answers what is not damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WINDOW_EVENTS", WINDOWS_OF)
        with ledger.open(directory) as book:
            assert book.create_transfers(rows([9000]))["status"].tolist() == [CREATED]
            assert len(book.lookup_accounts([1, 2])) == 2


@pytest.mark.parametrize("part", PARTS)
def test_a_start_from_a_checkpoint_needs_none_of_the_groups_before(
    covered: tuple[Path, int], tmp_path: Path, part: str
) -> None:
    source, last = covered
    for group in range(1, last + 1):
        directory = tmp_path / str(group)
        shutil.copytree(source, directory)
        damage(directory, group, part)
        opens(directory)


def test_two_damaged_groups_hide_where_a_segment_ends_and_it_is_told(
    covered: tuple[Path, int], tmp_path: Path
) -> None:
    source, last = covered
    told = 0
    for group in range(2, last):
        directory = tmp_path / str(group)
        shutil.copytree(source, directory)
        damage(directory, group, "header")
        damage(directory, group + 1, "header")
        opens(directory)
        with ledger.open(directory) as book:
            told += any("cannot be told" in warning for warning in book.warnings)
    assert told > 0


def test_the_first_group_behind_the_checkpoint_must_be_whole(
    covered: tuple[Path, int], tmp_path: Path
) -> None:
    source, last = covered
    shutil.copytree(source, tmp_path / "book")
    damage(tmp_path / "book", last + 1, "body")
    with pytest.raises(DataRefused, match=f"group {last + 1} .*block 0 check failed"):
        ledger.open(tmp_path / "book")


@pytest.mark.parametrize("part", PARTS)
def test_the_end_of_a_group_is_known_although_the_next_is_damaged(
    covered: tuple[Path, int], tmp_path: Path, part: str
) -> None:
    directory = tmp_path / "book"
    shutil.copytree(covered[0], directory)
    with Journal.open(directory) as journal:
        ends = [journal.end_of(number) for number in range(1, journal.group + 1)]
    damage(directory, 5, part)
    with Journal.open(directory) as journal:
        assert [journal.end_of(number) for number in range(1, journal.group + 1)] == ends
    damage(directory, 4, "body")
    with Journal.open(directory) as journal:
        if part == "header":
            with pytest.raises(DataRefused, match="group 4"):
                journal.end_of(4)
        else:
            assert journal.end_of(4) == ends[3]


def test_a_stamp_of_a_group_whose_end_is_hidden_is_told(
    covered: tuple[Path, int], tmp_path: Path
) -> None:
    directory = tmp_path / "book"
    shutil.copytree(covered[0], directory)
    with Journal.open(directory) as journal, Checkpoint(directory) as checkpoint:
        checkpoint.write(journal.cluster, 4, *journal.end_of(4))
    damage(directory, 4, "header")
    damage(directory, 5, "header")
    with Journal.open(directory) as journal, Checkpoint(directory) as checkpoint:
        warning = checkpoint.verify_against(journal)
    assert warning is not None and "cannot be told: group 4" in warning


# ---- while it is served -------------------------------------------------------------------------


def test_a_server_whose_client_asks_again_for_what_is_damaged(
    server: Callable[..., Server], tmp_path: Path
) -> None:
    """The group of a session's last request; also after each start."""
    directory = tmp_path / "served"
    env = altered(tmp_path, WINDOW_EVENTS=WINDOWS_OF, CHECKPOINT_WINDOWS_MIN=1)
    running = server(directory, env=env)
    peer, session = opened(running.address)
    session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(1, 2))
    asks = Session().register(peer)
    asks.ask(peer, Operation.CREATE_TRANSFERS, transfers(500, 1))
    for first in range(1000, 1500, 50):
        session.ask(peer, Operation.CREATE_TRANSFERS, transfers(first, 50))
    peer.close()
    assert running.terminate() == 0
    with Journal.open(directory, readonly=True) as journal:
        [group] = [
            header.group for header, body in journal.read()
            if (500).to_bytes(16, "little") + (1).to_bytes(16, "little") in bytes(body)
        ]  # fmt: skip
    damage(directory, group, "body")
    for start in range(2):
        running.restart()
        with Peer(running.address) as again, Peer(running.address) as other:
            again.send(asks.request)
            assert f"group {group} " in running.wait_line("not answered")
            again.send(asks.request + session.codec.encode_ping(1, 0, 7))
            again.frame()  # the connection goes on
            payer = Session().register(other)
            made = payer.ask(other, Operation.CREATE_TRANSFERS, transfers(7000 + start, 1))
            assert made["status"].tolist() == [CREATED]
            assert posted(other, payer) == 502 + start
            found = payer.ask(other, Operation.LOOKUP_TRANSFERS, ids(1400))
            assert len(found) == 1
        assert running.terminate() == 0


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sealing]:
    monkeypatch.setattr(limits, "WINDOW_EVENTS", WINDOW)
    monkeypatch.setattr(limits, "CHECKPOINT_WINDOWS_MIN", 1)
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES_A_WINDOW", 1 << 20)
    bench = Sealing(tmp_path / "book")
    bench.accounts(Submitter(), core_book.account(1), core_book.account(2))
    bench.rest()
    yield bench
    bench.close()


def test_a_seal_beside_a_damaged_group_goes_on(bench: Sealing) -> None:
    """Of the window's last group and the one behind it one is enough."""
    bench.window(100)
    last = bench.journal.group
    bench.window(200)
    damage_of(bench.journal, last + 1, "header")
    bench.rest()
    assert bench.told == [] and bench.history.group == bench.journal.group
    read = lookup(bench, 101)
    bench.rest()
    assert read.ids() == [101]


def test_a_checkpoint_whose_group_is_damaged_is_given_up_and_the_next_is_written(
    bench: Sealing,
) -> None:
    bench.window(100)
    last = bench.journal.group
    bench.window(200)
    while bench.waiting("seal") and not bench.waiting("checkpoint"):
        bench.runner.finish("seal")
    assert bench.waiting("checkpoint")
    damage_of(bench.journal, last, "body")
    damage_of(bench.journal, last + 1, "header")
    bench.rest()
    assert bench.told == [] and bench.history.checkpoint is None
    bench.windows(300)
    assert bench.history.checkpoint is not None
    read = statement(bench)
    bench.rest()
    assert read.got == [] and "group" in str(read.refusals[0])
