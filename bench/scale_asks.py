"""What `bench.scale` asks of a long history: payments sent again, statements, queries, look-ups.

Each kind of question is asked one at a time, all kinds in turn, and no question twice in the same
words, so that nothing is answered from what was just asked. An answer that is not right raises: its
time would be no figure. One that does not come counts with the time that was waited for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.scale_book import MARKER, Book, Rows
from ledger.facts import limits, schema
from ledger.facts.errors import OutcomeUnknown

FULL = limits.EVENTS_MAX
ROUNDS_MIN = 3  # however long they take
TIMESTAMP_MAX = 2**63 - 1

Call = Callable[[], Rows]


class Ask(NamedTuple):
    """One kind of question. `prepare` gives that of a round; `check` raises for a wrong answer."""

    name: str
    prepare: Callable[[int], Call]
    check: Callable[[Rows], None]


def sample(
    book: Book, asks: list[Ask], rounds: int, seconds: float, on_round: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Ask all kinds in turn, for so many rounds or so long; what each took."""
    times: dict[str, list[int]] = {ask.name: [] for ask in asks}
    records, unanswered = dict.fromkeys(times, 0), dict.fromkeys(times, 0)
    begun = time.monotonic()
    for number in range(rounds):
        if number >= ROUNDS_MIN and time.monotonic() - begun > seconds:
            break
        for ask in asks:
            call = ask.prepare(number)
            started = time.perf_counter_ns()
            try:
                rows = call()
            except OutcomeUnknown:  # the connection would wait for it before all that follows
                times[ask.name].append(time.perf_counter_ns() - started)
                unanswered[ask.name] += 1
                book.hang_up()
                continue
            times[ask.name].append(time.perf_counter_ns() - started)
            records[ask.name] = max(records[ask.name], len(rows))
            try:
                ask.check(rows)
            except RuntimeError as error:
                raise RuntimeError(f"{ask.name}, {number + 1}: {error}") from error
        on_round(number + 1)
    return [
        {"ask": name, "records": records[name], "unanswered": unanswered[name], **of(found)}
        for name, found in times.items()
    ]


def of(times: list[int]) -> dict[str, Any]:
    """Percentiles of times in ns; each is one that was seen."""
    ordered = sorted(times)
    count = len(ordered)
    return {
        "asked": count,
        "p50_ns": ordered[(count - 1) // 2],
        "p99_ns": ordered[-(-count * 99 // 100) - 1],
        "max_ns": ordered[-1],
    }


def right(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise RuntimeError(f"a wrong answer: {what}")


# ---- payments sent again ------------------------------------------------------------------------


def duplicates(book: Book, random: np.random.Generator) -> list[Ask]:
    """Full requests of payments that were made long ago."""
    most = min(FULL, book.numbers_end)

    def contiguous(number: int) -> Call:
        first = number * FULL % max(1, book.numbers_end // 10 - most)
        again = book.payments(np.arange(first, first + most))
        client = book.client
        return lambda: client.create_transfers(again)

    def scattered(_: int) -> Call:
        again = book.payments(random.integers(0, book.numbers_end, most))
        client = book.client
        return lambda: client.create_transfers(again)

    def exist(rows: Rows) -> None:
        right(len(rows) == most, f"{len(rows)} results")
        right((rows["status"] == schema.TransferStatus.EXISTS).all(), "not all exist")

    return [
        Ask("sent again: of the beginning, in their order", contiguous, exist),
        Ask("sent again: of all the history, scattered", scattered, exist),
    ]


# ---- statements ---------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """A part of the history that is asked for, ns."""

    name: str
    choose: Callable[[int], tuple[int, int, bool]]  # earliest, latest, newest first


def stretches(begun: int, ended: int, random: np.random.Generator) -> list[Stretch]:
    """The ends of a history, and what lies between two random times; no two are the same."""

    def between(newest_first: bool) -> tuple[int, int, bool]:
        earliest, latest = sorted(random.integers(begun, ended, 2).tolist())
        return earliest, latest, newest_first

    return [
        Stretch("the first", lambda number: (1 + number, TIMESTAMP_MAX, False)),
        Stretch("the last", lambda number: (1, TIMESTAMP_MAX - number, True)),
        Stretch("a random time, oldest first", lambda _: between(False)),
        Stretch("a random time, newest first", lambda _: between(True)),
    ]


def statements(book: Book, random: np.random.Generator) -> list[Ask]:
    """Statements with and without balances of the hot account, and of one after the other."""
    begun, ended = lifetime(book)

    def ordinary() -> int:
        number = random.integers(0, book.numbers_end, 1)
        return schema.int_of(book.payments(number)["debit_account_id"][0])

    def of_hot() -> int:
        return book.hot

    return [
        _statement(book, f"{what}: {stretch.name}", stretch, account, balances)
        for what, account, balances in (
            ("hot account", of_hot, False),
            ("hot account, balances", of_hot, True),
            ("ordinary account", ordinary, False),
        )
        for stretch in stretches(begun, ended, random)
    ]


def lifetime(book: Book) -> tuple[int, int]:
    """When the hot account was first and last paid, ns."""
    ends = []
    for flags in (3, 7):
        asked = schema.AccountFilter(account_id=book.hot, limit=1, flags=flags)
        ends.append(int(book.client.get_account_transfers(asked)["timestamp"][0]))
    return ends[0], ends[1]


def _statement(
    book: Book, name: str, stretch: Stretch, account: Callable[[], int], balances: bool
) -> Ask:
    latest: list[schema.AccountFilter] = []
    both = schema.AccountFilterFlags.DEBITS | schema.AccountFilterFlags.CREDITS

    def prepare(number: int) -> Call:
        earliest, last, newest_first = stretch.choose(number)
        asked = schema.AccountFilter(
            account_id=account(), timestamp_min=earliest, timestamp_max=last, limit=FULL,
            flags=both | (schema.AccountFilterFlags.REVERSED if newest_first else 0),
        )  # fmt: skip
        latest[:] = [asked]
        client = book.client
        if balances:
            return lambda: client.get_account_balances(asked)
        return lambda: client.get_account_transfers(asked)

    def check(rows: Rows) -> None:
        [asked] = latest
        newest_first = bool(asked.flags & schema.AccountFilterFlags.REVERSED)
        _check_times(rows, asked.timestamp_min, asked.timestamp_max, newest_first)
        if not balances:
            account_id = np.array(schema.u128(asked.account_id), np.uint64)
            sides = (rows["debit_account_id"], rows["credit_account_id"])
            mine = [(side == account_id).all(axis=1) for side in sides]
            right((mine[0] | mine[1]).all(), "another account's payment")

    return Ask(name, prepare, check)


def _check_times(rows: Rows, earliest: int, latest: int, newest_first: bool) -> None:
    times = rows["timestamp"][::-1] if newest_first else rows["timestamp"]
    right((times[1:] > times[:-1]).all(), "not in order of time")
    right(len(times) == 0 or earliest <= times[0] <= times[-1] <= latest, "of another time")


# ---- queries ------------------------------------------------------------------------------------


def queries(book: Book, random: np.random.Generator) -> list[Ask]:
    """Payments by a value that few of them have, and by the ledger that most are of."""

    def one_payment(_: int) -> dict[str, int]:
        number = random.integers(0, book.numbers_end, 1)
        return {"user_data_64": int(book.payments(number)["user_data_64"][0])}

    few = [_query(book, f"by {field}", _always({field: MARKER[field]})) for field in MARKER]
    both = {"user_data_64": MARKER["user_data_64"], "code": MARKER["code"]}
    return [
        *few,
        _query(book, "by user_data_64 and code", _always(both)),
        _query(book, "by a user_data_64 of one payment", one_payment),
        _query(book, "by the ledger of all", _always({"ledger": book.population.ledger})),
    ]


def worst_queries(book: Book, _: np.random.Generator) -> list[Ask]:
    """By a value that every block has some of: blocks are read until there are enough."""
    return [_query(book, "by a code in every block", lambda number: {"code": 1 + number})]


def _always(fields: dict[str, int]) -> Callable[[int], dict[str, int]]:
    return lambda _: fields


def _query(book: Book, name: str, fields: Callable[[int], dict[str, int]]) -> Ask:
    latest: list[schema.QueryFilter] = []

    def prepare(number: int) -> Call:
        newest_first = number % 2 == 1
        asked = schema.QueryFilter(
            **fields(number), limit=FULL, timestamp_min=1 + number, timestamp_max=TIMESTAMP_MAX,
            flags=schema.QueryFilterFlags.REVERSED if newest_first else 0,
        )  # fmt: skip
        latest[:] = [asked]
        client = book.client
        return lambda: client.query_transfers(asked)

    def check(rows: Rows) -> None:
        [asked] = latest
        _check_times(rows, asked.timestamp_min, asked.timestamp_max, bool(asked.flags & 1))
        right(len(rows) > 0, f"nothing for {asked}")
        for field in ("user_data_128", "user_data_64", "user_data_32", "code", "ledger"):
            value = getattr(asked, field)
            if value:
                wanted = np.array(schema.u128(value)) if rows[field].ndim == 2 else value
                right((rows[field] == wanted).all(), f"another {field} than {value}")
        marked = [field for field in MARKER if getattr(asked, field) == MARKER[field]]
        if marked:  # by chance another payment may have the same 32 bits
            enough = len(rows) - book.markers
            right(enough == 0 or (marked == ["user_data_32"] and enough > 0), f"{len(rows)} rows")

    return Ask(name, prepare, check)


# ---- look-ups -----------------------------------------------------------------------------------


def lookups(book: Book, random: np.random.Generator) -> list[Ask]:
    """Accounts and payments by id, one and a full request of them."""

    def chosen(count: int) -> Rows:
        return book.payments(random.integers(0, book.numbers_end, count))

    def accounts(count: int) -> Ask:
        def prepare(_: int) -> Call:
            ids = chosen(count)["debit_account_id"].copy()
            client = book.client
            return lambda: client.lookup_accounts(ids)

        return Ask(f"look-up of {_many(count, 'account')}", prepare, _found(count))

    def payments(count: int) -> Ask:
        def prepare(_: int) -> Call:
            ids = chosen(count)["id"].copy()
            client = book.client
            return lambda: client.lookup_transfers(ids)

        return Ask(f"look-up of {_many(count, 'payment')}", prepare, _found(count))

    return [make(count) for make in (accounts, payments) for count in (1, FULL)]


def _many(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count:,} {what}s"


def _found(count: int) -> Callable[[Rows], None]:
    return lambda rows: right(len(rows) == count, f"{len(rows)} of {count} found")


KINDS: dict[str, Callable[[Book, np.random.Generator], list[Ask]]] = {
    "duplicates": duplicates,
    "statements": statements,
    "queries": queries,
    "worst queries": worst_queries,
    "look-ups": lookups,
}
