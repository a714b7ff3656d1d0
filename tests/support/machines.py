"""What the tests of faults that need the machine's leave share: whether it is given, and a program.

Where it is not given, the reason must be one that a person can act on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType


def can(source: ModuleType) -> bool:
    """Whether this machine allows it; if not, it has said so in a line for people."""
    reason = source.missing()
    assert reason is None or readable(reason), reason
    if reason is not None:
        warnings.warn(f"not seen here: {reason}", stacklevel=2)
    return reason is None


def readable(reason: str) -> bool:
    """What cannot be done, a colon, and why: on one line, and nothing of Python's in it."""
    return bool(re.fullmatch(r"[a-z][\w ]+: \S.{5,200}", reason)) and "Errno" not in reason


@contextlib.contextmanager
def python(
    code: str, *words: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """A small program that speaks lines; ended when the test is done with it."""
    child = Child([*prefix, sys.executable, "-I", "-u", "-c", code, *words], env)
    try:
        yield child
    finally:
        child.end()


class Child:
    """A process, by its lines."""

    def __init__(self, words: list[str], env: Mapping[str, str] | None) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, text=True, env=dict(os.environ, **(env or {}))
        )

    def ask(self, line: str = "") -> str:
        """Give it a line, and wait for one."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
