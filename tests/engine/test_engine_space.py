"""Which requests an engine takes while the disk is nearly full, level by level."""

from __future__ import annotations

import pytest

from ledger.facts import limits
from tests.support.core_book import account, pay
from tests.support.engine_parts import REGISTER, Bench, Submitter, session_of, with_accounts


@pytest.fixture
def bench() -> Bench:
    return with_accounts(account(1), account(2))


def test_a_new_session_is_taken_while_nothing_is_created_until_nothing_is_written(
    bench: Bench,
) -> None:
    bench.log.full = "little is left"
    session = session_of(bench)
    reader, writer = Submitter(), Submitter()
    bench.lookup(reader, 1, number=1, checksum=(1, 1), **session)
    bench.transfers(writer, pay(1), number=2, checksum=(2, 2), **session)
    bench.settle()
    assert len(reader.got) == 1 and writer.got == []
    bench.log.shut = "less is left"
    late, group = Submitter(), bench.log.group
    fields = {"number": 0, "checksum": (1, 0), "release": limits.RELEASE}
    assert bench.submit(late, (REGISTER, []), client=(8, 0), **fields) == 1
    bench.lookup(reader, 1, number=3, checksum=(3, 3), **session)
    bench.settle()
    assert late.got == [] and len(reader.got) == 2 and bench.log.group == group
    bench.log.shut = None
    assert bench.submit(late, (REGISTER, []), client=(8, 0), **fields) == 1
    bench.settle()
    assert len(late.got) == 1
