"""Drives a bare Core the way the oracle is driven: batches in, results and timestamp out.

What lives here: the shortest honest way to one core, without journal, engine or door: arrivals are
built by hand, groups are taken away when full and kept, so that a test can replay them into a
second core. It knows nothing of what results should be.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chaos.model import EVENT_BYTES
from chaos.sealed_past import IDS, KEY, SealedPast
from ledger import _core
from ledger.facts import limits, schema

NOW = 1_700_000_000 * 10**9
RESULT_BYTES = {140: 128, 141: 128, 142: 128, 143: 128, 144: 128, 145: 128, 146: 16, 147: 16}


def new_core(
    sessions_max: int = 64, payload_bytes: int = 1 << 23, window_events: int = 0
) -> _core.Core:
    answers = np.zeros(64, schema.ANSWER)
    payload = np.zeros(payload_bytes, np.uint8)
    counts = np.zeros(1 << 17, np.uint16)
    core = _core.Core(
        limits.GROUP_BYTES_MAX, sessions_max, b"\x01" * 16, answers, payload, counts, window_events
    )
    BUFFERS[id(core)] = (answers, payload, counts)
    return core


BUFFERS: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}


class Driver:
    """A core and the groups it has written.

    window_events: how much a window holds, 0 for one window for ever; a closed one is kept until
    `windows_kept` younger ones are closed, too, and then dropped; what it held is answered by brute
    force.
    """

    window_events = 0
    windows_kept = 0

    def __init__(self, sessions_max: int = 64, group_records_max: int = 200) -> None:
        self.sessions_max = sessions_max
        self.core = new_core(sessions_max, window_events=self.window_events)
        self.core.use_hash_key(KEY)
        self.past = SealedPast()
        self.sealed_groups = 0
        self.answers, self.payload, self.counts = BUFFERS.pop(id(self.core))
        self.groups: list[tuple[dict[str, int], bytes]] = []
        self.group_records_max = 0 if self.window_events else group_records_max

    def arrival(self, operation: int, batches: list[bytes], **fields) -> tuple[np.ndarray, bytes]:
        """One arrival record and the buffer its events lie in."""
        size = EVENT_BYTES.get(operation, 1)
        events = b"".join(batches)
        counts = [len(batch) // size for batch in batches]
        trailer = np.array(counts[::-1], "<u2").tobytes()
        arrivals = np.zeros(1, schema.ARRIVAL)
        arrival = arrivals[0]
        arrival["operation"], arrival["verdict"] = operation, schema.Verdict.REPLY
        arrival["event_count"], arrival["batch_count"] = sum(counts), len(batches)
        arrival["batches_offset"] = len(events) + len(trailer) - 2
        for name, value in fields.items():
            arrival[name] = value
        return arrivals, events + trailer

    def answer(
        self, arrivals: np.ndarray, buffer: bytes, now: int, route: int = 0
    ) -> np.void | None:
        """Execute one arrival; the answer, or None when it was dropped."""
        arrivals["route"] = route
        for _ in range(8):
            done, made, why = self.core.execute(buffer, arrivals, 0, 1, now)
            if why == _core.GROUP_FULL:
                self.close_group()
                continue
            if why == _core.COLD:
                self.past.attach_to(self.core)
                continue
            assert (done, why) == (1, _core.DONE)
            return self.answers[0].copy() if made else None
        raise AssertionError("the group is full for ever")

    def results(self, answer: np.void) -> list[bytes]:
        """Results of each batch."""
        size = RESULT_BYTES[int(answer["operation"])]
        at, first = int(answer["payload_offset"]), int(answer["counts_offset"])
        batches = []
        for count in self.counts[first : first + int(answer["batch_count"])]:
            batches.append(self.payload[at : at + int(count) * size].tobytes())
            at += int(count) * size
        return batches

    def execute(self, operation: int, batches: list[bytes], now: int) -> tuple[int, list[bytes]]:
        answer = self.answer(*self.arrival(operation, batches), now)
        assert answer is not None and answer["verdict"] == schema.Verdict.REPLY
        results = self.results(answer)
        if self.core.group_records > self.group_records_max:
            self.close_group()
        return int(answer["timestamp"]), results

    def close_group(self) -> None:
        if self.core.group_records:
            fields, body = self.core.take_group()
            self.groups.append((fields, bytes(body)))
            self.core.made_durable(fields["group"])
            self.after_group()

    def after_group(self) -> None:
        """Cut the window when it is full, and drop those that have been closed long enough."""
        if self.core.memtable_full:
            self.core.rotate()
        while len(self.core.memtables) > self.windows_kept:
            last = self.core.memtables[0][1]
            columns = self.core.memtable_columns(KEY, self.core.memtables[0][0])
            for group in self.groups[self.sealed_groups : last]:
                for run in self.runs_of(*group):
                    self.past.see(*run)
            self.sealed_groups = last
            self.core.filter_insert(np.ascontiguousarray(columns[IDS][:, 0]))
            self.core.evict()

    def runs(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Kind, first position and records of each run of all closed groups, in order."""
        for fields, body in self.groups:
            yield from self.runs_of(fields, body)

    @staticmethod
    def runs_of(fields: dict[str, int], body: bytes) -> Iterator[tuple[int, int, np.ndarray]]:
        at, position = 0, fields["position_first"]
        while at < len(body):
            run = np.frombuffer(body, schema.RUN, 1, at)[0]
            kind, size = schema.JournalKind(run["kind"]), int(run["bytes"])
            at += schema.RUN.itemsize
            dtype = schema.RECORDS[kind.name.lower()]
            yield kind, position, np.frombuffer(body, dtype, run["count"], at)
            at += size
            position += int(run["count"])

    def expiries(self) -> list[tuple[int, int]]:
        """(timestamp, position of the hold) of each expiry in the closed groups, in order."""
        return [
            (int(record["timestamp"]), int(record["position"]))
            for kind, _, records in self.runs()
            if kind == schema.JournalKind.RESOLUTION
            for record in records
            if record["outcome"] == schema.HoldOutcome.EXPIRED
        ]

    def replayed(self) -> Driver:
        """A second core that went through this one's groups."""
        self.close_group()
        other = type(self)(self.sessions_max, self.group_records_max)
        other.groups = list(self.groups)
        for fields, body in self.groups:
            other.core.replay(
                body,
                fields["group"],
                fields["position_first"],
                fields["position_count"],
                fields["clock_before"],
                fields["clock_after"],
            )
            other.after_group()
        return other
