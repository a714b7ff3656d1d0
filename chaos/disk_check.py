"""The disk tier: whether a book that a power cut left behind is all that was promised.

What was promised comes from the marks of a recording. The book is opened by the real recovery, and
compared with what the life that wrote it said of itself: durable (every acknowledged position is
there), whole (each group is the one that was handed over, byte for byte), chain (the digests),
replay-equal (the state is the one there was after that group), stamped (the head stamp is neither
ahead nor lost), sealed (segments and the checkpoint that were made are found), derived (they say
what the journal says, and nothing of them had to be made again). Then the book is worked on and
opened again. It knows nothing of disks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from chaos import derived
from chaos.disk_life import Mark, Script, digest, recover, tell_recovered, work
from ledger.engine.assembly import Parts
from ledger.facts import limits
from ledger.facts.errors import LedgerError
from ledger.journal.journal import Journal


class Promise(NamedTuple):
    """What must be there: all up to `position`, a stamp of `stamped` or later, when not 0, segments
    up to the group `sealed`, a checkpoint of the group `checkpointed` or later.

    `groups` are the position, state hash and digest of the body of each group that may be there.
    """

    position: int = 0
    stamped: int = 0
    groups: tuple[tuple[int, str, str], ...] = ()
    sealed: int = 0
    checkpointed: int = 0

    def after(self, mark: dict[str, Any]) -> Promise:
        """The promise once `mark` was made."""
        what = mark["what"]
        if what == "acknowledged":
            return self._replace(position=max(self.position, mark["position"]))
        if what == "stamped":
            return self._replace(stamped=mark["group"])
        if what in ("sealed", "checkpointed"):
            return self._replace(**{what: mark["group"]})
        group = (mark["position"], mark["state"], mark["body"])
        groups = (*self.groups[: mark["group"] - 1], group)
        if what == "append":
            return self._replace(groups=groups)
        # Recovered: what is there was looked at, so it is there for good.
        return self._replace(groups=groups, position=mark["position"])


def at_first(marks: list[dict[str, Any]]) -> Promise:
    """Before the first mark: nothing, and of groups at most the one that will create the book."""
    first = next((m for m in marks if m["what"] == "recovered" and m["group"] == 1), None)
    if first is None:
        return Promise()
    return Promise(groups=((first["position"], first["state"], first["body"]),))


def check(
    book: Path, promise: Promise, script: Script | None = None, mark: Mark | None = None
) -> str | None:
    """What is broken in the book, or None.

    With a script the book is worked on, and opened and checked once more; `mark` is told what that
    work promises.
    """
    existed = Journal.exists(book)
    if not existed and promise.position:
        return f"durable: no book is left, position {promise.position} was acknowledged"
    promised = promise

    def keep(said: dict[str, Any]) -> None:
        nonlocal promise
        promise = promise.after(said)
        if mark is not None:
            mark(said)

    try:
        parts = recover(book, keep)
    except LedgerError as error:
        return f"refused: {type(error).__name__}: {error}"
    try:
        # What a start took over is in what it leaves: compared with a rebuild at last.
        is_last = script is None
        why = _compare(parts, promised, is_last) if existed else _compare_new(parts)
        if why is not None or script is None:
            return why
        tell_recovered(parts, keep)
        work(parts, script, keep)
    except LedgerError as error:
        return f"live: {type(error).__name__}: {error}"
    finally:
        parts.close()
    return check(book, promise)


def _compare_new(parts: Parts) -> str | None:
    return None if parts.journal.group == 1 else "whole: a new book is not new"


def _compare(parts: Parts, promise: Promise, is_last: bool) -> str | None:
    try:
        return _difference(parts, promise) or _derived(parts, promise, is_last)
    except LedgerError as error:
        return f"chain: {type(error).__name__}: {error}"


def _difference(parts: Parts, promise: Promise) -> str | None:
    journal = parts.journal
    if journal.position < promise.position:
        return (
            f"durable: the journal ends at position {journal.position}, {promise.position} was"
            f" acknowledged"
        )
    if journal.group > len(promise.groups):
        return f"whole: group {journal.group} was never begun"
    position, state, _ = promise.groups[journal.group - 1]
    if journal.position != position:
        return f"whole: group {journal.group} ends at {journal.position}, not at {position}"
    for header, body in journal.read(chain=True):
        if digest(body) != promise.groups[header.group - 1][2]:
            return f"whole: {header.place} is not what was handed over"
    if parts.core.state_hash().hex() != state:
        return f"replay-equal: the state after group {journal.group} is not the one it had"
    assert parts.checkpoint is not None
    stamp = parts.checkpoint.read()
    if promise.stamped and (stamp is None or stamp.group < promise.stamped):
        return f"stamped: the head stamp of group {promise.stamped} is lost"
    return None


def _derived(parts: Parts, promise: Promise, is_last: bool) -> str | None:
    history: Any = parts.history
    group, of_checkpoint = history.found
    if group < promise.sealed:
        return f"sealed: segments end with group {group}, {promise.sealed} was sealed"
    if of_checkpoint < promise.checkpointed:
        return (
            f"sealed: the checkpoint is of group {of_checkpoint}, there was one of group"
            f" {promise.checkpointed}"
        )
    damaged = [path.name for path in (history.directory / "state").glob("*.damaged")]
    if damaged or history.warnings:
        return f"derived: what was finished is built again: {damaged or history.warnings}"
    for _ in history.verify():
        pass
    if not is_last:
        return None
    why = derived.difference(parts.journal, history, parts.core, limits.WINDOW_EVENTS)
    return None if why is None else f"derived: {why}"
