"""Test tool: what the past is, told slowly from a journal's groups: columns and answers.

What lives here: a walk over the records of groups that keeps every transfer, burned id and
resolution with its place; the columns of a range of groups, built record by record in plain Python
from the format's words alone; and answers to what can be asked, found by looking at everything. It
shares no code with what builds or reads columns. It knows nothing of files.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ledger.facts import schema
from tests.support.books import Groups

U64 = 2**64 - 1
TIMESTAMP_MAX = 2**63 - 1
RESULTS_MAX = 8_189
HISTORY, PENDING, POST, VOID = 8, 2, 4, 8
DEBITS, CREDITS, REVERSED = 1, 2, 4
BLOCK_TRANSFERS = 4096
PANEL_BLOCKS = 63
PANEL_LINES = 126  # of 32 bytes, in a part
SALTS = (
    0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31,
)  # fmt: skip
FIELDS = ("user_data_128", "user_data_64", "user_data_32", "code", "ledger")


def fold(a: int, b: int) -> int:
    product = a * b
    return (product & U64) ^ (product >> 64)


def hash64(key: tuple[int, int], value: int) -> int:
    low, high = value & U64, value >> 64
    mixed = fold(low ^ key[0] ^ 0x2D358DCCAA6C78A5, high ^ key[1] ^ 0x8BB84B93962EACC9)
    return fold(mixed ^ 0x9E3779B97F4A7C15, 0x4B33A62ED433D4A3)


def key_of(hash_key: bytes) -> tuple[int, int]:
    return int.from_bytes(hash_key[:8], "little"), int.from_bytes(hash_key[8:], "little")


class Moved(NamedTuple):
    """A transfer as it is stored, and what it did to its accounts."""

    record: bytes
    place: int
    fields: dict[str, int]
    accounts: tuple[int, int]  # indexes
    balances: tuple[tuple[int, ...], tuple[int, ...]]  # right after it, of both


def fields_of(record: np.void) -> dict[str, int]:
    return {
        name: schema.int_of(value) if isinstance(value, np.ndarray) else int(value)
        for name in record.dtype.names
        if not isinstance(value := record[name], np.ndarray) or value.shape == (2,)
    }


class PastOracle:
    """Everything that `groups` say of transfers."""

    def __init__(self, groups: Groups) -> None:
        self.transfers: list[Moved] = []
        self.by_id: dict[int, Moved] = {}
        self.burned: dict[int, tuple[int, bytes]] = {}  # id: place, record
        self.ended: list[tuple[int, int, int]] = []  # group, place of the hold, outcome
        self.expired: list[tuple[int, tuple[int, int]]] = []  # place, accounts of the hold
        self.accounts: dict[int, int] = {}  # id: index
        self.history: list[bool] = []
        self._balances: list[list[int]] = []
        self._places: dict[int, Moved] = {}  # by position
        for fields, body in groups:
            self._walk(fields["group"], fields["position_first"], bytes(body))

    def _walk(self, group: int, position: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            kind, _, count, size = struct.unpack_from("<HHII", body, at)
            at += 16
            dtype = schema.RECORDS[schema.JournalKind(kind).name.lower()]
            for index in range(count):
                offset = at + index * dtype.itemsize
                record = body[offset : offset + dtype.itemsize]
                place = group << 20 | offset // 16 << 3
                self._apply(group, kind, position, place, record, dtype)
                position += 1
            at += size

    def _apply(
        self, group: int, kind: int, position: int, place: int, record: bytes, dtype: Any
    ) -> None:
        kinds = schema.JournalKind
        if kind not in (kinds.ACCOUNT, kinds.TRANSFER, kinds.RESOLUTION, kinds.BURNED_ID):
            return
        fields = fields_of(np.frombuffer(record, dtype)[0])
        if kind == kinds.ACCOUNT:
            self.accounts[fields["id"]] = len(self.accounts)
            self.history.append(bool(fields["flags"] & HISTORY))
            self._balances.append([0, 0, 0, 0])
        elif kind == kinds.BURNED_ID:
            self.burned[fields["id"]] = place | 1, record
        elif kind == kinds.RESOLUTION:
            hold = self._places[fields["position"]]
            self.ended.append((group, hold.place, fields["outcome"]))
            if fields["outcome"] == schema.HoldOutcome.EXPIRED:
                self.expired.append((place, hold.accounts))
            debit, credit = (self._balances[account] for account in hold.accounts)
            debit[0] -= fields["amount"]
            credit[2] -= fields["amount"]
        else:
            self._move(position, place, record, fields)

    def _move(self, position: int, place: int, record: bytes, fields: dict[str, int]) -> None:
        accounts = (
            self.accounts[fields["debit_account_id"]],
            self.accounts[fields["credit_account_id"]],
        )
        debit, credit = (self._balances[account] for account in accounts)
        if not fields["flags"] & VOID:
            pending = bool(fields["flags"] & PENDING)
            debit[0 if pending else 1] += fields["amount"]
            credit[2 if pending else 3] += fields["amount"]
        moved = Moved(record, place, fields, accounts, (tuple(debit), tuple(credit)))
        self.transfers.append(moved)
        self.by_id[fields["id"]] = self._places[position] = moved

    # ---- columns --------------------------------------------------------------------------------

    def columns(
        self,
        hash_key: bytes,
        group_first: int,
        group_last: int,
        block_transfers: int = BLOCK_TRANSFERS,
        panel_blocks: int = PANEL_BLOCKS,
        heads_bits: int = 8,
    ) -> dict[int, np.ndarray]:
        """Columns 1 to 6 of a range of groups.

        heads_bits: one transfer in 2^heads_bits has its accounts' balances beside it.
        """
        key = key_of(hash_key)
        here = [t for t in self.transfers if group_first <= t.place >> 20 <= group_last]
        ids = [(hash64(key, t.fields["id"]), t.place) for t in here]
        ids += [
            (hash64(key, id), place)
            for id, (place, _) in self.burned.items()
            if group_first <= place >> 20 <= group_last
        ]
        ended = [
            (hold, outcome)
            for group, hold, outcome in self.ended
            if group_first <= group <= group_last
        ]
        rows, balances = [], []
        for moved in here:
            for account, after in zip(moved.accounts, moved.balances, strict=True):
                rows.append((account, moved.place))
                head = moved.place * 0x9E3779B97F4A7C15 % (1 << 64) >> (64 - heads_bits) == 0
                if self.history[account] and head:
                    amounts = [limb for amount in after for limb in schema.u128(amount)]
                    timestamp = moved.fields["timestamp"]
                    balances.append((account, moved.place, timestamp, 0, *amounts))
        for place, accounts in self.expired:
            if group_first <= place >> 20 <= group_last:
                for account, kind in zip(accounts, (2, 3), strict=True):
                    if self.history[account]:
                        rows.append((account, place | kind))
        blocks = [here[at : at + block_transfers] for at in range(0, len(here), block_transfers)]
        panels = [blocks[at : at + panel_blocks] for at in range(0, len(blocks), panel_blocks)]
        return {
            1: np.array(sorted(ids), np.uint64).reshape(-1, 2),
            2: np.array(sorted(ended), np.uint64).reshape(-1, 2),
            3: np.array(sorted(rows), np.uint64).reshape(-1, 2),
            4: np.array(sorted(balances), np.uint64).reshape(-1, 12),
            5: rows_of(48, (row for panel in panels for row in block_rows(panel))).view(np.uint64),
            6: rows_of(4064, (part for panel in panels for part in panel_parts(key, panel))),
        }

    # ---- answers --------------------------------------------------------------------------------

    def until(self, group: int) -> list[Moved]:
        """The transfers of the groups up to this one."""
        return [t for t in self.transfers if t.place >> 20 <= group]

    def outcome(self, moved: Moved, group: int) -> int:
        """How a hold had ended at the end of a group; 0 for open, or for what is none."""
        ends = [outcome for at, hold, outcome in self.ended if hold == moved.place and at <= group]
        return ends[0] if ends else 0

    def at(self, timestamp: int) -> bool:
        times = [t.fields["timestamp"] for t in self.transfers]
        index = bisect_left(times, timestamp)
        return index < len(times) and times[index] == timestamp

    def statement(self, group: int, balances: bool, wanted: dict[str, int]) -> bytes:
        """The results of an account filter, of all transfers up to a group."""
        if not sides_and_range_make_sense(wanted):
            return b""
        account = wanted["account_id"]
        index = self.accounts[account]
        if balances and not self.history[index]:
            return b""
        found = []
        for moved in self.until(group):
            side = moved.accounts.index(index) if index in moved.accounts else None
            asked = DEBITS if side == 0 else CREDITS
            if side is None or not wanted["flags"] & asked or not chosen(wanted, moved.fields):
                continue
            amounts = b"".join(amount.to_bytes(16, "little") for amount in moved.balances[side])
            time = moved.fields["timestamp"].to_bytes(8, "little")
            found.append((amounts + time).ljust(128, b"\0") if balances else moved.record)
        return limited(found, wanted, REVERSED)

    def query(self, group: int, wanted: dict[str, int]) -> bytes:
        """The results of a query filter, of all transfers up to a group."""
        if not range_makes_sense(wanted):
            return b""
        found = [t.record for t in self.until(group) if chosen(wanted, t.fields)]
        return limited(found, wanted, 1)


def chosen(wanted: dict[str, int], fields: dict[str, int]) -> bool:
    latest = wanted["timestamp_max"] or TIMESTAMP_MAX
    return wanted["timestamp_min"] <= fields["timestamp"] <= latest and all(
        wanted.get(name, 0) in (0, fields[name]) for name in FIELDS
    )


def limited(found: list[bytes], wanted: dict[str, int], reversed_flag: int) -> bytes:
    if wanted["flags"] & reversed_flag:
        found = found[::-1]
    return b"".join(found[: min(wanted["limit"], RESULTS_MAX)])


def range_makes_sense(wanted: dict[str, int]) -> bool:
    first, last = wanted["timestamp_min"], wanted["timestamp_max"]
    in_order = last in (0, max(first, last)) and max(first, last) <= TIMESTAMP_MAX
    return in_order and wanted["limit"] > 0


def sides_and_range_make_sense(wanted: dict[str, int]) -> bool:
    return bool(wanted["flags"] & (DEBITS | CREDITS)) and range_makes_sense(wanted)


def field_hash(key: tuple[int, int], name: str, value: int) -> int:
    field = FIELDS.index(name) + 1
    return hash64((key[0] + field * 0x9E3779B97F4A7C15 & U64, key[1]), value)


def rows_of(length: int, rows: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, length)


def block_rows(panel: list[list[Moved]]) -> Iterable[bytes]:
    """Where each block of a panel is."""
    for index, block in enumerate(panel):
        times = [moved.fields["timestamp"] for moved in block]
        yield struct.pack(
            "<QQQQQII", block[0].place, times[0], times[-1], block[-1].place >> 20,
            panel[0][0].place, index, len(block),
        )  # fmt: skip


def panel_parts(key: tuple[int, int], panel: list[list[Moved]]) -> Iterable[bytes]:
    """Split-block Bloom filters of a panel's blocks, at most 12 keys a line, line by line."""
    keys = [
        {
            field_hash(key, name, moved.fields[name])
            for moved in block
            for name in FIELDS
            if moved.fields[name]
        }
        for block in panel
    ]
    count = max(1, -(-max(map(len, keys)) // 12))
    lines = [[[0] * 8 for _ in panel] for _ in range(count)]
    for index, some in enumerate(keys):
        for hashed in some:
            words = lines[hashed * count >> 64][index]
            for word, salt in enumerate(SALTS):
                words[word] |= 1 << ((hashed & 0xFFFF_FFFF) * salt % 2**32 >> 27)
    each = PANEL_LINES // len(panel)
    for part, first in enumerate(range(0, count, each)):
        head = struct.pack("<QQIIQ", panel[0][0].place, part, len(panel), count, 0)
        filled = [struct.pack("<8I", *w) for line in lines[first : first + each] for w in line]
        yield (head + b"".join(filled)).ljust(4064, b"\0")
