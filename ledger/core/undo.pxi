# Undo: a chain of linked events takes back everything it did.
#
# Needs: state.pxi, group.pxi, holds.pxi, store.pxi, snapshot.pxi. Gives: undo_*. One chain is open
# at a time. What a chain appends is popped; an account it changes, and a hold it opens or closes,
# is noted once each and put back in reverse order. A burned id is written after the rollback and so
# survives it.

cdef enum:  # what is noted
    UNDO_ACCOUNT = 1
    UNDO_HOLD_OPENED = 2
    UNDO_HOLD_CLOSED = 3


cdef inline undo_t *undo_push(state_t *s, u32 kind, u32 index) noexcept nogil:
    cdef undo_t *entry = &s.undo[s.undo_count]
    invariant(s.undo_count < s.undo_room)
    s.undo_count += 1
    entry.kind, entry.index = kind, index
    return entry

cdef inline void undo_account(state_t *s, u32 index) noexcept nogil:
    if s.chain_open:
        undo_push(s, UNDO_ACCOUNT, index).account = state_account(s, index)[0]

cdef inline void undo_hold_opened(state_t *s, u32 slot) noexcept nogil:
    if s.chain_open:
        undo_push(s, UNDO_HOLD_OPENED, slot)

cdef inline void undo_hold_closed(state_t *s, u32 slot) noexcept nogil:
    if s.chain_open:
        undo_push(s, UNDO_HOLD_CLOSED, slot).hold = state_hold(s, slot)[0]

cdef void undo_open(state_t *s) noexcept nogil:
    cdef savepoint_t *save = &s.savepoint
    verify(not s.chain_open)
    group_end_run(s)
    save.accounts, save.transfers, save.position = s.accounts.count, s.transfers.count, s.position
    save.ended, save.pendings = s.ended.count, s.pendings.count
    save.account_timestamp_max = s.account_timestamp_max
    save.transfer_timestamp_max = s.transfer_timestamp_max
    save.group_transfer_min, save.group_transfer_max = s.group_transfer_min, s.group_transfer_max
    save.group_bytes, save.group_records = s.group_bytes, s.group_records
    save.group_runs = s.group_runs
    s.undo_count = 0
    s.chain_open = True

cdef void undo_close(state_t *s) noexcept nogil:
    s.chain_open = False

cdef void undo_rollback(state_t *s) noexcept nogil:
    cdef savepoint_t *save = &s.savepoint
    cdef undo_t *entry
    cdef u32 slot
    invariant(s.chain_open)
    while s.undo_count > 0:
        s.undo_count -= 1
        entry = &s.undo[s.undo_count]
        if entry.kind == UNDO_ACCOUNT:
            state_account(s, entry.index)[0] = entry.account
        elif entry.kind == UNDO_HOLD_OPENED:
            holds_close(s, entry.index, RESOLUTION_NONE)
        else:
            # The slot was put on top of the free list, and all later holds are undone by now.
            slot = holds_open(s, entry.hold.transfer, entry.hold.amount, entry.hold.expires_at)
            invariant(slot == entry.index)
            snapshot_forget_hold(s, slot)
    s.ended.count, s.pendings.count = save.ended, save.pendings
    while s.transfers.count > save.transfers:
        store_forget_transfer(s)
    while s.accounts.count > save.accounts:
        store_forget_account(s)
    s.position = save.position
    s.account_timestamp_max = save.account_timestamp_max
    s.transfer_timestamp_max = save.transfer_timestamp_max
    s.group_transfer_min, s.group_transfer_max = save.group_transfer_min, save.group_transfer_max
    s.group_bytes, s.group_records = save.group_bytes, save.group_records
    s.group_runs = save.group_runs
    s.run_offset = NONE
    verify(s.transfers.count == save.transfers and s.accounts.count == save.accounts)
    verify(s.group_position_first + s.group_records == s.position + 1)
    if VERIFIES:
        store_verify_memtable(s)
    s.chain_open = False
