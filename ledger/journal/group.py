"""The bytes of a group: how one is written, checked, read and digested.

A group is header, body and the checks of the body's blocks, laid out as GROUP_HEADER says. Any log
that holds groups uses these functions; they know no disk, no LMDB, and not what a body's records
mean. What is read is checked before any of it is used, without the GIL where it may be mapped
memory that the disk has not delivered yet.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ledger.facts.errors import DataRefused
from ledger.facts.limits import CHECK_BLOCK_BYTES, GROUP_BYTES_MAX
from ledger.facts.schema import GROUP_HEADER, packer
from ledger.journal import _check

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]  # contiguous

FORMAT, MAGIC = _check.GROUP_FORMAT, _check.GROUP_MAGIC
HEADER_BYTES = GROUP_HEADER.itemsize
CHECKED_BYTES = HEADER_BYTES - 16  # the header's check covers all before it
BLOCK_CHECK_BYTES = 8
BODY_ALIGNMENT_BYTES = 16
DIGEST_BYTES = 32


class Group(NamedTuple):
    """What one append takes; the journal adds number, cluster, digest and checks.

    `body` is contiguous, a multiple of 16 bytes, at most GROUP_BYTES_MAX; clocks and timestamps
    are ns of the ledger clock.
    """

    body: Buffer
    position_first: int
    position_count: int
    run_count: int
    clock_before: int
    clock_after: int
    transfer_timestamp_min: int = 0
    transfer_timestamp_max: int = 0
    state_hash: bytes = bytes(32)


class Header(NamedTuple):
    """A group's header, as it was read and checked."""

    cluster: int
    group: int
    position_first: int
    position_count: int
    run_count: int
    clock_before: int
    clock_after: int
    transfer_timestamp_min: int
    transfer_timestamp_max: int
    body_bytes: int
    digest_previous: bytes
    state_hash: bytes

    @property
    def position_last(self) -> int:
        return self.position_first + self.position_count - 1

    @property
    def place(self) -> str:
        """How messages name the group."""
        return f"group {self.group} (positions {self.position_first}-{self.position_last})"


class End(NamedTuple):
    """Where a log ends. Replaced as a whole, so that a reader in another thread sees one end.
    """

    group: int
    position: int
    clock: int
    digest: bytes | Future[bytes]

    def known_digest(self) -> bytes:
        return self.digest.result() if isinstance(self.digest, Future) else self.digest


def _offset(name: str) -> int:
    assert GROUP_HEADER.fields is not None
    return int(GROUP_HEADER.fields[name][1])


_BYTES = {
    name: slice(_offset(name), _offset(name) + size)
    for name, size in (
        ("magic", 8),
        ("cluster", 16),
        ("digest_previous", 32),
        ("state_hash", 32),
        ("check", 16),
    )
}
_NUMBERS = (
    "group",
    "position_first",
    "position_count",
    "run_count",
    "clock_before",
    "clock_after",
    "transfer_timestamp_min",
    "transfer_timestamp_max",
    "body_bytes",
)


_WRITTEN = packer(GROUP_HEADER)


def _block_count(body_bytes: int) -> int:
    return -(-body_bytes // CHECK_BLOCK_BYTES)


def write_group(
    value: npt.NDArray[np.uint8], cluster: int, number: int, digest_previous: bytes, group: Group
) -> tuple[memoryview, memoryview, memoryview]:
    """Write the group's value into `value`: its header, its body, all of it.

    ValueError for a group that is none.
    """
    body = np.frombuffer(group.body, np.uint8)
    if body.nbytes % BODY_ALIGNMENT_BYTES or not 0 < body.nbytes <= GROUP_BYTES_MAX:
        raise ValueError(
            f"a body of {body.nbytes} bytes: not a multiple of {BODY_ALIGNMENT_BYTES} up to "
            f"{GROUP_BYTES_MAX}"
        )
    if group.position_count < 1 or group.clock_after < group.clock_before:
        raise ValueError(
            f"a group of {group.position_count} positions, clock {group.clock_before} to "
            f"{group.clock_after}"
        )
    if (len(digest_previous), len(group.state_hash)) != (DIGEST_BYTES, DIGEST_BYTES):
        raise ValueError(f"a digest or a state hash that has not {DIGEST_BYTES} bytes")
    end = HEADER_BYTES + body.nbytes
    raw = value.data
    whole = HEADER_BYTES + _check.write(body.data, number, raw[HEADER_BYTES:])
    _WRITTEN.pack_into(
        raw, 0, MAGIC, FORMAT, HEADER_BYTES, 0, cluster.to_bytes(16, "little"), 0, number,
        group.position_first, group.position_count, group.run_count, group.clock_before,
        group.clock_after, group.transfer_timestamp_min, group.transfer_timestamp_max, body.nbytes,
        digest_previous, group.state_hash, b"", b"",
    )  # fmt: skip
    raw[_BYTES["check"]] = _check.aegis(raw[:CHECKED_BYTES])
    return raw[:HEADER_BYTES], raw[HEADER_BYTES:end], raw[:whole]


def read_group(
    value: memoryview, number: int, cluster: int | None = None, previous: Header | None = None
) -> tuple[Header, memoryview]:
    """Header and body of `value`, which must be group `number` and follow `previous`.

    `cluster` and `previous` are not compared when None. DataRefused says what is wrong.
    """
    header, body, checks = read_header(value, number, cluster, previous)
    bad = _check.first_bad_block(body, checks, number)
    if bad >= 0:
        raise DataRefused(f"{header.place}: block {bad} check failed")
    return header, body


def check_digest(header: Header, digest: bytes) -> None:
    """DataRefused unless the group continues one of this digest."""
    if header.digest_previous != digest:
        raise DataRefused(f"{header.place}: holds another digest of the group before it")


def read_header(
    value: memoryview, number: int, cluster: int | None = None, previous: Header | None = None
) -> tuple[Header, memoryview, memoryview]:
    """As read_group, for whoever checks the blocks that it reads: header, body, block checks."""
    place = place_after(number, previous)
    if len(value) < HEADER_BYTES or bytes(value[_BYTES["magic"]]) != MAGIC:
        raise DataRefused(f"{place}: does not begin with a group header")
    fields = np.frombuffer(value, GROUP_HEADER, 1)[0]
    found = int(fields["format"])
    formats = f"format {found}, this software reads {FORMAT}"
    if _check.aegis(value[:CHECKED_BYTES]) != bytes(value[_BYTES["check"]]):
        says = "" if found == FORMAT else f" (it says {formats})"
        raise DataRefused(f"{place}: header check failed{says}")
    if found != FORMAT:
        raise DataRefused(f"{place}: {formats}")
    header = Header._make(
        (
            int.from_bytes(value[_BYTES["cluster"]], "little"),
            *(int(fields[name]) for name in _NUMBERS),
            bytes(value[_BYTES["digest_previous"]]),
            bytes(value[_BYTES["state_hash"]]),
        )
    )
    place = header.place
    if header.group != number:
        raise DataRefused(f"{place} lies in the place of group {number}")
    if cluster is not None and header.cluster != cluster:
        raise DataRefused(f"{place} is of cluster {header.cluster}, the book is of {cluster}")
    end = HEADER_BYTES + header.body_bytes
    bytes_expected = end + _block_count(header.body_bytes) * BLOCK_CHECK_BYTES
    if len(value) != bytes_expected:
        raise DataRefused(f"{place}: {len(value)} bytes, {bytes_expected} expected")
    if previous is not None:
        _check_follows(place, previous, header)
    return header, value[HEADER_BYTES:end], value[end:]


def _check_follows(place: str, previous: Header, header: Header) -> None:
    if header.position_first != previous.position_last + 1:
        raise DataRefused(f"{place}: group {previous.group} ended at {previous.position_last}")
    if header.clock_before != previous.clock_after:
        raise DataRefused(
            f"{place}: clock begins at {header.clock_before}, group {previous.group} ended at "
            f"{previous.clock_after}"
        )


def place_after(number: int, previous: Header | None) -> str:
    """How messages name a group whose own header cannot be trusted or is not there."""
    begins = "" if previous is None else f" (from position {previous.position_last + 1})"
    return f"group {number}{begins}"


def digest_group(header: bytes | memoryview, body: bytes | memoryview) -> bytes:
    """SHA-256 of the header and the body, 32 bytes; the GIL is taken back once."""
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.digest()
