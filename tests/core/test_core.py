"""The core itself: its buffers, the bounds of a group, replay of what does not fit, and memory.

What the rules say is in test_create_*.py, test_holds.py, test_chains.py, test_queries.py and
test_session.py; agreement with the oracle is in test_differential.py.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chaos.core_driver import Driver
from chaos.generate import Generator
from chaos.model import NS_PER_S, Operation, encode
from ledger import _core
from ledger.facts import limits, schema
from ledger.facts.errors import DataRefused
from tests.support.core_book import (
    CREATED,
    NOW,
    Book,
    account,
    hold,
    imported,
    linked,
    pay,
    post,
    void,
)
from tests.support.engine_parts import requests

KEY = b"k" * 16
ROOT = Path(__file__).resolve().parents[2]


def buffers(payload_bytes=1 << 21):
    answers = np.zeros(8, schema.ANSWER)
    return answers, np.zeros(payload_bytes, np.uint8), np.zeros(1 << 17, np.uint16)


def core(group_bytes_max=limits.GROUP_BYTES_MAX, sessions_max=4):
    return _core.Core(group_bytes_max, sessions_max, KEY, *buffers())


# ---- the class -----------------------------------------------------------------------------------


def test_a_new_core_is_empty():
    new = core()
    assert (new.position, new.clock_ns, new.group, new.group_records) == (0, 0, 1, 0)
    assert new.next_expiry_ns == 0 and new.accounts() == b"" and new.newest_group() == 0
    assert new.open_holds().shape == (0, 2)
    assert set(new.counts_by_kind.values()) == {0}
    assert new.state_hash() == core().state_hash()


def test_buffers_and_keys_that_do_not_serve_are_refused():
    answers, payload, counts = buffers()
    with pytest.raises(ValueError, match="16 bytes"):
        _core.Core(limits.GROUP_BYTES_MAX, 4, b"short", answers, payload, counts)
    with pytest.raises(ValueError, match="aligned"):
        _core.Core(limits.GROUP_BYTES_MAX, 4, KEY, answers, payload[1:], counts)
    with pytest.raises((ValueError, BufferError)):
        _core.Core(limits.GROUP_BYTES_MAX, 4, KEY, answers, bytes(payload), counts)


def test_start_takes_a_position_and_moves_the_clock():
    new = core()
    new.start(NOW, NOW + 5, limits.RELEASE)
    assert (new.position, new.clock_ns, new.group_records, new.newest_group()) == (1, NOW, 1, 1)
    fields, body = new.take_group()
    assert (fields["group"], fields["position_first"], fields["position_count"]) == (1, 1, 1)
    assert (fields["clock_before"], fields["clock_after"]) == (0, NOW)
    record = np.frombuffer(body, schema.START, 1, 16)[0]
    assert (record["timestamp"], record["wall"], record["release"]) == (
        NOW,
        NOW + 5,
        limits.RELEASE,
    )
    new.start(NOW - 7, NOW - 7, limits.RELEASE)
    assert new.clock_ns == NOW + 1, "the clock does not go back"


def test_the_key_of_the_hash_has_no_effect_on_what_happens():
    drivers = [Driver(), Driver()]
    answers, payload, counts = buffers(1 << 23)
    drivers[1].core = _core.Core(limits.GROUP_BYTES_MAX, 64, KEY, answers, payload, counts)
    drivers[1].answers, drivers[1].payload, drivers[1].counts = answers, payload, counts
    for operation, batches, now in itertools.islice(Generator(11), 200):
        first, second = (driver.execute(operation, batches, now) for driver in drivers)
        assert first == second
    assert drivers[0].core.state_hash() == drivers[1].core.state_hash()


def test_answers_that_do_not_fit_are_made_in_several_calls():
    one = core()
    arrivals, buffer = requests(*[(Operation.create_accounts, [account(n)]) for n in range(1, 21)])
    at, rounds = 0, 0
    while at < 20:
        done, made, why = one.execute(buffer, arrivals, at, 20, NOW)
        assert made == done - at <= 8
        assert why == (_core.DONE if done == 20 else _core.ANSWERS_FULL)
        at, rounds = done, rounds + 1
    assert rounds == 3 and one.counts_by_kind["accounts"] == 20


def test_results_that_do_not_fit_are_made_in_several_calls():
    one = core()
    ids = list(range(1, 8001))
    arrivals, buffer = requests((Operation.create_accounts, [account(id) for id in ids]))
    assert one.execute(buffer, arrivals, 0, 1, NOW) == (1, 1, _core.DONE)
    # Each look-up fills half of the payload buffer.
    arrivals, buffer = requests(*[(Operation.lookup_accounts, ids)] * 5)
    at, calls = 0, []
    while at < 5:
        done, made, _ = one.execute(buffer, arrivals, at, 5, NOW)
        calls.append(made)
        at = done
    assert calls == [2, 2, 1]


# ---- the bounds of a group -----------------------------------------------------------------------


def test_the_worst_event_is_what_config_says():
    run = schema.RUN.itemsize
    worst = schema.RESOLUTION.itemsize + schema.TRANSFER.itemsize + 2 * run
    assert worst + schema.OUTCOME.itemsize == limits.EVENT_BYTES_WORST


def bytes_of(driver, operation, batches, now):
    """Bytes that the request alone adds to the journal."""
    driver.core.expire(now)
    driver.close_group()
    driver.group_records_max = 10**9
    driver.execute(operation, batches, now)
    if not driver.core.group_records:
        return 0
    driver.close_group()
    return len(driver.groups[-1][1])


def test_an_imported_post_in_a_batch_of_its_own_is_the_worst_there_is():
    book = Book()
    events = [hold(id, amount=1) for id in range(1, 8190)]
    assert set(book.transfers(*events)) == {CREATED}
    first = book.timestamp + 1
    book.wait(1)
    posts = [
        [encode(imported(post(id + 10**5, id), first + id))] for id in range(1, 8190)
    ]  # fmt: skip
    batches = [batch[0] for batch in posts]
    size = bytes_of(book.driver, Operation.create_transfers, batches, book.now)
    bound = 8189 * limits.EVENT_BYTES_WORST + 2 * 8189 + 256
    assert 8189 * limits.EVENT_BYTES_WORST < size <= bound <= limits.REQUEST_BYTES_WORST
    assert book.core.counts_by_kind["open_holds"] == 0
    book.check()


def test_a_request_is_taken_where_its_worst_fits_and_nowhere_else():
    """So that the bound of the core is that of config, and no request ever passes the group's."""
    count = 2000
    bound = count * limits.EVENT_BYTES_WORST + 2 * count + 2 * 256
    for group_bytes_max, expected in ((bound - 1, _core.GROUP_FULL), (bound, _core.DONE)):
        book = Book()
        assert set(book.transfers(*[hold(id) for id in range(1, count + 1)])) == {CREATED}
        first = book.timestamp + 1
        book.driver.close_group()
        one = core(group_bytes_max)
        for group in book.driver.groups:
            replay(one, group)
        posts = [imported(post(id + 10**5, id), first + id) for id in range(1, count + 1)]
        arrivals, buffer = book.driver.arrival(147, [encode(event) for event in posts])
        assert one.execute(buffer, arrivals, 0, 1, book.now + NS_PER_S)[2] == expected
        _, body = one.take_group()
        assert len(body) > count * limits.EVENT_BYTES_WORST or expected == _core.GROUP_FULL


def mixes(draw_id):
    """Requests of 8,189 events that alternate what makes short runs."""
    ids = itertools.count(draw_id)

    def of(*makers):
        makers = itertools.cycle(makers)
        return [next(makers)(next(ids)) for _ in range(8189)]

    gone = {"debit_account_id": 77}
    yield of(lambda n: pay(n, **gone))
    yield of(pay, lambda n: pay(n, **gone))
    yield of(lambda n: linked(pay(n)), lambda n: pay(n, **gone))
    yield of(lambda n: linked(pay(n)), pay)
    yield of(lambda n: linked(pay(n)), lambda n: linked(pay(n, **gone)), pay, pay)
    yield of(lambda n: linked(hold(n)), lambda n: post(n, n - 1))
    yield of(hold, lambda n: post(n, n - 1), lambda n: pay(n, **gone), pay)
    yield of(lambda n: linked(hold(n)), lambda n: linked(void(n, n - 1)), lambda n: pay(n, **gone))
    yield of(lambda n: pay(0))


def test_no_mix_of_events_passes_the_bound():
    book = Book()
    for n, events in enumerate(mixes(10**6)):
        book.now += 10**6
        batch = b"".join(map(encode, events))
        size = bytes_of(book.driver, Operation.create_transfers, [batch], book.now)
        assert size <= 8189 * limits.EVENT_BYTES_WORST + 2 + 256, n
        for fields, body in book.driver.groups[-1:]:
            assert len(body) % 16 == 0 and fields["run_count"] > 0
    book.check()


def test_no_request_of_the_generator_passes_the_bound():
    for seed in range(30):
        driver = Driver()
        for operation, batches, now in itertools.islice(Generator(seed), 60):
            size = bytes_of(driver, operation, batches, now)
            events = sum(len(batch) // 128 for batch in batches)
            if operation in (Operation.create_accounts, Operation.create_transfers):
                bound = events * limits.EVENT_BYTES_WORST + 2 * len(batches) + 256
                assert size <= bound, (seed, operation)


def test_a_request_that_finds_the_group_full_leaves_nothing_behind():
    one = core(group_bytes_max=limits.REQUEST_BYTES_WORST // 4096 * 4096 + 8192)
    accounts, buffer = requests((Operation.create_accounts, [account(1), account(2)]))
    one.execute(buffer, accounts, 0, 1, NOW)
    full, buffer = requests((Operation.create_transfers, [pay(n) for n in range(1, 8190)]))
    before = one.state_hash(), one.group_records
    assert one.execute(buffer, full, 0, 1, NOW) == (1, 1, _core.DONE)
    again, buffer = requests((Operation.create_transfers, [pay(n) for n in range(9000, 17189)]))
    before = one.state_hash(), one.group_records
    for _ in range(3):
        assert one.execute(buffer, again, 0, 1, NOW) == (0, 0, _core.GROUP_FULL)
        assert (one.state_hash(), one.group_records) == before
    one.take_group()
    assert one.execute(buffer, again, 0, 1, NOW) == (1, 1, _core.DONE)


def test_the_header_says_what_the_body_holds():
    book = Book()
    book.wait(1)
    assert book.transfers(imported(pay(1), NOW + 50), imported(hold(2), NOW + 60)) == [CREATED] * 2
    clock = book.core.clock_ns
    assert book.transfers(post(3, 2), pay(4, debit_account_id=77)) == [
        CREATED, "debit_account_not_found",
    ]  # fmt: skip
    stamp = book.results[0].timestamp
    book.driver.close_group()
    fields, _ = book.driver.groups[-1]
    runs = [(kind, records) for kind, _, records in book.driver.runs()]
    assert fields["run_count"] == len(runs)
    assert fields["position_count"] == sum(len(records) for _, records in runs)
    assert fields["position_first"] == 1 and book.core.position == fields["position_count"]
    assert fields["transfer_timestamp_min"] == NOW + 50
    assert fields["transfer_timestamp_max"] == stamp > clock
    names = [schema.JournalKind(kind).name for kind, _ in runs]
    assert names == [
        "REQUEST", "ACCOUNT",
        "REQUEST", "TRANSFER", "OUTCOME",
        "REQUEST", "RESOLUTION", "TRANSFER", "BURNED_ID", "OUTCOME",
    ]  # fmt: skip


# ---- replay of what does not fit -----------------------------------------------------------------


def groups_of_everything():
    """Group 1 opens sessions, accounts and holds; group 2 has a record of every other kind."""
    driver = Driver(sessions_max=2)
    driver.core.start(NOW, NOW, limits.RELEASE)

    def ask(operation, events, client, session, number):
        batch = b"".join(map(encode, events))
        arrivals, buffer = driver.arrival(
            operation, [batch], client=schema.u128(client), session=session, number=number,
            checksum=(client, number), release=limits.RELEASE,
        )  # fmt: skip
        answer = driver.answer(arrivals, buffer, NOW + NS_PER_S)
        assert answer["verdict"] == schema.Verdict.REPLY
        return int(answer["position"])

    first = ask(2, [], 1, 0, 0)
    ask(2, [], 2, 0, 0)
    ask(146, [account(1), account(2), account(3)], 1, first, 1)
    ask(147, [hold(1), hold(2, timeout=100), pay(3)], 1, first, 2)
    driver.close_group()
    ask(147, [post(4, 1), pay(5, debit_account_id=77), pay(6)], 1, first, 5)
    ask(2, [], 3, 0, 0)
    ask(146, [account(4)], 1, first, 6)
    driver.close_group()
    return driver.groups


REFUSALS = [
    ("ACCOUNT", "id", (1, 0), "an account that exists already"),
    ("ACCOUNT", "timestamp", 5, "an account whose timestamp is not later"),
    ("TRANSFER", "id", (3, 0), "a transfer whose id is used already"),
    ("TRANSFER", "id", (5, 0), None),  # burned later in the group: the burned id is refused
    ("TRANSFER", "debit_account_id", (99, 0), "a transfer between accounts that do not exist"),
    ("TRANSFER", "credit_account_id", (1, 0), "a transfer between accounts that do not exist"),
    ("TRANSFER", "timestamp", 5, "a transfer whose timestamp is not later"),
    ("RESOLUTION", "position", 1, "the end of a hold that is not open"),
    ("RESOLUTION", "amount", (11, 0), "the end of a hold that differs from the hold"),
    ("RESOLUTION", "flags", 3, "the end of a hold that differs from the hold"),
    ("RESOLUTION", "outcome", 0, "the end of a hold that differs from the hold"),
    ("RESOLUTION", "outcome", 4, "the end of a hold that differs from the hold"),
    ("BURNED_ID", "id", (4, 0), "a burned id that is used already"),
    ("SESSION", "client", (1, 0), "a session whose client has one already"),
    ("SESSION", "session", 3, "a session whose number is not its position"),
    ("SESSION_EVICTED", "client", (9, 0), "the end of a session that is not open"),
    ("SESSION_EVICTED", "session", 1, "the end of a session that is not open"),
    ("REQUEST", "client", (9, 0), "a request of a session that is not open"),
    ("REQUEST", "session", 1, "a request of a session that is not open"),
    ("REQUEST", "number", 2, "a request whose number is not above the last one's"),
]


def replay(target, group):
    fields, body = group
    names = ("group", "position_first", "position_count", "clock_before", "clock_after")
    return target.replay(body, *(fields[name] for name in names))


@pytest.mark.parametrize(("kind", "field", "value", "why"), REFUSALS)
def test_a_record_that_does_not_fit_is_refused_with_its_place(kind, field, value, why):
    first, (fields, body) = groups_of_everything()
    body = bytearray(body)
    at, position = 0, fields["position_first"]
    while True:
        run = np.frombuffer(body, schema.RUN, 1, at)[0]
        at += 16
        if run["kind"] == schema.JournalKind[kind]:
            break
        at += int(run["bytes"])
        position += int(run["count"])
    records = np.frombuffer(body, schema.RECORDS[kind.lower()], run["count"], at)
    records.setflags(write=True)
    records[0][field] = value
    target = core(sessions_max=2)
    replay(target, first)
    with pytest.raises(DataRefused) as refused:
        replay(target, (fields, bytes(body)))
    if why is not None:
        assert f"group 2, position {position}: {why}" in str(refused.value)


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (0, 11, "a kind this software does not know"),
        (0, 0, "a kind this software does not know"),
        (2, 2, "a version this software does not know"),
        (4, 0, "a run whose length is wrong"),
        (4, 2, "a run whose length is wrong"),
        (8, 96, "a run whose length is wrong"),
    ],
)
def test_a_run_that_is_none_is_refused(offset, value, why):
    groups = groups_of_everything()
    fields, body = groups[0]
    body = bytearray(body)
    body[offset] = value
    with pytest.raises(DataRefused, match=f"group 1, position 1: .*{why}"):
        replay(core(), (fields, bytes(body)))


@pytest.mark.parametrize("cut", [8, 16, 112, 128])
def test_a_body_that_is_cut_is_refused(cut):
    groups = groups_of_everything()
    fields, body = groups[0]
    with pytest.raises(DataRefused, match="group 1"):
        replay(core(), (fields, body[:-cut]))


@pytest.mark.parametrize(
    "change",
    [
        {"group": 2},
        {"position_first": 2},
        {"clock_before": 1},
        {"clock_after": 0, "clock_before": 0},
    ],
)
def test_a_group_that_does_not_follow_is_refused(change):
    groups = groups_of_everything()
    fields, body = groups[1]
    target = core()
    replay(target, groups[0])
    with pytest.raises(DataRefused, match="does not follow group 1"):
        replay(
            target, (fields | {"group": 2} | ({"group": 3} if "group" in change else change), body)
        )


def test_a_group_of_another_length_than_it_says_is_refused():
    fields, body = groups_of_everything()[0]
    with pytest.raises(DataRefused, match="its body ends at position"):
        replay(core(), (fields | {"position_count": fields["position_count"] + 1}, body))


def test_replay_counts_records_by_kind_and_takes_bodies_at_any_address():
    groups = groups_of_everything()
    aligned, shifted = core(), core()
    for fields, body in groups:
        counts = replay(aligned, (fields, body))
        moved = np.frombuffer(b"x" * 7 + body, np.uint8)[7:]
        assert replay(shifted, (fields, moved)) == counts
    assert aligned.state_hash() == shifted.state_hash()
    assert counts[schema.JournalKind.RESOLUTION] == 1
    assert counts[schema.JournalKind.TRANSFER] == 2


# ---- memory --------------------------------------------------------------------------------------


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_failed_chains_and_ended_holds_cost_no_memory():
    """A storm of everything that is taken back, in a process of its own; it may not grow."""
    said = run(
        """if True:
        import itertools, os
        from tests.support.core_book import Book, NOW, hold, linked, pay, post, void
        from chaos.model import Operation, encode
        book = Book()
        ids = itertools.count(10)
        def pages():
            return int(open("/proc/self/statm").read().split()[1])
        chain = [hold(next(ids), amount=1, timeout=n % 3) for n in range(4000)]
        ends = [post(next(ids), event.id) for event in chain]
        broken = b"".join(encode(linked(event)) for event in chain + ends) + encode(pay(0))
        kept = {}
        def storm(count):
            for _ in range(count):
                book.driver.execute(Operation.create_transfers, [broken], NOW)
                book.driver.close_group()
                book.driver.groups.clear()
        storm(20)
        before = pages()
        storm(150)
        grown = (pages() - before) * os.sysconf("SC_PAGE_SIZE")
        counts = book.core.counts_by_kind
        assert counts["transfers"] == counts["open_holds"] == counts["burned_ids"] == 0, counts
        print(grown)
        """
    )
    assert int(said) < 4 << 20


def test_without_memory_a_request_is_not_begun():
    """The address space ends: NO_MEMORY, nothing changed, and on with more room."""
    said = run(
        """if True:
        import resource
        import numpy as np
        from ledger import _core; from ledger.facts import schema
        from tests.support.core_book import Book, NOW, pay
        from tests.support.engine_parts import requests
        from chaos.model import Operation
        book = Book()
        core = book.core
        events = [pay(i) for i in range(1, 8190)]
        arrivals, buffer = requests((Operation.create_transfers, events))
        events = np.frombuffer(buffer, schema.TRANSFER).copy()

        def limit(bytes):
            resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))

        def picture():
            counts = tuple(core.counts_by_kind.values())
            return counts, core.position, core.clock_ns, core.group, core.group_records

        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        limit(used + (20 << 20))
        refused = taken = 0
        while taken < 30:
            before = picture()
            done, answers, why = core.execute(events, arrivals, 0, 1, NOW)
            if why == _core.DONE:
                taken += 1
                events["id"][:, 0] += 10_000
                continue
            assert (done, answers) == (0, 0) and picture() == before
            if why == _core.NO_MEMORY:
                refused += 1
            if why == _core.GROUP_FULL or refused == 3:
                limit(resource.RLIM_INFINITY)
                if why == _core.GROUP_FULL:
                    book.driver.close_group()
                    if refused < 3:
                        limit(used + (20 << 20))
        book.check()
        assert core.counts_by_kind["transfers"] == 30 * 8189
        print(refused)
        """
    )
    assert int(said) >= 3


def test_a_core_that_gets_no_memory_says_so():
    said = run(
        """if True:
        import resource
        from tests.core.test_core import core
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
        try:
            core()
        except MemoryError:
            print("MemoryError")
        """
    )
    assert said.strip() == "MemoryError"


def test_the_build_says_whether_it_verifies() -> None:
    assert (os.environ.get("LEDGER_VERIFY") == "1") == _core.VERIFYING
