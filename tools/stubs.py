"""Writes ledger/schema.pyi, the static view of what ledger/schema.py builds when it loads.

Run `python tools/stubs.py` after a change of a fact; `--check` only says whether the file is fresh.
It knows how schema.py is laid out and nothing of what the names mean.
"""

from __future__ import annotations

import enum
import inspect
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "ledger" / "schema.pyi"
HEAD = '''"""Written by tools/stubs.py from the C tables, as schema.py builds them: do not edit."""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
'''


def _enum(name: str, members: type[enum.IntEnum] | type[enum.IntFlag]) -> str:
    base = "IntFlag" if issubclass(members, enum.IntFlag) else "IntEnum"
    rows = [f"    {member} = {value.value}" for member, value in members.__members__.items()]
    return "\n".join([f"class {name}(enum.{base}):", *rows])


def _struct(name: str, struct: type[msgspec.Struct]) -> str:
    rows = [f"    {field}: int = 0" for field in struct.__struct_fields__]
    return "\n".join([f"class {name}(msgspec.Struct):", *rows])


def _function(name: str, function: object) -> str:
    signature = str(inspect.signature(function)).replace("'", "")  # type: ignore[arg-type]
    doc = textwrap.indent(inspect.getdoc(function) or "", "    ")
    end = "\n    " if "\n" in doc else ""
    return f'def {name}{signature}:\n    """{doc.lstrip()}{end}"""'


def render() -> str:
    """The text of schema.pyi. Every public name of schema.py must be of a kind known here."""
    from ledger import schema

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
    sys.path.insert(0, str(ROOT))
    text = render()
    if "--check" in sys.argv[1:]:
        fresh = STUB.exists() and STUB.read_text() == text
        if not fresh:
            sys.stderr.write("ledger/schema.pyi is stale: run python tools/stubs.py\n")
        return 0 if fresh else 1
    STUB.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
