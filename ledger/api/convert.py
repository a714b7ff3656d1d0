"""Records and their 128-bit numbers as whatever else people compute with, and back.

A 128-bit column of an array is two limbs of 64 bits, and numpy's `-`, `sum` and `sort` treat them
as two numbers: what is computed so is wrong without an error. The functions here know the limbs.
They are for people and reports, one Python object for each number; nothing in the ledger itself
goes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.facts import schema
from ledger.facts.schema import Account, Transfer

_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)
_SCALE_BITS = 5  # up to 31 decimals, with the 39 digits of 128 bits within the context
_EXACT = Context(prec=80, traps=[Inexact, InvalidOperation])
_UNPACKS: tuple[tuple[np.dtype[np.void], Callable[[Any], list[Any]]], ...] = (
    (schema.ACCOUNT, schema.unpack_accounts),
    (schema.TRANSFER, schema.unpack_transfers),
    (schema.ACCOUNT_BALANCE, schema.unpack_account_balances),
    (schema.CREATE_RESULT, schema.unpack_create_results),
)


# ---- columns of 128-bit numbers ------------------------------------------------------------------


def _limbs(column: Any) -> NDArray[np.uint64]:
    if isinstance(column, np.ndarray) and column.dtype == np.uint64 and column.shape[1:] == (2,):
        return column
    shown = f"{type(column).__name__} of shape {np.shape(column)}"
    raise ValueError(f"{shown} is no column of 128-bit numbers, uint64 of shape (n, 2)")


def ints(column: NDArray[np.uint64]) -> list[int]:
    """The numbers of a 128-bit column, such as rows["amount"]."""
    return [low | high << 64 for low, high in _limbs(column).tolist()]


def limbs(values: Sequence[int]) -> NDArray[np.uint64]:
    """Whole numbers as a 128-bit column: rows["id"] = ledger.limbs([1, 2])."""
    return schema.pack_numbers("values", values)["id"]


def total(column: NDArray[np.uint64]) -> int:
    """The sum of a 128-bit column; it may be beyond 128 bits."""
    found = 0
    for place, shift in ((0, 0), (1, 64)):
        limb = _limbs(column)[:, place]
        # Halves, so that no sum of fewer than 2^32 of them is beyond 64 bits.
        found += int((limb & _LOW).sum()) << shift
        found += int((limb >> _HALF).sum()) << shift + 32
    return found


def order(column: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The places that sort a 128-bit column: rows[ledger.order(rows["amount"])]. Equals stay."""
    low, high = _limbs(column).T
    return np.lexsort((low, high))


# ---- records -------------------------------------------------------------------------------------


def structs(rows: NDArray[np.void]) -> list[Any]:
    """Each record of an array as its struct: Account, Transfer, AccountBalance or CreateResult."""
    for dtype, unpack in _UNPACKS:
        if isinstance(rows, np.ndarray) and rows.dtype == dtype:
            return unpack(rows)
    raise ValueError(f"{_kind(rows)} is no array of records")


def rows(structs: Sequence[Account] | Sequence[Transfer]) -> NDArray[np.void]:
    """Accounts or transfers as an array of ACCOUNT or TRANSFER; the inverse of `structs`."""
    if isinstance(structs, Account | Transfer):
        raise ValueError(f"structs: {schema.a(structs)} alone is no list: give [it]")
    if not isinstance(structs, Sequence):
        raise ValueError(f"structs: {schema.a(structs)} is no list of accounts or transfers")
    if not len(structs):
        raise ValueError(
            "structs: an empty list says neither ACCOUNT nor TRANSFER: give numpy.empty(0, dtype)"
        )
    first = structs[0]
    for kind, dtype in ((Account, schema.ACCOUNT), (Transfer, schema.TRANSFER)):
        if isinstance(first, kind):
            return schema.records(structs, dtype)
    raise ValueError(f"structs[0]: {schema.a(first)}, neither an Account nor a Transfer")


def columns(
    rows: NDArray[np.void],
    wide: Callable[[int], object] = int,
    **of_field: Callable[[int], object],
) -> dict[str, NDArray[Any]]:
    """An array of records as one column a field, for pandas, polars, pyarrow and the like.

    128-bit fields become arrays of Python objects: whole numbers, or what `wide` makes of them;
    `of_field` says it for one field. Other fields are the array's own columns, and `reserved` is
    left out. A library that knows no number so wide takes `str`, or `Decimal`.
    """
    if not isinstance(rows, np.ndarray) or rows.dtype.names is None or rows.ndim != 1:
        raise ValueError(f"{_kind(rows)} is no array of records")
    names = [name for name in rows.dtype.names if name != "reserved"]
    unknown = set(of_field) - {name for name in names if rows.dtype[name].subdtype}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no 128-bit field of these records")
    made: dict[str, NDArray[Any]] = {}
    for name in names:
        column = rows[name]
        if column.ndim == 2:
            kind = of_field.get(name, wide)
            column = np.empty(len(rows), object)
            column[:] = [kind(number) for number in ints(rows[name])]
        made[name] = column
    return made


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape},"
    return type(value).__name__


# ---- money ---------------------------------------------------------------------------------------


AMOUNT_MAX = (1 << 128) - 1  # as the amount of a post: all of the hold


def units(amount: Decimal | int | str, scale: int) -> int:
    """`amount` in the smallest unit of a ledger with `scale` decimals: units("12.34", 2) is 1234.

    ValueError for what is no whole number of units, and for a float, which is no exact amount.
    """
    if isinstance(amount, bool) or not isinstance(amount, Decimal | int | str):
        raise ValueError(f"amount: {amount!r} is a {type(amount).__name__}: give a Decimal or text")
    places = schema.whole("scale", scale, _SCALE_BITS)
    try:
        scaled = _EXACT.create_decimal(amount).scaleb(places, _EXACT)
        whole = int(scaled.quantize(Decimal(1), context=_EXACT))
    except (Inexact, InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"amount: {amount} is no whole number at {scale} decimals") from None
    return schema.whole("amount", whole)


def decimal(number: int, scale: int) -> Decimal:
    """A number of smallest units as an amount with `scale` decimals; it may be negative.

    Exact itself; what is computed with it is rounded to the 28 digits of Python's usual context.
    """
    if isinstance(number, np.ndarray) and number.shape == (2,):
        raise ValueError("number: two limbs of one number: give ledger.int_of(it)")
    try:
        whole = index(number)
    except TypeError:
        raise ValueError(f"number: {schema.a(number)} is no whole number of units") from None
    return Decimal(whole).scaleb(-schema.whole("scale", scale, _SCALE_BITS), _EXACT)
