"""What the benchmarks pay: accounts and full requests of transfers as arrays of records.

Every transfer has an id of its own; which accounts it touches is chosen by a fixed seed. It knows
records, and no part that takes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ledger.facts import limits, schema

Rows = NDArray[np.void]

ACCOUNTS = 10_000
EVENTS = limits.EVENTS_MAX
CREATED = schema.TransferStatus.CREATED
_RANDOM = np.random.default_rng(1)


def accounts(flags: int = 0, accounts: int = ACCOUNTS) -> Iterator[Rows]:
    """Accounts 1 .. `accounts`, in requests."""
    for first in range(1, accounts + 1, EVENTS):
        rows = np.zeros(min(EVENTS, accounts + 1 - first), schema.ACCOUNT)
        rows["id"][:, 0] = np.arange(first, first + len(rows))
        rows["ledger"] = rows["code"] = 1
        rows["flags"] = flags
        yield rows


def transfers(request: int, count: int = EVENTS, accounts: int = ACCOUNTS) -> Rows:
    """Plain transfers between accounts chosen at random; `request` makes their ids unique."""
    rows = np.zeros(count, schema.TRANSFER)
    rows["id"][:, 0] = np.arange(count)
    rows["id"][:, 1] = request + 1
    debit = _RANDOM.integers(0, accounts, count)
    rows["debit_account_id"][:, 0] = debit + 1
    rows["credit_account_id"][:, 0] = (debit + _RANDOM.integers(1, accounts, count)) % accounts + 1
    rows["amount"][:, 0] = 1
    rows["ledger"] = rows["code"] = 1
    return rows


def holds(request: int) -> Rows:
    """A request of which the first half opens holds and the second half posts them."""
    rows = transfers(request, EVENTS // 2 * 2)
    half = len(rows) // 2
    rows["flags"][:half] = schema.TransferFlags.PENDING
    rows["pending_id"][half:] = rows["id"][:half]
    rows["flags"][half:] = schema.TransferFlags.POST_PENDING_TRANSFER
    for field in ("debit_account_id", "credit_account_id"):
        rows[field][half:] = 0
    rows["ledger"][half:] = rows["code"][half:] = 0
    return rows


def opened(request: int) -> Rows:
    """A request of holds, of which none is resolved."""
    rows = transfers(request)
    rows["flags"] = schema.TransferFlags.PENDING
    return rows


def resolving(request: int, of: Rows, flag: int) -> Rows:
    """A request that posts or voids every hold of another."""
    rows = np.zeros(len(of), schema.TRANSFER)
    rows["id"][:, 0] = np.arange(len(of))
    rows["id"][:, 1] = request + 1
    rows["pending_id"] = of["id"]
    rows["flags"] = flag
    return rows


def refused(request: int) -> Rows:
    """A request of payments in a ledger that their accounts are not of."""
    rows = transfers(request)
    rows["ledger"] = 2
    return rows


def chains(request: int, length: int = 4, failing: int = 8) -> tuple[Rows, int]:
    """Chains of `length`, of which each `failing`-th fails at its end; and how many are created."""
    rows = transfers(request, EVENTS // length * length)
    rows["flags"] = schema.TransferFlags.LINKED
    rows["flags"][length - 1 :: length] = 0
    last = np.arange(length - 1, len(rows), length * failing)
    rows["ledger"][last] = 2
    return rows, len(rows) - length * len(last)
