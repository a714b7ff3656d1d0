/* A tree of losers: it merges streams of records that ascend by the pair they begin with.
 *
 * A record is copied once and compared once for each level of the tree. The streams are refilled by
 * who merges; this file reads no file and knows nothing of what the records mean.
 */
#ifndef LEDGER_MERGE_H
#define LEDGER_MERGE_H

#include <string.h>

#include "base/sort.h"
#include "base/types.h"

enum { MERGE_STREAMS_MAX = 16 };

typedef struct {
    const u8 *next; /* records that lie one after another */
    const u8 *end;
} merge_stream_t;

/* Streams 0 to count-1 are alive and not empty whenever merge_step() is called. */
typedef struct {
    u32 count;
    u32 winner;
    u64 record_bytes;
    u128 pairs[MERGE_STREAMS_MAX]; /* of each stream's next record */
    u32 losers[MERGE_STREAMS_MAX]; /* nodes 1 to count-1; stream i hangs below (i + count) / 2 */
    merge_stream_t streams[MERGE_STREAMS_MAX];
} merge_t;

static inline void merge_replay(merge_t *merge, u32 winner) {
    for (u32 node = (winner + merge->count) / 2; node > 0; node /= 2) {
        const u32 other = merge->losers[node];
        const int less = merge->pairs[other] < merge->pairs[winner];
        merge->losers[node] = less ? winner : other;
        winner = less ? other : winner;
    }
    merge->winner = winner;
}

/* Build the tree; again whenever `count` or the streams' order has changed. */
static inline void merge_begin(merge_t *merge) {
    invariant(merge->count > 0 && merge->count <= MERGE_STREAMS_MAX);
    u32 winners[2 * MERGE_STREAMS_MAX];
    for (u32 i = 0; i < merge->count; i++) {
        invariant(merge->streams[i].next < merge->streams[i].end);
        merge->pairs[i] = pair_of(merge->streams[i].next);
        winners[i + merge->count] = i;
    }
    for (u32 node = merge->count - 1; node > 0; node--) {
        const u32 left = winners[2 * node], right = winners[2 * node + 1];
        const int less = merge->pairs[left] < merge->pairs[right];
        winners[node] = less ? left : right;
        merge->losers[node] = less ? right : left;
    }
    merge->winner = winners[1];
}

static inline __attribute__((always_inline)) u64 merge_some(merge_t *merge, u8 *out,
                                                                   u64 room, u64 record_bytes) {
    u64 made = 0;
    while (made < room) {
        const u32 winner = merge->winner;
        merge_stream_t *stream = &merge->streams[winner];
        memcpy(out + made++ * record_bytes, stream->next, record_bytes);
        stream->next += record_bytes;
        if (stream->next == stream->end) break;
        merge->pairs[winner] = pair_of(stream->next);
        merge_replay(merge, winner);
    }
    return made;
}

/* Write the lowest records to `out` until it has `room` of them or one stream is used up, which is
 * merge->winner then; returns how many. Whoever refilled that stream calls merge_refilled(),
 * whoever has nothing more for it takes it out and begins again. */
static inline u64 merge_step(merge_t *merge, u8 *out, u64 room) {
    if (merge->record_bytes == PAIR_BYTES)
        return merge_some(merge, out, room, PAIR_BYTES);
    return merge_some(merge, out, room, merge->record_bytes);
}

static inline void merge_refilled(merge_t *merge) {
    const merge_stream_t *stream = &merge->streams[merge->winner];
    invariant(stream->next < stream->end);
    merge->pairs[merge->winner] = pair_of(stream->next);
    merge_replay(merge, merge->winner);
}

#endif
