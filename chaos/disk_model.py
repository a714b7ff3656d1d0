"""The disk tier: what a disk may hold after a power cut, by what a process has asked of it.

The rules: what was written before a sync of its file that returned is there, and so is a write that
says so itself (O_DSYNC); an entry is there after a sync of its folder. Of everything else any part
may be there: a write is torn at sectors of 512 bytes, sectors reach the disk in any order, each
holding what memory held of it at some moment; a size may have grown before its bytes came (zeros);
entries of one folder may appear or disappear in any order, a rename at once. Of a file that was cut
or given space, a first part of its changes is there. Not in it: disks that lie, torn sectors.
It knows no journal; it replays a recording and names states.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from chaos.shim import Op, Record

SECTOR_BYTES = 512
EXHAUSTIVE_ATOMS_MAX = 5  # so many changes under way are tried in every combination
CALLS_ALONE_MAX = 8  # so many calls are tried alone, and missing
RANDOM_PLANS = 6
CHANCES = (0.1, 0.5, 0.9)

Image = dict[str, bytes | None]  # what lies at each path; None is a folder


class Atom(NamedTuple):
    """The smallest change that is there or not: a piece of a sector, a size, an entry.

    Of changes to the same `place` of a node, those before one that is there are there as well.
    """

    number: int
    call: int  # the record it is a part of
    place: int
    at: int
    data: bytes


class Plan(NamedTuple):
    """Which of the changes under way are on the disk, and whether sizes came before bytes."""

    kept: frozenset[int]
    grown: bool


@dataclass
class File:
    content: bytearray = field(default_factory=bytearray)  # on disk for certain
    pending: list[Atom] = field(default_factory=list)
    ordered: bool = False  # its size changed otherwise than by writing

    def apply(self, atoms: Iterable[Atom]) -> None:
        for atom in atoms:
            _apply(self.content, atom)


@dataclass
class Entry:
    """A change of a folder that is under way: `name` appears, or disappears when node is None."""

    number: int
    call: int
    changes: tuple[tuple[str, File | Folder | None], ...]


@dataclass
class Folder:
    entries: dict[str, File | Folder] = field(default_factory=dict)  # on disk for certain
    pending: list[Entry] = field(default_factory=list)

    def seen(self) -> dict[str, File | Folder]:
        """What the process sees."""
        found = dict(self.entries)
        for entry in self.pending:
            _change(found, entry)
        return found


TRUNCATED, GROWN = -1, -2  # places of an ordered file's changes of size


def _apply(content: bytearray, atom: Atom) -> None:
    if atom.place == TRUNCATED:
        del content[atom.at :]
    missing = atom.at + len(atom.data) - len(content)
    if missing > 0:
        content.extend(bytes(missing))
    content[atom.at : atom.at + len(atom.data)] = atom.data


def _change(entries: dict[str, File | Folder], entry: Entry) -> None:
    for name, node in entry.changes:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """A folder, what is certain of it and what is under way, from one record to the next.

    `version` changes whenever something became certain.
    """

    def __init__(self, root: Path) -> None:
        """As `root` is now, all of it certain."""
        self._nodes: dict[int, File | Folder] = {}
        self._numbers = 0
        self._calls = 0
        self.version = 0
        self.root = self._adopt(root)
        assert isinstance(self.root, Folder)

    def _adopt(self, path: Path) -> File | Folder:
        node: File | Folder
        if path.is_dir():
            found = sorted(path.iterdir())
            node = Folder({entry.name: self._adopt(entry) for entry in found})
        else:
            node = File(bytearray(path.read_bytes()))
        self._nodes[path.stat().st_ino] = node
        return node

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # ---- what a process does --------------------------------------------------------------------

    def issue(self, record: Record) -> None:
        """The call is under way: what it changes may be on the disk."""
        self._calls += 1
        if record.op is Op.WRITE:
            self._write(self._file(record), record)
        elif record.op is Op.TRUNCATE or record.op is Op.ALLOCATE:
            self._resize(self._file(record), record)
        elif record.op in (Op.CREATE, Op.MKDIR):
            node = self._nodes[record.inode] = File() if record.op is Op.CREATE else Folder()
            self._enter(record.at, (record.data.decode(), node))
        elif record.op is Op.REMOVE:
            self._enter(record.at, (record.data.decode(), None))
        elif record.op is Op.RENAME:
            if record.at != record.inode:
                raise ValueError("a rename from one folder to another is not in the model")
            old, new = record.data.decode().split("\0")
            folder = self._nodes[record.at]
            assert isinstance(folder, Folder)
            self._enter(record.at, (old, None), (new, folder.seen()[old]))

    def settle(self, record: Record) -> None:
        """The call has returned: what it promises is certain."""
        node = self._nodes.get(record.inode)
        if record.op is Op.SYNC and node is not None:
            self.version += 1
            if isinstance(node, File):
                node.apply(node.pending)
                node.ordered = False
            else:
                for entry in node.pending:
                    _change(node.entries, entry)
            node.pending.clear()
        elif record.op is Op.WRITE and record.durable:
            assert isinstance(node, File)
            self.version += 1
            last = record.at + max(1, len(record.data)) - 1
            sectors = range(record.at // SECTOR_BYTES, last // SECTOR_BYTES + 1)
            if node.ordered:
                node.apply(node.pending)
                node.pending.clear()
            node.apply(atom for atom in node.pending if atom.place in sectors)
            node.pending = [atom for atom in node.pending if atom.place not in sectors]

    def _file(self, record: Record) -> File:
        node = self._nodes[record.inode]
        assert isinstance(node, File)
        return node

    def _write(self, file: File, record: Record) -> None:
        at, end = record.at, record.at + len(record.data)
        while at < end:
            place = at // SECTOR_BYTES
            upto = min(end, (place + 1) * SECTOR_BYTES)
            data = record.data[at - record.at : upto - record.at]
            file.pending.append(Atom(self._number(), self._calls, place, at, data))
            at = upto

    def _resize(self, file: File, record: Record) -> None:
        file.ordered = True
        place = TRUNCATED if record.op is Op.TRUNCATE else GROWN
        file.pending.append(Atom(self._number(), self._calls, place, record.at, b""))

    def _enter(self, folder: int, *changes: tuple[str, File | Folder | None]) -> None:
        node = self._nodes[folder]
        assert isinstance(node, Folder)
        node.pending.append(Entry(self._number(), self._calls, changes))

    # ---- what a power cut may leave -------------------------------------------------------------

    def _reachable(self, node: File | Folder) -> Iterator[File | Folder]:
        yield node
        if isinstance(node, Folder):
            children = dict.fromkeys(map(id, node.entries.values()))
            yield from (n for child in node.entries.values() for n in self._reachable(child))
            for entry in node.pending:
                for _, child in entry.changes:
                    if child is not None and id(child) not in children:
                        children[id(child)] = None
                        yield from self._reachable(child)

    def changing(self) -> list[File | Folder]:
        """Whatever has changes under way."""
        return [node for node in self._reachable(self.root) if node.pending]

    def image(self, plan: Plan) -> Image:
        """The state that `plan` names."""
        return dict(self._image(self.root, "", plan))

    def _image(
        self, node: File | Folder, path: str, plan: Plan
    ) -> Iterator[tuple[str, bytes | None]]:
        if isinstance(node, File):
            yield path, _content(node, plan)
            return
        if path:
            yield path, None
        entries = dict(node.entries)
        for entry in node.pending:
            if entry.number in plan.kept:
                _change(entries, entry)
        for name, child in entries.items():
            yield from self._image(child, f"{path}/{name}" if path else name, plan)


def _end(file: File) -> int:
    return max((atom.at + len(atom.data) for atom in file.pending), default=0)


def _kept(file: File, kept: frozenset[int]) -> list[Atom]:
    last: dict[int, int] = {}
    for atom in file.pending:
        if atom.number in kept:
            last[0 if file.ordered else atom.place] = atom.number
    return [
        atom
        for atom in file.pending
        if atom.number <= last.get(0 if file.ordered else atom.place, 0)
    ]


def _content(file: File, plan: Plan) -> bytes:
    content = bytearray(file.content)
    for atom in _kept(file, plan.kept):
        _apply(content, atom)
    if plan.grown and not file.ordered:
        content.extend(bytes(max(0, _end(file) - len(content))))
    return bytes(content)


def plans(disk: Disk, random: Random) -> list[Plan]:
    """States to try now: all of them while little is under way, a seeded choice beyond."""
    changing = disk.changing()
    calls = {change.number: change.call for node in changing for change in node.pending}
    numbers = list(calls)
    if len(numbers) <= EXHAUSTIVE_ATOMS_MAX:
        subsets = [
            frozenset(n for place, n in enumerate(numbers) if mask >> place & 1)
            for mask in range(1 << len(numbers))
        ]
    else:
        subsets = _sampled(calls, numbers, random)
    found = dict.fromkeys(_closed(changing, subset) for subset in subsets)
    sizes = (False, True) if any(map(_grows, changing)) else (False,)
    return [Plan(kept, grown) for kept in found for grown in sizes]


def _closed(changing: list[File | Folder], kept: frozenset[int]) -> frozenset[int]:
    """`kept` with all that must be there when it is: one name for each state."""
    found: list[int] = []
    for node in changing:
        if isinstance(node, File):
            found += [atom.number for atom in _kept(node, kept)]
        else:
            found += [entry.number for entry in node.pending if entry.number in kept]
    return frozenset(found)


def _grows(node: File | Folder) -> bool:
    """Whether a size may be on the disk before the bytes it counts."""
    return isinstance(node, File) and not node.ordered and _end(node) > len(node.content)


def _sampled(calls: dict[int, int], numbers: list[int], random: Random) -> list[frozenset[int]]:
    everything = frozenset(numbers)
    subsets = [frozenset[int](), everything]
    by_call: dict[int, list[int]] = {}
    for number, call in calls.items():
        by_call.setdefault(call, []).append(number)
    made = list(by_call.values())
    for part in random.sample(made, min(len(made), CALLS_ALONE_MAX)):
        torn = part[: random.randint(0, len(part))]
        subsets += [frozenset(part), everything - set(part), everything - set(torn)]
    for _ in range(RANDOM_PLANS):
        chance = random.choice(CHANCES)
        subsets.append(frozenset(n for n in numbers if random.random() < chance))
    subsets.append(everything - {random.choice(numbers)})
    return subsets


def moments(disk: Disk, records: list[Record]) -> Iterator[tuple[int, Disk]]:
    """A copy of `disk` as each record comes under way, and as all have ended; with its index."""
    disk = copy.deepcopy(disk)
    for index, record in enumerate(records):
        disk.issue(record)
        yield index, disk
        disk.settle(record)
    yield len(records), disk
