"""The audit and ids: none comes twice, and what is past costs no more than its id's hash."""

import subprocess
import sys

import numpy as np
import pytest

from ledger.audit import audit as module
from ledger.audit.audit import Audit
from ledger.facts.schema import JournalKind as K
from ledger.facts.schema import TransferFlags as F
from ledger.journal.body import Wrong
from tests.oracles.audit_oracle import Oracle
from tests.support import books


def audited(groups: books.Groups, key: bytes = b"0123456789abcdef") -> Audit:
    audit = Audit(key)
    for header, body in books.headers(groups):
        assert audit.take([header], body), audit.wrong
    return audit


def again(groups: books.Groups, kind: K, which: int, of: K, first: int) -> tuple[books.Groups, int]:
    """The same groups, where one record has the id of another, and its position."""
    index, offset, _ = books.places(groups, of)[first]
    id = np.frombuffer(groups[index][1], "<u8", 2, offset)
    return books.alter(groups, kind, which, {"id": id})


def plain(groups: books.Groups) -> list[int]:
    """Which of the transfers are payments, so that nothing refers to their ids."""
    found = books.places(groups, K.TRANSFER)
    rows = [np.frombuffer(groups[i][1], books.schema.TRANSFER, 1, at)[0] for i, at, _ in found]
    return [which for which, row in enumerate(rows) if row["flags"] == 0]


def looked(audit: Audit, groups: books.Groups, before: int = 2**63):
    found = audit.repeated(lambda: books.headers(groups), before)
    return None if found is None else (found[0].group, *found[1])


@pytest.mark.parametrize("first", [0, 20])
def test_an_id_that_comes_twice_is_named_with_its_group(first):
    groups = books.paid(12, 30)
    groups, position = again(groups, K.TRANSFER, plain(groups)[-1], K.TRANSFER, first)
    audit = audited(groups)
    number = next(
        fields["group"]
        for fields, _ in groups
        if position < fields["position_first"] + fields["position_count"]
    )
    expected = (number, position, "a transfer whose id is used already")
    assert looked(audit, groups) == expected
    assert looked(audit, groups, position + 1) == expected
    assert looked(audit, groups, position) is None
    assert Oracle(books.headers(groups)).repeated(2**63) == Wrong(*expected[1:])


def test_the_first_of_many_ids_that_come_twice(monkeypatch):
    groups = books.paid(12, 30)
    payments, positions = plain(groups), []
    for which in (20, 12, 16):
        place = payments[which // 4]
        groups, position = again(groups, K.TRANSFER, payments[which], K.TRANSFER, place)
        positions.append(position)
    for most in (1, 2, 100):
        monkeypatch.setattr(module, "SUSPECTS_MAX", most)
        assert looked(audited(groups), groups)[1] == min(positions)


@pytest.mark.parametrize(
    ("kind", "of", "why"),
    [
        (K.TRANSFER, K.BURNED_ID, "a transfer whose id is used already"),
        (K.BURNED_ID, K.TRANSFER, "a burned id that is used already"),
    ],
)
def test_transfers_and_burned_ids_share_their_ids(kind, of, why):
    groups = books.paid(4)
    which = plain(groups)[-1] if kind == K.TRANSFER else 0
    groups, position = again(groups, kind, which, of, 0)
    audit = audited(groups)
    assert looked(audit, groups)[1:] == (position, why)


def test_ids_that_only_share_a_hash_are_two():
    """Under a key that undoes the constants an id and its halves swapped have one hash."""
    constants = (0xA0761D6478BD642F, 0xE7037ED1A0B428DB)
    weak = b"".join(constant.to_bytes(8, "little") for constant in constants)
    writer = books.Writer(group_records_max=5)
    writer.accounts(books.account(1), books.account(2))
    for id in (5 << 64 | 9, 9 << 64 | 5, 7):
        assert writer.transfers(books.transfer(id)) == ["CREATED"]
    groups = writer.groups()
    audit = audited(groups, key=weak)
    assert len(audit._fold.repeated()) == 1
    assert looked(audit, groups) is None
    groups, position = again(groups, K.TRANSFER, 2, K.TRANSFER, 0)
    audit = audited(groups, key=weak)
    assert looked(audit, groups) == (len(groups), position, "a transfer whose id is used already")


def test_without_shared_hashes_nothing_is_read_again():
    def never():
        raise AssertionError("read again")

    assert audited(books.paid(12, 30)).repeated(never, 2**63) is None


GROWTH = """
import sys
from pathlib import Path
import numpy as np
from ledger.audit.audit import Audit
from ledger.journal.journal import Journal

def own_bytes():
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * 4096

audit, before = Audit(bytes(16)), 0
with Journal.open(Path(sys.argv[1]), readonly=True) as journal:
    for header, body in journal.read():
        assert audit.take([header], np.array(body)), audit.wrong
        before = before or own_bytes()
    grown = own_bytes() - before
    print(grown, *audit.repeated(journal.read, 2**63)[1], sep="|")
"""


def test_what_is_past_costs_a_few_bytes(tmp_path):
    """Holds that were opened and voided: the hash of an id each, and a bit.

    All the same the last of so many ids is known to be that of the first.
    """
    writer = books.Writer(group_records_max=8000)
    writer.accounts(books.account(1), books.account(2))
    requests, each = 75, 4000
    for first in range(10, 10 + requests * each, each):
        holds, voids = np.zeros((2, each), books.schema.TRANSFER)
        holds["id"][:, 0] = np.arange(first, first + each)
        holds["flags"], voids["flags"] = int(F.PENDING), int(F.VOID_PENDING_TRANSFER)
        holds["debit_account_id"][:, 0], holds["credit_account_id"][:, 0] = 1, 2
        holds["amount"][:, 0], holds["ledger"], holds["code"] = 1, 1, 1
        voids["id"][:, 0], voids["pending_id"] = np.arange(first, first + each) + 10**6, holds["id"]
        for rows in (holds, voids):
            writer.now += 10**6
            writer.driver.execute(147, [rows.tobytes()], writer.now)
    *groups, (fields, body) = writer.groups()
    last = np.frombuffer(bytearray(body), books.schema.TRANSFER, 1, len(body) - 128)
    last["id"] = [10, 0]
    book = books.write(tmp_path / "book", [*groups, (fields, body[:-128] + last.tobytes())])
    command = [sys.executable, "-c", GROWTH, str(book)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=books.ROOT, check=True)
    grown, position, why = done.stdout.strip().split("|")
    # Each of 1,024 heaps has a page of 4 KiB that is not full.
    assert int(grown) < 2 * requests * each * 8 + 4 * 2**20
    assert int(position) == fields["position_first"] + fields["position_count"] - 1
    assert why == "a transfer whose id is used already"
