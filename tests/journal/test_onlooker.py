"""The onlooker: it reads a book where it lies, beside a writer, and needs no more than to read."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from chaos.small_disk import SmallDisk
from ledger.audit import verify as verify_module
from ledger.audit.verify import verify
from ledger.commands.inspect import inspect
from ledger.facts.errors import DataRefused, DirectoryInUse, DirectoryNotReadable
from ledger.facts.limits import Exit
from ledger.journal import onlooker
from ledger.journal.group import Group
from ledger.journal.journal import Journal
from ledger.journal.lock import SharedLock
from ledger.journal.onlooker import LmdbFile, NoBook, Onlooker
from tests.support import books

LEDGER = [sys.executable, "-m", "ledger"]
NOBODY = 65534
PAGE_BYTES = 4096
APPENDS = int(os.environ.get("ONLOOKER_APPENDS", "1500"))  # beside which a book is looked at


@pytest.fixture(scope="module")
def groups() -> books.Groups:
    return books.paid(30, 20)


@pytest.fixture
def book(tmp_path: Path, groups: books.Groups) -> Path:
    return books.write(tmp_path / "book", groups)


def data(book: Path) -> Path:
    return book / "journal" / "data.mdb"


def only_the_journal(book: Path, place: Path) -> Path:
    """What the docs call what to back up."""
    (place / "journal").mkdir(parents=True)
    shutil.copy(data(book), data(place))
    return place


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def ledger(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LEDGER, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


# ---- what it finds ------------------------------------------------------------------------------


def test_it_finds_what_the_journal_holds(book: Path) -> None:
    with Journal.open(book) as journal, Onlooker(book) as looked:
        ends = (journal.group, journal.position, journal.clock, journal.digest(), journal.cluster)
        assert ends == (
            looked.group, looked.position, looked.clock, looked.digest(), looked.cluster
        )  # fmt: skip
        for number in range(1, journal.group + 1):
            assert looked.one(number) == journal.one(number)
            assert looked.end_of(number) == journal.end_of(number)
        pairs = zip(looked.read(chain=True), journal.read(chain=True), strict=True)
        assert all(one == other for one, other in pairs)
        with pytest.raises(ValueError, match="is not among the journal's"):
            looked.one(journal.group + 1)
    with pytest.raises(ValueError, match="is closed"):
        looked.one(1)


def test_it_opens_nothing_but_the_journal(book: Path, tmp_path: Path) -> None:
    """No environment and no lock of LMDB's: nothing is left or changed, whoever looks."""
    copy = only_the_journal(book, tmp_path / "copy")
    before = names(copy), data(copy).read_bytes(), data(copy).stat().st_mtime_ns
    assert ledger("inspect", copy).returncode == Exit.OK
    assert ledger("verify", copy).returncode == Exit.OK
    assert before == (names(copy), data(copy).read_bytes(), data(copy).stat().st_mtime_ns)
    assert names(copy) == ["journal", "journal/data.mdb"]


def test_no_slot_of_a_reader_is_needed(book: Path) -> None:
    """All that LMDB has are taken by others, as by processes that died with them."""
    with (
        lmdb.open(str(book / "journal"), readonly=True, lib_version=0) as env,
        env.begin(),
    ):
        taken = []
        with pytest.raises(lmdb.ReadersFullError):
            while True:
                taken.append(env.begin())
        with Onlooker(book) as looked:
            assert len(list(looked.read())) == looked.group
        assert ledger("verify", book).returncode == Exit.OK
        del taken


def appended(book: Path, groups: books.Groups, count: int) -> Iterator[int]:
    """Append small groups, which lie on LMDB's own pages, and now and then a large one."""
    body = groups[-1][1]
    with Journal.open(book) as journal:
        for n in range(count):
            size = 16 if n % 7 else 16 * 400
            clock = journal.clock
            group = Group(body[:16] * (size // 16), journal.position + 1, 1, 1, clock, clock + 1)
            yield journal.append(journal.position, group)


def test_beside_a_writer(book: Path, groups: books.Groups) -> None:
    """Pages are written over under the onlooker, and it never takes one for damage."""
    done, wrong, looks = threading.Event(), [], 0

    def write() -> None:
        try:
            for _ in appended(book, groups, APPENDS):
                pass
        except BaseException as error:
            wrong.append(error)
        done.set()

    writer = threading.Thread(target=write)
    with Onlooker(book) as early:
        writer.start()
        while not done.is_set():
            with Onlooker(book) as looked:
                newest = [header.group for header, _ in looked.read(max(1, looked.group - 40))]
                assert newest[-1] == looked.group
            assert len(list(early.read(chain=True))) == early.group
            looks += 1
    writer.join()
    assert not wrong and looks > 3


def test_a_snapshot_that_is_written_over_is_left_for_a_newer_one(
    book: Path, groups: books.Groups
) -> None:
    """The page that led to the last groups when the book was opened holds something else now."""
    for _ in appended(book, groups, 100):
        pass
    with Onlooker(book) as looked:
        before = [looked.one(number) for number in range(1, looked.group + 1)]
        looked.one(1)  # what is in memory now is another page
        stale = looked._lmdb._snapshot
        for _ in appended(book, groups, 200):
            pass
        assert looked.one(looked.group) == before[-1]
        assert looked._lmdb._snapshot > stale, "it was not needed: the test shows nothing"
        assert [looked.one(number) for number in range(1, looked.group + 1)] == before


# ---- what it refuses ----------------------------------------------------------------------------


def test_damage_outside_the_groups_names_the_file(book: Path) -> None:
    whole = data(book).read_bytes()
    newest = max((0, 1), key=lambda n: whole[n * PAGE_BYTES + 144 : n * PAGE_BYTES + 152][::-1])
    for at, bytes_, why in (
        (16, b"\0\0\0\0", "meta page 0 is none of LMDB's"),
        (PAGE_BYTES + 20, b"\x05", "meta page 1 is none of LMDB's"),
        (40, b"\x01\x00\x00\x00", "says that a page has 1 bytes"),
        (newest * PAGE_BYTES + 94, b"\xff\xff", "says that the tree has 65535 levels"),
        (newest * PAGE_BYTES + 92, b"\x04", "says what LMDB does not write"),
    ):
        damaged = bytearray(whole)
        damaged[at : at + len(bytes_)] = bytes_
        data(book).write_bytes(damaged)
        with pytest.raises(DataRefused, match=f"data.mdb: damaged outside the groups .*{why}"):
            Onlooker(book)
        fault = verify(book).fault
        assert fault is not None and why in fault.why and str(data(book)) in fault.why


def test_a_file_that_is_too_short_says_so(book: Path) -> None:
    whole = data(book).read_bytes()
    for size in (0, 100, 4096, 8191, len(whole) // 2, len(whole) - 1):
        data(book).write_bytes(whole[:size])
        with pytest.raises(DataRefused, match=f"{size} bytes.* is missing"):
            Onlooker(book)


def test_a_group_that_no_page_leads_to(book: Path) -> None:
    path = str(book / "journal")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as put:
        assert put.delete((2).to_bytes(8, "big"))
    fault = verify(book).fault
    assert fault is not None and "but the journal holds" in fault.why
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as put:
        put.put(b"\0" * 8, b"x")
    fault = verify(book).fault
    assert fault is not None and (fault.group, fault.position > 1) == (2, True)
    assert f"no page of {data(book)} leads to it" in fault.why


def test_free_pages_are_those_of_the_library(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=1 << 30, lib_version=0) as env:
        for round in range(30):
            with env.begin(write=True) as put:
                for n in range(200):
                    put.put(n.to_bytes(8, "big"), bytes(round * n % 9000))
            info, stat_ = env.info(), env.stat()
    with LmdbFile(tmp_path / "data.mdb") as file:
        assert file.page_last == info["last_pgno"]
        free = set(file.free_pages().tolist())
        assert len(free) > 10 and max(free) <= file.page_last
        for n in range(200):
            found = file.find(n.to_bytes(8, "big"))
            assert found is not None
            pages = range(found[0] // PAGE_BYTES, (found[0] + max(1, found[1]) - 1) // PAGE_BYTES)
            assert not free & set(pages)
    used = stat_["branch_pages"] + stat_["leaf_pages"] + stat_["overflow_pages"]
    assert len(free) + used <= info["last_pgno"] - 1 <= len(free) + used + 8


def test_what_is_no_book(tmp_path: Path) -> None:
    with pytest.raises(NoBook, match="holds no book"):
        Onlooker(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NoBook):
        Onlooker(tmp_path / "file")
    (tmp_path / "book" / "journal").mkdir(parents=True)
    os.mkfifo(data(tmp_path / "book"))
    with pytest.raises(NoBook, match="is no file"):
        Onlooker(tmp_path / "book")
    refused = ledger("verify", tmp_path / "book")
    assert (refused.returncode, refused.stderr.count("\n")) == (Exit.DATA_REFUSED, 1)


# ---- where it works -----------------------------------------------------------------------------


def test_on_read_only_media(book: Path, tmp_path: Path) -> None:
    """Whole and with the journal alone; nobody can serve it there, so no warning is needed."""
    disk = SmallDisk(tmp_path)
    try:
        shutil.copytree(book, disk.directory / "whole")
        only_the_journal(book, disk.directory / "alone")
        if not disk.make_readonly():
            for path in disk.directory.rglob("*"):
                path.chmod(0o500 if path.is_dir() else 0o400)
        for name in ("whole", "alone"):
            looked = ledger("inspect", disk.directory / name)
            assert looked.returncode == Exit.OK, looked.stderr
            checked = ledger("verify", disk.directory / name)
            assert checked.returncode == Exit.OK and "clean: " in checked.stdout, checked.stderr
            warnings = [line for line in checked.stderr.splitlines() if "no head stamp" not in line]
            assert not disk.is_real or warnings == []
    finally:
        disk.end()


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` says as a user who owns nothing; the interpreter may be out of such a one's
    reach, so it is a fork of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def for_all(groups: books.Groups) -> Iterator[Path]:
    """A folder that other users may pass through."""
    place = Path("/var/tmp") / f"onlooker-{os.getpid()}"
    place.mkdir(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("of_lock", [0o600, 0o644, None])
def test_for_who_may_only_read(for_all: Path, groups: books.Groups, of_lock: int | None) -> None:
    book = books.write(for_all / "book", groups)
    for path in (book, *book.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if of_lock is None:
        (book / "lock").unlink()
    else:
        (book / "lock").chmod(of_lock)
    before = names(book)

    def work() -> str:
        report = verify_module._read_locked(book, mmap.mmap(-1, verify_module._PAGE.size))
        return f"clean {report.clean}: {report.warnings}"

    said = as_nobody(work)
    assert said.startswith("clean True: "), said
    assert ("should a server be at work" in said) == (of_lock != 0o644)
    assert names(book) == before
    assert as_nobody(lambda: str(inspect(book)["group"])) == str(len(groups))


def test_who_may_not_read(for_all: Path, groups: books.Groups) -> None:
    book = books.write(for_all / "book", groups)
    data(book).chmod(0)
    assert as_nobody(lambda: str(Onlooker(book))) == (
        f"DirectoryNotReadable: cannot read {data(book)}: Permission denied"
    )
    assert DirectoryNotReadable.exit_code == Exit.DIRECTORY


def test_with_little_address_space(book: Path) -> None:
    """LMDB's map takes 1 TiB of it; an onlooker maps nothing."""
    for command in ("inspect", "verify"):
        words = ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", *LEDGER, command, str(book)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == Exit.OK, done.stderr


def own_namespace() -> bool:
    words = ["unshare", "--pid", "--fork", "true"]
    return subprocess.run(words, capture_output=True).returncode == 0


def test_the_same_pid_in_two_namespaces(book: Path) -> None:
    """As in containers, where all are pid 1: a writer beside who looks on, and the other way."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child"] if own_namespace() else []
    served = subprocess.Popen(
        [*prefix, *LEDGER, "serve", str(book), "--address", "127.0.0.1:0", "--accept-clock"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert served.stdout is not None and "listening" in served.stdout.readline()
        for _ in range(3):
            looked = subprocess.run(
                [*prefix, *LEDGER, "inspect", str(book)], capture_output=True, text=True
            )
            assert looked.returncode == Exit.OK, looked.stderr
        refused = subprocess.run(
            [*prefix, *LEDGER, "serve", str(book), "--address", "127.0.0.1:0"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert refused.returncode == Exit.DIRECTORY and "is in use by " in refused.stderr
    finally:
        served.kill()
        served.wait()


# ---- the lock that readers share ----------------------------------------------------------------


def test_readers_share_the_lock_and_a_writer_is_told_who_reads(book: Path) -> None:
    one, other = SharedLock(book), SharedLock(book)
    assert (one.warning, other.warning) == (None, None)
    code = (
        "import pathlib, sys; from ledger.journal.lock import Lock;"
        " Lock(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, book], capture_output=True, text=True)
    assert f"is in use by pid {os.getpid()}: " in done.stderr.splitlines()[-1]
    one.release()
    other.release()
    with Journal.open(book), pytest.raises(DirectoryInUse, match="this process has it open"):
        SharedLock(book)


def test_a_missing_lock_is_told_and_not_made(book: Path) -> None:
    (book / "lock").unlink()
    lock = SharedLock(book)
    assert lock.warning is not None and "No such file" in lock.warning
    lock.release()
    assert not (book / "lock").exists()
    assert stat.S_ISDIR(book.stat().st_mode)


def test_tries_are_bounded(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LmdbFile(data(book)) as file:
        monkeypatch.setattr(LmdbFile, "renew", lambda self: True)
        calls = []

        def refuse() -> None:
            calls.append(1)
            raise DataRefused("again")

        with pytest.raises(DataRefused, match="again"):
            file.settled(refuse)
    assert len(calls) == onlooker.ONLOOKER_TRIES_MAX
