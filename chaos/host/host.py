"""The host process's own account of things: its book, its payments, its diary.

Every payment is written down before it is asked for, and what became of it when that is known. A
call that raises says which of three: refused, when nothing was done; unknown, when its caller was
taken away from it; or the book has stopped, which nothing of what hosts do may bring about. This
file has no habits.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ledger
from chaos.draw import Draw
from chaos.host import payments
from chaos.host.diary import Diary
from chaos.host.plan import HOLDS_READERS, Life

ACKED_MAX = 200  # blocks that are remembered, to be asked for again
AGAIN_SHARE = 0.1
LOOK_SHARE = 0.1
OPEN_SECONDS_MAX = 5.0  # until a book that was left can be opened again
POLL_SECONDS = 0.01


class Interrupted(Exception):
    """What takes a caller away from its call, at any moment."""


class Wrong(Exception):
    """Something was seen that must not be; it is written down already."""


class Host:
    """One life of a host, with one book at a time."""

    def __init__(self, directory: Path, life: Life, diary: Diary) -> None:
        self.directory, self.life, self.diary = directory, life, diary
        self.book: Any = None
        self.draw = Draw(life.seed)
        self.seen: Counter[str] = Counter()
        self.stopped = False  # the book has, which breaks an invariant
        self._calls, self._draws = itertools.count(), itertools.count()
        self._asked = 0
        self._acked: deque[tuple[int, int]] = deque(maxlen=ACKED_MAX)
        self._until = time.monotonic() + 3600
        self._began = False

    # ---- chance and time ------------------------------------------------------------------------

    def between(self, low: int, high: int) -> int:
        return self.draw.between(low, high, "", next(self._draws))

    def chance(self, share: float) -> bool:
        return self.draw.chance(share, "", next(self._draws))

    def over(self) -> bool:
        """Whether this life should come to its end."""
        is_late = time.monotonic() > self._until
        return is_late or self.stopped or self._asked > self.life.payments_max

    def happens(self, what: str) -> None:
        """Count; the first time is written down at once, so that who is killed has told."""
        self.seen[what] += 1
        if self.seen[what] == 1:
            self.diary.write("seen", what, 1)

    # ---- the book -------------------------------------------------------------------------------

    def open(self) -> None:
        self.opened(ledger.open(self.directory))

    def opened(self, book: Any) -> None:
        self.book = book
        if not self._began:
            self._began = True
            self._until = time.monotonic() + self.life.ms / 1000
            self.diary.write("open")

    def open_again(self) -> None:
        """Open a book that this process has left in any way. It may take a moment, no more."""
        deadline = time.monotonic() + OPEN_SECONDS_MAX
        while True:
            try:
                self.open()
                return
            except ledger.DirectoryInUse as error:
                if time.monotonic() > deadline:
                    self.breaks("live", f"a book that was left cannot be opened again: {error}")
            time.sleep(POLL_SECONDS)

    def breaks(self, check: str, what: str) -> None:
        self.diary.write("broken", check, what)
        self.stopped = True
        raise Wrong(what)

    def close(self) -> None:
        self.book.close()

    def end(self) -> None:
        """The last thing that a host writes down."""
        for what, times in self.seen.items():
            self.diary.write("seen", what, times - 1)
        self.diary.write("end")

    # ---- payments -------------------------------------------------------------------------------

    def take(self, count: int) -> tuple[int, Any]:
        """A block of new payments, written down: its first id, and its records."""
        first = payments.first_of(self.life.number, next(self._calls))
        self._asked += count
        rows = payments.records(payments.numbers(first, count))
        self.diary.write("asked", first, count)
        return first, rows

    def pay(self, count: int) -> None:
        first, rows = self.take(count)
        try:
            results = self.book.create_transfers(rows)
        except BaseException as error:
            self.fell(error, first, count)
            raise
        self.answered(results, first, count)

    def answered(self, results: Any, first: int, count: int) -> None:
        """All of these are new, and nothing forbids one."""
        if len(results) != count or (results["status"] != ledger.TransferStatus.CREATED).any():
            self.breaks("judged", f"{count} from {first} were answered {_told(results)}")
        self.diary.write("acked", first, count, results["timestamp"].tolist())
        self._acked.append((first, count))

    def fell(self, error: BaseException, first: int, count: int) -> None:
        """Write down what a call that raised has done."""
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ledger.LedgerStopped):
            self.stopped = True
            self.diary.write("broken", "live", f"the book has stopped: {why}")
        elif isinstance(error, Interrupted | asyncio.CancelledError | TimeoutError):
            self.diary.write("unknown", first, count, type(error).__name__)
        else:
            self.diary.write("refused", first, count, why)

    def pay_again(self) -> None:
        """What was acknowledged exists, with the time that it had."""
        first, count, rows = self.known()
        if count:
            self.answered_again(self.book.create_transfers(rows), first, count)

    def known(self) -> tuple[int, int, Any]:
        """A block that was acknowledged, as it was asked for; of 0 payments when there is none."""
        if not self._acked:
            return 0, 0, payments.records(payments.numbers(0, 0))
        first, count = self._acked[self.between(0, len(self._acked) - 1)]
        return first, count, payments.records(payments.numbers(first, count))

    def answered_again(self, results: Any, first: int, count: int) -> None:
        if len(results) != count or (results["status"] != ledger.TransferStatus.EXISTS).any():
            told = _told(results)
            self.breaks("durable", f"{count} from {first}, asked again, were answered {told}")
        self.diary.write("again", first, count, results["timestamp"].tolist())

    def look_up(self) -> None:
        first, count, _ = self.known()
        if count:
            ids = payments.id_rows(payments.numbers(first, count))
            self.looked_up(self.book.lookup_transfers(ids), first, count)

    def looked_up(self, found: Any, first: int, count: int) -> None:
        """What comes back is what was asked for, and nobody else's."""
        wanted = payments.numbers(first, count)
        if found.dtype != ledger.TRANSFER or not np.array_equal(found["id"][:, 0], wanted):
            what = f"{len(found)} rows of {found.dtype.names}"
            lost = found.dtype == ledger.TRANSFER and len(found) < count
            check = "durable" if lost else "judged"
            self.breaks(check, f"{count} transfers from {first} were looked up: {what}")

    def step(self) -> None:
        """One call, as hosts make them."""
        if self.chance(AGAIN_SHARE):
            self.past(self.pay_again)
        elif self.chance(LOOK_SHARE):
            self.past(self.look_up)
        else:
            self.pay(self.between(1, self.life.batch_max))

    def past(self, ask: Callable[[], None]) -> None:
        """Ask for what may be sealed. It may be refused while others hold all readers' slots."""
        try:
            ask()
        except ledger.LedgerError as error:
            if self.life.outside != HOLDS_READERS or isinstance(error, ledger.LedgerStopped):
                raise
            self.happens("refused without a slot")

    def paying(self) -> None:
        while not self.over():
            self.step()

    def background(self, count: int, work: Callable[[], None] | None = None) -> list[Any]:
        """Threads that pay, or work; join them in the end."""
        started = []
        for _ in range(count):
            made = threading.Thread(target=self.guarded, args=(work or self.paying,), daemon=True)
            made.start()
            started.append(made)
        return started

    def guarded(self, work: Callable[[], None]) -> None:
        """An exception that nothing explains breaks an invariant."""
        try:
            work()
        except Wrong:
            pass
        except BaseException as error:
            if not self.stopped:
                self.stopped = True
                self.diary.write("broken", "live", f"a call raised {type(error).__name__}: {error}")


def _told(results: Any) -> str:
    statuses, counts = np.unique(results["status"], return_counts=True)
    pairs = zip(statuses.tolist(), counts.tolist(), strict=True)
    return f"{len(results)} results: {dict(pairs)}"
