/* Leaf: an array that grows by chunks, so that no record ever moves and no growth copies.
 *
 * Chunks are mapped, zeroed by the kernel and cost nothing until touched. Room for what a request
 * may append is reserved before the request is judged; appending cannot fail. Knows nothing of
 * what it stores.
 */
#ifndef LEDGER_SLAB_H
#define LEDGER_SLAB_H

#include <string.h>
#include <sys/mman.h>

#include "record.h"

enum { SLAB_CHUNK_BYTES = 1 << 20 };

typedef struct {
    u8 **chunks;
    u64 count;         /* records in use */
    u64 capacity;      /* records in all chunks */
    u64 chunk_count;
    u64 chunk_room;    /* length of `chunks` */
    u32 record_bytes;  /* a power of two */
    u32 shift;         /* log2 of the records in a chunk */
} slab_t;

static inline void slab_init(slab_t *slab, u32 record_bytes) {
    memset(slab, 0, sizeof *slab);
    invariant(record_bytes && (record_bytes & (record_bytes - 1)) == 0);
    slab->record_bytes = record_bytes;
    slab->shift = (u32)__builtin_ctz(SLAB_CHUNK_BYTES / record_bytes);
}

static inline void slab_free(slab_t *slab) {
    for (u64 i = 0; i < slab->chunk_count; i++) munmap(slab->chunks[i], SLAB_CHUNK_BYTES);
    free(slab->chunks);
    slab->chunks = NULL;
    slab->chunk_count = slab->capacity = slab->count = 0;
}

static inline void *slab_at(const slab_t *slab, u64 index) {
    return slab->chunks[index >> slab->shift] +
           (index & (((u64)1 << slab->shift) - 1)) * slab->record_bytes;
}

static __attribute__((noinline, cold)) int slab_grow(slab_t *slab, u64 capacity) {
    while (slab->capacity < capacity) {
        if (slab->chunk_count == slab->chunk_room) {
            u64 room = slab->chunk_room ? slab->chunk_room * 2 : 16;
            u8 **chunks = realloc(slab->chunks, room * sizeof *chunks);
            if (!chunks) return -1;
            slab->chunks = chunks;
            slab->chunk_room = room;
        }
        void *chunk = mmap(NULL, SLAB_CHUNK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED) return -1;
        slab->chunks[slab->chunk_count++] = chunk;
        slab->capacity += (u64)1 << slab->shift;
    }
    return 0;
}

/* 0, or -1 when there is no memory for `more` further records; nothing is changed then. */
static inline int slab_reserve(slab_t *slab, u64 more) {
    if (__builtin_expect(slab->count + more <= slab->capacity, 1)) return 0;
    return slab_grow(slab, slab->count + more);
}

static inline void *slab_append(slab_t *slab) {
    invariant(slab->count < slab->capacity);
    return slab_at(slab, slab->count++);
}

#endif
