/* Leaf: the body of a group as runs of records, walked in place.
 *
 * A body is runs in the order of execution; a run is a header and records of one kind, padded to 16
 * bytes. Whoever walks has seen to it that the runs are good, or asks of each whether it is. What
 * the records mean is not known here.
 */
#ifndef LEDGER_RUNS_H
#define LEDGER_RUNS_H

#include "record.h"

enum { RUNS_UNIT_BYTES = 16 }; /* runs begin and end at multiples of it */

/* The numbers of a group's header that its records are held to. */
typedef struct {
    u64 position_first, position_count, run_count, clock_after;
    u64 transfer_timestamp_min, transfer_timestamp_max, body_bytes;
} runs_header_t;

/* How many headers there are, when `bodies` are those of the headers, one after the other and
 * aligned as records must be; else 0. */
static inline u64 runs_headers(const void *headers, u64 header_bytes, const void *bodies,
                               u64 body_bytes) {
    const runs_header_t *header = headers;
    u64 count = header_bytes / sizeof *header, sum = 0;
    if (header_bytes % sizeof *header || (uintptr_t)headers % sizeof(u64)) return 0;
    for (u64 i = 0; i < count; i++) {
        if (header[i].body_bytes % RUNS_UNIT_BYTES || header[i].body_bytes > body_bytes) return 0;
        sum += header[i].body_bytes;
    }
    return sum == body_bytes && (uintptr_t)bodies % RUNS_UNIT_BYTES == 0 ? count : 0;
}

/* A walk over good runs in order. */
typedef struct {
    const u8 *body;
    u64 at, end; /* offsets of the runs that are not begun */
    const u8 *record;
    u64 position, left; /* of `record`, and how many of its run there are from it on */
    u32 record_bytes;
    u16 kind;
} runs_t;

/* Bytes of a record of the kind; 0 for a kind that is not known. */
static inline u32 runs_record_bytes(u16 kind) {
    switch (kind) {
    case KIND_START: return sizeof(start_t);
    case KIND_SESSION: return sizeof(session_record_t);
    case KIND_SESSION_EVICTED: return sizeof(session_evicted_t);
    case KIND_REQUEST: return sizeof(request_t);
    case KIND_BATCH: return sizeof(batch_t);
    case KIND_ACCOUNT: return sizeof(account_t);
    case KIND_TRANSFER: return sizeof(transfer_t);
    case KIND_RESOLUTION: return sizeof(resolution_t);
    case KIND_BURNED_ID: return sizeof(burned_id_t);
    case KIND_OUTCOME: return sizeof(outcome_t);
    default: return 0;
    }
}

/* Whether what lies at `at` is a run that ends before `end`, a multiple of 16 bytes away. */
static inline int runs_good(const u8 *body, u64 at, u64 end) {
    const run_t *run = (const run_t *)(body + at);
    u64 record_bytes = run->version == JOURNAL_KIND_VERSION ? runs_record_bytes(run->kind) : 0;
    u64 units = (run->count * record_bytes + RUNS_UNIT_BYTES - 1) / RUNS_UNIT_BYTES;
    return record_bytes && run->count && run->bytes == units * RUNS_UNIT_BYTES &&
           !run->reserved && run->bytes <= end - at - sizeof(run_t);
}

static inline runs_t runs_from(const u8 *body, u64 at, u64 end, u64 position) {
    return (runs_t){.body = body, .at = at, .end = end, .position = position};
}

/* Go to the first record of the next run; 0 at the end. */
static inline int runs_next(runs_t *runs) {
    runs->position += runs->left;
    runs->left = 0;
    if (runs->at == runs->end) return 0;
    const run_t *run = (const run_t *)(runs->body + runs->at);
    runs->record = (const u8 *)(run + 1);
    runs->kind = run->kind;
    runs->left = run->count;
    runs->record_bytes = runs_record_bytes(run->kind);
    runs->at += sizeof *run + run->bytes;
    return 1;
}

/* Step over the next record of a kind and return it: `position` is one more than its own then.
 * NULL at the end. */
static inline const void *runs_take(runs_t *runs, u16 kind) {
    while (!runs->left || runs->kind != kind) {
        if (!runs_next(runs)) return NULL;
    }
    const u8 *record = runs->record;
    runs->record += runs->record_bytes;
    runs->left--;
    runs->position++;
    return record;
}

#endif
