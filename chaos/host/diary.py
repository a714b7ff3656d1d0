"""What a host writes down: one line of JSON for each thing asked and for what became of it.

A line is one write at the end of a file, so that it is there whole or not at all, whenever the
host dies or is interrupted. The judge reads it with nothing but this. It knows no book.

    {"open": pid}                          the book is open
    {"asked": [first, count]}              payments first .. first + count - 1, before the call
    {"acked": [first, count, times]}       all of them created, at these times (ns)
    {"again": [first, count, times]}       all of them existed when asked again, with these times
    {"refused": [first, count, why]}       the call raised before anything was done
    {"unknown": [first, count, why]}       the caller was taken away from its call
    {"broken": [check, what]}              the host itself saw what must not be
    {"seen": [what, times]}                something happened so often
    {"end": true}                          the host came to its end
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any


class Diary:
    """The host's side. Its descriptor is above those that a host may close."""

    def __init__(self, path: Path) -> None:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._descriptor = os.dup2(made, 100, inheritable=False)
        os.close(made)

    def write(self, what: str, *values: Any) -> None:
        line = json.dumps({what: list(values)}) + "\n"
        os.write(self._descriptor, line.encode())


class Told:
    """What one life's diary says."""

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}  # first -> count
        self.acked: dict[int, list[int]] = {}
        self.again: list[tuple[int, list[int]]] = []
        self.refused: dict[int, str] = {}
        self.unknown: Counter[str] = Counter()
        self.broken: list[tuple[str, str]] = []
        self.seen: Counter[str] = Counter()
        self.opened = 0
        self.ended = False


def read(path: Path) -> Told:
    """What is in the file, as far as it goes."""
    told = Told()
    for line in path.read_text().splitlines() if path.exists() else []:
        [(what, values)] = json.loads(line).items()
        if what == "asked":
            told.asked[values[0]] = values[1]
        elif what == "acked":
            told.acked[values[0]] = values[2]
        elif what == "again":
            told.again.append((values[0], values[2]))
        elif what == "refused":
            told.refused[values[0]] = values[2]
        elif what == "unknown":
            told.unknown[values[2]] += 1
        elif what == "broken":
            told.broken.append((values[0], values[1]))
        elif what == "seen":
            told.seen[values[0]] += values[1]
        elif what == "open":
            told.opened += 1
        else:
            assert what == "end", line
            told.ended = True
    return told
