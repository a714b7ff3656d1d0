"""Tests of the walk over LMDB's trees: what LMDB's next write would damage is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from ledger.audit.verify import verify
from ledger.facts.errors import DataRefused
from ledger.journal.onlooker import LmdbFile
from tests.support import books

PAGE = 4096
HEADER = 16  # bytes before the offsets of a page
BRANCH, LEAF, OVERFLOW = 1, 2, 4


class Image:
    """The bytes of a file of LMDB's, to be damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = bytearray(path.read_bytes())
        snapshots = [self.word(meta * PAGE + 144) for meta in range(2)]
        meta = (snapshots[1] > snapshots[0]) * PAGE
        self.free_root, self.root = self.word(meta + 80), self.word(meta + 128)

    def word(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.bytes, at)[0])

    def put(self, at: int, kind: str, number: int) -> None:
        struct.pack_into("<" + kind, self.bytes, at, number)

    def kind(self, page: int) -> int:
        return int(struct.unpack_from("<H", self.bytes, page * PAGE + 10)[0])

    def nodes(self, page: int) -> list[int]:
        lower = struct.unpack_from("<H", self.bytes, page * PAGE + 12)[0]
        count = (lower - HEADER) // 2
        return [
            page * PAGE + at
            for at in struct.unpack_from(f"<{count}H", self.bytes, page * PAGE + HEADER)
        ]

    def below(self, page: int) -> list[int]:
        return [struct.unpack_from("<I", self.bytes, at)[0] for at in self.nodes(page)]

    def lists(self) -> list[int]:
        """Where each list of free pages is; the tree has one leaf."""
        found = []
        for node in self.nodes(self.free_root):
            flags = struct.unpack_from("<H", self.bytes, node + 4)[0]
            at = node + 16
            found.append(self.word(at) * PAGE + HEADER if flags else at)
        return found

    def call_free(self, page: int) -> None:
        """Name a page in place of the first that a list names."""
        at = next(at for at in self.lists() if self.word(at))
        count = self.word(at)
        pages = {page, *(self.word(at + 16 + 8 * n) for n in range(count - 1))}
        assert len(pages) == count
        for n, one in enumerate(sorted(pages, reverse=True)):
            self.put(at + 8 + 8 * n, "Q", one)

    def write(self) -> None:
        self.path.write_bytes(self.bytes)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """A journal of many groups, small ones and large ones, and a tree of two levels."""
    book = books.write(tmp_path / "book", books.paid(80, 3))
    assert verify(book).clean
    image = Image(book / "journal" / "data.mdb")
    assert image.kind(image.root) == BRANCH and image.kind(image.free_root) == LEAF
    return image


def refused(image: Image, why: str) -> None:
    image.write()
    fault = verify(image.path.parent.parent).fault
    assert fault is not None and str(image.path) in fault.why and why in fault.why


@pytest.mark.parametrize(
    "page",
    [
        lambda image: image.root,
        lambda image: image.free_root,
        lambda image: image.below(image.root)[0],
        lambda image: image.below(image.root)[-1],
    ],
    ids=["root", "root-of-the-free-tree", "first-leaf", "last-leaf"],
)
def test_a_page_of_a_tree_that_is_free(image: Image, page: Callable[[Image], int]) -> None:
    number = page(image)
    image.call_free(number)
    refused(image, f"page {number} of ")


def test_a_group_on_a_page_that_is_free(tmp_path: Path) -> None:
    """One bit of the list, and the next payment is written over an old one."""
    book = books.write(tmp_path / "book", books.paid(30, 20))
    image = Image(book / "journal" / "data.mdb")
    with LmdbFile(image.path) as file:
        found = file.find((3).to_bytes(8, "big"))
    assert found is not None
    page = found[0] // PAGE
    assert image.kind(page) == OVERFLOW
    image.call_free(page)
    image.write()
    fault = verify(book).fault
    assert fault is not None and fault.group == 3 and f"lies on page {page} of" in fault.why
    assert "which is in the list of free pages" in fault.why


def test_a_page_that_two_lead_to(image: Image) -> None:
    """The free tree begins where the journal has a leaf: LMDB would give that leaf back."""
    leaf = image.below(image.root)[0]
    image.put(image.nodes(image.root)[1], "I", leaf)
    image.write()
    with LmdbFile(image.path) as file, pytest.raises(DataRefused, match=f"page {leaf} is used"):
        file.free_pages()


@pytest.mark.parametrize("by", [-2, 2, 64])
@pytest.mark.parametrize("of", ["root", "free_root"])
def test_an_upper_that_is_not_where_the_nodes_begin(image: Image, of: str, by: int) -> None:
    page = getattr(image, of)
    upper = struct.unpack_from("<H", image.bytes, page * PAGE + 14)[0]
    image.put(page * PAGE + 14, "H", upper + by)
    refused(image, f"page {page}: its nodes do not begin where it says")


def test_nodes_that_overlap(image: Image) -> None:
    """The second node is said to be where the first is: both say the same pages."""
    first = struct.unpack_from("<H", image.bytes, image.free_root * PAGE + HEADER)[0]
    image.put(image.free_root * PAGE + HEADER + 2, "H", first)
    assert len(image.nodes(image.free_root)) > 1
    refused(image, f"page {image.free_root}: node 1 is not on room of its own")


def test_a_list_that_does_not_descend(image: Image) -> None:
    """LMDB takes the ends of a run for the run, and would write to what is between them."""
    at = next(at for at in image.lists() if image.word(at) > 1)
    one, other = image.word(at + 8), image.word(at + 16)
    image.put(at + 8, "Q", other)
    image.put(at + 16, "Q", one)
    refused(image, "does not descend")


def test_the_pages_of_a_long_list(tmp_path: Path) -> None:
    """LMDB gives back as many as the first of them says; nor may one be in a list."""
    with lmdb.open(str(tmp_path), map_size=1 << 30, sync=False, lib_version=0) as env:
        for drop in (False, True):
            with env.begin(write=True) as put:
                for n in range(3000):
                    key = n.to_bytes(8, "big")
                    assert put.delete(key) if drop and n else put.put(key, bytes(4000))
    path = tmp_path / "data.mdb"
    with LmdbFile(path) as file:
        assert len(file.free_pages()) > 2000
    image = Image(path)
    begin = max(at for at in image.lists() if image.word(at) > 1000) - HEADER
    assert begin % PAGE == 0 and image.kind(begin // PAGE) == OVERFLOW
    whole = bytes(image.bytes)
    pages = struct.unpack_from("<I", whole, begin + 12)[0]
    assert pages > 1
    for wrong in (pages - 1, pages + 1, 1 << 20):
        image.put(begin + 12, "I", wrong)
        image.write()
        with LmdbFile(path) as file, pytest.raises(DataRefused, match=f"{path}: .*page"):
            file.free_pages()
    image.bytes = bytearray(whole)
    image.call_free(begin // PAGE + pages - 1)
    image.write()
    with LmdbFile(path) as file, pytest.raises(DataRefused, match=r"page \d+ of a tree is in"):
        file.free_pages()


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    """Whatever was put, replaced and deleted."""
    seed = int(os.environ.get("TREE_SEED", "7"))
    rng = np.random.default_rng(seed)
    with lmdb.open(str(tmp_path), map_size=1 << 30, sync=False, lib_version=0) as env:
        for _ in range(int(os.environ.get("TREE_ROUNDS", "150"))):
            with env.begin(write=True) as put:
                for n in rng.integers(1, 900, 60).tolist():
                    key = n.to_bytes(8, "big") * (1 + n % 3)
                    if rng.integers(3):
                        put.put(key, bytes(int(rng.choice([0, 7, 300, 2030, 5000, 20_000]))))
                    else:
                        put.delete(key)
                put.put(b"\xff" * 8, b"")
            with LmdbFile(tmp_path / "data.mdb") as file:
                file.free_pages()
