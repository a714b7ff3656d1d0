/* An array that grows by chunks, so that no record ever moves and no growth copies.
 *
 * Chunks are mapped, zeroed by the kernel and cost nothing until touched; those of a scattered
 * slab, whose records are looked up at random, are huge pages, but for the first: a small slab
 * stays small. Room for what a request may append is reserved before the request is judged;
 * appending cannot fail. A ring also forgets from its beginning: the chunks of what is forgotten
 * become room at the end, with what they held still in them, and an index counts on modulo
 * 2^SLAB_RING_BITS. Knows nothing of what it stores.
 */
#ifndef LEDGER_SLAB_H
#define LEDGER_SLAB_H

#include <string.h>
#include <sys/mman.h>

#include "base/types.h"

enum {
    SLAB_CHUNK_BYTES = 1 << 21, /* a huge page */
    SLAB_RING_BITS = 30,
};

typedef struct {
    u8 **chunks;
    u64 count;         /* records appended, those forgotten included */
    u64 capacity;      /* index after the last chunk's last record */
    u64 chunk_first;   /* the first chunk that is not forgotten */
    u64 chunk_count;   /* number after the last chunk's */
    u64 chunk_room;    /* length of `chunks` */
    u64 chunk_mask;    /* a ring's chunk lies at its number modulo this + 1 */
    u32 record_bytes;  /* a power of two */
    u32 shift;         /* log2 of the records in a chunk */
    int scattered;     /* whether records are looked up at random */
} slab_t;

static inline void slab_init(slab_t *slab, u32 record_bytes) {
    memset(slab, 0, sizeof *slab);
    invariant(record_bytes && (record_bytes & (record_bytes - 1)) == 0);
    slab->record_bytes = record_bytes;
    slab->shift = (u32)__builtin_ctz(SLAB_CHUNK_BYTES / record_bytes);
    slab->chunk_mask = ~(u64)0;
}

static inline int slab_init_ring(slab_t *slab, u32 record_bytes) {
    slab_init(slab, record_bytes);
    slab->chunk_room = (u64)1 << (SLAB_RING_BITS - slab->shift);
    slab->chunk_mask = slab->chunk_room - 1;
    slab->chunks = calloc(slab->chunk_room, sizeof *slab->chunks);
    return slab->chunks ? 0 : -1;
}

static inline void slab_free(slab_t *slab) {
    for (u64 i = slab->chunk_first; i < slab->chunk_count; i++)
        munmap(slab->chunks[i & slab->chunk_mask], SLAB_CHUNK_BYTES);
    free(slab->chunks);
    slab->chunks = NULL;
    slab->chunk_first = slab->chunk_count = slab->chunk_room = slab->capacity = slab->count = 0;
}

static inline void *slab_at(const slab_t *slab, u64 index) {
    return slab->chunks[(index >> slab->shift) & slab->chunk_mask] +
           (index & (((u64)1 << slab->shift) - 1)) * slab->record_bytes;
}

/* The same where the compiler knows the size of a record: half as many instructions. */
static inline void *slab_of(const slab_t *slab, u64 index, u32 record_bytes) {
    const u32 shift = (u32)__builtin_ctz(SLAB_CHUNK_BYTES / record_bytes);
    return slab->chunks[(index >> shift) & slab->chunk_mask] +
           (index & (((u64)1 << shift) - 1)) * record_bytes;
}

static inline u8 *slab_map(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* A chunk in a huge page, or NULL: in small ones nearly every look at random would also have to
 * find out where its page is, which in a virtual machine takes longer than the look. Where the
 * system has none to give the same memory comes in small ones. */
static inline void *slab_map_huge(void) {
    u8 *at = slab_map(SLAB_CHUNK_BYTES);
    if (at && (uintptr_t)at % SLAB_CHUNK_BYTES) { /* older kernels do not align it by themselves */
        munmap(at, SLAB_CHUNK_BYTES);
        if (!(at = slab_map(2 * SLAB_CHUNK_BYTES))) return NULL;
        const size_t before = -(uintptr_t)at % SLAB_CHUNK_BYTES;
        if (before) munmap(at, before);
        at += before;
        munmap(at + SLAB_CHUNK_BYTES, SLAB_CHUNK_BYTES - before);
    }
    if (at) madvise(at, SLAB_CHUNK_BYTES, MADV_HUGEPAGE);
    return at;
}

static __attribute__((noinline, cold)) int slab_grow(slab_t *slab, u64 capacity) {
    while (slab->capacity < capacity) {
        if (slab->chunk_count - slab->chunk_first == slab->chunk_room) {
            if (slab->chunk_mask != ~(u64)0) return -1;
            u64 room = slab->chunk_room ? slab->chunk_room * 2 : 16;
            u8 **chunks = realloc(slab->chunks, room * sizeof *chunks);
            if (!chunks) return -1;
            slab->chunks = chunks;
            slab->chunk_room = room;
        }
        u8 *chunk = slab->scattered && slab->chunk_count ? slab_map_huge()
                                                         : slab_map(SLAB_CHUNK_BYTES);
        if (!chunk) return -1;
        slab->chunks[slab->chunk_count++ & slab->chunk_mask] = chunk;
        slab->capacity += (u64)1 << slab->shift;
    }
    return 0;
}

/* Forget all before `index` in a ring, but for what shares a chunk with it. */
static inline void slab_forget(slab_t *slab, u64 index) {
    for (; slab->chunk_first < index >> slab->shift; slab->chunk_first++) {
        u8 *chunk = slab->chunks[slab->chunk_first & slab->chunk_mask];
        slab->chunks[slab->chunk_count++ & slab->chunk_mask] = chunk;
        slab->capacity += (u64)1 << slab->shift;
    }
}

/* 0, or -1 when there is no memory for `more` further records; nothing is changed then. */
static inline int slab_reserve(slab_t *slab, u64 more) {
    if (__builtin_expect(slab->count + more <= slab->capacity, 1)) return 0;
    return slab_grow(slab, slab->count + more);
}

/* Copy a record word by word. What was stored by words just now cannot be loaded in wider pieces
 * before it has left the processor's store buffer, which waits for every store before it. */
static inline void slab_copy(void *to, const void *from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += sizeof(u64)) {
        u64 word;
        memcpy(&word, (const u8 *)from + at, sizeof word);
        __asm__("" : "+r"(word)); /* or the compiler would make wider pieces of them */
        memcpy((u8 *)to + at, &word, sizeof word);
    }
}

/* The same, past the caches: whole lines that nobody is likely to read soon. Another thread may
 * read them after slab_publish(). */
static inline void slab_stream(void *to, const void *from, size_t bytes) {
#ifdef __SSE2__
    for (size_t at = 0; at < bytes; at += sizeof(u64)) {
        long long word;
        memcpy(&word, (const u8 *)from + at, sizeof word);
        __builtin_ia32_movnti64((long long *)((u8 *)to + at), word);
    }
#else
    slab_copy(to, from, bytes);
#endif
}

static inline void slab_publish(void) {
#ifdef __SSE2__
    __builtin_ia32_sfence();
#endif
}

static inline void *slab_append(slab_t *slab) {
    invariant(slab->count < slab->capacity);
    return slab_at(slab, slab->count++);
}

static inline void *slab_append_of(slab_t *slab, u32 record_bytes) {
    invariant(slab->count < slab->capacity && slab->record_bytes == record_bytes);
    return slab_of(slab, slab->count++, record_bytes);
}

#endif
