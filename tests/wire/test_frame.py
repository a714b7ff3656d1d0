"""Frames written and read back: the server's answers, the client's requests, both byte for byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.facts import schema
from ledger.facts.schema import EvictionReason, Operation, Verdict
from ledger.journal import _check
from ledger.wire._codec import ClientCodec, Codec
from tests.oracles import reference_codec as reference
from tests.support.captured import (
    FRAMES,
    RELEASE,
    REPLIES,
    SERVER_RELEASE,
    SESSION,
    counts_at,
    read,
)
from tests.support.codec_checks import answers_of, assert_same_reply

RELEASE_MIN = 0x1100
CAPTURED = Codec(0, SERVER_RELEASE, RELEASE_MIN, view=1, body_bytes_max=32_512)
CODEC = Codec(0, RELEASE, RELEASE_MIN)
CLIENT = ClientCodec(0, RELEASE)
NOTHING = (np.zeros(0, np.uint8), np.zeros(0, np.uint16))


def parse_replies(buffer, capacity=64):
    return read(CLIENT.parse_replies, schema.REPLY, buffer, capacity)


def lawful(results=2, batches=None, **changes):
    """A reply to create_transfers with `results` results, lawful but for `changes`."""
    counts = [results] if batches is None else batches
    row = {
        "verdict": Verdict.REPLY,
        "client": 77,
        "checksum": 2**127 + 5,
        "position": 9,
        "timestamp": 10,
        "number": 3,
        "release": RELEASE,
        "operation": Operation.CREATE_TRANSFERS,
        "payload_bytes": 16 * sum(counts),
        "batch_count": len(counts),
    } | changes
    return row, np.arange(16 * sum(counts), dtype=np.uint8), np.array(counts, np.uint16)


def encode(row, payload, counts):
    return CODEC.encode(answers_of(row), 1, payload, counts)


# ---- the captured session, rebuilt --------------------------------------------------------------


@pytest.mark.parametrize("name", SESSION)
def test_captured_reply_is_rebuilt_from_request_op_and_timestamp(name):
    request, reply = FRAMES[f"{name}_request"], FRAMES[f"{name}_reply"]
    arrivals, *_ = read(CAPTURED.parse, schema.ARRIVAL, request)
    given_by_server = reference.read_header(reply)
    operation = int(arrivals["operation"][0])
    counts, payload = [], b""
    if operation != Operation.REGISTER:
        element = reference.OPERATIONS[operation][1]
        counts = reference.batches_of(reply[256:], element)
        payload = reply[256:][: sum(counts) * element]
    answers = answers_of(
        {
            "verdict": Verdict.REPLY,
            "position": given_by_server["op"],
            "timestamp": given_by_server["timestamp"],
            "start_id": 2**64 - 3,
            "payload_bytes": len(payload),
            "batch_count": len(counts),
        }
    )
    for name in ("client", "checksum", "number", "release", "operation"):
        answers[name] = arrivals[name]
    rebuilt = CAPTURED.encode(
        answers, 1, np.frombuffer(payload, np.uint8), np.array(counts, np.uint16)
    )
    # The context is a server's own: ours names a start and a position.
    context = (2**64 - 3) << 64 | given_by_server["op"]
    assert rebuilt == reference.seal(given_by_server | {"context": context}, reply[256:])


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("21_pong_client", Verdict.PONG),
        ("22_eviction_no_session", Verdict.EVICT),
        ("23_eviction_release_too_low", Verdict.EVICT),
    ],
)
def test_captured_pong_and_evictions_are_rebuilt(name, verdict):
    header = reference.read_header(FRAMES[name])
    known = {field: header.get(field, 0) for field in ("client", "reason", "ping_timestamp")}
    answers = answers_of(known | {"verdict": verdict})
    assert CAPTURED.encode(answers, 1, *NOTHING) == FRAMES[name]


def test_captured_register_request_and_ping_are_rebuilt():
    for name in ("00_register_request", "20_ping_client"):
        frame = FRAMES[name]
        header = reference.read_header(frame)
        if header["command"] == reference.REQUEST:
            assert CLIENT.encode_register(header["client"]) == frame
        else:
            values = (header[field] for field in ("client", "session", "ping_timestamp"))
            assert CLIENT.encode_ping(*values) == frame


@pytest.mark.parametrize("name", REPLIES)
def test_captured_reply_is_read(name):
    frame = FRAMES[name]
    expected = reference.judge_reply(RELEASE, frame)
    replies, consumed, needed, error = parse_replies(frame)
    if expected is None:
        assert (len(replies), consumed, needed, error) == (0, 0, 0, "ANSWER")
        return
    assert (len(replies), consumed, needed, error) == (1, len(frame), 0, "")
    assert_same_reply(replies[0], expected, frame, 0)


# ---- answers ------------------------------------------------------------------------------------


def test_register_reply_announces_the_longest_body():
    row, *_ = lawful(0, operation=Operation.REGISTER, number=0)
    frame = encode(row, *NOTHING)
    assert len(frame) == 320
    assert frame[256:] == (1_048_320).to_bytes(64, "little")
    assert frame[32:48].hex() == "b5d20e04fd672c08f88ed62b32da1c19"
    (reply,) = parse_replies(frame)[0]
    assert (reply["verdict"], reply["position"]) == (Verdict.REPLY, 9)
    assert (reply["body_bytes_max"], reply["payload_bytes"]) == (1_048_320, 0)


def test_a_run_of_answers_is_one_stretch_of_frames():
    first, payload, counts = lawful(3, [1, 0, 2])
    second = first | {"client": 78, "payload_offset": 16, "payload_bytes": 32, "counts_offset": 2}
    second["batch_count"] = 1
    answers = answers_of(
        first,
        {"verdict": Verdict.DROP},
        {"verdict": Verdict.EVICT, "client": 79, "reason": EvictionReason.NO_SESSION},
        {"verdict": Verdict.RESEND, "client": 77},
        {"verdict": Verdict.PONG, "ping_timestamp": 2**63},
        {},
        second,
        {"verdict": Verdict.PONG},
    )
    frames = CODEC.encode(answers, 7, payload, counts)
    replies, consumed, needed, error = parse_replies(frames)
    assert (consumed, needed, error) == (len(frames), 0, "")
    assert replies["verdict"].tolist() == [
        Verdict.REPLY,
        Verdict.EVICT,
        Verdict.PONG,
        Verdict.REPLY,
    ]
    assert counts_at(frames, int(replies["batches_offset"][0]), 3) == [1, 0, 2]
    start = replies["payload_offset"][3]
    assert frames[start : start + 32] == payload[16:].tobytes()
    assert schema.int_of(replies["client"][1]) == 79
    assert replies["reason"][1] == EvictionReason.NO_SESSION
    assert replies["ping_timestamp"][2] == 2**63


def test_no_answer_makes_no_bytes():
    assert CODEC.encode(answers_of(), 0, *NOTHING) == b""
    assert CODEC.encode(answers_of({"verdict": Verdict.DROP}), 1, *NOTHING) == b""


@pytest.mark.parametrize("reason", list(EvictionReason))
def test_eviction_for_each_reason(reason):
    frame = encode({"verdict": Verdict.EVICT, "client": 2**100, "reason": reason}, *NOTHING)
    header = reference.read_header(frame)
    expected = {"command": reference.EVICTION, "client": 2**100, "reason": int(reason)}
    assert frame == reference.seal(expected | {"release": RELEASE})
    assert header["size"] == 256
    (reply,) = parse_replies(frame)[0]
    assert (reply["verdict"], reply["reason"]) == (Verdict.EVICT, reason)


def test_the_longest_reply():
    payload = np.zeros(8189 * 128, np.uint8)
    row, *_ = lawful(0, operation=Operation.LOOKUP_TRANSFERS, payload_bytes=payload.size)
    frame = encode(row, payload, np.array([8189], np.uint16))
    assert len(frame) == 1_048_576
    (reply,), consumed, *_ = parse_replies(frame)
    assert (reply["payload_bytes"], consumed) == (payload.size, len(frame))


def test_as_many_batches_as_there_may_be():
    row, payload, counts = lawful(0, [0] * 65_534)
    frame = encode(row, payload, counts)
    (reply,) = parse_replies(frame)[0]
    assert (reply["batch_count"], reply["payload_bytes"]) == (65_534, 0)


LONG = {"operation": Operation.LOOKUP_TRANSFERS, "payload_bytes": 8190 * 128}
FAULTS = [
    ("it has no client", {"client": 0}),
    ("position or timestamp is 0", {"position": 0}),
    ("position or timestamp is 0", {"timestamp": 0}),
    ("release is 0", {"release": 0}),
    ("number is 0", {"number": 0}),
    ("a register reply has number 0", {"operation": Operation.REGISTER}),
    ("unknown operation", {"operation": 128}),
    ("unknown operation", {"operation": 0}),
    ("batch count", {"batch_count": 0}),
    ("batch count", {"batch_count": 65_535}),
    ("batch counts end outside their buffer", {"counts_offset": 1}),
    ("batch counts end outside their buffer", {"counts_offset": 2**32 - 1}),
    ("payload ends outside its buffer", {"payload_offset": 1}),
    ("payload ends outside its buffer", {"payload_offset": 2**32 - 1}),
    ("batch counts do not add up to the payload", {"payload_bytes": 16}),
    ("batch counts do not add up to the payload", {"payload_bytes": 31}),
    ("it has no client", {"verdict": Verdict.EVICT, "client": 0}),
    ("unknown reason", {"verdict": Verdict.EVICT, "reason": 0}),
    ("unknown reason", {"verdict": Verdict.EVICT, "reason": 9}),
]


@pytest.mark.parametrize(("fault", "changes"), FAULTS)
def test_an_unlawful_answer_is_refused_and_named(fault, changes):
    row, payload, counts = lawful(2)
    answers = answers_of(row, row | changes, row | {"client": 0})
    with pytest.raises(ValueError, match=rf"answers\[1\]: {fault}"):
        CODEC.encode(answers, 3, payload, counts)
    assert len(CODEC.encode(answers, 1, payload, counts)) == 256 + 32 + 16


def test_a_reply_longer_than_a_message_is_refused():
    row, *_ = lawful(0, **LONG)
    with pytest.raises(ValueError, match=r"answers\[0\]: longer than a message may be"):
        encode(row, np.zeros(8190 * 128, np.uint8), np.array([8190], np.uint16))


@pytest.mark.parametrize("count", [-1, 2])
def test_a_count_beyond_the_answers_is_refused(count):
    with pytest.raises(ValueError, match=f"count: {count} of 1 answers"):
        CODEC.encode(answers_of({}), count, *NOTHING)


def test_answers_and_counts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="answers: items of 128 bytes, not 112"):
        CODEC.encode(np.zeros(1, schema.ACCOUNT), 1, *NOTHING)
    with pytest.raises(ValueError, match="counts: items of 4 bytes, not 2"):
        CODEC.encode(answers_of({}), 1, NOTHING[0], np.zeros(1, np.uint32))


# ---- requests -----------------------------------------------------------------------------------

ROUND_TRIPS = st.tuples(
    st.sampled_from(sorted(reference.OPERATIONS)),
    st.lists(st.integers(0, 4), min_size=1, max_size=20),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**128 - 1),
)


@settings(max_examples=150)
@given(ROUND_TRIPS)
def test_a_request_is_the_references_and_the_server_reads_it(drawn):
    operation, counts, client, session, number, parent = drawn
    element, _, limit = reference.OPERATIONS[operation]
    counts = [1] * len(counts) if limit is not None else counts
    events = bytes(sum(counts) * element)
    frame = CLIENT.encode_request(
        client, session, number, parent, operation, events, np.array(counts, np.uint16)
    )
    values = {"client": client, "session": session, "request": number, "parent": parent}
    values |= {"command": reference.REQUEST, "release": RELEASE, "operation": operation}
    assert frame == reference.seal(values, events + reference.trailer(counts, element))
    (arrival,), *_ = read(CODEC.parse, schema.ARRIVAL, frame)
    assert arrival["verdict"] == Verdict.REPLY
    assert arrival["checksum"].tobytes() == frame[:16]
    assert counts_at(frame, int(arrival["batches_offset"]), len(counts)) == counts


TOO_MANY = np.zeros(65_535, np.uint16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client": 0}, "client: 0 is no client id"),
        ({"client": -1}, "client: -1 is not within"),
        ({"parent": 2**128}, "parent: .* is not within"),
        ({"session": 0}, "session 0 and number 3 begin at 1"),
        ({"number": 0}, "session 5 and number 0 begin at 1"),
        ({"operation": 128}, "operation: 128 is none"),
        ({"operation": 2}, "operation: 2 is none"),
        ({"counts": TOO_MANY[:0]}, "counts: 0 batches"),
        ({"counts": TOO_MANY}, "counts: 65535 batches"),
        ({"events": bytes(127)}, "counts: they do not add up to 127 bytes"),
        ({"events": bytes(256)}, "counts: they do not add up to 256 bytes"),
        ({"events": bytes(8190 * 128)}, "events: 1048320 bytes are more than one request"),
        ({"operation": 140, "events": bytes(8190 * 16), "counts": [8190]}, "results might not fit"),
        ({"operation": 142, "events": bytes(256), "counts": [2]}, "not exactly one filter"),
    ],
)
def test_a_request_no_server_takes_is_refused(changes, message):
    lawful_request = {
        "client": 77,
        "session": 5,
        "number": 3,
        "parent": 0,
        "operation": 147,
        "events": bytes(128),
        "counts": [1],
    }
    values = lawful_request | changes
    values["counts"] = np.array(values["counts"], np.uint16)
    with pytest.raises(ValueError, match=message):
        CLIENT.encode_request(**values)


@pytest.mark.parametrize("changes", [{"number": 2**32}, {"session": 2**64}, {"operation": 256}])
def test_a_number_that_does_not_fit_its_field_is_refused(changes):
    values = {"client": 7, "session": 5, "number": 3, "parent": 0, "operation": 147} | changes
    with pytest.raises(OverflowError):
        CLIENT.encode_request(**values, events=b"", counts=np.array([0], np.uint16))


def test_a_client_of_release_0_or_id_0_is_refused():
    with pytest.raises(ValueError, match="release: 0"):
        ClientCodec(0, 0)
    for encode_one in (CLIENT.encode_register, lambda client: CLIENT.encode_ping(client, 0, 0)):
        with pytest.raises(ValueError, match="client: 0"):
            encode_one(0)


# ---- replies ------------------------------------------------------------------------------------


def reply_frame(body=b"\xff" * 12 + b"\0\0\1\0", **values):
    header = {"command": reference.REPLY, "release": RELEASE, "client": 77, "op": 4, "commit": 4}
    header |= {"timestamp": 5, "request": 3, "operation": 147, "request_checksum": 6}
    return reference.seal(header | values, body)


LIMIT = (1_048_320).to_bytes(64, "little")
OPENED = {"operation": 2, "request": 0, "body": LIMIT}
SERVER = {"release": SERVER_RELEASE}
PONG = SERVER | {"command": reference.PONG, "ping_timestamp": 3, "body": b""}
EVICTION = SERVER | {"command": reference.EVICTION, "client": 77, "reason": 1, "body": b""}

READ = [
    ("REPLY", "lawful", {}),
    ("REPLY", "another replica and view", {"replica": 5, "view": 9}),
    ("REPLY", "register", OPENED),
    ("REPLY", "smallest limit", OPENED | {"body": (1).to_bytes(64, "little")}),
    ("PONG", "pong", PONG),
    ("EVICT", "eviction", EVICTION),
    ("DROP", "epoch", {"epoch": 1}),
    ("DROP", "protocol", {"protocol": 1}),
    ("DROP", "release 0", {"release": 0}),
    ("DROP", "reserved", {"reserved": 1 << 151}),
    ("DROP", "checksum padding", {"request_checksum_padding": 1}),
    ("DROP", "context padding", {"context_padding": 1}),
    ("DROP", "op is not commit", {"op": 5}),
    ("DROP", "op 0", {"op": 0, "commit": 0}),
    ("DROP", "timestamp 0", {"timestamp": 0}),
    ("DROP", "client 0", {"client": 0}),
    ("DROP", "number 0", {"request": 0}),
    ("DROP", "register with a number", OPENED | {"request": 1}),
    ("DROP", "register too short", OPENED | {"body": LIMIT[:63]}),
    ("DROP", "register too long", OPENED | {"body": LIMIT + b"\0"}),
    ("DROP", "a command of servers", {"command": 7}),
    ("DROP", "a request", {"command": reference.REQUEST}),
    ("DROP", "pong with a body", PONG | {"body": b"x"}),
    ("DROP", "pong reserved", PONG | {"reserved": 1}),
    ("DROP", "eviction with a body", EVICTION | {"body": b"x"}),
    ("DROP", "eviction of nobody", EVICTION | {"client": 0}),
    ("DROP", "eviction reserved", EVICTION | {"reserved": 1 << 887}),
    (None, "another release", {"release": RELEASE + 1}),
    (None, "limit 0", OPENED | {"body": bytes(64)}),
    (None, "limit too high", OPENED | {"body": (1_048_321).to_bytes(64, "little")}),
    (None, "unknown operation", {"operation": 137}),
    (None, "no trailer", {"body": b""}),
    (None, "bad filler", {"body": b"\xff" * 11 + b"\xfe\0\0\1\0"}),
    (None, "a result too many", {"body": b"\xff" * 12 + b"\1\0\1\0"}),
    (None, "eviction for no reason", EVICTION | {"reason": 0}),
    (None, "eviction for an unknown reason", EVICTION | {"reason": 9}),
]


@pytest.mark.parametrize(("verdict", "what", "values"), READ, ids=[row[1] for row in READ])
def test_a_client_reads(verdict, what, values):
    good = reply_frame()
    frame = reply_frame(**values)
    expected = reference.judge_reply(RELEASE, frame)
    replies, consumed, needed, error = parse_replies(good + frame + good)
    if verdict is None:
        assert expected is None
        assert (len(replies), consumed, needed, error) == (1, len(good), 0, "ANSWER")
        return
    assert expected["verdict"] == verdict
    assert (len(replies), needed, error) == (3, 0, "")
    assert_same_reply(replies[1], expected, good + frame, len(good))


@pytest.mark.parametrize("name", [name for name in FRAMES if FRAMES[name][114] in (4, 8, 18)])
def test_a_client_accepts_no_flipped_bit(name):
    frame = bytearray(FRAMES[name])
    replies = np.zeros(1, schema.REPLY)
    for bit in range(8 * len(frame)):
        frame[bit // 8] ^= 1 << bit % 8
        error = schema.WireError.HEADER_CHECK if bit < 8 * 256 else schema.WireError.BODY_CHECK
        assert CLIENT.parse_replies(frame, 0, len(frame), replies) == (0, 0, 0, error)
        frame[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("name", [name for name in FRAMES if FRAMES[name][114] in (4, 8, 18)])
def test_a_client_reads_what_is_cut_at_every_byte(name):
    frame = FRAMES[name]
    for end in range(len(frame)):
        replies, consumed, needed, error = parse_replies(frame[:end])
        assert (len(replies), consumed, error) == (0, 0, "")
        assert needed == (0 if end == 0 else 256 if end < 256 else len(frame))


def test_a_client_refuses_another_cluster():
    frame = Codec(3, RELEASE, 1).encode(answers_of({"verdict": Verdict.PONG}), 1, *NOTHING)
    assert parse_replies(frame)[3] == "CLUSTER"


def test_full_replies_ask_to_be_called_again_at_once():
    buffer = reply_frame() * 3
    assert parse_replies(buffer, 2)[1:] == (2 * len(reply_frame()), 256, "")


@given(st.binary(max_size=600))
def test_arbitrary_bytes_never_crash_a_client(garbage):
    replies, *_, error = parse_replies(garbage)
    assert len(replies) == 0
    assert error == ("HEADER_CHECK" if len(garbage) >= 256 else "")


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.sampled_from(sorted(reference.OPERATIONS)),
    st.randoms(use_true_random=False),
)
def test_an_answer_is_the_references_and_the_client_reads_it(counts, operation, rng):
    element = reference.OPERATIONS[operation][1]
    payload = rng.randbytes(sum(counts) * element)
    row, *_ = lawful(0, operation=operation, payload_bytes=len(payload), batch_count=len(counts))
    frame = encode(row, np.frombuffer(payload, np.uint8), np.array(counts, np.uint16))
    body = payload + reference.trailer(counts, element)
    header = reference.read_header(frame)
    assert header["request_checksum"] == 2**127 + 5
    assert (header["view"], header["replica"]) == (0, 0)
    assert frame[256:] == body
    assert frame[32:48] == _check.aegis(body)
    expected = reference.judge_reply(RELEASE, frame)
    assert expected["counts"] == counts
    assert_same_reply(parse_replies(frame)[0][0], expected, frame, 0)
    if len(frame) < 1000:
        assert frame == reference.seal(header | {"context": 9}, body)
