"""A mutant as data: which text of which file becomes what, and which tier is to notice it.

A text that is not found exactly once is refused, so that a mutant stays true while the code around
it changes: one that no longer applies is an error, never a mutant that tests nothing. This file
knows neither how a copy is built nor how a tier is run.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from chaos import disk_mutants

FOLDER = Path(__file__).parent
TIERS = ("sim", "disk", "process", "network", "host", "tests")
IMAGES = 600  # of a recording of the disk tier, at first


class Refused(Exception):
    """A mutant that cannot be made or run, and why."""


class Edit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One text of one file, and what stands there instead."""

    file: str
    old: str
    new: str


class Mutant(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One fault. `run` is a scenario of the tier, or a file of tests.

    `runtime` names one of disk_mutants, which needs no edit. `images` is the disk tier's.
    """

    name: str
    about: str
    tier: str
    run: str = ""
    edit: tuple[Edit, ...] = ()
    runtime: str = ""
    images: int = IMAGES


class _File(msgspec.Struct, forbid_unknown_fields=True):
    mutant: list[Mutant]


def read(path: Path) -> list[Mutant]:
    """The mutants of one file. Refused says what is wrong with it."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).mutant
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refused(f"{path}: {error}") from error
    for one in found:
        if one.tier not in TIERS:
            raise Refused(f"{path}: {one.name}: there is no tier {one.tier!r}")
        if not one.edit:
            raise Refused(f"{path}: {one.name}: nothing is changed")
    return found


def known() -> list[Mutant]:
    """Every mutant there is: those of the files beside this one, then those of the disk tier."""
    found = [one for path in sorted(FOLDER.glob("*.toml")) for one in read(path)]
    found += [
        Mutant(
            name=name.replace(" ", "-"), about=name, tier="disk", run="crash-images", runtime=name
        )
        for name in (*disk_mutants.MUTANTS, disk_mutants.LYING_DISK)
    ]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"there are two mutants {name!r}")
    return found


def apply(mutant: Mutant, root: Path) -> list[str]:
    """Make the mutant in the tree `root`; the files that were changed.

    Refused, with nothing changed, when a text is not found exactly once.
    """
    texts: dict[str, str] = {}
    for edit in mutant.edit:
        path = root / edit.file
        if edit.file not in texts:
            try:
                texts[edit.file] = path.read_text(encoding="utf-8")
            except OSError as error:
                raise Refused(f"{mutant.name}: {edit.file}: {error.strerror}") from error
        count = texts[edit.file].count(edit.old) if edit.old else 0
        if count != 1:
            raise Refused(
                f"{mutant.name}: {edit.file}: the text to change is there {count} times, not"
                f" once: {edit.old!r}"
            )
        texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
    for file, text in texts.items():
        (root / file).write_text(text, encoding="utf-8")
    return list(texts)
