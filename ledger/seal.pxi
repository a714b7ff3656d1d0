# Seal: what a segment holds of a closed window, and how a checkpoint comes back.
#
# Needs: state.pxi, old.pxi, history.pxi, snapshot.pxi, session.pxi, columns.h. Gives: seal_*
# (columns of the oldest closed window, in the order of the journal) and restore_*. Reads only what
# a closed window does not change any more, so it may run beside everything else; a transfer's place
# says, in the bits of its kind, which of its accounts have a history. Such an account also has a
# row for each expiry that changed it, and its balances after one row in 2^SEAL_HEADS_BITS, drawn by
# place: its balances after any row are these and the rows from there on.

cdef enum:
    SEAL_FIELDS = 5
    SEAL_HEADS_BITS = 8
    SEAL_DISTINCT_MAX = SEAL_FIELDS * BLOCK_TRANSFERS_MAX
    SEAL_SET_SLOTS = 1 << 15  # more than SEAL_DISTINCT_MAX

cdef struct seal_set_t:  # distinct hashes, in a list and in slots where 0 is empty
    u64 count
    u64 list[SEAL_DISTINCT_MAX]
    u64 *places[SEAL_DISTINCT_MAX]  # the slot of each
    u64 slots[SEAL_SET_SLOTS]

cdef struct seal_t:
    u64 window
    u64 ids, ends, rows, balances, chunk_count, chunk_room
    u64 *out_ids
    u64 *out_ends
    u64 *out_rows
    u64 *out_balances
    block_chunk_t *chunks


cdef void seal_measure(const state_t *s, u64 number, seal_t *seal) noexcept nogil:
    """How long the columns will be."""
    cdef window_t *w = state_window(s, number)
    cdef window_t *next = state_window(s, number + 1)
    cdef const ended_t *ended
    cdef u64 i, place
    memset(seal, 0, sizeof(seal_t))
    seal.window = number
    seal.ids = next.transfers - w.transfers + next.burned - w.burned
    seal.ends = next.ended - w.ended
    seal.rows = 2 * (next.transfers - w.transfers)
    for i in range(w.transfers, next.transfers):
        place = seal_extra(s, i).place
        if seal_has_head(place):
            seal.balances += (place & 1) + (place >> 1 & 1)
    for i in range(w.ended, next.ended):
        ended = <ended_t *>slab_at(&s.ended, i)
        if ended.outcome == HOLD_EXPIRED:
            seal.rows += (ended.place & 1) + (ended.place >> 1 & 1)

cdef inline bint seal_has_head(u64 place) noexcept nogil:
    return ((place & ~<u64>PLACE_KIND_MASK) * <u64>0x9E3779B97F4A7C15
            >> (64 - SEAL_HEADS_BITS)) == 0

cdef inline transfer_extra_t *seal_extra(const state_t *s, u64 ordinal) noexcept nogil:
    return <transfer_extra_t *>slab_at(&s.transfer_extras, ordinal)

cdef void seal_fill(const state_t *s, const u64 *key, seal_t *seal) noexcept nogil:
    cdef window_t *w = state_window(s, seal.window)
    cdef window_t *next = state_window(s, seal.window + 1)
    cdef u64 *ids = seal.out_ids
    cdef u64 *rows = seal.out_rows
    cdef u64 *ends = seal.out_ends
    cdef u64 *balances = seal.out_balances
    cdef const transfer_t *t
    cdef const transfer_extra_t *extra
    cdef const ended_t *ended
    cdef u64 i, place, burned_next = w.burned, ended_next = w.ended
    for i in range(w.transfers, next.transfers):
        t, extra = <transfer_t *>slab_at(&s.transfers, i), seal_extra(s, i)
        place = extra.place & ~<u64>PLACE_KIND_MASK
        ids = seal_burned(s, key, &burned_next, next.burned, place, ids)
        rows = seal_expired(s, &ended_next, next.ended, place, rows)
        ids[0], ids[1] = u128_hash64(key, t.id), place
        rows[0], rows[1], rows[2], rows[3] = extra.debit, place, extra.credit, place
        ids, rows = ids + 2, rows + 4
        if not seal_has_head(place):
            continue
        if extra.place & 1:
            seal_balances(s, i, True, extra.debit, t.timestamp, balances)
            balances += 12
        if extra.place & 2:
            seal_balances(s, i, False, extra.credit, t.timestamp, balances)
            balances += 12
    seal_burned(s, key, &burned_next, next.burned, ~<u64>0, ids)
    seal_expired(s, &ended_next, next.ended, ~<u64>0, rows)
    for i in range(w.ended, next.ended):
        ended = <ended_t *>slab_at(&s.ended, i)
        ends[0], ends[1] = ended.place & ~<u64>PLACE_KIND_MASK, ended.outcome
        ends += 2

cdef u64 *seal_expired(const state_t *s, u64 *first, u64 end, u64 place, u64 *rows) noexcept nogil:
    """The rows of the expiries that lie before `place`; where the next row goes."""
    cdef ended_t *ended
    while first[0] < end:
        ended = <ended_t *>slab_at(&s.ended, first[0])
        if ended.resolution_place > place:
            break
        if ended.outcome == HOLD_EXPIRED:
            if ended.place & 1:
                rows[0], rows[1] = ended.debit, ended.resolution_place | PLACE_EXPIRY_OF_DEBIT
                rows += 2
            if ended.place & 2:
                rows[0], rows[1] = ended.credit, ended.resolution_place | PLACE_EXPIRY_OF_CREDIT
                rows += 2
        first[0] += 1
    return rows

cdef u64 *seal_burned(const state_t *s, const u64 *key, u64 *first, u64 end, u64 place,
                      u64 *ids) noexcept nogil:
    """The burned ids that lie before `place`; where the next id goes."""
    cdef burned_t *burned
    while first[0] < end:
        burned = <burned_t *>slab_at(&s.burned, first[0])
        if burned.place > place:
            break
        ids[0], ids[1] = u128_hash64(key, burned.id), burned.place
        ids += 2
        first[0] += 1
    return ids

cdef void seal_balances(const state_t *s, u64 ordinal, bint debit, u64 account, u64 timestamp,
                        u64 *out) noexcept nogil:
    cdef transfer_balances_t *both = <transfer_balances_t *>slab_at(&s.transfer_balances, ordinal)
    out[0], out[1] = account, seal_extra(s, ordinal).place & ~<u64>PLACE_KIND_MASK
    out[2], out[3] = timestamp, 0
    memcpy(out + 4, &both.debit if debit else &both.credit, sizeof(balances_t))

cdef int seal_blocks(const state_t *s, const u64 *key, seal_t *seal) noexcept nogil:
    """The filters of the window's blocks. 0, or -1 when there is no memory."""
    cdef u64 first = state_window(s, seal.window).transfers
    cdef u64 end = state_window(s, seal.window + 1).transfers
    cdef seal_set_t *distinct = <seal_set_t *>calloc(1, sizeof(seal_set_t))
    cdef int why = 0 if distinct != NULL else -1
    while first < end and why == 0:
        why = seal_block(s, key, seal, first, min(end, first + BLOCK_TRANSFERS_MAX), distinct)
        first += BLOCK_TRANSFERS_MAX
    free(distinct)
    return why

cdef void seal_distinct(const state_t *s, const u64 *key, u64 first, u64 end,
                        seal_set_t *distinct) noexcept nogil:
    """Collect the hashes of what a block's transfers say."""
    cdef const transfer_t *t
    cdef const transfer_t *last = NULL
    cdef u64 i
    for i in range(distinct.count):
        distinct.places[i][0] = 0
    distinct.count = 0
    for i in range(first, end):
        t = <const transfer_t *>slab_at(&s.transfers, i)
        # Most repeat what the one before said.
        if last == NULL or t.user_data_128 != last.user_data_128:
            seal_note(key, BLOCK_FIELD_USER_DATA_128, t.user_data_128, distinct)
        if last == NULL or t.user_data_64 != last.user_data_64:
            seal_note(key, BLOCK_FIELD_USER_DATA_64, t.user_data_64, distinct)
        if last == NULL or t.user_data_32 != last.user_data_32:
            seal_note(key, BLOCK_FIELD_USER_DATA_32, t.user_data_32, distinct)
        if last == NULL or t.ledger != last.ledger:
            seal_note(key, BLOCK_FIELD_LEDGER, t.ledger, distinct)
        if last == NULL or t.code != last.code:
            seal_note(key, BLOCK_FIELD_CODE, t.code, distinct)
        last = t

cdef inline u64 *seal_slot(seal_set_t *distinct, u64 hashed) noexcept nogil:
    """Where the hash is, or would be put."""
    cdef u64 at = hashed % SEAL_SET_SLOTS
    while distinct.slots[at] != 0 and distinct.slots[at] != hashed:
        at = (at + 1) % SEAL_SET_SLOTS
    return &distinct.slots[at]

cdef inline void seal_note(const u64 *key, u32 field, u128 value,
                           seal_set_t *distinct) noexcept nogil:
    """Put the hash of a value other than 0 into the set."""
    cdef u64 hashed
    cdef u64 *slot
    if value == 0:
        return
    hashed = block_hash(key, field, value)
    slot = seal_slot(distinct, hashed)
    if slot[0] == 0 and hashed != 0:
        slot[0] = hashed
        distinct.list[distinct.count], distinct.places[distinct.count] = hashed, slot
        distinct.count += 1

cdef int seal_block(const state_t *s, const u64 *key, seal_t *seal, u64 first, u64 end,
                    seal_set_t *distinct) noexcept nogil:
    cdef u32 chunks
    cdef u64 room, i
    cdef block_chunk_t *grown
    seal_distinct(s, key, first, end, distinct)
    chunks = block_chunks(distinct.count)
    if seal.chunk_count + chunks > seal.chunk_room:
        room = 2 * seal.chunk_room + 256
        grown = <block_chunk_t *>realloc(seal.chunks, room * sizeof(block_chunk_t))
        if grown == NULL:
            return -1
        seal.chunks, seal.chunk_room = grown, room
    grown = seal.chunks + seal.chunk_count
    memset(grown, 0, chunks * sizeof(block_chunk_t))
    for i in range(distinct.count):
        block_filter_insert(grown, chunks, distinct.list[i])
    for i in range(chunks):
        grown[i].place_first = seal_extra(s, first).place & ~<u64>PLACE_KIND_MASK
        grown[i].chunk, grown[i].chunk_count = i, chunks
        grown[i].timestamp_first = (<transfer_t *>slab_at(&s.transfers, first)).timestamp
        grown[i].timestamp_last = (<transfer_t *>slab_at(&s.transfers, end - 1)).timestamp
        grown[i].transfers = <u32>(end - first)
        grown[i].group_last = seal_extra(s, end - 1).place >> PLACE_GROUP_SHIFT
    seal.chunk_count += chunks
    return 0


# ---- a checkpoint comes back: 0, -1 for no memory, 1 for what does not fit ------------------

cdef int restore_account(state_t *s, const account_t *account) noexcept nogil:
    cdef u32 tag = state_tag(s, account.id)
    if state_reserve(s, 1, 0):
        return -1
    if history_find_account(s, account.id, tag) != NONE:
        return 1
    history_add_account(s, account, tag)
    return 0

cdef int restore_hold(state_t *s, const hold_record_t *record) noexcept nogil:
    cdef transfer_extra_t extra
    if old_reserve(s, 1) or state_reserve(s, 0, 1):
        return -1
    if (record.debit >= s.accounts.count or record.credit >= s.accounts.count
            or old_at_position(s, record.position) != NONE):
        return 1
    memset(&extra, 0, sizeof(extra))
    extra.position, extra.place = record.position, record.place
    extra.debit, extra.credit = record.debit, record.credit
    hold_open(s, old_add(s, OLD_HOLD, &record.transfer, &extra), record.transfer.amount,
              record.expires_at)
    return 0

cdef int restore_session(state_t *s, const session_t *session) noexcept nogil:
    cdef session_record_t record
    cdef u32 index
    if session_reserve(s):
        return -1
    if session_find(s, session.client) != NONE:
        return 1
    memset(&record, 0, sizeof(record))
    record.client, record.checksum = session.client, session.checksum
    record.session, record.timestamp = session.session, session.register_timestamp
    record.release = session.release
    index = session_add(s, &record, session.group, session.record_offset)
    session_at(s, index).number = session.number
    return 0
