"""Both ends of the codec against the reference, on frames of every kind, hurt in every way.

Frames are drawn whole, changed before they are sealed (then the rules must judge them) or after
(then the checks must), run together, cut at every byte and handed over in pieces. Whatever comes,
the codec says what the reference says: never an exception, never a frame that only one of them
takes, never a byte used twice or not at all. test_frame and test_wire hold the fixed tables.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from itertools import pairwise
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.facts.schema import Verdict
from ledger.journal import _check
from ledger.wire._codec import ClientCodec, Codec
from tests.oracles import reference_codec as reference
from tests.support.captured import RELEASE, counts_at, guarded, read
from tests.support.codec_checks import answers_of, assert_same_arrival, assert_same_reply
from tests.support.properties import bounded

RELEASE_MIN, CLUSTER, VIEW, BODY_MAX = 0x1100, 3, 9, 2048
CODEC = Codec(CLUSTER, RELEASE, RELEASE_MIN, view=VIEW, body_bytes_max=BODY_MAX)
SERVER = reference.Server(CLUSTER, RELEASE_MIN, BODY_MAX)
CLIENT = ClientCodec(CLUSTER, RELEASE)
OPERATIONS = sorted(reference.OPERATIONS)
Header = dict[str, int]
Frame = tuple[Header, bytes]  # before it is sealed


def with_fast_check() -> ModuleType:
    """The reference once more, with the codec's check in the place of its own.

    The plain check takes milliseconds a frame. test_check compares the two, and one property here
    keeps the plain one; all others see fifty times as many frames.
    """
    spec = find_spec(reference.__name__)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["aegis"] = _check.aegis
    return module


fast = with_fast_check()


# ---- frames --------------------------------------------------------------------------------------


def numbers(size: int, low: int = 0) -> st.SearchStrategy[int]:
    """Of so many bytes, the ends more often."""
    high = 2 ** (8 * size) - 1
    return st.one_of(st.sampled_from([low, low + 1, high]), st.integers(low, high))


@st.composite
def batches(draw: st.DrawFn, side: int) -> tuple[int, list[int], bytes]:
    """An operation, counts of batches, and their events (side 0) or results (1)."""
    operation = draw(st.sampled_from(OPERATIONS))
    element, limit = reference.OPERATIONS[operation][side], reference.OPERATIONS[operation][2]
    counts = draw(st.lists(st.integers(0, 3 if element > 16 else 12), min_size=1, max_size=10))
    if side == 0 and limit is not None and draw(st.integers(0, 9)):
        counts = [1] * min(len(counts), 4)
    elements = bytearray(Random(draw(st.integers(0, 2**32))).randbytes(sum(counts) * element))
    if side == 0 and limit is not None:
        for at in range(limit, len(elements), element):
            most = draw(st.sampled_from([0, 1, 100, 4_000, 8_189, 2**32 - 1]))
            elements[at : at + 4] = most.to_bytes(4, "little")
    return operation, counts, bytes(elements)


@st.composite
def requests(draw: st.DrawFn) -> Frame:
    operation, counts, events = draw(batches(0))
    values = {
        "command": reference.REQUEST, "release": draw(st.sampled_from([RELEASE, RELEASE_MIN])),
        "client": draw(numbers(16, 1)), "session": draw(numbers(8, 1)),
        "request": draw(numbers(4, 1)), "parent": draw(numbers(16)),
        "previous_request_latency": draw(numbers(4)), "operation": operation,
    }  # fmt: skip
    return values, events + reference.trailer(counts, reference.OPERATIONS[operation][0])


@st.composite
def registers(draw: st.DrawFn) -> Frame:
    values = {"command": reference.REQUEST, "release": RELEASE, "client": draw(numbers(16, 1))}
    return values | {"operation": 2}, bytes(draw(st.sampled_from([256, 256, 256, 0, 255])))


@st.composite
def pings(draw: st.DrawFn) -> Frame:
    values = {"command": reference.PING, "release": RELEASE, "client": draw(numbers(16, 1))}
    return values | {"session": draw(numbers(8)), "ping_timestamp": draw(numbers(8))}, b""


@st.composite
def replies(draw: st.DrawFn) -> Frame:
    operation, counts, results = draw(batches(1))
    op = draw(numbers(8, 1))
    values = {
        "command": reference.REPLY, "release": RELEASE, "client": draw(numbers(16, 1)),
        "request_checksum": draw(numbers(16)), "op": op, "commit": op,
        "timestamp": draw(numbers(8, 1)), "request": draw(numbers(4, 1)), "operation": operation,
        "view": draw(numbers(4)), "replica": draw(numbers(1)),
    }  # fmt: skip
    if draw(st.integers(0, 4)) == 0:
        limit = draw(st.sampled_from([0, 1, reference.BODY_MAX, reference.BODY_MAX + 1]))
        return values | {"request": 0, "operation": 2}, limit.to_bytes(64, "little")
    return values, results + reference.trailer(counts, reference.OPERATIONS[operation][1])


@st.composite
def pongs_and_evictions(draw: st.DrawFn) -> Frame:
    values = {"release": draw(numbers(4, 1))}
    if draw(st.booleans()):
        return values | {"command": reference.PONG, "ping_timestamp": draw(numbers(8))}, b""
    values |= {"client": draw(numbers(16, 1)), "reason": draw(st.integers(0, 9))}
    return values | {"command": reference.EVICTION}, b""


TO = {
    "server": st.one_of(requests(), requests(), requests(), registers(), pings(), replies()),
    "client": st.one_of(replies(), replies(), replies(), pongs_and_evictions(), requests()),
}


@st.composite
def frames(draw: st.DrawFn, to: str) -> bytes:
    """A frame with every check in place, lawful but for a few changes made before it was sealed."""
    values, body = draw(TO[to])
    values = {"cluster": CLUSTER, "size": 256 + len(body)} | values
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        body, changed = draw(st.one_of(changed_headers(values, body), changed_bodies(values, body)))
        values = values | changed
    return fast.seal(values, body)


@st.composite
def changed_headers(draw: st.DrawFn, values: Header, body: bytes) -> tuple[bytes, Header]:
    fields = reference.fields_of(values["command"])
    name = draw(st.sampled_from([*sorted(fields), "command", "operation", "release"]))
    if name in ("operation", "command", "release"):
        known = {"operation": [0, 2, 128, 139, 148, *OPERATIONS], "command": [3, 4, 5, 8, 18, 25]}
        near = [0, RELEASE_MIN - 1, RELEASE_MIN, RELEASE, RELEASE + 1]
        value = draw(st.sampled_from(known.get(name, near)))
    elif name in ("size", "cluster") and draw(st.integers(0, 3)):
        value = values[name]  # an error of the stream ends it: not too often
    else:
        value = draw(numbers(fields[name][1]))
    return body, {name: value}


@st.composite
def changed_bodies(draw: st.DrawFn, values: Header, body: bytes) -> tuple[bytes, Header]:
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["byte", "byte", "cut", "more", "insert"]))
        if kind == "more" or not changed:
            changed += draw(st.binary(min_size=1, max_size=40))
        elif kind == "byte":  # near the end lies the trailer
            most = draw(st.sampled_from([8, 130, len(changed)]))
            place = draw(st.integers(1, min(most, len(changed))))
            changed[-place] = draw(st.one_of(st.integers(0, 4), st.integers(0, 255)))
        elif kind == "cut":
            del changed[len(changed) - draw(st.sampled_from([1, 2, 15, 16, 64, 128])) :]
        else:
            at = draw(st.integers(0, len(changed)))
            changed[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(changed), {"size": 256 + len(changed)}


@st.composite
def streams(draw: st.DrawFn, to: str, frames_max: int = 4) -> bytes:
    """Frames one after the other, and what line noise makes of them."""
    stream = bytearray().join(draw(st.lists(frames(to), min_size=1, max_size=frames_max)))
    stream += draw(st.one_of(st.just(b""), st.binary(max_size=300)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, max(0, len(stream) - 1)))
        kind = draw(st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"]))
        if kind == "flip" and stream:
            stream[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            stream[at:at] = draw(st.binary(min_size=1, max_size=30))
        elif kind == "delete":
            del stream[at : at + draw(st.integers(1, 300))]
        elif kind == "truncate":
            del stream[at:]
        else:
            stream[at:at] = stream[at : at + draw(st.integers(1, 600))]
    return bytes(stream)


# ---- the ends ------------------------------------------------------------------------------------


class End:
    """One end of the codec, and what the reference makes of what reaches it."""

    def __init__(self, name: str, parse: Any, record: Any, assert_same: Any) -> None:
        self.name, self.parse, self.record, self.assert_same = name, parse, record, assert_same

    def judge(self, by: ModuleType, frame: bytes) -> dict[str, Any] | None:
        return by.judge(SERVER, frame) if self is SERVERS else by.judge_reply(RELEASE, frame)

    def reference(self, buffer: bytes, by: ModuleType) -> reference.Outcome:
        outcome = reference.Outcome()
        while outcome.consumed < len(buffer):
            rest = buffer[outcome.consumed :]
            outcome.needed, outcome.error = by.frame_at(rest, CLUSTER)
            if outcome.error is not None or outcome.needed > len(rest):
                break
            found = self.judge(by, rest[: outcome.needed])
            if found is None:
                outcome.needed, outcome.error = 0, "ANSWER"
                break
            outcome.found.append(found)
            outcome.consumed += outcome.needed
            outcome.needed = 0
        return outcome

    def assert_like_reference(self, stream: bytes, by: ModuleType = fast) -> None:
        records, consumed, needed, error = read(self.parse, self.record, stream)
        expected = self.reference(stream, by)
        assert (len(records), consumed) == (len(expected.found), expected.consumed)
        assert (needed, error) == (expected.needed, expected.error or "")
        start = 0
        for record, found in zip(records, expected.found, strict=True):
            self.assert_same(record, found, stream, start)
            start += int.from_bytes(stream[start + 96 : start + 100], "little")
        assert start == consumed <= len(stream)

    def plain(self, records: Any, buffer: bytes) -> list[dict[str, Any]]:
        """Records with what they point at in the place of their offsets."""
        found = []
        for record in records:
            row = {name: np.array(record[name]).tolist() for name in record.dtype.names}
            at, row["frame_offset"] = row["batches_offset"], 0
            row["batches_offset"] = counts_at(buffer, at, row["batch_count"]) if at else []
            place = row.pop("events_offset", None) or row.pop("payload_offset", 0)
            many = row.get("payload_bytes", 8)
            found.append(row | {"first": buffer[place : place + many] if place else b""})
        return found


SERVERS = End("server", CODEC.parse, schema.ARRIVAL, assert_same_arrival)
CLIENTS = End("client", CLIENT.parse_replies, schema.REPLY, assert_same_reply)
both_ends = pytest.mark.parametrize("end", [SERVERS, CLIENTS], ids=["server", "client"])


@given(stream=streams("server"))
@bounded(400)
def test_a_server_reads_every_stream_as_the_reference_does(stream: bytes) -> None:
    SERVERS.assert_like_reference(stream)


@given(stream=streams("client"))
@bounded(400)
def test_a_client_reads_every_stream_as_the_reference_does(stream: bytes) -> None:
    CLIENTS.assert_like_reference(stream)


@both_ends
@given(data=st.data())
@bounded(30)
def test_the_plain_check_says_the_same(end: End, data: st.DataObject) -> None:
    end.assert_like_reference(data.draw(streams(end.name, 2)), reference)


def in_pieces(end: End, pieces: list[bytes], capacity: int) -> tuple[list[dict[str, Any]], str]:
    """What a door makes of pieces: it keeps what is not consumed until more has come."""
    found: list[dict[str, Any]] = []
    rest, name = b"", ""
    for piece in pieces:
        rest += piece
        while not name:
            records, consumed, needed, name = read(end.parse, end.record, rest, capacity)
            found += end.plain(records, rest)
            rest = rest[consumed:]
            if name or needed == 0 or needed > len(rest):
                break
            assert len(records) == capacity, "a whole frame was left though there was room"
        if name:
            break
        header = int.from_bytes(rest[96:100], "little") if len(rest) >= 256 else 256
        assert needed == (header if rest else 0), "it says what it waits for"
    return found, name


@both_ends
@given(data=st.data())
@bounded(25)
def test_a_stream_cut_at_any_byte_reads_the_same(end: End, data: st.DataObject) -> None:
    stream = data.draw(streams(end.name, 2))
    whole = in_pieces(end, [stream], 64)
    for cut in range(len(stream) + 1):
        assert in_pieces(end, [stream[:cut], stream[cut:]], 64) == whole


@both_ends
@given(st.data(), st.lists(st.integers(0, 6000), max_size=12), st.integers(1, 3))
@bounded(100)
def test_a_stream_in_many_pieces_reads_the_same(
    end: End, data: st.DataObject, cuts: list[int], capacity: int
) -> None:
    stream = data.draw(streams(end.name))
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert in_pieces(end, pieces, capacity) == in_pieces(end, [stream], 64)


@both_ends
@given(data=st.data(), before=st.binary(max_size=40), after=st.binary(max_size=600))
@bounded(100)
def test_what_lies_around_a_stretch_is_not_looked_at(
    end: End, data: st.DataObject, before: bytes, after: bytes
) -> None:
    stream = data.draw(streams(end.name))
    alone = np.zeros(64, end.record)
    count, consumed, needed, error = end.parse(stream, 0, len(stream), alone)
    buffer, first = before + stream + after, len(before)
    records = np.zeros(64, end.record)
    told = end.parse(buffer, first, first + len(stream), records)
    assert told == (count, first + consumed, needed, error)
    assert end.plain(records[:count], buffer) == end.plain(alone[:count], stream)


@both_ends
@given(data=st.data(), cut=st.integers(0, 3000))
@bounded(100)
def test_no_byte_outside_a_stretch_is_touched(end: End, data: st.DataObject, cut: int) -> None:
    """Before and behind it lies memory that ends the process when it is read."""
    frame = data.draw(frames(end.name))
    stretch = frame[: len(frame) - cut % 300] if cut % 2 else frame
    expected = end.parse(stretch, 0, len(stretch), np.zeros(2, end.record))
    for buffer, start in guarded(stretch):
        count, consumed, *rest = end.parse(
            buffer, start, start + len(stretch), np.zeros(2, end.record)
        )
        assert (count, consumed - start, *rest) == expected


# ---- round trips ---------------------------------------------------------------------------------


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    """What a client is told to send, lawful but for one thing at the most."""
    operation, counts, events = draw(batches(0))
    values = {
        "client": draw(numbers(16, 1)), "session": draw(numbers(8, 1)),
        "number": draw(numbers(4, 1)), "parent": draw(numbers(16)), "operation": operation,
        "events": events, "counts": counts,
    }  # fmt: skip
    wrong: dict[str, st.SearchStrategy[Any]] = {
        "client": st.just(0), "session": st.just(0), "number": st.just(0),
        "operation": st.sampled_from([0, 1, 2, 127, 128, 139, 148, 255]),
        "events": st.binary(max_size=300), "counts": st.lists(st.integers(0, 5), max_size=5),
    }  # fmt: skip
    name = draw(st.sampled_from(["", "", *wrong]))
    return values | ({name: draw(wrong[name])} if name else {})


@given(values=asked())
@bounded(400)
def test_a_request_is_the_references_or_no_server_would_take_it(values: dict[str, Any]) -> None:
    operation, counts, events = (values[name] for name in ("operation", "counts", "events"))
    header = {name: values[name] for name in ("client", "session", "parent", "operation")}
    header |= {"command": reference.REQUEST, "release": RELEASE, "cluster": CLUSTER}
    element = reference.OPERATIONS.get(operation, (16,))[0]
    frame = fast.seal(
        header | {"request": values["number"]}, events + reference.trailer(counts, element)
    )
    expected = fast.judge(reference.Server(CLUSTER, RELEASE_MIN), frame)
    named = values | {"counts": np.array(counts, np.uint16)}
    if expected["verdict"] != "REPLY":
        with pytest.raises(ValueError):
            CLIENT.encode_request(**named)
        return
    assert CLIENT.encode_request(**named) == frame
    (arrival,), *_ = read(Codec(CLUSTER, RELEASE, RELEASE_MIN).parse, schema.ARRIVAL, frame)
    assert_same_arrival(arrival, expected, frame, 0)
    assert expected["counts"] == counts
    assert frame[256 : 256 + len(events)] == events


@given(client=numbers(16), session=numbers(8), timestamp=numbers(8))
@bounded(40)
def test_registers_and_pings_are_the_references(client: int, session: int, timestamp: int) -> None:
    common = {"release": RELEASE, "cluster": CLUSTER, "client": client}
    if client == 0:
        for encode in (CLIENT.encode_register, lambda client: CLIENT.encode_ping(client, 1, 1)):
            with pytest.raises(ValueError):
                encode(client)
        return
    opening = common | {"command": reference.REQUEST, "operation": 2}
    assert CLIENT.encode_register(client) == fast.seal(opening, bytes(256))
    ping = {"command": reference.PING, "session": session, "ping_timestamp": timestamp}
    assert CLIENT.encode_ping(client, session, timestamp) == fast.seal(common | ping)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[dict[str, int]], bytes, list[int]]:
    """Rows of one call of the codec, and the results and counts they share."""
    rows: list[dict[str, int]] = []
    payload, counts = bytearray(), list[int]()
    for _ in range(draw(st.integers(1, 4))):
        operation, of_batches, results = draw(batches(1))
        verdict = draw(st.sampled_from([*list(Verdict), Verdict.REPLY, Verdict.REPLY]))
        row = {
            "verdict": verdict, "client": draw(numbers(16, 1)), "checksum": draw(numbers(16)),
            "position": draw(numbers(8, 1)), "timestamp": draw(numbers(8, 1)),
            "start_id": draw(numbers(8)),
            "number": draw(numbers(4, 1)), "release": draw(numbers(4, 1)), "operation": operation,
            "payload_offset": len(payload), "payload_bytes": len(results),
            "counts_offset": len(counts), "batch_count": len(of_batches),
            "reason": draw(st.integers(1, 8)), "ping_timestamp": draw(numbers(8)),
        }  # fmt: skip
        payload += results
        counts += of_batches
        if draw(st.integers(0, 4)) == 0:
            row |= {"operation": 2, "number": 0}
        if draw(st.integers(0, 5)) == 0:
            row[draw(st.sampled_from(sorted(row)[1:]))] = draw(st.sampled_from([0, 1, 2, 9, 128]))
            row["verdict"] = verdict
        rows.append(row)
    return rows, bytes(payload), counts


def sealed_answer(row: dict[str, int], payload: bytes, counts: list[int]) -> bytes:
    """The frame the reference makes of a row; nothing where a row makes none."""
    verdict, common = row["verdict"], {"cluster": CLUSTER, "view": VIEW, "release": RELEASE}
    if verdict == Verdict.PONG:
        pong = {"command": reference.PONG, "ping_timestamp": row["ping_timestamp"]}
        return fast.seal(common | pong)
    if verdict == Verdict.EVICT:
        return fast.seal(
            common | {name: row[name] for name in ("client", "reason")}
            | {"command": reference.EVICTION}
        )  # fmt: skip
    if verdict != Verdict.REPLY:
        return b""
    header = common | {name: row[name] for name in ("client", "timestamp", "operation", "release")}
    header |= {"command": reference.REPLY, "request_checksum": row["checksum"]}
    header |= {"request": row["number"], "op": row["position"], "commit": row["position"]}
    header["context"] = row["start_id"] << 64 | row["position"]
    if row["operation"] == 2:
        return fast.seal(header, BODY_MAX.to_bytes(64, "little"))
    element = reference.OPERATIONS.get(row["operation"], (0, 16))[1]
    first, at = row["counts_offset"], row["payload_offset"]
    body = payload[at : at + row["payload_bytes"]]
    of_batches = counts[first : first + row["batch_count"]]
    return fast.seal(header, body + reference.trailer(of_batches, element))


def lawful(row: dict[str, int], frame: bytes, payload: bytes, counts: list[int]) -> bool:
    """Whether a client takes the frame, and it is all of what the row points at."""
    if row["verdict"] == Verdict.REPLY and row["operation"] != 2:
        inside = row["payload_offset"] + row["payload_bytes"] <= len(payload)
        if not inside or row["counts_offset"] + row["batch_count"] > len(counts):
            return False
    if not frame:
        return True
    found = fast.judge_reply(row["release"] if frame[114] == 8 else RELEASE, frame)
    return found is not None and found["verdict"] != "DROP"


@given(drawn=answers())
@bounded(400)
def test_answers_are_the_references_or_no_client_would_take_one(
    drawn: tuple[list[dict[str, int]], bytes, list[int]],
) -> None:
    rows, payload, counts = drawn
    made = [sealed_answer(row, payload, counts) for row in rows]
    good = [lawful(row, frame, payload, counts) for row, frame in zip(rows, made, strict=True)]
    arguments = np.frombuffer(payload, np.uint8), np.array(counts, np.uint16)
    if not all(good):
        with pytest.raises(ValueError, match=rf"answers\[{good.index(False)}\]: "):
            CODEC.encode(answers_of(*rows), len(rows), *arguments)
        return
    assert CODEC.encode(answers_of(*rows), len(rows), *arguments) == b"".join(made)
    for row, frame in zip(rows, made, strict=True):
        if frame:
            release = row["release"] if row["verdict"] == Verdict.REPLY else RELEASE
            client = ClientCodec(CLUSTER, release)
            (reply,), *_ = read(client.parse_replies, schema.REPLY, frame)
            assert_same_reply(reply, fast.judge_reply(release, frame), frame, 0)
