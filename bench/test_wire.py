"""How fast frames are checked, read and written: the codec's two ends, and the check itself.

One full frame (1 MiB) shows bytes a second, a buffer of frames with one payment each shows frames
a second. It knows no core and no socket.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import workload
from bench.conftest import Measure
from bench.workload import EVENTS
from ledger.facts import limits, schema
from ledger.facts.schema import Operation, Verdict
from ledger.journal import _check
from ledger.wire._codec import ClientCodec, Codec

CLIENT = 7
SINGLES = 2_000
SERVER = Codec(0, limits.RELEASE, limits.RELEASE_MIN)
PEER = ClientCodec(0, limits.RELEASE)


def request(number: int, events: int) -> bytes:
    rows = workload.transfers(number, events).tobytes()
    counts = np.array([events], np.uint16)
    return PEER.encode_request(CLIENT, 1, number + 1, 0, Operation.CREATE_TRANSFERS, rows, counts)


def answers(count: int, events: int) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """The arguments of Codec.encode for `count` replies of `events` results each."""
    rows = np.zeros(count, schema.ANSWER)
    rows["verdict"], rows["operation"] = Verdict.REPLY, Operation.CREATE_TRANSFERS
    rows["client"][:, 0] = CLIENT
    rows["position"] = rows["timestamp"] = rows["number"] = rows["batch_count"] = 1
    rows["release"] = limits.RELEASE
    rows["payload_bytes"] = events * schema.CREATE_RESULT.itemsize
    counts = np.array([events], np.uint16)
    return rows, count, np.zeros(events * schema.CREATE_RESULT.itemsize, np.uint8), counts


@pytest.mark.parametrize(
    ("frames", "events"), [(1, EVENTS), (SINGLES, 1)], ids=["one full", "singles"]
)
class TestFrames:
    """Either one frame of as many payments as fit, or many frames of one."""

    def test_read_requests(self, measure: Measure, frames: int, events: int) -> None:
        buffer = b"".join(request(number, events) for number in range(frames))
        arrivals = np.zeros(frames, schema.ARRIVAL)
        measure(
            lambda: SERVER.parse(buffer, 0, len(buffer), arrivals),
            count=frames * events,
            rounds=200,
        )
        assert (arrivals["verdict"] == Verdict.REPLY).all()
        assert int(arrivals["event_count"].sum()) == frames * events

    def test_write_replies(self, measure: Measure, frames: int, events: int) -> None:
        arguments = answers(frames, events)
        measure(SERVER.encode, lambda: arguments, count=frames * events, rounds=200)

    def test_read_replies(self, measure: Measure, frames: int, events: int) -> None:
        buffer = SERVER.encode(*answers(frames, events))
        replies = np.zeros(frames, schema.REPLY)
        measure(
            lambda: PEER.parse_replies(buffer, 0, len(buffer), replies),
            count=frames * events,
            rounds=200,
        )
        assert (replies["verdict"] == Verdict.REPLY).all()


@pytest.mark.parametrize("events", [EVENTS, 1], ids=["full", "single"])
def test_write_a_request(measure: Measure, events: int) -> None:
    rows = workload.transfers(0, events).tobytes()
    counts = np.array([events], np.uint16)
    arguments = (CLIENT, 1, 1, 0, Operation.CREATE_TRANSFERS, rows, counts)
    measure(PEER.encode_request, lambda: arguments, count=events, rounds=200)


@pytest.mark.parametrize("check", [_check.aegis, _check.aegis_portable], ids=["fast", "portable"])
def test_check_of_a_mebibyte(measure: Measure, check: object) -> None:
    body = np.random.default_rng(1).bytes(limits.MESSAGE_BYTES_MAX)
    measure(check, lambda: (body,), count=1, unit="MiB", rounds=50)
    assert _check.aegis(body) == _check.aegis_portable(body)
