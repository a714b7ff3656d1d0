# Read cache: results that the history on disk gave, by operation and filter.
#
# Needs: lookups.pxi, record.h, hash_table.h, u128.h. Gives: read_cache_*. A ring bounded by entries
# and by bytes: the oldest make room. What is cached is true for the memtables that were in memory
# when it was looked up: who evicts one clears the cache. It knows no state and no journal.

cdef enum:
    READ_CACHE_MAX = 4 * EVENTS_MAX
    READ_CACHE_BYTES_MAX = 64 << 20

cdef struct cached_read_t:
    u8 filter[FILTER_BYTES_MAX]
    u32 operation, tag
    u64 bytes
    u8 *results

cdef struct read_cache_t:
    cached_read_t *entries
    u64 first, end, bytes
    table_t table


cdef u32 read_cache_tag(u32 operation, const u8 *filter, u32 filter_bytes) noexcept nogil:
    cdef u64 key[2]
    cdef u32 i
    key[0] = key[1] = operation
    for i in range(0, filter_bytes, 16):
        key[0] += u128_tag(key, u128_load(filter + i)) + (key[0] << 32)
    return u128_tag(key, u128_load(filter))

cdef cached_read_t *read_cache_find(const read_cache_t *r, u32 operation, const u8 *filter,
                                    u32 filter_bytes) noexcept nogil:
    """What the sealed past says to this read, or NULL when it was not asked."""
    cdef u32 tag, at, index
    cdef table_part_t *part
    if r.first == r.end:
        return NULL
    tag = read_cache_tag(operation, filter, filter_bytes)
    part, at = table_part(&r.table, tag), table_home(tag)
    while True:
        index = table_next(part, tag, &at)
        if index == TABLE_NONE:
            return NULL
        if (r.entries[index].operation == operation
                and memcmp(r.entries[index].filter, filter, filter_bytes) == 0):
            return &r.entries[index]

cdef void read_cache_forget(read_cache_t *r) noexcept nogil:
    """Forget the oldest."""
    cdef u32 index = <u32>(r.first % READ_CACHE_MAX)
    table_remove(&r.table, r.entries[index].tag, index)
    r.bytes -= r.entries[index].bytes
    free(r.entries[index].results)
    r.first += 1

cdef void read_cache_clear(read_cache_t *r) noexcept nogil:
    while r.first < r.end:
        read_cache_forget(r)

cdef void read_cache_free(read_cache_t *r) noexcept nogil:
    read_cache_clear(r)
    if r.entries != NULL:
        table_free(&r.table)
    free(r.entries)

cdef int read_cache_add(read_cache_t *r, u32 operation, const u8 *filter, u32 filter_bytes,
                        const u8 *results, u64 bytes) noexcept nogil:
    """Keep results until newer ones need their room. 0, or -1 when there is no memory."""
    cdef cached_read_t *entry
    cdef u8 *copy
    cdef u32 index
    if r.entries == NULL:
        r.entries = <cached_read_t *>malloc(READ_CACHE_MAX * sizeof(cached_read_t))
        if r.entries == NULL or table_init(&r.table) != 0:
            return -1
    if read_cache_find(r, operation, filter, filter_bytes) != NULL:
        return 0
    copy = <u8 *>malloc(bytes + 1)
    if copy == NULL or table_reserve(&r.table, 1) != 0:
        free(copy)
        return -1
    while r.first < r.end and (r.end - r.first == READ_CACHE_MAX
                               or r.bytes + bytes > READ_CACHE_BYTES_MAX):
        read_cache_forget(r)
    memcpy(copy, results, bytes)
    index = <u32>(r.end % READ_CACHE_MAX)
    entry = &r.entries[index]
    memset(entry, 0, sizeof(cached_read_t))
    memcpy(entry.filter, filter, filter_bytes)
    entry.operation, entry.tag = operation, read_cache_tag(operation, filter, filter_bytes)
    entry.bytes, entry.results = bytes, copy
    table_insert(&r.table, entry.tag, index)
    r.bytes += bytes
    r.end += 1
    return 0
