# Old: transfers that are no longer in a window but known, and what is known of the sealed past.
#
# Needs: state.pxi, u128.h, table.h. Gives: old_*. Two kinds of inhabitants. A hold that outlives
# its window stays until its end is sealed, too. What a request needs of the sealed past is attached
# before the request is judged: a transfer, that an id is burned, that there is none, whether a
# timestamp is taken. Attached ones are a bounded ring: the oldest leave, and a request that comes
# too late for them asks again.

cdef enum:
    ATTACHED_MAX = 1 << 18


cdef inline old_t *old_of(const state_t *s, u32 reference) noexcept nogil:
    return <old_t *>slab_at(&s.old, reference & REFERENCE_MASK)

cdef inline u128 old_key(u64 number) noexcept nogil:
    """A position or a timestamp as what a tag is made of."""
    return number

cdef u32 old_find(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Reference of what is known of the id, whatever it is, or NONE."""
    cdef table_part_t *part = table_part(&s.old_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if (reference == NONE or old_of(s, reference).kind != OLD_TIMESTAMP
                and state_transfer(s, reference).id == id):
            return reference

cdef u32 old_known(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """The transfer, the burned id, or NONE."""
    cdef u32 reference = old_find(s, id, tag)
    if reference == NONE or old_of(s, reference).kind == OLD_ABSENT:
        return NONE
    return reference | BURNED if old_of(s, reference).kind == OLD_BURNED else reference

cdef u32 old_find_timestamp(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 tag = state_tag(s, old_key(timestamp))
    cdef table_part_t *part = table_part(&s.old_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if (reference == NONE or old_of(s, reference).kind == OLD_TIMESTAMP
                and state_transfer(s, reference).timestamp == timestamp):
            return reference

cdef bint old_timestamp_taken(const state_t *s, u64 timestamp) noexcept nogil:
    cdef u32 reference = old_find_timestamp(s, timestamp)
    invariant(reference != NONE)
    return state_extra(s, reference).resolution != 0

cdef u32 old_at_position(const state_t *s, u64 position) noexcept nogil:
    """Reference of the kept hold whose transfer took the position, or NONE."""
    cdef u32 tag = state_tag(s, old_key(position))
    cdef table_part_t *part = table_part(&s.old_positions, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if reference == NONE or state_extra(s, reference).position == position:
            return reference

cdef int old_reserve(state_t *s, u64 more) noexcept nogil:
    """0, or -1 when there is no memory for so many. The tables split as memory allows."""
    return (slab_reserve(&s.old, more) | slab_reserve(&s.old_transfers, more)
            | slab_reserve(&s.old_extras, more) | table_reserve(&s.old_table, more)
            | table_reserve(&s.old_positions, more))

cdef u32 old_add(state_t *s, u32 kind, const transfer_t *transfer,
                 const transfer_extra_t *extra) noexcept nogil:
    cdef u32 index = s.old_free
    cdef u32 reference
    if index == NONE:
        index = <u32>s.old.count
        slab_append(&s.old)
        slab_append(&s.old_transfers)
        slab_append(&s.old_extras)
    else:
        s.old_free = old_of(s, index).next
    reference = index | OLD
    old_of(s, reference).kind = kind
    state_transfer(s, reference)[0] = transfer[0]
    state_extra(s, reference)[0] = extra[0]
    table_insert(&s.old_table, old_tag(s, reference), reference)
    if kind == OLD_HOLD:
        table_insert(&s.old_positions, state_tag(s, old_key(extra.position)), reference)
    return reference

cdef u32 old_tag(const state_t *s, u32 reference) noexcept nogil:
    if old_of(s, reference).kind == OLD_TIMESTAMP:
        return state_tag(s, old_key(state_transfer(s, reference).timestamp))
    return state_tag(s, state_transfer(s, reference).id)

cdef void old_remove(state_t *s, u32 reference) noexcept nogil:
    cdef old_t *old = old_of(s, reference)
    table_remove(&s.old_table, old_tag(s, reference), reference)
    if old.kind == OLD_HOLD:
        table_remove(&s.old_positions, state_tag(s, old_key(state_extra(s, reference).position)),
                     reference)
    old.kind, old.next = OLD_FREE, s.old_free
    s.old_free = reference & REFERENCE_MASK

cdef int old_attach(state_t *s, u32 kind, const transfer_t *transfer, u32 outcome) noexcept nogil:
    """Attach what was found of an id or a timestamp. 0, or -1 when there is no memory."""
    cdef transfer_extra_t extra
    if s.attached == NULL:
        s.attached = <u32 *>malloc(ATTACHED_MAX * sizeof(u32))
        if s.attached == NULL:
            return -1
    if (old_find_timestamp(s, transfer.timestamp) if kind == OLD_TIMESTAMP else
            old_find(s, transfer.id, state_tag(s, transfer.id))) != NONE:
        return 0
    if old_reserve(s, 1):
        return -1
    if s.attached_end - s.attached_first == ATTACHED_MAX:
        old_detach(s)
    memset(&extra, 0, sizeof(transfer_extra_t))
    extra.resolution = outcome
    s.attached[s.attached_end % ATTACHED_MAX] = old_add(s, kind, transfer, &extra)
    s.attached_end += 1
    return 0

cdef void old_detach(state_t *s) noexcept nogil:
    """Forget what was attached first."""
    old_remove(s, s.attached[s.attached_first % ATTACHED_MAX])
    s.attached_first += 1
