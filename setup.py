"""Builds the compiled rooms of the ledger: one extension each, from Cython and the C headers.

The machine code runs on any x86-64-v2 or ARM64; faster paths (AES instructions) are chosen at run
time. With LEDGER_VERIFY=1 in the environment the verify build is made: every verify() of the C code
is checked and stops the process, which is slow; `ledger._core.VERIFYING` says which one runs.
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HEADERS = sorted(map(str, Path("ledger").rglob("*.h")))
PARTS = sorted(map(str, Path("ledger").rglob("*.px[di]")))

flags = ["-O3", "-std=gnu11", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
if platform.machine() in ("x86_64", "AMD64"):
    flags.append("-march=x86-64-v2")
if os.environ.get("LEDGER_VERIFY") == "1":
    flags += ["-DLEDGER_VERIFY", "-O1"]  # compiled in half the time
else:
    flags.append("-g0")  # compiled in three quarters of the time; functions keep their names

extensions = [
    Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        depends=HEADERS + PARTS,
        include_dirs=["ledger"],
        extra_compile_args=flags,
    )
    for path in sorted(Path("ledger").rglob("_*.pyx"))
]

CORES = os.cpu_count() or 1

setup(
    options={"build_ext": {"parallel": CORES}},
    ext_modules=cythonize(
        extensions,
        nthreads=CORES,
        include_path=["ledger"],
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    )
)
