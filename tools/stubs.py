"""Writes what compilers and type checkers must be told of the facts: two files of ledger/.

status.pxi declares the names of status.h to Cython. It is made from the header's text, so that it
can be made before anything compiles. schema.pyi is the static view of what schema.py builds when it
loads. Run `python tools/stubs.py` after a change of a fact; `--check` only says whether both are
fresh. It knows how status.h and schema.py are laid out and nothing of what the names mean.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "ledger" / "facts" / "schema.pyi"
STATUS = ROOT / "ledger" / "core" / "status.pxi"
STATUS_HEAD = """\
# Status: the names of status.h that the state machine answers with.
#
# Needs: status.h. Gives: the result codes. The numbers and their order stay in the header. Written
# by tools/stubs.py: do not edit.

cdef extern from "facts/status.h" nogil:
    u32 STATUS_CREATED
    bint transfer_status_transient(u32)
    enum:
"""
HEAD = '''"""Written by tools/stubs.py from the C tables, as schema.py builds them: do not edit."""

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
'''


def _enum(name: str, members: type[enum.IntEnum] | type[enum.IntFlag]) -> str:
    base = "IntFlag" if issubclass(members, enum.IntFlag) else "IntEnum"
    rows = [f"    {member} = {value.value}" for member, value in members.__members__.items()]
    # Only the flags have words of their own: an enum without any has those of Python.
    doc = _doc(members) if base == "IntFlag" else []
    return "\n".join([f"class {name}(enum.{base}):", *doc, *rows])


def _struct(name: str, struct: type[msgspec.Struct]) -> str:
    rows = [f"    {field}: int = 0" for field in struct.__struct_fields__]
    return "\n".join([f"class {name}(msgspec.Struct):", *_doc(struct), *rows])


def _doc(kind: type) -> list[str]:
    """The docstring of a class, as lines of its body."""
    doc = textwrap.indent(inspect.getdoc(kind) or "", "    ").lstrip()
    return [*f'    """{doc}\n    """'.splitlines(), ""]


def _function(name: str, function: object) -> str:
    signature = str(inspect.signature(function)).replace("'", "")  # type: ignore[arg-type]
    doc = textwrap.indent(inspect.getdoc(function) or "", "    ")
    end = "\n    " if "\n" in doc else ""
    return f'def {name}{signature}:\n    """{doc.lstrip()}{end}"""'


def render() -> str:
    """The text of schema.pyi. Every public name of schema.py must be of a kind known here."""
    from ledger.facts import schema

    blocks = []
    for name, value in vars(schema).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if isinstance(value, np.dtype):
            blocks.append(f"{name}: np.dtype[np.void]")
        elif isinstance(value, type) and value.__module__ == schema.__name__:
            if issubclass(value, enum.IntEnum | enum.IntFlag):
                blocks.append(_enum(name, value))
            elif issubclass(value, msgspec.Struct):
                blocks.append(_struct(name, value))
            else:
                blocks.append("\n".join(_named_tuple(name, value)))
        elif inspect.isfunction(value) and value.__module__ == schema.__name__:
            blocks.append(_function(name, value))
        elif isinstance(value, frozenset | dict):
            blocks.append(f"{name}: {_container(value)}")
    text = HEAD
    for before, block in zip(["", *blocks], blocks, strict=False):
        text += block if _plain(before) and _plain(block) else "\n" + block
        text += "\n"
    return text


def render_status() -> str:
    """The text of status.pxi."""
    names = []
    record = ""
    for line in (ROOT / "ledger" / "facts" / "status.h").read_text().splitlines():
        if define := re.match(r"#define (\w+)_STATUSES\(S\)", line):
            record = define[1]
        elif row := re.match(r"\s+S\((\w+),", line):
            names.append(f"        {record}_{row[1]}_STATUS\n")
    return STATUS_HEAD + "".join(names)


def _plain(block: str) -> bool:
    return "\n" not in block and block != ""


def _named_tuple(name: str, value: type) -> list[str]:
    kinds = inspect.get_annotations(value)
    rows = [f"    {field}: {kind.__forward_arg__}" for field, kind in kinds.items()]
    return [f"class {name}(NamedTuple):", *rows]


def _container(value: frozenset[object] | dict[object, object]) -> str:
    if isinstance(value, frozenset):
        return f"frozenset[{type(next(iter(value))).__name__}]"
    key, item = next(iter(value.items()))
    kind = "np.dtype[np.void]" if isinstance(item, np.dtype) else type(item).__name__
    return f"dict[{type(key).__name__}, {kind}]"


def main() -> int:
    """Write both files, or with --check compare them; 1 when one is stale."""
    sys.path.insert(0, str(ROOT))
    stale = 0
    for path, make in ((STATUS, render_status), (STUB, render)):
        text = make()
        if path.exists() and path.read_text() == text:
            continue
        stale = 1
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"ledger/{path.name} is stale: run python tools/stubs.py\n")
        else:
            path.write_text(text)
    return stale if "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
