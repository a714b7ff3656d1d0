# What Cython sees of runs.h: the body of a group as runs of records. Nothing is decided here.

from ledger.facts.record cimport run_t, u8, u16, u32, u64

cdef extern from "journal/runs.h" nogil:
    enum:
        RUNS_UNIT_BYTES
        RUN_GOOD, RUN_CUT_OFF, RUN_KIND_UNKNOWN, RUN_VERSION_UNKNOWN, RUN_LENGTH_WRONG
        RUN_RESERVED_SET
    u32 record_bytes_of_kind(u16 kind)
    int run_fault(const run_t *run, u64 bytes_left)
    int run_read(const u8 *body, u64 at, u64 end, run_t *run)

    ctypedef struct runs_header_t:
        u64 position_first, position_count, run_count, clock_after
        u64 transfer_timestamp_min, transfer_timestamp_max, body_bytes
    ctypedef struct runs_t:
        u64 at, end
        const u8 *record
        u64 position, left
        u32 record_bytes
        u16 kind
    u64 runs_headers(const void *, u64, const void *, u64)
    bint runs_good(const u8 *, u64, u64)
    runs_t runs_from(const u8 *, u64, u64, u64)
    bint runs_next(runs_t *)
    const void *runs_take(runs_t *, u16)
