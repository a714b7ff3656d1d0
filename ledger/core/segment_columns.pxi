# Segment columns: what a segment says of a closed memtable.
#
# Needs: state.pxi, column_format.h. Gives: segment_columns_*. Reads only what a closed memtable
# does not change any more, so it may run beside everything else; a transfer's place says, in the
# bits of its kind, which of its accounts have a history. Such an account also has a row for each
# expiry that changed it, and its balances after one row in 2^SEGMENT_HEADS_BITS, drawn by place:
# its balances after any row are these and the rows from there on.

cdef enum:
    SEGMENT_HEADS_BITS = 8
    SEGMENT_SET_SLOTS = 1 << 15  # more than BLOCK_KEYS_MAX
    SEGMENT_SHARES_MAX = 1 << 14  # of the rows, so that the place of each stays in the caches

cdef struct segment_columns_set_t:  # a block's hashes, in a list and in slots, 0 for empty
    u64 count
    u64 *list
    u64 *places[BLOCK_KEYS_MAX]  # the slot of each
    u64 slots[SEGMENT_SET_SLOTS]

cdef struct segment_columns_room_t:  # what is used again for every memtable; all zero at first
    segment_columns_set_t distinct
    # The open panel: how many blocks, most hashes of one, the hashes of all and where each's end.
    u32 blocks
    u64 most
    u64 *hashes  # of PANEL_BLOCKS_MAX * BLOCK_KEYS_MAX
    u64 ends[PANEL_BLOCKS_MAX]
    u8 lines[BLOCK_LINES_MAX * FILTER_BLOCK_BYTES]  # of a block's filter
    # Of all panels.
    panel_part_t *parts
    u64 part_count, part_room

cdef struct segment_columns_t:
    u64 memtable
    u64 ids, ends, rows, balances, blocks
    # Where the next record of each goes; rows are put where they belong.
    u64 *out_ids
    u64 *out_ends
    u64 *out_balances
    pair_t *out_rows
    block_t *out_blocks
    u64 burned, ended  # the next of the memtable's
    # A share of the rows for every 2^share_bits accounts.
    u64 shares, share_bits
    u64 *share_ends  # where the next row of each goes


cdef int segment_columns_measure(const state_t *s, u64 number,
                                 segment_columns_t *columns) noexcept nogil:
    """How long the columns will be. 0, or -1 when there is no memory."""
    cdef memtable_t *w = state_memtable(s, number)
    cdef memtable_t *next = state_memtable(s, number + 1)
    cdef const transfer_extra_t *extra
    cdef const ended_t *ended
    cdef u64 i
    memset(columns, 0, sizeof(segment_columns_t))
    columns.memtable, columns.burned, columns.ended = number, w.burned, w.ended
    columns.ids = next.transfers - w.transfers + next.burned - w.burned
    columns.ends = next.ended - w.ended
    columns.blocks = (next.transfers - w.transfers + BLOCK_TRANSFERS_MAX - 1) // BLOCK_TRANSFERS_MAX
    while s.accounts.count >> columns.share_bits >= SEGMENT_SHARES_MAX:
        columns.share_bits += 1
    columns.shares = (s.accounts.count >> columns.share_bits) + 1
    columns.share_ends = <u64 *>calloc(columns.shares, sizeof(u64))
    if columns.share_ends == NULL:
        return -1
    for i in range(w.transfers, next.transfers):
        extra = state_extra_of(s, i)
        columns.share_ends[extra.debit >> columns.share_bits] += 1
        columns.share_ends[extra.credit >> columns.share_bits] += 1
        if segment_columns_has_head(extra.place):
            columns.balances += (extra.place & 1) + (extra.place >> 1 & 1)
    for i in range(w.ended, next.ended):
        ended = <ended_t *>slab_at(&s.ended, i)
        if ended.outcome == HOLD_EXPIRED:
            columns.share_ends[ended.debit >> columns.share_bits] += ended.place & 1
            columns.share_ends[ended.credit >> columns.share_bits] += ended.place >> 1 & 1
    for i in range(columns.shares):
        columns.rows += columns.share_ends[i]
        columns.share_ends[i] = columns.rows - columns.share_ends[i]
    return 0

cdef void segment_columns_free(segment_columns_t *columns) noexcept nogil:
    free(columns.share_ends)

cdef inline bint segment_columns_has_head(u64 place) noexcept nogil:
    return ((place & ~<u64>PLACE_KIND_MASK) * <u64>0x9E3779B97F4A7C15
            >> (64 - SEGMENT_HEADS_BITS)) == 0

cdef void segment_columns_room_free(segment_columns_room_t *room) noexcept nogil:
    free(room.hashes)
    free(room.parts)

cdef int segment_columns_fill(const state_t *s, const u64 *key, segment_columns_t *columns,
                              segment_columns_room_t *room) noexcept nogil:
    """All columns in one walk over the memtable, a block at a time: ids and balances in the order
    of their places, the others in their own. 0, or -1 when there is no memory."""
    cdef u64 first = state_memtable(s, columns.memtable).transfers
    cdef u64 last = state_memtable(s, columns.memtable + 1).transfers
    cdef pair_t *rows = columns.out_rows
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
            segment_columns_transfer(s, key, columns, i)
        segment_columns_block(s, key, columns, first, end, room)
        if room.blocks == PANEL_BLOCKS_MAX or end == last:
            why = segment_columns_panel(columns.out_blocks - room.blocks, room)
        first = end
    segment_columns_burned(s, key, columns, ~<u64>0)
    segment_columns_ended(s, columns, ~<u64>0)
    return why if why != 0 else segment_columns_sort_shares(columns, rows)

cdef inline void segment_columns_transfer(const state_t *s, const u64 *key,
                                          segment_columns_t *columns, u64 ordinal) noexcept nogil:
    """A transfer's records, after those of all that lies before it."""
    cdef const transfer_t *t = state_transfer_of(s, ordinal)
    cdef const transfer_extra_t *extra = state_extra_of(s, ordinal)
    cdef u64 place = extra.place & ~<u64>PLACE_KIND_MASK
    segment_columns_burned(s, key, columns, place)
    segment_columns_ended(s, columns, place)
    segment_columns_id(key, columns, t.id, place)
    segment_columns_row(columns, extra.debit, place)
    segment_columns_row(columns, extra.credit, place)
    if segment_columns_has_head(place):
        if extra.place & 1:
            segment_columns_balances(s, columns, ordinal, True, extra.debit, t.timestamp)
        if extra.place & 2:
            segment_columns_balances(s, columns, ordinal, False, extra.credit, t.timestamp)

cdef inline void segment_columns_id(const u64 *key, segment_columns_t *columns, u128 id,
                                    u64 place) noexcept nogil:
    columns.out_ids[0], columns.out_ids[1] = u128_hash64(key, id), place
    columns.out_ids += 2

cdef inline void segment_columns_row(segment_columns_t *columns, u64 account,
                                     u64 place) noexcept nogil:
    cdef u64 *end = &columns.share_ends[account >> columns.share_bits]
    cdef pair_t *row = &columns.out_rows[end[0]]
    row.key, row.value = account, place
    end[0] += 1

cdef inline void segment_columns_ended(const state_t *s, segment_columns_t *columns,
                                       u64 place) noexcept nogil:
    """How the holds ended that ended before `place`, and the rows of those that ran out."""
    cdef ended_t *ended
    while columns.ended < state_memtable(s, columns.memtable + 1).ended:
        ended = <ended_t *>slab_at(&s.ended, columns.ended)
        if ended.resolution_place > place:
            break
        columns.out_ends[0] = ended.place & ~<u64>PLACE_KIND_MASK
        columns.out_ends[1] = ended.outcome
        columns.out_ends += 2
        if ended.outcome == HOLD_EXPIRED:
            if ended.place & 1:
                segment_columns_row(columns, ended.debit,
                                    ended.resolution_place | PLACE_EXPIRY_OF_DEBIT)
            if ended.place & 2:
                segment_columns_row(columns, ended.credit,
                                    ended.resolution_place | PLACE_EXPIRY_OF_CREDIT)
        columns.ended += 1

cdef inline void segment_columns_burned(const state_t *s, const u64 *key,
                                        segment_columns_t *columns, u64 place) noexcept nogil:
    """The burned ids that lie before `place`."""
    cdef burned_t *burned
    while columns.burned < state_memtable(s, columns.memtable + 1).burned:
        burned = <burned_t *>slab_at(&s.burned, columns.burned)
        if burned.place > place:
            break
        segment_columns_id(key, columns, burned.id, burned.place)
        columns.burned += 1

cdef void segment_columns_balances(const state_t *s, segment_columns_t *columns, u64 ordinal,
                                   bint debit, u64 account, u64 timestamp) noexcept nogil:
    cdef transfer_balances_t *both = <transfer_balances_t *>slab_at(&s.transfer_balances, ordinal)
    cdef u64 *out = columns.out_balances
    out[0], out[1] = account, state_extra_of(s, ordinal).place & ~<u64>PLACE_KIND_MASK
    out[2], out[3] = timestamp, 0
    memcpy(out + 4, &both.debit if debit else &both.credit, sizeof(balances_t))
    columns.out_balances += 4 + sizeof(balances_t) // sizeof(u64)

cdef int segment_columns_sort_shares(segment_columns_t *columns,
                                     pair_t *rows) noexcept nogil:
    """Put the rows of accounts of one share in order. 0, or -1 when there is no memory."""
    cdef pair_t *scratch
    cdef u64 i, first = 0, most = 0
    if columns.share_bits == 0:
        return 0
    for i in range(columns.shares):
        most = max(most, columns.share_ends[i] - first)
        first = columns.share_ends[i]
    scratch = <pair_t *>malloc((most + 1) * sizeof(pair_t))
    if scratch == NULL:
        return -1
    first = 0
    for i in range(columns.shares):
        pair_sort_by_key(rows + first, scratch, columns.share_ends[i] - first)
        first = columns.share_ends[i]
    free(scratch)
    return 0


# ---- blocks ---------------------------------------------------------------------------------

cdef void segment_columns_distinct(const state_t *s, const u64 *key, u64 first, u64 end,
                                   u64 *hashes, segment_columns_set_t *distinct) noexcept nogil:
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
            segment_columns_note(key, BLOCK_FIELD_USER_DATA_128, t.user_data_128, distinct)
        if last == NULL or t.user_data_64 != last.user_data_64:
            segment_columns_note(key, BLOCK_FIELD_USER_DATA_64, t.user_data_64, distinct)
        if last == NULL or t.user_data_32 != last.user_data_32:
            segment_columns_note(key, BLOCK_FIELD_USER_DATA_32, t.user_data_32, distinct)
        if last == NULL or t.ledger != last.ledger:
            segment_columns_note(key, BLOCK_FIELD_LEDGER, t.ledger, distinct)
        if last == NULL or t.code != last.code:
            segment_columns_note(key, BLOCK_FIELD_CODE, t.code, distinct)
        last = t

cdef inline u64 *segment_columns_slot(segment_columns_set_t *distinct, u64 hashed) noexcept nogil:
    """Where the hash is, or would be put."""
    cdef u64 at = hashed % SEGMENT_SET_SLOTS
    while distinct.slots[at] != 0 and distinct.slots[at] != hashed:
        at = (at + 1) % SEGMENT_SET_SLOTS
    return &distinct.slots[at]

cdef inline void segment_columns_note(const u64 *key, u32 field, u128 value,
                                      segment_columns_set_t *distinct) noexcept nogil:
    """Put the hash of a value other than 0 into the set."""
    cdef u64 hashed
    cdef u64 *slot
    if value == 0:
        return
    hashed = block_hash(key, field, value)
    slot = segment_columns_slot(distinct, hashed)
    if slot[0] == 0 and hashed != 0:
        slot[0] = hashed
        distinct.list[distinct.count], distinct.places[distinct.count] = hashed, slot
        distinct.count += 1

cdef void segment_columns_block(const state_t *s, const u64 *key, segment_columns_t *columns,
                                u64 first, u64 end, segment_columns_room_t *room) noexcept nogil:
    """A block's record, and its hashes, which wait for those of the rest of its panel."""
    cdef u64 before = room.ends[room.blocks - 1] if room.blocks else 0
    cdef block_t *block = columns.out_blocks
    block.place_first = state_extra_of(s, first).place & ~<u64>PLACE_KIND_MASK
    block.timestamp_first = state_transfer_of(s, first).timestamp
    block.timestamp_last = state_transfer_of(s, end - 1).timestamp
    block.group_last = state_extra_of(s, end - 1).place >> PLACE_GROUP_SHIFT
    block.panel = (block - room.blocks).place_first
    block.index, block.transfers = room.blocks, <u32>(end - first)
    columns.out_blocks += 1
    segment_columns_distinct(s, key, first, end, room.hashes + before, &room.distinct)
    room.ends[room.blocks] = before + room.distinct.count
    room.most = max(room.most, room.distinct.count)
    room.blocks += 1

cdef int segment_columns_panel(const block_t *first, segment_columns_room_t *room) noexcept nogil:
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
