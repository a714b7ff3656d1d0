/* Test tool: the leaves under stress: the table, the slab, 128-bit arithmetic and the hash.
 *
 * A program of its own, so that it can be built with the compiler's sanitizers and can make memory
 * run out. Every part of it checks against something simpler: arrays, the compiler's own overflow
 * test, expected numbers of collisions. Usage: leaves PART SEED. It says what is wrong and aborts.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static long memory_left = -1; /* allocations that still succeed; below 0 all do */

static int memory_out(void) {
    if (memory_left < 0) return 0;
    if (memory_left == 0) return 1;
    memory_left--;
    return 0;
}
static void *test_malloc(size_t bytes) { return memory_out() ? NULL : malloc(bytes); }
static void *test_aligned_alloc(size_t alignment, size_t bytes) {
    return memory_out() ? NULL : aligned_alloc(alignment, bytes);
}
static void *test_realloc(void *old, size_t bytes) {
    return memory_out() ? NULL : realloc(old, bytes);
}
/* Now and then as older kernels map it: somewhere, not where a huge page could begin. */
static void *test_mmap(void *at, size_t bytes, int how, int flags, int fd, off_t offset) {
    static unsigned calls;
    if (memory_out()) return MAP_FAILED;
    if (++calls % 3) return mmap(at, bytes, how, flags, fd, offset);
    char *more = mmap(at, bytes + 4096, how, flags, fd, offset);
    if (more == MAP_FAILED) return more;
    const size_t skipped = (size_t)more % 8192 ? 0 : 4096; /* the second of two pages */
    munmap(skipped ? more : more + bytes, 4096);
    return more + skipped;
}
#define malloc test_malloc
#define aligned_alloc test_aligned_alloc
#define realloc test_realloc
#define mmap test_mmap
#include "base/slab.h"
#include "base/hash_table.h"
#include "base/u128.h"

static u64 seed_state;

static u64 draw(void) { /* splitmix64 */
    u64 z = (seed_state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* ---- the table against an array: reference r is there under tags[r] when present[r] ---------- */

enum { REFERENCES = 1 << 20 };
static u32 tags[REFERENCES];
static u8 present[REFERENCES];

static u32 times_found(const table_t *table, u32 tag, u32 reference) {
    table_part_t *part = table_part(table, tag);
    u32 at = table_home(tag), found = 0, one;
    while ((one = table_next(part, tag, &at)) != TABLE_NONE) {
        invariant(one < REFERENCES && present[one] && tags[one] == tag);
        found += one == reference;
    }
    return found;
}

static void check_table(const table_t *table, u32 used) {
    u64 count = 0, in_parts = 0, parts = (u64)1 << table->depth;
    for (u32 r = 0; r < used; r++) {
        invariant(times_found(table, tags[r], r) == present[r]);
        count += present[r];
    }
    for (u64 i = 0; i < parts;) {
        const table_part_t *part = table->directory[i];
        invariant((uintptr_t)part->slots % TABLE_LINE_BYTES == 0);
        u64 reach = (u64)1 << (table->depth - part->depth);
        invariant(i % reach == 0);
        for (u64 j = 0; j < reach; j++) invariant(table->directory[i + j] == part);
        for (u32 at = 0; at < TABLE_SLOTS; at++) {
            u64 slot = part->slots[at];
            if (slot) invariant(table_part(table, (u32)slot) == part);
        }
        in_parts += part->count;
        i += reach;
    }
    invariant(table->count == count && in_parts == count);
}

/* Tags of several shapes: any; of one part; of one home; of homes that wrap around; few at all. */
static u32 draw_tag(u32 shape) {
    u32 any = (u32)draw();
    switch (shape) {
    case 1: return 0xABCDE000u | (any & TABLE_SLOT_MASK);
    case 2: return (any & 0xC0000000u) | 0x123u;
    case 3: return (any & 0xF0000000u) | (4090 + any % 6);
    case 4: return (any % 8) << 29 | (any >> 8) % 4;
    default: return any;
    }
}

static void stress_table(u32 shape, u32 used, u32 steps) {
    table_t table;
    memset(present, 0, sizeof present);
    invariant(table_init(&table) == 0);
    for (u32 step = 0; step < steps; step++) {
        u32 r = (u32)(draw() % used);
        if (present[r]) {
            table_remove(&table, tags[r], r);
        } else {
            if (draw() % 4 == 0) invariant(table_reserve(&table, draw() % 200) == 0);
            tags[r] = draw_tag(shape);
            table_insert(&table, tags[r], r);
        }
        present[r] ^= 1;
        if (step % (steps / 4) == 0) check_table(&table, used);
    }
    check_table(&table, used);
    for (u32 r = 0; r < used; r++) {
        if (present[r]) table_remove(&table, tags[r], r);
        present[r] = 0;
    }
    check_table(&table, used);
    table_free(&table);
}

static void grow_table(void) {
    table_t table;
    invariant(table_init(&table) == 0);
    for (u32 r = 0; r < REFERENCES; r++) {
        tags[r] = (u32)draw();
        table_insert(&table, tags[r], r);
        present[r] = 1;
    }
    check_table(&table, REFERENCES);
    u64 parts = 0;
    for (u64 i = 0; i < (u64)1 << table.depth; parts++)
        i += (u64)1 << (table.depth - table.directory[i]->depth);
    /* Split in halves at three quarters: between three eighths and three quarters full. */
    invariant(parts * TABLE_SLOTS * 3 / 8 < REFERENCES && REFERENCES <= parts * TABLE_SPLIT_AT);
    /* Half full, one search for what is not there in ten leaves its line, not half of them. */
    u64 leave = 0;
    for (u32 n = 0; n < 100000; n++) {
        const u32 tag = (u32)draw();
        const table_part_t *part = table_part(&table, tag);
        u32 at = table_home(tag);
        while (part->slots[at & TABLE_SLOT_MASK]) at++;
        leave += at - table_home(tag) >= TABLE_LINE_BYTES / 8;
    }
    invariant(leave < 15000);
    table_free(&table);
}

static void starve_table(void) {
    for (long left = 0; left < 12; left++) {
        table_t table;
        memset(present, 0, sizeof present);
        invariant(table_init(&table) == 0);
        for (u32 r = 0; r < 4000; r++) { /* beyond where it splits */
            memory_left = r < TABLE_SPLIT_AT - 1 ? -1 : memory_left < 0 ? left : memory_left;
            tags[r] = (u32)draw();
            table_insert(&table, tags[r], r);
            present[r] = 1;
        }
        check_table(&table, 4000);
        invariant(table_reserve(&table, 64) == -1);
        memory_left = -1;
        invariant(table_reserve(&table, 64) == 0 && table.spare_count == 64);
        memory_left = 0; /* spares are enough for splits, but for the directory */
        for (u32 r = 4000; r < 4050; r++) {
            tags[r] = (u32)draw();
            table_insert(&table, tags[r], r);
            present[r] = 1;
        }
        memory_left = -1;
        check_table(&table, 4050);
        table_free(&table);
    }
}

/* ---- the slab -------------------------------------------------------------------------------- */

static void stress_slab(void) {
    for (u32 bytes = 16; bytes <= 256; bytes *= 2) {
        slab_t slab;
        slab_init(&slab, bytes);
        slab.scattered = bytes < 64;
        u64 in_chunk = SLAB_CHUNK_BYTES / bytes;
        u8 *first = NULL;
        for (u64 i = 0; i < 10 * in_chunk + 3; i++) {
            invariant(slab_reserve(&slab, 1 + i % 7) == 0);
            u8 *record = slab_append(&slab);
            invariant(record == slab_at(&slab, i) && (uintptr_t)record % 16 == 0);
            invariant(record == slab_of(&slab, i, slab.record_bytes));
            if (slab.scattered && i >= in_chunk && i % in_chunk == 0)
                invariant((uintptr_t)record % SLAB_CHUNK_BYTES == 0);
            if (i == 0) first = record;
            memcpy(record, &i, sizeof i);
        }
        invariant(first == slab_at(&slab, 0));
        for (u64 i = 0; i < slab.count; i++) invariant(memcmp(slab_at(&slab, i), &i, 8) == 0);
        u64 count = slab.count, capacity = slab.capacity;
        invariant(slab_reserve(&slab, capacity - count) == 0 && slab.capacity == capacity);
        for (long left = 0; left < 3; left++) {
            memory_left = left;
            invariant(slab_reserve(&slab, 40 * in_chunk) == -1 && slab.count == count);
            memory_left = -1;
        }
        invariant(slab_reserve(&slab, 40 * in_chunk) == 0);
        u64 last = count - 1;
        invariant(memcmp(slab_at(&slab, last), &last, 8) == 0);
        slab.count = 5; /* popped records give their room back */
        capacity = slab.capacity;
        invariant(slab_reserve(&slab, capacity - 5) == 0 && slab.capacity == capacity);
        slab_free(&slab);
    }
}

/* ---- 128 bits -------------------------------------------------------------------------------- */

static u128 draw_u128(void) { /* many near the edges */
    static const int shifts[] = {0, 1, 63, 64, 65, 126, 127};
    u128 value = ((u128)draw() << 64 | draw()) >> (draw() % 128);
    if (draw() % 2) value = ((u128)1 << shifts[draw() % 7]) + (u128)(draw() % 3) - 1;
    return draw() % 8 == 0 ? ~value : value;
}

static void stress_u128(void) {
    u8 bytes[64];
    for (u32 step = 0; step < 2000000; step++) {
        u128 a = draw_u128(), b = draw_u128(), c = draw_u128(), sum;
        int over = __builtin_add_overflow(a, b, &sum);
        invariant(u128_add_overflows(a, b) == over);
        u128 all;
        int over3 = over | __builtin_add_overflow(sum, c, &all);
        invariant(!!u128_add3_overflows(a, b, c) == over3);
        invariant(u128_min(a, b) == (a < b ? a : b));
        invariant(u128_sub_floor(a, b) == (a < b ? 0 : a - b));
        u32 at = (u32)(draw() % 32);
        memcpy(bytes + at, &a, sizeof a);
        invariant(u128_load(bytes + at) == a);
    }
}

static int compare_u32(const void *a, const void *b) {
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return (x > y) - (x < y);
}

static u128 id_of_shape(u32 shape, u64 n) {
    switch (shape) {
    case 0: return n + 1;
    case 1: return (u128)(n + 1) << 64;
    case 2: return (u128)(n + 1) << 96 | (n % 3 + 1);
    case 3: return ~(u128)n - 1;
    case 4: return (u128)(1700000000000ull + n / 100) << 80 | (u128)n * 0x10001; /* time, count */
    case 5: return (u128)n << 32 | n;
    case 6: return (u128)(n * 0x9E3779B97F4A7C15ull) << 64 | n;
    default: return (u128)1 << (n % 128) | (u128)(n / 128) << ((n * 7) % 120);
    }
}

/* Ids that people choose must spread over parts and homes like random numbers do. */
static void check_spread(const u64 key[2], u32 shape) {
    enum { COUNT = 200000, CELLS = 256 };
    u32 *found = calloc(COUNT, sizeof *found);
    u32 high[CELLS] = {0}, low[CELLS] = {0};
    for (u64 n = 0; n < COUNT; n++) {
        found[n] = u128_tag(key, id_of_shape(shape, n));
        high[found[n] >> 24]++;
        low[(found[n] & TABLE_SLOT_MASK) >> 4]++;
    }
    double expected = (double)COUNT / CELLS, chi_high = 0, chi_low = 0;
    for (u32 i = 0; i < CELLS; i++) {
        chi_high += (high[i] - expected) * (high[i] - expected) / expected;
        chi_low += (low[i] - expected) * (low[i] - expected) / expected;
    }
    /* 255 degrees of freedom: mean 255, deviation 22.6; eight deviations are no accident. */
    invariant(chi_high < 255 + 8 * 22.6 && chi_low < 255 + 8 * 22.6);
    qsort(found, COUNT, sizeof *found, compare_u32);
    u32 same = 0;
    for (u32 n = 1; n < COUNT; n++) same += found[n] == found[n - 1];
    invariant(same < 30); /* 4.7 expected */
    free(found);
}

static void stress_hash(void) {
    u64 keys[4][2] = {{0, 0}, {~0ull, ~0ull}, {1, 0}, {draw(), draw()}};
    for (u32 k = 0; k < 4; k++)
        for (u32 shape = 0; shape < 7; shape++) check_spread(keys[k], shape);
    u32 same = 0; /* another key, other tags */
    for (u64 n = 0; n < 10000; n++)
        same += u128_tag(keys[0], id_of_shape(7, n)) == u128_tag(keys[3], id_of_shape(7, n));
    invariant(same < 5);
}

int main(int count, char **arguments) {
    invariant(count == 3);
    const char *part = arguments[1];
    seed_state = strtoull(arguments[2], NULL, 10);
    if (!strcmp(part, "table")) {
        stress_table(0, 200000, 600000);
        stress_table(1, 3000, 40000);
        stress_table(2, 2000, 12000);
        stress_table(3, 2500, 40000);
        stress_table(4, 2000, 12000);
    } else if (!strcmp(part, "growth")) grow_table();
    else if (!strcmp(part, "starved")) starve_table();
    else if (!strcmp(part, "slab")) stress_slab();
    else if (!strcmp(part, "u128")) stress_u128();
    else if (!strcmp(part, "hash")) stress_hash();
    else invariant(!"a part that exists");
    return 0;
}
