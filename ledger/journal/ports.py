"""What others need of a journal, as protocols: its end, its groups and records, a log.

The engine, the history, the head stamp and the scrub are written against these, so that a simulated
or a replicated log may take the journal's place. How a group is kept is not seen through them: no
file, descriptor or transaction of LMDB. This file knows the bytes of a group and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ledger.facts.errors import DataRefused
from ledger.journal._file import INTACT, NO_RECORD, Body
from ledger.journal.group import End, Group, Header


class Room(NamedTuple):
    """Space for what comes: bytes left, percent used, the highest warning reached (0 for none).

    `refusal` says why nothing that creates may be accepted, or is None; `shut` why nothing that
    writes at all, what is needed to read (a session, a start) included.
    """

    free_bytes: int
    used_percent: int
    warn_percent: int
    refusal: str | None
    shut: str | None = None


class NoRecord(LookupError):
    """An address in this group where no record of the address's kind is."""

    def __init__(self, group: int) -> None:
        super().__init__(f"an address in group {group} where no such record is")
        self.group = group


class Extent(Protocol):
    """Whose journal it is and how far it goes: number and last position of the last group."""

    @property
    def cluster(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def position(self) -> int: ...


class Ends(Protocol):
    """Where groups end."""

    def end_of(self, number: int) -> tuple[int, bytes]:
        """The last position of group `number` and its digest. DataRefused when it is damaged."""


class JournalEnd(Extent, Ends, Protocol):
    """How far a journal goes, and where each of its groups ends."""


class JournalReader(JournalEnd, Protocol):
    """A journal as it is read, from any thread; what each call gives is said in reader.py.

    DataRefused names a damaged group, ValueError one that is not held.
    """

    @property
    def directory(self) -> Path: ...
    def digest(self) -> bytes: ...
    def values(self, numbers: Iterable[int]) -> Iterator[tuple[int, memoryview]]: ...
    def bodies(self, numbers: Iterable[int]) -> Iterator[tuple[int, memoryview, memoryview]]: ...
    def records_at(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint8]: ...
    def open_body(self, number: int) -> AbstractContextManager[Body | None]: ...
    def read_ahead(self, extents: Iterable[tuple[int, int, int]]) -> None: ...


class Log(Extent, Protocol):
    """What keeps groups: the local journal, later a replicated stream, a simulated one in tests."""

    def append(self, expected_position: int, group: Group) -> int: ...
    def one(self, number: int) -> tuple[Header, bytes]: ...
    def room(self) -> Room: ...
    def digest(self) -> bytes: ...


def check_block(number: int, bad: int) -> None:
    """DataRefused unless what a call came to, in the body of group `number`, is INTACT."""
    if bad == NO_RECORD:
        raise DataRefused(f"group {number}: a run whose length is wrong")
    if bad != INTACT:
        raise DataRefused(f"group {number}: block {bad} check failed")


def refuse_another(
    journal: JournalEnd, cluster: int, said: End, name: str, where: str, way: str
) -> str | None:
    """Refuse a journal that does not hold the end that a derived file was written for.

    `name` and `where` name the file, `way` says what goes on. DataRefused when the journal is of
    another cluster, shorter than `said`, or holds another group there. A warning to show when that
    cannot be told, or None.
    """
    if cluster != journal.cluster:
        raise DataRefused(
            f"{where} is of cluster {cluster}, the journal of {journal.cluster}: "
            f"directories were mixed; {way}"
        )
    if said.group > journal.group:
        raise DataRefused(
            f"the journal ends at position {journal.position} but {name} says {said.position}: "
            f"the journal has lost acknowledged groups or directories were mixed; {way}"
        )
    try:
        end = journal.end_of(said.group)
    except DataRefused as error:
        return f"whether {where} is of this journal cannot be told: {error}"
    if end != (said.position, said.digest):
        raise DataRefused(
            f"the journal ends at position {journal.position}, and its group {said.group} is not "
            f"the one that {name} saw end at position {said.position}: directories were mixed; "
            f"{way}"
        )
    return None
