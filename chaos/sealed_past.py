"""Test tool: the sealed past by brute force: everything in lists, every question a walk over all.

What lives here: what answers a core that drops its windows, in place of segments on a disk. It
reads the groups a driver has closed and, for balances, the columns of a window; it asks the core
nothing else. Its answers were typed from the meaning of the reads, not from the code that it helps
to test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chaos.model import AccountFilter, Operation, QueryFilter, Transfer, decode_all
from ledger.facts import schema

KEY = bytes(range(16))
PENDING, POST_OR_VOID, VOID = 2, 4 | 8, 8
IDS = 1


class SealedPast:
    """All transfers, burned ids and ends of holds of the windows that were sealed."""

    def __init__(self) -> None:
        self.transfers: dict[int, Transfer] = {}  # by id, in order
        self.raw: dict[int, bytes] = {}
        self.burned: set[int] = set()
        self.ends: dict[int, int] = {}  # outcome by position of the hold
        self.positions: dict[int, int] = {}  # by id
        self.amounts: dict[int, list[int]] = {}  # by account id: debits, credits, pending, posted
        self.balances: dict[tuple[int, int], bytes] = {}  # by account id and timestamp
        self.at_position: dict[int, Transfer] = {}
        self.asked = 0

    def see(self, kind: Any, position: int, records: np.ndarray) -> None:
        """A run of a group whose window is sealed."""
        kinds = schema.JournalKind
        if kind == kinds.TRANSFER:
            for offset, (raw, transfer) in enumerate(
                zip(records.view("V128"), decode_all(Transfer, records.tobytes()), strict=True)
            ):
                self.transfers[transfer.id] = transfer
                self.raw[transfer.id] = bytes(raw)
                self.positions[transfer.id] = position + offset
                self.at_position[position + offset] = transfer
                self.move(transfer)
        elif kind == kinds.BURNED_ID:
            self.burned |= {int.from_bytes(bytes(r)[:16], "little") for r in records.view("V32")}
        elif kind == kinds.RESOLUTION:
            for record in records:
                self.ends[int(record["position"])] = int(record["outcome"])
                hold = self.at_position[int(record["position"])]
                self.of(hold.debit_account_id)[0] -= hold.amount
                self.of(hold.credit_account_id)[2] -= hold.amount

    def of(self, account: int) -> list[int]:
        """Debits pending and posted, credits pending and posted."""
        return self.amounts.setdefault(account, [0, 0, 0, 0])

    def move(self, t: Transfer) -> None:
        if not t.flags & VOID:
            at = 0 if t.flags & PENDING else 1
            self.of(t.debit_account_id)[at] += t.amount
            self.of(t.credit_account_id)[2 + at] += t.amount
        for account in (t.debit_account_id, t.credit_account_id):
            raw = b"".join(amount.to_bytes(16, "little") for amount in self.of(account))
            self.balances[account, t.timestamp] = (
                raw + t.timestamp.to_bytes(8, "little") + bytes(56)
            )

    # ---- answers --------------------------------------------------------------------------------

    def attach_to(self, core: Any) -> None:
        """Answer what the core wants."""
        self.asked += 1
        raw_ids, reads, timestamps = core.take_wanted()
        ids = [int.from_bytes(raw_ids[at : at + 16], "little") for at in range(0, len(raw_ids), 16)]
        for id in list(ids):
            if id in self.transfers and self.transfers[id].flags & POST_OR_VOID:
                ids.append(self.transfers[id].pending_id)
        kinds = [1 if id in self.transfers else 2 if id in self.burned else 0 for id in ids]
        records = [self.raw.get(id, bytes(128)) for id in ids]
        outcomes = [
            self.ends.get(self.positions[id], 0)
            if id in self.transfers and self.transfers[id].flags & PENDING
            else 0
            for id in ids
        ]
        stamps = {transfer.timestamp for transfer in self.transfers.values()}
        core.attach(
            b"".join(id.to_bytes(16, "little") for id in ids),
            np.array(kinds, np.uint8),
            np.frombuffer(bytearray(b"".join(records)), np.uint8).reshape(-1, 128),
            np.array(outcomes, np.uint8),
            [
                (operation, raw, self.read(operation, raw, account))
                for operation, raw, account in reads
            ],
            timestamps,
            np.array([int(stamp) in stamps for stamp in timestamps], bool),
        )

    def read(self, operation: int, raw: bytes, account: int) -> bytes:
        if operation == Operation.query_transfers:
            [f] = decode_all(QueryFilter, raw)
            chosen = [
                t
                for t in self.transfers.values()
                if self.matches(f, t) and f.ledger in (0, t.ledger)
            ]
        else:
            [f] = decode_all(AccountFilter, raw)
            chosen = [
                t
                for t in self.transfers.values()
                if self.matches(f, t)
                and (
                    (t.debit_account_id == f.account_id and f.flags & 1)
                    or (t.credit_account_id == f.account_id and f.flags & 2)
                )
            ]
        if f.flags & (1 if operation == Operation.query_transfers else 4):
            chosen.reverse()
        chosen = chosen[: min(f.limit, 8189)]
        if operation == Operation.get_account_balances:
            return b"".join(self.balances[f.account_id, t.timestamp] for t in chosen)
        return b"".join(self.raw[t.id] for t in chosen)

    @staticmethod
    def matches(f: Any, t: Transfer) -> bool:
        return (
            f.timestamp_min <= t.timestamp <= (f.timestamp_max or 1 << 63)
            and f.user_data_128 in (0, t.user_data_128)
            and f.user_data_64 in (0, t.user_data_64)
            and f.user_data_32 in (0, t.user_data_32)
            and f.code in (0, t.code)
        )
