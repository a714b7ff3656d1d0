"""A machine on real parts (recovery, core, engine, journal, codec), and a plain list of sessions.

Clients speak frames over a few connections; a runner moved by hand decides when a group is handed
over, when it is durable, and when the engine hears of it, and the process may die between any two.
After each step every connection must have got exactly the frames that the oracle says, a resend its
original reply byte for byte. What a payment comes to is known only as far as exactly-once needs it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chaos.model import Result, TransferStatus, decode_all, encode
from chaos.sim.server import configured, memory
from ledger.engine import assembly, recovery
from ledger.engine.ports import Answers
from ledger.facts import limits, schema
from ledger.facts.schema import EvictionReason, JournalKind, Operation, Verdict
from ledger.journal.body import DTYPES
from ledger.wire._codec import ClientCodec, Codec
from tests.oracles import reference_codec as reference
from tests.support.core_book import account, pay
from tests.support.engine_parts import Clock, Runner, Submitter, requests
from tests.support.properties import bounded

CLUSTER, RELEASE, SESSIONS_MAX = 5, limits.RELEASE, 3
CODEC = Codec(CLUSTER, RELEASE, limits.RELEASE_MIN)
CLIENTS = {release: ClientCodec(CLUSTER, release) for release in (RELEASE, RELEASE - 1)}
REGISTER = int(reference.REGISTER)
Expected = bytes | tuple[int, int]  # a frame, or an eviction's client and reason


class Peer:
    """A connection: what was made for it, and what has reached it."""

    def __init__(self, route: int) -> None:
        self.route = route
        self.made: list[bytes] = []
        self.got: list[bytes] = []
        self.expected: list[Expected] = []

    def of(self, arrival: int) -> Peer:
        return self

    def take(self, answers: Answers, made: int) -> tuple[bytes, int]:
        frame = CODEC.encode(answers.records, made, answers.payload, answers.counts)
        if frame:
            self.made.append(frame)
        return frame, len(frame)

    def deliver(self, taken: bytes) -> None:
        self.got.append(taken)

    def full(self) -> bool:
        return False

    def check(self) -> None:
        assert len(self.got) == len(self.expected), f"connection {self.route}"
        for got, expected in zip(self.got, self.expected, strict=True):
            if isinstance(expected, bytes):
                assert got == expected, "the original reply, byte for byte"
            else:
                header = reference.read_header(got)
                assert (header["command"], len(got)) == (reference.EVICTION, 256)
                assert (header["client"], header["reason"]) == expected


# ---- the oracle ----------------------------------------------------------------------------------


@dataclass
class Session:
    number: int
    release: int
    request: int  # number of the last request that was executed and creates
    checksum: bytes
    reply: bytes
    group: int
    asked: tuple[int, int, int] = (0, 0, 0)  # connection, request, the group its answer waits for


@dataclass
class State:
    """What a crash brings back as it was at the end of a group."""

    sessions: dict[int, Session] = field(default_factory=dict)  # by client, last heard of last
    journaled: list[int] = field(default_factory=list)  # the same clients, by what is journaled
    paid: dict[int, int] = field(default_factory=dict)  # id: timestamp
    evicted: list[tuple[int, int]] = field(default_factory=list)  # client, session
    position: int = 0


class Sessions:
    """The rules of sessions, and which group an answer waits for."""

    def __init__(self) -> None:
        self.state = State()
        self.ends: dict[int, State] = {}  # of each group that was closed
        self.begin(1)

    def begin(self, told: int) -> None:
        self.told = self.written = self.handed = told
        self.open, self.holds_records = told + 1, True

    @property
    def newest(self) -> int:
        return self.open if self.holds_records else self.open - 1

    def close_group(self) -> None:
        """The open group is handed over, if it holds anything, none is on its way to the disk and
        no two are untold."""
        if self.holds_records and self.handed == self.written < self.told + 2:
            self.ends[self.open] = deepcopy(self.state)
            self.handed, self.open, self.holds_records = self.open, self.open + 1, False

    def write(self, free: bool) -> None:
        self.written = self.handed
        if free:
            self.close_group()

    def durable(self) -> None:
        self.told += 1
        self.close_group()

    def crash(self, group: int) -> None:
        self.state = deepcopy(self.ends[group])
        state = self.state
        state.sessions = {client: state.sessions[client] for client in state.journaled}
        for session in state.sessions.values():
            session.asked = (0, 0, 0)
        self.begin(group)

    def judge(self, header: dict[str, int], checksum: bytes, route: int) -> str:
        """drop, resend, execute, or the reason of an eviction."""
        client, number = header["client"], header["request"]
        registers = header["operation"] == REGISTER
        session = self.state.sessions.get(client)
        if session is None:
            return "execute" if registers else "NO_SESSION"
        if not registers:
            if session.number > header["session"]:
                return "SESSION_TOO_LOW"
            if session.number < header["session"]:
                return "NO_SESSION"
            if session.release != header["release"]:
                return "SESSION_RELEASE_MISMATCH"
        if number < session.request:
            return "drop"
        self.state.sessions[client] = self.state.sessions.pop(client)
        if session.asked[:2] == (route, number) and session.asked[2] > self.told:
            return "drop"
        if number > session.request:
            return "execute"
        if checksum != session.checksum:
            return "drop"
        session.asked = route, number, max(session.group, self.told)
        return "resend"

    def register(self, client: int, checksum: bytes, release: int, number: int) -> Session:
        state = self.state
        if len(state.sessions) == SESSIONS_MAX:
            victim = next(iter(state.sessions))
            state.evicted.append((victim, state.sessions.pop(victim).number))
            state.journaled.remove(victim)
        state.sessions[client] = Session(number, release, 0, checksum, b"", self.open)
        state.journaled.append(client)
        return state.sessions[client]

    def create(self, client: int, number: int, checksum: bytes) -> Session:
        session = self.state.sessions[client]
        session.request, session.checksum, session.group = number, checksum, self.open
        self.state.journaled.remove(client)
        self.state.journaled.append(client)
        return session


# ---- the machine ---------------------------------------------------------------------------------

clients = st.integers(1, 5)
any_client = st.integers(0, 11)  # mostly one that has a session
routes = st.integers(0, 2)
payment_ids = st.lists(st.integers(1, 12), max_size=3)


class SessionMachine(RuleBasedStateMachine):
    """Five clients, room for three sessions, three connections."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="sessions-", dir=memory()))
        self.places = (self.root / str(n) for n in itertools.count())
        self.clock = Clock()
        self.model = Sessions()
        self.sent: dict[int, list[bytes]] = {}
        self.numbers: dict[int, tuple[int, int]] = {}  # client: session and last number it used
        self.parts: assembly.Parts | None = None

    # ---- the process ----------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.book = next(self.places)
        self._start()
        arrivals, buffer = requests((Operation.CREATE_ACCOUNTS, [account(1), account(2)]))
        self.engine.submit(Submitter(), buffer, arrivals, 1)
        for client in (1, 2):
            self.register(client, 0, RELEASE)

    def _start(self) -> None:
        with configured({"SESSIONS_MAX": SESSIONS_MAX}):
            self.parts = recovery.recover(self.book, CLUSTER, accept_clock=True)
        self.parts.clock = self.clock
        self.runner = Runner()
        self.engine = self.parts.engine(self.runner)
        self.core = self.parts.core
        self.parts.buffers.turnstile = self.runner.turnstile
        self.engine.start(self.clock.ns, RELEASE, recovery.start_id())
        self.tells: list[Any] = []
        self.waiting: list[tuple[int, Peer, Expected]] = []
        self.peers = [Peer(route) for route in range(1, 4)]

    @rule(written=st.booleans())
    def crash_and_recover(self, written: bool) -> None:
        """What the directory holds now is what a power cut leaves; no one closed it. An append on
        its way has reached the disk or it has not."""
        if written and self.runner.jobs:
            self.reach_the_disk(False)
        left, self.book = self.book, next(self.places)
        shutil.copytree(left, self.book)
        journaled = self.parts.journal.group
        self.parts.close()
        shutil.rmtree(left)
        self._start()
        assert self.parts.journal.group == journaled
        if journaled == 1:  # the accounts went with the open group
            self.parts.close()
            self.model = Sessions()
            self.begin()
        else:
            self.model.crash(journaled)

    @rule()
    def hand_over(self) -> None:
        """The turn that the engine asked for. It asks for none while an append is under way: then
        whoever tells it of that append sees to what is open."""
        asked = bool(self.runner.callbacks)
        self.runner.turn()
        if asked:
            self.model.close_group()

    @precondition(lambda self: self.runner.jobs)
    @rule(free=st.booleans())
    def reach_the_disk(self, free: bool) -> None:
        """The append is durable; the engine has not heard. When nobody is at work in it, what is
        open follows at once."""
        self.runner.turnstile.free = free
        self.tells.append(self.runner.write())
        self.model.write(free)

    @precondition(lambda self: self.tells)
    @rule()
    def hear_of_it(self) -> None:
        self.tells.pop(0)()
        self.model.durable()
        due = [one for one in self.waiting if one[0] <= self.model.told]
        self.waiting = [one for one in self.waiting if one[0] > self.model.told]
        for _, peer, expected in due:
            peer.expected.append(expected)

    @rule()
    def settle(self) -> None:
        for _ in range(4):
            self.hand_over()
            if self.runner.jobs:
                self.reach_the_disk(False)
            if self.tells:
                self.hear_of_it()
        assert self.engine.idle

    # ---- the clients ----------------------------------------------------------------------------

    @rule(client=clients, route=routes, release=st.sampled_from([RELEASE] * 4 + [RELEASE - 1]))
    def register(self, client: int, route: int, release: int) -> None:
        self._ask(CLIENTS[release].encode_register(client), route)

    @rule(client=any_client, route=routes, ids=payment_ids, gap=st.sampled_from([1, 1, 1, 5]))
    def pay(self, client: int, route: int, ids: list[int], gap: int) -> None:
        client = self._one(client)
        session, number = self.numbers.get(client, (77, 0))
        self.numbers[client] = session, number + gap
        self._ask(self._payment(client, session, number + gap, ids), route)

    @rule(client=any_client, route=routes, back=st.integers(0, 3), ids=payment_ids,
          release=st.sampled_from([0, 0, 1]), other=st.sampled_from([0, 0, -1, 1]))  # fmt: skip
    def pay_wrongly(self, client: int, route: int, back: int, release: int, other: int,
                    ids: list[int]) -> None:  # fmt: skip
        """A used number with other contents, another session's number, another release."""
        client = self._one(client)
        session, number = self.numbers.get(client, (77, 0))
        session, number = max(1, session + other), max(1, number + 1 - back)
        self._ask(self._payment(client, session, number, ids, RELEASE - release), route)

    @rule(client=any_client, route=routes, ahead=st.integers(0, 2))
    def read(self, client: int, route: int, ahead: int) -> None:
        client = self._one(client)
        session, number = self.numbers.get(client, (77, 0))
        events = (1).to_bytes(16, "little")
        frame = CLIENTS[RELEASE].encode_request(
            client, session, max(1, number + ahead), 0, Operation.LOOKUP_ACCOUNTS, events,
            np.array([1], np.uint16),
        )  # fmt: skip
        self._ask(frame, route)

    @rule(client=any_client, route=routes, back=st.sampled_from([0, 0, 0, 1, 2]))
    def send_again(self, client: int, route: int, back: int) -> None:
        """The last one, or one before it, over this connection or another."""
        sent = self.sent.get(self._one(client), [])
        if sent:
            self._ask(sent[-1 - back % len(sent)], route)

    def _one(self, which: int) -> int:
        """A client that has a session, where there is one, or now and then any."""
        there = sorted(self.model.state.sessions)
        return which % 5 + 1 if which > 9 or not there else there[which % len(there)]

    @staticmethod
    def _payment(client: int, session: int, number: int, ids: list[int],
                 release: int = RELEASE) -> bytes:  # fmt: skip
        events = b"".join(encode(pay(id)) for id in ids)
        return CLIENTS[release].encode_request(
            client, session, number, 0, Operation.CREATE_TRANSFERS, events,
            np.array([len(ids)], np.uint16),
        )  # fmt: skip

    # ---- what comes of it -----------------------------------------------------------------------

    def _ask(self, frame: bytes, route: int) -> None:
        header, checksum = reference.read_header(frame), frame[:16]
        if header["operation"] in (REGISTER, Operation.CREATE_TRANSFERS):
            self.sent[header["client"]] = [*self.sent.get(header["client"], []), frame][-4:]
        self.clock.ns += 1000
        peer = self.peers[route]
        arrivals = np.zeros(1, schema.ARRIVAL)
        assert CODEC.parse(frame, 0, len(frame), arrivals, 0, route) == (1, len(frame), 0, 0)
        assert arrivals["verdict"][0] == Verdict.REPLY
        verdict = self.model.judge(header, checksum, peer.route)
        made = len(peer.made)
        assert self.engine.submit(peer, frame, arrivals, 1) == 1
        if verdict == "drop":
            assert len(peer.made) == made, "no answer"
        elif verdict == "resend":
            session = self.model.state.sessions[header["client"]]
            self._expect(session.group, peer, session.reply)
        elif verdict == "execute":
            assert len(peer.made) == made + 1
            self._executed(peer, header, checksum)
        else:
            reason = int(EvictionReason[verdict])
            self._expect(self.model.newest, peer, (header["client"], reason))

    def _executed(self, peer: Peer, asked: dict[str, int], checksum: bytes) -> None:
        """Something new was done: its reply is right, and from now on the original one."""
        model, state, client, frame = self.model, self.model.state, asked["client"], peer.made[-1]
        reply = reference.read_header(frame)
        told = [reply[name] for name in ("client", "request", "operation", "release")]
        assert told == [asked[name] for name in ("client", "request", "operation", "release")]
        assert reply["request_checksum"].to_bytes(16, "little") == checksum
        if asked["operation"] == Operation.LOOKUP_ACCOUNTS:
            assert reply["op"] >= state.position
            session = state.sessions[client]
            session.asked = peer.route, asked["request"], model.newest
            self._expect(model.newest, peer, frame)
            return
        assert reply["op"] > state.position
        model.holds_records, state.position = True, reply["op"]
        if asked["operation"] == REGISTER:
            session = model.register(client, checksum, asked["release"], reply["op"])
            self.numbers[client] = reply["op"], 0
        else:
            session = model.create(client, asked["request"], checksum)
            self._paid(peer, frame, reply)
        session.reply = frame
        session.asked = peer.route, asked["request"], model.open
        self._expect(model.open, peer, frame)

    def _paid(self, peer: Peer, frame: bytes, reply: dict[str, int]) -> None:
        """Each id pays once; whoever sends it again is told when it did."""
        paid = self.model.state.paid
        counts = reference.batches_of(frame[256:], 16)
        results = decode_all(Result, frame[256 : 256 + 16 * sum(counts)])
        sent = next(f for sent in self.sent.values() for f in sent
                    if int.from_bytes(f[:16], "little") == reply["request_checksum"])  # fmt: skip
        ids = [int.from_bytes(sent[256 + 128 * n :][:16], "little") for n in range(len(results))]
        for id, result in zip(ids, results, strict=True):
            if id in paid:
                assert (result.status, result.timestamp) == (TransferStatus.exists, paid[id])
            else:
                assert result.status == TransferStatus.created
                paid[id] = result.timestamp

    def _expect(self, group: int, peer: Peer, expected: Expected) -> None:
        if group <= self.model.told:
            peer.expected.append(expected)
        else:
            self.waiting.append((group, peer, expected))

    # ---- what must hold -------------------------------------------------------------------------

    @invariant()
    def everyone_got_what_is_theirs(self) -> None:
        if self.parts is None:
            return
        for peer in self.peers:
            peer.check()
        counts = self.core.counts_by_kind
        assert counts["sessions"] == len(self.model.state.sessions)
        assert counts["transfers"] == len(self.model.state.paid), "one-effect"
        assert self.core.group == self.model.open
        assert self.engine.cause is None

    def teardown(self) -> None:
        try:
            if self.parts is not None:
                self._end()
        finally:
            if self.parts is not None:
                self.parts.close()
            shutil.rmtree(self.root)

    def _end(self) -> None:
        """After a last restart, every session's last request gets its original reply."""
        self.settle()
        self.crash_and_recover(False)
        self.settle()
        state = self.model.state
        for client, session in list(state.sessions.items()):
            for frame in self.sent[client]:
                if frame[:16] == session.checksum:
                    self._ask(frame, 0)
                    assert self.peers[0].got[-1] == session.reply
        self.everyone_got_what_is_theirs()
        assert self._evictions_journaled() == state.evicted

    def _evictions_journaled(self) -> list[tuple[int, int]]:
        found = []
        for _, body in self.parts.journal.read():
            at = 0
            while at < len(body):
                run = np.frombuffer(body, schema.RUN, 1, at)[0]
                at += schema.RUN.itemsize
                if run["kind"] == JournalKind.SESSION_EVICTED:
                    records = np.frombuffer(body, DTYPES[run["kind"]], run["count"], at)
                    found += [(schema.int_of(r["client"]), int(r["session"])) for r in records]
                at += int(run["bytes"])
        return found


TestSessions = SessionMachine.TestCase
TestSessions.settings = bounded(120, 40)
