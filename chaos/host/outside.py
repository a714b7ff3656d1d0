"""Other processes at the files of an open book: they open, look, check readers, or hold all slots.

    python -m chaos.host.outside KIND DIRECTORY

It goes on until its standard input ends; then it prints how often it did what it does, and how
often that was not possible, by the error's name. It only reads, as any tool of LMDB would.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event

import lmdb

from ledger.commands.inspect import inspect
from ledger.facts.errors import LedgerError

REST_SECONDS = 0.001
HELD_SECONDS = 0.3
FREE_SECONDS = 0.2
JOURNAL, STATE = "journal", "state"


def _environment(directory: Path, name: str) -> lmdb.Environment:
    return lmdb.open(str(directory / name), readonly=True, lock=True, create=False)


def opens(directory: Path, over: Event) -> None:
    """Open and read both environments, as backup and monitoring tools do."""
    for name in (JOURNAL, STATE):
        environment = _environment(directory, name)
        try:
            with environment.begin() as transaction:
                transaction.stat()
        finally:
            environment.close()
    over.wait(REST_SECONDS)


def inspects(directory: Path, over: Event) -> None:
    inspect(directory)


def checks_readers(directory: Path, over: Event) -> None:
    """Free the slots of readers that seem to be dead."""
    for name in (JOURNAL, STATE):
        environment = _environment(directory, name)
        try:
            environment.reader_check()
        finally:
            environment.close()
    over.wait(REST_SECONDS)


def holds_readers(directory: Path, over: Event) -> None:
    """Take every slot for readers that there is, keep them for a while, and give them back."""
    environment = _environment(directory, JOURNAL)
    held: list[lmdb.Transaction] = []
    try:
        hold_all(environment, held)
        over.wait(HELD_SECONDS)
    finally:
        for one in held:
            one.abort()
        environment.close()
    over.wait(FREE_SECONDS)


def keeps_readers(directory: Path, over: Event) -> None:
    """Take every slot and keep it to the end, which is told at once."""
    environment = _environment(directory, JOURNAL)
    held: list[lmdb.Transaction] = []
    try:
        hold_all(environment, held)
        print(json.dumps({"held": len(held)}), flush=True)
        over.wait()
    finally:
        for one in held:
            one.abort()
        environment.close()


def hold_all(environment: lmdb.Environment, held: list[lmdb.Transaction]) -> None:
    """Begin to read until no slot is left."""
    try:
        while True:
            held.append(environment.begin())
    except lmdb.ReadersFullError:
        return


KINDS: dict[str, Callable[[Path, Event], None]] = {
    "opens": opens,
    "inspects": inspects,
    "checks-readers": checks_readers,
    "holds-readers": holds_readers,
    "keeps-readers": keeps_readers,
    "same-pid": opens,
}


def main() -> int:
    act, directory = KINDS[sys.argv[1]], Path(sys.argv[2])
    over = Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    done: Counter[str] = Counter()
    while True:  # once at the least, also beside a host that ends at once
        try:
            act(directory, over)
            done["done"] += 1
        except (lmdb.Error, LedgerError) as error:
            done[type(error).__name__] += 1
            over.wait(REST_SECONDS)
        if over.is_set():
            break
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
