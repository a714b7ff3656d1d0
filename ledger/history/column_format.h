/* The layout of a column file, and what is done to its pages and records in memory.
 *
 * A file is pages of 4,096 bytes: payload, the page's number, the identity of the file, a check. So
 * a damaged page is found, and so is an intact one in the wrong place or of another file. Page 0 is
 * the header, which says where each column lies. A record never crosses a page. The records of a
 * keyed column begin with (u64 key, u64 value), ascend strictly by both, and are followed by the
 * column's *fences*: the first (key, value) of each of its pages, in pages of their own, so that a
 * search reads one page in 254 before it knows where to look. Everything is little-endian; what a
 * page does not use is 0.
 *
 * Here are the checks and the searches; sort and merge are in sort.h and merge.h. This file opens
 * nothing, reads and writes no disk, and knows neither journal nor accounts: whose keys and values
 * these are is its callers' business.
 */
#ifndef LEDGER_COLUMNS_H
#define LEDGER_COLUMNS_H

#include <string.h>

#include "base/aegis.h"
#include "base/bloom.h"
#include "base/merge.h"
#include "facts/record.h"
#include "base/sort.h"
#include "base/u128.h"

enum {
    COLUMN_PAGE_BYTES = 4096,
    COLUMN_PAYLOAD_BYTES = 4064,
    COLUMN_FORMAT = 2,
    COLUMN_KIND_SEGMENT = 1,
    COLUMN_KIND_CHECKPOINT = 2,
    COLUMN_COLUMNS_MAX = 16,
    COLUMN_KEYED_END = 16, /* columns of lower numbers are keyed; the others keep their order */
    COLUMN_RECORD_STEP = 16, /* the length of a record is a multiple of it */
    COLUMN_DIGEST_BYTES = 32,
    COLUMN_FACTS_BYTES_MAX = 2048,
};

/* C(name, number, bytes of a record, doc): the columns there are */
#define COLUMNS(C)                                                                             \
    C(IDS, 1, 16, "hash of a transfer's or a burned id, place")                                \
    C(RESOLUTIONS, 2, 16, "place of a hold's transfer, how it ended")                          \
    C(ROWS, 3, 16, "account, place of a transfer or expiry that touches it")                       \
    C(BALANCES, 4, 96, "account, place of some transfers, timestamp, 0, balances after it")   \
    C(BLOCKS, 5, 48, "place and timestamps of a block of transfers, its panel")               \
    C(PANELS, 6, 4064, "place of a panel's first block, part, filters of its blocks")         \
    C(ACCOUNTS, 16, 128, "the accounts at a checkpoint")                                       \
    C(HOLDS, 17, 160, "the open holds at a checkpoint")                                        \
    C(SESSIONS, 18, 128, "the sessions at a checkpoint")                                       \
    C(STARTS, 19, 16, "id and position of the starts before a checkpoint")

#define AS_COLUMN(name, number, bytes, doc) \
    COLUMN_##name = (number), COLUMN_##name##_BYTES = (bytes),
enum { COLUMNS(AS_COLUMN) };

typedef struct {
    u32 column;
    u32 record_bytes;
    u64 count;      /* records */
    u64 page_first;
    u64 page_count; /* without the fences' */
} column_t;
_Static_assert(sizeof(column_t) == 32, "column_t has no padding");

typedef struct {
    u8 magic[8];
    u16 format;
    u16 kind;
    u32 column_count;
    u128 cluster;
    u64 group_first;
    u64 group_last;
    u64 position_last;
    u8 digest[COLUMN_DIGEST_BYTES]; /* of group_last */
    u64 windows;
    u8 reserved[32];
    column_t columns[COLUMN_COLUMNS_MAX];
    u8 reserved_second[384];
    u32 facts_bytes;
    u8 facts[COLUMN_FACTS_BYTES_MAX];
    u8 reserved_third[988];
} column_header_t;
_Static_assert(offsetof(column_header_t, columns) == 128, "columns at 128");
_Static_assert(offsetof(column_header_t, facts_bytes) == 1024, "facts at 1,024");
_Static_assert(sizeof(column_header_t) == COLUMN_PAYLOAD_BYTES, "a header is one payload");

/* Transfers come in blocks, and a block has a filter of the values in it, some lines of 32 bytes.
 * The filters of successive blocks, all with as many lines, lie side by side in a *panel*: each of
 * its parts, a page, has a few lines of every block, so that a value is looked for with one page a
 * panel. */
enum {
    BLOCK_TRANSFERS_MAX = 4096,
    PANEL_BLOCKS_MAX = 63,
    PANEL_LINES = 126, /* of a part */
    PANEL_LINE_KEYS = 12,
};

typedef struct {
    u64 place_first; /* of the block's first transfer */
    u64 timestamp_first;
    u64 timestamp_last;
    u64 group_last; /* of the block's last transfer */
    u64 panel;      /* place_first of the first block of its panel */
    u32 index;      /* of the block in the panel */
    u32 transfers;
} block_t;
_Static_assert(sizeof(block_t) == COLUMN_BLOCKS_BYTES, "block_t has no padding");

typedef struct {
    u64 place_first; /* of the panel's first block */
    u64 part;
    u32 block_count;
    u32 line_count; /* of each block */
    u64 reserved;
    u8 lines[PANEL_LINES * FILTER_BLOCK_BYTES]; /* the first of each block, then the second, ... */
} panel_part_t;
_Static_assert(sizeof(panel_part_t) == COLUMN_PANELS_BYTES, "panel_part_t has no padding");

typedef struct {
    union {
        u8 payload[COLUMN_PAYLOAD_BYTES];
        column_header_t header;
        panel_part_t panel;
    };
    u64 number;
    u64 identity;
    u8 check[AEGIS_TAG_BYTES];
} column_page_t;
_Static_assert(sizeof(column_page_t) == COLUMN_PAGE_BYTES, "column_page_t has no padding");

static const u8 column_magic[8] = "LEDGCOLS";

/* ---- pages and the header ------------------------------------------------------------------- */

static inline u64 column_page_records(u64 record_bytes) {
    return COLUMN_PAYLOAD_BYTES / record_bytes;
}

/* Pages for `count` records. */
static inline u64 column_pages(u64 count, u64 record_bytes) {
    const u64 each = column_page_records(record_bytes);
    return count / each + (count % each != 0);
}

static inline int column_keyed(const column_t *column) { return column->column < COLUMN_KEYED_END; }

static inline u64 column_fence_pages(const column_t *column) {
    return column_keyed(column) ? column_pages(column->page_count, PAIR_BYTES) : 0;
}

/* The page after the last one of a column and its fences. */
static inline u64 column_end(const column_t *column) {
    return column->page_first + column->page_count + column_fence_pages(column);
}

/* A number that two files share only when they are of one kind and agree on all from the cluster to
 * the windows. */
static inline u64 column_identity(const column_header_t *header) {
    const size_t bytes = offsetof(column_header_t, reserved) - offsetof(column_header_t, cluster);
    return (u64)aegis_of(aegis_best(), &header->cluster, bytes) ^ header->kind;
}

static inline u128 column_check(const column_page_t *page) {
    return aegis_of(aegis_best(), page, offsetof(column_page_t, check));
}

static inline void column_seal(column_page_t *page, u64 number, u64 identity) {
    page->number = number;
    page->identity = identity;
    const u128 check = column_check(page);
    memcpy(page->check, &check, sizeof check);
}

static inline int column_intact(const column_page_t *page, u64 number, u64 identity) {
    const u128 check = column_check(page);
    return memcmp(page->check, &check, sizeof check) == 0 && page->number == number &&
           page->identity == identity;
}

/* What is wrong with the columns that a header names, or NULL. */
static inline const char *column_columns_wrong(const column_header_t *header, u64 file_pages) {
    static const char length_wrong[] = "the file has not the length that its header says";
    u64 page = 1;
    for (u32 i = 0; i < header->column_count; i++) {
        const column_t *column = &header->columns[i];
        if (column->record_bytes == 0 || column->record_bytes > COLUMN_PAYLOAD_BYTES ||
            column->record_bytes % COLUMN_RECORD_STEP)
            return "a column's records have a length that no record has";
        for (u32 j = 0; j < i; j++)
            if (header->columns[j].column == column->column) return "a column is named twice";
        if (column->page_first != page ||
            column->page_count != column_pages(column->count, column->record_bytes))
            return "a column is not where it must be";
        if (column->page_count > file_pages) return length_wrong;
        page = column_end(column);
    }
    return page == file_pages ? NULL : length_wrong;
}

/* What is wrong with page 0 of a file of `file_bytes`, or NULL. */
static inline const char *column_header_wrong(const column_page_t *page, u64 file_bytes) {
    const column_header_t *header = &page->header;
    if (memcmp(header->magic, column_magic, sizeof column_magic)) return "not a column file";
    if (header->format != COLUMN_FORMAT) return "a format this version does not know";
    if (!column_intact(page, 0, column_identity(header))) return "the header is damaged";
    if (header->kind != COLUMN_KIND_SEGMENT && header->kind != COLUMN_KIND_CHECKPOINT)
        return "neither a segment nor a checkpoint";
    if (header->column_count > COLUMN_COLUMNS_MAX) return "more columns than a header holds";
    if (header->facts_bytes > COLUMN_FACTS_BYTES_MAX) return "more facts than a header holds";
    if (file_bytes % COLUMN_PAGE_BYTES || file_bytes / COLUMN_PAGE_BYTES > UINT32_MAX)
        return "the file has not the length that its header says";
    return column_columns_wrong(header, file_bytes / COLUMN_PAGE_BYTES);
}

/* ---- lookups: queries are (key, whose it is), ascending by key ------------------------------ */

/* The pages that may hold a record of one of the keys, ascending, each once; returns how many.
 * `pages` has room for all pages of the column. */
static inline u64 column_plan(const u8 *fences, u64 page_count, const pair_t *queries,
                              u64 query_count, u32 *pages) {
    u64 planned = 0, below = 0, unplanned = 0;
    for (u64 i = 0; i < query_count; i++) {
        const u64 key = queries[i].key;
        below = pair_below(fences, PAIR_BYTES, below, page_count, (u128)key << 64);
        const u64 end = pair_through(fences, PAIR_BYTES, below, page_count, key);
        u64 page = below ? below - 1 : 0; /* its last records may have this key */
        if (page < unplanned) page = unplanned;
        while (page < end) pages[planned++] = (u32)page++;
        if (end > unplanned) unplanned = end;
    }
    return planned;
}

typedef struct {
    u32 *queries;
    u64 *values;
    u64 count;
    u64 room;
} column_found_t;

static inline void column_found_free(column_found_t *found) {
    free(found->queries);
    free(found->values);
    memset(found, 0, sizeof *found);
}

static __attribute__((noinline, cold)) int column_found_grow(column_found_t *found) {
    const u64 room = found->room ? found->room * 2 : 1024;
    u32 *queries = realloc(found->queries, room * sizeof *queries);
    if (!queries) return -1;
    found->queries = queries;
    u64 *values = realloc(found->values, room * sizeof *values);
    if (!values) return -1;
    found->values = values;
    found->room = room;
    return 0;
}

/* Adds what the records of one page have for the queries from *at on, and moves *at past those that
 * no later page can have more for. -1 for no memory. */
static inline int column_match(const u8 *records, u64 record_bytes, u64 count,
                               const pair_t *queries, u64 query_count, u64 *at,
                               column_found_t *found) {
    const u64 last = pair_key(records + (count - 1) * record_bytes);
    u64 below = 0;
    for (u64 i = *at; i < query_count && queries[i].key <= last; i++) {
        const u64 key = queries[i].key;
        below = pair_below(records, record_bytes, below, count, (u128)key << 64);
        for (u64 j = below; j < count; j++) {
            const u8 *record = records + j * record_bytes;
            if (pair_key(record) != key) break;
            if (found->count == found->room && column_found_grow(found)) return -1;
            found->queries[found->count] = (u32)queries[i].value;
            found->values[found->count++] = pair_key(record + sizeof(u64));
        }
        if (key < last) *at = i + 1;
    }
    return 0;
}

/* ---- blocks of transfers: their filters ----------------------------------------------------- */

/* The fields whose values a block's filter knows. */
enum {
    BLOCK_FIELD_USER_DATA_128 = 1,
    BLOCK_FIELD_USER_DATA_64 = 2,
    BLOCK_FIELD_USER_DATA_32 = 3,
    BLOCK_FIELD_CODE = 4,
    BLOCK_FIELD_LEDGER = 5,
    BLOCK_FIELDS = BLOCK_FIELD_LEDGER,
    BLOCK_KEYS_MAX = BLOCK_FIELDS * BLOCK_TRANSFERS_MAX,
    BLOCK_LINES_MAX = (BLOCK_KEYS_MAX - 1) / PANEL_LINE_KEYS + 1,
};

/* The hash of (field, value), for both who builds a filter and who asks one. */
static inline u64 block_hash(const u64 key[2], u32 field, u128 value) {
    const u64 keyed[2] = {key[0] + field * 0x9E3779B97F4A7C15ull, key[1]};
    return u128_hash64(keyed, value);
}

/* Lines for a filter of so many keys: 21 bits a key. */
static inline u32 panel_lines(u64 keys) {
    return keys == 0 ? 1 : (u32)((keys - 1) / PANEL_LINE_KEYS + 1);
}

/* Lines of each block that a part has. */
static inline u32 panel_lines_each(u32 block_count) { return PANEL_LINES / block_count; }

static inline u32 panel_parts(u32 block_count, u32 line_count) {
    return (line_count - 1) / panel_lines_each(block_count) + 1;
}

/* The part that has a hash's lines, and where in it the first block's is; the others' follow. */
static inline u32 panel_at(u64 hash, u32 block_count, u32 line_count, u32 *offset) {
    const u32 line = (u32)(filter_at(hash, line_count) / FILTER_BLOCK_BYTES);
    const u32 each = panel_lines_each(block_count);
    *offset = line % each * block_count * FILTER_BLOCK_BYTES;
    return line / each;
}

/* Put a block's lines, which lie one after another, among those of the others of its panel. */
static inline void panel_place(panel_part_t *parts, u32 block_count, u32 line_count, u32 index,
                               const u8 *lines) {
    const u32 each = panel_lines_each(block_count);
    for (u32 line = 0; line < line_count; parts++) {
        u8 *to = parts->lines + index * FILTER_BLOCK_BYTES;
        for (u32 i = 0; i < each && line < line_count; i++, line++) {
            memcpy(to, lines, FILTER_BLOCK_BYTES);
            to += block_count * FILTER_BLOCK_BYTES;
            lines += FILTER_BLOCK_BYTES;
        }
    }
}

#endif
