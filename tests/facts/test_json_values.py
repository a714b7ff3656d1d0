"""JSON of every command: what is a string of digits and what is a number, by one rule."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.process import Server
from ledger.facts import json_values, schema
from ledger.facts.limits import Exit
from ledger.load import report as load_report
from tests.support import books

BIG = 2**64 - 1
BYTES = {"body_bytes"}  # a size, though a record keeps it in 64 bits
UNTOLD = {  # of frames and of what goes between rooms, which no command tells
    "magic", "check", "reserved", "reserved_2", "digest_previous", "state_hash", "padding",
}  # fmt: skip


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An account and a transfer whose every field is as large as it can be."""
    writer = books.Writer()
    big = {"user_data_128": 2**128 - 1, "user_data_64": BIG, "user_data_32": 2**32 - 1}
    assert writer.accounts(books.account(1, **big), books.account(2)) == ["CREATED"] * 2
    assert writer.transfers(books.transfer(2**128 - 2, 1, 2, 2**127, **big)) == ["CREATED"]
    directory = tmp_path_factory.mktemp("exact") / "book"
    return books.write(directory, writer.groups(), 2**128 - 1)


def told(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "ledger", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout, parse_int=_number)
    return found


def _number(digits: str) -> int:
    assert abs(int(digits)) < 2**53, f"{digits} is rounded by who reads it"
    return int(digits)


def pairs(facts: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value of facts with the name that it is told under."""
    if isinstance(facts, dict):
        for key, one in facts.items():
            yield from pairs(one, key)
    elif isinstance(facts, list):
        for one in facts:
            yield from pairs(one)
    else:
        yield name, facts


def check(facts: dict[str, Any]) -> None:
    facts = dict(facts)
    for name in json_values.COUNTS & set(facts):
        counts = facts.pop(name)
        assert counts and all(type(count) is int for count in counts.values()), f"{name}: {counts}"
    for name, value in pairs(facts):
        if name in json_values.STRINGS and value is not None:
            assert isinstance(value, str), f"{name} is {value!r}"


def test_what_a_record_keeps_in_64_bits_is_a_string() -> None:
    """By the records themselves, so that a new field cannot be forgotten."""
    for record in ("account", "transfer", "group_header", "start", "session", "request",
                   "resolution", "burned_id", "outcome", "session_evicted"):  # fmt: skip
        dtype = schema.RECORDS[record]
        assert dtype.names is not None
        wide = {name for name in dtype.names if dtype[name].itemsize >= 8}
        assert wide - BYTES - UNTOLD <= json_values.STRINGS, record
        narrow = set(dtype.names) - wide
        assert not narrow & json_values.STRINGS, record


def test_only_the_named_values_change() -> None:
    facts = {"id": 1, "count": 2, "deep": [{"position": 3, "seconds": 0.5}], "clock_ns": None,
             "open": True, "records": {"account": 4}}  # fmt: skip
    assert json_values.exact(facts) == {
        "id": "1", "count": 2, "deep": [{"position": "3", "seconds": 0.5}], "clock_ns": None,
        "open": True, "records": {"account": 4},
    }  # fmt: skip


def test_inspect(book: Path) -> None:
    for words in ([], ["--account", 1], ["--transfer", 2**128 - 2], ["--group", 1]):
        check(told("inspect", book, *words))
    account = told("inspect", book, "--account", 1)
    assert (account["user_data_64"], account["debits_posted"]) == (str(BIG), str(2**127))
    assert account["ledger"] == 1 and account["timestamp"].isdigit()
    assert told("inspect", book)["clock_ns"].isdigit()


def test_verify_and_rebuild(book: Path) -> None:
    for command in ("verify", "rebuild"):
        facts = told(command, book)
        check(facts)
        assert facts["position"].isdigit()
    total = told("verify", book)["ledgers"][0]
    assert total["debits_posted"] == total["credits_posted"] == str(2**127)
    assert (total["held"], total["accounts"]) == ("0", 2)


def test_load(tmp_path: Path) -> None:
    server = Server(tmp_path / "book", 2**128 - 1)
    try:
        server.start()
        few = ["--transfers", 100, "--accounts", 10, "--batch", 10, "--seed", BIG, "--check"]
        report = told("load", server.address, "--cluster", 2**128 - 1, *few)
        check(report)
        assert report["options"]["seed"] == str(BIG)
        assert report["options"]["cluster"] == str(2**128 - 1)
        assert report["debits_posted"] == report["credits_posted"] != "0"
        assert report["accepted"] == report["found"] == 100
        assert server.terminate() == Exit.OK
    finally:
        server.close()


def test_no_figure_of_a_load_is_missed() -> None:
    wide = {"cluster", "seed", "debits_posted", "credits_posted"}
    fields = {one.name for kind in (load_report.Options, load_report.Report)
              for one in msgspec.structs.fields(kind)}  # fmt: skip
    assert fields & json_values.STRINGS == wide
