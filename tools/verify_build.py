"""Builds a copy of this tree with every verify() checked; runs the core's tests and seeds on it.

The copy lies in a temporary folder, so the normal build in place is not touched. A broken assertion
aborts its process: the run ends with the file, the line and the condition, and with 1. About two
minutes, half of it the compiler.

    python tools/verify_build.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("ledger", "tests", "chaos", "bench", "tools")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
TESTS = ("tests/core", "tests/engine/test_keeper.py")
SCENARIOS = ("swarm", "seals")
SEEDS = 20


def run(copy: Path, *arguments: str) -> None:
    """Run a command of this interpreter in the copy; SystemExit when it fails."""
    env = os.environ | {"PYTHONPATH": str(copy), "LEDGER_VERIFY": "1"}
    if subprocess.run([sys.executable, *arguments], cwd=copy, env=env).returncode:
        raise SystemExit(f"the verify build fails: {' '.join(arguments)}")


def main() -> None:
    """Copy, build, test."""
    with tempfile.TemporaryDirectory(prefix="ledger-verify-") as place:
        copy = Path(place)
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, copy / folder, ignore=LEFT_OUT)
        for source in (*(ROOT / "bench").glob("*.c"), *(ROOT / "chaos").rglob("*.c"),
                       *(ROOT / "tests").rglob("*.c")):  # fmt: skip
            shutil.copy(source, copy / source.relative_to(ROOT))
        shutil.copy(ROOT / "setup.py", copy)
        run(copy, "setup.py", "--quiet", "build_ext", "--inplace")
        shutil.copy(ROOT / "pyproject.toml", copy)  # of the tests; the build needs none
        run(copy, "-c", "from ledger import _core; assert _core.VERIFYING")
        run(copy, "-m", "pytest", "-q", "-x", "-n2", *TESTS)
        run(copy, "-m", "chaos", "run", *SCENARIOS, "--seeds", str(SEEDS), "--jobs", "2")


if __name__ == "__main__":
    main()
