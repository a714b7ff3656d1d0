"""The rules of this tree that a machine can hold: layers, owners, sizes, openings, names, numbers.

Each check is a function of a tree's root that yields violations, "file:line: what". The tables at
the top are the rules; a check knows nothing of the other checks, and none changes anything.

    python tools/tidy.py            print the violations and end with 1, or one line and 0
    python tools/tidy.py --layers   print each layer's files and what each imports
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# The parts of _core.pyx, in order of inclusion.
ROOT = Path(__file__).resolve().parent.parent
CORE = tuple(re.findall(r'^include "(.+)"', (ROOT / "ledger" / "_core.pyx").read_text(), re.M))

# A file of ledger/ imports from the layers above its own. A .pyi belongs to the file it describes.
LAYERS: dict[str, tuple[str, ...]] = {
    "facts": ("record.h", "status.h", "record.pxd", "config.py", "errors.py"),
    "leaves": (
        "u128.h", "table.h", "slab.h", "aegis.h", "frame.h", "tables.h", "load.h", "environment.py",
        "worker.py", "places.pxd", "runs.pxd", "filter.h", "columns.h", "column_file.h",
        "columns.pxd", "blocks.h", "leaves.pxd",
        "lmdb_file.h", "places.h", "runs.h", "audit.h", "failpoint.py", "files.py", "lock.py",
    ),
    "kernels": (
        "_core.pyx",
        *CORE,
        "_wire.pyx", "_check.pyx", "_load.pyx", "_columns.pyx", "_file.pyx", "_scan.pyx",
        "_audit.pyx", "_audit_requests.pyx", "_file.pxd", "_tree.pyx",
    ),
    "view": ("schema.py", "group.py", "filters.py", "calls.py", "paging.py", "convert.py",
             "results.py", "runs.py", "exact.py", "journal_ports.py"),
    "parts": (
        "reading.py", "creation.py", "journal.py", "onlooker.py", "checkpoint.py", "segments.py",
        "checkpoints.py", "new_file.py", "resolve.py", "scrub.py", "clock.py",
    ),
    "order": ("engine.py", "sealing.py", "recovery.py", "audit.py"),
    "edge": (
        "runner.py", "desk.py", "book.py", "temporary.py",
        "doors/__init__.py", "doors/binary.py", "doors/turn.py", "server.py",
        "link.py", "client.py", "load.py", "load_report.py", "ids.py", "tell.py",
    ),
    "commands": ("verify.py", "inspect.py", "cli.py", "__init__.py", "__main__.py"),
}  # fmt: skip

# What may be imported from the same layer. The parts are not here: they do not know each other.
INSIDE: dict[str, tuple[str, ...]] = {
    "errors.py": ("config.py",), "environment.py": ("files.py",), "lock.py": ("files.py",),
    "record.pxd": ("record.h",),
    "frame.h": ("aegis.h",), "blocks.h": ("aegis.h",),
    "places.h": ("blocks.h", "lmdb_file.h"),
    "columns.h": ("aegis.h", "filter.h", "u128.h"), "column_file.h": ("columns.h",),
    "leaves.pxd": ("u128.h", "slab.h", "table.h"), "places.pxd": ("lmdb_file.h", "places.h"),
    "runs.pxd": ("runs.h",), "table.h": ("slab.h",), "tables.h": ("frame.h",),
    "columns.pxd": ("filter.h", "columns.h", "column_file.h"),
    "_core.pyx": CORE, "_scan.pyx": ("_file.pxd", "filters.pxi"),
    "group.py": ("schema.py",), "journal_ports.py": ("group.py",),
    "convert.py": ("schema.py",), "filters.py": ("schema.py",),
    "calls.py": ("filters.py", "schema.py"), "paging.py": ("calls.py", "filters.py", "schema.py"),
    "results.py": ("calls.py", "convert.py", "schema.py"),
    "runs.py": ("group.py", "schema.py"),
    "journal.py": ("creation.py", "reading.py"), "checkpoints.py": ("new_file.py",),
    "segments.py": ("checkpoints.py", "new_file.py", "resolve.py"),
    **dict.fromkeys(("creation.py", "onlooker.py"), ("reading.py",)),
    "engine.py": ("sealing.py",),
    "sealing.py": ("engine.py",),
    "recovery.py": ("engine.py", "sealing.py"),
    "desk.py": ("runner.py",), "book.py": ("desk.py",), "temporary.py": ("book.py", "desk.py"),
    "server.py": ("runner.py", "doors/binary.py"),
    "doors/binary.py": ("doors/turn.py",), "doors/turn.py": ("doors/binary.py",),
    "client.py": ("link.py",),
    "load.py": ("client.py", "link.py", "load_report.py", "tell.py"),
    "load_report.py": ("link.py",),
    "cli.py": ("__init__.py", "verify.py", "inspect.py"),
    "__main__.py": ("cli.py",),
}  # fmt: skip

ROOMS = "base facts wire journal history core engine doors api client host load audit commands"
# What few may import, and who.
LOOPS = {"asyncio", "threading", "socket", "socketserver", "selectors", "select", "uvloop"}
LOOPS_IN = {*LAYERS["edge"], "environment.py", "worker.py"}
STORE = {"lmdb"}
STORE_IN = {"environment.py", "creation.py", "journal.py", "reading.py", "checkpoint.py"}
# Time and chance are handed to whoever decides, so that a run can be repeated.
TIME = {"time", "datetime", "libc.time", "posix.time", "<time.h>", "<sys/time.h>"}
CHANCE = {"random", "secrets", "os.urandom", "numpy.random"}
GIVEN_TO = {name for layer in ("kernels", "view", "parts", "order") for name in LAYERS[layer]}
TIME_IN = {
    "clock.py",  # it is the clock
    "reading.py",  # how long a read may hold LMDB's pages
    "recovery.py",  # the wall clock that a start is compared with
}
CHANCE_IN = {"recovery.py"}  # the secret of the id tables, which changes no result

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
LEDGER_FILES_MAX = 130
OPENING_CHARACTERS_MIN = 40
# Functions that are longer, and how long they may be. The list only shrinks: a function that
# became shorter must be lowered here or taken off.
LONG_FUNCTIONS: dict[str, int] = {
    "chaos/model.py:_create_transfer": 91,  # the rules in order of precedence, read as one list
}
LONG_FILES: dict[str, int] = {}

# Tests of what has no test file of its own name, under tests/.
COVERED: dict[str, str] = {
    **dict.fromkeys(
        ("status.pxi", "state.pxi", "undo.pxi", "store.pxi", "request.pxi", "replay.pxi"),
        "test_differential.py",
    ),
    "query.pxi": "test_queries.py",
    **dict.fromkeys(
        ("lookups.pxi", "read_cache.pxi", "lookup_cache.pxi", "memtable.pxi", "prefetch.pxi"),
        "test_sealing.py",
    ),
    **dict.fromkeys(
        ("retained.pxi", "kept_holds.pxi", "resolutions.pxi", "expiry.pxi"),
        "test_holds.py",
    ),
    "accounts.pxi": "test_create_accounts.py",
    "transfers.pxi": "test_create_transfers.py",
    "batch.pxi": "test_chains.py",
    "segment_columns.pxi": "test_history.py",
    "restore.pxi": "test_snapshot.py",
    "reading.py": "test_journal_bodies.py",
    **dict.fromkeys(("leaves.pxd", "u128.h", "slab.h"), "test_table.py"),
    **dict.fromkeys(("record.h", "status.h", "tables.h"), "test_schema.py"),
    "record.pxd": "test_differential.py",
    **dict.fromkeys(("aegis.h", "blocks.h"), "test_check.py"),
    **dict.fromkeys(("lock.py", "journal_ports.py", "creation.py"), "test_journal.py"),
    **dict.fromkeys(("segments.py", "new_file.py", "checkpoints.py"), "test_history.py"),
    **dict.fromkeys(("_file.pyx", "_file.pxd", "_scan.pyx"), "test_past.py"),
    "filter.h": "test_column_file.py",
    "_audit_requests.pyx": "test_audit.py",
    "link.py": "test_client.py",
    **dict.fromkeys(("server.py", "doors/__init__.py", "doors/binary.py"), "test_door.py"),
    "load_report.py": "test_load.py",
    "__init__.py": "test_book.py",
    "__main__.py": "test_cli.py",
}

# Sizes of the protocol, which have names.
NUMBERS = re.compile(r"(?<![\w.])(8_?189|1_?048_?320|1_?048_?576)(?![\w.])")
NUMBERS_IN = {"record.h", "config.py", "frame.h"}
UNFINISHED = re.compile(r"\b(FIXM[E]|TOD[O]|XX[X])\b")
ELSEWHERE = re.compile(
    r"/wor[k]/|/tmp/p[v]\b|/hom[e]/|/roo[t]/|index-ur[l]|pypi[.]|artifactor[y]"
)

SOURCES = {".py", ".pyx", ".pxi", ".pxd", ".pyi", ".h", ".c"}
TEXTS = SOURCES | {".md", ".toml", ".yml", ".yaml", ".txt", ".cfg", ".sh", ""}
SKIPPED = {"build", "dist", "demo", "__pycache__"}
SEEN_ANYWAY = {".ci", ".github"}


# ---- reading the tree ---------------------------------------------------------------------------


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


def ledger(root: Path) -> dict[str, Path]:
    """The sources of ledger/ by their name inside it."""
    return {path.relative_to(root / "ledger").as_posix(): path for path in files(root, "ledger")}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def at(root: Path, path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(root).as_posix()}:{line}: {what}"


def layer_of(name: str) -> str | None:
    return next((layer for layer, members in LAYERS.items() if name in members), None)


CYTHON_FUNCTION = re.compile(
    r"^(\s*)(?:async )?(?:cdef|cpdef|def)\s+(?!enum|struct|extern|class)[^=(]*?(\w+)\("
)

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
    """(line, name) of what a file imports: "a.b.c" of Python, "x.h" of ours, "<x.h>" of C.

    What only a type checker imports is left out.
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
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _python_imports(ast.Module([other], []))
        elif isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from ((child.lineno, f"{base}.{alias.name}") for alias in child.names)
        else:
            if isinstance(child, ast.Attribute) and ast.unparse(child) == "os.urandom":
                yield child.lineno, "os.urandom"
            yield from _python_imports(child)


def resolve(root: Path, name: str, *endings: str) -> str | None:
    """The file of ledger/ that an imported name means; None for what is not ours."""
    if name.endswith((".h", ".pxi")):
        return name if (root / "ledger" / name).exists() else None
    words = name.split(".")
    if words[0] != "ledger":
        return None
    for count in range(len(words), 1, -1):
        base = "/".join(words[1:count])
        for ending in (*endings, ".py", ".pyx", ".pxd", "/__init__.py"):
            if (root / "ledger" / f"{base}{ending}").exists():
                return base + ending
    return "__init__.py"


def known_imports(root: Path, path: Path) -> list[tuple[int, str]]:
    """(line, file of ledger/) of what a file imports of ours."""
    first = (".pxd",) if path.suffix in (".pyx", ".pxi", ".pxd") else ()
    found = [(line, resolve(root, name, *first)) for line, name in imports(path)]
    return [(line, file) for line, file in found if file is not None]


# ---- layers and owners --------------------------------------------------------------------------


def layers(root: Path) -> Iterator[str]:
    """Every file has a layer, and imports from the layers above it or where INSIDE says so."""
    order = list(LAYERS)
    for name, path in ledger(root).items():
        if path.suffix == ".pyi":
            continue
        layer = layer_of(name)
        if layer is None:
            yield at(root, path, 1, "is in no layer")
            continue
        for line, other in known_imports(root, path):
            above = layer_of(other)
            if above is None or order.index(above) < order.index(layer):
                continue
            if above == layer and other in INSIDE.get(name, ()):
                continue
            yield at(root, path, line, f"{layer} must not import {other} ({above})")
        if any(word.startswith(".") for _, word in imports(path)):
            yield at(root, path, 1, "imports are absolute")
    if (root / "ledger").is_dir():
        gone = {name for members in LAYERS.values() for name in members} - set(ledger(root))
        for name in sorted(gone):
            yield f"tools/tidy.py:1: {name} has a layer and does not exist"


def rooms(root: Path) -> list[str]:
    """The folders of ledger/; until they are there, the rooms that its files will move into."""
    found = sorted(path.parent.name for path in (root / "ledger").glob("*/__init__.py"))
    return found if "base" in found else sorted(ROOMS.split())


def pictured(root: Path) -> Iterator[str]:
    """The table of rooms in docs/internals/architecture.md names each room once, and no other."""
    page = root / "docs" / "internals" / "architecture.md"
    before, _, table = "\n".join(lines(page) if page.exists() else ()).partition("\n## Rooms\n")
    named = re.findall(r"^\| `(\w+)` \| \S.* \|$", table.partition("\n## ")[0], re.M)
    if page.exists() and sorted(named) != rooms(root):
        wrong = " ".join(sorted(set(rooms(root)) ^ set(named))) or "a room twice"
        yield at(root, page, before.count("\n") + 2, f"the table of rooms is wrong in: {wrong}")


def owners(root: Path) -> Iterator[str]:
    """Loops and sockets only at the edge, LMDB in its two files, time and chance handed over."""
    for name, path in ledger(root).items():
        for line, word in imports(path):
            if word.endswith(".pxi"):
                continue  # a part of a kernel, whatever library has its name
            words = {word, word.split(".")[0], ".".join(word.split(".")[:2])}
            if words & LOOPS and name not in LOOPS_IN:
                yield at(root, path, line, f"only the edge imports {word}")
            if words & STORE and name not in STORE_IN:
                yield at(root, path, line, f"only {' and '.join(sorted(STORE_IN))} import {word}")
            if words & TIME and name in GIVEN_TO - TIME_IN:
                yield at(root, path, line, f"time is handed over, not read: {word}")
            if words & CHANCE and name in GIVEN_TO - CHANCE_IN:
                yield at(root, path, line, f"chance is handed over, not made: {word}")


def _opening(text: str) -> str:
    """The comment that a part or a header begins with, without its marks, on one line."""
    if text.startswith("/*"):
        return " ".join(line.strip(" */") for line in text.partition("*/")[0].splitlines())
    taken = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        taken.append(line.strip("# "))
    return " ".join(taken)


def _defined(text: str) -> list[tuple[int, str]]:
    """(line, name) of each cdef function."""
    found = enumerate(map(CYTHON_FUNCTION.match, text.splitlines()), 1)
    return [(line, match[2]) for line, match in found if match]


def parts(root: Path) -> Iterator[str]:
    """A function of a part of _core.pyx begins as its file; a part calls earlier ones it needs."""
    core = root / "ledger" / "_core.pyx"
    if not core.exists():
        return
    included = [name for _, name in imports(core) if name.endswith(".pxi")]
    for name in sorted({path.name for path in files(root, "ledger", kinds={".pxi"})}):
        if name not in included:
            yield at(root, root / "ledger" / name, 1, "is included by nobody")
    home: dict[str, str] = {}
    for name in included:
        path = root / "ledger" / name
        if not path.exists():
            yield at(root, core, 1, f"includes {name}, which does not exist")
            continue
        for _, function in _defined(path.read_text(encoding="utf-8")):
            home[function] = name
    for place, name in enumerate(included):
        path = root / "ledger" / name
        if path.exists():
            yield from _part(root, path, included[: place + 1], home)


def _part(root: Path, path: Path, earlier: list[str], home: dict[str, str]) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    opening = _opening(text)
    needs, _, gives = opening.partition("Gives:")
    needed = re.findall(r"\b\w+\.pxi\b", needs.partition("Needs:")[2])
    prefix = f"{path.stem}_"
    for line, function in _defined(text):
        if not function.startswith(prefix):
            yield at(root, path, line, f"{function} does not begin with {prefix}")
    if _defined(text) and f"{prefix}*" not in gives:
        yield at(root, path, 1, f"does not say it gives {prefix}*")
    for other in needed:
        if other not in earlier[:-1]:
            yield at(root, path, 1, f"needs {other}, which is not included before it")
    said = {path.name, *needed}
    for number, code in enumerate(text.splitlines(), 1):
        for word in re.findall(r"\w+", code.partition("#")[0]):
            other_home = home.get(word, path.name)
            if other_home not in earlier:
                yield at(root, path, number, f"{word} comes later, in {other_home}")
            elif other_home not in said:
                said.add(other_home)
                yield at(root, path, number, f"does not say it needs {other_home}, for {word}")


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
    """Files have at most FILE_LINES_MAX lines, ledger/ at most LEDGER_FILES_MAX files."""
    counts = {path.relative_to(root).as_posix(): len(lines(path)) for path in files(root)}
    for name, count in counts.items():
        most = LONG_FILES.get(name, FILE_LINES_MAX)
        if count > most:
            yield f"{name}:{count}: {count} lines, at most {most}"
    yield from _stale(root, "LONG_FILES", LONG_FILES, counts)
    count = len(ledger(root))
    if count > LEDGER_FILES_MAX:
        yield f"ledger:1: {count} files, at most {LEDGER_FILES_MAX}"


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
            opening = _opening(text)
        else:
            match = re.match(r'(?:"""(.*?)"""|((?:#.*\n)+))', text, re.DOTALL)
            opening = (match[1] or match[2]) if match else ""
        if len(opening.strip()) < OPENING_CHARACTERS_MIN:
            yield at(root, path, 1, "does not open with a paragraph on what it is")


def finished(root: Path) -> Iterator[str]:
    """Nothing is left for later, and ledger/ does not print."""
    for path in files(root, kinds=TEXTS):
        for number, line in enumerate(_text_lines(path), 1):
            if match := UNFINISHED.search(line):
                yield at(root, path, number, f"{match[0]} is not a state to leave a tree in")
    for path in files(root, "ledger", kinds={".py", ".pyx", ".pxi"}):
        for number, line in enumerate(lines(path), 1):
            if re.search(r"(?<![\w.])print\(", line):
                yield at(root, path, number, "ledger/ does not print")


def _text_lines(path: Path) -> list[str]:
    try:
        return lines(path)
    except UnicodeDecodeError:
        return []


def elsewhere(root: Path) -> Iterator[str]:
    """The tree names no machine's folders and no registry."""
    for path in files(root, kinds=TEXTS):
        for number, line in enumerate(_text_lines(path), 1):
            if match := ELSEWHERE.search(line):
                yield at(root, path, number, f"{match[0]!r} is of one machine")


def numbers(root: Path) -> Iterator[str]:
    """The protocol's sizes are numbers only where they are defined."""
    for name, path in ledger(root).items():
        for number, line in enumerate(lines(path) if name not in NUMBERS_IN else (), 1):
            if match := NUMBERS.search(line):
                yield at(root, path, number, f"{match[0]} has a name")


# ---- tests --------------------------------------------------------------------------------------


def statuses_tested(root: Path) -> Iterator[str]:
    """Each result code of status.h is named by a test."""
    path = root / "ledger" / "status.h"
    tests = files(root, "tests", kinds={".py"})
    named = " ".join(p.read_text(encoding="utf-8") for p in tests if p.name.startswith("test_"))
    words = set(re.findall(r"\w+", named.upper()))
    for number, line in enumerate(lines(path) if path.exists() else (), 1):
        match = re.match(r"\s+S\((\w+),", line)
        if match and match[1] not in words:
            yield at(root, path, number, f"no test names {match[1]}")


def mirrored(root: Path) -> Iterator[str]:
    """Each file of ledger/ has its tests/test_<name>*.py, or the one that COVERED says."""
    for name, path in ledger(root).items():
        if path.suffix == ".pyi":
            continue
        own = f"test_{path.stem.strip('_')}"
        found = {test.name for test in files(root, "tests") if test.stem.startswith(own)}
        if name not in COVERED and not any(re.match(rf"{own}(_\w+)?\.py", test) for test in found):
            yield at(root, path, 1, f"tests/{own}.py does not exist")
        if name in COVERED and not (root / "tests" / COVERED[name]).exists():
            yield at(root, path, 1, f"tests/{COVERED[name]} does not exist")
        if name in COVERED and f"{own}.py" in found:
            yield at(root, path, 1, f"has tests/{own}.py and is still in COVERED")


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    layers, pictured, owners, parts, columns, function_sizes, file_sizes, openings, finished,
    elsewhere, numbers, statuses_tested, mirrored,
)  # fmt: skip


def picture(root: Path) -> str:
    """The layers from top to bottom, each file with what it imports of ours."""
    known = ledger(root)
    rows = []
    for layer, members in LAYERS.items():
        rows.append(layer)
        for name in members:
            used = {file for _, file in known_imports(root, known[name])}
            rows.append(f"    {name:<20} {' '.join(sorted(used - {name}))}".rstrip())
    return "\n".join(rows)


def main() -> int:
    """Print what the arguments ask for; 1 when there are violations."""
    root = ROOT
    if "--layers" in sys.argv[1:]:
        print(picture(root))
        return 0
    found = [violation for check in CHECKS for violation in check(root)]
    print("\n".join(found) if found else f"tidy: {len(files(root))} files, {len(CHECKS)} checks")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
