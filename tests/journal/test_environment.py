"""The environment that is written: what a host, other processes and other files do to its lock
table, its reader slots and its file.

How often things are done is small here; LEDGER_OPENS and LEDGER_COPIES make a long run of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

import ledger
from chaos.altered import altered
from chaos.machine import pidspace
from chaos.process import Server
from ledger.audit import verify
from ledger.base.files import reserve_lock_file
from ledger.facts.errors import DataRefused, LedgerStopped
from ledger.facts.limits import Exit
from ledger.facts.schema import Operation
from ledger.journal.environment import Environment
from ledger.journal.group import Group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from ledger.journal.lock import Lock
from tests.support.machines import can
from tests.support.raw import ids, opened, posted, transfers, with_accounts

OPENS = int(os.environ.get("LEDGER_OPENS", "600"))  # by other processes, a run
COPIES = int(os.environ.get("LEDGER_COPIES", "40"))  # by the host, a run
CROWD = 2  # processes that open
SLOTS = 3
FIRST = Group(b"s" * 48, 1, 1, 1, 0, 100)

Start = Callable[..., Server]


@contextlib.contextmanager
def child(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A program that speaks lines and reads them."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *map(str, words)], stdin=pipe, stdout=pipe, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Its next line; it goes on when its input ends."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment with one value in it."""
    path = tmp_path / "environment"
    path.mkdir()
    reserve_lock_file(path)
    with (
        lmdb.open(str(path), map_size=1 << 24, lib_version=0) as env,
        env.begin(write=True) as transaction,
    ):
        transaction.put(b"key", b"value")
    return path


def environment(folder: Path) -> Environment:
    return Environment(folder, 1 << 24, 126, SLOTS)


def let_go(folder: Path) -> None:
    """What any host does that reads its own files."""
    (folder / "lock.mdb").read_bytes()


# ---- what a host drops --------------------------------------------------------------------------

OPENS_ON = """
import lmdb, sys
path, count = sys.argv[1:3]
for done in range(int(count)):
    with lmdb.open(path, readonly=True, map_size=1 << 40, lib_version=0) as env:
        with env.begin() as transaction:
            transaction.stat()
print("done", flush=True)
sys.stdin.readline()
"""


def test_a_host_that_closes_its_lock_file_keeps_the_lock_table(folder: Path) -> None:
    """Whoever opens next must not take itself for the first, and wipe the table."""
    ours = environment(folder)
    with ours.slots.read() as slot:
        assert ours.taken() == {os.getpid(): SLOTS}
        let_go(folder)
        with child(OPENS_ON, folder, 3) as other:
            assert said(other) == "done"
        assert ours.taken() == {os.getpid(): SLOTS}
        assert slot.get(b"key") == b"value"
    ours.close()


CHECKS_READERS = """
import lmdb, sys
env = lmdb.open(sys.argv[1], readonly=True, map_size=1 << 24, lib_version=0)
print(env.reader_check(), flush=True)
sys.stdin.readline()
"""


def test_nobody_frees_the_slot_of_a_read_of_ours(folder: Path) -> None:
    """LMDB frees the slots of who has no lock at the byte of its number: a host can drop that."""
    ours = environment(folder)
    with ours.slots.read() as slot:
        let_go(folder)
        with child(CHECKS_READERS, folder) as other:
            assert said(other) == "0"
        held = [line.split()[2] for line in ours.lmdb.readers().splitlines()[1:]]
        assert str(slot.id()) in held
    ours.close()


def test_the_locks_end_with_the_environment(folder: Path) -> None:
    for _ in range(3):
        ours = environment(folder)
        assert ours.warning is None
        let_go(folder)
        ours.close()


def test_the_locks_end_with_the_environment_though_a_child_lives(folder: Path) -> None:
    ours = environment(folder)
    read, write = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        ours.close()
        again = environment(folder)
        assert again.warning is None
        again.close()
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(forked, 0)


def pays(book: ledger.Book, first: int, count: int) -> None:
    rows = [
        ledger.Transfer(
            id=first + i, debit_account_id=1, credit_account_id=2, amount=1, ledger=1, code=1
        )
        for i in range(count)
    ]
    assert (book.create_transfers(rows)["status"] == ledger.TransferStatus.CREATED).all()


def accounts() -> list[ledger.Account]:
    return [ledger.Account(id=id, ledger=1, code=1) for id in (1, 2)]


@contextlib.contextmanager
def crowd(book: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Other processes that open both environments again and again."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(child(OPENS_ON, book / name, OPENS // CROWD))
            for name in ("journal", "state")[:CROWD]
        ]


def verified(book: Path) -> None:
    report = verify.verify(book)
    assert report.clean, (report.fault, report.stamp_fault)


def test_a_host_copies_its_book_while_it_pays(tmp_path: Path) -> None:
    path = tmp_path / "book"
    paid = 0
    with ledger.open(path) as book, crowd(path):
        book.create_accounts(accounts())
        for copy in range(COPIES):
            if copy % 2:
                shutil.copytree(path, tmp_path / "copy")
                shutil.rmtree(tmp_path / "copy")
            else:
                let_go(path / "journal")
                let_go(path / "state")
            for _ in range(10):
                pays(book, 1 + paid, 3)
                paid += 3
        [account] = book.lookup_accounts([1])
        assert account["debits_posted"].tolist() == [paid, 0]
    verified(path)
    with ledger.open(path) as book:
        [account] = book.lookup_accounts([1])
        assert account["debits_posted"].tolist() == [paid, 0]


def test_others_copy_and_open_a_book_while_it_is_served(server: Start, tmp_path: Path) -> None:
    running = server(tmp_path / "book")
    peer, session = with_accounts(running.address)
    with crowd(running.directory):
        for copy in range(COPIES):
            shutil.copytree(running.directory, tmp_path / "copy")
            shutil.rmtree(tmp_path / "copy")
            for i in range(10):
                rows = transfers(1 + 10 * copy + i, 1)
                results = session.ask(peer, Operation.CREATE_TRANSFERS, rows)
                assert results["status"].tolist() == [ledger.TransferStatus.CREATED]
    assert posted(peer, session) == 10 * COPIES
    peer.close()
    assert running.terminate() == Exit.OK
    verified(running.directory)


# ---- reader slots -------------------------------------------------------------------------------

HOLDS = """
import lmdb, os, sys
env = lmdb.open(sys.argv[1], readonly=True, map_size=1 << 40, lib_version=0)
held = []
try:
    while len(held) < int(sys.argv[2]):
        held.append(env.begin())
except lmdb.ReadersFullError:
    pass
print(os.getpid(), len(held), flush=True)
sys.stdin.readline()
"""
ALL = 1000


def test_reads_of_the_writer_do_not_need_what_others_leave(folder: Path) -> None:
    ours = environment(folder)
    with child(HOLDS, folder, ALL) as other:
        pid, _ = said(other).split()
        assert ours.crowded is not None
        assert ours.crowded.startswith(f"all reader slots of {folder} are taken: pid {pid} has 2")
        for _ in range(10):
            with (
                ours.slots.read() as first,
                ours.slots.read() as second,
                ours.slots.read() as third,
            ):
                assert [bytes(slot.get(b"key") or b"") for slot in (first, second, third)] == [
                    b"value"
                ] * 3
        assert ours.taken()[os.getpid()] == 3
    ours.lmdb.reader_check()
    assert ours.crowded is None
    ours.close()


def test_who_finds_no_slot_free_waits_for_one(folder: Path) -> None:
    ours = environment(folder)
    done: list[bytes] = []

    def read() -> None:
        for _ in range(50):
            with ours.slots.read() as slot:
                done.append(bytes(slot.get(b"key") or b""))

    readers = [threading.Thread(target=read) for _ in range(3 * SLOTS)]
    with ours.slots.read(), ours.slots.read():
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert done == [b"value"] * 50 * len(readers)
    assert ours.taken() == {os.getpid(): SLOTS}
    ours.close()


def test_a_start_does_not_need_what_others_leave(folder: Path) -> None:
    with child(HOLDS, folder, ALL) as other:
        said(other)
        ours = environment(folder)
        assert ours.warning is not None and "lock.mdb was made anew: others had" in ours.warning
        assert ours.taken() == {os.getpid(): SLOTS}
        ours.close()
        ours = environment(folder)
        assert ours.warning is None, "the new file is there for the next start"
        ours.close()


def test_slots_of_the_dead_are_free_at_the_next_start(folder: Path) -> None:
    with child(HOLDS, folder, 1) as living:
        said(living)
        with child(HOLDS, folder, ALL // 10) as dead:
            said(dead)
        ours = environment(folder)
        assert ours.taken() == {os.getpid(): SLOTS, living.pid: 1} and ours.warning is None
        ours.close()


WINDOW, EACH, WINDOWS = 40, 20, 24


def test_a_server_whose_reader_slots_are_taken_answers_everything(
    server: Start, tmp_path: Path
) -> None:
    """Payments, resends, seals, merges and checkpoints, what is sealed, the scrub; then a start."""
    limits = {"WINDOW_EVENTS": WINDOW, "SCRUB_SECONDS": 0.01, "SCRUB_REST_SECONDS": 0.01}
    running = server(tmp_path / "book", env=altered(tmp_path, **limits))
    state = running.directory / "state"
    peer, session = with_accounts(running.address)
    with child(HOLDS, running.directory / "journal", ALL) as other:
        said(other)
        for first in range(1, WINDOW * WINDOWS, EACH):
            results = session.ask(peer, Operation.CREATE_TRANSFERS, transfers(first, EACH))
            assert set(results["status"].tolist()) == {ledger.TransferStatus.CREATED}
            again = session.results(session.resend(peer))
            assert again.tobytes() == results.tobytes()
            found = session.ask(peer, Operation.LOOKUP_TRANSFERS, ids(1, first))
            assert len(found) == 2
        assert posted(peer, session) == WINDOW * WINDOWS
        assert len(list(state.glob("segment-*"))) < WINDOWS - 2, "some were merged"
        assert list(state.glob("checkpoint-*"))
        peer.close()
        assert running.terminate() == Exit.OK
        assert len(running.log) == 1 or "disk" in running.log[0], running.log
        with child(HOLDS, running.directory / "journal", ALL) as more:
            said(more)
            running.restart()
        assert "lock.mdb was made anew" in running.wait_line("lock.mdb")
        peer, session = opened(running.address)
        assert posted(peer, session) == WINDOW * WINDOWS
        peer.close()


# ---- the same number in two pid namespaces ------------------------------------------------------

READS_ON = """
import lmdb, os, sys
env = lmdb.open(sys.argv[1], readonly=True, map_size=1 << 40, lib_version=0)
transaction = env.begin()
print(os.getpid(), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def container(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [*pidspace.prefix(), sys.executable, "-u", "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_server_starts_beside_a_reader_with_its_number(server: Start, tmp_path: Path) -> None:
    book = tmp_path / "book"
    server(book).terminate()
    if not can(pidspace):
        return
    with container(READS_ON, book / "journal") as reader:
        assert said(reader) == "1"
        running = Server(book, prefix=pidspace.prefix())
        try:
            running.start()
            assert "has the number of this process" in running.wait_line("lock.mdb")
            peer, session = with_accounts(running.address)
            session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1, 3))
            assert posted(peer, session) == 3
            peer.close()
        finally:
            running.kill()
    verified(book)


KILLED = """
import os, sys
from pathlib import Path
from ledger.journal.environment import Environment
ours = Environment(Path(sys.argv[1]), 1 << 24, 126, 24)
print(os.getpid(), ours.taken()[os.getpid()], ours.warning, flush=True)
sys.stdin.readline()
"""


def test_slots_of_a_dead_process_with_the_same_number_do_not_stay(folder: Path) -> None:
    """A server that is killed in a container has the same number when it is back. LMDB frees no
    slot of its own number; what they saw would be kept for ever."""
    if not can(pidspace):
        return
    with child(HOLDS, folder, 1) as reader:
        said(reader)
        with container(KILLED, folder) as first:
            assert said(first) == "1 24 None"
        with container(KILLED, folder) as second:
            line = said(second)
            assert line.startswith("1 24 ") and "made anew: a dead reader had the number" in line


# ---- the file -----------------------------------------------------------------------------------


def put_in_place(path: Path) -> None:
    copy = path.with_name("new")
    shutil.copyfile(path, copy)
    copy.rename(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (put_in_place, "another file was put in the place of"),
    "removed": (Path.unlink, "was taken away while"),
    "moved": (lambda path: path.rename(path.with_name("moved")), "was taken away while"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["journal/data.mdb", "lock"])
def test_nothing_is_acknowledged_that_goes_to_another_file(
    tmp_path: Path, name: str, change: str
) -> None:
    do, why = CHANGES[change]
    path = tmp_path / "book"
    with ledger.open(path) as book:
        book.create_accounts(accounts())
        pays(book, 1, 3)
        do(path / name)
        with pytest.raises(LedgerStopped, match=f"{why}.*{name}|{name}.*{why}") as caught:
            pays(book, 4, 3)
        assert caught.value.exit_code == Exit.DATA_REFUSED


def test_an_append_during_which_the_file_is_replaced_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal.create(tmp_path / "book", 7, FIRST)
    with Journal.open(tmp_path / "book") as journal:
        data = journal.directory / "journal" / "data.mdb"
        monkeypatch.setattr(Lock, "check", lambda self: put_in_place(data))
        with pytest.raises(LedgerStopped, match="another file was put in the place of"):
            journal.append(1, Group(b"x" * 64, 2, 1, 1, 100, 110))
        assert journal.group == 1


def test_a_stamp_does_not_go_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    with Checkpoint(tmp_path / "book") as checkpoint:
        checkpoint.write(7, 1, 1, bytes(32))
        put_in_place(tmp_path / "book" / "state" / "data.mdb")
        with pytest.raises(DataRefused, match="another file was put in the place of"):
            checkpoint.write(7, 2, 2, bytes(32))


@pytest.mark.parametrize("how", ["shorter", "older"])
def test_a_file_that_was_written_over_stops_the_book(tmp_path: Path, how: str) -> None:
    path = tmp_path / "book"
    data = path / "journal" / "data.mdb"
    with ledger.open(path) as book:
        book.create_accounts(accounts())
        shutil.copyfile(data, tmp_path / "older")
        pays(book, 1, 3)
        if how == "shorter":
            os.truncate(data, data.stat().st_size - 4096)
        else:
            with data.open("r+b") as file:
                file.write((tmp_path / "older").read_bytes())
        with pytest.raises(LedgerStopped, match=r"was cut from|was written to by another"):
            pays(book, 4, 3)


def test_a_server_whose_file_is_cut_says_so_before_it_dies(server: Start, tmp_path: Path) -> None:
    running = server(tmp_path / "book")
    peer, session = with_accounts(running.address)
    os.truncate(running.directory / "journal" / "data.mdb", 0)
    peer.send(session.request_frame(Operation.CREATE_TRANSFERS, transfers(1, 3).tobytes()))
    code = running.wait()
    assert code in (Exit.DATA_REFUSED, -7), running.log
    assert any("journal/data.mdb" in line and "was cut" in line for line in running.log)
    peer.close()


DIES = """
import mmap, os, sys
from ledger.journal import _check
_check.on_sigbus(b"ledger: it was cut short\\n")
file = open(sys.argv[1], "r+b")
seen = mmap.mmap(file.fileno(), 8192)
os.truncate(sys.argv[1], 0)
seen[5000]
"""


def test_a_bus_error_is_told_and_then_kills(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    done = subprocess.run(
        [sys.executable, "-c", DIES, tmp_path / "file"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (-7, "ledger: it was cut short\n")


# ---- a share of a full disk ---------------------------------------------------------------------


def test_the_share_of_a_disk_that_is_used_is_what_df_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 1,000 blocks, 700 of them root's or free for root alone."""
    Journal.create(tmp_path / "book", 7, FIRST)
    true = os.statvfs

    def statvfs(path: object) -> os.statvfs_result:
        found = list(true(tmp_path))
        found[1:5] = (1 << 20, 1_000_000, 900_000, 245_000)
        return os.statvfs_result(found)

    with Journal.open(tmp_path / "book") as journal:
        monkeypatch.setattr(os, "statvfs", statvfs)
        room = journal.room()
        assert room.used_percent == 29  # 100,000 of 345,000
        assert room.warn_percent == 0
