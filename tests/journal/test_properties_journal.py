"""A machine on the real journal: what is appended comes back whole, and no damage goes unnoticed.

The groups are a core's own, so that what is read can also be replayed, verified and recovered. The
process ends cleanly, with a copy of the directory as a power cut leaves it, or by an append that
fails on either side of its durable moment. Damage is done to a copy, and three readers must find
it and say where: the journal's chained read, verify, and recovery. The oracle is a list of groups.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chaos.core_driver import Driver
from chaos.model import Operation, Transfer, encode
from chaos.sim.server import SimJournal, memory
from ledger.audit import verify
from ledger.engine import recovery
from ledger.facts import limits
from ledger.facts.errors import DataRefused, Fenced, LedgerStopped
from ledger.facts.schema import GROUP_HEADER
from ledger.journal.group import HEADER_BYTES, Group, write_group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal
from tests.support import books
from tests.support.core_book import account, hold, pay, post
from tests.support.properties import bounded

CLUSTER = 2**100 + 7
NEVER = 10**9
sizes = st.sampled_from([1, 1, 2, 30, 31, 200])  # events: in a leaf, around a block, over pages
index = st.integers(0, 2**20)


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def store(book: Path) -> lmdb.Environment:
    return lmdb.open(str(book / "journal"), map_size=1 << 30, lib_version=0)


def values(book: Path) -> list[bytes]:
    """Every group's value as LMDB holds it."""
    with store(book) as env, env.begin() as read:
        return [bytes(value) for _, value in read.cursor()]


def put(book: Path, changes: dict[int, bytes | None]) -> None:
    """Put or (None) delete values behind the journal's back."""
    with store(book) as env, env.begin(write=True) as write:
        for number, value in changes.items():
            assert write.delete(key(number)) if value is None else write.put(key(number), value)


def overwrite(book: Path, value: bytes, wrong: bytes) -> None:
    """Change a value in the file, in every copy that LMDB has left of its page."""
    data = book / "journal" / "data.mdb"
    whole = data.read_bytes()
    assert value in whole
    data.write_bytes(whole.replace(value, wrong))


def field(value: bytes, name: str) -> bytes:
    assert GROUP_HEADER.fields is not None
    dtype, offset = GROUP_HEADER.fields[name][:2]
    return value[offset : offset + dtype.itemsize]


# ---- who must find it ----------------------------------------------------------------------------


def read_all(book: Path) -> None:
    with Journal.open(book, CLUSTER) as journal, Checkpoint(book) as stamped:
        stamped.verify_against(journal)
        for _ in journal.read(chain=True):
            pass


def verified(book: Path) -> verify.Report:
    """What verify reports; in this process, since only values are damaged here."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        return verify._read_book(book, page)


def assert_found(book: Path, *said: str) -> None:
    """Each reader refuses the book, and says one of these."""
    wanted = re.compile("|".join(said))
    for read in (read_all, lambda book: recovery.recover(book, accept_clock=True).close()):
        with pytest.raises(DataRefused) as refused:
            read(book)
        assert wanted.search(str(refused.value)), refused.value
    report = verified(book)
    assert not report.clean
    found = f"{report.fault} {report.stamp_fault}"
    assert wanted.search(found), found


class JournalMachine(RuleBasedStateMachine):
    """One book, its directory copied to another place at each crash."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="journal-", dir=memory()))
        self.places = (self.root / str(n) for n in itertools.count())
        self.groups: list[tuple[dict[str, int], bytes]] = []
        self.states: list[bytes] = []
        self.stamped = 0
        self.ids = itertools.count(1)
        self.now = books.NOW
        self.journal: SimJournal | None = None

    # ---- the book -------------------------------------------------------------------------------

    @initialize()
    def create(self) -> None:
        self.book = next(self.places)
        self.driver = Driver(group_records_max=NEVER)
        self.driver.core.start(self.now, self.now, limits.RELEASE)
        self._ask(Operation.create_accounts, [account(1), account(2), account(3, flags=2)])
        Journal.create(self.book, CLUSTER, self._taken())
        self.journal = SimJournal.open(self.book, CLUSTER)

    def _ask(self, operation: Operation, events: list[Any]) -> None:
        self.now += 1000
        self.driver.execute(operation, [b"".join(map(encode, events))], self.now)

    def _taken(self) -> Group:
        """The open group, remembered as the next one."""
        fields, body = self.driver.core.take_group()
        self.driver.core.made_durable(fields.pop("group"))
        self.groups.append((fields, bytes(body)))
        self.states.append(self.driver.core.state_hash())
        return Group(bytes(body), **fields)

    def _work(self, size: int, kind: str) -> Group:
        events: list[Transfer] = []
        for id in itertools.islice(self.ids, size):
            if kind == "hold":
                events += [hold(id, timeout=id % 3), post(id + 10**9, id, amount=id % 12)]
            else:
                events.append(pay(id, debit_account_id=3 if kind == "refused" else 1))
        self._ask(Operation.create_transfers, events)
        return self._taken()

    @rule(size=sizes, kind=st.sampled_from(["pay", "hold", "refused"]))
    def append(self, size: int, kind: str) -> None:
        group = self._work(size, kind)
        assert self.journal.append(self.journal.position, group) == len(self.groups)

    @rule(stage=st.sampled_from(["before", "after"]), size=sizes)
    def append_fails(self, stage: str, size: int) -> None:
        """Nothing is done with the journal any more; what comes back is known by the stage."""
        self.journal.fail = stage
        group = self._work(size, "pay")
        self._assert_stops(self.journal.position, group, OSError)
        if stage == "before":
            self.groups.pop()
            self.states.pop()
        self.reopen_after_power_cut()

    @rule(off=st.sampled_from([-1, 1]))
    def append_of_another_writer(self, off: int) -> None:
        group = self._work(1, "pay")
        self.groups.pop()
        self.states.pop()
        self._assert_stops(self.journal.position + off, group, Fenced)
        self.reopen()

    def _assert_stops(self, position: int, group: Group, cause: type[BaseException]) -> None:
        for act in (lambda: self.journal.append(position, group), self.journal.room,
                    lambda: list(self.journal.read())):  # fmt: skip
            with pytest.raises(LedgerStopped) as stopped:
                act()
            assert isinstance(stopped.value.cause, cause)

    @rule()
    def stamp(self) -> None:
        self.stamped = self._stamp(self.book)

    def _stamp(self, book: Path) -> int:
        """Say that the journal's end was durable; its number."""
        books.stamp(book, self.journal)
        return len(self.groups)

    # ---- the end of a process -------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self._open()

    @rule()
    def reopen_after_power_cut(self) -> None:
        """The directory as it is now, with its lock's text; nobody closed it."""
        left, self.book = self.book, next(self.places)
        shutil.copytree(left, self.book)
        self.journal.crash()
        shutil.rmtree(left)
        self._open()

    def _open(self) -> None:
        self.journal = SimJournal.open(self.book, CLUSTER)
        self.driver = Driver(group_records_max=NEVER)
        recovery.replay(self.journal, self.driver.core)
        assert self.driver.core.state_hash() == self.states[-1], "replay-equal"

    # ---- what is read ---------------------------------------------------------------------------

    @invariant()
    def ends_where_it_was_left(self) -> None:
        if self.journal is None:
            return
        fields = self.groups[-1][0]
        last = fields["position_first"] + fields["position_count"] - 1
        found = (self.journal.cluster, self.journal.group, self.journal.position)
        assert found == (CLUSTER, len(self.groups), last)
        assert self.journal.clock == fields["clock_after"]

    @rule(first=index, chain=st.booleans())
    def read_back(self, first: int, chain: bool) -> None:
        first = 1 + first % (len(self.groups) + 1)
        found = [
            ({name: getattr(header, name) for name in self.groups[0][0]}, bytes(body))
            for header, body in self.journal.read(first, chain=chain)
        ]
        assert found == self.groups[first - 1 :]
        if first <= len(self.groups):
            assert self.journal.one(first)[1] == self.groups[first - 1][1]

    @rule()
    def chain_by_hand(self) -> None:
        """Each value carries the SHA-256 of the header and body before it."""
        digest = bytes(32)
        copy = self._copy()
        for number, value in enumerate(values(copy), 1):
            assert field(value, "digest_previous") == digest
            end = HEADER_BYTES + len(self.groups[number - 1][1])
            digest = hashlib.sha256(value[:end]).digest()
            assert self.journal.end_of(number)[1] == digest
        assert self.journal.digest() == digest

    @rule()
    def verify_whole(self) -> None:
        report = verified(self._copy())
        assert report.clean, report.fault
        assert report.groups == len(self.groups)
        assert report.state_hash == self.states[-1].hex()

    # ---- damage ---------------------------------------------------------------------------------

    def _copy(self) -> Path:
        copy = self.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.book, copy)
        return copy

    def _one(self, which: int) -> tuple[int, bytes, Path]:
        """The number and value of a group, and a copy of the book."""
        copy = self._copy()
        number = 1 + which % len(self.groups)
        return number, values(copy)[number - 1], copy

    @rule(which=index, part=st.sampled_from(["header", "body", "checks"]), bit=index)
    def flip_a_bit(self, which: int, part: str, bit: int) -> None:
        number, value, copy = self._one(which)
        end = HEADER_BYTES + len(self.groups[number - 1][1])
        first, last = {
            "header": (0, HEADER_BYTES), "body": (HEADER_BYTES, end), "checks": (end, len(value)),
        }[part]  # fmt: skip
        place = first * 8 + bit % ((last - first) * 8)
        wrong = bytearray(value)
        wrong[place // 8] ^= 1 << place % 8
        overwrite(copy, value, bytes(wrong))
        assert_found(copy, rf"\bgroup {number}\b")

    @rule(which=index, length=index, more=st.booleans())
    def cut_or_lengthen(self, which: int, length: int, more: bool) -> None:
        number, value, copy = self._one(which)
        wrong = value + bytes(1 + length % 5000) if more else value[: length % len(value)]
        put(copy, {number: wrong})
        assert_found(copy, rf"\bgroup {number}\b")

    @precondition(lambda self: len(self.groups) > 1)
    @rule(which=index, other=index, both=st.booleans())
    def swap_or_repeat(self, which: int, other: int, both: bool) -> None:
        number, value, copy = self._one(which)
        second = 1 + (number + other % (len(self.groups) - 1)) % len(self.groups)
        stored = values(copy)
        put(copy, {second: value} | ({number: stored[second - 1]} if both else {}))
        here, there = rf"\bgroup {number}\b", rf"\bgroup {second}\b"
        assert_found(copy, f"{here}.*{there}", f"{there}.*{here}")

    @rule(which=index)
    def repeat_at_the_end(self, which: int) -> None:
        number, value, copy = self._one(which)
        following = len(self.groups) + 1
        put(copy, {following: value})
        assert_found(copy, rf"\bgroup {number}\b.*\bgroup {following}\b")

    @precondition(lambda self: len(self.groups) > 1)
    @rule(which=index)
    def take_one_out(self, which: int) -> None:
        number, last = 1 + which % (len(self.groups) - 1), len(self.groups)
        copy = self._copy()
        put(copy, {number: None})
        counted = rf"last group is {last}, but the journal holds {last - 1}\b"
        assert_found(copy, rf"\bgroup {number}\b.*missing", counted)

    @rule(count=index, stamps=st.booleans())
    def drop_the_last(self, count: int, stamps: bool) -> None:
        """A whole shorter journal: only the head stamp tells, of all that it has seen."""
        left = len(self.groups) - 1 - count % min(3, len(self.groups))
        copy = self._copy()
        stamped = self._stamp(copy) if stamps else self.stamped
        put(copy, dict.fromkeys(range(left + 1, len(self.groups) + 1)))
        if left == 0:
            assert_found(copy, "holds no group")
        elif left < stamped:
            assert_found(copy, "lost acknowledged groups")
        else:
            read_all(copy)
            assert verified(copy).state_hash == self.states[left - 1].hex()

    @rule(which=index, bit=index, stamps=st.booleans())
    def forge(self, which: int, bit: int, stamps: bool) -> None:
        """Another body under good checks of its own: the next group's digest is a witness, or the
        stamp, unless the records contradict themselves before that."""
        number, value, copy = self._one(which)
        stamped = self._stamp(copy) if stamps else self.stamped
        if number == len(self.groups) and stamped < number:
            return
        fields, body = self.groups[number - 1]
        wrong = bytearray(body)
        wrong[bit // 8 % len(body)] ^= 1 << bit % 8
        whole = np.zeros(limits.GROUP_VALUE_BYTES_MAX, np.uint8)
        before = field(value, "digest_previous")
        group = Group(bytes(wrong), **fields)
        put(copy, {number: bytes(write_group(whole, CLUSTER, number, before, group)[2])})
        assert_found(copy, rf"\bgroup {number}\b", rf"\bgroup {number + 1}\b")

    @precondition(lambda self: self.stamped)
    @rule(bit=index)
    def flip_a_bit_of_the_stamp(self, bit: int) -> None:
        copy = self._copy()
        state = lmdb.open(str(copy / "state"), map_size=1 << 20, lib_version=0)
        with state, state.begin(write=True) as write:
            wrong = bytearray(write.get(b"head"))
            wrong[bit // 8 % len(wrong)] ^= 1 << bit % 8
            write.put(b"head", bytes(wrong))
        assert_found(copy, "head stamp's check failed")

    def teardown(self) -> None:
        try:
            if self.journal is not None:
                self.read_back(0, True)
                self.verify_whole()
        finally:
            if self.journal is not None:
                self.journal.close()
            shutil.rmtree(self.root)


TestJournal = JournalMachine.TestCase
TestJournal.settings = bounded(150, 25)


@pytest.mark.parametrize("stamped", [False, True])
def test_every_reader_takes_a_book_that_is_whole(tmp_path: Path, stamped: bool) -> None:
    """What finds every damage must not find any where there is none."""
    book = books.write(tmp_path / "book", books.paid(4, 20), CLUSTER)
    if stamped:
        with Journal.open(book) as journal:
            books.stamp(book, journal)
    read: Callable[[Path], None]
    for read in (read_all, lambda book: recovery.recover(book, accept_clock=True).close()):
        read(book)
    assert verified(book).clean
