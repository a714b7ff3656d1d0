"""What became of a request's events, for who must not overlook a refusal.

A refusal is a result, not an error: each event of a request has its own. Here results become an
error for who wants one, and text for who reads them. Nothing here asks or repeats anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.api import calls, convert
from ledger.facts import schema
from ledger.facts.errors import NotCreated, Refusal
from ledger.facts.schema import Operation

DESCRIBED_MAX = 20  # records that a text shows
_STATUSES: dict[Operation, Any] = {
    Operation.CREATE_ACCOUNTS: schema.AccountStatus,
    Operation.CREATE_TRANSFERS: schema.TransferStatus,
}


def refusals(results: NDArray[np.void], records: calls.Records) -> list[Refusal]:
    """The events that neither were created nor exist already, exactly as they were sent.

    `results` is what create_accounts, create_transfers or create_many returned for `records`.
    """
    operation, events = calls.kind(records)
    statuses = _STATUSES[operation]
    _check(results)
    if len(results) != len(events):
        raise ValueError(f"{len(results)} results are not of {len(events)} records")
    status = results["status"]
    places = np.flatnonzero((status != statuses.CREATED) & (status != statuses.EXISTS)).tolist()
    return [
        Refusal(place, schema.int_of(events["id"][place]), statuses(int(status[place])))
        for place in places
    ]


def raise_for_status(results: NDArray[np.void], records: calls.Records) -> None:
    """NotCreated when an event of `records` was refused; nothing when all is in the book.

    `exists` is no refusal: the very same record is there, as after a retry. A chain that is sent
    again has `exists` at its first event and `linked_event_failed` at the others, as the protocol
    has it, so it raises: look the ids up to see that all of it is there.
    """
    refused = refusals(results, records)
    if refused:
        raise NotCreated(refused, len(results))


def _check(results: object) -> None:
    if not isinstance(results, np.ndarray) or results.dtype != schema.CREATE_RESULT:
        raise ValueError(f"results: {schema.a(results)} is no array of CREATE_RESULT")


def describe(rows: NDArray[np.void] | Sequence[Any], records: calls.Records | None = None) -> str:
    """Records (an array, or structs) or results in plain words, a line each, the first 20.

    Results are told with their ids and statuses by name when `records`, for which they are, are
    given too.
    """
    if not isinstance(rows, np.ndarray | Sequence):
        raise ValueError(f"rows: {schema.a(rows)} is no array nor list of records")
    first: Any = rows[:DESCRIBED_MAX]
    if records is not None:
        _check(rows)
        lines = _results(first, records)
    elif isinstance(rows, np.ndarray) and rows.dtype == schema.CREATE_RESULT:
        lines = [f"[{i}] {_either(one)}" for i, one in enumerate(first["status"].tolist())]
    else:
        structs = convert.structs(first) if isinstance(rows, np.ndarray) else first
        lines = [f"[{i}] {_fields(one)}" for i, one in enumerate(structs)]
    more = len(rows) - len(first)
    return "\n".join([*lines, f"and {more} more"] if more else lines)


def _results(results: NDArray[np.void], records: calls.Records) -> list[str]:
    operation, events = calls.kind(records)
    statuses = _STATUSES[operation]
    ids = convert.ints(events["id"][: len(results)])
    pairs = zip(ids, results["status"].tolist(), strict=True)
    return [f"[{i}] id {id}: {statuses(status).name}" for i, (id, status) in enumerate(pairs)]


def _either(status: int) -> str:
    """A status alone: accounts and transfers have different numbers for the same words."""
    named: dict[str, str] = {
        f"of {'an account' if kind is schema.AccountStatus else 'a transfer'}": kind(status).name
        for kind in _STATUSES.values()
        if status in set(map(int, kind))
    }
    if len(set(named.values())) == 1:
        return next(iter(named.values()))
    return ", ".join(f"{of} {name}" for of, name in named.items())


def _fields(record: Any) -> str:
    if not hasattr(record, "__struct_fields__"):
        raise ValueError(f"rows: {schema.a(record)} is no record")
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    told = {name: getattr(value, "name", value) for name, value in fields.items() if value}
    return ", ".join(f"{name} {value}" for name, value in told.items())
