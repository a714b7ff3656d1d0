"""The audit's second kernel: each request's effects and outcomes are what its record announces.

A request's record, its outcomes and its clock say what happened to each of its events; the
accounts, transfers and burned ids that follow the request must be exactly those, in that order and
with those timestamps. So a resend gets its original reply. What the effects did to balances is
judged elsewhere; nothing is remembered from one request to the next.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset

from ledger.facts.record cimport *
from ledger.journal.runs cimport *

cdef extern from "facts/status.h" nogil:
    u32 STATUS_CREATED
    bint transfer_status_transient(u32)

cdef extern from * nogil:
    """
    #define STATUS_IS(name, value, transient) || status == (value)
    static inline int account_status_known(unsigned status) {
        return status == STATUS_CREATED ACCOUNT_STATUSES(STATUS_IS);
    }
    static inline int transfer_status_known(unsigned status) {
        return status == STATUS_CREATED TRANSFER_STATUSES(STATUS_IS);
    }
    """
    bint account_status_known(u32)
    bint transfer_status_known(u32)

cdef enum:
    KINDS = 11  # of the journal, counted from 1

# A request and the records that follow it, up to the next request or the end of the group.
ctypedef struct asked_t:
    const request_t *record  # NULL for what a group begins with
    u64 position
    runs_t followers
    u64 counts[KINDS]  # of the records that are the request's
    u64 count, last  # of all of them: how many, and the last position
    u64 first  # position of the first
    u16 first_kind
    u64 events_in_batches
    # The lowest fault; position 0 when there is none.
    u64 wrong_position
    u16 wrong_kind
    const char *why


cdef int note(asked_t *r, u64 position, const char *why, u16 kind=0) noexcept nogil:
    """Keep a fault when it is lower than the one that is kept. -1."""
    if r.wrong_position == 0 or position < r.wrong_position:
        r.wrong_position, r.wrong_kind, r.why = position, kind, why
    return -1

# ---- what follows --------------------------------------------------------------------------------

cdef void own(asked_t *r, u16 kind, u64 position, u64 count) noexcept nogil:
    if r.count == 0:
        r.first, r.first_kind = position, kind
    r.counts[kind] += count
    r.count += count
    r.last = position + count - 1

cdef void count_followers(asked_t *r) noexcept nogil:
    """Starts, sessions and expiries are nobody's."""
    cdef runs_t runs = r.followers
    cdef u64 i
    while runs_next(&runs):
        if runs.kind == KIND_RESOLUTION:
            for i in range(runs.left):
                if (<const resolution_t *>runs.record)[i].outcome != HOLD_EXPIRED:
                    own(r, runs.kind, runs.position + i, 1)
        elif (runs.kind != KIND_START and runs.kind != KIND_SESSION
                and runs.kind != KIND_SESSION_EVICTED):
            own(r, runs.kind, runs.position, runs.left)
        if runs.kind == KIND_BATCH:
            for i in range(runs.left):
                r.events_in_batches += (<const batch_t *>runs.record)[i].event_count

cdef void judge_places(asked_t *r) noexcept nogil:
    """Batch counts come first, outcomes last."""
    cdef runs_t runs = r.followers
    while r.counts[KIND_BATCH] != 0 and runs_take(&runs, KIND_BATCH) != NULL:
        if runs.position - 1 > r.position + r.counts[KIND_BATCH]:
            note(r, runs.position - 1, "batch counts that do not follow their request")
    runs = r.followers
    while r.counts[KIND_OUTCOME] != 0 and runs_take(&runs, KIND_OUTCOME) != NULL:
        if runs.position - 1 + r.counts[KIND_OUTCOME] <= r.last:
            note(r, runs.position - 1, "outcomes that do not end their request")

# ---- outcomes ------------------------------------------------------------------------------------

cdef u64 own_timestamp(const request_t *r, u32 event) noexcept nogil:
    """Of an event that is plainly created."""
    return r.timestamp - r.event_count + 1 + event

cdef const char *judge_outcome(const request_t *r, const outcome_t *o,
                               const outcome_t *before) noexcept nogil:
    if before != NULL and o.event <= before.event:
        return "an outcome that is not after the one before it"
    if o.status == STATUS_CREATED and o.timestamp == own_timestamp(r, o.event):
        return "an outcome that says nothing new"
    if not (transfer_status_known(o.status) if r.operation == OPERATION_CREATE_TRANSFERS
            else account_status_known(o.status)):
        return "an outcome with an unknown status"
    return NULL

cdef const outcome_t *next_outcome(const asked_t *r, runs_t *outcomes) noexcept nogil:
    return <const outcome_t *>runs_take(outcomes, KIND_OUTCOME) if r.counts[KIND_OUTCOME] else NULL

cdef int judge_outcomes(asked_t *r) noexcept nogil:
    cdef const outcome_t *before = NULL
    cdef const outcome_t *o = NULL
    cdef const char *why = NULL
    cdef runs_t runs = r.followers
    while True:
        o = next_outcome(r, &runs)
        if o == NULL:
            break
        if o.event >= r.record.event_count:
            return note(r, runs.position - 1, "an outcome of an event that was not asked")
    runs = r.followers
    while True:
        o = next_outcome(r, &runs)
        if o == NULL:
            return 0
        why = judge_outcome(r.record, o, before)
        if why != NULL:
            return note(r, runs.position - 1, why)
        before = o

# ---- effects -------------------------------------------------------------------------------------

cdef int judge_counts(asked_t *r) noexcept nogil:
    """As many accounts, transfers and burned ids as the outcomes leave."""
    cdef u64[KINDS] expected
    cdef runs_t runs = r.followers
    cdef bint transfers = r.record.operation == OPERATION_CREATE_TRANSFERS
    cdef u64 *created = &expected[KIND_TRANSFER if transfers else KIND_ACCOUNT]
    cdef const outcome_t *o
    cdef u16 kind
    memset(expected, 0, sizeof(expected))
    created[0] = r.record.event_count
    while True:
        o = next_outcome(r, &runs)
        if o == NULL:
            break
        created[0] -= o.status != STATUS_CREATED
        expected[KIND_BURNED_ID] += transfers and transfer_status_transient(o.status)
    expected[KIND_RESOLUTION] = r.counts[KIND_RESOLUTION]  # held to its post or void elsewhere
    for kind in range(KIND_ACCOUNT, KIND_BURNED_ID + 1):
        if r.counts[kind] != expected[kind]:
            return note(r, r.position,
                        "a request with more or fewer {kind} records than its outcomes say", kind)
    return 0

cdef void judge_created(asked_t *r, runs_t *created, u16 kind, u64 timestamp) noexcept nogil:
    cdef const void *record = runs_take(created, kind)
    if timestamp != ((<const transfer_t *>record).timestamp if kind == KIND_TRANSFER
                     else (<const account_t *>record).timestamp):
        note(r, created.position - 1, "{kind} with another timestamp than its event's", kind)

cdef void judge_burned(asked_t *r, runs_t *burned, const outcome_t *o) noexcept nogil:
    cdef const burned_id_t *record = <const burned_id_t *>runs_take(burned, KIND_BURNED_ID)
    if record.timestamp != o.timestamp:
        note(r, burned.position - 1, "{kind} with another timestamp than its event's",
             KIND_BURNED_ID)
    if record.status != o.status:
        note(r, burned.position - 1, "{kind} with another status than its event's", KIND_BURNED_ID)

cdef void judge_effects(asked_t *r) noexcept nogil:
    """Each event's record is its own. There are as many as there should be."""
    cdef runs_t outcomes = r.followers
    cdef runs_t created = r.followers
    cdef runs_t burned = r.followers
    cdef const outcome_t *o = next_outcome(r, &outcomes)
    cdef bint transfers = r.record.operation == OPERATION_CREATE_TRANSFERS
    cdef u16 kind = KIND_TRANSFER if transfers else KIND_ACCOUNT
    cdef u32 event
    for event in range(r.record.event_count):
        if o == NULL or o.event != event:
            judge_created(r, &created, kind, own_timestamp(r.record, event))
            continue
        if o.status == STATUS_CREATED:
            judge_created(r, &created, kind, o.timestamp)
        elif transfers and transfer_status_transient(o.status):
            judge_burned(r, &burned, o)
        o = next_outcome(r, &outcomes)

# ---- requests ------------------------------------------------------------------------------------

cdef int judge_record(asked_t *r) noexcept nogil:
    if (r.record.operation != OPERATION_CREATE_ACCOUNTS
            and r.record.operation != OPERATION_CREATE_TRANSFERS):
        return note(r, r.position, "a request with an operation that creates nothing")
    if r.record.identity != 0:
        return note(r, r.position, "a request with an identity")
    if r.record.event_count > EVENTS_MAX:
        return note(r, r.position, "a request of more than {events_max} events")
    if r.record.batch_count == 0:
        return note(r, r.position, "a request without a batch")
    if r.count != 0 and r.last - r.position != r.count:
        return note(r, r.position, "a request whose records do not stand together")
    return 0

cdef int judge_announced(asked_t *r) noexcept nogil:
    """The batch counts and the outcomes that the record speaks of."""
    cdef u64 batches = 0 if r.record.batch_count == 1 else r.record.batch_count
    if r.counts[KIND_BATCH] != batches:
        return note(r, r.position, "a request without all its batch counts")
    if batches != 0 and r.events_in_batches != r.record.event_count:
        return note(r, r.position, "a request whose batches are not all its events")
    if r.counts[KIND_OUTCOME] != r.record.outcome_count:
        return note(r, r.position, "a request without all its outcomes")
    return 0

cdef int judge_request(asked_t *r) noexcept nogil:
    """-1 when a fault was noted."""
    count_followers(r)
    if r.record == NULL:
        return note(r, r.first, "{kind} without a request", r.first_kind) if r.count else 0
    if judge_record(r) != 0:
        return -1
    judge_places(r)
    if r.wrong_position != 0 or judge_announced(r) != 0:
        return -1
    if judge_outcomes(r) != 0 or judge_counts(r) != 0:
        return -1
    judge_effects(r)
    return -1 if r.wrong_position != 0 else 0

cdef void begin(asked_t *r, const request_t *record, u64 position, runs_t runs) noexcept nogil:
    memset(r, 0, sizeof(asked_t))
    r.record, r.position, r.followers = record, position, runs

cdef int judge_group(const u8 *body, const runs_header_t *header, u64 before,
                     asked_t *r) noexcept nogil:
    """A group's requests, of one with a fault at `before` only those that end earlier: another
    request stands between. -1 when a fault was noted.
    """
    cdef u64 end = header.body_bytes
    cdef runs_t runs = runs_from(body, 0, end, header.position_first)
    cdef u64 i, at
    begin(r, NULL, 0, runs)
    while runs.at < end:
        at = runs.at
        if before != 0 and not runs_good(body, at, end):
            return 0
        runs_next(&runs)
        for i in range(runs.left if runs.kind == KIND_REQUEST else 0):
            if before != 0 and runs.position + i > before:
                return 0
            r.followers.end = at
            if judge_request(r) != 0:
                return -1
            at = runs.at
            begin(r, <const request_t *>runs.record + i, runs.position + i,
                  runs_from(body, at, end, runs.position + i + 1))
    return judge_request(r) if before == 0 else 0

cdef u64 judge_groups(const u8 *bodies, const runs_header_t *headers, u64 count, u64 before,
                      asked_t *r) noexcept nogil:
    """How many groups were right; then `r` is the request that is not."""
    cdef u64 i
    for i in range(count):
        if judge_group(bodies, &headers[i], before if i + 1 == count else 0, r) != 0:
            return i
        bodies += headers[i].body_bytes
    return count


def first_wrong(bodies not None, headers not None, u64 before):
    cdef Py_buffer body, header
    cdef u64 group = 0, count
    cdef asked_t r
    PyObject_GetBuffer(headers, &header, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(bodies, &body, PyBUF_SIMPLE)
        try:
            count = runs_headers(header.buf, header.len, body.buf, body.len)
            if count == 0:
                raise ValueError("bodies that are not those of the headers, or not aligned")
            with nogil:
                group = judge_groups(<const u8 *>body.buf, <const runs_header_t *>header.buf, count,
                                     before, &r)
        finally:
            PyBuffer_Release(&body)
    finally:
        PyBuffer_Release(&header)
    if group == count:
        return None
    return r.wrong_position, r.wrong_kind, r.why.decode()
