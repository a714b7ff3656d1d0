"""Files of scenarios are read strictly: every word is known, or the file is refused by its name.

A typing error must not quietly test nothing. This file knows no scenario.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Counts = tuple[Count, Count]  # lowest and highest, both included; ascends() says so
Positives = tuple[Positive, Positive]


class Refused(Exception):
    """A scenario or a failure file that cannot be used, and why."""


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table whose every word is known."""


def ascends(table: Strict, *names: str) -> None:
    """ValueError for the first of these ranges whose ends are in the wrong order."""
    for name in names:
        low, high = getattr(table, name)
        if low > high:
            raise ValueError(f"{name} = [{low}, {high}]: the first is above the second")


def tables(path: Path) -> dict[str, Any]:
    """What a TOML file says. Refused when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(f"{path}: {error}") from error


def read(path: Path, kind: type[T]) -> T:
    """What a TOML file says, as a `kind` of Strict. Refused says what is wrong with it."""
    try:
        return msgspec.convert(tables(path), kind)
    except msgspec.ValidationError as error:
        raise Refused(f"{path}: {error}") from error
