"""`ledger verify`: is this book what it says it is, from its first byte to its last.

Every group is read and checked (checks of blocks, digest chain, order), replayed into a core, and
judged and added up a second time by the audit, which shares nothing with the core; at the end both
must have the same accounts and holds, and debits must equal credits. The three go on at the same
time, a few chunks apart, and keep of the past eight bytes a transfer. What is read may be damaged
below the groups, where LMDB has no checks and can kill its process: so all of it happens in a child
process, whose death is a fault with a place. Nobody may serve the book meanwhile, and DIR/lock is
shared to see to that; where it cannot be had, as on a copy without it, a warning says so. The file
is read as an onlooker reads it: nothing is written, and no more is needed than to read it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger import _core
from ledger.audit.audit import Audit, LedgerTotals
from ledger.engine import assembly
from ledger.facts import errors
from ledger.facts.limits import GROUP_BYTES_MAX
from ledger.facts.schema import ACCOUNT, int_of
from ledger.journal import head_stamp
from ledger.journal.group import Header
from ledger.journal.journal import Journal
from ledger.journal.lock import SharedLock
from ledger.journal.onlooker import LmdbFile, NoBook, Onlooker

CHUNK_BYTES = 2 * GROUP_BYTES_MAX  # bodies judged together
CHUNK_GROUPS_MAX = 4096
CHUNKS_JUDGED_MAX = 2  # while another one is filled
WINDOW_EVENTS = 1 << 16  # that the core remembers; so few stay in the processor's cache
POLL_SECONDS = 0.1

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_PAGE = struct.Struct("<QQQ")  # Reading, in memory that parent and child share


class Reading(NamedTuple):
    """How far the reader is: the group it is at, groups in all, the last position before it."""

    group: int
    groups: int
    position: int


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong. `group` and `position` are 0 where there is none to name."""

    group: int
    position: int
    why: str

    def __str__(self) -> str:
        place = f"group {self.group}" if self.group else ""
        if self.position:
            place += f"{', ' if place else ''}position {self.position}"
        return f"{place}: {self.why}" if place else self.why


class Report(msgspec.Struct):
    """What verify found. `fault` is the first one of the journal, or None.

    `stamp_fault` says that the journal is not the one that was stamped: it may be whole and yet
    have lost its last groups.
    """

    directory: str
    cluster: int = 0
    groups: int = 0
    position: int = 0
    clock_ns: int = 0
    digest: str = ""
    state_hash: str = ""
    records: dict[str, int] = {}  # by JournalKind, as far as it was read
    ledgers: list[LedgerTotals] = []
    warnings: list[str] = []
    fault: Fault | None = None
    stamp_fault: str | None = None
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return self.fault is None and self.stamp_fault is None


Progress = Callable[[Reading], None]


def rebuild(directory: Path, progress: Progress | None = None) -> Report:
    """Trust the journal as it is: verify it, then make the state directory anew from its end.

    What a lost or mixed-up journal no longer holds is given up. A journal with a fault is left
    alone, and the report says so. Errors as verify's.
    """
    report = verify(directory, progress)
    if report.fault is None:
        with Journal.open(directory, readonly=True) as journal:
            if (journal.group, journal.digest().hex()) != (report.groups, report.digest):
                raise errors.DirectoryInUse(f"{directory} was written to after it was verified")
            head_stamp.rebuild(journal)
    return report


@errors.naming_limits()
def verify(directory: Path, progress: Progress | None = None) -> Report:
    """Read all of a book that nobody serves; `progress` is called ten times a second.

    DataRefused when `directory` holds no book, DirectoryInUse, DirectoryNotWritable; LedgerError
    for an I/O error. Whatever is wrong with the book itself is in the report.
    """
    with contextlib.ExitStack() as held:
        shared, answer = (_memory(held, name) for name in ("at", "answer"))
        os.truncate(shared, _PAGE.size)
        reader = _start(directory, shared, answer)
        try:
            while (code := _wait(reader)) is None:
                if progress is not None:
                    progress(_reading(shared))
        finally:
            if reader.poll() is None:
                reader.kill()
            if reader.returncode is None:
                # An interrupt may have left the lock that reader.wait() takes to whoever held it.
                reader.returncode = os.waitstatus_to_exitcode(os.waitpid(reader.pid, 0)[1])
        at = _reading(shared)
        if code < 0:
            return Report(str(directory), position=at.position, fault=_death(-code, at))
        return _report(code, os.pread(answer, os.fstat(answer).st_size, 0))


def _memory(held: contextlib.ExitStack, name: str) -> int:
    """A file in memory, open until the end of `held`."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    held.callback(os.close, descriptor)
    return descriptor


def _start(directory: Path, shared: int, answer: int) -> subprocess.Popen[bytes]:
    """The reader. It finds what this process finds, and nothing where it happens to be called."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    paths = [path for path in paths if Path(path).is_absolute()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-m", "ledger.audit.verify"]
    try:
        return subprocess.Popen(
            [*command, str(directory), str(shared), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            pass_fds=[shared],
            env=environment,
        )
    except OSError as error:
        why = errors.SystemLimit(f"cannot start a process that reads: {error}")
        raise errors.system_limit(error) or why from error


def _wait(reader: subprocess.Popen[bytes]) -> int | None:
    try:
        return reader.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _reading(descriptor: int) -> Reading:
    return Reading(*_PAGE.unpack(os.pread(descriptor, _PAGE.size, 0)))


def _death(number: int, at: Reading) -> Fault:
    doing = f"reading group {at.group}" if at.group else "opening the journal"
    name = signal.Signals(number).name
    return Fault(at.group, at.position + 1, f"the reader died with {name} while {doing}")


def _report(code: int, answer: bytes) -> Report:
    if code != 0:
        raise errors.LedgerError(f"the reader ended with exit code {code}")
    found = json.loads(answer)
    if "refused" in found:
        raise _REFUSALS.get(found["refused"], errors.LedgerError)(found["message"])
    return msgspec.convert(found, Report)


_REFUSALS: dict[str, type[errors.LedgerError]] = {
    kind.__name__: kind
    for kind in (
        errors.DataRefused,
        errors.DirectoryInUse,
        errors.DirectoryNotReadable,
        errors.SystemLimit,
        NoBook,
    )
}


# ---- the reader, in its own process -------------------------------------------------------------


class _Chunk:
    """Groups that are judged together: their headers, and their bodies one after the other."""

    def __init__(self) -> None:
        self._bodies = np.empty(CHUNK_BYTES, np.uint8)
        self.clear()

    def clear(self) -> None:
        self.headers: list[Header] = []
        self._used = 0

    def has_room(self, header: Header) -> bool:
        left = CHUNK_BYTES - self._used
        return len(self.headers) < CHUNK_GROUPS_MAX and header.body_bytes <= left

    def add(self, header: Header, body: memoryview) -> None:
        kept = self._bodies[self._used : self._used + header.body_bytes]
        np.copyto(kept, np.frombuffer(body, np.uint8))
        self.headers.append(header)
        self._used += header.body_bytes

    @property
    def bodies(self) -> NDArray[np.uint8]:
        return self._bodies[: self._used]

    def groups(self) -> Iterator[tuple[Header, NDArray[np.uint8]]]:
        at = 0
        for header in self.headers:
            yield header, self._bodies[at : at + header.body_bytes]
            at += header.body_bytes


class _Judging(NamedTuple):
    """A chunk that was handed over, and what is wrong with it."""

    chunk: _Chunk
    replayed: Future[Fault | None]
    audited: Future[Fault | None]


class _Reader:
    """One pass over one journal: while a chunk is read and checked, those before it are judged.

    `replaying` and `auditing` have one thread each. The first fault by position is the one told:
    what was found in a chunk is asked for in the order of chunks. The id of a transfer that was
    used already may be known only at the end.
    """

    def __init__(
        self, journal: Onlooker, page: mmap.mmap, replaying: Executor, auditing: Executor
    ) -> None:
        self.core, self.buffers = assembly.new_core(WINDOW_EVENTS)
        self.audit = Audit(os.urandom(16))
        self._journal = journal
        self._page = page
        self._replaying = replaying
        self._auditing = auditing
        self._free = [_Chunk() for _ in range(1 + CHUNKS_JUDGED_MAX)]
        self._chunk = self._free.pop()
        self._judging: deque[_Judging] = deque()
        self._groups_read = 0

    def read(self) -> Fault | None:
        """Walk, replay and audit every group; the first fault ends it."""
        fault = self._read()
        before = self._journal.position + 1 if fault is None else fault.position
        repeated = self.audit.repeated(
            lambda: itertools.islice(self._journal.read(), self._groups_read), before
        )
        if repeated is None:
            return fault
        header, wrong = repeated
        return Fault(header.group, wrong.position, wrong.why)

    def _read(self) -> Fault | None:
        journal = self._journal
        groups = journal.read(chain=True)
        position = 0
        for number in range(1, journal.group + 1):
            _PAGE.pack_into(self._page, 0, number, journal.group, position)
            try:
                header, body = next(groups)
            except errors.DataRefused as error:
                return self._finish() or Fault(number, position + 1, str(error))
            if not self._chunk.has_room(header):
                self._hand_over()
                fault = self._judged() if not self._free else None
                if fault is not None:
                    return fault
                self._chunk = self._free.pop()
            self._chunk.add(header, body)
            self._groups_read = number
            position = header.position_last
        return self._finish()

    def _hand_over(self) -> None:
        chunk = self._chunk
        self._judging.append(
            _Judging(
                chunk,
                self._replaying.submit(self._replay, chunk),
                self._auditing.submit(self._audit, chunk),
            )
        )

    def _judged(self) -> Fault | None:
        """Wait for the oldest chunk. What was wrong in it ends all work on those after it."""
        chunk, *judged = self._judging.popleft()
        fault = min(
            (found for each in judged if (found := each.result()) is not None),
            key=attrgetter("position"),
            default=None,
        )
        if fault is not None:
            rest = [each for _, *judged in self._judging for each in judged]
            wait([each for each in rest if not each.cancel()])
        chunk.clear()
        self._free.append(chunk)
        return fault

    def _finish(self) -> Fault | None:
        """The first fault of all chunks, the one that is being filled included."""
        if self._chunk.headers:
            self._hand_over()
        fault = None
        while self._judging and fault is None:
            fault = self._judged()
        return fault

    def _replay(self, chunk: _Chunk) -> Fault | None:
        for header, body in chunk.groups():
            try:
                assembly.replay_group(self.core, header, body)
                assembly.forget_window(self.core)
            except errors.DataRefused as error:
                position = self.core.position + 1
                why = str(error).removeprefix(f"group {header.group}, position {position}: ")
                return Fault(header.group, position, why)
        return None

    def _audit(self, chunk: _Chunk) -> Fault | None:
        if self.audit.take(chunk.headers, chunk.bodies):
            return None
        wrong = self.audit.wrong
        assert wrong is not None
        firsts = [header.position_first for header in chunk.headers]
        place = int(np.searchsorted(firsts, wrong.position, side="right")) - 1
        return Fault(chunk.headers[place].group, wrong.position, wrong.why)


def _compare(core: _core.Core, audit: Audit, report: Report) -> str | None:
    """What the core and the audit do not agree on, or what does not balance; None when all does."""
    try:
        expected = audit.accounts()
    except ValueError as error:
        return str(error)
    stored = np.frombuffer(core.accounts(), ACCOUNT)
    if len(stored) != len(expected):
        return f"{len(stored)} accounts after replay, {len(expected)} by the records"
    if stored.tobytes() != expected.tobytes():
        return _first_difference(stored, expected)
    if not np.array_equal(core.open_holds(), audit.open_holds()):
        return "the open holds after replay are not those of the records"
    if (core.position, core.clock_ns) != (report.position, report.clock_ns):
        return f"replay ends at position {core.position}, clock {core.clock_ns}"
    report.ledgers = audit.totals()
    for total in report.ledgers:
        name = f"ledger {total.ledger}"
        if total.debits_posted != total.credits_posted:
            return f"{name}: debits posted {total.debits_posted}, credits {total.credits_posted}"
        if not total.debits_pending == total.credits_pending == total.open:
            return (
                f"{name}: debits pending {total.debits_pending}, credits {total.credits_pending},"
                f" open holds {total.open}"
            )
        if total.captured + total.released + total.open != total.held:
            return f"{name}: {total.held} held is not captured + released + open"
    return None


def _first_difference(stored: NDArray[np.void], expected: NDArray[np.void]) -> str:
    size = ACCOUNT.itemsize
    differs = stored.view(f"V{size}") != expected.view(f"V{size}")
    place = int(np.flatnonzero(differs)[0])
    account = int_of(expected["id"][place])
    assert ACCOUNT.names is not None
    fields = [
        f"{name} {_plain(stored[name][place])}, by the records {_plain(expected[name][place])}"
        for name in ACCOUNT.names
        if not np.array_equal(stored[name][place], expected[name][place])
    ]
    return f"account {account} after replay: {'; '.join(fields)}"


def _plain(value: Any) -> int:
    return int_of(value) if np.ndim(value) else int(value)


def _check_stamp(directory: Path, journal: Onlooker, report: Report) -> None:
    """Whether the journal still holds what was once stamped as durable."""
    state = directory / "state"
    try:
        with LmdbFile(state / "data.mdb") as file:
            file.check_size()
            value = file.value(head_stamp.KEY)
    except (FileNotFoundError, NotADirectoryError):
        report.warnings.append("no head stamp: whether groups were lost cannot be told")
        return
    except errors.DirectoryNotReadable as error:
        report.warnings.append(f"{error}: whether groups were lost cannot be told")
        return
    except errors.DataRefused as error:
        report.stamp_fault = head_stamp.damaged(state, str(error))
        return
    try:
        warning = head_stamp.compare(state, head_stamp.parse(state, value), journal)
    except errors.DataRefused as error:
        report.stamp_fault = str(error)
        return
    if warning is not None:
        report.warnings.append(warning)


def _watch_free_pages(journal: Onlooker) -> Fault | None:
    """Whether LMDB would write the next groups to where there are groups; told with the group."""
    try:
        journal.check_free_pages()
    except errors.DataRefused as error:
        return Fault(0, 0, str(error))
    return None


def _read_locked(directory: Path, page: mmap.mmap) -> Report:
    lock = SharedLock(directory)
    try:
        report = _read_book(directory, page, locked=lock.warning is None)
    finally:
        lock.release()
    if lock.warning is not None:
        report.warnings.insert(0, lock.warning)
    return report


def _read_book(directory: Path, page: mmap.mmap, locked: bool = True) -> Report:
    """`locked`: nobody writes the book meanwhile."""
    started = time.monotonic()
    report = Report(str(directory))
    try:
        journal = Onlooker(directory)
    except NoBook:
        raise
    except errors.DataRefused as error:
        report.fault = Fault(0, 0, str(error))
        return report
    with journal, ThreadPoolExecutor(1) as replaying, ThreadPoolExecutor(1) as auditing:
        report.cluster, report.groups = journal.cluster, journal.group
        report.position, report.clock_ns = journal.position, journal.clock
        reader = _Reader(journal, page, replaying, auditing)
        damaged = _watch_free_pages(journal) if locked else None
        fault = reader.read() or damaged
        report.records = {kind.name.lower(): n for kind, n in reader.audit.counts.items()}
        if fault is None:
            report.digest = journal.digest().hex()
            report.state_hash = reader.core.state_hash().hex()
            why = _compare(reader.core, reader.audit, report)
            fault = None if why is None else Fault(journal.group, journal.position, why)
        report.fault = fault
        _check_stamp(directory, journal, report)
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _child(directory: Path, descriptor: int) -> None:
    page = mmap.mmap(descriptor, _PAGE.size)
    answer: dict[str, Any]
    try:
        answer = msgspec.to_builtins(_read_locked(directory, page))
    except errors.LedgerError as error:
        told = errors.system_limit(error) or error
        answer = {"refused": type(told).__name__, "message": str(told)}
    except OSError as error:
        kind = type(errors.system_limit(error) or errors.LedgerError()).__name__
        answer = {"refused": kind, "message": str(errors.system_limit(error) or error)}
    except (MemoryError, RuntimeError) as error:
        if (why := errors.system_limit(error)) is None:
            raise
        answer = {"refused": "SystemLimit", "message": str(why)}
    sys.stdout.write(json.dumps(answer))


def _end_with(parent: int) -> None:
    """Let the system end this process with the one that waits for it, so that none is left that
    holds the lock."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports, not both
    _end_with(int(sys.argv[3]))
    _child(Path(sys.argv[1]), int(sys.argv[2]))
