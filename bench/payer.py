"""Payments that go on beside what is measured: `ledger load` at a fixed rate, its own process.

So neither the interpreter of who measures nor its event loop is shared with those who pay. Ids are
a function of the seed, which is how this file knows when the first payment has arrived. It judges
what the payers say and measures nothing itself.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.environment import ROOT
from ledger.client.client import Client
from ledger.facts import schema
from ledger.load import run

START_SECONDS_MAX = 600.0  # accounts are created again, which takes long when they are many
END_SECONDS_MAX = 120.0
POLL_SECONDS = 0.02
NOT_OPTIONS = ("address",)


class Payer:
    """For `with`: payments are under way at its beginning, and `report` is there at its end.

    `options.skip` must leave out what was sent before. RuntimeError when it does not begin to pay,
    or has seen what must not happen; accounts that were there with other flags are no fault.
    """

    report: run.Report

    def __init__(self, options: run.Options) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            command(self._options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            self._wait_for_the_first()
        except BaseException:
            self._kill()
            raise
        return self

    def _wait_for_the_first(self) -> None:
        assert self._process is not None
        first = first_id(self._options)
        deadline = time.monotonic() + START_SECONDS_MAX
        with Client(self._options.address) as client:
            while not len(client.lookup_transfers(first)):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the payers do not pay: exit {self._process.poll()}")
                threading.Event().wait(POLL_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if kind is not None:
            self._kill()
            return
        self._process.send_signal(signal.SIGINT)
        try:
            said, complaints = self._process.communicate(timeout=END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._kill()
            raise RuntimeError("the payers do not end") from None
        if not said:
            raise RuntimeError(f"the payers said nothing: {complaints[-500:]}")
        self.report = msgspec.json.decode(said, type=run.Report, strict=False)
        check(self.report)

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


def command(options: run.Options) -> list[str]:
    """The command line of these options."""
    words = [sys.executable, "-m", "ledger", "load", options.address, "--json"]
    for field in msgspec.structs.fields(run.Options):
        value = getattr(options, field.name)
        if field.name in NOT_OPTIONS or value == field.default:
            continue
        words.append("--" + field.name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def first_id(options: run.Options) -> Any:
    """The id of the first payment of the first connection, as one ID record."""
    record = run.swarm(options, 0).transfer(options.number_first)
    return schema.records(record, schema.TRANSFER)["id"].copy()



def check(report: run.Report, strange_accounts_max: int = 1) -> None:
    """RuntimeError when anything but the history of an account or two is not as it was sent."""
    faults = dict(report.faults)
    strange = faults.pop("accounts_refused", 0)
    if faults or strange > strange_accounts_max or report.refused or report.stopped:
        raise RuntimeError(f"the payers saw what must not happen: {report}")
    if report.unanswered or report.evictions:
        raise RuntimeError(f"the payers were not answered: {report}")


def figures(beside: str, report: run.Report) -> dict[str, Any]:
    """What payers saw while something else was asked."""
    latency = report.latency
    return {
        "beside": beside,
        "rate": report.options.rate,
        "payments": report.accepted,
        "seconds": report.seconds,
        "payments_per_second": report.payments_per_second,
        "p50_ns": latency.p50_ns,
        "p99_ns": latency.p99_ns,
        "p99_9_ns": latency.p99_9_ns,
        "max_ns": latency.max_ns,
        "overdue": report.overdue,
        "longest_pause_ns": round(report.longest_pause_seconds * 1e9),
    }
