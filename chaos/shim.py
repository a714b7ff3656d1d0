"""Builds the fault library `shim.c` when it is first needed and sets it up for a child.

The library is kept in the user's cache, under a name made from its source. See `shim.c` for the
faults, what the log says and what a recording holds. This file knows nothing of what is tested.
"""

from __future__ import annotations

import enum
import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")


class Event(NamedTuple):
    """One line of the log: `what` is begin or end, `ns` of the monotonic clock."""

    what: str
    call: str
    ns: int
    result: int


class Op(enum.IntEnum):
    """What a record tells of. MARK is not a call: the recorded process put it there itself."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    ALLOCATE = 4
    CREATE = 5
    MKDIR = 6
    RENAME = 7
    REMOVE = 8
    MARK = 9


class Record(NamedTuple):
    """One change, as `record_t` of the library has it; `data` is what follows it there."""

    op: Op
    durable: bool
    inode: int
    at: int
    data: bytes


_RECORD = struct.Struct("<QQQQQ")  # op, durable, inode, at, bytes that follow


def built() -> Path:
    """The built library. CalledProcessError when there is no working `cc`."""
    name = f"shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledger-chaos"
    path = cache / name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            built = Path(directory) / name
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run(["cc", *flags, SOURCE, "-o", built, "-ldl"], check=True)
            built.replace(path)
    return path


def environment(
    match: Path | str,
    rule: str = "",
    *,
    control: Path | None = None,
    log: Path | None = None,
    record: Path | None = None,
) -> dict[str, str]:
    """The environment of a child that gets faults on paths that contain `match`.

    `rule` is "calls nth action". With `control` the child reads its rule from that file instead.
    """
    variables = dict(os.environ, LD_PRELOAD=str(built()), SHIM_MATCH=str(match))
    if rule:
        names = ("SHIM_CALL", "SHIM_NTH", "SHIM_ACTION")
        variables.update(zip(names, rule.split(), strict=True))
    if control is not None:
        variables["SHIM_CONTROL"] = str(control)
    if log is not None:
        variables["SHIM_LOG"] = str(log)
    if record is not None:
        variables["SHIM_RECORD"] = str(record)
    return variables


def switch(control: Path, rule: str = "") -> None:
    """Put `rule` in force in every process that reads `control`; none by default. See `shim.c`."""
    new = control.with_suffix(".new")
    new.write_text(rule)
    new.replace(control)


def events(log: Path) -> list[Event]:
    """What the log holds so far."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [Event(what, call, int(ns), int(result)) for what, call, ns, result in lines]


def mark(record: Path, data: bytes) -> None:
    """Put a mark into a recording, between what was done before and what is done after."""
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, _RECORD.pack(Op.MARK, 0, 0, 0, len(data)) + data)
    finally:
        os.close(descriptor)


def recorded(record: Path) -> Iterator[Record]:
    """The changes that were recorded, in order. What a kill left half written is not told."""
    log = record.read_bytes()
    start = 0
    while start + _RECORD.size <= len(log):
        op, durable, inode, at, size = _RECORD.unpack_from(log, start)
        start += _RECORD.size + size
        if start <= len(log):
            yield Record(Op(op), bool(durable), inode, at, log[start - size : start])
