"""Writes docs/data-model.md from the tables that the compiled modules hold.

Run `python tools/docs.py` after a change of a fact; `--check` only says whether the page is fresh.
It knows how the tables are laid out and nothing of what the names mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "data-model.md"


def render() -> str:
    """The text of docs/data-model.md."""
    from ledger import _wire

    text = "# Data model\n"
    for name, (size, fields, doc) in _wire.layout().items():
        text += f"\n## {name}\n\n{doc}; {size} bytes.\n\n"
        text += "| offset | bytes | type | field | |\n|---:|---:|---|---|---|\n"
        for field, kind, count, offset, width, meaning in fields:
            array = f"{kind}[{count}]" if count > 1 else kind
            text += f"| {offset} | {width} | {array} | `{field}` | {meaning} |\n"
    return text


def main() -> int:
    """Write the page, or with --check compare it; 1 when it is stale."""
    sys.path.insert(0, str(ROOT))
    text = render()
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        if not fresh:
            sys.stderr.write("docs/data-model.md is stale: run python tools/docs.py\n")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
