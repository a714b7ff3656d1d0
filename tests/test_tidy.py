"""The tree keeps its rules, and each check of tools/tidy.py sees a small tree that breaks its rule.

The bad trees are a few lines in tmp_path, each with one thing wrong and what is right beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import tidy

ROOT = Path(__file__).resolve().parent.parent
Check = Callable[[Path], Iterator[str]]
OPENING = '"""What lives here, said in a sentence that is long enough."""\n'
COMMENT = "# What lives here. Needs: record.h. Gives: a_* and other things of no importance.\n"
CORE = OPENING + 'include "state.pxi"\ninclude "create.pxi"\n'
STATE_AT = "cdef inline u32 state_at(int i) nogil:\n    x\n"
STATE = COMMENT.replace("a_*", "state_*, hold_*") + STATE_AT
CREATE = "# Create. Needs: state.pxi. Gives: create_*.\n\ncdef void create_it(int i) nogil:\n    "
TABLE = (
    "| layer | files | purpose |\n|---|---|---|\n"
    "| parts | `reading.py` `creation.py` `journal.py` `onlooker.py` `segments.py` "
    "`checkpoints.py` `new_file.py` `resolve.py` `scrub.py` {} | the log |\n"
)


def test_the_tree_is_tidy() -> None:
    found = [violation for check in tidy.CHECKS for violation in check(ROOT)]
    assert not found, "\n".join(["", *found])


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GOOD = {
    "ledger/config.py": OPENING + "EVENTS_MAX = 8_189\n",
    "ledger/errors.py": OPENING + "from ledger.config import EVENTS_MAX\n",
    "ledger/engine.py": OPENING
    + "from typing import TYPE_CHECKING\nimport numpy as np\nfrom ledger import config, errors\n"
    + "if TYPE_CHECKING:\n    from ledger.server import x\n",
    "ledger/server.py": OPENING + "import asyncio\nimport time\nfrom ledger.engine import x\n",
    "ledger/record.h": "/* Each record, once, with its size proved. */\nenum { EVENTS = 8189 };\n",
    "ledger/_core.pyx": CORE,
    "ledger/state.pxi": STATE,
    "ledger/create.pxi": CREATE + "state_at(i)\n",
}

# (check, files that differ from GOOD, where the violation is, and a word of it)
BAD: list[tuple[Check, dict[str, str], str, str]] = [
    (tidy.layers, {"ledger/stray.py": OPENING}, "ledger/stray.py:1", "no layer"),
    (
        tidy.layers,
        {"ledger/engine.py": OPENING + "\nfrom ledger import server\n"},
        "ledger/engine.py:3",
        "must not import server.py (edge)",
    ),
    (
        tidy.layers,
        {"ledger/engine.py": OPENING + "def f():\n    from ledger.server import x\n"},
        "ledger/engine.py:3",
        "must not import server.py (edge)",
    ),
    (
        tidy.layers,
        {
            "ledger/journal.py": OPENING + "from ledger import (\n    clock,\n)\n",
            "ledger/clock.py": OPENING,
        },
        "ledger/journal.py:2",
        "must not import clock.py (parts)",
    ),
    (tidy.layers, {"ledger/errors.py": "import ledger\n"}, "ledger/errors.py:1", "__init__.py"),
    (
        tidy.layers,
        {"ledger/engine.py": "from .config import x\n"},
        "ledger/engine.py:1",
        "absolute",
    ),
    (
        tidy.layers,
        {"ledger/_core.pyx": "from ledger.engine cimport (\n  x,\n)\n"},
        "ledger/_core.pyx:1",
        "must not import engine.py (order)",
    ),
    (
        tidy.layers,
        {"ledger/record.h": '\n#include "table.h"\n', "ledger/table.h": "\n"},
        "ledger/record.h:2",
        "must not import table.h (leaves)",
    ),
    (
        tidy.pictured,
        {"docs/architecture.md": TABLE.format("`checkpoint.py`")},
        "docs/architecture.md:3",
        "parts misses clock.py",
    ),
    (
        tidy.pictured,
        {"docs/architecture.md": TABLE.format("`checkpoint.py` `clock.py` `engine.py`")},
        "docs/architecture.md:3",
        "engine.py is not of parts",
    ),
    (tidy.owners, {"ledger/engine.py": "import asyncio\n"}, "ledger/engine.py:1", "edge"),
    (tidy.owners, {"ledger/cli.py": "from socket import x\n"}, "ledger/cli.py:1", "edge"),
    (tidy.owners, {"ledger/engine.py": "import lmdb\n"}, "ledger/engine.py:1", "journal.py"),
    (tidy.owners, {"ledger/engine.py": "import time\n"}, "ledger/engine.py:1", "handed over"),
    (
        tidy.owners,
        {"ledger/group.py": "import os\nx = os.urandom(16)\n"},
        "ledger/group.py:2",
        "chance",
    ),
    (
        tidy.owners,
        {"ledger/_core.pyx": "from libc.time cimport time\n"},
        "ledger/_core.pyx:1",
        "handed over",
    ),
    (tidy.parts, {"ledger/query.pxi": CREATE}, "ledger/query.pxi:1", "by nobody"),
    (
        tidy.parts,
        {"ledger/create.pxi": CREATE.replace("create_it", "make_it") + "x\n"},
        "ledger/create.pxi:3",
        "make_it has none of the prefixes",
    ),
    (
        tidy.parts,
        {"ledger/state.pxi": STATE + "    create_it(i)\n"},
        "ledger/state.pxi:4",
        "create_it comes later, in create.pxi",
    ),
    (
        tidy.parts,
        {"ledger/create.pxi": CREATE.replace("state.pxi", "record.h") + "state_at(i)\n"},
        "ledger/create.pxi:4",
        "does not say it needs state.pxi",
    ),
    (
        tidy.parts,
        {"ledger/state.pxi": STATE.replace("record.h", "create.pxi")},
        "ledger/state.pxi:1",
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
        {"ledger/create.pxi": "cdef void create_long(a,\n        b) nogil:\n" + "    x\n\n" * 35},
        "ledger/create.pxi:1",
        "create_long has 71 lines",
    ),
    (
        tidy.function_sizes,
        {"ledger/_core.pyx": "class A:\n    def long(self):\n" + "        x\n" * 70 + "x = 1\n"},
        "ledger/_core.pyx:2",
        "long has 71 lines",
    ),
    (
        tidy.function_sizes,
        {"ledger/table.h": "int f(void) {\n}\nint long_f(a,\n    b) {\n" + "x\n" * 70 + "}\n"},
        "ledger/table.h:3",
        "long_f has 73 lines",
    ),
    (tidy.file_sizes, {"tests/a.py": "x\n" * 601}, "tests/a.py:601", "601 lines"),
    (
        tidy.file_sizes,
        {f"ledger/a{number}.py": "x\n" for number in range(tidy.LEDGER_FILES_MAX)},
        "ledger:1",
        "files, at most",
    ),
    (tidy.openings, {"ledger/engine.py": "import enum\n"}, "ledger/engine.py:1", "open"),
    (tidy.openings, {"tools/a.py": '"""Short."""\n'}, "tools/a.py:1", "open"),
    (tidy.openings, {"ledger/record.h": "#include <x.h>\n"}, "ledger/record.h:1", "open"),
    (tidy.finished, {"docs/a.md": "one\n" + "TO" + "DO: two\n"}, "docs/a.md:2", "leave"),
    (tidy.finished, {"ledger/cli.py": OPENING + "print(1)\n"}, "ledger/cli.py:2", "print"),
    (tidy.elsewhere, {"README.md": "\ncd /ho" + "me/me\n"}, "README.md:2", "one machine"),
    (tidy.elsewhere, {".ci/run": "pip --index-" + "url x\n"}, ".ci/run:1", "one machine"),
    (tidy.numbers, {"ledger/engine.py": "x = 8_189\n"}, "ledger/engine.py:1", "has a name"),
    (tidy.numbers, {"ledger/state.pxi": "x\ny = 1048576\n"}, "ledger/state.pxi:2", "has a name"),
    (
        tidy.statuses_tested,
        {
            "ledger/status.h": "#define S\n    S(EXISTS, 1, 0)\n    S(EXISTS_NOT, 2, 0)\n",
            "tests/test_a.py": "status == 'exists'\n",
            "tests/model.py": "exists_not\n",
        },
        "ledger/status.h:3",
        "no test names EXISTS_NOT",
    ),
    (tidy.mirrored, {"ledger/slab.h": "\n", "tests/test_slabs.py": ""}, "ledger/slab.h:1", "slab"),
    (
        tidy.mirrored,
        {"ledger/server.py": "\n", "tests/test_server.py": "", "tests/test_door.py": ""},
        "ledger/server.py:1",
        "still in COVERED",
    ),
]


@pytest.mark.parametrize(
    ("check", "files", "where", "what"), BAD, ids=[f"{row[0].__name__}-{row[2]}" for row in BAD]
)
def test_a_check_sees_what_is_wrong(
    tmp_path: Path, check: Check, files: dict[str, str], where: str, what: str
) -> None:
    def found() -> list[str]:  # what one good tree lacks is not what is asked
        found = [violation for violation in check(tmp_path) if "does not exist" not in violation]
        return found if check is not tidy.mirrored else list(check(tmp_path))

    tree(tmp_path, GOOD)
    good = found()
    tree(tmp_path, files)
    new = [violation for violation in found() if violation not in good]
    assert any(violation.startswith(f"{where}: ") and what in violation for violation in new), new
    assert len(new) == 1


@pytest.mark.parametrize("check", [check for check in tidy.CHECKS if check is not tidy.mirrored])
def test_a_good_tree_is_left_in_peace(tmp_path: Path, check: Check) -> None:
    found = [each for each in check(tree(tmp_path, GOOD)) if "does not exist" not in each]
    assert found == []


def test_a_file_with_a_layer_exists(tmp_path: Path) -> None:
    found = list(tidy.layers(tree(tmp_path, GOOD)))
    assert "tools/tidy.py:1: journal.py has a layer and does not exist" in found
    assert not any("engine.py" in violation for violation in found)


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
    rows = tidy.picture(ROOT).splitlines()
    assert [row for row in rows if not row.startswith(" ")] == list(tidy.LAYERS)
    named = [row.split()[0] for row in rows if row.startswith(" ")]
    sources = {name for name in tidy.ledger(ROOT) if not name.endswith(".pyi")}
    assert len(named) == len(set(named)) and set(named) == sources
