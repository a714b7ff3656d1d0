"""The real server as a process that is hurt, dies, and is started again as a supervisor does.

A plan gives it lives; each says how this run of the process may end: at a named stage of a group,
at the n-th call that touches its files (counted in the work, or from the start on, which is the
recovery; or of those in DIR/state only), or at a moment. A life that outlasts what was meant for it
is ended by SIGKILL. When no lives are left the process is started without harm. What an end must
look like, its exit code, is checked here.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from chaos import process, shim
from chaos.live.network import Network
from chaos.live.world import World
from chaos.sim.server import CLUSTER, memory
from chaos.sim.world import MS
from ledger.audit import verify
from ledger.base.failpoint import VARIABLE
from ledger.facts.errors import LedgerError
from ledger.facts.limits import Exit

BACK_AFTER_NS = 20 * MS
LOOK_NS = 10 * MS
LIFE_NS_MAX = 1_500 * MS  # after which a life that was to end is ended
KILLS = ("kill", "kill-after")
DELAYED_BY = ("enospc", "short")  # what writing column files may meet and must survive


class Server:
    """The process over one book, and what it is known to have done. Remove it in the end."""

    rotten = False  # nothing changes bits of its files

    def __init__(
        self, world: World, network: Network, template: Path, environment: dict[str, str]
    ) -> None:
        self.world, self.network = world, network
        self.root = Path(tempfile.mkdtemp(prefix="chaos-live-", dir=memory()))
        self.directory, self._control = self.root / "book", self.root / "control"
        shutil.copytree(template, self.directory)
        self.lives: deque[dict[str, Any]] = deque()
        self.acknowledged = 0  # the highest position a client was told of
        self.rollbacks: list[int] = []  # none on these tiers
        self.starts = 0
        self.core = None  # nobody looks into the process
        self._life: dict[str, Any] | None = None
        self._ready = self._ending = self._healed = self._frozen = self._late = False
        self._expected: set[int] = set()  # how this process may end
        self._descriptor = -1
        env = shim.environment(self.directory, control=self._control)
        env |= {"SHIM_WITH_PARENT": "1"} | environment
        shim.switch(self._control)
        # The book begins in the past, as all books of a seed do.
        self._process = process.Server(self.directory, CLUSTER, env, accept_clock=True)

    def first(self) -> None:
        """Start and end it once, so that its port is known."""
        self._process.start()
        host, _, port = self._process.address.rpartition(":")
        self.network.address = (host, int(port))
        self._process.kill()

    def remove(self) -> None:
        self._forget()
        self._process.close()
        self.network.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- lives ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process for its next life."""
        if self._descriptor >= 0 or self._ending:
            return
        self.starts += 1
        life = self._life = self.lives.popleft() if self.lives else None
        self._ready = self._late = False
        self._expected = set()
        arm = life["arm"] if life else ""
        self._rule(life if arm == "recovery" else None)
        setting = {VARIABLE: ""}
        if life is not None and arm == "failpoint":
            self._expected.add(-signal.SIGKILL)
            setting = {VARIABLE: f"{life['stage']}:kill:{life['nth']}"}
        self.world.note(f"start {self.starts}: {_text(life)}")
        self._process.begin(**setting)
        self._descriptor = os.pidfd_open(self._process.pid)
        self.world.watch(self._descriptor, selectors.EVENT_READ, self._died)
        self.world.after(LOOK_NS, self._look, self.starts)

    def _rule(self, life: dict[str, Any] | None) -> None:
        """Put the life's rule for calls in force, or none."""
        if life is None:
            shim.switch(self._control)
            return
        if life["action"] in KILLS:
            self._expected.add(-signal.SIGKILL)
        elif not (life["arm"] == "state" and life["action"] in DELAYED_BY):
            # At the lock's file it is that the directory cannot be written.
            self._expected |= {int(Exit.IO_ERROR), int(Exit.DIRECTORY)}
        rule = f"{life['calls']} {life['nth']} {life['action']} {life.get('where', '')}"
        shim.switch(self._control, rule.rstrip())

    def _look(self, number: int) -> None:
        """Once it listens, what is meant for the work begins."""
        if number != self.starts or self._descriptor < 0:
            return
        if not self._process.listens:
            self.world.after(LOOK_NS, self._look, number)
            return
        self._ready, life = True, self._life
        if life is None or self._healed:
            return
        if life["arm"] in ("call", "state"):
            self._rule(life)
        after = life["after_ns"] if life["arm"] == "time" else LIFE_NS_MAX
        self.world.after(after, self._overdue, self.starts)

    def _overdue(self, number: int) -> None:
        if number == self.starts and not self._healed:
            self._late = self._life is not None and _ends(self._life)
            self.crash("its time is over")

    def _died(self, events: int) -> None:
        self._forget()
        code = self._process.wait()
        life = self._life
        self.world.note(f"ended with {code}: {_text(life)}")
        self._frozen = False
        if code not in self._expected:
            self.world.breaks("live", f"the server ended with {code}: {self._process.log[-1:]}")
        elif code == -signal.SIGKILL:
            self.world.count("kill-point")
        elif code in (Exit.IO_ERROR, Exit.DIRECTORY):
            self.world.count("fail-stop")
        if life is not None and code:
            self.world.count("life that was to end" if self._late else f"life {_kind(life)}")
        self._life = None
        self.world.after(BACK_AFTER_NS, self.start)

    def _forget(self) -> None:
        """Watch the process no more."""
        if self._descriptor >= 0:
            self.world.watch(self._descriptor, 0, self._died)
            os.close(self._descriptor)
            self._descriptor = -1

    # ---- what is done to it ---------------------------------------------------------------------

    def crash(self, why: str, down_ns: int = 0) -> None:
        self._signal(signal.SIGKILL, why)

    def terminate(self) -> None:
        """SIGTERM: it drains, answers and ends in good order; one that only starts just ends."""
        if not self._ready:
            self._expected.add(-signal.SIGTERM)
        self._signal(signal.SIGTERM, "terminated", 0)

    def _signal(self, number: signal.Signals, why: str, code: int | None = None) -> None:
        if self._descriptor >= 0:
            self._expected.add(-number if code is None else code)
            self.world.note(f"{number.name}: {why}")
            os.kill(self._process.pid, number)

    def freeze(self, until_ns: int) -> None:
        """Stop the process without killing it: its sockets stay, and nobody reads them."""
        if self._descriptor >= 0 and not self._frozen:
            self._frozen = True
            self._process.pause()
            self.world.at(until_ns, self._thaw, self._process.pid)

    def _thaw(self, pid: int) -> None:
        if self._frozen and self._descriptor >= 0 and pid == self._process.pid:
            self._frozen = False
            self._process.resume()

    def slow(self, ms: int) -> None:
        """Each sync takes so much longer; 0 ends that. Takes the place of a life's rule."""
        shim.switch(self._control, f"fdatasync 0 delay:{ms}" if ms else "")

    # ---- the end --------------------------------------------------------------------------------

    def heal(self) -> None:
        """No harm comes any more, but what an armed stage of this process still does."""
        self._healed = True
        self.lives.clear()
        shim.switch(self._control)
        if self._descriptor >= 0:
            self._thaw(self._process.pid)

    @property
    def harmed(self) -> bool:
        """Whether lives are left that are to end."""
        return bool(self.lives) or self._life is not None

    @property
    def idle(self) -> bool:
        return self._descriptor >= 0

    def check_bounds(self) -> None:
        """Connections that are gone hold no descriptors."""
        open_count = len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))
        lines = sum(not line.up.dead for line in self.network.connections.values())
        if open_count > 64 + len(self.network.connections):
            self.world.breaks("bounded", f"{open_count} descriptors for {lines} connections")

    def stop(self) -> None:
        """End in good order; the book must verify."""
        self._ending = True
        self._forget()
        code = self._process.terminate()
        if code in self._expected:
            self._process.start(**{VARIABLE: ""})
            code = self._process.terminate()
        if code != Exit.OK:
            self.world.breaks("live", f"SIGTERM ended the server with {code}")
        try:
            report = verify.verify(self.directory)
        except LedgerError as error:
            self.world.breaks("chain", f"the book cannot be verified: {error}")
            return
        if not report.clean:
            self.world.breaks("chain", f"verify: {report.fault or report.stamp_fault}")


def _ends(life: dict[str, Any]) -> bool:
    """Whether a life ends by what is meant for it, if that is reached."""
    return life["arm"] != "time" and life["action"] not in DELAYED_BY


def _kind(life: dict[str, Any]) -> str:
    if life["arm"] == "failpoint":
        return f"at {life['stage']}"
    if life["arm"] == "time":
        return "at a moment"
    if life["arm"] == "state":
        return f"{life['action']} in state"
    return f"{life['action']} of {life['calls']} in {life['arm'].replace('call', 'work')}"


def _text(life: dict[str, Any] | None) -> str:
    return f"{_kind(life)}, {life['nth']}" if life else "no harm"
