# Create: what may happen. Accounts and transfers are judged, and when nothing forbids it, made.
#
# Needs: state.pxi, history.pxi, undo.pxi, snapshot.pxi, status.h. Gives: create_*. Each decision
# has one shape: checks in order of precedence, one return each; then the mark "point of no return";
# then writes that cannot fail. The order of checks is the order of status.h. Time is a parameter.

cdef struct tags_t:
    u32 id, debit, credit
    u32 debit_at, credit_at  # where its accounts probably are, or NONE


cdef u32 create_account_exists(const account_t *a, const account_t *e) noexcept nogil:
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

cdef u32 create_account(state_t *s, account_t *a, u64 *timestamp) noexcept nogil:
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
    index = history_find_account(s, a.id, tag)
    if index != NONE:
        return create_account_found(s, a, index, timestamp)
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
    if a.flags & ACCOUNT_IMPORTED:
        if a.timestamp <= s.account_timestamp_max or history_transfer_at(s, a.timestamp):
            return ACCOUNT_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS_STATUS
        timestamp[0] = a.timestamp

    # ---- point of no return ----
    a.timestamp = timestamp[0]
    (<account_t *>effect_append(s, KIND_ACCOUNT, sizeof(account_t)))[0] = a[0]
    history_add_account(s, a, tag)
    return STATUS_CREATED

cdef u32 create_account_found(state_t *s, const account_t *a, u32 index,
                              u64 *timestamp) noexcept nogil:
    cdef u32 status = create_account_exists(a, state_account(s, index))
    if status == ACCOUNT_EXISTS_STATUS:
        timestamp[0] = state_account(s, index).timestamp
    return status


cdef u32 create_transfer_exists(state_t *s, const transfer_t *t,
                                const transfer_t *e) noexcept nogil:
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
        p = state_transfer(s, history_find_transfer(s, e.pending_id))[0]
    if t.debit_account_id != e.debit_account_id and not (resolves and t.debit_account_id == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID_STATUS
    if t.credit_account_id != e.credit_account_id and not (resolves and t.credit_account_id == 0):
        return TRANSFER_EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID_STATUS
    if resolves:
        if create_resolved_amount(t, &p) != e.amount:
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

cdef u32 create_transfer_found(state_t *s, const transfer_t *t, u32 index,
                               u64 *timestamp) noexcept nogil:
    cdef u32 status
    if index & BURNED:
        return TRANSFER_ID_ALREADY_FAILED_STATUS
    status = create_transfer_exists(s, t, state_transfer(s, index))
    if status == TRANSFER_EXISTS_STATUS:
        timestamp[0] = state_transfer(s, index).timestamp
    return status

cdef inline u128 create_resolved_amount(const transfer_t *t, const transfer_t *p) noexcept nogil:
    """What a post or void asks for: all of the hold when it says "all", else as given."""
    if t.flags & TRANSFER_VOID_PENDING_TRANSFER:
        return p.amount if t.amount == 0 else t.amount
    return p.amount if t.amount == U128_MAX else t.amount

cdef inline u128 create_balanced_amount(const transfer_t *t, const account_t *dr,
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


cdef u32 create_transfer_check_fields(const transfer_t *t) noexcept nogil:
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

cdef u32 create_transfer_check_imported(state_t *s, const transfer_t *t) noexcept nogil:
    if t.timestamp <= s.transfer_timestamp_max or history_account_at(s, t.timestamp):
        return TRANSFER_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS_STATUS
    return STATUS_CREATED

cdef u32 create_transfer_check_amount(const transfer_t *t, u128 amount, u64 timestamp,
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


cdef u32 create_transfer(state_t *s, transfer_t *t, const tags_t *tags,
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
    index = history_find(s, t.id, tags.id)
    if index != NONE:
        return create_transfer_found(s, t, index, timestamp)
    if t.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER):
        return create_resolution(s, t, tags.id, timestamp)
    status = create_transfer_check_fields(t)
    if status != STATUS_CREATED:
        return status
    debit = history_known_account(s, t.debit_account_id, tags.debit, tags.debit_at)
    if debit == NONE:
        return TRANSFER_DEBIT_ACCOUNT_NOT_FOUND_STATUS
    credit = history_known_account(s, t.credit_account_id, tags.credit, tags.credit_at)
    if credit == NONE:
        return TRANSFER_CREDIT_ACCOUNT_NOT_FOUND_STATUS
    dr = state_account(s, debit)
    cr = state_account(s, credit)
    if dr.ledger != cr.ledger:
        return TRANSFER_ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER_STATUS
    if t.ledger != dr.ledger:
        return TRANSFER_TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS_STATUS
    if t.flags & TRANSFER_IMPORTED:
        status = create_transfer_check_imported(s, t)
        if status != STATUS_CREATED:
            return status
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
    t.amount = create_balanced_amount(t, dr, cr)
    status = create_transfer_check_amount(t, t.amount, stamp, dr, cr)
    if status != STATUS_CREATED:
        return status

    # ---- point of no return ----
    t.timestamp = timestamp[0] = stamp
    undo_account(s, debit)
    undo_account(s, credit)
    slab_copy(effect_room(s, KIND_TRANSFER, sizeof(transfer_t)), t, sizeof(transfer_t))
    create_transfer_effects(s, t, tags.id, debit, credit)
    return STATUS_CREATED

cdef void create_transfer_effects(state_t *s, const transfer_t *t, u32 tag, u32 debit,
                                  u32 credit) noexcept nogil:
    """What a stored transfer that resolves nothing does; replay does the same."""
    cdef account_t *dr = state_account(s, debit)
    cdef account_t *cr = state_account(s, credit)
    cdef u32 index = history_add_transfer(s, t, tag, debit, credit)
    cdef u64 expires_at = 0
    snapshot_touch(s, debit)
    snapshot_touch(s, credit)
    effect_saw_transfer(s, t.timestamp)
    if t.flags & TRANSFER_PENDING:
        (<u32 *>slab_append(&s.pendings))[0] = index
        dr.debits_pending += t.amount
        cr.credits_pending += t.amount
        if t.timeout != 0:
            expires_at = t.timestamp + t.timeout * NS_PER_SECOND
        undo_hold_opened(s, hold_open(s, index, t.amount, expires_at))
        if t.flags & TRANSFER_CLOSING_DEBIT:
            dr.flags |= ACCOUNT_CLOSED
        if t.flags & TRANSFER_CLOSING_CREDIT:
            cr.flags |= ACCOUNT_CLOSED
    else:
        dr.debits_posted += t.amount
        cr.credits_posted += t.amount
    history_add_balances(s, index, dr, cr)


cdef u32 create_resolution_check(state_t *s, const transfer_t *t, const transfer_t *p,
                                 u32 hold, u64 timestamp) noexcept nogil:
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
    amount = create_resolved_amount(t, p)
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

cdef u32 create_resolution(state_t *s, transfer_t *t, u32 tag, u64 *timestamp) noexcept nogil:
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
    hold = history_find_transfer(s, t.pending_id)
    if hold == NONE:
        return TRANSFER_PENDING_TRANSFER_NOT_FOUND_STATUS
    p = state_transfer(s, hold)
    status = create_resolution_check(s, t, p, hold, timestamp[0])
    if status != STATUS_CREATED:
        return status
    if t.flags & TRANSFER_IMPORTED:
        status = create_transfer_check_imported(s, t)
        if status != STATUS_CREATED:
            return status
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
    t.amount = create_resolved_amount(t, p)
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
    create_write_resolution(s, hold, t.timestamp, HOLD_POSTED
                            if t.flags & TRANSFER_POST_PENDING_TRANSFER else HOLD_VOIDED)
    slab_copy(effect_room(s, KIND_TRANSFER, sizeof(transfer_t)), t, sizeof(transfer_t))
    create_resolving_effects(s, t, tag, debit, credit)
    return STATUS_CREATED

cdef void create_resolving_effects(state_t *s, const transfer_t *t, u32 tag, u32 debit,
                                   u32 credit) noexcept nogil:
    """What a stored post or void does once its hold is released; replay does the same."""
    cdef u32 index = history_add_transfer(s, t, tag, debit, credit)
    snapshot_touch(s, debit)
    snapshot_touch(s, credit)
    effect_saw_transfer(s, t.timestamp)
    if t.flags & TRANSFER_POST_PENDING_TRANSFER:
        state_account(s, debit).debits_posted += t.amount
        state_account(s, credit).credits_posted += t.amount
    history_add_balances(s, index, state_account(s, debit), state_account(s, credit))

cdef void create_write_resolution(state_t *s, u32 transfer, u64 timestamp,
                                  u16 outcome) noexcept nogil:
    cdef transfer_t *p = state_transfer(s, transfer)
    cdef resolution_t *record = <resolution_t *>effect_append(s, KIND_RESOLUTION,
                                                              sizeof(resolution_t))
    record.position = state_extra(s, transfer).position
    record.timestamp, record.amount = timestamp, p.amount
    record.flags, record.outcome = p.flags, outcome
    create_release_hold(s, transfer, outcome)

cdef void create_release_hold(state_t *s, u32 transfer, u16 outcome) noexcept nogil:
    """A hold leaves both pending balances, whatever ended it; replay does the same."""
    cdef transfer_t *p = state_transfer(s, transfer)
    cdef transfer_extra_t *extra = state_extra(s, transfer)
    cdef u32 slot = extra.resolution - RESOLUTION_OPEN
    cdef account_t *dr = state_account(s, extra.debit)
    cdef account_t *cr = state_account(s, extra.credit)
    undo_hold_closed(s, slot)
    snapshot_touch(s, extra.debit)
    snapshot_touch(s, extra.credit)
    snapshot_touch_hold(s, slot)
    hold_close(s, slot, outcome)
    history_end_hold(s, transfer, outcome)
    invariant(dr.debits_pending >= p.amount and cr.credits_pending >= p.amount)
    dr.debits_pending -= p.amount
    cr.credits_pending -= p.amount
    if outcome != HOLD_POSTED:
        if p.flags & TRANSFER_CLOSING_DEBIT:
            dr.flags &= ~<u16>ACCOUNT_CLOSED
        if p.flags & TRANSFER_CLOSING_CREDIT:
            cr.flags &= ~<u16>ACCOUNT_CLOSED


cdef u64 create_expiry_due(const state_t *s, u64 now) noexcept nogil:
    """Whether a hold has run out by `now` or by the ledger clock, whichever is later."""
    return (s.expiries_count != 0
            and state_hold(s, s.expiries[0]).expires_at <= max(s.clock, now))

cdef u64 create_count_due(const state_t *s, u64 deadline) noexcept nogil:
    """How many holds, EXPIRIES_MAX at most, have run out: a walk over the top of the heap."""
    cdef u32 stack[4 * 64]
    cdef u32 depth = 0, place
    cdef u64 due = 0, child
    if s.expiries_count == 0:
        return 0
    stack[0] = 0
    depth = 1
    while depth > 0 and due < EXPIRIES_MAX:
        depth -= 1
        place = stack[depth]
        if state_hold(s, s.expiries[place]).expires_at > deadline:
            continue
        due += 1
        for child in range(4 * <u64>place + 1, min(4 * <u64>place + 5, s.expiries_count)):
            stack[depth] = <u32>child
            depth += 1
    return due

cdef void create_expire(state_t *s, u64 now) noexcept nogil:
    """One step: up to EXPIRIES_MAX due holds, by expiry then age, each with a timestamp of its own.
    """
    cdef u64 due = create_count_due(s, max(s.clock, now))
    cdef u64 last = max(s.clock + due, now)
    cdef u64 i
    for i in range(due):
        create_write_resolution(s, state_hold(s, s.expiries[0]).transfer, last - due + 1 + i,
                                HOLD_EXPIRED)
    s.clock = last


cdef u32 create_judge_account(state_t *s, const u8 *event, u64 batch_end, bint batch_imported,
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
    return create_account(s, &account, timestamp)

cdef u32 create_judge_transfer(state_t *s, const u8 *event, u64 batch_end, bint batch_imported,
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
    return create_transfer(s, &transfer, tags, timestamp)

cdef void create_fetch_tags(state_t *s, const u8 *event, tags_t *tags) noexcept nogil:
    tags.id = state_tag(s, u128_load(event))
    tags.debit = state_tag(s, u128_load(event + EVENT_DEBIT_ACCOUNT_ID_AT))
    tags.credit = state_tag(s, u128_load(event + EVENT_CREDIT_ACCOUNT_ID_AT))
    tags.debit_at = tags.credit_at = NONE
    history_prefetch_id(s, tags.id)
    table_prefetch(&s.account_table, tags.debit)
    table_prefetch(&s.account_table, tags.credit)

cdef inline const tags_t *create_fetch_ahead(state_t *s, const u8 *events, u32 i, u32 count,
                                             tags_t *ring, u32 *ahead) noexcept nogil:
    """The tags of transfer `i` of a batch; touches what those further on will need: table slots
    first, then the accounts, then their last postings. `ring`: of PREFETCH_RING."""
    cdef u32 j
    while ahead[0] < count and ahead[0] <= i + PREFETCH_TAGS:
        create_fetch_tags(s, events + ahead[0] * <size_t>EVENT_BYTES,
                          &ring[ahead[0] % PREFETCH_RING])
        ahead[0] += 1
    if i + PREFETCH_RECORDS < count:
        j = (i + PREFETCH_RECORDS) % PREFETCH_RING
        ring[j].debit_at = history_prefetch_account(s, ring[j].debit)
        ring[j].credit_at = history_prefetch_account(s, ring[j].credit)
    if PREFETCH_RECORDS - PREFETCH_POSTINGS <= i < count - PREFETCH_POSTINGS:
        j = (i + PREFETCH_POSTINGS) % PREFETCH_RING
        history_prefetch_posting(s, ring[j].debit_at)
        history_prefetch_posting(s, ring[j].credit_at)
    return &ring[i % PREFETCH_RING]

cdef void create_burn(state_t *s, const u8 *event, u32 status, u32 tag,
                      u64 timestamp) noexcept nogil:
    cdef burned_id_t *record = <burned_id_t *>effect_append(s, KIND_BURNED_ID, sizeof(burned_id_t))
    record.id, record.timestamp, record.status = u128_load(event), timestamp, status
    history_burn(s, record.id, tag)

cdef void create_batch(state_t *s, const u8 *events, u32 count, bint transfers, u64 batch_end,
                       create_result_t *results) noexcept nogil:
    """Judge a batch in order; linked events succeed or fail together."""
    cdef tags_t ring[PREFETCH_RING]
    cdef u32 i, j, status, chain_first = 0, ahead = 0
    cdef bint in_chain = False, broken = False, linked, imported = False
    cdef const u8 *event
    cdef const tags_t *tags = NULL
    cdef u64 timestamp
    if count > 0:
        imported = (state_event_flags(events)
                    & (TRANSFER_IMPORTED if transfers else ACCOUNT_IMPORTED))
    for i in range(count):
        event = events + i * <size_t>EVENT_BYTES
        if transfers:
            tags = create_fetch_ahead(s, events, i, count, ring, &ahead)
        linked = state_event_flags(event) & TRANSFER_LINKED
        timestamp = batch_end - count + 1 + i
        if linked and not in_chain:
            in_chain, broken, chain_first = True, False, i
            undo_open(s)
        if linked and i == count - 1:
            status = TRANSFER_LINKED_EVENT_CHAIN_OPEN_STATUS
        elif broken:
            status = TRANSFER_LINKED_EVENT_FAILED_STATUS
        elif transfers:
            status = create_judge_transfer(s, event, batch_end, imported, tags, &timestamp)
        else:
            status = create_judge_account(s, event, batch_end, imported, &timestamp)
        results[i].timestamp, results[i].status, results[i].reserved = timestamp, status, 0
        if status != STATUS_CREATED and in_chain and not broken:
            undo_rollback(s)
            broken = True
            for j in range(chain_first, i):
                results[j].status = TRANSFER_LINKED_EVENT_FAILED_STATUS
        if transfers and transfer_status_transient(status):
            create_burn(s, event, status, tags.id, timestamp)
        if in_chain and (not linked or i == count - 1):
            undo_close(s)
            in_chain = broken = False
