"""Where a benchmark ran, how it tells what it will take, and where its results are kept.

A result is one JSON file: the command, the machine, the figures. Figures move from machine to
machine, so none is kept without the processor, kernel, disk and settings that it belongs to. This
file measures nothing.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import lmdb
import msgspec

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"
SCRATCH = Path("/var/tmp")  # a disk where the usual folder for scratch may be memory
TICKS = os.sysconf("SC_CLK_TCK")
LMDB_SETTINGS = "LMDB sync on, metasync on, writemap off: an fdatasync for each group"

RESULTS_OPTION = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="build/bench",
    help="Where the results go, as JSON.",
)
SCRATCH_OPTION = click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SCRATCH if SCRATCH.is_dir() else Path(tempfile.gettempdir()),
    show_default="/var/tmp",
    help="The disk that is measured.",
)


class Result(msgspec.Struct, kw_only=True):
    """What one command found, and where."""

    name: str
    command: str
    environment: dict[str, str]
    seconds: float
    figures: dict[str, Any]


def environment(disk: Path) -> dict[str, str]:
    """The machine and the settings, for people; `disk` is a folder on the disk that is measured."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{pages / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler": _said(["cc", "--version"]),
        "lmdb": f"{'.'.join(map(str, lmdb.version()))}, py-lmdb {lmdb.__version__}",
        "uvloop": metadata.version("uvloop"),
        "commit": _commit(),
        "file_system": file_system(disk),
        "sync": LMDB_SETTINGS,
        "load_before": f"{os.getloadavg()[0]:.1f} processes running or waiting, 1 minute's mean",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _said(command: list[str]) -> str:
    """The first line that a command prints."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return (found.stdout or found.stderr).partition("\n")[0].strip() or "none"


def _commit() -> str:
    head = _said(["git", "rev-parse", "--short", "HEAD"])
    changed = _said(["git", "status", "--porcelain", "--", "ledger", "bench", "setup.py"])
    return head if changed == "none" else f"{head} and what is not committed"


def file_system(path: Path) -> str:
    """The kind of file system that a path is on, and its device."""
    best, kind = "", "unknown"
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        device, place, found, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, f"{found} on {device}"
    return kind


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, in its own code and in the kernel for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def scratch_folder(disk: Path, keep: bool = False) -> Iterator[Path]:
    """A folder on a disk, gone afterwards unless it is kept, which is told."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-bench-", dir=disk))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


class Steps:
    """Says how long all will take before it begins, then each step as it begins, on stderr."""

    def __init__(self, what: str, steps: int, seconds_expected: float) -> None:
        self.steps = steps
        self.done = 0
        self.begun = time.monotonic()
        click.echo(f"{what}: {steps} steps, about {_duration(seconds_expected)}", err=True)

    def step(self, what: str) -> None:
        self.done += 1
        at = time.monotonic() - self.begun
        click.echo(f"[{self.done:>3}/{self.steps}] {at:5.0f} s  {what}", err=True)

    def save(
        self, out: Path, name: str, facts: dict[str, str], figures: dict[str, Any],
        file: str | None = None,
    ) -> Path:  # fmt: skip
        """Keep the result of `bench.<name>`, under the same name unless `file` is another one."""
        result = Result(
            name=name,
            command=shlex.join(["python", "-m", f"bench.{name}", *sys.argv[1:]]),
            environment=facts,
            seconds=round(time.monotonic() - self.begun, 1),
            figures=figures,
        )
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{file or name}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        click.echo(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}", err=True)
        return path


def load(path: Path) -> Result | None:
    """A result that was kept; None when there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Result) if path.exists() else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
