# Prefetch: what a request will need, asked for before it is judged.
#
# Needs: state.pxi, lookups.pxi, retained.pxi, lookup_cache.pxi, store.pxi, bloom.h. Gives:
# prefetch_*. Of the history on disk: an id that the filter does not rule out and that memory does
# not know is noted in the look-ups. Of memory: the cache lines of table slots, accounts and
# postings are fetched some events ahead.

cdef enum:
    PREFETCH_TAGS = 12  # events ahead of which the table slots are fetched
    PREFETCH_RECORDS = 6  # events ahead of which the accounts are fetched
    PREFETCH_POSTINGS = 3  # and their last postings
    PREFETCH_RING = 16

cdef struct tags_t:
    u32 id, debit, credit
    u32 debit_at, credit_at  # where its accounts probably are, or NONE


# ---- of the history on disk -------------------------------------------------------------------

cdef inline bint prefetch_knows(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Whether memory says all there is to know of the id."""
    cdef u64 number = s.memtable_end
    while number > s.memtable_first:
        number -= 1
        if store_find_in(s, &state_memtable(s, number).table, id, tag) != NONE:
            return True
    return retained_find(s, id, tag) != NONE

cdef void prefetch_want(state_t *s, u128 id) noexcept nogil:
    """Note the id unless memory knows it; of a sealed post or void its hold is needed as well."""
    cdef u32 tag = state_tag(s, id)
    cdef u32 reference
    if not prefetch_knows(s, id, tag):
        lookups_want_id(&s.lookups, id)
        return
    reference = store_find(s, id, tag)
    if reference == NONE or reference & BURNED or not reference & RETAINED:
        return
    if state_transfer(s, reference).flags & (TRANSFER_POST_PENDING_TRANSFER
                                             | TRANSFER_VOID_PENDING_TRANSFER):
        id = state_transfer(s, reference).pending_id
        if not prefetch_knows(s, id, state_tag(s, id)):
            lookups_want_id(&s.lookups, id)

cdef void prefetch_want_ids(state_t *s, const u8 *records, u32 record_bytes, u32 count,
                            bint transfers) noexcept nogil:
    """Note the ids, and of posts and voids the holds, that the sealed past may know of."""
    cdef u64 hashes[PREFETCH_RING]
    cdef u32 i, ahead = 0
    cdef const u8 *record
    cdef u128 id
    for i in range(count):
        while ahead < count and ahead <= i + PREFETCH_TAGS:
            hashes[ahead % PREFETCH_RING] = u128_hash64(
                s.hash_key, u128_load(records + ahead * <size_t>record_bytes))
            filter_prefetch(&s.filter, hashes[ahead % PREFETCH_RING])
            ahead += 1
        record = records + i * <size_t>record_bytes
        if filter_maybe(&s.filter, hashes[i % PREFETCH_RING]):
            prefetch_want(s, u128_load(record))
        if transfers and state_event_flags(record) & (TRANSFER_POST_PENDING_TRANSFER
                                                      | TRANSFER_VOID_PENDING_TRANSFER):
            id = u128_load(record + EVENT_PENDING_ID_AT)
            if filter_maybe(&s.filter, u128_hash64(s.hash_key, id)):
                prefetch_want(s, id)

cdef void prefetch_want_timestamps(state_t *s, const u8 *events, u32 count) noexcept nogil:
    """Note the timestamps of imported accounts that a sealed transfer may have."""
    cdef account_t account
    cdef u32 i
    for i in range(count):
        memcpy(&account, events + i * <size_t>EVENT_BYTES, sizeof(account_t))
        if (account.flags & ACCOUNT_IMPORTED and account.timestamp <= s.sealed_timestamp_max
                and lookup_cache_find_timestamp(s, account.timestamp) == NONE):
            lookups_want_timestamp(&s.lookups, account.timestamp)


# ---- of memory --------------------------------------------------------------------------------

cdef inline void prefetch_id(const state_t *s, u32 tag) noexcept nogil:
    """Touch the slots where a transfer's id may be."""
    cdef u64 number
    for number in range(s.memtable_first, s.memtable_end):
        table_prefetch(&state_memtable(s, number).table, tag)

cdef inline u32 prefetch_account(const state_t *s, u32 tag) noexcept nogil:
    """Touch the record an account's tag probably leads to; its table slot should be near. Its
    index, or NONE."""
    cdef table_part_t *part = table_part(&s.account_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 index = table_next(part, tag, &at)
    if index != NONE:
        __builtin_prefetch(state_account(s, index))
        __builtin_prefetch(<u8 *>state_account(s, index) + 64)
        __builtin_prefetch(state_account_extra(s, index))
    return index

cdef inline void prefetch_posting(const state_t *s, u32 account) noexcept nogil:
    """Touch the link that the next posting of an account is tied to; the account may be NONE."""
    cdef u32 last
    if account == NONE:
        return
    last = state_account_extra(s, account).last
    if last != NONE:
        __builtin_prefetch(slab_of(&s.links, last & REFERENCE_MASK, sizeof(link_t)))

cdef void prefetch_tags(state_t *s, const u8 *event, tags_t *tags) noexcept nogil:
    tags.id = state_tag(s, u128_load(event))
    tags.debit = state_tag(s, u128_load(event + EVENT_DEBIT_ACCOUNT_ID_AT))
    tags.credit = state_tag(s, u128_load(event + EVENT_CREDIT_ACCOUNT_ID_AT))
    tags.debit_at = tags.credit_at = NONE
    prefetch_id(s, tags.id)
    table_prefetch(&s.account_table, tags.debit)
    table_prefetch(&s.account_table, tags.credit)

cdef inline const tags_t *prefetch_ahead(state_t *s, const u8 *events, u32 i, u32 count,
                                         tags_t *ring, u32 *ahead) noexcept nogil:
    """The tags of transfer `i` of a batch; touches what those further on will need: table slots
    first, then the accounts, then their last postings. `ring`: of PREFETCH_RING."""
    cdef u32 j
    while ahead[0] < count and ahead[0] <= i + PREFETCH_TAGS:
        prefetch_tags(s, events + ahead[0] * <size_t>EVENT_BYTES,
                      &ring[ahead[0] % PREFETCH_RING])
        ahead[0] += 1
    if i + PREFETCH_RECORDS < count:
        j = (i + PREFETCH_RECORDS) % PREFETCH_RING
        ring[j].debit_at = prefetch_account(s, ring[j].debit)
        ring[j].credit_at = prefetch_account(s, ring[j].credit)
    if PREFETCH_RECORDS - PREFETCH_POSTINGS <= i < count - PREFETCH_POSTINGS:
        j = (i + PREFETCH_POSTINGS) % PREFETCH_RING
        prefetch_posting(s, ring[j].debit_at)
        prefetch_posting(s, ring[j].credit_at)
    return &ring[i % PREFETCH_RING]
