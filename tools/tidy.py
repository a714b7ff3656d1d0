"""The rules of this tree that a machine can hold: rooms, owners, sizes, openings, words, numbers.

Each check is a function of a tree's root that yields violations, "file:line: what"; those of the
rooms are in `rooms`, those of the words in `words`. The tables at the top are the rules; a check
knows nothing of the other checks, and none changes anything.

    python -m tools.tidy            print the violations and end with 1, or one line and 0
    python -m tools.tidy --rooms    print each room's files and what each imports
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import rooms
from tools.rooms import CYTHON_FUNCTION
from tools.tree import ROOT, TEXTS, at, files, lines, named, opening

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
OPENING_CHARACTERS_MIN = 40
# Functions that are longer, and how long they may be. The list only shrinks: a function that
# became shorter must be lowered here or taken off.
LONG_FUNCTIONS: dict[str, int] = {
    "chaos/model.py:_create_transfer": 91,  # the rules in order of precedence, read as one list
}
LONG_FILES: dict[str, int] = {}

# Sizes of the protocol, which have names.
NUMBERS = re.compile(r"(?<![\w.])(8_?189|1_?048_?320|1_?048_?576)(?![\w.])")
NUMBERS_IN = {f"ledger/{name}" for name in ("facts/record.h", "facts/limits.py", "wire/frame.h")}
UNFINISHED = re.compile(r"\b(FIXM[E]|TOD[O]|XX[X])\b")
ELSEWHERE = re.compile(
    r"/wor[k]/|/tmp/p[v]\b|/hom[e]/|/roo[t]/|index-ur[l]|pypi[.]|artifactor[y]"
)

# ---- sizes --------------------------------------------------------------------------------------


def columns(root: Path) -> Iterator[str]:
    """Lines have at most COLUMNS_MAX columns."""
    for path in files(root):
        for number, line in enumerate(lines(path), 1):
            if len(line) > COLUMNS_MAX:
                yield at(root, path, number, f"{len(line)} columns, at most {COLUMNS_MAX}")


def functions(path: Path) -> Iterator[tuple[int, str, int]]:
    """(line, name, lines) of each function of a source file, from its first line to its last."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.lineno, node.name, (node.end_lineno or 0) - node.lineno + 1
    elif path.suffix in (".h", ".c"):
        pattern = r"^(?:\w[\w \t*]*?)\b(\w+)\([^;{}]*?\)\s*\{$(?:.*\n)*?^\}"
        for match in re.finditer(pattern, text, re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            yield line, match[1], match[0].count("\n") + 1
    elif path.suffix in (".pyx", ".pxi"):
        yield from _cython_functions(text.splitlines())


def _cython_functions(source: list[str]) -> Iterator[tuple[int, str, int]]:
    for start, line in enumerate(source):
        match = CYTHON_FUNCTION.match(line)
        if match is None:
            continue
        opened = end = start
        while ")" not in source[opened]:
            opened += 1
        if not source[opened].split("#")[0].rstrip().endswith(":"):
            continue
        indent = len(match[1])
        for number in range(opened + 1, len(source)):
            text = source[number]
            if text.strip() and len(text) - len(text.lstrip()) <= indent:
                break
            end = number if text.strip() else end
        yield start + 1, match[2], end - start + 1


def function_sizes(root: Path) -> Iterator[str]:
    """Functions have at most FUNCTION_LINES_MAX lines; the exceptions only shrink."""
    longest: dict[str, int] = {}
    for path in files(root):
        for line, name, count in functions(path):
            key = f"{path.relative_to(root).as_posix()}:{name}"
            longest[key] = max(count, longest.get(key, 0))
            most = LONG_FUNCTIONS.get(key, FUNCTION_LINES_MAX)
            if count > most:
                yield at(root, path, line, f"{name} has {count} lines, at most {most}")
    yield from _stale(root, "LONG_FUNCTIONS", LONG_FUNCTIONS, longest)


def file_sizes(root: Path) -> Iterator[str]:
    """Files have at most FILE_LINES_MAX lines."""
    counts = {path.relative_to(root).as_posix(): len(lines(path)) for path in files(root)}
    for name, count in counts.items():
        most = LONG_FILES.get(name, FILE_LINES_MAX)
        if count > most:
            yield f"{name}:{count}: {count} lines, at most {most}"
    yield from _stale(root, "LONG_FILES", LONG_FILES, counts)


def _stale(root: Path, table: str, allowed: dict[str, int], found: dict[str, int]) -> Iterator[str]:
    if (root / "tools" / "tidy.py").exists():
        for key, most in allowed.items():
            if found.get(key, 0) < most:
                yield f"tools/tidy.py:1: {table} allows {key} {most}, it has {found.get(key, 0)}"


# ---- text ---------------------------------------------------------------------------------------


def openings(root: Path) -> Iterator[str]:
    """Each file opens with a paragraph on what it is."""
    for path in files(root):
        text = re.sub(r"\A(#!.*\n|# cython:.*\n)+", "", path.read_text(encoding="utf-8"))
        if path.suffix in (".h", ".c", ".pxi"):
            said = opening(text)
        else:
            match = re.match(r'(?:"""(.*?)"""|((?:#.*\n)+))', text, re.DOTALL)
            said = (match[1] or match[2]) if match else ""
        if len(said.strip()) < OPENING_CHARACTERS_MIN:
            yield at(root, path, 1, "does not open with a paragraph on what it is")


def finished(root: Path) -> Iterator[str]:
    """Nothing is left for later, and ledger/ does not print."""
    for path in files(root, kinds=TEXTS):
        for number, line in enumerate(lines(path), 1):
            if match := UNFINISHED.search(line):
                yield at(root, path, number, f"{match[0]} is not a state to leave a tree in")
    for path in files(root, "ledger", kinds={".py", ".pyx", ".pxi"}):
        for number, line in enumerate(lines(path), 1):
            if re.search(r"(?<![\w.])print\(", line):
                yield at(root, path, number, "ledger/ does not print")


def elsewhere(root: Path) -> Iterator[str]:
    """The tree names no machine's folders and no registry."""
    for path in files(root, kinds=TEXTS):
        for number, line in enumerate(lines(path), 1):
            if match := ELSEWHERE.search(line):
                yield at(root, path, number, f"{match[0]!r} is of one machine")


def numbers(root: Path) -> Iterator[str]:
    """The protocol's sizes are numbers only where they are defined."""
    for name, path in named(root, "ledger").items():
        for number, line in enumerate(lines(path) if name not in NUMBERS_IN else (), 1):
            if match := NUMBERS.search(line):
                yield at(root, path, number, f"{match[0]} has a name")


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    *rooms.CHECKS, columns, function_sizes, file_sizes, openings, finished, elsewhere, numbers,
)  # fmt: skip


def main() -> int:
    """Print what the arguments ask for; 1 when there are violations."""
    if "--rooms" in sys.argv[1:]:
        print(rooms.picture(ROOT))
        return 0
    found = [violation for check in CHECKS for violation in check(ROOT)]
    print("\n".join(found) if found else f"tidy: {len(files(ROOT))} files, {len(CHECKS)} checks")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
