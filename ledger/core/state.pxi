# State: everything the ledger knows between two requests.
#
# Needs: record.h, slab.h, hash_table.h, bloom.h, lookups.pxi, read_cache.pxi. Gives: state_*: the
# structs, their life, and the memory that is reserved before a request is judged. All of it is
# plain C memory: records never move and nothing can fail once state_reserve has said yes. It knows
# no rules: accounts.pxi, transfers.pxi, resolutions.pxi and expiry.pxi decide what may happen.

cdef enum:
    NONE = 0xFFFFFFFF
    # What `resolution` of a transfer may hold besides the three outcomes of a resolved hold.
    RESOLUTION_NONE = 0
    RESOLUTION_OPEN = 4
    # A reference to a transfer: its ordinal modulo 2^30, or with RETAINED an index in that pool.
    # With BURNED it is a burned id.
    BURNED = 0x80000000
    RETAINED = 0x40000000
    REFERENCE_MASK = 0x3FFFFFFF
    # A posting: the reference of a transfer in a memtable, and which of its sides; or NONE.
    POSTING_CREDIT = 0x40000000

cdef struct hold_t:
    u128 amount
    u64 expires_at  # ns; 0 for never
    u64 position  # of the transfer that opened it; 0 when the slot is free
    u32 transfer  # the reference of that transfer
    u32 place  # in the heap of expiries, or the next free slot

cdef struct transfer_extra_t:
    u64 position, place
    u32 resolution  # RESOLUTION_NONE, a HOLD_* outcome, or RESOLUTION_OPEN + slot of the open hold
    u32 resolved  # ordinal of its resolution, modulo 2^32
    u32 debit, credit  # indexes of its accounts

cdef struct half_link_t:  # one account's postings of one memtable are a circle
    u32 previous  # of the memtable's first: the last of the memtable before
    u32 next  # of the memtable's last: the first

cdef struct link_t:
    half_link_t debit, credit

cdef struct balances_t:  # one account's, right after a transfer
    u128 debits_pending, debits_posted, credits_pending, credits_posted

cdef struct transfer_balances_t:  # written only for accounts with history: else never touched
    balances_t debit, credit

cdef struct burned_t:
    u128 id
    u64 place, reserved

cdef struct ended_t:  # a hold that ended
    u64 place, position  # of the transfer that opened it
    u64 resolution_place
    u32 debit, credit, outcome, reserved
    u64 reserved_too[3]

cdef struct retained_t:
    u32 kind, next  # the next free one
    u64 reserved

cdef struct account_extra_t:
    u32 last  # its last posting
    u32 memtable  # that one's memtable, modulo 2^32
    u32 epoch, saved  # the snapshot that saved it, and where

cdef struct memtable_t:
    table_t table  # ids of its transfers and burned ids
    # Ordinals of its first ones.
    u64 transfers, burned, ended, pendings
    u64 group_first, group_last

cdef struct session_t:
    u128 client, checksum  # checksum of the register or of the last request that creates
    u64 session, register_timestamp
    u64 group  # that holds the last create (or the register)
    u64 route, route_group  # volatile: who asked last, and which group its answer waits for
    u32 record_offset, number
    u32 release, route_number
    u32 newer, older  # volatile: by last activity
    u64 reserved[4]

cdef struct start_mark_t:
    u64 id, position  # of its record: the first that it owns

cdef struct undo_t:
    u32 kind, index
    u64 reserved
    account_t account
    hold_t hold

cdef struct savepoint_t:
    u64 accounts, transfers, position
    u64 account_timestamp_max, transfer_timestamp_max
    u64 group_transfer_min, group_transfer_max
    u64 ended, pendings
    u32 group_bytes, group_records, group_runs

cdef struct snapshot_t:  # accounts and open holds as they were when it was opened
    bint open
    u32 epoch
    u64 position
    u64 accounts_next, accounts_end, holds_next, holds_end  # what is still to be copied
    slab_t accounts, holds  # what has changed since and was saved before
    u64 hold_next  # of the saved ones, still to be copied

cdef struct state_t:
    u64 key[2]
    u64 clock, position
    u64 account_timestamp_max, transfer_timestamp_max
    slab_t accounts, account_extras, holds, sessions
    # Rings: what the memtables hold. `pendings` refers to the transfers that opened a hold.
    slab_t transfers, transfer_extras, links, transfer_balances, burned, ended, pendings
    table_t account_table, session_table
    # Memtables by number, from `memtable_first` on; the last one is open.
    memtable_t memtables[MEMTABLES_MAX]
    u64 memtable_first, memtable_end, memtable_events_max
    # What is no longer in a memtable but known: kept holds (also by position), and what is cached.
    slab_t retained, retained_transfers, retained_extras
    table_t retained_table, kept_positions
    u32 retained_free
    u32 *cached  # a ring of references, oldest first
    u64 cached_first, cached_end, generation
    read_cache_t read_cache
    # The sealed past, and what a request turned out to need of it.
    filter_t filter
    u64 hash_key[2]
    u64 sealed_timestamp_max
    lookups_t lookups
    # What all memtables ever held.
    u64 transfer_count, burned_count
    u128 burned_hash
    snapshot_t snapshot
    # open holds
    u32 hold_free, session_free
    u64 hold_count, expiries_count, expiries_room
    u32 *expiries  # 4-ary heap of hold slots by (expires_at, transfer)
    # sessions
    u32 session_newest, session_oldest, session_max
    # starts of the server: a ring, by ordinal, and the newest one
    start_mark_t *starts
    start_mark_t start
    u64 starts_end, starts_max
    # the open group
    u8 *group
    u64 group_number, group_clock_before, group_position_first
    u64 group_transfer_min, group_transfer_max, durable_group
    u32 group_bytes, group_bytes_max, group_records, group_runs, run_offset
    u32 record_offset  # where the record lies that was appended, or is replayed
    # the open chain
    bint chain_open
    u32 undo_count, undo_room
    undo_t *undo
    savepoint_t savepoint


cdef inline account_t *state_account(const state_t *s, u32 index) noexcept nogil:
    return <account_t *>slab_of(&s.accounts, index, sizeof(account_t))

cdef inline transfer_t *state_transfer_of(const state_t *s, u64 ordinal) noexcept nogil:
    """Of a memtable, by its ordinal or what a reference keeps of that."""
    return <transfer_t *>slab_of(&s.transfers, ordinal, sizeof(transfer_t))

cdef inline transfer_extra_t *state_extra_of(const state_t *s, u64 ordinal) noexcept nogil:
    return <transfer_extra_t *>slab_of(&s.transfer_extras, ordinal, sizeof(transfer_extra_t))

cdef inline transfer_t *state_transfer(const state_t *s, u32 reference) noexcept nogil:
    if reference & RETAINED:
        return <transfer_t *>slab_at(&s.retained_transfers, reference & REFERENCE_MASK)
    return state_transfer_of(s, reference)

cdef inline transfer_extra_t *state_extra(const state_t *s, u32 reference) noexcept nogil:
    if reference & RETAINED:
        return <transfer_extra_t *>slab_at(&s.retained_extras, reference & REFERENCE_MASK)
    return state_extra_of(s, reference)

cdef inline account_extra_t *state_account_extra(const state_t *s, u32 index) noexcept nogil:
    return <account_extra_t *>slab_of(&s.account_extras, index, sizeof(account_extra_t))

cdef inline memtable_t *state_memtable(const state_t *s, u64 number) noexcept nogil:
    return <memtable_t *>&s.memtables[number % MEMTABLES_MAX]

cdef inline memtable_t *state_open_memtable(const state_t *s) noexcept nogil:
    return state_memtable(s, s.memtable_end - 1)

cdef inline u64 state_place(const state_t *s, u64 kind) noexcept nogil:
    """Where the record lies that was just appended, or is being replayed."""
    return (s.group_number << PLACE_GROUP_SHIFT
            | <u64>(s.record_offset // 16) << PLACE_OFFSET_SHIFT | kind)

cdef inline hold_t *state_hold(const state_t *s, u32 index) noexcept nogil:
    return <hold_t *>slab_at(&s.holds, index)


cdef inline u32 state_tag(const state_t *s, u128 id) noexcept nogil:
    return u128_tag(s.key, id)

cdef inline u16 state_event_flags(const u8 *event) noexcept nogil:
    return (<const u16 *>(event + EVENT_FLAGS_AT))[0]

cdef int state_init(state_t *s, u32 group_bytes_max, u32 session_max, u32 starts_max,
                    const u64 *key, u64 memtable_max) noexcept nogil:
    cdef int i, why
    memset(s, 0, sizeof(state_t))
    s.key[0], s.key[1] = key[0], key[1]
    s.group_bytes_max, s.session_max = group_bytes_max, session_max
    s.hold_free = s.session_free = s.session_newest = s.session_oldest = s.retained_free = NONE
    s.run_offset = NONE
    s.group_number, s.group_position_first = 1, 1
    s.memtable_events_max, s.memtable_first, s.memtable_end = memtable_max, 1, 2
    state_open_memtable(s).group_first = 1
    slab_init(&s.accounts, sizeof(account_t))
    slab_init(&s.account_extras, sizeof(account_extra_t))
    slab_init(&s.holds, sizeof(hold_t) + 16)
    slab_init(&s.sessions, sizeof(session_t))
    slab_init(&s.retained, sizeof(retained_t))
    slab_init(&s.retained_transfers, sizeof(transfer_t))
    slab_init(&s.retained_extras, sizeof(transfer_extra_t))
    slab_init(&s.snapshot.accounts, sizeof(account_t))
    slab_init(&s.snapshot.holds, 2 * sizeof(transfer_t))
    filter_init(&s.filter)
    # A chain of one request: each event changes two accounts and opens or closes one hold.
    s.undo_room = 3 * EVENTS_MAX
    s.undo = <undo_t *>aligned_alloc(16, s.undo_room * sizeof(undo_t))
    s.starts_max = starts_max
    s.starts = <start_mark_t *>calloc(starts_max, sizeof(start_mark_t))
    if s.undo == NULL or s.starts == NULL:
        return -1
    why = (slab_init_ring(&s.transfers, sizeof(transfer_t))
           | slab_init_ring(&s.transfer_extras, sizeof(transfer_extra_t))
           | slab_init_ring(&s.links, sizeof(link_t))
           | slab_init_ring(&s.transfer_balances, sizeof(transfer_balances_t))
           | slab_init_ring(&s.burned, sizeof(burned_t)) | slab_init_ring(&s.ended, sizeof(ended_t))
           | slab_init_ring(&s.pendings, sizeof(u32))
           | table_init(&s.account_table) | table_init(&s.session_table)
           | table_init(&s.retained_table) | table_init(&s.kept_positions))
    for i in range(MEMTABLES_MAX):
        why |= table_init(&s.memtables[i].table)
    s.accounts.scattered = s.account_extras.scattered = s.links.scattered = True
    return why

cdef void state_free(state_t *s) noexcept nogil:
    cdef int i
    slab_free(&s.accounts)
    slab_free(&s.account_extras)
    slab_free(&s.holds)
    slab_free(&s.sessions)
    slab_free(&s.transfers)
    slab_free(&s.transfer_extras)
    slab_free(&s.links)
    slab_free(&s.transfer_balances)
    slab_free(&s.burned)
    slab_free(&s.ended)
    slab_free(&s.pendings)
    slab_free(&s.retained)
    slab_free(&s.retained_transfers)
    slab_free(&s.retained_extras)
    slab_free(&s.snapshot.accounts)
    slab_free(&s.snapshot.holds)
    table_free(&s.account_table)
    table_free(&s.session_table)
    table_free(&s.retained_table)
    table_free(&s.kept_positions)
    for i in range(MEMTABLES_MAX):
        table_free(&s.memtables[i].table)
    filter_free(&s.filter)
    lookups_free(&s.lookups)
    read_cache_free(&s.read_cache)
    free(s.cached)
    free(s.expiries)
    free(s.undo)
    free(s.starts)

cdef int state_reserve(state_t *s, u64 accounts, u64 transfers) noexcept nogil:
    """0, or -1 when memory for so many further records is not to be had: before anything changed.
    """
    cdef u64 room
    cdef u32 *expiries
    if s.expiries_room < s.hold_count + transfers:
        room = 2 * (s.hold_count + transfers)
        expiries = <u32 *>realloc(s.expiries, room * sizeof(u32))
        if expiries == NULL:
            return -1
        s.expiries, s.expiries_room = expiries, room
    return (slab_reserve(&s.accounts, accounts) | slab_reserve(&s.account_extras, accounts)
            | slab_reserve(&s.transfers, transfers) | slab_reserve(&s.transfer_extras, transfers)
            | slab_reserve(&s.links, transfers) | slab_reserve(&s.transfer_balances, transfers)
            | slab_reserve(&s.holds, transfers) | slab_reserve(&s.pendings, transfers)
            | slab_reserve(&s.burned, transfers) | state_reserve_ends(s, transfers)
            | table_reserve(&s.account_table, accounts)
            | table_reserve(&state_open_memtable(s).table, transfers))

cdef int state_reserve_ends(state_t *s, u64 holds) noexcept nogil:
    """The same for the ends of so many holds."""
    cdef int why = slab_reserve(&s.ended, holds)
    if s.snapshot.open:
        why |= (slab_reserve(&s.snapshot.accounts, 2 * holds)
                | slab_reserve(&s.snapshot.holds, holds))
    return why
