"""The rules of the rooms: which there are, in which order, and which tests mirror them.

Each check is a function of a tree's root that yields violations, "file:line: what"; `tidy` runs
them. A room is a folder of ledger/. It imports from itself and from the rooms before it; within a
room, and everywhere else, imports make no circle. What only a type checker imports counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tools.tree import at, files, imports, known_imports, lines, named, opening

# The rooms of ledger/, in order. What lies beside them comes after them all, but for _core.pyx,
# which is of the room core.
ROOMS = (
    "base", "facts", "wire", "journal", "history", "core", "engine", "doors", "api", "client",
    "host", "load", "audit", "commands",
)  # fmt: skip
TOP = "the top"
ROOM_FILES_MAX = 24
LARGER_ROOMS = {"core": 32}  # the parts of one extension, in one order of inclusion

# Where event loops, threads and sockets may be imported, where LMDB, time and chance.
LOOPS = {"asyncio", "threading", "socket", "socketserver", "selectors", "select", "uvloop"}
LOOPS_IN = {"doors", "client", "host", "load", "commands", TOP}
LOOPS_IN_FILES = {
    "ledger/api/ids.py",  # ids ascend over all threads
    "ledger/base/output.py",  # what cannot be written now is not waited for
    "ledger/base/worker.py",
    "ledger/journal/environment.py",
}
STORE = {"lmdb"}
STORE_IN = {"journal"}
# Time and chance are handed to whoever decides, so that a run can be repeated.
TIME = {"time", "datetime", "libc.time", "posix.time", "<time.h>", "<sys/time.h>"}
CHANCE = {"random", "secrets", "os.urandom", "numpy.random"}
GIVEN_TO = {"facts", "wire", "journal", "history", "core", "engine"}
TIME_IN_FILES = {
    "ledger/engine/clock.py",  # it is the clock
    "ledger/journal/environment.py",  # how long an opener waits for another process
    "ledger/journal/lock.py",
    "ledger/journal/reader.py",  # how long a read may hold LMDB's pages
    "ledger/engine/recovery.py",  # the wall clock that a start is compared with
}
CHANCE_IN_FILES = {
    "ledger/engine/assembly.py",  # the secret of the id tables, which changes no result
    "ledger/engine/recovery.py",  # the id of a start
}

# What has no test file of its own name in the folder of its room, by the test that covers it.
TESTED_BY: dict[str, str] = {
    "host/test_book.py": "__init__.py",
    "commands/test_cli.py": "__main__.py",
    "audit/test_audit.py": "audit/_records.pyx audit/_requests.pyx audit/totals.h",
    "journal/test_check.py": "base/aegis.h journal/block_checks.h",
    "history/test_column_file.py": "base/bloom.h base/merge.h base/sort.h",
    "base/test_hash_table.py": "base/slab.h base/types.h base/u128.h",
    "client/test_client.py": "client/connection.py",
    "core/test_holds.py": (
        "core/expiry.pxi core/kept_holds.pxi core/resolutions.pxi core/retained.pxi"
    ),
    "core/test_differential.py": (
        "core/group.pxi core/replay.pxi core/request.pxi core/state.pxi core/status.pxi "
        "core/store.pxi core/undo.pxi"
    ),
    "engine/test_keeper.py": (
        "core/lookup_cache.pxi core/lookups.pxi core/memtable.pxi core/prefetch.pxi"
        " core/read_cache.pxi engine/background.py engine/checkpointer.py"
        " engine/history_requests.py engine/memtables.py"
    ),
    "core/test_snapshot.py": "core/restore.pxi",
    "core/test_query.py": "facts/filters.pxi",
    "history/test_segments.py": (
        "core/segment_columns.pxi history/checkpoints.py history/new_file.py"
    ),
    "engine/test_engine.py": "engine/ports.py",
    "engine/test_recovery.py": "engine/assembly.py",
    "facts/test_schema.py": (
        "facts/_facts.pyx facts/fact_tables.h facts/frame_fields.h facts/record.h "
        "facts/status.h"
    ),
    "history/test_columns.py": "history/column_format.h",
    "doors/test_door.py": "host/server.py",
    "journal/test_directory.py": "journal/creation.py journal/lock.py",
    "journal/test_journal.py": "journal/ports.py",
    "journal/test_body.py": "journal/runs.h",
    "load/test_run.py": "load/_swarm.pyx load/population.h load/report.py",
}
COVERED = {name: test for test, names in TESTED_BY.items() for name in names.split()}

CYTHON_FUNCTION = re.compile(
    r"^(\s*)(?:async )?(?:cdef|cpdef|def)\s+(?!enum|struct|extern|class)[^=(]*?(\w+)\("
)


def room_of(name: str) -> str:
    """The room of a file of ledger/: "ledger/core/undo.pxi" is of core."""
    words = name.split("/")
    if words[1] in ROOMS:
        return words[1]
    return "core" if words[1].startswith("_core.") else TOP


# ---- order --------------------------------------------------------------------------------------


def arrows(root: Path) -> Iterator[str]:
    """A file of ledger/ imports from its own room or from one before it, by its whole name."""
    order = {room: number for number, room in enumerate((*ROOMS, TOP))}
    for name, path in named(root, "ledger").items():
        room = room_of(name)
        words = name.split("/")
        if len(words) > 2 and words[1] not in ROOMS:
            yield at(root, path, 1, f"{words[1]} is no room")
        for line, other in known_imports(root, path):
            if not other.startswith("ledger/"):
                yield at(root, path, line, f"ledger must not import {other}")
            elif order[room_of(other)] > order[room]:
                yield at(root, path, line, f"{room} must not import {other}")
        if any(word.startswith(".") for _, word in imports(path)):
            yield at(root, path, 1, "imports are absolute")


def strangers(root: Path) -> Iterator[str]:
    """No test imports a test, and what is not a test imports none of tests/."""
    for name, path in named(root, "ledger", "chaos", "bench", "tests", "tools").items():
        for line, other in known_imports(root, path):
            if not other.startswith("tests/"):
                continue
            if not name.startswith("tests/"):
                yield at(root, path, line, f"must not import {other}, of the tests")
            elif Path(other).name.startswith("test_"):
                yield at(root, path, line, f"must not import {other}, which is a test")


def circles(root: Path) -> Iterator[str]:
    """No file imports itself by way of others."""
    known = named(root)
    graph = {
        name: {other for _, other in known_imports(root, path) if other != name}
        for name, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        yield at(root, root / circle[0], 1, f"is in a circle: {' < '.join(circle)}")


def pictured(root: Path) -> Iterator[str]:
    """The table of rooms in docs/internals/architecture.md names each room once, and no other."""
    page = root / "docs" / "internals" / "architecture.md"
    before, _, table = "\n".join(lines(page) if page.exists() else ()).partition("\n## Rooms\n")
    rows = re.findall(r"^\| `(\w+)` \| \S.* \|$", table.partition("\n## ")[0], re.M)
    if page.exists() and rows != list(ROOMS):
        wrong = " ".join(sorted(set(ROOMS) ^ set(rows))) or "order, or a room twice"
        yield at(root, page, before.count("\n") + 2, f"the table of rooms is wrong in: {wrong}")


def room_sizes(root: Path) -> Iterator[str]:
    """A room has at most ROOM_FILES_MAX files, a header and its .pxd counted once."""
    for room in ROOMS:
        stems = {name.rsplit(".", 1)[0] for name in named(root, f"ledger/{room}")}
        most = LARGER_ROOMS.get(room, ROOM_FILES_MAX)
        count = sum(not stem.endswith("/__init__") for stem in stems)
        if count > most:
            yield f"ledger/{room}:1: {count} files, at most {most}"


# ---- owners -------------------------------------------------------------------------------------


def owners(root: Path) -> Iterator[str]:
    """Loops and sockets only at the edge, LMDB in its room, time and chance handed over."""
    for name, path in named(root, "ledger").items():
        room = room_of(name)
        for line, word in imports(path):
            if word.endswith(".pxi"):
                continue  # a part of a kernel, whatever library has its name
            words = {word, word.split(".")[0], ".".join(word.split(".")[:2])}
            if words & LOOPS and room not in LOOPS_IN and name not in LOOPS_IN_FILES:
                yield at(root, path, line, f"only the edge imports {word}")
            if words & STORE and room not in STORE_IN:
                yield at(root, path, line, f"only {', '.join(sorted(STORE_IN))} imports {word}")
            if room not in GIVEN_TO:
                continue
            if words & TIME and name not in TIME_IN_FILES:
                yield at(root, path, line, f"time is handed over, not read: {word}")
            if words & CHANCE and name not in CHANCE_IN_FILES:
                yield at(root, path, line, f"chance is handed over, not made: {word}")


# ---- the parts of the core ----------------------------------------------------------------------


def _defined(text: str) -> list[tuple[int, str]]:
    """(line, name) of each cdef function."""
    found = enumerate(map(CYTHON_FUNCTION.match, text.splitlines()), 1)
    return [(line, match[2]) for line, match in found if match]


def parts(root: Path) -> Iterator[str]:
    """A function of a part of _core.pyx begins as its file; a part calls earlier ones it needs."""
    core = root / "ledger" / "_core.pyx"
    if not core.exists():
        return
    included = {
        Path(name).name: root / "ledger" / name
        for _, name in imports(core)
        if name.endswith(".pxi")
    }
    for path in files(root, "ledger", kinds={".pxi"}):
        if included.get(path.name) != path:
            yield at(root, path, 1, "is included by nobody")
    home: dict[str, str] = {}
    for name, path in list(included.items()):
        if not path.exists():
            yield at(root, core, 1, f"includes {name}, which does not exist")
            del included[name]
            continue
        for _, function in _defined(path.read_text(encoding="utf-8")):
            home[function] = name
    order = list(included)
    for number, path in enumerate(included.values()):
        yield from _part(root, path, order[: number + 1], home)


def _part(root: Path, path: Path, earlier: list[str], home: dict[str, str]) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    needs, _, gives = opening(text).partition("Gives:")
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


# ---- tests --------------------------------------------------------------------------------------


def statuses_tested(root: Path) -> Iterator[str]:
    """Each result code of status.h is named by a test."""
    path = root / "ledger" / "facts" / "status.h"
    tests = files(root, "tests", kinds={".py"})
    text = " ".join(p.read_text(encoding="utf-8") for p in tests if p.name.startswith("test_"))
    words = set(re.findall(r"\w+", text.upper()))
    for number, line in enumerate(lines(path) if path.exists() else (), 1):
        match = re.match(r"\s+S\((\w+),", line)
        if match and match[1] not in words:
            yield at(root, path, number, f"no test names {match[1]}")


def mirrored(root: Path) -> Iterator[str]:
    """ledger/ROOM/NAME has tests/ROOM/test_NAME*.py, or the one that COVERED says, and not both."""
    known = named(root, "ledger")
    for name, path in known.items():
        if path.name == "__init__.py" and name != "ledger/__init__.py":
            continue
        if path.with_suffix(".h").exists() and path.suffix == ".pxd":
            continue
        room = room_of(name).replace(TOP, "commands")
        own = f"test_{path.stem.strip('_')}"
        tests = files(root, f"tests/{room}")
        has = [test for test in tests if re.match(rf"{own}(_\w+)?\.py", test.name)]
        covered = COVERED.get(name.removeprefix("ledger/"))
        if covered is None and not has:
            yield at(root, path, 1, f"tests/{room}/{own}.py does not exist")
        if covered is not None and not (root / "tests" / covered).exists():
            yield at(root, path, 1, f"tests/{covered} does not exist")
        if covered is not None and has:
            yield at(root, path, 1, f"has tests/{room}/{has[0].name} and is still in COVERED")
    if (root / "tools" / "rooms.py").exists():
        for name in COVERED:
            if f"ledger/{name}" not in known:
                yield f"tools/rooms.py:1: COVERED names {name}, which does not exist"


CHECKS = (
    arrows, strangers, circles, pictured, room_sizes, owners, parts, statuses_tested, mirrored,
)  # fmt: skip


def picture(root: Path) -> str:
    """The rooms from first to last, each file with what it imports of ours."""
    known = named(root, "ledger")
    rows = []
    for room in (*ROOMS, TOP):
        rows.append(room)
        for name, path in known.items():
            if room_of(name) == room:
                used = sorted(other[len("ledger/") :] for _, other in known_imports(root, path))
                rows.append(f"    {name[len('ledger/') :]:<32} {' '.join(used)}".rstrip())
    return "\n".join(rows)
