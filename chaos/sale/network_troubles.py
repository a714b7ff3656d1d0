"""Troubles between payers and server: a far link, lost replies and a storm of resends, clients that
stop, do not read, or leave without a word.
"""

from __future__ import annotations

import contextlib
import secrets
import socket

import msgspec

from chaos.machine import tunlink
from chaos.sale.stage import Stage
from chaos.sale.trouble import Trouble
from ledger.client.connection import parse_address
from ledger.facts.limits import MESSAGE_HEADER_BYTES, RELEASE
from ledger.load.report import BUCKETS, Options
from ledger.wire._codec import ClientCodec

CLOSED_SECONDS_MAX = 10.0
PINGS = 256  # in one write of a client that does not read
RECEIVE_BYTES = 4096


class Storm(Trouble, tag="storm", kw_only=True):
    """For `for_seconds` replies get lost on their way; then every connection is reset at once, and
    every payer resends what it does not know the end of.
    """

    EXPECTS = "what was executed and not heard of is not executed again: each resend is answered"
    FOR_SECONDS_MIN = 0.1

    def prepare(self, stage: Stage) -> None:
        stage.wants_relay = True

    def begin(self, stage: Stage) -> None:
        assert stage.relay is not None
        stage.relay.lossy = True

    def end(self, stage: Stage) -> None:
        assert stage.relay is not None
        count = stage.relay.cut()
        stage.relay.lossy = False
        lost = stage.relay.replies_lost
        if not lost:
            stage.broken.append(("scenario", "no reply got lost"))
        stage.seen.append(f"{lost:,} replies lost, then {count} connections reset at once")
        stage.figures["replies_lost"] = lost


class FarLink(Trouble, tag="far-link", kw_only=True):
    """Packets take `delay_ms` each way, and `loss` of them never arrive."""

    delay_ms: tuple[float, float]
    loss: float = 0.0

    EXPECTS = "a far payer waits a round trip for each answer; many sessions still fill the link"

    def missing(self) -> str | None:
        return tunlink.missing()

    def prepare(self, stage: Stage) -> None:
        self.link = linked(stage)

    def begin(self, stage: Stage) -> None:
        self.link.change(delay_ms=self.delay_ms, loss=self.loss)
        self.steps = [len(payer.steps) for payer in stage.payers]

    def end(self, stage: Stage) -> None:
        counts = self.link.change(delay_ms=(0.0, 0.0), loss=0.0)
        stage.figures["packets"] = msgspec.to_builtins(counts)
        steps = stage.payers[0].steps[self.steps[0] :]
        seconds = max((steps[-1].at_ns - steps[0].at_ns) / 1e9, 1e-9) if steps else 0.0
        # What began before the link was far is answered in its first round trips.
        settled = [one for one in steps if one.at_ns - steps[0].at_ns > 10 * self._trip_ns()]
        fastest = min((one.buckets[0][0] for one in settled if one.buckets), default=-1)
        if fastest < 0:
            stage.broken.append(("live", "nothing was answered over the far link"))
            return
        ms = float(BUCKETS[fastest]) / 1e6
        rate = (steps[-1].accepted - steps[0].accepted) / seconds
        sessions = stage.payers[0].options.sessions * stage.payers[0].options.connections
        stage.figures |= {"far_latency_min_ms": round(ms, 1), "far_payments_per_second": int(rate)}
        if ms < 2 * self.delay_ms[0]:
            stage.broken.append(("scenario", f"a round trip took {ms:.1f} ms: no far link"))
        stage.seen.append(
            f"{self.delay_ms[0]:g}-{self.delay_ms[1]:g} ms each way, {self.loss:.1%} lost: at least"
            f" {ms:.0f} ms an answer, {rate:,.0f} payments/s from {sessions} sessions"
        )

    def _trip_ns(self) -> float:
        return 2e6 * self.delay_ms[1]


class Partition(Trouble, tag="partition", kw_only=True):
    """Nothing arrives, one way (`there`, `back`) or both."""

    there: bool = True
    back: bool = True

    EXPECTS = "who was cut off resends when the link is back, and pays once"

    def missing(self) -> str | None:
        return tunlink.missing()

    def prepare(self, stage: Stage) -> None:
        self.link = linked(stage)

    def begin(self, stage: Stage) -> None:
        self.link.partition(there=self.there, back=self.back)

    def end(self, stage: Stage) -> None:
        self.link.heal()
        stage.seen.append(f"cut off for {self.for_seconds:.1f} s")


def linked(stage: Stage) -> tunlink.Link:
    """The link between payers and server, made when it is first wanted."""
    if stage.link is None:
        stage.link = stage.closing.enter_context(tunlink.Link(stage.draw.seed))
    return stage.link


class Zombie(Trouble, tag="zombie", kw_only=True):
    """A payer of its own stands still for longer than its connections live, and then goes on where
    it was. `deadline_seconds` is when the server closes who says nothing or reads nothing.
    """

    rate: float = 200.0
    sessions: int = 20
    deadline_seconds: float = 2.0

    EXPECTS = "a payer that slept comes back to its sessions, and nobody else noticed"

    def wrong(self) -> str | None:
        if self.for_seconds <= self.deadline_seconds:
            return "for_seconds must be over deadline_seconds"
        return super().wrong()

    def prepare(self, stage: Stage) -> None:
        shorten(stage, self.deadline_seconds)

    def joined(self, stage: Stage, options: Options) -> None:
        own = msgspec.structs.replace(
            options, rate=self.rate, batch=1, sessions=self.sessions, connections=1, accounts=100,
            seed=(options.seed or 0) + 1,
        )  # fmt: skip
        self.payer = stage.pay(own, "the zombie", is_pictured=False)

    def begin(self, stage: Stage) -> None:
        self.payer.pause()
        self.at = len(self.payer.steps)

    def end(self, stage: Stage) -> None:
        others = stage.payers[0]
        asleep_ns = others.steps[-1].at_ns - int(self.for_seconds * 1e9)
        meanwhile = others.steps[-1].accepted - next(
            (one.accepted for one in others.steps if one.at_ns >= asleep_ns), 0
        )
        self.payer.resume()
        if not meanwhile:
            stage.broken.append(("live", "nobody paid while one client stood still"))
        stage.seen.append(
            f"one client stood still for {self.for_seconds:.1f} s (its connection lives"
            f" {self.deadline_seconds:g} s); the others paid {meanwhile:,} meanwhile"
        )

    def stopped(self, stage: Stage) -> None:
        report = self.payer.report
        if report is not None:
            stage.figures["zombie_reconnects"] = report.reconnects
            if not report.reconnects:
                stage.broken.append(("bounded", "the zombie's connection was kept"))


class DeadConnections(Trouble, tag="dead-connections", kw_only=True):
    """So many clients that ask and never read, that stop in the middle of a frame, and that say
    nothing at all. The server's deadlines are made `deadline_seconds` for this.
    """

    never_reads: int = 0
    half_a_frame: int = 0
    silent: int = 0
    deadline_seconds: float = 2.0

    EXPECTS = "dead connections are closed at their deadline, their descriptors return"

    def prepare(self, stage: Stage) -> None:
        shorten(stage, self.deadline_seconds)

    def begin(self, stage: Stage) -> None:
        self.before = stage.descriptors()
        self.open = [self._connect(stage) for _ in range(self.silent)]
        ping = ClientCodec(0, RELEASE).encode_ping(1 + secrets.randbits(64), 0, 1)
        for _ in range(self.half_a_frame):
            self.open.append(self._connect(stage))
            self.open[-1].sendall(ping[: MESSAGE_HEADER_BYTES // 2])
        for _ in range(self.never_reads):
            self.open.append(self._connect(stage))
            self.open[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError, OSError):
                for _ in range(1 << 16):
                    self.open[-1].sendall(ping * PINGS)

    def _connect(self, stage: Stage) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        made.connect(parse_address(stage.server.address))
        return made

    def end(self, stage: Stage) -> None:
        back = stage.until(lambda: stage.descriptors() <= self.before, CLOSED_SECONDS_MAX)
        now = stage.descriptors()
        for one in self.open:
            one.close()
        if not back:
            what = f"{self.before} descriptors became {now}, with dead connections"
            stage.broken.append(("bounded", what))
        count = len(self.open)
        stage.seen.append(f"{count} dead connections: {self.before} descriptors, then {now}")


def shorten(stage: Stage, seconds: float) -> None:
    """The server's deadlines for connections, so that no scenario waits out its minutes."""
    stage.alter(IDLE_SECONDS_MAX=seconds, FRAME_SECONDS_MAX=seconds, SEND_SECONDS_MAX=seconds,
                SWEEP_SECONDS=0.25)  # fmt: skip
