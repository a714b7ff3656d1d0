"""A file system that a test can fill or make read-only: a small one in memory, where the system
lets it be mounted; elsewhere the server's process is told wrongly how much space there is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from chaos.altered import before
from ledger.facts import limits

MIB = 1 << 20
CREATES_WAIT = (limits.DISK_RESERVE_BYTES + limits.DISK_RESERVE_READS_BYTES) // 2  # bytes left
NOTHING_STARTS = limits.DISK_RESERVE_READS_BYTES // 2


class SmallDisk:
    """A file system that a test can fill: a real one where it may be mounted, else one whose
    free space the server is told wrongly."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "disk"
        self.directory.mkdir()
        self.env: dict[str, str] = {}
        self._ballast = self.directory / "ballast"
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.directory)]
        self.is_real = subprocess.run(mount, capture_output=True).returncode == 0
        if not self.is_real:
            self._ballast = place / "ballast"
            self.env = before(place, TOLD_WRONGLY.format(path=str(self._ballast)))

    def fill(self, left: int = CREATES_WAIT) -> None:
        """Leave so many bytes."""
        if not self.is_real:
            self._ballast.write_text(str(left))
            return
        free = os.statvfs(self.directory)
        wanted = free.f_bavail * free.f_frsize - left
        with self._ballast.open("ab", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, max(1, wanted - MIB))
            with contextlib.suppress(OSError):  # others may be writing
                for _ in range(MIB // 4096):
                    file.write(bytes(4096))

    def free(self) -> None:
        self._ballast.unlink()

    def make_readonly(self) -> bool:
        """Whether that could be done."""
        mount = ["mount", "-o", "remount,ro", str(self.directory)]
        return self.is_real and subprocess.run(mount, capture_output=True).returncode == 0

    def end(self) -> None:
        if self.is_real:
            subprocess.run(["umount", "--lazy", self.directory], check=True)


TOLD_WRONGLY = """
import os
true = os.statvfs
def statvfs(path):
    found = true(path)
    if not os.path.exists({path!r}):
        return found
    left = int(open({path!r}).read()) // found.f_frsize
    return os.statvfs_result((*found[:4], left, *found[5:]))
os.statvfs = statvfs
"""
