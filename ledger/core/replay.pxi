# Replay: the journal's groups applied again, without judging; and an original reply rebuilt from
# one.
#
# Needs: state.pxi, store.pxi, prefetch.pxi, resolutions.pxi, transfers.pxi, starts.pxi,
# session.pxi. Gives: replay_*. Effects are applied in the order they were written, by the very
# functions that made them. What does not fit the state it meets (an account that is not there, a
# hold that is not open) is refused with the position of the record: such a journal was not written
# by this ledger.

from ledger.journal.runs cimport (
    RUN_CUT_OFF, RUN_GOOD, RUN_KIND_UNKNOWN, RUN_RESERVED_SET, RUN_VERSION_UNKNOWN,
    record_bytes_of_kind, run_read,
)

cdef struct replay_t:
    const u8 *body
    u64 body_bytes, group, group_position, at  # `at`: position of the record being applied
    const char *fault


cdef int replay_refuse(replay_t *r, const char *fault) noexcept nogil:
    r.fault = fault
    return -1

cdef int replay_account(state_t *s, replay_t *r, const account_t *account) noexcept nogil:
    cdef u32 tag = state_tag(s, account.id)
    if store_find_account(s, account.id, tag) != NONE:
        return replay_refuse(r, "an account that exists already")
    if account.timestamp <= s.account_timestamp_max:
        return replay_refuse(r, "an account whose timestamp is not later than the last one's")
    store_add_account(s, account, tag)
    return 0

cdef int replay_transfer(state_t *s, replay_t *r, const transfer_t *transfer,
                         const tags_t *tags) noexcept nogil:
    cdef u32 debit = store_known_account(s, transfer.debit_account_id, tags.debit,
                                         tags.debit_at)
    cdef u32 credit = store_known_account(s, transfer.credit_account_id, tags.credit,
                                          tags.credit_at)
    if debit == NONE or credit == NONE or debit == credit:
        return replay_refuse(r, "a transfer between accounts that do not exist")
    if store_find(s, transfer.id, tags.id) != NONE:
        return replay_refuse(r, "a transfer whose id is used already")
    if transfer.timestamp <= s.transfer_timestamp_max:
        return replay_refuse(r, "a transfer whose timestamp is not later than the last one's")
    s.position = r.at
    if transfer.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER):
        resolutions_effects(s, transfer, tags.id, debit, credit)
    else:
        transfers_effects(s, transfer, tags.id, debit, credit)
    return 0

cdef int replay_resolution(state_t *s, replay_t *r, const resolution_t *resolution) noexcept nogil:
    cdef u32 transfer = store_at_position(s, resolution.position)
    if transfer == NONE or state_extra(s, transfer).resolution < RESOLUTION_OPEN:
        return replay_refuse(r, "the end of a hold that is not open")
    if (resolution.amount != state_transfer(s, transfer).amount
            or resolution.flags != state_transfer(s, transfer).flags
            or resolution.outcome < HOLD_POSTED or resolution.outcome > HOLD_EXPIRED):
        return replay_refuse(r, "the end of a hold that differs from the hold")
    if not replay_hold_covered(s, state_transfer(s, transfer), state_extra(s, transfer)):
        return replay_refuse(r, "the end of a hold that its accounts do not hold")
    resolutions_release(s, transfer, resolution.outcome)
    return 0

cdef bint replay_hold_covered(const state_t *s, const transfer_t *p,
                              const transfer_extra_t *extra) noexcept nogil:
    return (state_account(s, extra.debit).debits_pending >= p.amount
            and state_account(s, extra.credit).credits_pending >= p.amount)

cdef int replay_burned_id(state_t *s, replay_t *r, const burned_id_t *burned) noexcept nogil:
    cdef u32 tag = state_tag(s, burned.id)
    if store_find(s, burned.id, tag) != NONE:
        return replay_refuse(r, "a burned id that is used already")
    store_burn(s, burned.id, tag)
    return 0

cdef int replay_session(state_t *s, replay_t *r, const session_record_t *record) noexcept nogil:
    if session_find(s, record.client) != NONE:
        return replay_refuse(r, "a session whose client has one already")
    if record.session != r.at:
        return replay_refuse(r, "a session whose number is not its position")
    if session_reserve(s):
        return replay_refuse(r, "too much: no memory is left")
    session_add(s, record, r.group, <u32>(<const u8 *>record - r.body))
    return 0

cdef int replay_evicted(state_t *s, replay_t *r, const session_evicted_t *record) noexcept nogil:
    cdef u32 index = session_find(s, record.client)
    if index == NONE or session_at(s, index).session != record.session:
        return replay_refuse(r, "the end of a session that is not open")
    session_remove(s, index)
    return 0

cdef int replay_request(state_t *s, replay_t *r, const request_t *request) noexcept nogil:
    cdef u32 index
    if request.client == 0:
        return 0
    index = session_find(s, request.client)
    if index == NONE or session_at(s, index).session != request.session:
        return replay_refuse(r, "a request of a session that is not open")
    if request.number <= session_at(s, index).number:
        return replay_refuse(r, "a request whose number is not above the last one's")
    session_at(s, index).number = request.number
    session_at(s, index).checksum = request.checksum
    session_at(s, index).group = r.group
    session_at(s, index).record_offset = <u32>(<const u8 *>request - r.body)
    session_touch(s, index)
    return 0

cdef int replay_record(state_t *s, replay_t *r, u16 kind, const u8 *record) noexcept nogil:
    if kind == KIND_REQUEST:
        return replay_request(s, r, <const request_t *>record)
    if kind == KIND_ACCOUNT:
        return replay_account(s, r, <const account_t *>record)
    if kind == KIND_RESOLUTION:
        return replay_resolution(s, r, <const resolution_t *>record)
    if kind == KIND_BURNED_ID:
        return replay_burned_id(s, r, <const burned_id_t *>record)
    if kind == KIND_SESSION:
        return replay_session(s, r, <const session_record_t *>record)
    if kind == KIND_SESSION_EVICTED:
        return replay_evicted(s, r, <const session_evicted_t *>record)
    if kind == KIND_START:
        starts_record(s, <const start_t *>record, r.at)
    return 0

cdef int replay_next_run(replay_t *r, u64 *offset, run_t *run) noexcept nogil:
    """Read the run header at `offset` and step over it. 1 at the end of the body, -1 when bad."""
    cdef int fault
    if offset[0] == r.body_bytes:
        return 1
    fault = run_read(r.body, offset[0], r.body_bytes, run)
    if fault == RUN_CUT_OFF:
        return replay_refuse(r, "a run that is cut off")
    if fault == RUN_KIND_UNKNOWN:
        return replay_refuse(r, "a record of a kind this software does not know")
    if fault == RUN_VERSION_UNKNOWN:
        return replay_refuse(r, "a record of a version this software does not know")
    if fault == RUN_RESERVED_SET:
        return replay_refuse(r, "a run whose reserved bytes are not zero")
    if fault != RUN_GOOD:
        return replay_refuse(r, "a run whose length is wrong")
    offset[0] += sizeof(run_t)
    return 0

cdef int replay_body(state_t *s, replay_t *r, u64 *counts, u16 *kind) noexcept nogil:
    """Apply a whole group. `counts[kind]` grows by the records seen; `kind` is the last one's."""
    cdef run_t run
    cdef tags_t ring[PREFETCH_RING]
    cdef u64 offset = 0
    cdef u32 i, record_bytes, ahead
    cdef const u8 *records
    cdef int why
    r.at = r.group_position
    while True:
        why = replay_next_run(r, &offset, &run)
        if why != 0:
            return 0 if why == 1 else -1
        kind[0] = run.kind
        record_bytes = record_bytes_of_kind(run.kind)
        if (run.kind == KIND_ACCOUNT or run.kind == KIND_TRANSFER or run.kind == KIND_BURNED_ID):
            if state_reserve(s, run.count if run.kind == KIND_ACCOUNT else 0,
                             0 if run.kind == KIND_ACCOUNT else run.count):
                return replay_refuse(r, "too much: no memory is left")
        elif run.kind == KIND_RESOLUTION and state_reserve_ends(s, run.count):
            return replay_refuse(r, "too much: no memory is left")
        records, ahead = r.body + offset, 0
        for i in range(run.count):
            s.record_offset = <u32>(offset + i * <u64>record_bytes)
            if run.kind == KIND_TRANSFER:
                why = replay_transfer(
                    s, r, <const transfer_t *>records + i,
                    prefetch_ahead(s, records, i, run.count, ring, &ahead))
            else:
                why = replay_record(s, r, run.kind, records + i * <u64>record_bytes)
            if why != 0:
                return -1
            s.position = r.at
            r.at += 1
        counts[run.kind] += run.count
        offset += run.bytes


cdef int replay_answer(replay_t *r, u32 record_offset, answer_t *answer, u8 *payload,
                       u64 payload_room, u16 *counts, u32 counts_room) noexcept nogil:
    """Rebuild the answer of the register or request record at `record_offset` of a group's body.
    0, or -1 when there is no such record."""
    cdef run_t run
    cdef u64 offset = 0
    cdef u64 position = r.group_position
    cdef request_t request
    cdef session_record_t session
    cdef int why
    while True:
        why = replay_next_run(r, &offset, &run)
        if why != 0 or offset > record_offset:
            return -1
        if record_offset < offset + run.bytes:
            break
        offset += run.bytes
        position += run.count
    memset(answer, 0, sizeof(answer_t))
    answer.verdict = VERDICT_REPLY
    if run.kind == KIND_SESSION:
        memcpy(&session, r.body + record_offset, sizeof(session_record_t))
        answer.client, answer.checksum = session.client, session.checksum
        answer.position, answer.timestamp = session.session, session.timestamp
        answer.release, answer.operation = session.release, OPERATION_REGISTER
        return 0
    if run.kind != KIND_REQUEST or run.count != 1:
        return -1
    memcpy(&request, r.body + record_offset, sizeof(request_t))
    answer.client, answer.checksum = request.client, request.checksum
    answer.timestamp, answer.number = request.timestamp, request.number
    answer.release, answer.operation = request.release, request.operation
    answer.batch_count = request.batch_count
    answer.payload_bytes = <u32>(request.event_count * sizeof(create_result_t))
    if answer.payload_bytes > payload_room or request.batch_count > counts_room:
        return -1
    counts[0] = <u16>request.event_count
    replay_plain_results(&request, <create_result_t *>payload)
    return replay_effects_of(r, offset + run.bytes, position, &request, answer,
                             <create_result_t *>payload, counts)

cdef void replay_plain_results(const request_t *request, create_result_t *results) noexcept nogil:
    cdef u32 i
    for i in range(request.event_count):
        results[i].timestamp = request.timestamp - request.event_count + 1 + i
        results[i].status, results[i].reserved = STATUS_CREATED, 0

cdef int replay_effects_of(replay_t *r, u64 offset, u64 position, const request_t *request,
                           answer_t *answer, create_result_t *results, u16 *counts) noexcept nogil:
    """Walk the records that follow a request's own until they end; outcomes overwrite results."""
    cdef run_t run
    cdef outcome_t outcome
    cdef u32 i, outcomes = 0
    cdef u64 last = position
    cdef int why
    while True:
        why = replay_next_run(r, &offset, &run)
        if why < 0:
            return -1
        if why == 1 or outcomes > 0 or not replay_belongs(run.kind, r.body + offset):
            break
        if run.kind == KIND_BATCH and run.count == request.batch_count:
            memcpy(counts, r.body + offset, run.count * sizeof(batch_t))
        elif run.kind == KIND_OUTCOME:
            outcomes = run.count
            for i in range(run.count):
                memcpy(&outcome, r.body + offset + i * sizeof(outcome_t), sizeof(outcome_t))
                if outcome.event >= request.event_count:
                    return -1
                results[outcome.event].timestamp = outcome.timestamp
                results[outcome.event].status = outcome.status
        last += run.count
        offset += run.bytes
    answer.position = last
    return 0 if outcomes == request.outcome_count else -1

cdef bint replay_belongs(u16 kind, const u8 *first) noexcept nogil:
    """Whether a run that follows a request is its effect: expiries belong to none."""
    cdef resolution_t resolution
    if kind == KIND_RESOLUTION:
        memcpy(&resolution, first, sizeof(resolution_t))
        return resolution.outcome != HOLD_EXPIRED
    return (kind == KIND_BATCH or kind == KIND_ACCOUNT or kind == KIND_TRANSFER
            or kind == KIND_BURNED_ID or kind == KIND_OUTCOME)
