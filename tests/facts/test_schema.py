"""The view: equal to the official client's numbers and layouts, exact in both directions, fresh."""

import ctypes
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tigerbeetle import bindings as official

from ledger.facts import _facts, schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schema.AccountFlags, official.AccountFlags),
        (schema.TransferFlags, official.TransferFlags),
        (schema.AccountFilterFlags, official.AccountFilterFlags),
        (schema.QueryFilterFlags, official.QueryFilterFlags),
        (schema.AccountStatus, official.CreateAccountStatus),
        (schema.TransferStatus, official.CreateTransferStatus),
    ],
)
def test_numbers_are_the_official_clients(ours, theirs):
    named = {name: int(value) for name, value in theirs.__members__.items()}
    assert {name: int(value) for name, value in ours.__members__.items()} == named
    assert list(ours.__members__) == list(named), "in the order of precedence"


def test_operations_are_the_official_clients_less_what_clients_do_not_send():
    ours = {name: int(value) for name, value in schema.Operation.__members__.items()}
    theirs = {name: int(value) for name, value in official.Operation.__members__.items()}
    assert ours.pop("REGISTER") == 2
    assert theirs.items() - ours.items() == {("PULSE", 128), ("GET_CHANGE_EVENTS", 137)}
    assert not ours.items() - theirs.items()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schema.ACCOUNT, official.CAccount),
        (schema.TRANSFER, official.CTransfer),
        (schema.CREATE_RESULT, official.CCreateAccountResult),
        (schema.CREATE_RESULT, official.CCreateTransferResult),
        (schema.ACCOUNT_FILTER, official.CAccountFilter),
        (schema.QUERY_FILTER, official.CQueryFilter),
        (schema.ACCOUNT_BALANCE, official.CAccountBalance),
    ],
)
def test_layouts_are_the_official_clients(ours, theirs):
    assert ours.itemsize == ctypes.sizeof(theirs)
    layout = [(name, getattr(theirs, name)) for name, *_ in theirs._fields_]
    assert list(ours.names) == [name for name, _ in layout]
    for name, member in layout:
        dtype, offset = ours.fields[name][:2]
        assert (offset, dtype.itemsize) == (member.offset, member.size), name


def test_transient_statuses_are_the_seven_that_burn_an_id():
    assert {int(status) for status in schema.TRANSIENT} == {21, 22, 25, 54, 55, 65, 66}


def test_every_record_has_a_name_and_no_padding():
    for name, (size, fields, doc) in _facts.layout().items():
        dtype = schema.RECORDS[name]
        assert doc
        assert dtype.itemsize == size == sum(dtype[field[0]].itemsize for field in fields)
        if not name.startswith("frame_"):
            assert getattr(schema, name.upper()) == dtype


def test_every_operation_has_a_shape():
    assert set(schema.SHAPES) == set(schema.Operation) - {schema.Operation.REGISTER}
    create = schema.SHAPES[schema.Operation.CREATE_TRANSFERS]
    assert create == (schema.TRANSFER, schema.CREATE_RESULT, False, True)
    lookup = schema.SHAPES[schema.Operation.LOOKUP_ACCOUNTS]
    assert lookup == (schema.ID, schema.ACCOUNT, False, False)
    query = schema.SHAPES[schema.Operation.QUERY_TRANSFERS]
    assert query == (schema.QUERY_FILTER, schema.TRANSFER, True, False)


def test_the_stub_is_fresh():
    render = runpy.run_path(str(ROOT / "tools" / "stubs.py"))["render"]
    fresh = render() == (ROOT / "ledger" / "facts" / "schema.pyi").read_text()
    assert fresh, "run python tools/stubs.py"


U128 = st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 1])


@given(U128)
def test_u128_round_trip(value):
    low, high = schema.u128(value)
    assert max(low, high) < 2**64
    assert schema.int_of((low, high)) == value
    assert schema.int_of(np.array([low, high], "<u8")) == value


@pytest.mark.parametrize("value", [-1, 2**128])
def test_u128_refuses_what_does_not_fit(value):
    with pytest.raises(ValueError, match="is not within"):
        schema.u128(value)


KINDS = [
    ("account", schema.Account, schema.pack_accounts, schema.unpack_accounts, official.CAccount),
    (
        "transfer",
        schema.Transfer,
        schema.pack_transfers,
        schema.unpack_transfers,
        official.CTransfer,
    ),
]


def values_of(record: str) -> st.SearchStrategy:
    fields = [field for field in _facts.layout()[record][1] if field[0] != "reserved"]
    wide = {name: st.integers(0, 2 ** (8 * size) - 1) for name, _, _, _, size, _ in fields}
    return st.fixed_dictionaries(wide)


@pytest.mark.parametrize(("record", "struct", "pack", "unpack", "theirs"), KINDS)
@given(data=st.data())
def test_pack_is_the_official_clients_bytes_and_unpack_undoes_it(
    record, struct, pack, unpack, theirs, data
):
    values = data.draw(st.lists(values_of(record), max_size=4))
    things = [struct(**value) for value in values]
    rows = pack(things)
    mirror = getattr(official, struct.__name__)
    expected = [bytes(theirs.from_param(mirror(**value))) for value in values]
    assert rows.tobytes() == b"".join(expected)
    assert unpack(rows) == things


FILTERS = [
    ("account_filter", schema.AccountFilter, schema.pack_account_filters, official.CAccountFilter),
    ("query_filter", schema.QueryFilter, schema.pack_query_filters, official.CQueryFilter),
]


@pytest.mark.parametrize(("record", "struct", "pack", "theirs"), FILTERS)
@given(data=st.data())
def test_filters_are_the_official_clients_bytes(record, struct, pack, theirs, data):
    value = data.draw(values_of(record))
    mirror = getattr(official, struct.__name__)
    assert pack([struct(**value)]).tobytes() == bytes(theirs.from_param(mirror(**value)))


def test_ids_pack_to_sixteen_bytes_each():
    assert schema.pack_ids([1, 2**64, 2**128 - 1]).tobytes() == b"".join(
        value.to_bytes(16, "little") for value in (1, 2**64, 2**128 - 1)
    )
    with pytest.raises(ValueError, match=r"ids\[1\]: -1 is not within"):
        schema.pack_ids([1, -1])


@pytest.mark.parametrize(
    ("field", "value", "bits"),
    [
        ("id", -1, 128),
        ("id", 2**128, 128),
        ("amount", 1.5, 128),
        ("timestamp", 2**64, 64),
        ("timeout", 2**32, 32),
        ("code", 2**16, 16),
        ("code", "7", 16),
        ("ledger", None, 32),
    ],
)
def test_a_value_that_does_not_fit_is_named(field, value, bits):
    transfers = [schema.Transfer(), schema.Transfer(**{field: value})]
    with pytest.raises(ValueError, match=rf"transfers\[1\]\.{field}: .* 0 \.\. 2\^{bits}-1"):
        schema.pack_transfers(transfers)


def test_results_and_balances_unpack():
    results = np.zeros(2, schema.CREATE_RESULT)
    results["timestamp"] = [7, 8]
    results["status"] = [schema.TransferStatus.CREATED, schema.TransferStatus.EXISTS]
    first, second = schema.unpack_create_results(results)
    assert (first.timestamp, first.status) == (7, 0xFFFFFFFF)
    assert schema.TransferStatus(second.status) is schema.TransferStatus.EXISTS
    balances = np.zeros(1, schema.ACCOUNT_BALANCE)
    balances["credits_posted"][0] = schema.u128(2**100)
    assert schema.unpack_account_balances(balances) == [
        schema.AccountBalance(credits_posted=2**100)
    ]


def test_flags_come_back_as_flags():
    rows = schema.pack_accounts([schema.Account(flags=schema.AccountFlags.HISTORY)])
    assert schema.unpack_accounts(rows)[0].flags is schema.AccountFlags.HISTORY


def test_rows_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="are no account records"):
        schema.unpack_accounts(np.zeros(1, schema.TRANSFER))
