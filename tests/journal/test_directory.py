"""Directories that must not be served: each is refused with one clear line and its exit code, and
left as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from chaos import shim
from chaos.altered import days_ahead
from chaos.process import SERVE, Server
from chaos.small_disk import SmallDisk
from ledger.facts.limits import Exit
from ledger.facts.schema import GROUP_HEADER, Operation
from ledger.journal import _check
from ledger.journal.group import HEADER_BYTES, MAGIC
from ledger.journal.journal import Journal
from tests.support.raw import Peer, Session, serves, transfers, with_accounts

Start = Callable[..., Server]
LEDGER = [sys.executable, "-m", "ledger"]
GROUPS = 8


def refused(directory: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and the last line of a `serve` that must end by itself."""
    run = subprocess.run(
        [*SERVE, directory, "--address", "127.0.0.1:0", *options],
        env=dict(os.environ) | (env or {}), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == "", "it listened"
    return run.returncode, run.stderr.splitlines()[-1]


def contents(directory: Path) -> dict[str, str]:
    """What lies in a directory, but for locks."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of a few groups, of one account pair and some payments."""
    server = Server(tmp_path_factory.mktemp("made") / "book").start()
    peer, session = with_accounts(server.address)
    for number in range(GROUPS):
        session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1 + 50 * number, 50))
    peer.close()
    assert server.terminate() == Exit.OK
    return server.directory


@pytest.fixture
def book(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "book"))


def data(book: Path) -> Path:
    return book / "journal" / "data.mdb"


# ---- what it is ---------------------------------------------------------------------------------


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    before = contents(tmp_path)
    code, line = refused(tmp_path / "photos")
    assert code == Exit.DATA_REFUSED
    assert f"{tmp_path / 'photos'} is not empty and holds no book" in line and "cat.jpg" in line
    assert contents(tmp_path) == before


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    code, line = refused(tmp_path / "file")
    assert code == Exit.DATA_REFUSED and "is not a directory" in line


def test_no_parent(tmp_path: Path) -> None:
    code, line = refused(tmp_path / "missing" / "book")
    assert code == Exit.DIRECTORY and f"cannot create {tmp_path / 'missing' / 'book'}" in line


def test_a_file_that_is_no_journal(book: Path) -> None:
    data(book).write_bytes(random.Random(1).randbytes(1 << 16))
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED and str(book) in line


def header_places(book: Path, number: int) -> Iterator[int]:
    """Where the header of a group lies in the file; pages left behind by LMDB included."""
    raw = data(book).read_bytes()
    at = raw.find(MAGIC)
    while at >= 0:
        field = at + GROUP_HEADER.fields["group"][1]
        if int.from_bytes(raw[field : field + 8], "little") == number:
            yield at
        at = raw.find(MAGIC, at + 1)


@pytest.mark.parametrize("number", [1, GROUPS])
def test_another_format(book: Path, number: int) -> None:
    with data(book).open("r+b") as file:
        for at in header_places(book, number):
            file.seek(at)
            header = bytearray(file.read(HEADER_BYTES))
            header[GROUP_HEADER.fields["format"][1]] = 2
            header[-16:] = _check.aegis(bytes(header[:-16]))
            file.seek(at)
            file.write(header)
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED
    assert f"group {number}" in line and "format 2, this software reads 1" in line


def test_another_cluster(book: Path) -> None:
    before = contents(book)
    code, line = refused(book, "--cluster", "9")
    assert code == Exit.DATA_REFUSED and "book of cluster 0, not of 9" in line
    assert contents(book) == before


# ---- who may write it ---------------------------------------------------------------------------


def test_a_directory_in_use(server: Start) -> None:
    running = server()
    code, line = refused(running.directory)
    assert code == Exit.DIRECTORY
    assert f"{running.directory} is in use by pid {running.pid}: " in line and "serve" in line
    assert serves(running.address)


def test_a_directory_that_is_being_made(tmp_path: Path) -> None:
    """What a killed creation left is no obstacle."""
    leftover = tmp_path / ".book.creating"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"x")
    server = Server(tmp_path / "book").start()
    assert serves(server.address) and server.terminate() == Exit.OK
    assert not leftover.exists()


def test_a_read_only_directory(made: Path, tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)
    try:
        book = Path(shutil.copytree(made, disk.directory / "book"))
        env = None if disk.make_readonly() else shim.environment(disk.directory, "open 0 erofs")
        for place in (book, disk.directory / "new"):
            code, line = refused(place, env=env)
            assert code == Exit.DIRECTORY and "Read-only file system" in line
    finally:
        disk.end()


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, GROUPS + 1))
def test_a_flipped_bit_in_any_group(book: Path, number: int) -> None:
    """Header, body or checks: start-up refuses and `verify` names the group too."""
    with Journal.open(book, readonly=True) as journal:
        size = HEADER_BYTES + journal.one(number)[0].body_bytes
        size += 8 * -(-(size - HEADER_BYTES) // 4096)
    chance = random.Random(number)
    bit = chance.randrange(8 * size)
    with data(book).open("r+b") as file:
        for at in header_places(book, number):
            file.seek(at + bit // 8)
            byte = file.read(1)[0]
            file.seek(at + bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
    before = contents(book)
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED and f"group {number}" in line, f"bit {bit}"
    verify = subprocess.run([*LEDGER, "verify", book], capture_output=True, text=True, timeout=60)
    assert verify.returncode == Exit.FAULT_FOUND and f"group {number}" in verify.stderr
    assert contents(book) == before


def test_a_truncated_file(book: Path, made: Path) -> None:
    whole = data(made).read_bytes()
    for size in (0, 100, 4096, 8192, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        data(book).write_bytes(whole[:size])
        code, line = refused(book)
        assert code == Exit.DATA_REFUSED, f"{size} bytes: {line}"
        assert f"{size} bytes" in line and "missing" in line
    data(book).write_bytes(whole)
    server = Server(book).start()
    assert serves(server.address) and server.terminate() == Exit.OK


def test_a_journal_older_than_its_head_stamp(book: Path) -> None:
    """As after putting an old backup back: both positions are said, and there is one way on."""
    old = data(book).read_bytes()
    with Journal.open(book, readonly=True) as journal:
        position_old = journal.position
    server = Server(book).start()
    with Peer(server.address) as peer:
        session = Session().register(peer)
        session.ask(peer, Operation.CREATE_TRANSFERS, transfers(10**6, 10))
    server.terminate()
    with Journal.open(book, readonly=True) as journal:
        position_new = journal.position
    data(book).write_bytes(old)
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED
    assert f"position {position_old} " in line and f"{position_new}:" in line
    assert f"ledger rebuild {book} --trust-journal" in line
    rebuild = [*LEDGER, "rebuild", book, "--trust-journal"]
    assert subprocess.run(rebuild, capture_output=True, timeout=60).returncode == Exit.OK
    assert serves(server.restart().address)
    assert server.terminate() == Exit.OK


def test_another_journal_than_the_stamped_one(book: Path, server: Start) -> None:
    other = server()
    with_accounts(other.address)[0].close()
    for _ in range(GROUPS):
        assert serves(other.address)
    other.terminate()
    shutil.copy(data(other.directory), data(book))
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED and "directories were mixed" in line


# ---- time ---------------------------------------------------------------------------------------


def test_a_clock_far_ahead(book: Path, tmp_path: Path) -> None:
    env = days_ahead(tmp_path, 60)
    before = contents(book)
    code, line = refused(book, env=env)
    assert code == Exit.DATA_REFUSED
    assert "60 days ahead" in line and "--accept-clock" in line
    assert contents(book) == before
    accepted = Server(book, env=env, accept_clock=True).start()
    assert serves(accepted.address) and accepted.terminate() == Exit.OK
    behind = Server(book).start()
    assert "behind the journal's last time" in behind.wait_line("behind")
    assert serves(behind.address) and behind.terminate() == Exit.OK


# ---- the address --------------------------------------------------------------------------------


def test_an_address_beyond_this_machine_is_meant(tmp_path: Path) -> None:
    run = subprocess.run(
        [*SERVE, tmp_path / "book", "--address", "0.0.0.0:0"], capture_output=True, text=True
    )
    assert run.returncode == Exit.USAGE and "--allow-plaintext" in run.stderr
    assert not (tmp_path / "book").exists()


def test_a_taken_address_costs_nothing(server: Start, tmp_path: Path) -> None:
    run = subprocess.run(
        [*SERVE, tmp_path / "book", "--address", server().address], capture_output=True, text=True
    )
    assert run.returncode == Exit.IO_ERROR and "cannot listen on" in run.stderr
    assert not (tmp_path / "book").exists()


# ---- what is not a file, and who was not first ---------------------------------------------------

NAMES = [
    "state/segment-0000000000000001-0000000000000002",
    "state/checkpoint-0000000000000001",
    "state/.segment-0000000000000001-0000000000000002.creating",
    "state/data.mdb",
    "state/lock.mdb",
    "journal/lock.mdb",
    "lock",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_a_book_holds_nobody_up(book: Path, name: str) -> None:
    """It would wait for a writer, and not hear of a signal."""
    (book / name).unlink(missing_ok=True)
    os.mkfifo(book / name)
    server = Server(book)
    server.begin()
    try:
        if "segment" in name or "checkpoint" in name:
            server.wait_listening()
            assert serves(server.address)
            assert not (book / name).exists()
        else:
            assert server.wait() in (Exit.DATA_REFUSED, Exit.DIRECTORY, Exit.IO_ERROR)
            assert len(server.log) == 1 and name.split("/")[0] in server.log[0], server.log
    finally:
        server.close()


RACERS = 4
RACES = int(os.environ.get("LEDGER_RACES", "3"))


def test_who_loses_the_race_for_a_new_book_hears_that_it_is_in_use(tmp_path: Path) -> None:
    for race in range(RACES):
        racers = [Server(tmp_path / f"book-{race}") for _ in range(RACERS)]
        for racer in racers:
            racer.begin()
        try:
            winners = []
            for racer in racers:
                with contextlib.suppress(AssertionError):
                    racer.wait_listening()
                    winners.append(racer)
            [winner] = winners
            assert serves(winner.address)
            for racer in racers:
                if racer is not winner:
                    assert racer.wait() == Exit.DIRECTORY, racer.log
                    assert "is in use by" in racer.log[-1] or "is being created" in racer.log[-1]
        finally:
            for racer in racers:
                racer.close()


FREE_ROOT_AT = (16 + 64, 4096 + 16 + 64)  # where a meta page says where the free list begins


def test_damage_of_the_free_list_names_the_file(book: Path) -> None:
    """LMDB reads the list of its free pages when a group is written."""
    with data(book).open("r+b") as file:
        for at in FREE_ROOT_AT:
            file.seek(at)
            root = int.from_bytes(file.read(8), "little")
            file.seek(at)
            file.write((root ^ 1 << 30).to_bytes(8, "little"))
    code, line = refused(book)
    assert code == Exit.DATA_REFUSED
    assert f"{data(book)}: damaged outside the groups" in line


@pytest.mark.parametrize("name", ["", "journal", "journal/data.mdb", "state"])
def test_a_book_that_everybody_may_write_to_is_opened_with_a_warning(tmp_path, name):
    path = tmp_path / "book"

    def warnings() -> list[str]:
        with ledger.open(path) as book:
            return [one for one in book.warnings if "disk is used" not in one]

    assert warnings() == []
    (path / name).chmod((path / name).stat().st_mode | 0o002)
    [warning] = warnings()
    assert warning.startswith(f"{path / name}: everybody on this machine may write there")
    (path / name).chmod((path / name).stat().st_mode & ~0o002)
    assert warnings() == []


def test_the_log_of_a_server_has_that_warning_too(server, tmp_path):
    with ledger.open(tmp_path / "book"):
        pass
    (tmp_path / "book").chmod(0o777)
    server(tmp_path / "book").wait_line("everybody on this machine may write there")
