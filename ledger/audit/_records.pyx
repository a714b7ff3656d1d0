"""The audit's first kernel: a journal's records judged and added up, not as the core does it.

Every record is held to the rules it must obey by itself, to the group and the records around it,
and to the accounts and holds as they stood; balances are added up from nothing but the records. It
goes once through them in order and stops at the first fault. What must be remembered is in
totals.h. With the core it shares the layout of records and nothing else. It knows no disk, and not
what a request announces.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memcpy, memset

from ledger.facts.record cimport *
from ledger.journal.runs cimport *

import numpy

cdef extern from * nogil:
    bint expect "__builtin_expect"(bint condition, int usual)

cdef extern from "audit/totals.h" nogil:
    ctypedef struct audit_account_t:
        u128 id
        u128 balances[4]
        u32 closings, ledger
        u16 flags
        u64 timestamp
    ctypedef struct audit_carry_t:
        int32_t balances[4]
    ctypedef struct audit_hold_t:
        u128 id, amount
        u64 position, expires_at
        u32 debit, credit
        u16 flags, code
    ctypedef struct audit_sum_t:
        u128 low
        int64_t high
    ctypedef struct audit_ledger_t:
        audit_sum_t sums[8]
        u64 accounts
        u32 ledger
    ctypedef struct audit_t:
        u64 key[2]
        audit_account_t *accounts
        audit_carry_t *carries
        audit_hold_t *holds
        audit_ledger_t *ledgers
        u64 account_count, ledger_count, repeated_count
        u64 *repeated
    int audit_init(audit_t *, const u64 *)
    void audit_free(audit_t *)
    bint audit_is_zero(const void *, size_t)
    bint audit_reserved_is_zero(u16, const void *)
    u32 audit_tag(const u64 *, u128)
    u32 audit_find_account(const audit_t *, u128, u32)
    void audit_fetch_slot(const audit_t *, u32)
    void audit_fetch_account(const audit_t *, u32)
    int audit_add_account(audit_t *, const account_t *, u32)
    void audit_raise(audit_t *, u32, u32, u128)
    void audit_lower(audit_t *, u32, u32, u128)
    bint audit_is_closed(const audit_t *, u32)
    bint audit_keeps_limits(const audit_t *, u32)
    void audit_sum_of_ledger(audit_t *, u32, u32, u128)
    void audit_sum_up(audit_t *)
    u32 audit_find_hold(const audit_t *, u64)
    int audit_add_hold(audit_t *, const audit_hold_t *)
    int audit_end_hold(audit_t *, u32)
    bint audit_has_ended(const audit_t *, u64)
    int audit_add_id(audit_t *, u128)
    int audit_search(audit_t *)
    void audit_accounts(const audit_t *, account_t *)
    u64 audit_open_holds(const audit_t *, u64 *)
    void audit_hashes(const audit_t *, const void *, u64, u64 *)
    enum:
        DEBITS_PENDING, DEBITS_POSTED, CREDITS_PENDING, CREDITS_POSTED, BALANCES
        HELD, CAPTURED, RELEASED, AUDIT_SUMS, AUDIT_LIMITS
    u32 AUDIT_NONE

cdef enum:
    KINDS = 11  # of the journal, counted from 1
    AHEAD = 16  # transfers whose accounts are fetched together
    RESOLVES = TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER
    CLOSES = TRANSFER_CLOSING_DEBIT | TRANSFER_CLOSING_CREDIT
    NOT_WITH_RESOLVES = (TRANSFER_PENDING | CLOSES | TRANSFER_BALANCING_DEBIT
                         | TRANSFER_BALANCING_CREDIT)

# What goes on from group to group.
ctypedef struct fold_t:
    audit_t kept
    u64 account_timestamp, transfer_timestamp, clock
    u64 counts[KINDS]

# One group while it is judged.
ctypedef struct group_t:
    runs_header_t header
    const u8 *body
    u64 runs_end  # offset where the good runs end
    u64 position_end  # the position after the last of their records
    u64 transfer_timestamp_min, transfer_timestamp_max
    u64 position  # of the record that is judged
    # A hold's end that its post or void must follow at once; position 0 when there is none.
    u64 ended_position, ended_timestamp
    audit_hold_t ended
    u16 ended_outcome
    # The lowest fault so far; position 0 when there is none, no words when body.py has them.
    u64 wrong_position
    u16 wrong_kind
    const char *why
    bint no_memory

# The numbers of a group's header in the order of runs_header_t.
HEADER = ("position_first", "position_count", "run_count", "clock_after",
          "transfer_timestamp_min", "transfer_timestamp_max", "body_bytes")


cdef void note(group_t *g, u64 position, u16 kind, const char *why) noexcept nogil:
    """Keep a fault when it is lower than the one that is kept."""
    if g.wrong_position == 0 or position < g.wrong_position:
        g.wrong_position, g.wrong_kind, g.why = position, kind, why

cdef const char *no_memory(group_t *g) noexcept nogil:
    g.no_memory = True
    return "no memory is left"

cdef bint is_no_id(u128 id) noexcept nogil:
    return id == 0 or id == U128_MAX

# ---- accounts: what is wrong with a record, or NULL ----------------------------------------------

cdef const char *judge_account(fold_t *f, group_t *g, const account_t *r) noexcept nogil:
    cdef u64 before = f.account_timestamp
    cdef u32 tag
    f.account_timestamp = r.timestamp
    if is_no_id(r.id):
        return "an account with an id that is 0 or 2^128-1"
    if r.flags & ~<u16>ACCOUNT_FLAGS_KNOWN:
        return "an account with unknown flags"
    if r.flags & AUDIT_LIMITS == AUDIT_LIMITS:
        return "an account with both limits"
    if r.ledger == 0:
        return "an account with ledger 0"
    if r.code == 0:
        return "an account with code 0"
    if r.debits_pending != 0:
        return "an account with debits_pending that is not 0"
    if r.debits_posted != 0:
        return "an account with debits_posted that is not 0"
    if r.credits_pending != 0:
        return "an account with credits_pending that is not 0"
    if r.credits_posted != 0:
        return "an account with credits_posted that is not 0"
    if r.timestamp <= before:
        return "an account not later than the account before it"
    tag = audit_tag(f.kept.key, r.id)
    if audit_find_account(&f.kept, r.id, tag) != AUDIT_NONE:
        return "an account whose id is used already"
    return no_memory(g) if audit_add_account(&f.kept, r, tag) else NULL

# ---- transfers: likewise -------------------------------------------------------------------------

cdef const char *judge_fields(fold_t *f, const transfer_t *r) noexcept nogil:
    cdef u64 before = f.transfer_timestamp
    cdef bint resolves = r.flags & RESOLVES != 0
    f.transfer_timestamp = r.timestamp
    if is_no_id(r.id):
        return "a transfer with an id that is 0 or 2^128-1"
    if r.flags & ~<u16>TRANSFER_FLAGS_KNOWN:
        return "a transfer with unknown flags"
    if r.flags & RESOLVES == RESOLVES:
        return "a transfer with both post and void"
    if resolves and r.flags & NOT_WITH_RESOLVES:
        return "a transfer with flags no post or void may have"
    if not r.flags & TRANSFER_PENDING:
        if r.flags & CLOSES:
            return "a transfer with a closing flag, but no hold"
        if r.timeout != 0:
            return "a transfer with a timeout, but no hold"
    if r.flags & TRANSFER_IMPORTED and r.timeout != 0:
        return "a transfer with a timeout, but imported"
    if (r.pending_id != 0) != resolves:
        return "a transfer with a wrong pending_id"
    if r.ledger == 0:
        return "a transfer with ledger 0"
    if r.code == 0:
        return "a transfer with code 0"
    if r.timestamp <= before:
        return "a transfer not later than the transfer before it"
    return NULL

cdef const char *judge_sides(const audit_t *a, const transfer_t *r, u32 debit,
                             u32 credit) noexcept nogil:
    if debit == AUDIT_NONE or credit == AUDIT_NONE:
        return "a transfer of an account that does not exist"
    if debit == credit:
        return "a transfer between an account and itself"
    if a.accounts[debit].ledger != r.ledger:
        return "a transfer whose debit account is of another ledger"
    if a.accounts[debit].timestamp >= r.timestamp:
        return "a transfer not later than its debit account"
    if a.accounts[credit].ledger != r.ledger:
        return "a transfer whose credit account is of another ledger"
    if a.accounts[credit].timestamp >= r.timestamp:
        return "a transfer not later than its credit account"
    return NULL

cdef const char *hold_ended_alone(group_t *g) noexcept nogil:
    """The fault is the end's, not that of the record after it."""
    cdef const char *why = "a hold that ends without post or void"
    note(g, g.ended_position, KIND_RESOLUTION, why)
    return why

cdef const char *judge_pair(audit_t *a, group_t *g, const transfer_t *r, u32 debit,
                            u32 credit) noexcept nogil:
    """A post or void and the end of its hold stand together, and agree."""
    cdef bint posts = r.flags & TRANSFER_POST_PENDING_TRANSFER != 0
    cdef const audit_hold_t *hold = &g.ended
    if not r.flags & RESOLVES:
        return hold_ended_alone(g) if g.ended_position != 0 else NULL
    if g.ended_position == 0:
        return "a post or void without the end of its hold"
    invariant(g.ended_position + 1 == g.position)
    g.ended_position = 0
    if (r.pending_id != hold.id or g.ended_outcome != (HOLD_POSTED if posts else HOLD_VOIDED)
            or debit != hold.debit or credit != hold.credit or r.code != hold.code
            or r.timestamp != g.ended_timestamp):
        return "a post or void that differs from its hold"
    if r.amount > hold.amount or (not posts and r.amount != hold.amount):
        return "a post or void of more than its hold, or a void of less"
    if posts:
        audit_sum_of_ledger(a, r.ledger, CAPTURED, r.amount)
        audit_sum_of_ledger(a, r.ledger, RELEASED, hold.amount - r.amount)
    return NULL

cdef const char *open_hold(audit_t *a, group_t *g, const transfer_t *r, u32 debit,
                           u32 credit) noexcept nogil:
    cdef audit_hold_t hold
    memset(&hold, 0, sizeof(hold))
    hold.id, hold.amount, hold.position = r.id, r.amount, g.position
    hold.debit, hold.credit, hold.flags, hold.code = debit, credit, r.flags, r.code
    if r.timeout != 0:
        hold.expires_at = r.timestamp + r.timeout * NS_PER_SECOND
    if audit_add_hold(a, &hold) != 0:
        return no_memory(g)
    audit_sum_of_ledger(a, r.ledger, HELD, r.amount)
    audit_raise(a, debit, DEBITS_PENDING, r.amount)
    audit_raise(a, credit, CREDITS_PENDING, r.amount)
    a.accounts[debit].closings += r.flags & TRANSFER_CLOSING_DEBIT != 0
    a.accounts[credit].closings += r.flags & TRANSFER_CLOSING_CREDIT != 0
    return NULL

cdef const char *judge_transfer(fold_t *f, group_t *g, const transfer_t *r, u32 debit,
                                u32 credit) noexcept nogil:
    cdef audit_t *a = &f.kept
    cdef const char *why = judge_fields(f, r)
    if why == NULL:
        why = judge_sides(a, r, debit, credit)
    if why == NULL:
        why = judge_pair(a, g, r, debit, credit)
    if why != NULL:
        return why
    if audit_add_id(a, r.id) != 0:
        return no_memory(g)
    if r.flags & TRANSFER_VOID_PENDING_TRANSFER:
        return NULL
    if audit_is_closed(a, debit) or audit_is_closed(a, credit):
        return "a transfer of an account that is closed"
    if r.flags & TRANSFER_PENDING:
        why = open_hold(a, g, r, debit, credit)
        if why != NULL:
            return why
    else:
        audit_raise(a, debit, DEBITS_POSTED, r.amount)
        audit_raise(a, credit, CREDITS_POSTED, r.amount)
    if expect((a.accounts[debit].flags | a.accounts[credit].flags) & AUDIT_LIMITS != 0, False):
        if not (audit_keeps_limits(a, debit) and audit_keeps_limits(a, credit)):
            return "a transfer beyond the limit of an account"
    return NULL

cdef int judge_transfers(fold_t *f, group_t *g, const transfer_t *r, u64 count) noexcept nogil:
    """The transfers of a run. -1 when a fault was noted."""
    cdef u32 debits[AHEAD]
    cdef u32 credits[AHEAD]
    cdef u64 i, together, first
    cdef const char *why
    first = 0
    while first < count:
        together = min(count - first, <u64>AHEAD)
        for i in range(together):
            debits[i] = audit_tag(f.kept.key, r[first + i].debit_account_id)
            credits[i] = audit_tag(f.kept.key, r[first + i].credit_account_id)
            audit_fetch_slot(&f.kept, debits[i])
            audit_fetch_slot(&f.kept, credits[i])
        for i in range(together):
            audit_fetch_account(&f.kept, debits[i])
            audit_fetch_account(&f.kept, credits[i])
        for i in range(together):
            why = judge_transfer(
                f, g, &r[first + i],
                audit_find_account(&f.kept, r[first + i].debit_account_id, debits[i]),
                audit_find_account(&f.kept, r[first + i].credit_account_id, credits[i]))
            if expect(why != NULL, False):
                note(g, g.position, KIND_TRANSFER, why)
                return -1
            g.position += 1
        first += together
    return 0

# ---- the other kinds: likewise -------------------------------------------------------------------

cdef const char *judge_clock(fold_t *f, u64 timestamp) noexcept nogil:
    """The ledger clock increases with each start, session, request and expiry."""
    if <int64_t>timestamp <= <int64_t>f.clock:
        return "a clock that does not increase"
    f.clock = timestamp
    return NULL

cdef const char *judge_resolution(fold_t *f, group_t *g, const resolution_t *r) noexcept nogil:
    cdef audit_t *a = &f.kept
    cdef audit_hold_t *hold = &g.ended
    cdef u32 place = audit_find_hold(a, r.position)
    if place == AUDIT_NONE:
        if audit_has_ended(a, r.position):
            return "the end of a hold that has ended already"
        return "the end of a hold that was never opened"
    hold[0] = a.holds[place]
    if r.amount != hold.amount or r.flags != hold.flags:
        return "the end of a hold that differs from the hold"
    if r.outcome < HOLD_POSTED or r.outcome > HOLD_EXPIRED:
        return "the end of a hold with an unknown outcome"
    if (hold.expires_at == 0 if r.outcome == HOLD_EXPIRED
            else hold.expires_at != 0 and r.timestamp >= hold.expires_at):
        return "the end of a hold on the wrong side of its expiry"
    if audit_end_hold(a, place) != 0:
        return no_memory(g)
    audit_lower(a, hold.debit, DEBITS_PENDING, hold.amount)
    audit_lower(a, hold.credit, CREDITS_PENDING, hold.amount)
    if r.outcome != HOLD_POSTED:
        audit_sum_of_ledger(a, a.accounts[hold.debit].ledger, RELEASED, hold.amount)
        a.accounts[hold.debit].closings -= hold.flags & TRANSFER_CLOSING_DEBIT != 0
        a.accounts[hold.credit].closings -= hold.flags & TRANSFER_CLOSING_CREDIT != 0
    if r.outcome == HOLD_EXPIRED:
        return judge_clock(f, r.timestamp)
    g.ended_position, g.ended_timestamp, g.ended_outcome = g.position, r.timestamp, r.outcome
    return NULL

cdef const char *judge_session(fold_t *f, group_t *g, const session_record_t *r) noexcept nogil:
    if r.client == 0:
        return "a session of client 0"
    if r.session != g.position:
        return "a session whose number is not its position"
    return judge_clock(f, r.timestamp)

cdef const char *judge_burned_id(fold_t *f, group_t *g, const burned_id_t *r) noexcept nogil:
    if is_no_id(r.id):
        return "a burned id that is 0 or 2^128-1"
    return no_memory(g) if audit_add_id(&f.kept, r.id) else NULL

cdef const char *judge_record(fold_t *f, group_t *g, u16 kind, const u8 *record) noexcept nogil:
    if not audit_reserved_is_zero(kind, record):
        return "{kind}: reserved bytes are not zero"
    if kind == KIND_REQUEST:
        return judge_clock(f, (<const request_t *>record).timestamp)
    if kind == KIND_RESOLUTION:
        return judge_resolution(f, g, <const resolution_t *>record)
    if kind == KIND_ACCOUNT:
        return judge_account(f, g, <const account_t *>record)
    if kind == KIND_BURNED_ID:
        return judge_burned_id(f, g, <const burned_id_t *>record)
    if kind == KIND_SESSION:
        return judge_session(f, g, <const session_record_t *>record)
    if kind == KIND_START:
        return judge_clock(f, (<const start_t *>record).timestamp)
    return NULL

# ---- a group -------------------------------------------------------------------------------------

cdef void measure(fold_t *f, group_t *g) noexcept nogil:
    """Find where the good runs end, and what the header should say of them."""
    cdef u64 run_count = 0
    cdef runs_t runs = runs_from(g.body, 0, g.header.body_bytes, g.header.position_first)
    g.position_end = runs.position
    while runs.at < g.header.body_bytes:
        if not runs_good(g.body, runs.at, g.header.body_bytes):
            note(g, g.position_end, 0, NULL)
            break
        runs_next(&runs)
        if runs.kind == KIND_TRANSFER:
            if g.transfer_timestamp_min == 0:
                g.transfer_timestamp_min = (<const transfer_t *>runs.record)[0].timestamp
            g.transfer_timestamp_max = (
                <const transfer_t *>runs.record)[runs.left - 1].timestamp
        f.counts[runs.kind] += runs.left
        g.position_end += runs.left
        run_count += 1
    g.runs_end = runs.at
    if g.wrong_position != 0:
        return
    if g.position_end != g.header.position_first + g.header.position_count:
        note(g, g.position_end, 0, NULL)
    elif run_count != g.header.run_count:
        note(g, g.header.position_first, 0, NULL)

cdef const char *judge_run(const group_t *g, const runs_t *run) noexcept nogil:
    """What is wrong with a run as such, whose first record comes next."""
    cdef u64 bytes = run.left * run.record_bytes
    if not audit_is_zero(run.record + bytes, -bytes % RUNS_UNIT_BYTES):
        return "a run whose padding is not zero"
    if run.position == 1 and run.kind != KIND_START:
        return "a book that does not begin with a start record"
    return NULL

cdef int judge_runs(fold_t *f, group_t *g) noexcept nogil:
    """All good runs, in order. -1 when a fault was noted."""
    cdef runs_t runs = runs_from(g.body, 0, g.runs_end, g.header.position_first)
    cdef const char *why
    cdef u64 i
    while runs_next(&runs):
        g.position = runs.position
        why = judge_run(g, &runs)
        if runs.kind == KIND_TRANSFER and why == NULL:
            if judge_transfers(f, g, <const transfer_t *>runs.record, runs.left) != 0:
                return -1
            continue
        for i in range(runs.left):
            if why == NULL and g.ended_position != 0:
                why = hold_ended_alone(g)
            if why == NULL:
                why = judge_record(f, g, runs.kind, runs.record + i * runs.record_bytes)
            if why != NULL:
                note(g, g.position, runs.kind, why)
                return -1
            g.position += 1
    return 0

cdef void judge_group(fold_t *f, group_t *g) noexcept nogil:
    cdef u64 position_last = g.header.position_first + g.header.position_count - 1
    measure(f, g)
    if g.wrong_position == g.header.position_first or judge_runs(f, g) != 0:
        return
    if g.transfer_timestamp_min != g.header.transfer_timestamp_min:
        note(g, position_last, 0, "a group whose header is wrong about transfer_timestamp_min")
    if g.transfer_timestamp_max != g.header.transfer_timestamp_max:
        note(g, position_last, 0, "a group whose header is wrong about transfer_timestamp_max")
    if g.ended_position != 0:
        hold_ended_alone(g)
    if f.clock != g.header.clock_after:
        note(g, position_last, 0, "a group whose clock does not end with its last record")


cdef u64 judge_groups(fold_t *f, const u8 *bodies, const runs_header_t *headers, u64 count,
                      group_t *g) noexcept nogil:
    """How many groups, whose bodies follow each other, were right; `g` is the one that is not."""
    cdef u64 i
    for i in range(count):
        memset(g, 0, sizeof(group_t))
        g.header, g.body = headers[i], bodies
        judge_group(f, g)
        if g.wrong_position != 0 or g.no_memory:
            return i
        bodies += g.header.body_bytes
    return count


cdef object number_of(u128 low, int64_t high):
    """A sum as a Python integer."""
    cdef const char *start = <const char *>&low
    return (<object>high << 128) | int.from_bytes(start[:sizeof(u128)], "little")


cdef class Fold:
    """The fold over a journal's groups from group 1 on; _records.pyi says what each method does."""

    cdef fold_t f
    cdef bint ended  # a fault was found

    def __cinit__(self, bytes hash_key not None):
        cdef u64[2] key
        if len(hash_key) != sizeof(key):
            raise ValueError(f"hash_key must be {sizeof(key)} bytes")
        memcpy(key, PyBytes_AS_STRING(hash_key), sizeof(key))
        if audit_init(&self.f.kept, key) != 0:
            raise MemoryError("the audit's tables")

    def __dealloc__(self):
        audit_free(&self.f.kept)

    @property
    def counts(self):
        return [self.f.counts[kind] for kind in range(KINDS)]

    def take(self, bodies not None, headers not None):
        cdef Py_buffer body, header
        cdef u64 group = 0, count
        cdef group_t g
        if self.ended:
            raise ValueError("something was wrong already")
        PyObject_GetBuffer(headers, &header, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(bodies, &body, PyBUF_SIMPLE)
            try:
                count = runs_headers(header.buf, header.len, body.buf, body.len)
                if count == 0:
                    raise ValueError("bodies that are not those of the headers, or not aligned")
                with nogil:
                    group = judge_groups(&self.f, <const u8 *>body.buf,
                                         <const runs_header_t *>header.buf, count, &g)
            finally:
                PyBuffer_Release(&body)
        finally:
            PyBuffer_Release(&header)
        if group == count:
            return None
        self.ended = True
        if g.no_memory:
            raise MemoryError("what the audit keeps")
        return (group, g.wrong_position, g.wrong_kind, None if g.why == NULL else g.why.decode())

    def accounts(self):
        result = numpy.empty(self.f.kept.account_count * sizeof(account_t), numpy.uint8)
        audit_accounts(&self.f.kept, <account_t *><uintptr_t>result.ctypes.data)
        return result

    def beyond(self):
        cdef const audit_t *a = &self.f.kept
        cdef u64 i
        cdef int balance
        for i in range(a.account_count):
            for balance in range(BALANCES):
                if a.carries[i].balances[balance] != 0:
                    return (number_of(a.accounts[i].id, 0), balance,
                            number_of(a.accounts[i].balances[balance],
                                      a.carries[i].balances[balance]))
        return None

    def open_holds(self):
        holds = numpy.empty((audit_open_holds(&self.f.kept, NULL), 2), numpy.uint64)
        audit_open_holds(&self.f.kept, <u64 *><uintptr_t>holds.ctypes.data)
        return holds[numpy.argsort(holds[:, 0])]

    def totals(self):
        cdef const audit_ledger_t *one
        cdef u64 i
        with nogil:
            audit_sum_up(&self.f.kept)
        found = []
        for i in range(self.f.kept.ledger_count):
            one = &self.f.kept.ledgers[i]
            sums = [number_of(one.sums[k].low, one.sums[k].high) for k in range(AUDIT_SUMS)]
            found.append((one.ledger, one.accounts, *sums))
        return sorted(found)

    def repeated(self):
        cdef const char *found
        cdef int failed
        with nogil:
            failed = audit_search(&self.f.kept)
        if failed:
            raise MemoryError("the search for ids that come twice")
        found = <const char *>self.f.kept.repeated
        return numpy.unique(numpy.frombuffer(
            found[:self.f.kept.repeated_count * sizeof(u64)], numpy.uint64))

    def hashes(self, ids not None):
        cdef Py_buffer view
        PyObject_GetBuffer(ids, &view, PyBUF_SIMPLE)
        result = numpy.empty(view.len // sizeof(u128), numpy.uint64)
        audit_hashes(&self.f.kept, view.buf, view.len // sizeof(u128),
                     <u64 *><uintptr_t>result.ctypes.data)
        PyBuffer_Release(&view)
        return result
