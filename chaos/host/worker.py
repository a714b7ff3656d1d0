"""The program of a host: opens a book, pays, has its habit, and writes a diary.

    python -m chaos.host.worker < asked.json

What it does is the plan's; what it saw is in its diary, which is all that the judge believes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from chaos.host import habits, loop_habits
from chaos.host.diary import Diary
from chaos.host.host import Host, Wrong
from chaos.host.plan import ENDS_BY_ITSELF, Life

THREADS: dict[str, Callable[[Host], None]] = {
    "copies-its-book": habits.copies_its_book,
    "opens-its-lock-files": habits.opens_its_lock_files,
    "interrupted": habits.interrupted,
    "calls-from-a-handler": habits.calls_from_a_handler,
    "pays-at-exit": habits.pays_at_exit,
    "closes-descriptors": habits.closes_descriptors,
    "forks": habits.forks,
    "async-exceptions": habits.async_exceptions,
    "pays-after-main": habits.pays_after_main,
    "calls-from-a-finalizer": habits.calls_from_a_finalizer,
    "interrupted-open": habits.interrupted_open,
    "drops-its-book": habits.drops_its_book,
    "many-threads": habits.many_threads,
}
LOOPS = {
    "cancels-calls": loop_habits.cancels_calls,
    "calls-from-another-loop": loop_habits.calls_from_another_loop,
    "cancelled-open": loop_habits.cancelled_open,
    "many-tasks": loop_habits.many_tasks,
}


class Asked(msgspec.Struct, kw_only=True):
    """What a host is told, on its standard input."""

    directory: str
    diary: str
    life: Life


def live(host: Host) -> None:
    """The whole life."""
    if host.life.habit in LOOPS:
        loop_habits.run(host, LOOPS[host.life.habit])
    else:
        THREADS[host.life.habit](host)
    if host.life.habit not in ENDS_BY_ITSELF:
        host.end()


def main() -> int:
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    host = Host(Path(asked.directory), asked.life, Diary(Path(asked.diary)))
    try:
        live(host)
    except Wrong:
        return 1
    except BaseException as error:
        if not host.stopped:
            host.diary.write("broken", "live", f"the host saw {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
