/* Pairs of a key and a value, 64 bits each: their order, searches among them, and a stable sort.
 *
 * A record may be longer than the pair it begins with. Sorting is by digits of the key, in memory
 * that the caller gives. This file knows nothing of whose keys and values these are.
 */
#ifndef LEDGER_SORT_H
#define LEDGER_SORT_H

#include <string.h>

#include "base/types.h"

enum { PAIR_BYTES = 16 };

/* ---- pairs: the (key, value) that a record begins with -------------------------------------- */

typedef struct {
    u64 key;
    u64 value;
} pair_t;

/* A pair as one number that orders as pairs do: key first. */
static inline u128 pair_of(const void *record) {
    pair_t pair;
    memcpy(&pair, record, sizeof pair);
    return (u128)pair.key << 64 | pair.value;
}

static inline u64 pair_key(const void *record) {
    u64 key;
    memcpy(&key, record, sizeof key);
    return key;
}

/* The first of `count` records that does not come after the one before it; `count` when all do.
 * `last` is the pair before the first, NULL when there is none. */
static inline u64 pair_disorder(const u8 *records, u64 record_bytes, u64 count,
                                  const u128 *last) {
    if (count == 0) return 0;
    u128 before = pair_of(records);
    if (last && before <= *last) return 0;
    for (u64 i = 1; i < count; i++) {
        const u128 pair = pair_of(records + i * record_bytes);
        if (pair <= before) return i;
        before = pair;
    }
    return count;
}

/* How many of `count` ascending records are below `pair`; at least `from` are known to be. */
static inline u64 pair_below(const u8 *records, u64 record_bytes, u64 from, u64 count,
                               u128 pair) {
    u64 low = from, step = 1;
    while (low + step <= count && pair_of(records + (low + step - 1) * record_bytes) < pair) {
        low += step;
        step *= 2;
    }
    u64 high = low + step - 1 < count ? low + step - 1 : count;
    while (low < high) {
        const u64 middle = low + (high - low) / 2;
        if (pair_of(records + middle * record_bytes) < pair) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* How many have a key of at most `key`. */
static inline u64 pair_through(const u8 *records, u64 record_bytes, u64 from, u64 count,
                                 u64 key) {
    if (key == UINT64_MAX) return count;
    return pair_below(records, record_bytes, from, count, (u128)(key + 1) << 64);
}

/* ---- sort ----------------------------------------------------------------------------------- */

enum {
    SORT_BITS_MAX = 11,     /* of a digit: the places of one fit into the first cache */
    SORT_INSERTED_MAX = 16, /* so many pairs are put in order one by one */
    SORT_LOW_BITS_MAX = 22, /* keys that differ in no more are sorted from their lowest digit */
};

static inline u64 sort_digit(pair_t pair, u32 shift, u32 bits) {
    return pair.key >> shift & (((u64)1 << bits) - 1);
}

/* Copy the pairs in the order of one digit, stable; `ends[d]` is where those of digit d end then.
 * Returns the largest number of pairs with one digit. */
static inline u64 sort_scatter(const pair_t *from, pair_t *to, u64 count, u32 shift,
                               u32 bits, u64 ends[1 << SORT_BITS_MAX]) {
    u64 sum = 0, most = 0;
    memset(ends, 0, sizeof *ends << bits);
    for (u64 i = 0; i < count; i++) ends[sort_digit(from[i], shift, bits)]++;
    for (u64 digit = 0; digit >> bits == 0; digit++) {
        const u64 many = ends[digit];
        ends[digit] = sum;
        sum += many;
        if (many > most) most = many;
    }
    for (u64 i = 0; i < count; i++) to[ends[sort_digit(from[i], shift, bits)]++] = from[i];
    return most;
}

static inline void sort_insert(pair_t *pairs, u64 count) {
    for (u64 i = 1; i < count; i++) {
        const pair_t pair = pairs[i];
        u64 at = i;
        for (; at > 0 && pairs[at - 1].key > pair.key; at--) pairs[at] = pairs[at - 1];
        pairs[at] = pair;
    }
}

static inline void sort_from_low(pair_t *pairs, pair_t *scratch, u64 count, u32 low,
                                 u32 width) {
    const u32 passes = (width + SORT_BITS_MAX - 1) / SORT_BITS_MAX;
    const u32 bits = (width + passes - 1) / passes;
    u64 ends[1 << SORT_BITS_MAX];
    pair_t *from = pairs, *to = scratch;
    for (u32 pass = 0; pass < passes; pass++) {
        sort_scatter(from, to, count, low + pass * bits, bits, ends);
        pair_t *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != pairs) memcpy(pairs, from, count * sizeof *pairs);
}

/* Sort by key, stable: equal keys keep their order. `scratch` has room for as many pairs. Keys that
 * differ in few bits are sorted by these bits, the lowest digit first; others by their highest
 * digit, and then each part of them, which is small and still in cache, by itself. It goes no
 * deeper than keys have digits. */
static void pair_sort_by_key(pair_t *pairs, pair_t *scratch, u64 count) {
    u64 ends[1 << SORT_BITS_MAX], differ = 0;
    if (count <= SORT_INSERTED_MAX) {
        sort_insert(pairs, count);
        return;
    }
    for (u64 i = 1; i < count; i++) differ |= pairs[i].key ^ pairs[0].key;
    if (differ == 0) return;
    const u32 low = (u32)__builtin_ctzll(differ), width = 64 - (u32)__builtin_clzll(differ) - low;
    if (width <= SORT_LOW_BITS_MAX) {
        sort_from_low(pairs, scratch, count, low, width);
        return;
    }
    u32 bits = 63 - (u32)__builtin_clzll(count); /* about one pair a part when they are few */
    if (bits > SORT_BITS_MAX) bits = SORT_BITS_MAX;
    const u64 most = sort_scatter(pairs, scratch, count, low + width - bits, bits, ends);
    if (most > SORT_INSERTED_MAX)
        for (u64 digit = 0, first = 0; digit >> bits == 0; first = ends[digit++])
            pair_sort_by_key(scratch + first, pairs + first, ends[digit] - first);
    memcpy(pairs, scratch, count * sizeof *pairs);
    if (most <= SORT_INSERTED_MAX) sort_insert(pairs, count);
}

static inline void sort_swap(pair_t *pairs, u64 count) {
    for (u64 i = 0; i < count; i++) pairs[i] = (pair_t){pairs[i].value, pairs[i].key};
}

/* Sort by key and value. What comes in order of its values, or in both, takes no more. */
static inline void pair_sort(pair_t *pairs, pair_t *scratch, u64 count) {
    const u8 *records = (const u8 *)pairs;
    if (pair_disorder(records, sizeof *pairs, count, NULL) == count) return;
    pair_sort_by_key(pairs, scratch, count);
    if (pair_disorder(records, sizeof *pairs, count, NULL) == count) return;
    sort_swap(pairs, count);
    pair_sort_by_key(pairs, scratch, count);
    sort_swap(pairs, count);
    pair_sort_by_key(pairs, scratch, count);
}

#endif
