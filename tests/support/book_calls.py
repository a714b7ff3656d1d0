"""Test tool: short calls of a book in this process, and ways to hold it back.

A group is held back where a test needs it: the runner's thread waits for an event before it
appends, so no test sleeps. Nothing here knows what calls should return.
"""

from __future__ import annotations

import contextlib
import threading

import numpy as np

import ledger
from ledger.facts import limits
from ledger.host.runner import ThreadRunner

CREATED = ledger.TransferStatus.CREATED


def account(id, **fields):
    return ledger.Account(**{"id": id, "ledger": 1, "code": 1} | fields)


def pay(id, **fields):
    common = {"debit_account_id": 1, "credit_account_id": 2, "amount": 10, "ledger": 1, "code": 1}
    return ledger.Transfer(**{"id": id} | common | fields)


def rows(ids):
    """Payments of 1 as an array, one for each id."""
    made = np.zeros(len(ids), ledger.TRANSFER)
    made["id"][:, 0] = ids
    made["debit_account_id"][:, 0], made["credit_account_id"][:, 0] = 1, 2
    made["amount"][:, 0] = made["ledger"] = made["code"] = 1
    return made


def posted(book, id=1):
    [found] = book.lookup_accounts([id])
    return ledger.int_of(found["debits_posted"])


@contextlib.contextmanager
def held(book):
    """Appends wait until the event that is given is set, or the block ends."""
    event, runner = threading.Event(), book._runner

    def run_later(job, done):
        # In the journal's thread: what is held back there keeps nobody from asking more.
        super(ThreadRunner, runner).run(lambda: (event.wait(), job())[1], done)

    runner.run = run_later
    try:
        yield event
    finally:
        event.set()
        del runner.run


def call(function, *arguments):
    """A thread that calls, and what it will have got."""
    got = []

    def work():
        try:
            got.append(function(*arguments))
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, got


def until(book, reached):
    """Wait for other threads; each look takes the engine's place, so that it sees whole steps."""
    while True:
        with book._runner.turnstile:
            if reached():
                return


def appending(book):
    """Wait until a group is on its way."""
    until(book, lambda: book._engine._appending)


def fill(book):
    """Have one group on its way and as many more full as may be; the threads that wait for them."""
    waiting = [call(book.create_transfers, rows(range(1, 2)))]
    until(book, lambda: book._engine._appending)
    for n in range(1, limits.GROUPS_IN_FLIGHT_MAX):
        first = 10_000 * n
        waiting.append(call(book.create_transfers, rows(range(first, first + 8189))))
        until(
            book,
            lambda n=n: (
                book._engine._appending == n and book._engine.core.group_records >= 8189
            ),
        )
    return waiting
