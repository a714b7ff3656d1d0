"""The disk tier: the process that records lives of a book, cuts the power, and looks what is left.

It runs with the recording library loaded. Each life, and each batch of images, is a fork of it: a
bad image may kill whoever opens it, and that is a finding with a place. It prints a line of JSON
for each batch. It knows no scenario; `disk.py` starts it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from chaos import disk_mutants, shim
from chaos.altered import configured
from chaos.disk_check import Promise, at_first, check
from chaos.disk_life import Script, live
from chaos.disk_model import Disk, Image, Plan, moments, plans
from chaos.shim import Op, Record
from ledger.facts.errors import LedgerError

BATCH_IMAGES = 64  # in one fork
IMAGE_SECONDS_MAX = 60
TURNS = (2, 5)
AGAIN_IMAGES = 8  # second images of one first image
AGAIN_SHARE = 0.25  # of all images
NTH = {"": (0, 0), "all": (1, 45), "any": (3, 20), "dsync": (1, 3)}  # which call of a life is last
OF_COLUMN_FILES = ("all {} kill /state", "all {} kill-after /state", "rename {} kill-after /state")
NTH_OF_COLUMN_FILES = {"all": (1, 120), "rename": (1, 16)}
SCRIPT_AFTER = (1, 2)  # turns of the work on an image
WINDOW_EVENTS = (1, 1, 4, 40)


class Job(msgspec.Struct):
    """What one process is to do."""

    place: str  # a folder of its own; what is recorded is below place/watched
    seed: int
    recordings: list[int]
    images: int  # of each recording
    mutant: str = ""


class Crash(NamedTuple):
    """One image: when and how it came about, what it must hold."""

    moment: int  # the record that was under way
    plan: Plan
    image: Image
    promise: Promise


class Found(msgspec.Struct):
    """One violation. `image` counts the first images of a recording, `again` those made of it."""

    recording: int
    image: int
    again: int
    record: int
    during: str
    why: str


class Checked(msgspec.Struct):
    """What a fork says of one image; `number` counts the second images made of it."""

    image: int
    number: int
    again: bool
    why: str


class Batch(msgspec.Struct):
    """What a process prints: images tried, of them second ones, and what was found."""

    images: int = 0
    again: int = 0
    found: list[Found] = []
    trace: str = ""  # of a recording, with its last batch


def crashes(
    disk: Disk, records: list[Record], promise: Promise, random: Random, images_max: int
) -> Iterator[Crash]:
    """At most so many images of what was done with `disk`, in order; a seeded choice of all.

    `promise` is what held before.
    """
    seen: set[tuple[int, int, Plan]] = set()
    candidates: list[list[Plan]] = []
    marks = 0
    for moment, state in moments(disk, records):
        marks += moment < len(records) and records[moment].op is Op.MARK
        new = [plan for plan in plans(state, random) if (state.version, marks, plan) not in seen]
        seen.update((state.version, marks, plan) for plan in new)
        candidates.append(new)
    wanted = choice(candidates, random, images_max)
    for moment, state in moments(disk, records):
        if moment < len(records) and records[moment].op is Op.MARK:
            promise = promise.after(json.loads(records[moment].data))
        for plan in wanted[moment]:
            yield Crash(moment, plan, state.image(plan), promise)


def choice(candidates: list[list[Plan]], random: Random, images_max: int) -> list[list[Plan]]:
    """At most so many of the plans of each moment: one of each moment before two of any."""
    wanted: list[list[Plan]] = [[] for _ in candidates]
    for plans_left in candidates:
        random.shuffle(plans_left)
    left = images_max
    while left and any(candidates):
        order = [moment for moment, plans_left in enumerate(candidates) if plans_left]
        for moment in random.sample(order, min(left, len(order))):
            wanted[moment].append(candidates[moment].pop())
            left -= 1
    return wanted


class Worker:
    """One process's work."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.place = Path(job.place)
        self.record, self.control = self.place / "record", self.place / "control"
        self.stage, self.watched = self.place / "stage", self.place / "watched"
        self.disk = self.watched / "disk"
        for folder in (self.stage, self.watched):
            folder.mkdir(parents=True)

    def run(self) -> None:
        for recording in self.job.recordings:
            for batch in self._recording(recording):
                sys.stdout.buffer.write(msgspec.json.encode(batch) + b"\n")
                sys.stdout.buffer.flush()

    # ---- the recording --------------------------------------------------------------------------

    def mark(self, said: dict[str, Any]) -> None:
        shim.mark(self.record, json.dumps(said).encode())

    def _fresh(self, image: Image) -> Disk:
        """The watched disk with an image on it, all certain, and nothing recorded yet."""
        shutil.rmtree(self.disk, ignore_errors=True)
        staged = self.stage / "fresh"
        materialise(image, staged)
        staged.rename(self.disk)
        os.truncate(self.record, 0)
        return Disk(self.disk)

    def _recording(self, number: int) -> Iterator[Batch]:
        with configured(bounds(self.job.seed, number)):
            yield from self._configured(number)

    def _configured(self, number: int) -> Iterator[Batch]:
        random = Random(f"{self.job.seed}/{number}")
        disk = self._fresh({})
        for script, end in lives(self.job.seed, number):
            rule = disk_mutants.rule(self.job.mutant, end)
            why = self._live(script, rule)
            if why is not None:
                why = why.replace(str(self.place), "")
                yield Batch(found=[Found(number, 0, 0, 0, rule, why)])
        records = list(shim.recorded(self.record))
        first = self.job.images - int(self.job.images * AGAIN_SHARE)
        done = 0
        batch: list[Crash] = []
        promise = at_first([json.loads(one.data) for one in records if one.op is Op.MARK])
        for crash in crashes(disk, records, promise, random, first):
            batch.append(crash)
            if len(batch) == BATCH_IMAGES:
                yield self._batch(number, done, batch, records)
                done, batch = done + len(batch), []
        result = self._batch(number, done, batch, records)
        result.trace = trace(records)
        yield result

    def _live(self, script: Script, rule: str) -> str | None:
        """One life, in a fork, killed by `rule` or ended; why it failed by itself, or None."""

        def work(say: Callable[[bytes], None]) -> None:
            disk_mutants.apply(self.job.mutant)
            try:
                live(self.disk / "book", script, self.mark)
            except LedgerError as error:
                say(f"life: {type(error).__name__}: {error}".encode())

        shim.switch(self.control, rule)
        code, said = forked(work)
        shim.switch(self.control)
        if said or code not in (0, -signal.SIGKILL):
            return said.decode() or f"life: exit code {code}"
        return None

    # ---- the images -----------------------------------------------------------------------------

    def _batch(self, number: int, start: int, batch: list[Crash], records: list[Record]) -> Batch:
        """Check images in forks: a fork that dies has found something, and the next one goes on."""
        every = max(1, round(AGAIN_IMAGES / AGAIN_SHARE * (1 - AGAIN_SHARE)))
        result = Batch(images=len(batch))
        at = 0
        while at < len(batch):

            def work(say: Callable[[bytes], None], first: int = at) -> None:
                for offset, crash in enumerate(batch[first:], first):
                    image = start + offset
                    twice = image % every == every // 2
                    for line in self._check(number, image, crash, twice):
                        say(msgspec.json.encode(line) + b"\n")

            code, said = forked(work)
            for line in said.splitlines():
                checked = msgspec.json.decode(line, type=Checked)
                at += not checked.again
                result.again += checked.again
                result.images += checked.again
                if checked.why:
                    crash = batch[checked.image - start]
                    during = _during(records, crash.moment) if not checked.again else "again"
                    why = checked.why.replace(str(self.place), "")
                    found = Found(number, checked.image, checked.number, crash.moment, during, why)
                    result.found.append(found)
            if code != 0:
                place = min(at, len(batch) - 1)
                why = f"live: whoever opened it died: {_death(code)}"
                moment = batch[place].moment
                result.found.append(
                    Found(number, start + place, 0, moment, _during(records, moment), why)
                )
                at += 1
        return result

    def _check(self, number: int, image: int, crash: Crash, twice: bool) -> Iterator[Checked]:
        """Open one image, work on it; `twice`: record that, and cut the power again."""
        random = Random(f"{self.job.seed}/{number}/{image}")
        script = Script(
            random.getrandbits(32), 0, random.randint(*SCRIPT_AFTER), random.random() < 0.5
        )
        if not twice:
            yield Checked(image, 0, False, self._open(crash, script, random) or "")
            return
        signal.alarm(IMAGE_SECONDS_MAX)
        disk = self._fresh(with_garbage(crash.image, random))
        book = self.disk / "book"
        why = check(book, crash.promise, script, self.mark)
        if why is None:
            records = list(shim.recorded(self.record))
            seconds = crashes(disk, records, crash.promise, random, AGAIN_IMAGES)
            for place, second in enumerate(seconds, 1):
                why_again = self._open(second, script._replace(turns=1), random)
                yield Checked(image, place, True, why_again or "")
        yield Checked(image, 0, False, why or "")

    def _open(self, crash: Crash, script: Script, random: Random) -> str | None:
        signal.alarm(IMAGE_SECONDS_MAX)
        place = self.stage / "image"
        shutil.rmtree(place, ignore_errors=True)
        materialise(with_garbage(crash.image, random), place)
        return check(place / "book", crash.promise, script)


def bounds(seed: int, recording: int) -> dict[str, float]:
    """The configuration of a recording: so that much is sealed in lives that are short."""
    random = Random(f"{seed}/{recording}/bounds")
    return {
        "WINDOW_EVENTS": random.choice(WINDOW_EVENTS),
        "CHECKPOINT_STEP_BYTES": random.choice((512, 4_096)),
        "WINDOWS_CLOSED_MAX": random.choice((1, 3)),
        "CHECKPOINT_WINDOWS_MIN": random.choice((1, 2)),
        "MERGED_AT_ONCE": random.choice((2, 4)),
    }


def lives(seed: int, recording: int) -> Iterator[tuple[Script, str]]:
    """What is recorded: scripts, each with the rule that kills it ("" for a clean end)."""
    random = Random(f"{seed}/{recording}/lives")
    requests = random.getrandbits(32)
    first = 0
    creation = random.choice(("", "", "all {} kill", "all {} kill-after"))
    later = ["", "dsync {} kill-after", random.choice(("any {} kill", "any {} kill-after"))]
    later.append(random.choice(OF_COLUMN_FILES))
    random.shuffle(later)
    for rule in (creation, *later, ""):  # whatever was killed is recovered
        calls = rule.partition(" ")[0]
        nth = random.randint(*(NTH_OF_COLUMN_FILES if rule in OF_COLUMN_FILES else NTH)[calls])
        turns = random.randint(*TURNS)
        # Without stamps the writes that sync themselves are all of the journal.
        script = Script(requests, first, turns, calls != "dsync" and random.random() < 0.6)
        yield script, rule.format(nth)
        first += 4 * turns


def forked(work: Callable[[Callable[[bytes], None]], None]) -> tuple[int, bytes]:
    """Run `work` in a fork: its exit code, or minus the signal, and all that it said."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            gc.freeze()  # what was there before is not to be copied page by page for a look

            def say(data: bytes) -> None:
                while data:
                    data = data[os.write(writer, data) :]

            work(say)
            code = 0
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            raise
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        data = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), data


def materialise(image: Image, place: Path) -> None:
    """Put the files of an image into a folder that is not there yet."""
    place.mkdir()
    for path, content in image.items():
        if content is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(content)


def with_garbage(image: Image, random: Random) -> Image:
    """LMDB's lock files are written through memory: what is on disk of them may be anything."""
    return {
        path: random.randbytes(len(content))
        if content and path.endswith("lock.mdb") and random.random() < 0.5
        else content
        for path, content in image.items()
    }


def trace(records: list[Record]) -> str:
    """A hash of all that was done, without process ids."""
    seen = hashlib.sha256()
    places: dict[int, int] = {}
    lock = 0
    for record in records:
        data = record.data
        if record.op is Op.CREATE and data == b"lock":
            lock = record.inode
        if record.inode == lock:
            continue
        inode = places.setdefault(record.inode, len(places)) if record.op != Op.MARK else 0
        seen.update(f"{record.op} {record.durable} {inode} {len(data)}".encode() + data)
    return seen.hexdigest()


def _during(records: list[Record], moment: int) -> str:
    return records[moment].op.name.lower() if moment < len(records) else "end"


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    Worker(msgspec.json.decode(sys.argv[1].encode(), type=Job)).run()
