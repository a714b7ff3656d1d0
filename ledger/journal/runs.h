/* The body of a group as runs of records, walked in place.
 *
 * A body is runs in the order of execution; a run is a header and records of one kind, padded to 16
 * bytes. Whoever walks has seen to it that the runs are good, or asks of each whether it is. What
 * the records mean is not known here.
 */
#ifndef LEDGER_RUNS_H
#define LEDGER_RUNS_H

#include <string.h>

#include "facts/record.h"

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

/* What is wrong with the header of a run, or RUN_GOOD. */
enum {
    RUN_GOOD,
    RUN_CUT_OFF,
    RUN_KIND_UNKNOWN,
    RUN_VERSION_UNKNOWN,
    RUN_LENGTH_WRONG,
    RUN_RESERVED_SET,
};

/* Judge the header of a run, behind which `bytes_left` bytes of the body lie. */
static inline int run_fault(const run_t *run, u64 bytes_left) {
    const u64 record_bytes = record_bytes_of_kind(run->kind);
    const u64 units = (run->count * record_bytes + RUNS_UNIT_BYTES - 1) / RUNS_UNIT_BYTES;
    if (record_bytes == 0) return RUN_KIND_UNKNOWN;
    if (run->version != JOURNAL_KIND_VERSION) return RUN_VERSION_UNKNOWN;
    if (run->count == 0 || run->bytes != units * RUNS_UNIT_BYTES || run->bytes > bytes_left)
        return RUN_LENGTH_WRONG;
    return run->reserved ? RUN_RESERVED_SET : RUN_GOOD;
}

/* Copy the header of the run at `at`, wherever it lies in memory, and judge it. */
static inline int run_read(const u8 *body, u64 at, u64 end, run_t *run) {
    if (end - at < sizeof *run) return RUN_CUT_OFF;
    memcpy(run, body + at, sizeof *run);
    return run_fault(run, end - at - sizeof *run);
}

/* Whether what lies at `at` is a run that ends before `end`, a multiple of 16 bytes away. */
static inline int runs_good(const u8 *body, u64 at, u64 end) {
    return run_fault((const run_t *)(body + at), end - at - sizeof(run_t)) == RUN_GOOD;
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
    runs->record_bytes = record_bytes_of_kind(run->kind);
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
