"""Tests of a group's bytes: what is written is read back, and no other bit passes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts.errors import DataRefused
from ledger.facts.limits import GROUP_BYTES_MAX, GROUP_VALUE_BYTES_MAX
from ledger.journal import _check
from ledger.journal.group import Group, Header, digest_group, read_group, write_group

CLUSTER = 2**128 - 2
GROUP = Group(bytes(range(256)) * 33, 300, 121, 4, 50, 90, 60, 80, b"s" * 32)


def written(group: Group = GROUP, number: int = 17, digest: bytes = b"d" * 32) -> bytearray:
    value = np.full(GROUP_VALUE_BYTES_MAX, 255, np.uint8)
    return bytearray(write_group(value, CLUSTER, number, digest, group)[2])


def read(value: bytes | bytearray, number: int = 17, previous: Header | None = None) -> Header:
    return read_group(memoryview(value), number, CLUSTER, previous)[0]


def rechecked(value: bytearray) -> bytearray:
    value[240:256] = _check.aegis(value[:240])
    return value


def test_reads_back_every_field() -> None:
    value = written()
    header, body = read_group(memoryview(value), 17, CLUSTER)
    assert bytes(body) == GROUP.body
    assert header == Header(
        CLUSTER, 17, 300, 121, 4, 50, 90, 60, 80, len(GROUP.body), b"d" * 32, b"s" * 32
    )
    assert header.position_last == 420


def test_layout() -> None:
    value = written()
    blocks = 3  # 8,448 bytes of body
    assert len(value) == 256 + len(GROUP.body) + 8 * blocks
    assert value[:8] == b"LEDGRGRP"
    assert value[16:32] == CLUSTER.to_bytes(16, "little")
    assert value[240:256] == _check.aegis(value[:240])
    last = GROUP.body[8192:] + (17).to_bytes(8, "little") + (2).to_bytes(8, "little")
    assert value[-8:] == _check.aegis(last)[:8]


def test_digest_is_of_header_and_body() -> None:
    header, body = b"h" * 256, bytes(range(256)) * 600
    assert digest_group(header, body) == hashlib.sha256(header + body).digest()


@given(st.integers(0, len(written()) * 8 - 1))
def test_any_flipped_bit_is_refused_by_name(bit: int) -> None:
    value = written()
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DataRefused, match=r"^group 17\b"):
        read(value)


def test_says_which_block() -> None:
    value = written()
    value[256 + 2 * 4096 + 5] ^= 1
    with pytest.raises(DataRefused) as refused:
        read(value)
    assert str(refused.value) == "group 17 (positions 300-420): block 2 check failed"


@pytest.mark.parametrize("kept", [0, 8, 255, 256, 8000])
def test_a_value_cut_short_is_refused(kept: int) -> None:
    with pytest.raises(DataRefused, match="group 17"):
        read(written()[:kept])


def test_another_format_is_named() -> None:
    value = written()
    value[8] = 2
    with pytest.raises(DataRefused, match=r"check failed \(it says format 2, .* reads 1\)"):
        read(value)
    with pytest.raises(DataRefused, match="group 17: format 2, this software reads 1"):
        read(rechecked(value))


def test_the_place_is_checked() -> None:
    before = read(written(Group(bytes(16), 290, 10, 1, 40, 50), 16), 16)
    assert read(written(), 17, before).group == 17
    with pytest.raises(DataRefused, match=r"group 17 .* lies in the place of group 18"):
        read(written(), 18)
    with pytest.raises(DataRefused, match=r"positions 301-421\): group 16 ended at 299"):
        read(written(GROUP._replace(position_first=301)), 17, before)
    with pytest.raises(DataRefused, match="clock begins at 51, group 16 ended at 50"):
        read(written(GROUP._replace(clock_before=51)), 17, before)
    with pytest.raises(DataRefused, match=f"is of cluster {CLUSTER}, the book is of 7"):
        read_group(memoryview(written()), 17, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": b""},
        {"body": bytes(24)},
        {"body": bytes(GROUP_BYTES_MAX + 16)},
        {"position_count": 0},
        {"clock_after": 49},
        {"state_hash": b"short"},
    ],
)
def test_what_is_no_group_is_not_written(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        written(GROUP._replace(**wrong))


def test_the_largest_body_fits() -> None:
    body = np.zeros(GROUP_BYTES_MAX, np.uint8)
    assert read(written(Group(body, 300, 1, 1, 0, 0))).body_bytes == GROUP_BYTES_MAX
