"""The book that `bench.scale` fills: its server, what was paid into it, and what it takes of disk.

Payments are those of the load generator, a function of seed and number, so any of them can be sent
or asked for again without being kept. A few *markers* are sent beside them, one a slice: payments
whose values of every field are nobody else's. It knows no goals and no pictures.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.parts import disk_bytes
from bench.payer import Payer, check
from chaos.process import Server
from ledger.client.client import Client
from ledger.facts import schema
from ledger.history import _columns
from ledger.history._columns import ColumnFile
from ledger.load import run
from ledger.load.report import BUCKETS, ID_ORDERS, latency

PROGRESS_SECONDS = 0.1
END_SECONDS_MAX = 900.0  # of a server that has much to read or to finish
SECONDS_BEFORE_KILL = 2.0
PAYERS_CONNECTIONS, PAYERS_SESSIONS = 1, 8  # one: each would have its own share of the numbers
PAYERS_SECONDS_MAX = 600.0
MARKER_ACCOUNTS = (1, 2)  # the generator's ids are large
MARKER_LEDGER, MARKER_CODE = 2, 60_000  # the generator's codes are low
MARKER = {
    "user_data_128": 1 << 100,
    "user_data_64": 0x5CA1E,
    "user_data_32": 0x5CA1E,
    "code": MARKER_CODE,
    "ledger": MARKER_LEDGER,
}
COLUMNS = {
    _columns.IDS: "ids",
    _columns.RESOLUTIONS: "ends of holds",
    _columns.ROWS: "rows of accounts",
    _columns.BALANCES: "balances",
    _columns.BLOCKS: "blocks",
    _columns.PANELS: "filters of blocks",
}

Rows = NDArray[np.void]
Numbers = NDArray[np.int64]


class Slices:
    """Cuts a run of the load generator into slices as it goes: figures of each `size` payments."""

    def __init__(self, book: Book, size: int, on_progress: Callable[[int], None]) -> None:
        self.found: list[dict[str, Any]] = []
        self._book, self._size, self._on_progress = book, size, on_progress
        self._counts = np.zeros(len(BUCKETS), np.uint64)
        self._at, self._seconds = 0, 0.0

    def add(self, progress: run.Progress) -> None:
        if progress.phase != "transfers":
            return
        self._counts += progress.recent_counts
        self._on_progress(progress.accepted)
        if progress.accepted - self._at >= self._size:
            self.cut(progress.accepted, progress.seconds)

    def cut(self, accepted: int, seconds: float) -> None:
        payments, spent = accepted - self._at, seconds - self._seconds
        seen = latency(self._counts)
        self.found.append(
            {
                "at": accepted,
                "payments": payments,
                "seconds": spent,
                "payments_per_second": payments / max(spent, 1e-9),
                "p50_ns": seen.p50_ns,
                "p99_ns": seen.p99_ns,
                "p99_9_ns": seen.p99_9_ns,
                "max_ns": seen.max_ns,
                **self._book.sizes(),
            }
        )
        self._at, self._seconds = accepted, seconds
        self._counts[:] = 0
        self._book.mark()

    def finish(self, report: run.Report) -> None:
        """The last slice, unless it is so small that it says nothing."""
        if report.accepted - self._at >= self._size / 2 and self._counts.any():
            self.cut(report.accepted, report.seconds)


class Book:
    """A book in `folder` and the server of it, which `env` may have altered.

    `population` is what the load generator pays; its account 0, the hot one, has the history flag.
    """

    def __init__(
        self, folder: Path, population: run.Options, env: Mapping[str, str] | None = None
    ) -> None:
        self.directory = folder / "book"
        self.server = Server(self.directory, env=env)
        self.population = population
        self.markers = 0
        self._swarms: list[Any] = []
        self._skip = 0
        self._opened_bytes = 0  # of the journal, before the first payment
        self._client: Client | None = None
        self._marking: ThreadPoolExecutor | None = None
        self._marked: list[Future[Rows]] = []

    # ---- the server -----------------------------------------------------------------------------

    def start(self) -> tuple[float, float]:
        """Start the server: seconds until it listens, and until it has answered."""
        begun = time.monotonic()
        self.server.begin()
        while True:
            try:
                self.server.wait_listening()
                break
            except AssertionError:  # said after a minute, too
                alive = Path(f"/proc/{self.server.pid}").exists()
                if not alive or time.monotonic() - begun > END_SECONDS_MAX:
                    raise
        listening = time.monotonic() - begun
        self.client.lookup_accounts([MARKER_ACCOUNTS[0]])
        return listening, time.monotonic() - begun

    def stop(self) -> float:
        """Ask the server to end; seconds until it has. RuntimeError when it ends in any other way
        than well."""
        self.hang_up()
        begun = time.monotonic()
        code = self._wait(self.server.terminate, begun)
        if code:
            raise RuntimeError(f"the server ended with {code}: {self.server.log}")
        return time.monotonic() - begun

    def _wait(self, end: Callable[[], int], begun: float) -> int:
        while True:
            try:
                return end()
            except TimeoutExpired:
                if time.monotonic() - begun > END_SECONDS_MAX:
                    raise
                end = self.server.wait

    def kill(self) -> None:
        self.hang_up()
        self.server.kill()

    def close(self) -> None:
        self.hang_up()
        self.server.close()

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.server.address)
        return self._client

    def hang_up(self) -> None:
        """End the connection: who had not been answered on it does not wait any more."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # ---- payments -------------------------------------------------------------------------------

    def open_accounts(self) -> float:
        """Those of the markers, the hot one, and all others; accounts opened a second.

        The load generator finds the hot one there, and makes one payment, whose id no other has.
        """
        hot = schema.Account(
            id=self.hot, ledger=self.population.ledger, code=1, flags=schema.AccountFlags.HISTORY
        )
        markers = [
            schema.Account(id=one, ledger=MARKER_LEDGER, code=1) for one in MARKER_ACCOUNTS
        ]
        results = self.client.create_accounts([hot, *markers])
        assert (results["status"] == schema.AccountStatus.CREATED).all()
        other = next(order for order in ID_ORDERS if order != self.population.id_order)
        begun = time.monotonic()
        report = run.run(
            msgspec.structs.replace(
                self.population, address=self.server.address, transfers=1, id_order=other
            )
        )
        check(report)
        self._opened_bytes = self.disk()["journal_bytes"]
        return self.population.accounts / (time.monotonic() - begun)

    @cached_property
    def hot(self) -> int:
        """The id of the account that `hot_share` of the payments are to."""
        only_hot = msgspec.structs.replace(self.population, hot_share=1.0, connections=1)
        [payment] = schema.records(run.swarm(only_hot, 0).transfer(0), schema.TRANSFER)
        return schema.int_of(payment["credit_account_id"])

    def grow(
        self, slice_payments: int, on_progress: Callable[[int], None]
    ) -> tuple[run.Report, list[dict[str, Any]]]:
        """Pay all that the population says, in a closed loop; what was seen, in all and slices."""
        population = msgspec.structs.replace(self.population, address=self.server.address)
        slices = Slices(self, slice_payments, on_progress)
        with ThreadPoolExecutor(1) as self._marking:
            report = run.run(population, slices.add, progress_seconds=PROGRESS_SECONDS)
            slices.finish(report)
        self._marking = None
        check(report)
        for one in self._marked:
            assert (one.result()["status"] == schema.TransferStatus.CREATED).all()
        self.markers = len(self._marked)
        self._sent(population, report.accepted)
        return report, slices.found

    def mark(self) -> None:
        """Send the next marker, beside everything else."""
        assert self._marking is not None
        debit, credit = MARKER_ACCOUNTS
        payment = schema.Transfer(
            id=len(self._marked) + 1, debit_account_id=debit, credit_account_id=credit, amount=1,
            **MARKER,
        )  # fmt: skip
        self._marked.append(self._marking.submit(self.client.create_transfers, [payment]))

    def _sent(self, options: run.Options, payments: int) -> None:
        """The numbers that were used, or may have been set aside for a session, are used up."""
        set_aside = (options.sessions + 2) * (options.batch + 1)
        self._skip = max(
            self._skip, options.skip + payments + (set_aside + 2) * options.connections
        )

    @contextmanager
    def payers(self, rate: float) -> Iterator[Payer]:
        """Payments at a rate, between the same accounts, beside what is done meanwhile."""
        options = msgspec.structs.replace(
            self.population,
            address=self.server.address,
            connections=PAYERS_CONNECTIONS,
            sessions=PAYERS_SESSIONS,
            transfers=max(1, int(rate * PAYERS_SECONDS_MAX)),
            rate=rate,
            skip=self._skip,
        )
        payer = Payer(options)
        with payer:
            yield payer
        self._sent(options, payer.report.sent)

    def payments(self, numbers: Numbers) -> Rows:
        """Payments as the run sent them, by number: rows of TRANSFER, (n,)."""
        population = self.population
        if not self._swarms:
            self._swarms = [run.swarm(population, n) for n in range(population.connections)]
        count = population.connections
        records = [self._swarms[n % count].transfer(n // count) for n in numbers.tolist()]
        return schema.records(b"".join(records), schema.TRANSFER)

    @property
    def numbers_end(self) -> int:
        """Payments with lower numbers were certainly sent."""
        population = self.population
        assert population.transfers is not None
        set_aside = (population.sessions + 2) * (population.batch + 1)
        return population.transfers - 2 * set_aside * population.connections

    # ---- memory and disk ------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Bytes of the server's own memory now, and of the book."""
        return {"rss_anon_bytes": rss_anon_bytes(self.server.pid), **self.disk()}

    def disk(self) -> dict[str, int]:
        """Bytes of the journal since the accounts were opened, and of all that is derived."""
        return {
            "journal_bytes": disk_bytes(self.directory / "journal").allocated - self._opened_bytes,
            "derived_bytes": disk_bytes(self.directory / "state").allocated,
        }

    def columns(self) -> dict[str, int]:
        """Bytes of each column of all segments; of a book that is at rest."""
        found = dict.fromkeys(COLUMNS.values(), 0)
        for path in (self.directory / "state").glob("segment-*"):
            file = ColumnFile(path)
            for column, name in COLUMNS.items():
                a_page = _columns.PAYLOAD_BYTES // _columns.RECORD_BYTES[column]
                found[name] += -(-file.count(column) // a_page) * _columns.PAGE_BYTES
            file.close()
        return found

    def chill(self) -> None:
        """Put all files of the book, which is at rest, out of the memory of the system."""
        for root, _, names in os.walk(self.directory):
            for name in names:
                descriptor = os.open(Path(root) / name, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def rss_anon_bytes(pid: int) -> int:
    """Memory of a process that is not of files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not say how much memory process {pid} has of its own")


# ---- restarts -----------------------------------------------------------------------------------


def restart_stopped(book: Book, cold: bool) -> dict[str, float]:
    """End the server well and start it again."""
    stopped = book.stop()
    if cold:
        book.chill()
    listening, answered = book.start()
    return {
        "stop_seconds": stopped,
        "listening_seconds": listening,
        "answered_seconds": answered,
        "rss_anon_bytes": rss_anon_bytes(book.server.pid),
    }


def restart_killed(book: Book, cold: bool, rate: float) -> tuple[dict[str, float], run.Report]:
    """Kill the server while it is paid, and start it again; the payers wait and go on."""
    with book.payers(rate) as payers:
        threading.Event().wait(SECONDS_BEFORE_KILL)
        book.kill()
        if cold:
            book.chill()
        listening, answered = book.start()
        found = {
            "listening_seconds": listening,
            "answered_seconds": answered,
            "rss_anon_bytes": rss_anon_bytes(book.server.pid),
        }
    return found, payers.report
