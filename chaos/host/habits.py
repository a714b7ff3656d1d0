"""What hosts with threads do to themselves while they pay, each as one function of a host.

None of it is against what the documentation allows: a host may read its own files, fork, have
signal handlers and finalizers, lose an open book, and be interrupted anywhere.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ledger
from chaos.host.host import Host, Interrupted, Wrong

US = 1_000_000
LAST_PAYMENTS = 1_000  # in one call, when the main thread has returned
CHILD_SECONDS_MAX = 10.0
STEPS_BETWEEN = 5  # of work, from one opening of the book to the next
FILES = ("journal/lock.mdb", "state/lock.mdb", "journal/data.mdb", "lock")
MESSAGE = b"a message that a C library writes to standard error\n"


def many_threads(host: Host) -> None:
    host.open()
    _join(host.background(4 * host.life.threads))
    host.close()


def copies_its_book(host: Host) -> None:
    """The host copies the directory of its own open book, as a backup of itself."""
    host.open()
    threads = host.background(host.life.threads)
    with tempfile.TemporaryDirectory(prefix="chaos-copy-") as place:
        while not host.over():
            copy = Path(place, "copy")
            # What is derived comes and goes meanwhile: such a copy may be torn, and is no backup.
            with contextlib.suppress(shutil.Error):
                shutil.copytree(host.directory, copy)
            shutil.rmtree(copy)
            host.happens("copy")
    _join(threads)
    host.close()


def opens_its_lock_files(host: Host) -> None:
    """The host opens and closes files of its own book, again and again."""
    host.open()
    threads = host.background(host.life.threads)
    while not host.over():
        for name in FILES:
            with (host.directory / name).open("rb") as file:
                file.read(64)
            host.happens("own file opened")
        time.sleep(host.between(0, 2000) / US)
    _join(threads)
    host.close()


def closes_descriptors(host: Host) -> None:
    """A daemon closes its standard descriptors; a library writes to one of them all the same."""
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    host.open()
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            target = Path(f"/proc/self/fd/{descriptor}").readlink()
            if host.directory in target.parents:
                host.diary.write("broken", "descriptors", f"descriptor {descriptor} is {target}")
                host.stopped = True
        host.happens("descriptor closed")
    threads = host.background(host.life.threads)
    while not host.over():
        host.step()
        with contextlib.suppress(OSError):
            os.write(2, MESSAGE)
    _join(threads)
    host.close()


def forks(host: Host) -> None:
    """Children that use the book are told that it is not theirs; those that close it do no harm."""
    host.open()
    threads = host.background(host.life.threads)
    while not host.over():
        child = os.fork()
        if child == 0:
            _child(host)
        code = _wait(child)
        if code != 0:
            host.breaks("one-writer", f"a forked child that used the book ended with {code}")
        host.happens("fork")
        time.sleep(host.between(0, 10_000) / US)
    _join(threads)
    host.close()


def _child(host: Host) -> None:
    code = 1
    try:
        host.book.create_transfers(host.known()[2])
    except ledger.WrongProcess:
        host.book.close()
        code = 0
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    """The code that a child ended with; one that hangs is ended."""
    deadline = time.monotonic() + CHILD_SECONDS_MAX
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.0005)


# ---- taken away from a call ----------------------------------------------------------------------


def interrupted(host: Host) -> None:
    """A timer's handler raises, as Ctrl-C and soft time limits do, at any moment of a call."""

    def handler(number: int, frame: FrameType | None) -> None:
        host.happens("interrupt")
        raise Interrupted

    def work() -> None:
        signal.setitimer(signal.ITIMER_REAL, host.between(20, 3_000) / US)
        host.step()
        signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, handler)
    host.open()
    threads = host.background(host.life.threads - 1)
    _until_over(host, work)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    _join(threads)
    host.close()


def _until_over(host: Host, work: Callable[[], None]) -> None:
    """Work, however often it is interrupted, until the life is over."""
    while True:
        try:
            while not host.over():
                work()
            return
        except Interrupted:
            continue


def async_exceptions(host: Host) -> None:
    """Another thread raises in a thread that pays, as task queues end what takes too long."""
    host.open()

    def start() -> Any:
        return host.background(1, lambda: _until_over(host, host.step))[0]

    victims = [start() for _ in range(host.life.threads)]
    threads = host.background(1)
    while not host.over():
        number = host.between(0, len(victims) - 1)
        victim = victims[number]
        if not victim.is_alive():  # it was hit when it had left its work
            victims[number] = start()
            continue
        assert victim.ident is not None
        thread, raised = ctypes.c_ulong(victim.ident), ctypes.py_object(Interrupted)
        if ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, raised):
            host.happens("async exception")
        time.sleep(host.between(100, 3_000) / US)
    _join(victims + threads)
    host.close()


def interrupted_open(host: Host) -> None:
    """Opening and closing are interrupted; the book can be opened again all the same."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    host.open()
    signal.signal(signal.SIGALRM, handler)
    while not host.over():
        try:
            signal.setitimer(signal.ITIMER_REAL, host.between(20, 30_000) / US)
            host.close()
            host.book = None
            host.open()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            host.happens("interrupted open or close")
            if host.book is not None:  # it may be closed, or be on its way
                host.close()
            host.book = None
            gc.collect()
            host.open_again()
        for _ in range(STEPS_BETWEEN):
            host.step()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    host.close()


def drops_its_book(host: Host) -> None:
    """The last reference to an open book goes; the book is opened again."""
    host.open()
    while not host.over():
        for _ in range(STEPS_BETWEEN):
            host.step()
        host.book = None
        gc.collect()
        host.open_again()
        host.happens("book dropped")
    host.close()


# ---- called from inside a call -------------------------------------------------------------------


class _Inside:
    """Calls that may come in the middle of another call of the same thread."""

    def __init__(self, host: Host) -> None:
        self.host, self.is_inside = host, False

    def call(self) -> None:
        """Ask the book. It answers, and rightly, or says that this is not possible here."""
        if self.is_inside or self.host.stopped:
            return
        self.is_inside = True
        try:
            self.host.happens("call inside")
            with contextlib.suppress(Wrong):
                self.ask()
        except Exception as error:
            if isinstance(error, ledger.LedgerStopped):
                self.host.stopped = True
            self.host.happens("refused inside")
        finally:
            self.is_inside = False

    def ask(self) -> None:
        if self.host.chance(0.5):
            self.host.pay(1)
        else:
            self.host.look_up()


class _Trash:
    """Garbage that calls the book when it is collected, which may be at any allocation."""

    def __init__(self, inside: _Inside) -> None:
        self.itself, self.inside = self, inside

    def __del__(self) -> None:
        self.inside.call()


def calls_from_a_handler(host: Host) -> None:
    """A signal handler asks the book in the middle of a call."""
    inside = _Inside(host)
    signal.signal(signal.SIGALRM, lambda number, frame: inside.call())
    host.open()
    threads = host.background(host.life.threads - 1)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    host.guarded(host.paying)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _join(threads)
    host.close()


def calls_from_a_finalizer(host: Host) -> None:
    """What is collected in the middle of a call asks the book."""
    inside = _Inside(host)
    host.open()
    threads = host.background(host.life.threads - 1)
    while not host.over():
        gc.set_threshold(host.between(2, 40))
        _Trash(inside)
        host.step()
    gc.set_threshold(700)
    _join(threads)
    host.close()


# ---- after the main thread -----------------------------------------------------------------------


def _last_payments(host: Host) -> None:
    while not host.over():
        host.step()
        host.pay(LAST_PAYMENTS)
        host.happens("late call")
    host.close()
    host.end()


def pays_after_main(host: Host) -> None:
    """A thread goes on when the main thread has returned, and closes the book in the end."""

    def work() -> None:
        threading.main_thread().join()
        _last_payments(host)

    host.open()
    threading.Thread(target=host.guarded, args=(work,)).start()


def pays_at_exit(host: Host) -> None:
    """A handler of `atexit` pays what is left, and closes the book."""
    host.open()
    host.step()
    atexit.register(host.guarded, lambda: _last_payments(host))


def _join(threads: list[threading.Thread]) -> None:
    for one in threads:
        one.join()
