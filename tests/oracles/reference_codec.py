"""The frames of the protocol in the plainest Python that is right, to judge the codec by.

What lives here: check, header, batch trailer, and what a server makes of a frame, typed from the
protocol's text. What it must not know: the package it judges. It imports nothing of it and shares
no table with it, so a mistake made there is not repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _double(value: int) -> int:
    value <<= 1
    return value ^ 0x11B if value & 0x100 else value


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = _double(a), b >> 1
    return product


def _substitution() -> list[int]:
    """The substitution of AES, from its definition: inverse in the field, then an affine map."""
    table = []
    for value in range(256):
        inverse = 0
        if value:
            inverse = next(other for other in range(256) if _multiply(value, other) == 1)
        result = 0x63
        for turn in range(5):
            result ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        table.append(result)
    return table


S = _substitution()
Blocks = list[bytes]


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def aes_round(x: bytes, key: bytes) -> bytes:
    """SubBytes, ShiftRows, MixColumns, exclusive or with the key."""
    out = bytearray()
    for column in range(4):
        a = [S[x[(4 * column + 5 * row) % 16]] for row in range(4)]
        for row in range(4):
            out.append(
                _double(a[row])
                ^ _double(a[(row + 1) % 4])
                ^ a[(row + 1) % 4]
                ^ a[(row + 2) % 4]
                ^ a[(row + 3) % 4]
            )
    return xor(bytes(out), key)


def update(s: Blocks, first: bytes, second: bytes) -> Blocks:
    new = [aes_round(s[i - 1], s[i]) for i in range(8)]
    new[0] = xor(new[0], first)
    new[4] = xor(new[4], second)
    return new


def _seed() -> Blocks:
    zero = bytes(16)
    c0 = bytes.fromhex("000101020305080d1522375990e97962")
    c1 = bytes.fromhex("db3d18556dc22ff12011314273b528dd")
    s = [zero, c1, c0, c1, zero, c0, c1, c0]
    for _ in range(10):
        s = update(s, zero, zero)
    return s


SEED = _seed()


def aegis(stretch: bytes) -> bytes:
    s = SEED
    for start in range(0, len(stretch), 32):
        chunk = stretch[start : start + 32].ljust(32, b"\0")
        s = update(s, chunk[:16], chunk[16:])
    last = xor(s[2], (8 * len(stretch)).to_bytes(16, "little"))
    for _ in range(7):
        s = update(s, last, last)
    tag = s[0]
    for block in s[1:7]:
        tag = xor(tag, block)
    return tag


# ---- headers ------------------------------------------------------------------------------------

BODY_MAX = 1_048_320
PING, PONG, REQUEST, REPLY, EVICTION = 3, 4, 5, 8, 18
REGISTER = 2

# field: (offset, bytes), from the tables of the protocol
COMMON = {
    "checksum": (0, 16),
    "checksum_padding": (16, 16),
    "checksum_body": (32, 16),
    "checksum_body_padding": (48, 16),
    "nonce_reserved": (64, 16),
    "cluster": (80, 16),
    "size": (96, 4),
    "epoch": (100, 4),
    "view": (104, 4),
    "release": (108, 4),
    "protocol": (112, 2),
    "command": (114, 1),
    "replica": (115, 1),
    "reserved_frame": (116, 12),
}
PARTS = {
    PING: {
        "client": (128, 16),
        "ping_timestamp": (144, 8),
        "session": (152, 8),
        "reserved": (160, 96),
    },
    PONG: {"ping_timestamp": (128, 8), "reserved": (136, 120)},
    REQUEST: {
        "parent": (128, 16),
        "parent_padding": (144, 16),
        "client": (160, 16),
        "session": (176, 8),
        "timestamp": (184, 8),
        "request": (192, 4),
        "operation": (196, 1),
        "padding": (197, 3),
        "previous_request_latency": (200, 4),
        "reserved": (204, 52),
    },
    REPLY: {
        "request_checksum": (128, 16),
        "request_checksum_padding": (144, 16),
        "context": (160, 16),
        "context_padding": (176, 16),
        "client": (192, 16),
        "op": (208, 8),
        "commit": (216, 8),
        "timestamp": (224, 8),
        "request": (232, 4),
        "operation": (236, 1),
        "reserved": (237, 19),
    },
    EVICTION: {"client": (128, 16), "reserved": (144, 111), "reason": (255, 1)},
}
MUST_BE_ZERO = (
    *("checksum_padding", "checksum_body_padding", "nonce_reserved", "epoch", "protocol"),
    *("reserved_frame", "parent_padding", "padding", "reserved"),
    *("request_checksum_padding", "context_padding"),
)

Header = dict[str, int]


def fields_of(command: int) -> dict[str, tuple[int, int]]:
    return COMMON | PARTS.get(command, {})


def read_header(frame: bytes) -> Header:
    return {
        name: int.from_bytes(frame[offset : offset + size], "little")
        for name, (offset, size) in fields_of(frame[114]).items()
    }


def write_header(values: Header) -> bytearray:
    header = bytearray(256)
    for name, (offset, size) in fields_of(values["command"]).items():
        header[offset : offset + size] = values.get(name, 0).to_bytes(size, "little")
    return header


def seal(values: Header, body: bytes = b"") -> bytes:
    """A frame with every check in place, whatever `values` say: also one that breaks a rule."""
    header = write_header({"size": 256 + len(body)} | values)
    header[32:48] = aegis(body)
    header[0:16] = aegis(bytes(header[16:]))
    return bytes(header) + body


# ---- batches ------------------------------------------------------------------------------------

# operation: (event bytes, result bytes, offset of a filter's limit or None)
OPERATIONS: dict[int, tuple[int, int, int | None]] = {
    140: (16, 128, None),
    141: (16, 128, None),
    142: (128, 128, 120),
    143: (128, 128, 120),
    144: (64, 128, 56),
    145: (64, 128, 56),
    146: (128, 16, None),
    147: (128, 16, None),
}


def trailer(counts: list[int], element: int) -> bytes:
    numbers = b"".join(count.to_bytes(2, "little") for count in reversed(counts))
    numbers += len(counts).to_bytes(2, "little")
    return b"\xff" * (-len(numbers) % element) + numbers


def batches_of(body: bytes, element: int) -> list[int] | None:
    """The counts of a body whose trailer is right, or None."""
    number = int.from_bytes(body[-2:], "little")
    if len(body) < 2 or number in (0, 65_535):
        return None
    length = -(-(2 * number + 2) // element) * element
    if length > len(body):
        return None
    counts = [
        int.from_bytes(body[len(body) - 4 - 2 * batch :][:2], "little") for batch in range(number)
    ]
    if sum(counts) * element != len(body) - length or body[-length:] != trailer(counts, element):
        return None
    return counts


def request_batches(body: bytes, operation: int) -> list[int] | None:
    event, result, limit = OPERATIONS[operation]
    counts = batches_of(body, event)
    if counts is None:
        return None
    expected = sum(counts)
    if limit is not None:
        if any(count != 1 for count in counts):
            return None
        limits = [body[event * i + limit :][:4] for i in range(len(counts))]
        expected = sum(min(int.from_bytes(raw, "little"), 8189) for raw in limits)
    if expected * result + len(trailer(counts, result)) > BODY_MAX:
        return None
    return counts


# ---- what either end makes of frames ------------------------------------------------------------


@dataclass
class Server:
    cluster: int = 0
    release_min: int = 0x1100
    body_max: int = BODY_MAX


@dataclass
class Outcome:
    """What became of a stretch of bytes; `found` holds one dictionary for each whole frame."""

    found: list[dict[str, Any]] = field(default_factory=list)
    consumed: int = 0
    needed: int = 0
    error: str | None = None


def rules_hold(header: Header) -> bool:
    return header["release"] != 0 and not any(header.get(name) for name in MUST_BE_ZERO)


def judge_request(server: Server, header: Header, body: bytes) -> dict[str, Any]:
    operation = header["operation"]
    opening = (header["parent"], header["session"], header["request"])
    lawful = opening == (0, 0, 0) if operation == REGISTER else operation >= 128
    if operation != REGISTER:
        lawful = lawful and header["session"] != 0 and header["request"] != 0
    if not lawful or header["client"] == 0:
        return {"verdict": "DROP"}
    if header["release"] < server.release_min:
        return {"verdict": "EVICT", "reason": 2}
    if len(body) > server.body_max:
        return {"verdict": "EVICT", "reason": 6}
    counts: list[int] | None = []
    if operation == REGISTER:
        if len(body) != 256:
            return {"verdict": "EVICT", "reason": 6}
    elif operation not in OPERATIONS:
        return {"verdict": "EVICT", "reason": 4}
    else:
        counts = request_batches(body, operation)
        if counts is None:
            return {"verdict": "EVICT", "reason": 5}
    if header["timestamp"] != 0:
        return {"verdict": "DROP"}
    return {"verdict": "REPLY", "counts": counts}


def judge(server: Server, frame: bytes) -> dict[str, Any]:
    header = read_header(frame)
    if not rules_hold(header) or header["replica"] != 0:
        return {"verdict": "DROP"}
    if header["command"] == REQUEST:
        return header | judge_request(server, header, frame[256:])
    if header["command"] != PING or len(frame) != 256 or header["client"] == 0:
        return {"verdict": "DROP"}
    if header["release"] < server.release_min:
        return header | {"verdict": "EVICT", "reason": 2}
    return header | {"verdict": "PONG"}


def judge_reply(release: int, frame: bytes) -> dict[str, Any] | None:
    """What a client makes of a frame; None when the server cannot be one of this protocol."""
    header = read_header(frame)
    body = frame[256:]
    drop = {"verdict": "DROP"}
    if not rules_hold(header):
        return drop
    if header["command"] == PONG:
        return drop if body else header | {"verdict": "PONG"}
    if header["command"] == EVICTION:
        if body or header["client"] == 0:
            return drop
        return header | {"verdict": "EVICT"} if 1 <= header["reason"] <= 8 else None
    if header["command"] != REPLY:
        return drop
    operation = header["operation"]
    if header["op"] != header["commit"] or 0 in (header["op"], header["timestamp"]):
        return drop
    if header["client"] == 0 or (header["request"] == 0) != (operation == REGISTER):
        return drop
    if operation == REGISTER and len(frame) != 320:
        return drop
    if header["release"] != release:
        return None
    if operation == REGISTER:
        limit = int.from_bytes(body[:4], "little")
        return header | {"verdict": "REPLY", "limit": limit} if 1 <= limit <= BODY_MAX else None
    counts = batches_of(body, OPERATIONS[operation][1]) if operation in OPERATIONS else None
    return None if counts is None else header | {"verdict": "REPLY", "counts": counts}


def frame_at(buffer: bytes, cluster: int) -> tuple[int, str | None]:
    """(bytes the first frame needs, error); the frame is whole when they are there."""
    if len(buffer) < 256:
        return 256, None
    if buffer[:16] != aegis(buffer[16:256]):
        return 0, "HEADER_CHECK"
    header = read_header(buffer)
    if not 256 <= header["size"] <= 1_048_576:
        return 0, "SIZE"
    if header["cluster"] != cluster:
        return 0, "CLUSTER"
    if len(buffer) >= header["size"] and buffer[32:48] != aegis(buffer[256 : header["size"]]):
        return 0, "BODY_CHECK"
    return header["size"], None


def parse(server: Server, buffer: bytes) -> Outcome:
    outcome = Outcome()
    while outcome.consumed < len(buffer):
        rest = buffer[outcome.consumed :]
        outcome.needed, outcome.error = frame_at(rest, server.cluster)
        if outcome.error is not None or outcome.needed > len(rest):
            break
        outcome.found.append(judge(server, rest[: outcome.needed]))
        outcome.consumed += outcome.needed
        outcome.needed = 0
    return outcome
