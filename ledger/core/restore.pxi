# Restore: the records of a checkpoint put back into an empty state.
#
# Needs: state.pxi, holds.pxi, kept_holds.pxi, store.pxi, snapshot.pxi, session.pxi. Gives:
# restore_*. Each returns 0, -1 when there is no memory, or 1 for a record that does not fit those
# before it.

cdef enum:
    RESTORE_AHEAD = 16  # accounts whose table slots are on their way


cdef int restore_account(state_t *s, const account_t *account, u64 count) noexcept nogil:
    """The first of `count` accounts that lie one after another."""
    cdef u32 tag = state_tag(s, account.id)
    if count > RESTORE_AHEAD:
        table_prefetch(&s.account_table, state_tag(s, account[RESTORE_AHEAD].id))
    if state_reserve(s, 1, 0):
        return -1
    if store_find_account(s, account.id, tag) != NONE:
        return 1
    store_add_account(s, account, tag)
    return 0

cdef int restore_hold(state_t *s, const hold_record_t *record) noexcept nogil:
    cdef transfer_extra_t extra
    if kept_holds_reserve(s, 1) or state_reserve(s, 0, 1):
        return -1
    if (record.debit >= s.accounts.count or record.credit >= s.accounts.count
            or kept_holds_at(s, record.position) != NONE):
        return 1
    memset(&extra, 0, sizeof(extra))
    extra.position, extra.place = record.position, record.place
    extra.debit, extra.credit = record.debit, record.credit
    holds_open(s, kept_holds_add(s, &record.transfer, &extra), record.transfer.amount,
               record.expires_at)
    return 0

cdef int restore_session(state_t *s, const session_t *session) noexcept nogil:
    cdef session_record_t record
    cdef u32 index
    if session_reserve(s):
        return -1
    if session_find(s, session.client) != NONE:
        return 1
    memset(&record, 0, sizeof(record))
    record.client, record.checksum = session.client, session.checksum
    record.session, record.timestamp = session.session, session.register_timestamp
    record.release = session.release
    index = session_add(s, &record, session.group, session.record_offset)
    session_at(s, index).number = session.number
    return 0
