# Snapshot: accounts and open holds as they were at one position, copied while work goes on.
#
# Needs: state.pxi. Gives: snapshot_*. Copied in steps, in order of index. What is about to change
# and was not copied yet is saved first, once for each snapshot: so nothing waits for the copy, and
# a snapshot costs memory only for what changed meanwhile. Sessions are not here: they are few.

cdef struct hold_record_t:  # what a checkpoint holds of an open hold
    transfer_t transfer
    u64 position, place, expires_at
    u32 debit, credit


cdef void snapshot_open(state_t *s) noexcept nogil:
    cdef snapshot_t *shot = &s.snapshot
    invariant(not shot.open)
    shot.open = True
    shot.epoch += 1
    shot.position = s.position
    shot.accounts_next = shot.holds_next = shot.hold_next = 0
    shot.accounts_end, shot.holds_end = s.accounts.count, s.holds.count

cdef void snapshot_close(state_t *s) noexcept nogil:
    cdef snapshot_t *shot = &s.snapshot
    shot.open = False
    shot.accounts_next = shot.accounts_end = 0
    shot.holds_next = shot.holds_end = 0
    slab_free(&shot.accounts)
    slab_free(&shot.holds)

cdef inline void snapshot_touch(state_t *s, u32 index) noexcept nogil:
    """The account is about to change."""
    if index < s.snapshot.accounts_end and index >= s.snapshot.accounts_next:
        snapshot_save(s, index)

cdef void snapshot_save(state_t *s, u32 index) noexcept nogil:
    cdef account_extra_t *extra = state_account_extra(s, index)
    if extra.epoch == s.snapshot.epoch:
        return
    extra.epoch, extra.saved = s.snapshot.epoch, <u32>s.snapshot.accounts.count
    (<account_t *>slab_append(&s.snapshot.accounts))[0] = state_account(s, index)[0]

cdef void snapshot_write_hold(const state_t *s, u32 slot, hold_record_t *record) noexcept nogil:
    cdef hold_t *hold = state_hold(s, slot)
    cdef transfer_extra_t *extra = state_extra(s, hold.transfer)
    memset(record, 0, sizeof(hold_record_t))
    record.transfer = state_transfer(s, hold.transfer)[0]
    record.position, record.place = extra.position, extra.place
    record.expires_at, record.debit, record.credit = hold.expires_at, extra.debit, extra.credit

cdef inline bint snapshot_wants_hold(const state_t *s, u32 slot) noexcept nogil:
    return (s.snapshot.holds_next <= slot < s.snapshot.holds_end
            and state_hold(s, slot).position <= s.snapshot.position)

cdef inline void snapshot_touch_hold(state_t *s, u32 slot) noexcept nogil:
    """The hold is about to end."""
    if snapshot_wants_hold(s, slot):
        snapshot_write_hold(s, slot, <hold_record_t *>slab_append(&s.snapshot.holds))

cdef inline void snapshot_forget_hold(state_t *s, u32 slot) noexcept nogil:
    """The hold did not end after all: a chain takes back in reverse what it did."""
    if snapshot_wants_hold(s, slot):
        s.snapshot.holds.count -= 1

cdef u64 snapshot_accounts(state_t *s, account_t *out, u64 room) noexcept nogil:
    """Copy the next accounts, at most `room`; how many, 0 when there are no more."""
    cdef snapshot_t *shot = &s.snapshot
    cdef u64 count = min(room, shot.accounts_end - shot.accounts_next), i
    cdef account_extra_t *extra
    for i in range(count):
        extra = state_account_extra(s, <u32>(shot.accounts_next + i))
        if extra.epoch == shot.epoch:
            out[i] = (<account_t *>slab_at(&shot.accounts, extra.saved))[0]
        else:
            out[i] = state_account(s, <u32>(shot.accounts_next + i))[0]
    shot.accounts_next += count
    return count

cdef u64 snapshot_holds(state_t *s, hold_record_t *out, u64 room) noexcept nogil:
    """Copy the next open holds, at most `room`; how many, 0 when there are no more."""
    cdef snapshot_t *shot = &s.snapshot
    cdef u64 count = 0
    cdef hold_t *hold
    while shot.holds_next < shot.holds_end and count < room:
        hold = state_hold(s, <u32>shot.holds_next)
        if 0 < hold.position <= shot.position:
            snapshot_write_hold(s, <u32>shot.holds_next, &out[count])
            count += 1
        shot.holds_next += 1
    while shot.hold_next < shot.holds.count and count < room and shot.holds_next == shot.holds_end:
        memcpy(&out[count], slab_at(&shot.holds, shot.hold_next), sizeof(hold_record_t))
        shot.hold_next += 1
        count += 1
    return count
