# Request: one arrival through the core: its session, due expiries, room, the operation, its record.
#
# Needs: state.pxi, lookups.pxi, group.pxi, prefetch.pxi, expiry.pxi, batch.pxi, query.pxi,
# session.pxi. Gives: request_*. A request that cannot be taken leaves nothing behind. A request's
# records are contiguous in the group: request, batch counts when there are several, effects in
# order of execution, outcomes.

cdef enum:
    REQUEST_DONE = 0
    REQUEST_GROUP_FULL = 1  # the open group must be closed first
    REQUEST_ANSWERS_FULL = 2  # the answers so far must be taken away first
    REQUEST_NO_MEMORY = 3
    REQUEST_COLD = 4  # what is wanted of the sealed past must be cached first

cdef struct request_place_t:  # where answers go
    u8 *payload
    u64 payload_used, payload_room
    u16 *counts
    u32 counts_used, counts_room
    bint takes_creates, takes_registers  # the first never without the second
    u64 now


cdef inline u16 request_batch_count(const u8 *buffer, const arrival_t *arrival,
                                    u32 batch) noexcept nogil:
    cdef u16 count
    if arrival.batch_count == 1:
        return <u16>arrival.event_count
    memcpy(&count, buffer + arrival.batches_offset - 2 * <size_t>batch, sizeof(u16))
    return count

cdef inline bint request_creates(u8 operation) noexcept nogil:
    return operation == OPERATION_CREATE_ACCOUNTS or operation == OPERATION_CREATE_TRANSFERS

cdef inline u64 request_bytes_worst(const arrival_t *arrival) noexcept nogil:
    return (<u64>arrival.event_count * EVENT_BYTES_WORST + 2 * <u64>arrival.batch_count
            + REQUEST_BYTES_FIXED)

cdef inline bint request_fits(const state_t *s, u64 more) noexcept nogil:
    return s.group_bytes + more + REQUEST_BYTES_FIXED <= s.group_bytes_max

cdef int request_expire(state_t *s, request_place_t *place) noexcept nogil:
    """Run what is due. REQUEST_GROUP_FULL when the group has no room for all of it."""
    cdef u64 due
    while place.takes_creates and expiry_is_due(s, place.now):
        due = expiry_count(s, max(s.clock, place.now))
        if not request_fits(s, due * sizeof(resolution_t)):
            return REQUEST_GROUP_FULL
        if state_reserve_ends(s, due):
            return REQUEST_NO_MEMORY
        expiry_run(s, place.now)
    return REQUEST_DONE

cdef int request_register(state_t *s, const arrival_t *arrival, request_place_t *place,
                          answer_t *answer) noexcept nogil:
    cdef session_record_t *record
    cdef u32 index, offset
    if not place.takes_registers:
        answer.verdict = VERDICT_DROP
        return REQUEST_DONE
    if not request_fits(s, REQUEST_BYTES_FIXED):
        return REQUEST_GROUP_FULL
    if session_reserve(s):
        return REQUEST_NO_MEMORY

    # ---- point of no return ----
    if s.session_table.count >= s.session_max:
        session_evict_oldest(s)
    s.clock = max(s.clock + 1, place.now)
    record = <session_record_t *>group_append(s, KIND_SESSION, sizeof(session_record_t))
    offset = s.group_bytes - <u32>sizeof(session_record_t)
    record.client, record.checksum = arrival.client, arrival.checksum
    record.session, record.timestamp = s.position, s.clock
    record.release = arrival.release
    index = session_add(s, record, s.group_number, offset)
    session_asked(s, index, arrival.route, arrival.number)
    answer.position, answer.timestamp = s.position, s.clock
    answer.batch_count = 0
    return REQUEST_DONE

cdef int request_want(state_t *s, const u8 *events, u32 event_bytes, u32 count,
                      bint transfers) noexcept nogil:
    """REQUEST_DONE when memory knows of these ids all that the request needs."""
    if s.filter.level_count == 0:
        return REQUEST_DONE
    if lookups_reserve(&s.lookups):
        return REQUEST_NO_MEMORY
    lookups_clear(&s.lookups)
    prefetch_want_ids(s, events, event_bytes, count, transfers)
    return REQUEST_COLD if lookups_any(&s.lookups) else REQUEST_DONE

cdef int request_want_timestamps(state_t *s, const u8 *events, u32 count) noexcept nogil:
    if s.sealed_timestamp_max == 0:
        return REQUEST_DONE
    if lookups_reserve(&s.lookups):
        return REQUEST_NO_MEMORY
    lookups_clear(&s.lookups)
    prefetch_want_timestamps(s, events, count)
    return REQUEST_COLD if lookups_any(&s.lookups) else REQUEST_DONE

cdef int request_want_reads(state_t *s, u8 operation, const u8 *filters, u32 filter_bytes,
                            u32 count, u8 *scratch) noexcept nogil:
    cdef const u8 *filter
    cdef u32 i, account
    if s.sealed_timestamp_max == 0:
        return REQUEST_DONE
    if lookups_reserve(&s.lookups):
        return REQUEST_NO_MEMORY
    lookups_clear(&s.lookups)
    for i in range(count):
        filter = filters + i * <size_t>filter_bytes
        if query_needs_sealed(s, operation, filter, scratch, &account):
            lookups_want_read(&s.lookups, operation, filter, filter_bytes, account)
    return REQUEST_COLD if lookups_any(&s.lookups) else REQUEST_DONE

cdef void request_write_outcomes(state_t *s, u32 request_offset, const create_result_t *results,
                                 u64 first_timestamp) noexcept nogil:
    """One outcome for each event whose result is not plainly created at its own time."""
    cdef request_t *request = <request_t *>(s.group + request_offset)
    cdef outcome_t *outcome
    cdef u32 i, written = 0
    for i in range(request.event_count):
        if results[i].status == STATUS_CREATED and results[i].timestamp == first_timestamp + i:
            continue
        outcome = <outcome_t *>group_append(s, KIND_OUTCOME, sizeof(outcome_t))
        outcome.event, outcome.status = i, results[i].status
        outcome.timestamp = results[i].timestamp
        written += 1
    request.outcome_count = written

cdef void request_write(state_t *s, const u8 *buffer, const arrival_t *arrival,
                        u64 timestamp) noexcept nogil:
    cdef request_t *request
    cdef u32 batch
    group_end_run(s)
    request = <request_t *>group_append(s, KIND_REQUEST, sizeof(request_t))
    request.client, request.checksum = arrival.client, arrival.checksum
    request.session, request.timestamp = arrival.session, timestamp
    request.number, request.release = arrival.number, arrival.release
    request.event_count, request.batch_count = arrival.event_count, arrival.batch_count
    request.operation = arrival.operation
    if arrival.batch_count != 1:
        for batch in range(arrival.batch_count):
            (<batch_t *>group_append(s, KIND_BATCH, sizeof(batch_t))).event_count = (
                request_batch_count(buffer, arrival, batch))
        group_end_run(s)

cdef struct reserved_t:  # how full the pools were before a request
    u64 accounts, transfers, holds, pendings, burned, ended


cdef void request_note_reserved(const state_t *s, reserved_t *before) noexcept nogil:
    before.accounts, before.transfers = s.accounts.count, s.transfers.count
    before.holds, before.pendings = s.hold_count, s.pendings.count
    before.burned, before.ended = s.burned.count, s.ended.count

cdef void request_verify_reserved(const state_t *s, const reserved_t *before,
                                  u32 events) noexcept nogil:
    """No pool took more than was reserved for so many events."""
    verify(s.accounts.count - before.accounts <= events)
    verify(s.transfers.count - before.transfers <= events)
    verify(s.hold_count <= before.holds + events)
    verify(s.pendings.count - before.pendings <= events)
    verify(s.burned.count - before.burned <= events)
    verify(s.ended.count - before.ended <= events)
    # A transfer is stored, or it ends a hold and is stored, or its id is burned.
    verify(s.transfers.count - before.transfers + s.burned.count - before.burned <= events)
    verify(s.ended.count - before.ended <= s.transfers.count - before.transfers)

cdef int request_create(state_t *s, const u8 *buffer, const arrival_t *arrival, u32 session,
                        request_place_t *place, answer_t *answer) noexcept nogil:
    cdef bint transfers = arrival.operation == OPERATION_CREATE_TRANSFERS
    cdef u32 events = arrival.event_count
    cdef u32 request_offset, batch, done = 0, count
    cdef u64 timestamp, bytes_before = s.group_bytes
    cdef reserved_t before
    cdef create_result_t *results = <create_result_t *>(place.payload + place.payload_used)
    cdef int why
    if not place.takes_creates:
        answer.verdict = VERDICT_DROP
        return REQUEST_DONE
    if place.payload_used + events * sizeof(create_result_t) > place.payload_room:
        return REQUEST_ANSWERS_FULL
    if not request_fits(s, request_bytes_worst(arrival)):
        return REQUEST_GROUP_FULL
    if transfers:
        why = request_want(s, buffer + arrival.events_offset, EVENT_BYTES, events, True)
    else:
        why = request_want_timestamps(s, buffer + arrival.events_offset, events)
    if why != REQUEST_DONE:
        return why
    if state_reserve(s, 0 if transfers else events, events if transfers else 0):
        return REQUEST_NO_MEMORY

    # ---- point of no return ----
    if VERIFIES:
        request_note_reserved(s, &before)
    timestamp = max(s.clock + 1, place.now) + events
    group_end_run(s)
    request_offset = s.group_bytes + <u32>sizeof(run_t)
    request_write(s, buffer, arrival, timestamp)
    for batch in range(arrival.batch_count):
        count = request_batch_count(buffer, arrival, batch)
        batch_create(s, buffer + arrival.events_offset + done * <size_t>EVENT_BYTES, count,
                     transfers, timestamp - events + done + count, results + done)
        done += count
        place.counts[place.counts_used + batch] = <u16>count
    request_write_outcomes(s, request_offset, results, timestamp - events + 1)
    verify(s.group_bytes - bytes_before <= request_bytes_worst(arrival))
    verify(done == events and not s.chain_open)
    if VERIFIES:
        request_verify_reserved(s, &before, events)
    s.clock = timestamp
    answer.position, answer.timestamp = s.position, timestamp
    answer.payload_bytes = <u32>(events * sizeof(create_result_t))
    if session != NONE:
        session_at(s, session).number = arrival.number
        session_at(s, session).checksum = arrival.checksum
        session_at(s, session).group = s.group_number
        session_at(s, session).record_offset = request_offset
    return REQUEST_DONE

cdef int request_read(state_t *s, const u8 *buffer, const arrival_t *arrival,
                      request_place_t *place, answer_t *answer) noexcept nogil:
    cdef const u8 *events = buffer + arrival.events_offset
    cdef u32 event_bytes = query_event_bytes(arrival.operation)
    cdef u64 worst = 0
    cdef u32 batch, count, found, done = 0, written = 0
    cdef int why
    for batch in range(arrival.batch_count):
        count = request_batch_count(buffer, arrival, batch)
        worst += query_results_max(arrival.operation, events + done * <size_t>event_bytes, count)
        done += count
    if place.payload_used + worst * EVENT_BYTES > place.payload_room:
        return REQUEST_ANSWERS_FULL
    if arrival.operation == OPERATION_LOOKUP_TRANSFERS:
        why = request_want(s, events, event_bytes, done, False)
    else:
        why = request_want_reads(s, arrival.operation, events, event_bytes, done,
                                 place.payload + place.payload_used)
    if why != REQUEST_DONE:
        return why
    done = 0
    for batch in range(arrival.batch_count):
        count = request_batch_count(buffer, arrival, batch)
        found = query_execute(s, arrival.operation, events + done * <size_t>event_bytes, count,
                              place.payload + place.payload_used + written * <size_t>EVENT_BYTES)
        place.counts[place.counts_used + batch] = <u16>found
        done += count
        written += found
    answer.position, answer.timestamp = s.position, s.clock
    answer.payload_bytes = written * EVENT_BYTES
    return REQUEST_DONE

cdef int request_dispatch(state_t *s, const u8 *buffer, const arrival_t *arrival,
                          request_place_t *place, answer_t *answer) noexcept nogil:
    cdef u32 session = NONE
    cdef int why
    if arrival.client != 0:
        answer.verdict = session_judge(s, arrival, &session, answer)
        if answer.verdict != VERDICT_REPLY:
            return REQUEST_DONE
    if place.counts_used + arrival.batch_count > place.counts_room:
        return REQUEST_ANSWERS_FULL
    why = request_expire(s, place)
    if why != REQUEST_DONE:
        return why
    answer.verdict = VERDICT_REPLY
    if arrival.operation == OPERATION_REGISTER:
        return request_register(s, arrival, place, answer)
    answer.payload_offset, answer.counts_offset = <u32>place.payload_used, place.counts_used
    answer.batch_count = arrival.batch_count
    if request_creates(arrival.operation):
        why = request_create(s, buffer, arrival, session, place, answer)
    else:
        why = request_read(s, buffer, arrival, place, answer)
    if why == REQUEST_DONE and answer.verdict == VERDICT_REPLY:
        verify(place.payload_used + answer.payload_bytes <= place.payload_room)
        place.payload_used += (answer.payload_bytes + 15) & ~<u32>15
        place.counts_used += arrival.batch_count
        verify(place.counts_used <= place.counts_room)
        if session != NONE:
            session_asked(s, session, arrival.route, arrival.number)
    return why

cdef int request_execute(state_t *s, const u8 *buffer, const arrival_t *arrival,
                         request_place_t *place, answer_t *answer) noexcept nogil:
    """Answer one arrival. Anything but REQUEST_DONE means that nothing of it happened, except
    that due expiries may have run."""
    memset(answer, 0, sizeof(answer_t))
    answer.client, answer.checksum = arrival.client, arrival.checksum
    answer.number, answer.release = arrival.number, arrival.release
    answer.operation, answer.verdict = arrival.operation, arrival.verdict
    answer.reason, answer.ping_timestamp = arrival.reason, arrival.ping_timestamp
    answer.position, answer.timestamp = s.position, s.clock
    answer.start_id = s.start.id
    if arrival.verdict != VERDICT_REPLY:
        return REQUEST_DONE
    return request_dispatch(s, buffer, arrival, place, answer)
