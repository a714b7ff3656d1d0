"""Exceptions that a host raises in the middle of a call: by a signal's handler, at a chosen time.

COUNT, from the environment, is how many of each kind are tried; SEED replays a run.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

COUNT = int(os.environ.get("LEDGER_INTERRUPTS", "300"))
SEED = int(os.environ.get("LEDGER_SEED", "13"))


class Interrupted(Exception):
    """What the host's handler raises."""


@contextmanager
def handling(handler):
    """Alarms call `handler`; none comes later."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(*_):
    raise Interrupted


def interrupted(seconds, ask):
    """What `ask` returned, or None when an alarm after so many seconds ended it."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return ask()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        return None
