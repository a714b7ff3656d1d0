"""Derived data that rot, and the old past of the journal: what is damaged is never served.

A bit of every page of every column file is changed in a book that is closed; whoever opens it then
gets what the book always said, or an error, and the next start has built again what was damaged.
A group of the journal cannot be built again: what needs it is refused, and the rest is served.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ledger
from chaos import derived, process, shim
from chaos.altered import altered, configured
from ledger.audit import verify
from ledger.facts import limits
from ledger.facts.errors import ColumnDamaged, DataRefused, LedgerStopped
from ledger.facts.limits import Exit
from ledger.facts.schema import AccountFlags, TransferFlags, TransferStatus
from ledger.history import _columns
from ledger.history.segments import History
from ledger.journal.journal import Journal
from tests.support.book_calls import account, pay

PAGE_BYTES = _columns.PAGE_BYTES
BOUNDS = {"WINDOW_EVENTS": 130, "MERGED_AT_ONCE": 2, "CHECKPOINT_WINDOWS_MIN": 1}
ACCOUNTS = 8
ROUNDS = 38
BACKWARDS = 4  # of an account filter; of a query 1
EVERYTHING = 8_189

Answer = tuple[str, bytes]


class Filled(NamedTuple):
    directory: Path
    transfers: list[Any]  # all that were asked for, in order; their ids are 1, 2, ...
    answers: list[Answer]


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    with configured(BOUNDS):
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A book with segments of several sizes, a checkpoint, and something in every column."""
    place = tmp_path_factory.mktemp("filled")
    directory = place / "book"
    flags = [0, 0, *[AccountFlags.HISTORY] * 5]
    flags.append(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
    with contextlib.closing(process.Server(directory, env=altered(place, **BOUNDS))) as server:
        with ledger.Client(server.start().address) as client:
            client.create_accounts([account(n + 1, flags=flag) for n, flag in enumerate(flags)])
        assert server.terminate() == 0
    chance, holds, transfers = random.Random(4), list[Any](), list[Any]()
    with ledger.open(directory) as book:
        for _ in range(ROUNDS):
            some = [_transfer(chance, holds, len(transfers) + n + 1) for n in range(30)]
            book.create_transfers(some)
            transfers += some
    with ledger.open(directory) as book:
        answers = list(asked(book, transfers))
    assert derived.fault_of(directory, 0, BOUNDS["WINDOW_EVENTS"]) is None  # all is merged now
    return Filled(directory, transfers, answers)


def _transfer(chance: random.Random, holds: list[Any], id: int) -> Any:
    if holds and chance.random() < 0.2:
        hold = chance.choice(holds)
        posts = chance.random() < 0.5
        way = TransferFlags.POST_PENDING_TRANSFER if posts else TransferFlags.VOID_PENDING_TRANSFER
        return pay(id, pending_id=hold.id, flags=way, amount=2**128 - 1 if posts else 0)
    debit, credit = chance.sample(range(1, ACCOUNTS + 1), 2)
    told = {"user_data_64": chance.choice((0, 0, 5)), "code": chance.choice((1, 1, 2))}
    made = pay(id, debit_account_id=debit, credit_account_id=credit, **told)
    if chance.random() < 0.2:
        made = pay(id, debit_account_id=debit, credit_account_id=credit, flags=2)
        holds.append(made)
    return made


def asked(book: Any, transfers: list[Any]) -> Iterator[Answer]:
    """All that the book can be asked of its past, and what it says."""
    yield "transfers", book.lookup_transfers(list(range(len(transfers) + 9))).tobytes()
    yield "accounts", book.lookup_accounts(list(range(1, ACCOUNTS + 1))).tobytes()
    for backwards in (0, 1):
        for id in range(1, ACCOUNTS + 1):
            for limit in (7, EVERYTHING):
                wanted = ledger.AccountFilter(
                    account_id=id, limit=limit, flags=3 | BACKWARDS * backwards
                )
                yield f"statement {wanted}", book.get_account_transfers(wanted).tobytes()
                yield f"balances {wanted}", book.get_account_balances(wanted).tobytes()
        for chosen in ({"user_data_64": 5}, {"code": 2}, {"code": 9}, {"ledger": 1}, {}):
            query = ledger.QueryFilter(limit=EVERYTHING, flags=backwards, **chosen)
            yield f"query {query}", book.query_transfers(query).tobytes()
    again = book.create_transfers(transfers)
    yield "again", again["status"].tobytes()
    yield "first times", again["timestamp"][again["status"] == TransferStatus.EXISTS].tobytes()


def test_what_is_asked_reaches_every_kind(filled: Filled) -> None:
    """The book the other tests damage holds what they are about."""
    said = dict(filled.answers)
    statuses = np.frombuffer(said["again"], "<u4")
    assert {TransferStatus.EXISTS, TransferStatus.ID_ALREADY_FAILED} <= set(statuses.tolist())
    with Journal.open(filled.directory) as journal:
        history = History(filled.directory, journal)
        assert len({segment.windows for segment in history.segments}) > 1, "merged and not"
        assert history.checkpoint is not None
        for column in _columns.RECORD_BYTES:
            files = (*history.segments, history.checkpoint)
            assert any(file.count(column) for file in files), column
        history.close()


# ---- a damaged column file -----------------------------------------------------------------------


@pytest.fixture
def copied(filled: Filled, tmp_path: Path) -> Path:
    shutil.copytree(filled.directory, tmp_path / "book")
    return tmp_path / "book"


def served(directory: Path, filled: Filled) -> set[str]:
    """Ask everything, at a new start each time that damage is noticed, until all is answered.

    The names of the files that were noticed, by a start or by who asked.
    """
    noticed: set[str] = set()
    for _ in range(3):
        with ledger.open(directory) as book:
            told = " ".join(book.warnings)
            noticed |= {file.name for file in files(filled) if file.name in told}
            try:
                for said, expected in zip(
                    asked(book, filled.transfers), filled.answers, strict=True
                ):
                    assert said == expected
                return noticed
            except LedgerStopped as stopped:
                assert isinstance(stopped.cause, ColumnDamaged), stopped
                assert stopped.exit_code == Exit.DATA_REFUSED
                noticed.add(Path(stopped.cause.path).name)
                assert Path(f"{stopped.cause.path}.damaged").is_file()
    raise AssertionError("damage is noticed again and again")


def files(filled: Filled) -> list[Path]:
    return [filled.directory / "state" / name for name in derived.file_names(filled.directory)]


def test_a_bit_of_every_other_page_is_noticed_and_nothing_wrong_is_said(
    filled: Filled, tmp_path: Path
) -> None:
    chance, unread = random.Random(5), 0
    for number, file in enumerate(files(filled)):
        for page in range(number % 2, file.stat().st_size // PAGE_BYTES, 2):
            directory = tmp_path / f"{file.name}-{page}"
            shutil.copytree(filled.directory, directory)
            bit = 8 * PAGE_BYTES * page + chance.randrange(8 * PAGE_BYTES)
            derived.flip(directory / "state" / file.name, bit)
            if file.name not in served(directory, filled):  # nothing that was asked needed it
                why = derived.fault_of(directory, 0, BOUNDS["WINDOW_EVENTS"])
                assert why is not None and f"{file.name}: page {page} is damaged" in why
                unread += 1
            shutil.rmtree(directory)
    assert unread <= 2, "what was asked reads nearly every page"


def test_what_was_built_again_is_what_was_there(filled: Filled, copied: Path) -> None:
    """After damage to everything at once, and one start, nothing differs from a book never hurt."""
    for number, file in enumerate(files(filled)):
        derived.flip(copied / "state" / file.name, 8 * PAGE_BYTES * (number % 2) + 999)
    assert served(copied, filled) == {file.name for file in files(filled)}
    for hurt in (copied / "state").glob("*.damaged"):
        hurt.unlink()
    assert derived.fault_of(copied, 0, BOUNDS["WINDOW_EVENTS"]) is None


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_its_last_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - PAGE_BYTES)


def twice(path: Path) -> None:
    path.write_bytes(2 * path.read_bytes())


def gone(path: Path) -> None:
    path.unlink()


def two_pages_change_places(path: Path) -> None:
    content = path.read_bytes()
    one, other = content[PAGE_BYTES : 2 * PAGE_BYTES], content[2 * PAGE_BYTES : 3 * PAGE_BYTES]
    path.write_bytes(content[:PAGE_BYTES] + other + one + content[3 * PAGE_BYTES :])


def a_page_of_another_file(path: Path) -> None:
    """At the same place in a file of the same kind, whole and with a check that is right."""
    others = [one for one in path.parent.glob("*-*") if one != path]
    content = path.read_bytes()
    other = others[0].read_bytes()[PAGE_BYTES : 2 * PAGE_BYTES]
    path.write_bytes(content[:PAGE_BYTES] + other + content[2 * PAGE_BYTES :])


def named_like_another(path: Path) -> None:
    path.rename(path.with_name(path.name[:-1] + ("0" if path.name[-1] != "0" else "1")))


HARMS = (
    cut_short, empty, without_its_last_page, twice, gone, two_pages_change_places,
    a_page_of_another_file, named_like_another,
)  # fmt: skip


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("number", range(3), ids=["checkpoint", "large", "small"])
def test_other_damage_is_noticed_as_well(
    filled: Filled, copied: Path, harm: Any, number: int
) -> None:
    harm(copied / "state" / files(filled)[number].name)
    served(copied, filled)
    assert derived.fault_of(copied, 0, BOUNDS["WINDOW_EVENTS"], rotten=True) is None
    assert set(derived.file_names(copied)) >= {file.name for file in files(filled)[1:]}


def test_a_page_that_rots_while_it_is_served_stops_the_server(
    filled: Filled, copied: Path, tmp_path: Path
) -> None:
    env = altered(tmp_path, **BOUNDS)
    with contextlib.closing(process.Server(copied, env=env)) as server:
        server.start()
        derived.flip(copied / "state" / files(filled)[1].name, 8 * PAGE_BYTES + 77)
        with pytest.raises(ledger.LedgerError), ledger.Client(server.address) as client:
            client.lookup_transfers(list(range(len(filled.transfers))), timeout=2.0)
        assert server.wait() == Exit.DATA_REFUSED
        assert any("page 1 is damaged" in line for line in server.log), server.log
        with ledger.Client(server.restart().address) as client:
            found = client.lookup_transfers(list(range(len(filled.transfers) + 9)))
            assert found.tobytes() == dict(filled.answers)["transfers"]
        assert server.terminate() == 0


def test_a_sector_of_a_column_file_that_cannot_be_read_stops_the_server(
    filled: Filled, copied: Path, tmp_path: Path
) -> None:
    control = tmp_path / "control"
    shim.switch(control)
    env = shim.environment(copied, control=control) | altered(tmp_path, **BOUNDS)
    with contextlib.closing(process.Server(copied, env=env)) as server:
        server.start()
        shim.switch(control, "pread 1 eio /state/segment-")
        with pytest.raises(ledger.LedgerError), ledger.Client(server.address) as client:
            client.lookup_transfers(list(range(len(filled.transfers))), timeout=2.0)
        assert server.wait() == Exit.IO_ERROR
        shim.switch(control)
        with ledger.Client(server.restart().address) as client:
            found = client.lookup_transfers(list(range(len(filled.transfers) + 9)))
            assert found.tobytes() == dict(filled.answers)["transfers"]
        assert server.terminate() == 0
    assert not list((copied / "state").glob("*.damaged"))


def test_without_space_for_derived_data_payments_wait_and_go_on(tmp_path: Path) -> None:
    """Three windows wait to be sealed, then nothing more is taken, and nobody is told an error."""
    book, control = tmp_path / "book", tmp_path / "control"
    shim.switch(control)
    env = shim.environment(book, control=control) | altered(tmp_path, **BOUNDS)
    with contextlib.closing(process.Server(book, env=env)) as server:
        server.start()
        with ledger.Client(server.address) as client:
            client.create_accounts([account(1), account(2)])
            shim.switch(control, "any from:1 enospc /state/.")
            taken, told = 0, []
            with pytest.raises(ledger.LedgerError):
                for taken in range(0, 2_000, 30):
                    some = [pay(taken + n + 1) for n in range(30)]
                    told += client.create_transfers(some, timeout=1.0)["status"].tolist()
            held = BOUNDS["WINDOW_EVENTS"] * (limits.WINDOWS_CLOSED_MAX + 1)
            assert held <= taken <= held + 30 * (limits.WINDOWS_CLOSED_MAX + 1)
            assert not [name for name in derived.file_names(book) if name.startswith("segment-")]
        shim.switch(control)
        with ledger.Client(server.address) as client:
            again = client.create_transfers([pay(n + 1) for n in range(taken + 60)], timeout=30.0)
        assert set(told) == {TransferStatus.CREATED}
        assert set(again["status"][:taken].tolist()) == {TransferStatus.EXISTS}
        assert set(again["status"][taken:].tolist()) <= {
            TransferStatus.CREATED, TransferStatus.EXISTS,
        }  # fmt: skip
        assert server.terminate() == 0
    assert [name for name in derived.file_names(book) if name.startswith("segment-")]
    assert derived.fault_of(book, 0, BOUNDS["WINDOW_EVENTS"]) is None


# ---- a damaged group of the journal -------------------------------------------------------------


def rotten_journal(directory: Path, record: Any) -> None:
    """Change a bit of a transfer's record, wherever LMDB has it."""
    path = directory / "journal" / "data.mdb"
    content, at = path.read_bytes(), 0
    while (at := content.find(record.tobytes(), at) + 1) > 0:
        derived.flip(path, 8 * (at - 1 + 48))  # its amount


def stored_of(filled: Filled) -> Any:
    """All transfers of the book, as records."""
    return np.frombuffer(dict(filled.answers)["transfers"], ledger.TRANSFER)


@pytest.mark.parametrize("part", [0, 3, 7])
def test_what_needs_a_damaged_group_is_refused_and_the_rest_is_served(
    filled: Filled, copied: Path, part: int
) -> None:
    stored, said = stored_of(filled), dict(filled.answers)
    with_history = np.isin(stored["debit_account_id"][:, 0], range(3, 8))
    # Of open holds more is known than the journal says: they are in the checkpoint.
    payments = stored[with_history & (stored["flags"] == 0)]
    [record] = payments[part * 40 : part * 40 + 1]
    id, debit = int(record["id"][0]), int(record["debit_account_id"][0])
    rotten_journal(copied, record)
    with ledger.open(copied) as book:
        with pytest.raises(DataRefused, match=r"group \d+: block \d+ check failed") as refused:
            book.lookup_transfers([id])
        group = int(str(refused.value).split()[1].rstrip(":"))
        with pytest.raises(DataRefused, match=f"group {group}: "):
            book.create_transfers([filled.transfers[id - 1]])
        everything = ledger.AccountFilter(account_id=debit, limit=EVERYTHING, flags=3)
        for ask in (book.get_account_transfers, book.get_account_balances):
            with pytest.raises(DataRefused, match=f"group {group}: "):
                ask(everything)
        with pytest.raises(DataRefused, match=f"group {group}: "):
            book.query_transfers(ledger.QueryFilter(limit=EVERYTHING))
        # Others are in other groups.
        far = [other for other in stored["id"][:, 0].tolist() if abs(other - id) > 90]
        found = book.lookup_transfers(far)
        assert found.tobytes() == stored[np.isin(stored["id"][:, 0], far)].tobytes()
        assert book.lookup_accounts(list(range(1, ACCOUNTS + 1))).tobytes() == said["accounts"]
        [new] = book.create_transfers([pay(10**6)])
        assert new["status"] == TransferStatus.CREATED
    report = verify.verify(copied)
    assert report.fault is not None and report.fault.group == group and "check" in report.fault.why
