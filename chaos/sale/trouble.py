"""What every trouble has: when it begins and how long it lasts, and the moments at which it acts.

A trouble is one [[fault]] of a scenario: plain data, read strictly, with its behaviour beside it.
It acts on a stage and on nothing else. The troubles themselves are in the files named after what
they hurt.
"""

from __future__ import annotations

from typing import ClassVar

from chaos.sale.stage import Stage
from chaos.scenario import Strict
from ledger.load.report import Options


class Trouble(Strict, tag_field="do", dict=True, kw_only=True):
    """One [[fault]]. `at_seconds` counts from the first payment; `after` names another fault, whose
    end plus `delay_seconds` is the beginning of this one. `for_seconds` later it ends.
    """

    id: str = ""
    at_seconds: float | None = None
    after: str = ""
    delay_seconds: float = 0.0
    for_seconds: float = 0.0

    EXPECTS: ClassVar[str] = ""
    TIMED: ClassVar[bool] = True  # whether it has a moment in the sale at all
    FOR_SECONDS_MIN: ClassVar[float] = 0.0

    @property
    def name(self) -> str:
        tag = type(self).__struct_config__.tag
        return f"{tag} {self.id}" if self.id and self.id != tag else str(tag)

    def wrong(self) -> str | None:
        """What is wrong with the words of the file, for one who wrote them."""
        if not self.TIMED:
            timed = self.at_seconds is not None or self.after
            return "has no moment: leave out at_seconds and after" if timed else None
        if (self.at_seconds is None) == (not self.after):
            return "needs either at_seconds or after"
        if self.delay_seconds and not self.after:
            return "delay_seconds counts from another fault's end: it needs after"
        for word in ("at_seconds", "delay_seconds", "for_seconds"):
            if (getattr(self, word) or 0) < 0:
                return f"{word} is less than 0"
        if self.for_seconds < self.FOR_SECONDS_MIN:
            return f"for_seconds must be at least {self.FOR_SECONDS_MIN}"
        return None

    def missing(self) -> str | None:
        """Why this machine cannot do it, or None."""
        return None

    def prepare(self, stage: Stage) -> None:
        """Before the server starts for the first time."""

    def joined(self, stage: Stage, options: Options) -> None:
        """The payers begin; `options` are those of the sale."""

    def begin(self, stage: Stage) -> None:
        """The moment of it."""

    def end(self, stage: Stage) -> None:
        """`for_seconds` later."""

    def stopped(self, stage: Stage) -> None:
        """After the sale: the server has ended and the book is verified."""
