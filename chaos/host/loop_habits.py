"""What hosts with an asyncio loop do while they pay, each as one coroutine of a host.

Calls are cancelled at any moment, by hand and by `asyncio.timeout`; the book is asked from the loop
of another thread; opening is given up half way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ledger
from chaos.host.host import OPEN_SECONDS_MAX, POLL_SECONDS, Host, Wrong

TASKS = 12
ROWS = 8_189  # as many as a request holds, so that calls wait for room
CALLS_MAX = 300
BUSY_SECONDS = 30.0
OTHER_SECONDS_MAX = 5.0
US = 1_000_000


async def many_tasks(host: Host) -> None:
    async with ledger.open_async(host.directory) as book:
        host.opened(book)
        await asyncio.gather(*[_paying(host) for _ in range(TASKS * host.life.threads)])


async def _paying(host: Host) -> None:
    while not host.over():
        if host.chance(0.1):
            first, count, rows = host.known()
            if count:
                host.answered_again(await host.book.create_transfers(rows), first, count)
        await _pay(host, host.between(1, host.life.batch_max), None)


async def _pay(host: Host, count: int, timeout: float | None) -> None:
    first, rows = host.take(count)
    try:
        results = await host.book.create_transfers(rows, timeout=timeout)
    except BaseException as error:
        host.fell(error, first, count)
        raise
    host.answered(results, first, count)


# ---- cancelled -----------------------------------------------------------------------------------


async def cancels_calls(host: Host) -> None:
    """Large calls wait for room and are cancelled; who is cancelled must leave at once."""
    async with ledger.open_async(host.directory) as book:
        host.opened(book)
        host.life.payments_max = CALLS_MAX * ROWS
        await asyncio.gather(*[_cancelling(host, number % 2 == 0) for number in range(TASKS)])


async def _cancelling(host: Host, by_timeout: bool) -> None:
    while not host.over():
        seconds = host.between(0, 30_000) / US
        count = ROWS if host.chance(0.8) else 1
        if by_timeout:
            await _timed(host, count, seconds)
        else:
            await _cancelled(host, count, seconds)


async def _cancelled(host: Host, count: int, seconds: float) -> None:
    task = asyncio.ensure_future(_pay(host, count, BUSY_SECONDS))
    await asyncio.wait([task], timeout=seconds)
    wanted = task.cancel()  # False for one that is done
    await asyncio.wait([task])
    if wanted:
        host.happens("cancelled")
    if wanted and not task.cancelled():
        host.breaks("cancelled", "a call went on although cancel() returned True")
    if not wanted:
        task.result()


async def _timed(host: Host, count: int, seconds: float) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await _pay(host, count, BUSY_SECONDS)
    except TimeoutError:
        host.happens("timed out")
        return
    if limit.expired():
        host.breaks("cancelled", "a call outlived the asyncio.timeout around it")


# ---- another loop --------------------------------------------------------------------------------


async def calls_from_another_loop(host: Host) -> None:
    """Another thread's loop asks: it is refused before anything is done."""
    async with ledger.open_async(host.directory) as book:
        host.opened(book)
        stranger = threading.Thread(target=host.guarded, args=(lambda: _stranger(host),))
        stranger.start()
        await asyncio.gather(*[_paying(host) for _ in range(host.life.threads)])
        while stranger.is_alive():  # its calls need this loop
            await asyncio.sleep(POLL_SECONDS)


def _stranger(host: Host) -> None:
    while not host.over():
        with contextlib.suppress(Exception):
            asyncio.run(_once(host))
        host.happens("call from another loop")
        time.sleep(host.between(0, 5_000) / US)


async def _once(host: Host) -> None:
    async with asyncio.timeout(OTHER_SECONDS_MAX):
        await _pay(host, 1, None)


# ---- given up ------------------------------------------------------------------------------------


async def cancelled_open(host: Host) -> None:
    """Opening is cancelled half way; the book can be opened all the same."""
    while True:
        task = asyncio.ensure_future(_opened(host))
        await asyncio.wait([task], timeout=host.between(0, 30_000) / US)
        if task.cancel():
            host.happens("cancelled open")
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await _open_again(host)
        if host.over():
            return


async def _opened(host: Host) -> None:
    async with ledger.open_async(host.directory) as book:
        host.opened(book)
        await _pay(host, 1, None)


async def _open_again(host: Host) -> None:
    deadline = time.monotonic() + OPEN_SECONDS_MAX
    while True:
        try:
            await _opened(host)
            return
        except ledger.DirectoryInUse as error:
            if time.monotonic() > deadline:
                what = f"a book whose opening was cancelled cannot be opened: {error}"
                host.breaks("live", what)
        await asyncio.sleep(POLL_SECONDS)


def run(host: Host, habit: Callable[[Host], Awaitable[Any]]) -> None:
    """Run the habit in a loop of its own."""

    async def main() -> None:
        await habit(host)

    with contextlib.suppress(Wrong):
        asyncio.run(main())
