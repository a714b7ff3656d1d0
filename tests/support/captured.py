"""The frames of tests/frames, and short ways to hand buffers to the codec and read its records."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ledger.facts import schema

FRAMES = {
    path.stem: bytes.fromhex(path.read_text().replace("\n", ""))
    for path in sorted((Path(__file__).resolve().parents[1] / "frames").glob("*.hex"))
}
REQUESTS = {name: frame for name, frame in FRAMES.items() if frame[114] == 5}
REPLIES = {name: frame for name, frame in FRAMES.items() if frame[114] == 8}
SESSION = sorted({name.rsplit("_", 1)[0] for name in FRAMES if name[0] in "01"})

RELEASE = 0x1109  # of the clients
SERVER_RELEASE = 0xFFFF_0000


def read(parse: Any, record: Any, buffer: bytes, capacity: int = 64) -> tuple[Any, int, int, str]:
    """(records, consumed, needed, name of the error or "") of one call over all of `buffer`."""
    records = np.full(capacity * record.itemsize, 0xA5, np.uint8).view(record)
    count, consumed, needed, error = parse(buffer, 0, len(buffer), records)
    assert (records[count:].view(np.uint8) == 0xA5).all(), "records beyond the count are untouched"
    return records[:count], consumed, needed, schema.WireError(error).name if error else ""


def counts_at(buffer: bytes, offset: int, batches: int) -> list[int]:
    """The element counts that `batches_offset` points at, batch 1 first."""
    places = range(offset, offset - 2 * batches, -2)
    return [int.from_bytes(buffer[place : place + 2], "little") for place in places]


def guarded(frame: bytes) -> list[tuple[memoryview, int]]:
    """(buffer, start) twice: `frame` right after, and right before, memory that must not be read.

    A read outside the frame ends the process there, where elsewhere it would go unnoticed.
    """
    guard = 1 << 18  # a whole trailer of the longest kind falls into it
    room = -(-len(frame) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    placed = []
    for start in (guard, guard + room - len(frame)):
        memory = mmap.mmap(-1, guard + room + guard)
        memory[start : start + len(frame)] = frame
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for wall in (address, address + guard + room):
            assert libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(guard), 0) == 0
        placed.append((memoryview(memory), start))
    return placed
