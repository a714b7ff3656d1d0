"""Commands: `ledger verify`: is this book what it says it is, from its first byte to its last.

Every group is read and checked (checks of blocks, digest chain, order), replayed into a core, and
judged and added up a second time by the audit, which shares nothing with the core; at the end both
must have the same accounts and holds, and debits must equal credits. What is read may be damaged
below the groups, where LMDB has no checks and can kill its process: so all of it happens in a child
process, whose death is a fault with a place. Nobody may serve the book meanwhile.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger import _core, checkpoint, errors, limbs, recovery
from ledger.audit import Audit, LedgerTotals
from ledger.config import GROUP_BYTES_MAX
from ledger.group import Header
from ledger.journal import Journal
from ledger.schema import ACCOUNT

CHUNK_BYTES = 4 * GROUP_BYTES_MAX  # bodies audited together
CHUNK_GROUPS_MAX = 4096
POLL_SECONDS = 0.1

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
            checkpoint.rebuild(journal)
    return report


def verify(directory: Path, progress: Progress | None = None) -> Report:
    """Read all of a book that nobody serves; `progress` is called ten times a second.

    DataRefused when `directory` holds no book, DirectoryInUse, DirectoryNotWritable; LedgerError
    for an I/O error. Whatever is wrong with the book itself is in the report.
    """
    environment = dict(os.environ)
    paths = [str(Path(__file__).resolve().parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryFile() as shared, tempfile.TemporaryFile() as answer:
        shared.truncate(_PAGE.size)
        command = [sys.executable, "-m", "ledger.verify", str(directory), str(shared.fileno())]
        reader = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            pass_fds=[shared.fileno()],
            env=environment,
        )
        try:
            while (code := _wait(reader)) is None:
                if progress is not None:
                    progress(_reading(shared.fileno()))
        finally:
            if reader.poll() is None:
                reader.kill()
                reader.wait()
        at = _reading(shared.fileno())
        if code < 0:
            return Report(str(directory), position=at.position, fault=_death(-code, at))
        answer.seek(0)
        return _report(code, answer.read())


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
    "DataRefused": errors.DataRefused,
    "DirectoryInUse": errors.DirectoryInUse,
    "DirectoryNotWritable": errors.DirectoryNotWritable,
}


# ---- the reader, in its own process -------------------------------------------------------------


class _Chunk:
    """Groups that are audited together: their headers, and their bodies one after the other."""

    def __init__(self) -> None:
        self._bodies = np.empty(CHUNK_BYTES, np.uint8)
        self.clear()

    def clear(self) -> None:
        self.headers: list[Header] = []
        self._used = 0

    def has_room(self, header: Header) -> bool:
        left = CHUNK_BYTES - self._used
        return len(self.headers) < CHUNK_GROUPS_MAX and header.body_bytes <= left

    def add(self, header: Header, body: memoryview) -> NDArray[np.uint8]:
        """A copy of the body that stays until clear()."""
        kept = self._bodies[self._used : self._used + header.body_bytes]
        np.copyto(kept, np.frombuffer(body, np.uint8))
        self.headers.append(header)
        self._used += header.body_bytes
        return kept

    @property
    def bodies(self) -> NDArray[np.uint8]:
        return self._bodies[: self._used]


class _Reader:
    """One pass over one journal. A chunk is audited while the next one is read and replayed.

    `auditing` has one thread. The first fault by position is the one told: before a chunk is handed
    over, the chunk before it has been audited.
    """

    def __init__(self, journal: Journal, page: mmap.mmap, auditing: Executor) -> None:
        self.core, self.buffers = recovery.new_core()
        self.audit = Audit()
        self._journal = journal
        self._page = page
        self._auditing = auditing
        self._chunk, self._other = _Chunk(), _Chunk()
        self._audited: Future[Fault | None] | None = None  # of the chunk handed over last

    def read(self) -> Fault | None:
        """Walk, replay and audit every group; the first fault ends it."""
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
                fault = self._hand_over()
                if fault is not None:
                    return fault
            fault = self._replay(header, self._chunk.add(header, body))
            if fault is not None:
                earlier = self._finish()
                return earlier if earlier and earlier.position < fault.position else fault
            position = header.position_last
        return self._finish()

    def _replay(self, header: Header, body: NDArray[np.uint8]) -> Fault | None:
        try:
            self.core.replay(
                body,
                header.group,
                header.position_first,
                header.position_count,
                header.clock_before,
                header.clock_after,
            )
        except errors.DataRefused as error:
            position = self.core.position + 1
            why = str(error).removeprefix(f"group {header.group}, position {position}: ")
            return Fault(header.group, position, why)
        return None

    def _hand_over(self) -> Fault | None:
        """Have the chunk audited, once the one before has been; what was wrong in that."""
        fault = self._audited.result() if self._audited is not None else None
        if fault is None:
            self._audited = self._auditing.submit(self._audit, self._chunk)
            self._chunk, self._other = self._other, self._chunk
        return fault

    def _finish(self) -> Fault | None:
        """The first fault of all chunks, the one that is being filled included."""
        fault = self._hand_over()
        return fault if fault is not None or self._audited is None else self._audited.result()

    def _audit(self, chunk: _Chunk) -> Fault | None:
        headers = chunk.headers
        if headers:
            self.audit.take(headers, chunk.bodies)
        wrong = self.audit.wrong
        if wrong is not None:
            firsts = [header.position_first for header in headers]
            place = int(np.searchsorted(firsts, wrong.position, side="right")) - 1
            return Fault(headers[place].group, wrong.position, wrong.why)
        chunk.clear()
        return None


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
    account = limbs.int_of(limbs.sums_of(expected["id"][place : place + 1])[0])
    assert ACCOUNT.names is not None
    fields = [
        f"{name} {_plain(stored[name][place])}, by the records {_plain(expected[name][place])}"
        for name in ACCOUNT.names
        if not np.array_equal(stored[name][place], expected[name][place])
    ]
    return f"account {account} after replay: {'; '.join(fields)}"


def _plain(value: Any) -> int:
    if np.ndim(value):
        return int(value[0]) | int(value[1]) << 64
    return int(value)


def _check_stamp(directory: Path, journal: Journal, report: Report) -> None:
    """Whether the journal still holds what was once stamped as durable."""
    if not (directory / "state" / "data.mdb").exists():
        report.warnings.append("no head stamp: whether groups were lost cannot be told")
        return
    try:
        with checkpoint.Checkpoint(directory) as stamped:
            warning = stamped.verify_against(journal)
    except errors.DataRefused as error:
        report.stamp_fault = str(error)
        return
    if warning is not None:
        report.warnings.append(warning)


def _read_book(directory: Path, page: mmap.mmap) -> Report:
    started = time.monotonic()
    if not Journal.exists(directory):
        raise errors.DataRefused(f"{directory} holds no book")
    report = Report(str(directory))
    try:
        journal = Journal.open(directory, readonly=True)
    except errors.DataRefused as error:
        report.fault = Fault(0, 0, str(error))
        return report
    with journal, ThreadPoolExecutor(1) as auditing:
        report.cluster, report.groups = journal.cluster, journal.group
        report.position, report.clock_ns = journal.position, journal.clock
        reader = _Reader(journal, page, auditing)
        fault = reader.read()
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
        answer = msgspec.to_builtins(_read_book(directory, page))
    except errors.LedgerError as error:
        answer = {"refused": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports, not both
    _child(Path(sys.argv[1]), int(sys.argv[2]))
