# distutils: libraries = m
"""The load generator's core: the sessions of one connection, their requests, and what came back.

A `Swarm` makes frames and judges replies without a Python object for a transfer or a request: bytes
that were read go in with the time, bytes to write come out. It keeps each frame until it is
answered, so that it can be sent again as it was, and a bit for each transfer that was acknowledged,
so that every one of them can be asked for later. What the transfers look like is in population.h.
It knows no socket and no clock; who drives it says when, and when a connection is new.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from mmap import mmap

from ledger.facts.record cimport (
    EVENTS_MAX, MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES, OPERATION_CREATE_ACCOUNTS,
    OPERATION_CREATE_TRANSFERS, OPERATION_LOOKUP_ACCOUNTS, OPERATION_LOOKUP_TRANSFERS,
    OPERATION_REGISTER, VERDICT_EVICT, VERDICT_REPLY,
    account_t, reply_t, transfer_t, u8, u16, u32, u64, u128, invariant,
)
from ledger.wire.frame cimport (
    EVICTION_REASON_MAX, REGISTER_SIZE, frame_client_t, frame_header_t, frame_open,
    frame_read_reply, frame_trailer_bytes, frame_write_register, frame_write_request,
    frame_write_trailer,
)

cdef extern from "load/population.h" nogil:
    ctypedef struct load_random_t:
        u64 state
    ctypedef struct load_zipf_t:
        pass
    ctypedef struct population_t:
        u64 seed, accounts, hot, pending, resolved
        u32 connection, connections, distribution, id_order, ledger, timeout
        u16 account_flags
        load_zipf_t zipf
    ctypedef struct load_counts_t:
        u64 accounts_created, accounts_existed, accounts_refused
        u64 sent, accepted, refused, unanswered
        u64 duplicates_sent, duplicates
        u64 requests, replies, resent, connections
        u64 found, accounts_found
        u64 missing, different, accounts_missing, accounts_different
        u64 duplicate_faults, reply_faults
    ctypedef struct load_tally_t:
        load_counts_t counts
        u64 *account_statuses
        u64 *statuses
        u128 debits, credits
    u64 load_mix(u64 value)
    u64 load_next(load_random_t *random)
    u64 load_below(load_random_t *random, u64 bound)
    u64 load_share(double share)
    u128 load_u128(u64 high, u64 low)
    u64 load_low(u128 value)
    u64 load_high(u128 value)
    void load_zipf_begin(load_zipf_t *zipf, double exponent, u64 count)
    u128 load_account_id(const population_t *population, u64 index)
    u128 load_transfer_id(const population_t *population, u64 number)
    void load_account(const population_t *population, u64 index, account_t *account)
    void load_transfer(const population_t *population, u64 number, transfer_t *transfer)
    void load_judge_accounts(load_tally_t *tally, u32 count, const u8 *results)
    void load_judge_transfers(load_tally_t *tally, const u64 *numbers, u32 count,
                              const u8 *results, u8 *acknowledged)
    void load_judge_found_transfers(const population_t *population, load_tally_t *tally,
                                    const u64 *numbers, u32 count, const u8 *stored,
                                    u32 stored_count)
    void load_judge_found_accounts(const population_t *population, load_tally_t *tally,
                                   const u64 *numbers, u32 count, const u8 *stored,
                                   u32 stored_count)
    bint load_bit(const u8 *bits, u64 number)
    u32 histogram_bucket(u64 value)
    u64 histogram_value(u32 bucket)
    enum:
        HISTOGRAM_BUCKETS, LOAD_STATUSES_MAX
    const u64 LOAD_DUPLICATE

cdef enum:
    RECEIVE_BYTES = 2 * MESSAGE_BYTES_MAX
    EVENT_BYTES = 128
    ID_BYTES = 16
    RESULT_BYTES = 16
    LOOKUP_EVENTS_MIN = 64  # accounts and look-ups go by more than a few
    DUPLICATE_TRIES_MAX = 8
    RESEND_LOOK_NS = 100000000

cdef enum:  # what a session is doing, and the phases in their order
    NEW, FREE, FLYING, ENDED
    REGISTERING = 0, ACCOUNTS, TRANSFERS, LOOK_TRANSFERS, LOOK_ACCOUNTS

ctypedef struct session_t:
    u128 client, parent, checksum
    u64 session
    u64 intended_ns  # when the request was due, whenever it could be sent
    u64 sent_ns  # the last time
    u64 lease_next, lease_end  # numbers that are this session's to use
    u64 *numbers  # of the events in the frame
    u8 *frame
    u32 number, event_count, fresh_count, frame_bytes
    u8 operation, state


cdef object wide(u128 value):
    return <object> load_high(value) << 64 | <object> load_low(value)


cdef dict counted(const u64 *rows, u32 count):
    cdef u32 row
    return {row: rows[row] for row in range(count) if rows[row]}


cdef void *zeroed(size_t count, size_t size) except NULL:
    cdef void *memory = calloc(count, size)
    if memory == NULL:
        raise MemoryError(f"{count} x {size} bytes")
    return memory


cdef class Swarm:
    cdef population_t population
    cdef frame_client_t client
    cdef session_t *sessions
    cdef u32 *idle  # a stack of sessions that are free
    cdef u32 *outgoing  # sessions whose frames the current call hands out
    cdef u8 *acknowledged  # a bit for each number
    cdef u64 *total_histogram
    cdef u64 *recent_histogram
    cdef load_tally_t tally
    cdef u64[32] evictions
    cdef load_random_t random
    cdef u32 session_count, idle_count, outgoing_count, flying, ended, batch, wide_batch
    cdef u32 phase, capacity, wire_error, start, end
    cdef u64 lease, numbers_next, numbers_max, target, duplicate_share
    cdef u64 account_first, account_end, account_next, look_next
    cdef u64 begun_ns, due_count, resend_ns, resend_look_ns
    cdef double interval_ns  # between requests that are due; 0 when a free session is enough
    cdef bint stopped, connected
    cdef object memory  # mapped: thousands of swarms cost what they touch, not what they may
    cdef u8[::1] received
    cdef u8 *buffer

    def __cinit__(
        self, *, cluster: bytes, client: bytes, release: int, sessions: int, batch: int, seed: int,
        accounts: int, account_first: int, account_end: int, account_flags: int, connection: int,
        connections: int, ledger: int, distribution: int, zipf_exponent: float, hot_share: float,
        pending_share: float, resolved_share: float, hold_seconds: int, duplicate_share: float,
        id_order: int, first: int, transfers: int, transfers_max: int, requests_per_second: float,
        resend_seconds: float,
    ):
        cdef u32 index
        if not (1 <= batch <= EVENTS_MAX and sessions >= 1 and accounts >= 2):
            raise ValueError("a swarm has sessions, accounts to move money between, and a batch")
        memcpy(&self.client.cluster, PyBytes_AS_STRING(cluster), 16)
        self.client.release = release
        self.session_count = sessions
        self.batch = batch
        self.wide_batch = max(batch, LOOKUP_EVENTS_MIN)
        self.target = transfers
        self.duplicate_share = load_share(duplicate_share)
        self.interval_ns = 1e9 / requests_per_second if requests_per_second else 0
        self.resend_ns = <u64> (resend_seconds * 1e9)
        self.account_first = account_first
        self.account_end = account_end
        self.lease = batch + batch % 2
        self.numbers_next = first
        self.numbers_max = first + transfers_max + (sessions + 2) * self.lease
        self.random.state = load_mix(seed + connection)
        self.population.seed = seed
        self.population.accounts = accounts
        self.population.account_flags = account_flags
        self.population.connection = connection
        self.population.connections = connections
        self.population.ledger = ledger
        self.population.distribution = distribution
        self.population.hot = load_share(hot_share)
        self.population.pending = load_share(pending_share)
        self.population.resolved = load_share(resolved_share)
        self.population.timeout = hold_seconds
        self.population.id_order = id_order
        load_zipf_begin(&self.population.zipf, zipf_exponent, accounts)
        self.received = self.memory = mmap(-1, RECEIVE_BYTES)
        self.buffer = &self.received[0]
        self.capacity = MESSAGE_HEADER_BYTES + (self.wide_batch + 1) * EVENT_BYTES
        self.sessions = <session_t *> zeroed(self.session_count, sizeof(session_t))
        self.idle = <u32 *> zeroed(self.session_count, sizeof(u32))
        self.outgoing = <u32 *> zeroed(self.session_count, sizeof(u32))
        self.acknowledged = <u8 *> zeroed(self.numbers_max // 8 + 1, 1)
        self.total_histogram = <u64 *> zeroed(HISTOGRAM_BUCKETS, sizeof(u64))
        self.recent_histogram = <u64 *> zeroed(HISTOGRAM_BUCKETS, sizeof(u64))
        for index in range(self.session_count):
            memcpy(&self.sessions[index].client, PyBytes_AS_STRING(client), 16)
            self.sessions[index].client += index
            self.sessions[index].frame = <u8 *> zeroed(self.capacity, 1)
            self.sessions[index].numbers = <u64 *> zeroed(self.wide_batch, sizeof(u64))
        self.client.client = self.sessions[0].client

    def __dealloc__(self):
        cdef u32 index
        if self.sessions != NULL:
            for index in range(self.session_count):
                free(self.sessions[index].frame)
                free(self.sessions[index].numbers)
        free(self.sessions)
        free(self.idle)
        free(self.outgoing)
        free(self.acknowledged)
        free(self.total_histogram)
        free(self.recent_histogram)

    # ---- requests -------------------------------------------------------------------------------

    cdef void hand_out(self, u32 index, u64 now_ns) noexcept nogil:
        invariant(self.outgoing_count < self.session_count)
        self.sessions[index].sent_ns = now_ns
        self.outgoing[self.outgoing_count] = index
        self.outgoing_count += 1

    cdef void seal(self, u32 index, u8 operation, u32 event_bytes, u64 now_ns) noexcept nogil:
        """The events are in the frame: the trailer after them, the header before, and off."""
        cdef session_t *session = self.sessions + index
        cdef frame_client_t client = self.client
        cdef u16 count = <u16> session.event_count
        cdef u32 body_bytes = session.event_count * event_bytes
        cdef u8 *trailer = session.frame + MESSAGE_HEADER_BYTES + body_bytes
        frame_write_trailer(trailer, event_bytes, <u8 *> &count, 1)
        body_bytes += frame_trailer_bytes(1, event_bytes)
        invariant(MESSAGE_HEADER_BYTES + body_bytes <= self.capacity)
        client.client = session.client
        session.number += 1
        session.operation = operation
        session.frame_bytes = MESSAGE_HEADER_BYTES + body_bytes
        frame_write_request(&client, session.session, session.number, session.parent, operation,
                            body_bytes, session.frame)
        self.take_off(index, now_ns)

    cdef void take_off(self, u32 index, u64 now_ns) noexcept nogil:
        memcpy(&self.sessions[index].checksum, self.sessions[index].frame, sizeof(u128))
        self.sessions[index].state = FLYING
        self.flying += 1
        self.tally.counts.requests += 1
        self.hand_out(index, now_ns)

    cdef void send_register(self, u32 index, u64 now_ns) noexcept nogil:
        cdef session_t *session = self.sessions + index
        cdef frame_client_t client = self.client
        client.client = session.client
        frame_write_register(&client, session.frame)
        session.frame_bytes = REGISTER_SIZE
        session.operation = OPERATION_REGISTER
        self.take_off(index, now_ns)

    cdef void send_accounts(self, u32 index, u64 now_ns) noexcept nogil:
        cdef session_t *session = self.sessions + index
        cdef u8 *event = session.frame + MESSAGE_HEADER_BYTES
        cdef account_t account
        session.event_count = 0
        while session.event_count < self.wide_batch and self.account_next < self.account_end:
            load_account(&self.population, self.account_next, &account)
            memcpy(event, &account, EVENT_BYTES)
            session.numbers[session.event_count] = self.account_next
            session.event_count += 1
            self.account_next += 1
            event += EVENT_BYTES
        self.seal(index, OPERATION_CREATE_ACCOUNTS, EVENT_BYTES, now_ns)

    cdef u64 next_number(self, session_t *session) noexcept nogil:
        """A number never used, or one acknowledged before with the bit that says so."""
        cdef u64 number
        cdef int _try
        if self.duplicate_share and load_next(&self.random) < self.duplicate_share:
            for _try in range(DUPLICATE_TRIES_MAX):
                number = load_below(&self.random, self.numbers_next)
                if load_bit(self.acknowledged, number):
                    self.tally.counts.duplicates_sent += 1
                    return number | LOAD_DUPLICATE
        if session.lease_next == session.lease_end:
            session.lease_next = self.numbers_next
            self.numbers_next += self.lease
            session.lease_end = self.numbers_next
        number = session.lease_next
        session.lease_next += 1
        session.fresh_count += 1
        self.tally.counts.sent += 1
        return number

    cdef void send_transfers(self, u32 index, u64 intended_ns, u64 now_ns) noexcept nogil:
        cdef session_t *session = self.sessions + index
        cdef u8 *event = session.frame + MESSAGE_HEADER_BYTES
        cdef transfer_t transfer
        cdef u64 number
        session.event_count = session.fresh_count = 0
        session.intended_ns = intended_ns
        while session.event_count < self.batch and self.tally.counts.sent < self.target:
            number = self.next_number(session)
            load_transfer(&self.population, number & ~LOAD_DUPLICATE, &transfer)
            memcpy(event, &transfer, EVENT_BYTES)
            session.numbers[session.event_count] = number
            session.event_count += 1
            event += EVENT_BYTES
        self.seal(index, OPERATION_CREATE_TRANSFERS, EVENT_BYTES, now_ns)

    cdef void send_lookup(self, u32 index, u64 now_ns) noexcept nogil:
        cdef session_t *session = self.sessions + index
        cdef u8 *event = session.frame + MESSAGE_HEADER_BYTES
        cdef bint accounts = self.phase == LOOK_ACCOUNTS
        cdef u128 id
        session.event_count = 0
        while session.event_count < self.wide_batch and self.more():
            id = (load_account_id(&self.population, self.look_next) if accounts
                  else load_transfer_id(&self.population, self.look_next))
            memcpy(event, &id, ID_BYTES)
            session.numbers[session.event_count] = self.look_next
            session.event_count += 1
            self.look_next += 1
            event += ID_BYTES
        self.seal(index, OPERATION_LOOKUP_ACCOUNTS if accounts else OPERATION_LOOKUP_TRANSFERS,
                  ID_BYTES, now_ns)

    cdef bint more(self) noexcept nogil:
        """Whether the phase has something left to ask for."""
        if self.phase == ACCOUNTS:
            return self.account_next < self.account_end
        if self.phase == TRANSFERS:
            return (not self.stopped and self.tally.counts.sent < self.target
                    and self.numbers_next + self.lease <= self.numbers_max)
        if self.phase == LOOK_ACCOUNTS:
            return self.look_next < self.account_end
        while self.look_next < self.numbers_next and not load_bit(
                self.acknowledged, self.look_next):
            self.look_next += 1
        return self.look_next < self.numbers_next

    cdef void pump(self, u64 now_ns) noexcept nogil:
        """Give each free session a request, as long as there is one and it is due."""
        cdef u32 index
        cdef u64 due_ns
        while (self.connected and self.idle_count and self.phase != REGISTERING
               and not self.wire_error and self.more()):
            due_ns = now_ns
            if self.phase == TRANSFERS and self.interval_ns > 0:
                due_ns = self.due_ns()
                if due_ns > now_ns:
                    return
                self.due_count += 1
            self.idle_count -= 1
            index = self.idle[self.idle_count]
            if self.phase == ACCOUNTS:
                self.send_accounts(index, now_ns)
            elif self.phase == TRANSFERS:
                self.send_transfers(index, due_ns, now_ns)
            else:
                self.send_lookup(index, now_ns)

    cdef u64 due_ns(self) noexcept nogil:
        cdef double turn = self.population.connection / <double> self.population.connections
        return self.begun_ns + <u64> ((self.due_count + turn) * self.interval_ns)

    # ---- replies --------------------------------------------------------------------------------

    cdef bint lawful(self, const session_t *session, const reply_t *reply) noexcept nogil:
        """Whether a reply to the session's request is one that this request can get."""
        if reply.operation != session.operation or reply.number != session.number:
            return False
        if session.operation == OPERATION_REGISTER:
            return True
        if reply.batch_count != 1:
            return False
        if session.operation in (OPERATION_CREATE_ACCOUNTS, OPERATION_CREATE_TRANSFERS):
            return reply.payload_bytes == session.event_count * RESULT_BYTES
        return reply.payload_bytes <= session.event_count * EVENT_BYTES

    cdef void end_session(self, session_t *session) noexcept nogil:
        session.state = ENDED
        self.flying -= 1
        self.ended += 1
        if session.operation == OPERATION_CREATE_TRANSFERS:
            self.tally.counts.unanswered += session.fresh_count

    cdef void answer(self, const reply_t *reply, u64 now_ns) noexcept nogil:
        cdef u64 index = load_low(reply.client - self.sessions[0].client)
        cdef session_t *session
        cdef u32 bucket
        cdef const u8 *results = self.buffer + reply.payload_offset
        if index >= self.session_count or self.sessions[index].client != reply.client:
            return
        session = self.sessions + index
        if session.state != FLYING:
            return
        if reply.verdict == VERDICT_EVICT:
            self.evictions[reply.reason] += 1
            self.end_session(session)
            return
        if reply.verdict != VERDICT_REPLY or reply.checksum != session.checksum:
            return  # of a request that was sent twice and answered before
        if not self.lawful(session, reply):
            self.tally.counts.reply_faults += 1
            return
        self.tally.counts.replies += 1
        self.flying -= 1
        session.parent = reply.context
        if session.operation == OPERATION_REGISTER:
            session.session = reply.position
        elif session.operation == OPERATION_CREATE_ACCOUNTS:
            load_judge_accounts(&self.tally, session.event_count, results)
        elif session.operation == OPERATION_CREATE_TRANSFERS:
            bucket = histogram_bucket(now_ns - session.intended_ns)
            self.total_histogram[bucket] += session.event_count
            self.recent_histogram[bucket] += session.event_count
            load_judge_transfers(&self.tally, session.numbers, session.event_count, results,
                                 self.acknowledged)
        elif session.operation == OPERATION_LOOKUP_TRANSFERS:
            load_judge_found_transfers(
                &self.population, &self.tally, session.numbers, session.event_count, results,
                reply.payload_bytes // EVENT_BYTES)
        else:
            load_judge_found_accounts(
                &self.population, &self.tally, session.numbers, session.event_count, results,
                reply.payload_bytes // EVENT_BYTES)
        session.state = FREE
        self.idle[self.idle_count] = <u32> index
        self.idle_count += 1

    cdef void read(self, u64 now_ns) noexcept nogil:
        cdef frame_header_t header
        cdef reply_t reply
        cdef u32 needed = 0
        while self.start < self.end:
            self.wire_error = frame_open(self.buffer + self.start, self.end - self.start,
                                         self.client.cluster, &header, &needed)
            if self.wire_error or needed > self.end - self.start:
                break
            self.wire_error = frame_read_reply(self.client.release, self.buffer, self.start,
                                               &header, &reply)
            if self.wire_error:
                break
            self.answer(&reply, now_ns)
            self.start += needed
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start + MESSAGE_BYTES_MAX > RECEIVE_BYTES:
            memmove(self.buffer, self.buffer + self.start, self.end - self.start)
            self.end -= self.start
            self.start = 0

    cdef bytes written(self):
        """The frames handed out in this call, as one run of bytes."""
        cdef size_t size = 0
        cdef u32 place
        cdef session_t *session
        cdef u8 *at
        for place in range(self.outgoing_count):
            size += self.sessions[self.outgoing[place]].frame_bytes
        cdef bytes frames = PyBytes_FromStringAndSize(NULL, size)
        at = <u8 *> PyBytes_AS_STRING(frames)
        with nogil:
            for place in range(self.outgoing_count):
                session = self.sessions + self.outgoing[place]
                memcpy(at, session.frame, session.frame_bytes)
                at += session.frame_bytes
        self.outgoing_count = 0
        return frames

    # ---- driven from outside --------------------------------------------------------------------

    def connect(self, now_ns: int) -> bytes:
        cdef u64 now = now_ns
        cdef u32 index
        self.start = self.end = 0
        self.wire_error = 0
        self.connected = True
        self.tally.counts.connections += 1
        for index in range(self.session_count):
            if self.sessions[index].state == FLYING:
                self.tally.counts.resent += 1
                self.hand_out(index, now)
            elif self.sessions[index].state == NEW:
                self.send_register(index, now)
        self.pump(now)
        return self.written()

    def disconnect(self) -> None:
        self.connected = False

    def space(self) -> memoryview:
        return memoryview(self.memory)[self.end:]

    def feed(self, count: int, now_ns: int) -> bytes:
        cdef u64 now = now_ns
        cdef u32 more = count
        if more > RECEIVE_BYTES - self.end:
            raise ValueError(f"count: {count} bytes were not read into this swarm's space")
        if self.wire_error:
            return b""
        with nogil:
            self.end += more
            self.read(now)
            self.pump(now)
        return self.written()

    def tick(self, now_ns: int, drained: bool) -> bytes:
        cdef u64 now = now_ns
        cdef u32 index
        cdef session_t *session
        if not self.connected or self.wire_error:
            return b""
        if drained and now >= self.resend_look_ns:
            self.resend_look_ns = now + RESEND_LOOK_NS
            for index in range(self.session_count):
                session = self.sessions + index
                if session.state == FLYING and now - session.sent_ns >= self.resend_ns:
                    self.tally.counts.resent += 1
                    self.hand_out(index, now)
        self.pump(now)
        return self.written()

    def begin(self, phase: int, now_ns: int) -> bytes:
        if phase <= <int> self.phase or not self.done:
            raise ValueError(f"phase {phase} does not follow phase {self.phase}")
        self.phase = phase
        self.begun_ns = now_ns
        self.account_next = self.account_first
        self.look_next = self.account_first if self.phase == LOOK_ACCOUNTS else 0
        self.stopped = False
        self.pump(now_ns)
        return self.written()

    def stop(self) -> None:
        self.stopped = True

    def give_up(self) -> None:
        cdef u32 index
        for index in range(self.session_count):
            if self.sessions[index].state == FLYING:
                self.end_session(self.sessions + index)
        self.connected = False

    @property
    def done(self) -> bool:
        if self.phase == REGISTERING:
            return self.idle_count + self.ended == self.session_count
        return self.flying == 0 and (self.ended == self.session_count or not self.more())

    @property
    def error(self) -> int:
        return self.wire_error

    @property
    def replies(self) -> int:
        return self.tally.counts.replies

    def due_in_ns(self, now_ns: int) -> int:
        cdef u64 now = now_ns, due
        if self.phase != TRANSFERS or self.interval_ns == 0 or not self.more():
            return -1
        due = self.due_ns()
        return due - now if due > now else 0

    def counters(self) -> dict[str, int]:
        counters = dict(self.tally.counts)
        counters["flying"], counters["ended"] = self.flying, self.ended
        counters["debits_posted"] = wide(self.tally.debits)
        counters["credits_posted"] = wide(self.tally.credits)
        return counters

    def statuses_by_number(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        return (
            counted(self.tally.account_statuses, LOAD_STATUSES_MAX),
            counted(self.tally.statuses, LOAD_STATUSES_MAX),
            counted(self.evictions, EVICTION_REASON_MAX + 1),
        )

    def take_histograms(self) -> tuple[bytes, bytes]:
        histograms = ((<char *> self.total_histogram)[:HISTOGRAM_BUCKETS * sizeof(u64)],
                      (<char *> self.recent_histogram)[:HISTOGRAM_BUCKETS * sizeof(u64)])
        memset(self.recent_histogram, 0, HISTOGRAM_BUCKETS * sizeof(u64))
        return histograms

    def transfer(self, number: int) -> bytes:
        cdef transfer_t transfer
        load_transfer(&self.population, number, &transfer)
        return (<char *> &transfer)[:EVENT_BYTES]


def bucket_values() -> list[int]:
    return [histogram_value(bucket) for bucket in range(HISTOGRAM_BUCKETS)]
