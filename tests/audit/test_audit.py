"""The audit: agrees with the core on whatever the core writes, and names the record that lies."""

import random

import numpy as np
import pytest

from ledger.audit.audit import Audit
from ledger.facts.schema import AccountFlags, HoldOutcome, JournalKind, TransferFlags
from ledger.journal.body import DTYPES, Wrong
from tests.oracles.audit_oracle import BALANCES, Oracle
from tests.support import books

K = JournalKind
A, F = AccountFlags, TransferFlags
BOTH = int(A.DEBITS_MUST_NOT_EXCEED_CREDITS | A.CREDITS_MUST_NOT_EXCEED_DEBITS)
ZERO, MAX = (0, 0), (2**64 - 1, 2**64 - 1)


KEY = b"0123456789abcdef"


def audited(groups: books.Groups, together: bool = True) -> Audit:
    audit = Audit(KEY)
    found = list(books.headers(groups))
    if together:
        audit.take([header for header, _ in found], np.concatenate([body for _, body in found]))
        return audit
    for header, body in found:
        if not audit.take([header], body):
            break
    return audit


def replayed(groups: books.Groups):
    driver = books.Driver()
    for header, body in books.headers(groups):
        driver.core.replay(body, *header[1:4], *header[5:7])
    return driver.core


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("together", [True, False])
def test_it_agrees_with_the_core(seed, together):
    groups = books.generated(seed, 120, 50)
    audit, core = audited(groups, together), replayed(groups)
    assert audit.wrong is None
    assert audit.accounts().tobytes() == core.accounts()
    assert np.array_equal(audit.open_holds(), core.open_holds())
    counts = core.counts_by_kind
    assert audit.counts[K.TRANSFER] == counts["transfers"]
    assert audit.counts[K.BURNED_ID] == counts["burned_ids"]


def numbers(record: np.void) -> dict[str, int]:
    return {
        name: int(record[name][0]) | int(record[name][1]) << 64
        if np.ndim(record[name])
        else int(record[name])
        for name in record.dtype.names
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("records", [20, 1000])
def test_it_adds_up_what_plain_python_does(seed, records):
    groups = books.generated(seed, 80, records)
    audit, oracle = audited(groups), Oracle(books.headers(groups))
    assert (audit.wrong, oracle.wrong) == (None, None)
    assert audit.counts == {kind: oracle.counts[kind] for kind in K}
    for found, account in zip(audit.accounts(), oracle.accounts.values(), strict=True):
        closed = int(A.CLOSED) if oracle.closings[account["id"]] else 0
        assert numbers(found) == {**account, "flags": account["flags"] | closed}
    assert audit.open_holds().tolist() == oracle.open_holds()
    assert audit.repeated(lambda: books.headers(groups), 2**63) is None
    assert oracle.repeated(2**63) is None
    for total, (ledger, expected) in zip(
        audit.totals(), sorted(oracle.totals.items()), strict=True
    ):
        assert total.ledger == ledger
        for name in ("accounts", "held", "captured", "released"):
            assert getattr(total, name) == expected[name]
        for name in BALANCES:
            mine = [one[name] for one in oracle.accounts.values() if one["ledger"] == ledger]
            assert getattr(total, name) == sum(mine)
        assert total.open == sum(h.amount for h in oracle.open.values() if h.ledger == ledger)


BASES = [books.paid(12, 30), books.paid(8), *(books.generated(s, 60, 50) for s in range(1, 5))]


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_plain_python_finds_in_an_altered_record(seed):
    """One field of one record is another: the first fault is the same, or there is none."""
    chosen = random.Random(seed)
    found = 0
    for _ in range(25):
        groups = chosen.choice(BASES)
        kind = chosen.choice([kind for kind in K if books.places(groups, kind)])
        places = books.places(groups, kind)
        which, other = chosen.randrange(len(places)), chosen.choice(places)
        name = chosen.choice(DTYPES[kind].names)
        index, offset, _ = places[which] if chosen.random() < 0.6 else other
        record = np.frombuffer(bytearray(groups[index][1]), DTYPES[kind], 1, offset)[name]
        raw = record.reshape(-1).view(np.uint8)
        if index == places[which][0] and offset == places[which][1]:
            raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
        altered, _ = books.alter(groups, kind, which, {name: record[0]})
        expected = Oracle(books.headers(altered)).wrong
        for together in (True, False):
            assert audited(altered, together).wrong == expected, (kind, which, name, record)
        found += expected is not None
    assert 5 <= found < 25


def rearrange(chosen: random.Random):
    """A change that moves, repeats, drops or thins out one run."""

    def change(runs: list[books.Run]) -> list[books.Run]:
        at, to = chosen.randrange(len(runs)), chosen.randrange(len(runs))
        kind, records = runs[at]
        what = chosen.choice(["move", "repeat", "drop", "shuffle", "thin"])
        if what in ("move", "drop"):
            del runs[at]
        if what in ("move", "repeat"):
            runs.insert(to, (kind, records))
        if what == "shuffle":
            order = chosen.sample(range(len(records)), len(records))
            runs[at] = (kind, records[order])
        if what == "thin" and len(records) > 1:
            runs[at] = (kind, np.delete(records, chosen.randrange(len(records))))
        return runs

    return change


ONES = [books.paid(6, 10**6), *(books.generated(s, 40, 10**6) for s in range(10, 14))]


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_plain_python_finds_among_rearranged_records(seed):
    chosen = random.Random(seed)
    for _ in range(25):
        groups = books.rearranged(chosen.choice(ONES), rearrange(chosen))
        if chosen.random() < 0.2:
            groups = books.rearranged(groups, rearrange(chosen))
        assert audited(groups).wrong == Oracle(books.headers(groups)).wrong


def test_many_accounts_and_holds_that_end_in_any_order():
    """More than its tables begin with, and holds taken out of their middle."""
    chosen = random.Random(3)
    writer = books.Writer(group_records_max=3000)
    for first in range(1, 6001, 2000):
        ids = range(first, first + 2000)
        writer.accounts(*(books.account(id << 64 | id, ledger=1 + id % 2) for id in ids))
    holds: list[int] = []
    for first in range(10_000, 16_000, 1500):
        pairs = [chosen.sample(range(1 + id % 2, 6001, 2), 2) for id in range(first, first + 1500)]
        fields = [{"ledger": 1 + pair[0] % 2, "flags": int(F.PENDING)} for pair in pairs]
        opened = [
            books.transfer(first + place, pair[0] << 64 | pair[0], pair[1] << 64 | pair[1], **field)
            for place, (pair, field) in enumerate(zip(pairs, fields, strict=True))
        ]
        assert set(writer.transfers(*opened)) == {"CREATED"}
        holds += range(first, first + 1500)
        chosen.shuffle(holds)
        ends, holds = holds[:1000], holds[1000:]
        void = int(F.VOID_PENDING_TRANSFER)
        voids = [books.schema.Transfer(id=id + 10**6, pending_id=id, flags=void) for id in ends]
        assert set(writer.transfers(*voids)) == {"CREATED"}
    groups = writer.groups()
    for together in (True, False):
        audit, core = audited(groups, together), replayed(groups)
        assert audit.wrong is None
        assert audit.accounts().tobytes() == core.accounts()
        assert np.array_equal(audit.open_holds(), core.open_holds())
        assert len(audit.open_holds()) == len(holds)


@pytest.mark.parametrize("seed", range(20))
def test_every_ledger_balances(seed):
    for total in audited(books.generated(seed, 120)).totals():
        assert total.debits_posted == total.credits_posted
        assert total.debits_pending == total.credits_pending == total.open
        assert total.captured + total.released + total.open == total.held


def test_totals_are_the_sums_of_what_was_paid():
    first, second = audited(books.paid(4)).totals()
    assert (first.ledger, first.accounts, second.ledger, second.accounts) == (1, 3, 2, 1)
    # Four payments of 100, four of 2^64 + 0..3, and 20 of the one hold that was posted.
    assert first.debits_posted == 4 * 100 + 4 * 2**64 + 6 + 20
    assert (first.held, first.captured, first.released, first.open) == (200, 20, 130, 50)
    assert second == (2, 1, *[0] * 8)


@pytest.mark.parametrize(
    ("kind", "which", "changes", "why"),
    [
        (K.ACCOUNT, 1, {"id": ZERO}, "an account with an id that is 0 or 2^128-1"),
        (K.ACCOUNT, 1, {"id": MAX}, "an account with an id that is 0 or 2^128-1"),
        (K.ACCOUNT, 1, {"id": (1, 0)}, "an account whose id is used already"),
        (K.ACCOUNT, 1, {"reserved": 1}, "account: reserved bytes are not zero"),
        (K.ACCOUNT, 0, {"flags": 64}, "an account with unknown flags"),
        (K.ACCOUNT, 0, {"flags": BOTH}, "an account with both limits"),
        (K.ACCOUNT, 0, {"ledger": 0}, "an account with ledger 0"),
        (K.ACCOUNT, 0, {"code": 0}, "an account with code 0"),
        (K.ACCOUNT, 0, {"debits_pending": (1, 0)}, "an account with debits_pending that is not 0"),
        (K.ACCOUNT, 0, {"credits_posted": (0, 1)}, "an account with credits_posted that is not 0"),
        (K.ACCOUNT, 1, {"timestamp": 5}, "an account not later than the account before it"),
        (K.TRANSFER, 5, {"id": MAX}, "a transfer with an id that is 0 or 2^128-1"),
        (K.TRANSFER, 5, {"flags": 512}, "a transfer with unknown flags"),
        (K.TRANSFER, 0, {"flags": 12}, "a transfer with both post and void"),
        (K.TRANSFER, 3, {"flags": int(F.VOID_PENDING_TRANSFER | F.PENDING)}, "flags no post"),
        (K.TRANSFER, 0, {"flags": int(F.CLOSING_DEBIT)}, "a closing flag, but no hold"),
        (K.TRANSFER, 0, {"timeout": 1}, "a transfer with a timeout, but no hold"),
        (K.TRANSFER, 0, {"pending_id": (9, 0)}, "a transfer with a wrong pending_id"),
        (K.TRANSFER, 3, {"pending_id": ZERO}, "a transfer with a wrong pending_id"),
        (K.TRANSFER, 3, {"pending_id": (9, 0)}, "a post or void that differs from its hold"),
        (K.TRANSFER, 3, {"code": 9}, "a post or void that differs from its hold"),
        (K.TRANSFER, 3, {"debit_account_id": (2, 0)}, "a post or void that differs from its hold"),
        (K.TRANSFER, 3, {"credit_account_id": (2, 0)}, "a post or void that differs from its hold"),
        (K.TRANSFER, 3, {"amount": (49, 0)}, "a post or void of more than its hold, or a void"),
        (K.TRANSFER, 7, {"amount": (51, 0)}, "a post or void of more than its hold, or a void"),
        (K.TRANSFER, 0, {"ledger": 0}, "a transfer with ledger 0"),
        (K.TRANSFER, 0, {"ledger": 2}, "a transfer whose debit account is of another ledger"),
        (K.TRANSFER, 0, {"code": 0}, "a transfer with code 0"),
        (K.TRANSFER, 1, {"timestamp": books.NOW + 2001}, "not later than the transfer before it"),
        (K.TRANSFER, 0, {"timestamp": 5}, "a transfer not later than its debit account"),
        (K.TRANSFER, 0, {"debit_account_id": (5, 0)}, "a transfer of an account that does not exi"),
        (K.TRANSFER, 0, {"debit_account_id": (2, 0)}, "a transfer between an account and itself"),
        (K.TRANSFER, 0, {"credit_account_id": (4, 0)}, "credit account is of another ledger"),
        # Account 2 may not owe: it has 100 and no more.
        (K.TRANSFER, 1, {"debit_account_id": (2, 0)}, "a transfer beyond the limit of an account"),
        (K.RESOLUTION, 1, {"position": 3}, "the end of a hold that was never opened"),
        (K.RESOLUTION, 1, {"position": 10**6}, "the end of a hold that was never opened"),
        (K.RESOLUTION, 1, {"amount": (51, 0)}, "the end of a hold that differs from the hold"),
        (K.RESOLUTION, 1, {"flags": 3}, "the end of a hold that differs from the hold"),
        (K.RESOLUTION, 1, {"outcome": 4}, "the end of a hold with an unknown outcome"),
        (K.RESOLUTION, 1, {"outcome": HoldOutcome.EXPIRED}, "on the wrong side of its expiry"),
        (K.RESOLUTION, 1, {"reserved": [1] * 12}, "resolution: reserved bytes are not zero"),
        (K.BURNED_ID, 0, {"id": ZERO}, "a burned id that is 0 or 2^128-1"),
        (K.BURNED_ID, 0, {"status": 55}, "burned_id with another status than its event's"),
        (K.BURNED_ID, 0, {"timestamp": 5}, "burned_id with another timestamp than its event's"),
        (K.START, 0, {"timestamp": 2**62}, "a clock that does not increase"),
        (K.REQUEST, 0, {"operation": 140}, "a request with an operation that creates nothing"),
        (K.REQUEST, 0, {"identity": 1}, "a request with an identity"),
        (K.REQUEST, 0, {"event_count": 8190}, "a request of more than 8189 events"),
        (K.REQUEST, 0, {"batch_count": 0}, "a request without a batch"),
        (K.REQUEST, 0, {"batch_count": 2}, "a request without all its batch counts"),
        (K.REQUEST, 1, {"event_count": 1}, "more or fewer transfer records than its outcomes say"),
        (K.REQUEST, 2, {"outcome_count": 0}, "a request without all its outcomes"),
        (K.OUTCOME, 0, {"event": 2}, "an outcome of an event that was not asked"),
        (K.OUTCOME, 0, {"status": 99}, "an outcome with an unknown status"),
        (K.OUTCOME, 0, {"status": 2**32 - 1}, "an outcome that says nothing new"),
    ],
)
def test_a_record_that_lies_is_named(kind, which, changes, why):
    groups, position = books.alter(books.paid(4), kind, which, changes)
    wrong = audited(groups).wrong
    assert wrong is not None and why in wrong.why
    # What follows from a request's record, or contradicts the next one, is found a little later.
    assert position <= wrong.position <= position + 2


@pytest.mark.parametrize(("place", "side"), [(1, "debit"), (0, "credit")])
def test_a_transfer_is_later_than_both_its_accounts(place, side):
    writer = books.Writer()
    writer.accounts(*(books.account(1 + (place + each) % 2) for each in (0, 1)))
    writer.transfers(books.transfer(10))
    groups = writer.groups()
    index, offset, _ = books.places(groups, K.ACCOUNT)[1]
    stamp = np.frombuffer(groups[index][1], DTYPES[K.ACCOUNT], 1, offset)["timestamp"][0]
    altered, position = books.alter(groups, K.TRANSFER, 0, {"timestamp": stamp})
    expected = Wrong(position, f"a transfer not later than its {side} account")
    assert audited(altered).wrong == expected


@pytest.mark.parametrize(("early_ns", "in_time"), [(0, False), (1, True)])
def test_a_post_comes_before_its_hold_expires(early_ns, in_time):
    writer = books.Writer()
    writer.accounts(books.account(1), books.account(2))
    writer.transfers(books.transfer(10, flags=int(F.PENDING)))
    writer.now += 10**9 - 1000 - early_ns
    post = int(F.POST_PENDING_TRANSFER)
    writer.transfers(books.schema.Transfer(id=11, pending_id=10, amount=100, flags=post))
    groups, _ = books.alter(writer.groups(), K.TRANSFER, 0, {"timeout": 1})
    position = books.places(groups, K.RESOLUTION)[0][2]
    wrong = Wrong(position, "the end of a hold on the wrong side of its expiry")
    assert audited(groups).wrong == (None if in_time else wrong)


def test_a_hold_ends_once():
    groups = books.paid(4)
    first = books.places(groups, K.TRANSFER)[2][2]
    groups, position = books.alter(groups, K.RESOLUTION, 1, {"position": first})
    assert audited(groups).wrong == Wrong(position, "the end of a hold that has ended already")


def closing_book() -> books.Writer:
    writer = books.Writer()
    writer.accounts(*(books.account(id) for id in (1, 2, 3)))
    writer.transfers(books.transfer(10, 1, 2, 5, flags=int(F.PENDING | F.CLOSING_DEBIT)))
    assert writer.transfers(books.transfer(11, 1, 3)) == ["DEBIT_ACCOUNT_ALREADY_CLOSED"]
    return writer


@pytest.mark.parametrize("side", ["debit_account_id", "credit_account_id"])
def test_a_closed_account_takes_no_transfer(side):
    writer = closing_book()
    writer.transfers(books.transfer(12, 3, 2))
    groups = writer.groups()
    assert audited(groups).accounts()["flags"].tolist() == [A.CLOSED, 0, 0]
    altered, position = books.alter(groups, K.TRANSFER, 1, {side: (1, 0)})
    assert audited(altered).wrong == Wrong(position, "a transfer of an account that is closed")


def test_a_void_opens_the_account_again():
    writer = closing_book()
    void = {"pending_id": 10, "flags": int(F.VOID_PENDING_TRANSFER)}
    writer.transfers(books.schema.Transfer(id=12, **void))
    assert writer.transfers(books.transfer(13, 1, 3)) == ["CREATED"]
    groups = writer.groups()
    for together in (True, False):
        assert audited(groups, together).wrong is None
    assert audited(groups).accounts()["flags"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["transfer_timestamp_min", "transfer_timestamp_max"])
def test_the_header_tells_the_stretch_of_transfer_timestamps(name):
    fields, body = books.paid(4)[0]
    wrong = audited([({**fields, name: fields[name] + 1}, body)]).wrong
    assert wrong == Wrong(fields["position_count"], f"a group whose header is wrong about {name}")


# ---- sums ---------------------------------------------------------------------------------------


def test_a_balance_beyond_128_bits_is_told():
    groups = books.paid(4)
    for which in (1, 5):  # of two halves of 2^129
        groups, _ = books.alter(groups, K.TRANSFER, which, {"amount": MAX})
    audit = audited(groups)
    assert audit.wrong is None
    with pytest.raises(ValueError, match=r"account 1: debits_posted is \d{39}$"):
        audit.accounts()


@pytest.mark.parametrize("ended", [1, 2])
def test_a_balance_may_be_beyond_128_bits_meanwhile(ended):
    writer = books.Writer()
    writer.accounts(books.account(1), books.account(2))
    writer.transfers(*(books.transfer(id, flags=int(F.PENDING)) for id in (10, 11)))
    void = int(F.VOID_PENDING_TRANSFER)
    ends = [books.schema.Transfer(id=id + 10, pending_id=id, flags=void) for id in (10, 11)]
    writer.transfers(*ends[:ended])
    groups = writer.groups()
    for kind, count in ((K.TRANSFER, 2 + ended), (K.RESOLUTION, ended)):
        for which in range(count):
            groups, _ = books.alter(groups, kind, which, {"amount": MAX})
    audit = audited(groups)
    assert audit.wrong is None
    left = list(MAX if ended == 1 else ZERO)
    assert audit.accounts()["debits_pending"].tolist() == [left, [0, 0]]
    assert audit.accounts()["credits_pending"].tolist() == [[0, 0], left]


@pytest.mark.parametrize(
    ("credits", "debits", "beyond"), [(2, 1, False), (1, 2, True), (2, 2, False)]
)
def test_a_limit_is_kept_beyond_128_bits(credits, debits, beyond):
    """Of account 2, which may not owe; each amount is as high as it can be."""
    writer = books.Writer()
    limit = int(A.DEBITS_MUST_NOT_EXCEED_CREDITS)
    writer.accounts(books.account(1), books.account(2, flags=limit))
    writer.transfers(*(books.transfer(10 + place) for place in range(credits)))
    writer.transfers(*(books.transfer(20 + place, 2, 1, 1) for place in range(debits)))
    groups = writer.groups()
    for which in range(credits + debits):
        groups, position = books.alter(groups, K.TRANSFER, which, {"amount": MAX})
    wrong = Wrong(position, "a transfer beyond the limit of an account")
    assert audited(groups).wrong == (wrong if beyond else None)


def test_padding_must_be_zero():
    writer = books.Writer()
    rows = books.schema.pack_accounts([books.account(id) for id in (1, 2, 3)]).tobytes()
    writer.driver.execute(146, [rows[:128], rows[128:]], writer.now + 1000)
    [(fields, body)] = writer.groups()
    assert audited([(fields, body)]).wrong is None
    _, offset, position = books.places([(fields, body)], K.BATCH)[0]
    changed = bytearray(body)
    changed[offset + 15] = 1
    wrong = audited([(fields, bytes(changed))]).wrong
    assert wrong == Wrong(position, "a run whose padding is not zero")


# ---- records in the wrong company ---------------------------------------------------------------


def without(kind: K, which: int = 0):
    """A change that takes away one run of a kind."""

    def change(runs: list[books.Run]) -> list[books.Run]:
        place = [at for at, run in enumerate(runs) if run[0] == kind][which]
        return runs[:place] + runs[place + 1 :]

    return change


def moved(kind: K, by: int, which: int = 0):
    """A change that moves one run of a kind so many runs further."""

    def change(runs: list[books.Run]) -> list[books.Run]:
        place = [at for at, run in enumerate(runs) if run[0] == kind][which]
        run = runs.pop(place)
        return [*runs[: place + by], run, *runs[place + by :]]

    return change


def small(fill) -> books.Groups:
    """One group, written by `fill` once two accounts are there."""
    writer = books.Writer()
    writer.accounts(books.account(1), books.account(2))
    fill(writer)
    return writer.groups()


def settled(writer: books.Writer) -> None:
    writer.transfers(books.transfer(10, flags=int(F.PENDING)))
    post = int(F.POST_PENDING_TRANSFER)
    writer.transfers(books.schema.Transfer(id=11, pending_id=10, amount=100, flags=post))
    writer.transfers(books.transfer(12))


def two_batches(writer: books.Writer) -> None:
    rows = books.schema.pack_transfers([books.transfer(10), books.transfer(11)]).tobytes()
    writer.driver.execute(147, [rows[:128], rows[128:]], writer.now + 1000)


def two_outcomes(writer: books.Writer) -> None:
    wrong = [books.transfer(id, code=0) for id in (11, 12)]
    assert writer.transfers(books.transfer(10), *wrong) == [
        "CREATED",
        *["CODE_MUST_NOT_BE_ZERO"] * 2,
    ]


def interrupted(runs: list[books.Run]) -> list[books.Run]:
    """A start record between the second request and its effects."""
    start = runs[0][1].copy()
    start["timestamp"] = runs[3][1]["timestamp"] + 1
    return [*runs[:4], (K.START, start), *runs[4:]]


def two_requests(writer: books.Writer) -> None:
    writer.transfers(books.transfer(10))
    writer.transfers(books.transfer(11))


def reversed_outcomes(runs: list[books.Run]) -> list[books.Run]:
    return [*runs[:-1], (runs[-1][0], runs[-1][1][::-1].copy())]


@pytest.mark.parametrize(
    ("fill", "change", "position", "why"),
    [
        (settled, without(K.START), 1, "a book that does not begin with a start record"),
        (two_batches, without(K.REQUEST), 2, "account without a request"),
        (settled, without(K.TRANSFER, 1), 8, "a hold that ends without post or void"),
        (settled, without(K.RESOLUTION), 8, "a post or void without the end of its hold"),
        (settled, moved(K.RESOLUTION, 1), 8, "a post or void without the end of its hold"),
        (two_requests, interrupted, 5, "a request whose records do not stand together"),
        (two_batches, moved(K.BATCH, 1), 8, "batch counts that do not follow their request"),
        (two_batches, without(K.BATCH), 5, "a request without all its batch counts"),
        (two_outcomes, moved(K.OUTCOME, -1), 6, "outcomes that do not end their request"),
        (two_outcomes, reversed_outcomes, 8, "an outcome that is not after the one before it"),
    ],
)  # fmt: skip
def test_records_stand_where_they_belong(fill, change, position, why):
    groups = small(fill)
    assert audited(groups).wrong is None
    assert audited(books.rearranged(groups, lambda runs: runs)).wrong is None
    assert audited(books.rearranged(groups, change)).wrong == Wrong(position, why)


def test_batches_are_all_the_events_of_a_request():
    groups, position = books.alter(small(two_batches), K.BATCH, 0, {"event_count": 2})
    why = "a request whose batches are not all its events"
    assert audited(groups).wrong == Wrong(position - 1, why)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"client": ZERO}, "a session of client 0"),
        ({"session": 3}, "a session whose number is not its position"),
    ],
)
def test_a_session_that_is_none(changes, why):
    def register(writer: books.Writer) -> None:
        arrivals = writer.driver.arrival(2, [b""], client=(9, 0), release=1)
        assert writer.driver.answer(*arrivals, writer.now + 1000) is not None

    groups = small(register)
    assert audited(groups).wrong is None
    altered, position = books.alter(groups, K.SESSION, 0, changes)
    assert audited(altered).wrong == Wrong(position, why)


@pytest.mark.parametrize(
    ("name", "more", "position", "why"),
    [
        ("position_count", 1, 12, "the body of group 1 (positions 1-12) ends at position 11"),
        ("position_count", -1, 12, "the body of group 1 (positions 1-10) ends at position 11"),
        ("run_count", 1, 1, "group 1 (positions 1-11) has 10 runs, its header says 11"),
    ],
)
def test_the_header_counts_records_and_runs(name, more, position, why):
    [(fields, body)] = small(settled)
    altered = [({**fields, name: fields[name] + more}, body)]
    assert audited(altered).wrong == Wrong(position, why)


def test_a_group_ends_when_its_last_record_does():
    [(fields, body)] = small(settled)
    wrong = audited([({**fields, "clock_after": fields["clock_after"] + 1}, body)]).wrong
    why = "a group whose clock does not end with its last record"
    assert wrong == Wrong(fields["position_count"], why)


def test_what_is_no_run_is_wrong():
    [(fields, body)] = small(settled)
    changed = bytearray(body)
    changed[0] = 99
    wrong = audited([(fields, bytes(changed))]).wrong
    assert wrong is not None and wrong.position == 1 and "kind 99" in wrong.why
