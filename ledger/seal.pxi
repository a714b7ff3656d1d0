# Seal: what a segment holds of a closed window, and how a checkpoint comes back.
#
# Needs: state.pxi, old.pxi, history.pxi, snapshot.pxi, session.pxi, columns.h. Gives: seal_*
# (the columns of a closed window) and restore_*. Reads only what
# a closed window does not change any more, so it may run beside everything else; a transfer's place
# says, in the bits of its kind, which of its accounts have a history. Such an account also has a
# row for each expiry that changed it, and its balances after one row in 2^SEAL_HEADS_BITS, drawn by
# place: its balances after any row are these and the rows from there on.

cdef enum:
    SEAL_HEADS_BITS = 8
    SEAL_SET_SLOTS = 1 << 15  # more than BLOCK_KEYS_MAX
    RESTORE_AHEAD = 16  # accounts whose table slots are on their way
    SEAL_SHARES_MAX = 1 << 14  # of the rows, so that the place of each stays in the caches

cdef struct seal_set_t:  # distinct hashes of a block, in a list and in slots where 0 is empty
    u64 count
    u64 *list
    u64 *places[BLOCK_KEYS_MAX]  # the slot of each
    u64 slots[SEAL_SET_SLOTS]

cdef struct seal_room_t:  # what is used again for every window; all zero at first
    seal_set_t distinct
    # The open panel: how many blocks, most hashes of one, the hashes of all and where each's end.
    u32 blocks
    u64 most
    u64 *hashes  # of PANEL_BLOCKS_MAX * BLOCK_KEYS_MAX
    u64 ends[PANEL_BLOCKS_MAX]
    u8 lines[BLOCK_LINES_MAX * FILTER_BLOCK_BYTES]  # of a block's filter
    # Of all panels.
    panel_part_t *parts
    u64 part_count, part_room

cdef struct seal_t:
    u64 window
    u64 ids, ends, rows, balances, blocks
    # Where the next record of each goes; rows are put where they belong.
    u64 *out_ids
    u64 *out_ends
    u64 *out_balances
    column_pair_t *out_rows
    block_t *out_blocks
    u64 burned, ended  # the next of the window's
    # A share of the rows for every 2^share_bits accounts.
    u64 shares, share_bits
    u64 *share_ends  # where the next row of each goes


cdef int seal_measure(const state_t *s, u64 number, seal_t *seal) noexcept nogil:
    """How long the columns will be. 0, or -1 when there is no memory."""
    cdef window_t *w = state_window(s, number)
    cdef window_t *next = state_window(s, number + 1)
    cdef const transfer_extra_t *extra
    cdef const ended_t *ended
    cdef u64 i
    memset(seal, 0, sizeof(seal_t))
    seal.window, seal.burned, seal.ended = number, w.burned, w.ended
    seal.ids = next.transfers - w.transfers + next.burned - w.burned
    seal.ends = next.ended - w.ended
    seal.blocks = (next.transfers - w.transfers + BLOCK_TRANSFERS_MAX - 1) // BLOCK_TRANSFERS_MAX
    while s.accounts.count >> seal.share_bits >= SEAL_SHARES_MAX:
        seal.share_bits += 1
    seal.shares = (s.accounts.count >> seal.share_bits) + 1
    seal.share_ends = <u64 *>calloc(seal.shares, sizeof(u64))
    if seal.share_ends == NULL:
        return -1
    for i in range(w.transfers, next.transfers):
        extra = state_extra_of(s, i)
        seal.share_ends[extra.debit >> seal.share_bits] += 1
        seal.share_ends[extra.credit >> seal.share_bits] += 1
        if seal_has_head(extra.place):
            seal.balances += (extra.place & 1) + (extra.place >> 1 & 1)
    for i in range(w.ended, next.ended):
        ended = <ended_t *>slab_at(&s.ended, i)
        if ended.outcome == HOLD_EXPIRED:
            seal.share_ends[ended.debit >> seal.share_bits] += ended.place & 1
            seal.share_ends[ended.credit >> seal.share_bits] += ended.place >> 1 & 1
    for i in range(seal.shares):
        seal.rows += seal.share_ends[i]
        seal.share_ends[i] = seal.rows - seal.share_ends[i]
    return 0

cdef void seal_free(seal_t *seal) noexcept nogil:
    free(seal.share_ends)

cdef inline bint seal_has_head(u64 place) noexcept nogil:
    return ((place & ~<u64>PLACE_KIND_MASK) * <u64>0x9E3779B97F4A7C15
            >> (64 - SEAL_HEADS_BITS)) == 0

cdef void seal_room_free(seal_room_t *room) noexcept nogil:
    free(room.hashes)
    free(room.parts)

cdef int seal_fill(const state_t *s, const u64 *key, seal_t *seal,
                   seal_room_t *room) noexcept nogil:
    """All columns in one walk over the window, a block at a time: ids and balances in the order of
    their places, the others in their own. 0, or -1 when there is no memory."""
    cdef u64 first = state_window(s, seal.window).transfers
    cdef u64 last = state_window(s, seal.window + 1).transfers
    cdef column_pair_t *rows = seal.out_rows
    cdef u64 i, end
    cdef int why = 0
    if room.hashes == NULL:
        room.hashes = <u64 *>malloc(PANEL_BLOCKS_MAX * BLOCK_KEYS_MAX * sizeof(u64))
        if room.hashes == NULL:
            return -1
    room.part_count = room.blocks = room.most = 0
    while first < last and why == 0:
        end = min(last, first + BLOCK_TRANSFERS_MAX)
        for i in range(first, end):
            seal_transfer(s, key, seal, i)
        seal_block(s, key, seal, first, end, room)
        if room.blocks == PANEL_BLOCKS_MAX or end == last:
            why = seal_panel(seal.out_blocks - room.blocks, room)
        first = end
    seal_burned(s, key, seal, ~<u64>0)
    seal_ended(s, seal, ~<u64>0)
    return why if why != 0 else seal_sort_shares(seal, rows)

cdef inline void seal_transfer(const state_t *s, const u64 *key, seal_t *seal,
                               u64 ordinal) noexcept nogil:
    """A transfer's records, after those of all that lies before it."""
    cdef const transfer_t *t = state_transfer_of(s, ordinal)
    cdef const transfer_extra_t *extra = state_extra_of(s, ordinal)
    cdef u64 place = extra.place & ~<u64>PLACE_KIND_MASK
    seal_burned(s, key, seal, place)
    seal_ended(s, seal, place)
    seal_id(key, seal, t.id, place)
    seal_row(seal, extra.debit, place)
    seal_row(seal, extra.credit, place)
    if seal_has_head(place):
        if extra.place & 1:
            seal_balances(s, seal, ordinal, True, extra.debit, t.timestamp)
        if extra.place & 2:
            seal_balances(s, seal, ordinal, False, extra.credit, t.timestamp)

cdef inline void seal_id(const u64 *key, seal_t *seal, u128 id, u64 place) noexcept nogil:
    seal.out_ids[0], seal.out_ids[1] = u128_hash64(key, id), place
    seal.out_ids += 2

cdef inline void seal_row(seal_t *seal, u64 account, u64 place) noexcept nogil:
    cdef u64 *end = &seal.share_ends[account >> seal.share_bits]
    cdef column_pair_t *row = &seal.out_rows[end[0]]
    row.key, row.value = account, place
    end[0] += 1

cdef inline void seal_ended(const state_t *s, seal_t *seal, u64 place) noexcept nogil:
    """How the holds ended that ended before `place`, and the rows of those that ran out."""
    cdef ended_t *ended
    while seal.ended < state_window(s, seal.window + 1).ended:
        ended = <ended_t *>slab_at(&s.ended, seal.ended)
        if ended.resolution_place > place:
            break
        seal.out_ends[0] = ended.place & ~<u64>PLACE_KIND_MASK
        seal.out_ends[1] = ended.outcome
        seal.out_ends += 2
        if ended.outcome == HOLD_EXPIRED:
            if ended.place & 1:
                seal_row(seal, ended.debit, ended.resolution_place | PLACE_EXPIRY_OF_DEBIT)
            if ended.place & 2:
                seal_row(seal, ended.credit, ended.resolution_place | PLACE_EXPIRY_OF_CREDIT)
        seal.ended += 1

cdef inline void seal_burned(const state_t *s, const u64 *key, seal_t *seal,
                             u64 place) noexcept nogil:
    """The burned ids that lie before `place`."""
    cdef burned_t *burned
    while seal.burned < state_window(s, seal.window + 1).burned:
        burned = <burned_t *>slab_at(&s.burned, seal.burned)
        if burned.place > place:
            break
        seal_id(key, seal, burned.id, burned.place)
        seal.burned += 1

cdef void seal_balances(const state_t *s, seal_t *seal, u64 ordinal, bint debit, u64 account,
                        u64 timestamp) noexcept nogil:
    cdef transfer_balances_t *both = <transfer_balances_t *>slab_at(&s.transfer_balances, ordinal)
    cdef u64 *out = seal.out_balances
    out[0], out[1] = account, state_extra_of(s, ordinal).place & ~<u64>PLACE_KIND_MASK
    out[2], out[3] = timestamp, 0
    memcpy(out + 4, &both.debit if debit else &both.credit, sizeof(balances_t))
    seal.out_balances += 4 + sizeof(balances_t) // sizeof(u64)

cdef int seal_sort_shares(seal_t *seal, column_pair_t *rows) noexcept nogil:
    """Put the rows of accounts of one share in order. 0, or -1 when there is no memory."""
    cdef column_pair_t *scratch
    cdef u64 i, first = 0, most = 0
    if seal.share_bits == 0:
        return 0
    for i in range(seal.shares):
        most = max(most, seal.share_ends[i] - first)
        first = seal.share_ends[i]
    scratch = <column_pair_t *>malloc((most + 1) * sizeof(column_pair_t))
    if scratch == NULL:
        return -1
    first = 0
    for i in range(seal.shares):
        column_sort(rows + first, scratch, seal.share_ends[i] - first)
        first = seal.share_ends[i]
    free(scratch)
    return 0


# ---- blocks ---------------------------------------------------------------------------------

cdef void seal_distinct(const state_t *s, const u64 *key, u64 first, u64 end, u64 *hashes,
                        seal_set_t *distinct) noexcept nogil:
    """Collect the hashes of what a block's transfers say, each once, in `hashes`."""
    cdef const transfer_t *t
    cdef const transfer_t *last = NULL
    cdef u64 i
    for i in range(distinct.count):
        distinct.places[i][0] = 0
    distinct.count, distinct.list = 0, hashes
    for i in range(first, end):
        t = state_transfer_of(s, i)
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

cdef void seal_block(const state_t *s, const u64 *key, seal_t *seal, u64 first, u64 end,
                     seal_room_t *room) noexcept nogil:
    """A block's record, and its hashes, which wait for those of the rest of its panel."""
    cdef u64 before = room.ends[room.blocks - 1] if room.blocks else 0
    cdef block_t *block = seal.out_blocks
    block.place_first = state_extra_of(s, first).place & ~<u64>PLACE_KIND_MASK
    block.timestamp_first = state_transfer_of(s, first).timestamp
    block.timestamp_last = state_transfer_of(s, end - 1).timestamp
    block.group_last = state_extra_of(s, end - 1).place >> PLACE_GROUP_SHIFT
    block.panel = (block - room.blocks).place_first
    block.index, block.transfers = room.blocks, <u32>(end - first)
    seal.out_blocks += 1
    seal_distinct(s, key, first, end, room.hashes + before, &room.distinct)
    room.ends[room.blocks] = before + room.distinct.count
    room.most = max(room.most, room.distinct.count)
    room.blocks += 1

cdef int seal_panel(const block_t *first, seal_room_t *room) noexcept nogil:
    """The filters of a panel's blocks. 0, or -1 when there is no memory."""
    cdef u32 lines = panel_lines(room.most), parts = panel_parts(room.blocks, lines), i
    cdef u64 more, at = 0
    cdef panel_part_t *made
    if room.part_count + parts > room.part_room:
        more = 2 * room.part_count + parts
        made = <panel_part_t *>realloc(room.parts, more * sizeof(panel_part_t))
        if made == NULL:
            return -1
        room.parts, room.part_room = made, more
    made = room.parts + room.part_count
    memset(made, 0, parts * sizeof(panel_part_t))
    for i in range(parts):
        made[i].place_first, made[i].part = first.place_first, i
        made[i].block_count, made[i].line_count = room.blocks, lines
    for i in range(room.blocks):
        memset(room.lines, 0, lines * FILTER_BLOCK_BYTES)
        while at < room.ends[i]:
            filter_block_set(room.lines + filter_at(room.hashes[at], lines), room.hashes[at])
            at += 1
        panel_place(made, room.blocks, lines, i, room.lines)
    room.part_count += parts
    room.blocks = room.most = 0
    return 0


# ---- a checkpoint comes back: 0, -1 for no memory, 1 for what does not fit ------------------

cdef int restore_account(state_t *s, const account_t *account, u64 count) noexcept nogil:
    """The first of `count` accounts that lie one after another."""
    cdef u32 tag = state_tag(s, account.id)
    if count > RESTORE_AHEAD:
        table_prefetch(&s.account_table, state_tag(s, account[RESTORE_AHEAD].id))
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
