"""The view: records, flags, codes and operations as numpy and Python see them.

Everything here is built from the tables of the C headers when the module loads; nothing is typed a
second time. `schema.pyi` shows the same names to people and type checkers: `tools/stubs.py` writes
it and a test keeps it fresh. A 128-bit field is two little-endian limbs of 64 bits, low one first.
This file knows what the records look like, not what becomes of them.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter, index
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger import _wire, config

_LAYOUT = _wire.layout()
_NAMES = _wire.names()
_STATUSES = _wire.statuses()
_LIMITS = _wire.limits()
_FORMATS = {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "u128": "<u8"}
_CODES = {8: "Q", 4: "I", 2: "H", 1: "B"}  # of struct, by bytes

assert _LIMITS["MESSAGE_BYTES_MAX"] == config.MESSAGE_BYTES_MAX
assert _LIMITS["MESSAGE_HEADER_BYTES"] == config.MESSAGE_HEADER_BYTES
assert _LIMITS["MESSAGE_BODY_BYTES_MAX"] == config.BODY_BYTES_MAX
assert _LIMITS["EVENTS_MAX"] == config.EVENTS_MAX


# ---- records ------------------------------------------------------------------------------------


def _dtype(record: str) -> np.dtype[np.void]:
    size, fields, _ = _LAYOUT[record]
    formats: list[Any] = []
    for _, kind, count, _, _, _ in fields:
        limbs = 2 * count if kind == "u128" else count
        formats.append(_FORMATS[kind] if limbs == 1 else (_FORMATS[kind], (limbs,)))
    return np.dtype(
        {
            "names": [field[0] for field in fields],
            "formats": formats,
            "offsets": [field[3] for field in fields],
            "itemsize": size,
        }
    )


def packer(record: np.dtype[np.void]) -> struct.Struct:
    """A record as a tuple of its fields in their order: numbers, and bytes for what is longer."""
    assert record.names is not None
    fields = [record[name] for name in record.names]
    made = struct.Struct(
        "<" + "".join(f"{x.itemsize}s" if x.subdtype else _CODES[x.itemsize] for x in fields)
    )
    assert made.size == record.itemsize
    return made


ID = np.dtype([("id", "<u8", (2,))])
ACCOUNT = _dtype("account")
TRANSFER = _dtype("transfer")
CREATE_RESULT = _dtype("create_result")
ACCOUNT_FILTER = _dtype("account_filter")
QUERY_FILTER = _dtype("query_filter")
ACCOUNT_BALANCE = _dtype("account_balance")
GROUP_HEADER = _dtype("group_header")
RUN = _dtype("run")
START = _dtype("start")
SESSION = _dtype("session")
SESSION_EVICTED = _dtype("session_evicted")
REQUEST = _dtype("request")
BATCH = _dtype("batch")
OUTCOME = _dtype("outcome")
RESOLUTION = _dtype("resolution")
BURNED_ID = _dtype("burned_id")
ARRIVAL = _dtype("arrival")
ANSWER = _dtype("answer")
REPLY = _dtype("reply")
RECORDS = {name: _dtype(name) for name in _LAYOUT}


# ---- flags, codes, operations -------------------------------------------------------------------


def _flags(name: str, table: str) -> Any:
    members = [("NONE", 0)] + [(member, value) for member, value, _ in _NAMES[table]]
    return enum.IntFlag(name, members, module=__name__)


def _numbers(name: str, table: str) -> Any:
    return enum.IntEnum(name, [row[:2] for row in _NAMES[table]], module=__name__)


def _codes(name: str, table: str) -> Any:
    members = [("CREATED", _LIMITS["STATUS_CREATED"])] + [row[:2] for row in _STATUSES[table]]
    return enum.IntEnum(name, members, module=__name__)


AccountFlags = _flags("AccountFlags", "account_flags")
TransferFlags = _flags("TransferFlags", "transfer_flags")
AccountFilterFlags = _flags("AccountFilterFlags", "account_filter_flags")
QueryFilterFlags = _flags("QueryFilterFlags", "query_filter_flags")
AccountStatus = _codes("AccountStatus", "account_statuses")
TransferStatus = _codes("TransferStatus", "transfer_statuses")
JournalKind = _numbers("JournalKind", "journal_kinds")
HoldOutcome = _numbers("HoldOutcome", "hold_outcomes")
Verdict = _numbers("Verdict", "verdicts")
EvictionReason = _numbers("EvictionReason", "eviction_reasons")
Command = _numbers("Command", "commands")
WireError = _numbers("WireError", "wire_errors")
Operation = enum.IntEnum(
    "Operation",
    [("REGISTER", _LIMITS["OPERATION_REGISTER"])] + [row[:2] for row in _wire.operations()],
    module=__name__,
)

TRANSIENT = frozenset(
    TransferStatus(value) for _, value, transient in _STATUSES["transfer_statuses"] if transient
)


class Shape(NamedTuple):
    """What an operation carries: records in, records out, and how they are batched."""

    event: np.dtype[np.void]
    result: np.dtype[np.void]
    single: bool  # each batch is exactly one filter
    creates: bool


_EVENTS = {"id": ID} | RECORDS
SHAPES = {
    Operation(number): Shape(_EVENTS[event], RECORDS[result], single, creates)
    for _, number, event, result, single, creates, _ in _wire.operations()
}


# ---- one record as a Python object --------------------------------------------------------------


def _struct(name: str, record: str) -> Any:
    fields = [(field[0], int, 0) for field in _LAYOUT[record][1] if field[0] != "reserved"]
    return msgspec.defstruct(name, fields, module=__name__, gc=False)


Account = _struct("Account", "account")
Transfer = _struct("Transfer", "transfer")
CreateResult = _struct("CreateResult", "create_result")
AccountFilter = _struct("AccountFilter", "account_filter")
QueryFilter = _struct("QueryFilter", "query_filter")
AccountBalance = _struct("AccountBalance", "account_balance")


def u128(value: int) -> tuple[int, int]:
    """The low and the high limb of `value`. ValueError outside 0 .. 2^128-1."""
    if not 0 <= value < 1 << 128:
        raise ValueError(f"{value} is not within 0 .. 2^128-1")
    return value & 0xFFFF_FFFF_FFFF_FFFF, value >> 64


def int_of(limbs: Sequence[int] | NDArray[np.uint64]) -> int:
    """The number of which `limbs` are the low and the high 64 bits."""
    return int(limbs[0]) | int(limbs[1]) << 64


def _column(name: str, values: Sequence[Any], field: str, size: int) -> bytes:
    column = map(attrgetter(field), values)
    try:
        return b"".join([index(value).to_bytes(size, "little") for value in column])
    except (OverflowError, TypeError):
        for place, value in enumerate(map(attrgetter(field), values)):
            if not (hasattr(value, "__index__") and 0 <= index(value) < 1 << 8 * size):
                raise ValueError(
                    f"{name}[{place}].{field}: {value!r} is not an integer"
                    f" within 0 .. 2^{8 * size}-1"
                ) from None
        raise


def _pack(name: str, record: str, values: Sequence[Any]) -> NDArray[np.void]:
    rows = np.zeros(len(values), RECORDS[record])
    for field, kind, _, _, size, _ in _LAYOUT[record][1]:
        if field != "reserved":
            column = np.frombuffer(_column(name, values, field, size), _FORMATS[kind])
            rows[field] = column.reshape(-1, 2) if kind == "u128" else column
    return rows


def _unpack(record: str, struct: Any, rows: NDArray[np.void], flags: Any = int) -> list[Any]:
    if rows.dtype != RECORDS[record]:
        raise ValueError(f"rows of {rows.dtype.names} are no {record} records")
    columns: list[Iterable[Any]] = []
    for field, kind, _, _, _, _ in _LAYOUT[record][1]:
        if field == "reserved":
            continue
        column = rows[field].tolist()
        if kind == "u128":
            column = [low | high << 64 for low, high in column]
        elif field == "flags":
            named = {value: flags(value) for value in set(column)}
            column = [named[value] for value in column]
        columns.append(column)
    return list(map(struct, *columns))


def pack_accounts(accounts: Sequence[Account]) -> NDArray[np.void]:
    """An array of ACCOUNT. ValueError names the first value that does not fit its field."""
    return _pack("accounts", "account", accounts)


def pack_transfers(transfers: Sequence[Transfer]) -> NDArray[np.void]:
    """An array of TRANSFER. ValueError names the first value that does not fit its field."""
    return _pack("transfers", "transfer", transfers)


def pack_account_filters(filters: Sequence[AccountFilter]) -> NDArray[np.void]:
    """An array of ACCOUNT_FILTER. ValueError names the first value that does not fit its field."""
    return _pack("filters", "account_filter", filters)


def pack_query_filters(filters: Sequence[QueryFilter]) -> NDArray[np.void]:
    """An array of QUERY_FILTER. ValueError names the first value that does not fit its field."""
    return _pack("filters", "query_filter", filters)


def pack_ids(ids: Sequence[int]) -> NDArray[np.void]:
    """An array of ID. ValueError names the first value outside 0 .. 2^128-1."""
    rows = np.zeros(len(ids), ID)
    for place, value in enumerate(ids):
        try:
            rows["id"][place] = u128(value)
        except ValueError as error:
            raise ValueError(f"ids[{place}]: {error}") from None
    return rows


def unpack_accounts(rows: NDArray[np.void]) -> list[Account]:
    """An Account for each row of an array of ACCOUNT."""
    return _unpack("account", Account, rows, AccountFlags)


def unpack_transfers(rows: NDArray[np.void]) -> list[Transfer]:
    """A Transfer for each row of an array of TRANSFER."""
    return _unpack("transfer", Transfer, rows, TransferFlags)


def unpack_account_balances(rows: NDArray[np.void]) -> list[AccountBalance]:
    """An AccountBalance for each row of an array of ACCOUNT_BALANCE."""
    return _unpack("account_balance", AccountBalance, rows)


def unpack_create_results(rows: NDArray[np.void]) -> list[CreateResult]:
    """A CreateResult for each row of an array of CREATE_RESULT; `status` stays a plain number."""
    return _unpack("create_result", CreateResult, rows)


_PACKS = (
    (ACCOUNT, Account, pack_accounts),
    (TRANSFER, Transfer, pack_transfers),
    (ACCOUNT_FILTER, AccountFilter, pack_account_filters),
    (QUERY_FILTER, QueryFilter, pack_query_filters),
    (ID, int, pack_ids),
)


def records(value: object, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """`value` as a contiguous array of `dtype`, one of ACCOUNT, TRANSFER, the filters and ID.

    Taken are an array of `dtype` (not copied when contiguous), bytes that hold whole records, one
    struct of the kind or a sequence of them, and for ID integers or an array of uint64 of shape
    (n, 2), low limb first. ValueError says what does not fit.
    """
    struct, pack = next((struct, pack) for known, struct, pack in _PACKS if known == dtype)
    if isinstance(value, np.ndarray):
        if dtype == ID and value.dtype == np.uint64 and value.shape[1:] == (2,):
            return np.ascontiguousarray(value).view(ID).reshape(-1)
        if value.dtype != dtype or value.ndim != 1:
            raise ValueError(f"{value.dtype} of shape {value.shape} is no row of {dtype}")
        return np.ascontiguousarray(value)
    if isinstance(value, bytes | bytearray | memoryview):
        size = memoryview(value).nbytes
        if size % dtype.itemsize:
            raise ValueError(f"{size} bytes are not whole records of {dtype.itemsize}")
        return np.frombuffer(value, dtype)
    values = [value] if isinstance(value, struct) else value
    if not isinstance(values, Sequence):
        raise ValueError(f"{type(value).__name__} is no {struct.__name__} nor a sequence of them")
    for place, item in enumerate(values):
        if not isinstance(item, struct) and not (struct is int and isinstance(item, np.integer)):
            raise ValueError(f"[{place}] is a {type(item).__name__}, not a {struct.__name__}")
    return pack([int(item) for item in values] if struct is int else values)
