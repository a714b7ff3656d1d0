"""A payer's process as whoever makes the trouble sees it: begun, watched, paused, asked to end.

Its steps are read by a thread as they come, and become the timeline. It ends only the process that
it has started. It knows no fault and no check.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from chaos.sale.payer import Asked, Line, Step
from ledger.load.report import Options, Report

STEP_SECONDS = 0.1
WAIT_SECONDS_MAX = 60.0
TRANSFERS = "transfers"
PAYER = [sys.executable, "-m", "chaos.sale.payer"]


class Payer:
    """One `python -m chaos.sale.payer`. `prefix` is put before its command."""

    def __init__(
        self, options: Options, name: str, prefix: Sequence[str] = (), is_pictured: bool = True
    ) -> None:
        self.options, self.name, self.is_pictured = options, name, is_pictured
        self.steps: list[Step] = []
        self.report: Report | None = None
        self.error = ""
        self.begun_ns = 0  # when the first step of the transfers came; 0 before
        self._said = threading.Condition()
        self._process = subprocess.Popen(
            [*prefix, *PAYER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        asked = Asked(options=options, step_seconds=STEP_SECONDS)
        self._process.stdin.write(msgspec.json.encode(asked))
        self._process.stdin.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = msgspec.json.decode(text, type=Line)
            with self._said:
                self._take(line)
                self._said.notify_all()
        self._process.wait()
        with self._said:
            if self.report is None and not self.error:
                self.error = f"the payer ended with {self._process.returncode}"
            self._said.notify_all()

    def _take(self, line: Line) -> None:
        if line.step is not None:
            self.steps.append(line.step)
            if line.step.phase == TRANSFERS and not self.begun_ns:
                self.begun_ns = line.step.at_ns
        self.report = line.report or self.report
        self.error = line.error or self.error

    @property
    def done(self) -> bool:
        return self.report is not None or bool(self.error)

    def wait(self, condition: Callable[[], bool], seconds_max: float = WAIT_SECONDS_MAX) -> bool:
        """Whether `condition` held before the payer was done and the time over."""
        deadline = time.monotonic() + seconds_max
        with self._said:
            while not condition() and not self.done:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._said.wait(min(left, 0.1))
        return condition()

    def accepted(self) -> int:
        """Payments that were acknowledged, as far as was said."""
        return self.steps[-1].accepted if self.steps else 0

    def pause(self) -> None:
        """The process keeps its sockets and does nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait(WAIT_SECONDS_MAX)
        self._reader.join(WAIT_SECONDS_MAX)
