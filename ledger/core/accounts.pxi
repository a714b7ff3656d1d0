# Accounts: whether an account may be created; when nothing forbids it, it is.
#
# Needs: state.pxi, group.pxi, store.pxi, status.h. Gives: accounts_*. A decision
# has one shape: checks in order of precedence, which is the order of status.h, one return each;
# then the mark "point of no return"; then writes that cannot fail. Time is a parameter.

cdef u32 accounts_exists(const account_t *a, const account_t *e) noexcept nogil:
    if a.flags != e.flags:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_FLAGS_STATUS
    if a.user_data_128 != e.user_data_128:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_USER_DATA_128_STATUS
    if a.user_data_64 != e.user_data_64:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_USER_DATA_64_STATUS
    if a.user_data_32 != e.user_data_32:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_USER_DATA_32_STATUS
    if a.ledger != e.ledger:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_LEDGER_STATUS
    if a.code != e.code:
        return ACCOUNT_EXISTS_WITH_DIFFERENT_CODE_STATUS
    return ACCOUNT_EXISTS_STATUS

cdef u32 accounts_create(state_t *s, account_t *a, u64 *timestamp) noexcept nogil:
    """Judge an account and make it. `timestamp` is the event's at first and then the result's."""
    cdef u32 tag, index
    if a.reserved != 0:
        return ACCOUNT_RESERVED_FIELD_STATUS
    if a.flags & ~<u16>ACCOUNT_FLAGS_KNOWN:
        return ACCOUNT_RESERVED_FLAG_STATUS
    if a.id == 0:
        return ACCOUNT_ID_MUST_NOT_BE_ZERO_STATUS
    if a.id == U128_MAX:
        return ACCOUNT_ID_MUST_NOT_BE_INT_MAX_STATUS
    tag = state_tag(s, a.id)
    index = store_find_account(s, a.id, tag)
    if index != NONE:
        return accounts_found(s, a, index, timestamp)
    if (a.flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
            and a.flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS):
        return ACCOUNT_FLAGS_ARE_MUTUALLY_EXCLUSIVE_STATUS
    if a.debits_pending != 0:
        return ACCOUNT_DEBITS_PENDING_MUST_BE_ZERO_STATUS
    if a.debits_posted != 0:
        return ACCOUNT_DEBITS_POSTED_MUST_BE_ZERO_STATUS
    if a.credits_pending != 0:
        return ACCOUNT_CREDITS_PENDING_MUST_BE_ZERO_STATUS
    if a.credits_posted != 0:
        return ACCOUNT_CREDITS_POSTED_MUST_BE_ZERO_STATUS
    if a.ledger == 0:
        return ACCOUNT_LEDGER_MUST_NOT_BE_ZERO_STATUS
    if a.code == 0:
        return ACCOUNT_CODE_MUST_NOT_BE_ZERO_STATUS
    if a.flags & ACCOUNT_IMPORTED and (a.timestamp <= s.account_timestamp_max
                                       or store_transfer_at(s, a.timestamp)):
        return ACCOUNT_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS_STATUS

    # ---- point of no return ----
    if a.flags & ACCOUNT_IMPORTED:
        timestamp[0] = a.timestamp
    a.timestamp = timestamp[0]
    (<account_t *>group_append(s, KIND_ACCOUNT, sizeof(account_t)))[0] = a[0]
    store_add_account(s, a, tag)
    return STATUS_CREATED

cdef u32 accounts_found(state_t *s, const account_t *a, u32 index, u64 *timestamp) noexcept nogil:
    cdef u32 status = accounts_exists(a, state_account(s, index))
    if status == ACCOUNT_EXISTS_STATUS:
        timestamp[0] = state_account(s, index).timestamp
    return status

cdef u32 accounts_judge(state_t *s, const u8 *event, u64 batch_end, bint batch_imported,
                        u64 *timestamp) noexcept nogil:
    cdef account_t account
    memcpy(&account, event, sizeof(account_t))
    if batch_imported:
        if not account.flags & ACCOUNT_IMPORTED:
            return ACCOUNT_IMPORTED_EVENT_EXPECTED_STATUS
        if account.timestamp == 0 or account.timestamp > TIMESTAMP_MAX:
            return ACCOUNT_IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE_STATUS
        if account.timestamp >= batch_end:
            return ACCOUNT_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE_STATUS
    else:
        if account.flags & ACCOUNT_IMPORTED:
            return ACCOUNT_IMPORTED_EVENT_NOT_EXPECTED_STATUS
        if account.timestamp != 0:
            return ACCOUNT_TIMESTAMP_MUST_BE_ZERO_STATUS
    return accounts_create(s, &account, timestamp)
