/* The AEGIS-128L check of frames and of journal blocks, 16 bytes.
 *
 * Key and nonce are zero: this finds damage, it keeps nothing secret, so tables indexed by data
 * are no leak. The input is absorbed as associated data and the state after the ten rounds of
 * initialisation is a constant. The tag is the older 128-bit one of this family, the exclusive or
 * of seven blocks; libraries that follow later drafts give another.
 *
 * Three paths give the same tag: AES instructions of x86-64, those of ARM64, and plain C. The
 * path is chosen while running, so one build fits every machine. A check may be built in pieces
 * (begin, absorb, finish) and needs no copy of them. This file knows nothing of what is checked.
 */
#ifndef LEDGER_AEGIS_H
#define LEDGER_AEGIS_H

#include <string.h>

#include "base/types.h"

enum { AEGIS_BLOCK_BYTES = 16, AEGIS_CHUNK_BYTES = 32, AEGIS_TAG_BYTES = 16, AEGIS_FINAL = 7 };

typedef struct {
    _Alignas(16) u8 block[8][AEGIS_BLOCK_BYTES];
} aegis_state_t;

/* What differs between the paths: absorbing whole chunks of 32 bytes, and the tag of `bits`. */
typedef struct {
    void (*absorb)(aegis_state_t *state, const u8 *chunks, size_t count);
    void (*tag)(const aegis_state_t *state, u64 bits, u8 tag[AEGIS_TAG_BYTES]);
} aegis_path_t;

static const aegis_state_t aegis_seed = {{
    {0x72, 0xf2, 0xf4, 0x5d, 0x9e, 0xc7, 0x42, 0x02,
     0x3e, 0x84, 0xaa, 0x66, 0xae, 0xfd, 0x35, 0x92},
    {0x42, 0x07, 0x1d, 0xcd, 0x30, 0x1a, 0xf7, 0xcf,
     0x8a, 0x7c, 0x6c, 0x4a, 0x20, 0xf6, 0x30, 0x65},
    {0xf8, 0x4e, 0xa4, 0xa1, 0xc6, 0xaa, 0x99, 0xce,
     0xa5, 0x1d, 0x8b, 0x5c, 0x9c, 0xc3, 0x05, 0x8f},
    {0x0f, 0xc0, 0x5e, 0x11, 0x17, 0xaf, 0x10, 0x75,
     0xa4, 0x11, 0x19, 0xf3, 0x29, 0xc5, 0xa8, 0xd2},
    {0x57, 0x88, 0x8c, 0x33, 0xd3, 0x16, 0x03, 0x55,
     0x36, 0x40, 0x35, 0xc8, 0xf2, 0x1e, 0x79, 0x86},
    {0x48, 0xfa, 0x4b, 0x5d, 0xd5, 0x70, 0x42, 0xc4,
     0x08, 0x4f, 0xe9, 0xf5, 0x15, 0x08, 0xb6, 0x44},
    {0x0b, 0x99, 0x89, 0xcc, 0x91, 0x05, 0x03, 0x85,
     0x03, 0x05, 0xde, 0x7e, 0xf1, 0xa9, 0x8b, 0xfe},
    {0xb3, 0x0e, 0x75, 0x21, 0x39, 0x0c, 0xcf, 0x8e,
     0xcf, 0xe9, 0x4a, 0xf6, 0x87, 0x95, 0x5d, 0xd7}
}};

/* ---- plain C ------------------------------------------------------------------------------ */

/* S(byte): the substitution of AES, in order. */
#define AEGIS_SUBSTITUTION(S)                                                                  \
    S(0x63) S(0x7c) S(0x77) S(0x7b) S(0xf2) S(0x6b) S(0x6f) S(0xc5) S(0x30) S(0x01)            \
    S(0x67) S(0x2b) S(0xfe) S(0xd7) S(0xab) S(0x76) S(0xca) S(0x82) S(0xc9) S(0x7d)            \
    S(0xfa) S(0x59) S(0x47) S(0xf0) S(0xad) S(0xd4) S(0xa2) S(0xaf) S(0x9c) S(0xa4)            \
    S(0x72) S(0xc0) S(0xb7) S(0xfd) S(0x93) S(0x26) S(0x36) S(0x3f) S(0xf7) S(0xcc)            \
    S(0x34) S(0xa5) S(0xe5) S(0xf1) S(0x71) S(0xd8) S(0x31) S(0x15) S(0x04) S(0xc7)            \
    S(0x23) S(0xc3) S(0x18) S(0x96) S(0x05) S(0x9a) S(0x07) S(0x12) S(0x80) S(0xe2)            \
    S(0xeb) S(0x27) S(0xb2) S(0x75) S(0x09) S(0x83) S(0x2c) S(0x1a) S(0x1b) S(0x6e)            \
    S(0x5a) S(0xa0) S(0x52) S(0x3b) S(0xd6) S(0xb3) S(0x29) S(0xe3) S(0x2f) S(0x84)            \
    S(0x53) S(0xd1) S(0x00) S(0xed) S(0x20) S(0xfc) S(0xb1) S(0x5b) S(0x6a) S(0xcb)            \
    S(0xbe) S(0x39) S(0x4a) S(0x4c) S(0x58) S(0xcf) S(0xd0) S(0xef) S(0xaa) S(0xfb)            \
    S(0x43) S(0x4d) S(0x33) S(0x85) S(0x45) S(0xf9) S(0x02) S(0x7f) S(0x50) S(0x3c)            \
    S(0x9f) S(0xa8) S(0x51) S(0xa3) S(0x40) S(0x8f) S(0x92) S(0x9d) S(0x38) S(0xf5)            \
    S(0xbc) S(0xb6) S(0xda) S(0x21) S(0x10) S(0xff) S(0xf3) S(0xd2) S(0xcd) S(0x0c)            \
    S(0x13) S(0xec) S(0x5f) S(0x97) S(0x44) S(0x17) S(0xc4) S(0xa7) S(0x7e) S(0x3d)            \
    S(0x64) S(0x5d) S(0x19) S(0x73) S(0x60) S(0x81) S(0x4f) S(0xdc) S(0x22) S(0x2a)            \
    S(0x90) S(0x88) S(0x46) S(0xee) S(0xb8) S(0x14) S(0xde) S(0x5e) S(0x0b) S(0xdb)            \
    S(0xe0) S(0x32) S(0x3a) S(0x0a) S(0x49) S(0x06) S(0x24) S(0x5c) S(0xc2) S(0xd3)            \
    S(0xac) S(0x62) S(0x91) S(0x95) S(0xe4) S(0x79) S(0xe7) S(0xc8) S(0x37) S(0x6d)            \
    S(0x8d) S(0xd5) S(0x4e) S(0xa9) S(0x6c) S(0x56) S(0xf4) S(0xea) S(0x65) S(0x7a)            \
    S(0xae) S(0x08) S(0xba) S(0x78) S(0x25) S(0x2e) S(0x1c) S(0xa6) S(0xb4) S(0xc6)            \
    S(0xe8) S(0xdd) S(0x74) S(0x1f) S(0x4b) S(0xbd) S(0x8b) S(0x8a) S(0x70) S(0x3e)            \
    S(0xb5) S(0x66) S(0x48) S(0x03) S(0xf6) S(0x0e) S(0x61) S(0x35) S(0x57) S(0xb9)            \
    S(0x86) S(0xc1) S(0x1d) S(0x9e) S(0xe1) S(0xf8) S(0x98) S(0x11) S(0x69) S(0xd9)            \
    S(0x8e) S(0x94) S(0x9b) S(0x1e) S(0x87) S(0xe9) S(0xce) S(0x55) S(0x28) S(0xdf)            \
    S(0x8c) S(0xa1) S(0x89) S(0x0d) S(0xbf) S(0xe6) S(0x42) S(0x68) S(0x41) S(0x99)            \
    S(0x2d) S(0x0f) S(0xb0) S(0x54) S(0xbb) S(0x16)

/* SubBytes and MixColumns of one byte as a column of four, lowest byte first: 2s, s, s, 3s. */
#define AEGIS_DOUBLE(s) ((((s) << 1) ^ (((s) >> 7) * 0x1b)) & 0xffu)
#define AEGIS_COLUMN(s)                                                              \
    (AEGIS_DOUBLE(s) | (u32)(s) << 8 | (u32)(s) << 16 | (AEGIS_DOUBLE(s) ^ (s)) << 24),
static const u32 aegis_column[256] = {AEGIS_SUBSTITUTION(AEGIS_COLUMN)};

static inline u32 aegis_rotate(u32 word, unsigned bits) {
    return word << bits | word >> (-bits & 31);
}

/* One full AES round of x, then xor key: `out` may be neither. */
static inline void aegis_round_portable(const u8 *x, const u8 *key, u8 *out) {
    for (unsigned column = 0; column < 4; column++) {
        u32 word;
        memcpy(&word, key + 4 * column, 4);
        for (unsigned row = 0; row < 4; row++)
            word ^= aegis_rotate(aegis_column[x[(4 * column + 5 * row) & 15]], 8 * row);
        memcpy(out + 4 * column, &word, 4);
    }
}

static inline void aegis_xor_portable(u8 *to, const u8 *from) {
    for (unsigned i = 0; i < AEGIS_BLOCK_BYTES; i++) to[i] ^= from[i];
}

static inline void aegis_update_portable(aegis_state_t *state, const u8 *first, const u8 *second) {
    const aegis_state_t old = *state;
    for (unsigned i = 0; i < 8; i++)
        aegis_round_portable(old.block[(i + 7) & 7], old.block[i], state->block[i]);
    aegis_xor_portable(state->block[0], first);
    aegis_xor_portable(state->block[4], second);
}

static void aegis_absorb_portable(aegis_state_t *state, const u8 *chunks, size_t count) {
    for (; count > 0; count--, chunks += AEGIS_CHUNK_BYTES)
        aegis_update_portable(state, chunks, chunks + AEGIS_BLOCK_BYTES);
}

static void aegis_tag_portable(const aegis_state_t *from, u64 bits, u8 tag[AEGIS_TAG_BYTES]) {
    aegis_state_t state = *from;
    u8 length[AEGIS_BLOCK_BYTES] = {0};
    memcpy(length, &bits, sizeof bits);
    aegis_xor_portable(length, state.block[2]);
    for (unsigned i = 0; i < AEGIS_FINAL; i++) aegis_update_portable(&state, length, length);
    memcpy(tag, state.block[0], AEGIS_TAG_BYTES);
    for (unsigned i = 1; i < 7; i++) aegis_xor_portable(tag, state.block[i]);
}

static const aegis_path_t aegis_portable = {aegis_absorb_portable, aegis_tag_portable};

/* ---- the AES instructions of one machine or the other ------------------------------------- */

#if defined(__x86_64__)
#include <immintrin.h>
#define AEGIS_TARGET __attribute__((target("aes,sse4.1")))
typedef __m128i aegis_block_t;
#define AEGIS_LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define AEGIS_STORE(p, x) _mm_storeu_si128((__m128i *)(p), (x))
#define AEGIS_XOR(x, y) _mm_xor_si128((x), (y))
#define AEGIS_ROUND(x, key) _mm_aesenc_si128((x), (key))
#define AEGIS_LENGTH(bits) _mm_cvtsi64_si128((long long)(bits))
static inline int aegis_machine(void) { return __builtin_cpu_supports("aes"); }

#elif defined(__aarch64__) && (defined(__ARM_FEATURE_AES) || !defined(__clang__))
#include <arm_neon.h>
#ifdef __ARM_FEATURE_AES
#define AEGIS_TARGET
static inline int aegis_machine(void) { return 1; }
#else
#include <sys/auxv.h>
#define AEGIS_TARGET __attribute__((target("+crypto")))
/* Bit 3 of the machine's first word of capabilities on Linux: the AES instructions. */
static inline int aegis_machine(void) { return (getauxval(AT_HWCAP) >> 3 & 1) != 0; }
#endif
typedef uint8x16_t aegis_block_t;
#define AEGIS_LOAD(p) vld1q_u8(p)
#define AEGIS_STORE(p, x) vst1q_u8((p), (x))
#define AEGIS_XOR(x, y) veorq_u8((x), (y))
#define AEGIS_ROUND(x, key) veorq_u8(vaesmcq_u8(vaeseq_u8((x), vdupq_n_u8(0))), (key))
#define AEGIS_LENGTH(bits) vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(bits), vcreate_u64(0)))
#endif

#ifdef AEGIS_TARGET

/* From the last block down, so that each still finds its neighbour's old value. */
#define AEGIS_UPDATE(s, first, second)                    \
    do {                                                  \
        const aegis_block_t last = s##7;                  \
        s##7 = AEGIS_ROUND(s##6, s##7);                   \
        s##6 = AEGIS_ROUND(s##5, s##6);                   \
        s##5 = AEGIS_ROUND(s##4, s##5);                   \
        s##4 = AEGIS_ROUND(s##3, AEGIS_XOR(s##4, second)); \
        s##3 = AEGIS_ROUND(s##2, s##3);                   \
        s##2 = AEGIS_ROUND(s##1, s##2);                   \
        s##1 = AEGIS_ROUND(s##0, s##1);                   \
        s##0 = AEGIS_ROUND(last, AEGIS_XOR(s##0, first)); \
    } while (0)

#define AEGIS_OPEN(s, state)                                                               \
    aegis_block_t s##0 = AEGIS_LOAD((state)->block[0]), s##1 = AEGIS_LOAD((state)->block[1]), \
                  s##2 = AEGIS_LOAD((state)->block[2]), s##3 = AEGIS_LOAD((state)->block[3]), \
                  s##4 = AEGIS_LOAD((state)->block[4]), s##5 = AEGIS_LOAD((state)->block[5]), \
                  s##6 = AEGIS_LOAD((state)->block[6]), s##7 = AEGIS_LOAD((state)->block[7])

AEGIS_TARGET static void aegis_absorb_machine(aegis_state_t *state, const u8 *chunks,
                                              size_t count) {
    AEGIS_OPEN(s, state);
    for (; count >= 2; count -= 2, chunks += 2 * AEGIS_CHUNK_BYTES) {
        AEGIS_UPDATE(s, AEGIS_LOAD(chunks), AEGIS_LOAD(chunks + 16));
        AEGIS_UPDATE(s, AEGIS_LOAD(chunks + 32), AEGIS_LOAD(chunks + 48));
    }
    if (count > 0) AEGIS_UPDATE(s, AEGIS_LOAD(chunks), AEGIS_LOAD(chunks + 16));
    AEGIS_STORE(state->block[0], s0);
    AEGIS_STORE(state->block[1], s1);
    AEGIS_STORE(state->block[2], s2);
    AEGIS_STORE(state->block[3], s3);
    AEGIS_STORE(state->block[4], s4);
    AEGIS_STORE(state->block[5], s5);
    AEGIS_STORE(state->block[6], s6);
    AEGIS_STORE(state->block[7], s7);
}

AEGIS_TARGET static void aegis_tag_machine(const aegis_state_t *state, u64 bits,
                                           u8 tag[AEGIS_TAG_BYTES]) {
    AEGIS_OPEN(s, state);
    const aegis_block_t length = AEGIS_XOR(s2, AEGIS_LENGTH(bits));
    for (unsigned i = 0; i < AEGIS_FINAL; i++) AEGIS_UPDATE(s, length, length);
    AEGIS_STORE(tag, AEGIS_XOR(AEGIS_XOR(AEGIS_XOR(s0, s1), AEGIS_XOR(s2, s3)),
                               AEGIS_XOR(AEGIS_XOR(s4, s5), s6)));
}

static const aegis_path_t aegis_fast = {aegis_absorb_machine, aegis_tag_machine};

static inline const aegis_path_t *aegis_best(void) {
    return aegis_machine() ? &aegis_fast : &aegis_portable;
}

#else

static inline const aegis_path_t *aegis_best(void) { return &aegis_portable; }

#endif

/* ---- a check in pieces -------------------------------------------------------------------- */

typedef struct {
    aegis_state_t state;
    const aegis_path_t *path;
    u64 bytes; /* absorbed so far; the last bytes % 32 of them wait in `rest` */
    u8 rest[AEGIS_CHUNK_BYTES];
} aegis_t;

static inline void aegis_begin(aegis_t *check, const aegis_path_t *path) {
    check->state = aegis_seed;
    check->path = path;
    check->bytes = 0;
}

static inline void aegis_absorb(aegis_t *check, const void *input, size_t bytes) {
    const u8 *next = input;
    const size_t waiting = check->bytes % AEGIS_CHUNK_BYTES;
    check->bytes += bytes;
    if (waiting > 0) {
        const size_t room = AEGIS_CHUNK_BYTES - waiting;
        const size_t taken = bytes < room ? bytes : room;
        memcpy(check->rest + waiting, next, taken);
        if (taken < room) return;
        check->path->absorb(&check->state, check->rest, 1);
        next += taken;
        bytes -= taken;
    }
    check->path->absorb(&check->state, next, bytes / AEGIS_CHUNK_BYTES);
    if (bytes % AEGIS_CHUNK_BYTES > 0)
        memcpy(check->rest, next + bytes / AEGIS_CHUNK_BYTES * AEGIS_CHUNK_BYTES,
               bytes % AEGIS_CHUNK_BYTES);
}

static inline void aegis_finish(aegis_t *check, u8 tag[AEGIS_TAG_BYTES]) {
    const size_t waiting = check->bytes % AEGIS_CHUNK_BYTES;
    if (waiting > 0) {
        memset(check->rest + waiting, 0, AEGIS_CHUNK_BYTES - waiting);
        check->path->absorb(&check->state, check->rest, 1);
    }
    check->path->tag(&check->state, check->bytes * 8, tag);
}

/* The check of one stretch, as a number in memory order. */
static inline u128 aegis_of(const aegis_path_t *path, const void *input, size_t bytes) {
    aegis_t check;
    u128 tag;
    aegis_begin(&check, path);
    aegis_absorb(&check, input, bytes);
    aegis_finish(&check, (u8 *)&tag);
    return tag;
}

#endif
