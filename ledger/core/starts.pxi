# Starts: which run of the server took which positions, and so what a client may have seen.
#
# Needs: state.pxi. Gives: starts_*. Each start has an id and owns the positions from its record up
# to the next start's. A reply says the position it saw and the id of the start that this is of; the
# client's next request says both again. When the journal was put back from an earlier copy, what
# was seen after the copy is of a start that is not there, or beyond where it ended: of a future
# that is lost. The newest starts are kept; what was seen before those cannot be judged and is
# believed, since nobody may be refused who saw nothing but the truth.

cdef inline start_mark_t *starts_at(const state_t *s, u64 ordinal) noexcept nogil:
    return &s.starts[ordinal % s.starts_max]

cdef inline u64 starts_kept(const state_t *s) noexcept nogil:
    return min(s.starts_end, s.starts_max)

cdef void starts_add(state_t *s, u64 id, u64 position) noexcept nogil:
    cdef start_mark_t *mark = starts_at(s, s.starts_end)
    mark.id, mark.position = id, position
    s.start = mark[0]
    s.starts_end += 1

cdef inline void starts_record(state_t *s, const start_t *record, u64 position) noexcept nogil:
    """A start record at this position; those of older software have no id but their time."""
    starts_add(s, record.id if record.id else record.timestamp, position)

cdef const start_mark_t *starts_owner(const state_t *s, u64 position) noexcept nogil:
    """The start that the position is of; NULL when it is not kept any more."""
    cdef u64 low, high = s.starts_end, middle
    if position >= s.start.position:
        return &s.start if high else NULL
    low = high - starts_kept(s)
    if position < starts_at(s, low).position:
        return NULL
    while high - low > 1:
        middle = (low + high) // 2
        if starts_at(s, middle).position <= position:
            low = middle
        else:
            high = middle
    return starts_at(s, low)

cdef inline u64 starts_id(const state_t *s, u64 position) noexcept nogil:
    """Id of the start that the position is of; 0 when it is not kept any more."""
    cdef const start_mark_t *owner = starts_owner(s, position)
    return owner.id if owner != NULL else 0

cdef bint starts_hold(const state_t *s, u128 parent) noexcept nogil:
    """Whether this book holds what a client saw: the context of its last reply."""
    cdef u64 position = <u64>parent
    cdef const start_mark_t *owner
    if position > s.position:
        return False
    owner = starts_owner(s, position)
    return owner == NULL or owner.id == <u64>(parent >> 64)

cdef void starts_copy(const state_t *s, start_mark_t *out) noexcept nogil:
    """Those that are kept, oldest first."""
    cdef u64 count = starts_kept(s), i
    for i in range(count):
        out[i] = starts_at(s, s.starts_end - count + i)[0]

cdef int starts_restore(state_t *s, const start_mark_t *mark) noexcept nogil:
    """One of a checkpoint's. 0, or 1 when it does not come after the one before."""
    if s.starts_end and mark.position <= starts_at(s, s.starts_end - 1).position:
        return 1
    starts_add(s, mark.id, mark.position)
    return 0
