# The C of bloom.h, column_format.h and column_file.h as Cython sees it: only the names that .pyx and
# .pxi code uses. Order and offsets do not matter, the C compiler uses the headers.

from ledger.facts.record cimport u8, u16, u32, u64, u128

cdef extern from "base/bloom.h" nogil:
    ctypedef struct filter_t:
        u32 level_count
    void filter_init(filter_t *)
    void filter_free(filter_t *)
    int filter_expect(filter_t *, u64 count)
    int filter_insert(filter_t *, const u64 *hashes, u64 stride, u64 count)
    bint filter_maybe(const filter_t *, u64 hash)
    void filter_prefetch(const filter_t *, u64 hash)
    u64 filter_at(u64 hash, u64 block_count)
    void filter_block_set(u8 *block, u64 hash)

cdef extern from "base/sort.h" nogil:
    enum:
        PAIR_BYTES
    ctypedef struct pair_t:
        u64 key, value
    void pair_sort_by_key(pair_t *pairs, pair_t *scratch, u64 count)
    void pair_sort(pair_t *pairs, pair_t *scratch, u64 count)

cdef extern from "base/merge.h" nogil:
    enum:
        MERGE_STREAMS_MAX

cdef extern from "history/column_format.h" nogil:
    enum:
        COLUMN_PAGE_BYTES, COLUMN_PAYLOAD_BYTES, COLUMN_FORMAT, COLUMN_COLUMNS_MAX
        COLUMN_KIND_SEGMENT, COLUMN_KIND_CHECKPOINT, COLUMN_RECORD_STEP
        COLUMN_DIGEST_BYTES, COLUMN_FACTS_BYTES_MAX
        COLUMN_IDS, COLUMN_RESOLUTIONS, COLUMN_ROWS, COLUMN_BALANCES, COLUMN_BLOCKS, COLUMN_PANELS
        COLUMN_ACCOUNTS, COLUMN_HOLDS, COLUMN_SESSIONS, COLUMN_STARTS
        COLUMN_IDS_BYTES, COLUMN_RESOLUTIONS_BYTES, COLUMN_ROWS_BYTES, COLUMN_BALANCES_BYTES
        COLUMN_BLOCKS_BYTES, COLUMN_PANELS_BYTES, COLUMN_ACCOUNTS_BYTES, COLUMN_HOLDS_BYTES
        COLUMN_SESSIONS_BYTES, COLUMN_STARTS_BYTES, BLOCK_TRANSFERS_MAX, PANEL_BLOCKS_MAX
        BLOCK_KEYS_MAX, BLOCK_LINES_MAX, FILTER_BLOCK_BYTES
        BLOCK_FIELD_USER_DATA_128, BLOCK_FIELD_USER_DATA_64, BLOCK_FIELD_USER_DATA_32
        BLOCK_FIELD_CODE, BLOCK_FIELD_LEDGER
    ctypedef struct column_t:
        u32 column, record_bytes
        u64 count, page_first, page_count
    ctypedef struct column_header_t:
        u8 *magic
        u16 format, kind
        u32 column_count, facts_bytes
        u128 cluster
        u64 group_first, group_last, position_last, windows
        u8 *digest
        column_t *columns
        u8 *facts
    ctypedef struct block_t:
        u64 place_first, timestamp_first, timestamp_last, group_last, panel
        u32 index, transfers
    ctypedef struct panel_part_t:
        u64 place_first, part
        u32 block_count, line_count
    ctypedef struct column_page_t:
        column_header_t header
    ctypedef struct column_found_t:
        u32 *queries
        u64 *values
        u64 count
    const u8 *column_magic
    bint column_keyed(const column_t *)
    u64 column_identity(const column_header_t *)
    bint column_intact(const column_page_t *, u64 number, u64 identity)
    const char *column_header_wrong(const column_page_t *, u64 file_bytes)
    void column_found_free(column_found_t *)
    u64 block_hash(const u64 *key, u32 field, u128 value)
    u32 panel_lines(u64 keys)
    u32 panel_parts(u32 block_count, u32 line_count)
    void panel_place(panel_part_t *parts, u32 block_count, u32 line_count, u32 index,
                     const u8 *lines)

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
