"""The judge: what clients saw, in the order that positions give, replayed on the model.

Two witnesses: the histories that the clients wrote, and the journal as LMDB holds it when all is
over. The order is given (each request that creates has a position), so nothing is searched: the
model executes the requests in that order and every result, read and balance is compared. Clocks of
expiries are the journal's word, and the model must agree that they were due. Invariants go by their
names; `judged` is the model's own: a result or a read that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chaos import model
from chaos.sim.client import Request
from chaos.sim.server import CLUSTER, SimJournal, new_core
from ledger.engine import recovery
from ledger.facts import schema
from ledger.facts.errors import LedgerError
from ledger.facts.schema import HoldOutcome, JournalKind, TransferFlags, int_of
from ledger.journal.body import Runs, read_runs

Breaks = Callable[[str, str], None]
NEVER = 1 << 62


class Record(NamedTuple):
    """A record of the journal that stands for itself: not the effect of a request."""

    position: int
    kind: JournalKind
    row: Any


class Broken(Exception):
    """An invariant does not hold: its name, and what was seen."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(check, what)
        self.check, self.what = check, what


def judge(
    directory: Path,
    histories: list[list[Request]],
    live: bytes | None,
    evicted: Set[int] = frozenset(),
    rested_ns: int = 0,
) -> model.Model:
    """Broken for the first invariant that does not hold. `live` is the hash of the last state,
    when it is known; `evicted` are the clients that were told that the server does not know their
    session; a hold that was due by `rested_ns` must have ended."""
    runs, accounts = _journal(directory, live)
    history = [request for one in histories for request in one]
    creates = {(one.client, one.number): one for one in history if one.creates}
    records = list(_records(runs))
    _found(records, creates)
    ended = {int_of(id) for id in runs.rows(JournalKind.SESSION_EVICTED).records["client"]}
    for client in sorted(evicted - ended):
        raise Broken("durable", f"client {client:x} lost a session that did not end")
    book = _replay(records, runs, history, creates)
    _real_time(history)
    for id, due in book.expiries.items():
        if due <= rested_ns:
            raise Broken("holds", f"hold {id} was due at {due} and is still open at {rested_ns}")
    if book.accounts_state() != [accounts[at : at + 128] for at in range(0, len(accounts), 128)]:
        raise Broken("judged", "the accounts are not what the model says")
    _whole(history, book)
    try:
        book.check()
    except AssertionError as error:
        raise Broken("conserved", f"{error}") from error
    return book


def rolled_back(asked: list[Request], rollbacks: list[int]) -> set[int]:
    """The clients that outlived a rollback which took what they had seen, and were not answered
    again. What it took is as if it had never been answered; nothing else may be gone."""
    seen: dict[int, list[Request]] = {}
    for one in asked:
        if one.returned_ns is not None:
            seen.setdefault(one.client, []).append(one)
    outlived = set()
    for client, answered in seen.items():
        answered.sort(key=lambda one: one.number)
        for one, after in pairwise(answered):
            if one.lost(rollbacks[: after.epoch]):
                raise Broken(
                    "durable",
                    f"client {client:x} had seen {one.position}, which was taken back, and was"
                    f" answered at {after.position}",
                )
        if answered[-1].lost(rollbacks):
            outlived.add(client)
    for one in asked:
        if one.lost(rollbacks):
            one.returned_ns, one.position, one.results = None, 0, []
    return outlived


def _journal(directory: Path, live: bytes | None) -> tuple[Runs, bytes]:
    """All runs of the journal, and the accounts that its replay gives."""
    try:
        with SimJournal.open(directory, CLUSTER) as journal:
            core, _ = new_core()
            recovery.replay(journal, core)
            headers, bodies = [], []
            for header, body in journal.read():
                headers.append(header)
                bodies.append(bytes(body))
    except LedgerError as error:
        raise Broken("chain", f"the journal cannot be read again: {error}") from error
    if live is not None and core.state_hash() != live:
        raise Broken("replay-equal", "the state replayed is not the state that was live")
    runs = read_runs(np.frombuffer(bytearray(b"".join(bodies)), np.uint8), headers)
    if runs.wrong is not None:
        raise Broken("chain", f"position {runs.wrong.position}: {runs.wrong.why}")
    return runs, core.accounts()


def _records(runs: Runs) -> Iterator[Record]:
    found: list[Record] = []
    for kind in (JournalKind.START, JournalKind.SESSION, JournalKind.SESSION_EVICTED,
                 JournalKind.REQUEST, JournalKind.RESOLUTION):  # fmt: skip
        rows = runs.rows(kind)
        for position, row in zip(rows.positions.tolist(), rows.records, strict=True):
            if kind != JournalKind.RESOLUTION or row["outcome"] == HoldOutcome.EXPIRED:
                found.append(Record(position, kind, row))
    yield from sorted(found, key=lambda one: one.position)


def _found(records: list[Record], creates: dict[tuple[int, int], Request]) -> None:
    """What was acknowledged is there, once; what is there was asked."""
    ends: dict[tuple[int, int], int] = {}
    for index, record in enumerate(records):
        if record.kind != JournalKind.REQUEST:
            continue
        key = (int_of(record.row["client"]), int(record.row["number"]))
        if key in ends:
            raise Broken("one-effect", f"request {key[1]} of a client was executed twice")
        if key not in creates:
            raise Broken("one-effect", f"position {record.position}: a request nobody made")
        if creates[key].frame[:16] != record.row["checksum"].tobytes():
            raise Broken("one-effect", f"position {record.position}: not the request made")
        after = index + 1
        ends[key] = records[after].position - 1 if after < len(records) else NEVER
    for key, request in creates.items():
        if request.returned_ns is None:
            if key in ends:
                request.position = min(ends[key], NEVER)
            continue
        if key not in ends:
            raise Broken("durable", f"request {request.entry} was acknowledged and is gone")
        if ends[key] not in (NEVER, request.position):
            raise Broken(
                "durable",
                f"request {request.entry} was acknowledged at {request.position} and ends at"
                f" {ends[key]}",
            )


def _replay(
    records: list[Record],
    runs: Runs,
    history: list[Request],
    creates: dict[tuple[int, int], Request],
) -> model.Model:
    """The model after all records, with every result and read compared on the way."""
    book = model.Model()
    rows = runs.rows(JournalKind.TRANSFER)
    transfers = {
        position: int_of(id)
        for position, id in zip(rows.positions.tolist(), rows.records["id"], strict=True)
    }
    reads = sorted(
        (one for one in history if not one.creates and one.returned_ns is not None),
        key=lambda one: one.position,
    )
    reads.reverse()
    for record in records:
        while reads and reads[-1].position < record.position:
            _read(book, reads.pop(), record.position - 1)
        _apply(book, record, transfers, creates)
    while reads:
        _read(book, reads.pop(), NEVER)
    return book


def _apply(
    book: model.Model,
    record: Record,
    transfers: dict[int, int],
    creates: dict[tuple[int, int], Request],
) -> None:
    timestamp = int(record.row["timestamp"])
    if record.kind == JournalKind.SESSION_EVICTED and timestamp == book.last:
        return  # it makes room for the register record that follows, and takes no time of its own
    if timestamp <= book.last:
        raise Broken(
            "clock-increases", f"position {record.position}: {timestamp} after {book.last}"
        )
    if record.kind == JournalKind.REQUEST:
        key = (int_of(record.row["client"]), int(record.row["number"]))
        _create(book, creates[key], timestamp)
        return
    if record.kind == JournalKind.RESOLUTION:
        id = transfers[int(record.row["position"])]
        due = book.expiries.get(id)
        # Holds that expire in one step share its clock: the last stamp is that, the others precede.
        clock = timestamp + model.EXPIRIES_PER_STEP
        if book.holds.get(id) != model.Hold.pending or due is None or due > clock:
            raise Broken("holds", f"hold {id} expired at {timestamp}, it was due at {due}")
        book._release(book.transfers[id], model.Hold.expired)
    book.last = timestamp


def _create(book: model.Model, request: Request, timestamp: int) -> None:
    batches = request.encoded()
    count = sum(map(len, request.batches))
    # The clock reading is not told; the stamp of the reply says what it was, when it mattered.
    now = 0 if book.last + 1 + count == timestamp else timestamp - count
    expired = len(book.expired)
    given, results = book.execute(request.operation, batches, now)
    if len(book.expired) > expired:
        raise Broken("holds", f"request {request.entry} was judged before a hold that was due")
    if given != timestamp:
        raise Broken("judged", f"request {request.entry} has time {timestamp}, not {given}")
    if request.returned_ns is None:
        return
    if request.timestamp != timestamp:
        raise Broken("durable", f"request {request.entry} was told another time than is kept")
    if request.results != results:
        raise Broken("judged", f"request {request.entry}: {_difference(request.results, results)}")


def _read(book: model.Model, request: Request, position: int) -> None:
    """A read that saw everything up to its own position, which must be where records end."""
    if request.position != position and position != NEVER:
        raise Broken(
            "behind-the-line",
            f"read {request.entry} saw position {request.position}, inside of another's records",
        )
    if request.timestamp != book.last:
        raise Broken(
            "behind-the-line",
            f"read {request.entry} saw time {request.timestamp}, at its position it is {book.last}",
        )
    read = getattr(book, "_" + model.Operation(request.operation).name)
    results = [b"".join(map(model.encode, read(batch))) for batch in request.encoded()]
    if request.results != results:
        raise Broken(
            "judged",
            f"read {request.entry} at position {request.position}:"
            f" {_difference(request.results, results)}",
        )


def _difference(seen: list[bytes], expected: list[bytes]) -> str:
    if list(map(len, seen)) != list(map(len, expected)):
        return f"results of {list(map(len, seen))} bytes, not {list(map(len, expected))}"
    for batch, (one, other) in enumerate(zip(seen, expected, strict=True)):
        for at in range(0, len(one), 16):
            if one[at : at + 16] != other[at : at + 16]:
                return (
                    f"batch {batch}, byte {at}: {one[at : at + 16].hex()}, not"
                    f" {other[at : at + 16].hex()}"
                )
    return "nothing"


def _real_time(history: list[Request]) -> None:
    """What returned before another began has the lower position."""
    returned = sorted(
        (one for one in history if one.returned_ns is not None),
        key=lambda one: one.returned_ns or 0,
    )
    placed = [one for one in history if one.position]
    placed.sort(key=lambda one: one.invoked_ns)
    highest, at = 0, 0
    for one in placed:
        while at < len(returned) and (returned[at].returned_ns or 0) < one.invoked_ns:
            highest = max(highest, returned[at].position)
            at += 1
        if one.position < highest + one.creates:
            raise Broken(
                "real-time",
                f"request {one.entry} has position {one.position}, but {highest} was seen before",
            )


def _whole(history: list[Request], book: model.Model) -> None:
    """A chain whose ids are nobody else's is there as a whole or not at all."""
    asked: dict[int, int] = {}
    requests = [one for one in history if one.operation == model.Operation.create_transfers]
    for request in requests:
        for event in (event for batch in request.batches for event in batch):
            asked[event.id] = asked.get(event.id, 0) + 1
    for request in requests:
        for batch in request.batches:
            chain: list[int] = []  # one that a batch leaves open has ended, and failed
            for event in batch:
                chain.append(event.id)
                if event.flags & TransferFlags.LINKED:
                    continue
                there = {id in book.transfers for id in chain if asked[id] == 1}
                if len(there) > 1:
                    raise Broken("whole", f"request {request.entry}: a part of chain {chain}")
                chain = []


def totals(seen: bytes) -> None:
    """What clients read of all accounts at the end, added up without anybody's help."""
    sums: dict[int, list[int]] = {}
    for account in model.decode_all(model.Account, seen):
        sums.setdefault(account.ledger, [0, 0, 0, 0])
        sums[account.ledger] = [
            a + b for a, b in zip(sums[account.ledger], account[1:5], strict=True)
        ]
        debits = account.debits_pending + account.debits_posted
        credits = account.credits_pending + account.credits_posted
        flags = schema.AccountFlags(account.flags)
        for flag, used, limit in (
            (schema.AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS, debits, account.credits_posted),
            (schema.AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS, credits, account.debits_posted),
        ):
            if flag in flags and used > limit:
                raise Broken("limits", f"account {account.id}: {used} over {limit}")
    for ledger, (dr_pending, dr_posted, cr_pending, cr_posted) in sums.items():
        if (dr_pending, dr_posted) != (cr_pending, cr_posted):
            raise Broken("conserved", f"ledger {ledger}: debits are not credits")
