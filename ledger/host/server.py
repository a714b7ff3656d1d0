"""One book served: recovery, the binary door, and the way down.

The loop belongs to the door and the engine; the journal has a thread of its own. SIGTERM and SIGINT
drain: no more is read, what was accepted becomes durable and is answered, then the server ends. An
engine that stops ends the server with the exit code of its cause: nothing is answered after it.
This file knows no frames and no rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from ledger.doors.binary.door import Door
from ledger.engine.assembly import Parts
from ledger.engine.engine import Engine
from ledger.engine.recovery import Progress, recover, start_id
from ledger.facts import limits
from ledger.facts.errors import LedgerError, LedgerStopped, SystemLimit
from ledger.facts.limits import Exit
from ledger.host.runner import LoopRunner
from ledger.journal._check import on_sigbus
from ledger.journal.scrub import Scrub

log = logging.getLogger("ledger.host.server")

ENDS = (signal.SIGTERM, signal.SIGINT)  # what asks the server to end


class PlaintextRefused(LedgerError):
    """The door would listen beyond this machine without anybody having said so."""

    exit_code = Exit.USAGE


def check_address(host: str, allow_plaintext: bool) -> None:
    """Refuse any host but loopback unless plain text is allowed: the door knows no passwords."""
    with contextlib.suppress(ValueError):
        if allow_plaintext or ipaddress.ip_address(host).is_loopback:
            return
    if allow_plaintext or host == "localhost":
        return
    raise PlaintextRefused(
        f"{host} is not this machine alone: the binary door has neither encryption nor"
        " authentication yet; --allow-plaintext says that you accept this"
    )


def serve(
    directory: Path,
    host: str,
    port: int,
    cluster: int | None = None,
    *,
    accept_clock: bool = False,
    allow_plaintext: bool = False,
    on_progress: Progress | None = None,
    on_listening: Callable[[str, int], None],
    on_warning: Callable[[str], None] = log.warning,
) -> Exit:
    """Serve the book in `directory` until SIGTERM or SIGINT; the exit code.

    on_listening is called with host and port once everything is ready, after recovery. Raises what
    recover() raises, PlaintextRefused, and OSError when the address cannot be had.
    """
    check_address(host, allow_plaintext)
    descriptors = _raise_descriptor_limit()
    needed = limits.DESCRIPTORS_KEPT + limits.CONNECTIONS_MIN
    best = limits.DESCRIPTORS_KEPT + limits.CONNECTIONS_MAX
    if descriptors < needed:
        raise SystemLimit(
            f"{needed} descriptors are needed, this process may have {descriptors}: raise the limit"
            f" (`ulimit -n {best}`, LimitNOFILE of a systemd unit)"
        )
    # The journal's thread asks for the interpreter a few times a group, while the loop is busy.
    sys.setswitchinterval(limits.SWITCH_SECONDS)
    on_sigbus(
        os.fsencode(
            f"ledger: {directory}/journal/data.mdb or a file of {directory}/state was cut short or"
            " replaced while it was served, or its disk failed (SIGBUS)\n"
        )
    )
    server = _Server(directory, cluster, accept_clock, on_progress, on_warning)
    server.connections_max = min(limits.CONNECTIONS_MAX, descriptors - limits.DESCRIPTORS_KEPT)
    with _bound(host, port) as listener:
        return uvloop.run(server.run(listener, on_listening))


def _bound(host: str, port: int) -> socket.socket:
    """The address is taken before recovery, which may take long; nobody is let in until after."""
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


class _Interrupted(Exception):
    """Asked to end before there was anything to drain."""


class _Server:
    def __init__(
        self,
        directory: Path,
        cluster: int | None,
        accept_clock: bool,
        on_progress: Progress | None,
        on_warning: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._cluster = cluster
        self._accept_clock = accept_clock
        self._on_progress = on_progress
        self._on_warning = on_warning
        self.connections_max = limits.CONNECTIONS_MAX
        self._stop = asyncio.Event()
        self._cause: LedgerStopped | None = None

    async def run(
        self, listener: socket.socket, on_listening: Callable[[str, int], None]
    ) -> Exit:
        loop = asyncio.get_running_loop()
        # Not the loop's own handlers: taking those away leaves a moment in which the signal kills.
        for number in ENDS:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))
        try:
            return await self._run(listener, on_listening)
        finally:
            # Who asks again while the process ends must not turn a good end into a kill.
            for number in ENDS:
                signal.signal(number, signal.SIG_IGN)

    async def _run(
        self, listener: socket.socket, on_listening: Callable[[str, int], None]
    ) -> Exit:
        runner = LoopRunner()
        try:
            parts = await asyncio.to_thread(
                recover,
                self._directory,
                self._cluster,
                digest_executor=runner.digests,
                accept_clock=self._accept_clock,
                progress=self._replayed,
            )
        except _Interrupted:
            runner.stop()
            return Exit.OK
        except BaseException:
            runner.stop()
            raise
        for warning in parts.warnings:
            self._on_warning(warning)
        try:
            return await self._serve(parts, runner, listener, on_listening)
        finally:
            runner.stop()
            parts.close()

    def _replayed(self, done: int, total: int) -> None:
        """Called in recovery's own thread."""
        if self._stop.is_set():
            raise _Interrupted
        if self._on_progress is not None:
            self._on_progress(done, total)

    async def _serve(
        self,
        parts: Parts,
        runner: LoopRunner,
        listener: socket.socket,
        on_listening: Callable[[str, int], None],
    ) -> Exit:
        loop = asyncio.get_running_loop()
        engine = parts.engine(runner, self._stopped)
        engine.start(time.time_ns(), limits.RELEASE, start_id())
        await self._until(lambda: engine.idle, limits.START_SECONDS_MAX)
        door = Door(engine, parts.journal.cluster, self.connections_max)
        if self._cause is None:
            server = await loop.create_server(door.connect, sock=listener, backlog=limits.BACKLOG)
            on_listening(*listener.getsockname()[:2])
            watches = [
                asyncio.create_task(self._keep_house(parts, engine)),
                asyncio.create_task(self._tell_refusals(engine)),
                asyncio.create_task(self._scrub(parts, runner)),
            ]
            await self._stop.wait()
            for watch in watches:
                watch.cancel()
            server.close()
            door.drain()
            await self._until(lambda: engine.idle and door.written, limits.DRAIN_SECONDS_MAX)
        door.close()
        if self._cause is not None:
            self._on_warning(str(self._cause))
            return self._cause.exit_code
        runner.run(engine.write_stamp, self._stamped)
        await self._until(lambda: self._stamp_done, limits.DRAIN_SECONDS_MAX)
        return Exit.OK

    _stamp_done = False

    def _stamped(self, error: BaseException | None) -> None:
        self._stamp_done = True
        if error is not None:
            self._on_warning(f"the head stamp was not written: {error}")

    def _stopped(self, cause: LedgerStopped) -> None:
        self._cause = cause
        self._stop.set()

    async def _until(self, condition: Callable[[], bool], seconds_max: float) -> None:
        """Wait for a condition of this loop, which nothing announces, for so long at most."""
        deadline = time.monotonic() + seconds_max
        while not condition() and self._cause is None and time.monotonic() < deadline:
            await asyncio.sleep(limits.POLL_SECONDS)

    async def _tell_refusals(self, engine: Engine) -> None:
        """Say when a lack of space begins to keep requests waiting, and when it ends."""
        told = False
        while True:
            await asyncio.sleep(limits.SWEEP_SECONDS)
            refused = engine.refusal is not None
            if refused and not told:
                self._on_warning(f"{engine.refusal}: what would create is not taken")
            elif told and not refused:
                self._on_warning(f"{self._directory}: there is space again")
            told = refused

    async def _scrub(self, parts: Parts, runner: LoopRunner) -> None:
        """Read the journal again and again, slowly, and say what is found damaged."""
        scrub = Scrub(parts.journal)
        told = False
        while True:
            step = await self._scrub_step(scrub, runner)
            if isinstance(step, BaseException):
                if not told:
                    self._on_warning(f"the journal could not be read again, and will be: {step}")
                told = True
                await asyncio.sleep(limits.SCRUB_RETRY_SECONDS)
                continue
            found, ended = step
            for why in found:
                self._on_warning(f"{self._directory}: damaged: {why}: see `ledger verify`")
            await asyncio.sleep(limits.SCRUB_REST_SECONDS if ended else limits.SCRUB_SECONDS)

    async def _scrub_step(
        self, scrub: Scrub, runner: LoopRunner
    ) -> tuple[list[str], bool] | BaseException:
        """One step in a thread of its own, or the error it ended with."""
        steps: list[tuple[list[str], bool]] = []
        ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def finished(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        runner.aside("scrub", lambda: steps.append(scrub.step(limits.SCRUB_BYTES)), finished)
        return await ended or steps[0]

    async def _keep_house(self, parts: Parts, engine: Engine) -> None:
        """Every minute: free dead readers' places, and say when the disk or the places of readers
        fill up or time jumps."""
        warned = parts.journal.room().warn_percent
        alarmed = crowded = False
        while True:
            await asyncio.sleep(limits.READER_CHECK_SECONDS)
            try:
                parts.journal.reader_check()
                room = parts.journal.room()
                why = parts.journal.crowded
            except LedgerError as error:
                engine.stop(error)
                return
            if why is not None and not crowded:
                self._on_warning(why)
            crowded = why is not None
            if room.warn_percent > warned:
                self._on_warning(f"{self._directory}: {room.used_percent}% of the disk is used")
            warned = room.warn_percent
            if parts.clock.alarm and not alarmed:
                self._on_warning(
                    f"the wall clock is {parts.clock.offset_ns / 1e9:.3f} s away from the ledger's"
                    " clock, which follows it slowly"
                )
            alarmed = parts.clock.alarm


def _raise_descriptor_limit() -> int:
    """As many descriptors as the system lets this process have; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.CONNECTIONS_MAX + limits.DESCRIPTORS_KEPT
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(soft, limit)
