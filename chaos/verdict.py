"""What one run of a scenario on real processes came to, for people and for programs.

It knows no tier: whoever ran the scenario fills it in.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Verdict(msgspec.Struct, kw_only=True):
    """`broken` has (invariant, what was seen); `figures` are plain numbers and texts by name.

    `skipped` says why the scenario could not run on this machine, and then nothing else counts.
    `report` is the folder with the picture and the figures, "" when there is none; `file` the file
    that `chaos replay` takes, "" when nothing is broken.
    """

    scenario: str
    seed: int
    tier: str
    expected: str = ""
    seen: str = ""
    skipped: str | None = None
    broken: list[tuple[str, str]] = []
    figures: dict[str, Any] = {}
    report: str = ""
    file: str = ""

    @property
    def held(self) -> bool:
        return not self.broken

    def lines(self) -> list[str]:
        """What a person is told."""
        if self.skipped is not None:
            return [f"{self.scenario}: skipped: {self.skipped}"]
        told = [
            f"{self.scenario}: {'held' if self.held else 'BROKEN'} (seed {self.seed})",
            f"  expected  {self.expected}",
            f"  seen      {self.seen}",
        ]
        told += [f"  {name.replace('_', ' ')}: {value}" for name, value in self.figures.items()]
        told += [f"  {check}: {what}" for check, what in self.broken]
        if self.report:
            told.append(f"  report: {self.report}")
        if self.file:
            told.append(f"  replay with: python -m chaos replay {self.file}")
        return told
