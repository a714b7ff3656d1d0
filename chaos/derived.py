"""Whether derived data say what the journal says: every column file against one made again.

A book's segments must say together what those of a rebuild say, however they were merged, and after
all due merges be the same files; its checkpoint must be the state that a core had which went
through the journal and never sealed anything; and all three ways to a state must end in the same
one. The journal is what is trusted here; whether that is right, others judge.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ledger import _core
from ledger.engine import assembly, recovery
from ledger.engine.checkpointer import decode_numbers
from ledger.facts import limits
from ledger.facts.errors import ColumnDamaged
from ledger.history import _columns
from ledger.history.segments import History
from ledger.journal.journal import Journal

MEMORY = Path("/dev/shm")


def fault_of(directory: Path, cluster: int, window_events: int, rotten: bool = False) -> str | None:
    """What is wrong with the derived data of a book that nobody has open, or None.

    They are brought to where a start brings them, then merged. `rotten` takes damaged pages for
    granted: a file that has one is rebuilt first, as the engine would have it.
    """
    with Journal.open(directory, cluster) as journal:
        while True:
            core, _, history, _ = recovery.bring_back(
                directory, journal, lambda: assembly.new_core(window_events)
            )
            try:
                for _ in history.verify():
                    pass
                while history.merge():
                    pass
                return difference(journal, history, core, window_events, merged=True)
            except ColumnDamaged as error:
                if not rotten:
                    return f"damaged: {_plain(error, directory)}"
                history.damaged(error)
            finally:
                history.close()


def difference(
    journal: Journal, history: History, core: _core.Core, window_events: int, merged: bool = False
) -> str | None:
    """What `history` and `core`, brought back from all of `journal`, do not share with a rebuild.

    With `merged` all that is due has been merged. ColumnDamaged for a page that is.
    """
    straight, checkpoint = _straight(journal, history)
    if straight != core.state_hash():
        return "the state brought back is not the one that a replay of everything ends in"
    if checkpoint is not None:
        return checkpoint
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        (Path(place) / "state").mkdir()
        other, _, rebuilt, _ = recovery.bring_back(
            Path(place), journal, lambda: assembly.new_core(window_events)
        )
        try:
            return _compare(history, rebuilt, core, other, merged)
        finally:
            rebuilt.close()


def _compare(
    history: History, rebuilt: History, core: _core.Core, other: _core.Core, merged: bool
) -> str | None:
    if other.state_hash() != core.state_hash():
        return "the state brought back is not the one that a rebuild ends in"
    if history.group != rebuilt.group:
        return f"segments end with group {history.group}, those of a rebuild with {rebuilt.group}"
    if history.digest() != rebuilt.digest():
        return "segments do not say what those of a rebuild say"
    while merged and rebuilt.merge():
        pass
    if merged and _names(history) != _names(rebuilt):
        return f"segments are {_names(history)}, those of a rebuild {_names(rebuilt)}"
    return None


def _names(history: History) -> list[str]:
    return [Path(segment.path).name for segment in history.segments]


def _straight(journal: Journal, history: History) -> tuple[bytes, str | None]:
    """The state hash after a replay without windows, and how the checkpoint differs on the way."""
    core, _ = assembly.new_core()
    wrong = None
    checkpoint = history.checkpoint

    def after_group() -> None:
        nonlocal wrong
        if checkpoint is not None and core.group - 1 == checkpoint.group_last:
            wrong = _checkpoint_fault(core, checkpoint)

    recovery.replay(journal, core, after_group=after_group)
    return core.state_hash(), wrong


def _checkpoint_fault(core: _core.Core, checkpoint: _columns.ColumnFile) -> str | None:
    """How a checkpoint differs from a core that is where it was taken."""
    few, numbers = core.open_snapshot()
    expected = {_columns.ACCOUNTS: b"", _columns.HOLDS: b""}
    expected |= {column: records.tobytes() for column, records in few.items()}
    buffer = np.empty(limits.MESSAGE_BYTES_MAX, np.uint8)
    while True:
        column, count = core.copy_snapshot(buffer)
        if column == 0:
            break
        expected[column] += buffer[: count * _columns.RECORD_BYTES[column]].tobytes()
    name = Path(checkpoint.path).name
    for column, records in expected.items():
        found = checkpoint.records(column, 0, checkpoint.count(column)).tobytes()
        # Open holds and sessions come in any order.
        size = _columns.RECORD_BYTES[column]
        if _in_order(column, found, size) != _in_order(column, records, size):
            return f"{name}: column {column} is not the state after its group"
    if decode_numbers(checkpoint.facts) != numbers:
        return f"{name}: its numbers are {decode_numbers(checkpoint.facts)}, not {numbers}"
    return None


def _in_order(column: int, records: bytes, size: int) -> list[bytes]:
    each = [records[at : at + size] for at in range(0, len(records), size)]
    return each if column in (_columns.ACCOUNTS, _columns.STARTS) else sorted(each)


def _plain(error: Exception, directory: Path) -> str:
    """What an error says without the folder's name, which is another in each run."""
    return str(error).replace(str(directory), "the book")


def file_names(directory: Path) -> list[str]:
    """The finished column files of a book, in order of their names."""
    paths = (directory / "state").glob("*-*")
    return sorted(path.name for path in paths if path.suffix == "" and path.name[0] != ".")


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file, in place; `bit` counts on from its beginning, over and over."""
    with path.open("r+b") as file:
        bit %= 8 * path.stat().st_size
        file.seek(bit // 8)
        [byte] = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))

