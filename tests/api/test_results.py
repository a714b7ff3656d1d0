"""Results: no refusal is overlooked by who asks for an error, and each can be read."""

from __future__ import annotations

import numpy as np
import pytest

import ledger
from ledger import AccountStatus, TransferStatus
from tests.support.book_calls import account, pay


@pytest.fixture
def book():
    with ledger.open_temporary() as book:
        book.create_accounts([account(1), account(2)])
        yield book


def test_what_is_created_or_sent_again_is_no_refusal(book):
    payments = [pay(10), pay(11)]
    for _ in range(2):
        results = book.create_transfers(payments)
        ledger.raise_for_status(results, payments)
        assert ledger.refusals(results, payments) == []
    ledger.raise_for_status(book.create_accounts([account(1)]), [account(1)])
    ledger.raise_for_status(book.create_many([]), [])


def test_a_refusal_is_an_error_that_names_it(book):
    payments = [pay(10), pay(11, credit_account_id=3), pay(12), pay(2**100, amount=0, code=0)]
    for records in (payments, ledger.rows(payments)):
        results = book.create_transfers(records)
        with pytest.raises(ledger.NotCreated) as raised:
            ledger.raise_for_status(results, records)
        assert [(one.index, one.id) for one in raised.value.refusals] == [(1, 11), (3, 2**100)]
        assert raised.value.refusals[1].status is TransferStatus.CODE_MUST_NOT_BE_ZERO
        assert str(raised.value).startswith("2 of 4 events were not created: [1] id 11: ")
    with pytest.raises(ledger.NotCreated, match="EXISTS_WITH_DIFFERENT_AMOUNT"):
        ledger.raise_for_status(book.create_transfers([pay(10, amount=9)]), [pay(10, amount=9)])


def test_accounts_have_numbers_of_their_own(book):
    """Of an account 21 is `exists`, of a transfer `debit_account_not_found`."""
    results = np.zeros(1, ledger.CREATE_RESULT)
    results["status"] = 21
    assert ledger.refusals(results, account(1)) == []
    [refusal] = ledger.refusals(results, pay(1))
    assert refusal.status is TransferStatus.DEBIT_ACCOUNT_NOT_FOUND
    wrong = account(5, ledger=0)
    with pytest.raises(ledger.NotCreated, match="LEDGER_MUST_NOT_BE_ZERO") as raised:
        ledger.raise_for_status(book.create_accounts([wrong]), [wrong])
    assert raised.value.refusals[0].status is AccountStatus.LEDGER_MUST_NOT_BE_ZERO


def test_a_chain_sent_again_raises_as_the_docs_say(book):
    chain = [pay(20, flags=ledger.TransferFlags.LINKED), pay(21)]
    ledger.raise_for_status(book.create_transfers(chain), chain)
    again = book.create_transfers(chain)
    names = [TransferStatus(status).name for status in again["status"].tolist()]
    assert names == ["EXISTS", "LINKED_EVENT_FAILED"]
    with pytest.raises(ledger.NotCreated, match=r"\[1\] id 21: LINKED_EVENT_FAILED"):
        ledger.raise_for_status(again, chain)
    assert len(book.lookup_transfers([20, 21])) == 2


@pytest.mark.parametrize(
    ("results", "records", "why"),
    [
        (np.zeros(2, ledger.CREATE_RESULT), [pay(1)], "2 results are not of 1 records"),
        ([1], [pay(1)], "results: a list is no array of CREATE_RESULT"),
        (np.zeros(1, ledger.TRANSFER), [pay(1)], "is no array of CREATE_RESULT"),
        (np.zeros(1, ledger.CREATE_RESULT), b"x" * 128, "neither accounts nor transfers"),
    ],
)
def test_what_does_not_belong_together_is_refused(results, records, why):
    with pytest.raises(ValueError, match=why):
        ledger.raise_for_status(results, records)


def test_results_and_records_are_told_in_words(book):
    payments = [pay(10), pay(11, credit_account_id=3)]
    results = book.create_transfers(payments)
    assert ledger.describe(results, payments) == (
        "[0] id 10: CREATED\n[1] id 11: CREDIT_ACCOUNT_NOT_FOUND"
    )
    assert ledger.describe(results) == (
        "[0] CREATED\n"
        "[1] of an account IMPORTED_EVENT_EXPECTED, of a transfer CREDIT_ACCOUNT_NOT_FOUND"
    )
    told = ledger.describe(book.lookup_accounts([1]))
    assert told.startswith("[0] id 1, debits_posted 10, ledger 1, code 1, timestamp 1")
    flagged = ledger.rows([pay(1, flags=ledger.TransferFlags.PENDING | 1)])
    assert ", flags LINKED|PENDING" in ledger.describe(flagged)


def test_a_long_answer_is_told_in_short(book):
    payments = ledger.rows([pay(id) for id in range(100, 125)])
    results = book.create_transfers(payments)
    for told in (ledger.describe(results, payments), ledger.describe(payments)):
        assert len(told.splitlines()) == 21
        assert told.endswith("\nand 5 more")


def test_structs_are_described_as_arrays_are(book):
    payments = [pay(10), pay(11)]
    assert ledger.describe(payments) == ledger.describe(ledger.rows(payments))
    for wrong, why in (([1], "rows: an int is no record"), (pay(1), "rows: a Transfer is no")):
        with pytest.raises(ValueError, match=why):
            ledger.describe(wrong)
    with pytest.raises(ValueError, match="results: a list is no array of CREATE_RESULT"):
        ledger.describe(payments, payments)


def test_a_generator_is_said_to_be_one(book):
    payments = [pay(10)]
    results = book.create_transfers(payments)
    with pytest.raises(ValueError, match="a generator is no array or list"):
        ledger.raise_for_status(results, (one for one in payments))
