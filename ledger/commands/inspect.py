"""`ledger inspect`: what a book holds, told as facts; it changes nothing.

A book may be looked at while it is served: what is told is how it stood when it was opened, up to
the last group then. To know its accounts and counts the whole journal is replayed, which takes the
memory of a start and more time. Only reading is needed: no lock is taken and nothing is written.
Facts are dicts of plain values, the same for people and for --json, where json_values.py makes
strings of what readers of JSON would round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger import _core
from ledger.engine import assembly
from ledger.facts import limits
from ledger.facts.errors import LedgerError, naming_limits
from ledger.facts.limits import Exit
from ledger.facts.schema import (
    ACCOUNT,
    AccountFlags,
    HoldOutcome,
    JournalKind,
    Operation,
    TransferFlags,
    TransferStatus,
    int_of,
    u128,
)
from ledger.journal.body import Rows, Runs, read_runs
from ledger.journal.group import Header
from ledger.journal.onlooker import Onlooker

STARTS_MAX = 10  # the newest that are told

Facts = dict[str, Any]
Progress = Callable[[int, int], None]  # groups done, groups in all

_NS_PER_SECOND = 1_000_000_000


class NotInBook(LedgerError):
    """The account, transfer or group that was asked for is not there."""

    exit_code = Exit.FAULT_FOUND


@naming_limits()
def inspect(directory: Path, progress: Progress | None = None) -> Facts:
    """The head, the counts, the sizes and the newest start records. Errors as Onlooker's."""
    with Onlooker(directory) as journal:
        core, _ = assembly.new_core(limits.WINDOW_EVENTS)
        counts = dict.fromkeys(JournalKind, 0)
        starts: list[Facts] = []
        for header, body, by_kind in _replayed(journal, core, progress):
            for kind in JournalKind:
                counts[kind] += by_kind[kind]
            if by_kind[JournalKind.START]:
                starts += map(_start, *_rows(header, body, JournalKind.START))
        transfers = counts[JournalKind.TRANSFER]
        data_bytes = _bytes(journal.directory / "journal" / "data.mdb")
        return {
            "directory": str(journal.directory),
            "cluster": str(journal.cluster),
            "group": journal.group,
            "position": journal.position,
            "clock_ns": journal.clock,
            "clock": _date(journal.clock),
            "digest": journal.digest().hex(),
            "state_hash": core.state_hash().hex(),
            "holds": core.counts_by_kind,
            "records": {kind.name.lower(): count for kind, count in counts.items()},
            "journal_bytes": data_bytes,
            "state_bytes": sum(map(_bytes, (journal.directory / "state").glob("*"))),
            "bytes_per_transfer": round(data_bytes / transfers, 1) if transfers else None,
            "starts": starts[-STARTS_MAX:],
        }


@naming_limits()
def inspect_account(directory: Path, id: int, progress: Progress | None = None) -> Facts:
    """One account: its fields and balances now, and where it was created. NotInBook."""
    wanted = np.array(u128(id), np.uint64)
    with Onlooker(directory) as journal:
        core, _ = assembly.new_core(limits.WINDOW_EVENTS)
        created: Facts = {}
        for header, body, by_kind in _replayed(journal, core, progress):
            if not by_kind[JournalKind.ACCOUNT]:
                continue
            rows = _rows(header, body, JournalKind.ACCOUNT)
            for place in np.flatnonzero((rows.records["id"] == wanted).all(axis=1)):
                created = {"group": header.group, "position": int(rows.positions[place])}
        accounts = np.frombuffer(core.accounts(), ACCOUNT)
        found = np.flatnonzero((accounts["id"] == wanted).all(axis=1))
        if not len(found):
            raise NotInBook(f"{directory} holds no account {id}")
        return _record(accounts[found[0]], AccountFlags) | {"created": created}


@naming_limits()
def inspect_transfer(directory: Path, id: int, progress: Progress | None = None) -> Facts:
    """One transfer: its fields, its place, its request, and what became of its hold. NotInBook.

    An id that was used up by a failure is told as `burned`, with the status that burned it.
    """
    with Onlooker(directory) as journal:
        search = _TransferSearch(np.array(u128(id), np.uint64))
        for header, body in _groups(journal, progress):
            search.look(header, read_runs(np.frombuffer(body, np.uint8), [header]))
        if not search.facts:
            raise NotInBook(f"{directory} holds no transfer {id}")
        return search.facts


class _TransferSearch:
    """A pass over the groups that gathers what concerns one transfer."""

    def __init__(self, id: NDArray[np.uint64]) -> None:
        self._id = id
        self._position = 0
        self.facts: Facts = {}

    def look(self, header: Header, runs: Runs) -> None:
        transfers = runs.rows(JournalKind.TRANSFER)
        for place in self._of(transfers.records["id"]):
            self._position = int(transfers.positions[place])
            record = transfers.records[place]
            self.facts = _record(record, TransferFlags) | {
                "group": header.group,
                "position": self._position,
                "request": _request_of(runs.rows(JournalKind.REQUEST), self._position),
            }
            if record["flags"] & TransferFlags.PENDING:
                self.facts["hold"] = {"state": "open", "expires": _expiry(record)}
        burned = runs.rows(JournalKind.BURNED_ID)
        for place in self._of(burned.records["id"]):
            record = burned.records[place]
            self.facts = {
                "burned": str(int_of(self._id)),
                "status": TransferStatus(int(record["status"])).name.lower(),
                "timestamp": int(record["timestamp"]),
                "group": header.group,
                "position": int(burned.positions[place]),
            }
        if "hold" in self.facts:
            self._look_for_end(header, runs, transfers)

    def _of(self, ids: NDArray[np.uint64]) -> list[int]:
        return [int(place) for place in np.flatnonzero((ids == self._id).all(axis=1))]

    def _look_for_end(self, header: Header, runs: Runs, transfers: Rows) -> None:
        ends = runs.rows(JournalKind.RESOLUTION)
        for place in np.flatnonzero(ends.records["position"] == self._position).tolist():
            record = ends.records[place]
            hold = self.facts["hold"]
            hold["state"] = HoldOutcome(int(record["outcome"])).name.lower()
            hold["ended"] = _date(int(record["timestamp"]))
            hold["ended_group"], hold["ended_position"] = header.group, int(ends.positions[place])
        for place in self._of(transfers.records["pending_id"]):
            record = transfers.records[place]
            self.facts["hold"]["ended_by"] = str(int_of(record["id"]))
            if record["flags"] & TransferFlags.POST_PENDING_TRANSFER:
                self.facts["hold"]["captured"] = str(int_of(record["amount"]))


@naming_limits()
def inspect_group(directory: Path, number: int) -> Facts:
    """One group: its header and its runs. NotInBook."""
    with Onlooker(directory) as journal:
        if not 1 <= number <= journal.group:
            raise NotInBook(f"{directory} holds groups 1 to {journal.group}, not {number}")
        header, body = journal.one(number)
        runs = read_runs(np.frombuffer(body, np.uint8), [header])
        facts: Facts = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in header._asdict().items()
        }
        facts["cluster"] = str(header.cluster)
        columns = (runs.positions, runs.kinds, runs.counts)
        facts["runs"] = [
            {"position": position, "kind": JournalKind(kind).name.lower(), "records": count}
            for position, kind, count in zip(*(c.tolist() for c in columns), strict=True)
        ]
        if runs.wrong is not None:
            facts["wrong"] = f"position {runs.wrong.position}: {runs.wrong.why}"
        return facts


# ---- reading ------------------------------------------------------------------------------------


def _groups(journal: Onlooker, progress: Progress | None) -> Iterator[tuple[Header, memoryview]]:
    for header, body in journal.read():
        yield header, body
        if progress is not None:
            progress(header.group, journal.group)


def _replayed(
    journal: Onlooker, core: _core.Core, progress: Progress | None
) -> Iterator[tuple[Header, memoryview, list[int]]]:
    """Each group once the core has applied it, with its counts of records by kind."""
    for header, body in _groups(journal, progress):
        by_kind = assembly.replay_group(core, header, body)
        assembly.forget_window(core)
        yield header, body, by_kind


def _rows(header: Header, body: memoryview, kind: JournalKind) -> Rows:
    return read_runs(np.frombuffer(body, np.uint8), [header]).rows(kind)


def _bytes(path: Path) -> int:
    """What a file takes on the disk; 0 when it is not there."""
    return path.stat().st_blocks * 512 if path.exists() else 0


# ---- telling ------------------------------------------------------------------------------------


def _record(record: np.void, flags: type[IntFlag]) -> Facts:
    assert record.dtype.names is not None
    facts: Facts = {}
    for name in record.dtype.names:
        value = record[name]
        if name == "flags":
            facts[name] = [flag.name.lower() for flag in flags(int(value)) if flag.name]
        elif np.ndim(value):
            facts[name] = str(int_of(value))
        elif name != "reserved":
            facts[name] = int(value)
    return facts | {"time": _date(facts["timestamp"])}


def _start(record: np.void, position: int) -> Facts:
    release = int(record["release"])
    return {
        "position": int(position),
        "time": _date(int(record["timestamp"])),
        "wall": _date(int(record["wall"])),
        "release": f"{release >> 16}.{release >> 8 & 0xFF}.{release & 0xFF}",
    }


def _request_of(requests: Rows, position: int) -> Facts:
    place = int(np.searchsorted(requests.positions, position)) - 1
    record = requests.records[place]
    return {
        "position": int(requests.positions[place]),
        "operation": Operation(int(record["operation"])).name.lower(),
        "client": str(int_of(record["client"])),
        "session": int(record["session"]),
        "number": int(record["number"]),
        "events": int(record["event_count"]),
    }


def _expiry(hold: np.void) -> str:
    seconds = int(hold["timeout"])
    return _date(int(hold["timestamp"]) + seconds * _NS_PER_SECOND) if seconds else "never"


def _date(ns: int) -> str:
    """UTC to the nanosecond, or the number itself where the calendar ends."""
    seconds, rest = divmod(ns, _NS_PER_SECOND)
    try:
        return time.strftime(f"%Y-%m-%d %H:%M:%S.{rest:09d} UTC", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{ns} ns"
