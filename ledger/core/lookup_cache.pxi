# Lookup cache: what look-ups in the history on disk said of ids and timestamps.
#
# Needs: state.pxi, retained.pxi. Gives: lookup_cache_*. What a request needs of the history is put
# here before the request is judged: a transfer, that an id is burned, that there is none, whether a
# timestamp is taken. A bounded ring: the oldest make room, and a request that comes too late for
# what it needs asks for it again.

cdef enum:
    LOOKUP_CACHE_MAX = 1 << 18


cdef u32 lookup_cache_find_timestamp(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 tag = state_tag(s, retained_key(timestamp))
    cdef table_part_t *part = table_part(&s.retained_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if (reference == NONE or retained_of(s, reference).kind == RETAINED_TIMESTAMP
                and state_transfer(s, reference).timestamp == timestamp):
            return reference

cdef bint lookup_cache_timestamp_taken(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 reference = lookup_cache_find_timestamp(s, timestamp)
    invariant(reference != NONE)
    return state_extra(s, reference).resolution != 0

cdef int lookup_cache_add(state_t *s, u32 kind, const transfer_t *transfer,
                          u32 outcome) noexcept nogil:
    """Keep what was found of an id or a timestamp. 0, or -1 when there is no memory."""
    cdef transfer_extra_t extra
    if s.cached == NULL:
        s.cached = <u32 *>malloc(LOOKUP_CACHE_MAX * sizeof(u32))
        if s.cached == NULL:
            return -1
    if (lookup_cache_find_timestamp(s, transfer.timestamp) if kind == RETAINED_TIMESTAMP else
            retained_find(s, transfer.id, state_tag(s, transfer.id))) != NONE:
        return 0
    if retained_reserve(s, 1):
        return -1
    if s.cached_end - s.cached_first == LOOKUP_CACHE_MAX:
        lookup_cache_forget(s)
    memset(&extra, 0, sizeof(transfer_extra_t))
    extra.resolution = outcome
    s.cached[s.cached_end % LOOKUP_CACHE_MAX] = retained_add(s, kind, transfer, &extra)
    s.cached_end += 1
    return 0

cdef void lookup_cache_forget(state_t *s) noexcept nogil:
    """Forget the oldest entry."""
    verify(s.cached_first < s.cached_end)
    verify(retained_of(s, s.cached[s.cached_first % LOOKUP_CACHE_MAX]).kind != RETAINED_HOLD)
    retained_remove(s, s.cached[s.cached_first % LOOKUP_CACHE_MAX])
    s.cached_first += 1

cdef void lookup_cache_clear(state_t *s) noexcept nogil:
    while s.cached_first < s.cached_end:
        lookup_cache_forget(s)
