# Store: accounts, transfers and burned ids in memory, and the postings of each account.
#
# Needs: state.pxi, retained.pxi, kept_holds.pxi, lookup_cache.pxi, u128.h, hash_table.h. Gives:
# store_*. All accounts are here; of transfers those of the memtables, and the retained ones.
# Accounts and transfers are stored in order of creation, which is the order of their timestamps, so
# time ranges are found by bisection. What is only on disk is not here: prefetch.pxi notes what a
# request needs of that before the request is judged.

cdef struct postings_cursor_t:
    u32 at, ends[MEMTABLES_MAX]  # last postings of the memtables to come, the next one last
    u32 memtables
    bint reversed


cdef inline u32 store_find_account(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Index of the account, or NONE."""
    cdef table_part_t *part = table_part(&s.account_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 index
    while True:
        index = table_next(part, tag, &at)
        if index == NONE or state_account(s, index).id == id:
            return index

cdef inline u32 store_known_account(const state_t *s, u128 id, u32 tag, u32 at) noexcept nogil:
    """Index of the account, which probably is `at`; or NONE."""
    if at != NONE and state_account(s, at).id == id:
        return at
    return store_find_account(s, id, tag)

cdef inline u32 store_find_in(const state_t *s, const table_t *table, u128 id,
                              u32 tag) noexcept nogil:
    cdef table_part_t *part = table_part(table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if reference == NONE:
            return NONE
        if reference & BURNED:
            if (<burned_t *>slab_at(&s.burned, reference & REFERENCE_MASK)).id == id:
                return reference
        elif state_transfer(s, reference).id == id:
            return reference

cdef inline u32 store_find(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Reference of the transfer; with BURNED of the burned id; or NONE."""
    cdef u64 number = s.memtable_end
    cdef u32 reference
    while number > s.memtable_first:
        number -= 1
        reference = store_find_in(s, &state_memtable(s, number).table, id, tag)
        if reference != NONE:
            return reference
    return retained_known(s, id, tag) if s.retained_table.count else NONE

cdef inline u32 store_find_transfer(const state_t *s, u128 id) noexcept nogil:
    """Index of the transfer, or NONE also for a burned id."""
    cdef u32 index = store_find(s, id, state_tag(s, id))
    return NONE if index & BURNED else index


cdef u32 store_add_account(state_t *s, const account_t *account, u32 tag) noexcept nogil:
    cdef u32 index = <u32>s.accounts.count
    cdef account_extra_t *extra
    (<account_t *>slab_append(&s.accounts))[0] = account[0]
    extra = <account_extra_t *>slab_append(&s.account_extras)
    memset(extra, 0, sizeof(account_extra_t))
    extra.last = NONE
    table_insert(&s.account_table, tag, index)
    verify(account.timestamp > s.account_timestamp_max)  # else no bisection finds it
    verify(s.accounts.count == s.account_extras.count)
    verify(s.account_table.count == s.accounts.count)
    s.account_timestamp_max = account.timestamp
    return index

cdef void store_forget_account(state_t *s) noexcept nogil:
    cdef u32 index = <u32>s.accounts.count - 1
    table_remove(&s.account_table, state_tag(s, state_account(s, index).id), index)
    s.accounts.count -= 1
    s.account_extras.count -= 1

cdef inline half_link_t *store_half(const state_t *s, u32 posting) noexcept nogil:
    """The account's half of a transfer's links."""
    cdef link_t *link = <link_t *>slab_of(&s.links, posting & REFERENCE_MASK, sizeof(link_t))
    return &link.credit if posting & POSTING_CREDIT else &link.debit

cdef inline void store_add_posting(state_t *s, u32 account, u32 posting) noexcept nogil:
    cdef account_extra_t *extra = state_account_extra(s, account)
    cdef half_link_t *mine = store_half(s, posting)
    cdef half_link_t *last
    cdef u32 memtable = <u32>(s.memtable_end - 1)
    mine.previous = extra.last
    mine.next = posting
    if extra.last != NONE:
        if extra.memtable == memtable:
            last = store_half(s, extra.last)
            mine.next, last.next = last.next, posting
        elif memtable - extra.memtable >= s.memtable_end - s.memtable_first:
            mine.previous = NONE
    extra.last, extra.memtable = posting, memtable
    if VERIFIES:
        store_verify_posting(s, account, posting)

cdef void store_verify_posting(const state_t *s, u32 account, u32 posting) noexcept nogil:
    """The newest posting of an account closes the circle of its memtable."""
    cdef half_link_t *mine = store_half(s, posting)
    verify(state_account_extra(s, account).last == posting)
    verify(store_memtable_has(s, s.memtable_end - 1, mine.next))
    verify(mine.previous == NONE or store_in_memory(s, mine.previous))
    if mine.next != posting:  # not the first of its memtable
        verify(mine.previous != NONE)
        verify(store_half(s, mine.previous).next == posting)
        verify(store_memtable_has(s, s.memtable_end - 1, mine.previous))

cdef void store_forget_posting(state_t *s, u32 account) noexcept nogil:
    """The newest posting of the account, which is also the newest of the book."""
    cdef account_extra_t *extra = state_account_extra(s, account)
    cdef half_link_t *mine = store_half(s, extra.last)
    cdef u64 number = s.memtable_end - 1
    verify((extra.last & REFERENCE_MASK) == ((s.transfers.count - 1) & REFERENCE_MASK))
    verify(store_memtable_has(s, number, extra.last))
    if mine.next != extra.last:
        store_half(s, mine.previous).next = mine.next
    elif mine.previous != NONE:
        while not store_memtable_has(s, number, mine.previous):
            number -= 1
    extra.last, extra.memtable = mine.previous, <u32>number

cdef inline bint store_memtable_has(const state_t *s, u64 number, u32 posting) noexcept nogil:
    """Whether the posting is of this memtable, which is in memory."""
    cdef u64 first = state_memtable(s, number).transfers
    cdef u64 end = (state_memtable(s, number + 1).transfers if number + 1 < s.memtable_end
                    else s.transfers.count)
    return ((posting - <u32>first) & REFERENCE_MASK) < end - first

cdef void store_verify_transfer(const state_t *s, const transfer_t *transfer, u32 debit,
                                u32 credit) noexcept nogil:
    """What is true of every transfer that is stored, whatever it came by."""
    verify(debit < s.accounts.count and credit < s.accounts.count)
    verify(debit != credit)
    verify(state_account(s, debit).id == transfer.debit_account_id)
    verify(state_account(s, credit).id == transfer.credit_account_id)
    verify(state_account(s, debit).ledger == transfer.ledger)
    verify(state_account(s, credit).ledger == transfer.ledger)
    verify(transfer.timestamp > s.transfer_timestamp_max)  # else no bisection finds it
    verify(transfer.timestamp <= TIMESTAMP_MAX)
    verify(s.transfers.count == s.transfer_extras.count)
    verify(s.transfers.count == s.links.count)
    verify(s.transfers.count == s.transfer_balances.count)
    store_verify_memtable(s)

cdef void store_verify_memtable(const state_t *s) noexcept nogil:
    """The table of the open memtable has its transfers and burned ids, and no others."""
    cdef const memtable_t *open = state_open_memtable(s)
    verify(s.transfers.count >= open.transfers and s.burned.count >= open.burned)
    verify(open.table.count == (s.transfers.count - open.transfers
                                + s.burned.count - open.burned))

cdef inline u32 store_add_transfer(state_t *s, const transfer_t *transfer, u32 tag, u32 debit,
                                   u32 credit) noexcept nogil:
    """Store a transfer whose record just took the current position."""
    cdef u32 reference = <u32>s.transfers.count & REFERENCE_MASK
    cdef transfer_extra_t *extra
    if VERIFIES:
        store_verify_transfer(s, transfer, debit, credit)
    slab_stream(slab_append_of(&s.transfers, sizeof(transfer_t)), transfer, sizeof(transfer_t))
    extra = <transfer_extra_t *>slab_append_of(&s.transfer_extras, sizeof(transfer_extra_t))
    # In the bits of its kind, 0 for a transfer: which account has a history.
    extra.place = (state_place(s, PLACE_TRANSFER)
                   | (1 if state_account(s, debit).flags & ACCOUNT_HISTORY else 0)
                   | (2 if state_account(s, credit).flags & ACCOUNT_HISTORY else 0))
    extra.position = s.position
    extra.resolution = RESOLUTION_NONE
    extra.debit, extra.credit = debit, credit
    s.links.count += 1
    s.transfer_balances.count += 1
    s.transfer_count += 1
    table_insert(&state_open_memtable(s).table, tag, reference)
    store_add_posting(s, debit, reference)
    store_add_posting(s, credit, reference | POSTING_CREDIT)
    s.transfer_timestamp_max = transfer.timestamp
    return reference

cdef void store_forget_transfer(state_t *s) noexcept nogil:
    cdef u32 reference = <u32>(s.transfers.count - 1) & REFERENCE_MASK
    store_forget_posting(s, state_extra(s, reference).credit)
    store_forget_posting(s, state_extra(s, reference).debit)
    table_remove(&state_open_memtable(s).table, state_tag(s, state_transfer(s, reference).id),
                 reference)
    s.transfers.count -= 1
    s.transfer_extras.count -= 1
    s.links.count -= 1
    s.transfer_balances.count -= 1
    s.transfer_count -= 1

cdef inline void store_add_balances(state_t *s, u32 transfer, const account_t *debit,
                                    const account_t *credit) noexcept nogil:
    cdef transfer_balances_t *balances
    if not (debit.flags | credit.flags) & ACCOUNT_HISTORY:
        return
    balances = <transfer_balances_t *>slab_of(&s.transfer_balances, transfer,
                                              sizeof(transfer_balances_t))
    slab_stream(&balances.debit, &debit.debits_pending, sizeof(balances_t))
    slab_stream(&balances.credit, &credit.debits_pending, sizeof(balances_t))

cdef void store_burn(state_t *s, u128 id, u32 tag) noexcept nogil:
    cdef u32 reference = <u32>s.burned.count & REFERENCE_MASK
    cdef burned_t *burned = <burned_t *>slab_append(&s.burned)
    burned.id, burned.place = id, state_place(s, PLACE_BURNED_ID)
    table_insert(&state_open_memtable(s).table, tag, reference | BURNED)
    s.burned_count += 1
    s.burned_hash = u128_chain(s.burned_hash, id)
    if VERIFIES:
        store_verify_memtable(s)

cdef inline void store_end_hold(state_t *s, u32 reference, u32 outcome) noexcept nogil:
    cdef transfer_extra_t *extra = state_extra(s, reference)
    cdef ended_t *ended
    extra.resolved = <u32>s.ended.count
    ended = <ended_t *>slab_append(&s.ended)
    ended.place, ended.position, ended.outcome = extra.place, extra.position, outcome
    ended.resolution_place = state_place(s, 0)
    ended.debit, ended.credit = extra.debit, extra.credit


# ---- by time --------------------------------------------------------------------------------

cdef u32 store_scan_accounts(const state_t *s, u64 timestamp) noexcept nogil:
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

cdef inline u64 store_transfers_first(const state_t *s) noexcept nogil:
    """Ordinal of the first transfer that is in a memtable."""
    return state_memtable(s, s.memtable_first).transfers

cdef u64 store_scan_transfers(const state_t *s, u64 timestamp) noexcept nogil:
    """Ordinal of the first transfer in a memtable at or after the timestamp; their end for none."""
    cdef u64 low = store_transfers_first(s), high = s.transfers.count, middle
    while low < high:
        middle = (low + high) // 2
        if state_transfer_of(s, middle).timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return low

cdef u32 store_at_position(const state_t *s, u64 position) noexcept nogil:
    """Reference of the transfer whose record took the position, or NONE."""
    cdef u64 low = store_transfers_first(s), high = s.transfers.count, middle
    while low < high:
        middle = (low + high) // 2
        if state_extra_of(s, middle).position < position:
            low = middle + 1
        else:
            high = middle
    if low < s.transfers.count and state_extra_of(s, low).position == position:
        return <u32>low & REFERENCE_MASK
    return kept_holds_at(s, position)

cdef bint store_account_at(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 index
    if timestamp > s.account_timestamp_max:
        return False
    index = store_scan_accounts(s, timestamp)
    return index < s.accounts.count and state_account(s, index).timestamp == timestamp

cdef bint store_transfer_regresses(const state_t *s, u64 timestamp) noexcept nogil:
    """Whether an imported transfer would not come after the others, or is an account's time."""
    return timestamp <= s.transfer_timestamp_max or store_account_at(s, timestamp)

cdef bint store_transfer_at(const state_t *s, u64 timestamp) noexcept nogil:
    """Of the sealed past it must be known already: who judges a request sees to that."""
    cdef u64 ordinal
    if timestamp > s.transfer_timestamp_max:
        return False
    if timestamp <= s.sealed_timestamp_max:
        return lookup_cache_timestamp_taken(s, timestamp)
    ordinal = store_scan_transfers(s, timestamp)
    return ordinal < s.transfers.count and state_transfer_of(s, ordinal).timestamp == timestamp


# ---- by account -----------------------------------------------------------------------------

cdef void store_postings(const state_t *s, u32 account, bint reversed,
                         postings_cursor_t *cursor) noexcept nogil:
    cdef account_extra_t *extra = state_account_extra(s, account)
    cdef u32 last = extra.last
    cdef u32 age = <u32>(s.memtable_end - 1) - extra.memtable
    memset(cursor, 0, sizeof(postings_cursor_t))
    cursor.reversed, cursor.at = reversed, NONE
    if last == NONE or age >= s.memtable_end - s.memtable_first:
        return
    if reversed:
        cursor.at = last
        return
    while last != NONE and store_in_memory(s, last):
        cursor.ends[cursor.memtables] = last
        cursor.memtables += 1
        last = store_half(s, store_half(s, last).next).previous
    cursor.at = store_half(s, cursor.ends[cursor.memtables - 1]).next

cdef inline bint store_in_memory(const state_t *s, u32 posting) noexcept nogil:
    cdef u64 first = store_transfers_first(s)
    return ((posting - <u32>first) & REFERENCE_MASK) < s.transfers.count - first

cdef inline u32 store_next_posting(const state_t *s, postings_cursor_t *cursor) noexcept nogil:
    """Reference of the next transfer in a memtable that touches the account, or NONE."""
    cdef u32 found = cursor.at
    if found == NONE:
        return NONE
    if cursor.reversed:
        cursor.at = store_half(s, found).previous
        if cursor.at != NONE and not store_in_memory(s, cursor.at):
            cursor.at = NONE
    elif found != cursor.ends[cursor.memtables - 1]:
        cursor.at = store_half(s, found).next
    else:
        cursor.memtables -= 1
        cursor.at = (store_half(s, cursor.ends[cursor.memtables - 1]).next
                     if cursor.memtables else NONE)
    return found & REFERENCE_MASK
