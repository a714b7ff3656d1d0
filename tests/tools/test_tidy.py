"""The tree keeps its rules, and each check of tools/tidy.py sees a small tree that breaks its rule.

The bad trees are a few lines in tmp_path, each with one thing wrong and what is right beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import rooms, tidy
from tools.tree import ROOT, named

Check = Callable[[Path], Iterator[str]]
OPENING = '"""What lives here, said in a sentence that is long enough."""\n'
COMMENT = "# What lives here. Needs: record.h. Gives: a_* and other things of no importance.\n"
CORE = OPENING + 'include "core/state.pxi"\ninclude "core/undo.pxi"\n'
STATE_AT = "cdef inline u32 state_at(int i) nogil:\n    x\n"
STATE = COMMENT.replace("a_*", "state_*, hold_*") + STATE_AT
CREATE = "# Undo: chain. Needs: state.pxi. Gives: undo_*.\n\ncdef void undo_it(int i) nogil:\n    "
TABLE = "# A\n\n## Rooms\n\n| room | what |\n|---|---|\n" + "".join(
    f"| `{room}` | A room. |\n" for room in rooms.ROOMS
)
PAGE = "docs/internals/architecture.md"


def test_the_tree_is_tidy() -> None:
    found = [violation for check in tidy.CHECKS for violation in check(ROOT)]
    assert not found, "\n".join(["", *found])


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


ENGINE, SERVER = "ledger/engine/engine.py", "ledger/host/server.py"
RECORD = "ledger/facts/record.h"
STATE_PART, UNDO_PART = "ledger/core/state.pxi", "ledger/core/undo.pxi"
GOOD = {
    "ledger/facts/limits.py": OPENING + "EVENTS_MAX = 8_189\n",
    "ledger/facts/errors.py": OPENING + "from ledger.facts.limits import EVENTS_MAX\n",
    ENGINE: OPENING + "import numpy as np\nfrom ledger.facts import errors, limits\n",
    SERVER: OPENING + "import asyncio\nimport time\nfrom ledger.engine.engine import x\n",
    RECORD: "/* Each record, once, with its size proved. */\nenum { EVENTS = 8189 };\n",
    "ledger/_core.pyx": CORE,
    STATE_PART: STATE,
    UNDO_PART: CREATE + "state_at(i)\n",
}

# (check, files that differ from GOOD, where the violation is, and a word of it)
BAD: list[tuple[Check, dict[str, str], str, str]] = [
    (rooms.arrows, {"ledger/attic/stray.py": OPENING}, "ledger/attic/stray.py:1", "no room"),
    (
        rooms.arrows,
        {ENGINE: OPENING + "\nfrom ledger.host import server\n"},
        f"{ENGINE}:3",
        "engine must not import ledger/host/server.py",
    ),
    (
        rooms.arrows,
        {ENGINE: OPENING + "def f():\n    from ledger.host.server import x\n"},
        f"{ENGINE}:3",
        "engine must not import ledger/host/server.py",
    ),
    (
        rooms.arrows,
        {
            ENGINE: OPENING + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from ledger.host.server import x\n"
        },
        f"{ENGINE}:4",
        "engine must not import ledger/host/server.py",
    ),
    (
        rooms.arrows,
        {
            "ledger/journal/journal.py": OPENING + "from ledger.engine import (\n    clock,\n)\n",
            "ledger/engine/clock.py": OPENING,
        },
        "ledger/journal/journal.py:2",
        "journal must not import ledger/engine/clock.py",
    ),
    (
        rooms.arrows,
        {"ledger/facts/errors.py": "import ledger\n", "ledger/__init__.py": OPENING},
        "ledger/facts/errors.py:1",
        "ledger/__init__.py",
    ),
    (rooms.arrows, {ENGINE: "from .config import x\n"}, f"{ENGINE}:1", "absolute"),
    (
        rooms.arrows,
        {"ledger/_core.pyx": "from ledger.engine.engine cimport (\n  x,\n)\n"},
        "ledger/_core.pyx:1",
        "core must not import ledger/engine/engine.py",
    ),
    (
        rooms.arrows,
        {"ledger/facts/record.h": '\n#include "wire/frame.h"\n', "ledger/wire/frame.h": "\n"},
        "ledger/facts/record.h:2",
        "facts must not import ledger/wire/frame.h",
    ),
    (
        rooms.arrows,
        {ENGINE: OPENING + "from tools import tidy\n", "tools/tidy.py": OPENING},
        f"{ENGINE}:2",
        "ledger must not import tools/tidy.py",
    ),
    (
        rooms.strangers,
        {"tests/core/test_a.py": "from tests.core import test_b\n", "tests/core/test_b.py": ""},
        "tests/core/test_a.py:1",
        "which is a test",
    ),
    (
        rooms.strangers,
        {"bench/a.py": "from tests.support import books\n", "tests/support/books.py": ""},
        "bench/a.py:1",
        "of the tests",
    ),
    (
        rooms.circles,
        {
            "chaos/a.py": "from chaos.b import x\n",
            "chaos/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from chaos import a\n",
        },
        "chaos/",
        "circle",
    ),
    (
        rooms.circles,
        {
            "ledger/base/slab.h": '#include "base/bloom.h"\n',
            "ledger/base/bloom.h": '#include "base/slab.h"\n',
        },
        "ledger/base/",
        "circle",
    ),
    (rooms.pictured, {PAGE: TABLE.replace("| `wire` |", "| wire |")}, f"{PAGE}:3", "wire"),
    (rooms.pictured, {PAGE: TABLE + "| `cellar` | A room. |\n"}, f"{PAGE}:3", "cellar"),
    (rooms.pictured, {PAGE: TABLE + "| `wire` | Again. |\n"}, f"{PAGE}:3", "twice"),
    (
        rooms.room_sizes,
        {f"ledger/wire/a{n}.{kind}": "" for n in range(25) for kind in ("h", "pxd", "pyi")},
        "ledger/wire:1",
        "25 files, at most 24",
    ),
    (rooms.owners, {ENGINE: "import asyncio\n"}, f"{ENGINE}:1", "edge"),
    (rooms.owners, {"ledger/api/a.py": "from socket import x\n"}, "ledger/api/a.py:1", "edge"),
    (rooms.owners, {ENGINE: "import lmdb\n"}, f"{ENGINE}:1", "only journal imports lmdb"),
    (rooms.owners, {ENGINE: "import time\n"}, f"{ENGINE}:1", "handed over"),
    (
        rooms.owners,
        {"ledger/journal/group.py": "import os\nx = os.urandom(16)\n"},
        "ledger/journal/group.py:2",
        "chance",
    ),
    (
        rooms.owners,
        {"ledger/_core.pyx": "from libc.time cimport time\n"},
        "ledger/_core.pyx:1",
        "handed over",
    ),
    (rooms.parts, {"ledger/core/query.pxi": CREATE}, "ledger/core/query.pxi:1", "by nobody"),
    (
        rooms.parts,
        {UNDO_PART: CREATE.replace("undo_it", "make_it") + "x\n"},
        f"{UNDO_PART}:3",
        "make_it does not begin with undo_",
    ),
    (
        rooms.parts,
        {UNDO_PART: CREATE.replace("Gives: undo_*", "Gives: make_*") + "x\n"},
        f"{UNDO_PART}:1",
        "does not say it gives undo_*",
    ),
    (
        rooms.parts,
        {STATE_PART: STATE + "    undo_it(i)\n"},
        f"{STATE_PART}:4",
        "undo_it comes later, in undo.pxi",
    ),
    (
        rooms.parts,
        {UNDO_PART: CREATE.replace("state.pxi", "record.h") + "state_at(i)\n"},
        f"{UNDO_PART}:4",
        "does not say it needs state.pxi",
    ),
    (
        rooms.parts,
        {STATE_PART: STATE.replace("record.h", "undo.pxi")},
        f"{STATE_PART}:1",
        "not included before it",
    ),
    (tidy.columns, {"tests/a.py": "x" * 100 + "\n" + "x" * 101}, "tests/a.py:2", "101 columns"),
    (
        tidy.function_sizes,
        {"bench/a.py": "\ndef long():\n" + "    x\n" * 70},
        "bench/a.py:2",
        "long has 71 lines",
    ),
    (
        tidy.function_sizes,
        {UNDO_PART: "cdef void undo_long(a,\n        b) nogil:\n" + "    x\n\n" * 35},
        f"{UNDO_PART}:1",
        "undo_long has 71 lines",
    ),
    (
        tidy.function_sizes,
        {"ledger/_core.pyx": "class A:\n    def long(self):\n" + "        x\n" * 70 + "x = 1\n"},
        "ledger/_core.pyx:2",
        "long has 71 lines",
    ),
    (
        tidy.function_sizes,
        {"ledger/base/slab.h": "int f(void) {\n}\nint long_f(a,\n    b) {\n" + "x\n" * 70 + "}\n"},
        "ledger/base/slab.h:3",
        "long_f has 73 lines",
    ),
    (tidy.file_sizes, {"tests/a.py": "x\n" * 601}, "tests/a.py:601", "601 lines"),
    (tidy.openings, {ENGINE: "import enum\n"}, f"{ENGINE}:1", "open"),
    (tidy.openings, {"tools/a.py": '"""Short."""\n'}, "tools/a.py:1", "open"),
    (tidy.openings, {RECORD: "#include <x.h>\n"}, f"{RECORD}:1", "open"),
    (tidy.finished, {"docs/a.md": "one\n" + "TO" + "DO: two\n"}, "docs/a.md:2", "leave"),
    (tidy.finished, {SERVER: OPENING + "print(1)\n"}, f"{SERVER}:2", "print"),
    (tidy.elsewhere, {"README.md": "\ncd /ho" + "me/me\n"}, "README.md:2", "one machine"),
    (tidy.elsewhere, {".ci/run": "pip --index-" + "url x\n"}, ".ci/run:1", "one machine"),
    (tidy.numbers, {ENGINE: "x = 8_189\n"}, f"{ENGINE}:1", "has a name"),
    (tidy.numbers, {STATE_PART: "x\ny = 1048576\n"}, f"{STATE_PART}:2", "has a name"),
    (
        rooms.statuses_tested,
        {
            "ledger/facts/status.h": "#define S\n    S(EXISTS, 1, 0)\n    S(EXISTS_NOT, 2, 0)\n",
            "tests/test_a.py": "status == 'exists'\n",
            "tests/model.py": "exists_not\n",
        },
        "ledger/facts/status.h:3",
        "no test names EXISTS_NOT",
    ),
    (
        rooms.mirrored,
        {"ledger/base/a.h": "", "tests/base/test_as.py": "", "tests/core/test_a.py": ""},
        "ledger/base/a.h:1",
        "tests/base/test_a.py does not exist",
    ),
    (
        rooms.mirrored,
        {
            "ledger/base/u128.h": "",
            "tests/base/test_hash_table.py": "",
            "tests/base/test_u128.py": "",
        },
        "ledger/base/u128.h:1",
        "still in COVERED",
    ),
]


@pytest.mark.parametrize(
    ("check", "files", "where", "what"), BAD, ids=[f"{row[0].__name__}-{row[2]}" for row in BAD]
)
def test_a_check_sees_what_is_wrong(
    tmp_path: Path, check: Check, files: dict[str, str], where: str, what: str
) -> None:
    tree(tmp_path, GOOD)
    good = list(check(tmp_path))
    tree(tmp_path, files)
    new = [violation for violation in check(tmp_path) if violation not in good]
    assert any(violation.startswith(where) and what in violation for violation in new), new
    assert len(new) == 1


@pytest.mark.parametrize("check", [check for check in tidy.CHECKS if check is not rooms.mirrored])
def test_a_good_tree_is_left_in_peace(tmp_path: Path, check: Check) -> None:
    assert list(check(tree(tmp_path, GOOD))) == []


def test_an_exception_that_is_no_longer_needed_is_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "LONG_FUNCTIONS", {"ledger/a.py:f": 72, "ledger/a.py:gone": 90})
    tree(tmp_path, {"ledger/a.py": "def f():\n" + "    x\n" * 71, "tools/tidy.py": ""})
    assert list(tidy.function_sizes(tmp_path)) == [
        "tools/tidy.py:1: LONG_FUNCTIONS allows ledger/a.py:gone 90, it has 0"
    ]
    tree(tmp_path, {"ledger/a.py": "def f():\n" + "    x\n" * 72})
    assert next(tidy.function_sizes(tmp_path)) == "ledger/a.py:1: f has 73 lines, at most 72"


def test_the_picture_names_every_file_once() -> None:
    rows = rooms.picture(ROOT).splitlines()
    assert [row for row in rows if not row.startswith(" ")] == [*rooms.ROOMS, rooms.TOP]
    drawn = [f"ledger/{row.split()[0]}" for row in rows if row.startswith(" ")]
    assert len(drawn) == len(set(drawn)) and set(drawn) == set(named(ROOT, "ledger"))
