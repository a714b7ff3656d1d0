"""A process with few descriptors, or one whose files may not grow.

The kernel's own resource limits: the process gets EMFILE when it opens one too many, and EFBIG
(or the signal SIGXFSZ, for who does not ignore it) when a file would pass its size. What has been
opened before a limit falls stays open.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator

from chaos.machine.command import Refused, run, why_not

PROBE_FILES_MAX = 40
# Python ignores these signals; who is started in its place must not inherit that.
_WRAPPER = """
import os, resource, signal, sys
for name, most in zip(("RLIMIT_NOFILE", "RLIMIT_FSIZE"), sys.argv[1:3]):
    if most != "-":
        resource.setrlimit(getattr(resource, name), (int(most), int(most)))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def prefix(files_max: int | None = None, file_bytes_max: int | None = None) -> list[str]:
    """What goes before a command, so that it runs under the limits; it keeps its process id."""
    words = ["-" if most is None else str(most) for most in (files_max, file_bytes_max)]
    return [sys.executable, "-I", "-S", "-c", _WRAPPER, *words]


@contextlib.contextmanager
def squeezed(
    pid: int, files_max: int | None = None, file_bytes_max: int | None = None
) -> Iterator[None]:
    """A running process has the limits while this lasts, and then those that it had before."""
    wanted = {resource.RLIMIT_NOFILE: files_max, resource.RLIMIT_FSIZE: file_bytes_max}
    before: dict[int, tuple[int, int]] = {}
    try:
        for kind, most in wanted.items():
            if most is not None:
                before[kind] = resource.prlimit(pid, kind)
                # The hard limit stays: only so can everyone give back what was taken.
                resource.prlimit(pid, kind, (most, before[kind][1]))
        yield
    finally:
        for kind, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, limits)


def _attempt() -> None:
    show = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    said = run(*prefix(files_max=PROBE_FILES_MAX), sys.executable, "-I", "-S", "-c", show)
    if int(said) != PROBE_FILES_MAX:
        raise Refused(f"a process that may have {PROBE_FILES_MAX} descriptors has {said.strip()}")
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with squeezed(process.pid, files_max=PROBE_FILES_MAX):
            pass
    finally:
        process.communicate(b"\n")


def missing() -> str | None:
    """Why a process cannot be limited here: one is, and reads its limit."""
    return why_not("resource limits", _attempt)
