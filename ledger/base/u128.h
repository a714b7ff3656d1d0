/* 128-bit arithmetic and the hash of a 128-bit id.
 *
 * Cython believes that a u128 is 64 bits wide, so whatever needs a literal, an overflow test or the
 * halves of one lives here. Knows nothing of accounts or transfers.
 */
#ifndef LEDGER_U128_H
#define LEDGER_U128_H

#include <string.h>

#include "base/types.h"

static inline int u128_add_overflows(u128 a, u128 b) { return (u128)(a + b) < a; }

static inline int u128_add3_overflows(u128 a, u128 b, u128 c) {
    return u128_add_overflows(a, b) || u128_add_overflows(a + b, c);
}

static inline u128 u128_min(u128 a, u128 b) { return a < b ? a : b; }

/* a - b, or 0 where that would be negative. */
static inline u128 u128_sub_floor(u128 a, u128 b) { return a > b ? a - b : 0; }

/* Events arrive at any address; a u128 must be aligned. */
static inline u128 u128_load(const void *from) {
    u128 value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline u64 u64_fold(u64 a, u64 b) {
    u128 product = (u128)a * b;
    return (u64)product ^ (u64)(product >> 64);
}

/* A value that depends on all values chained so far and on their order. */
static inline u128 u128_chain(u128 chained, u128 value) {
    return chained * (((u128)0x2360ED051FC65DA4ull << 64) | 0x4385DF649FCCF645ull) + value;
}

/* Keyed, so that nobody who chooses ids can choose where they collide; the constants keep a weak
 * key from making a weak hash. Two folded multiplications: one would leave ids that differ in their
 * high half only too close together. */
static inline u64 u128_hash64(const u64 key[2], u128 id) {
    u64 mixed = u64_fold((u64)id ^ key[0] ^ 0x2D358DCCAA6C78A5ull,
                         (u64)(id >> 64) ^ key[1] ^ 0x8BB84B93962EACC9ull);
    return u64_fold(mixed ^ 0x9E3779B97F4A7C15ull, 0x4B33A62ED433D4A3ull);
}

static inline u32 u128_tag(const u64 key[2], u128 id) { return (u32)(u128_hash64(key, id) >> 32); }

#endif
