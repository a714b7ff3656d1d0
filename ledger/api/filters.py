"""Whether a filter can mean anything, before it is asked.

To the protocol a filter that makes no sense selects nothing, or silently everything; to somebody
who wrote it by hand that is a balance sheet of zeros. Here each such filter has one clear error.
Nothing here asks, and nothing knows of pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.facts import limits, schema
from ledger.facts.schema import Operation

TIMESTAMP_MAX = (1 << 63) - 1
ID_MAX = (1 << 128) - 1
_DEBITS = int(schema.AccountFilterFlags.DEBITS)
_CREDITS = int(schema.AccountFilterFlags.CREDITS)
_PAGERS = {
    Operation.GET_ACCOUNT_TRANSFERS: "iter_account_transfers",
    Operation.GET_ACCOUNT_BALANCES: "iter_account_balances",
    Operation.QUERY_ACCOUNTS: "iter_query_accounts",
    Operation.QUERY_TRANSFERS: "iter_query_transfers",
}
# A moment of this century as a number of another unit than ns: as ns it lies in early 1970, where
# no ledger has a record but one that was imported with a stamp that is no time.
_CENTURY = (946_684_800, 4_102_444_800)  # 2000 and 2100, in seconds since 1970
_UNITS = (("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000))


def check(operation: Operation, rows: NDArray[np.void]) -> None:
    """ValueError when the one filter in `rows` cannot select what it was written for."""
    row = rows[0]
    check_range(row)
    limit = int(row["limit"])
    if limit == 0:
        raise ValueError(f"filter.limit: 0 selects nothing, give 1 .. {limits.EVENTS_MAX}")
    if limit > limits.EVENTS_MAX:
        raise ValueError(
            f"filter.limit: {limit} is more than one call gives, {limits.EVENTS_MAX}:"
            f" {_PAGERS[operation]} pages"
        )


def check_range(row: Any) -> None:
    """As check, of all but the limit."""
    if row["reserved"].any():
        raise ValueError("filter.reserved: must be zeros")
    of_account = row.dtype == schema.ACCOUNT_FILTER
    _check_flags(int(row["flags"]), of_account)
    if of_account and schema.int_of(row["account_id"]) in (0, ID_MAX):
        raise ValueError("filter.account_id: 0 and 2^128-1 are no accounts")
    first, last = int(row["timestamp_min"]), int(row["timestamp_max"])
    for field, value in (("timestamp_min", first), ("timestamp_max", last)):
        _check_timestamp(f"filter.{field}", value)
    if last and first > last:
        raise ValueError(
            f"filter.timestamp_min: {first} is after timestamp_max, {last} (0 is open)"
        )


def _check_flags(flags: int, of_account: bool) -> None:
    kind = schema.AccountFilterFlags if of_account else schema.QueryFilterFlags
    known = 0
    for member in kind:
        known |= int(member)
    if flags & ~known:
        raise ValueError(f"filter.flags: {flags:#x} has bits that are no {kind.__name__}")
    if of_account and not flags & (_DEBITS | _CREDITS):
        raise ValueError(
            "filter.flags: neither DEBITS nor CREDITS, which selects nothing; a whole statement is"
            " AccountFilterFlags.DEBITS | AccountFilterFlags.CREDITS"
        )


def _check_timestamp(where: str, value: int) -> None:
    if value > TIMESTAMP_MAX:
        raise ValueError(f"{where}: {value} is not within 0 .. 2^63-1 ns")
    for unit, per_second in _UNITS:
        if _CENTURY[0] * per_second <= value < _CENTURY[1] * per_second:
            raise ValueError(
                f"{where}: {value} looks like {unit}, and timestamps are ns since 1970:"
                f" give {value * (1_000_000_000 // per_second)}"
            )
