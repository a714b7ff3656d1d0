"""Troubles of the server's process and of those who look after it: killed, frozen, started twice,
short of memory or descriptors, with another time, or put onto an old backup.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import time
from pathlib import Path

from chaos.machine import cgroup, faketime
from chaos.sale.stage import SECOND, Stage
from chaos.sale.trouble import Trouble
from ledger.client.connection import parse_address
from ledger.facts.limits import DESCRIPTORS_KEPT, Exit
from ledger.load.report import Options

END_SECONDS_MAX = 10.0
KILLED_SECONDS_MAX = 20.0
DAY_SECONDS = 24 * 3600
CLOCK_OFF_SECONDS_MAX = 60.0  # it may follow by a tenth of the time, and looking up takes time


class Kill(Trouble, tag="kill", kw_only=True):
    """SIGKILL, and a start `for_seconds` later."""

    EXPECTS = "after kill -9 a start recovers all that was acknowledged"

    def begin(self, stage: Stage) -> None:
        stage.kill()

    def end(self, stage: Stage) -> None:
        if stage.restart():
            stage.seen.append(f"killed, back {stage.restarts_seconds[-1]:.2f} s after the start")


class Terminate(Trouble, tag="terminate", kw_only=True):
    """SIGTERM under load, and a start `for_seconds` later."""

    EXPECTS = "SIGTERM drains: exit 0, and payers notice a pause"

    def begin(self, stage: Stage) -> None:
        stage.is_down = True
        code = stage.server.terminate()
        if code != Exit.OK:
            stage.broken.append(("live", f"SIGTERM under load ended the server with {code}"))
        stage.seen.append(f"SIGTERM: exit {code}")

    def end(self, stage: Stage) -> None:
        stage.restart()


class Freeze(Trouble, tag="freeze", kw_only=True):
    """SIGSTOP, and SIGCONT `for_seconds` later."""

    EXPECTS = "a process that stood still goes on as if nothing had been"

    def begin(self, stage: Stage) -> None:
        stage.server.pause()

    def end(self, stage: Stage) -> None:
        stage.server.resume()
        stage.seen.append(f"stood still for {self.for_seconds:.1f} s and went on")


class SecondServer(Trouble, tag="second-server", kw_only=True):
    """A second `ledger serve` on the same directory."""

    EXPECTS = f"a second server on the directory ends with {Exit.DIRECTORY:d}, the first goes on"

    def begin(self, stage: Stage) -> None:
        other = stage.another_server(stage.directory)
        other.begin()
        code = other.wait()
        if code != Exit.DIRECTORY:
            stage.broken.append(("one-writer", f"a second server ended with {code}"))
        stage.refused = code == Exit.DIRECTORY
        stage.seen.append(f"the second server: exit {code}, {(other.log or ['nothing'])[-1]!r}")


class Backup(Trouble, tag="backup", kw_only=True):
    """The server is stopped, its journal copied, and the server started again."""

    EXPECTS = "a stopped book can be copied"

    def begin(self, stage: Stage) -> None:
        stage.is_down = True
        code = stage.server.terminate()
        if code != Exit.OK:
            stage.broken.append(("live", f"SIGTERM under load ended the server with {code}"))
        shutil.copytree(stage.directory / "journal", backup_of(stage))
        stage.restart()


class RestoreBackup(Trouble, tag="restore-backup", kw_only=True):
    """The copy is put in place of the journal, later payments notwithstanding; a start is tried.
    Then the operator puts the true journal back.
    """

    EXPECTS = (
        f"a start on an old backup is refused with {Exit.DATA_REFUSED:d}, naming where the journal"
        " ends and where it ended; with the true journal the sale goes on"
    )

    def begin(self, stage: Stage) -> None:
        stage.is_down = True
        stage.server.terminate()
        journal, true = stage.directory / "journal", stage.directory / "journal.true"
        journal.rename(true)
        shutil.copytree(backup_of(stage), journal)
        stage.server.begin()
        code = stage.server.wait()
        said = (stage.server.log or ["nothing"])[-1]
        positions = [int(found) for found in re.findall(r"position (\d+)|says (\d+)", said) for
                     found in found if found]  # fmt: skip
        if code != Exit.DATA_REFUSED:
            stage.broken.append(("durable", f"a start on an old backup ended with {code}: {said}"))
        elif len(positions) != 2 or not positions[0] < positions[1]:
            stage.broken.append(("durable", f"the refusal does not name both positions: {said}"))
        stage.refused = code == Exit.DATA_REFUSED
        stage.seen.append(f"the start on the backup: exit {code}, {said!r}")
        shutil.rmtree(journal)
        true.rename(journal)
        stage.restart()


def backup_of(stage: Stage) -> Path:
    return stage.place / "backup"


class SetClock(Trouble, tag="set-clock", kw_only=True):
    """The wall clock of the running server is `days_ahead` of the true one, until it is set again.
    """

    days_ahead: float

    EXPECTS = "steps of the wall clock do not enter the ledger's clock, which follows slowly"

    def missing(self) -> str | None:
        return faketime.missing()

    def prepare(self, stage: Stage) -> None:
        if stage.clock is None:
            stage.clock = stage.closing.enter_context(faketime.SteppedClock(stage.place))
            stage.env |= stage.clock.env(stage.env)

    def begin(self, stage: Stage) -> None:
        assert stage.clock is not None
        stage.clock.set(int(self.days_ahead * DAY_SECONDS * SECOND))

    def end(self, stage: Stage) -> None:
        stage.seen.append(f"the wall clock was set to {self.days_ahead:+g} days")

    def stopped(self, stage: Stage) -> None:
        name = "ledger_clock_off_seconds"
        if name in stage.figures or "clock_ns" not in stage.facts:
            return
        off = (int(stage.facts["clock_ns"]) - time.time_ns()) / SECOND
        stage.figures[name] = round(off, 1)
        if abs(off) > CLOCK_OFF_SECONDS_MAX:
            what = f"the ledger's clock is {off:,.1f} s from the true one"
            stage.broken.append(("clock-increases", what))


class OutOfMemory(Trouble, tag="out-of-memory", kw_only=True):
    """The server may have `more_bytes` more than it has; the kernel kills it when it wants them.
    It is started again without that limit.
    """

    more_bytes: int

    EXPECTS = "the kernel's killer is a kill -9 like any other"

    def missing(self) -> str | None:
        return cgroup.missing()

    def prepare(self, stage: Stage) -> None:
        self.group = stage.closing.enter_context(cgroup.Group())

    def joined(self, stage: Stage, options: Options) -> None:
        self.group.add(stage.server.pid)

    def begin(self, stage: Stage) -> None:
        self.group.limit(self.group.memory_bytes() + self.more_bytes)
        stage.is_down = True
        ended = stage.until(lambda: stage.server.exit_code is not None, KILLED_SECONDS_MAX)
        if not ended:
            stage.kill()
        kills = self.group.oom_kills()
        if not kills:
            stage.broken.append(("scenario", "the kernel did not kill the server"))
        stage.seen.append(f"out of memory: the kernel killed {kills}, exit {stage.server.wait()}")

    def end(self, stage: Stage) -> None:
        stage.restart()


class FewDescriptors(Trouble, tag="few-descriptors", kw_only=True):
    """The server may have `limit` descriptors, and `connections` more than it can hold arrive."""

    limit: int
    connections: int

    EXPECTS = (
        "connections beyond the limit are closed, who is connected goes on paying, the journal"
        " keeps its descriptors, and all of them return"
    )

    def wrong(self) -> str | None:
        if not DESCRIPTORS_KEPT < self.limit <= self.connections:
            return f"limit must be over {DESCRIPTORS_KEPT} and at most connections"
        return super().wrong()

    def prepare(self, stage: Stage) -> None:
        limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({self.limit}, {self.limit}))"
        stage.lines += ["import resource", limit]

    def begin(self, stage: Stage) -> None:
        self.before = stage.descriptors()
        self.accepted = [payer.accepted() for payer in stage.payers]
        self.open = []
        for _ in range(self.connections):
            made = socket.socket()
            made.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                made.connect(parse_address(stage.server.address))
            self.open.append(made)

    def end(self, stage: Stage) -> None:
        most = stage.descriptors()
        closed = sum(not _is_open(one) for one in self.open)
        for one in self.open:
            one.close()
        back = stage.until(lambda: stage.descriptors() <= self.before, END_SECONDS_MAX)
        if not back:
            what = f"{self.before} descriptors became {stage.descriptors()}"
            stage.broken.append(("bounded", what))
        if most > self.limit:
            stage.broken.append(("bounded", f"{most} descriptors of {self.limit}"))
        now = [payer.accepted() for payer in stage.payers]
        if any(after <= before for after, before in zip(now, self.accepted, strict=True)):
            stage.broken.append(("live", "nobody could pay while connections were refused"))
        stage.seen.append(
            f"{self.connections} more connections: {closed} closed by the server, {most} of"
            f" {self.limit} descriptors in use, {stage.descriptors()} afterwards"
        )


def _is_open(one: socket.socket) -> bool:
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
