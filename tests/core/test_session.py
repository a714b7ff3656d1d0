"""Sessions: who is answered, who is not, and the original reply of a request that is sent again.

The core is asked as the door would ask it, and its answers become frames by the server's codec, so
that "the same reply" is judged byte for byte. What the journal must rebuild is rebuilt here from
the groups that the core wrote.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from chaos.core_driver import Driver
from chaos.generate import Generator
from chaos.model import NS_PER_S, Operation, Transfer, encode
from ledger import _core
from ledger.facts import limits, schema
from ledger.facts.errors import DataRefused
from ledger.facts.schema import EvictionReason, Verdict
from ledger.wire import _codec
from tests.support.core_book import account, linked, pay

REGISTER = 2
RELEASE = limits.RELEASE
CREATES = (Operation.create_accounts, Operation.create_transfers)
NOW = 1_000 * NS_PER_S


class Desk:
    """A core and the frames of its answers."""

    def __init__(self, sessions_max: int = 64) -> None:
        self.driver = Driver(sessions_max)
        self.driver.core.start(NOW, NOW, RELEASE)
        self.codec = _codec.Codec(0, RELEASE, limits.RELEASE_MIN)
        self.now = NOW

    def ask(self, client, session, number, operation, batches=([],), checksum=None, route=1,
            release=RELEASE):  # fmt: skip
        """The answer, or None for a request that is dropped. The checksum is made of the number."""
        self.now += 1000
        arrivals, buffer = self.driver.arrival(
            operation, [b"".join(map(encode, batch)) for batch in batches],
            client=schema.u128(client), session=session, number=number, release=release,
            checksum=schema.u128(client * 1000 + number if checksum is None else checksum),
        )  # fmt: skip
        return self.driver.answer(arrivals, buffer, self.now, route)

    def frame(self) -> bytes:
        """The frame of the answer just made."""
        driver = self.driver
        return self.codec.encode(driver.answers, 1, driver.payload, driver.counts)

    def register(self, client, **fields) -> int:
        answer = self.ask(client, 0, 0, REGISTER, **fields)
        assert answer["verdict"] == Verdict.REPLY
        return int(answer["position"])

    def pay(self, client, session, number, **fields):
        return self.ask(client, session, number, 147, [[pay(number)]], **fields)

    def rebuilt(self, group: int, offset: int) -> bytes:
        fields, body = next(one for one in self.driver.groups if one[0]["group"] == group)
        self.driver.core.original_answer(body, fields["position_first"], offset)
        return self.frame()

    def resent(self, answer) -> bytes:
        assert answer["verdict"] == Verdict.RESEND
        if int(answer["group"]) == self.driver.core.group:
            self.driver.close_group()
        return self.rebuilt(int(answer["group"]), int(answer["record_offset"]))

    def crash(self) -> None:
        live = self.driver.core.state_hash()
        replayed = self.driver.replayed()
        assert replayed.core.state_hash() == live
        replayed.groups = self.driver.groups
        self.driver = replayed


def verdict(answer):
    return None if answer is None else Verdict(answer["verdict"]).name


def reason(answer):
    assert answer["verdict"] == Verdict.EVICT
    return EvictionReason(answer["reason"]).name


# ---- one session ---------------------------------------------------------------------------------


def test_a_session_number_is_the_position_of_its_register():
    desk = Desk()
    first, second = desk.register(7), desk.register(8)
    assert 1 < first < second == desk.driver.core.position
    assert desk.driver.core.counts_by_kind["sessions"] == 2
    desk.crash()
    assert desk.driver.core.counts_by_kind["sessions"] == 2


@pytest.mark.parametrize("crash", [False, True])
def test_a_register_sent_again_gets_its_original_reply(crash):
    desk = Desk()
    others = [desk.register(client) for client in (5, 6)]  # in the same run of records
    desk.register(7)
    original = desk.frame()
    desk.register(8)
    if crash:
        desk.crash()
    assert desk.resent(desk.ask(7, 0, 0, REGISTER, route=2)) == original
    assert desk.ask(7, 0, 0, REGISTER, checksum=99) is None, "not the same request"
    assert desk.driver.core.counts_by_kind["sessions"] == 4
    assert others[0] < others[1]
    desk.pay(7, others[1] + 1, 1)
    assert desk.ask(7, 0, 0, REGISTER) is None, "older than what it asked since"


@pytest.mark.parametrize("crash", [False, True])
def test_a_request_sent_again_gets_its_original_reply_and_does_nothing(crash):
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    answer = desk.ask(7, session, 2, 147, [[pay(1), pay(0), linked(pay(2)), pay(3)], [], [pay(1)]])
    assert verdict(answer) == "REPLY"
    original = desk.frame()
    desk.driver.close_group()
    if crash:
        desk.crash()
    before = desk.driver.core.state_hash()
    again = [[pay(1), pay(0), linked(pay(2)), pay(3)], [], [pay(1)]]
    for route in (1, 2, 3):
        assert desk.resent(desk.ask(7, session, 2, 147, again, route=route)) == original
    assert desk.driver.core.state_hash() == before
    assert desk.driver.core.group_records == 0


def test_numbers_may_have_gaps_and_lower_ones_are_dropped():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    assert verdict(desk.pay(7, session, 5)) == "REPLY"
    for number in (1, 4):
        assert desk.pay(7, session, number) is None
        assert desk.ask(7, session, number, 141, [[]]) is None
    assert desk.pay(7, session, 5, checksum=99) is None, "another request of the same number"
    assert verdict(desk.pay(7, session, 5, route=2)) == "RESEND"
    assert verdict(desk.pay(7, session, 1000)) == "REPLY"
    desk.crash()
    assert desk.pay(7, session, 999) is None
    assert verdict(desk.pay(7, session, 1001)) == "REPLY"


def test_a_read_is_answered_again_and_takes_no_number():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    assert verdict(desk.ask(7, session, 5, 140, [[]])) == "REPLY"
    assert verdict(desk.ask(7, session, 5, 140, [[]], route=2)) == "REPLY"
    assert verdict(desk.pay(7, session, 3)) == "REPLY"


def test_a_request_on_its_way_is_answered_once_to_who_asked_last():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    assert verdict(desk.pay(7, session, 2, route=1)) == "REPLY"
    original = desk.frame()
    assert desk.pay(7, session, 2, route=1) is None, "its answer comes"
    answer = desk.pay(7, session, 2, route=2)
    assert verdict(answer) == "RESEND"
    assert int(answer["group"]) == desk.driver.core.group, "of the open group"
    assert desk.pay(7, session, 2, route=2) is None, "its answer comes"
    assert verdict(desk.pay(7, session, 2, route=1)) == "RESEND"
    assert desk.resent(answer) == original
    # All is durable now: whoever asks again has not got it.
    assert verdict(desk.pay(7, session, 2, route=1)) == "RESEND"
    assert verdict(desk.pay(7, session, 2, route=1)) == "RESEND"


def test_a_read_on_its_way_is_answered_once_to_who_asked_last():
    desk = Desk()
    session = desk.register(7)  # not durable: the read waits for it
    assert verdict(desk.ask(7, session, 1, 141, [[]], route=1)) == "REPLY"
    assert desk.ask(7, session, 1, 141, [[]], route=1) is None
    assert verdict(desk.ask(7, session, 1, 141, [[]], route=2)) == "REPLY"
    desk.driver.close_group()
    assert verdict(desk.ask(7, session, 1, 141, [[]], route=2)) == "REPLY"


def test_an_unknown_session_is_evicted_and_never_adopted():
    desk = Desk()
    assert reason(desk.ask(7, 12345, 1, 141, [[]])) == "NO_SESSION"
    assert reason(desk.pay(7, 12345, 1)) == "NO_SESSION"
    assert reason(desk.ask(7, 0, 1, 141, [[]])) == "NO_SESSION"
    assert desk.driver.core.counts_by_kind["sessions"] == 0


def test_a_session_of_another_number_or_release():
    desk = Desk()
    session = desk.register(7)
    assert reason(desk.ask(7, session - 1, 1, 141, [[]])) == "SESSION_TOO_LOW"
    assert reason(desk.ask(7, session + 1, 1, 141, [[]])) == "NO_SESSION", "never given here"
    assert reason(desk.ask(7, session, 1, 141, [[]], release=RELEASE + 1)) == (
        "SESSION_RELEASE_MISMATCH"
    )
    desk.crash()
    assert reason(desk.ask(7, session, 1, 141, [[]], release=RELEASE - 1)) == (
        "SESSION_RELEASE_MISMATCH"
    )


# ---- the full table ------------------------------------------------------------------------------


def test_the_session_that_was_silent_longest_makes_room():
    desk = Desk(sessions_max=3)
    numbers = {client: desk.register(client) for client in (1, 2, 3)}
    desk.ask(1, numbers[1], 1, 146, [[account(1), account(2)]])
    desk.ask(2, numbers[2], 1, 141, [[]])  # a read counts as well; 3 was silent longest
    numbers[4] = desk.register(4)
    assert reason(desk.ask(3, numbers[3], 1, 141, [[]])) == "NO_SESSION"
    assert verdict(desk.ask(1, numbers[1], 2, 141, [[]])) == "REPLY"
    numbers[5] = desk.register(5)
    assert reason(desk.ask(2, numbers[2], 2, 141, [[]])) == "NO_SESSION"
    for client in (1, 4, 5):
        assert verdict(desk.ask(client, numbers[client], 9, 141, [[]])) == "REPLY"
    assert desk.driver.core.counts_by_kind["sessions"] == 3
    desk.crash()
    assert desk.driver.core.counts_by_kind["sessions"] == 3
    assert reason(desk.ask(2, numbers[2], 2, 141, [[]])) == "NO_SESSION"
    assert verdict(desk.ask(4, numbers[4], 10, 141, [[]])) == "REPLY"


def test_who_was_evicted_may_come_again_under_a_new_number():
    desk = Desk(sessions_max=1)
    first = desk.register(1)
    desk.register(2)
    again = desk.register(1, checksum=55)
    assert again > first
    assert reason(desk.ask(1, first, 1, 141, [[]])) == "SESSION_TOO_LOW"
    assert verdict(desk.ask(1, again, 1, 141, [[]])) == "REPLY"
    desk.crash()
    assert verdict(desk.ask(1, again, 1, 141, [[]])) == "REPLY"


def test_many_sessions_come_and_go():
    """Ten times as many clients as there is room for, at random, against a list by age."""
    draw = random.Random(3)
    desk = Desk(sessions_max=50)
    by_age: dict[int, int] = {}
    numbers = itertools.count(1)
    for step in range(4000):
        client = draw.randrange(1, 500)
        if client in by_age:
            session = by_age.pop(client)
            assert verdict(desk.ask(client, session, next(numbers), 141, [[]])) == "REPLY"
        else:
            assert reason(desk.ask(client, 1, 1, 141, [[]])) == "NO_SESSION"
            session = desk.register(client)
            if len(by_age) == 50:
                by_age.pop(next(iter(by_age)))
        by_age[client] = session
        if step % 1000 == 999:
            desk.crash()
            # Who was silent longest is not remembered: it is told again, in the order it was.
            for client in list(by_age):
                session = by_age.pop(client)
                assert verdict(desk.ask(client, session, next(numbers), 141, [[]])) == "REPLY"
                by_age[client] = session
    assert desk.driver.core.counts_by_kind["sessions"] == 50


# ---- original replies ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_every_reply_can_be_rebuilt_byte_for_byte(seed):
    """The generator's requests by several sessions: failures, chains, imports and expiries."""
    draw = random.Random(seed)
    desk = Desk()
    sessions = {client: desk.register(client) for client in (1, 2, 3)}
    numbers = dict.fromkeys(sessions, 0)
    originals: dict[tuple[int, int], bytes] = {}
    last: dict[int, tuple] = {}
    core = desk.driver.core
    for operation, batches, now in itertools.islice(Generator(seed), 120):
        client = draw.choice(list(sessions))
        numbers[client] += draw.choice((1, 1, 3))
        desk.now = max(desk.now, now)
        arrivals, buffer = desk.driver.arrival(
            operation, batches, client=schema.u128(client), session=sessions[client],
            number=numbers[client], release=RELEASE,
            checksum=(draw.getrandbits(64), draw.getrandbits(64)),
        )  # fmt: skip
        answer = desk.driver.answer(arrivals, buffer, desk.now, client)
        assert verdict(answer) == "REPLY"
        if operation in CREATES:
            frame = desk.frame()
            again = desk.driver.answer(arrivals, buffer, desk.now, client + 10)
            assert verdict(again) == "RESEND"
            originals[int(again["group"]), int(again["record_offset"])] = frame
            last[client] = (arrivals, buffer, frame)
        if core.group_records > 100:
            desk.driver.close_group()
    desk.driver.close_group()
    assert len(originals) > 20
    for (group, offset), frame in originals.items():
        assert desk.rebuilt(group, offset) == frame
    desk.crash()
    for client, (arrivals, buffer, frame) in last.items():
        answer = desk.driver.answer(arrivals, buffer, desk.now, client)
        assert desk.resent(answer) == frame


def test_a_full_request_of_one_event_a_batch_can_be_rebuilt():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    desk.driver.close_group()
    batches = [[pay(n % 5000)] for n in range(8189)]
    answer = desk.ask(7, session, 2, 147, batches)
    assert answer["batch_count"] == 8189
    original = desk.frame()
    assert desk.resent(desk.ask(7, session, 2, 147, batches, route=2)) == original


def test_expiries_around_a_request_are_none_of_its_effects():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    holds = [pay(n, flags=2, timeout=1) for n in (1, 2)]
    desk.ask(7, session, 2, 147, [[*holds, pay(3, flags=2, timeout=3)]])
    desk.now += 2 * NS_PER_S
    post = Transfer(id=5, pending_id=3, amount=1, flags=4)
    desk.ask(7, session, 3, 147, [[pay(4), post]])
    original = desk.frame()
    desk.now += 2 * NS_PER_S
    desk.ask(7, session, 9, 141, [[]])
    assert desk.resent(desk.ask(7, session, 3, 147, [[pay(4), post]], route=2)) == original


def test_no_request_at_the_place_is_refused():
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1)]])
    desk.driver.close_group()
    fields, body = desk.driver.groups[0]
    for offset in (0, 15, 16, len(body) - 128, len(body), 2**32 - 1):
        with pytest.raises(DataRefused, match="no request is recorded"):
            desk.driver.core.original_answer(body, fields["position_first"], offset)


@pytest.mark.parametrize("registers", [True, False])
def test_what_creates_or_registers_is_dropped_while_it_is_not_taken(registers):
    desk = Desk()
    session = desk.register(7)
    desk.ask(7, session, 1, 146, [[account(1), account(2)]])
    desk.driver.close_group()
    core, before = desk.driver.core, desk.driver.core.state_hash()

    def ask(number, operation, events=b"", client=7, session=session):
        arrivals, buffer = desk.driver.arrival(
            operation, [events], client=schema.u128(client), session=session, number=number,
            release=RELEASE, checksum=schema.u128(client * 1000 + number), route=9,
        )  # fmt: skip
        done, made, why = core.execute(buffer, arrivals, 0, 1, desk.now, False, registers)
        assert (done, why) == (1, _core.DONE)
        return Verdict(desk.driver.answers[0]["verdict"]).name if made else None

    assert ask(2, 147, encode(pay(1))) is None
    assert ask(2, 140, (1).to_bytes(16, "little")) == "REPLY"
    assert ask(1, 146) == "RESEND", "what was done is answered"
    assert core.group_records == 0 and core.state_hash() == before
    assert ask(0, REGISTER, client=8, session=0) == ("REPLY" if registers else None)
    assert core.group_records == registers
    assert np.count_nonzero(desk.driver.answers["client"][0]) == 1
    assert verdict(desk.ask(7, session, 2, 147, [[pay(1)]])) == "REPLY"
