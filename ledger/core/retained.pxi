# Retained: what memory knows of transfers outside of the memtables.
#
# Needs: state.pxi, u128.h, hash_table.h. Gives: retained_*. One pool with two users: kept_holds.pxi
# (holds that outlived their memtable) and lookup_cache.pxi (what a look-up in the history on disk
# said of an id or a timestamp). A reference with the bit RETAINED is an index here.

cdef enum:  # what an entry may be
    RETAINED_FREE = 0
    RETAINED_HOLD = 1  # a hold that outlived its memtable, until its end is in a segment
    RETAINED_TRANSFER = 2  # the others are of the look-up cache
    RETAINED_BURNED = 3
    RETAINED_ABSENT = 4
    RETAINED_TIMESTAMP = 5  # whether a transfer in the history has it: `resolution` says


cdef inline retained_t *retained_of(const state_t *s, u32 reference) noexcept nogil:
    return <retained_t *>slab_at(&s.retained, reference & REFERENCE_MASK)

cdef inline u128 retained_key(u64 number) noexcept nogil:
    """A position or a timestamp as what a tag is made of."""
    return number

cdef u32 retained_find(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """Reference of what is known of the id, whatever it is, or NONE."""
    cdef table_part_t *part = table_part(&s.retained_table, tag)
    cdef u32 at = table_home(tag)
    cdef u32 reference
    while True:
        reference = table_next(part, tag, &at)
        if (reference == NONE or retained_of(s, reference).kind != RETAINED_TIMESTAMP
                and state_transfer(s, reference).id == id):
            return reference

cdef u32 retained_known(const state_t *s, u128 id, u32 tag) noexcept nogil:
    """The transfer, the burned id, or NONE."""
    cdef u32 reference = retained_find(s, id, tag)
    if reference == NONE or retained_of(s, reference).kind == RETAINED_ABSENT:
        return NONE
    return reference | BURNED if retained_of(s, reference).kind == RETAINED_BURNED else reference

cdef int retained_reserve(state_t *s, u64 more) noexcept nogil:
    """0, or -1 when there is no memory for so many. The tables split as memory allows."""
    return (slab_reserve(&s.retained, more) | slab_reserve(&s.retained_transfers, more)
            | slab_reserve(&s.retained_extras, more) | table_reserve(&s.retained_table, more))

cdef u32 retained_add(state_t *s, u32 kind, const transfer_t *transfer,
                      const transfer_extra_t *extra) noexcept nogil:
    cdef u32 index = s.retained_free
    cdef u32 reference
    verify(kind != RETAINED_FREE)
    verify(index == NONE or retained_of(s, index).kind == RETAINED_FREE)
    if index == NONE:
        index = <u32>s.retained.count
        slab_append(&s.retained)
        slab_append(&s.retained_transfers)
        slab_append(&s.retained_extras)
    else:
        s.retained_free = retained_of(s, index).next
    reference = index | RETAINED
    retained_of(s, reference).kind = kind
    state_transfer(s, reference)[0] = transfer[0]
    state_extra(s, reference)[0] = extra[0]
    table_insert(&s.retained_table, retained_tag(s, reference), reference)
    return reference

cdef u32 retained_tag(const state_t *s, u32 reference) noexcept nogil:
    if retained_of(s, reference).kind == RETAINED_TIMESTAMP:
        return state_tag(s, retained_key(state_transfer(s, reference).timestamp))
    return state_tag(s, state_transfer(s, reference).id)

cdef void retained_remove(state_t *s, u32 reference) noexcept nogil:
    cdef retained_t *entry = retained_of(s, reference)
    verify(entry.kind != RETAINED_FREE)
    table_remove(&s.retained_table, retained_tag(s, reference), reference)
    entry.kind, entry.next = RETAINED_FREE, s.retained_free
    s.retained_free = reference & REFERENCE_MASK
