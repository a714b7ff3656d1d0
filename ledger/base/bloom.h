/* A growing set of 64-bit hashes in memory that answers "certainly not" or "perhaps".
 *
 * Split-block Bloom filters: a hash sets one bit in each of the eight 32-bit words of one block of
 * 32 bytes, so a question costs one cache line a level. The hash's high bits choose the block:
 * hashes inserted in ascending order walk the memory in order. A level that is full stays as it is
 * and the next, four times as large, is opened: nothing is ever hashed again. One thread inserts
 * while others ask: words are read and written whole, a level is published when it is ready, and
 * who learns that filter_insert() has returned finds what it inserted. The weak spot: each full
 * level adds its own false answers, about one in 40,000. It knows nothing of what was
 * hashed.
 */
#ifndef LEDGER_FILTER_H
#define LEDGER_FILTER_H

#include <string.h>
#include <sys/mman.h>

#include "base/types.h"

enum {
    FILTER_BLOCK_BYTES = 32,
    FILTER_LEVEL_IDS = 8, /* 32 bits an id: what is asked in vain there costs a look on disk */
    FILTER_GROWTH = 4,
    FILTER_LEVELS_MAX = 8,
    FILTER_TOUCH_BYTES = 4096, /* the smallest page */
};
#ifndef FILTER_FIRST
#define FILTER_FIRST (1u << 22) /* ids of the first level: 16 MiB */
#endif
_Static_assert(FILTER_FIRST % FILTER_LEVEL_IDS == 0, "a level is whole blocks");

typedef struct {
    u8 *blocks;
    u64 block_count;
    u64 capacity; /* hashes inserted before the next level is opened */
    u64 count;
} filter_level_t;

typedef struct {
    u32 level_count;
    filter_level_t levels[FILTER_LEVELS_MAX];
    filter_level_t next; /* mapped before it is needed, and `touched` bytes of it are there */
    u64 touched;
} filter_t;

/* ---- one block ------------------------------------------------------------------------------ */

/* Two of the eight words at once, in memory order: the bits that a hash sets in them. */
static inline u64 filter_bits(u32 low, u32 salt_first, u32 salt_second) {
    return (u64)1 << (low * salt_first >> 27) | (u64)1 << ((low * salt_second >> 27) + 32);
}

#define FILTER_WORDS(W)            \
    W(0, 0x47b6137bu, 0x44974d91u) \
    W(1, 0x8824ad5bu, 0xa2b7289du) \
    W(2, 0x705495c7u, 0x2df1424bu) \
    W(3, 0x9efc4947u, 0x5c6bfb31u)

/* The offset in bytes of a hash's block among `block_count` blocks. */
static inline u64 filter_at(u64 hash, u64 block_count) {
    return (u64)((u128)hash * block_count >> 64) * FILTER_BLOCK_BYTES;
}

static inline void filter_block_set(u8 *block, u64 hash) {
    u64 *words = (u64 *)block;
#define FILTER_SET(i, first, second)                                                    \
    __atomic_store_n(&words[i],                                                         \
                     __atomic_load_n(&words[i], __ATOMIC_RELAXED) |                     \
                         filter_bits((u32)hash, first, second),                         \
                     __ATOMIC_RELAXED);
    FILTER_WORDS(FILTER_SET)
#undef FILTER_SET
}

static inline int filter_block_has(const u8 *block, u64 hash) {
    const u64 *words = (const u64 *)block;
    u64 missing = 0;
#define FILTER_TEST(i, first, second)                   \
    missing |= filter_bits((u32)hash, first, second) & \
               ~__atomic_load_n(&words[i], __ATOMIC_RELAXED);
    FILTER_WORDS(FILTER_TEST)
#undef FILTER_TEST
    return missing == 0;
}

/* ---- the levels ----------------------------------------------------------------------------- */

static inline void filter_init(filter_t *filter) { memset(filter, 0, sizeof *filter); }

static inline void filter_level_close(filter_level_t *level) {
    munmap(level->blocks, level->block_count * FILTER_BLOCK_BYTES);
}

static inline void filter_free(filter_t *filter) {
    if (filter->next.blocks) filter_level_close(&filter->next);
    filter->next.blocks = NULL;
    while (filter->level_count > 0) filter_level_close(&filter->levels[--filter->level_count]);
}

static inline int filter_level_open(filter_level_t *level, u64 capacity) {
    level->capacity = capacity;
    level->count = 0;
    level->block_count = level->capacity / FILTER_LEVEL_IDS;
    const size_t bytes = level->block_count * FILTER_BLOCK_BYTES;
    void *blocks = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (blocks == MAP_FAILED) return -1;
    madvise(blocks, bytes, MADV_HUGEPAGE); /* asked at random: a small page would cost a walk */
    level->blocks = blocks;
    return 0;
}

static inline u64 filter_capacity(u32 number) {
    u64 capacity = FILTER_FIRST;
    while (number-- > 0) capacity *= FILTER_GROWTH;
    return capacity;
}

/* So many are coming, in an order that would fill small levels unevenly: a first level for all of
 * them, when there is none yet. -1 for no memory. */
static inline int filter_expect(filter_t *filter, u64 count) {
    if (filter->level_count || count <= FILTER_FIRST) return 0;
    count += FILTER_LEVEL_IDS - 1;
    if (filter_level_open(&filter->levels[0], count - count % FILTER_LEVEL_IDS)) return -1;
    filter->level_count = 1;
    return 0;
}

/* Hashes that the levels take before another is opened: all but the last are full. */
static inline u64 filter_room(const filter_t *filter) {
    if (filter->level_count == 0) return 0;
    const filter_level_t *level = &filter->levels[filter->level_count - 1];
    return level->capacity - level->count;
}

/* Open and publish the levels that `count` more hashes take. -1 leaves all as it was. */
static __attribute__((noinline, cold)) int filter_grow(filter_t *filter, u64 count) {
    u32 opened = filter->level_count;
    for (u64 room = filter_room(filter); room < count; opened++) {
        filter_level_t *level = &filter->levels[opened];
        if (opened == filter->level_count && filter->next.blocks) {
            *level = filter->next;
            filter->next.blocks = NULL;
            filter->touched = 0;
        } else if (opened == FILTER_LEVELS_MAX ||
                   filter_level_open(level, filter_capacity(opened))) {
            while (opened-- > filter->level_count) filter_level_close(&filter->levels[opened]);
            return -1;
        }
        room += filter->levels[opened].capacity;
    }
    __atomic_store_n(&filter->level_count, opened, __ATOMIC_RELEASE);
    return 0;
}

/* While the second half of the last level fills, have the memory of the next one made, as much of
 * it as of that half is full: the first hashes go everywhere in it, and all at once takes long. */
static inline void filter_prepare(filter_t *filter) {
    if (filter->level_count == 0 || filter->level_count == FILTER_LEVELS_MAX) return;
    const filter_level_t *last = &filter->levels[filter->level_count - 1];
    if (last->count < last->capacity / 2) return;
    if (!filter->next.blocks &&
        filter_level_open(&filter->next, filter_capacity(filter->level_count)))
        return; /* it is tried again when it is needed */
    const u64 bytes = filter->next.block_count * FILTER_BLOCK_BYTES;
    const double share = 2.0 * (double)last->count / (double)last->capacity - 1;
    for (; filter->touched < (u64)(share * (double)bytes); filter->touched += FILTER_TOUCH_BYTES)
        *(volatile u8 *)(filter->next.blocks + filter->touched) = 0;
}

/* Insert `count` hashes that lie `stride` u64 apart; -1 for no memory, nothing is inserted then. */
static inline int filter_insert(filter_t *filter, const u64 *hashes, u64 stride, u64 count) {
    u32 number = filter->level_count ? filter->level_count - 1 : 0;
    if (filter_room(filter) < count && filter_grow(filter, count)) return -1;
    for (; count > 0; number++) {
        filter_level_t *level = &filter->levels[number];
        const u64 room = level->capacity - level->count, some = count < room ? count : room;
        for (u64 i = 0; i < some; i++, hashes += stride)
            filter_block_set(level->blocks + filter_at(*hashes, level->block_count), *hashes);
        level->count += some;
        count -= some;
    }
    filter_prepare(filter);
    return 0;
}

/* 0: certainly not inserted. */
static inline int filter_maybe(const filter_t *filter, u64 hash) {
    for (u32 i = __atomic_load_n(&filter->level_count, __ATOMIC_ACQUIRE); i-- > 0;) {
        const filter_level_t *level = &filter->levels[i];
        if (filter_block_has(level->blocks + filter_at(hash, level->block_count), hash)) return 1;
    }
    return 0;
}

static inline void filter_prefetch(const filter_t *filter, u64 hash) {
    for (u32 i = __atomic_load_n(&filter->level_count, __ATOMIC_ACQUIRE); i-- > 0;) {
        const filter_level_t *level = &filter->levels[i];
        __builtin_prefetch(level->blocks + filter_at(hash, level->block_count));
    }
}

#endif
