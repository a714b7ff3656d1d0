"""How fast sessions are opened, and how fast a request that comes again gets its original reply.

What is measured is the core alone: a register, the recognition of a resend, and the rebuilding of a
reply from the body of its group. It knows no journal, no door and no socket.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.conftest import Measure
from bench.parts import FULL, SINGLES, Desk, Judges, Shape
from ledger import _core
from ledger.facts import limits, schema
from ledger.facts.schema import Operation, Verdict

REGISTERS = 1_000


def test_registers(measure: Measure) -> None:
    """A thousand new sessions in one call."""
    desks: list[_core.Core] = []

    def prepare() -> tuple[_core.Core, Any]:
        desk = Desk(Shape(1, 1))
        core = _core.Core(
            limits.GROUP_BYTES_MAX, REGISTERS, b"k" * 16,
            desk.buffers.records, desk.buffers.payload, desk.buffers.counts,
        )  # fmt: skip
        core.start(desk.now_ns, desk.now_ns, limits.RELEASE)
        desks[:] = [core]
        arrivals = np.zeros(REGISTERS, schema.ARRIVAL)
        arrivals["operation"], arrivals["verdict"] = Operation.REGISTER, Verdict.REPLY
        arrivals["client"][:, 0] = np.arange(1, REGISTERS + 1)
        arrivals["release"] = limits.RELEASE
        return core, arrivals

    def register(core: _core.Core, arrivals: Any) -> None:
        done, made, why = core.execute(bytes(16), arrivals, 0, REGISTERS, 2_000_000_000_000)
        assert (done, made, why) == (REGISTERS, REGISTERS, _core.DONE)

    measure(register, prepare, count=REGISTERS, unit="sessions", rounds=50)
    assert desks[0].counts_by_kind["sessions"] == REGISTERS


class Resent(Judges):
    """Requests that come again, over another connection, when their group is durable."""

    route = 1

    def prepare(self) -> None:
        super().prepare()
        self.run()
        closed = self.desk.close_group()
        assert closed is not None
        self.position_first, self.body = closed[0]["position_first"], bytes(closed[1])

    def again(self) -> None:
        desk, count = self.desk, self.desk.shape.requests
        self.route += 1
        desk.arrivals["route"] = self.route
        done, made, why = desk.core.execute(self.buffer, desk.arrivals, 0, count, desk.now_ns)
        assert (done, made, why, desk.core.resends) == (count, count, _core.DONE, count)


def test_resends_are_recognised(measure: Measure) -> None:
    part = Resent(Desk(SINGLES))
    part.prepare()
    measure(part.again, count=SINGLES.requests, unit="resends", rounds=100)


@pytest.mark.parametrize("shape", [FULL, SINGLES], ids=["full", "single"])
def test_a_reply_is_rebuilt(measure: Measure, shape: Shape) -> None:
    part = Resent(Desk(shape))
    part.prepare()
    original = part.desk.replies()
    part.again()
    answer = part.desk.buffers.records[0].copy()
    assert answer["verdict"] == Verdict.RESEND
    offset = int(answer["record_offset"])
    core = part.desk.core
    measure(
        lambda: core.original_answer(part.body, part.position_first, offset),
        count=1, unit="replies", rounds=100,
    )  # fmt: skip
    buffers = part.desk.buffers
    rebuilt = part.desk.server.encode(buffers.records, 1, buffers.payload, buffers.counts)
    assert original.startswith(rebuilt)
