"""The rules of this tree that a machine can hold: layers, sizes, openings and names.

Each check is a function of a tree's root that yields violations, "file:line: what". A check knows
nothing of the other checks and changes nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

COLUMNS_MAX = 100
SUFFIXES = {".py", ".pyx", ".pxi", ".pxd", ".h", ".pyi"}


def sources(root: Path, *folders: str) -> Iterator[Path]:
    """The source files below the folders of a tree, in order of name."""
    for folder in folders:
        yield from sorted(p for p in (root / folder).rglob("*") if p.suffix in SUFFIXES)


def line_lengths(root: Path) -> Iterator[str]:
    """Lines are at most COLUMNS_MAX columns."""
    for path in sources(root, "ledger", "tests", "bench", "tools"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > COLUMNS_MAX:
                yield f"{path.relative_to(root)}:{number}: {len(line)} columns"


def main() -> int:
    """Print the violations of this tree; 1 when there are any."""
    found = list(line_lengths(Path(__file__).resolve().parent.parent))
    print("\n".join(found) or "tidy")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
