"""The load on PostgreSQL: a pool of connections, and payments that are due whether or not it can.

The client is libpq through psycopg's lowest layer and one epoll: 15 to 17 microseconds of processor
a payment. Measured beside it on the same server: pgbench costs as little, but ends a client at its
first lock_timeout unless the function catches it in an exception block, and that is a
subtransaction for every payment, about a tenth of the server's speed; psycopg's cursors cost 60
microseconds, which would be taken from the server. So one process, one statement prepared in each
connection, one payment under way in each, no pipeline.

A payment waits for a free connection in the order of due times. One that has waited for most of
its deadline is given up unsent: it would come too late and only keep a later one from its place.
That favours the server: with a queue that is kept, nearly everything would be late.
"""

from __future__ import annotations

import select
import time
from array import array
from typing import Any

import numpy as np

from chaos.control.arm import DEADLINE_SECONDS, Arm, percentiles
from chaos.control.postgres import STATEMENT, PostgresFailed

WAIT_FOR_CONNECTION_SHARE = 0.9  # of the deadline
ANSWER_SECONDS_MAX = 30.0  # for what is under way when nothing is due any more
CLOSED_PER_SECOND_MAX = 100_000
NS = 1_000_000_000
BIGINT = 20  # its type's number
LOCK_NOT_AVAILABLE = b"55P03"
_NONE, _DONE, _LOCK, _GIVEN_UP = range(4)


class Payments:
    """The payments of one arm, drawn from the seed: `share` of them to one merchant.

    The merchant has the highest id. Rows are locked in the order of ids, so his is locked last and
    for the shortest time. The payer's row stays locked meanwhile, which nobody notices while the
    waiting payers are few among the accounts.
    """

    def __init__(self, seed: int, first_id: int, count: int, accounts: int, share: float) -> None:
        rng = np.random.default_rng((seed, first_id))
        debits = rng.integers(1, accounts, count)  # never the merchant
        credits = rng.integers(1, accounts, count)
        credits += credits >= debits
        self.to_merchant = rng.random(count) < share
        credits[self.to_merchant] = accounts
        self.first_id = first_id
        self.count = count
        self._debits, self._credits = debits.tolist(), credits.tolist()
        self._texts = [b"%d" % number for number in range(accounts + 1)]

    def arguments(self, index: int) -> list[bytes | None]:
        texts = self._texts
        return [
            b"%d" % (self.first_id + index),
            texts[self._debits[index]],
            texts[self._credits[index]],
        ]


class Pool:
    """`size` connections with the statement prepared: with Pool(...) as pool."""

    def __init__(self, conninfo: str, size: int) -> None:
        from psycopg import pq

        self._pq = pq
        self.size = size
        self._poll = select.epoll()
        self._connections: dict[int, Any] = {}
        self._free: list[int] = []
        try:
            for _ in range(size):
                self._open(conninfo)
        except BaseException:
            self.close()
            raise

    def _open(self, conninfo: str) -> None:
        pq = self._pq
        connection = pq.PGconn.connect(conninfo.encode())
        if connection.status != pq.ConnStatus.OK:
            raise PostgresFailed(_text(connection.get_error_message()))
        self._connections[connection.socket] = connection
        prepared = connection.prepare(b"pay", STATEMENT.encode(), [BIGINT] * 3)
        if prepared.status != pq.ExecStatus.COMMAND_OK:
            raise PostgresFailed(_text(prepared.get_error_message()))
        connection.nonblocking = 1
        self._poll.register(connection.socket, select.EPOLLIN)
        self._free.append(connection.socket)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.finish()
        self._connections.clear()
        self._poll.close()

    def run(self, name: str, payments: Payments, rate: float, seconds: float) -> Arm:
        """Offer the payments: `rate` a second evenly for `seconds`, or, at 0, each as soon as a
        connection is free. Returns when each has its fate.
        """
        run = _Run(self, payments, rate, seconds)
        run.go()
        return run.arm(name)

    # ---- for a run ------------------------------------------------------------------------------

    def take(self) -> int:
        return self._free.pop()

    def idle(self) -> int:
        return len(self._free)

    def send(self, place: int, arguments: list[bytes | None]) -> None:
        connection = self._connections[place]
        connection.send_query_prepared(b"pay", arguments)
        if connection.flush():
            raise PostgresFailed("a connection with nothing under way takes no request")

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        return self._poll.poll(seconds)

    def receive(self, place: int) -> int | None:
        """What became of the payment on this connection, which is then free; None: not yet."""
        pq, connection = self._pq, self._connections[place]
        connection.consume_input()
        if connection.is_busy():
            return None
        result = connection.get_result()
        while connection.get_result() is not None:
            pass
        self._free.append(place)
        if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
            if result.get_value(0, 0) == b"t":
                return _DONE
            raise PostgresFailed("a new id was taken for one that exists")
        if result is None:
            raise PostgresFailed(_text(connection.get_error_message()))
        if result.error_field(pq.DiagnosticField.SQLSTATE) == LOCK_NOT_AVAILABLE:
            return _LOCK
        raise PostgresFailed(_text(result.get_error_message()))


def _text(message: object) -> str:
    return str(message).strip()


class _Run:
    """One arm under way: what is due next, what is under way where, and every fate so far."""

    def __init__(self, pool: Pool, payments: Payments, rate: float, seconds: float) -> None:
        self.pool = pool
        self.payments = payments
        self.rate = rate
        self.end_ns = int(seconds * NS)
        self.seconds = seconds
        self.patience_ns = int(DEADLINE_SECONDS * WAIT_FOR_CONNECTION_SHARE * NS)
        self.count = payments.count
        self.fates = bytearray(self.count)
        self.latencies_ns = array("q", bytes(8 * self.count))
        self.due_ns: dict[int, int] = {}  # of what is under way, by index
        self.under_way: dict[int, int] = {}  # index by connection
        self.next = 0
        self.begun_ns = 0
        self.last_ns = 0

    def now(self) -> int:
        return time.monotonic_ns() - self.begun_ns

    def go(self) -> None:
        self.begun_ns = time.monotonic_ns()
        limit_ns = self.end_ns + int(ANSWER_SECONDS_MAX * NS)
        while True:
            now = self.now()
            wait = self._send_open(now) if self.rate else self._send_closed(now)
            if wait is None:
                return
            if now > limit_ns:
                raise PostgresFailed(f"{len(self.under_way)} payments are not answered")
            for place, _ in self.pool.wait(wait):
                self._receive(place)

    def _send_closed(self, now: int) -> float | None:
        if now >= self.end_ns:
            self.count = self.next
        while self.next < self.count and self.pool.idle():
            self._send(self.next, self.now())
            self.next += 1
        return 1.0 if self.under_way else None

    def _send_open(self, now: int) -> float | None:
        """Send what is due; how long to wait for the next, None when all is over."""
        gap_ns = NS / self.rate
        while self.next < self.count and self.pool.idle():
            due = int(self.next * gap_ns)
            if due > now:
                return (due - now) / NS
            if now - due > self.patience_ns:
                self._give_up(int((now - self.patience_ns) / gap_ns))
                continue
            self._send(self.next, due)
            self.next += 1
            now = self.now()
        return 1.0 if self.under_way else None

    def _give_up(self, until: int) -> None:
        until = min(max(until, self.next + 1), self.count)
        self.fates[self.next : until] = bytes((_GIVEN_UP,)) * (until - self.next)
        self.next = until

    def _send(self, index: int, due_ns: int) -> None:
        place = self.pool.take()
        self.under_way[place] = index
        self.due_ns[index] = due_ns
        self.pool.send(place, self.payments.arguments(index))

    def _receive(self, place: int) -> None:
        fate = self.pool.receive(place)
        if fate is None:
            return
        index = self.under_way.pop(place)
        self.last_ns = self.now()
        self.fates[index] = fate
        self.latencies_ns[index] = self.last_ns - self.due_ns.pop(index)

    def arm(self, name: str) -> Arm:
        fates = np.frombuffer(self.fates, np.uint8)[: self.count]
        latencies = np.frombuffer(self.latencies_ns, np.int64)[: self.count]
        done = fates == _DONE
        late = done & (latencies > DEADLINE_SECONDS * NS)
        merchant = self.payments.to_merchant[: self.count]
        p50, p99, highest = percentiles(latencies[done])
        return Arm(
            system="PostgreSQL",
            name=name,
            rate=self.rate,
            seconds=self.seconds,
            offered=self.count,
            done=int(done.sum()),
            late=int(late.sum()),
            lock_timeouts=int((fates == _LOCK).sum()),
            given_up=int((fates == _GIVEN_UP).sum()),
            lost=int((fates == _NONE).sum()),
            p50_ns=p50,
            p99_ns=p99,
            max_ns=highest,
            elapsed_seconds=max(self.last_ns, self.end_ns) / NS,
            pool=self.pool.size,
            merchant_offered=int(merchant.sum()),
            merchant_timed_out=int((merchant & (late | (fates > _DONE))).sum()),
        )


def payments_count(rate: float, seconds: float) -> int:
    """How many to draw: what comes due, or in a closed loop more than any server does."""
    return max(int((rate or CLOSED_PER_SECOND_MAX) * seconds), 1)
