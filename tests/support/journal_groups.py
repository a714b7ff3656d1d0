"""Journals for tests of reading records: groups of drawn sizes, and values to be changed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from ledger.facts import schema
from ledger.journal.group import Group
from ledger.journal.journal import Journal

CLUSTER = 7
BLOCK_BYTES = 4096
HEADER_BYTES = 256
RUN = np.dtype([("kind", "<u2"), ("version", "<u2"), ("count", "<u4"), ("bytes", "<u8")])
TRANSFER, BURNED, OF_DEBIT, OF_CREDIT = range(4)
_ENDED = int(schema.JournalKind.RESOLUTION)
KINDS = int(schema.JournalKind.TRANSFER), int(schema.JournalKind.BURNED_ID), _ENDED, _ENDED
# Transfers in a group: its value lies within a leaf, or is read whole, or in parts.
SIZES = (1, 2, 14, 15, 16, 30, 100, 127, 128, 500, 3000)


def transfers(rng: np.random.Generator, count: int) -> bytes:
    made = np.zeros(count, schema.TRANSFER)
    made.view(np.uint8).reshape(count, 128)[:, :64] = rng.integers(1, 255, (count, 64))
    for name in ("ledger", "code"):
        made[name] = rng.integers(1, 1000, count)
    made["timestamp"] = np.cumsum(rng.integers(1, 5, count))
    return made.tobytes()


def others(kind: int, count: int) -> bytes:
    if kind == BURNED:
        burned = np.zeros(count, schema.BURNED_ID)
        burned.view(np.uint64).reshape(count, 4)[:, 0] = np.arange(1, count + 1)
        burned["timestamp"], burned["status"] = 5, 6
        return burned.tobytes()
    ended = np.zeros(count, schema.RESOLUTION)
    ended["position"], ended["timestamp"], ended["outcome"] = 1, 2, 3
    return ended.tobytes()


@functools.cache
def made(number: int, count: int) -> tuple[bytes, tuple[int, ...]]:
    """A body with transfers and a few other records, and their places in group `number`."""
    rng = np.random.default_rng((number, count))
    body, places = b"", []
    for kind, records, each, some in (
        (TRANSFER, transfers(rng, count), 128, count),
        (BURNED, others(BURNED, number % 3), 32, number % 3),
        (OF_DEBIT, others(OF_DEBIT, number % 2), 48, number % 2),
        (OF_CREDIT, others(OF_CREDIT, number % 2), 48, number % 2),
    ):
        if some:
            run = KINDS[kind], 1, some, len(records)
            body += np.array([run], RUN).tobytes()
            at = range(len(body), len(body) + len(records), each)
            places += [number << 20 | offset // 16 << 3 | kind for offset in at]
            body += records
    return body, tuple(places)


def group_of(body: bytes, number: int) -> Group:
    return Group(body, number, 1, 1, number - 1, number)


def create(directory: Path, counts: list[int]) -> list[int]:
    """A book of groups with so many transfers each; the places of all records."""
    Journal.create(directory, CLUSTER, group_of(made(1, counts[0])[0], 1))
    with Journal.open(directory) as book:
        for number, count in enumerate(counts[1:], 2):
            book.append(number - 1, group_of(made(number, count)[0], number))
    return [place for number, count in enumerate(counts, 1) for place in made(number, count)[1]]


@contextlib.contextmanager
def changed(directory: Path, number: int) -> Iterator[bytearray]:
    """The value of a group, to be changed; of any length."""
    path, key = str(directory / "journal"), number.to_bytes(8, "big")
    with lmdb.open(path, map_size=1 << 30, lib_version=0) as env, env.begin(write=True) as write:
        value = bytearray(write.get(key))
        yield value
        assert write.put(key, bytes(value))
