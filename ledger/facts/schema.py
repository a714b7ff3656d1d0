"""The view: records, flags, codes and operations as numpy and Python see them.

Everything here is built from the tables of the C headers when the module loads; nothing is typed a
second time. `schema.pyi` shows the same names to people and type checkers: `tools/stubs.py` writes
it and a test keeps it fresh. A 128-bit field is two little-endian limbs of 64 bits, low one first.
This file knows what the records look like, not what becomes of them.
"""

from __future__ import annotations

import enum
import struct
import textwrap
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain, cycle, repeat
from operator import index
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.facts import _facts, limits

_LAYOUT = _facts.layout()
_NAMES = _facts.names()
_STATUSES = _facts.statuses()
_LIMITS = _facts.limits()
_FORMATS = {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "u128": "<u8"}
_CODES = {8: "Q", 4: "I", 2: "H", 1: "B"}  # of struct, by bytes

assert _LIMITS["MESSAGE_BYTES_MAX"] == limits.MESSAGE_BYTES_MAX
assert _LIMITS["MESSAGE_HEADER_BYTES"] == limits.MESSAGE_HEADER_BYTES
assert _LIMITS["MESSAGE_BODY_BYTES_MAX"] == limits.BODY_BYTES_MAX
assert _LIMITS["EVENTS_MAX"] == limits.EVENTS_MAX
assert _LIMITS["MEMTABLES_MAX"] >= limits.WINDOWS_CLOSED_MAX + 2, "the core has room for each"
assert _LIMITS["EVENT_BYTES_WORST"] == limits.EVENT_BYTES_WORST
assert (
    limits.EVENTS_MAX * limits.EVENT_BYTES_WORST
    + 2 * _LIMITS["BATCHES_MAX"]
    + _LIMITS["REQUEST_BYTES_FIXED"]
) <= limits.REQUEST_BYTES_WORST
assert _LIMITS["BATCHES_MAX"] <= limits.COUNTS_MAX, "the batches of one request fit"
assert _LIMITS["BODY_BYTES_END"] > limits.GROUP_BYTES_MAX, "a place can say where a record lies"
# One is open, and what a start replays may close one more than a server waits for.


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
    made: Any = enum.IntFlag(name, members, module=__name__)
    rows = [f"{member}: {doc}" for member, _, doc in _NAMES[table]]
    made.__doc__ = "\n".join(["Bits, to be combined with |.", "", *rows])
    return made


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
    [("REGISTER", _LIMITS["OPERATION_REGISTER"])] + [row[:2] for row in _facts.operations()],
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
    for _, number, event, result, single, creates, _ in _facts.operations()
}


# ---- one record as a Python object --------------------------------------------------------------


def _doc(record: str) -> str:
    """What a record is and what each field means, as the C lists have it."""
    _, fields, what = _LAYOUT[record]
    rows = [f"{f[0]}: {f[1]} -- {f[5]}" for f in fields if f[0] != "reserved"]
    return "\n".join([f"{what[0].upper()}{what[1:]}.", "", *rows])


def _struct(name: str, record: str) -> Any:
    fields = [(field[0], int, 0) for field in _LAYOUT[record][1] if field[0] != "reserved"]
    return msgspec.defstruct(
        name, fields, module=__name__, gc=False, namespace={"__doc__": _doc(record)}
    )


Account = _struct("Account", "account")
Transfer = _struct("Transfer", "transfer")
CreateResult = _struct("CreateResult", "create_result")
AccountFilter = _struct("AccountFilter", "account_filter")
QueryFilter = _struct("QueryFilter", "query_filter")
AccountBalance = _struct("AccountBalance", "account_balance")


_FILTER = "filter"  # the argument that is one record
_SHOWN_CHARACTERS = 100  # of a wrong value, in an error
_HINTS: tuple[tuple[Any, str], ...] = (
    (uuid.UUID, "of a UUID give its .int"),
    ((bool, np.bool_), "True and False are no numbers here"),
    (np.ndarray, "a field holds one number, not an array"),
)
_HINTS_OF_AMOUNTS: tuple[tuple[Any, str], ...] = (
    (Decimal, "of a Decimal give ledger.units(value, scale)"),
    (float, "amounts are whole numbers of the smallest unit: ledger.units(value, scale)"),
)


def whole(where: str, value: object, bits: int = 128) -> int:
    """`value` as a whole number of `bits` bits. ValueError says `where` it is wrong, and how.

    Any integer is taken but True and False; for 128 bits also one row of two uint64, as `ids` makes
    them.
    """
    number: int | None = None
    if bits == 128 and isinstance(value, np.ndarray) and value.shape == (2,):
        number = int_of(value) if value.dtype == np.uint64 else None
    elif not isinstance(value, bool):
        try:
            number = index(value)  # type: ignore[arg-type]
        except TypeError:
            number = None
    if number is not None and 0 <= number < 1 << bits:
        return number
    what = "within" if number is not None else "an integer within"
    hints = _HINTS + (_HINTS_OF_AMOUNTS if where.split(".")[-1] == "amount" else ())
    hint = next((f" ({hint})" for kinds, hint in hints if isinstance(value, kinds)), "")
    shown = textwrap.shorten(repr(value), _SHOWN_CHARACTERS)
    raise ValueError(f"{where}: {shown} is not {what} 0 .. 2^{bits}-1{hint}")


def u128(value: int) -> tuple[int, int]:
    """The low and the high limb of `value`. ValueError outside 0 .. 2^128-1."""
    number = whole("u128", value)
    return number & 0xFFFF_FFFF_FFFF_FFFF, number >> 64


def int_of(limbs: Sequence[int] | NDArray[np.uint64]) -> int:
    """The number of which `limbs` are the low and the high 64 bits. Of a column use `ints`."""
    try:
        low, high = limbs
        return int(low) | int(high) << 64
    except (TypeError, ValueError):
        raise ValueError(f"{type(limbs).__name__} is no low and high limb of one number") from None


def _bytes(values: Iterable[Any], sizes: Iterable[int]) -> bytes | None:
    """Whole numbers, little-endian, of the sizes in turn; None when one is none or does not fit.

    It runs in C for as many records as there are; who is wrong is found out afterwards.
    """
    try:
        return b"".join(map(int.to_bytes, values, sizes, repeat("little")))
    except (OverflowError, TypeError):
        return None


def _at(name: str, place: int) -> str:
    """Where a record stands in the argument `name`; of filters there is one."""
    return name if name == _FILTER else f"{name}[{place}]"


def _pack(name: str, record: str, values: Sequence[Any]) -> NDArray[np.void]:
    fields = _LAYOUT[record][1]
    sizes = [field[4] for field in fields]
    rows = [msgspec.structs.astuple(value) for value in values]
    for hole in [place for place, field in enumerate(fields) if field[0] == "reserved"]:
        rows = [(*row[:hole], 0, *row[hole:]) for row in rows]
    packed = None
    if bool not in set(map(type, chain.from_iterable(rows))):
        packed = _bytes(chain.from_iterable(rows), cycle(sizes))
    if packed is None:
        numbers = [
            whole(f"{_at(name, place)}.{field[0]}", value, 8 * size)
            for place, row in enumerate(rows)
            for field, size, value in zip(fields, sizes, row, strict=True)
        ]
        packed = _bytes(numbers, cycle(sizes))
    assert packed is not None
    return np.frombuffer(bytearray(packed), RECORDS[record])


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
    return _pack(_FILTER, "account_filter", filters)


def pack_query_filters(filters: Sequence[QueryFilter]) -> NDArray[np.void]:
    """An array of QUERY_FILTER. ValueError names the first value that does not fit its field."""
    return _pack(_FILTER, "query_filter", filters)


def pack_ids(ids: Sequence[int]) -> NDArray[np.void]:
    """An array of ID. ValueError names the first value outside 0 .. 2^128-1.

    A row of two uint64, low limb first, is taken for one id too.
    """
    return pack_numbers("ids", ids)


def pack_numbers(name: str, numbers: Sequence[int]) -> NDArray[np.void]:
    """As pack_ids, of what the caller calls `name`."""
    packed = None if bool in set(map(type, numbers)) else _bytes(numbers, repeat(ID.itemsize))
    if packed is None:
        wholes = [whole(f"{name}[{place}]", value) for place, value in enumerate(numbers)]
        packed = _bytes(wholes, repeat(ID.itemsize))
    assert packed is not None
    return np.frombuffer(bytearray(packed), ID)


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


_PACKS: tuple[tuple[np.dtype[np.void], str, Any, Callable[[Any], NDArray[np.void]]], ...] = (
    (ACCOUNT, "accounts", Account, pack_accounts),
    (TRANSFER, "transfers", Transfer, pack_transfers),
    (ACCOUNT_FILTER, _FILTER, AccountFilter, pack_account_filters),
    (QUERY_FILTER, _FILTER, QueryFilter, pack_query_filters),
    (ID, "ids", int, pack_ids),
)


def records(value: object, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """`value` as a contiguous array of `dtype`, one of ACCOUNT, TRANSFER, the filters and ID.

    Taken are an array of `dtype` (not copied when contiguous), bytes that hold whole records, one
    struct of the kind or a sequence of them, and for ID integers or an array of uint64 of shape
    (n, 2), low limb first. ValueError says what does not fit.
    """
    name, struct, pack = next(one[1:] for one in _PACKS if one[0] == dtype)
    if isinstance(value, np.ndarray):
        if dtype == ID and value.dtype == np.uint64 and value.shape[1:] == (2,):
            return np.ascontiguousarray(value).view(ID).reshape(-1)
        if value.dtype != dtype or value.ndim != 1:
            raise ValueError(_no_rows(value, dtype, struct))
        return np.ascontiguousarray(value)
    if isinstance(value, bytes | bytearray | memoryview):
        if isinstance(value, memoryview) and not value.c_contiguous:
            raise ValueError("a memoryview with gaps is no whole records: give bytes(it)")
        size = memoryview(value).nbytes
        if size % dtype.itemsize:
            raise ValueError(f"{size} bytes are not whole records of {dtype.itemsize}")
        return np.frombuffer(value, dtype)
    values: Any = value
    if isinstance(value, struct) or (struct is int and hasattr(value, "__index__")):
        values = [value]
    if isinstance(value, np.void):
        raise ValueError(f"{name}: one row alone is no array of rows: give rows[0:1]")
    if not isinstance(values, Sequence):
        raise ValueError(f"{name}: {a(value)} is no {struct.__name__} nor a sequence of them")
    if struct is not int and set(map(type, values)) - {struct}:
        for place, item in enumerate(values):
            if not isinstance(item, struct):
                wanted = f"not {_article(struct.__name__)}"
                raise ValueError(f"{_at(name, place)}: {a(item)}, {wanted}")
    return pack(values)


def a(value: object) -> str:
    """What a value is, for an error."""
    return _article(type(value).__name__)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _no_rows(value: NDArray[Any], dtype: np.dtype[np.void], struct: Any) -> str:
    """Why an array is none of `dtype`, without the layouts of both."""
    names = {str(known): name.upper() for name, known in _EVENTS.items()}
    kind = names.get(str(value.dtype), str(value.dtype) if value.dtype.names is None else "others")
    wanted = names[str(dtype)]
    taken = "a list of integers, or uint64 of shape (n, 2)" if struct is int else f"{wanted}, (n,)"
    return f"an array of {kind}, shape {value.shape}, is no row of {wanted}: give {taken}"
