"""How fast groups become durable and are read back: the journal on LMDB, on the disk of tmp_path.

What is measured is Journal.append, sync included, with the digest on a worker as in a server, and
Journal.read with every check and the digest chain. Bodies are noise: it knows no record.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.conftest import Measure
from ledger.journal.group import Group
from ledger.journal.journal import Journal

CLUSTER = 7
KIB = 1024
_NOISE = np.random.default_rng(1).integers(0, 256, KIB * KIB, np.uint8)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    Journal.create(tmp_path / "book", CLUSTER, Group(bytes(48), 1, 1, 1, 0, 1))
    with ThreadPoolExecutor(1) as worker:
        journal = Journal.open(tmp_path / "book", CLUSTER, digest_executor=worker)
        yield journal
        journal.close()


def following(journal: Journal, body_bytes: int) -> Group:
    body = _NOISE[:body_bytes]
    return Group(body, journal.position + 1, 1, 1, journal.clock, journal.clock + 1)


def append(journal: Journal, group: Group) -> None:
    journal.append(journal.position, group)


@pytest.mark.parametrize("kib", [4, 16, 64, 128, 256, 1024], ids="{}KiB".format)
def test_append(measure: Measure, journal: Journal, kib: int) -> None:
    measure(
        append,
        lambda: (journal, following(journal, kib * KIB)),
        count=1,
        unit="groups",
        rounds=100,
    )
    assert journal.group > 1


def test_read_and_verify(measure: Measure, journal: Journal, tiny: bool) -> None:
    groups = 2 if tiny else 128
    for _ in range(groups):
        append(journal, following(journal, KIB * KIB))

    def read() -> None:
        assert sum(len(body) for _, body in journal.read(chain=True)) == groups * KIB * KIB + 48

    measure(read, count=groups, unit="MiB", rounds=5)
