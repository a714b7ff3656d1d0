# Session: who may ask, and whether a request was asked before.
#
# Needs: state.pxi, group.pxi, starts.pxi. Gives: session_*. A session remembers its last request
# that creates: its number, its checksum and where the journal holds it, so that a resend gets its
# original reply. An unknown session is never adopted, and who saw what this book does not hold is
# not served: an eviction is a client's one signal that its server lost history. Order by last
# activity, and who asked last, are volatile: they are not part of the state.

cdef inline session_t *session_at(const state_t *s, u32 index) noexcept nogil:
    return <session_t *>slab_at(&s.sessions, index)

cdef u32 session_find(const state_t *s, u128 client) noexcept nogil:
    cdef u32 tag = state_tag(s, client)
    cdef table_part_t *part = table_part(&s.session_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 index
    while True:
        index = table_next(part, tag, &at)
        if index == NONE or session_at(s, index).client == client:
            return index

cdef void session_unlink(state_t *s, u32 index) noexcept nogil:
    cdef session_t *session = session_at(s, index)
    verify((session.newer == NONE) == (s.session_newest == index))
    verify((session.older == NONE) == (s.session_oldest == index))
    if session.newer == NONE:
        s.session_newest = session.older
    else:
        session_at(s, session.newer).older = session.older
    if session.older == NONE:
        s.session_oldest = session.newer
    else:
        session_at(s, session.older).newer = session.newer

cdef void session_link(state_t *s, u32 index) noexcept nogil:
    cdef session_t *session = session_at(s, index)
    session.newer, session.older = NONE, s.session_newest
    if s.session_newest == NONE:
        s.session_oldest = index
    else:
        session_at(s, s.session_newest).newer = index
    s.session_newest = index
    verify(session.older == NONE or session_at(s, session.older).newer == index)
    verify(session_at(s, s.session_oldest).older == NONE)
    verify(session.older != index)

cdef inline void session_touch(state_t *s, u32 index) noexcept nogil:
    if s.session_newest != index:
        session_unlink(s, index)
        session_link(s, index)

cdef void session_remove(state_t *s, u32 index) noexcept nogil:
    cdef session_t *session = session_at(s, index)
    table_remove(&s.session_table, state_tag(s, session.client), index)
    session_unlink(s, index)
    memset(session, 0, sizeof(session_t))
    session.older = s.session_free
    s.session_free = index

cdef int session_reserve(state_t *s) noexcept nogil:
    return slab_reserve(&s.sessions, 1) | table_reserve(&s.session_table, 1)

cdef u32 session_add(state_t *s, const session_record_t *record, u64 group,
                     u32 record_offset) noexcept nogil:
    """Open the session of a register record; replay does the same."""
    cdef u32 index = s.session_free
    cdef session_t *session
    if index == NONE:
        index = <u32>s.sessions.count
        session = <session_t *>slab_append(&s.sessions)
    else:
        session = session_at(s, index)
        s.session_free = session.older
    memset(session, 0, sizeof(session_t))
    session.client, session.checksum = record.client, record.checksum
    session.session, session.release = record.session, record.release
    session.register_timestamp = record.timestamp
    session.group, session.record_offset = group, record_offset
    table_insert(&s.session_table, state_tag(s, record.client), index)
    session_link(s, index)
    verify(session_find(s, record.client) == index)
    verify(s.session_table.count <= s.sessions.count)
    return index

cdef void session_evict_oldest(state_t *s) noexcept nogil:
    """Make room: the session that was silent longest ends, and the journal says so."""
    cdef session_t *session = session_at(s, s.session_oldest)
    cdef session_evicted_t *record = <session_evicted_t *>group_append(
        s, KIND_SESSION_EVICTED, sizeof(session_evicted_t))
    record.client, record.session, record.timestamp = session.client, session.session, s.clock
    session_remove(s, s.session_oldest)

cdef inline u64 session_newest_group(const state_t *s) noexcept nogil:
    """The group that an answer given now must wait for."""
    return s.group_number if s.group_records > 0 else s.group_number - 1

cdef u8 session_judge(state_t *s, const arrival_t *arrival, u32 *found,
                      answer_t *answer) noexcept nogil:
    """What the session says of a request: VERDICT_REPLY lets it be executed."""
    cdef u32 index = session_find(s, arrival.client)
    cdef session_t *session
    cdef bint registers = arrival.operation == OPERATION_REGISTER
    found[0] = index
    if index == NONE:
        if registers:
            return VERDICT_REPLY
        answer.reason = EVICT_NO_SESSION
        answer.lost = arrival.parent != 0 and not starts_hold(s, arrival.parent)
        return VERDICT_EVICT
    session = session_at(s, index)
    if not registers:
        if session.session > arrival.session:
            answer.reason = EVICT_SESSION_TOO_LOW
            return VERDICT_EVICT
        if session.session < arrival.session:  # registered in a future that is lost
            answer.reason, answer.lost = EVICT_NO_SESSION, True
            return VERDICT_EVICT
        if session.release != arrival.release:
            answer.reason = EVICT_SESSION_RELEASE_MISMATCH
            return VERDICT_EVICT
    if arrival.number < session.number:
        return VERDICT_DROP
    session_touch(s, index)
    # Being answered already, to the same peer: the answer comes once.
    if (session.route_group > s.durable_group and session.route_number == arrival.number
            and session.route == arrival.route):
        return VERDICT_DROP
    if arrival.number > session.number:
        if arrival.parent == 0 or starts_hold(s, arrival.parent):
            return VERDICT_REPLY
        answer.reason, answer.lost = EVICT_NO_SESSION, True
        return VERDICT_EVICT
    if arrival.checksum != session.checksum:
        return VERDICT_DROP
    session.route, session.route_number = arrival.route, arrival.number
    session.route_group = max(session.group, s.durable_group)
    answer.group, answer.record_offset = session.group, session.record_offset
    return VERDICT_RESEND

cdef void session_copy(const state_t *s, session_t *out) noexcept nogil:
    """All sessions, without what is volatile."""
    cdef u64 i
    for i in range(s.sessions.count):
        if session_at(s, <u32>i).session == 0:
            continue
        out[0] = session_at(s, <u32>i)[0]
        out.route = out.route_group = 0
        out.route_number = out.newer = out.older = 0
        out += 1

cdef void session_asked(state_t *s, u32 index, u64 route, u32 number) noexcept nogil:
    cdef session_t *session = session_at(s, index)
    session.route, session.route_number = route, number
    session.route_group = session_newest_group(s)
