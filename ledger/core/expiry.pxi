# Expiry: holds whose time is over end by themselves.
#
# Needs: state.pxi, resolutions.pxi. Gives: expiry_*. Nothing is judged here: what is due ends, in
# the order of expiry. Time is a parameter.

cdef u64 expiry_is_due(const state_t *s, u64 now) noexcept nogil:
    """Whether a hold has run out by `now` or by the ledger clock, whichever is later."""
    return (s.expiries_count != 0
            and state_hold(s, s.expiries[0]).expires_at <= max(s.clock, now))

cdef u64 expiry_count(const state_t *s, u64 deadline) noexcept nogil:
    """How many holds, EXPIRIES_MAX at most, have run out: a walk over the top of the heap."""
    cdef u32 stack[4 * 64]
    cdef u32 depth = 0, place
    cdef u64 due = 0, child
    if s.expiries_count == 0:
        return 0
    stack[0] = 0
    depth = 1
    while depth > 0 and due < EXPIRIES_MAX:
        depth -= 1
        place = stack[depth]
        if state_hold(s, s.expiries[place]).expires_at > deadline:
            continue
        due += 1
        for child in range(4 * <u64>place + 1, min(4 * <u64>place + 5, s.expiries_count)):
            stack[depth] = <u32>child
            depth += 1
    return due

cdef void expiry_run(state_t *s, u64 now) noexcept nogil:
    """One step: up to EXPIRIES_MAX due holds, by expiry then age, each with a timestamp of its own.
    """
    cdef u64 due = expiry_count(s, max(s.clock, now))
    cdef u64 last = max(s.clock + due, now)
    cdef u64 i

    # ---- point of no return ----
    for i in range(due):
        verify(state_hold(s, s.expiries[0]).expires_at <= last - due + 1 + i)  # none ends early
        resolutions_write(s, state_hold(s, s.expiries[0]).transfer, last - due + 1 + i,
                          HOLD_EXPIRED)
    s.clock = last
