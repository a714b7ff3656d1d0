"""What a trouble acts on: the book's place, the server over it, the payers, and what was noticed.

Before the server starts a trouble may change where the book lies and what its process is started
with; later it starts and ends the server as an operator or a supervisor would. A server that ends
when nobody asked it to is noticed here. It knows no fault by name.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos import shim
from chaos.altered import before
from chaos.draw import Draw
from chaos.machine.ext4 import Ext4
from chaos.machine.faketime import SteppedClock
from chaos.machine.tunlink import Link
from chaos.process import LISTENING, Server
from chaos.sale.paying import Payer
from chaos.sale.relay import Relay
from chaos.small_disk import SmallDisk
from ledger.facts.limits import Exit
from ledger.load.report import Options

LEDGER = [sys.executable, "-m", "ledger"]
COMMAND_SECONDS_MAX = 120.0
POLL_SECONDS = 0.005
SECOND = 1_000_000_000


class Process(Server):
    """The server's process, which can be asked whether it has ended."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def serves(self) -> bool:
        """Whether it has said that it listens."""
        return any(LISTENING in line for line in self.log)


class Mark:
    """A trouble as the picture shows it: its name, from when to when."""

    def __init__(self, name: str, begun_ns: int) -> None:
        self.name, self.begun_ns, self.ended_ns = name, begun_ns, begun_ns


class Stage:
    """One run's book, server, payers and findings. Close it in the end."""

    def __init__(self, place: Path, draw: Draw) -> None:
        self.place, self.draw = place, draw
        self.directory = place / "book"
        self.control: Path | None = None  # of the fault library, when a trouble wants it
        self.env: dict[str, str] = {}
        self.lines: list[str] = []  # of Python, run in the server's process before it begins
        self.clock: SteppedClock | None = None
        self.link: Link | None = None  # between payers and server
        self.small_disk: SmallDisk | None = None
        self.power: Ext4 | None = None
        self.relay: Relay | None = None
        self.wants_relay = False
        self.payers: list[Payer] = []
        self.marks: list[Mark] = []
        self.seen: list[str] = []
        self.expected: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self.figures: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}  # what verify said of the book after the sale
        self.restarts_seconds: list[float] = []
        self.gave_up = False  # the trouble is not to be mended
        self.rolled_back = False  # what was acknowledged is gone, and clients are told
        self.refused = self.failed_stop = False  # what the server was seen to do
        self.closing = contextlib.ExitStack()
        self.is_down = True  # because somebody wants it so
        self._server: Process | None = None

    # ---- before the start -----------------------------------------------------------------------

    def alter(self, **constants: object) -> None:
        """Other values for constants of ledger.facts.limits in the server's process."""
        self.lines.append("from ledger.facts import limits as config")
        self.lines += [f"config.{name} = {value!r}" for name, value in constants.items()]

    def watch_disk(self) -> None:
        """The server's disk calls go through the fault library, which `disk_rule` tells faults."""
        self.control = self.place / "control"
        self.control.touch()

    def disk_rule(self, rule: str = "") -> None:
        assert self.control is not None, "watch_disk was not called"
        shim.switch(self.control, rule)

    def _environment(self) -> dict[str, str]:
        env = dict(self.env)
        if self.lines:
            env |= before(self.place, "\n".join(self.lines))
        if self.control is not None:
            faults = shim.environment(self.directory / "journal", control=self.control)
            env |= {name: faults[name] for name in faults if name.startswith("SHIM_")}
            loaded = [faults["LD_PRELOAD"], *self.env.get("LD_PRELOAD", "").split()]
            env["LD_PRELOAD"] = " ".join(loaded)
        return env

    # ---- the server -----------------------------------------------------------------------------

    @property
    def server(self) -> Process:
        assert self._server is not None, "no server yet"
        return self._server

    def raise_server(self) -> None:
        """Make the book and start its server for the first time.

        Behind a link it is the payers who are on the far side.
        """
        if self.link is None:
            self._server = Process(self.directory, env=self._environment())
        else:
            self._server = Process(
                self.directory, env=self._environment(), allow_plaintext=True
            )
            self._server.address = f"{self.link.near_address}:0"
        self.closing.callback(self._server.close)
        self._server.start()
        self.is_down = False
        if self.wants_relay:
            self.relay = Relay(self._server.address)
            self.closing.callback(self.relay.close)

    def another_server(self, directory: Path) -> Process:
        """A server beside the first, with the same environment; on a port of its own."""
        other = Process(directory, env=self._environment())
        self.closing.callback(other.close)
        return other

    @property
    def address(self) -> str:
        """Where payers pay."""
        return self.relay.address if self.relay is not None else self.server.address

    def kill(self) -> None:
        """SIGKILL, as the machine's trouble."""
        self.is_down = True
        code = self.server.kill()
        if code != -9:
            self.broken.append(("live", f"the server had ended by itself with {code}"))

    def expect_end(self, code: int, seconds_max: float) -> bool:
        """Whether the server ends by itself with this code, in this time."""
        self.is_down = True
        if not self.until(lambda: self.server.exit_code is not None, seconds_max):
            self.broken.append(("fail-stop", f"the server still ran after {seconds_max:.1f} s"))
            return False
        found = self.server.wait()
        self.failed_stop = found == Exit.IO_ERROR
        if found != code:
            self.broken.append(("fail-stop", f"the server ended with {found}, not with {code}"))
        return found == code

    def restart(self) -> bool:
        """Start the server again, as a supervisor does; whether it listens."""
        began = time.monotonic()
        try:
            self.server.start()
        except AssertionError as error:
            self.broken.append(("live", f"the server did not start again: {error}"))
            return False
        self.is_down = False
        self.restarts_seconds.append(time.monotonic() - began)
        return True

    def descriptors(self) -> int:
        """How many the server's process has open."""
        return sum(1 for _ in Path(f"/proc/{self.server.pid}/fd").iterdir())

    def notice(self) -> None:
        """Take down a server that has ended though nobody asked it to."""
        if not self.is_down and self.server.exit_code is not None:
            self.is_down = True
            said = self.server.log[-1:] or ["nothing"]
            self.broken.append(
                ("live", f"the server ended by itself with {self.server.exit_code}: {said[0]}")
            )

    def wait_for_line(self, text: str, seconds_max: float) -> bool:
        """Whether the server says so, in this time."""
        return self.until(lambda: any(text in line for line in self.server.log), seconds_max)

    def until(self, condition: Callable[[], bool], seconds_max: float) -> bool:
        """Whether `condition` comes to hold in this time."""
        deadline = time.monotonic() + seconds_max
        while not condition() and time.monotonic() < deadline:
            threading.Event().wait(POLL_SECONDS)
        return condition()

    # ---- the payers -----------------------------------------------------------------------------

    def pay(self, options: Options, name: str, is_pictured: bool = True) -> Payer:
        """Begin to pay. Who is not pictured is checked and counted, and not in the timeline."""
        prefix = self.link.server_prefix() if self.link is not None else []
        payer = Payer(options, name, prefix, is_pictured)
        self.closing.callback(payer.close)
        self.payers.append(payer)
        return payer

    # ---- the book, offline ----------------------------------------------------------------------

    def ask(self, command: str, directory: Path | None = None) -> tuple[int, dict[str, Any], str]:
        """(exit code, facts, what it said on standard error) of an offline `ledger` command."""
        words = [*LEDGER, command, str(directory or self.directory), "--json"]
        done = subprocess.run(words, capture_output=True, timeout=COMMAND_SECONDS_MAX, check=False)
        told = done.stderr.decode(errors="replace").strip()
        facts: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return done.returncode, facts, told

    def mark(self, name: str) -> Mark:
        """Something begins that the picture shows."""
        made = Mark(name, time.monotonic_ns())
        self.marks.append(made)
        return made

    def close(self) -> None:
        self.closing.close()
