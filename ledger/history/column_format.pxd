# The C of column_format.h as Cython sees it: only the names that .pyx and .pxi code uses. Order and
# offsets do not matter, the C compiler uses the header.

from ledger.base.types cimport u8, u16, u32, u64, u128

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
