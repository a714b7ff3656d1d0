"""The command line: what a person types, what they read, and the exit code a script gets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from ledger.audit import verify
from ledger.commands import cli
from ledger.facts.limits import Exit
from ledger.facts.schema import JournalKind as K
from ledger.journal.journal import Journal
from ledger.load.report import Options
from tests.support import books


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ledger", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ, **environment),
    )


@pytest.fixture(scope="module")
def groups() -> books.Groups:
    return books.paid(8, 30)


@pytest.fixture
def book(tmp_path, groups):
    return books.write(tmp_path / "book", groups)


def refused(done: subprocess.CompletedProcess[str], code: Exit, why: str) -> None:
    """One clear line on standard error, and its exit code."""
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("ledger: ") and why in done.stderr
    assert done.stderr.count("\n") == 1


# ---- usage --------------------------------------------------------------------------------------


def test_help_is_quick_and_names_every_command():
    code = "import sys; from ledger.commands import cli; cli._run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("serve", "load", "verify", "inspect", "rebuild"):
        assert f"\n  {command} " in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"uvloop", "rich", "ledger.audit.verify", "ledger.host.server"} & set(loaded)


def test_no_arguments_is_help():
    assert run().stdout == run("--help").stdout
    assert run().returncode == Exit.OK


def test_version():
    assert run("--version").stdout.startswith("ledger 0.")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["serve"], "Missing argument 'DIRECTORY'"),
        (["serve", "book", "--wrong"], "No such option"),
        (["serve", "book", "--address", "3000"], "'3000' is not HOST:PORT, such as 127.0.0.1:3000"),
        (["serve", "book", "--address", "localhost:"], "'' in 'localhost:' is not a port"),
        (["serve", "book", "--address", "localhost:65536"], "is not a port, 0 to 65535"),
        (["serve", "book", "--address", "::1:3000"], "needs brackets, [::1]:3000"),
        (["serve", "book", "--cluster", "x"], "'x' is not a number, decimal or 0x..."),
        (["serve", "book", "--cluster", str(2**128)], "is not within 0 .. 2^128-1"),
        (["serve", "book", "--cluster", "-1"], "is not within 0 .. 2^128-1"),
        (["inspect", "book", "--account", "1", "--group", "1"], "exclude each other"),
        (["load", "127.0.0.1:3000", "--batch", "0"], "batch: 0 is not within 1 .. 8189"),
        (["load", "127.0.0.1:3000", "--id-order", "up"], "'up' is not one of 'ordered', 'random'"),
        (["load", "3000"], "3000"),
        (["serve", "book", "--address", "0.0.0.0:3000"], "--allow-plaintext"),
    ],
)
def test_usage_is_refused_in_one_line(arguments, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(books.ROOT))
    refused(run(*arguments), Exit.USAGE, why)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(text, address):
    assert cli._address(None, None, text) == address  # type: ignore[arg-type]


# ---- verify and rebuild -------------------------------------------------------------------------


def test_verify_says_clean(book):
    done = run("verify", book)
    assert done.returncode == Exit.OK
    assert "clean: debits equal credits in every ledger" in done.stdout
    assert (
        done.stderr == "ledger: warning: no head stamp: whether groups were lost cannot be told\n"
    )


def test_verify_tells_facts(book, groups):
    facts = json.loads(run("verify", book, "--json").stdout)
    assert facts["clean"] is True and facts["fault"] is None
    assert facts["groups"] == len(groups)
    first = facts["ledgers"][0]
    assert first["debits_posted"] == first["credits_posted"] == str(8 * 2**64 + 28 + 800 + 40)


def test_verify_names_the_first_wrong_position(tmp_path, groups):
    altered, position = books.alter(groups, K.TRANSFER, 9, {"code": 0})
    book = books.write(tmp_path / "altered", altered)
    done = run("verify", book)
    assert done.returncode == Exit.FAULT_FOUND
    assert f"position {position}: a transfer with code 0\n" in done.stderr
    assert "clean" not in done.stdout
    facts = json.loads(run("verify", book, "--json").stdout)
    assert facts["fault"]["position"] == str(position)
    done = run("rebuild", book, "--trust-journal")
    refused(done, Exit.FAULT_FOUND, "a transfer with code 0; nothing was rebuilt")


def test_what_is_no_book(tmp_path):
    for command in ("verify", "inspect"):
        refused(run(command, tmp_path / "none"), Exit.DATA_REFUSED, "holds no book")


def test_a_book_in_use(book):
    with Journal.open(book):
        for command in (["verify", book], ["serve", book, "--address", "127.0.0.1:0"]):
            refused(run(*command), Exit.DIRECTORY, f"is in use by pid {os.getpid()}")


def test_rebuild_goes_on_without_what_is_lost(book, tmp_path, groups):
    lost = books.write(tmp_path / "lost", groups[:-1])
    with Journal.open(book) as journal:
        books.stamp(lost, journal)
    refused(
        run("serve", lost, "--address", "127.0.0.1:0"),
        Exit.DATA_REFUSED,
        "the journal has lost acknowledged groups",
    )
    assert run("verify", lost).returncode == Exit.FAULT_FOUND
    done = run("rebuild", lost, "--trust-journal")
    assert done.returncode == Exit.OK and "rebuilt" in done.stdout
    assert run("verify", lost).returncode == Exit.OK


def test_another_cluster_is_refused(book):
    done = run("serve", book, "--address", "127.0.0.1:0", "--cluster", "8")
    refused(done, Exit.DATA_REFUSED, "is the book of cluster 7, not of 8")


# ---- inspect and serve --------------------------------------------------------------------------


def test_inspect_as_text_and_as_json(book):
    text = run("inspect", book, "--transfer", "0x3ea")  # 1002
    assert text.returncode == Exit.OK
    assert "flags" in text.stdout and "pending" in text.stdout and "voided" in text.stdout
    facts = json.loads(run("inspect", book, "--transfer", "1002", "--json").stdout)
    assert facts["hold"]["state"] == "voided"
    assert json.loads(run("inspect", book, "--account", "2", "--json").stdout)["ledger"] == 1
    assert json.loads(run("inspect", book, "--group", "1", "--json").stdout)["group"] == "1"
    assert json.loads(run("inspect", book, "--json").stdout)["holds"]["accounts"] == 4


def test_inspect_of_what_is_not_there(book):
    refused(run("inspect", book, "--account", "99"), Exit.FAULT_FOUND, "holds no account 99")


def test_a_served_book_may_be_inspected_and_not_verified(server):
    running = server(cluster=3)
    facts = json.loads(run("inspect", running.directory, "--json").stdout)
    assert (facts["cluster"], facts["position"]) == ("3", "2")
    refused(run("verify", running.directory), Exit.DIRECTORY, f"is in use by pid {running.pid}")
    assert running.terminate() == Exit.OK
    assert run("verify", running.directory).returncode == Exit.OK


def test_every_option_of_the_load_is_offered():
    text = run("load", "--help").stdout
    names = {field.name for field in msgspec.structs.fields(Options)} - {"address"}
    assert names == set(cli._LOAD_HELP)
    for name in names:
        assert f"\n  --{name.replace('_', '-')} " in text


def test_load_pays_and_checks(server):
    running = server(cluster=3)
    options = ["--cluster", 3, "--transfers", 500, "--batch", 10, "--accounts", 10, "--seed", 1]
    text = run("load", running.address, *options, "--check")
    assert text.returncode == Exit.OK, text.stderr
    assert "payments accepted" in text.stdout and "looked up and as sent" in text.stdout
    options[-1] = 2
    report = json.loads(run("load", running.address, *options, "--history", "--json").stdout)
    assert report["accepted"] == 500 and report["faults"] == {}
    assert report["options"]["batch"] == 10 and report["options"]["history"] is True
    assert running.terminate() == Exit.OK
    facts = json.loads(run("verify", running.directory, "--json").stdout)
    assert facts["clean"] and facts["records"]["transfer"] == 1000


def test_a_taken_address_is_told(server, tmp_path):
    running = server()
    done = run("serve", tmp_path / "other", "--address", running.address)
    refused(done, Exit.IO_ERROR, "Address already in use")


def test_results_nobody_reads_are_no_error(book):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ledger", "inspect", str(book)]
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_ends_quietly_and_leaves_no_reader(book, tmp_path):
    """The reader stops itself at the second group, so there is something to interrupt."""
    environment = books.at_group(tmp_path, 2, "SIGSTOP")
    command = [sys.executable, "-m", "ledger", "verify", str(book)]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        reader = stopped_child(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == cli.INTERRUPTED
        assert process.stderr is not None and process.stderr.read() == b""
    with pytest.raises(ProcessLookupError):
        os.kill(reader, 0)


def test_an_interrupt_in_the_middle_of_a_wait_ends_the_reader(book, monkeypatch):
    """Python raises it between the taking of a lock of the child's and what gives it back."""
    readers = []

    def interrupted(reader):
        readers.append(reader)
        assert reader._waitpid_lock.acquire(False)
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify.verify(book)
    assert readers[0].returncode == -signal.SIGKILL


def stopped_child(pid: int) -> int:
    """The one child of a process, once it has stopped itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in map(int, children.read_text().split()):
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return child
    raise AssertionError(f"process {pid} has no child that has stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_has_nothing_open_yet_ends_when_it_is_asked(number: signal.Signals) -> None:
    """The system drops these for process 1 of a container, unless it has said what to do."""
    code = (
        "import signal; from ledger.commands import cli; cli._end_while_it_starts();"
        " print('ready', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 0
