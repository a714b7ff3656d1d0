# Wanted: what a request turned out to need of the sealed past, and what was found for its reads.
#
# Needs: record.h, table.h, u128.h. Gives: wanted_* (a list that grows to a full request's worth)
# and reads_* (results of the sealed past by filter, a bounded ring). Plain containers: they know no
# state and no journal.

cdef enum:
    WANTED_IDS_MAX = 3 * 65536
    WANTED_READS_MAX = EVENTS_MAX
    READS_MAX = 4 * EVENTS_MAX
    READS_BYTES_MAX = 64 << 20
    FILTER_BYTES_MAX = 128

cdef struct wanted_read_t:
    u8 filter[FILTER_BYTES_MAX]
    u32 operation, account  # index of the account that the filter names; NONE for none

cdef struct wanted_t:
    u128 *ids
    u64 *timestamps
    wanted_read_t *reads
    u32 id_count, timestamp_count, read_count

cdef struct read_t:
    u8 filter[FILTER_BYTES_MAX]
    u32 operation, tag
    u64 bytes
    u8 *results

cdef struct reads_t:
    read_t *entries
    u64 first, end, bytes
    table_t table


cdef int wanted_reserve(wanted_t *w) noexcept nogil:
    """0, or -1 when there is no memory for a full request's worth."""
    if w.reads != NULL:
        return 0
    if w.ids == NULL:
        w.ids = <u128 *>aligned_alloc(16, WANTED_IDS_MAX * sizeof(u128))
    if w.timestamps == NULL:
        w.timestamps = <u64 *>malloc(EVENTS_MAX * sizeof(u64))
    if w.ids == NULL or w.timestamps == NULL:
        return -1
    w.reads = <wanted_read_t *>malloc(WANTED_READS_MAX * sizeof(wanted_read_t))
    return 0 if w.reads != NULL else -1

cdef void wanted_free(wanted_t *w) noexcept nogil:
    free(w.ids)
    free(w.timestamps)
    free(w.reads)

cdef inline void wanted_clear(wanted_t *w) noexcept nogil:
    w.id_count = w.timestamp_count = w.read_count = 0

cdef inline bint wanted_any(const wanted_t *w) noexcept nogil:
    return w.id_count or w.timestamp_count or w.read_count

cdef inline void wanted_id(wanted_t *w, u128 id) noexcept nogil:
    if w.id_count < WANTED_IDS_MAX:
        w.ids[w.id_count] = id
        w.id_count += 1

cdef inline void wanted_timestamp(wanted_t *w, u64 timestamp) noexcept nogil:
    if w.timestamp_count < EVENTS_MAX:
        w.timestamps[w.timestamp_count] = timestamp
        w.timestamp_count += 1

cdef void wanted_read(wanted_t *w, u32 operation, const u8 *filter, u32 filter_bytes,
                      u32 account) noexcept nogil:
    cdef wanted_read_t *read
    if w.read_count < WANTED_READS_MAX:
        read = &w.reads[w.read_count]
        memset(read, 0, sizeof(wanted_read_t))
        memcpy(read.filter, filter, filter_bytes)
        read.operation, read.account = operation, account
        w.read_count += 1


cdef u32 reads_tag(u32 operation, const u8 *filter, u32 filter_bytes) noexcept nogil:
    cdef u64 key[2]
    cdef u32 i
    key[0] = key[1] = operation
    for i in range(0, filter_bytes, 16):
        key[0] += u128_tag(key, u128_load(filter + i)) + (key[0] << 32)
    return u128_tag(key, u128_load(filter))

cdef read_t *reads_find(const reads_t *r, u32 operation, const u8 *filter,
                        u32 filter_bytes) noexcept nogil:
    """What the sealed past says to this read, or NULL when it was not asked."""
    cdef u32 tag, at, index
    cdef table_part_t *part
    if r.first == r.end:
        return NULL
    tag = reads_tag(operation, filter, filter_bytes)
    part, at = table_part(&r.table, tag), table_home(tag)
    while True:
        index = table_next(part, tag, &at)
        if index == TABLE_NONE:
            return NULL
        if (r.entries[index].operation == operation
                and memcmp(r.entries[index].filter, filter, filter_bytes) == 0):
            return &r.entries[index]

cdef void reads_forget(reads_t *r) noexcept nogil:
    """Forget the oldest."""
    cdef u32 index = <u32>(r.first % READS_MAX)
    table_remove(&r.table, r.entries[index].tag, index)
    r.bytes -= r.entries[index].bytes
    free(r.entries[index].results)
    r.first += 1

cdef void reads_clear(reads_t *r) noexcept nogil:
    while r.first < r.end:
        reads_forget(r)

cdef void reads_free(reads_t *r) noexcept nogil:
    reads_clear(r)
    if r.entries != NULL:
        table_free(&r.table)
    free(r.entries)

cdef int reads_add(reads_t *r, u32 operation, const u8 *filter, u32 filter_bytes,
                   const u8 *results, u64 bytes) noexcept nogil:
    """Keep results until newer ones need their room. 0, or -1 when there is no memory."""
    cdef read_t *entry
    cdef u8 *copy
    cdef u32 index
    if r.entries == NULL:
        r.entries = <read_t *>malloc(READS_MAX * sizeof(read_t))
        if r.entries == NULL or table_init(&r.table) != 0:
            return -1
    if reads_find(r, operation, filter, filter_bytes) != NULL:
        return 0
    copy = <u8 *>malloc(bytes + 1)
    if copy == NULL or table_reserve(&r.table, 1) != 0:
        free(copy)
        return -1
    while r.first < r.end and (r.end - r.first == READS_MAX or r.bytes + bytes > READS_BYTES_MAX):
        reads_forget(r)
    memcpy(copy, results, bytes)
    index = <u32>(r.end % READS_MAX)
    entry = &r.entries[index]
    memset(entry, 0, sizeof(read_t))
    memcpy(entry.filter, filter, filter_bytes)
    entry.operation, entry.tag = operation, reads_tag(operation, filter, filter_bytes)
    entry.bytes, entry.results = bytes, copy
    table_insert(&r.table, entry.tag, index)
    r.bytes += bytes
    r.end += 1
    return 0
