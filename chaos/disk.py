"""The disk tier: every legal crash image of recorded lives of a real book, opened and worked on.

A recording is a few lives of one book under the recording library: created, worked on, ended or
killed, recovered again. From it images are made of what a power cut may leave, at each call that
changes anything; each is opened by the real recovery and checked, worked on, and for some the power
is cut a second time. See `disk_model.py` for what is legal and `disk_check.py` for what is checked.
What lives here: the processes that do it and the report. It knows nothing of either rule.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from chaos import shim
from chaos.disk_worker import Batch, Found, Job

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
RECORDING_IMAGES = 600
FOUND_MAX = 50  # kept of a run; the count goes on

FORMAT = 1

Progress = Callable[[int, int], None]  # images tried, images wanted


class Report(msgspec.Struct):
    """What a run did. `traces` has a hash of each recording: the same seed gives the same."""

    seed: int
    mutant: str = ""
    images_each: int = 0  # wanted of each recording
    images: int = 0
    again: int = 0  # of them after a second power cut
    violations: int = 0
    found: list[Found] = []
    kinds: dict[str, int] = {}  # violations by the invariant they break
    traces: list[str] = []
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return self.violations == 0

    def take(self, batch: Batch) -> None:
        self.images += batch.images
        self.again += batch.again
        self.violations += len(batch.found)
        self.found += batch.found[: FOUND_MAX - len(self.found)]
        for one in batch.found:
            kind = one.why.partition(":")[0]
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if batch.trace:
            self.traces.append(batch.trace)

    def lines(self) -> list[str]:
        """What a person is told."""
        rate = round(self.images / max(0.001, self.seconds))
        held = "held" if self.clean else f"{self.violations} broken"
        told = [
            f"seed {self.seed}: {held}; {self.images} images of {len(self.traces)} recordings,"
            f" {self.again} of them after a second power cut, in {self.seconds:.1f} s ({rate}/s)"
        ]
        return told + [
            f"recording {one.recording}, image {one.image}"
            + (f", again {one.again}" if one.again else "")
            + f", cut at record {one.record} ({one.during}): {one.why}"
            for one in self.found
        ]


class Failure(msgspec.Struct):
    """What a file of a failure holds: all that it takes to make the same image again."""

    format: int
    tier: str
    seed: int
    images_each: int
    mutant: str
    found: Found


def keep(report: Report, found: Found, path: Path) -> None:
    """Write the file that replay() takes."""
    failure = Failure(FORMAT, "disk", report.seed, report.images_each, report.mutant, found)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(failure), indent=2) + b"\n")


def is_failure(path: Path) -> bool:
    """Whether a file holds a failure of this tier."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(found, dict) and found.get("tier") == "disk"


def replay(path: Path) -> Found | None:
    """Make the recording of a failure and its images again: the same finding, or None.

    OSError or msgspec.ValidationError for a file that is none.
    """
    kept = msgspec.json.decode(path.read_bytes(), type=Failure, strict=True)
    if (kept.format, kept.tier) != (FORMAT, "disk"):
        raise msgspec.ValidationError(f"{path}: format {kept.format} of the {kept.tier} tier")
    report = Report(kept.seed, kept.mutant, kept.images_each)
    _fill(report, [kept.found.recording], 1)
    return next((one for one in report.found if one == kept.found), None)


def missing() -> str | None:
    """Why the tier cannot run on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return "the recording library is for Linux"
    try:
        shim.built()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the recording library cannot be built: {error}"
    return None


def run(
    seed: int,
    images: int,
    on_progress: Progress | None = None,
    *,
    mutant: str = "",
    jobs: int | None = None,
) -> Report:
    """Try about so many images of recordings of `seed`; RuntimeError when a process fails.

    `mutant` is one of disk_mutants.MUTANTS. What is found does not depend on `jobs`, the number of
    processes; one for each core when None.
    """
    count = max(1, round(images / RECORDING_IMAGES))
    report = Report(seed, mutant, images // count)
    _fill(report, list(range(count)), jobs or len(os.sched_getaffinity(0)), on_progress)
    return report


def _fill(
    report: Report, recordings: list[int], jobs: int, on_progress: Progress | None = None
) -> None:
    jobs = min(len(recordings), jobs)
    wanted = report.images_each * len(recordings)
    lock = threading.Lock()
    started = time.monotonic()
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ledger-disk-", dir=memory) as place:

        def take(batch: Batch) -> None:
            with lock:
                report.take(batch)
                if on_progress is not None:
                    on_progress(report.images, wanted)

        def work(number: int) -> None:
            mine = recordings[number::jobs]
            job = Job(f"{place}/{number}", report.seed, mine, report.images_each, report.mutant)
            _work(job, take)

        with ThreadPoolExecutor(jobs) as threads:
            list(threads.map(work, range(jobs)))
    report.found.sort(key=lambda one: (one.recording, one.image, one.again))
    report.traces.sort()
    report.seconds = round(time.monotonic() - started, 3)


def _work(job: Job, take: Callable[[Batch], None]) -> None:
    place = Path(job.place)
    place.mkdir()
    environment = shim.environment(
        place / "watched", control=place / "control", record=place / "record"
    )
    command = [sys.executable, "-m", "chaos.disk_worker", msgspec.json.encode(job).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            take(msgspec.json.decode(line, type=Batch))
    if worker.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {worker.returncode}")
