"""Tests of the search in LMDB's file: what the library gives, or nothing; garbage harms nobody."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.journal import _file
from tests.support.properties import bounded

PAGE_BYTES = 4096
META, BRANCH, LEAF, OVERFLOW = 8, 1, 2, 4


def opened(directory: Path) -> lmdb.Environment:
    return lmdb.open(str(directory), map_size=1 << 32, sync=False, lib_version=0)


@contextmanager
def reading(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def value(descriptor: int, snapshot: int, key: bytes) -> bytes | None:
    found = _file.Pages(descriptor, snapshot).find(key)
    return None if found is None else os.pread(descriptor, found[1], found[0])


def number(n: int) -> bytes:
    return n.to_bytes(8, "big")


def content(n: int, size: int) -> bytes:
    return random.Random(n).randbytes(size)


def written(directory: Path, sizes: dict[int, int]) -> None:
    with opened(directory) as env, env.begin(write=True) as transaction:
        for n, size in sorted(sizes.items()):
            assert transaction.put(number(n), content(n, size), append=True)


SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from((2021, 2022, 2023, 4079, 4080, 4081, 8176, 8177)),
    st.integers(0, 30_000),
)


@bounded(60)
@given(st.dictionaries(st.integers(1, 2**64 - 2), SIZES, max_size=300), st.randoms())
def test_each_key_is_found_where_the_library_has_it(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[int, int], rng: random.Random
) -> None:
    directory = tmp_path_factory.mktemp("scratch")
    written(directory, sizes)
    with opened(directory) as env, env.begin() as transaction, reading(directory) as file:
        asked = [*sizes, *(n + 1 for n in sizes), 0]
        rng.shuffle(asked)
        for n in asked:
            assert value(file, transaction.id(), number(n)) == transaction.get(number(n))


def test_keys_of_any_length(tmp_path: Path) -> None:
    keys = [b"a" * length for length in range(1, 60)] + [b"b", b"ab", b"a\0", b"\xff" * 511]
    with opened(tmp_path) as env, env.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key, key * 9)
    with opened(tmp_path) as env, env.begin() as transaction, reading(tmp_path) as file:
        for key in [*keys, b"a" * 60, b"aa\0", b"c", b"\0", b"\xff"]:
            assert value(file, transaction.id(), key) == transaction.get(key)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of three levels and more, with a value here and there that has its own pages."""
    directory = tmp_path_factory.mktemp("deep")
    written(directory, {n: 5000 if n % 997 == 0 else n % 60 for n in range(1, 40_000)})
    with opened(directory) as env:
        assert env.stat()["depth"] >= 3
    return directory


def test_a_tree_of_three_levels(deep: Path) -> None:
    with opened(deep) as env, env.begin() as transaction, reading(deep) as file:
        for n in range(0, 40_010, 7):
            assert value(file, transaction.id(), number(n)) == transaction.get(number(n))


def test_a_tree_without_a_key(tmp_path: Path) -> None:
    written(tmp_path, {})
    with opened(tmp_path) as env, env.begin() as transaction, reading(tmp_path) as file:
        assert _file.Pages(file, transaction.id()).find(number(1)) is None


def test_only_the_snapshot_that_is_asked_for(tmp_path: Path) -> None:
    for n in range(1, 4):
        written(tmp_path, {n: n})
    with opened(tmp_path) as env, env.begin() as transaction, reading(tmp_path) as file:
        last = transaction.id()
        assert value(file, last, number(3)) == content(3, 3)
        assert value(file, last - 1, number(2)) == content(2, 2)
        assert value(file, last - 1, number(3)) is None
        for other in (last - 2, last + 1, last + 2, 0, 2**64 - 1):
            assert _file.Pages(file, other).find(number(1)) is None


def test_beside_a_writer(tmp_path: Path) -> None:
    """What a snapshot holds stays where it is, whatever a writer puts, replaces and deletes.

    The page that says where a snapshot begins is written over by the second commit after it: then
    nothing is found.
    """
    written(tmp_path, {n: n % 5000 for n in range(1, 200)})
    stop = threading.Event()

    def write(env: lmdb.Environment) -> None:
        rng = random.Random(7)
        while not stop.is_set():
            with env.begin(write=True) as transaction:
                for _ in range(rng.randrange(1, 30)):
                    key = number(rng.randrange(1, 400))
                    if rng.random() < 0.3:
                        transaction.delete(key)
                    else:
                        transaction.put(key, rng.randbytes(rng.choice((10, 500, 9000))))

    with opened(tmp_path) as env, reading(tmp_path) as file:
        writer = threading.Thread(target=write, args=(env,))
        writer.start()
        try:
            snapshots, hits = set(), 0
            for round in range(3000):
                with env.begin() as transaction:
                    snapshot = transaction.id()
                    snapshots.add(snapshot)
                    for n in range(round % 90 + 1, 400, 90):
                        found = value(file, snapshot, number(n))
                        if found is None and env.info()["last_txnid"] > snapshot:
                            break
                        assert found == transaction.get(number(n))
                        hits += found is not None
        finally:
            stop.set()
            writer.join()
    assert len(snapshots) > 10 and hits > 100


# ---- garbage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int, dict[bytes, bytes]]:
    """The bytes of a file with each kind of page, its snapshot, and what it holds."""
    directory = tmp_path_factory.mktemp("small")
    written(directory, {n: 5000 if n % 40 == 0 else n % 60 for n in range(1, 300)})
    with opened(directory) as env, env.begin() as transaction:
        held = {bytes(key): bytes(kept) for key, kept in transaction.cursor()}
        snapshot, depth = transaction.id(), transaction.stat()["depth"]
    assert depth == 2
    return (directory / "data.mdb").read_bytes(), snapshot, held


def kind_of(whole: bytes, page: int) -> int:
    return int.from_bytes(whole[page * PAGE_BYTES + 10 :][:2], "little")


def answers(path: Path, snapshot: int, keys: list[bytes]) -> dict[bytes, tuple[int, int] | None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return {key: _file.Pages(descriptor, snapshot).find(key) for key in keys}
    finally:
        os.close(descriptor)


def test_a_changed_byte_of_a_header_or_a_tree_harms_nobody(
    small: tuple[bytes, int, dict[bytes, bytes]], tmp_path: Path
) -> None:
    """Each byte of meta pages' and pages' headers, of offsets and nodes: at most another place."""
    whole, snapshot, held = small
    path = tmp_path / "data.mdb"
    path.write_bytes(whole)
    keys = [number(n) for n in (0, 1, 40, 77, 200, 299, 300)]
    right = answers(path, snapshot, keys)
    assert [key for key, found in right.items() if found] == [k for k in keys if k in held]
    kinds = [kind_of(whole, page) for page in range(len(whole) // PAGE_BYTES)]
    assert set(kinds) >= {META, BRANCH, LEAF, OVERFLOW}
    chosen = [0, 1, kinds.index(BRANCH), kinds.index(LEAF), kinds.index(OVERFLOW)]
    with path.open("r+b", buffering=0) as file:
        for page in chosen:
            ends = (*range(200), *range(PAGE_BYTES - 200, PAGE_BYTES))
            for at in (page * PAGE_BYTES + offset for offset in ends):
                for bit in (0x01, 0x80, 0xFF):
                    os.pwrite(file.fileno(), bytes([whole[at] ^ bit]), at)
                    for found in answers(path, snapshot, keys).values():
                        assert found is None or sum(found) < 2**62
                os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert answers(path, snapshot, keys) == right


NAMED = {
    "magic": (16, b"\xde\xc0\xef\xbf"),
    "version": (20, b"\x02"),
    "kind of a meta page": (10, b"\x01"),
    "number of a meta page": (0, b"\x07"),
    "size of a page, too small": (40, (2048).to_bytes(4, "little")),
    "size of a page, no power of two": (40, (4097).to_bytes(4, "little")),
    "size of a page, too large": (40, (1 << 31).to_bytes(4, "little")),
    "flags of a tree": (92, b"\x04"),
    "depth 0": (94, b"\0\0"),
    "depth of a leaf": (94, b"\x01\0"),
    "depth of more levels": (94, b"\x03\0"),
    "depth without end": (94, b"\xff\xff"),
    "root in a meta page": (128, bytes(8)),
    "root nowhere": (128, b"\xff" * 8),
    "last page": (136, b"\xff" * 8),
    "last page before all": (136, bytes(8)),
    "snapshot": (144, b"\xff"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_meta_page_that_lies_finds_nothing(
    small: tuple[bytes, int, dict[bytes, bytes]], tmp_path: Path, name: str
) -> None:
    whole, snapshot, held = small
    at, bytes_ = NAMED[name]
    damaged = bytearray(whole)
    at += snapshot % 2 * PAGE_BYTES
    assert damaged[at : at + len(bytes_)] != bytes_
    damaged[at : at + len(bytes_)] = bytes_
    (tmp_path / "data.mdb").write_bytes(damaged)
    found = answers(tmp_path / "data.mdb", snapshot, list(held))
    assert set(found.values()) == {None}


@pytest.mark.parametrize("kind", [BRANCH, LEAF, OVERFLOW])
@pytest.mark.parametrize(("at", "says"), [(0, 0xFFFF), (10, 0), (12, 0)])
def test_a_page_that_says_it_is_another_is_none(
    small: tuple[bytes, int, dict[bytes, bytes]], tmp_path: Path, kind: int, at: int, says: int
) -> None:
    """Its number, its kind, its count of nodes or of pages."""
    whole, snapshot, held = small
    damaged = bytearray(whole)
    for page in range(len(whole) // PAGE_BYTES):
        if kind_of(whole, page) == kind:
            start = page * PAGE_BYTES + at
            damaged[start : start + 2] = says.to_bytes(2, "little")
    (tmp_path / "data.mdb").write_bytes(damaged)
    found = answers(tmp_path / "data.mdb", snapshot, list(held))
    for key, kept in held.items():
        assert (found[key] is None) == (kind != OVERFLOW or len(kept) == 5000)


def test_a_file_that_ends_early(
    small: tuple[bytes, int, dict[bytes, bytes]], tmp_path: Path
) -> None:
    whole, snapshot, held = small
    path = tmp_path / "data.mdb"
    for end in (0, 1, 151, 152, 4095, 4096, 4248, *range(8192, len(whole), 2000)):
        path.write_bytes(whole[:end])
        for key, found in answers(path, snapshot, list(held)).items():
            if found is not None and sum(found) <= end:
                assert whole[found[0] : sum(found)] == held[key]


@bounded(60)
@given(st.randoms(use_true_random=False))
def test_bytes_at_random(
    small: tuple[bytes, int, dict[bytes, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    rng: random.Random,
) -> None:
    whole, snapshot, held = small
    damaged = bytearray(whole)
    for _ in range(rng.choice((1, 10, 1000))):
        at = rng.randrange(len(damaged))
        some = rng.randbytes(rng.choice((1, 2, 8)))
        damaged[at : at + len(some)] = some
    path = tmp_path_factory.mktemp("random") / "data.mdb"
    path.write_bytes(damaged)
    for found in answers(path, snapshot, [*held, number(0), b"x", b"x" * 500]).values():
        assert found is None or found[0] > 0


def test_what_is_no_file_to_read(small: tuple[bytes, int, dict[bytes, bytes]]) -> None:
    descriptor, other = os.pipe()
    os.close(other)
    with pytest.raises(OSError, match="Illegal seek"):
        _file.Pages(descriptor, small[1]).find(number(1))
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _file.Pages(descriptor, small[1]).find(number(1))
