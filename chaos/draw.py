"""Chance by name: every choice of a run is a hash of the seed, a name and an index.

Nothing is drawn from a common sequence, so taking one fault or one request out of a plan leaves all
other choices as they were: without that a failing plan could not be shrunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """The choices of one seed of `of`. The same arguments always give the same answer."""

    def __init__(self, seed: int, of: str = "") -> None:
        self.seed = seed
        self._key = blake2b(f"{seed}/{of}".encode(), digest_size=32).digest()

    def bits(self, name: str, index: int = 0, bits: int = 64) -> int:
        """A number of `bits` bits, at most 512."""
        digest = blake2b(f"{name}/{index}".encode(), digest_size=(bits + 7) // 8, key=self._key)
        return int.from_bytes(digest.digest(), "little") >> (-bits % 8)

    def between(self, low: int, high: int, name: str, index: int = 0) -> int:
        """A number of low .. high, both included."""
        return low + self.bits(name, index) % (high - low + 1)

    def chance(self, share: float, name: str, index: int = 0) -> bool:
        """True for `share` of the indices."""
        return self.bits(name, index, 32) < share * 2**32

    def choice(self, values: Sequence[T], name: str, index: int = 0) -> T:
        return values[self.bits(name, index) % len(values)]

    def stream(self, name: str) -> Random:
        """A generator of its own for what is made in one go, such as a client's requests."""
        return Random(self.bits(name, 0, 128))
