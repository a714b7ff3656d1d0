"""Conversions: exact in both directions, for every number of 128 bits."""

from __future__ import annotations

import uuid
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger
from ledger.facts import schema

U128_MAX = 2**128 - 1
EDGES = (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, 2**127, U128_MAX)
NUMBERS = st.lists(st.integers(0, U128_MAX) | st.sampled_from(EDGES), max_size=50)


@given(NUMBERS)
def test_a_column_is_its_numbers(numbers):
    column = ledger.limbs(numbers)
    assert column.dtype == np.uint64
    assert column.shape == (len(numbers), 2)
    assert ledger.ints(column) == numbers
    assert ledger.total(column) == sum(numbers)
    assert ledger.ints(column[ledger.order(column)]) == sorted(numbers)
    rows = np.zeros(len(numbers), ledger.TRANSFER)
    rows["amount"] = column
    assert ledger.ints(rows["amount"]) == numbers
    assert ledger.total(rows["amount"]) == sum(numbers)
    assert [one.amount for one in ledger.structs(rows)] == numbers
    assert ledger.columns(rows)["amount"].tolist() == numbers


def test_order_keeps_equals_as_they_are():
    column = ledger.limbs([5, 2**64, 5, 1, 2**64])
    assert ledger.order(column).tolist() == [3, 0, 2, 1, 4]


@pytest.mark.parametrize("wrong", [[1, 2], np.zeros(2, np.uint64), np.zeros((2, 2), np.int64), 7])
@pytest.mark.parametrize("function", [ledger.ints, ledger.total, ledger.order])
def test_what_is_no_column_is_refused(function, wrong):
    with pytest.raises(ValueError, match=r"is no column of 128-bit numbers, uint64 of shape"):
        function(wrong)


@pytest.mark.parametrize("wrong", [[-1], [U128_MAX + 1], [True], [1.0], ["1"], [None]])
def test_what_is_no_number_of_128_bits_is_refused(wrong):
    with pytest.raises(ValueError, match=r"values\[0\]: .* is not "):
        ledger.limbs(wrong)


def test_a_column_is_not_one_number():
    assert ledger.int_of(ledger.limbs([7])[0]) == 7
    for wrong in (ledger.limbs([1, 2, 3]), ledger.limbs([1, 2]), 7, "ab", [1]):
        with pytest.raises(ValueError, match="no low and high limb of one number"):
            ledger.int_of(wrong)


STRUCTS = [
    [ledger.Account(id=U128_MAX - 1, user_data_128=5, ledger=1, code=1, flags=9, timestamp=3)],
    [ledger.Transfer(id=1, amount=2**100, flags=2), ledger.Transfer(id=2, pending_id=1)],
]


@pytest.mark.parametrize("structs", STRUCTS, ids=["accounts", "transfers"])
def test_structs_become_rows_and_rows_structs(structs):
    rows = ledger.rows(structs)
    assert rows.dtype == {1: ledger.ACCOUNT, 2: ledger.TRANSFER}[len(structs)]
    assert ledger.structs(rows) == structs


def test_results_and_balances_become_structs_too():
    results = np.zeros(2, ledger.CREATE_RESULT)
    results["status"] = 46
    assert [one.status for one in ledger.structs(results)] == [46, 46]
    balances = np.zeros(1, ledger.ACCOUNT_BALANCE)
    balances["credits_posted"] = ledger.limbs([2**90])
    assert ledger.structs(balances) == [ledger.AccountBalance(credits_posted=2**90)]


def test_what_is_no_record_is_refused():
    for wrong in ([1], np.zeros(2), np.zeros(1, ledger.ACCOUNT_FILTER), None):
        with pytest.raises(ValueError, match="is no array of records"):
            ledger.structs(wrong)
    for wrong in ([1], np.zeros(2), None, np.zeros((2, 2), ledger.TRANSFER)):
        with pytest.raises(ValueError, match="is no array of records"):
            ledger.columns(wrong)
    for wrong, why in (
        ([], r"structs: an empty list says neither ACCOUNT nor TRANSFER: give numpy\.empty"),
        ([1], r"structs\[0\]: an int, neither an Account nor a Transfer"),
        (None, "structs: a NoneType is no list"),
        (ledger.Account(), r"structs: an Account alone is no list: give \[it\]"),
        (iter([ledger.Account()]), "structs: a list_iterator is no list"),
    ):
        with pytest.raises(ValueError, match=why):
            ledger.rows(wrong)
    with pytest.raises(ValueError, match=r"transfers\[1\]: an Account, not a Transfer"):
        ledger.rows([ledger.Transfer(), ledger.Account()])


@pytest.mark.parametrize(
    "dtype", [ledger.ACCOUNT, ledger.TRANSFER, ledger.ACCOUNT_BALANCE, ledger.CREATE_RESULT]
)
def test_columns_are_every_field_but_reserved_each_as_asked(dtype):
    rows = np.zeros(3, dtype)
    columns = ledger.columns(rows)
    assert list(columns) == [name for name in dtype.names if name != "reserved"]
    wide = {name for name in columns if dtype[name].subdtype}
    for name, column in columns.items():
        assert column.shape == (3,)
        assert column.dtype == (object if name in wide else dtype[name])
        assert set(map(type, column.tolist())) == {int}
    texts = ledger.columns(rows, str)
    assert all(texts[name].tolist() == ["0"] * 3 for name in wide)


def test_one_field_may_be_of_another_kind():
    rows = ledger.rows([ledger.Transfer(id=uuid.UUID(int=9).int, amount=1234)])
    columns = ledger.columns(rows, str, id=lambda n: uuid.UUID(int=n),
                             amount=lambda n: ledger.decimal(n, 2))  # fmt: skip
    assert columns["id"].tolist() == [uuid.UUID(int=9)]
    assert columns["amount"].tolist() == [Decimal("12.34")]
    assert columns["pending_id"].tolist() == ["0"]
    for name in ("reserved", "code", "amounts"):
        with pytest.raises(ValueError, match=f"{name}: no 128-bit field"):
            ledger.columns(rows, **{name: str})


def test_columns_of_numbers_compute_exactly():
    rows = ledger.rows(
        [ledger.Account(id=1, debits_posted=2**70, credits_posted=2**100)] * 2
    )
    columns = ledger.columns(rows)
    balances = columns["credits_posted"] - columns["debits_posted"]
    assert balances.tolist() == [2**100 - 2**70] * 2
    assert balances.sum() == 2 * (2**100 - 2**70)


@given(st.integers(0, U128_MAX), st.integers(0, 18))
def test_an_amount_with_decimals_is_its_units(number, scale):
    amount = ledger.decimal(number, scale)
    assert ledger.units(amount, scale) == number
    assert ledger.units(str(amount), scale) == number
    assert ledger.decimal(-number, scale) == amount.copy_negate()


@pytest.mark.parametrize(
    ("amount", "scale", "units"),
    [("12.34", 2, 1234), ("12.3", 2, 1230), (12, 2, 1200), ("1e3", 0, 1000), ("0", 9, 0)],
)
def test_units(amount, scale, units):
    assert ledger.units(amount, scale) == units


@pytest.mark.parametrize(
    ("amount", "why"),
    [
        ("12.345", "is no whole number at 2 decimals"),
        (Decimal("0.001"), "is no whole number at 2 decimals"),
        ("twelve", "is no whole number at 2 decimals"),
        ("NaN", "is no whole number at 2 decimals"),
        ("Infinity", "is no whole number at 2 decimals"),
        (Decimal("sNaN"), "is no whole number at 2 decimals"),
        (12.34, "is a float: give a Decimal or text"),
        (True, "is a bool"),
        (None, "is a NoneType"),
        ("-1", "amount: -100 is not within"),
        ("1e60", "amount: .* is not within"),
    ],
)
def test_what_is_no_amount_is_refused(amount, why):
    with pytest.raises(ValueError, match=why):
        ledger.units(amount, 2)


@pytest.mark.parametrize("scale", [-1, 32, "2", 2.0, None])
def test_what_is_no_scale_is_refused(scale):
    for function in (ledger.units, ledger.decimal):
        with pytest.raises(ValueError, match=r"scale: .* is not "):
            function(1, scale)


def test_hints_lead_from_a_uuid_and_a_decimal_to_a_number():
    for value, hint in ((uuid.UUID(int=5), "give its .int"), (Decimal(5), "ledger.units")):
        with pytest.raises(ValueError, match=hint):
            schema.pack_transfers([ledger.Transfer(amount=value)])


def test_hints_at_amounts_are_for_amounts():
    for wrong in (1.5, Decimal(5)):
        with pytest.raises(ValueError, match=r"transfers\[0\]\.amount: .*ledger\.units"):
            schema.pack_transfers([ledger.Transfer(amount=wrong)])
        for function, value in (
            (ledger.ids, wrong),
            (schema.pack_transfers, [ledger.Transfer(code=wrong)]),
            (schema.pack_account_filters, [ledger.AccountFilter(timestamp_min=wrong)]),
        ):
            with pytest.raises(ValueError, match="is not an integer") as raised:
                function(value)
            assert "units" not in str(raised.value) and "amount" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^filter\.timestamp_max: "):
        schema.pack_query_filters([ledger.QueryFilter(timestamp_max=0.5)])


def test_limbs_name_their_values():
    with pytest.raises(ValueError, match=r"^values\[1\]: "):
        ledger.limbs([1, 2**128])


def test_a_decimal_is_of_a_whole_number():
    row = ledger.rows([ledger.Transfer(amount=5)])[0]
    with pytest.raises(ValueError, match=r"number: .*ledger\.int_of"):
        ledger.decimal(row["amount"], 2)
    for wrong in (1.5, "5", None):
        with pytest.raises(ValueError, match=r"number: .* is no whole number of units"):
            ledger.decimal(wrong, 2)
    assert ledger.decimal(ledger.int_of(row["amount"]), 2) == Decimal("0.05")
