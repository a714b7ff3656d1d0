"""The head stamp while nothing happens: what was acknowledged last has a witness soon, too.

LMDB falls back to its older meta page when the newer one is damaged, and the last group is gone
without a trace in the journal. Only the stamp knows of it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.process import Server
from ledger.audit import verify
from ledger.facts import limits
from ledger.facts.limits import Exit
from ledger.facts.schema import Operation
from ledger.journal.environment import open_lmdb
from ledger.journal.journal import Journal
from tests.support import raw
from tests.support.core_book import account, pay
from tests.support.engine_parts import Bench, Submitter, with_accounts

Start = Callable[..., Server]
WAIT_SECONDS_MAX = 60.0
PAGE_BYTES = 4096


def flip_newer_meta_page(data: Path) -> None:
    """One bit in the number of the transaction that the newer of the two meta pages ends with."""
    # A page has 16 bytes of header, and the number is what a meta page ends with.
    at = [page * PAGE_BYTES + 16 + 128 for page in (0, 1)]
    with data.open("r+b") as file:
        numbers = []
        for place in at:
            file.seek(place)
            numbers.append(struct.unpack("<Q", file.read(8))[0])
        newer = max(numbers)
        file.seek(at[numbers.index(newer)])
        file.write(struct.pack("<Q", newer ^ 1 << newer.bit_length() - 1))


def stamped(book: Path) -> int:
    """The group of the stamp that is on disk, beside a server that writes it."""
    with open_lmdb(book / "state", 1 << 30, 8, readonly=True) as env, env.begin() as transaction:
        value = transaction.get(b"head")
        assert value is not None
        return int(struct.unpack_from("<8s H 6x 16s Q", value)[3])


def test_the_last_payment_before_a_crash_has_a_witness(server: Start, tmp_path: Path) -> None:
    running = server(tmp_path / "book")
    peer, session = raw.with_accounts(running.address)
    session.ask(peer, Operation.CREATE_TRANSFERS, raw.transfers(1, 3))
    with Journal.open(running.directory, readonly=True, locked=False) as journal:
        last = journal.group
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while stamped(running.directory) < last:
        assert time.monotonic() < deadline, "no stamp while nothing happens"
        time.sleep(limits.POLL_SECONDS)
    running.kill()
    peer.close()
    flip_newer_meta_page(running.directory / "journal" / "data.mdb")
    report = verify.verify(running.directory)
    assert report.stamp_fault is not None and "has lost acknowledged groups" in report.stamp_fault
    running.begin()
    assert running.wait() == Exit.DATA_REFUSED
    assert "has lost acknowledged groups" in running.log[-1]


# ---- the engine's side --------------------------------------------------------------------------


@pytest.fixture
def bench() -> Bench:
    return with_accounts(account(1), account(2))


def rest(bench: Bench) -> int:
    """The moment after a group has come; how many callbacks that took."""
    [(delay_ns, callback)] = bench.runner.laters
    bench.runner.laters.clear()
    assert delay_ns == limits.STAMP_REST_NS
    bench.runner._here(callback)
    return len(bench.runner.jobs)


def test_the_end_is_stamped_once_nothing_follows(bench: Bench) -> None:
    before = len(bench.stamp.written)
    bench.transfers(Submitter(), pay(1))
    bench.settle()
    assert len(bench.stamp.written) == before, "never on the way of an answer"
    assert rest(bench) == 0, "a group has come since the first one: wait once more"
    assert rest(bench) == 1
    bench.runner.sync()
    assert bench.stamp.written[before:] == [(bench.log.group, bench.log.position)]
    assert bench.runner.laters == [], "and then nothing is to be done any more"


def test_no_stamp_while_something_is_under_way_or_space_is_short(bench: Bench) -> None:
    bench.transfers(Submitter(), pay(1))
    assert rest(bench) == 0
    bench.settle()
    bench.log.full = "full"
    assert rest(bench) == 0 and rest(bench) == 0
    bench.log.full = None
    assert rest(bench) == 1


def test_a_stamp_that_fails_stops_the_engine(bench: Bench) -> None:
    bench.stamp.fail = OSError("the disk")
    assert rest(bench) == 1
    bench.runner.sync()
    assert "the disk" in str(bench.told[0])
