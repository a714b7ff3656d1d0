/* A hash table from a 32-bit tag to a 32-bit reference, 8 bytes a slot.
 *
 * Extendible hashing: a directory of parts of 4,096 slots; a part that fills up is split in two,
 * so growing never stops the world: a split moves 4,096 neighbouring entries and reads no record,
 * because the tag holds both the part (its high 20 bits) and the home (its low 12): a line of the
 * cache, whose eight slots are searched before those of the next, so that one line fetched ahead is
 * nearly always enough. Large tables lie in huge pages: looked up at random, each small one would
 * cost a walk. The caller compares what a reference points to; the tag only says "perhaps". The
 * weak spot: beyond 2^32 slots the tag says too little, and references end at 2^32 - 2.
 */
#ifndef LEDGER_TABLE_H
#define LEDGER_TABLE_H

#include <string.h>

#include "base/slab.h"

enum {
    TABLE_SLOT_BITS = 12,
    TABLE_SLOTS = 1 << TABLE_SLOT_BITS,
    TABLE_SLOT_MASK = TABLE_SLOTS - 1,
    TABLE_LINE_BYTES = 64,
    TABLE_HOME_MASK = TABLE_SLOT_MASK & ~(TABLE_LINE_BYTES / 8 - 1),
    TABLE_DEPTH_MAX = 32 - TABLE_SLOT_BITS,
    TABLE_SPLIT_AT = TABLE_SLOTS * 3 / 4,
    TABLE_SPARE = 64, /* parts kept ready, so that splits during a request do not allocate */
    TABLE_SMALL_PARTS = 8, /* that a table has before it takes a huge page */
};
#define TABLE_NONE 0xFFFFFFFFu

typedef struct {
    u64 slots[TABLE_SLOTS]; /* tag in the low half, reference + 1 in the high half; 0 is empty */
    u32 count;
    u32 depth;
    u8 rest[TABLE_LINE_BYTES - 8];
} table_part_t;
_Static_assert(sizeof(table_part_t) % TABLE_LINE_BYTES == 0, "parts begin with a line");
enum { TABLE_ROOM_PARTS = SLAB_CHUNK_BYTES / sizeof(table_part_t) };

typedef struct {
    table_part_t **directory;
    u64 count;
    u32 depth;
    u32 spare_count;
    table_part_t *spare[TABLE_SPARE];
    /* Where the parts lie: at first one in a room, then as many as a huge page has room for. */
    void **rooms;
    u32 room_count;
    u32 taken; /* parts of the last room */
} table_t;

static inline table_part_t *table_part(const table_t *table, u32 tag) {
    return table->directory[(u64)tag >> (32 - table->depth)];
}

/* The slot at which a search for a tag begins. */
static inline u32 table_home(u32 tag) { return tag & TABLE_HOME_MASK; }

/* Memory for another part, or NULL. */
static inline table_part_t *table_new_part(table_t *table) {
    if (table->spare_count) return table->spare[--table->spare_count];
    const int small = table->room_count < TABLE_SMALL_PARTS;
    if (small || table->room_count == TABLE_SMALL_PARTS || table->taken == TABLE_ROOM_PARTS) {
        void **rooms = realloc(table->rooms, (table->room_count + 1) * sizeof *rooms);
        if (!rooms) return NULL;
        table->rooms = rooms;
        void *room =
            small ? aligned_alloc(TABLE_LINE_BYTES, sizeof(table_part_t)) : slab_map_huge();
        if (!room) return NULL;
        rooms[table->room_count++] = room;
        table->taken = 0;
    }
    return (table_part_t *)table->rooms[table->room_count - 1] + table->taken++;
}

static inline void table_free(table_t *table) {
    while (table->room_count) {
        void *room = table->rooms[--table->room_count];
        if (table->room_count < TABLE_SMALL_PARTS) free(room);
        else munmap(room, SLAB_CHUNK_BYTES);
    }
    free(table->rooms);
    free(table->directory);
    table->rooms = NULL;
    table->directory = NULL;
    table->spare_count = 0;
}

static inline int table_init(table_t *table) {
    memset(table, 0, sizeof *table);
    table->directory = calloc(1, sizeof *table->directory);
    table_part_t *part = table->directory ? table_new_part(table) : NULL;
    if (!part) {
        table_free(table);
        return -1;
    }
    memset(part, 0, sizeof *part);
    table->directory[0] = part;
    return 0;
}

/* 0, or -1 when memory for the splits of `more` insertions is not to be had. */
static inline int table_reserve(table_t *table, u64 more) {
    u32 wanted = more < TABLE_SPARE ? (u32)more : TABLE_SPARE;
    if (__builtin_expect(table->spare_count >= wanted, 1)) return 0;
    table_part_t *parts[TABLE_SPARE];
    u32 count = 0;
    while (table->spare_count) parts[count++] = table->spare[--table->spare_count];
    while (count < wanted && (parts[count] = table_new_part(table))) count++;
    table->spare_count = count;
    for (u32 i = 0; i < count; i++) table->spare[count - 1 - i] = parts[i]; /* the oldest first */
    return count < wanted ? -1 : 0;
}

static inline void table_place(table_part_t *part, u64 slot) {
    u32 at = table_home((u32)slot);
    while (part->slots[at]) at = (at + 1) & TABLE_SLOT_MASK;
    part->slots[at] = slot;
    part->count++;
}

static inline int table_double(table_t *table) {
    u64 parts = (u64)1 << table->depth;
    table_part_t **directory = malloc(2 * parts * sizeof *directory);
    if (!directory) return -1;
    for (u64 i = 0; i < parts; i++) directory[2 * i] = directory[2 * i + 1] = table->directory[i];
    free(table->directory);
    table->directory = directory;
    table->depth++;
    return 0;
}

/* A part that cannot be split for want of memory goes on filling: a quarter of it is still free. */
static __attribute__((noinline, cold)) void table_split(table_t *table, u32 tag) {
    table_part_t *part = table_part(table, tag);
    if (part->depth == TABLE_DEPTH_MAX) return;
    if (part->depth == table->depth && table_double(table)) return;
    table_part_t *low = table_new_part(table), *high = low ? table_new_part(table) : NULL;
    if (!high) {
        if (low) table->spare[table->spare_count++] = low;
        return;
    }
    memset(low, 0, sizeof *low);
    memset(high, 0, sizeof *high);
    low->depth = high->depth = part->depth + 1;
    u32 bit = (u32)1 << (32 - low->depth);
    for (u32 at = 0; at < TABLE_SLOTS; at++) {
        u64 slot = part->slots[at];
        if (slot) table_place((u32)slot & bit ? high : low, slot);
    }
    u64 reach = (u64)1 << (table->depth - part->depth);
    u64 first = ((u64)tag >> (32 - table->depth)) & ~(reach - 1);
    for (u64 i = 0; i < reach; i++) table->directory[first + i] = i < reach / 2 ? low : high;
    table->spare[table->spare_count++] = part; /* of the two that were taken one is put back */
}

static inline void table_insert(table_t *table, u32 tag, u32 reference) {
    table_part_t *part = table_part(table, tag);
    while (__builtin_expect(part->count >= TABLE_SPLIT_AT, 0)) {
        table_split(table, tag);
        if (table_part(table, tag) == part) break;
        part = table_part(table, tag);
    }
    invariant(part->count < TABLE_SLOTS - 1);
    invariant(reference < TABLE_NONE);
    table_place(part, (u64)tag | ((u64)reference + 1) << 32);
    table->count++;
}

/* Backward shift: what probed past the freed slot moves up, so that no tombstone is needed. */
static inline void table_remove(table_t *table, u32 tag, u32 reference) {
    table_part_t *part = table_part(table, tag);
    u64 wanted = (u64)tag | ((u64)reference + 1) << 32;
    u32 hole = table_home(tag);
    while (part->slots[hole] != wanted) {
        invariant(part->slots[hole]);
        hole = (hole + 1) & TABLE_SLOT_MASK;
    }
    for (u32 at = (hole + 1) & TABLE_SLOT_MASK; part->slots[at]; at = (at + 1) & TABLE_SLOT_MASK) {
        u32 home = table_home((u32)part->slots[at]);
        if (((at - home) & TABLE_SLOT_MASK) >= ((at - hole) & TABLE_SLOT_MASK)) {
            part->slots[hole] = part->slots[at];
            hole = at;
        }
    }
    part->slots[hole] = 0;
    part->count--;
    table->count--;
}

/* Empty, with the room it has grown to. */
static inline void table_clear(table_t *table) {
    u64 parts = (u64)1 << table->depth;
    for (u64 i = 0; i < parts;) {
        table_part_t *part = table->directory[i];
        i += (u64)1 << (table->depth - part->depth);
        memset(part->slots, 0, sizeof part->slots);
        part->count = 0;
    }
    table->count = 0;
}

/* Walk the candidates for a tag: `at` starts at the tag's home. TABLE_NONE ends the walk. */
static inline u32 table_next(const table_part_t *part, u32 tag, u32 *at) {
    for (;;) {
        u64 slot = part->slots[*at & TABLE_SLOT_MASK];
        if (!slot) return TABLE_NONE;
        (*at)++;
        if ((u32)slot == tag) return (u32)(slot >> 32) - 1;
    }
}

static inline void table_prefetch(const table_t *table, u32 tag) {
    __builtin_prefetch(&table_part(table, tag)->slots[table_home(tag)]);
}

#endif
