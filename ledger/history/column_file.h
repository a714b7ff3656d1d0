/* A column file on a descriptor: written in steps, read page by page, searched, merged.
 *
 * Pages go out in writes of 1 MiB and are made durable every 8 MiB, so that no sync grows with the
 * file; the header is written last, over durable pages. Reads are preads, never a mapping: a bad
 * sector must be an error, not a signal. Each page is checked when it is read, every time. Whatever
 * goes wrong ends a call with -1 and a fault that says what and where; nothing is tried again. A
 * file that is read is never changed here, so that any number of threads may read one; a writer
 * belongs to one thread. What only a start reads, in a row, leaves the page cache to the others.
 * This file opens, names and closes nothing, and does not know what a key or a value stands for.
 */
#ifndef LEDGER_COLUMN_FILE_H
#define LEDGER_COLUMN_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "history/column_format.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80 /* since Linux 6.14, where the file system knows it */
#endif

enum {
    COLUMN_WRITE_PAGES = 256, /* a write: 1 MiB */
    COLUMN_STEP_PAGES = 2048, /* written at most before it is made durable: 8 MiB */
    COLUMN_READ_PAGES = 64,   /* a read of pages that lie together */
    COLUMN_AHEAD_PAGES = 64,  /* asked of the disk before they are needed, so that it has a queue */
    COLUMN_MERGE_PAGES = 256, /* read ahead of each merged file: 1 MiB */
    COLUMN_MERGE_BYTES = 1 << 16, /* merged at once: still in cache when it is written */
};

/* What goes wrong beside the system's own errors, which are above 0. */
enum {
    COLUMN_FAULT_DAMAGED = -1, /* a page is not what was written */
    COLUMN_FAULT_ENDED = -2,   /* the file ends before a page */
    COLUMN_FAULT_MEMORY = -3,
    COLUMN_FAULT_ORDER = -4,  /* a record does not come after the one before it */
};

typedef struct {
    int error;
    u64 at; /* which page, or which record */
} column_fault_t;

static __attribute__((noinline, cold)) int column_fail(column_fault_t *fault, int error, u64 at) {
    fault->error = error;
    fault->at = at;
    return -1;
}

static inline column_page_t *column_pages_new(u64 count) {
    return aligned_alloc(64, count * sizeof(column_page_t));
}

/* How a column is written and read in a row: those of checkpoints are not keyed. */
static inline int column_flags(const column_t *column) {
    return column_keyed(column) ? 0 : RWF_DONTCACHE;
}

/* ---- writing -------------------------------------------------------------------------------- */

typedef struct {
    int descriptor;
    u64 identity;
    column_page_t *head;
    column_page_t *pages; /* COLUMN_WRITE_PAGES: `filled` are sealed, the next one is open */
    column_t *column;     /* of the header, the one that is open; or NULL */
    int flags;            /* of the writes */
    u64 page_next;        /* the number of pages[0] */
    u64 filled;
    u64 in_page;          /* records in the open page */
    u64 unsynced;         /* pages written since the last sync */
    u128 last;            /* the pair of the last record of a keyed column */
    pair_t *fences;
    u64 fence_count;
    u64 fence_room;
} column_writer_t;

static inline int column_write(int descriptor, const column_page_t *pages, u64 first, u64 count,
                               int flags, column_fault_t *fault) {
    u8 *left = (u8 *)pages;
    u64 at = first * COLUMN_PAGE_BYTES;
    const u64 end = at + count * COLUMN_PAGE_BYTES;
    while (at < end) {
        const struct iovec part = {left, end - at};
        const ssize_t written = flags ? pwritev2(descriptor, &part, 1, (off_t)at, flags)
                                      : pwrite(descriptor, left, end - at, (off_t)at);
        if (written < 0 && flags && errno == EOPNOTSUPP) {
            flags = 0;
            continue;
        }
        if (written <= 0)
            return column_fail(fault, written < 0 ? errno : EIO, at / COLUMN_PAGE_BYTES);
        left += written;
        at += (u64)written;
    }
    return 0;
}

static inline int column_sync(column_writer_t *writer, column_fault_t *fault) {
    writer->unsynced = 0;
    return fdatasync(writer->descriptor) ? column_fail(fault, errno, writer->page_next) : 0;
}

static inline int column_flush(column_writer_t *writer, column_fault_t *fault) {
    if (column_write(writer->descriptor, writer->pages, writer->page_next, writer->filled,
                     writer->flags, fault))
        return -1;
    writer->page_next += writer->filled;
    writer->unsynced += writer->filled;
    writer->filled = 0;
    return writer->unsynced >= COLUMN_STEP_PAGES ? column_sync(writer, fault) : 0;
}

static inline int column_page_done(column_writer_t *writer, column_fault_t *fault) {
    column_seal(&writer->pages[writer->filled], writer->page_next + writer->filled,
                writer->identity);
    writer->filled++;
    writer->in_page = 0;
    return writer->filled == COLUMN_WRITE_PAGES ? column_flush(writer, fault) : 0;
}

static inline int column_fence(column_writer_t *writer, const u8 *record, column_fault_t *fault) {
    if (writer->fence_count == writer->fence_room) {
        const u64 room = writer->fence_room ? writer->fence_room * 2 : 1024;
        pair_t *fences = realloc(writer->fences, room * sizeof *fences);
        if (!fences) return column_fail(fault, COLUMN_FAULT_MEMORY, 0);
        writer->fences = fences;
        writer->fence_room = room;
    }
    memcpy(&writer->fences[writer->fence_count++], record, sizeof(pair_t));
    return 0;
}

/* Of `count` records of a keyed column, all of one page: prove their order, note a page's first. */
static inline int column_accept(column_writer_t *writer, const u8 *records, u64 count,
                                column_fault_t *fault) {
    const column_t *column = writer->column;
    const u64 ordered = pair_disorder(records, column->record_bytes, count,
                                        column->count ? &writer->last : NULL);
    if (ordered < count) return column_fail(fault, COLUMN_FAULT_ORDER, column->count + ordered);
    writer->last = pair_of(records + (count - 1) * column->record_bytes);
    return writer->in_page == 0 ? column_fence(writer, records, fault) : 0;
}

/* Fill pages with records of the open column, or with fences when no column is open. */
static inline int column_append(column_writer_t *writer, const u8 *records, u64 count,
                                column_fault_t *fault) {
    column_t *column = writer->column;
    const u64 record_bytes = column ? column->record_bytes : PAIR_BYTES;
    const u64 each = column_page_records(record_bytes);
    while (count > 0) {
        u8 *payload = writer->pages[writer->filled].payload;
        const u64 room = each - writer->in_page, some = count < room ? count : room;
        if (column && column_keyed(column) && column_accept(writer, records, some, fault))
            return -1;
        if (column) column->count += some;
        if (writer->in_page == 0) memset(payload, 0, COLUMN_PAYLOAD_BYTES);
        memcpy(payload + writer->in_page * record_bytes, records, some * record_bytes);
        writer->in_page += some;
        if (writer->in_page == each && column_page_done(writer, fault)) return -1;
        records += some * record_bytes;
        count -= some;
    }
    return 0;
}

static inline int column_end_open(column_writer_t *writer, column_fault_t *fault) {
    column_t *column = writer->column;
    if (!column) return 0;
    if (writer->in_page && column_page_done(writer, fault)) return -1;
    column->page_count = column_pages(column->count, column->record_bytes);
    writer->column = NULL;
    if (column_append(writer, (const u8 *)writer->fences, writer->fence_count, fault)) return -1;
    writer->fence_count = 0;
    return writer->in_page ? column_page_done(writer, fault) : 0;
}

/* End the open column and begin another; the caller has seen to it that the header has room. */
static inline int column_begin(column_writer_t *writer, u32 column, u32 record_bytes,
                               column_fault_t *fault) {
    column_header_t *header = &writer->head->header;
    invariant(header->column_count < COLUMN_COLUMNS_MAX);
    if (column_end_open(writer, fault)) return -1;
    writer->column = &header->columns[header->column_count++];
    writer->column->column = column;
    writer->column->record_bytes = record_bytes;
    writer->column->page_first = writer->page_next + writer->filled;
    writer->flags = column_flags(writer->column);
    return 0;
}

/* The header last: what it speaks of is durable before it is written. */
static inline int column_finish(column_writer_t *writer, column_fault_t *fault) {
    if (column_end_open(writer, fault) || column_flush(writer, fault) ||
        column_sync(writer, fault))
        return -1;
    column_seal(writer->head, 0, writer->identity);
    if (column_write(writer->descriptor, writer->head, 0, 1, 0, fault)) return -1;
    return column_sync(writer, fault);
}

/* ---- reading -------------------------------------------------------------------------------- */

typedef struct {
    int descriptor;
    u64 identity;
} column_file_t;

static inline int column_read_bytes(int descriptor, u64 first, u64 count, column_page_t *pages,
                                    int flags, column_fault_t *fault) {
    u8 *left = (u8 *)pages;
    u64 at = first * COLUMN_PAGE_BYTES;
    const u64 end = at + count * COLUMN_PAGE_BYTES;
    while (at < end) {
        const struct iovec part = {left, end - at};
        const ssize_t taken = flags ? preadv2(descriptor, &part, 1, (off_t)at, flags)
                                    : pread(descriptor, left, end - at, (off_t)at);
        if (taken < 0 && flags && errno == EOPNOTSUPP) {
            flags = 0;
            continue;
        }
        if (taken < 0) return column_fail(fault, errno, at / COLUMN_PAGE_BYTES);
        if (taken == 0) return column_fail(fault, COLUMN_FAULT_ENDED, at / COLUMN_PAGE_BYTES);
        left += taken;
        at += (u64)taken;
    }
    return 0;
}

/* Pages first to first+count-1 of the file, each checked. */
static inline int column_read_as(const column_file_t *file, u64 first, u64 count,
                                 column_page_t *pages, int flags, column_fault_t *fault) {
    if (column_read_bytes(file->descriptor, first, count, pages, flags, fault)) return -1;
    for (u64 i = 0; i < count; i++)
        if (!column_intact(&pages[i], first + i, file->identity))
            return column_fail(fault, COLUMN_FAULT_DAMAGED, first + i);
    return 0;
}

static inline int column_read(const column_file_t *file, u64 first, u64 count,
                              column_page_t *pages, column_fault_t *fault) {
    return column_read_as(file, first, count, pages, 0, fault);
}

/* The records of the column's page `page`, counted from its first. */
static inline u64 column_in_page(const column_t *column, u64 page) {
    const u64 each = column_page_records(column->record_bytes), before = page * each;
    return column->count - before < each ? column->count - before : each;
}

/* Copy the first `taken_bytes` of a page's records low to high-1; returns where the next go. */
static inline u8 *column_take(const column_page_t *page, u64 record_bytes, u64 low, u64 high,
                              u64 taken_bytes, u8 *out) {
    const u8 *record = page->payload + low * record_bytes;
    if (taken_bytes == record_bytes) {
        memcpy(out, record, (high - low) * record_bytes);
        return out + (high - low) * record_bytes;
    }
    if (taken_bytes == sizeof(u64)) /* keys: a copy of constant length is one instruction */
        for (u64 i = low; i < high; i++, record += record_bytes, out += sizeof(u64))
            memcpy(out, record, sizeof(u64));
    else
        for (u64 i = low; i < high; i++, record += record_bytes, out += taken_bytes)
            memcpy(out, record, taken_bytes);
    return out;
}

/* The first `taken_bytes` of each of the records first to end-1. */
static inline int column_copy(const column_file_t *file, const column_t *column, u64 first, u64 end,
                              u64 taken_bytes, u8 *out, column_fault_t *fault) {
    const u64 record_bytes = column->record_bytes, each = column_page_records(record_bytes);
    if (first == end) return 0;
    column_page_t *pages = column_pages_new(COLUMN_READ_PAGES);
    if (!pages) return column_fail(fault, COLUMN_FAULT_MEMORY, 0);
    int failed = 0;
    while (!failed && first < end) {
        const u64 page = first / each, left = (end - 1) / each + 1 - page;
        const u64 count = left < COLUMN_READ_PAGES ? left : COLUMN_READ_PAGES;
        failed = column_read_as(file, column->page_first + page, count, pages,
                                column_flags(column), fault);
        for (u64 i = 0; !failed && i < count; i++) {
            const u64 before = (page + i) * each, upto = end - before < each ? end - before : each;
            out = column_take(&pages[i], record_bytes, first - before, upto, taken_bytes, out);
            first = before + upto;
        }
    }
    free(pages);
    return failed;
}

/* The fences of a column, in memory for page_count pairs. */
static inline int column_load_fences(const column_file_t *file, const column_t *column, u8 *fences,
                                     column_fault_t *fault) {
    const column_t stored = {.column = column->column,
                             .record_bytes = PAIR_BYTES,
                             .count = column->page_count,
                             .page_first = column->page_first + column->page_count};
    return column_copy(file, &stored, 0, stored.count, PAIR_BYTES, fences, fault);
}

/* How many records of a keyed column are below `pair`. */
static inline int column_find_below(const column_file_t *file, const column_t *column,
                                    const u8 *fences, u128 pair, u64 *below,
                                    column_fault_t *fault) {
    const u64 record_bytes = column->record_bytes;
    column_page_t page;
    const u64 pages = pair_below(fences, PAIR_BYTES, 0, column->page_count, pair);
    *below = 0;
    if (pages == 0) return 0;
    const u64 last = pages - 1; /* begins below the pair, the next one does not */
    if (column_read(file, column->page_first + last, 1, &page, fault)) return -1;
    *below = last * column_page_records(record_bytes) +
             pair_below(page.payload, record_bytes, 0, column_in_page(column, last), pair);
    return 0;
}

/* The records first to end-1 are those with this key and a value from value_low to value_high. */
static inline int column_find_range(const column_file_t *file, const column_t *column,
                                    const u8 *fences, u64 key, u64 value_low, u64 value_high,
                                    u64 *first, u64 *end, column_fault_t *fault) {
    const u128 low = (u128)key << 64 | value_low, high = (u128)key << 64 | value_high;
    if (column_find_below(file, column, fences, low, first, fault)) return -1;
    *end = *first;
    if (value_low > value_high) return 0;
    if (high != U128_MAX) return column_find_below(file, column, fences, high + 1, end, fault);
    *end = column->count;
    return 0;
}

/* Visit the planned pages in order, those that lie together in one read. */
static inline int column_visit(const column_file_t *file, const column_t *column, const u32 *plan,
                               u64 planned, const pair_t *queries, u64 query_count,
                               column_page_t *pages, column_found_t *found,
                               column_fault_t *fault) {
    u64 at = 0, asked = 0, count;
    for (u64 done = 0; done < planned; done += count) {
        for (count = 1; count < COLUMN_READ_PAGES && done + count < planned; count++)
            if (plan[done + count] != plan[done] + count) break;
        if (asked < done + count) asked = done + count;
        for (; asked < planned && asked < done + count + COLUMN_AHEAD_PAGES; asked++)
            posix_fadvise(file->descriptor,
                          (off_t)((column->page_first + plan[asked]) * COLUMN_PAGE_BYTES),
                          COLUMN_PAGE_BYTES, POSIX_FADV_WILLNEED);
        if (column_read(file, column->page_first + plan[done], count, pages, fault)) return -1;
        for (u64 i = 0; i < count; i++)
            if (column_match(pages[i].payload, column->record_bytes,
                             column_in_page(column, plan[done + i]), queries, query_count, &at,
                             found))
                return column_fail(fault, COLUMN_FAULT_MEMORY, 0);
    }
    return 0;
}

/* All records whose key is among `keys`, which are sorted first: each page is visited once. */
static inline int column_find(const column_file_t *file, const column_t *column, const u8 *fences,
                              const u64 *keys, u64 key_count, column_found_t *found,
                              column_fault_t *fault) {
    if (key_count == 0 || column->count == 0) return 0;
    pair_t *queries = malloc(2 * key_count * sizeof *queries);
    u32 *plan = malloc(column->page_count * sizeof *plan);
    column_page_t *pages = column_pages_new(COLUMN_READ_PAGES);
    int failed = -1;
    if (queries && plan && pages) {
        for (u64 i = 0; i < key_count; i++) queries[i] = (pair_t){keys[i], i};
        pair_sort_by_key(queries, queries + key_count, key_count);
        const u64 planned = column_plan(fences, column->page_count, queries, key_count, plan);
        failed = column_visit(file, column, plan, planned, queries, key_count, pages, found, fault);
    } else {
        column_fail(fault, COLUMN_FAULT_MEMORY, 0);
    }
    free(queries);
    free(plan);
    free(pages);
    return failed;
}

/* That every page of a column is intact, and of a keyed one that records ascend from page to page
 * and that each fence is what its page begins with. */
static inline int column_prove(const column_file_t *file, const column_t *column, const u8 *fences,
                               column_page_t *pages, column_fault_t *fault) {
    u128 last = 0;
    for (u64 page = 0, count; page < column->page_count; page += count) {
        const u64 left = column->page_count - page;
        count = left < COLUMN_READ_PAGES ? left : COLUMN_READ_PAGES;
        if (column_read(file, column->page_first + page, count, pages, fault)) return -1;
        for (u64 i = 0; column_keyed(column) && i < count; i++) {
            const u8 *records = pages[i].payload;
            const u64 many = column_in_page(column, page + i);
            const u128 *before = page + i ? &last : NULL;
            if (memcmp(records, fences + (page + i) * PAIR_BYTES, PAIR_BYTES) ||
                pair_disorder(records, column->record_bytes, many, before) < many)
                return column_fail(fault, COLUMN_FAULT_DAMAGED, column->page_first + page + i);
            last = pair_of(records + (many - 1) * column->record_bytes);
        }
    }
    return 0;
}

/* ---- merging: one column of several files into the open column of a writer ------------------ */

typedef struct {
    const column_file_t *file;
    const column_t *column;
    u64 page;              /* the column's next page to read */
    column_page_t *buffer; /* COLUMN_MERGE_PAGES; their records are moved together */
    u32 number;            /* whose it is, for the caller */
} column_source_t;

/* The next records of a source: 1, 0 when there are none, -1 for a fault. */
static inline int column_refill(column_source_t *source, merge_stream_t *stream,
                                column_fault_t *fault) {
    const column_t *column = source->column;
    const u64 left = column->page_count - source->page;
    const u64 count = left < COLUMN_MERGE_PAGES ? left : COLUMN_MERGE_PAGES;
    u8 *const start = (u8 *)source->buffer, *end = start;
    if (count == 0) return 0;
    if (column_read(source->file, column->page_first + source->page, count, source->buffer, fault))
        return -1;
    for (u64 i = 0; i < count; i++) {
        const u64 bytes = column_in_page(column, source->page + i) * column->record_bytes;
        memmove(end, source->buffer[i].payload, bytes);
        end += bytes;
    }
    source->page += count;
    stream->next = start;
    stream->end = end;
    return 1;
}

/* Merge what `count` sources hold. Sources are reordered; after a fault of a source, *blamed is its
 * number, after one of the writer it is UINT32_MAX. */
static inline int column_merge(column_source_t *sources, u32 count, column_writer_t *writer,
                               u8 *out, u32 *blamed, column_fault_t *fault) {
    merge_t merge = {.record_bytes = writer->column->record_bytes};
    const u64 room = COLUMN_MERGE_BYTES / merge.record_bytes;
    for (u32 i = 0; i < count; i++) {
        *blamed = sources[i].number;
        const int more = column_refill(&sources[i], &merge.streams[merge.count], fault);
        if (more < 0) return -1;
        if (more) sources[merge.count++] = sources[i];
    }
    if (merge.count) merge_begin(&merge);
    while (merge.count) {
        const u64 made = merge_step(&merge, out, room);
        *blamed = UINT32_MAX;
        if (column_append(writer, out, made, fault)) return -1;
        const u32 spent = merge.winner;
        if (merge.streams[spent].next < merge.streams[spent].end) continue;
        *blamed = sources[spent].number;
        const int more = column_refill(&sources[spent], &merge.streams[spent], fault);
        if (more < 0) return -1;
        if (more) {
            merge_refilled(&merge);
            continue;
        }
        merge.count--;
        merge.streams[spent] = merge.streams[merge.count];
        sources[spent] = sources[merge.count];
        if (merge.count) merge_begin(&merge);
    }
    return 0;
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* The part of a panel for a hash. A panel often has the shape of the one before, so the shape in
 * *like is tried first: a page that says it is that part of such a panel tells that a panel begins
 * at `number`. Else the panel's first part says what its shape is. */
static inline int panel_read_for(const column_file_t *file, const column_t *column, u64 number,
                                 u64 hash, panel_part_t *like, u32 *offset, column_page_t *page,
                                 column_fault_t *fault) {
    const panel_part_t *panel = &page->panel;
    for (int known = 0; known < 2; known++) {
        if (like->block_count) {
            const u32 wanted = panel_at(hash, like->block_count, like->line_count, offset);
            const u64 at = column->page_first + number + wanted;
            if (number + wanted < column->count) {
                if (column_read(file, at, 1, page, fault)) return -1;
                if (panel->part == wanted && panel->block_count == like->block_count &&
                    panel->line_count == like->line_count)
                    return 0;
            }
            if (known) return column_fail(fault, COLUMN_FAULT_DAMAGED, at);
        }
        if (number >= column->count) break;
        if (column_read(file, column->page_first + number, 1, page, fault)) return -1;
        if (panel->part != 0 || panel->line_count == 0 || panel->block_count == 0 ||
            panel->block_count > PANEL_BLOCKS_MAX)
            break;
        memcpy(like, panel, offsetof(panel_part_t, lines));
    }
    return column_fail(fault, COLUMN_FAULT_DAMAGED, column->page_first + number);
}

/* Which of `count` blocks, the first of which is `index` in the panel that begins with the part
 * `number`, have a filter that may hold all hashes; they are counted from `first` in `out`. */
static inline int block_select(const column_file_t *file, const column_t *column, u64 number,
                               u32 index, u64 first, u64 count, const u64 *hashes, u64 hash_count,
                               u32 *out, u64 *made, column_fault_t *fault) {
    panel_part_t like = {.block_count = 0};
    column_page_t page;
    invariant(hash_count > 0);
    *made = 0;
    while (count > 0) {
        u64 maybe = ~(u64)0, some = 0;
        for (u64 i = 0; i < hash_count && maybe; i++) {
            u32 offset = 0;
            if (panel_read_for(file, column, number, hashes[i], &like, &offset, &page, fault))
                return -1;
            if (index >= like.block_count)
                return column_fail(fault, COLUMN_FAULT_DAMAGED, column->page_first + number);
            some = like.block_count - index < count ? like.block_count - index : count;
            const u8 *line = page.panel.lines + offset + index * FILTER_BLOCK_BYTES;
            for (u64 j = 0; j < some; j++, line += FILTER_BLOCK_BYTES)
                if (!filter_block_has(line, hashes[i])) maybe &= ~((u64)1 << j);
        }
        for (u64 j = 0; j < some; j++)
            if (maybe >> j & 1) out[(*made)++] = (u32)(first + j);
        first += some;
        count -= some;
        number += panel_parts(like.block_count, like.line_count);
        index = 0;
    }
    return 0;
}

/* The first record of BLOCKS whose block ends at `timestamp` or later; count when none does. */
static inline int block_find(const column_file_t *file, const column_t *column, u64 timestamp,
                             u64 *number, column_fault_t *fault) {
    const u64 each = column_page_records(sizeof(block_t));
    column_page_t page;
    u64 low = 0, high = column->count, held = UINT64_MAX;
    while (low < high) {
        const u64 middle = low + (high - low) / 2;
        if (middle / each != held) {
            held = middle / each;
            if (column_read(file, column->page_first + held, 1, &page, fault)) return -1;
        }
        block_t block;
        memcpy(&block, page.payload + middle % each * sizeof block, sizeof block);
        if (block.timestamp_last < timestamp) low = middle + 1;
        else high = middle;
    }
    *number = low;
    return 0;
}

#endif
