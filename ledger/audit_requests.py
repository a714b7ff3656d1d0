"""Order: the audit of requests: each one's effects and outcomes are what its record announces.

A request's record, its outcomes and its clock say what happened to each of its events; here that is
written out event by event, and the accounts, transfers and burned ids that follow the request must
be exactly those, in that order and with those timestamps. So a resend gets its original reply. What
the effects did to balances is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.config import EVENTS_MAX
from ledger.group import Header
from ledger.runs import Rows, Wrong
from ledger.schema import (
    TRANSIENT,
    AccountStatus,
    HoldOutcome,
    JournalKind,
    Operation,
    TransferStatus,
)

CREATED = int(TransferStatus.CREATED)

Places = NDArray[np.int64]


class _Events(NamedTuple):
    """Each event of a chunk's requests in order: its request, and what became of it."""

    requests: Places
    status: NDArray[np.uint32]
    timestamps: Places


class _Faults:
    def __init__(self) -> None:
        self.first: Wrong | None = None

    def expect(self, right: NDArray[np.bool_], positions: Places, why: str) -> bool:
        if right.all():
            return True
        position = int(positions[~right].min())
        if self.first is None or position < self.first.position:
            self.first = Wrong(position, why)
        return False


def audit_requests(rows: Mapping[JournalKind, Rows], headers: Sequence[Header]) -> Wrong | None:
    """The first wrong request among the whole groups that `rows` are of, or None.

    A request whose effects do not fit is named by its own position.
    """
    faults = _Faults()
    requests = rows[JournalKind.REQUEST]
    owners = {kind: _owners(found, requests, headers) for kind, found in _followers(rows).items()}
    _check_requests(faults, requests)
    _check_places(faults, rows, owners, requests)
    if faults.first is None:
        _check_batches(faults, rows[JournalKind.BATCH], owners[JournalKind.BATCH], requests)
    if faults.first is None:
        events = _write_out(
            faults, rows[JournalKind.OUTCOME], owners[JournalKind.OUTCOME], requests
        )
    if faults.first is None:
        _check_effects(faults, rows, owners, requests, events)
    return faults.first


def _followers(rows: Mapping[JournalKind, Rows]) -> dict[JournalKind, Rows]:
    """The rows of each kind that belong to requests; expiries belong to none."""
    found = {
        kind: rows[kind]
        for kind in (
            JournalKind.BATCH,
            JournalKind.ACCOUNT,
            JournalKind.TRANSFER,
            JournalKind.BURNED_ID,
            JournalKind.OUTCOME,
        )
    }
    ends = rows[JournalKind.RESOLUTION]
    asked = ends.records["outcome"] != HoldOutcome.EXPIRED
    found[JournalKind.RESOLUTION] = Rows(ends.records[asked], ends.positions[asked])
    return found


def _owners(rows: Rows, requests: Rows, headers: Sequence[Header]) -> Places:
    """The place of the request each row belongs to; -1 when its group holds none before it."""
    owners = np.searchsorted(requests.positions, rows.positions, side="right") - 1
    firsts = np.array([header.position_first for header in headers])
    group_first = firsts[np.searchsorted(firsts, rows.positions, side="right") - 1]
    if not len(requests.positions):
        return np.full(len(rows.positions), -1)
    return np.where(requests.positions[owners] >= group_first, owners, -1)


def _check_requests(faults: _Faults, requests: Rows) -> None:
    records, positions = requests
    creates = [int(Operation.CREATE_ACCOUNTS), int(Operation.CREATE_TRANSFERS)]
    for right, why in (
        (np.isin(records["operation"], creates), "with an operation that creates nothing"),
        (records["identity"] == 0, "with an identity"),
        (records["event_count"] <= EVENTS_MAX, f"of more than {EVENTS_MAX} events"),
        (records["batch_count"] > 0, "without a batch"),
    ):
        faults.expect(right, positions, f"a request {why}")


def _check_places(
    faults: _Faults,
    rows: Mapping[JournalKind, Rows],
    owners: Mapping[JournalKind, Places],
    requests: Rows,
) -> None:
    """A request's records stand together: batch counts first, outcomes last, nothing between."""
    count = len(requests.positions)
    followers = np.zeros(count, np.int64)
    last = requests.positions.copy()
    for kind, mine in owners.items():
        positions = _followers(rows)[kind].positions
        if not faults.expect(mine >= 0, positions, f"{kind.name.lower()} without a request"):
            return
        followers += np.bincount(mine, minlength=count)
        np.maximum.at(last, mine, positions)
    together = last - requests.positions == followers
    faults.expect(together, requests.positions, "a request whose records do not stand together")
    batches, outcomes = rows[JournalKind.BATCH], rows[JournalKind.OUTCOME]
    own = owners[JournalKind.BATCH]
    leading = batches.positions - requests.positions[own] <= np.bincount(own, minlength=count)[own]
    faults.expect(leading, batches.positions, "batch counts that do not follow their request")
    own = owners[JournalKind.OUTCOME]
    trailing = last[own] - outcomes.positions < np.bincount(own, minlength=count)[own]
    faults.expect(trailing, outcomes.positions, "outcomes that do not end their request")


def _check_batches(faults: _Faults, batches: Rows, owners: Places, requests: Rows) -> None:
    count = len(requests.positions)
    announced = requests.records["batch_count"].astype(np.int64)
    found = np.bincount(owners, minlength=count)
    right = found == np.where(announced == 1, 0, announced)
    faults.expect(right, requests.positions, "a request without all its batch counts")
    events = np.zeros(count, np.int64)
    np.add.at(events, owners, batches.records["event_count"].astype(np.int64))
    right = (found == 0) | (events == requests.records["event_count"])
    faults.expect(right, requests.positions, "a request whose batches are not all its events")


def _write_out(faults: _Faults, outcomes: Rows, owners: Places, requests: Rows) -> _Events:
    """What the journal says of each event: created at its own time unless an outcome differs."""
    records = requests.records
    counts = records["event_count"].astype(np.int64)
    starts = np.cumsum(counts) - counts
    of = np.repeat(np.arange(len(counts)), counts)
    timestamps = np.repeat(records["timestamp"].astype(np.int64) - counts + 1 - starts, counts)
    timestamps += np.arange(len(of))
    status = np.full(len(of), CREATED, np.uint32)

    found = np.bincount(owners, minlength=len(counts))
    right = found == records["outcome_count"]
    faults.expect(right, requests.positions, "a request without all its outcomes")
    event = outcomes.records["event"].astype(np.int64)
    inside = event < counts[owners]
    if not faults.expect(inside, outcomes.positions, "an outcome of an event that was not asked"):
        return _Events(of, status, timestamps)
    places = starts[owners] + event
    rising = np.diff(places, prepend=-1) > 0
    faults.expect(rising, outcomes.positions, "an outcome that is not after the one before it")
    states = outcomes.records["status"]
    stamps = outcomes.records["timestamp"].astype(np.int64)
    tells = (states != CREATED) | (stamps != timestamps[places])
    faults.expect(tells, outcomes.positions, "an outcome that says nothing new")
    transfers = records["operation"][owners] == Operation.CREATE_TRANSFERS
    known = np.where(
        transfers, np.isin(states, list(TransferStatus)), np.isin(states, list(AccountStatus))
    )
    faults.expect(known, outcomes.positions, "an outcome with an unknown status")
    status[places], timestamps[places] = states, stamps
    return _Events(of, status, timestamps)


def _check_effects(
    faults: _Faults,
    rows: Mapping[JournalKind, Rows],
    owners: Mapping[JournalKind, Places],
    requests: Rows,
    events: _Events,
) -> None:
    """Exactly the accounts, transfers and burned ids that the events come to."""
    transfers = requests.records["operation"][events.requests] == Operation.CREATE_TRANSFERS
    transient = np.isin(events.status, list(TRANSIENT))
    for kind, chosen in (
        (JournalKind.ACCOUNT, (events.status == CREATED) & ~transfers),
        (JournalKind.TRANSFER, (events.status == CREATED) & transfers),
        (JournalKind.BURNED_ID, transient & transfers),
    ):
        found, mine, name = rows[kind], owners[kind], kind.name.lower()
        count = len(requests.positions)
        right = np.bincount(events.requests[chosen], minlength=count) == np.bincount(
            mine, minlength=count
        )
        why = f"a request with more or fewer {name} records than its outcomes say"
        if not faults.expect(right, requests.positions, why):
            continue
        stamps = found.records["timestamp"].astype(np.int64)
        right = stamps == events.timestamps[chosen]
        faults.expect(right, found.positions, f"{name} with another timestamp than its event's")
        if kind == JournalKind.BURNED_ID:
            right = found.records["status"] == events.status[chosen]
            faults.expect(right, found.positions, "burned_id with another status than its event's")
