"""The audit's rules once more, in plain Python: one record a time, integers, lists and dicts.

What lives here: everything a journal's records are held to, written to be read and not to be fast.
Tests compare what the audit finds in a book, whole or altered, with what is found here. It shares
with the audit how a body is cut into runs, and nothing of how records are judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ledger.facts.limits import EVENTS_MAX
from ledger.facts.schema import (
    TRANSIENT,
    AccountFlags,
    AccountStatus,
    HoldOutcome,
    Operation,
    TransferFlags,
    TransferStatus,
)
from ledger.facts.schema import JournalKind as K
from ledger.journal.body import DTYPES, Wrong, read_runs
from ledger.journal.group import Header

A, F = AccountFlags, TransferFlags
MAX = 2**128 - 1
BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
FOLLOW = (K.BATCH, K.ACCOUNT, K.TRANSFER, K.RESOLUTION, K.BURNED_ID, K.OUTCOME)


class Record(NamedTuple):
    position: int
    kind: K
    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def expiry(self) -> bool:
        return self.kind == K.RESOLUTION and self.outcome == HoldOutcome.EXPIRED


def _value(value: Any) -> Any:
    if np.ndim(value) and value.dtype == np.uint64:
        return int(value[0]) | int(value[1]) << 64
    return bytes(value) if np.ndim(value) else int(value)


def _records(header: Header, body: np.ndarray) -> tuple[list[Record], list[Wrong]]:
    """The records of a group in order, and what is wrong with its runs."""
    runs = read_runs(body, [header])
    wrong = [] if runs.wrong is None else [runs.wrong]
    found = []
    for kind in K:
        records, positions = runs.rows(kind)
        for record, position in zip(records, positions.tolist(), strict=True):
            fields = {name: _value(record[name]) for name in DTYPES[kind].names or ()}
            found.append(Record(position, kind, fields))
    for kind, count, unit, position in zip(
        runs.kinds.tolist(), runs.counts.tolist(), runs.units.tolist(), runs.positions.tolist(),
        strict=True,
    ):  # fmt: skip
        end = unit * 16 + count * DTYPES[K(kind)].itemsize
        if any(body[end : end + -end % 16].tolist()):
            wrong.append(Wrong(position, "a run whose padding is not zero"))
    return sorted(found), wrong


class Oracle:
    """The audit of groups from the first on. `wrong` is the first fault, and ends it."""

    def __init__(self, groups: Iterable[tuple[Header, np.ndarray]]) -> None:
        self.wrong: Wrong | None = None
        self.counts: Counter[K] = Counter()
        self.accounts: dict[int, dict[str, Any]] = {}  # by id; balances are what was added up
        self.open: dict[int, Record] = {}  # holds by position
        self.ended: set[int] = set()
        self.closings: Counter[int] = Counter()  # by account id
        self.totals: defaultdict[int, Counter[str]] = defaultdict(Counter)  # by ledger
        self.ids: list[tuple[int, K, int]] = []  # (position, kind, id)
        self._account_timestamp = self._transfer_timestamp = self._clock = 0
        self._end: Record | None = None  # of a hold, whose post or void must come next
        self._ended: Record | None = None  # that hold
        for header, body in groups:
            if self.wrong is None:
                self._take(header, body)

    def repeated(self, before: int) -> Wrong | None:
        """The first id that was used already, below a position."""
        seen = set()
        for position, kind, id in self.ids:
            if position < before and id in seen:
                name = "transfer whose id" if kind == K.TRANSFER else "burned id that"
                return Wrong(position, f"a {name} is used already")
            seen.add(id)
        return None

    def open_holds(self) -> list[list[int]]:
        return [[position, _expires_at(hold)] for position, hold in sorted(self.open.items())]

    # ---- a group --------------------------------------------------------------------------------

    def _take(self, header: Header, body: np.ndarray) -> None:
        records, wrong = _records(header, body)
        self.counts.update(record.kind for record in records)
        first = min(wrong, default=None)
        for record in records:
            if first is not None and record.position >= first.position:
                break
            if record.position == 1 and record.kind != K.START:
                first = Wrong(1, "a book that does not begin with a start record")
            else:
                first = self._judge(record) or first
        if first is None or first.position > header.position_last:
            ends = [*self._judge_end(header, records), *filter(None, [first])]
            first = min(ends, key=lambda wrong: wrong.position, default=None)
        for asked in _requests(records):
            if first is not None and (asked.next is None or asked.next > first.position):
                break
            if (fault := asked.judge()) is not None:
                first = fault
        self.wrong = first

    def _judge_end(self, header: Header, records: list[Record]) -> Iterator[Wrong]:
        stamps = [record.timestamp for record in records if record.kind == K.TRANSFER] or [0]
        for name, stamp in (("min", stamps[0]), ("max", stamps[-1])):
            if getattr(header, f"transfer_timestamp_{name}") != stamp:
                why = f"a group whose header is wrong about transfer_timestamp_{name}"
                yield Wrong(header.position_last, why)
        if self._end is not None:
            yield Wrong(self._end.position, "a hold that ends without post or void")
        if self._clock != header.clock_after:
            why = "a group whose clock does not end with its last record"
            yield Wrong(header.position_last, why)

    # ---- records --------------------------------------------------------------------------------

    def _judge(self, record: Record) -> Wrong | None:
        end = self._end
        if end is not None and record.kind != K.TRANSFER:
            return Wrong(end.position, "a hold that ends without post or void")
        name = record.kind.name.lower()
        if any(_bytes(record.fields.get("reserved", 0))):
            return Wrong(record.position, f"{name}: reserved bytes are not zero")
        rules = getattr(self, f"_{name}", None)
        for right, why in rules(record) if rules else ():
            if not right:
                alone = why == "a hold that ends without post or void"
                return Wrong(end.position if alone and end else record.position, why)
        return None

    def _in_time(self, record: Record) -> Iterator[tuple[bool, str]]:
        later = -(2**63) <= record.timestamp < 2**63 and record.timestamp > self._clock
        yield later, "a clock that does not increase"
        self._clock = record.timestamp

    def _start(self, record: Record) -> Iterator[tuple[bool, str]]:
        yield from self._in_time(record)

    def _request(self, record: Record) -> Iterator[tuple[bool, str]]:
        yield from self._in_time(record)

    def _session(self, record: Record) -> Iterator[tuple[bool, str]]:
        yield record.client != 0, "a session of client 0"
        yield record.session == record.position, "a session whose number is not its position"
        yield from self._in_time(record)

    def _burned_id(self, record: Record) -> Iterator[tuple[bool, str]]:
        yield record.id not in (0, MAX), "a burned id that is 0 or 2^128-1"
        self.ids.append((record.position, record.kind, record.id))

    def _account(self, record: Record) -> Iterator[tuple[bool, str]]:
        limits = A.DEBITS_MUST_NOT_EXCEED_CREDITS | A.CREDITS_MUST_NOT_EXCEED_DEBITS
        yield record.id not in (0, MAX), "an account with an id that is 0 or 2^128-1"
        yield record.flags <= sum(A), "an account with unknown flags"
        yield record.flags & limits != limits, "an account with both limits"
        yield record.ledger != 0, "an account with ledger 0"
        yield record.code != 0, "an account with code 0"
        for name in BALANCES:
            yield record.fields[name] == 0, f"an account with {name} that is not 0"
        later = record.timestamp > self._account_timestamp
        yield later, "an account not later than the account before it"
        self._account_timestamp = record.timestamp
        yield record.id not in self.accounts, "an account whose id is used already"
        self.accounts[record.id] = dict(record.fields)
        self.totals[record.ledger]["accounts"] += 1

    def _transfer(self, record: Record) -> Iterator[tuple[bool, str]]:
        yield from self._plain_transfer(record)
        debit = self.accounts.get(record.debit_account_id)
        credit = self.accounts.get(record.credit_account_id)
        yield bool(debit and credit), "a transfer of an account that does not exist"
        assert debit is not None and credit is not None
        yield debit is not credit, "a transfer between an account and itself"
        for side, account in (("debit", debit), ("credit", credit)):
            same = account["ledger"] == record.ledger
            yield same, f"a transfer whose {side} account is of another ledger"
            later = account["timestamp"] < record.timestamp
            yield later, f"a transfer not later than its {side} account"
        yield from self._pair(record)
        self.ids.append((record.position, record.kind, record.id))
        sides = (record.debit_account_id, record.credit_account_id)
        if not record.flags & F.VOID_PENDING_TRANSFER:
            closed = any(self.closings[id] or self.accounts[id]["flags"] & A.CLOSED for id in sides)
            yield not closed, "a transfer of an account that is closed"
        if record.flags & F.PENDING:
            self.open[record.position] = record
            self.totals[record.ledger]["held"] += record.amount
            self.closings[sides[0]] += bool(record.flags & F.CLOSING_DEBIT)
            self.closings[sides[1]] += bool(record.flags & F.CLOSING_CREDIT)
            self._move(sides, "pending", record.amount)
        elif not record.flags & F.VOID_PENDING_TRANSFER:
            self._move(sides, "posted", record.amount)
        for id in sides:
            yield self._within(self.accounts[id]), "a transfer beyond the limit of an account"

    def _plain_transfer(self, record: Record) -> Iterator[tuple[bool, str]]:
        flags = record.flags
        pending, post = bool(flags & F.PENDING), bool(flags & F.POST_PENDING_TRANSFER)
        void = bool(flags & F.VOID_PENDING_TRANSFER)
        closes = bool(flags & (F.CLOSING_DEBIT | F.CLOSING_CREDIT))
        balances = bool(flags & (F.BALANCING_DEBIT | F.BALANCING_CREDIT))
        alone = not (post or void) or not (pending or closes or balances)
        late = bool(flags & F.IMPORTED) and record.timeout
        yield record.id not in (0, MAX), "a transfer with an id that is 0 or 2^128-1"
        yield flags <= sum(F), "a transfer with unknown flags"
        yield not (post and void), "a transfer with both post and void"
        yield alone, "a transfer with flags no post or void may have"
        yield pending or not closes, "a transfer with a closing flag, but no hold"
        yield pending or not record.timeout, "a transfer with a timeout, but no hold"
        yield not late, "a transfer with a timeout, but imported"
        yield bool(record.pending_id) == (post or void), "a transfer with a wrong pending_id"
        yield record.ledger != 0, "a transfer with ledger 0"
        yield record.code != 0, "a transfer with code 0"
        later = record.timestamp > self._transfer_timestamp
        yield later, "a transfer not later than the transfer before it"
        self._transfer_timestamp = record.timestamp

    def _pair(self, record: Record) -> Iterator[tuple[bool, str]]:
        end, hold, self._end, self._ended = self._end, self._ended, None, None
        posts = bool(record.flags & F.POST_PENDING_TRANSFER)
        if not posts and not record.flags & F.VOID_PENDING_TRANSFER:
            yield end is None, "a hold that ends without post or void"
            return
        yield end is not None, "a post or void without the end of its hold"
        assert end is not None and hold is not None
        same = record.pending_id == hold.id and record.timestamp == end.timestamp
        same &= end.outcome == (HoldOutcome.POSTED if posts else HoldOutcome.VOIDED)
        for name in ("debit_account_id", "credit_account_id", "ledger", "code"):
            same &= record.fields[name] == hold.fields[name]
        yield same, "a post or void that differs from its hold"
        within = record.amount <= hold.amount if posts else record.amount == hold.amount
        yield within, "a post or void of more than its hold, or a void of less"
        if posts:
            self.totals[hold.ledger]["captured"] += record.amount
            self.totals[hold.ledger]["released"] += hold.amount - record.amount

    def _resolution(self, record: Record) -> Iterator[tuple[bool, str]]:
        hold = self.open.get(record.fields["position"])
        ended = record.fields["position"] in self.ended
        yield hold is not None or ended, "the end of a hold that was never opened"
        yield hold is not None, "the end of a hold that has ended already"
        assert hold is not None
        same = (record.amount, record.flags) == (hold.amount, hold.flags)
        yield same, "the end of a hold that differs from the hold"
        yield record.outcome in set(HoldOutcome), "the end of a hold with an unknown outcome"
        expires = _expires_at(hold)
        right = bool(expires) if record.expiry else not expires or record.timestamp < expires
        yield right, "the end of a hold on the wrong side of its expiry"
        del self.open[hold.position]
        self.ended.add(hold.position)
        sides = (hold.debit_account_id, hold.credit_account_id)
        self._move(sides, "pending", -hold.amount)
        if record.outcome != HoldOutcome.POSTED:
            self.totals[hold.ledger]["released"] += hold.amount
            self.closings[sides[0]] -= bool(hold.flags & F.CLOSING_DEBIT)
            self.closings[sides[1]] -= bool(hold.flags & F.CLOSING_CREDIT)
        if record.expiry:
            yield from self._in_time(record)
        else:
            self._end, self._ended = record, hold

    def _move(self, sides: tuple[int, int], kind: str, amount: int) -> None:
        self.accounts[sides[0]][f"debits_{kind}"] += amount
        self.accounts[sides[1]][f"credits_{kind}"] += amount

    @staticmethod
    def _within(account: dict[str, Any]) -> bool:
        debits = account["debits_pending"] + account["debits_posted"]
        credits = account["credits_pending"] + account["credits_posted"]
        if account["flags"] & A.DEBITS_MUST_NOT_EXCEED_CREDITS:
            return debits <= account["credits_posted"]
        if account["flags"] & A.CREDITS_MUST_NOT_EXCEED_DEBITS:
            return credits <= account["debits_posted"]
        return True


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.to_bytes(16, "little")


def _expires_at(hold: Record) -> int:
    return hold.timestamp + hold.timeout * 10**9 if hold.timeout else 0


# ---- requests -----------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A request with the records up to the next one; the first of a group has no request."""

    request: Record | None
    records: list[Record]
    next: int | None  # position of the request after it

    def judge(self) -> Wrong | None:
        own = [record for record in self.records if record.kind in FOLLOW and not record.expiry]
        if self.request is None:
            name = own[0].kind.name.lower() if own else ""
            return Wrong(own[0].position, f"{name} without a request") if own else None
        for part in (self._itself, self._places, self._announced, self._outcomes, self._effects):
            faults = [(position, why) for right, position, why in part(own) if not right]
            if faults:
                return Wrong(*min(faults, key=lambda fault: fault[0]))
        return None

    def _itself(self, own: list[Record]) -> Iterator[tuple[bool, int, str]]:
        request, at = self.request, self.request.position
        creates = request.operation in (Operation.CREATE_ACCOUNTS, Operation.CREATE_TRANSFERS)
        few = request.event_count <= EVENTS_MAX
        together = [record.position for record in own] == list(range(at + 1, at + 1 + len(own)))
        yield creates, at, "a request with an operation that creates nothing"
        yield request.identity == 0, at, "a request with an identity"
        yield few, at, f"a request of more than {EVENTS_MAX} events"
        yield request.batch_count > 0, at, "a request without a batch"
        yield together, at, "a request whose records do not stand together"

    def _places(self, own: list[Record]) -> Iterator[tuple[bool, int, str]]:
        batches, outcomes = _of(own, K.BATCH), _of(own, K.OUTCOME)
        for batch in batches:
            leading = batch in own[: len(batches)]
            yield leading, batch.position, "batch counts that do not follow their request"
        for outcome in outcomes:
            trailing = outcome in own[len(own) - len(outcomes) :]
            yield trailing, outcome.position, "outcomes that do not end their request"

    def _announced(self, own: list[Record]) -> Iterator[tuple[bool, int, str]]:
        request, at = self.request, self.request.position
        counts = [batch.event_count for batch in _of(own, K.BATCH)]
        announced = 0 if request.batch_count == 1 else request.batch_count
        yield len(counts) == announced, at, "a request without all its batch counts"
        summed = not counts or sum(counts) == request.event_count
        yield summed, at, "a request whose batches are not all its events"
        found = len(_of(own, K.OUTCOME)) == request.outcome_count
        yield found, at, "a request without all its outcomes"

    def _stamp(self, event: int) -> int:
        assert self.request is not None
        return (self.request.timestamp - self.request.event_count + 1 + event) % 2**64

    def _outcomes(self, own: list[Record]) -> Iterator[tuple[bool, int, str]]:
        outcomes = _of(own, K.OUTCOME)
        asked = [one.event < self.request.event_count for one in outcomes]
        if not all(asked):
            for one, right in zip(outcomes, asked, strict=True):
                yield right, one.position, "an outcome of an event that was not asked"
            return
        transfers = self.request.operation == Operation.CREATE_TRANSFERS
        known = set(TransferStatus if transfers else AccountStatus)
        for before, one in zip([None, *outcomes], outcomes, strict=False):
            rising = before is None or one.event > before.event
            new = one.status != TransferStatus.CREATED or one.timestamp != self._stamp(one.event)
            yield rising, one.position, "an outcome that is not after the one before it"
            yield new, one.position, "an outcome that says nothing new"
            yield one.status in known, one.position, "an outcome with an unknown status"

    def _effects(self, own: list[Record]) -> Iterator[tuple[bool, int, str]]:
        transfers = self.request.operation == Operation.CREATE_TRANSFERS
        told = {one.event: (one.status, one.timestamp) for one in _of(own, K.OUTCOME)}
        expected: dict[K, list[tuple[int, int]]] = {K.ACCOUNT: [], K.TRANSFER: [], K.BURNED_ID: []}
        for event in range(self.request.event_count):
            status, stamp = told.get(event, (TransferStatus.CREATED, self._stamp(event)))
            if status == TransferStatus.CREATED:
                expected[K.TRANSFER if transfers else K.ACCOUNT].append((status, stamp))
            elif transfers and status in TRANSIENT:
                expected[K.BURNED_ID].append((status, stamp))
        for kind, events in expected.items():
            found, name = _of(own, kind), kind.name.lower()
            why = f"a request with more or fewer {name} records than its outcomes say"
            yield len(found) == len(events), self.request.position, why
            for record, (status, stamp) in zip(found, events, strict=False):
                right = record.timestamp == stamp
                yield right, record.position, f"{name} with another timestamp than its event's"
                right = kind != K.BURNED_ID or record.status == status
                yield right, record.position, f"{name} with another status than its event's"


def _of(records: list[Record], kind: K) -> list[Record]:
    return [record for record in records if record.kind == kind]


def _requests(records: list[Record]) -> Iterator[_Asked]:
    starts = [place for place, record in enumerate(records) if record.kind == K.REQUEST]
    first = starts[0] if starts else len(records)
    after = [records[place].position for place in starts]
    yield _Asked(None, records[:first], after[0] if after else None)
    for place, end, following in zip(
        starts, [*starts[1:], len(records)], [*after[1:], None], strict=True
    ):
        yield _Asked(records[place], records[place + 1 : end], following)
