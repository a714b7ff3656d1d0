"""Carries packets between two TUN devices, late, in part, or not at all: the inside of a slow link.

A process of its own, so that a load generator beside it does not make the link slower than it was
asked to be. What happens to a packet is drawn from the seed, the direction and its number in that
direction: with one seed and unchanged conditions the k-th packet has the same fate in each run.
It reads one line of JSON for each change of the conditions, answers each with what it has counted,
and ends when its input does, so that it never outlives who started it. It knows IPv4 only as far
as to leave everything else alone, and imports nothing of this tree: it runs as a lone script.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
import random
import select
import sys
import time

READS_MAX = 64
PACKET_BYTES_MAX = 65_536
QUEUE_PACKETS_MAX = 20_000
IDLE_SECONDS = 60.0
LINE_BYTES_MAX = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """How the link is, both ways alike but for `cut`.

    `delay_ms` is the range from which each packet's way in one direction is drawn: the width of
    it is the jitter. `loss` and `twice` are shares of the packets that never arrive, or arrive
    twice. Packets overtake each other only with `reorder`. `cut` says for each direction, there
    and back, that nothing arrives.
    """

    delay_ms: tuple[float, float] = (0.0, 0.0)
    loss: float = 0.0
    twice: float = 0.0
    reorder: bool = False
    cut: tuple[bool, bool] = (False, False)


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Packets so far: what became of each. `overflowed` is what a full queue did not take.

    `under_way` are those that neither arrived nor were stopped yet.
    """

    carried: int = 0
    lost: int = 0
    doubled: int = 0
    stopped: int = 0
    overflowed: int = 0
    under_way: int = 0


class Pump:
    """The queue of packets under way, and what happens to each."""

    def __init__(self, near: int, far: int, seed: str) -> None:
        self._sides = (near, far)
        self._chance = [random.Random(f"{seed} {way}") for way in ("there", "back")]
        self._latest_ns = [0, 0]
        self.queue: list[tuple[int, int, int, bytes]] = []
        self._number = 0
        self.conditions = Conditions()
        self.counts = Counts()

    def wait_seconds(self) -> float:
        """How long nothing is due."""
        if not self.queue:
            return IDLE_SECONDS
        return max(0, self.queue[0][0] - time.monotonic_ns()) / 1e9

    def take(self, side: int) -> None:
        """Read what came in at a side, some at a time so that nothing due waits for it."""
        for _ in range(READS_MAX):
            try:
                packet = os.read(self._sides[side], PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4:
                self._admit(side, packet)

    def _admit(self, way: int, packet: bytes) -> None:
        # All is drawn for each packet, so that a change of conditions does not shift later draws.
        loss, twice, place = (self._chance[way].random() for _ in range(3))
        if self.conditions.cut[way]:
            self.counts.stopped += 1
        elif loss < self.conditions.loss:
            self.counts.lost += 1
        elif len(self.queue) >= QUEUE_PACKETS_MAX:
            self.counts.overflowed += 1
        else:
            low, high = self.conditions.delay_ms
            due_ns = time.monotonic_ns() + int((low + (high - low) * place) * 1e6)
            if not self.conditions.reorder:
                due_ns = self._latest_ns[way] = max(due_ns, self._latest_ns[way])
            copies = 1 + (twice < self.conditions.twice)
            self.counts.doubled += copies - 1
            for _ in range(copies):
                self._number += 1
                heapq.heappush(self.queue, (due_ns, self._number, way, packet))

    def deliver(self) -> None:
        """Write what is due. What was under way when its direction was cut does not arrive."""
        now_ns = time.monotonic_ns()
        while self.queue and self.queue[0][0] <= now_ns:
            _, _, way, packet = heapq.heappop(self.queue)
            if self.conditions.cut[way]:
                self.counts.stopped += 1
                continue
            try:
                os.write(self._sides[1 - way], packet)
                self.counts.carried += 1
            except OSError:  # the device's own queue is full
                self.counts.overflowed += 1


def main(near: int, far: int, seed: str) -> None:
    pump = Pump(near, far, seed)
    while True:
        ready, _, _ = select.select([0, near, far], [], [], pump.wait_seconds())
        if 0 in ready:
            # One whole line: the other side waits for each answer before it writes again.
            line = os.read(0, LINE_BYTES_MAX)
            if not line:
                return
            pump.conditions = Conditions(**json.loads(line))
            pump.counts.under_way = len(pump.queue)
            os.write(1, json.dumps(dataclasses.asdict(pump.counts)).encode() + b"\n")
        pump.deliver()
        for side, descriptor in enumerate((near, far)):
            if descriptor in ready:
                pump.take(side)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
