"""Column files for tests: written by short calls, and read by a parser that shares no code.

The parser and the filter of blocks are written from the format's description, in plain Python, and
say what a file must hold. It knows no journal.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.history import _columns
from ledger.history._columns import ColumnFile, ColumnWriter
from ledger.journal import _check

HEAD: dict[str, Any] = {
    "kind": _columns.SEGMENT,
    "cluster": 2**127 + 5,
    "group_first": 3,
    "group_last": 2**63 + 9,
    "position_last": 2**64 - 2,
    "digest": bytes(range(32)),
    "windows": 4,
}
PAGE_BYTES = 4096
PAYLOAD_BYTES = 4064
KEYED_END = 16
FIELDS = struct.Struct("<8sHHI16sQQQ32sQ")  # what a header begins with
FIELDS_FROM_CLUSTER = slice(16, 96)
COLUMNS_AT, COLUMN = 128, struct.Struct("<IIQQQ")
FACTS_AT = 1024
SALTS = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947,
         0x5C6BFB31)  # fmt: skip

Pairs = list[tuple[int, int]]
Records = NDArray[np.uint8]


def records(pairs: Pairs, record_bytes: int = 16) -> Records:
    """A record for each pair; what follows the pair is made from it: (n, record_bytes)."""
    rows = np.zeros((len(pairs), record_bytes), np.uint8)
    rows[:, :16] = np.array(pairs, np.uint64).reshape(-1, 2).view(np.uint8)
    rows[:, 16:] = rows[:, :16].sum(axis=1, dtype=np.uint8)[:, None]
    return rows


def write(path: Path, columns: dict[int, Records], facts: bytes = b"", **head: Any) -> Path:
    writer = ColumnWriter(path, **HEAD | head)
    for column, rows in columns.items():
        writer.column(column, rows.shape[1])
        writer.append(rows)
    writer.finish(facts)
    return path


def opened(path: Path, columns: dict[int, Records], **head: Any) -> ColumnFile:
    return ColumnFile(write(path, columns, **head))


def pairs_of(file: ColumnFile, column: int) -> Pairs:
    rows = file.records(column, 0, file.count(column))
    return [tuple(pair) for pair in rows[:, :16].copy().view(np.uint64).tolist()]


# ---- the format, once more ----------------------------------------------------------------------


class Parsed(NamedTuple):
    """What a file says: its header's fields, its facts, and the bytes of each column's records."""

    fields: tuple[Any, ...]
    facts: bytes
    columns: dict[int, tuple[int, list[bytes]]]  # record_bytes, records


def identity(header: bytes | bytearray) -> int:
    kind = int.from_bytes(header[10:12], "little")
    return int.from_bytes(_check.aegis(header[FIELDS_FROM_CLUSTER])[:8], "little") ^ kind


def sealed(payload: bytes, number: int, mark: int) -> bytes:
    page = payload.ljust(PAYLOAD_BYTES, b"\0") + struct.pack("<QQ", number, mark)
    return page + _check.aegis(page)


def reseal(path: Path, page: int, at: int, new: bytes) -> None:
    """Change a page's payload and give it the check that it would have been written with."""
    whole, start = bytearray(path.read_bytes()), page * PAGE_BYTES
    whole[start + at : start + at + len(new)] = new
    payload = bytes(whole[start : start + PAYLOAD_BYTES])
    whole[start : start + PAGE_BYTES] = sealed(payload, page, identity(whole))
    path.write_bytes(whole)


def parse(path: Path) -> Parsed:
    """Read a whole file by the format's description; AssertionError where it is not so."""
    whole = path.read_bytes()
    pages = [whole[at : at + PAGE_BYTES] for at in range(0, len(whole), PAGE_BYTES)]
    mark = identity(whole)
    for number, page in enumerate(pages):
        assert page == sealed(page[:PAYLOAD_BYTES], number, mark)
    fields = FIELDS.unpack_from(whole)
    facts_bytes = int.from_bytes(whole[FACTS_AT : FACTS_AT + 4], "little")
    columns, next_page = {}, 1
    for i in range(fields[3]):
        column, record_bytes, count, page_first, page_count = COLUMN.unpack_from(
            whole, COLUMNS_AT + i * COLUMN.size
        )
        assert page_first == next_page
        rows, firsts, after = _stored(pages, page_first, count, record_bytes)
        assert after == page_first + page_count
        if column < KEYED_END:
            assert rows == sorted(set(rows), key=lambda row: struct.unpack_from("<QQ", row))
            fences, _, after = _stored(pages, after, page_count, 16)
            assert fences == [row[:16] for row in firsts]
        columns[column] = (record_bytes, rows)
        next_page = after
    assert next_page == len(pages)
    return Parsed(fields, whole[FACTS_AT + 4 :][:facts_bytes], columns)


def _stored(
    pages: list[bytes], page: int, count: int, record_bytes: int
) -> tuple[list[bytes], list[bytes], int]:
    """Records that begin on a page, the first of each page, and the page after them."""
    each = PAYLOAD_BYTES // record_bytes
    rows: list[bytes] = []
    firsts = []
    while len(rows) < count:
        some = min(each, count - len(rows))
        payload = pages[page][:PAYLOAD_BYTES]
        assert payload[some * record_bytes :].strip(b"\0") == b""
        rows += [payload[i * record_bytes : (i + 1) * record_bytes] for i in range(some)]
        firsts.append(rows[-some])
        page += 1
    return rows, firsts, page


# ---- blocks -------------------------------------------------------------------------------------

PANEL_LINES = 126


class Block(NamedTuple):
    """A block of transfers: what its record says and the hashes in its filter."""

    place_first: int
    timestamp_first: int
    timestamp_last: int
    transfers: int
    group_last: int
    hashes: list[int]

    def lines(self, count: int) -> list[bytes]:
        """The filter, line by line."""
        words = np.zeros((count, 8), np.uint32)
        for value in self.hashes:
            line = value * count >> 64
            for word, salt in enumerate(SALTS):
                words[line, word] |= np.uint32(1 << (((value * salt) & 0xFFFFFFFF) >> 27))
        return [line.tobytes() for line in words]

    def maybe(self, hashes: list[int], count: int) -> bool:
        return self._replace(hashes=self.hashes + hashes).lines(count) == self.lines(count)


class Panel(NamedTuple):
    """Blocks side by side, with so many lines each."""

    blocks: list[Block]
    line_count: int

    def parts(self) -> list[bytes]:
        each = PANEL_LINES // len(self.blocks)
        lines = list(zip(*(block.lines(self.line_count) for block in self.blocks), strict=True))
        heads = (
            struct.pack(
                "<QQIIQ", self.blocks[0].place_first, part, len(self.blocks), self.line_count, 0
            )
            for part in range(-(-self.line_count // each))
        )
        filled = (
            b"".join(map(b"".join, lines[at : at + each])) for at in range(0, len(lines), each)
        )
        return [
            (head + some).ljust(PAYLOAD_BYTES, b"\0")
            for head, some in zip(heads, filled, strict=True)
        ]

    def rows(self) -> list[bytes]:
        return [
            struct.pack(
                "<QQQQQII", block.place_first, block.timestamp_first, block.timestamp_last,
                block.group_last, self.blocks[0].place_first, index, block.transfers,
            )
            for index, block in enumerate(self.blocks)
        ]  # fmt: skip


def panel_columns(panels: list[Panel]) -> dict[int, Records]:
    """The columns of blocks and of panels."""
    rows = b"".join(row for panel in panels for row in panel.rows())
    parts = b"".join(part for panel in panels for part in panel.parts())
    return {
        _columns.BLOCKS: np.frombuffer(rows, np.uint8).reshape(-1, 48),
        _columns.PANELS: np.frombuffer(parts, np.uint8).reshape(-1, PAYLOAD_BYTES),
    }
