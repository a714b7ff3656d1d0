# Kept holds: pending transfers that outlive their memtable, until their end is in a segment.
#
# Needs: state.pxi, hash_table.h, retained.pxi. Gives: kept_holds_*. The end of a hold names the
# position of the transfer that opened it, so kept holds are found by position as well as by id.

cdef u32 kept_holds_at(const state_t *s, u64 position) noexcept nogil:
    """Reference of the kept hold whose transfer took the position, or NONE."""
    cdef u32 tag = state_tag(s, retained_key(position))
    cdef table_part_t *part = table_part(&s.kept_positions, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if reference == NONE or state_extra(s, reference).position == position:
            return reference

cdef int kept_holds_reserve(state_t *s, u64 more) noexcept nogil:
    """0, or -1 when there is no memory for so many. The tables split as memory allows."""
    return retained_reserve(s, more) | table_reserve(&s.kept_positions, more)

cdef u32 kept_holds_add(state_t *s, const transfer_t *transfer,
                        const transfer_extra_t *extra) noexcept nogil:
    cdef u32 reference
    verify(transfer.flags & TRANSFER_PENDING)
    verify(kept_holds_at(s, extra.position) == NONE)
    reference = retained_add(s, RETAINED_HOLD, transfer, extra)
    table_insert(&s.kept_positions, state_tag(s, retained_key(extra.position)), reference)
    return reference

cdef void kept_holds_remove(state_t *s, u32 reference) noexcept nogil:
    verify(retained_of(s, reference).kind == RETAINED_HOLD)
    verify(state_extra(s, reference).resolution < RESOLUTION_OPEN)  # an open one must be found
    table_remove(&s.kept_positions, state_tag(s, retained_key(state_extra(s, reference).position)),
                 reference)
    retained_remove(s, reference)
