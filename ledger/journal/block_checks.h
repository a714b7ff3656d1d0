/* The checks of a journal group's body: eight bytes for each started block of 4,096 bytes.
 *
 * The group's number and the block's index are absorbed after the block's bytes, so a block that is
 * intact but in the wrong place is found too, and a few blocks can be checked without the others.
 * Knows neither what a body holds nor where it is kept.
 */
#ifndef LEDGER_BLOCKS_H
#define LEDGER_BLOCKS_H

#include "base/aegis.h"

enum { BLOCK_BYTES = 4096, BLOCK_CHECK_BYTES = 8 };

static inline u64 block_count(u64 body_bytes) {
    return (body_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static inline void block_check(const u8 *body, u64 body_bytes, u64 group, u64 index, u8 *check) {
    const u64 at = index * BLOCK_BYTES;
    const u64 length = body_bytes - at < BLOCK_BYTES ? body_bytes - at : BLOCK_BYTES;
    const u64 place[2] = {group, index};
    u8 tag[AEGIS_TAG_BYTES];
    aegis_t state;
    aegis_begin(&state, aegis_best());
    aegis_absorb(&state, body + at, length);
    aegis_absorb(&state, place, sizeof place);
    aegis_finish(&state, tag);
    memcpy(check, tag, BLOCK_CHECK_BYTES);
}

/* `checks` are those of the whole body. */
static inline int block_intact(const u8 *body, u64 body_bytes, const u8 *checks, u64 group,
                               u64 index) {
    u8 check[BLOCK_CHECK_BYTES];
    block_check(body, body_bytes, group, index, check);
    return memcmp(check, checks + index * BLOCK_CHECK_BYTES, BLOCK_CHECK_BYTES) == 0;
}

#endif
