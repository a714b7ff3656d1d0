"""Compares what the codec found in a frame with what the independent reference found in it."""

from __future__ import annotations

import numpy as np

from ledger.facts import schema
from ledger.facts.schema import Verdict
from tests.oracles import reference_codec as reference
from tests.support.captured import counts_at


def answers_of(*rows):
    """An array of ANSWER; ids given as integers."""
    answers = np.zeros(len(rows), schema.ANSWER)
    for answer, row in zip(answers, rows, strict=True):
        for name, value in row.items():
            answer[name] = schema.u128(value) if name in ("client", "checksum") else value
    return answers


def assert_same_reply(reply, expected, buffer, start):
    """A reply says what the reference found in the frame at buffer[start:]."""
    assert Verdict(reply["verdict"]).name == expected["verdict"]
    if expected["verdict"] == "DROP":
        return
    assert reply["release"] == expected["release"]
    assert schema.int_of(reply["client"]) == expected.get("client", 0)
    assert reply["reason"] == expected.get("reason", 0)
    assert reply["ping_timestamp"] == expected.get("ping_timestamp", 0)
    if expected["verdict"] != "REPLY":
        return
    assert schema.int_of(reply["checksum"]) == expected["request_checksum"]
    assert schema.int_of(reply["context"]) == expected["context"]
    for ours, theirs in (("position", "op"), ("timestamp",) * 2, ("number", "request")):
        assert reply[ours] == expected[theirs]
    assert reply["operation"] == expected["operation"]
    assert reply["body_bytes_max"] == expected.get("limit", 0)
    assert reply["payload_offset"] == start + 256
    counts = expected.get("counts", [])
    assert reply["batch_count"] == len(counts)
    assert counts_at(buffer, int(reply["batches_offset"]), len(counts)) == counts


def assert_same_arrival(arrival, expected, buffer, start):
    """An arrival says what the reference found in the frame at buffer[start:]."""
    assert schema.Verdict(arrival["verdict"]).name == expected["verdict"]
    assert arrival["reason"] == expected.get("reason", 0)
    if expected["verdict"] == "DROP":
        return
    assert schema.int_of(arrival["client"]) == expected["client"]
    assert arrival["session"] == expected["session"]
    assert arrival["release"] == expected["release"]
    assert arrival["ping_timestamp"] == expected.get("ping_timestamp", 0)
    if expected["command"] == reference.PING:
        return
    assert schema.int_of(arrival["checksum"]) == expected["checksum"]
    assert schema.int_of(arrival["parent"]) == expected["parent"]
    assert arrival["number"] == expected["request"]
    assert arrival["operation"] == expected["operation"]
    if expected["verdict"] == "REPLY":
        counts = expected["counts"]
        assert arrival["events_offset"] == start + 256
        assert arrival["event_count"] == sum(counts)
        assert arrival["batch_count"] == len(counts)
        assert counts_at(buffer, int(arrival["batches_offset"]), len(counts)) == counts
