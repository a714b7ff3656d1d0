"""A double-entry payment ledger to embed or to serve.

    import ledger

    with ledger.open("books/main") as book:
        book.create_accounts([ledger.Account(id=1, ledger=978, code=1), ...])
        book.create_transfers([ledger.Transfer(id=ledger.id(), debit_account_id=1, ...)])

The names below are the public ones; everything else may change. Records are numpy arrays of the
dtypes given here, or the structs of the same names, or plain bytes. `from ledger import *` leaves
`open`, `id` and `ids` out: they would hide Python's own.
"""

from __future__ import annotations

from ledger.api.convert import (
    AMOUNT_MAX,
    columns,
    decimal,
    ints,
    limbs,
    order,
    rows,
    structs,
    total,
    units,
)
from ledger.api.ids import id as id
from ledger.api.ids import ids as ids
from ledger.api.results import describe, raise_for_status, refusals
from ledger.client.client import AsyncClient, Client
from ledger.facts.errors import (
    Busy,
    ClockRefused,
    DataRefused,
    DirectoryInUse,
    DirectoryNotWritable,
    DiskFull,
    HistoryLost,
    LedgerError,
    LedgerStopped,
    NotCreated,
    OutcomeUnknown,
    Refusal,
    SessionEvicted,
    SystemLimit,
    WrongProcess,
)
from ledger.facts.limits import VERSION
from ledger.facts.schema import (
    ACCOUNT,
    ACCOUNT_BALANCE,
    ACCOUNT_FILTER,
    CREATE_RESULT,
    QUERY_FILTER,
    TRANSFER,
    Account,
    AccountBalance,
    AccountFilter,
    AccountFilterFlags,
    AccountFlags,
    AccountStatus,
    QueryFilter,
    QueryFilterFlags,
    Transfer,
    TransferFlags,
    TransferStatus,
    int_of,
    u128,
)
from ledger.host.book import AsyncBook, Book, open_async
from ledger.host.book import open as open
from ledger.host.temporary import open_temporary, open_temporary_async

__version__ = VERSION

__all__ = [
    "ACCOUNT",
    "ACCOUNT_BALANCE",
    "ACCOUNT_FILTER",
    "AMOUNT_MAX",
    "CREATE_RESULT",
    "QUERY_FILTER",
    "TRANSFER",
    "Account",
    "AccountBalance",
    "AccountFilter",
    "AccountFilterFlags",
    "AccountFlags",
    "AccountStatus",
    "AsyncBook",
    "AsyncClient",
    "Book",
    "Busy",
    "Client",
    "ClockRefused",
    "DataRefused",
    "DirectoryInUse",
    "DirectoryNotWritable",
    "DiskFull",
    "HistoryLost",
    "LedgerError",
    "LedgerStopped",
    "NotCreated",
    "OutcomeUnknown",
    "QueryFilter",
    "QueryFilterFlags",
    "Refusal",
    "SessionEvicted",
    "SystemLimit",
    "Transfer",
    "TransferFlags",
    "TransferStatus",
    "WrongProcess",
    "columns",
    "decimal",
    "describe",
    "int_of",
    "ints",
    "limbs",
    "open_async",
    "open_temporary",
    "open_temporary_async",
    "order",
    "raise_for_status",
    "refusals",
    "rows",
    "structs",
    "total",
    "u128",
    "units",
]
