# cython: language_level=3
"""Scans of the history on disk: transfers by time, an account's records, its balances, and filters.

The transfers of a stretch of time that a filter selects, and whether a timestamp is taken, are
looked for in a group's body, which the journal gives; what is read of it was checked. Balances are
added up from an account's rows. Nothing here knows which columns led to a body, where the body is
kept, or what the state is.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ledger.journal._file cimport Body
from ledger.history.column_format cimport (
    BLOCK_FIELD_CODE, BLOCK_FIELD_LEDGER, BLOCK_FIELD_USER_DATA_32, BLOCK_FIELD_USER_DATA_64,
    BLOCK_FIELD_USER_DATA_128, block_hash,
)
from ledger.journal.record_reader cimport (
    NO_BLOCK, NOT_A_RECORD, body_ahead, body_read, body_t, place_group, place_offset,
)
from ledger.facts.record cimport *
from ledger.journal.runs cimport RUN_GOOD, run_fault

import numpy

cdef extern from * nogil:
    """
    #define TRANSFER_TIMESTAMP_AT offsetof(transfer_t, timestamp)
    """
    enum:
        TRANSFER_TIMESTAMP_AT

include "facts/filters.pxi"

cdef struct stretch_t:  # transfers that lie one after the other, from an offset in the body
    u64 offset, count


# ---- reading what was checked -------------------------------------------------------------------

cdef bint body_timestamp(body_t *b, u64 transfer, u64 *timestamp) noexcept nogil:
    return body_read(b, transfer + TRANSFER_TIMESTAMP_AT, timestamp, sizeof(u64))

cdef bint body_is_bound(body_t *b, stretch_t run, u64 timestamp, u64 guess) noexcept nogil:
    """Whether this is what body_lower_bound would find."""
    cdef u64 found
    if guess > 0:
        if not body_timestamp(b, run.offset + (guess - 1) * sizeof(transfer_t), &found):
            return False
        if found >= timestamp:
            return False
    return guess == run.count or (
        body_timestamp(b, run.offset + guess * sizeof(transfer_t), &found) and found >= timestamp)

cdef bint body_lower_bound(body_t *b, stretch_t run, u64 timestamp, u64 guess,
                           u64 *index) noexcept nogil:
    """The first transfer of the run at or after the timestamp; the run's count when none is.

    A guess that is right saves the reading of what bisection looks at; at most the run's count.
    """
    cdef u64 low = 0, high = run.count, middle, found
    if body_is_bound(b, run, timestamp, guess):
        index[0] = guess
        return True
    while low < high:
        middle = (low + high) // 2
        if not body_timestamp(b, run.offset + middle * sizeof(transfer_t), &found):
            return False
        if found < timestamp:
            low = middle + 1
        else:
            high = middle
    index[0] = low
    return True

cdef bint body_next_run(body_t *b, u64 *offset, run_t *run) noexcept nogil:
    """Step over the run header at `offset`; False at the body's end or, with b.bad set, for none.
    """
    if offset[0] == b.length or not body_read(b, offset[0], run, sizeof(run_t)):
        return False
    offset[0] += sizeof(run_t)
    if run_fault(run, b.length - offset[0]) != RUN_GOOD:
        b.bad = NOT_A_RECORD
        return False
    return True

cdef u64 body_stretches(body_t *b, u64 timestamp_first, u64 timestamp_last, u64 likely,
                        u64 likely_count, stretch_t *stretches) noexcept nogil:
    """The group's transfers within a range of time, in order; how many stretches they are.

    Probably they begin at the offset `likely` and are so many.
    """
    cdef run_t run
    cdef stretch_t whole
    cdef u64 offset = 0, count = 0, first, end, guess
    while body_next_run(b, &offset, &run):
        if run.kind == KIND_TRANSFER:
            whole.offset, whole.count = offset, run.count
            guess = (likely - offset) // sizeof(transfer_t) if likely > offset else 0
            if not body_lower_bound(b, whole, timestamp_first, min(guess, run.count), &first):
                return 0
            guess = min(first + likely_count, <u64>run.count)
            if not body_lower_bound(b, whole, timestamp_last + 1, guess, &end):
                return 0
            if first < end:
                likely_count -= min(likely_count, end - first)
                stretches[count].offset = offset + first * sizeof(transfer_t)
                stretches[count].count = end - first
                count += 1
            if end < run.count:
                break
        offset += run.bytes
    return 0 if b.bad != NO_BLOCK else count


cdef struct balances_t:
    u128 debits_pending, debits_posted, credits_pending, credits_posted

# ---- balances -------------------------------------------------------------------------------

cdef u64 resolution_place(u64 place) noexcept nogil:
    """Where the end of the hold lies that a post or void resolves: right before it, in a run of its
    own."""
    return (place - (<u64>((sizeof(resolution_t) + sizeof(run_t)) // 16) << PLACE_OFFSET_SHIFT)
            | PLACE_EXPIRY_OF_DEBIT)

cdef void balances_apply(balances_t *balances, const u8 *record, u64 kind, u128 account,
                         const u8 *ended) noexcept nogil:
    """What a row did to its account. `ended`: the hold's end, for a post or void."""
    cdef transfer_t t
    cdef resolution_t resolution
    cdef bint debit
    if kind != PLACE_TRANSFER:
        memcpy(&resolution, record, sizeof(resolution_t))
        balances_release(balances, kind == PLACE_EXPIRY_OF_DEBIT, resolution.amount)
        return
    memcpy(&t, record, sizeof(transfer_t))
    debit = t.debit_account_id == account
    if t.flags & TRANSFER_PENDING:
        if debit:
            balances.debits_pending += t.amount
        else:
            balances.credits_pending += t.amount
        return
    if t.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER):
        memcpy(&resolution, ended, sizeof(resolution_t))
        balances_release(balances, debit, resolution.amount)
        if t.flags & TRANSFER_VOID_PENDING_TRANSFER:
            return
    if debit:
        balances.debits_posted += t.amount
    else:
        balances.credits_posted += t.amount

cdef void balances_release(balances_t *balances, bint debit, u128 amount) noexcept nogil:
    if debit:
        balances.debits_pending -= amount
    else:
        balances.credits_pending -= amount


# ---- records by time ----------------------------------------------------------------------------

cdef u32 scan_stretches(body_t *b, const query_filter_t *f, const stretch_t *stretches,
                        u64 count, u32 limit, bint reversed, u8 *out) noexcept nogil:
    """Copy the transfers that the filter selects, at most `limit`, in their order or newest first.
    """
    cdef const stretch_t *stretch
    cdef transfer_t t
    cdef u64 i, j, offset
    cdef u32 found = 0
    for i in range(count):
        stretch = &stretches[count - 1 - i if reversed else i]
        for j in range(stretch.count):
            if found == limit:
                return found
            offset = stretch.offset + sizeof(transfer_t) * (
                stretch.count - 1 - j if reversed else j)
            if not body_read(b, offset, &t, sizeof(transfer_t)):
                return found
            if filters_select_transfer(f, &t):
                memcpy(out + found * <u64>sizeof(transfer_t), &t, sizeof(transfer_t))
                found += 1
    return found

cdef u64 scan_count(const stretch_t *stretches, u64 count) noexcept nogil:
    cdef u64 i, transfers = 0
    for i in range(count):
        transfers += stretches[i].count
    return transfers

cdef void at_timestamps(body_t *b, const stretch_t *stretches, u64 stretch_count,
                        const u64 *timestamps, u64 count, u8 *found) noexcept nogil:
    """Mark which of the ascending timestamps a transfer of the stretches carries."""
    cdef u64 i, next = 0, index, timestamp, last
    for i in range(stretch_count):
        index = stretches[i].count - 1
        if not body_timestamp(b, stretches[i].offset + index * sizeof(transfer_t), &last):
            return
        while next < count and timestamps[next] <= last:
            if not body_lower_bound(b, stretches[i], timestamps[next], 0, &index):
                return
            if not body_timestamp(b, stretches[i].offset + index * sizeof(transfer_t), &timestamp):
                return
            found[next] = timestamp == timestamps[next]
            next += 1


# ---- records of an account ----------------------------------------------------------------------

cdef int64_t select_records(const account_filter_t *f, const u8 *records, u64 count,
                            u8 *chosen) noexcept nogil:
    """Mark the transfers that the filter selects. -1, or the first that is not of its account."""
    cdef transfer_t t
    cdef u64 i, timestamp_max = f.timestamp_max if f.timestamp_max != 0 else TIMESTAMP_MAX
    for i in range(count):
        memcpy(&t, records + i * sizeof(transfer_t), sizeof(transfer_t))
        if t.debit_account_id != f.account_id and t.credit_account_id != f.account_id:
            return <int64_t>i
        chosen[i] = (f.timestamp_min <= t.timestamp <= timestamp_max
                     and filters_account_filter_selects(f, &t))
    return -1


# ---- what Python calls --------------------------------------------------------------------------

cdef class Stretches:
    """Room for as many stretches as a body can have; most are a few."""
    cdef stretch_t *all
    cdef u64 count

    def __cinit__(self, Body body not None, u64 timestamp_first, u64 timestamp_last,
                  u64 likely=0, u64 likely_count=0):
        cdef u64 room = body.b.length // (sizeof(run_t) + sizeof(transfer_t)) + 1
        self.all = <stretch_t *>malloc(room * sizeof(stretch_t))
        if self.all == NULL:
            raise MemoryError("the stretches of a group")
        with nogil:
            self.count = body_stretches(&body.b, timestamp_first, timestamp_last, likely,
                                        likely_count, self.all)

    def __dealloc__(self):
        free(self.all)


def resolution_places(const u64[::1] places, const u8[:, ::1] records):
    cdef transfer_t t
    cdef u64[::1] view
    cdef Py_ssize_t i
    found = numpy.zeros(places.shape[0], numpy.uint64)
    view = found
    for i in range(places.shape[0]):
        if places[i] & PLACE_KIND_MASK == PLACE_TRANSFER:
            memcpy(&t, &records[i, 0], sizeof(transfer_t))
            if t.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER):
                view[i] = resolution_place(places[i])
    return found


def run_balances(const u8[::1] before, const u64[::1] places, const u8[:, ::1] records,
                 const u8[:, ::1] ended, const u8[::1] account_id):
    cdef balances_t balances
    cdef u128 account
    cdef u8[:, ::1] out
    cdef Py_ssize_t i, count = places.shape[0]
    if (before.shape[0] != sizeof(balances_t) or account_id.shape[0] != sizeof(u128)
            or records.shape[0] != count or ended.shape[0] != count
            or records.shape[1] != sizeof(transfer_t) or ended.shape[1] != sizeof(transfer_t)):
        raise ValueError("balances, records and ends that do not fit each other")
    memcpy(&balances, &before[0], sizeof(balances_t))
    memcpy(&account, &account_id[0], sizeof(u128))
    after = numpy.empty((count, sizeof(balances_t)), numpy.uint8)
    if count > 0:
        out = after
        with nogil:
            for i in range(count):
                balances_apply(&balances, &records[i, 0], places[i] & PLACE_KIND_MASK, account,
                               &ended[i, 0])
                memcpy(&out[i, 0], &balances, sizeof(balances_t))
    return after


def scan(Body body not None, const u8[::1] filter, u64 timestamp_first, u64 timestamp_last,
         u32 limit, bint reversed, u64 likely=0, u64 likely_count=0):
    cdef u64 i, offset = place_offset(likely) if place_group(likely) == body.b.group else 0
    cdef Stretches found = Stretches(body, timestamp_first, timestamp_last, offset, likely_count)
    with nogil:
        for i in range(found.count):
            body_ahead(&body.b, found.all[i].offset, found.all[i].count * sizeof(transfer_t))
    return scan_found(body, found, filter, limit, reversed), body.b.bad


cdef scan_found(Body body, Stretches found, const u8[::1] filter, u32 limit, bint reversed):
    """The transfers of these stretches that the filter selects."""
    cdef query_filter_t f = query_filter_of(filter)
    cdef u8[:, ::1] out
    cdef u32 count = 0
    limit = <u32>min(<u64>limit, scan_count(found.all, found.count))
    records = numpy.empty((limit, sizeof(transfer_t)), numpy.uint8)
    if limit > 0:
        out = records
        with nogil:
            count = scan_stretches(&body.b, &f, found.all, found.count, limit, reversed,
                                   &out[0, 0])
    return records[:count]


def at(Body body not None, const u64[::1] timestamps):
    cdef Stretches all = Stretches(body, 0, TIMESTAMP_MAX)
    cdef u64 count = timestamps.shape[0]
    cdef u64 first = 0, last = 0
    cdef stretch_t end
    cdef u8[::1] marks
    found = numpy.zeros(count, numpy.uint8)
    if count > 0 and all.count > 0:
        marks = found
        end = all.all[all.count - 1]
        with nogil:
            if (body_timestamp(&body.b, all.all[0].offset, &first)
                    and body_timestamp(&body.b, end.offset + (end.count - 1) * sizeof(transfer_t),
                                       &last)):
                at_timestamps(&body.b, all.all, all.count, &timestamps[0], count, &marks[0])
    return found.view(numpy.bool_), first, last, body.b.bad


def select(const u8[::1] filter, const u8[:, ::1] records):
    cdef account_filter_t f = account_filter_of(filter)
    cdef u8[::1] marks
    cdef int64_t stray = -1
    cdef u64 count = records.shape[0]
    if records.shape[1] != sizeof(transfer_t):
        raise ValueError(f"records of {records.shape[1]} bytes")
    chosen = numpy.zeros(count, numpy.uint8)
    if count > 0:
        marks = chosen
        with nogil:
            stray = select_records(&f, &records[0, 0], count, &marks[0])
    return chosen.view(numpy.bool_), stray


cdef query_filter_t query_filter_of(const u8[::1] filter) except *:
    cdef query_filter_t f
    if filter.shape[0] != sizeof(query_filter_t):
        raise ValueError(f"a filter of {filter.shape[0]} bytes")
    memcpy(&f, &filter[0], sizeof(query_filter_t))
    return f

cdef account_filter_t account_filter_of(const u8[::1] filter) except *:
    cdef account_filter_t f
    if filter.shape[0] != sizeof(account_filter_t):
        raise ValueError(f"a filter of {filter.shape[0]} bytes")
    memcpy(&f, &filter[0], sizeof(account_filter_t))
    return f


def query_filter_is_valid(const u8[::1] filter) -> bool:
    cdef query_filter_t f = query_filter_of(filter)
    return filters_query_filter_valid(&f)


def account_filter_is_valid(const u8[::1] filter) -> bool:
    cdef account_filter_t f = account_filter_of(filter)
    return filters_account_filter_valid(&f)


cdef void hash_field(const u64 *key, u32 field, u128 value, u64 *hashes,
                     Py_ssize_t *count) noexcept nogil:
    if value != 0:
        hashes[count[0]] = block_hash(key, field, value)
        count[0] += 1


def field_hashes(const u8[::1] filter, const u8[::1] key):
    cdef query_filter_t f = query_filter_of(filter)
    cdef Py_ssize_t count = 0
    cdef u64[2] words
    cdef u64[::1] hashes
    if key.shape[0] != sizeof(words):
        raise ValueError(f"a key of {key.shape[0]} bytes")
    memcpy(words, &key[0], sizeof(words))
    found = numpy.empty(5, numpy.uint64)
    hashes = found
    hash_field(words, BLOCK_FIELD_USER_DATA_128, f.user_data_128, &hashes[0], &count)
    hash_field(words, BLOCK_FIELD_USER_DATA_64, f.user_data_64, &hashes[0], &count)
    hash_field(words, BLOCK_FIELD_USER_DATA_32, f.user_data_32, &hashes[0], &count)
    hash_field(words, BLOCK_FIELD_CODE, f.code, &hashes[0], &count)
    hash_field(words, BLOCK_FIELD_LEDGER, f.ledger, &hashes[0], &count)
    return found[:count]
