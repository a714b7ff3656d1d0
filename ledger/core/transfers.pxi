# Transfers: whether a transfer may be created; when nothing forbids it, it is.
#
# Needs: state.pxi, group.pxi, holds.pxi, store.pxi, prefetch.pxi, undo.pxi, snapshot.pxi,
# resolutions.pxi, status.h. Gives: transfers_*. A decision
# has one shape: checks in order of precedence, which is the order of status.h, one return each;
# then the mark "point of no return"; then writes that cannot fail. Time is a parameter. A
# post or void whose id is new is decided by resolutions.pxi. Replay calls transfers_effects, too.

cdef u32 transfers_exists(state_t *s, const transfer_t *t, const transfer_t *e) noexcept nogil:
    """Compare a resubmitted transfer with the stored one; post and void inherit what they left 0.
    """
    cdef transfer_t p
    cdef bint resolves = t.flags & (TRANSFER_POST_PENDING_TRANSFER
                                    | TRANSFER_VOID_PENDING_TRANSFER)
    if t.flags != e.flags:
        return TRANSFER_EXISTS_WITH_DIFFERENT_FLAGS_STATUS
    if t.pending_id != e.pending_id:
        return TRANSFER_EXISTS_WITH_DIFFERENT_PENDING_ID_STATUS
    if t.timeout != e.timeout:
        return TRANSFER_EXISTS_WITH_DIFFERENT_TIMEOUT_STATUS
    memset(&p, 0, sizeof(transfer_t))
    if resolves:
        p = state_transfer(s, store_find_transfer(s, e.pending_id))[0]
    if t.debit_account_id != e.debit_account_id and not (resolves and t.debit_account_id == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID_STATUS
    if t.credit_account_id != e.credit_account_id and not (resolves and t.credit_account_id == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID_STATUS
    if resolves:
        if resolutions_amount(t, &p) != e.amount:
            return TRANSFER_EXISTS_WITH_DIFFERENT_AMOUNT_STATUS
    elif t.flags & (TRANSFER_BALANCING_DEBIT | TRANSFER_BALANCING_CREDIT):
        if t.amount < e.amount:
            return TRANSFER_EXISTS_WITH_DIFFERENT_AMOUNT_STATUS
    elif t.amount != e.amount:
        return TRANSFER_EXISTS_WITH_DIFFERENT_AMOUNT_STATUS
    # What a post or void left 0 it took from its hold; for others `p` is all zeros.
    if (t.user_data_128 if t.user_data_128 != 0 else p.user_data_128) != e.user_data_128:
        return TRANSFER_EXISTS_WITH_DIFFERENT_USER_DATA_128_STATUS
    if (t.user_data_64 if t.user_data_64 != 0 else p.user_data_64) != e.user_data_64:
        return TRANSFER_EXISTS_WITH_DIFFERENT_USER_DATA_64_STATUS
    if (t.user_data_32 if t.user_data_32 != 0 else p.user_data_32) != e.user_data_32:
        return TRANSFER_EXISTS_WITH_DIFFERENT_USER_DATA_32_STATUS
    if t.ledger != e.ledger and not (resolves and t.ledger == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_LEDGER_STATUS
    if t.code != e.code and not (resolves and t.code == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_CODE_STATUS
    return TRANSFER_EXISTS_STATUS

cdef u32 transfers_found(state_t *s, const transfer_t *t, u32 index, u64 *timestamp) noexcept nogil:
    cdef u32 status
    if index & BURNED:
        return TRANSFER_ID_ALREADY_FAILED_STATUS
    status = transfers_exists(s, t, state_transfer(s, index))
    if status == TRANSFER_EXISTS_STATUS:
        timestamp[0] = state_transfer(s, index).timestamp
    return status

cdef inline u128 transfers_balanced_amount(const transfer_t *t, const account_t *dr,
                                           const account_t *cr) noexcept nogil:
    """The amount, clamped to what balancing leaves."""
    cdef u128 amount = t.amount
    if t.flags & TRANSFER_BALANCING_DEBIT:
        amount = u128_min(amount, u128_sub_floor(dr.credits_posted,
                                                 dr.debits_posted + dr.debits_pending))
    if t.flags & TRANSFER_BALANCING_CREDIT:
        amount = u128_min(amount, u128_sub_floor(cr.debits_posted,
                                                 cr.credits_posted + cr.credits_pending))
    return amount

cdef u32 transfers_check_fields(const transfer_t *t) noexcept nogil:
    """Rules that the transfer's own fields decide. STATUS_CREATED when none is broken."""
    if t.debit_account_id == 0:
        return TRANSFER_DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO_STATUS
    if t.debit_account_id == U128_MAX:
        return TRANSFER_DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX_STATUS
    if t.credit_account_id == 0:
        return TRANSFER_CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO_STATUS
    if t.credit_account_id == U128_MAX:
        return TRANSFER_CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX_STATUS
    if t.debit_account_id == t.credit_account_id:
        return TRANSFER_ACCOUNTS_MUST_BE_DIFFERENT_STATUS
    if t.pending_id != 0:
        return TRANSFER_PENDING_ID_MUST_BE_ZERO_STATUS
    if not t.flags & TRANSFER_PENDING:
        if t.timeout != 0:
            return TRANSFER_TIMEOUT_RESERVED_FOR_PENDING_TRANSFER_STATUS
        if t.flags & (TRANSFER_CLOSING_DEBIT | TRANSFER_CLOSING_CREDIT):
            return TRANSFER_CLOSING_TRANSFER_MUST_BE_PENDING_STATUS
    if t.ledger == 0:
        return TRANSFER_LEDGER_MUST_NOT_BE_ZERO_STATUS
    if t.code == 0:
        return TRANSFER_CODE_MUST_NOT_BE_ZERO_STATUS
    return STATUS_CREATED

cdef u32 transfers_check_amount(const transfer_t *t, u128 amount, u64 timestamp,
                                const account_t *dr, const account_t *cr) noexcept nogil:
    """Rules that the accounts' balances decide. STATUS_CREATED when none is broken."""
    if t.flags & TRANSFER_PENDING:
        if u128_add_overflows(amount, dr.debits_pending):
            return TRANSFER_OVERFLOWS_DEBITS_PENDING_STATUS
        if u128_add_overflows(amount, cr.credits_pending):
            return TRANSFER_OVERFLOWS_CREDITS_PENDING_STATUS
    if u128_add_overflows(amount, dr.debits_posted):
        return TRANSFER_OVERFLOWS_DEBITS_POSTED_STATUS
    if u128_add_overflows(amount, cr.credits_posted):
        return TRANSFER_OVERFLOWS_CREDITS_POSTED_STATUS
    if u128_add3_overflows(amount, dr.debits_pending, dr.debits_posted):
        return TRANSFER_OVERFLOWS_DEBITS_STATUS
    if u128_add3_overflows(amount, cr.credits_pending, cr.credits_posted):
        return TRANSFER_OVERFLOWS_CREDITS_STATUS
    if timestamp + t.timeout * NS_PER_SECOND > TIMESTAMP_MAX:
        return TRANSFER_OVERFLOWS_TIMEOUT_STATUS
    if (dr.flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
            and dr.debits_pending + dr.debits_posted + amount > dr.credits_posted):
        return TRANSFER_EXCEEDS_CREDITS_STATUS
    if (cr.flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS
            and cr.credits_pending + cr.credits_posted + amount > cr.debits_posted):
        return TRANSFER_EXCEEDS_DEBITS_STATUS
    return STATUS_CREATED

cdef u32 transfers_create(state_t *s, transfer_t *t, const tags_t *tags,
                          u64 *timestamp) noexcept nogil:
    """Judge a transfer and make it. `timestamp` is the event's at first and then the result's."""
    cdef u32 status, index, debit, credit
    cdef account_t *dr
    cdef account_t *cr
    cdef u64 stamp = timestamp[0]
    if t.flags & ~<u16>TRANSFER_FLAGS_KNOWN:
        return TRANSFER_RESERVED_FLAG_STATUS
    if t.id == 0:
        return TRANSFER_ID_MUST_NOT_BE_ZERO_STATUS
    if t.id == U128_MAX:
        return TRANSFER_ID_MUST_NOT_BE_INT_MAX_STATUS
    index = store_find(s, t.id, tags.id)
    if index != NONE:
        return transfers_found(s, t, index, timestamp)
    if t.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER):
        return resolutions_create(s, t, tags.id, timestamp)
    status = transfers_check_fields(t)
    if status != STATUS_CREATED:
        return status
    debit = store_known_account(s, t.debit_account_id, tags.debit, tags.debit_at)
    if debit == NONE:
        return TRANSFER_DEBIT_ACCOUNT_NOT_FOUND_STATUS
    credit = store_known_account(s, t.credit_account_id, tags.credit, tags.credit_at)
    if credit == NONE:
        return TRANSFER_CREDIT_ACCOUNT_NOT_FOUND_STATUS
    dr = state_account(s, debit)
    cr = state_account(s, credit)
    if dr.ledger != cr.ledger:
        return TRANSFER_ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER_STATUS
    if t.ledger != dr.ledger:
        return TRANSFER_TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS_STATUS
    if t.flags & TRANSFER_IMPORTED:
        if store_transfer_regresses(s, t.timestamp):
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS_STATUS
        if t.timestamp <= dr.timestamp:
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT_STATUS
        if t.timestamp <= cr.timestamp:
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT_STATUS
        if t.timeout != 0:
            return TRANSFER_IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO_STATUS
        stamp = t.timestamp
    if dr.flags & ACCOUNT_CLOSED:
        return TRANSFER_DEBIT_ACCOUNT_ALREADY_CLOSED_STATUS
    if cr.flags & ACCOUNT_CLOSED:
        return TRANSFER_CREDIT_ACCOUNT_ALREADY_CLOSED_STATUS
    t.amount = transfers_balanced_amount(t, dr, cr)
    status = transfers_check_amount(t, t.amount, stamp, dr, cr)
    if status != STATUS_CREATED:
        return status

    # ---- point of no return ----
    t.timestamp = timestamp[0] = stamp
    undo_account(s, debit)
    undo_account(s, credit)
    slab_copy(group_append_room(s, KIND_TRANSFER, sizeof(transfer_t)), t, sizeof(transfer_t))
    transfers_effects(s, t, tags.id, debit, credit)
    return STATUS_CREATED

cdef void transfers_effects(state_t *s, const transfer_t *t, u32 tag, u32 debit,
                            u32 credit) noexcept nogil:
    """What a stored transfer that resolves nothing does; replay does the same."""
    cdef account_t *dr = state_account(s, debit)
    cdef account_t *cr = state_account(s, credit)
    cdef u32 index = store_add_transfer(s, t, tag, debit, credit)
    cdef u64 expires_at = 0
    cdef u128 debits = dr.debits_pending + dr.debits_posted
    cdef u128 credits = cr.credits_pending + cr.credits_posted
    snapshot_touch(s, debit)
    snapshot_touch(s, credit)
    group_saw_transfer(s, t.timestamp)
    if t.flags & TRANSFER_PENDING:
        (<u32 *>slab_append(&s.pendings))[0] = index
        dr.debits_pending += t.amount
        cr.credits_pending += t.amount
        if t.timeout != 0:
            expires_at = t.timestamp + t.timeout * NS_PER_SECOND
        undo_hold_opened(s, holds_open(s, index, t.amount, expires_at))
        if t.flags & TRANSFER_CLOSING_DEBIT:
            dr.flags |= ACCOUNT_CLOSED
        if t.flags & TRANSFER_CLOSING_CREDIT:
            cr.flags |= ACCOUNT_CLOSED
    else:
        dr.debits_posted += t.amount
        cr.credits_posted += t.amount
    # Conservation: what one side is debited the other is credited.
    verify(dr.debits_pending + dr.debits_posted - debits == t.amount)
    verify(cr.credits_pending + cr.credits_posted - credits == t.amount)
    verify(debits <= dr.debits_pending + dr.debits_posted)  # it did not overflow
    verify(credits <= cr.credits_pending + cr.credits_posted)
    verify(not dr.flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
           or dr.debits_pending + dr.debits_posted <= dr.credits_posted)
    verify(not cr.flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS
           or cr.credits_pending + cr.credits_posted <= cr.debits_posted)
    store_add_balances(s, index, dr, cr)

cdef u32 transfers_judge(state_t *s, const u8 *event, u64 batch_end, bint batch_imported,
                         const tags_t *tags, u64 *timestamp) noexcept nogil:
    cdef transfer_t transfer
    memcpy(&transfer, event, sizeof(transfer_t))
    if batch_imported:
        if not transfer.flags & TRANSFER_IMPORTED:
            return TRANSFER_IMPORTED_EVENT_EXPECTED_STATUS
        if transfer.timestamp == 0 or transfer.timestamp > TIMESTAMP_MAX:
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE_STATUS
        if transfer.timestamp >= batch_end:
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE_STATUS
    else:
        if transfer.flags & TRANSFER_IMPORTED:
            return TRANSFER_IMPORTED_EVENT_NOT_EXPECTED_STATUS
        if transfer.timestamp != 0:
            return TRANSFER_TIMESTAMP_MUST_BE_ZERO_STATUS
    return transfers_create(s, &transfer, tags, timestamp)
