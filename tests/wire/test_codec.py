"""The server's end of the codec reads frames: captured, cut, damaged, unlawful, random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.journal import _check
from ledger.wire._codec import Codec
from tests.oracles import reference_codec as reference
from tests.support.captured import (
    FRAMES,
    RELEASE,
    REQUESTS,
    SERVER_RELEASE,
    counts_at,
    guarded,
    read,
)
from tests.support.codec_checks import assert_same_arrival

RELEASE_MIN = 0x1100
CODEC = Codec(0, RELEASE, RELEASE_MIN)
TOO_LOW, UNKNOWN_OPERATION, BAD_BODY, BAD_SIZE = 2, 4, 5, 6
CREATE_TRANSFERS = 147


def parse(buffer, capacity=64, codec=CODEC):
    return read(codec.parse, schema.ARRIVAL, buffer, capacity)


def assert_like_reference(buffer, codec=CODEC, **server):
    arrivals, consumed, needed, error = parse(buffer, codec=codec)
    expected = reference.parse(reference.Server(**server), buffer)
    assert (len(arrivals), consumed) == (len(expected.found), expected.consumed)
    assert (needed, error) == (expected.needed, expected.error or "")
    start = 0
    for arrival, found in zip(arrivals, expected.found, strict=True):
        assert_same_arrival(arrival, found, buffer, start)
        start += int.from_bytes(buffer[start + 96 : start + 100], "little")
    return arrivals


def request(body=b"", **values):
    """A sealed request of a session, lawful but for `values`."""
    lawful = {
        "command": reference.REQUEST,
        "release": RELEASE,
        "client": 77,
        "session": 5,
        "request": 3,
        "operation": CREATE_TRANSFERS,
    }
    return reference.seal(lawful | values, body)


def events(count, element=128):
    return bytes(count * element) + reference.trailer([count], element)


# ---- whole frames -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
def test_captured_frame(name):
    (arrival,) = assert_like_reference(FRAMES[name])
    if name[0] in "01" and name in REQUESTS:
        assert arrival["verdict"] == schema.Verdict.REPLY
    if name[0] == "2" and name in REQUESTS:
        assert arrival["reason"] == UNKNOWN_OPERATION
    if name == "20_ping_client":
        assert arrival["verdict"] == schema.Verdict.PONG


def test_captured_register_in_full():
    (arrival,), *_ = parse(FRAMES["00_register_request"])
    assert schema.int_of(arrival["client"]) == 0xC6D7971124C1B4CAC84638B6500805B2
    assert arrival["operation"] == schema.Operation.REGISTER
    assert (arrival["session"], arrival["number"], arrival["release"]) == (0, 0, RELEASE)
    assert (arrival["event_count"], arrival["batch_count"]) == (0, 0)


def test_captured_three_batches_in_full():
    frame = FRAMES["13_create_transfers_3batches_request"]
    (arrival,), *_ = parse(frame)
    assert arrival["checksum"].tobytes() == frame[:16]
    assert (arrival["event_count"], arrival["batch_count"]) == (3, 3)
    assert (arrival["events_offset"], arrival["batches_offset"]) == (256, len(frame) - 4)
    assert (arrival["session"], arrival["number"]) == (2, 13)


# ---- cut, joined, in a longer buffer -----------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
def test_cut_at_every_byte(name):
    frame = FRAMES[name]
    for end in range(len(frame)):
        arrivals, consumed, needed, error = parse(frame[:end])
        assert (len(arrivals), consumed, error) == (0, 0, "")
        assert needed == (0 if end == 0 else 256 if end < 256 else len(frame))


@pytest.mark.parametrize("name", REQUESTS)
def test_trailing_bytes_stay(name):
    frame = FRAMES[name]
    for extra in (1, 15, 255):
        arrivals, consumed, needed, error = parse(frame + frame[:extra])
        assert (len(arrivals), consumed, needed, error) == (1, len(frame), 256, "")
    *_, needed, error = parse(frame + FRAMES["01_create_accounts_request"][:256])
    assert (needed, error) == (1024, "")


def test_many_frames_in_one_buffer_at_odd_offsets():
    odd = request(bytes(33))  # a body of no operation's length: the frames after it are unaligned
    buffer = odd.join(REQUESTS.values())
    arrivals = assert_like_reference(buffer)
    assert len(arrivals) == 2 * len(REQUESTS) - 1


def test_offsets_count_from_the_beginning_of_the_buffer():
    frame = FRAMES["03_lookup_accounts_request"]
    buffer = b"x" * 1001 + frame + b"y"
    arrivals = np.zeros(1, schema.ARRIVAL)
    answer = CODEC.parse(buffer, 1001, 1001 + len(frame), arrivals)
    assert answer == (1, 1001 + len(frame), 0, 0)
    assert arrivals["events_offset"][0] == 1001 + 256
    assert counts_at(buffer, int(arrivals["batches_offset"][0]), 1) == [3]


def test_full_arrivals_ask_to_be_called_again_at_once():
    buffer = b"".join(REQUESTS.values())
    found, start = [], 0
    arrivals = np.zeros(3, schema.ARRIVAL)
    needed = 1
    while 0 < needed <= len(buffer) - start:
        count, start, needed, error = CODEC.parse(buffer, start, len(buffer), arrivals)
        assert error == 0
        found += [schema.int_of(arrival["checksum"]) for arrival in arrivals[:count]]
    expected = [int.from_bytes(frame[:16], "little") for frame in REQUESTS.values()]
    assert (found, start) == (expected, len(buffer))
    assert CODEC.parse(buffer, 0, len(buffer), arrivals[:0]) == (0, 0, 256, 0)


def test_an_error_comes_after_what_was_whole():
    good = FRAMES["03_lookup_accounts_request"]
    bad = bytearray(good)
    bad[300] ^= 1
    arrivals, consumed, needed, error = parse(good + bytes(bad) + good)
    assert (len(arrivals), consumed, needed, error) == (1, len(good), 0, "BODY_CHECK")


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
def test_no_flipped_bit_is_accepted(name):
    frame = bytearray(FRAMES[name])
    arrivals = np.zeros(1, schema.ARRIVAL)
    for bit in range(8 * len(frame)):
        frame[bit // 8] ^= 1 << bit % 8
        error = schema.WireError.HEADER_CHECK if bit < 8 * 256 else schema.WireError.BODY_CHECK
        assert CODEC.parse(frame, 0, len(frame), arrivals) == (0, 0, 0, error)
        frame[bit // 8] ^= 1 << bit % 8
    assert CODEC.parse(frame, 0, len(frame), arrivals)[0] == 1


def test_a_bad_header_is_known_before_its_body_arrives():
    header = bytearray(FRAMES["01_create_accounts_request"][:256])
    header[200] ^= 8
    assert parse(bytes(header))[3] == "HEADER_CHECK"


@pytest.mark.parametrize("size", [0, 255, 1_048_577, 2**32 - 1])
def test_a_length_no_message_has(size):
    assert_like_reference(request(size=size))
    assert parse(request(size=size))[3] == "SIZE"


def test_another_cluster():
    frame = request(events(1), cluster=2**127 + 1)
    assert parse(frame)[3] == "CLUSTER"
    (arrival,) = assert_like_reference(
        frame, Codec(2**127 + 1, RELEASE, RELEASE_MIN), cluster=2**127 + 1
    )
    assert arrival["verdict"] == schema.Verdict.REPLY


# ---- rules, in order of precedence --------------------------------------------------------------

REGISTER = {"operation": 2, "session": 0, "request": 0}
PING = {"command": reference.PING, "client": 77, "release": RELEASE, "ping_timestamp": 12}

DROPPED = [
    ("epoch", {"epoch": 1}),
    ("protocol", {"protocol": 1}),
    ("replica", {"replica": 1}),
    ("release 0", {"release": 0}),
    ("checksum padding", {"checksum_padding": 1 << 127}),
    ("body checksum padding", {"checksum_body_padding": 1}),
    ("nonce", {"nonce_reserved": 1 << 64}),
    ("common reserved", {"reserved_frame": 1 << 95}),
    ("parent padding", {"parent_padding": 1 << 100}),
    ("padding", {"padding": 1 << 23}),
    ("first reserved byte", {"reserved": 1}),
    ("last reserved byte", {"reserved": 1 << 415}),
    ("client 0", {"client": 0}),
    ("session 0", {"session": 0}),
    ("number 0", {"request": 0}),
    ("timestamp", {"timestamp": 1}),
    *((f"operation {number}", {"operation": number}) for number in (0, 1, 3, 4, 5, 6, 7, 127)),
    ("register in a session", REGISTER | {"session": 1}),
    ("register with a number", REGISTER | {"request": 1}),
    ("register with a parent", REGISTER | {"parent": 1}),
    ("a release too low does not excuse client 0", {"client": 0, "release": 1}),
    *((f"command {number}", {"command": number}) for number in (0, 1, 4, 6, 8, 18, 25, 255)),
    ("ping of client 0", PING | {"client": 0}),
    ("ping with reserved bytes", PING | {"reserved": 1 << 767}),
    ("ping with a body", PING | {"body": b"x"}),
]

EVICTED = [
    (TOO_LOW, "release below the lowest", {"release": RELEASE_MIN - 1}),
    (TOO_LOW, "before the operation", {"release": 1, "operation": 200}),
    (TOO_LOW, "before the body", {"release": 1, "body": b"?"}),
    (TOO_LOW, "register", REGISTER | {"release": 1, "body": bytes(256)}),
    (TOO_LOW, "ping", PING | {"release": 1}),
    *(
        (UNKNOWN_OPERATION, f"operation {number}", {"operation": number})
        for number in (*range(128, 140), 148, 199, 200, 255)
    ),
    (UNKNOWN_OPERATION, "before the body", {"operation": 128, "body": b"?"}),
    (UNKNOWN_OPERATION, "before the timestamp", {"operation": 128, "timestamp": 1}),
    (BAD_BODY, "no trailer", {"body": b""}),
    (BAD_BODY, "before the timestamp", {"body": b"?", "timestamp": 1}),
    (BAD_SIZE, "register without its body", REGISTER),
    (BAD_SIZE, "register with half its body", REGISTER | {"body": bytes(128)}),
    (BAD_SIZE, "register with more", REGISTER | {"body": bytes(257)}),
    (BAD_SIZE, "register, before the timestamp", REGISTER | {"timestamp": 1}),
]

TAKEN = [
    ("the lowest release", {"release": RELEASE_MIN}),
    ("the highest release", {"release": 2**32 - 1}),
    ("any view", {"view": 2**32 - 1}),
    ("any parent", {"parent": 2**128 - 1}),
    ("any latency", {"previous_request_latency": 2**32 - 1}),
    ("register with a body limit of its own", REGISTER | {"body": bytes([255] * 4 + [0] * 252)}),
    ("the largest numbers", {"session": 2**64 - 1, "request": 2**32 - 1, "client": 2**128 - 1}),
]


def unlawful(values):
    values = {"body": events(1)} | values if "operation" not in values else values
    values = dict(values)
    body = values.pop("body", b"")
    if values.get("command") == reference.PING:
        return reference.seal(values, body if body != events(1) else b"")
    return request(body, **values)


@pytest.mark.parametrize(("what", "values"), DROPPED, ids=[row[0] for row in DROPPED])
def test_dropped(what, values):
    good = FRAMES["03_lookup_accounts_request"]
    arrivals = assert_like_reference(unlawful(values) + good)
    verdicts = [schema.Verdict(verdict).name for verdict in arrivals["verdict"]]
    assert verdicts == ["DROP", "REPLY"], "what follows is still read"


@pytest.mark.parametrize(("reason", "what", "values"), EVICTED, ids=[row[1] for row in EVICTED])
def test_evicted(reason, what, values):
    frame = unlawful(values)
    arrivals, _, _, error = parse(frame)
    assert (len(arrivals), error) == (1, "")
    assert arrivals["verdict"][0] == schema.Verdict.EVICT
    assert arrivals["reason"][0] == reason
    assert schema.int_of(arrivals["client"][0]) == 77
    if len(frame) < 4096:
        assert_like_reference(frame)


@pytest.mark.parametrize(("what", "values"), TAKEN, ids=[row[0] for row in TAKEN])
def test_taken(what, values):
    (arrival,) = assert_like_reference(unlawful(values))
    assert arrival["verdict"] == schema.Verdict.REPLY


def test_a_body_longer_than_announced_is_evicted_for_its_size():
    codec = Codec(0, RELEASE, RELEASE_MIN, body_bytes_max=512)
    (arrival,) = assert_like_reference(request(events(3)), codec, body_max=512)
    assert arrival["verdict"] == schema.Verdict.REPLY
    for frame in (request(events(4)), request(events(4), operation=200)):
        (arrival,) = assert_like_reference(frame, codec, body_max=512)
        assert arrival["reason"] == BAD_SIZE
    (arrival,) = assert_like_reference(request(events(4), release=1), codec, body_max=512)
    assert arrival["reason"] == TOO_LOW, "the release comes first"


# ---- batches ------------------------------------------------------------------------------------


def filters(*limits, operation=142):
    size, place = (128, 120) if operation in (142, 143) else (64, 56)
    body = b""
    for limit in limits:
        one = bytearray(size)
        one[place : place + 4] = limit.to_bytes(4, "little")
        body += one
    return body + reference.trailer([1] * len(limits), size)


def broken(body, at, value):
    damaged = bytearray(body)
    damaged[at] = value
    return bytes(damaged)


BAD_BODIES = [
    ("empty", CREATE_TRANSFERS, b""),
    ("one byte", CREATE_TRANSFERS, b"\1"),
    ("shorter than the trailer", CREATE_TRANSFERS, b"\xff" * 62 + b"\1\0"),
    ("trailer of two elements missing one", 140, b"\xff" * 12 + b"\0\0" + b"\x10\0"),
    ("no batch", CREATE_TRANSFERS, b"\xff" * 126 + b"\0\0"),
    ("65,535 batches", 140, b"\0" * (131_072 - 2) + b"\xff\xff"),
    ("first filler byte", CREATE_TRANSFERS, broken(events(1), 128, 0xFE)),
    ("last filler byte", CREATE_TRANSFERS, broken(events(1), -5, 0)),
    ("one event more than there is", CREATE_TRANSFERS, broken(events(1), -4, 2)),
    ("one event less than there is", CREATE_TRANSFERS, broken(events(1), -4, 0)),
    ("half an event", CREATE_TRANSFERS, bytes(64) + events(1)),
    ("counts that add up only in 16 bits", 140, bytes(16) + reference.trailer([65_535, 2], 16)),
    ("two filters in a batch", 142, bytes(256) + reference.trailer([2], 128)),
    ("no filter in a batch", 144, bytes(64) + reference.trailer([1, 0], 64)),
    ("two and none", 143, bytes(256) + reference.trailer([2, 0], 128)),
    ("no filter at all", 145, reference.trailer([0], 64)),
    ("more results than a reply holds", 142, filters(8000, 190)),
    ("limits clamped, still too many", 143, filters(2**32 - 1, 1)),
    ("queries too", 144, filters(8189, 1, operation=144)),
    ("more ids than records fit", 140, events(8190, 16)),
]

GOOD_BODIES = [
    ("no event", CREATE_TRANSFERS, events(0), [0]),
    ("batches of none", 146, reference.trailer([0, 0, 0], 128), [0, 0, 0]),
    ("a full body", CREATE_TRANSFERS, events(8189), [8189]),
    ("as many ids as records fit", 141, events(8189, 16), [8189]),
    ("a filter's limit is clamped", 142, filters(2**32 - 1), [1]),
    ("two limits that just fit", 143, filters(8000, 189), [1, 1]),
    ("limit 0", 144, filters(0, operation=144), [1]),
    ("queries that just fit", 145, filters(4000, 4189, operation=145), [1, 1]),
    ("a trailer that fills its element", 140, reference.trailer([0] * 7, 16), [0] * 7),
    ("a trailer of two elements", 140, reference.trailer([0] * 8, 16), [0] * 8),
    ("every batch there may be", 140, reference.trailer([0] * 65_534, 16), [0] * 65_534),
]


@pytest.mark.parametrize(
    ("what", "operation", "body"), BAD_BODIES, ids=[row[0] for row in BAD_BODIES]
)
def test_bad_body(what, operation, body):
    assert reference.request_batches(body, operation) is None
    (arrival,), *_ = parse(sealed(body, operation))
    assert (arrival["verdict"], arrival["reason"]) == (schema.Verdict.EVICT, BAD_BODY)


@pytest.mark.parametrize(
    ("what", "operation", "body", "counts"), GOOD_BODIES, ids=[row[0] for row in GOOD_BODIES]
)
def test_good_body(what, operation, body, counts):
    assert reference.request_batches(body, operation) == counts
    frame = sealed(body, operation)
    (arrival,), *_ = parse(frame)
    assert arrival["verdict"] == schema.Verdict.REPLY
    assert arrival["event_count"] == sum(counts)
    assert counts_at(frame, int(arrival["batches_offset"]), len(counts)) == counts


CLAIMS = [row[1:3] for row in BAD_BODIES + GOOD_BODIES if len(row[2]) < 4096]
CLAIMS += [
    (operation, count.to_bytes(2, "little"))
    for operation in (140, 144, 147)
    for count in (1, 7, 8, 63, 64, 65, 4096, 65_534)
]


@pytest.mark.parametrize(("operation", "body"), CLAIMS)
def test_nothing_outside_the_frame_is_read(operation, body):
    frame = sealed(body, operation)
    (expected,), *_ = parse(frame)
    for buffer, start in guarded(frame):
        arrivals = np.zeros(1, schema.ARRIVAL)
        answer = CODEC.parse(buffer, start, start + len(frame), arrivals)
        assert answer == (1, start + len(frame), 0, 0)
        assert arrivals["verdict"][0] == expected["verdict"]


def sealed(body, operation):
    """Like request(), with the fast check: the reference takes seconds for a full body."""
    header = bytearray(request(operation=operation)[:256])
    header[96:100] = (256 + len(body)).to_bytes(4, "little")
    header[32:48] = _check.aegis(body)
    header[:16] = _check.aegis(header[16:])
    return bytes(header) + body


# ---- anything at all ----------------------------------------------------------------------------

COUNTS = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@st.composite
def bodies(draw):
    operation = draw(st.sampled_from(sorted(reference.OPERATIONS)))
    element = reference.OPERATIONS[operation][0]
    counts = draw(COUNTS)
    body = bytearray(bytes(sum(counts) * element) + reference.trailer(counts, element))
    for _ in range(draw(st.integers(0, 3))):
        end = draw(st.integers(1, min(len(body), 3 * element)))
        body[-end] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, 20)) if draw(st.booleans()) else 0
    return operation, bytes(body[: len(body) - cut])


@given(bodies())
def test_random_bodies(drawn):
    operation, body = drawn
    assert_like_reference(sealed(body, operation))


VALUES = st.sampled_from([0, 1, 2, 3, 5, 8, 18, 128, 140, 147, 200, RELEASE, 2**16 - 1])


@st.composite
def lawless(draw):
    """A frame with right checks whose header says anything."""
    command = draw(st.sampled_from([3, 5, 5, 5, 4, 8, 18, 77]))
    values = {"command": command, "release": RELEASE, "client": 9, "session": 1, "request": 1}
    values["operation"] = draw(st.sampled_from([2, 140, 146, 147]))
    fields = reference.fields_of(command)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        if name not in ("command", "size", "cluster", "checksum", "checksum_body"):
            values[name] = draw(VALUES) % (1 << 8 * fields[name][1])
    body = draw(st.sampled_from([b"", bytes(256), events(1), events(2, 16)]))
    return reference.seal({name: values[name] for name in values if name in fields}, body)


@settings(max_examples=300)
@given(st.lists(lawless(), min_size=1, max_size=3), st.binary(max_size=20))
def test_random_streams_are_read_as_the_reference_reads_them(frames, rest):
    assert_like_reference(b"".join(frames) + rest)


@given(st.binary(max_size=600), st.integers(0, 40))
def test_arbitrary_bytes_never_crash(garbage, capacity):
    arrivals, consumed, _, error = parse(garbage, capacity)
    assert (len(arrivals), consumed) == (0, 0)
    if capacity and len(garbage) >= 256:
        assert error == "HEADER_CHECK"


@given(st.sampled_from(sorted(FRAMES)), st.data())
def test_arbitrary_damage_is_never_accepted(name, data):
    frame = bytearray(FRAMES[name])
    start = data.draw(st.integers(0, len(frame) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=64))[: len(frame) - start]
    frame[start : start + len(patch)] = patch
    arrivals, *_, error = parse(bytes(frame))
    assert len(arrivals) == (1 if frame == FRAMES[name] else 0)
    assert bool(error) == (frame != FRAMES[name])


# ---- wrong arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (0, 257), (5, 4), (257, 257)])
def test_a_stretch_outside_the_buffer_is_refused(start, end):
    with pytest.raises(ValueError, match=f"{start}:{end} is not a stretch of a buffer of 256"):
        CODEC.parse(bytes(256), start, end, np.zeros(1, schema.ARRIVAL))


def test_arrivals_must_be_writable_aligned_records():
    for wrong in (np.zeros(1, schema.ACCOUNT), np.zeros(96, np.uint16)):
        with pytest.raises(ValueError, match=r"arrivals: items of \d+ bytes, not 112"):
            CODEC.parse(b"", 0, 0, wrong)
    room = np.zeros(256, np.uint8)
    shift = 8 - room.ctypes.data % 16
    with pytest.raises(ValueError, match="multiple of 16"):
        CODEC.parse(b"", 0, 0, room[shift : shift + 112].view(schema.ARRIVAL))
    fixed = np.zeros(1, schema.ARRIVAL)
    fixed.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        CODEC.parse(b"", 0, 0, fixed)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((-1, 1, 1), {}, "cluster: -1 is not within"),
        ((2**128, 1, 1), {}, "cluster: .* is not within"),
        ((0, 0, 1), {}, "release: 0"),
        ((0, 1, 1), {"body_bytes_max": 0}, "body_bytes_max: 0 is not within"),
        ((0, 1, 1), {"body_bytes_max": 1_048_321}, "body_bytes_max: 1048321 is not within"),
    ],
)
def test_a_server_the_protocol_cannot_carry(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Codec(*arguments, **options)


def test_a_server_release_may_be_any_number():
    assert Codec(0, SERVER_RELEASE, 1).parse(b"", 0, 0, np.zeros(1, schema.ARRIVAL)) == (0, 0, 0, 0)
