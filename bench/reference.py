"""The reference loops of reference.c, compiled by this machine's own `cc` when first asked for.

The compiler is the one that builds the ledger, with the same flags, so that a ratio of the two is
of their code and not of their builds. It knows no ledger.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ledger.facts import schema

HERE = Path(__file__).resolve().parent
HEADERS = HERE.parent / "ledger"
FLAGS = ["-O3", "-std=gnu11", "-fno-strict-aliasing", "-shared", "-fPIC"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-march=x86-64-v2")

Bytes = NDArray[np.uint8]


def compiled(source: str, folder: Path) -> Path:
    """The shared library of a C file of this folder, made in `folder`."""
    library = folder / f"{Path(source).stem}.so"
    command = ["cc", *FLAGS, "-I", str(HEADERS), str(HERE / source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="ledger-reference-") as folder:
        library = ctypes.CDLL(str(compiled("reference.c", Path(folder))))
    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    for name, result, arguments in (
        ("ref_open", pointer, [number, number]),
        ("ref_close", None, [pointer]),
        ("ref_apply", number, [pointer, pointer, number]),
        ("ref_find", number, [pointer, pointer, number, pointer]),
        ("ref_mix", number, [pointer, number]),
        ("ref_copy", None, [pointer, pointer, number]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Reference:
    """A book of the least that can be called one: ids, accounts, balances, records."""

    def __init__(self, accounts: int, transfers_max: int) -> None:
        self._library = _library()
        self._book = self._library.ref_open(accounts, transfers_max)
        if not self._book:
            raise MemoryError("the reference's tables")

    def close(self) -> None:
        self._library.ref_close(self._book)
        self._book = None

    def apply(self, rows: NDArray[np.void]) -> int:
        """Apply TRANSFER records; how many were new."""
        return int(self._library.ref_apply(self._book, rows.ctypes.data, len(rows)))

    def find(self, ids: NDArray[np.void], found: NDArray[np.void]) -> int:
        """Fill `found` with the transfers of ID records; how many there are."""
        assert found.itemsize == schema.TRANSFER.itemsize and len(found) >= len(ids)
        count = self._library.ref_find(self._book, ids.ctypes.data, len(ids), found.ctypes.data)
        return int(count)


def mix(buffer: Bytes) -> int:
    """One pass of arithmetic over bytes."""
    return int(_library().ref_mix(buffer.ctypes.data, buffer.nbytes))


def copy(to: Bytes, source: Bytes) -> None:
    """One pass of memory."""
    _library().ref_copy(to.ctypes.data, source.ctypes.data, min(to.nbytes, source.nbytes))
