"""Inspect: the facts of a small book whose every number can be counted by hand."""

import pytest

from ledger.commands.inspect import (
    NotInBook,
    inspect,
    inspect_account,
    inspect_group,
    inspect_transfer,
)
from ledger.engine import recovery
from ledger.facts import errors, limits
from ledger.facts.schema import JournalKind as K
from ledger.journal.journal import Journal
from tests.support import books


@pytest.fixture(scope="module")
def groups() -> books.Groups:
    return books.paid(8, 30)


@pytest.fixture(scope="module")
def book(tmp_path_factory, groups):
    return books.write(tmp_path_factory.mktemp("inspect") / "book", groups, 2**100)


def test_the_head_and_the_counts(book, groups):
    facts = inspect(book)
    with Journal.open(book) as journal:
        assert facts["group"] == journal.group == len(groups)
        assert facts["position"] == journal.position
        assert facts["clock_ns"] == journal.clock
        assert facts["digest"] == journal.digest().hex()
    assert facts["cluster"] == str(2**100)
    # Each payment makes three transfers; of eight holds two are posted and two voided by a fourth,
    # two are left open and two expire.
    assert facts["holds"] == {
        "accounts": 4,
        "transfers": 8 * 3 + 4,
        "open_holds": 2,
        "burned_ids": 8,
        "sessions": 0,
    }
    assert facts["records"]["transfer"] == len(books.places(groups, K.TRANSFER))
    assert [start["position"] for start in facts["starts"]] == [1]
    assert facts["starts"][0]["time"] == "2023-11-14 22:13:20.000000000 UTC"
    assert facts["journal_bytes"] > 0 and facts["state_bytes"] == 0
    assert facts["bytes_per_transfer"] == round(
        facts["journal_bytes"] / facts["records"]["transfer"], 1
    )


def test_what_is_derived_is_counted(tmp_path, groups, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_EVENTS", 10)
    directory = books.write(tmp_path / "book", groups)
    parts = recovery.recover(directory, accept_clock=True)
    sealed = sum(segment.bytes for segment in parts.history.segments)
    parts.close()
    assert inspect(directory)["state_bytes"] >= sealed > 0


def test_an_account(book, groups):
    facts = inspect_account(book, 2)
    assert facts["id"] == "2"
    assert facts["flags"] == ["debits_must_not_exceed_credits", "history"]
    assert facts["credits_posted"] == str(8 * 100)
    assert facts["debits_posted"] == "0"
    assert facts["created"] == {"group": 1, "position": books.places(groups, K.ACCOUNT)[1][2]}


def test_a_balance_beyond_64_bits(book):
    assert inspect_account(book, 3)["credits_posted"] == str(8 * 2**64 + sum(range(8)))


@pytest.mark.parametrize(
    ("place", "state", "ended_by", "captured"),
    [(0, "voided", "1004", None), (1, "posted", "1014", "20"), (2, "open", None, None),
     (3, "expired", None, None)],
)  # fmt: skip
def test_a_hold_and_how_it_ended(book, place, state, ended_by, captured):
    facts = inspect_transfer(book, 1000 + 10 * place + 2)
    assert facts["flags"] == ["pending"]
    assert facts["amount"] == "50"
    hold = facts["hold"]
    assert (hold["state"], hold.get("ended_by")) == (state, ended_by)
    assert hold.get("captured") == captured
    assert ("ended_position" in hold) == (state != "open")
    assert (hold["expires"] == "never") == (state != "expired")


def test_a_payment_and_its_request(book, groups):
    facts = inspect_transfer(book, 1000)
    assert facts["position"] == books.places(groups, K.TRANSFER)[0][2]
    assert "hold" not in facts
    assert facts["request"]["operation"] == "create_transfers"
    assert facts["request"]["position"] == facts["position"] - 1
    assert facts["request"]["events"] == 2


def test_a_burned_id(book, groups):
    facts = inspect_transfer(book, 1003)
    assert (facts["burned"], facts["status"]) == ("1003", "exceeds_credits")
    assert facts["position"] == books.places(groups, K.BURNED_ID)[0][2]


def test_a_group(book, groups):
    facts = inspect_group(book, 2)
    fields = groups[1][0]
    assert {name: facts[name] for name in fields} == fields
    assert len(facts["runs"]) == fields["run_count"]
    assert sum(run["records"] for run in facts["runs"]) == fields["position_count"]
    assert facts["runs"][0]["position"] == fields["position_first"]
    assert "wrong" not in facts


@pytest.mark.parametrize(
    ("look", "number", "why"),
    [
        (inspect_account, 99, "holds no account 99"),
        (inspect_transfer, 2**128 - 2, "holds no transfer 3402"),
        (inspect_group, 0, "holds groups 1 to"),
        (inspect_group, 999, "holds groups 1 to"),
    ],
)
def test_what_is_not_there(book, look, number, why):
    with pytest.raises(NotInBook, match=why):
        look(book, number)


def test_no_book(tmp_path):
    with pytest.raises(errors.DataRefused, match="holds no book"):
        inspect(tmp_path)


def test_progress_is_told(book, groups):
    seen: list[tuple[int, int]] = []
    inspect(book, lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(groups)) for number in range(1, len(groups) + 1)]
