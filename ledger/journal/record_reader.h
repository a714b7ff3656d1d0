/* Records at places: from a group's body where it lies, or from the journal's file.
 *
 * A block of 4,096 bytes is checked when something is read from it, once a body, so that a few
 * records cost a few blocks and not a whole group. From the file just those blocks are read, their
 * checks and the group's header: first what memory holds, then, once all that is missing has been
 * asked of the disk, the rest. A group that is not perfect on this way, for whatever reason, is not
 * taken, and nothing says why: the library that the file belongs to is asked for it instead, and
 * what it says counts. Who looks for records in a body reads of it what is looked at, in steps.
 * The weak spot: whether a place begins a record can only be told from the
 * record's looks, because telling for certain means walking, and checking, all of the group before
 * it. Knows neither what led to a place nor what becomes of a record.
 */
#ifndef LEDGER_PLACES_H
#define LEDGER_PLACES_H

#include <fcntl.h>

#include "journal/block_checks.h"
#include "journal/lmdb_pages.h"

enum {
    NO_BLOCK = -1, /* all that was read was intact */
    NOT_A_RECORD = -2,
    BODY_BYTES_END = (PLACE_OFFSET_MASK + 1) * 16,
    BODY_BLOCKS_MAX = BODY_BYTES_END / BLOCK_BYTES,
};

typedef struct {
    const u8 *bytes, *checks;
    u64 length, group;
    u64 checked[BODY_BLOCKS_MAX / 64]; /* a bit for each block that was found intact */
    int64_t bad; /* NO_BLOCK, the number of a block that is not intact, or NOT_A_RECORD */
    struct apart *apart; /* how to get a block of a body that is not all there; or NULL */
} body_t;

static inline bool apart_fetch(struct apart *apart, u64 block);

static inline void body_init(body_t *b, const u8 *bytes, u64 length, const u8 *checks, u64 group) {
    *b = (body_t){
        .bytes = bytes, .checks = checks, .length = length, .group = group, .bad = NO_BLOCK};
}

/* Copy from the body what lies in intact blocks; false, and b->bad says why, when it cannot. */
static inline bool body_read(body_t *b, u64 offset, void *to, u64 length) {
    if (offset > b->length || length > b->length - offset) {
        b->bad = NOT_A_RECORD;
        return false;
    }
    for (u64 i = offset / BLOCK_BYTES; i <= (offset + length - 1) / BLOCK_BYTES; i++) {
        if (b->checked[i / 64] >> i % 64 & 1) continue;
        if ((b->apart && !apart_fetch(b->apart, i)) ||
            !block_intact(b->bytes, b->length, b->checks, b->group, i)) {
            b->bad = (int64_t)i;
            return false;
        }
        b->checked[i / 64] |= (u64)1 << i % 64;
    }
    memcpy(to, b->bytes + offset, length);
    return true;
}

/* ---- records in a body ---------------------------------------------------------------------- */

static inline u64 place_group(u64 place) { return place >> PLACE_GROUP_SHIFT; }
static inline u64 place_offset(u64 place) {
    return (place >> PLACE_OFFSET_SHIFT & PLACE_OFFSET_MASK) * 16;
}

/* Bytes of a record of the kind that a place says. */
static inline u64 place_bytes(u64 place) {
    const u64 kind = place & PLACE_KIND_MASK;
    return record_bytes_of_kind(kind == PLACE_TRANSFER    ? KIND_TRANSFER
                                : kind == PLACE_BURNED_ID ? KIND_BURNED_ID
                                                          : KIND_RESOLUTION);
}

/* Whether these bytes can be a record of the kind that a place says. */
static inline bool place_looks_right(u64 place, const u8 *record) {
    const u64 kind = place & PLACE_KIND_MASK;
    transfer_t t;
    burned_id_t burned;
    resolution_t resolution;
    if (kind >= PLACE_EXPIRY_OF_DEBIT) {
        memcpy(&resolution, record, sizeof resolution);
        return resolution.outcome >= HOLD_POSTED && resolution.outcome <= HOLD_EXPIRED &&
               resolution.position != 0 && resolution.timestamp > 0 &&
               resolution.timestamp <= TIMESTAMP_MAX;
    }
    if (kind == PLACE_BURNED_ID) {
        memcpy(&burned, record, sizeof burned);
        return burned.id != 0 && burned.id != U128_MAX && burned.status != 0 &&
               burned.reserved == 0 && burned.timestamp > 0 && burned.timestamp <= TIMESTAMP_MAX;
    }
    memcpy(&t, record, sizeof t);
    return t.id != 0 && t.id != U128_MAX && t.debit_account_id != 0 &&
           t.credit_account_id != 0 && t.debit_account_id != t.credit_account_id &&
           t.ledger != 0 && t.code != 0 && (t.flags & ~(u32)TRANSFER_FLAGS_KNOWN) == 0 &&
           t.timestamp > 0 && t.timestamp <= TIMESTAMP_MAX;
}

/* Copy the records at the places, zeros after what is shorter than a transfer; b->bad tells. */
static inline void body_take(body_t *b, const u64 *places, u64 count, u8 *out) {
    for (u64 i = 0; i < count; i++, out += sizeof(transfer_t)) {
        if (place_group(places[i]) != b->group ||
            (places[i] & PLACE_KIND_MASK) > PLACE_EXPIRY_OF_CREDIT) {
            b->bad = NOT_A_RECORD;
            return;
        }
        memset(out, 0, sizeof(transfer_t));
        if (!body_read(b, place_offset(places[i]), out, place_bytes(places[i]))) return;
        if (!place_looks_right(places[i], out)) {
            b->bad = NOT_A_RECORD;
            return;
        }
    }
}

/* ---- records in the journal's file ---------------------------------------------------------- */

enum {
    VALUE_AT = sizeof(lmdb_page_t), /* in what is read of a value: LMDB's own comes first */
    BODY_AT = VALUE_AT + sizeof(group_header_t),
    READ_BYTES_MAX = BODY_AT + BODY_BYTES_END + BODY_BLOCKS_MAX * BLOCK_CHECK_BYTES,
    READ_WHOLE_BYTES_MAX = 4 * BLOCK_BYTES, /* such a value costs less in one read than in parts */
    READ_AHEAD = -1, /* how to read: ask the disk for it and do not wait */
};

typedef struct { /* a group that some places are in, and where it lies */
    u64 group, first, end, body_bytes;
    lmdb_value_t value;
    bool found, taken;
} held_t;

typedef struct {
    lmdb_file_t file;
    u128 cluster;
    u8 bytes[READ_BYTES_MAX]; /* what was read of a value, each part where it belongs */
} reader_t;

/* The groups that the first places are in, which ascend; how many, at most `room`. */
static inline u64 held_split(held_t *helds, u64 room, const u64 *places, u64 count) {
    u64 groups = 0;
    for (u64 i = 0; i < count; i++) {
        if (groups == 0 || helds[groups - 1].group != place_group(places[i])) {
            if (groups == room) break;
            helds[groups++] = (held_t){.group = place_group(places[i]), .first = i};
        }
        helds[groups - 1].end = i + 1;
    }
    return groups;
}

static inline bool held_find(held_t *h, reader_t *r) {
    u8 key[sizeof(u64)];
    for (u64 i = 0; i < sizeof key; i++) key[i] = (u8)(h->group >> (56 - 8 * i));
    if (!lmdb_find(&r->file, key, sizeof key, &h->value)) return false;
    if (h->value.bytes < sizeof(group_header_t) || h->value.bytes > READ_BYTES_MAX - VALUE_AT)
        return false;
    /* Only one length of a body makes a value this long; the header will have to say the same. */
    const u64 each = BLOCK_BYTES + BLOCK_CHECK_BYTES;
    const u64 rest = h->value.bytes - sizeof(group_header_t);
    h->body_bytes = rest - (rest + each - 1) / each * BLOCK_CHECK_BYTES;
    return true;
}

/* Read a part of the value. how: READ_AHEAD, RWF_NOWAIT for what is in memory only, or 0. */
static inline bool held_read(const held_t *h, reader_t *r, u64 first, u64 end, int how) {
    const u64 at = h->value.at - VALUE_AT + first;
    if (first == end) return true;
    if (how != READ_AHEAD)
        return lmdb_read(r->file.descriptor, r->bytes + first, end - first, at, how);
    posix_fadvise(r->file.descriptor, (off_t)at, (off_t)(end - first), POSIX_FADV_WILLNEED);
    return true;
}

/* Read the blocks that the records at the places lie in, neighbours at once, and all checks. */
static inline bool held_read_blocks(const held_t *h, reader_t *r, const u64 *places, int how) {
    u64 first = 0, end = 0;
    for (u64 i = h->first; i < h->end; i++) {
        const u64 offset = place_offset(places[i]);
        const u64 low = offset / BLOCK_BYTES * BLOCK_BYTES;
        const u64 high = block_count(offset + place_bytes(places[i])) * BLOCK_BYTES;
        if (low >= h->body_bytes) return false;
        if (low > end) {
            if (!held_read(h, r, BODY_AT + first, BODY_AT + end, how)) return false;
            first = low;
        }
        if (end < high) end = high < h->body_bytes ? high : h->body_bytes;
    }
    return held_read(h, r, BODY_AT + first, BODY_AT + end, how) &&
           held_read(h, r, BODY_AT + h->body_bytes, VALUE_AT + h->value.bytes, how);
}

/* Whether what was read begins as the group must. */
static inline bool held_begins(const held_t *h, const reader_t *r) {
    const u8 *value = r->bytes + VALUE_AT;
    const u128 check = aegis_of(aegis_best(), value, offsetof(group_header_t, check));
    group_header_t header;
    memcpy(&header, value, sizeof header);
    return lmdb_begins(&r->file, &h->value, r->bytes) &&
           memcmp(header.magic, GROUP_MAGIC, sizeof header.magic) == 0 &&
           memcmp(header.check, &check, sizeof header.check) == 0 &&
           header.format == GROUP_FORMAT && header.group == h->group &&
           header.cluster == r->cluster && header.body_bytes == h->body_bytes &&
           h->value.bytes == sizeof header + header.body_bytes +
                                 block_count(header.body_bytes) * BLOCK_CHECK_BYTES;
}

static inline bool held_take(const held_t *h, reader_t *r, const u64 *places, u8 *out, int how) {
    const u64 end = VALUE_AT + h->value.bytes;
    const bool whole = end <= READ_WHOLE_BYTES_MAX;
    if (!held_read(h, r, 0, whole ? end : BODY_AT, how) || !held_begins(h, r)) return false;
    if (!whole && !held_read_blocks(h, r, places, how)) return false;
    body_t b;
    body_init(&b, r->bytes + BODY_AT, h->body_bytes, r->bytes + BODY_AT + h->body_bytes, h->group);
    body_take(&b, places + h->first, h->end - h->first, out + h->first * sizeof(transfer_t));
    return b.bad == NO_BLOCK;
}

/* Copy the records at the places of those groups that can be taken from the file as it is. */
static inline void reader_take(reader_t *r, held_t *helds, u64 count, const u64 *places, u8 *out) {
    for (held_t *h = helds; h < helds + count; h++) {
        h->found = held_find(h, r);
        if (!h->found) continue;
        h->taken = held_take(h, r, places, out, RWF_NOWAIT);
        if (h->taken) continue;
        held_read(h, r, 0, BODY_AT, READ_AHEAD);
        held_read_blocks(h, r, places, READ_AHEAD);
    }
    for (held_t *h = helds; h < helds + count; h++)
        if (h->found && !h->taken) h->taken = held_take(h, r, places, out, 0);
}

/* ---- a body that is read from the file as far as it is looked into --------------------------- */

enum { APART_BLOCKS = 16 }; /* read at once */
_Static_assert(BODY_BLOCKS_MAX / APART_BLOCKS <= 32, "a bit for each step");

typedef struct apart {
    held_t held;
    reader_t *reader;
    u32 fetched; /* a bit for each APART_BLOCKS that were read */
} apart_t;

static inline bool apart_fetch(apart_t *a, u64 block) {
    const u64 step = block / APART_BLOCKS, first = step * APART_BLOCKS * BLOCK_BYTES;
    const u64 end = first + APART_BLOCKS * BLOCK_BYTES, length = a->held.body_bytes;
    if (a->fetched >> step & 1) return true;
    if (!held_read(&a->held, a->reader, BODY_AT + first, BODY_AT + (end < length ? end : length),
                   0))
        return false;
    a->fetched |= (u32)1 << step;
    return true;
}

/* Find the group and read what is around its body; false when that is not perfect. */
static inline bool apart_begin(apart_t *a, reader_t *r, u64 group, body_t *b) {
    held_t *h = &a->held;
    *a = (apart_t){.held = {.group = group}, .reader = r};
    if (!held_find(h, r) || !held_read(h, r, 0, BODY_AT, 0) || !held_begins(h, r) ||
        !held_read(h, r, BODY_AT + h->body_bytes, VALUE_AT + h->value.bytes, 0))
        return false;
    body_init(b, r->bytes + BODY_AT, h->body_bytes, r->bytes + BODY_AT + h->body_bytes, group);
    b->apart = a;
    return true;
}

/* Ask the disk for a stretch of records that begins at a place and goes on, over some groups, for
 * so many bytes: who will look into it need not wait for each step. */
static inline void reader_ahead(reader_t *r, u64 place, u64 group_last, u64 bytes) {
    u64 offset = place_offset(place);
    for (held_t h = {.group = place_group(place)}; h.group <= group_last; h.group++, offset = 0) {
        if (bytes == 0 || !held_find(&h, r) || offset > h.body_bytes) return;
        const u64 length = bytes < h.body_bytes - offset ? bytes : h.body_bytes - offset;
        held_read(&h, r, 0, BODY_AT, READ_AHEAD);
        held_read(&h, r, BODY_AT + offset, BODY_AT + offset + length, READ_AHEAD);
        held_read(&h, r, BODY_AT + h.body_bytes, VALUE_AT + h.value.bytes, READ_AHEAD);
        bytes -= length;
    }
}

/* The same of a body that is being looked into; nothing for one that is all there. */
static inline void body_ahead(const body_t *b, u64 offset, u64 length) {
    if (!b->apart) return;
    held_read(&b->apart->held, b->apart->reader, BODY_AT + offset, BODY_AT + offset + length,
              READ_AHEAD);
}

#endif
