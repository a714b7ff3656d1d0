"""Copies of the tree: one as it is, and one for each mutant, built where C or Cython changed.

A copy stands alone: it is run with itself first on Python's path and as working directory, and is
asked whether its `ledger` is its own, because an editable install would otherwise answer for it.
This file knows no mutant and no tier.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from chaos.mutants.patch import Refused

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = Path("/dev/shm")
FOLDERS = ("ledger", "chaos", "tests")
SOURCES = {".pyx", ".pxi", ".pxd", ".h"}
COMMAND_SECONDS_MAX = 600
INCLUDED = re.compile(r"""include\s+["'](\w+/\w+\.\w+)["']|extern from\s+["'](\w+/\w+\.h)["']""")
WHOSE = """
import chaos, ledger, ledger._core
print(chaos.__file__, ledger.__file__, ledger._core.__file__, sep="\\n")
"""


class Ended(NamedTuple):
    """How a command in a copy ended. `code` is negative for a signal, as Python has it."""

    code: int
    out: str
    err: str


class Tree:
    """One copy."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *arguments: str) -> Ended:
        """Run Python in the copy; Refused when it takes too long."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=self.root, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
            except BaseException as error:
                # What it started would go on without it.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    what = " ".join(arguments)
                    raise Refused(f"{what}: not done in {COMMAND_SECONDS_MAX} s") from error
                raise
        return Ended(process.returncode, out, err)

    def check(self) -> None:
        """Refused unless what the copy runs is the copy's own."""
        ended = self.run("-c", WHOSE)
        files = ended.out.splitlines()
        if ended.code or not files or not all(self._holds(Path(one)) for one in files):
            raise Refused(f"{self.root} does not run its own code: {ended.out}{ended.err}")

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def copy(self, name: str) -> Tree:
        """A copy of this copy, beside it."""
        root = self.root.with_name(name)
        shutil.copytree(self.root, root)
        return Tree(root)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def build(self, changed: Iterable[str]) -> None:
        """Compile again what the changed files go into, and nothing else."""
        names = {file.removeprefix("ledger/") for file in changed if Path(file).suffix in SOURCES}
        wanted = {path for path in self._extensions() if names & self._parts(path)}
        if not wanted:
            return
        # setup.py compiles every one that it finds.
        others = [(path, path.with_suffix(".aside")) for path in self._extensions() - wanted]
        for path, aside in others:
            path.rename(aside)
        ended = self.run("setup.py", "--quiet", "build_ext", "--inplace", "--force")
        for path, aside in others:
            aside.rename(path)
        if ended.code:
            raise Refused(f"{self.root} cannot be built: {(ended.out + ended.err)[-2000:]}")

    def stale(self) -> list[str]:
        """Sources newer than what is built of them."""
        found = []
        for path in self._extensions():
            built = [one.stat().st_mtime for one in path.parent.glob(f"{path.stem}.*.so")]
            for name in self._parts(path):
                if not built or (self.root / "ledger" / name).stat().st_mtime > max(built):
                    found.append(name)
        return found

    def _extensions(self) -> set[Path]:
        return set(self.root.glob("ledger/**/_*.pyx"))

    def _parts(self, path: Path) -> set[str]:
        """An extension's own files, by their names in ledger/: itself and all that it includes."""
        found: set[str] = set()
        left = [path.relative_to(self.root / "ledger").as_posix()]
        while left:
            name = left.pop()
            place = self.root / "ledger" / name
            if name in found or not place.exists():
                continue
            found.add(name)
            text = place.read_text(encoding="utf-8")
            left += [one for pair in INCLUDED.findall(text) for one in pair if one]
            imported = re.findall(r"from ledger\.([\w.]+) cimport", text)
            left += [f"{one.replace('.', '/')}.pxd" for one in imported]
        return found


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the copies, in memory where there is some, that is removed after."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="ledger-mutants-", dir=memory)


def copy_of(source: Path, place: Path) -> Tree:
    """A copy of the tree `source` that runs its own code, built if what is there is not current."""
    root = place / "as-it-is"
    root.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(source / folder, root / folder, ignore=ignored)
    # Without pyproject.toml the build needs no more of setuptools than compiling.
    setup = (source / "setup.py").read_text(encoding="utf-8")
    (root / "setup.py").write_text(setup.replace('"-O3"', '"-O1"'), encoding="utf-8")
    tree = Tree(root)
    tree.build(tree.stale())
    tree.check()
    return tree
