# Memtable: transfers live in memory by generations; a flushed one is evicted.
#
# Needs: state.pxi, read_cache.pxi, kept_holds.pxi, lookup_cache.pxi. Gives: memtable_*. The open
# memtable is rotated at the end of a group once it holds enough: a function of the journal alone. A
# closed memtable changes no more, so another thread can read and flush it; only how a hold ended
# still changes, and that thread does not look at it. The ids of a flushed memtable are in the
# filter before it is evicted.

cdef u64 memtable_events(const state_t *s) noexcept nogil:
    """What the open memtable holds."""
    cdef memtable_t *w = state_open_memtable(s)
    return (s.transfers.count - w.transfers + s.burned.count - w.burned
            + s.ended.count - w.ended)

cdef bint memtable_is_full(const state_t *s) noexcept nogil:
    return s.memtable_events_max != 0 and memtable_events(s) >= s.memtable_events_max

cdef void memtable_rotate(state_t *s, u64 group_last) noexcept nogil:
    """Close the open memtable with this group, and open the next."""
    cdef memtable_t *next = state_memtable(s, s.memtable_end)
    invariant(s.memtable_end - s.memtable_first < MEMTABLES_MAX)
    verify(state_open_memtable(s).group_first <= group_last)
    verify(next.table.count == 0)  # it was cleared when it was evicted
    verify(not s.chain_open)
    state_open_memtable(s).group_last = group_last
    next.transfers, next.burned = s.transfers.count, s.burned.count
    next.ended, next.pendings = s.ended.count, s.pendings.count
    next.group_first, next.group_last = group_last + 1, 0
    s.memtable_end += 1
    slab_publish()

cdef u64 memtable_closed_at(const state_t *s, u64 group_first) noexcept nogil:
    """The memtable that begins with this group, or where memtables end."""
    cdef u64 number = s.memtable_first
    while number < s.memtable_end and state_memtable(s, number).group_first != group_first:
        number += 1
    return number

cdef int memtable_evict(state_t *s) noexcept nogil:
    """Forget the oldest memtable, which is closed and flushed. 0, or -1 when there is no memory to
    keep the holds that outlive it: nothing is changed then."""
    cdef memtable_t *w = state_memtable(s, s.memtable_first)
    cdef memtable_t *next = state_memtable(s, s.memtable_first + 1)
    cdef u64 i
    cdef u32 kept
    invariant(s.memtable_end - s.memtable_first > 1)
    verify(w.group_last + 1 == next.group_first)
    verify(w.table.count == next.transfers - w.transfers + next.burned - w.burned)
    if kept_holds_reserve(s, next.pendings - w.pendings):
        return -1
    # ---- point of no return ----
    lookup_cache_clear(s)
    read_cache_clear(&s.read_cache)
    for i in range(w.pendings, next.pendings):
        memtable_keep_hold(s, (<u32 *>slab_at(&s.pendings, i))[0], w, next)
    for i in range(w.ended, next.ended):
        kept = kept_holds_at(s, (<ended_t *>slab_at(&s.ended, i)).position)
        if kept != NONE:
            kept_holds_remove(s, kept)
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
    s.memtable_first += 1
    s.generation += 1
    verify(s.sealed_timestamp_max <= s.transfer_timestamp_max)
    verify(s.cached_first == s.cached_end)
    verify(s.read_cache.first == s.read_cache.end)
    verify(s.kept_positions.count <= s.retained_table.count)
    return 0

cdef void memtable_keep_hold(state_t *s, u32 reference, const memtable_t *w,
                             const memtable_t *next) noexcept nogil:
    """Keep a hold whose end is not flushed with the memtable that it was opened in."""
    cdef transfer_extra_t *extra = state_extra(s, reference)
    cdef u32 kept
    if (extra.resolution < RESOLUTION_OPEN
            and extra.resolved - <u32>w.ended < next.ended - w.ended):
        return
    kept = kept_holds_add(s, state_transfer(s, reference), extra)
    if extra.resolution >= RESOLUTION_OPEN:
        state_hold(s, extra.resolution - RESOLUTION_OPEN).transfer = kept
