"""The oracle on trial: the trickiest rules of the specification, as tables in the field's words.

What lives here: small ledgers whose every answer can be checked by hand, and one run of the
generator that shows every status is reached and the books balance all along.

What it must not know: the package. What these tests accept, the package is then held to.
"""

import itertools

import pytest

from chaos.generate import Generator
from chaos.model import (
    EXPIRIES_PER_STEP,
    NS_PER_S,
    TIMESTAMP_MAX,
    U128_MAX,
    Account,
    AccountBalance,
    AccountFilter,
    AccountFlag,
    AccountStatus,
    Id,
    Model,
    Operation,
    QueryFilter,
    Result,
    Transfer,
    TransferFlag,
    TransferStatus,
    decode_all,
    encode,
)

A, F = AccountFlag, TransferFlag
CREATED = "created"
NOW = 1000 * NS_PER_S


class Book:
    """A model with accounts 1 to 4 in ledger 1 and account 9 in ledger 2, driven by names."""

    def __init__(self, **flags_of: int) -> None:
        self.model = Model()
        self.now = NOW
        flags = {int(name[1:]): flag for name, flag in flags_of.items()}
        accounts = [account(n, flags=flags.get(n, 0)) for n in (1, 2, 3, 4)]
        assert self.accounts(*accounts, account(9, ledger=2)) == [CREATED] * 5

    def run(self, operation: Operation, *batches: list) -> list[list[Result]]:
        encoded = [b"".join(map(encode, batch)) for batch in batches]
        self.timestamp, replies = self.model.execute(operation, encoded, self.now)
        self.model.check()
        return [decode_all(Result, reply) for reply in replies]

    def accounts(self, *events: Account) -> list[str]:
        self.results = self.run(Operation.create_accounts, list(events))[0]
        return [AccountStatus(result.status).name for result in self.results]

    def transfers(self, *events: Transfer) -> list[str]:
        self.results = self.run(Operation.create_transfers, list(events))[0]
        return [TransferStatus(result.status).name for result in self.results]

    def fund(self, id: int, amount: int) -> None:
        """Credit the account; the transfer's id is out of the way of the others."""
        source = 4 if id != 4 else 3
        t = pay(10**6 + id, debit_account_id=source, credit_account_id=id, amount=amount)
        assert self.transfers(t) == [CREATED]

    def balances(self, id: int) -> tuple[int, ...]:
        return self.model.accounts[id][1:5]

    def closed(self, id: int) -> bool:
        return bool(self.model.accounts[id].flags & A.closed)

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * NS_PER_S)

    def read(self, operation: Operation, kind, request) -> list:
        _, replies = self.model.execute(operation, [encode(request)], self.now)
        return decode_all(kind, replies[0])


def account(id: int, **fields) -> Account:
    return Account(**{"id": id, "ledger": 1, "code": 1} | fields)


def pay(id: int, **fields) -> Transfer:
    common = {"debit_account_id": 1, "credit_account_id": 2, "amount": 10, "ledger": 1, "code": 1}
    return Transfer(**{"id": id} | common | fields)


def hold(id: int, **fields) -> Transfer:
    return pay(id, **{"flags": F.pending} | fields)


def post(id: int, pending_id: int, amount: int = U128_MAX, **fields) -> Transfer:
    return Transfer(**{"id": id, "pending_id": pending_id, "amount": amount, "flags": 4} | fields)


def void(id: int, pending_id: int, amount: int = 0, **fields) -> Transfer:
    return Transfer(**{"id": id, "pending_id": pending_id, "amount": amount, "flags": 8} | fields)


def linked(event):
    return event._replace(flags=event.flags | 1)


def imported(event, timestamp: int):
    flag = A.imported if isinstance(event, Account) else F.imported
    return event._replace(flags=event.flags | flag, timestamp=timestamp)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (account(0, reserved=1, flags=64), "reserved_field"),
        (account(0, flags=64), "reserved_flag"),
        (account(0, flags=6, ledger=0), "id_must_not_be_zero"),
        (account(1, flags=6, ledger=0), "exists_with_different_flags"),
        (account(1, debits_posted=7), "exists"),
        (account(7, flags=6, debits_pending=1), "flags_are_mutually_exclusive"),
        (account(7, credits_posted=1, ledger=0), "credits_posted_must_be_zero"),
        (account(7, ledger=0, code=0), "ledger_must_not_be_zero"),
        (account(7, timestamp=1, reserved=1), "timestamp_must_be_zero"),
        (imported(account(7), 0), "imported_event_timestamp_out_of_range"),
        (imported(account(7), NOW + 7), "imported_event_timestamp_must_not_advance"),
        (imported(account(7, code=0), 1), "code_must_not_be_zero"),
        (imported(account(7), 1), "imported_event_timestamp_must_not_regress"),
        (account(7, flags=A.closed), CREATED),
    ],
)
def test_an_account_is_refused_for_the_first_rule_it_breaks(event, status):
    assert Book().accounts(event) == [status]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (pay(0, flags=512, timestamp=1), "timestamp_must_be_zero"),
        (pay(0, flags=512), "reserved_flag"),
        (pay(0, flags=4, pending_id=0), "id_must_not_be_zero"),
        (pay(5, flags=4 | 2), "flags_are_mutually_exclusive"),
        (pay(5, debit_account_id=0, credit_account_id=0), "debit_account_id_must_not_be_zero"),
        (pay(5, credit_account_id=1, pending_id=1), "accounts_must_be_different"),
        (pay(5, pending_id=5, timeout=1), "pending_id_must_be_zero"),
        (pay(5, timeout=1, flags=F.closing_debit), "timeout_reserved_for_pending_transfer"),
        (pay(5, flags=F.closing_debit, ledger=0), "closing_transfer_must_be_pending"),
        (pay(5, ledger=0, code=0), "ledger_must_not_be_zero"),
        (pay(5, debit_account_id=77, credit_account_id=78), "debit_account_not_found"),
        (pay(5, credit_account_id=78, ledger=2), "credit_account_not_found"),
        (pay(5, credit_account_id=9, ledger=3), "accounts_must_have_the_same_ledger"),
        (pay(5, ledger=3), "transfer_must_have_the_same_ledger_as_accounts"),
        (pay(5, amount=0), CREATED),
        (post(5, 0, timeout=1), "pending_id_must_not_be_zero"),
        (post(5, 5, timeout=1), "pending_id_must_be_different"),
        (post(5, 6, timeout=1), "timeout_reserved_for_pending_transfer"),
        (post(5, 6), "pending_transfer_not_found"),
    ],
)
def test_a_transfer_is_refused_for_the_first_rule_it_breaks(event, status):
    assert Book().transfers(event) == [status]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (hold(1, amount=2**127), hold(2, amount=2**127), "overflows_debits_pending"),
        (hold(1, amount=2**127, debit_account_id=3), hold(2, amount=2**127),
         "overflows_credits_pending"),
        (pay(1, amount=2**127), pay(2, amount=2**127), "overflows_debits_posted"),
        (pay(1, amount=2**127, debit_account_id=3), hold(2, amount=2**127),
         "overflows_credits_posted"),
        (hold(1, amount=2**127), pay(2, amount=2**127), "overflows_debits"),
        (hold(1, amount=2**127, debit_account_id=3), pay(2, amount=2**127),
         "overflows_credits"),
        (hold(1, amount=2**127), pay(2, amount=2**127 - 1), CREATED),
    ],
)
def test_no_sum_of_an_account_may_pass_128_bits(first, second, status):
    assert Book().transfers(first, second) == [CREATED, status]


def test_a_deadline_may_not_pass_the_end_of_time():
    book = Book()
    book.now = TIMESTAMP_MAX - 2 * NS_PER_S - 1  # the hold is stamped one later
    assert book.transfers(hold(1, timeout=2)) == [CREATED]
    assert book.transfers(hold(2, timeout=2)) == ["overflows_timeout"]


@pytest.mark.parametrize(
    ("again", "status"),
    [
        ({}, "exists"),
        ({"flags": 3, "pending_id": 9}, "linked_event_chain_open"),
        ({"flags": 0, "pending_id": 9}, "exists_with_different_flags"),
        ({"pending_id": 9, "timeout": 9}, "exists_with_different_pending_id"),
        ({"timeout": 9, "debit_account_id": 3}, "exists_with_different_timeout"),
        ({"debit_account_id": 0, "amount": 1}, "exists_with_different_debit_account_id"),
        ({"credit_account_id": 3, "amount": 1}, "exists_with_different_credit_account_id"),
        ({"amount": 11, "user_data_128": 1}, "exists_with_different_amount"),
        ({"user_data_128": 1, "user_data_64": 1}, "exists_with_different_user_data_128"),
        ({"user_data_64": 1, "user_data_32": 1}, "exists_with_different_user_data_64"),
        ({"user_data_32": 1, "ledger": 2}, "exists_with_different_user_data_32"),
        ({"ledger": 0, "code": 2}, "exists_with_different_ledger"),
        ({"code": 0}, "exists_with_different_code"),
    ],
)
def test_a_hold_sent_again_is_compared_field_by_field(again, status):
    book = Book()
    first = hold(1, timeout=60)
    assert book.transfers(first) == [CREATED]
    stored_at = book.results[0].timestamp
    book.wait(1)
    assert book.transfers(first._replace(**again)) == [status]
    assert book.results[0].timestamp == (stored_at if status == "exists" else book.timestamp)


@pytest.mark.parametrize(
    ("settled", "again", "status"),
    [
        (post(2, 1), post(2, 1, 10), "exists"),
        (post(2, 1, 10), post(2, 1), "exists"),
        (post(2, 1, 4), post(2, 1), "exists_with_different_amount"),
        (post(2, 1, 0), post(2, 1, 0), "exists"),
        (void(2, 1), void(2, 1, 10), "exists"),
        (void(2, 1), void(2, 1, 1), "exists_with_different_amount"),
        (post(2, 1), void(2, 1), "exists_with_different_flags"),
        (post(2, 1), post(2, 3, debit_account_id=9), "exists_with_different_pending_id"),
        (post(2, 1), post(2, 1, timeout=1), "exists_with_different_timeout"),
        (post(2, 1), post(2, 1, debit_account_id=1), "exists"),
        (post(2, 1), post(2, 1, debit_account_id=3), "exists_with_different_debit_account_id"),
        (post(2, 1), post(2, 1, credit_account_id=3), "exists_with_different_credit_account_id"),
        (post(2, 1), post(2, 1, user_data_64=64), "exists"),
        (post(2, 1, user_data_64=64), post(2, 1), "exists"),
        (post(2, 1, user_data_64=5), post(2, 1), "exists_with_different_user_data_64"),
        (post(2, 1), post(2, 1, ledger=2), "exists_with_different_ledger"),
        (post(2, 1), post(2, 1, code=2), "exists_with_different_code"),
    ],
)
def test_a_post_sent_again_is_compared_with_what_it_did(settled, again, status):
    book = Book()
    assert book.transfers(hold(1, user_data_64=64), settled) == [CREATED, CREATED]
    assert book.transfers(again) == [status]


def test_a_balancing_transfer_sent_again_may_ask_for_more_but_not_for_less():
    book = Book()
    book.fund(1, 5)
    first = pay(1, flags=F.balancing_debit, amount=8)
    assert book.transfers(first) == [CREATED]
    assert book.model.transfers[1].amount == 5
    again = [first._replace(amount=amount) for amount in (8, 5, 4, U128_MAX)]
    assert book.transfers(*again) == ["exists", "exists", "exists_with_different_amount", "exists"]


def test_an_account_closed_since_has_different_flags():
    book = Book()
    assert book.transfers(hold(1, flags=F.pending | F.closing_debit)) == [CREATED]
    assert book.accounts(account(1)) == ["exists_with_different_flags"]
    assert book.accounts(account(1, flags=A.closed)) == ["exists"]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (pay(5, debit_account_id=77), "debit_account_not_found"),
        (pay(5, credit_account_id=77), "credit_account_not_found"),
        (post(5, 77), "pending_transfer_not_found"),
        (pay(5, debit_account_id=3), "exceeds_credits"),
        (pay(5, credit_account_id=2, debit_account_id=4, amount=99), "exceeds_debits"),
    ],
)
def test_a_transient_failure_burns_its_id(event, status):
    book = Book(_3=A.debits_must_not_exceed_credits, _2=A.credits_must_not_exceed_debits)
    assert book.transfers(event, pay(5)) == [status, "id_already_failed"]
    assert book.model.burned() == {5}
    assert book.transfers(post(6, 5)) == ["pending_transfer_not_found"]


def test_a_chain_that_fails_leaves_nothing_but_the_burned_id_of_its_breaker():
    book = Book()
    before = (book.model.accounts_state(), book.model.open_holds())
    breaker = linked(pay(3, debit_account_id=77))
    assert book.transfers(linked(hold(1, timeout=1)), linked(pay(2)), breaker, pay(4)) == [
        "linked_event_failed", "linked_event_failed", "debit_account_not_found",
        "linked_event_failed",
    ]
    assert [result.timestamp for result in book.results] == list(range(NOW + 7, NOW + 11))
    assert (book.model.accounts_state(), book.model.open_holds()) == before
    assert book.model.burned() == {3}
    again = book.transfers(pay(1), pay(2), pay(3), pay(4))
    assert again == [CREATED, CREATED, "id_already_failed", CREATED]


def test_a_chain_left_open_fails_and_the_next_event_of_a_chain_sees_the_one_before():
    book = Book()
    assert book.transfers(linked(hold(1)), post(2, 1), linked(pay(3)), linked(pay(4))) == [
        CREATED, CREATED, "linked_event_failed", "linked_event_chain_open",
    ]
    broken = [linked(pay(5, ledger=0)), linked(pay(6)), linked(pay(7))]
    assert book.transfers(*broken) == [
        "ledger_must_not_be_zero", "linked_event_failed", "linked_event_chain_open",
    ]


def test_a_chain_does_not_cross_batches():
    book = Book()
    results = book.run(Operation.create_transfers, [linked(pay(1))], [], [pay(2)])
    assert [[r.status for r in batch] for batch in results] == [[2], [], [TransferStatus.created]]
    assert [r.timestamp for batch in results for r in batch] == [book.timestamp - 1, book.timestamp]


def test_a_chain_rolled_back_gives_back_the_highest_timestamps():
    book = Book()
    book.wait(1)
    high, low = NOW + 2000, NOW + 1000
    broken = [linked(imported(account(5), high)), imported(account(6, code=0), high + 1)]
    assert book.accounts(*broken) == ["linked_event_failed", "code_must_not_be_zero"]
    assert book.results[0].timestamp == high
    assert book.accounts(imported(account(5), low)) == [CREATED]


@pytest.mark.parametrize(
    ("event", "status", "debits"),
    [
        (post(2, 1), CREATED, (0, 10)),
        (post(2, 1, 0), CREATED, (0, 0)),
        (post(2, 1, 4), CREATED, (0, 4)),
        (post(2, 1, 11), "exceeds_pending_transfer_amount", (10, 0)),
        (void(2, 1), CREATED, (0, 0)),
        (void(2, 1, 10), CREATED, (0, 0)),
        (void(2, 1, 9), "pending_transfer_has_different_amount", (10, 0)),
        (void(2, 1, U128_MAX), "exceeds_pending_transfer_amount", (10, 0)),
        (post(2, 1, debit_account_id=3, code=9), CREATED, None),
        (post(2, 1, ledger=9, code=9), "pending_transfer_has_different_ledger", (10, 0)),
        (post(2, 1, code=9, amount=99), "pending_transfer_has_different_code", (10, 0)),
    ],
)
def test_a_hold_is_posted_or_voided(event, status, debits):
    book = Book()
    if debits is None:
        status, debits = "pending_transfer_has_different_debit_account_id", (10, 0)
    assert book.transfers(hold(1), event) == [CREATED, status]
    assert book.balances(1)[:2] == debits
    assert book.balances(2)[2:] == debits


def test_a_hold_ends_once():
    book = Book()
    book.transfers(hold(1), hold(2), post(3, 1, 0), void(4, 2), pay(5))
    assert book.transfers(void(6, 1), post(7, 2), post(8, 5), post(9, 3)) == [
        "pending_transfer_already_posted", "pending_transfer_already_voided",
        "pending_transfer_not_pending", "pending_transfer_not_pending",
    ]


def test_a_post_keeps_the_fields_of_its_hold():
    book = Book()
    book.transfers(hold(1, user_data_128=7, user_data_32=8), post(2, 1, user_data_32=9))
    stored = book.model.transfers[2]
    assert stored == pay(
        2, pending_id=1, user_data_128=7, user_data_32=9, flags=4, timestamp=stored.timestamp
    )


def test_a_hold_expires_in_the_order_of_deadlines_then_of_creation():
    book = Book()
    book.transfers(hold(1, timeout=3), hold(2, timeout=1), hold(3, timeout=1), hold(4))
    opened = book.timestamp
    assert book.model.open_holds() == [
        (1, 10, opened - 3 + 3 * NS_PER_S), (2, 10, opened - 2 + NS_PER_S),
        (3, 10, opened - 1 + NS_PER_S), (4, 10, 0),
    ]
    book.wait(10)
    book.read(Operation.lookup_accounts, Account, Id(1))
    assert book.model.expired == [(book.now - 2, 2), (book.now - 1, 3), (book.now, 1)]
    assert book.model.last == book.now
    assert book.balances(1) == (10, 0, 0, 0)
    assert book.transfers(post(5, 1)) == ["pending_transfer_expired"]


def test_a_deadline_counts_at_the_nanosecond_though_the_expiry_has_not_run():
    book = Book()
    book.transfers(hold(1, timeout=1), hold(2, timeout=1))
    deadline = book.timestamp + NS_PER_S  # of hold 2; that of hold 1 is one nanosecond earlier
    book.now = deadline - 3
    # The events are stamped deadline - 2, - 1 and 0: the second and third are too late.
    late = [pay(3), post(4, 1), post(5, 2)]
    assert book.transfers(*late) == [CREATED, *["pending_transfer_expired"] * 2]
    assert book.balances(1) == (20, 10, 0, 0)
    book.read(Operation.lookup_accounts, Account, Id(1))
    assert book.balances(1) == (0, 10, 0, 0)


def test_expiries_run_in_steps_and_carry_a_clock_that_stands_still():
    book = Book()
    count = EXPIRIES_PER_STEP + 1
    book.transfers(*(hold(n + 1, timeout=1, amount=1) for n in range(count)))
    book.wait(2)
    book.read(Operation.lookup_accounts, Account, Id(1))
    stamps = [timestamp for timestamp, _ in book.model.expired]
    first_step = range(book.now - EXPIRIES_PER_STEP + 1, book.now + 1)
    assert stamps == [*first_step, book.now + 1]
    assert book.model.last == book.now + 1


def test_a_read_does_not_advance_the_clock_and_an_empty_create_does():
    book = Book()
    before = book.timestamp
    book.wait(5)
    assert book.model.execute(Operation.lookup_accounts, [b""], book.now) == (before, [b""])
    two_empty = [b"", b""]
    answer = book.model.execute(Operation.create_transfers, two_empty, book.now)
    assert answer == (book.now, two_empty)
    assert book.model.execute(Operation.create_transfers, [b""], 0) == (book.now + 1, [b""])


def test_a_closed_account_takes_no_transfer_but_the_void_that_reopens_it():
    book = Book()
    book.transfers(hold(8, debit_account_id=3), hold(1, flags=F.pending | 64 | 128))
    assert book.closed(1) and book.closed(2)
    assert book.transfers(
        pay(2), pay(3, debit_account_id=3), post(4, 1), post(5, 8), void(6, 8), void(7, 1)
    ) == [
        "debit_account_already_closed", "credit_account_already_closed",
        "debit_account_already_closed", "credit_account_already_closed", CREATED, CREATED,
    ]
    assert not book.closed(1) and not book.closed(2)


def test_a_closing_hold_that_expires_reopens_the_account():
    book = Book()
    book.transfers(hold(1, flags=F.pending | F.closing_credit, timeout=1, amount=0))
    assert book.closed(2) and not book.closed(1)
    book.wait(2)
    assert book.transfers(pay(2)) == [CREATED]
    assert not book.closed(2)


def test_a_limit_counts_what_is_pending():
    book = Book(_1=A.debits_must_not_exceed_credits, _2=A.credits_must_not_exceed_debits)
    book.fund(1, 10)
    assert book.transfers(hold(1, credit_account_id=3, amount=6)) == [CREATED]
    assert book.transfers(pay(2, credit_account_id=3, amount=5)) == ["exceeds_credits"]
    assert book.transfers(pay(3, credit_account_id=2, amount=4)) == ["exceeds_debits"]
    assert book.transfers(pay(4, debit_account_id=2, credit_account_id=3)) == [CREATED]
    assert book.transfers(pay(5, credit_account_id=2, amount=4)) == [CREATED]


@pytest.mark.parametrize(
    ("flags", "amount", "moved"),
    [
        (F.balancing_debit, U128_MAX, 30),
        (F.balancing_debit, 7, 7),
        (F.balancing_debit, 0, 0),
        (F.balancing_credit, U128_MAX, 20),
        (F.balancing_debit | F.balancing_credit, U128_MAX, 20),
        (F.balancing_debit | F.pending, U128_MAX, 30),
        (0, 40, 40),
    ],
)
def test_a_balancing_transfer_moves_at_most_what_balances(flags, amount, moved):
    book = Book()
    book.fund(1, 35)
    spend = pay(2, debit_account_id=2, credit_account_id=3, amount=20)
    book.transfers(hold(1, credit_account_id=3, amount=5), spend)
    assert book.transfers(pay(4, flags=flags, amount=amount)) == [CREATED]
    assert book.model.transfers[4].amount == moved
    assert book.transfers(pay(5, flags=16, debit_account_id=3)) == [CREATED]


def test_an_import_keeps_its_timestamp_and_the_order_of_its_kind():
    book = Book()
    opened = book.timestamp
    book.wait(1)
    at = [opened + n for n in range(1, 9)]
    assert book.accounts(imported(account(5), at[0]), imported(account(6), at[3])) == [CREATED] * 2
    five = {"debit_account_id": 1, "credit_account_id": 5}
    six = {"debit_account_id": 6, "credit_account_id": 1}
    assert book.transfers(
        imported(pay(1, **five), at[0]),
        imported(pay(2, **five), opened),
        imported(pay(3, **six), at[2]),
        imported(pay(4, **six, flags=F.pending, timeout=1), at[4]),
        imported(pay(5, **six), at[4]),
        imported(pay(6, **five), at[4]),
        pay(7),
        imported(pay(8), book.now + 8),
        imported(pay(9), TIMESTAMP_MAX + 1),
    ) == [
        "imported_event_timestamp_must_not_regress", "imported_event_timestamp_must_not_regress",
        "imported_event_timestamp_must_postdate_debit_account",
        "imported_event_timeout_must_be_zero", CREATED, "imported_event_timestamp_must_not_regress",
        "imported_event_expected", CREATED, "imported_event_timestamp_out_of_range",
    ]
    assert [r.timestamp for r in book.results[4:6]] == [at[4], book.timestamp - 3]
    mixed = book.transfers(pay(9), imported(pay(10), 1))
    assert mixed == [CREATED, "imported_event_not_expected"]
    # An account may not take the timestamp of a transfer either.
    taken = imported(account(7), book.model.transfers[9].timestamp)
    assert book.accounts(taken) == ["imported_event_timestamp_must_not_regress"]


def test_an_imported_post_of_a_hold_with_a_timeout_ends_its_deadline():
    book = Book()
    book.transfers(hold(1, timeout=5))
    between = book.timestamp + 1
    book.wait(1)
    assert book.transfers(imported(post(2, 1), between)) == [CREATED]
    assert book.model.transfers[2].timestamp == between
    book.wait(9)
    assert book.transfers(pay(3)) == [CREATED]
    assert book.model.expired == []
    assert book.balances(1) == (0, 20, 0, 0)


def test_a_history_has_one_row_for_each_transfer_and_none_for_an_expiry():
    book = Book(_1=A.history)
    book.transfers(hold(1, timeout=1), pay(2, amount=3))
    first = book.timestamp
    book.wait(2)
    book.transfers(pay(3, amount=4, debit_account_id=2, credit_account_id=1))
    wanted = AccountFilter(account_id=1, limit=10, flags=7)
    assert book.read(Operation.get_account_balances, AccountBalance, wanted) == [
        AccountBalance(0, 3, 0, 4, book.timestamp),
        AccountBalance(10, 3, 0, 0, first),
        AccountBalance(10, 0, 0, 0, first - 1),
    ]
    without_history = wanted._replace(account_id=2)
    assert book.read(Operation.get_account_balances, AccountBalance, without_history) == []


@pytest.mark.parametrize(
    ("changed", "ids"),
    [
        ({}, [1, 2, 3]),
        ({"flags": 1}, [1, 2]),
        ({"flags": 6, "limit": 1}, [3]),
        ({"flags": 0}, []),
        ({"flags": 8 | 3}, []),
        ({"limit": 0}, []),
        ({"account_id": 0}, []),
        ({"reserved": 1}, []),
        ({"code": 2, "user_data_64": 5}, [2]),
        ({"timestamp_min": NOW + 8}, [2, 3]),
        ({"timestamp_max": NOW + 8}, [1, 2]),
        ({"timestamp_min": NOW + 9, "timestamp_max": NOW + 8}, []),
        ({"timestamp_max": TIMESTAMP_MAX + 1}, []),
    ],
)
def test_the_transfers_of_an_account_are_selected_by_every_field(changed, ids):
    book = Book()
    back = {"debit_account_id": 2, "credit_account_id": 1}
    book.transfers(pay(1, code=2), pay(2, code=2, user_data_64=5), pay(3, **back))
    wanted = AccountFilter(account_id=1, limit=10, flags=3)._replace(**changed)
    found = book.read(Operation.get_account_transfers, Transfer, wanted)
    assert [transfer.id for transfer in found] == ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (QueryFilter(limit=10), [1, 2, 3, 4, 9]),
        (QueryFilter(limit=2, flags=1), [9, 4]),
        (QueryFilter(limit=10, ledger=2), [9]),
        (QueryFilter(limit=10, ledger=2, code=2), []),
        (QueryFilter(limit=10, flags=2), []),
    ],
)
def test_accounts_are_queried_by_every_field(wanted, ids):
    found = Book().read(Operation.query_accounts, Account, wanted)
    assert [found_account.id for found_account in found] == ids


def test_the_generator_reaches_every_status_and_the_books_always_balance():
    reached = {Operation.create_accounts: set(), Operation.create_transfers: set()}
    expiries = 0
    for seed in range(400):
        model = Model()
        for operation, batches, now in itertools.islice(Generator(seed), 60):
            timestamp, replies = model.execute(operation, batches, now)
            assert timestamp == model.last
            assert len(replies) == len(batches)
            for results in replies if operation in reached else ():
                reached[operation] |= {r.status for r in decode_all(Result, results)}
            model.check()
        expiries += len(model.expired)
    assert reached[Operation.create_accounts] == set(AccountStatus)
    assert reached[Operation.create_transfers] == set(TransferStatus)
    assert len(AccountStatus) == 27 and len(TransferStatus) == 68
    assert expiries > 100


def test_a_seed_is_the_same_conversation_twice():
    first, second = (list(itertools.islice(Generator(7), 50)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(Generator(8), 50))
