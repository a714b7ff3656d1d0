"""Tests of the journal when calls of the system fail, lie in wait, or never return.

Each scenario is a function that runs in a process with the fault library loaded; every attempt at
work is a fork of it, so that the N-th call of anything can fail or kill and the next attempt begins
clean. The scenarios go on "the 1st, 2nd, 3rd ... call" until an attempt meets no fault.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos import shim
from ledger.facts.errors import LedgerError, LedgerStopped
from ledger.facts.limits import Exit
from ledger.journal.creation import CREATING
from ledger.journal.group import Group
from ledger.journal.journal import Journal

FIRST = Group(b"s" * 48, 1, 1, 1, 0, 100)
BODIES = [b"b" * 64, b"c" * 9_600, b"d" * 160_000]  # in a leaf, over pages, over many
CALLS_MAX = 200
ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """Where a scenario works: a watched directory, and beside it the faults and the acks."""

    def __init__(self, path: Path) -> None:
        self.disk = path / "disk"
        self.book = self.disk / "book"
        self.control = path / "control"
        self.log = path / "log"
        self.acks = path / "acks"

    def attempt(self, work: Callable[[Desk], None], rule: str = "") -> int:
        """Run `work` in a fork under `rule`; its exit code, or minus the signal that ended it."""
        shim.switch(self.control, rule)
        self.acks.write_text("")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(self)
                code = 0
            except LedgerError as error:
                print(f"{rule}: {error}", flush=True)
                code = int(error.exit_code)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        shim.switch(self.control)
        return code

    def acknowledged(self) -> int:
        """Number of the last group whose append returned."""
        return int((self.acks.read_text().split() or ["1"])[-1])


def create(desk: Desk) -> None:
    Journal.create(desk.book, 7, FIRST)


def append(desk: Desk) -> None:
    """Append, and say each group that is durable. After a refusal nothing is durable any more."""
    with Journal.open(desk.book) as journal, desk.acks.open("w") as acks:
        for body in BODIES:
            try:
                add(journal, body)
            except LedgerStopped as first:
                try:
                    add(journal, body)
                except LedgerStopped as again:
                    assert again.cause is first.cause
                    raise
            acks.write(f"{journal.group}\n")
            acks.flush()


def add(journal: Journal, body: bytes) -> None:
    group = Group(body, journal.position + 1, 2, 1, journal.clock, journal.clock + 10)
    journal.append(journal.position, group)


def check(desk: Desk) -> None:
    """All that was acknowledged is there, at most one group more, and the book goes on."""
    with Journal.open(desk.book, 7) as journal:
        assert desk.acknowledged() <= journal.group <= desk.acknowledged() + 1
        bodies = [bytes(body) for _, body in journal.read(chain=True)]
        assert bodies == [FIRST.body, *BODIES][: journal.group]
        add(journal, b"e" * 64)


def reset(desk: Desk) -> None:
    subprocess.run(["rm", "-rf", desk.disk], check=True)
    desk.disk.mkdir()


# ---- scenarios ----------------------------------------------------------------------------------


def kill_create(desk: Desk, empty: bool) -> None:
    """After a kill at any call there is nothing (or the empty directory), or the whole book."""
    whole = 0
    for nth in range(1, CALLS_MAX):
        reset(desk)
        if empty:
            desk.book.mkdir()
        code = desk.attempt(create, f"all {nth} kill")
        if Journal.exists(desk.book):
            whole += 1
        else:
            assert code == -signal.SIGKILL
            left = {entry.name for entry in desk.book.iterdir()} if desk.book.exists() else None
            assert left in ((set(), {CREATING}) if empty else (None,))
            assert desk.attempt(create) == 0
        assert [entry.name for entry in desk.disk.iterdir()] == ["book"]
        desk.acks.write_text("")
        check(desk)
        if code == 0:
            assert nth > 15 and whole >= 2, "killed before and after the rename"
            return
    raise AssertionError("create never ended")


def fail_create(desk: Desk, action: str) -> None:
    for nth in range(1, CALLS_MAX):
        reset(desk)
        code = desk.attempt(create, f"all {nth} {action}")
        if code == 0:
            assert nth > 15
            return
        assert code in (Exit.IO_ERROR, Exit.DIRECTORY)
        if not Journal.exists(desk.book):
            assert not any(desk.disk.iterdir())
            assert desk.attempt(create) == 0
        check(desk)
    raise AssertionError("create never ended")


def fail_append(desk: Desk, calls: str, action: str) -> None:
    for nth in range(1, CALLS_MAX):
        reset(desk)
        assert desk.attempt(create) == 0
        code = desk.attempt(append, f"{calls} {nth} {action}")
        check(desk)
        if code == 0:
            assert nth > 3, "one for each group at the least"
            return
        assert code == (-signal.SIGKILL if action == "kill" else code)
        assert code in (-signal.SIGKILL, Exit.IO_ERROR, Exit.DIRECTORY)
    raise AssertionError("append never ended")


def sync_before_return(desk: Desk) -> None:
    """An append returns after its data, then its meta page, are synced, however long that takes."""
    reset(desk)
    create(desk)
    with Journal.open(desk.book) as journal:
        for body in BODIES:
            os.truncate(desk.log, 0)
            shim.switch(desk.control, "fdatasync 0 delay:100")
            add(journal, body)
            returned = time.monotonic_ns()
            shim.switch(desk.control)
            *data, begin, end, meta_begin, meta_end = shim.events(desk.log)
            assert data and all(event.ns <= begin.ns for event in data)
            assert (begin.what, begin.call) == ("begin", "fdatasync")
            assert end.result == 0 and end.ns - begin.ns >= 100_000_000
            assert (meta_begin.call, meta_end.call) == ("pwrite", "pwrite")
            assert end.ns <= meta_begin.ns <= meta_end.ns <= returned


def refuse_unwritable(desk: Desk, action: str) -> None:
    reset(desk)
    assert desk.attempt(create) == 0
    assert desk.attempt(append, f"open 1 {action}") == Exit.DIRECTORY  # the lock
    assert desk.attempt(append, f"open 2 {action}") == Exit.DIRECTORY  # the data
    reset(desk)
    assert desk.attempt(create, f"mkdir 1 {action}") == Exit.DIRECTORY


def calls_of(desk: Desk, work: Callable[[Desk], None]) -> list[str]:
    os.truncate(desk.log, 0)
    assert desk.attempt(work) == 0
    return [event.call for event in shim.events(desk.log) if event.what == "end"]


def sync_create(desk: Desk) -> None:
    """A book has its name only when its files and directories are on disk; then the name is."""
    reset(desk)
    calls = calls_of(desk, create)
    renamed = calls.index("rename")
    # The file and three directories: journal, state, the book. Then the one that holds the book.
    assert calls[renamed - 4 : renamed] == ["fsync"] * 4
    assert calls[renamed + 1 :] == ["fsync"]


def forget_after_a_crash(desk: Desk) -> None:
    """What memory holds of the file is dropped, after a sync, unless the book was closed."""
    reset(desk)
    create(desk)

    # The lock's text, the file, then the directories: journal, book, the one that holds the book.
    assert calls_of(desk, append)[:5] == ["pwrite", "fsync", "fsync", "fsync", "fsync"]
    assert desk.attempt(append, "fdatasync 1 eio") == Exit.IO_ERROR
    assert calls_of(desk, append)[:3] == ["pwrite", "fsync", "fadvise"]
    assert "fadvise" not in calls_of(desk, append)
    assert desk.attempt(append, "fdatasync 1 kill") == -signal.SIGKILL
    assert "fadvise" in calls_of(desk, append)


SCENARIOS: dict[str, Callable[[Desk], None]] = {
    "kill_create": lambda desk: kill_create(desk, empty=False),
    "kill_create_in_an_empty_directory": lambda desk: kill_create(desk, empty=True),
    "kill_append": lambda desk: fail_append(desk, "all", "kill"),
    "sync_create": sync_create,
    "sync_before_return": sync_before_return,
    "forget_after_a_crash": forget_after_a_crash,
    **{
        f"fail_create_{action}": lambda desk, action=action: fail_create(desk, action)
        for action in ("eio", "enospc", "erofs")
    },
    **{
        f"fail_append_{calls}_{action}": lambda desk, calls=calls, action=action: fail_append(
            desk, calls, action
        )
        for calls, action in (
            ("all", "eio"),
            ("sync", "eio"),
            ("any", "enospc"),
            ("any", "short"),
        )
    },
    **{
        f"refuse_unwritable_{action}": lambda desk, action=action: refuse_unwritable(desk, action)
        for action in ("erofs", "eacces")
    },
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fault(scenario: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    environment = shim.environment(desk.disk, control=desk.control, log=desk.log)
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, __file__, scenario, tmp_path], env=environment, check=True)


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Desk(Path(sys.argv[2])))
