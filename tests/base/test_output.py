"""Commands in bad surroundings: closed descriptors, full disks, small limits, odd directories.

Each has its exit code and at most one line of what is wrong, and a server serves whatever becomes
of its log.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ledger
from chaos.process import Server
from ledger.base import output
from ledger.facts.limits import CONNECTIONS_MIN, DESCRIPTORS_KEPT, Exit
from tests.support import books

# Not `-m`, which lets Python itself look into the directory where it is called.
CODE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from ledger.commands.cli import main; main()"
)
LEDGER = [sys.executable, "-P", "-c", CODE, str(books.ROOT)]
WAIT_SECONDS = 60


def run(
    *words: object, shell: str = 'exec "$@"', **options: object
) -> subprocess.CompletedProcess[str]:
    """A command, as a shell starts it after `shell`."""
    command = ["sh", "-c", shell, "sh", *LEDGER, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT_SECONDS, **options
    )  # type: ignore[call-overload, no-any-return]


def refused(done: subprocess.CompletedProcess[str], code: int, *whys: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("ledger: ") and done.stderr.count("\n") == 1, done.stderr
    for why in whys:
        assert why in done.stderr


@pytest.fixture(scope="module")
def groups() -> books.Groups:
    return books.paid(8, 30)


@pytest.fixture
def book(tmp_path: Path, groups: books.Groups) -> Path:
    return books.write(tmp_path / "book", groups)


# ---- standard descriptors -----------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


CLOSED = [
    ">&-", "2>&-", "<&-", ">&- 2>&-", "<&- 2>&-", "<&- >&-", "<&- >&- 2>&-", "2>/dev/full",
    ">/dev/full", ">/dev/full 2>/dev/full",
]  # fmt: skip


@pytest.mark.parametrize("how", CLOSED)
def test_a_server_serves_whatever_becomes_of_its_log(book: Path, how: str) -> None:
    """It has warnings to tell (there is no head stamp), and a line to say that it listens."""
    port = free_port()
    serve = ["serve", str(book), "--address", f"127.0.0.1:{port}", "--accept-clock"]
    command = ["sh", "-c", f'exec "$@" {how}', "sh", *LEDGER, *serve]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as server:
        try:
            with ledger.Client(f"127.0.0.1:{port}", books.CLUSTER, timeout=30) as client:
                assert len(client.lookup_accounts([1])) == 1
            for number in (0, 1, 2):
                kind = str(Path(f"/proc/{server.pid}/fd/{number}").readlink())
                assert kind.startswith(("/dev/", "pipe:")), kind
            server.send_signal(signal.SIGTERM)
            assert server.wait(WAIT_SECONDS) == Exit.OK
        finally:
            server.kill()


@pytest.mark.parametrize("how", CLOSED)
def test_errors_have_their_code_whatever_becomes_of_the_line(tmp_path: Path, how: str) -> None:
    done = run("verify", tmp_path / "none", shell=f'exec "$@" {how}')
    assert done.returncode == Exit.DATA_REFUSED
    done = run("serve", tmp_path / "no" / "book", shell=f'exec "$@" {how}')
    assert done.returncode == Exit.DIRECTORY


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_results_that_cannot_be_written_are_an_error(book: Path, command: str) -> None:
    for words in ([command, book], [command, book, "--json"]):
        done = run(*words, shell='exec "$@" >/dev/full')
        assert done.returncode == Exit.IO_ERROR
        assert done.stderr.splitlines()[-1] == (
            "ledger: [Errno 28] standard output cannot be written: No space left on device"
        )
    assert run(command, book, shell='exec "$@" >&-').returncode == Exit.OK


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
        output.log("lost", write)
        os.read(read, 1 << 16)
        output.log("x" * 10_000, write)
        while b"x" not in (told := os.read(read, 1 << 20)):
            pass
        assert len(told.lstrip(b"\0")) == output.LINE_BYTES_MAX and told.endswith(b"x\n")
    finally:
        os.close(read)
        os.close(write)


# ---- limits -------------------------------------------------------------------------------------


def test_too_little_address_space_is_told(book: Path, tmp_path: Path) -> None:
    for directory in (book, tmp_path / "new"):
        done = run(
            "serve", directory, "--address", "127.0.0.1:0", "--accept-clock",
            shell='ulimit -v 4000000; exec "$@"',
        )  # fmt: skip
        refused(done, 71, "1024 GiB of address space", "ulimit -v unlimited", "LimitAS=infinity")
    assert not (tmp_path / "new").exists()
    code = f"import ledger; ledger.open({str(tmp_path / 'host')!r})"
    command = ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=books.ROOT)
    assert "MapRefused: " in done.stderr.splitlines()[-1]


def test_too_few_descriptors_are_told(book: Path) -> None:
    needed = DESCRIPTORS_KEPT + CONNECTIONS_MIN
    for limit in (32, 64, needed - 1):
        serve = ["serve", book, "--address", "127.0.0.1:0", "--accept-clock"]
        done = run(*serve, shell=f'ulimit -n {limit}; exec "$@"')
        said = (f"{needed} descriptors are needed", f"may have {limit}", "ulimit -n 16448")
        refused(done, 71, *said)


NO_THREADS = """
import threading
def start(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
"""


def test_a_thread_that_cannot_be_started_is_told(book: Path, tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(NO_THREADS)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "hook")}
    for words in (["verify", book], ["serve", book, "--address", "127.0.0.1:0"]):
        refused(run(*words, env=environment), 71, "no other thread")


# ---- directories --------------------------------------------------------------------------------


def test_no_command_imports_from_where_it_is_called(book: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("ledger", "lmdb", "rich"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise SystemExit('imported from here')")
    for words in (["verify", book], ["inspect", book], ["rebuild", book]):
        done = run(*words, cwd=here)
        assert done.returncode == Exit.OK, done.stderr


def test_a_book_is_made_where_one_stands(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    inode = here.stat().st_ino
    serve = [*LEDGER, "serve", ".", "--address", "127.0.0.1:0"]
    with subprocess.Popen(serve, cwd=here, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and "listening on" in server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_SECONDS) == Exit.OK
    assert run("verify", ".", cwd=here).returncode == Exit.OK
    before = Path.cwd()
    os.chdir(here)
    try:
        with ledger.open("."):
            assert Path.cwd() == here
    finally:
        os.chdir(before)
    assert here.stat().st_ino == inode
    assert sorted(path.name for path in here.iterdir()) == ["journal", "lock", "state"]


@pytest.mark.parametrize("left", [["journal"], ["journal", "state"], []])
def test_what_a_killed_creation_left_is_removed(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / ".creating" / name).mkdir(parents=True)
        (tmp_path / ".creating" / name / "data.mdb").write_bytes(b"half")
    with ledger.open(tmp_path) as made:
        assert made.position >= 1
    assert not (tmp_path / ".creating").exists()
    assert run("verify", tmp_path).returncode == Exit.OK


@pytest.mark.parametrize("name", [b"\xff\xfebook", "büch".encode(), b"new\nline"])
def test_a_path_may_be_any_bytes(tmp_path: Path, groups: books.Groups, name: bytes) -> None:
    book = books.write(tmp_path / "plain", groups)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    book.rename(odd)
    for command in ("verify", "inspect", "rebuild"):
        for words in ([command, odd], [command, odd, "--json"]):
            done = run(*words, env=os.environ | {"LC_ALL": "C.UTF-8"})
            assert done.returncode == Exit.OK, done.stderr
            if "--json" in words:
                assert os.fsencode(json.loads(done.stdout)["directory"]).endswith(name)
    server = Server(Path(odd), books.CLUSTER, accept_clock=True)
    try:
        server.start()
        refused(run("serve", odd, "--address", "127.0.0.1:0"), Exit.DIRECTORY, "is in use by pid")
        refused(run("verify", odd), Exit.DIRECTORY, "is in use by pid")
        assert server.terminate() == Exit.OK
    finally:
        server.close()
    refused(run("inspect", odd + "none"), Exit.DATA_REFUSED, "holds no book")


# ---- what is told -------------------------------------------------------------------------------


def test_nothing_is_cut_when_it_is_piped(book: Path) -> None:
    environment = os.environ | {"COLUMNS": "40"}
    facts = json.loads(run("inspect", book, "--json").stdout)
    text = run("inspect", book, env=environment).stdout
    assert facts["digest"] in text and facts["state_hash"] in text and "…" not in text
    text = run("verify", book, env=environment).stdout
    assert facts["digest"] in text and facts["state_hash"] in text and "…" not in text


def test_who_holds_a_book_is_told_in_a_few_words(book: Path) -> None:
    code = f"# {'x' * 5000}\nimport sys, ledger; b = ledger.open(sys.argv[1], 7, accept_clock=True)"
    code += "; print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, book], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=books.ROOT,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        done = run("serve", book, "--address", "127.0.0.1:0")
        refused(done, Exit.DIRECTORY, f"is in use by pid {holder.pid}: python")
        assert len(done.stderr) < 400
        holder.communicate(b"\n")


def test_a_book_that_this_process_has_open(tmp_path: Path) -> None:
    with ledger.open(tmp_path / "book"), pytest.raises(ledger.DirectoryInUse) as error:
        ledger.open(tmp_path / "book")
    assert str(error.value).endswith("is in use: this process has it open already")


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_a_killed_command_leaves_no_reader(book: Path, tmp_path: Path, command: str) -> None:
    """The reader stops itself at the second group; who waits for it is killed."""
    environment = books.at_group(tmp_path, 2, "SIGSTOP")
    process = subprocess.Popen([*LEDGER, command, str(book)], env=environment)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + WAIT_SECONDS
    reader = 0
    while not reader and time.monotonic() < deadline:
        for child in map(int, children.read_text().split()):
            if _state_of(child) == "T":
                reader = child
    assert reader
    process.kill()
    process.wait()
    try:
        while True:
            try:
                with ledger.open(book, books.CLUSTER, accept_clock=True):
                    return
            except ledger.DirectoryInUse:
                assert time.monotonic() < deadline and _state_of(reader) != "T"
    finally:
        if _state_of(reader) == "T":
            os.kill(reader, signal.SIGKILL)


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


