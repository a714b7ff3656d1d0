"""A process that has no descriptors left, or loses those it has: what it is told, what it keeps.

How many are free when a book is opened goes from none to enough, one by one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ledger
from ledger.facts.limits import Exit
from tests.support.book_calls import account

FREE_MAX = 80  # more than a book takes

FEW = """
import json, os, resource, sys, tempfile
import ledger, ledger.commands.inspect, ledger.audit.verify
how, place, free_max = sys.argv[1], sys.argv[2], int(sys.argv[3])
tempfile.tempdir = place
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

def tried():
    if how == "open":
        ledger.open(place + "/book").close()
    elif how == "temporary":
        ledger.open_temporary().close()
    elif how == "inspect":
        ledger.commands.inspect.inspect(ledger.host.book.Path(place + "/there"))
    elif how == "verify":
        assert ledger.audit.verify.verify(ledger.host.book.Path(place + "/there")).clean

def taken():
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return held

found, enough = [], 0
for free in range(free_max):
    held = taken()
    before = len(held)
    for descriptor in held[len(held) - free:]:
        os.close(descriptor)
    try:
        tried()
        found.append([free, "", ""])
        enough += 1
    except Exception as error:
        found.append([free, type(error).__name__, str(error)])
    again = taken()
    assert len(again) == free, (free, len(again), "descriptors leak", found[-1])
    for descriptor in held[:len(held) - free] + again:
        os.close(descriptor)
    if enough == 3:
        break
print(json.dumps([found, sorted(os.listdir(place))]))
"""


@pytest.mark.parametrize("how", ["open", "temporary", "inspect", "verify"])
def test_without_descriptors_the_error_names_them(tmp_path: Path, how: str) -> None:
    with ledger.open(tmp_path / "there") as book:
        book.create_accounts([account(1)])
    command = [sys.executable, "-c", FEW, how, str(tmp_path), str(FREE_MAX)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found, left = json.loads(done.stdout)
    refused = [one for one in found if one[1]]
    assert refused and len(refused) < FREE_MAX
    for free, kind, text in refused:
        assert kind == "SystemLimit" and "descriptors" in text and "ulimit -n" in text, free
    assert [name for name in left if name not in ("there", "book")] == []


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_command_without_descriptors_ends_with_71(tmp_path: Path, command: str) -> None:
    ledger.open(tmp_path / "book").close()
    code = (
        "import os, resource, sys, rich.progress;"
        " import ledger.commands.inspect, ledger.audit.verify;"
        " from ledger.commands.cli import main;"
        " resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60));"
        " [os.open(os.devnull, 0) for _ in range(60 - len(os.listdir('/proc/self/fd')) + 1)];"
        f" main(['{command}', {str(tmp_path / 'book')!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == Exit.SYSTEM, done.stderr
    assert "ulimit -n" in done.stderr


LOST = """
import os, sys
import ledger
book = ledger.open(sys.argv[1])
book.create_accounts([ledger.Account(id=id, ledger=1, code=1) for id in (1, 2)])
os.closerange(3, 1000)
try:
    book.create_accounts([ledger.Account(id=3, ledger=1, code=1)])
except ledger.LedgerStopped as error:
    print(error)
book.close()
book.close()
print("closed")
"""


def test_a_host_that_closes_the_descriptors_of_an_open_book(tmp_path: Path) -> None:
    place = tmp_path / "book"
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(place)], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stopped, closed = done.stdout.splitlines()
    assert str(place / "journal" / "data.mdb") in stopped and "Bad file descriptor" in stopped
    assert closed == "closed"
    assert "Exception" not in done.stderr, done.stderr
    with ledger.open(place) as book:
        assert len(book.lookup_accounts([1, 2])) == 2
