# The C of column_file.h as Cython sees it: only the names that .pyx and .pxi code uses. Order and
# offsets do not matter, the C compiler uses the header.

from ledger.base.sort cimport pair_t
from ledger.base.types cimport u8, u32, u64
from ledger.history.column_format cimport column_page_t, column_t, column_found_t

cdef extern from "history/column_file.h" nogil:
    enum:
        COLUMN_WRITE_PAGES, COLUMN_STEP_PAGES, COLUMN_READ_PAGES
        COLUMN_MERGE_PAGES, COLUMN_MERGE_BYTES
        COLUMN_FAULT_DAMAGED, COLUMN_FAULT_ENDED, COLUMN_FAULT_MEMORY, COLUMN_FAULT_ORDER
    ctypedef struct column_fault_t:
        int error
        u64 at
    ctypedef struct column_writer_t:
        int descriptor
        u64 identity, page_next
        column_page_t *head
        column_page_t *pages
        column_t *column
        pair_t *fences
    ctypedef struct column_file_t:
        int descriptor
        u64 identity
    ctypedef struct column_source_t:
        const column_file_t *file
        const column_t *column
        column_page_t *buffer
        u32 number
    int column_fail(column_fault_t *, int error, u64 at)
    column_page_t *column_pages_new(u64 count)
    int column_begin(column_writer_t *, u32 column, u32 record_bytes, column_fault_t *)
    int column_append(column_writer_t *, const u8 *records, u64 count, column_fault_t *)
    int column_finish(column_writer_t *, column_fault_t *)
    int column_read_bytes(int descriptor, u64 first, u64 count, column_page_t *, int flags,
                          column_fault_t *)
    int column_copy(const column_file_t *, const column_t *, u64 first, u64 end, u64 taken_bytes,
                    u8 *out, column_fault_t *)
    int column_load_fences(const column_file_t *, const column_t *, u8 *fences, column_fault_t *)
    int column_find(const column_file_t *, const column_t *, const u8 *fences, const u64 *keys,
                    u64 key_count, column_found_t *, column_fault_t *)
    int column_find_range(const column_file_t *, const column_t *, const u8 *fences, u64 key,
                          u64 value_low, u64 value_high, u64 *first, u64 *end, column_fault_t *)
    int column_prove(const column_file_t *, const column_t *, const u8 *fences, column_page_t *,
                     column_fault_t *)
    int column_merge(column_source_t *, u32 count, column_writer_t *, u8 *out, u32 *blamed,
                     column_fault_t *)
    int block_select(const column_file_t *, const column_t *, u64 number, u32 index, u64 first,
                     u64 count, const u64 *hashes, u64 hash_count, u32 *out, u64 *made,
                     column_fault_t *)
    int block_find(const column_file_t *, const column_t *, u64 timestamp, u64 *number,
                   column_fault_t *)
