"""A peer of the protocol by hand: one socket, the sessions over it, and frames as bytes.

What lives here: a connection that gives out whole frames as they came, and a session that outlives
its connections, remembers its last request and reply byte for byte, and sends nothing by itself: a
test decides what is sent, when, and how often. It knows frames and operations, not what results
should be.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.facts import schema
from ledger.facts.schema import Operation, Verdict
from ledger.journal import _check
from ledger.wire._codec import ClientCodec

RELEASE = 0x1109  # 0.17.9
HEADER_BYTES = 256
TIMEOUT_SECONDS = 60.0  # a test that waits longer has failed
Rows = NDArray[Any]


class Closed(Exception):
    """The server closed the connection, or it broke."""


def size_of(frame: bytes | bytearray) -> int:
    return int.from_bytes(frame[96:100], "little")


def command_of(frame: bytes) -> int:
    return frame[114]


class Peer:
    """A connection."""

    def __init__(self, address: str, receive_bytes: int = 0) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket()
        if receive_bytes:  # must be said before the connection is made
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(TIMEOUT_SECONDS)
        try:
            self.socket.connect((host, int(port)))
        except ConnectionError as error:
            self.socket.close()
            raise Closed from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except ConnectionError as error:
            raise Closed from error

    def frame(self) -> bytes:
        """The next whole frame as it came. Closed when none will come."""
        while (frame := self._whole()) is None:
            self._receive()
        return frame

    def frames(self) -> list[bytes]:
        """What one read of the socket, which has something, completes."""
        self._receive()
        return list(iter(self._whole, None))

    def _whole(self) -> bytes | None:
        if len(self._buffer) < HEADER_BYTES or len(self._buffer) < size_of(self._buffer):
            return None
        frame = bytes(self._buffer[: size_of(self._buffer)])
        del self._buffer[: len(frame)]
        return frame

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError as error:
            raise Closed from error
        if not data:
            raise Closed
        self._buffer += data

    def wait_closed(self) -> bytes:
        """All that still comes until the server closes."""
        try:
            while True:
                self._receive()
        except Closed:
            return bytes(self._buffer)

    def wait_answer(self) -> bytes:
        """The next frame, or nothing when the server closes instead."""
        try:
            return self.frame()
        except Closed:
            return b""

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Session:
    """A client id and what it last said and heard."""

    def __init__(self, cluster: int = 0, release: int = RELEASE, client: int = 0) -> None:
        self.codec = ClientCodec(cluster, release)
        self.client = client or secrets.randbits(127) + 1
        self.session = 0
        self.number = 0
        self.parent = 0
        self.request = b""  # the last frame sent and the one that answered it
        self.reply = b""

    def register_frame(self) -> bytes:
        self.request = self.codec.encode_register(self.client)
        return self.request

    def request_frame(
        self, operation: int, events: bytes, counts: Iterable[int] | None = None
    ) -> bytes:
        """The next request; it becomes the last one."""
        if counts is None:
            counts = [len(events) // schema.SHAPES[Operation(operation)].event.itemsize]
        self.number += 1
        self.request = self.codec.encode_request(
            self.client, self.session, self.number, self.parent, operation, events,
            np.array(counts, np.uint16),
        )  # fmt: skip
        return self.request

    def read(self, frame: bytes) -> np.void:
        """A frame from the server as a REPLY record; the reply to the last request is kept."""
        replies = np.zeros(1, schema.REPLY)
        count, _, _, error = self.codec.parse_replies(frame, 0, len(frame), replies)
        assert (count, error) == (1, 0), f"a client would close the connection: error {error}"
        reply = replies[0]
        if reply["verdict"] == Verdict.REPLY:
            assert frame[128:144] == self.request[:16], "a reply to another request: clients abort"
            assert frame[192:208] == self.client.to_bytes(16, "little")
            self.reply = frame
            self.parent = schema.int_of(reply["context"])
            if reply["operation"] == Operation.REGISTER:
                self.session = int(reply["position"])
        return reply

    def results(self, frame: bytes) -> Rows:
        """The results of a reply, all batches one after the other."""
        reply = self.read(frame)
        assert reply["verdict"] == Verdict.REPLY, f"evicted: reason {reply['reason']}"
        start = int(reply["payload_offset"])
        end = start + int(reply["payload_bytes"])
        shape = schema.SHAPES[Operation(int(reply["operation"]))]
        return np.frombuffer(frame[start:end], shape.result)

    # ---- over a connection ----------------------------------------------------------------------

    def register(self, peer: Peer) -> Session:
        peer.send(self.register_frame())
        assert self.read(peer.frame())["verdict"] == Verdict.REPLY
        assert self.session > 0
        return self

    def ask(self, peer: Peer, operation: int, events: Any, counts: Any = None) -> Rows:
        """Send the next request and return its results."""
        raw = events.tobytes() if isinstance(events, np.ndarray) else events
        peer.send(self.request_frame(operation, raw, counts))
        return self.results(peer.frame())

    def resend(self, peer: Peer) -> bytes:
        """Send the last request again, byte for byte; the frame that answers it."""
        peer.send(self.request)
        return peer.frame()

    def reason(self, peer: Peer, frame: bytes) -> int:
        """Send a frame that must be answered by an eviction; its reason."""
        peer.send(frame)
        reply = self.read(peer.frame())
        assert reply["verdict"] == Verdict.EVICT, f"verdict {reply['verdict']}"
        return int(reply["reason"])


# ---- frames that break a rule -------------------------------------------------------------------


def altered_frame(frame: bytes, offset: int, data: bytes, seal: bool = True) -> bytes:
    """The frame with `data` at `offset`, and right checks again unless `seal` is False."""
    changed = bytearray(frame)
    offset %= len(frame)
    changed[offset : offset + len(data)] = data
    if seal:
        changed[32:48] = _check.aegis(bytes(changed[HEADER_BYTES:]))
        changed[0:16] = _check.aegis(bytes(changed[16:HEADER_BYTES]))
    return bytes(changed)


# ---- events -------------------------------------------------------------------------------------


def accounts(first: int, count: int, flags: int = 0, ledger: int = 1) -> Rows:
    rows = np.zeros(count, schema.ACCOUNT)
    rows["id"][:, 0] = np.arange(first, first + count)
    rows["ledger"], rows["code"], rows["flags"] = ledger, 1, flags
    return rows


def transfers(first: int, count: int, debit: int = 1, credit: int = 2, amount: int = 1) -> Rows:
    rows = np.zeros(count, schema.TRANSFER)
    rows["id"][:, 0] = np.arange(first, first + count)
    rows["debit_account_id"][:, 0], rows["credit_account_id"][:, 0] = debit, credit
    rows["amount"][:, 0], rows["ledger"], rows["code"] = amount, 1, 1
    return rows


def ids(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(16, "little") for number in numbers)


def opened(address: str, cluster: int = 0) -> tuple[Peer, Session]:
    """A connection with a registered session."""
    peer = Peer(address)
    return peer, Session(cluster).register(peer)


def with_accounts(address: str, count: int = 2, flags: int = 0) -> tuple[Peer, Session]:
    """The same, and accounts 1 to `count`."""
    peer, session = opened(address)
    session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(1, count, flags))
    return peer, session


def posted(peer: Peer, session: Session, account: int = 1) -> int:
    """What was debited of an account."""
    [row] = session.ask(peer, Operation.LOOKUP_ACCOUNTS, ids(account))
    return schema.int_of(row["debits_posted"])


def serves(address: str) -> bool:
    """Whether a new client gets a payment through."""
    peer, session = opened(address)
    base = secrets.randbits(62)
    with peer:
        session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(base, 2))
        made = session.ask(peer, Operation.CREATE_TRANSFERS, transfers(base, 1, base, base + 1))
        return bool(made["status"][0] == schema.TransferStatus.CREATED)
