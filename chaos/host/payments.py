"""What hosts pay: the transfer of an id is always the same, so that whoever knows ids knows all.

Each call of a host has a block of ids of its own. Nothing here knows what became of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import ledger

Rows = npt.NDArray[Any]
Numbers = npt.NDArray[np.uint64]

ACCOUNTS = 7
AMOUNTS = 97
BLOCK = 10_000  # ids of one call
BLOCKS_A_LIFE = 100_000


def accounts() -> list[ledger.Account]:
    return [ledger.Account(id=1 + n, ledger=1, code=1) for n in range(ACCOUNTS)]


def first_of(life: int, call: int) -> int:
    """The first id of a call; above the accounts', never 0."""
    return (1 + life * BLOCKS_A_LIFE + call) * BLOCK


def numbers(first: int, count: int) -> Numbers:
    return np.arange(first, first + count, dtype=np.uint64)


def records(ids: Numbers) -> Rows:
    """The transfers of these ids."""
    rows = np.zeros(len(ids), ledger.TRANSFER)
    rows["id"][:, 0] = ids
    rows["debit_account_id"][:, 0] = 1 + ids % ACCOUNTS
    rows["credit_account_id"][:, 0] = 1 + (ids + 1) % ACCOUNTS
    rows["amount"][:, 0] = 1 + ids % AMOUNTS
    rows["ledger"] = rows["code"] = 1
    return rows


def id_rows(ids: Numbers) -> Rows:
    """These ids as a look-up takes them."""
    limbs = np.zeros((len(ids), 2), np.uint64)
    limbs[:, 0] = ids
    return limbs


def balances(ids: Numbers) -> dict[int, tuple[int, int]]:
    """Debits and credits posted of each account, when these and no others were paid."""
    rows = records(ids)
    return {
        1 + n: (_sum(rows, "debit_account_id", 1 + n), _sum(rows, "credit_account_id", 1 + n))
        for n in range(ACCOUNTS)
    }


def _sum(rows: Rows, side: str, account: int) -> int:
    return int(rows["amount"][:, 0][rows[side][:, 0] == account].sum())
