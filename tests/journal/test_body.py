"""Runs: a body's records come out as they went in, and what is no run is told with its place."""

import numpy as np
import pytest

from ledger.facts.schema import JournalKind as K
from ledger.journal.body import DTYPES, read_runs
from ledger.journal.group import Header
from tests.support import books


def one_group() -> tuple[Header, np.ndarray]:
    header, body = next(books.headers(books.paid(4)))
    return header, body.copy()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("kind", 11, "kind 11, version 1: this software does not know it"),
        ("version", 2, "kind 1, version 2: this software does not know it"),
        ("count", 2, "a run of 2 records of kind 1 in 32 bytes"),
        ("count", 0, "a run of 0 records of kind 1 in 32 bytes"),
        ("bytes", 48, "a run of 1 records of kind 1 in 48 bytes"),
        ("reserved", 1, "a run whose reserved bytes are not zero"),
    ],
)
def test_a_run_that_is_none(field, value, why):
    header, body = one_group()
    body[:16].view(books.schema.RUN)[field] = value
    wrong = read_runs(body, [header]).wrong
    assert wrong is not None and wrong.position == 1 and why in wrong.why


def test_a_run_that_ends_behind_the_body():
    header, body = one_group()
    cut = body[: len(body) - 16]
    wrong = read_runs(cut, [header._replace(body_bytes=len(cut))]).wrong
    assert wrong is not None and wrong.position == header.position_last


@pytest.mark.parametrize("name", ["position_count", "run_count"])
def test_a_header_that_counts_wrong(name):
    header, body = one_group()
    runs = read_runs(body, [header._replace(**{name: getattr(header, name) + 1})])
    assert runs.wrong is not None


def test_rows_are_the_records_in_order():
    groups = books.paid(4, 30)
    found = list(books.headers(groups))
    runs = read_runs(np.concatenate([body for _, body in found]), [header for header, _ in found])
    for kind in K:
        expected = books.places(groups, kind)
        rows = runs.rows(kind)
        assert rows.positions.tolist() == [position for _, _, position in expected]
        for record, (group, offset, _) in zip(rows.records, expected, strict=True):
            assert record.tobytes() == groups[group][1][offset : offset + DTYPES[kind].itemsize]
