"""Column files and the filter in C, under the compiler's sanitizers; see columns.c.

The sanitizer of memory sees reads past an end and numbers that overflow, the sanitizer of threads
that a filter is asked while it grows. A failure prints the line of the invariant that broke.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "c" / "columns.c"
HEADERS = SOURCE.parents[2] / "ledger"
FLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREADS = ["-fsanitize=thread"]


def build(path: Path, sanitizer: list[str]) -> Path:
    command = ["cc", *FLAGS, f"-I{HEADERS}", str(SOURCE), "-o", str(path), "-lpthread"]
    sanitized = subprocess.run([*command, *sanitizer], capture_output=True, text=True)
    if sanitized.returncode != 0:  # a compiler without their libraries
        subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("columns") / "columns", MEMORY)


def run(program: Path, part: str) -> None:
    done = subprocess.run([program, part, "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "part", ["filter", "growth", "starved", "hash", "blocks", "files", "searches"]
)
def test_part(program, part):
    run(program, part)


def test_a_filter_is_asked_while_it_grows(tmp_path):
    run(build(tmp_path / "columns", THREADS), "beside")


def test_a_part_that_does_not_exist_is_noticed(program):
    """So that a misspelt part cannot pass for a good one."""
    done = subprocess.run([program, "fliter", "1"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "invariant broken" in done.stderr
