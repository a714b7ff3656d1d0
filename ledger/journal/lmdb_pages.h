/* Where LMDB keeps the value of a key in its file, found by reading pages.
 *
 * The library maps the file and touches every page of a value that it gives; whoever needs a little
 * of many values reads just that, from where a search says. The format is that of LMDB 0.9 (data
 * version 1), 64 bits, little-endian. A search goes through one snapshot, and a transaction of the
 * library that reads this snapshot must be open meanwhile, so that none of its pages is written to.
 * Nothing that is read is trusted: whatever is not as LMDB writes it is "not found", and then the
 * library is asked. The weak spot: pages carry no checksum, so what is found may still be other
 * bytes, and only who knows what they should be can tell. This file opens nothing, takes no lock,
 * and does not know what a value holds.
 */
#ifndef LEDGER_LMDB_FILE_H
#define LEDGER_LMDB_FILE_H

#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>

#include "facts/record.h"

#define LMDB_MAGIC 0xBEEFC0DEu
#define LMDB_PAGES_MAX ((u64)1 << 47) /* so that no offset in the file overflows */

enum {
    LMDB_VERSION = 1,
    LMDB_PAGE_BRANCH = 1, /* kinds of pages */
    LMDB_PAGE_LEAF = 2,
    LMDB_PAGE_OVERFLOW = 4,
    LMDB_PAGE_META = 8,
    LMDB_NODE_APART = 1, /* the value lies on pages of its own, the leaf holds their number */
    LMDB_PAGE_BYTES_MIN = 4096,
    LMDB_PAGE_BYTES_MAX = 32768,
    LMDB_DEPTH_MAX = 8,
};

typedef struct {
    u64 number;
    u16 pad, flags;
    union {
        struct {
            u16 lower, upper; /* ends of the offsets of nodes, and of the room below the nodes */
        };
        u32 pages; /* of an overflow page: how many follow each other, this one included */
    };
} lmdb_page_t;

typedef struct {
    u32 page_bytes; /* in the first tree of a meta page; 0 in the second */
    u16 flags, depth;
    u64 branch_pages, leaf_pages, overflow_pages, entries, root;
} lmdb_tree_t;

typedef struct {
    lmdb_page_t page;
    u32 magic, version;
    u64 address, map_bytes;
    lmdb_tree_t free, main;
    u64 page_last, snapshot;
} lmdb_meta_t;

typedef struct {
    u16 low, high; /* of a value's length, or of the page below */
    u16 flags;     /* in a branch the page's highest bits */
    u16 key_bytes;
} lmdb_node_t;

_Static_assert(sizeof(lmdb_page_t) == 16 && sizeof(lmdb_tree_t) == 48 &&
               sizeof(lmdb_meta_t) == 152 && sizeof(lmdb_node_t) == 8, "as LMDB lays them out");

typedef struct {
    int descriptor;
    u64 page_bytes, page_last, root, depth;
    u64 held[LMDB_DEPTH_MAX]; /* the page of each level that is in memory, 0 for none */
    u8 pages[LMDB_DEPTH_MAX][LMDB_PAGE_BYTES_MAX];
} lmdb_file_t;

typedef struct {
    u64 at; /* in the file */
    u64 bytes;
    u64 page; /* the first of the pages that only this value is on, or 0 */
} lmdb_value_t;

/* All of a stretch of the file, or false. flags: 0, or RWF_NOWAIT for what is in memory only. */
static inline bool lmdb_read(int descriptor, void *to, u64 bytes, u64 at, int flags) {
    const struct iovec part = {.iov_base = to, .iov_len = bytes};
    return preadv2(descriptor, &part, 1, (off_t)at, flags) == (ssize_t)bytes;
}

static inline bool lmdb_read_meta(int descriptor, u64 page_bytes, u64 number, lmdb_meta_t *meta) {
    return lmdb_read(descriptor, meta, sizeof *meta, number * page_bytes, 0) &&
           meta->page.number == number && meta->page.flags == LMDB_PAGE_META &&
           meta->magic == LMDB_MAGIC && meta->version == LMDB_VERSION;
}

/* Begin to search the snapshot of a transaction, which LMDB says by its number. */
static inline bool lmdb_begin(lmdb_file_t *file, int descriptor, u64 snapshot) {
    lmdb_meta_t meta;
    if (!lmdb_read_meta(descriptor, 0, 0, &meta)) return false;
    const u64 page_bytes = meta.free.page_bytes;
    if (page_bytes < LMDB_PAGE_BYTES_MIN || page_bytes > LMDB_PAGE_BYTES_MAX ||
        (page_bytes & (page_bytes - 1)) != 0)
        return false;
    /* The meta page of the parity is written to again only by the second commit from now. */
    if (!lmdb_read_meta(descriptor, page_bytes, snapshot & 1, &meta)) return false;
    file->descriptor = descriptor;
    file->page_bytes = page_bytes;
    file->page_last = meta.page_last;
    file->root = meta.main.root;
    file->depth = meta.main.depth;
    memset(file->held, 0, sizeof file->held);
    return meta.snapshot == snapshot && meta.free.page_bytes == page_bytes &&
           meta.main.flags == 0 && file->page_last < LMDB_PAGES_MAX && file->depth >= 1 &&
           file->depth <= LMDB_DEPTH_MAX;
}

/* How many nodes a page of the tree has; 0 when it is none. */
static inline u64 lmdb_count(const lmdb_file_t *file, const u8 *bytes, u64 number, u16 flags) {
    lmdb_page_t page;
    memcpy(&page, bytes, sizeof page);
    if (page.number != number || page.flags != flags || page.lower < sizeof page ||
        page.lower > page.upper || page.upper > file->page_bytes)
        return 0;
    return (page.lower - sizeof page) / sizeof(u16);
}

/* The nodes of a page of the level, which stays in memory until another is asked for. */
static inline u64 lmdb_nodes(lmdb_file_t *file, u64 level, u64 number) {
    const u16 flags = level + 1 == file->depth ? LMDB_PAGE_LEAF : LMDB_PAGE_BRANCH;
    if (number == 0 || number > file->page_last) return 0;
    if (file->held[level] != number) {
        file->held[level] = 0;
        if (!lmdb_read(file->descriptor, file->pages[level], file->page_bytes,
                       number * file->page_bytes, 0))
            return 0;
        file->held[level] = number;
    }
    return lmdb_count(file, file->pages[level], number, flags);
}

/* A node and where its key lies; false when it reaches beyond the page. */
static inline bool lmdb_node(const lmdb_file_t *file, const u8 *page, u64 index, lmdb_node_t *node,
                             u64 *key_at) {
    u16 at;
    memcpy(&at, page + sizeof(lmdb_page_t) + index * sizeof at, sizeof at);
    if (at + sizeof *node > file->page_bytes) return false;
    memcpy(node, page + at, sizeof *node);
    *key_at = at + sizeof *node;
    return *key_at + node->key_bytes <= file->page_bytes;
}

/* As memcmp, the shorter of two keys first when it begins the other. */
static inline int lmdb_order(const u8 *key, u64 key_bytes, const u8 *other, u64 other_bytes) {
    const int order = memcmp(key, other, key_bytes < other_bytes ? key_bytes : other_bytes);
    return order ? order : (key_bytes > other_bytes) - (key_bytes < other_bytes);
}

/* The last of a page's nodes whose key is not above `key`. A branch's first has none: it is below
 * all. */
static inline bool lmdb_search(const lmdb_file_t *file, const u8 *page, u64 count, bool branch,
                               const u8 *key, u64 key_bytes, lmdb_node_t *node, u64 *key_at) {
    u64 low = branch, high = count;
    while (low < high) {
        const u64 middle = (low + high) / 2;
        if (!lmdb_node(file, page, middle, node, key_at)) return false;
        if (lmdb_order(page + *key_at, node->key_bytes, key, key_bytes) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && lmdb_node(file, page, low - 1, node, key_at);
}

/* What a leaf says of a value. */
static inline bool lmdb_value(const lmdb_file_t *file, const u8 *page, const lmdb_node_t *node,
                              u64 value_at, lmdb_value_t *value) {
    value->bytes = node->low | (u64)node->high << 16;
    value->page = 0;
    if (node->flags == 0) {
        value->at = file->held[file->depth - 1] * file->page_bytes + value_at;
        return value_at + value->bytes <= file->page_bytes;
    }
    if (node->flags != LMDB_NODE_APART || value_at + sizeof(u64) > file->page_bytes) return false;
    memcpy(&value->page, page + value_at, sizeof(u64));
    value->at = value->page * file->page_bytes + sizeof(lmdb_page_t);
    return value->page > 0 && value->page <= file->page_last;
}

/* How many pages of its own a value takes; one that took the place of a longer one has more. */
static inline u64 lmdb_pages(const lmdb_file_t *file, const lmdb_value_t *value) {
    return (sizeof(lmdb_page_t) + value->bytes + file->page_bytes - 1) / file->page_bytes;
}

/* Where the value of a key lies. Keys that ascend cost a read for each leaf and none for each key.
 * The pages of a value are not looked at: see lmdb_begins. */
static inline bool lmdb_find(lmdb_file_t *file, const u8 *key, u64 key_bytes,
                             lmdb_value_t *value) {
    lmdb_node_t node;
    u64 key_at, number = file->root;
    for (u64 level = 0;; level++) {
        const u8 *page = file->pages[level];
        const bool branch = level + 1 < file->depth;
        const u64 count = lmdb_nodes(file, level, number);
        if (count == 0 ||
            !lmdb_search(file, page, count, branch, key, key_bytes, &node, &key_at))
            return false;
        if (!branch)
            return lmdb_order(page + key_at, node.key_bytes, key, key_bytes) == 0 &&
                   lmdb_value(file, page, &node, key_at + node.key_bytes, value) &&
                   value->page + lmdb_pages(file, value) <= file->page_last + 1;
        number = node.low | (u64)node.high << 16 | (u64)node.flags << 32;
    }
}

/* Whether a value lies where it was found, by the sizeof(lmdb_page_t) bytes before it. */
static inline bool lmdb_begins(const lmdb_file_t *file, const lmdb_value_t *value,
                               const void *before) {
    lmdb_page_t page;
    memcpy(&page, before, sizeof page);
    return value->page == 0 || (page.number == value->page && page.flags == LMDB_PAGE_OVERFLOW &&
                                page.pages >= lmdb_pages(file, value));
}

#endif
