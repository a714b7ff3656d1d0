# History: the past, filled from memory: accounts, transfers, burned ids, and who they touch.
#
# Needs: state.pxi, u128.h, table.h. Gives: history_*. The contract that whatever keeps the past
# must honour: find (an id), record and resolution (of an index), postings (of an account, in a time
# range, either way), scan (by time). Accounts and transfers are stored in order of creation, which
# is the order of their timestamps, so time ranges are found by bisection. Nothing above this file
# knows where the past is kept.

cdef struct postings_cursor_t:
    u32 block, entry, used
    bint reversed


cdef inline u32 history_tag(const state_t *s, u128 id) noexcept nogil:
    return u128_tag(s.key, id)

cdef inline u32 history_find_account(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Index of the account, or NONE."""
    cdef table_part_t *part = table_part(&s.account_table, tag)
    cdef u32 at = tag & TABLE_SLOT_MASK
    cdef u32 index
    while True:
        index = table_next(part, tag, &at)
        if index == NONE or state_account(s, index).id == id:
            return index

cdef inline u32 history_find(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Index of the transfer; or BURNED + index of the burned id; or NONE."""
    cdef table_part_t *part = table_part(&s.transfer_table, tag)
    cdef u32 at = tag & TABLE_SLOT_MASK
    cdef u32 index
    while True:
        index = table_next(part, tag, &at)
        if index == NONE:
            return NONE
        if index & BURNED:
            if (<u128 *>slab_at(&s.burned, index & ~<u32>BURNED))[0] == id:
                return index
        elif state_transfer(s, index).id == id:
            return index

cdef inline u32 history_find_transfer(const state_t *s, u128 id) noexcept nogil:
    """Index of the transfer, or NONE also for a burned id."""
    cdef u32 index = history_find(s, id, history_tag(s, id))
    return NONE if index & BURNED else index

cdef inline void history_prefetch_account(const state_t *s, u32 tag) noexcept nogil:
    """Touch the record an account's tag probably leads to; its table slot should be near."""
    cdef table_part_t *part = table_part(&s.account_table, tag)
    cdef u32 at = tag & TABLE_SLOT_MASK
    cdef u32 index = table_next(part, tag, &at)
    if index != NONE:
        __builtin_prefetch(state_account(s, index))
        __builtin_prefetch(<u8 *>state_account(s, index) + 64)
        __builtin_prefetch(slab_at(&s.account_extras, index))


cdef u32 history_add_account(state_t *s, const account_t *account, u32 tag) noexcept nogil:
    cdef u32 index = <u32>s.accounts.count
    cdef account_extra_t *extra
    (<account_t *>slab_append(&s.accounts))[0] = account[0]
    extra = <account_extra_t *>slab_append(&s.account_extras)
    extra.postings_first = extra.postings_last = NONE
    extra.postings_used = 0
    table_insert(&s.account_table, tag, index)
    s.account_timestamp_max = account.timestamp
    return index

cdef void history_forget_account(state_t *s) noexcept nogil:
    cdef u32 index = <u32>s.accounts.count - 1
    table_remove(&s.account_table, history_tag(s, state_account(s, index).id), index)
    s.accounts.count -= 1
    s.account_extras.count -= 1

cdef inline void history_add_posting(state_t *s, u32 account, u32 transfer) noexcept nogil:
    cdef account_extra_t *extra = <account_extra_t *>slab_at(&s.account_extras, account)
    cdef posting_block_t *block
    cdef u32 index
    if extra.postings_last == NONE or extra.postings_used == POSTING_ENTRIES:
        index = <u32>s.postings.count
        block = <posting_block_t *>slab_append(&s.postings)
        block.previous, block.next = extra.postings_last, NONE
        if extra.postings_last == NONE:
            extra.postings_first = index
        else:
            (<posting_block_t *>slab_at(&s.postings, extra.postings_last)).next = index
        extra.postings_last, extra.postings_used = index, 0
    block = <posting_block_t *>slab_at(&s.postings, extra.postings_last)
    block.transfers[extra.postings_used] = transfer
    extra.postings_used += 1

cdef void history_forget_posting(state_t *s, u32 account) noexcept nogil:
    """The newest posting of the account, which is also the newest of the book."""
    cdef account_extra_t *extra = <account_extra_t *>slab_at(&s.account_extras, account)
    cdef posting_block_t *block = <posting_block_t *>slab_at(&s.postings, extra.postings_last)
    extra.postings_used -= 1
    if extra.postings_used > 0:
        return
    invariant(extra.postings_last == s.postings.count - 1)
    s.postings.count -= 1
    extra.postings_last = block.previous
    if block.previous == NONE:
        extra.postings_first = NONE
    else:
        extra.postings_used = POSTING_ENTRIES
        (<posting_block_t *>slab_at(&s.postings, block.previous)).next = NONE

cdef inline u32 history_add_transfer(state_t *s, const transfer_t *transfer, u32 tag,
                                     u32 debit, u32 credit) noexcept nogil:
    """Store a transfer whose record just took the current position."""
    cdef u32 index = <u32>s.transfers.count
    cdef transfer_extra_t *extra
    invariant(index < <u32>BURNED)
    (<transfer_t *>slab_append(&s.transfers))[0] = transfer[0]
    extra = <transfer_extra_t *>slab_append(&s.transfer_extras)
    extra.position, extra.resolution = s.position, RESOLUTION_NONE
    s.transfer_balances.count += 1
    table_insert(&s.transfer_table, tag, index)
    history_add_posting(s, debit, index)
    history_add_posting(s, credit, index)
    s.transfer_timestamp_max = transfer.timestamp
    return index

cdef void history_forget_transfer(state_t *s) noexcept nogil:
    cdef u32 index = <u32>s.transfers.count - 1
    cdef transfer_t *transfer = state_transfer(s, index)
    cdef u128 debit = transfer.debit_account_id
    cdef u128 credit = transfer.credit_account_id
    history_forget_posting(s, history_find_account(s, credit, history_tag(s, credit)))
    history_forget_posting(s, history_find_account(s, debit, history_tag(s, debit)))
    table_remove(&s.transfer_table, history_tag(s, transfer.id), index)
    s.transfers.count -= 1
    s.transfer_extras.count -= 1
    s.transfer_balances.count -= 1

cdef inline void history_add_balances(state_t *s, u32 transfer, const account_t *debit,
                                      const account_t *credit) noexcept nogil:
    cdef transfer_balances_t *balances
    if not (debit.flags | credit.flags) & ACCOUNT_HISTORY:
        return
    balances = <transfer_balances_t *>slab_at(&s.transfer_balances, transfer)
    memcpy(&balances.debit, &debit.debits_pending, sizeof(balances_t))
    memcpy(&balances.credit, &credit.debits_pending, sizeof(balances_t))

cdef void history_burn(state_t *s, u128 id, u32 tag) noexcept nogil:
    cdef u32 index = <u32>s.burned.count
    invariant(index < <u32>BURNED - 1)
    (<u128 *>slab_append(&s.burned))[0] = id
    table_insert(&s.transfer_table, tag, index | <u32>BURNED)


# ---- by time --------------------------------------------------------------------------------

cdef u32 history_scan_accounts(const state_t *s, u64 timestamp) noexcept nogil:
    """Index of the first account stored at or after the timestamp; their count when there is none.
    """
    cdef u64 low = 0, high = s.accounts.count, middle
    while low < high:
        middle = (low + high) // 2
        if state_account(s, <u32>middle).timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return <u32>low

cdef u32 history_scan_transfers(const state_t *s, u64 timestamp) noexcept nogil:
    """Index of the first transfer stored at or after the timestamp; their count for none."""
    cdef u64 low = 0, high = s.transfers.count, middle
    while low < high:
        middle = (low + high) // 2
        if state_transfer(s, <u32>middle).timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return <u32>low

cdef u32 history_at_position(const state_t *s, u64 position) noexcept nogil:
    """Index of the transfer whose record took the position, or NONE."""
    cdef u64 low = 0, high = s.transfers.count, middle
    while low < high:
        middle = (low + high) // 2
        if state_extra(s, <u32>middle).position < position:
            low = middle + 1
        else:
            high = middle
    if low < s.transfers.count and state_extra(s, <u32>low).position == position:
        return <u32>low
    return NONE

cdef bint history_account_at(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 index
    if timestamp > s.account_timestamp_max:
        return False
    index = history_scan_accounts(s, timestamp)
    return index < s.accounts.count and state_account(s, index).timestamp == timestamp

cdef bint history_transfer_at(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 index
    if timestamp > s.transfer_timestamp_max:
        return False
    index = history_scan_transfers(s, timestamp)
    return index < s.transfers.count and state_transfer(s, index).timestamp == timestamp


# ---- by account -----------------------------------------------------------------------------

cdef void history_postings(const state_t *s, u32 account, bint reversed,
                           postings_cursor_t *cursor) noexcept nogil:
    cdef account_extra_t *extra = <account_extra_t *>slab_at(&s.account_extras, account)
    cursor.reversed = reversed
    cursor.used = extra.postings_used
    cursor.block = extra.postings_last if reversed else extra.postings_first
    cursor.entry = extra.postings_used if reversed else 0

cdef inline u32 history_next_posting(const state_t *s, postings_cursor_t *cursor) noexcept nogil:
    """Index of the next transfer that touches the account, or NONE."""
    cdef posting_block_t *block
    if cursor.block == NONE:
        return NONE
    block = <posting_block_t *>slab_at(&s.postings, cursor.block)
    if cursor.reversed:
        if cursor.entry == 0:
            cursor.block, cursor.entry = block.previous, POSTING_ENTRIES
            if cursor.block == NONE:
                return NONE
            block = <posting_block_t *>slab_at(&s.postings, cursor.block)
        cursor.entry -= 1
        return block.transfers[cursor.entry]
    if cursor.entry == POSTING_ENTRIES:
        cursor.block, cursor.entry = block.next, 0
        if cursor.block == NONE:
            return NONE
        block = <posting_block_t *>slab_at(&s.postings, cursor.block)
    if block.next == NONE and cursor.entry == cursor.used:
        return NONE
    cursor.entry += 1
    return block.transfers[cursor.entry - 1]
