"""The slow scrub: the journal's groups read again, so that rot is found before it is needed.

A step reads a few groups from where the last one ended: headers, block checks, and the digest that
each next group holds of the one before. They are read by place, not from mapped memory: a sector
that cannot be read is an error here and not a signal. What is damaged is told once and passed over.
The weak spot: what the system still has in memory is not read from the disk. It starts no thread,
and knows neither what records mean nor how often it is asked.
"""

from __future__ import annotations

from ledger.facts.errors import DataRefused
from ledger.journal.group import HEADER_BYTES, Header, check_digest, digest_group, read_group
from ledger.journal.ports import JournalReader

GROUP_BYTES_MIN = 4096  # what a small group counts as, so that a step is short
TOLD_MAX = 1000


class Scrub:
    """One pass after another over a journal that may be appended to meanwhile."""

    def __init__(self, journal: JournalReader) -> None:
        self._journal = journal
        self._told: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self.group = 1  # the next to be read
        self._previous: Header | None = None
        self._digest: bytes | None = None

    def step(self, bytes_max: int) -> tuple[list[str], bool]:
        """Read about so many bytes more: what is newly found wrong, and whether the pass ended."""
        found: list[str] = []
        while bytes_max > 0:
            if self.group > self._journal.group:
                self._begin()
                return found, True
            try:
                bytes_max -= max(GROUP_BYTES_MIN, self._read())
            except DataRefused as error:
                bytes_max -= GROUP_BYTES_MIN
                self._previous = self._digest = None
                why = str(error)
                if why not in self._told and len(self._told) < TOLD_MAX:
                    self._told.add(why)
                    found.append(why)
            self.group += 1
        return found, False

    def _read(self) -> int:
        """Check the next group; its bytes."""
        [(_, value)] = self._journal.values([self.group])
        header, body = read_group(value, self.group, self._journal.cluster, self._previous)
        if self._digest is not None:
            check_digest(header, self._digest)
        self._previous, self._digest = header, digest_group(value[:HEADER_BYTES], body)
        return len(value)
