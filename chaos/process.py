"""One `ledger serve` as its own process: started, watched, killed and started again.

Its standard output and error are read by a thread, so whoever waits for a line or for the end of
the process never sleeps. It ends only processes that it has started. It knows no scenario.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_SECONDS_MAX = 60.0
LISTENING = "listening on "
SERVE = [sys.executable, "-m", "ledger", "serve"]


class Server:
    """One `ledger serve` over a directory; keeps its port from one start to the next.

    `prefix` goes before the command and must become it, so that the process id stays.
    """

    def __init__(
        self,
        directory: Path,
        cluster: int = 0,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        **options: object,
    ) -> None:
        self.directory = directory
        self.cluster = cluster
        self.address = "127.0.0.1:0"
        self.log: list[str] = []
        self._prefix = list(prefix)
        self._env = dict(os.environ) | dict(env or {})
        self._arguments: list[str] = []
        for name, value in options.items():
            self._arguments.append("--" + name.replace("_", "-"))
            if value is not True:
                self._arguments.append(str(value))
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._said = threading.Condition()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def put_before(self, prefix: Sequence[str]) -> None:
        """From the next start on these words stand before the command."""
        self._prefix = list(prefix)

    def begin(self, **env: str) -> None:
        """Start the process without waiting for it to listen."""
        assert self._process is None or self._process.poll() is not None, "still running"
        command = [*self._prefix, *SERVE, str(self.directory)]
        command += ["--address", self.address, "--cluster", str(self.cluster), *self._arguments]
        self.log = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env | env,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def start(self, **env: str) -> Server:
        """Start the process and wait until it listens."""
        self.begin(**env)
        self.wait_listening()
        return self

    restart = start

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._said:
                self.log.append(line.rstrip("\n"))
                self._said.notify_all()
        process.wait()
        with self._said:
            self._said.notify_all()

    def wait_line(self, text: str) -> str:
        """The first line of output that contains `text`."""
        process = self._process
        assert process is not None

        def found() -> list[str]:
            return [line for line in self.log if text in line]

        with self._said:
            self._said.wait_for(
                lambda: found() or process.poll() is not None, WAIT_SECONDS_MAX
            )
            assert found(), f"no {text!r} from the server (exit {process.poll()}): {self.log}"
            return found()[0]

    @property
    def listens(self) -> bool:
        """Whether it has said by now that it listens."""
        with self._said:
            return any(LISTENING in line for line in self.log)

    def wait_listening(self) -> None:
        line = self.wait_line(LISTENING)
        self.address = line.split(LISTENING)[1].split()[0]

    def wait(self) -> int:
        """The exit code, once the process has ended and all its output is read."""
        assert self._process is not None and self._reader is not None
        code = self._process.wait(WAIT_SECONDS_MAX)
        self._reader.join(WAIT_SECONDS_MAX)
        return code

    def kill(self) -> int:
        """SIGKILL, and wait for the end."""
        return self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """The process keeps its sockets and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
        return self.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)


@contextmanager
def servers(place: Path) -> Iterator[Callable[..., Server]]:
    """start(directory=None, cluster=0, env=None, **options) -> a Server that listens.

    A directory that is not given is made below `place`. All are killed at the end.
    """
    started: list[Server] = []

    def start(
        directory: Path | None = None,
        cluster: int = 0,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Server:
        started.append(Server(directory or place / f"book-{len(started)}", cluster, env, **options))
        return started[-1].start()

    try:
        yield start
    finally:
        for one in started:
            one.close()
