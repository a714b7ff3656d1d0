"""Troubles of the book's files while it is served, made by others: read and copied all the time,
put back to what they were under living clients, replaced, or with no slot left for a reader; and a
standard error that nothing can be written to.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from typing import Literal

import msgspec

import ledger
from chaos.host.beside import Beside
from chaos.sale.paying import Payer
from chaos.sale.stage import COMMAND_SECONDS_MAX, LEDGER, Stage
from chaos.sale.trouble import Trouble
from ledger.client.connection import parse_address
from ledger.facts.limits import Exit
from ledger.load.report import Options

STOP_SECONDS_MAX = 3.0
SETTLE_SECONDS = 0.5  # for what was answered before the server died to be told
BACK_SECONDS_MAX = 10.0
ROUNDS_MIN = 5  # of payments of all sessions, after which each has had its answer
FAIL_STOP = (Exit.IO_ERROR, Exit.DATA_REFUSED, Exit.FENCED)
FIRST_ID = 1 << 100  # of accounts and payments that are not the load generator's
OTHER_LEDGER = 7
GARBAGE_CONNECTIONS = 40


class WatchFiles(Trouble, tag="watch-files", kw_only=True):
    """Others open the journal again and again, inspect it, check its readers, and copy the book."""

    watchers: tuple[Literal["opens", "inspects", "checks-readers"], ...] = (
        "opens", "inspects", "checks-readers",
    )  # fmt: skip
    FOR_SECONDS_MIN = 0.5

    EXPECTS = "who only reads the files of a served book, however often, changes nothing"

    def begin(self, stage: Stage) -> None:
        self.beside = [Beside(kind, stage.directory) for kind in self.watchers]
        for one in self.beside:
            stage.closing.callback(one.stop)
            one.start()
        self.over, self.copies = threading.Event(), 0
        self.copier = threading.Thread(target=self._copy, args=(stage,), daemon=True)
        self.copier.start()

    def _copy(self, stage: Stage) -> None:
        while not self.over.is_set():
            copy = stage.place / "copy"
            with contextlib.suppress(shutil.Error):  # a file went away meanwhile
                shutil.copytree(stage.directory, copy)
                self.copies += 1
            shutil.rmtree(copy, ignore_errors=True)

    def end(self, stage: Stage) -> None:
        self.over.set()
        self.copier.join()
        looked = {}
        for kind, one in zip(self.watchers, self.beside, strict=True):
            looked[kind] = one.stop()[f"{kind}: done"]
            if not looked[kind]:
                stage.broken.append(("scenario", f"nobody could look at the files: {kind}"))
        told = ", ".join(f"{kind} {times:,}" for kind, times in looked.items())
        stage.seen.append(f"copied {self.copies} times; {told}")
        stage.figures |= {"copies": self.copies, "looked": looked}


class RollBack(Trouble, tag="roll-back", kw_only=True):
    """The server is stopped and its book copied; `for_seconds` later it is killed and the copy put
    back, as a directory, or as a journal that `ledger rebuild --trust-journal` goes on with. All
    clients live through it, and what they were told in between is gone.
    """

    via: Literal["directory", "rebuild"]
    FOR_SECONDS_MIN = 0.5

    EXPECTS = (
        "a client that was told of what the journal has lost is evicted and never believed; new"
        " clients pay"
    )

    def begin(self, stage: Stage) -> None:
        self.client = ledger.Client(stage.server.address, sessions=1, timeout=5.0)
        stage.closing.callback(self.client.close)
        accounts = [ledger.Account(id=FIRST_ID + n, ledger=OTHER_LEDGER, code=1) for n in (0, 1)]
        self.client.create_accounts(accounts)
        self.pay(stage, self.client, 1)
        stage.is_down = True
        stage.server.terminate()
        shutil.copytree(stage.directory, stage.place / "older")
        stage.restart()
        self.pay(stage, self.client, 2)

    def pay(self, stage: Stage, client: ledger.Client, n: int) -> None:
        made = ledger.Transfer(
            id=FIRST_ID + n, debit_account_id=FIRST_ID, credit_account_id=FIRST_ID + 1, amount=100,
            ledger=OTHER_LEDGER, code=1,
        )  # fmt: skip
        status = client.create_transfers([made])["status"][0]
        if status != ledger.TransferStatus.CREATED:
            stage.broken.append(("judged", f"the payment of a client of its own: {status}"))

    def end(self, stage: Stage) -> None:
        stage.rolled_back = True
        if not self._all_know(stage):
            stage.broken.append(("live", "not everybody paid after the copy was taken"))
        stage.kill()
        stage.until(lambda: False, SETTLE_SECONDS)
        self.accepted = [payer.accepted() for payer in stage.payers]
        if self.via == "rebuild":
            self._rebuild(stage)
        else:
            shutil.rmtree(stage.directory)
            shutil.copytree(stage.place / "older", stage.directory)
        if stage.restart():
            self._living(stage)
            with ledger.Client(stage.server.address, sessions=1) as fresh:
                self.pay(stage, fresh, 3)

    def _all_know(self, stage: Stage) -> bool:
        """Wait until every session has been told of something after the copy."""

        def back() -> bool:
            return all(one.steps[-1].connections == one.options.connections for one in stage.payers)

        if not stage.until(back, BACK_SECONDS_MAX):
            return False
        before = [one.accepted() for one in stage.payers]
        stage.until(lambda: False, SETTLE_SECONDS)

        def paid(payer: Payer, accepted: int) -> bool:
            options = payer.options
            round_of_all = options.connections * options.sessions * options.batch
            return payer.accepted() > accepted + ROUNDS_MIN * round_of_all

        pairs = list(zip(stage.payers, before, strict=True))
        return stage.until(lambda: all(paid(*pair) for pair in pairs), BACK_SECONDS_MAX)

    def _rebuild(self, stage: Stage) -> None:
        journal = stage.directory / "journal"
        shutil.rmtree(journal)
        shutil.copytree(stage.place / "older" / "journal", journal)
        words = [*LEDGER, "rebuild", str(stage.directory), "--trust-journal"]
        done = subprocess.run(words, capture_output=True, timeout=COMMAND_SECONDS_MAX, check=False)
        if done.returncode != Exit.OK:
            told = done.stderr.decode(errors="replace").strip()
            stage.broken.append(("live", f"rebuild ended with {done.returncode}: {told}"))

    def _living(self, stage: Stage) -> None:
        """The client that knows what is lost asks again."""
        try:
            self.pay(stage, self.client, 4)
        except ledger.SessionEvicted as error:
            stage.seen.append(f"a living client was told: {error}")
        except (ledger.LedgerError, OSError) as error:
            stage.broken.append(("evicted", f"a living client was told {error!r}"))
        else:
            stage.broken.append(("evicted", "a client of a future that is lost was believed"))

    def stopped(self, stage: Stage) -> None:
        for payer, before in zip(stage.payers, self.accepted, strict=True):
            now = payer.report.accepted if payer.report is not None else payer.accepted()
            evicted = sum(payer.report.evictions.values()) if payer.report is not None else 0
            if now != before:
                what = f"{payer.name}: {now - before:,} payments of a lost future were taken"
                stage.broken.append(("evicted", what))
            if not evicted:
                stage.broken.append(("evicted", f"{payer.name}: no session was evicted"))
            stage.seen.append(f"{evicted:,} sessions evicted")


class ReplaceFile(Trouble, tag="replace-file", kw_only=True):
    """A copy of the journal's file is moved over it while it is served. `for_seconds` later the
    true file is put back and the server started."""

    EXPECTS = (
        "a file put over the journal's ends the server before it acknowledges more; on the true"
        " file everything is there"
    )

    def begin(self, stage: Stage) -> None:
        data = stage.directory / "journal" / "data.mdb"
        copy = stage.place / "copy.mdb"
        self.true = stage.closing.enter_context(data.open("rb"))
        shutil.copyfile(data, copy)
        stage.is_down = True
        began = time.monotonic()
        before = stage.payers[0].accepted()
        copy.rename(data)
        if not stage.until(lambda: stage.server.exit_code is not None, STOP_SECONDS_MAX):
            what = f"{stage.payers[0].accepted() - before:,} payments went into a file without name"
            stage.broken.append(("fail-stop", f"{what}; the server goes on"))
            stage.kill()
            return
        code = stage.server.wait()
        stage.failed_stop = code in FAIL_STOP
        if not stage.failed_stop:
            stage.broken.append(("fail-stop", f"the server ended with {code}"))
        said = (stage.server.log or ["nothing"])[-1]
        took = time.monotonic() - began
        stage.seen.append(f"replaced: exit {code} after {took:.2f} s, {said!r}")

    def end(self, stage: Stage) -> None:
        data = stage.directory / "journal" / "data.mdb"
        with (stage.place / "true.mdb").open("wb") as file:
            shutil.copyfileobj(self.true, file)
        (stage.place / "true.mdb").rename(data)
        stage.restart()


class HoldReaders(Trouble, tag="hold-readers", kw_only=True):
    """Another process holds every slot for readers of the journal. The book seals after
    `window_events`, and a payer of its own asks for old payments again all the time."""

    window_events: int
    rate: float = 100.0
    sessions: int = 20
    duplicate_share: float = 0.5
    FOR_SECONDS_MIN = 1.0

    EXPECTS = "without a slot for a reader payments go on; what needs the past waits, and goes on"

    def prepare(self, stage: Stage) -> None:
        stage.alter(WINDOW_EVENTS=self.window_events)

    def joined(self, stage: Stage, options: Options) -> None:
        own = msgspec.structs.replace(
            options, rate=self.rate, batch=1, sessions=self.sessions, connections=1, accounts=100,
            seed=(options.seed or 0) + 1, duplicate_share=self.duplicate_share,
        )  # fmt: skip
        stage.pay(own, "who asks again", is_pictured=False)

    def begin(self, stage: Stage) -> None:
        self.beside = Beside("keeps-readers", stage.directory)
        stage.closing.callback(self.beside.stop)
        self.beside.start()
        self.held = self.beside.wait_held()
        self.accepted = stage.payers[0].accepted()
        self.files = self._files(stage)

    def _files(self, stage: Stage) -> set[str]:
        return {one.name for one in (stage.directory / "state").iterdir()}

    def end(self, stage: Stage) -> None:
        meanwhile = stage.payers[0].accepted() - self.accepted
        self.beside.stop()
        if not self.held:
            stage.broken.append(("scenario", "no slot was held"))
        if not meanwhile:
            stage.broken.append(("live", "nobody could pay while all readers' slots were held"))
        stage.seen.append(f"{self.held} slots held; {meanwhile:,} payments meanwhile")
        stage.figures |= {"slots_held": self.held, "payments_meanwhile": meanwhile}

    def stopped(self, stage: Stage) -> None:
        if self._files(stage) == self.files:
            stage.broken.append(("live", "nothing was sealed any more"))


# Before the server's command: what its standard descriptors are.
DEAF = {
    "full": "exec 2>/dev/full",
    "broken-pipe": "exec 2> >(exec true)",
    "closed": "exec 0<&- 2>&-",
}


class DeafLog(Trouble, tag="deaf-log", kw_only=True):
    """The server is started again with a standard error on a full disk, into a pipe that nobody
    reads, or closed; then strangers make it write lines."""

    how: Literal["full", "broken-pipe", "closed"]

    EXPECTS = "a log that cannot be written decides nothing: the server starts, serves and ends"

    def missing(self) -> str | None:
        return None if shutil.which("bash") else "bash is not installed"

    def begin(self, stage: Stage) -> None:
        self._start(stage, ["bash", "-c", f'{DEAF[self.how]}; exec "$@"', "deaf"])
        host, port = parse_address(stage.server.address)
        for n in range(GARBAGE_CONNECTIONS if not stage.is_down else 0):
            with socket.create_connection((host, port)) as stranger:
                stranger.sendall(bytes([n]) * 512)
        stage.seen.append(f"standard error {self.how}: {GARBAGE_CONNECTIONS} strangers")

    def end(self, stage: Stage) -> None:
        self._start(stage, [])

    def _start(self, stage: Stage, prefix: list[str]) -> None:
        """End the server in good order, and start it with these words before its command."""
        if not stage.is_down:
            stage.is_down = True
            code = stage.server.terminate()
            if code != Exit.OK:
                what = f"SIGTERM ended the server with {code} (standard error {self.how})"
                stage.broken.append(("live", what))
        stage.server.put_before(prefix)
        stage.restart()
