"""What takes a door's memory: requests that are answered by megabytes, and how much it has."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

from chaos.process import Server
from ledger.facts import schema
from ledger.facts.schema import Operation
from tests.support.raw import Peer, Session, transfers, with_accounts


def memory_bytes(server: Server) -> int:
    """What the server's process has in memory now."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def full_queries(peer: Peer, session: Session, count: int) -> bytes:
    """That many requests, each of which is answered by a full megabyte."""
    filter = np.zeros(1, schema.ACCOUNT_FILTER)
    filter["account_id"][:, 0], filter["limit"], filter["flags"] = 1, 8189, 1
    return b"".join(
        session.request_frame(Operation.GET_ACCOUNT_TRANSFERS, filter.tobytes())
        for _ in range(count)
    )


def with_megabyte(address: str) -> tuple[Peer, Session]:
    """A client, and an account whose transfers fill a reply."""
    peer, session = with_accounts(address)
    assert len(session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1, 8189))) == 8189
    return peer, session
