# Resolutions: a post or void ends a hold.
#
# Needs: state.pxi, group.pxi, holds.pxi, store.pxi, undo.pxi, snapshot.pxi, status.h. Gives:
# resolutions_*. A decision
# has one shape: checks in order of precedence, which is the order of status.h, one return each;
# then the mark "point of no return"; then writes that cannot fail. Time is a parameter. Replay
# calls the same functions for the effects, and an expiry releases its hold with them.

cdef inline u128 resolutions_amount(const transfer_t *t, const transfer_t *p) noexcept nogil:
    """What a post or void asks for: all of the hold when it says "all", else as given."""
    if t.flags & TRANSFER_VOID_PENDING_TRANSFER:
        return p.amount if t.amount == 0 else t.amount
    return p.amount if t.amount == U128_MAX else t.amount

cdef u32 resolutions_check(state_t *s, const transfer_t *t, const transfer_t *p, u32 hold,
                           u64 timestamp) noexcept nogil:
    """Rules of a post or void against its hold. STATUS_CREATED when none is broken."""
    cdef u128 amount
    cdef u32 resolution
    if not p.flags & TRANSFER_PENDING:
        return TRANSFER_PENDING_TRANSFER_NOT_PENDING_STATUS
    if t.debit_account_id != 0 and t.debit_account_id != p.debit_account_id:
        return TRANSFER_PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID_STATUS
    if t.credit_account_id != 0 and t.credit_account_id != p.credit_account_id:
        return TRANSFER_PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID_STATUS
    if t.ledger != 0 and t.ledger != p.ledger:
        return TRANSFER_PENDING_TRANSFER_HAS_DIFFERENT_LEDGER_STATUS
    if t.code != 0 and t.code != p.code:
        return TRANSFER_PENDING_TRANSFER_HAS_DIFFERENT_CODE_STATUS
    amount = resolutions_amount(t, p)
    if amount > p.amount:
        return TRANSFER_EXCEEDS_PENDING_TRANSFER_AMOUNT_STATUS
    if t.flags & TRANSFER_VOID_PENDING_TRANSFER and amount < p.amount:
        return TRANSFER_PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT_STATUS
    resolution = state_extra(s, hold).resolution
    if resolution == HOLD_POSTED:
        return TRANSFER_PENDING_TRANSFER_ALREADY_POSTED_STATUS
    if resolution == HOLD_VOIDED:
        return TRANSFER_PENDING_TRANSFER_ALREADY_VOIDED_STATUS
    if resolution == HOLD_EXPIRED:
        return TRANSFER_PENDING_TRANSFER_EXPIRED_STATUS
    # The deadline binds at once, also while the expiry itself has not run.
    if p.timeout != 0 and p.timestamp + p.timeout * NS_PER_SECOND <= timestamp:
        return TRANSFER_PENDING_TRANSFER_EXPIRED_STATUS
    return STATUS_CREATED

cdef u32 resolutions_create(state_t *s, transfer_t *t, u32 tag, u64 *timestamp) noexcept nogil:
    """Judge a post or void whose id is new, and make it."""
    cdef u32 status, hold, debit, credit
    cdef transfer_t *p
    if (t.flags & TRANSFER_POST_PENDING_TRANSFER and t.flags & TRANSFER_VOID_PENDING_TRANSFER
            or t.flags & (TRANSFER_PENDING | TRANSFER_BALANCING_DEBIT | TRANSFER_BALANCING_CREDIT
                          | TRANSFER_CLOSING_DEBIT | TRANSFER_CLOSING_CREDIT)):
        return TRANSFER_FLAGS_ARE_MUTUALLY_EXCLUSIVE_STATUS
    if t.pending_id == 0:
        return TRANSFER_PENDING_ID_MUST_NOT_BE_ZERO_STATUS
    if t.pending_id == U128_MAX:
        return TRANSFER_PENDING_ID_MUST_NOT_BE_INT_MAX_STATUS
    if t.pending_id == t.id:
        return TRANSFER_PENDING_ID_MUST_BE_DIFFERENT_STATUS
    if t.timeout != 0:
        return TRANSFER_TIMEOUT_RESERVED_FOR_PENDING_TRANSFER_STATUS
    hold = store_find_transfer(s, t.pending_id)
    if hold == NONE:
        return TRANSFER_PENDING_TRANSFER_NOT_FOUND_STATUS
    p = state_transfer(s, hold)
    status = resolutions_check(s, t, p, hold, timestamp[0])
    if status != STATUS_CREATED:
        return status
    if t.flags & TRANSFER_IMPORTED:
        if store_transfer_regresses(s, t.timestamp):
            return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS_STATUS
    debit, credit = state_extra(s, hold).debit, state_extra(s, hold).credit
    if t.flags & TRANSFER_POST_PENDING_TRANSFER:
        if state_account(s, debit).flags & ACCOUNT_CLOSED:
            return TRANSFER_DEBIT_ACCOUNT_ALREADY_CLOSED_STATUS
        if state_account(s, credit).flags & ACCOUNT_CLOSED:
            return TRANSFER_CREDIT_ACCOUNT_ALREADY_CLOSED_STATUS

    # ---- point of no return ----
    if t.flags & TRANSFER_IMPORTED:
        timestamp[0] = t.timestamp
    t.timestamp = timestamp[0]
    t.amount = resolutions_amount(t, p)
    t.debit_account_id, t.credit_account_id = p.debit_account_id, p.credit_account_id
    t.ledger, t.code = p.ledger, p.code
    if t.user_data_128 == 0:
        t.user_data_128 = p.user_data_128
    if t.user_data_64 == 0:
        t.user_data_64 = p.user_data_64
    if t.user_data_32 == 0:
        t.user_data_32 = p.user_data_32
    undo_account(s, debit)
    undo_account(s, credit)
    # The resolution comes first: a transfer's record is followed by nothing it needs in replay.
    resolutions_write(s, hold, t.timestamp, HOLD_POSTED
                      if t.flags & TRANSFER_POST_PENDING_TRANSFER else HOLD_VOIDED)
    slab_copy(group_append_room(s, KIND_TRANSFER, sizeof(transfer_t)), t, sizeof(transfer_t))
    resolutions_effects(s, t, tag, debit, credit)
    return STATUS_CREATED

cdef void resolutions_effects(state_t *s, const transfer_t *t, u32 tag, u32 debit,
                              u32 credit) noexcept nogil:
    """What a stored post or void does once its hold is released; replay does the same."""
    cdef u32 index = store_add_transfer(s, t, tag, debit, credit)
    cdef u128 debits = state_account(s, debit).debits_posted
    cdef u128 credits = state_account(s, credit).credits_posted
    snapshot_touch(s, debit)
    snapshot_touch(s, credit)
    group_saw_transfer(s, t.timestamp)
    if t.flags & TRANSFER_POST_PENDING_TRANSFER:
        state_account(s, debit).debits_posted += t.amount
        state_account(s, credit).credits_posted += t.amount
    # Conservation: what one side is debited the other is credited.
    verify(state_account(s, debit).debits_posted - debits
           == state_account(s, credit).credits_posted - credits)
    verify(state_account(s, debit).debits_posted >= debits)  # it did not overflow
    verify(state_account(s, credit).credits_posted >= credits)
    store_add_balances(s, index, state_account(s, debit), state_account(s, credit))

cdef void resolutions_write(state_t *s, u32 transfer, u64 timestamp, u16 outcome) noexcept nogil:
    cdef transfer_t *p = state_transfer(s, transfer)
    cdef resolution_t *record = <resolution_t *>group_append(s, KIND_RESOLUTION,
                                                             sizeof(resolution_t))
    record.position = state_extra(s, transfer).position
    record.timestamp, record.amount = timestamp, p.amount
    record.flags, record.outcome = p.flags, outcome
    resolutions_release(s, transfer, outcome)

cdef void resolutions_release(state_t *s, u32 transfer, u16 outcome) noexcept nogil:
    """A hold leaves both pending balances, whatever ended it; replay does the same."""
    cdef transfer_t *p = state_transfer(s, transfer)
    cdef transfer_extra_t *extra = state_extra(s, transfer)
    cdef u32 slot = extra.resolution - RESOLUTION_OPEN
    cdef account_t *dr = state_account(s, extra.debit)
    cdef account_t *cr = state_account(s, extra.credit)
    verify(extra.resolution >= RESOLUTION_OPEN and slot < s.holds.count)
    verify(state_hold(s, slot).amount == p.amount)
    verify(dr.ledger == p.ledger and cr.ledger == p.ledger)
    verify(dr.id == p.debit_account_id and cr.id == p.credit_account_id)
    undo_hold_closed(s, slot)
    snapshot_touch(s, extra.debit)
    snapshot_touch(s, extra.credit)
    snapshot_touch_hold(s, slot)
    holds_close(s, slot, outcome)
    store_end_hold(s, transfer, outcome)
    invariant(dr.debits_pending >= p.amount and cr.credits_pending >= p.amount)
    dr.debits_pending -= p.amount
    cr.credits_pending -= p.amount
    if outcome != HOLD_POSTED:
        if p.flags & TRANSFER_CLOSING_DEBIT:
            dr.flags &= ~<u16>ACCOUNT_CLOSED
        if p.flags & TRANSFER_CLOSING_CREDIT:
            cr.flags &= ~<u16>ACCOUNT_CLOSED
