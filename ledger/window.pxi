# Window: the past is closed in windows; a sealed one is dropped; what is sealed must be asked for.
#
# Needs: state.pxi, old.pxi, history.pxi, wanted.pxi, filter.h. Gives: window_*. A window is cut at
# the end of a group once it holds enough: a function of the journal alone. A closed window changes
# no more, so it can be read from another thread; only how a hold ended still changes, and who reads
# a closed window does not look at that. Whoever seals it puts its ids into the filter before it is
# dropped. What the filter does not rule out and memory does not know is wanted.

cdef enum:
    PREFETCH_TAGS = 12  # events ahead of which the table slots are fetched
    PREFETCH_RECORDS = 6  # events ahead of which the accounts are fetched
    PREFETCH_POSTINGS = 3  # and their last postings
    PREFETCH_RING = 16

cdef u64 window_events(const state_t *s) noexcept nogil:
    """What the open window holds."""
    cdef window_t *w = state_open_window(s)
    return (s.transfers.count - w.transfers + s.burned.count - w.burned
            + s.ended.count - w.ended)

cdef bint window_is_full(const state_t *s) noexcept nogil:
    return s.window_events_max != 0 and window_events(s) >= s.window_events_max

cdef void window_cut(state_t *s, u64 group_last) noexcept nogil:
    """Close the open window with this group, and open the next."""
    cdef window_t *next = state_window(s, s.window_end)
    invariant(s.window_end - s.window_first < WINDOWS_MAX)
    state_open_window(s).group_last = group_last
    next.transfers, next.burned = s.transfers.count, s.burned.count
    next.ended, next.pendings = s.ended.count, s.pendings.count
    next.group_first, next.group_last = group_last + 1, 0
    s.window_end += 1
    slab_publish()

cdef u64 window_closed_at(const state_t *s, u64 group_first) noexcept nogil:
    """The window that begins with this group, or where windows end."""
    cdef u64 number = s.window_first
    while number < s.window_end and state_window(s, number).group_first != group_first:
        number += 1
    return number

cdef int window_drop(state_t *s) noexcept nogil:
    """Forget the oldest window, which is closed and sealed. 0, or -1 when there is no memory to
    keep the holds that outlive it: nothing is changed then."""
    cdef window_t *w = state_window(s, s.window_first)
    cdef window_t *next = state_window(s, s.window_first + 1)
    cdef u64 i
    cdef u32 kept
    invariant(s.window_end - s.window_first > 1)
    if old_reserve(s, next.pendings - w.pendings):
        return -1
    while s.attached_first < s.attached_end:
        old_detach(s)
    reads_clear(&s.reads)
    for i in range(w.pendings, next.pendings):
        window_keep(s, (<u32 *>slab_at(&s.pendings, i))[0], w, next)
    for i in range(w.ended, next.ended):
        kept = old_at_position(s, (<ended_t *>slab_at(&s.ended, i)).position)
        if kept != NONE:
            old_remove(s, kept)
    if next.transfers > w.transfers:
        s.sealed_timestamp_max = state_transfer_of(s, next.transfers - 1).timestamp
    slab_forget(&s.transfers, next.transfers)
    slab_forget(&s.transfer_extras, next.transfers)
    slab_forget(&s.links, next.transfers)
    slab_forget(&s.transfer_balances, next.transfers)
    slab_forget(&s.burned, next.burned)
    slab_forget(&s.ended, next.ended)
    slab_forget(&s.pendings, next.pendings)
    table_clear(&w.table)
    s.window_first += 1
    s.generation += 1
    return 0

cdef void window_keep(state_t *s, u32 reference, const window_t *w,
                      const window_t *next) noexcept nogil:
    """Keep a hold whose end is not sealed with the window that it was opened in."""
    cdef transfer_extra_t *extra = state_extra(s, reference)
    cdef u32 kept
    if (extra.resolution < RESOLUTION_OPEN
            and extra.resolved - <u32>w.ended < next.ended - w.ended):
        return
    kept = old_add(s, OLD_HOLD, state_transfer(s, reference), extra)
    if extra.resolution >= RESOLUTION_OPEN:
        state_hold(s, extra.resolution - RESOLUTION_OPEN).transfer = kept


# ---- what a request needs to know -----------------------------------------------------------

cdef inline bint window_knows(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Whether memory says all there is to know of the id."""
    cdef u64 number = s.window_end
    while number > s.window_first:
        number -= 1
        if history_find_in(s, &state_window(s, number).table, id, tag) != NONE:
            return True
    return old_find(s, id, tag) != NONE

cdef void window_want(state_t *s, u128 id) noexcept nogil:
    """Note the id unless memory knows it; of a sealed post or void its hold is needed as well."""
    cdef u32 tag = state_tag(s, id)
    cdef u32 reference
    if not window_knows(s, id, tag):
        wanted_id(&s.wanted, id)
        return
    reference = history_find(s, id, tag)
    if reference == NONE or reference & BURNED or not reference & OLD:
        return
    if state_transfer(s, reference).flags & (TRANSFER_POST_PENDING_TRANSFER
                                             | TRANSFER_VOID_PENDING_TRANSFER):
        id = state_transfer(s, reference).pending_id
        if not window_knows(s, id, state_tag(s, id)):
            wanted_id(&s.wanted, id)

cdef void window_want_ids(state_t *s, const u8 *records, u32 record_bytes, u32 count,
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
            window_want(s, u128_load(record))
        if transfers and state_event_flags(record) & (TRANSFER_POST_PENDING_TRANSFER
                                                      | TRANSFER_VOID_PENDING_TRANSFER):
            id = u128_load(record + EVENT_PENDING_ID_AT)
            if filter_maybe(&s.filter, u128_hash64(s.hash_key, id)):
                window_want(s, id)

cdef void window_want_timestamps(state_t *s, const u8 *events, u32 count) noexcept nogil:
    """Note the timestamps of imported accounts that a sealed transfer may have."""
    cdef account_t account
    cdef u32 i
    for i in range(count):
        memcpy(&account, events + i * <size_t>EVENT_BYTES, sizeof(account_t))
        if (account.flags & ACCOUNT_IMPORTED and account.timestamp <= s.sealed_timestamp_max
                and old_find_timestamp(s, account.timestamp) == NONE):
            wanted_timestamp(&s.wanted, account.timestamp)
