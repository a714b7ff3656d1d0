"""What a command says: lines to people, results to whoever asked, and where neither can go.

A line of a log or an error never ends or stops who says it: a full disk under standard error, a
closed descriptor or a reader that does not read costs the line and nothing else. Results are
another matter: who asked must learn that they are not all there, so writing them may raise. Lines
go to descriptors, not through Python's files, which would keep what could not be written and try
again when the process ends. This file knows no command and no book.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from ledger.base.files import occupy_standard_descriptors

STANDARD = {0: "stdin", 1: "stdout", 2: "stderr"}
LINE_BYTES_MAX = 4096  # that a pipe takes at once when it takes anything


def fill_standard_descriptors() -> None:
    """Let descriptors 0 to 2 be open, to nothing where they are closed, and Python's files of them.

    Else a socket gets one of them, too, and libuv ends a process that closes one. To be called
    before anything is opened.
    """
    with contextlib.suppress(OSError):
        occupy_standard_descriptors()
    for descriptor, name in STANDARD.items():
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            with contextlib.suppress(OSError):
                setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def say(text: str, descriptor: int = 2) -> None:
    """A line to whoever reads; it waits for who reads slowly."""
    _write(_encoded(text), descriptor)


def log(text: str, descriptor: int = 2) -> None:
    """A line of a server: where it cannot be written at once it is lost."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(0):
            _write(_encoded(text)[: LINE_BYTES_MAX - 1].rstrip(b"\n") + b"\n", descriptor)


def warn(why: str) -> None:
    say(f"ledger: warning: {_line(why)}")


def log_warning(why: str) -> None:
    log(f"ledger: warning: {_line(why)}")


def error(why: str) -> None:
    say(f"ledger: {_line(why)}")


def result(text: str) -> None:
    """A result, to standard output. OSError when it cannot be written, now or at the flush."""
    data = text.encode("utf-8", "backslashreplace").decode("utf-8")
    with _naming_output():
        sys.stdout.write(data + "\n")


def flush_results() -> None:
    with _naming_output():
        sys.stdout.flush()


@contextlib.contextmanager
def _naming_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"standard output cannot be written: {error.strerror}"
        raise OSError(error.errno, why) from error


def table(facts: dict[str, Any]) -> str:
    """Names and values in two columns, whatever the width of a terminal: nothing is cut."""
    names = [name.replace("_", " ") for name in facts]
    width = max(map(len, names), default=0) + 2
    rows = []
    for name, value in zip(names, facts.values(), strict=True):
        rows += [
            f"{'' if number else name:{width}}{line}".rstrip()
            for number, line in enumerate(_text(value).split("\n"))
        ]
    return "\n".join(rows)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        plain = all(isinstance(one, str) for one in value)
        return (", " if plain else "\n").join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def abandon_results() -> None:
    """What is still to be written to standard output goes to nothing, and no error with it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LogHandler(logging.Handler):
    """Python's log records as lines of a server."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a record that cannot be formatted, too
            log(self.format(record))


def _line(why: str) -> str:
    return " ".join(why.split())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _write(data: bytes, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
