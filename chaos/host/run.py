"""One run of hosts: each life of a plan as a process, others at its files, the judge after it.

This process only starts, kills and reads diaries; the book is open here when no host lives. A
broken run leaves a file with its plan, so that it can be run again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import msgspec

import ledger
from chaos import batch, failure
from chaos.altered import before, configured, lines
from chaos.coverage import NO_NAMESPACES
from chaos.host import diary, payments, plan
from chaos.host.beside import Beside, behind, own_numbers
from chaos.host.judge import Finding, Judge
from chaos.host.plan import HostScenario, Life, Plan
from chaos.host.plan import read as read
from chaos.host.worker import Asked
from chaos.scenario import Refused
from chaos.sim.server import memory
from chaos.verdict import Verdict

WORKER = [sys.executable, "-m", "chaos.host.worker"]
AFTER_OPEN = (plan.HOLDS_READERS,)  # a start may say that there is no slot for it
OPEN_SECONDS_MAX = 30.0
HANG_SECONDS = 20.0  # beyond its time, before a host counts as hanging
POLL_SECONDS = 0.005
SAID_MAX = 400
EXPECTED = (
    "whatever hosts do to themselves and others to the files: all that was acknowledged is there"
    " once, what was refused is not, and the book is open to the next who wants it"
)
Tell = Callable[[str], None]


class Failure(msgspec.Struct, kw_only=True):
    """FAILURE-<name>-<seed>.json of a run of hosts."""

    format: int
    hosts: Plan
    commit: str
    broken: list[Finding]


def run(
    path_or_scenario: Path | HostScenario,
    seed: int,
    out: Path,
    on_progress: Tell | None = None,
    first: str = "",
) -> Verdict:
    """Run one seed. Refused says what is wrong with its file. `first` is lines of Python that the
    hosts run before they begin."""
    given = path_or_scenario
    found = given if isinstance(given, HostScenario) else read(given)
    return run_plan(plan.expand(found, seed), out, on_progress or (lambda text: None), first)


def seeds(found: HostScenario, numbers: range, jobs: int, out: Path) -> Iterator[Verdict]:
    """What each seed came to, in `jobs` processes."""
    if jobs == 1:
        for seed in numbers:
            yield run(found, seed, out)
        return
    with batch.pool_of(jobs) as pool:
        yield from pool.map(run, repeat(found), numbers, repeat(out))


def replay(failure_file: Path) -> Verdict | None:
    """Run a failure's plan again; None for a file that is no failure of hosts."""
    try:
        kept = msgspec.json.decode(failure_file.read_bytes(), type=Failure)
    except (OSError, msgspec.MsgspecError):
        return None
    if kept.format != plan.FORMAT:
        what = f"format {kept.format}, this software reads {plan.FORMAT}"
        raise Refused(f"{failure_file}: {what}")
    return run_plan(kept.hosts, failure_file.parent, lambda text: None)


def run_plan(asked: Plan, out: Path, tell: Tell, first: str = "") -> Verdict:
    verdict = Verdict(scenario=asked.scenario, seed=asked.seed, tier="host", expected=EXPECTED)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-host-", dir=memory()) as place,
        configured({"WINDOW_EVENTS": asked.window_events}),
    ):
        lives = Lives(Path(place), asked, first)
        for life in asked.lives:
            tell(f"life {life.number + 1} of {len(asked.lives)}: {life.habit}")
            verdict.broken += [(check, _named(life, what)) for check, what in lives.live(life)]
            if verdict.broken:
                break
        lives.tell(verdict)
    verdict.figures["seconds"] = round(time.monotonic() - began, 1)
    if verdict.broken:
        out.mkdir(parents=True, exist_ok=True)
        verdict.file = str(out / f"FAILURE-{asked.scenario}-{asked.seed}.json")
        kept = Failure(
            format=plan.FORMAT, hosts=asked, commit=failure.commit(), broken=verdict.broken
        )
        plain = json.dumps(msgspec.to_builtins(kept), indent=1)
        Path(verdict.file).write_text(plain + "\n", encoding="utf-8")
    return verdict


def _named(life: Life, what: str) -> str:
    beside = f" beside {life.outside}" if life.outside else ""
    return f"life {life.number}, {life.habit}{beside}: {what}"


class Lives:
    """The lives of one book, one after the other."""

    def __init__(self, place: Path, asked: Plan, first: str) -> None:
        self.place, self.directory = place, place / "book"
        altering = lines({"WINDOW_EVENTS": asked.window_events}) + first
        self.env = dict(os.environ) | before(place, altering)
        self.judge = Judge(self.directory)
        self.seen: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.count = self.refused = 0
        with ledger.open(self.directory) as book:
            book.create_accounts(payments.accounts())

    def live(self, life: Life) -> list[Finding]:
        """One life and the judgement on it."""
        page = self.place / f"diary-{life.number}"
        prefix = own_numbers() if life.outside == plan.SAME_PID else []
        if prefix is None:
            self.seen[NO_NAMESPACES] += 1
            prefix, life.outside = [], ""
        beside = Beside(life.outside, self.directory, prefix)
        process = _Process(self, life, page, prefix)
        try:
            if life.outside not in AFTER_OPEN:
                beside.start()
            process.start()
            found = process.open()
            if not found:
                beside.start()
                found = process.end()
        finally:
            process.close()
            self.seen += beside.stop()
        told = diary.read(page)
        if told.broken:
            found = []  # the host has said itself what it ended of
        elif not found and not life.kill_after_ms and not told.ended:
            found = [("live", "the host ended early and did not say why")]
        self._take(life, told)
        return found + self.judge.after(told)

    def _take(self, life: Life, told: diary.Told) -> None:
        self.count += 1
        self.seen += told.seen
        self.seen[life.habit] += 1
        self.seen["killed"] += bool(life.kill_after_ms)
        self.unknown += told.unknown
        self.refused += len(told.refused)

    def tell(self, verdict: Verdict) -> None:
        there = sum(self.judge.counts[first] for first in self.judge.times)
        verdict.seen = f"{there:,} payments are there after {self.count} lives"
        verdict.figures = {
            "payments": there,
            "calls": len(self.judge.counts),
            "calls_refused": self.refused,
            "calls_left": dict(self.unknown),
            "happened": {what: times for what, times in sorted(self.seen.items()) if times},
        }


class _Process:
    """A host's process."""

    def __init__(self, lives: Lives, life: Life, page: Path, prefix: list[str]) -> None:
        self._lives, self._life, self._page, self._prefix = lives, life, page, prefix
        self._said = lives.place / f"said-{life.number}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        life, directory = self._life, str(self._lives.directory)
        asked = Asked(directory=directory, diary=str(self._page), life=life)
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*self._prefix, *WORKER], stdin=subprocess.PIPE, stdout=said, stderr=said,
                env=self._lives.env,
            )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(asked))
        self._process.stdin.close()

    def open(self) -> list[Finding]:
        """Wait until the host has its book open, or is gone."""
        assert self._process is not None
        deadline = time.monotonic() + OPEN_SECONDS_MAX
        while self._process.poll() is None:
            if self._page.exists() and '{"open"' in self._page.read_text():
                return []
            if time.monotonic() > deadline:
                return [("live", f"the book is not open after {OPEN_SECONDS_MAX:.0f} s")]
            time.sleep(POLL_SECONDS)
        return self._ended(self._process.wait())

    def end(self) -> list[Finding]:
        """Wait for the end of the host, or kill it."""
        assert self._process is not None
        life = self._life
        if life.kill_after_ms:
            time.sleep(life.kill_after_ms / 1000)
            self._kill()
            code = self._process.wait()
            # Who stands before a killed process cannot say so by a code of its own.
            return [] if self._prefix or code in (-signal.SIGKILL, 0) else self._ended(code)
        try:
            code = self._process.wait(life.ms / 1000 + HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            return [("live", f"the host hangs; it should have ended after {life.ms} ms")]
        return self._ended(code)

    def _ended(self, code: int) -> list[Finding]:
        if code == 0:
            return []
        said = self._said.read_text(errors="replace")[-SAID_MAX:]
        return [("live", f"the host ended with {code}: {said}")]

    def _kill(self) -> None:
        """SIGKILL to the host itself; who stands before it then ends by itself."""
        assert self._process is not None
        for pid in behind(self._process.pid, self._prefix):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._kill()
            self._process.wait()
