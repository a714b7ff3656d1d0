"""An ext4 file system of its own, in a file, whose power can be cut while it is written to.

The kernel's own shutdown call ends it as a power cut would: what is in memory is gone, the
file system's journal is not flushed, and who still writes gets EIO. When it is mounted again the
kernel recovers it from its journal. Two limits: the image itself lies in the page cache of this
machine, which keeps its power, so a sync that the file system forgets to pass on is not seen; and
one run shows one of the states that a cut could leave.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
from pathlib import Path

from chaos.machine.command import Refused, run, until, why_not

MIB = 1 << 20
SIZE_BYTES = 256 * MIB
PROBE_BYTES = 16 * MIB
# EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), and its flag that leaves the journal as it is on disk.
SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
NO_LOG_FLUSH = 2
UNMOUNT_SECONDS_MAX = 10.0


class Ext4:
    """A file system with `directory`, made in the folder `scratch` and taken away at the end."""

    def __init__(self, scratch: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.directory = scratch / "ext4"
        self.image = scratch / "ext4.img"
        self.is_cut = False
        self._size_bytes = size_bytes

    def __enter__(self) -> Ext4:
        self.directory.mkdir(parents=True)
        try:
            with self.image.open("xb") as file:
                file.truncate(self._size_bytes)
            # All of it is made now: a kernel thread that goes on making it would disturb the run.
            options = "lazy_itable_init=0,lazy_journal_init=0"
            run("mkfs.ext4", "-q", "-F", "-E", options, self.image)
            self._mount()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self.directory.is_mount():
                # A writer that a failed test left behind must not keep the name in use.
                run("umount", "--lazy", self.directory)
        finally:
            self._remove()

    def cut(self) -> None:
        """The power is gone: nothing more reaches the disk, and who still writes gets EIO."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        self.is_cut = True

    def mount_again(self) -> None:
        """The power is back. Whoever had files open must have ended: their kernel is gone too."""
        until(f"the last user of {self.directory} to end", self._unmounted, UNMOUNT_SECONDS_MAX)
        self._mount()
        self.is_cut = False

    def _mount(self) -> None:
        run("mount", "-t", "ext4", "-o", "loop", self.image, self.directory)

    def _unmounted(self) -> bool:
        """A process that was killed may hold its files for a moment after its end is known."""
        try:
            run("umount", self.directory)
        except Refused:
            return not self.directory.is_mount()
        return True

    def _remove(self) -> None:
        self.image.unlink(missing_ok=True)
        self.directory.rmdir()


def _attempt() -> None:
    with tempfile.TemporaryDirectory() as scratch, Ext4(Path(scratch), PROBE_BYTES) as disk:
        disk.cut()
        disk.mount_again()


def missing() -> str | None:
    """Why no file system can be mounted and cut here: one is, with 16 MiB."""
    return why_not("power cut of an ext4 file system", _attempt)
