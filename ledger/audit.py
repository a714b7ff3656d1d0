"""Order: the audit: the journal's records judged and added up again, not as the core does it.

Here every record is held to the rules it must obey by itself, to the records around it, and to the
accounts and holds as they stood; balances are added up from nothing but the records, exactly. It
shares no code with the core and takes a chunk of groups at a time, so that numpy pays for arrays.
What it finds is the first wrong position of a chunk: once one is found, only records before it are
looked at. It knows no disk, and trusts that groups were checked and follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger import limbs
from ledger.audit_requests import audit_requests
from ledger.group import Header
from ledger.runs import Rows, Runs, Wrong, padding_is_zero, read_runs
from ledger.schema import (
    ACCOUNT,
    TRANSFER,
    AccountFlags,
    HoldOutcome,
    JournalKind,
    TransferFlags,
)

_BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_DEBITS_PENDING, _DEBITS_POSTED, _CREDITS_PENDING, _CREDITS_POSTED = range(4)
_OTHER_SIDE = 2  # a credit's balance lies two after the debit's

_PENDING = int(TransferFlags.PENDING)
_POST = int(TransferFlags.POST_PENDING_TRANSFER)
_VOID = int(TransferFlags.VOID_PENDING_TRANSFER)
_CLOSES_DEBIT = int(TransferFlags.CLOSING_DEBIT)
_CLOSES_CREDIT = int(TransferFlags.CLOSING_CREDIT)
_CLOSES = _CLOSES_DEBIT | _CLOSES_CREDIT
_NOT_WITH_RESOLVE = (
    _PENDING | _CLOSES | int(TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT)
)
_IMPORTED = int(TransferFlags.IMPORTED)
_CLOSED = int(AccountFlags.CLOSED)
_DEBITS_LIMITED = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
_CREDITS_LIMITED = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
_ACCOUNT_FLAGS_UNKNOWN = 0xFFFF & ~sum(AccountFlags)
_TRANSFER_FLAGS_UNKNOWN = 0xFFFF & ~sum(TransferFlags)
_NS_PER_SECOND = 1_000_000_000

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


class LedgerTotals(NamedTuple):
    """One ledger's accounts added up, and what became of its holds."""

    ledger: int
    accounts: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    held: int
    captured: int
    released: int
    open: int


class _Transfers(NamedTuple):
    """Transfers of a chunk with the places of their accounts, and of the hold they resolve."""

    records: NDArray[np.void]
    positions: Places
    flags: NDArray[np.uint16]
    debits: Places
    credits: Places


class _Effects(NamedTuple):
    """Changes of accounts in order of time: a transfer's, or a hold's end (which lowers)."""

    positions: Places
    debits: Places
    credits: Places
    pending: limbs.Sums
    posted: limbs.Sums
    closing_debit: Places  # 1 closes the account, -1 opens it again
    closing_credit: Places
    enters: Mask  # what a closed account does not take


class Audit:
    """The fold over a journal from group 1 on. `wrong` is the first fault, and ends it."""

    def __init__(self) -> None:
        self.wrong: Wrong | None = None
        self.counts = dict.fromkeys(JournalKind, 0)
        self._index = limbs.Index()
        self._accounts = np.zeros(1024, ACCOUNT)
        self._account_positions = np.zeros(1024, np.int64)
        self._sums = np.zeros((1024, len(_BALANCES), limbs.LIMBS), np.int64)
        self._closings = np.zeros(1024, np.int64)  # open holds that close the account
        self._holds = np.zeros(1024, TRANSFER)
        self._hold_positions = np.zeros(1024, np.int64)
        self._hold_accounts = np.zeros((1024, 2), np.int64)  # debit, credit
        self._hold_outcomes = np.zeros(1024, np.int64)  # 0 while open
        self._captured = np.zeros((1024, 2), np.uint64)
        self._hold_count = 0
        self._account_timestamp = 0
        self._transfer_timestamp = 0
        self._clock = 0

    def take(self, headers: Sequence[Header], body: NDArray[np.uint8]) -> bool:
        """Judge and add up the next groups, whose bodies follow each other in `body`.

        False when something is wrong; nothing more can be taken then.
        """
        runs = read_runs(body, headers)
        self._note(runs.wrong)
        self._note(padding_is_zero(runs, JournalKind.BATCH))
        rows = {kind: runs.rows(kind) for kind in JournalKind}
        for kind, found in rows.items():
            self.counts[kind] += len(found.positions)
        self._check_start(runs)
        self._check_fields(rows)
        self._add_accounts(self._left(rows[JournalKind.ACCOUNT]))
        self._fold(rows[JournalKind.TRANSFER], rows[JournalKind.RESOLUTION], headers)
        self._check_clock(rows, headers)
        self._note(audit_requests(self._whole_requests(rows), headers))
        return self.wrong is None

    # ---- faults ---------------------------------------------------------------------------------

    def _note(self, wrong: Wrong | None) -> None:
        if wrong is not None and (self.wrong is None or wrong.position < self.wrong.position):
            self.wrong = wrong

    def _expect(self, right: Mask, positions: Places, why: str) -> None:
        if not right.all():
            self._note(Wrong(int(positions[~right].min()), why))

    def _left(self, rows: Rows) -> Rows:
        """What lies before the first fault."""
        return rows if self.wrong is None else rows.before(self.wrong.position)

    def _whole_requests(self, rows: dict[JournalKind, Rows]) -> dict[JournalKind, Rows]:
        """What lies before the request that the first fault is in, which says more than that."""
        if self.wrong is None:
            return rows
        begun = rows[JournalKind.REQUEST].before(self.wrong.position + 1).positions
        end = int(begun[-1]) if len(begun) else 0
        return {kind: found.before(end) for kind, found in rows.items()}

    # ---- records by themselves ------------------------------------------------------------------

    def _check_start(self, runs: Runs) -> None:
        if len(runs.kinds) and runs.positions[0] == 1 and runs.kinds[0] != JournalKind.START:
            self._note(Wrong(1, "a book that does not begin with a start record"))

    def _check_fields(self, rows: dict[JournalKind, Rows]) -> None:
        for kind, (records, positions) in rows.items():
            if not len(positions):
                continue
            assert records.dtype.names is not None
            if "reserved" in records.dtype.names:
                reserved = records["reserved"]
                zero = np.asarray(~reserved.reshape(len(positions), -1).any(axis=1))
                self._expect(zero, positions, f"{kind.name.lower()}: reserved bytes are not zero")
        self._check_account_fields(*rows[JournalKind.ACCOUNT])
        self._check_transfer_fields(*rows[JournalKind.TRANSFER])
        records, positions = rows[JournalKind.BURNED_ID]
        self._expect(_is_id(records["id"]), positions, "a burned id that is 0 or 2^128-1")
        records, positions = rows[JournalKind.SESSION]
        self._expect(~limbs.is_zero(records["client"]), positions, "a session of client 0")
        numbered = records["session"].astype(np.int64) == positions
        self._expect(numbered, positions, "a session whose number is not its position")

    def _check_account_fields(self, records: NDArray[np.void], positions: Places) -> None:
        flags = records["flags"]
        for right, why in (
            (_is_id(records["id"]), "an id that is 0 or 2^128-1"),
            (flags & _ACCOUNT_FLAGS_UNKNOWN == 0, "unknown flags"),
            ((flags & _DEBITS_LIMITED == 0) | (flags & _CREDITS_LIMITED == 0), "both limits"),
            (records["ledger"] != 0, "ledger 0"),
            (records["code"] != 0, "code 0"),
            *((limbs.is_zero(records[name]), f"{name} that is not 0") for name in _BALANCES),
        ):
            self._expect(right, positions, f"an account with {why}")
        stamps = np.r_[np.uint64(self._account_timestamp), records["timestamp"]]
        later = stamps[1:] > stamps[:-1]
        self._expect(later, positions, "an account not later than the account before it")
        self._account_timestamp = int(stamps[-1])

    def _check_transfer_fields(self, records: NDArray[np.void], positions: Places) -> None:
        flags = records["flags"]
        pending = flags & _PENDING != 0
        resolves = flags & (_POST | _VOID) != 0
        for right, why in (
            (_is_id(records["id"]), "an id that is 0 or 2^128-1"),
            (flags & _TRANSFER_FLAGS_UNKNOWN == 0, "unknown flags"),
            ((flags & _POST == 0) | (flags & _VOID == 0), "both post and void"),
            (~resolves | (flags & _NOT_WITH_RESOLVE == 0), "flags no post or void may have"),
            (pending | (flags & _CLOSES == 0), "a closing flag, but no hold"),
            (pending | (records["timeout"] == 0), "a timeout, but no hold"),
            ((flags & _IMPORTED == 0) | (records["timeout"] == 0), "a timeout, but imported"),
            (limbs.is_zero(records["pending_id"]) != resolves, "a wrong pending_id"),
            (records["ledger"] != 0, "ledger 0"),
            (records["code"] != 0, "code 0"),
        ):
            self._expect(right, positions, f"a transfer with {why}")
        stamps = np.r_[np.uint64(self._transfer_timestamp), records["timestamp"]]
        later = stamps[1:] > stamps[:-1]
        self._expect(later, positions, "a transfer not later than the transfer before it")
        self._transfer_timestamp = int(stamps[-1])

    def _check_clock(self, rows: dict[JournalKind, Rows], headers: Sequence[Header]) -> None:
        """The ledger clock increases with each start, session, request and expiry."""
        found = [rows[kind] for kind in (JournalKind.START, JournalKind.SESSION)]
        found.append(rows[JournalKind.REQUEST])
        ends, positions = rows[JournalKind.RESOLUTION]
        expired = ends["outcome"] == HoldOutcome.EXPIRED
        found.append(Rows(ends[expired], positions[expired]))
        places = np.concatenate([one.positions for one in found])
        order = np.argsort(places)
        places = places[order]
        stamps = np.concatenate([one.records["timestamp"] for one in found])[order]
        stamps = stamps.astype(np.int64)
        before = np.r_[np.int64(self._clock), stamps[:-1]]
        self._expect(stamps > before, places, "a clock that does not increase")
        self._clock = headers[-1].clock_after
        # The last of them in a group is where the group says its clock ends.
        ends_at = np.array([header.position_last for header in headers])
        last = np.searchsorted(places, ends_at, side="right") - 1
        after = np.array([header.clock_after for header in headers])
        right = (last >= 0) & (stamps[last] == after) if len(stamps) else after == 0
        self._expect(right, ends_at, "a group whose clock does not end with its last record")

    # ---- accounts -------------------------------------------------------------------------------

    def _add_accounts(self, rows: Rows) -> None:
        ids = rows.records["id"]
        order = np.lexsort((ids[:, 0], ids[:, 1]))
        again = limbs.equal(ids[order][1:], ids[order][:-1])
        twice = np.zeros(len(ids), np.bool_)
        twice[order[1:][again]] = True
        new = (self._index.find(ids) < 0) & ~twice
        self._expect(new, rows.positions, "an account whose id is used already")
        rows = self._left(rows)
        first, count = self._index.count, self._index.count + len(rows.positions)
        self._index.add(rows.records["id"])
        self._accounts = limbs.grown(self._accounts, count)
        self._account_positions = limbs.grown(self._account_positions, count)
        self._sums = limbs.grown(self._sums, count)
        self._closings = limbs.grown(self._closings, count)
        self._accounts[first:count] = rows.records
        self._account_positions[first:count] = rows.positions

    # ---- transfers and holds --------------------------------------------------------------------

    def _fold(self, transfers: Rows, resolutions: Rows, headers: Sequence[Header]) -> None:
        self._check_stretch(transfers, headers)
        found = self._find_accounts(self._left(transfers))
        self._open_holds(found)
        ends, holds = self._find_holds(self._left(resolutions))
        self._check_resolutions(ends, holds)
        if self.wrong is not None:
            count = int(np.searchsorted(found.positions, self.wrong.position))
            found = _Transfers._make(part[:count] for part in found)
            ends = ends.before(self.wrong.position)
            holds = holds[: len(ends.positions)]
        self._pair(found, ends, holds)
        if self.wrong is None:
            self._apply(found, ends, holds)

    def _check_stretch(self, rows: Rows, headers: Sequence[Header]) -> None:
        """The lowest and the highest transfer timestamp are what the group's header says."""
        firsts = np.searchsorted(rows.positions, [header.position_first for header in headers])
        ends = np.r_[firsts[1:], len(rows.positions)]
        stamps = np.r_[rows.records["timestamp"], np.uint64(0)]
        none = ends == firsts
        for name, places in (("min", firsts), ("max", ends - 1)):
            says = np.array(
                [getattr(header, f"transfer_timestamp_{name}") for header in headers], np.uint64
            )
            self._expect(
                says == np.where(none, np.uint64(0), stamps[places]),
                np.array([header.position_last for header in headers]),
                f"a group whose header is wrong about transfer_timestamp_{name}",
            )

    def _find_accounts(self, rows: Rows) -> _Transfers:
        records, positions = rows
        debits = self._index.find(records["debit_account_id"])
        credits = self._index.find(records["credit_account_id"])
        known = (debits >= 0) & (credits >= 0)
        # -1 takes the last place, which the first check covers.
        known &= self._account_positions[debits] < positions
        known &= self._account_positions[credits] < positions
        self._expect(known, positions, "a transfer of an account that does not exist")
        self._expect(debits != credits, positions, "a transfer between an account and itself")
        for name, sides in (("debit", debits), ("credit", credits)):
            same = self._accounts["ledger"][sides] == records["ledger"]
            self._expect(same, positions, f"a transfer whose {name} account is of another ledger")
            later = self._accounts["timestamp"][sides] < records["timestamp"]
            self._expect(later, positions, f"a transfer not later than its {name} account")
        kept = len(self._left(rows).positions)
        return _Transfers(
            records[:kept], positions[:kept], records["flags"][:kept], debits[:kept], credits[:kept]
        )

    def _open_holds(self, found: _Transfers) -> None:
        opens = found.flags & _PENDING != 0
        first, count = self._hold_count, self._hold_count + int(opens.sum())
        for name in ("_holds", "_hold_positions", "_hold_accounts", "_hold_outcomes", "_captured"):
            setattr(self, name, limbs.grown(getattr(self, name), count))
        self._holds[first:count] = found.records[opens]
        self._hold_positions[first:count] = found.positions[opens]
        self._hold_accounts[first:count, 0] = found.debits[opens]
        self._hold_accounts[first:count, 1] = found.credits[opens]
        self._hold_count = count

    def _find_holds(self, rows: Rows) -> tuple[Rows, Places]:
        """The place of each resolution's hold; rows whose hold is not there are faults."""
        wanted = rows.records["position"].astype(np.int64)
        known = self._hold_positions[: self._hold_count]
        holds = np.searchsorted(known, wanted)
        there = holds < self._hold_count
        there &= self._hold_positions[np.where(there, holds, 0)] == wanted
        there &= wanted < rows.positions
        self._expect(there, rows.positions, "the end of a hold that was never opened")
        left = self._left(rows)
        return left, holds[: len(left.positions)]

    def _check_resolutions(self, rows: Rows, holds: Places) -> None:
        records, positions = rows
        hold = self._holds[holds]
        order = np.argsort(holds, kind="stable")
        again = np.zeros(len(holds), np.bool_)
        again[order[1:][holds[order][1:] == holds[order][:-1]]] = True
        self._expect(
            ~again & (self._hold_outcomes[holds] == 0),
            positions,
            "the end of a hold that has ended already",
        )
        same = limbs.equal(records["amount"], hold["amount"]) & (records["flags"] == hold["flags"])
        self._expect(same, positions, "the end of a hold that differs from the hold")
        outcome = records["outcome"]
        known = (outcome >= HoldOutcome.POSTED) & (outcome <= HoldOutcome.EXPIRED)
        self._expect(known, positions, "the end of a hold with an unknown outcome")
        expires = _expires_at(hold)
        by_time = outcome == HoldOutcome.EXPIRED
        in_time = np.where(by_time, expires != 0, (expires == 0) | (records["timestamp"] < expires))
        self._expect(in_time, positions, "the end of a hold on the wrong side of its expiry")

    def _pair(self, found: _Transfers, ends: Rows, holds: Places) -> None:
        """A post or void and the end of its hold stand together, and agree."""
        resolves = found.flags & (_POST | _VOID) != 0
        ended = ends.records["outcome"] != HoldOutcome.EXPIRED
        after = ends.positions[ended] + 1
        if self.wrong is not None:  # the partner may lie behind the fault
            ended &= ends.positions + 1 < self.wrong.position
            after = ends.positions[ended] + 1
        positions = found.positions[resolves]
        self._expect(np.isin(after, positions), after - 1, "a hold that ends without post or void")
        paired = np.isin(positions, after)
        self._expect(paired, positions, "a post or void without the end of its hold")
        if len(after) != len(positions) or not paired.all():
            return
        records, holds = found.records[resolves], holds[ended]
        hold, end = self._holds[holds], ends.records[ended]
        posts = found.flags[resolves] & _POST != 0
        outcome = np.where(posts, HoldOutcome.POSTED, HoldOutcome.VOIDED)
        same = limbs.equal(records["pending_id"], hold["id"]) & (end["outcome"] == outcome)
        for name in ("debit_account_id", "credit_account_id"):
            same &= limbs.equal(records[name], hold[name])
        for name in ("ledger", "code"):
            same &= records[name] == hold[name]
        same &= records["timestamp"] == end["timestamp"]
        self._expect(same, positions, "a post or void that differs from its hold")
        within = np.where(
            posts,
            limbs.at_most(records["amount"], hold["amount"]),
            limbs.equal(records["amount"], hold["amount"]),
        )
        self._expect(within, positions, "a post or void of more than its hold, or a void of less")
        self._captured[holds[posts]] = records["amount"][posts]

    def _apply(self, found: _Transfers, ends: Rows, holds: Places) -> None:
        effects = self._effects(found, ends, holds)
        sums = self._sums.reshape(-1, limbs.LIMBS)
        self._check_closed(effects)
        self._check_limits(effects)
        for places, balance in (
            (effects.debits, _DEBITS_PENDING),
            (effects.credits, _CREDITS_PENDING),
        ):
            limbs.add_at(sums, places * len(_BALANCES) + balance, effects.pending)
            limbs.add_at(sums, places * len(_BALANCES) + balance + 1, effects.posted)
        np.add.at(self._closings, effects.debits, effects.closing_debit)
        np.add.at(self._closings, effects.credits, effects.closing_credit)
        self._hold_outcomes[holds] = ends.records["outcome"]

    def _effects(self, found: _Transfers, ends: Rows, holds: Places) -> _Effects:
        amounts = limbs.sums_of(found.records["amount"])
        pending = (found.flags & _PENDING != 0)[:, None]
        voids = found.flags & _VOID != 0
        released = ends.records["outcome"] != HoldOutcome.POSTED
        held = self._holds[holds]
        zeros = np.zeros((len(holds), limbs.LIMBS), np.int64)
        positions = np.r_[found.positions, ends.positions]
        # Without ends they are in order already.
        order = np.argsort(positions) if len(holds) else slice(None)

        def closing(flag: int) -> Places:
            closes = (found.flags & flag != 0).astype(np.int64)
            opens = ((held["flags"] & flag != 0) & released).astype(np.int64)
            return np.asarray(np.r_[closes, -opens][order])

        return _Effects(
            positions[order],
            np.r_[found.debits, self._hold_accounts[holds, 0]][order],
            np.r_[found.credits, self._hold_accounts[holds, 1]][order],
            np.concatenate([amounts * pending, -limbs.sums_of(held["amount"])])[order],
            np.concatenate([amounts * ~pending * ~voids[:, None], zeros])[order],
            closing(_CLOSES_DEBIT),
            closing(_CLOSES_CREDIT),
            np.r_[~voids, np.zeros(len(holds), np.bool_)][order],
        )

    def _check_closed(self, effects: _Effects) -> None:
        """No transfer but a void on an account that is closed."""
        keys = np.r_[effects.debits, effects.credits]
        changes = np.r_[effects.closing_debit, effects.closing_credit]
        closed = (self._closings[keys] != 0) | (self._accounts["flags"][keys] & _CLOSED != 0)
        closed |= np.isin(keys, keys[changes != 0])
        chosen = np.flatnonzero(closed)
        if not len(chosen):
            return
        chosen = chosen[np.argsort(chosen % len(effects.debits), kind="stable")]
        keys = keys[chosen]
        deltas = np.zeros((len(keys), limbs.LIMBS), np.int64)
        deltas[:, 0] = changes[chosen]
        starts = np.zeros_like(deltas)
        starts[:, 0] = self._closings[keys]
        starts[:, 0] += self._accounts["flags"][keys] & _CLOSED != 0
        before = limbs.running(keys, deltas, starts)[1]
        right = (before[:, 0] == 0) | ~np.r_[effects.enters, effects.enters][chosen]
        places = np.r_[effects.positions, effects.positions][chosen]
        self._expect(right, places, "a transfer of an account that is closed")

    def _check_limits(self, effects: _Effects) -> None:
        """An account with a limit keeps it after every one of its transfers, holds counted."""
        both = effects.pending + effects.posted
        for limit, near, far, base in (
            (_DEBITS_LIMITED, effects.debits, effects.credits, _DEBITS_PENDING),
            (_CREDITS_LIMITED, effects.credits, effects.debits, _CREDITS_PENDING),
        ):
            keys = np.r_[near, far]
            chosen = np.flatnonzero(self._accounts["flags"][keys] & limit != 0)
            if not len(chosen):
                continue
            chosen = chosen[np.argsort(chosen % len(near), kind="stable")]
            # What is left before the limit: the other side's posted less all of this side.
            deltas = np.concatenate([-both, effects.posted])[chosen]
            keys = keys[chosen]
            other = (base + _OTHER_SIDE) % len(_BALANCES) + 1
            starts = self._sums[keys, other] - self._sums[keys, base] - self._sums[keys, base + 1]
            left = limbs.running(keys, deltas, starts)[0]
            places = np.r_[effects.positions, effects.positions][chosen]
            right = left[:, limbs.LIMBS - 1] >= 0
            self._expect(right, places, "a transfer beyond the limit of an account")

    # ---- results --------------------------------------------------------------------------------

    def accounts(self) -> NDArray[np.void]:
        """Every account as it must stand now, in order of creation: array of ACCOUNT.

        ValueError names the first account whose balance is below 0 or beyond 2^128-1.
        """
        count = self._index.count
        result = self._accounts[:count].copy()
        for place, name in enumerate(_BALANCES):
            sums = limbs.carried(self._sums[:count, place])
            if not limbs.fits(sums).all():
                bad = int(np.flatnonzero(~limbs.fits(sums))[0])
                account = limbs.int_of(limbs.sums_of(result["id"][bad : bad + 1])[0])
                raise ValueError(f"account {account}: {name} is {limbs.int_of(sums[bad])}")
            result[name] = limbs.numbers_of(sums)
        result["flags"] |= np.where(self._closings[:count] > 0, np.uint16(_CLOSED), np.uint16(0))
        return result

    def open_holds(self) -> NDArray[np.uint64]:
        """Open holds in order of creation: (position, expires_at ns or 0), shape (n, 2)."""
        holds = self._holds[: self._hold_count]
        still = self._hold_outcomes[: self._hold_count] == 0
        positions = self._hold_positions[: self._hold_count].astype(np.uint64)
        return np.asarray(np.stack([positions, _expires_at(holds)], axis=1)[still])

    def totals(self) -> list[LedgerTotals]:
        """Each ledger added up, lowest first."""
        accounts, holds = self._accounts[: self._index.count], self._holds[: self._hold_count]
        ledgers, places = np.unique(accounts["ledger"], return_inverse=True)
        held_in = np.searchsorted(ledgers, holds["ledger"])
        ended = self._hold_outcomes[: self._hold_count] != 0
        amounts = limbs.sums_of(holds["amount"])
        captured = limbs.sums_of(self._captured[: self._hold_count])

        def total(keys: NDArray[np.int64], numbers: limbs.Sums) -> list[int]:
            sums = np.zeros((len(ledgers), limbs.LIMBS), np.int64)
            limbs.add_at(sums, keys, numbers)
            return [limbs.int_of(row) for row in sums]

        count = self._index.count
        columns = [
            total(places, limbs.carried(self._sums[:count, balance]))
            for balance in range(len(_BALANCES))
        ]
        columns += [
            total(held_in, amounts),
            total(held_in, captured),
            total(held_in[ended], (amounts - captured)[ended]),
            total(held_in[~ended], amounts[~ended]),
        ]
        counts = np.bincount(places, minlength=len(ledgers)).tolist()
        return [
            LedgerTotals(ledger, accounts_in, *sums)
            for ledger, accounts_in, *sums in zip(ledgers.tolist(), counts, *columns, strict=True)
        ]


def _is_id(ids: NDArray[np.uint64]) -> Mask:
    return ~(limbs.is_zero(ids) | limbs.is_max(ids))


def _expires_at(holds: NDArray[np.void]) -> NDArray[np.uint64]:
    timeouts = holds["timeout"].astype(np.uint64)
    expires = holds["timestamp"] + timeouts * np.uint64(_NS_PER_SECOND)
    return np.asarray(np.where(timeouts == 0, np.uint64(0), expires))
