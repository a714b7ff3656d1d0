# cython: language_level=3
"""The state machine: accounts, transfers, holds, sessions, and the group being written.

Core judges requests in the order it is given them and writes their effects to the open group; it
replays groups; it answers reads. It knows no frames, no disk, no threads, no clock: time is a
parameter, and the group's bytes are taken away by whoever makes them durable. The parts below are
pasted in order of dependency; each opens with what it needs and gives. Everything in them is plain
C without the interpreter; this file alone touches Python objects, once per run of requests.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport size_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from ledger.base.bloom cimport *
from ledger.base.hash_table cimport *
from ledger.base.slab cimport *
from ledger.base.sort cimport *
from ledger.base.u128 cimport *
from ledger.facts.record cimport *
from ledger.history.column_format cimport *

import hashlib

import numpy

from ledger.facts.errors import DataRefused
from ledger.facts.limits import GROUPS_IN_FLIGHT_MAX, STARTS_MAX

include "core/status.pxi"
include "core/lookups.pxi"
include "core/read_cache.pxi"
include "core/state.pxi"
include "core/group.pxi"
include "core/holds.pxi"
include "core/retained.pxi"
include "core/kept_holds.pxi"
include "core/lookup_cache.pxi"
include "core/store.pxi"
include "core/memtable.pxi"
include "core/prefetch.pxi"
include "core/snapshot.pxi"
include "core/undo.pxi"
include "core/accounts.pxi"
include "core/resolutions.pxi"
include "core/expiry.pxi"
include "core/transfers.pxi"
include "core/batch.pxi"
include "facts/filters.pxi"
include "core/query.pxi"
include "core/starts.pxi"
include "core/session.pxi"
include "core/segment_columns.pxi"
include "core/restore.pxi"
include "core/request.pxi"
include "core/replay.pxi"

DONE = REQUEST_DONE
GROUP_FULL = REQUEST_GROUP_FULL
ANSWERS_FULL = REQUEST_ANSWERS_FULL
NO_MEMORY = REQUEST_NO_MEMORY
COLD = REQUEST_COLD
VERIFYING = bool(VERIFIES)

cdef enum:
    KINDS = 16  # room for counts by kind


cdef int key_of(bytes hash_key, u64 *key) except -1:
    if len(hash_key) != 16:
        raise ValueError("hash_key must be 16 bytes")
    memcpy(key, <const char *>hash_key, 16)
    return 0


cdef class Core:
    """One book's state machine; see the .pyi. Not safe from several threads at once."""

    cdef state_t s
    cdef segment_columns_room_t flush_room
    cdef dict columns  # arrays of rows by column
    cdef bint ready
    cdef object groups
    cdef Py_buffer answers, payload, counts
    cdef readonly u32 resends  # answers of the last execute() that the journal must rebuild

    def __cinit__(self, u32 group_bytes_max, u32 sessions_max, bytes hash_key not None,
                  answers not None, payload not None, counts not None, u64 memtable_events=0,
                  u32 starts_max=STARTS_MAX):
        cdef u64 key[2]
        key_of(hash_key, key)
        PyObject_GetBuffer(answers, &self.answers, PyBUF_SIMPLE | PyBUF_WRITABLE)
        PyObject_GetBuffer(payload, &self.payload, PyBUF_SIMPLE | PyBUF_WRITABLE)
        PyObject_GetBuffer(counts, &self.counts, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if <uintptr_t>self.payload.buf % 16 or <uintptr_t>self.answers.buf % 16:
            raise ValueError("answers and payload must be aligned to 16 bytes")
        invariant(sizeof(session_t) == COLUMN_SESSIONS_BYTES
                  and sizeof(hold_record_t) == COLUMN_HOLDS_BYTES
                  and sizeof(start_mark_t) == COLUMN_STARTS_BYTES and starts_max > 0)
        self.ready = True  # from here on there may be memory to give back
        if state_init(&self.s, group_bytes_max, sessions_max, starts_max, key, memtable_events):
            raise MemoryError("the ledger's tables")
        self.columns = {}
        self.groups = [numpy.zeros(group_bytes_max, "u1") for _ in range(GROUPS_IN_FLIGHT_MAX)]
        group_begin(&self.s, self._group_buffer(self.s.group_number))

    def __dealloc__(self):
        if self.ready:
            state_free(&self.s)
        segment_columns_room_free(&self.flush_room)
        PyBuffer_Release(&self.answers)
        PyBuffer_Release(&self.payload)
        PyBuffer_Release(&self.counts)

    cdef u8 *_group_buffer(self, u64 group) except NULL:
        cdef uintptr_t address = self.groups[group % GROUPS_IN_FLIGHT_MAX].ctypes.data
        if address % 16:
            raise MemoryError("the group buffers are not aligned")
        return <u8 *>address

    @property
    def position(self):
        """Last position taken, that of the newest record; 0 in an empty book."""
        return self.s.position

    @property
    def clock_ns(self):
        """The ledger clock: the highest timestamp given to a request; ns since 1970."""
        return self.s.clock

    @property
    def group(self):
        """Number of the open group."""
        return self.s.group_number

    @property
    def group_records(self):
        """Records in the open group; 0 when nothing waits to be made durable."""
        return self.s.group_records

    @property
    def next_expiry_ns(self):
        """When the next hold runs out, ns since 1970; 0 when none will."""
        return state_hold(&self.s, self.s.expiries[0]).expires_at if self.s.expiries_count else 0

    @property
    def counts_by_kind(self):
        """How much the book holds: a dict of name to count."""
        return {
            "accounts": self.s.accounts.count,
            "transfers": self.s.transfer_count,
            "open_holds": self.s.hold_count,
            "burned_ids": self.s.burned_count,
            "sessions": self.s.session_table.count,
        }

    def start(self, u64 now_ns, u64 wall_ns, u32 release, u64 id=0):
        """Open a run of the server: a start record at ledger time max(clock + 1, now_ns)."""
        cdef start_t *record
        self.s.clock = max(self.s.clock + 1, now_ns)
        record = <start_t *>group_append(&self.s, KIND_START, sizeof(start_t))
        record.timestamp, record.wall, record.release = self.s.clock, wall_ns, release
        record.id = id
        starts_record(&self.s, record, self.s.position)

    def execute(self, buffer not None, arrivals not None, u32 first, u32 count, u64 now_ns,
                bint takes_creates=True, bint takes_registers=True):
        """Answer arrivals[first:count], whose events lie in `buffer`, as far as room goes.

        arrivals: array of ARRIVAL. What is not taken now is dropped. Returns (arrivals done,
        answers written, why: DONE, GROUP_FULL, ANSWERS_FULL, NO_MEMORY or COLD)."""
        cdef Py_buffer data, asked
        cdef request_place_t place
        cdef const arrival_t *arrival
        cdef answer_t *answer = <answer_t *>self.answers.buf
        cdef u32 room = <u32>(self.answers.len // sizeof(answer_t)), made = 0, done = first
        cdef int why = REQUEST_DONE
        PyObject_GetBuffer(arrivals, &asked, PyBUF_SIMPLE)
        try:
            if <uintptr_t>asked.buf % 16:
                raise ValueError("arrivals must be aligned to 16 bytes")
            PyObject_GetBuffer(buffer, &data, PyBUF_SIMPLE)
        except BaseException:
            PyBuffer_Release(&asked)
            raise
        invariant(count * sizeof(arrival_t) <= <size_t>asked.len)
        memset(&place, 0, sizeof(place))
        place.payload, place.payload_room = <u8 *>self.payload.buf, self.payload.len
        place.counts, place.counts_room = <u16 *>self.counts.buf, <u32>(self.counts.len // 2)
        place.takes_creates, place.takes_registers = takes_creates, takes_registers
        place.now = now_ns
        self.resends = 0
        with nogil:
            arrival = <const arrival_t *>asked.buf + first
            while done < count and made < room:
                why = request_execute(&self.s, <const u8 *>data.buf, arrival, &place,
                                      &answer[made])
                if why != REQUEST_DONE:
                    break
                answer[made].arrival = done
                self.resends += answer[made].verdict == VERDICT_RESEND
                if answer[made].verdict != VERDICT_DROP:
                    made += 1
                done += 1
                arrival += 1
            else:
                why = REQUEST_DONE if done == count else REQUEST_ANSWERS_FULL
        PyBuffer_Release(&data)
        PyBuffer_Release(&asked)
        return done, made, why

    def expire(self, u64 now_ns):
        """Run one step of due expiries. True when more are due but the open group is full."""
        cdef request_place_t place
        memset(&place, 0, sizeof(place))
        place.takes_creates, place.now = True, now_ns
        return request_expire(&self.s, &place) == REQUEST_GROUP_FULL

    def newest_group(self):
        """The group that an answer given now must wait for: it is durable or it will be."""
        return session_newest_group(&self.s)

    def take_group(self):
        """Close the open group and begin the next; see the .pyi."""
        cdef state_t *s = &self.s
        group_end_run(s)
        fields = {
            "group": s.group_number,
            "position_first": s.group_position_first,
            "position_count": s.group_records,
            "run_count": s.group_runs,
            "clock_before": s.group_clock_before,
            "clock_after": s.clock,
            "transfer_timestamp_min": s.group_transfer_min,
            "transfer_timestamp_max": s.group_transfer_max,
        }
        body = memoryview(self.groups[s.group_number % GROUPS_IN_FLIGHT_MAX])[:s.group_bytes]
        s.group_number += 1
        group_begin(s, self._group_buffer(s.group_number))
        return fields, body

    def made_durable(self, u64 group):
        """Groups up to this one are durable."""
        self.s.durable_group = group

    def replay(self, body not None, u64 group, u64 position_first, u32 position_count,
               u64 clock_before, u64 clock_after):
        """Apply a durable group's body without judging. Returns counts of records by kind, a list.

        Raises DataRefused, naming group and position, when a record does not fit the state; the
        core must be thrown away then.
        """
        cdef Py_buffer data
        cdef replay_t r
        cdef u64 counts[KINDS]
        cdef u16 kind = 0
        cdef int why
        if (group != self.s.group_number or position_first != self.s.position + 1
                or clock_before != self.s.clock or clock_after < clock_before):
            raise DataRefused(
                f"group {group} (position {position_first}, clock {clock_before} to {clock_after})"
                f" does not follow group {self.s.group_number - 1} (position {self.s.position},"
                f" clock {self.s.clock})")
        memset(counts, 0, sizeof(counts))
        memset(&r, 0, sizeof(r))
        PyObject_GetBuffer(body, &data, PyBUF_SIMPLE)
        if <uintptr_t>data.buf % 16:
            PyBuffer_Release(&data)
            aligned = numpy.frombuffer(body, numpy.uint8).copy()
            PyObject_GetBuffer(aligned, &data, PyBUF_SIMPLE)
        r.body, r.body_bytes = <const u8 *>data.buf, data.len
        r.group, r.group_position = group, position_first
        with nogil:
            why = replay_body(&self.s, &r, counts, &kind)
        PyBuffer_Release(&data)
        if why != 0:
            raise DataRefused(
                f"group {group}, position {r.at}: {(<bytes>r.fault).decode()} (kind {kind})")
        if self.s.position != position_first + position_count - 1:
            raise DataRefused(
                f"group {group}: its body ends at position {self.s.position}, its header says"
                f" {position_first + position_count - 1}")
        self.s.clock = clock_after
        self.s.durable_group = group
        self.s.group_number = group + 1
        group_begin(&self.s, self._group_buffer(group + 1))
        return [counts[i] for i in range(KINDS)]

    def original_answer(self, body not None, u64 position_first, u32 record_offset):
        """Rebuild the answer to the register or request whose record lies there, as answers[0].

        Raises DataRefused when the group holds no such record.
        """
        cdef Py_buffer data
        cdef replay_t r
        cdef answer_t *answer = <answer_t *>self.answers.buf
        cdef int why
        memset(&r, 0, sizeof(r))
        PyObject_GetBuffer(body, &data, PyBUF_SIMPLE)
        r.body, r.body_bytes, r.group_position = <const u8 *>data.buf, data.len, position_first
        with nogil:
            why = replay_answer(&r, record_offset, answer,
                                <u8 *>self.payload.buf, self.payload.len,
                                <u16 *>self.counts.buf, <u32>(self.counts.len // 2))
        PyBuffer_Release(&data)
        if why != 0:
            raise DataRefused(f"no request is recorded at offset {record_offset} of its group")
        answer.start_id = starts_id(&self.s, answer.position)

    def accounts(self):
        """All accounts as stored, in order of creation: bytes of ACCOUNT records."""
        cdef slab_t *slab = &self.s.accounts
        cdef u64 left = slab.count, chunk_records = <u64>1 << slab.shift, here, i
        pieces = []
        for i in range(slab.chunk_count):
            here = min(left, chunk_records)
            pieces.append((<const char *>slab.chunks[i])[:here * slab.record_bytes])
            left -= here
        return b"".join(pieces)

    def open_holds(self):
        """Open holds in order of creation: array of (position, expires_at ns), shape (n, 2)."""
        cdef u64 i
        cdef hold_t *hold
        holds = []
        for i in range(self.s.holds.count):
            hold = state_hold(&self.s, <u32>i)
            if hold.position != 0:
                holds.append((hold.position, hold.expires_at))
        return numpy.array(sorted(holds), numpy.uint64).reshape(-1, 2)

    def starts(self):
        """The starts that are kept, oldest first: array of (id, position), shape (n, 2)."""
        found = numpy.empty((starts_kept(&self.s), 2), numpy.uint64)
        starts_copy(&self.s, <start_mark_t *><uintptr_t>found.ctypes.data)
        return found

    def _sessions(self):
        """What a session's past is, volatile parts left out, in order of session number."""
        cdef u64 i
        cdef session_t *session
        sessions = []
        for i in range(self.s.sessions.count):
            session = session_at(&self.s, <u32>i)
            if session.session != 0:
                sessions.append((session.session, session.register_timestamp, session.group,
                                 session.record_offset, session.number, session.release,
                                 (<const char *>&session.client)[:16],
                                 (<const char *>&session.checksum)[:16]))
        return sorted(sessions)

    def state_hash(self):
        """SHA-256 over accounts as created, open holds, burned ids, sessions, starts and clocks.

        Two cores that went through the same groups, live or by replay, have the same.
        """
        digest = hashlib.sha256()
        digest.update(self.accounts())
        digest.update(self.open_holds().tobytes())
        digest.update((<const char *>&self.s.burned_hash)[:16])
        digest.update(self.starts().tobytes())
        for session in self._sessions():
            digest.update(b"".join(part if isinstance(part, bytes) else part.to_bytes(8, "little")
                                   for part in session))
        for number in (self.s.clock, self.s.position, self.s.account_timestamp_max,
                       self.s.transfer_timestamp_max, self.s.transfer_count, self.s.burned_count):
            digest.update(number.to_bytes(8, "little"))
        return digest.digest()

    # ---- memtables ------------------------------------------------------------------------------

    @property
    def memtable_full(self):
        """Whether the open memtable is to be rotated; to be asked at the end of a group."""
        return memtable_is_full(&self.s)

    @property
    def memtables(self):
        """Closed memtables still in memory, oldest first: (first group, last group) of each."""
        return [(state_memtable(&self.s, n).group_first, state_memtable(&self.s, n).group_last)
                for n in range(self.s.memtable_first, self.s.memtable_end - 1)]

    @property
    def group_first(self):
        """The first group whose transfers are in memory."""
        return state_memtable(&self.s, self.s.memtable_first).group_first

    @property
    def generation(self):
        """Rises when a memtable is evicted: what was asked of the sealed past before is stale."""
        return self.s.generation

    def rotate(self):
        """Close the open memtable with the last group. At most MEMTABLES_MAX - 1 may be closed."""
        memtable_rotate(&self.s, self.s.group_number - 1)

    def evict(self):
        """Forget the oldest closed memtable; its ids are in the filter, its transfers sealed."""
        if memtable_evict(&self.s) != 0:
            raise MemoryError("no memory is left to keep open holds")

    cdef u64 *rows(self, u32 column, Py_ssize_t record_bytes, Py_ssize_t count) except NULL:
        """Memory for so many rows of a column of a memtable, kept for those that follow."""
        held = self.columns.get(column)
        if held is None or len(held) < count:
            shape = count + count // 8 + 1, record_bytes // <Py_ssize_t>sizeof(u64)
            held = self.columns[column] = numpy.empty(shape, numpy.uint64)
        return <u64 *><uintptr_t>held.ctypes.data

    def memtable_columns(self, bytes hash_key not None, u64 group_first):
        """What a segment holds of the closed memtable that begins with this group; see the .pyi."""
        cdef segment_columns_t c
        cdef u64 number = memtable_closed_at(&self.s, group_first), parts
        cdef u64 key[2]
        cdef int why
        key_of(hash_key, key)
        if number + 1 >= self.s.memtable_end:
            raise ValueError(f"no closed memtable begins with group {group_first}")
        with nogil:
            why = segment_columns_measure(&self.s, number, &c)
        try:
            counts = {COLUMN_IDS: c.ids, COLUMN_RESOLUTIONS: c.ends, COLUMN_ROWS: c.rows,
                      COLUMN_BALANCES: c.balances, COLUMN_BLOCKS: c.blocks}
            c.out_ids = self.rows(COLUMN_IDS, COLUMN_IDS_BYTES, c.ids)
            c.out_ends = self.rows(COLUMN_RESOLUTIONS, COLUMN_RESOLUTIONS_BYTES, c.ends)
            c.out_rows = <pair_t *>self.rows(COLUMN_ROWS, COLUMN_ROWS_BYTES, c.rows)
            c.out_balances = self.rows(COLUMN_BALANCES, COLUMN_BALANCES_BYTES, c.balances)
            c.out_blocks = <block_t *>self.rows(COLUMN_BLOCKS, COLUMN_BLOCKS_BYTES, c.blocks)
            if why == 0:
                with nogil:
                    why = segment_columns_fill(&self.s, key, &c, &self.flush_room)
            if why != 0:
                raise MemoryError("the columns of a memtable")
        finally:
            segment_columns_free(&c)
        parts = counts[COLUMN_PANELS] = self.flush_room.part_count
        memcpy(self.rows(COLUMN_PANELS, COLUMN_PANELS_BYTES, parts), self.flush_room.parts,
               parts * sizeof(panel_part_t))
        return {column: self.columns[column][:count] for column, count in counts.items()}

    # ---- the sealed past ------------------------------------------------------------------------

    def use_hash_key(self, bytes key not None):
        """The key that the sealed ids are hashed with: 16 bytes, before the first filter_insert."""
        key_of(key, self.s.hash_key)

    def filter_expect(self, u64 count):
        """So many hashes are coming, sorted by stretches; before the first filter_insert."""
        if filter_expect(&self.s.filter, count) != 0:
            raise MemoryError("the filter of sealed ids")

    def filter_insert(self, hashes not None):
        """Put the hashes of sealed ids, uint64 (n,), into the filter; they may lie apart."""
        cdef u64[:] view = hashes
        cdef int why
        if view.shape[0] == 0:
            return
        with nogil:
            why = filter_insert(&self.s.filter, &view[0], <u64>view.strides[0] // 8,
                                <u64>view.shape[0])
        if why != 0:
            raise MemoryError("the filter of sealed ids")

    def take_wanted(self):
        """What the request that ended with COLD needs of the sealed past; see the .pyi."""
        cdef lookups_t *w = &self.s.lookups
        cdef lookups_read_t *read
        cdef u32 i
        ids = (<const char *>w.ids)[:w.id_count * sizeof(u128)] if w.id_count else b""
        reads = []
        for i in range(w.read_count):
            read = &w.reads[i]
            reads.append((read.operation, (<const char *>read.filter)[:query_event_bytes(
                <u8>read.operation)], read.account))
        timestamps = numpy.empty(w.timestamp_count, numpy.uint64)
        for i in range(w.timestamp_count):
            timestamps[i] = w.timestamps[i]
        return ids, reads, timestamps

    def attach(self, bytes ids not None, kinds not None, records not None, outcomes not None,
               reads not None, timestamps not None, found not None):
        """Attach what the sealed past says, for the requests that wanted it; see the .pyi."""
        cdef transfer_t transfer
        cdef const u8[:] kind = kinds
        cdef const u8[:] outcome = outcomes
        cdef const u8[:, ::1] record = records
        cdef const char *id = ids
        cdef u32 i
        cdef int why = 0
        for i in range(<u32>kind.shape[0]):
            memset(&transfer, 0, sizeof(transfer_t))
            if kind[i] == 1:
                memcpy(&transfer, &record[i, 0], sizeof(transfer_t))
                if (transfer.flags & TRANSFER_PENDING
                        and not HOLD_POSTED <= outcome[i] <= HOLD_EXPIRED):
                    raise DataRefused(f"the hold {ids[16 * i:16 * i + 16][::-1].hex()} is sealed,"
                                      " and its end is not")
            else:
                transfer.id = u128_load(id + 16 * i)
            why |= lookup_cache_add(&self.s, RETAINED_TRANSFER if kind[i] == 1 else
                                    RETAINED_BURNED if kind[i] == 2 else RETAINED_ABSENT,
                                    &transfer, outcome[i])
        for operation, filter, results in reads:
            why |= read_cache_add(&self.s.read_cache, operation, <const u8 *><const char *>filter,
                                  <u32>len(filter), <const u8 *><const char *>results, len(results))
        for timestamp, taken in zip(timestamps, found):
            memset(&transfer, 0, sizeof(transfer_t))
            transfer.timestamp = timestamp
            why |= lookup_cache_add(&self.s, RETAINED_TIMESTAMP, &transfer, bool(taken))
        if why != 0:
            raise MemoryError("no memory is left to answer from the sealed past")

    # ---- checkpoints ----------------------------------------------------------------------------

    def open_snapshot(self):
        """Begin to copy the state as it is now, at the end of a group; see the .pyi."""
        cdef state_t *s = &self.s
        sessions = numpy.empty(s.session_table.count * sizeof(session_t), numpy.uint8)
        session_copy(s, <session_t *><uintptr_t>sessions.ctypes.data)
        starts = self.starts().view(numpy.uint8).ravel()
        snapshot_open(s)
        return {COLUMN_SESSIONS: sessions, COLUMN_STARTS: starts}, {
            "group": s.group_number - 1,
            "position": s.position,
            "clock": s.clock,
            "account_timestamp_max": s.account_timestamp_max,
            "transfer_timestamp_max": s.transfer_timestamp_max,
            "transfer_count": s.transfer_count,
            "burned_count": s.burned_count,
            "burned_hash": (<const char *>&s.burned_hash)[:16],
        }

    def copy_snapshot(self, out not None):
        """Copy the next accounts, then the next open holds, into `out`; see the .pyi."""
        cdef u8[::1] room = out
        cdef u64 bytes_room = <u64>room.shape[0], count
        with nogil:
            count = snapshot_accounts(&self.s, <account_t *>&room[0],
                                      bytes_room // sizeof(account_t))
        if count:
            return COLUMN_ACCOUNTS, count
        with nogil:
            count = snapshot_holds(&self.s, <hold_record_t *>&room[0],
                                   bytes_room // sizeof(hold_record_t))
        if count:
            return COLUMN_HOLDS, count
        snapshot_close(&self.s)
        return 0, 0

    def close_snapshot(self):
        """Give up what is not copied yet."""
        if self.s.snapshot.open:
            snapshot_close(&self.s)

    def restore(self, u32 column, records not None):
        """Put back what a checkpoint holds: starts, accounts, holds, then all sessions at once;
        into an empty core. records: uint8, (n, record bytes)."""
        cdef const u8[:, ::1] view = records
        cdef u64 count = <u64>view.shape[0], i
        cdef int why = 0
        if count == 0:
            return
        if column == COLUMN_SESSIONS:
            # In the order of their last records: that is the order of last activity.
            last = numpy.empty((count, 2), numpy.uint64)
            for i in range(count):
                last[i] = ((<const session_t *>&view[i, 0]).group,
                           (<const session_t *>&view[i, 0]).record_offset)
            records = numpy.ascontiguousarray(records[numpy.lexsort((last[:, 1], last[:, 0]))])
            view = records
        with nogil:
            for i in range(count):
                if column == COLUMN_ACCOUNTS:
                    why = restore_account(&self.s, <const account_t *>&view[i, 0], count - i)
                elif column == COLUMN_HOLDS:
                    why = restore_hold(&self.s, <const hold_record_t *>&view[i, 0])
                elif column == COLUMN_STARTS:
                    why = starts_restore(&self.s, <const start_mark_t *>&view[i, 0])
                else:
                    why = restore_session(&self.s, <const session_t *>&view[i, 0])
                if why != 0:
                    break
        if why < 0:
            raise MemoryError("no memory is left for the checkpoint")
        if why > 0:
            raise DataRefused(f"record {i} of column {column} does not fit the records before it")

    def restore_numbers(self, numbers not None):
        """The numbers that open_snapshot gave, when all columns are back."""
        cdef state_t *s = &self.s
        s.position, s.clock = numbers["position"], numbers["clock"]
        s.account_timestamp_max = numbers["account_timestamp_max"]
        s.transfer_timestamp_max = s.sealed_timestamp_max = numbers["transfer_timestamp_max"]
        s.transfer_count, s.burned_count = numbers["transfer_count"], numbers["burned_count"]
        memcpy(&s.burned_hash, <const char *><bytes>numbers["burned_hash"], 16)
        s.durable_group, s.group_number = numbers["group"], numbers["group"] + 1
        state_open_memtable(s).group_first = s.group_number
        group_begin(s, self._group_buffer(s.group_number))
