"""Runs the system's own tools, and turns what the machine refuses into one readable line.

It knows no fault: those who know one call it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

SECONDS_MAX = 30.0
POLL_SECONDS = 0.005
# Tools for administrators are not on the path of every user who may run them.
ENVIRONMENT = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Refused(OSError):
    """The machine does not allow a step; the text says which step, and what the machine said."""


def run(*words: str | Path, text: str = "") -> str:
    """What the command printed, given `text` as its input. Refused when it cannot, or hangs."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            env=ENVIRONMENT,
        )
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Refused(f"{command[0]} took over {SECONDS_MAX:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        why = said[-1] if said else f"exit {done.returncode}"
        raise Refused(f"{command[0]}: {why.removeprefix(command[0] + ': ')}")
    return done.stdout


def why_not(what: str, attempt: Callable[[], object]) -> str | None:
    """None when `attempt` succeeds, else one line with what the machine refused."""
    try:
        attempt()
    except (OSError, subprocess.SubprocessError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        return f"{what}: {' '.join(text.split())}"
    return None


def until(what: str, holds: Callable[[], bool], seconds_max: float = SECONDS_MAX) -> None:
    """Wait for what the kernel finishes by itself and tells nobody; Refused when it does not."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise Refused(f"waited {seconds_max:.0f} s for {what}")
        threading.Event().wait(POLL_SECONDS)
