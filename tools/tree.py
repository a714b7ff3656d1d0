"""Reads the source tree for the checks of tidy: which files there are, their lines, their imports.

It knows how Python, Cython and C name what they import, and no rule about it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SOURCES = {".py", ".pyx", ".pxi", ".pxd", ".pyi", ".h", ".c"}
TEXTS = SOURCES | {".md", ".toml", ".yml", ".yaml", ".txt", ".cfg", ".sh", ""}
SKIPPED = {"build", "dist", "demo", "__pycache__"}
SEEN_ANYWAY = {".ci", ".github"}
PACKAGES = ("ledger", "chaos", "bench", "tests", "tools")


def files(root: Path, *folders: str, kinds: set[str] = SOURCES) -> list[Path]:
    """The files of some kinds below the folders of a tree (all when none), by name.

    What builds and tools leave behind is not of the tree.
    """

    def below(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir():
                hidden = path.name.startswith(".") and path.name not in SEEN_ANYWAY
                if not (hidden or path.name in SKIPPED or path.suffix == ".egg-info"):
                    yield from below(path)
            elif path.suffix in kinds and not _generated(path):
                yield path

    return [path for folder in folders or ("",) for path in below(root / folder)]


def _generated(path: Path) -> bool:
    return path.suffix == ".c" and path.name.startswith("_")


def named(root: Path, *folders: str) -> dict[str, Path]:
    """The sources below the folders by their names in the tree; a .pyi belongs to its file."""
    found = files(root, *folders, kinds=SOURCES - {".pyi"})
    return {path.relative_to(root).as_posix(): path for path in found}


def lines(path: Path) -> list[str]:
    """The lines of a text file; none of a file that is no text."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def at(root: Path, path: Path, line: int, what: str) -> str:
    """A violation, as every check yields it."""
    return f"{path.relative_to(root).as_posix()}:{line}: {what}"


def opening(text: str) -> str:
    """The comment that a part or a header begins with, without its marks, on one line."""
    if text.startswith("/*"):
        return " ".join(line.strip(" */") for line in text.partition("*/")[0].splitlines())
    taken = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        taken.append(line.strip("# "))
    return " ".join(taken)


# ---- what a file imports ------------------------------------------------------------------------

IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|c?import[ \t]+(?P<plain>[\w., \t]+)"
    r"|#[ \t]*include[ \t]+(?P<header>[<\"][^>\"]+[>\"])"
    r"|cdef extern from[ \t]+(?P<extern>[\"<][^\">]+[\">])"
    r"|include[ \t]+(?P<part>\"[^\"]+\"))",
    re.MULTILINE,
)


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, name) of what a file imports: "a.b.c" of Python, "room/x.h" of ours, "<x.h>" of C.

    What only a type checker imports counts as well.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        return list(_python_imports(ast.parse(text)))
    found = []
    for match in IMPORT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        base, names, plain = match["base"], match["names"], match["plain"]
        if base:
            words = re.sub(r"#.*", "", names).strip("() \t").split(",")
            found += [(line, f"{base}.{word.split()[0]}") for word in words if word.strip()]
        elif plain:
            found += [(line, word.split()[0]) for word in plain.split(",") if word.strip()]
        else:
            name = match["header"] or match["extern"] or match["part"]
            found.append((line, name if name.startswith("<") else name.strip('"')))
    return found


def _python_imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from ((child.lineno, f"{base}.{alias.name}") for alias in child.names)
        elif isinstance(child, ast.Attribute) and ast.unparse(child) == "os.urandom":
            yield child.lineno, "os.urandom"


def resolve(root: Path, name: str, *endings: str) -> str | None:
    """The file of the tree that an imported name means; None for what is not ours."""
    if name.endswith((".h", ".pxi")):
        return f"ledger/{name}" if (root / "ledger" / name).exists() else None
    words = name.split(".")
    if words[0] not in PACKAGES:
        return None
    for count in range(len(words), 0, -1):
        base = "/".join(words[:count])
        for ending in (*endings, ".py", ".pyx", ".pxd", "/__init__.py"):
            if (root / f"{base}{ending}").exists():
                return base + ending
    return None


def known_imports(root: Path, path: Path) -> list[tuple[int, str]]:
    """(line, file of the tree) of what a file imports of ours, each file once."""
    first = (".pxd",) if path.suffix in (".pyx", ".pxi", ".pxd") else ()
    found: dict[str, int] = {}
    for line, name in imports(path):
        file = resolve(root, name, *first)
        if file is not None:
            found.setdefault(file, line)
    return [(line, file) for file, line in found.items()]
