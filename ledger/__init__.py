"""A double-entry payment ledger to embed or to serve.

    import ledger

    with ledger.open("books/main") as book:
        book.create_accounts([ledger.Account(id=1, ledger=978, code=1), ...])
        book.create_transfers([ledger.Transfer(id=ledger.id(), debit_account_id=1, ...)])

The names below are the public ones; everything else may change. Records are numpy arrays of the
dtypes given here, or the structs of the same names, or plain bytes.
"""

from __future__ import annotations

from ledger.book import AsyncBook, Book, open, open_async
from ledger.client import AsyncClient, Client
from ledger.errors import (
    Busy,
    ClockRefused,
    DataRefused,
    DirectoryInUse,
    DirectoryNotWritable,
    DiskFull,
    HistoryLost,
    LedgerError,
    LedgerStopped,
    OutcomeUnknown,
    SessionEvicted,
    SystemLimit,
    WrongProcess,
)
from ledger.ids import id, ids
from ledger.schema import (
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

__version__ = "0.1.0"

__all__ = [
    "ACCOUNT",
    "ACCOUNT_BALANCE",
    "ACCOUNT_FILTER",
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
    "OutcomeUnknown",
    "QueryFilter",
    "QueryFilterFlags",
    "SessionEvicted",
    "SystemLimit",
    "Transfer",
    "TransferFlags",
    "TransferStatus",
    "WrongProcess",
    "id",
    "ids",
    "int_of",
    "open",
    "open_async",
    "u128",
]
