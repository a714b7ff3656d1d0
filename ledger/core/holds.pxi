# Holds: open pending transfers, in a heap by expiry.
#
# Needs: state.pxi. Gives: holds_*. A hold has a slot of its own as long as it is open; free slots
# are a list. Those that expire are in a 4-ary heap by expiry, then by age; each knows its index in
# it. It knows no balances: who opens or closes a hold changes those.

cdef inline bint holds_before(const state_t *s, u32 a, u32 b) noexcept nogil:
    cdef hold_t *first = state_hold(s, a)
    cdef hold_t *second = state_hold(s, b)
    if first.expires_at != second.expires_at:
        return first.expires_at < second.expires_at
    return first.position < second.position

cdef void holds_rise(state_t *s, u32 place, u32 slot) noexcept nogil:
    cdef u32 parent
    while place > 0:
        parent = (place - 1) // 4
        if not holds_before(s, slot, s.expiries[parent]):
            break
        s.expiries[place] = s.expiries[parent]
        state_hold(s, s.expiries[place]).place = place
        place = parent
    s.expiries[place] = slot
    state_hold(s, slot).place = place

cdef void holds_sink(state_t *s, u32 place, u32 slot) noexcept nogil:
    cdef u64 child, last, least
    while True:
        child = 4 * <u64>place + 1
        if child >= s.expiries_count:
            break
        least = child
        last = min(child + 4, s.expiries_count)
        for child in range(child + 1, last):
            if holds_before(s, s.expiries[child], s.expiries[least]):
                least = child
        if not holds_before(s, s.expiries[least], slot):
            break
        s.expiries[place] = s.expiries[least]
        state_hold(s, s.expiries[place]).place = place
        place = <u32>least
    s.expiries[place] = slot
    state_hold(s, slot).place = place

cdef void holds_verify(const state_t *s, u64 at) noexcept nogil:
    """Around an index of the heap: each knows its place and none comes before its parent."""
    cdef u64 child
    verify(s.expiries_count <= s.hold_count)  # some never expire
    verify(s.expiries_count <= s.expiries_room)
    verify(s.hold_count <= s.holds.count)
    if at >= s.expiries_count:
        return
    verify(state_hold(s, s.expiries[at]).place == at)
    verify(state_hold(s, s.expiries[at]).expires_at != 0)
    verify(state_hold(s, s.expiries[at]).position != 0)
    if at > 0:
        verify(not holds_before(s, s.expiries[at], s.expiries[(at - 1) // 4]))
    for child in range(4 * at + 1, min(4 * at + 5, s.expiries_count)):
        verify(not holds_before(s, s.expiries[child], s.expiries[at]))
        verify(state_hold(s, s.expiries[child]).place == child)

cdef void holds_schedule(state_t *s, u32 slot) noexcept nogil:
    if state_hold(s, slot).expires_at == 0:
        return
    invariant(s.expiries_count < s.expiries_room)
    s.expiries_count += 1
    holds_rise(s, <u32>(s.expiries_count - 1), slot)
    if VERIFIES:
        holds_verify(s, state_hold(s, slot).place)
        holds_verify(s, s.expiries_count - 1)

cdef void holds_unschedule(state_t *s, u32 slot) noexcept nogil:
    cdef u32 place = state_hold(s, slot).place
    cdef u32 moved
    if state_hold(s, slot).expires_at == 0:
        return
    s.expiries_count -= 1
    moved = s.expiries[s.expiries_count]
    if moved == slot:
        return
    if place > 0 and holds_before(s, moved, s.expiries[(place - 1) // 4]):
        holds_rise(s, place, moved)
    else:
        holds_sink(s, place, moved)
    if VERIFIES:
        holds_verify(s, place)
        holds_verify(s, state_hold(s, moved).place)

cdef u32 holds_open(state_t *s, u32 transfer, u128 amount, u64 expires_at) noexcept nogil:
    cdef u32 slot = s.hold_free
    cdef hold_t *hold
    verify(state_transfer(s, transfer).flags & TRANSFER_PENDING)
    verify(state_transfer(s, transfer).amount == amount)
    verify(state_extra(s, transfer).resolution < RESOLUTION_OPEN)  # a chain may take an end back
    if slot == NONE:
        slot = <u32>s.holds.count
        hold = <hold_t *>slab_append(&s.holds)
    else:
        hold = state_hold(s, slot)
        s.hold_free = hold.place
    hold.amount, hold.expires_at, hold.transfer = amount, expires_at, transfer
    hold.position = state_extra(s, transfer).position
    s.hold_count += 1
    state_extra(s, transfer).resolution = RESOLUTION_OPEN + slot
    holds_schedule(s, slot)
    return slot

cdef void holds_close(state_t *s, u32 slot, u32 outcome) noexcept nogil:
    cdef hold_t *hold = state_hold(s, slot)
    verify(slot < s.holds.count and hold.position != 0)
    verify(state_extra(s, hold.transfer).resolution == RESOLUTION_OPEN + slot)
    verify(state_extra(s, hold.transfer).position == hold.position)
    verify(outcome < RESOLUTION_OPEN)
    holds_unschedule(s, slot)
    state_extra(s, hold.transfer).resolution = outcome
    hold.position = 0
    hold.place = s.hold_free
    s.hold_free = slot
    s.hold_count -= 1
