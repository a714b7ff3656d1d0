"""The leaves of the core in C: the table, the slab, 128-bit numbers and the hash, under stress.

The program leaves.c does the work; here it is built, with the compiler's sanitizers where it has
them, and run. A failure prints the line of the invariant that broke.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "c" / "leaves.c"
HEADERS = SOURCE.parents[2] / "ledger"
FLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    built = tmp_path_factory.mktemp("leaves") / "leaves"
    command = ["cc", *FLAGS, f"-I{HEADERS}", str(SOURCE), "-o", str(built), "-lm"]
    sanitized = subprocess.run([*command, *SANITIZERS], capture_output=True, text=True)
    if sanitized.returncode != 0:  # a compiler without their libraries
        subprocess.run(command, check=True)
    return built


@pytest.mark.parametrize("part", ["table", "growth", "starved", "slab", "u128", "hash"])
def test_leaf(program, part):
    done = subprocess.run([program, part, "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_part_that_does_not_exist_is_noticed(program):
    """So that a misspelt part cannot pass for a good one."""
    done = subprocess.run([program, "tabel", "1"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "invariant broken" in done.stderr
